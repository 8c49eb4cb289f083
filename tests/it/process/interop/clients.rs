//! The clients, and how a test observes them.

use tokio::{sync::watch, task::JoinSet, time::timeout};
use tokio_util::sync::CancellationToken;

use super::{
    heard::{Heard, Told},
    in_process, scripts,
};
use crate::support::{
    needs::{installed, is_here, on_path},
    patience::PATIENCE,
    protocol::Protocol,
};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Client {
    /// A page's `EventSource` in Chromium.
    Chromium,
    /// The same over TLS, because browsers use HTTP/2 only with TLS.
    ChromiumTls,
    NpmEventsource,
    /// It sends its position as `lastEventId` in the URL.
    NpmPolyfill,
    PypiHttpxSse,
    RustEventsource,
    Curl,
}

impl Client {
    /// Whether the client is installed; if not, it is reported as not tested.
    pub fn is_here(self) -> bool {
        let needed = match self {
            Self::Chromium | Self::ChromiumTls => vec![
                on_path("node"),
                on_path("chromium"),
                installed("node_modules/playwright-core"),
            ],
            Self::NpmEventsource => vec![on_path("node"), installed("node_modules/eventsource")],
            Self::NpmPolyfill => vec![
                on_path("node"),
                installed("node_modules/event-source-polyfill"),
            ],
            Self::PypiHttpxSse => vec![installed("venv/bin/python")],
            Self::RustEventsource => vec![],
            Self::Curl => vec![on_path("curl")],
        };
        is_here(&format!("the client {self:?}"), needed)
    }

    pub fn protocols(self) -> &'static [Protocol] {
        match self {
            Self::Chromium | Self::NpmPolyfill => &[Protocol::Http1],
            Self::ChromiumTls => &[Protocol::Http2],
            _ => &[Protocol::Http1, Protocol::Http2],
        }
    }

    pub fn over_tls(self) -> bool {
        self == Self::ChromiumTls
    }

    /// Starts the client.
    pub fn read(self, base: &str, protocol: Protocol) -> Reader {
        let (sender, heard) = watch::channel(Heard::default());
        let tell = Tell(sender);
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        let base = base.to_owned();
        let mut task = JoinSet::new();
        match self {
            Self::Chromium | Self::ChromiumTls => {
                task.spawn(scripts::node("chromium.mjs", base, protocol, tell, stopped))
            }
            Self::NpmEventsource => task.spawn(scripts::node(
                "eventsource.mjs",
                base,
                protocol,
                tell,
                stopped,
            )),
            Self::NpmPolyfill => {
                task.spawn(scripts::node("polyfill.mjs", base, protocol, tell, stopped))
            }
            Self::PypiHttpxSse => task.spawn(scripts::python(
                "httpx_sse_reader.py",
                base,
                protocol,
                tell,
                stopped,
            )),
            Self::RustEventsource => task.spawn(async move {
                let reading = in_process::eventsource_client(base, protocol, tell);
                stopped.run_until_cancelled_owned(reading).await;
            }),
            Self::Curl => task.spawn(async move {
                let reading = in_process::curl(base, protocol, tell);
                stopped.run_until_cancelled_owned(reading).await;
            }),
        };
        Reader {
            name: format!("{self:?} over {protocol:?}"),
            hears_bye: (self, protocol) != (Self::PypiHttpxSse, Protocol::Http2),
            heard,
            stop,
            task,
        }
    }
}

/// Where a reader reports what it receives.
pub struct Tell(watch::Sender<Heard>);

impl Tell {
    pub fn tell(&self, told: Told) {
        self.0.send_modify(|heard| heard.hear(told));
    }
}

/// A running client, over one protocol.
pub struct Reader {
    name: String,
    /// False for the Python package `h2`, which discards data that arrives together with the end of the connection.
    pub hears_bye: bool,
    heard: watch::Receiver<Heard>,
    stop: CancellationToken,
    task: JoinSet<()>,
}

impl Reader {
    pub fn entries(&self) -> usize {
        self.heard.borrow().entries.len()
    }

    pub fn opened(&self) -> usize {
        self.heard.borrow().opened
    }

    pub fn has_heard_a_transient(&self) -> bool {
        !self.heard.borrow().transients.is_empty()
    }

    /// Waits until `enough` returns true.
    pub async fn until(&self, what: &str, enough: impl Fn(&Heard) -> bool) {
        let mut heard = self.heard.clone();
        match timeout(PATIENCE, heard.wait_for(|heard| enough(heard))).await {
            Ok(Ok(_)) => {}
            Ok(Err(_)) => panic!("{} ended before {what}; see its error above", self.name),
            Err(_) => panic!(
                "{} waits for {what} in vain: {}",
                self.name,
                &*self.heard.borrow()
            ),
        }
    }

    /// Ends the client; returns its name and what it received.
    pub async fn end(self) -> (String, watch::Receiver<Heard>) {
        self.stop.cancel();
        let ended = timeout(PATIENCE, self.task.join_all()).await;
        assert!(ended.is_ok(), "{} does not end", self.name);
        (self.name, self.heard)
    }
}
