//! The `traceparent` of W3C Trace Context.

/// The caller's position in its trace: the trace, the caller's span in it, and whether the trace is sampled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceParent {
    pub trace_id: u128,
    pub span_id: u64,
    pub sampled: bool,
}

impl TraceParent {
    /// Parses `version-trace_id-parent_id-flags`, all in lower-case hex; `None` if it is invalid. Of a later version of the
    /// standard, only the parts known today are read.
    pub fn parse(text: &[u8]) -> Option<Self> {
        let (known, rest) = text.split_at_checked(55)?;
        let mut parts = known.split(|&byte| byte == b'-');
        let mut hex = |digits: usize| {
            let part = parts.next().filter(|part| part.len() == digits)?;
            let value = |byte: &u8| match byte {
                b'0'..=b'9' => Some(u128::from(byte - b'0')),
                b'a'..=b'f' => Some(u128::from(byte - b'a' + 10)),
                _ => None,
            };
            part.iter()
                .try_fold(0, |sum, byte| Some(sum << 4 | value(byte)?))
        };
        let (version, trace_id, span_id, flags) = (hex(2)?, hex(32)?, hex(16)?, hex(2)?);
        let ends = match version {
            0 => rest.is_empty(),
            0xff => false,
            _ => rest.first().is_none_or(|&byte| byte == b'-'),
        };
        (ends && trace_id != 0 && span_id != 0).then_some(Self {
            trace_id,
            span_id: span_id as u64,
            sampled: flags & 1 == 1,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn a_valid_traceparent_is_parsed_and_an_invalid_one_is_ignored() {
        let parent = TraceParent {
            trace_id: 0x0af7_6519_16cd_43dd_8448_eb21_1c80_319c,
            span_id: 0xb7ad_6b71_6920_3331,
            sampled: true,
        };
        let parse = |text: &str| TraceParent::parse(text.as_bytes());
        assert_eq!(parse(GOOD), Some(parent));
        let unsampled = GOOD.replace("-01", "-00");
        assert!(!parse(&unsampled).expect("as good").sampled);
        // Later versions may append further fields.
        for later in ["cc-", "01-"] {
            let later = GOOD.replacen("00-", later, 1);
            assert_eq!(parse(&later), Some(parent));
            assert_eq!(parse(&format!("{later}-what.else")), Some(parent));
            assert_eq!(parse(&format!("{later}.else")), None);
        }
        for bad in [
            "",
            "x",
            &GOOD.to_uppercase(),
            &GOOD[..54],
            &format!("{GOOD}-"),
            &format!("{GOOD}0"),
            &GOOD.replacen("00-", "ff-", 1),
            &GOOD.replacen("00-", "0g-", 1),
            &GOOD.replace("0af7651916cd43dd8448eb211c80319c", &"0".repeat(32)),
            &GOOD.replace("b7ad6b7169203331", &"0".repeat(16)),
            &GOOD.replace('-', "_"),
            &GOOD.replace("319c-b7", "319-cb7"),
            &GOOD.replace("-01", "-0é"),
        ] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }
}
