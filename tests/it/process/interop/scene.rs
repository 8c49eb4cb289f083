//! A service that keeps its address, a writer, and readers of one kind of client.

use rand::RngExt;
use rustix::process::Signal;
use serde_json::json;
use tempfile::TempDir;
use tokio::sync::watch;

use super::{
    FEED,
    clients::{Client, Reader},
    cutter::Cutter,
    heard::Heard,
    writer::Writer,
};
use crate::{
    process::{Place, Process, assert_same, crash_clients::Life, place},
    support::certs::{Authority, Folder},
};

/// Events before the first reader: several pages.
const HISTORY: usize = 40;
/// How many events the writer may be ahead of the slowest reader, so that it is always writing when something happens.
const AHEAD: usize = 40;

pub struct Scene {
    folder: TempDir,
    /// For TLS.
    certificate: Option<Folder>,
    address: String,
    /// `None` while it is stopped.
    service: Option<Process>,
    cutter: Option<Cutter>,
    lives: watch::Sender<Life>,
    writer: Writer,
    pub readers: Vec<Reader>,
}

impl Scene {
    pub async fn set(over_tls: bool) -> Self {
        let certificate = over_tls.then(|| Folder::with(&Authority::new().issue()));
        let folder = tempfile::tempdir().expect("a temporary folder");
        // A random loopback address, so that no other process takes the port while the service is down.
        let [a, b, c] = rand::rng().random::<[u8; 3]>();
        let any_port = format!("127.{}.{b}.{c}:0", a | 1);
        let service = start(&any_port, &folder, certificate.as_ref()).await;
        let url = service.api.url("");
        let (_, address) = url.split_once("://").expect("a URL");
        let address = address.to_owned();
        let (lives, life) = watch::channel(Life {
            number: 0,
            api: service.api.clone(),
        });
        let writer = Writer::start(life);
        writer.allow(HISTORY);
        writer.wrote(HISTORY).await;
        Self {
            folder,
            certificate,
            address,
            service: Some(service),
            cutter: None,
            lives,
            writer,
            readers: Vec::new(),
        }
    }

    pub async fn set_behind_a_cutter(over_tls: bool, spare_heads: bool) -> Self {
        let mut scene = Self::set(over_tls).await;
        scene.cutter = Some(Cutter::start(&scene.address, spare_heads).await);
        scene
    }

    pub fn cut(&self, cutting: bool) {
        self.cutter.as_ref().expect("a cutter").cut(cutting);
    }

    /// Starts `client` over each of its protocols.
    pub async fn read(&mut self, client: Client) {
        let address = match &self.cutter {
            Some(cutter) => cutter.address(),
            None => self.address.clone(),
        };
        let scheme = self.certificate.as_ref().map_or("http", |_| "https");
        let base = format!("{scheme}://{address}");
        let protocols = client.protocols().iter();
        self.readers = protocols
            .map(|protocol| client.read(&base, *protocol))
            .collect();
        for reader in &self.readers {
            reader
                .until("the history", |heard| heard.version.is_some())
                .await;
        }
    }

    /// Waits until each reader has `entries` more, with the writer always ahead.
    pub async fn heard_further(&self, entries: usize) {
        let slowest = self
            .readers
            .iter()
            .map(Reader::entries)
            .min()
            .expect("readers");
        for entries in (slowest..=slowest + entries).step_by(10) {
            self.writer.allow(entries + AHEAD);
            for reader in &self.readers {
                reader
                    .until("entries", |heard| heard.entries.len() >= entries)
                    .await;
            }
        }
    }

    pub async fn kill_and_start(&mut self) {
        let service = self.service.take().expect("a service");
        service.kill().await;
        self.start().await;
    }

    pub async fn stop_and_start(&mut self) {
        let service = self.service.take().expect("a service");
        service.signal(Signal::TERM);
        for reader in self.readers.iter().filter(|reader| reader.hears_bye) {
            reader.until("bye", |heard| heard.byes == 1).await;
        }
        assert_eq!(service.exited().await.code(), Some(0));
        self.start().await;
    }

    async fn start(&mut self) {
        let service = start(&self.address, &self.folder, self.certificate.as_ref()).await;
        self.lives.send_modify(|life| {
            life.number += 1;
            life.api = service.api.clone();
        });
        self.service = Some(service);
    }

    /// Ends the writer, and the readers once they have everything. Checks that they received each event once, in order and
    /// unchanged.
    pub async fn end(self) {
        let acknowledged = self.writer.end().await;
        let wanted: Vec<Place> = acknowledged
            .iter()
            .map(|event| (event.version.clone(), event.id.clone()))
            .collect();
        let last = &acknowledged.last().expect("events").version;
        for reader in self.readers {
            // The writer's last request marked everything as read, which is sent after the last entry.
            let marked = |heard: &Heard| heard.state["markers"]["read"] == **last;
            reader.until("the last mark", marked).await;
            reader
                .until("a transient", |heard| !heard.transients.is_empty())
                .await;
            let (name, heard) = reader.end().await;
            let heard = heard.borrow();
            assert_eq!(heard.state["unread"]["total"], 0, "{name}");
            let got: Vec<Place> = heard.entries.iter().map(place).collect();
            assert_same(&got, &wanted, &name);
            for (entry, event) in heard.entries.iter().zip(&acknowledged) {
                assert_eq!(
                    (&entry["kind"], &entry["data"]),
                    (&json!(event.kind), &event.data),
                    "{name}"
                );
            }
            for transient in &heard.transients {
                assert_eq!(
                    (&transient["kind"], &transient["feed"]),
                    (&json!("typing"), &json!(FEED)),
                    "{name}"
                );
            }
            println!("{name}: {} entries, {} streams", got.len(), heard.opened);
        }
        self.service.expect("a service").stop().await;
    }
}

async fn start(address: &str, data: &TempDir, certificate: Option<&Folder>) -> Process {
    let files = certificate.map(|folder| [folder.cert(), folder.key()]);
    let files = files
        .iter()
        .flatten()
        .map(|file| file.to_str().expect("a UTF-8 path"));
    let args: Vec<&str> = ["--tls-cert", "--tls-key"]
        .into_iter()
        .zip(files)
        .flat_map(|(flag, file)| [flag, file])
        .collect();
    Process::start_on(address, data.path(), &args).await
}
