//! Follows feeds over reconnects: each stream begins where the one before ended.

use std::{collections::HashMap, time::Duration};

use serde::Deserialize;

use super::{cursor::Cursor, start::Start};
use crate::client::{
    Error,
    api::{Client, Failure},
    error::Gone,
    feeds::{Entry, Live, Told},
    output::{Printer, status},
    pages::{Range, wanted},
    patience::Patience,
    sse::Frame,
    states::{MarkFrame, MarkerFrame, Markers, Unread},
};

/// Prints the events of the streams. `position` only advances over entries that are printed and flushed.
pub struct Follower<'a> {
    client: &'a Client,
    range: Range,
    position: String,
    /// Where to start over.
    start: Start,
    printer: Printer,
    cursor: Option<Cursor>,
    /// Also print transients and states.
    all: bool,
    quiet: bool,
    /// How long to wait before a stream is opened again: different for each client, so that not all return at once.
    retry: Option<Duration>,
    /// The state of each reader of each feed when it was last printed.
    states: HashMap<(String, Option<String>), (Option<Unread>, Markers)>,
}

/// What to print, and how.
pub struct Printing {
    pub printer: Printer,
    /// Also print transients and states.
    pub all: bool,
    pub quiet: bool,
}

/// The effects of frames that are not flushed yet.
#[derive(Default)]
struct Unflushed {
    position: Option<String>,
    bye: Option<String>,
    /// The service cannot continue from the position: start over.
    reset: Option<Again>,
}

struct Again {
    /// The position.
    from: String,
    gone: Gone,
    /// The stream continues from this version.
    current: String,
}

/// How a stream ended.
enum Ended {
    Lost(Error),
    Reset(Again),
}

#[derive(Deserialize)]
struct Reset {
    code: String,
    version: String,
}

#[derive(Deserialize)]
struct Bye {
    reason: String,
}

impl<'a> Follower<'a> {
    pub fn new(
        client: &'a Client,
        range: Range,
        position: String,
        start: Start,
        cursor: Option<Cursor>,
        printing: Printing,
    ) -> Self {
        let Printing {
            printer,
            all,
            quiet,
        } = printing;
        Self {
            client,
            range,
            position,
            start,
            printer,
            cursor,
            all,
            quiet,
            retry: None,
            states: HashMap::new(),
        }
    }

    /// Everything up to this version is printed.
    pub fn position(&self) -> &str {
        &self.position
    }

    /// Returns only with an error. Cancel-safe.
    pub async fn run(&mut self) -> Result<(), Error> {
        let mut patience = self.client.patience();
        // A service was there. What answers in its place later, such as the login page of a network, may pass.
        let mut known = false;
        loop {
            let (after, last) = match self.client.live(&self.range, &self.position).await {
                Ok(live) => {
                    known = true;
                    self.notice(|me| {
                        let what = match &*me.range.feeds {
                            [] => "all events".to_owned(),
                            feeds => feeds.join(", "),
                        };
                        format!("following {what} from {}", me.position)
                    });
                    match self.print_stream(live, &mut patience).await? {
                        Ended::Lost(last) => (self.retry, last),
                        Ended::Reset(again) => {
                            self.start_over(again).await?;
                            continue;
                        }
                    }
                }
                Err(Failure::NotNow { after, last }) => (after.or(self.retry), last),
                Err(Failure::Final(last @ Error::NotNewsfeed { .. })) if known => {
                    (self.retry, last)
                }
                Err(Failure::Final(error)) => return Err(error),
            };
            patience.pause(after, last).await?;
        }
    }

    /// Prints until the stream ends, and returns how it ended.
    async fn print_stream(
        &mut self,
        mut live: Live,
        patience: &mut Patience,
    ) -> Result<Ended, Error> {
        loop {
            let mut unflushed = Unflushed::default();
            let mut printed = Ok(());
            let received = live
                .next(|frame| {
                    if printed.is_ok() {
                        printed = self.take(&frame, &mut unflushed);
                    }
                })
                .await;
            printed?;
            self.retry = live.retry();
            self.printer.flush()?;
            if let Some(position) = unflushed.position {
                self.position = position;
                if let Some(cursor) = &self.cursor {
                    cursor.write(&self.position)?;
                }
                // After progress the next failure starts a new period of retries, without a limit, because the service is
                // known to exist.
                *patience = Patience::new(Patience::ENDLESS);
            }
            if let Some(again) = unflushed.reset {
                return Ok(Ended::Reset(again));
            }
            if let Some(cause) = received.err().or(unflushed.bye) {
                let url = self.client.base_url().to_owned();
                return Ok(Ended::Lost(Error::Lost { url, cause }));
            }
        }
    }

