//! The canonical text of JSON: equal for two texts if their values are equal in the sense of RFC 8785 (JCS), which
//! [`super::data`] hashes and nobody else sees. Strings count by the characters they stand for, numbers by the double they
//! stand for ([`number`]), objects by their sorted keys; of repeated keys the last one counts.
//!
//! Takes one pass. What exceeds linear time is the sorting of keys, and moving the content of an object with unsorted
//! keys once for each level of such objects around it.

use std::{cell::Cell, ops::Range, thread::LocalKey};

use memchr::memchr2;
use smallvec::SmallVec;

use super::number;

/// Half of a surrogate pair, escaped without the other half: valid JSON, but not text.
#[derive(Debug, PartialEq)]
pub struct LoneSurrogate;

type Rest<'a> = Result<&'a [u8], LoneSurrogate>;

/// Writes the canonical text of `json`, which must be valid JSON without white space between tokens.
pub fn write(json: &[u8], out: &mut Vec<u8>) -> Result<(), LoneSurrogate> {
    value(json, out).map(|_end| ())
}

/// Writes the first value in `text` and returns the text that follows it.
fn value<'a>(text: &'a [u8], out: &mut Vec<u8>) -> Rest<'a> {
    match text.first() {
        Some(b'{') => object(&text[1..], out),
        Some(b'[') => {
            out.push(b'[');
            let mut rest = &text[1..];
            while let Some(item) = next(&mut rest, b']') {
                rest = value(item, out)?;
                out.push(b',');
            }
            out.push(b']');
            Ok(rest)
        }
        Some(b'"') => string(text, out),
        _ => {
            // Most are a few bytes long, which is too short for `memchr` to be faster.
            let end = text
                .iter()
                .position(|byte| matches!(byte, b',' | b']' | b'}'));
            let (scalar, rest) = text.split_at(end.unwrap_or(text.len()));
            count(&READ, scalar.len());
            match scalar.first() {
                Some(b't' | b'f' | b'n') => out.extend_from_slice(scalar),
                _ => number::write(scalar, out),
            }
            Ok(rest)
        }
    }
}

/// The text from the next item of an array or object on; `None`, and `rest` behind it, if `end` comes first.
fn next<'a>(rest: &mut &'a [u8], end: u8) -> Option<&'a [u8]> {
    match rest.split_first() {
        Some((&b',', item)) => Some(item),
        Some((&first, after)) if first == end => {
            *rest = after;
            None
        }
        Some(_) => Some(rest),
        None => None,
    }
}

/// A member of an object, as positions behind the brace that opens the object.
struct Member {
    key: Range<u32>,
    /// From the key to the comma behind the value.
    whole: Range<u32>,
}

fn object<'a>(mut rest: &'a [u8], out: &mut Vec<u8>) -> Rest<'a> {
    out.push(b'{');
    let begin = out.len();
    let mut members: SmallVec<[Member; 8]> = SmallVec::new();
    let mut sorted = true;
    while let Some(member) = next(&mut rest, b'}') {
        let position = |out: &Vec<u8>| (out.len() - begin) as u32;
        let start = position(out);
        rest = string(member, out)?;
        // Without the quotes: the closing one would be compared with a character of a longer key.
        let key = start + 1..position(out) - 1;
        out.push(b':');
        rest = value(&rest[1..], out)?;
        out.push(b',');
        let written = &out[begin..];
        sorted = sorted
            && members
                .last()
                .is_none_or(|last| text_of(written, &last.key) < text_of(written, &key));
        members.push(Member {
            key,
            whole: start..position(out),
        });
    }
    if !sorted {
        let written = out.split_off(begin);
        count(&MOVED, written.len());
        // The sort is stable: of equal keys, the last one counts.
        members.sort_by_key(|member| text_of(&written, &member.key));
        for (index, member) in members.iter().enumerate() {
            let key = text_of(&written, &member.key);
            let following = members.get(index + 1);
            if following.is_none_or(|member| text_of(&written, &member.key) != key) {
                out.extend_from_slice(part(&written, &member.whole));
            }
        }
    }
    out.push(b'}');
    Ok(rest)
}

