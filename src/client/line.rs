//! Entries and transients as lines for people. All text from the service is escaped.

use std::fmt::Write;

use anstyle::{AnsiColor, Style};
use jiff::{Timestamp, tz::TimeZone};
use serde_json::{Map, Value, value::RawValue};

use super::{
    feeds::{Change, Entry},
    states::EntryState,
    text::{printable, shortened},
};

/// Maximum length of the printed data of an entry. JSON output has all of it.
const DATA_CHARS_MAX: usize = 1_000;
/// Width of the kind column, so that the columns after it line up.
const KIND_CHARS: usize = 8;
/// Width of the version column, for transients, which have none.
const VERSION_CHARS: usize = 26;

pub(super) const DIM: Style = Style::new().dimmed();

/// Formats text, with colours or without.
#[derive(Debug)]
pub struct Painter {
    color: bool,
    /// Also show the version and the id of entries.
    long: bool,
}

impl Painter {
    pub fn new(color: bool) -> Self {
        Self { color, long: false }
    }

    pub fn long(self, long: bool) -> Self {
        Self { long, ..self }
    }

    pub fn paint(&self, style: Style, text: &str) -> String {
        let text = printable(text);
        if self.color {
            format!("{style}{text}{style:#}")
        } else {
            text.into_owned()
        }
    }

    pub fn plain(&self, text: &str) -> String {
        printable(text).into_owned()
    }

    pub fn bad(&self, text: &str) -> String {
        self.paint(AnsiColor::Red.on_default(), text)
    }

    pub fn dim(&self, text: &str) -> String {
        self.paint(DIM, text)
    }

    /// Time, kind, actor → feeds, data. The time is when the event happened, if it says so, else when it was accepted.
    /// In the long form the version is in front of them, and the id after the kind. News of a change begin with what it was.
    pub fn entry(&self, entry: &Entry) -> String {
        match entry.change {
            Some(Change::Erased) => return self.erased(entry),
            Some(Change::Edited) => return self.bold("edited") + "  " + &self.content(entry),
            None => {}
        }
        let mut line = self.content(entry);
        if entry.edited.is_some() {
            line += "  ";
            line += &self.dim("(edited)");
        }
        match entry.state {
            Some(EntryState::Unread) => line += &format!("  {}", self.bold("(unread)")),
            Some(EntryState::Archived) => line += &format!("  {}", self.dim("(archived)")),
            Some(EntryState::Read) | None => {}
        }
        line
    }

    pub(super) fn bold(&self, text: &str) -> String {
        self.paint(Style::new().bold(), text)
    }

    /// Of an erased entry, only its feeds, id and kind are known.
    fn erased(&self, entry: &Entry) -> String {
        let mut version = String::new();
        if let (true, Some(given)) = (self.long, &entry.version) {
            version = self.dim(given) + "  ";
        }
        format!(
            "{}  {version}{}  {} → {}",
            self.bold("erased"),
            self.paint(
                kind_style(&entry.kind),
                &format!("{:KIND_CHARS$}", entry.kind)
            ),
            self.plain(&entry.id),
            self.plain(&feeds(entry)),
        )
    }

    fn content(&self, entry: &Entry) -> String {
        let mut kind = kind_style(&entry.kind);
        if entry.version.is_none() {
            kind = kind.italic();
        }
        let padded = format!("{:KIND_CHARS$}", entry.kind);
        let (mut version, mut id) = (String::new(), String::new());
        if self.long {
            let given = entry.version.as_deref().unwrap_or("–");
            version = self.dim(&format!("{given:VERSION_CHARS$}")) + "  ";
            id = self.plain(&entry.id) + "  ";
        }
        let mut line = format!(
            "{version}{}  {}  {id}{} → {}",
            self.dim(&local_time(entry.time.as_ref().unwrap_or(&entry.at))),
            self.paint(kind, &padded),
            self.bold(entry.actor.as_deref().unwrap_or("–")),
            self.plain(&feeds(entry)),
        );
        let (text, rest) = text_and_rest(&entry.data);
        if !text.is_empty() {
            let _ = write!(line, "  {}", printable(&shortened(&text, DATA_CHARS_MAX)));
        }
        if !rest.is_empty() {
            let _ = write!(line, "  {}", self.dim(&shortened(&rest, DATA_CHARS_MAX)));
        }
        line
    }
}

fn feeds(entry: &Entry) -> String {
    match &*entry.feeds {
        [] => entry.feed.clone(),
        feeds => feeds.join(", "),
    }
}

/// A kind always has the same colour. The kinds used in examples have one each.
fn kind_style(kind: &str) -> Style {
    const COLORS: [AnsiColor; 5] = [
        AnsiColor::Green,
        AnsiColor::Yellow,
        AnsiColor::Blue,
        AnsiColor::BrightMagenta,
        AnsiColor::BrightCyan,
    ];
    let color = match kind {
        "message" => AnsiColor::Cyan,
        "flirt" => AnsiColor::Magenta,
        "visit" => AnsiColor::Yellow,
        "typing" => AnsiColor::BrightBlack,
        _ => {
            let sum: usize = kind.bytes().map(usize::from).sum();
            COLORS[sum % COLORS.len()]
        }
    };
    Style::new().fg_color(Some(color.into()))
}

