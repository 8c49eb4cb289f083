//! `POST /v1/admin/backup`: a copy of the store, as a sequence of files.
//!
//! The answer begins with a line of JSON: the version of the copy, and its files with their lengths and checksums. The
//! contents of the files follow, one after the other, except of those that the client has. A client that finds less, or other
//! bytes than the checksums say, has no copy.

use std::{
    collections::HashMap,
    io::{self, Read},
    sync::Arc,
    time::Duration,
};

use axum::{
    body::Body,
    extract::{Request, State},
    http::header,
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use futures_util::stream;
use serde::{Deserialize, Serialize};
use tokio::{
    sync::{OwnedSemaphorePermit, mpsc},
    task::spawn_blocking,
    time::{Instant, timeout_at},
};
use tokio_util::sync::CancellationToken;

use super::{
    App,
    body::read_object,
    problem::{Code, Problem, Result},
    query::Params,
};
use crate::{
    error::Error,
    store::{PinnedContent, PinnedFile},
};

/// The files are read in parts of this size. Two are in memory.
const PART_BYTES: usize = 256 * 1024;
/// How long a client may take for a part, and for all of them. The files take disk space until then.
const PART_TIME_MAX: Duration = Duration::from_secs(60);
const TIME_MAX: Duration = Duration::from_hours(12);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct BackupIn {
    /// Checksums of files that the client has, by name.
    #[serde(default)]
    have: HashMap<String, String>,
}

#[derive(Serialize)]
struct Head<'a> {
    version: String,
    files: Vec<FileHead<'a>>,
}

#[derive(Serialize)]
struct FileHead<'a> {
    name: &'a str,
    bytes: u64,
    checksum: String,
    /// Whether the content follows.
    sent: bool,
}

pub async fn backup(State(app): State<Arc<App>>, request: Request) -> Result<Response> {
    let (parts, body) = request.into_parts();
    Params::parse(&parts, &[])?;
    let expected =
        "the body must be an object, optionally with \"have\": checksums by the names of files";
    let BackupIn { have } = read_object(&parts, body, expected).await?;
    let running = Arc::clone(&app.backing_up)
        .try_acquire_owned()
        .map_err(|_| {
            Problem::new(
                Code::BackupRunning,
                "a backup of this service is running; try again when it has ended",
            )
        })?;
    let pinned = app.store.pin().await.map_err(Error::from)?.ok_or_else(|| {
        Problem::new(
            Code::NotSupported,
            "the events of this service are in FoundationDB: use fdbbackup",
        )
    })?;
    let version = pinned.version.to_string();
    let is_sent = |file: &PinnedFile| have.get(&file.name) != Some(&hex(file.checksum));
    let head = Head {
        version: version.clone(),
        files: pinned
            .files
            .iter()
            .map(|file| FileHead {
                name: &file.name,
                bytes: file.bytes,
                checksum: hex(file.checksum),
                sent: is_sent(file),
            })
            .collect(),
    };
    let mut line = serde_json::to_vec(&head).expect("texts and numbers serialize");
    line.push(b'\n');
    tracing::info!(version, files = head.files.len(), "a backup begins");
    let files = pinned.files.into_iter().filter(is_sent).collect();
    let contents = Contents::new(line.into(), files);
    let (parts, taken) = mpsc::channel(1);
    app.tracker
        .spawn(send(contents, parts, app.stopping.clone(), running));
    let taken = stream::unfold(taken, |mut taken| async move {
        let part: io::Result<Bytes> = taken.recv().await?;
        Some((part, taken))
    });
    let headers = [
        (header::CONTENT_TYPE, "application/octet-stream"),
        (header::CACHE_CONTROL, "no-store"),
        // Tells nginx not to buffer the files.
        (header::HeaderName::from_static("x-accel-buffering"), "no"),
    ];
    Ok((headers, Body::from_stream(taken)).into_response())
}

fn hex(checksum: u128) -> String {
    format!("{checksum:032x}")
}

/// Sends all parts. If it ends before, the connection breaks.
async fn send(
    mut contents: Contents,
    parts: mpsc::Sender<io::Result<Bytes>>,
    stopping: CancellationToken,
    _running: OwnedSemaphorePermit,
) {
    let end = Instant::now() + TIME_MAX;
    loop {
        let read = spawn_blocking(move || (contents.next(), contents)).await;
        let Ok((part, rest)) = read else {
            // The answer ends before its last file, which the client notices.
            return tracing::error!("the backup has failed: reading a file panicked");
        };
        contents = rest;
        let (part, failed) = match part {
            Ok(Some(part)) => (Ok(part), None),
            Ok(None) => return tracing::info!("the backup has been sent"),
            Err(error) => (Err(io::Error::other("a file cannot be read")), Some(error)),
        };
        let deadline = end.min(Instant::now() + PART_TIME_MAX);
        let sent = tokio::select! {
            biased;
            () = stopping.cancelled() => Err("the service stops"),
            sent = timeout_at(deadline, parts.send(part)) => match sent {
                Ok(Ok(())) => Ok(()),
                Ok(Err(_)) => Err("the client has gone"),
                Err(_) => Err("the client takes too long"),
            },
        };
        if let Some(error) = failed {
            return tracing::error!(%error, "the backup has failed");
        }
        if let Err(why) = sent {
            let _ = parts.try_send(Err(io::Error::other(why)));
            return tracing::warn!(why, "the backup has been broken off");
        }
    }
}

struct Contents {
    head: Option<Bytes>,
    files: std::vec::IntoIter<PinnedFile>,
    /// What is being read, and the bytes that are left of it.
    file: Option<(std::fs::File, u64)>,
}

impl Contents {
    fn new(head: Bytes, files: Vec<PinnedFile>) -> Self {
        Self {
            head: Some(head),
            files: files.into_iter(),
            file: None,
        }
    }

    /// The next part; `None` after the last one. Blocks on the disk.
    fn next(&mut self) -> io::Result<Option<Bytes>> {
        if let Some(head) = self.head.take() {
            return Ok(Some(head));
        }
        loop {
            if let Some((file, left)) = &mut self.file
                && *left > 0
            {
                let length = (PART_BYTES as u64).min(*left);
                let mut part = vec![0; length as usize];
                file.read_exact(&mut part)?;
                *left -= length;
                return Ok(Some(part.into()));
            }
            let Some(next) = self.files.next() else {
                return Ok(None);
            };
            self.file = match next.content {
                PinnedContent::File(file) => Some((file, next.bytes)),
                PinnedContent::Bytes(bytes) if bytes.is_empty() => None,
                PinnedContent::Bytes(bytes) => return Ok(Some(bytes)),
            };
        }
    }
}
