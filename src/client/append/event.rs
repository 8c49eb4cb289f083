//! One event as a line of JSON: built from flags, or a given line that is completed with an id and an actor.

use std::{borrow::Cow, fmt};

use serde::{
    Deserialize, Deserializer, Serialize,
    de::{MapAccess, Visitor},
};
use serde_json::value::RawValue;

use crate::client::token::Author;

/// An event built from flags.
#[derive(Debug, Serialize)]
pub struct Event {
    pub id: String,
    pub kind: String,
    pub feeds: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub actor: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub time: Option<String>,
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

/// The members of a JSON object, in order and unparsed.
pub struct Members<'a>(pub Vec<(String, &'a RawValue)>);

impl<'de: 'a, 'a> Deserialize<'de> for Members<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Each;
        impl<'de> Visitor<'de> for Each {
            type Value = Vec<(String, &'de RawValue)>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an event (a JSON object)")
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

/// Adds an id to a line that has none, so that it can be retried, and the only actor of `author` to a line without
/// `actor`. A line that is not an object is left as it is, and the service reports what is wrong with it.
pub fn completed<'a>(line: &'a [u8], author: &Author) -> Cow<'a, [u8]> {
    let Ok(Members(members)) = serde_json::from_slice(line) else {
        return line.into();
    };
    let null_id = |(name, value): &(String, &RawValue)| name == "id" && value.get() == "null";
    let has_id = members
        .iter()
        .any(|member| member.0 == "id" && !null_id(member));
    let given = members.iter().find(|(name, _)| name == "actor");
    let actor = author.only_actor().filter(|_| given.is_none());
    if has_id && actor.is_none() {
        return line.into();
    }
    let mut out = Vec::with_capacity(line.len() + 256);
    let mut put = |name: &str, value: &[u8]| {
        out.push(if out.is_empty() { b'{' } else { b',' });
        serde_json::to_writer(&mut out, name).expect("a string serializes and a Vec takes it");
        out.push(b':');
        out.extend_from_slice(value);
    };
    if !has_id {
        let given = given.and_then(|(_, actor)| serde_json::from_str::<String>(actor.get()).ok());
        let id = author.new_id(actor.as_deref().or(given.as_deref()));
        put("id", serde_json::Value::from(id).to_string().as_bytes());
    }
    if let Some(actor) = actor {
        let actor = serde_json::to_vec(&actor).expect("a string serializes");
        put("actor", &actor);
    }
    for (name, value) in members.iter().filter(|member| has_id || !null_id(member)) {
        put(name, value.get().as_bytes());
    }
    out.push(b'}');
    out.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn anna() -> Author {
        serde_json::from_str(r#"{"actors":["user:anna"]}"#).expect("claims")
    }

    fn text(line: &str) -> String {
        String::from_utf8(completed(line.as_bytes(), &Author::default()).into_owned())
            .expect("UTF-8")
    }

    #[test]
    fn an_id_is_added_only_to_an_event_without_one() {
        let rest = r#""kind":"a\"b","feeds":["user:1"],"data":{"z":1.0,"a":[1e400, "\u00e9"]}"#;
        for line in [
            format!("{{{rest}}}"),
            format!(r#"{{"id":null,{rest}}}"#),
            format!(r#" {{{rest} , "id" : null}} "#),
        ] {
            let with = text(&line);
            let (id, after) = with[7..].split_once("\",").expect("an id");
            assert!(
                with.starts_with("{\"id\":\"") && uuid::Uuid::parse_str(id).is_ok(),
                "{with}"
            );
            assert_eq!(after, format!("{rest}}}"));
        }
        assert_ne!(text("{}"), text("{}"), "ids are unique");
    }

    #[test]
    fn the_actor_is_added_only_to_an_event_without_one() {
        let with = |line: &str| {
            let line = completed(line.as_bytes(), &anna());
            String::from_utf8(line.into_owned()).expect("UTF-8")
        };
        assert_eq!(
            with(r#"{"id":"m-1" ,"kind":"a"}"#),
            r#"{"actor":"user:anna","id":"m-1","kind":"a"}"#
        );
        let both = with(r#"{"kind":"a"}"#);
        assert!(
            both.starts_with("{\"id\":\"user:anna/")
                && both.ends_with(r#"","actor":"user:anna","kind":"a"}"#),
            "{both}"
        );
        let ben = with(r#"{"actor":"user:ben"}"#);
        assert!(ben.starts_with("{\"id\":\"user:ben/"), "{ben}");
        for explicit in [
            r#"{"id":"m-1","actor":"user:ben"}"#,
            r#"{"id":"m-1","actor":null}"#,
        ] {
            assert_eq!(with(explicit), explicit);
        }
    }

    #[test]
    fn an_actor_with_quotes_is_escaped() {
        let claims = serde_json::json!({ "actors": [r#"say "hi" \o/"#] });
        let author = serde_json::from_value(claims).expect("claims");
        let line = completed(br#"{"id":"m-1"}"#, &author);
        let event: serde_json::Value = serde_json::from_slice(&line).expect("JSON");
        assert_eq!(event["actor"], r#"say "hi" \o/"#);
    }

    #[test]
    fn events_with_an_id_and_other_lines_are_unchanged() {
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
        assert_eq!(
            &*completed(b"{\"a\":\"\xff\"}", &anna()),
            b"{\"a\":\"\xff\"}"
        );
    }
}