fn text_of<'a>(written: &'a [u8], key: &Range<u32>) -> &'a [u8] {
    count(&READ, key.len());
    part(written, key)
}

fn part<'a>(written: &'a [u8], range: &Range<u32>) -> &'a [u8] {
    &written[range.start as usize..range.end as usize]
}

/// Writes the string at the beginning of `text`, with escapes only where JSON demands them.
fn string<'a>(text: &'a [u8], out: &mut Vec<u8>) -> Rest<'a> {
    out.push(b'"');
    let mut rest = &text[1..];
    loop {
        let end = memchr2(b'"', b'\\', rest).unwrap_or(rest.len());
        out.extend_from_slice(&rest[..end]);
        count(&READ, end + 1);
        rest = &rest[end..];
        match rest {
            [b'\\', b'u', digits @ ..] => rest = unicode_escape(digits, out)?,
            [b'\\', b'/', after @ ..] => {
                out.push(b'/');
                rest = after;
            }
            [b'\\', short, after @ ..] => {
                out.extend_from_slice(&[b'\\', *short]);
                rest = after;
            }
            _ => break,
        }
    }
    out.push(b'"');
    Ok(rest.get(1..).unwrap_or_default())
}

/// Writes the character of the escape `\uXXXX`, or of two of them, whose digits `text` begins with.
fn unicode_escape<'a>(text: &'a [u8], out: &mut Vec<u8>) -> Rest<'a> {
    let (character, rest) = super::surrogates::unicode(text).ok_or(LoneSurrogate)?;
    match character {
        '"' | '\\' => out.extend_from_slice(&[b'\\', character as u8]),
        '\u{8}' => out.extend_from_slice(b"\\b"),
        '\t' => out.extend_from_slice(b"\\t"),
        '\n' => out.extend_from_slice(b"\\n"),
        '\u{c}' => out.extend_from_slice(b"\\f"),
        '\r' => out.extend_from_slice(b"\\r"),
        '\0'..='\u{1f}' => out.extend_from_slice(format!("\\u{:04x}", character as u32).as_bytes()),
        _ => out.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes()),
    }
    Ok(rest)
}

thread_local! {
    /// Bytes of text read and of keys compared, and bytes moved, for the test of what a text may cost.
    static READ: Cell<usize> = const { Cell::new(0) };
    static MOVED: Cell<usize> = const { Cell::new(0) };
}

fn count(counter: &'static LocalKey<Cell<usize>>, bytes: usize) {
    if cfg!(test) {
        counter.set(counter.get() + bytes);
    }
}

#[cfg(test)]
mod tests {

    use proptest::prelude::*;
    use rand::{Rng, RngExt, SeedableRng, rngs::StdRng};
    use serde_json::{Map, Value};

    use super::*;
    use crate::types::DATA_DEPTH_MAX;

    fn canonical(json: &str) -> String {
        let mut out = Vec::new();
        write(json.as_bytes(), &mut out).expect("no lone surrogate");
        String::from_utf8(out).expect("UTF-8")
    }

