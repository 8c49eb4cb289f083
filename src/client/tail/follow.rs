//! Follows feeds over reconnects: each stream begins where the one before ended.

use std::{collections::HashMap, time::Duration};

use serde::Deserialize;

use super::{
    cursor::Cursor,
    start::{From, Start},
};
use crate::client::{
    Error,
    api::{Client, Failure},
    feeds::{Entry, Live, Markers, State, Told, Unread},
    names,
    output::{Printer, status},
    pages::{Range, wanted},
    patience::Patience,
    sse::Frame,
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
    /// The state of each feed when it was last printed.
    states: HashMap<String, (Unread, Markers)>,
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
    /// The position was not of this store: start over. The stream continues from this version.
    reset: Option<String>,
}

/// How a stream ended.
enum Ended {
    Lost(Error),
    Reset(String),
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
                        Ended::Reset(current) => {
                            self.start_over(current).await?;
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
            if let Some(current) = unflushed.reset {
                return Ok(Ended::Reset(current));
            }
            if let Some(cause) = received.err().or(unflushed.bye) {
                let url = self.client.base_url().to_owned();
                return Ok(Ended::Lost(Error::Lost { url, cause }));
            }
        }
    }

    fn take(&mut self, frame: &Frame<'_>, unflushed: &mut Unflushed) -> Result<(), Error> {
        match frame.event {
            "entry" | "notify" | "event" => {
                let entry: Told<Entry> = self.parsed(frame)?;
                let last = unflushed.position.as_deref().unwrap_or(&self.position);
                // The service sends no entry twice, but a caching proxy might.
                if entry.value.version.as_deref() > Some(last) {
                    self.entry(&entry)?;
                }
            }
            "transient" if self.all => {
                let transient = self.parsed(frame)?;
                self.entry(&transient)?;
            }
            "marker" if self.all && self.range.kinds.is_empty() => self.state(frame)?,
            "reset" => {
                let Reset { code, version } = self.parsed(frame)?;
                let from = unflushed.position.as_ref().unwrap_or(&self.position);
                if code == "cursor_unknown" {
                    tracing::warn!(
                        "the position {from} is not of this store, which was restored or replaced since; starting over. \
                         Entries that were printed before may not be in it any more"
                    );
                    unflushed.reset = Some(version);
                    return Ok(());
                }
                if code == "cursor_expired" {
                    tracing::warn!(
                        "what follows the position {from} has been removed in part, because the service keeps it for a limited \
                         time; starting over. Entries are missing in this output"
                    );
                    unflushed.reset = Some(version);
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
    async fn start_over(&mut self, current: String) -> Result<(), Error> {
        self.position = match &self.start {
            // That version was the position, or is older and as unknown or expired.
            Start::From(From::At(names::Position::Version(_))) => current,
            start => start.find(self.client, &self.range).await?.after,
        };
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
    fn state(&mut self, frame: &Frame<'_>) -> Result<(), Error> {
        let Told { json, value }: Told<State> = self.parsed(frame)?;
        let State {
            feed,
            unread,
            markers,
            ..
        } = value;
        let state = (unread, markers);
        if self.states.get(&feed) == Some(&state) {
            return Ok(());
        }
        self.printer.print(json.get(), |painter| {
            painter.dim("-- ") + &painter.state(&feed, &state.0, &state.1)
        })?;
        self.states.insert(feed, state);
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