    fn take(&mut self, frame: &Frame<'_>, unflushed: &mut Unflushed) -> Result<(), Error> {
        match frame.event {
            "entry" | "notify" | "event" | "edited" | "erased" => {
                let entry: Told<Entry> = self.parsed(frame)?;
                let last = unflushed.position.as_deref().unwrap_or(&self.position);
                // The service sends no entry twice, but a caching proxy might.
                if entry.value.position() > Some(last) {
                    self.entry(&entry)?;
                }
            }
            "transient" if self.all => {
                let transient = self.parsed(frame)?;
                self.entry(&transient)?;
            }
            "marker" if self.all && self.range.kinds.is_empty() => self.marker(frame)?,
            "marked" if self.all && self.range.kinds.is_empty() => {
                let mark: Told<MarkFrame> = self.parsed(frame)?;
                self.printer.print(mark.json.get(), |painter| {
                    painter.dim("-- ") + &painter.mark(&mark.value)
                })?;
            }
            "reset" => {
                let Reset { code, version } = self.parsed(frame)?;
                let from = unflushed.position.as_ref().unwrap_or(&self.position);
                if let Some(gone) = Gone::of(&code, None) {
                    tracing::warn!(
                        "the position {from} {gone}; starting over. Entries that were printed before may not be in it any more"
                    );
                    unflushed.reset = Some(Again {
                        from: from.clone(),
                        gone,
                        current: version,
                    });
                    return Ok(());
                }
                tracing::warn!(
                    "the service has not reached {from}; continuing from {version}. Earlier entries may be missing in this \
                     output; `newsfeed history` prints them"
                );
            }
            "bye" => {
                unflushed.bye = Some(match &*self.parsed::<Bye>(frame)?.reason {
                    "shutdown" => "the service is shutting down".to_owned(),
                    _ => "its store does not respond".to_owned(),
                });
            }
            _ => {}
        }
        if let Some(id) = frame.id {
            unflushed.position = Some(id.to_owned());
        }
        Ok(())
    }

    /// Continues from where the command was told to start, as of now.
    async fn start_over(&mut self, again: Again) -> Result<(), Error> {
        let Again {
            from,
            gone,
            current,
        } = again;
        let start = &self.start;
        let found = start.again(self.client, &self.range, (&from, &gone), Some(current));
        self.position = found.await?.after;
        self.states.clear();
        match &self.cursor {
            Some(cursor) => cursor.write(&self.position),
            None => Ok(()),
        }
    }

    fn entry(&mut self, entry: &Told<Entry>) -> Result<(), Error> {
        if !wanted(&self.range.kinds, &entry.value.kind) {
            return Ok(());
        }
        self.printer
            .print(entry.json.get(), |painter| painter.entry(&entry.value))
    }

    /// Every stream begins with the states. Prints only those that changed.
    fn marker(&mut self, frame: &Frame<'_>) -> Result<(), Error> {
        let Told { json, value }: Told<MarkerFrame> = self.parsed(frame)?;
        let whose = (value.feed.clone(), value.reader.clone());
        let state = (value.unread.clone(), value.markers.clone());
        if self.states.get(&whose) == Some(&state) {
            return Ok(());
        }
        self.printer.print(json.get(), |painter| {
            painter.dim("-- ") + &painter.marker(&value)
        })?;
        self.states.insert(whose, state);
        Ok(())
    }

    fn parsed<T: for<'de> Deserialize<'de>>(&self, frame: &Frame<'_>) -> Result<T, Error> {
        serde_json::from_str(frame.data).map_err(|error| {
            self.client
                .not_newsfeed(format!("{}: {error}", frame.event))
        })
    }

    fn notice(&self, text: impl FnOnce(&Self) -> String) {
        if !self.quiet {
            status(&text(self));
        }
    }
}