    #[test]
    fn the_same_value_has_the_same_text() {
        let keys = r#"{"a":1,"b":{"x":"é🦀\n","y":[]},"ab":2}"#;
        for (a, b) in [
            ("[1,100000,0.1,0]", "[1.0,1e5,0.10,-0.0e7]"),
            (
                keys,
                r#"{"ab":2,"b":{"y":[],"x":"\u00E9\ud83E\udd80\u000a"},"a":1}"#,
            ),
            (
                keys,
                r#"{"b":0,"\u0061\u0062":2,"a":[{}],"a":1,"b":{"x":"é🦀\n","y":[]}}"#,
            ),
            (r#""\/\b\u0022\u005c""#, r#""/\u0008\"\\""#),
            // As a number and as text, these would be private types of serde_json.
            (
                r#"{"$serde_json::private::Number":"1.0"}"#,
                r#"{"\u0024serde_json::private::Number":"1.0"}"#,
            ),
        ] {
            assert_eq!(canonical(a), canonical(b), "{a} {b}");
        }
        for (a, b) in [
            (
                r#"{"$serde_json::private::Number":"1.0"}"#,
                r#"{"$serde_json::private::Number":"1"}"#,
            ),
            (r#"{"$serde_json::private::RawValue":"1"}"#, "1"),
            (r#"{"a":1,"a":2}"#, r#"{"a":2,"a":1}"#),
            (r#"{"a":1,"b":2}"#, r#"{"a":2,"b":1}"#),
            ("[1,2]", "[2,1]"),
            ("[[],1]", "[[1]]"),
            ("[]", "{}"),
            ("1", r#""1""#),
            ("true", r#""true""#),
            (r#""e\u0301""#, r#""é""#),
            (r#""\\n""#, r#""\n""#),
        ] {
            assert_ne!(canonical(a), canonical(b), "{a} {b}");
        }
    }

    /// Numbers are doubles, and few, so that equal values are likely.
    fn any_value() -> impl Strategy<Value = Value> {
        let scalar = prop_oneof![
            "[a-c !\"\\\\/é🦀\n\u{1}]{0,3}".prop_map(Value::from),
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            (-9..10i32, -8..9i32).prop_map(|(n, e)| Value::from(f64::from(n) * 10f64.powi(e))),
        ];
        scalar.prop_recursive(4, 40, 5, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
                proptest::collection::btree_map("[a-c\"\n]{0,2}", inner, 0..5)
                    .prop_map(|fields| Value::from(fields.into_iter().collect::<Map<_, _>>())),
            ]
        })
    }

    /// Writes `value` in one of the many ways that JSON has, without white space.
    fn any_text(value: &Value, rng: &mut StdRng) -> String {
        match value {
            Value::Null | Value::Bool(_) => value.to_string(),
            Value::Number(number) => any_number(number.as_f64().expect("a double"), rng),
            Value::String(text) => any_string(text, rng),
            Value::Array(items) => {
                let items: Vec<_> = items.iter().map(|item| any_text(item, rng)).collect();
                format!("[{}]", items.join(","))
            }
            Value::Object(fields) => {
                let mut members = Vec::new();
                for (key, value) in fields {
                    let at = rng.random_range(0..=members.len());
                    let member = format!("{}:{}", any_string(key, rng), any_text(value, rng));
                    members.insert(at, member);
                    if rng.random_range(0..4) == 0 {
                        let at = rng.random_range(0..=at);
                        members.insert(at, format!("{}:[{{\"x\":1}}]", any_string(key, rng)));
                    }
                }
                format!("{{{}}}", members.join(","))
            }
        }
    }

    fn any_number(double: f64, rng: &mut StdRng) -> String {
        let shortest = format!("{double:e}");
        let (mantissa, exponent) = shortest.split_once('e').expect("an exponent");
        let exponent: i32 = exponent.parse().expect("small");
        match rng.random_range(0..5) {
            0 => shortest,
            1 => format!("{double}"),
            2 if mantissa.contains('.') => format!("{mantissa}00E{exponent:+}"),
            2 => format!("{mantissa}.00E{exponent:+03}"),
            3 => match mantissa.split_once('.') {
                Some((whole, digits)) => {
                    format!("{whole}{digits}e{}", exponent - digits.len() as i32)
                }
                None => format!("{mantissa}000e{}", exponent - 3),
            },
            _ => {
                let (sign, digits) = match mantissa.strip_prefix('-') {
                    Some(digits) => ("-", digits),
                    None => ("", mantissa),
                };
                format!("{sign}0.000{}e{}", digits.replace('.', ""), exponent + 4)
            }
        }
    }

    fn any_string(text: &str, rng: &mut StdRng) -> String {
        let mut out = "\"".to_owned();
        for character in text.chars() {
            let plain = serde_json::to_string(&character).expect("a string");
            match rng.random_range(0..4) {
                0 => {
                    for unit in character.encode_utf16(&mut [0; 2]) {
                        let digits = match rng.next_u32() % 2 {
                            0 => format!("{unit:04x}"),
                            _ => format!("{unit:04X}"),
                        };
                        out.push_str("\\u");
                        out.push_str(&digits);
                    }
                }
                1 if character == '/' => out.push_str("\\/"),
                _ => out.push_str(&plain[1..plain.len() - 1]),
            }
        }
        out.push('"');
        out
    }

    proptest! {
        #[test]
        fn texts_are_equal_exactly_if_their_values_are(a in any_value(), b in any_value(), seed in any::<u64>()) {
            let mut rng = StdRng::seed_from_u64(seed);
            let [a1, a2, b1] = [&a, &a, &b].map(|value| any_text(value, &mut rng));
            prop_assert_eq!(canonical(&a1), canonical(&a2), "{} {}", a1, a2);
            prop_assert_eq!(canonical(&a1) == canonical(&b1), a == b, "{} {}", a1, b1);
        }

        #[test]
        fn one_changed_scalar_changes_the_text(value in any_value(), seed in any::<u64>(), nth in any::<prop::sample::Index>()) {
            let mut rng = StdRng::seed_from_u64(seed);
            let text = any_text(&value, &mut rng);
            let mut count = 0;
            change(&mut value.clone(), &mut count, None);
            let mut changed = value;
            change(&mut changed, &mut 0, Some(nth.index(count)));
            prop_assert_ne!(canonical(&text), canonical(&any_text(&changed, &mut rng)));
        }
    }

    /// Counts the values in `value`, and replaces the `nth` of them by one that does not occur.
    fn change(value: &mut Value, count: &mut usize, nth: Option<usize>) {
        if nth == Some(*count) {
            *value = "elsewhere unused".into();
        }
        *count += 1;
        match value {
            Value::Array(items) => items.iter_mut().for_each(|item| change(item, count, nth)),
            Value::Object(fields) => fields
                .values_mut()
                .for_each(|item| change(item, count, nth)),
            _ => {}
        }
    }

    /// Shapes of about `bytes` bytes, in `bytes / 650` levels if they are deep.
    fn shapes(bytes: usize) -> Vec<(&'static str, String)> {
        let levels = (bytes / 650).min(DATA_DEPTH_MAX - 2);
        let deep = |open: &str, close: &str| {
            format!("{}\"\\n\"{}", open.repeat(levels), close.repeat(levels))
        };
        let filler = 650 / 2;
        let reversed = |key: &dyn Fn(usize) -> String, n: usize| {
            let members: Vec<_> = (0..n).rev().map(|i| format!("\"{}\":1", key(i))).collect();
            format!("{{{}}}", members.join(","))
        };
        let array = |item: &str| format!("[{}]", vec![item; bytes / (item.len() + 1)].join(","));
        vec![
            (
                "deep arrays",
                deep("[", &format!("{}]", ",1".repeat(filler))),
            ),
            (
                "deep objects",
                deep("{\"b\":", &format!(",\"a\":[1{}]}}", ",1".repeat(filler))),
            ),
            ("many keys", reversed(&|i| format!("{i:08}"), bytes / 13)),
            (
                "long keys",
                reversed(&|i| format!("{}{i:04}", "p".repeat(200)), bytes / 209),
            ),
            (
                "one key",
                format!("{{{}}}", vec!["\"a\":1"; bytes / 6].join(",")),
            ),
            ("escapes", format!("\"{}\"", "\\u00e9".repeat(bytes / 6))),
            ("digits", "7".repeat(bytes)),
            (
                "between two doubles",
                array("179769313486231580793728971405301e276"),
            ),
            ("beyond doubles", array("1e400")),
        ]
    }

    #[test]
    fn work_grows_with_the_bytes_whatever_the_text() {
        let per_byte = |json: &str| {
            READ.set(0);
            MOVED.set(0);
            write(json.as_bytes(), &mut Vec::new()).expect("valid");
            [&READ, &MOVED].map(|counter| counter.get() as f64 / json.len() as f64)
        };
        for ((name, small), (_, large)) in shapes(16_000).into_iter().zip(shapes(64_000)) {
            let ([read, _], [read_in_large, moved]) = (per_byte(&small), per_byte(&large));
            // Quadratic would be 4 times as much. Sorting takes a little more than linear time.
            assert!(
                read_in_large < 1.5 * read,
                "{name}: of a text 4 times as long, a byte is read {read_in_large} times instead of {read}"
            );
            assert!(
                moved <= DATA_DEPTH_MAX as f64,
                "{name}: a byte is moved {moved} times"
            );
        }
    }
}
