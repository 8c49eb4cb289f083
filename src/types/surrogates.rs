//! Escaped characters in JSON strings. A character above U+FFFF takes two escapes, a surrogate pair. One of them without
//! the other is valid JSON, but stands for no character: a lone surrogate.

use std::ops::Range;

use super::DATA_DEPTH_MAX;

/// The character whose escape's four digits `text` begins with, and the text behind the escape. `None` for a lone surrogate.
pub fn unicode(text: &[u8]) -> Option<(char, &[u8])> {
    let (first, rest) = unit(text)?;
    match first {
        0xd800..0xdc00 => {
            let (second, rest) = unit(rest.strip_prefix(b"\\u")?)?;
            let low = second.checked_sub(0xdc00).filter(|low| *low < 0x400)?;
            let code = 0x1_0000 + ((first - 0xd800) << 10) + low;
            char::from_u32(code).map(|character| (character, rest))
        }
        _ => char::from_u32(first).map(|character| (character, rest)),
    }
}

fn unit(text: &[u8]) -> Option<(u32, &[u8])> {
    let (digits, rest) = text.split_at_checked(4)?;
    let code = u32::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
    Some((code, rest))
}

/// The first lone surrogate in a JSON text.
#[derive(Debug, PartialEq, Eq)]
pub struct Lone {
    /// The path of the string that has it, such as `data.text[3]`; of the object that holds the string, if this is a key.
    pub path: String,
    pub in_key: bool,
    /// Where its escape begins, in bytes.
    pub offset: usize,
}

/// Longest [`Lone::path`], in bytes. The rest is cut off.
const PATH_BYTES_MAX: usize = 256;
/// Deepest level that is named in a path: `data` itself is in an object.
const LEVELS_MAX: usize = DATA_DEPTH_MAX + 2;

/// What a string or another value stands in.
enum Level {
    Array(usize),
    /// With the key of the current member, in quotes, as it stands in the text.
    Object(Range<usize>),
}

/// Looks for a lone surrogate in `json`, which must be valid JSON. `base` is the path of its value.
pub fn find(json: &str, base: &str) -> Option<Lone> {
    let text = json.as_bytes();
    let mut levels: Vec<Level> = Vec::new();
    // Levels that are not kept.
    let mut deeper = 0usize;
    let mut key_next = false;
    let mut at = 0;
    while let Some(&byte) = text.get(at) {
        match byte {
            b'"' => {
                let (end, lone) = string(text, at);
                if let Some(offset) = lone {
                    let in_key = key_next;
                    // A member that comes after others: their key is not part of the path.
                    if in_key && deeper == 0 {
                        levels.pop();
                    }
                    let path = path(json, base, &levels);
                    return Some(Lone {
                        path,
                        in_key,
                        offset,
                    });
                }
                if let (true, 0, Some(Level::Object(key))) = (key_next, deeper, levels.last_mut()) {
                    *key = at..end;
                }
                key_next = false;
                at = end;
                continue;
            }
            b'[' | b'{' => {
                key_next = byte == b'{';
                if levels.len() == LEVELS_MAX {
                    deeper += 1;
                } else if key_next {
                    levels.push(Level::Object(0..0));
                } else {
                    levels.push(Level::Array(0));
                }
            }
            b']' | b'}' => {
                key_next = false;
                match deeper.checked_sub(1) {
                    Some(fewer) => deeper = fewer,
                    None => drop(levels.pop()),
                }
            }
            b',' if deeper == 0 => match levels.last_mut() {
                Some(Level::Array(index)) => *index += 1,
                _ => key_next = true,
            },
            _ => {}
        }
        at += 1;
    }
    None
}

