//! A line of an export.

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::client::{append::event::Members, wire::Rejection};

/// Members of an exported event that are not part of what its producer appended.
const OF_THE_STORE: [&str; 3] = ["version", "at", "edited"];

#[derive(Debug)]
pub enum Exported {
    /// Also a line that makes no sense: the service says what is wrong with it.
    Event(Event),
    /// The news that an event was edited or erased.
    Change(Vec<u8>),
    /// A position between events, as the API writes it.
    Position,
    /// The API broke its answer off.
    Broken(Rejection),
}

/// An event to append.
#[derive(Debug)]
pub struct Event {
    pub json: Vec<u8>,
    /// The same without `time`, if that was set from `at`.
    pub timed: Option<Vec<u8>>,
}

/// The members that tell what a line is.
#[derive(Deserialize)]
struct Kind<'a> {
    #[serde(borrow)]
    kind: Option<&'a RawValue>,
    #[serde(borrow)]
    change: Option<&'a RawValue>,
    #[serde(borrow)]
    cursor: Option<&'a RawValue>,
    error: Option<Rejection>,
}

impl Exported {
    pub fn of(line: &[u8]) -> Self {
        let as_it_is = || {
            Self::Event(Event {
                json: line.to_vec(),
                timed: None,
            })
        };
        let Ok(Members(members)) = serde_json::from_slice(line) else {
            return as_it_is();
        };
        match serde_json::from_slice(line) {
            Ok(Kind {
                change: Some(_), ..
            }) => return Self::Change(line.to_vec()),
            Ok(Kind {
                kind: None,
                cursor: Some(_),
                error,
                ..
            }) => return error.map_or(Self::Position, Self::Broken),
            Ok(_) => {}
            Err(_) => return as_it_is(),
        }
        let value = |name: &str| {
            let mut given = members.iter().filter(|member| member.0 == name);
            given.next().map(|member| member.1)
        };
        let is_set = |value: &&RawValue| value.get() != "null";
        let at = match value("time").filter(is_set) {
            None => value("at").filter(is_set),
            Some(_) => None,
        };
        let kept = members.iter().filter(|(name, value)| {
            let is_unset_time = name == "time" && !is_set(value);
            !OF_THE_STORE.contains(&&**name) && !is_unset_time
        });
        let kept: Vec<_> = kept.map(|(name, value)| (&**name, *value)).collect();
        let untimed = object(&kept);
        Self::Event(match at {
            None => Event {
                json: untimed,
                timed: None,
            },
            Some(at) => Event {
                json: object(&[&kept[..], &[("time", at)]].concat()),
                timed: Some(untimed),
            },
        })
    }
}

fn object(members: &[(&str, &RawValue)]) -> Vec<u8> {
    let mut out = vec![b'{'];
    for (index, (name, value)) in members.iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        serde_json::to_writer(&mut out, name).expect("a string serializes and a Vec takes it");
        out.push(b':');
        raw(value.get().as_bytes(), &mut out);
    }
    out.push(b'}');
    out
}

/// Adds `json` to `out` without the escapes that an export has for characters that some programs take for the end of a line.
/// With them, data could be longer than the service accepts.
fn raw(json: &[u8], out: &mut Vec<u8>) {
    let mut copied = 0;
    while let Some(escape) = memchr::memchr(b'\\', &json[copied..]) {
        let escape = copied + escape;
        out.extend_from_slice(&json[copied..escape]);
        let (character, length) = match json[escape..] {
            [_, b'u', b'0', b'0', b'8', b'5', ..] => ("\u{85}", 6),
            [_, b'u', b'2', b'0', b'2', b'8', ..] => ("\u{2028}", 6),
            [_, b'u', b'2', b'0', b'2', b'9', ..] => ("\u{2029}", 6),
            // Another escape: the byte after the backslash begins none.
            _ => ("", 2),
        };
        let end = json.len().min(escape + length);
        match character {
            "" => out.extend_from_slice(&json[escape..end]),
            character => out.extend_from_slice(character.as_bytes()),
        }
        copied = end;
    }
    out.extend_from_slice(&json[copied..]);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(line: &str) -> (String, Option<String>) {
        let text = |json| String::from_utf8(json).expect("UTF-8");
        match Exported::of(line.as_bytes()) {
            Exported::Event(event) => (text(event.json), event.timed.map(text)),
            other => panic!("{line}: {other:?}"),
        }
    }

    #[test]
    fn an_event_loses_what_the_store_added_and_keeps_its_time_or_gets_one() {
        let rest = r#""id":"m-1","kind":"k","actor":null,"feeds":["a"],"data":{"z":[1.0,1e400,"\u00e9"],"a":{"version":1}}"#;
        let at = r#""at":"2026-11-29T10:53:13.000001Z""#;
        let exported = format!(r#"{{"version":"v",{rest},{at}}}"#);
        let timed = format!(r#"{{{rest},"time":"2026-11-29T10:53:13.000001Z"}}"#);
        assert_eq!(
            event(&exported),
            (timed.clone(), Some(format!("{{{rest}}}")))
        );
        let null = format!(r#"{{"version":"v","time":null,{rest},{at},"edited":"w"}}"#);
        assert_eq!(event(&null), (timed, Some(format!("{{{rest}}}"))));
        let told = format!(r#"{{"version":"v",{rest},{at},"time":"2004-04-15T16:56:01+02:00"}}"#);
        let kept = format!(r#"{{{rest},"time":"2004-04-15T16:56:01+02:00"}}"#);
        assert_eq!(event(&told), (kept, None));
    }

    #[test]
    fn what_an_export_has_escaped_is_as_it_was() {
        let exported = r#"{"kind":"k","data":["\u0085\u2028\\\u2029","\\u2028\\\\u2029\"\u2027\u00e9","\u2028"]}"#;
        let (json, _) = event(exported);
        assert_eq!(
            json,
            "{\"kind\":\"k\",\"data\":[\"\u{85}\u{2028}\\\\\u{2029}\",\"\\\\u2028\\\\\\\\u2029\\\"\\u2027\\u00e9\",\"\u{2028}\"]}"
        );
    }

    #[test]
    fn what_the_service_has_to_reject_is_left_as_it_is() {
        for line in [
            "nonsense",
            "[1]",
            r#"{"kind":"k","#,
            r#"{"id":"m","id":"n","kind":"k"}"#,
            r#"{"kind":"k","kind":"k"}"#,
            r#"{"kind":"k","flavour":1}"#,
            "{}",
        ] {
            assert_eq!(event(line), (line.to_owned(), None));
        }
    }

    #[test]
    fn positions_and_changes_are_told_from_events() {
        let of = |line: &str| Exported::of(line.as_bytes());
        for line in [r#"{"cursor":"v"}"#, r#"{"cursor":"v","end":true}"#] {
            assert!(matches!(of(line), Exported::Position), "{line}");
        }
        let broken = r#"{"cursor":"v","error":{"code":"unavailable","detail":"d","status":503}}"#;
        assert!(
            matches!(of(broken), Exported::Broken(Rejection { code, .. }) if code == "unavailable")
        );
        for line in [
            r#"{"change":"erased","version":"v","id":"m","feeds":["a"],"erased":"w"}"#,
            r#"{"change":"edited","version":"v","id":"m","kind":"k","feeds":["a"],"data":1,"edited":"w"}"#,
        ] {
            assert!(matches!(of(line), Exported::Change(_)), "{line}");
        }
    }
}
