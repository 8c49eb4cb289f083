//! What a test stands on: an empty store of one engine, and nodes serving it over real sockets.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use newsfeed::{
    clock::WallTime,
    config::Config,
    server::{Node, Settings},
    store::{Store, embedded::Embedded, keys::Keys},
};
use serde_json::Value;
use tokio::{net::TcpListener, task::JoinHandle};
use tokio_util::sync::CancellationToken;

/// Runs each function, `async fn(&Bed)`, once per engine, as a test of its own.
#[macro_export]
macro_rules! on_every_engine {
    ($($name:ident),+ $(,)?) => {
        mod embedded {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $name() {
                    super::$name(&$crate::bed::Bed::embedded()).await;
                }
            )+
        }

        #[cfg(feature = "fdb")]
        mod fdb {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $name() {
                    super::$name(&$crate::bed::Bed::fdb()).await;
                }
            )+
        }
    };
}

/// An empty store of one engine, with the default settings of a node.
pub struct Bed {
    engine: Engine,
    pub wall: WallTime,
}

enum Engine {
    Embedded {
        folder: tempfile::TempDir,
        /// The engine lets one handle in at a time: all nodes of the bed share it.
        store: Mutex<Option<Arc<dyn Store>>>,
    },
    /// A key space of its own in the test run's cluster. Every node has its own handle.
    #[cfg(feature = "fdb")]
    Fdb { prefix: String },
}

impl Bed {
    pub fn embedded() -> Self {
        Self::embedded_at(WallTime::system(0))
    }

    /// On a wall clock of the test's own.
    pub fn embedded_at(wall: WallTime) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        Self {
            engine: Engine::Embedded {
                folder,
                store: Mutex::new(None),
            },
            wall,
        }
    }

    #[cfg(feature = "fdb")]
    pub fn fdb() -> Self {
        Self {
            engine: Engine::Fdb {
                prefix: crate::fdb_cluster::fresh_prefix(),
            },
            wall: WallTime::system(0),
        }
    }

    fn prefix(&self) -> &[u8] {
        match &self.engine {
            Engine::Embedded { .. } => b"",
            #[cfg(feature = "fdb")]
            Engine::Fdb { prefix } => prefix.as_bytes(),
        }
    }

    pub fn store(&self) -> Arc<dyn Store> {
        match &self.engine {
            Engine::Embedded { folder, store } => {
                let mut store = store.lock().unwrap_or_else(PoisonError::into_inner);
                let open = || {
                    let store = Embedded::open(folder.path(), self.wall.clone());
                    Arc::new(store.expect("the store opens"))
                };
                Arc::clone(store.get_or_insert_with(|| open()))
            }
            #[cfg(feature = "fdb")]
            Engine::Fdb { prefix } => crate::fdb_cluster::shared().store(prefix),
        }
    }

    /// Closes the store; [`Bed::store`] opens it again.
    pub async fn close(&self) {
        match &self.engine {
            Engine::Embedded { store, .. } => {
                let store = store.lock().unwrap_or_else(PoisonError::into_inner).take();
                if let Some(store) = store {
                    store.close().await;
                }
            }
            #[cfg(feature = "fdb")]
            Engine::Fdb { .. } => {}
        }
    }

    pub async fn keys(&self) -> Keys {
        Keys::open(&*self.store(), self.prefix(), 16)
            .await
            .expect("the key space opens")
    }

    /// A node on a free loopback port.
    pub async fn node(&self) -> Served {
        let settings = Settings {
            deliveries: default_deliveries(),
            wall: self.wall.clone(),
        };
        let node = Node::start(self.store(), self.keys().await, settings).expect("the node starts");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        let shutdown = CancellationToken::new();
        let task = tokio::spawn(node.serve(listener, shutdown.clone()));
        Served {
            address,
            shutdown,
            task,
            http: http_client(),
        }
    }
}

fn default_deliveries() -> newsfeed::http::Deliveries {
    use clap::{Args, FromArgMatches};
    let command = Config::augment_args(clap::Command::new("serve"));
    let matches = command.get_matches_from(["serve"]);
    Config::from_arg_matches(&matches)
        .expect("the defaults are valid")
        .deliveries()
}

pub fn http_client() -> reqwest::Client {
    reqwest::Client::builder()
        .timeout(Duration::from_secs(100))
        .build()
        .expect("a client")
}

/// A node being served.
pub struct Served {
    pub address: SocketAddr,
    shutdown: CancellationToken,
    task: JoinHandle<()>,
    pub http: reqwest::Client,
}

impl Served {
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// Stops the node gracefully and waits for it. The bed's store is closed with it.
    pub async fn stop(self) {
        self.shutdown.cancel();
        self.task.await.expect("the node stops without a panic");
    }

    /// GET, expecting 200 and JSON.
    pub async fn get(&self, path: &str) -> Value {
        let response = self
            .http
            .get(self.url(path))
            .send()
            .await
            .expect("an answer");
        assert_eq!(response.status(), 200, "{path}");
        response.json().await.expect("JSON")
    }

    /// POST of JSON: the status and the JSON answer.
    pub async fn post(&self, path: &str, body: &Value) -> (u16, Value) {
        let response = self
            .http
            .post(self.url(path))
            .json(body)
            .send()
            .await
            .expect("an answer");
        (
            response.status().as_u16(),
            response.json().await.expect("JSON"),
        )
    }

    /// Appends an event or an array, expecting success.
    pub async fn append(&self, events: &Value) -> Value {
        let (status, answer) = self.post("/v1/events", events).await;
        assert_eq!(status, 200, "{answer}");
        answer
    }

    /// The current version of a feed.
    pub async fn version(&self, feed: &str) -> String {
        text(&self.get(&format!("/v1/feeds/{feed}")).await["version"])
    }

    /// All entries of a feed, oldest first, by paging.
    pub async fn all(&self, feed: &str) -> Vec<Value> {
        let mut entries = Vec::new();
        let mut after = "0".to_owned();
        loop {
            let page = self
                .get(&format!("/v1/feeds/{feed}/entries?after={after}&limit=200"))
                .await;
            entries.extend(page["entries"].as_array().expect("entries").iter().cloned());
            match page["next"].as_str() {
                Some(next) => after = next.to_owned(),
                None => return entries,
            }
        }
    }
}

pub fn text(value: &Value) -> String {
    value.as_str().expect("a string").to_owned()
}