/// The end of the string that begins at `at`, or where its first lone surrogate begins.
fn string(text: &[u8], at: usize) -> (usize, Option<usize>) {
    let mut at = at + 1;
    while let Some(found) = memchr::memchr2(b'"', b'\\', text.get(at..).unwrap_or_default()) {
        at += found;
        match text[at..] {
            [b'"', ..] => return (at + 1, None),
            [_, b'u', ref digits @ ..] => match unicode(digits) {
                Some((_, rest)) => at = text.len() - rest.len(),
                None => return (text.len(), Some(at)),
            },
            _ => at += 2,
        }
    }
    (text.len(), None)
}

fn path(json: &str, base: &str, levels: &[Level]) -> String {
    let mut path = base.to_owned();
    for level in levels {
        match level {
            Level::Array(index) => path.push_str(&format!("[{index}]")),
            Level::Object(key) => {
                let quoted = &json[key.clone()];
                let bare = quoted.trim_matches('"');
                let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'$');
                if bare.is_empty() || !bare.bytes().all(plain) {
                    path.push_str(&format!("[{quoted}]"));
                } else {
                    if !path.is_empty() {
                        path.push('.');
                    }
                    path.push_str(bare);
                }
            }
        }
        if path.len() > PATH_BYTES_MAX {
            path.truncate(path.floor_char_boundary(PATH_BYTES_MAX - '…'.len_utf8()));
            path.push('…');
            break;
        }
    }
    path
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(json: &str) -> Option<(String, bool, usize)> {
        find(json, "").map(|lone| (lone.path, lone.in_key, lone.offset))
    }

    #[test]
    fn lone_surrogates_are_found_and_pairs_are_not() {
        for text in [
            r#""\ud83e\udd80""#,
            r#""\\ud83d""#,
            r#""\"\\\/\u00e9\uD7FF\uE000""#,
            r#"{"\ud83e\udd80":[1,{"a":"\n"}]}"#,
        ] {
            assert_eq!(found(text), None, "{text}");
        }
        for half in [
            r"\ud83d",
            r"\udd80",
            r"\uD83D\n",
            r"\ud83dx",
            r"\ud83d\u0041",
            r"\ud83d\ud83d",
        ] {
            let text = format!(r#"["ok","x{half}"]"#);
            assert_eq!(found(&text), Some(("[1]".to_owned(), false, 8)), "{text}");
            let outcome = serde_json::from_str::<Vec<String>>(&text);
            assert!(outcome.expect_err(&text).is_syntax());
        }
    }

    #[test]
    fn a_path_leads_to_the_string() {
        for (json, path, in_key) in [
            (r#""\ud83d""#, "", false),
            (r#"{"a":{"text":[1,[2],{},"\ud83d"]}}"#, "a.text[3]", false),
            (
                r#"{"a b":{"":[{"c\"d":"\ud83d"}]}}"#,
                r#"["a b"][""][0]["c\"d"]"#,
                false,
            ),
            (r#"{"a":1,"\ud83d":2}"#, "", true),
            (r#"{"a":[{"b":[1,2],"\ud83d":2}]}"#, "a[0]", true),
            (r#"{"a":{"b":"x"},"c":"\ud83d"}"#, "c", false),
            ("[ [ ] , { } , \"\\ud83d\" ]", "[2]", false),
        ] {
            let expected = (path.to_owned(), in_key, json.find("\\ud8").expect("one"));
            assert_eq!(found(json), Some(expected), "{json}");
        }
        let based = find(r#"["\ud83d"]"#, "data").expect("one");
        assert_eq!(based.path, "data[0]");
    }

    #[test]
    fn long_and_deep_paths_are_cut() {
        let deep = |n: usize| format!(r#"{}"\ud83d"{}"#, "[".repeat(n), "]".repeat(n));
        let (path, _, offset) = found(&deep(100_000)).expect("one");
        assert!(path.starts_with("[0][0]") && path.ends_with('…') && path.len() <= 256);
        assert_eq!(offset, 100_001);
        let long = format!(r#"{{"{}":"\ud83d"}}"#, "é".repeat(1_000));
        assert!(found(&long).expect("one").0.len() <= PATH_BYTES_MAX);
    }
}
