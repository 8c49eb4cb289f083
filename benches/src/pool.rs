//! The connections of a group of clients: each has its own or, with HTTP/2, several clients share one.

use std::{
    io,
    sync::{Arc, Mutex, PoisonError},
};

use bytes::Bytes;
use h2::client::{Builder, SendRequest};
use tokio::task::AbortHandle;

use super::target::{Dialer, Node};

/// HTTP/2 flow-control window of a stream. The window of a connection is the sum over its streams, so that a slow
/// reader does not block the others.
const WINDOW_BYTES: u32 = 128 * 1024;

pub struct Pool {
    pub dialer: Arc<Dialer>,
    window_bytes: u32,
    /// By number; created on demand.
    slots: Mutex<Vec<Arc<Slot>>>,
}

/// A shared connection, opened when first needed and again after it broke.
pub struct Slot {
    pub dialer: Arc<Dialer>,
    pub number: usize,
    clients: u32,
    window_bytes: u32,
    current: tokio::sync::Mutex<Option<Current>>,
}

struct Current {
    sender: SendRequest<Bytes>,
    driver: AbortHandle,
}

impl Pool {
    pub fn new(dialer: Arc<Dialer>) -> Arc<Self> {
        Self::with_window(dialer, WINDOW_BYTES)
    }

    /// `window_bytes` is the HTTP/2 flow-control window of a stream; it has no effect on HTTP/1.1.
    pub fn with_window(dialer: Arc<Dialer>, window_bytes: u32) -> Arc<Self> {
        Arc::new(Self {
            dialer,
            window_bytes,
            slots: Mutex::default(),
        })
    }

    /// The node that client `number` is connected to.
    pub fn node(&self, number: usize) -> &Node {
        let clients = self.dialer.streams_per_connection.unwrap_or(1);
        self.dialer.node(number / clients as usize)
    }

    /// The connection that client `number` shares; `None` if each client has its own.
    pub fn slot(&self, number: usize) -> Option<Arc<Slot>> {
        let clients = self.dialer.streams_per_connection?;
        let number = number / clients as usize;
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        for number in slots.len()..=number {
            slots.push(Arc::new(Slot {
                dialer: Arc::clone(&self.dialer),
                number,
                clients,
                window_bytes: self.window_bytes,
                current: tokio::sync::Mutex::default(),
            }));
        }
        Some(Arc::clone(&slots[number]))
    }

    /// Calls `first`, then drops all shared connections at once. No client can open a new one before that.
    pub async fn drop_all(&self, first: impl FnOnce()) {
        let slots = self
            .slots
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        let mut held = Vec::new();
        for slot in &slots {
            held.push(slot.current.lock().await);
        }
        first();
        for mut current in held {
            if let Some(current) = current.take() {
                current.driver.abort();
            }
        }
    }
}

impl Slot {
    pub fn node(&self) -> &Node {
        self.dialer.node(self.number)
    }

    pub async fn sender(&self) -> io::Result<SendRequest<Bytes>> {
        let mut current = self.current.lock().await;
        if let Some(current) = &*current
            && !current.driver.is_finished()
        {
            return Ok(current.sender.clone());
        }
        let socket = self.dialer.connect(self.number, None).await?;
        let opened = Builder::new()
            .enable_push(false)
            .initial_window_size(self.window_bytes)
            .initial_connection_window_size(self.window_bytes * self.clients)
            .initial_max_send_streams(self.clients as usize)
            .handshake(socket)
            .await;
        let (sender, connection) = opened.map_err(io::Error::other)?;
        let driver = tokio::spawn(async move { drop(connection.await) }).abort_handle();
        *current = Some(Current {
            sender: sender.clone(),
            driver,
        });
        Ok(sender)
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        if let Some(current) = self.current.get_mut() {
            current.driver.abort();
        }
    }
}
