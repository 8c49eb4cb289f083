//! One event as a line of JSON: made of flags, or somebody's own, to which an id is added.

use std::{borrow::Cow, fmt};

use serde::{
    Deserialize, Deserializer, Serialize,
    de::{MapAccess, Visitor},
};
use serde_json::value::RawValue;
use uuid::Uuid;

/// What the flags say.
#[derive(Debug, Serialize)]
pub struct Event {
    pub id: String,
    pub kind: String,
    pub feeds: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub actor: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data: Option<Box<RawValue>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expect: Option<Expect>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Expect {
    pub feed: String,
    pub version: String,
}

impl Event {
    pub fn line(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("names and JSON serialize")
    }
}

pub fn new_id() -> String {
    Uuid::now_v7().to_string()
}

/// The members of an object, in order and as they were written.
struct Members<'a>(Vec<(String, &'a RawValue)>);

impl<'de: 'a, 'a> Deserialize<'de> for Members<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Each;
        impl<'de> Visitor<'de> for Each {
            type Value = Vec<(String, &'de RawValue)>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an event, which is an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(members)
            }
        }
        deserializer.deserialize_map(Each).map(Members)
    }
}

/// The line with an id, so that it may be sent again. One that is no object goes as it is: the service says what is wrong
/// with it.
pub fn with_id(line: &[u8]) -> Cow<'_, [u8]> {
    let Ok(Members(members)) = serde_json::from_slice(line) else {
        return line.into();
    };
    let absent = |(name, value): &(String, &RawValue)| name == "id" && value.get() == "null";
    if members
        .iter()
        .any(|member| member.0 == "id" && !absent(member))
    {
        return line.into();
    }
    let mut out = format!("{{\"id\":\"{}\"", new_id()).into_bytes();
    for (name, value) in members.iter().filter(|member| !absent(member)) {
        out.push(b',');
        serde_json::to_writer(&mut out, name).expect("a string serializes and a Vec takes it");
        out.push(b':');
        out.extend_from_slice(value.get().as_bytes());
    }
    out.push(b'}');
    out.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(line: &str) -> String {
        String::from_utf8(with_id(line.as_bytes()).into_owned()).expect("UTF-8")
    }

    #[test]
    fn an_id_is_added_where_none_is_and_nothing_else_changes() {
        let rest = r#""kind":"a\"b","feeds":["user:1"],"data":{"z":1.0,"a":[1e400, "\u00e9"]}"#;
        for line in [
            format!("{{{rest}}}"),
            format!(r#"{{"id":null,{rest}}}"#),
            format!(r#" {{{rest} , "id" : null}} "#),
        ] {
            let with = text(&line);
            let (id, after) = with[7..].split_once("\",").expect("an id");
            assert!(
                with.starts_with("{\"id\":\"") && Uuid::parse_str(id).is_ok(),
                "{with}"
            );
            assert_eq!(after, format!("{rest}}}"));
        }
        assert_ne!(text("{}"), text("{}"), "each its own");
    }

    #[test]
    fn what_has_an_id_or_is_no_event_stays_as_it_is() {
        for line in [
            r#"{"id":"m-1" ,"kind":"a"}"#,
            r#"{"kind":"a","id":7}"#,
            r#"{"\u0069d":"m-1"}"#,
            "[1]",
            "not JSON",
            "{\"kind\":",
            "null",
        ] {
            assert_eq!(text(line), line);
        }
        assert_eq!(&*with_id(b"{\"a\":\"\xff\"}"), b"{\"a\":\"\xff\"}");
    }
}
