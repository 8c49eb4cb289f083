//! What a reader reports, and the state that results.

use std::fmt;

use serde::Deserialize;
use serde_json::Value;

use super::FEED;
use crate::support::bed::text;

/// A report of a reader.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Told {
    /// vN and all entries up to it, newest first.
    History {
        version: String,
        entries: Vec<Value>,
    },
    /// It has opened a stream.
    Opened,
    Event {
        name: String,
        id: Option<String>,
        data: String,
    },
    /// It will not reconnect.
    GaveUp,
}

#[derive(Default)]
pub struct Heard {
    pub version: Option<String>,
    /// The history and live entries, oldest first.
    pub entries: Vec<Value>,
    pub transients: Vec<Value>,
    /// The last `marker` event.
    pub state: Value,
    /// Number of streams opened.
    pub opened: usize,
    pub byes: usize,
    /// The greatest version received.
    position: String,
}

impl fmt::Display for Heard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            version, position, ..
        } = self;
        write!(
            f,
            "{} entries, {} streams, now at {position}, from {version:?}",
            self.entries.len(),
            self.opened
        )
    }
}

impl Heard {
    pub fn hear(&mut self, told: Told) {
        match told {
            Told::History { version, entries } => {
                assert!(self.version.is_none() && !entries.is_empty());
                self.entries = entries;
                self.entries.reverse();
                self.position.clone_from(&version);
                self.version = Some(version);
            }
            Told::Opened => self.opened += 1,
            Told::Event { name, id, data } => {
                let data = serde_json::from_str(&data).expect("JSON data");
                self.event(&name, id, data);
            }
            Told::GaveUp => panic!("it gave up"),
        }
    }

    fn event(&mut self, name: &str, id: Option<String>, data: Value) {
        match name {
            "entry" | "notify" => {
                assert_eq!(data["feed"], FEED);
                assert_eq!((data["kind"] == "message"), (name == "notify"), "{data}");
                let version = text(&data["version"]);
                assert_eq!(id.as_ref(), Some(&version), "{data}");
                assert!(version > self.position, "{data} at {}", self.position);
                self.position = version;
                self.entries.push(data);
            }
            "version" => {
                let version = text(&data["version"]);
                assert_eq!(id.as_ref(), Some(&version), "{data}");
                assert!(
                    version >= self.position,
                    "back to {version} from {}",
                    self.position
                );
                self.position = version;
            }
            "transient" => self.transients.push(data),
            "marker" => self.state = data,
            "bye" => {
                assert_eq!(data["reason"], "shutdown");
                self.byes += 1;
            }
            _ => panic!("{name}: {data}"),
        }
    }
}
