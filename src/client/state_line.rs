//! States and marks as lines for people. All text from the service is escaped.

use std::fmt::Write;

use anstyle::Style;

use super::{
    line::{DIM, Painter},
    states::{EntryState, MarkFrame, Marked, MarkerFrame, Markers, Reader, State, Unread},
    text::printable,
};

impl Painter {
    /// The unread count and the markers of a feed, for a reader.
    pub fn state(&self, state: &State) -> String {
        let State {
            feed,
            reader,
            unread,
            markers,
            ..
        } = state;
        self.own(feed, reader.as_deref(), unread, markers)
    }

    fn own(&self, feed: &str, reader: Option<&str>, unread: &Unread, markers: &Markers) -> String {
        format!(
            "{}  {}  {}",
            view(feed, reader),
            self.unread(unread),
            self.markers(markers)
        )
    }

    pub fn marker(&self, frame: &MarkerFrame) -> String {
        let MarkerFrame {
            feed,
            reader,
            unread,
            markers,
        } = frame;
        match (unread, reader.as_deref()) {
            (Some(unread), reader) => self.own(feed, reader, unread, markers),
            (None, reader) => {
                let other = match reader {
                    None | Some("") => "its own reader",
                    Some(other) => other,
                };
                format!(
                    "{}  {}  {}",
                    printable(feed),
                    self.bold(other),
                    self.markers(markers)
                )
            }
        }
    }

    /// How far a reader has read.
    pub fn reader(&self, reader: &Reader) -> String {
        format!(
            "{}  {}",
            self.plain(&reader.reader),
            self.markers(&reader.markers)
        )
    }

    /// The markers; that of the archive only if it was ever moved.
    fn markers(&self, markers: &Markers) -> String {
        let marker = |version: &Option<String>| self.dim(version.as_deref().unwrap_or("–"));
        let mut line = format!(
            "read {}  seen {}",
            marker(&markers.read),
            marker(&markers.seen)
        );
        if markers.archived.is_some() {
            let _ = write!(line, "  archived {}", marker(&markers.archived));
        }
        line
    }

    /// The entry that was marked, its state and, if it is known, the unread count.
    pub fn marked(&self, marked: &Marked) -> String {
        let mut line = self.entry_state(
            &view(&marked.feed, marked.reader.as_deref()),
            &marked.entry,
            Some(marked.state),
        );
        if let Some(unread) = &marked.unread {
            let _ = write!(line, "  {}", self.unread(unread));
        }
        line
    }

    pub fn mark(&self, frame: &MarkFrame) -> String {
        let view = view(&frame.feed, frame.reader.as_deref());
        match &frame.entry {
            Some(entry) => self.entry_state(&view, entry, frame.state),
            None => format!("{view}  many entries were marked; `newsfeed history` shows them"),
        }
    }

    fn entry_state(&self, view: &str, entry: &str, state: Option<EntryState>) -> String {
        let state = state.map_or("marked", EntryState::name);
        format!("{view}  {}  {}", self.dim(entry), self.bold(state))
    }

    pub fn unread(&self, unread: &Unread) -> String {
        let Unread { total, kinds, more } = unread;
        let style = match total {
            0 => DIM,
            _ => Style::new().bold(),
        };
        let mut text = format!("unread {total}");
        if *more {
            text.push_str(" or more");
        }
        if !kinds.is_empty() {
            let kinds: Vec<_> = kinds
                .iter()
                .map(|(kind, count)| format!("{count} {kind}"))
                .collect();
            let _ = write!(text, " ({})", kinds.join(", "));
        }
        self.paint(style, &text)
    }
}

/// A feed, as a reader sees it.
fn view(feed: &str, reader: Option<&str>) -> String {
    match reader {
        Some(reader) => format!("{} as {}", printable(feed), printable(reader)),
        None => printable(feed).into_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn markers_and_marks_say_whose_they_are() {
        let plain = Painter::new(false);
        let marker = |json: &str| plain.marker(&serde_json::from_str(json).expect("a marker"));
        let markers = r#""version":"c","markers":{"read":"a","seen":null"#;
        let unread = r#""unread":{"total":1,"kinds":{"message":1},"more":false}"#;
        assert_eq!(
            marker(&format!(
                r#"{{"feed":"chat:7","reader":"user:b\u001b",{markers},"archived":"b"}},{unread}}}"#
            )),
            "chat:7 as user:b\\u{1b}  unread 1 (1 message)  read a  seen –  archived b"
        );
        for (reader, told) in [("user:anna", "user:anna"), ("", "its own reader")] {
            assert_eq!(
                marker(&format!(
                    r#"{{"feed":"chat:7","reader":"{reader}",{markers}}}}}"#
                )),
                format!("chat:7  {told}  read a  seen –")
            );
        }
        let mark = |json: &str| plain.mark(&serde_json::from_str(json).expect("a mark"));
        assert_eq!(
            mark(
                r#"{"feed":"chat:7","reader":"user:ben","entry":"a","state":"archived","marked":"b"}"#
            ),
            "chat:7 as user:ben  a  archived"
        );
        assert!(mark(r#"{"feed":"chat:7","entry":null}"#).starts_with("chat:7  many entries"));
    }

    #[test]
    fn the_unread_count_lists_its_kinds() {
        let unread = |total, more| Unread {
            total,
            kinds: [("flirt".to_owned(), 1), ("message".to_owned(), 2)].into(),
            more,
        };
        let plain = Painter::new(false);
        assert_eq!(
            plain.unread(&unread(3, false)),
            "unread 3 (1 flirt, 2 message)"
        );
        assert!(
            plain
                .unread(&unread(10_000, true))
                .starts_with("unread 10000 or more")
        );
    }
}
