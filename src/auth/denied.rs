use super::{Scope, token::TOKEN_BYTES_MAX};
use crate::types::{Actor, EventId, FeedName, Kind, ReaderName};

/// Why credentials were rejected. Each message says what to do about it; none repeats a token.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    #[error(
        "this needs a token: send it as `Authorization: Bearer …`, or log in with POST /v1/session"
    )]
    Missing,
    #[error("this is not a valid token: {0}")]
    Malformed(&'static str),
    #[error("{0}")]
    Algorithm(&'static str),
    #[error("this service has no key with the token's `kid`: get a new token from its issuer")]
    KeyUnknown,
    #[error(
        "the token's signature does not match any key of this service: get a token from its issuer"
    )]
    Signature,
    #[error("the token has expired: get a new one")]
    Expired,
    #[error(
        "the token is not valid yet: wait, or check the clocks of its issuer and of this service"
    )]
    NotYetValid,
    #[error("the token's `aud` must include {0:?}")]
    Audience(String),
    #[error("the token's `iss` must be {0:?}")]
    Issuer(String),
    #[error("the token's claims are invalid: {0}")]
    Claims(String),
    #[error("the ticket has expired: get a new one from POST /v1/tickets")]
    TicketExpired,
    #[error("this is not a valid ticket ({0}): get one from POST /v1/tickets")]
    TicketInvalid(&'static str),
    #[error("this needs a token whose `scope` includes `{0}`")]
    Scope(Scope),
    #[error("the token's `feeds` do not cover the feed {:?}", .0.as_str())]
    Feed(FeedName),
    #[error("this needs a token whose `feeds` cover all feeds (`*`) for scope `{0}`")]
    AllFeeds(Scope),
    #[error("the token's `actors` {}", .0.as_ref().map_or_else(|| "require the event to have an actor, one of them".to_owned(), |actor| format!("do not include the event's actor {:?}", actor.as_str())))]
    Actor(Option<Actor>),
    #[error("the token may not act as the reader {:?}: its `readers` must include it (without `readers`, its `actors` count; without both, its `sub`)", .0.as_str())]
    Reader(ReaderName),
    #[error("the token's `kinds` do not include the event's kind {:?}", .0.as_str())]
    Kind(Kind),
    #[error("the token's `ids` do not include the event's id {:?}: use an id that they include, or send none and the service makes one", .0.as_str())]
    Id(EventId),
    #[error("with this token, the id of an event begins with its actor and a slash ({:?}), which {:?} does not: change the id, or send none and the service makes one", format!("{}/", .1), .0.as_str())]
    IdOfActor(EventId, Actor),
}

impl Denied {
    pub(super) const TOO_LONG: Self = Self::Malformed(
        const {
            assert!(TOKEN_BYTES_MAX == 8 * 1024);
            "it is longer than 8 KiB"
        },
    );

    /// Whether another key might have verified the token.
    pub(super) fn is_of_key(&self) -> bool {
        matches!(
            self,
            Self::KeyUnknown | Self::Signature | Self::Algorithm(_)
        )
    }
}