/// The time in the local zone, or the text unchanged if it is not a time.
fn local_time(at: &str) -> String {
    match at.parse::<Timestamp>() {
        Ok(at) => at
            .to_zoned(TimeZone::system())
            .strftime("%F %T")
            .to_string(),
        Err(_) => at.to_owned(),
    }
}

/// The `text` member of data, and the rest of it as JSON.
fn text_and_rest(data: &RawValue) -> (String, String) {
    if let Ok(mut fields) = serde_json::from_str::<Map<String, Value>>(data.get())
        && let Some(Value::String(text)) = fields.remove("text")
    {
        let rest = if fields.is_empty() {
            String::new()
        } else {
            Value::Object(fields).to_string()
        };
        return (text, rest);
    }
    match data.get() {
        "null" => (String::new(), String::new()),
        json => (String::new(), json.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(extra: &str, data: &str) -> Entry {
        let json = format!(
            r#"{{"feed":"user:ben",{extra}"id":"m-1","kind":"message","actor":"user:anna","at":"not a time","data":{data}}}"#
        );
        serde_json::from_str(&json).expect("an entry")
    }

    #[test]
    fn an_entry_is_one_line_and_its_text_is_escaped() {
        let plain = Painter::new(false);
        let message = entry("", r#"{"text":"Hi\n\u001b[31mBen"}"#);
        assert_eq!(
            plain.entry(&message),
            "not a time  message   user:anna → user:ben  Hi\\n\\u{1b}[31mBen"
        );
        let feeds = r#""feeds":["user:ben","chat:7"],"version":"0","#;
        assert_eq!(
            plain.entry(&entry(feeds, r#"{"text":"Hi","n":1}"#)),
            r#"not a time  message   user:anna → user:ben, chat:7  Hi  {"n":1}"#
        );
        assert_eq!(
            plain.entry(&entry("", "null")),
            "not a time  message   user:anna → user:ben"
        );
        let imported = entry(r#""time":"long ago","#, "null");
        assert_eq!(
            plain.entry(&imported),
            "long ago  message   user:anna → user:ben"
        );
        let long = Painter::new(false).long(true);
        assert_eq!(
            long.entry(&entry(r#""version":"000000800pgcvgij9uqfvvvvvs","#, "[1]")),
            "000000800pgcvgij9uqfvvvvvs  not a time  message   m-1  user:anna → user:ben  [1]"
        );
        assert_eq!(
            long.entry(&entry("", "null")),
            "–                           not a time  message   m-1  user:anna → user:ben"
        );
        let raw = entry("", "[\"\u{9b}31m\", 1.0]");
        assert!(plain.entry(&raw).ends_with(r#"  ["\u{9b}31m", 1.0]"#));
    }

    #[test]
    fn changes_are_told_from_entries() {
        let plain = Painter::new(false);
        let version = r#""version":"000000800pgcvgij9uqfvvvvvs","#;
        let edited = format!(r#"{version}"edited":"000000900pgcvgij9uqfvvvvvs","#);
        assert_eq!(
            plain.entry(&entry(&edited, "[1]")),
            "not a time  message   user:anna → user:ben  [1]  (edited)"
        );
        let news = format!(r#""change":"edited",{edited}"#);
        let news = entry(&news, "[1]");
        assert_eq!(
            plain.entry(&news),
            "edited  not a time  message   user:anna → user:ben  [1]"
        );
        assert_eq!(news.position(), Some("000000900pgcvgij9uqfvvvvvs"));
        let erased = format!(
            r#"{{"feed":"user:ben","change":"erased",{version}"erased":"a","id":"m\u001b","kind":"message"}}"#
        );
        let erased: Entry = serde_json::from_str(&erased).expect("news of an erasure");
        assert_eq!(
            plain.entry(&erased),
            "erased  message   m\\u{1b} → user:ben"
        );
        let long = Painter::new(false).long(true);
        assert_eq!(
            long.entry(&erased),
            "erased  000000800pgcvgij9uqfvvvvvs  message   m\\u{1b} → user:ben"
        );
    }

    #[test]
    fn the_state_of_an_entry_stands_at_its_end() {
        let plain = Painter::new(false);
        for (state, end) in [
            ("unread", "[1]  (edited)  (unread)"),
            ("read", "[1]  (edited)"),
            ("archived", "[1]  (edited)  (archived)"),
        ] {
            let entry = entry(&format!(r#""edited":"a","state":"{state}","#), "[1]");
            assert!(plain.entry(&entry).ends_with(end), "{state}");
        }
    }

    #[test]
    fn colours_are_used_only_on_request() {
        let message = entry("\"version\":\"0\",", "[1]");
        assert!(!Painter::new(false).entry(&message).contains('\x1b'));
        let colored = Painter::new(true).entry(&message);
        assert!(colored.contains("\x1b[36mmessage \x1b[0m"), "{colored:?}");
    }
}
