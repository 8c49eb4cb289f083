//! What a live stream sends, until the token of its reader expires.

use std::pin::Pin;

use tokio::time::{Sleep, sleep_until};

use super::access::Granted;
use crate::live::{Bye, Follower, Update};

pub struct Updates {
    pub(super) follower: Follower,
    /// Boxed, because most streams of a service without keys have none.
    token_ends: Option<Pin<Box<Sleep>>>,
}

impl Updates {
    pub fn new(follower: Follower, granted: &Granted) -> Self {
        Self {
            follower,
            token_ends: granted.ends().map(|ends| Box::pin(sleep_until(ends))),
        }
    }

    /// Waits for the next update. `None` at the end.
    pub async fn next(&mut self) -> Option<Update> {
        let Some(ends) = &mut self.token_ends else {
            return self.follower.next().await;
        };
        tokio::select! {
            // In this order, so that a stream that always has something to send also ends when its token expires.
            biased;
            () = &mut *ends => match self.follower.take_unsent() {
                // Nothing may come between the two parts of a frame. The next call is the end.
                Some(rest) => Some(Update::Unsent(rest)),
                None => {
                    self.token_ends = None;
                    Some(self.follower.end(Bye::TokenExpired))
                }
            },
            update = self.follower.next() => update,
        }
    }
}
