//! The canonical text of JSON numbers.

use std::io::Write;

use lexical_parse_float::FromLexical;

/// Most digits that every double keeps: a decimal of this length is the shortest one that stands for its double.
const DIGITS_KEPT: usize = 15;

/// Writes the shortest decimal that stands for the same double as `text`, a JSON number. A number too large for a double
/// is written as its digits and exponent, so it equals only itself.
pub fn write(text: &[u8], out: &mut Vec<u8>) {
    if is_short(text) {
        return out.extend_from_slice(text);
    }
    // The standard library takes up to 600 ns a byte for decimals that lie between two doubles.
    let double = f64::from_lexical(text).unwrap_or(f64::INFINITY);
    let written = match double.abs() {
        0.0 => out.write_all(b"0"),
        1e-6..1e21 => write!(out, "{double}"),
        ..f64::INFINITY => write!(out, "{double:e}"),
        _ => {
            write_large(text, out);
            Ok(())
        }
    };
    written.expect("writing to a Vec cannot fail");
}

/// Whether `text` is the shortest decimal already, without an exponent. May be false for some that are.
fn is_short(text: &[u8]) -> bool {
    let digits = text.strip_prefix(b"-").unwrap_or(text);
    if digits.len() > DIGITS_KEPT || digits.iter().any(|b| matches!(b, b'e' | b'E')) {
        return false;
    }
    match memchr::memchr(b'.', digits) {
        None => text != b"-0",
        Some(_) => !digits.ends_with(b"0") && !digits.starts_with(b"0.000000"),
    }
}

/// Writes `[-]0.DIGITS e EXPONENT` without the zeros around the digits.
fn write_large(text: &[u8], out: &mut Vec<u8>) {
    let (mantissa, exponent) = match memchr::memchr2(b'e', b'E', text) {
        Some(at) => (&text[..at], &text[at + 1..]),
        None => (text, &b"0"[..]),
    };
    if mantissa.starts_with(b"-") {
        out.push(b'-');
    }
    let mantissa = mantissa.strip_prefix(b"-").unwrap_or(mantissa);
    let point = memchr::memchr(b'.', mantissa).unwrap_or(mantissa.len());
    let digits: Vec<u8> = mantissa.iter().copied().filter(|&b| b != b'.').collect();
    let zeros = digits.iter().take_while(|&&b| b == b'0').count();
    let end = digits
        .iter()
        .rposition(|&b| b != b'0')
        .map_or(0, |last| last + 1);
    out.extend_from_slice(b"0.");
    out.extend_from_slice(&digits[zeros..end]);
    out.push(b'e');
    // An exponent that no machine could compute with is compared as written.
    let exponent = std::str::from_utf8(exponent).unwrap_or_default();
    let moved = point as i128 - zeros as i128;
    match exponent.parse::<i64>() {
        Ok(exponent) => {
            out.extend_from_slice((i128::from(exponent) + moved).to_string().as_bytes())
        }
        Err(_) => out.extend_from_slice(format!("{moved}+{exponent}").as_bytes()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn canonical(text: &str) -> String {
        let mut out = Vec::new();
        write(text.as_bytes(), &mut out);
        String::from_utf8(out).expect("ASCII")
    }

    #[test]
    fn numbers_are_written_as_rfc_8785_has_them() {
        for (text, expected) in [
            ("0", "0"),
            ("-0", "0"),
            ("-0.0", "0"),
            ("0e99999", "0"),
            ("1", "1"),
            ("1.0", "1"),
            ("1e5", "100000"),
            ("0.10", "0.1"),
            ("-1E-3", "-0.001"),
            ("4.50", "4.5"),
            ("2e-3", "0.002"),
            ("1E30", "1e30"),
            ("333333333.33333329", "333333333.3333333"),
            ("0.000000000000000000000000001", "1e-27"),
            ("0.000001", "0.000001"),
            ("0.0000001", "1e-7"),
            ("0.0000001000", "1e-7"),
            ("999999999999999900000", "999999999999999900000"),
            ("1e21", "1e21"),
            ("9007199254740993", "9007199254740992"),
            ("9007199254740993.00001", "9007199254740994"),
            ("5e-324", "5e-324"),
            // Half of the smallest double, and too small for any.
            ("2.4703282292062327e-324", "0"),
            ("-1e-999", "0"),
            ("1.7976931348623157e308", "1.7976931348623157e308"),
        ] {
            assert_eq!(canonical(text), expected, "{text}");
        }
    }

    #[test]
    fn numbers_beyond_doubles_compare_by_their_digits() {
        let zeros = "0".repeat(1_000);
        for same in [
            ["1e999", "0.01e+1001"],
            ["10.00E998", "1000000e0993"],
            ["-12.5e400", "-125000e396"],
            [&format!("1{zeros}"), "1e1000"],
            [&format!("0.{zeros}1e2000"), "1e999"],
        ] {
            assert_eq!(canonical(same[0]), canonical(same[1]), "{same:?}");
        }
        let all = [
            "1e999",
            "-1e999",
            "1e1000",
            "1.1e999",
            "11e999",
            "1e99999999999999999999",
            "2e99999999999999999999",
        ];
        for (index, a) in all.iter().enumerate() {
            for b in &all[..index] {
                assert_ne!(canonical(a), canonical(b), "{a} {b}");
            }
        }
    }

    proptest! {
        #[test]
        fn every_way_to_write_a_double_is_the_same(double in any::<f64>().prop_filter("finite", |n| n.is_finite()), zeros in 0..30usize) {
            let text = canonical(&format!("{double:e}"));
            prop_assert_eq!(text.parse::<f64>().expect("a number"), double);
            prop_assert_eq!(&canonical(&format!("{double:.17e}")), &text);
            prop_assert_eq!(&canonical(&format!("{double:.800}")), &text);
            prop_assert_eq!(&canonical(&serde_json::to_string(&double).expect("finite")), &text);
            let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
            let point = if mantissa.contains('.') { "" } else { "." };
            let padded = format!("{mantissa}{point}{}e{exponent}", "0".repeat(zeros + 1));
            prop_assert_eq!(&canonical(&padded), &text);
        }

        #[test]
        fn decimals_count_as_the_nearest_double(text in "-?(0|[1-9][0-9]{0,25})(\\.[0-9]{1,25})?([eE][+-]?[0-9]{1,3})?") {
            let double: f64 = text.parse().expect("a number");
            if double.is_finite() {
                prop_assert_eq!(canonical(&text), canonical(&format!("{double:e}")));
                prop_assert_eq!(canonical(&text).parse::<f64>().expect("a number"), double);
            }
        }
    }
}
