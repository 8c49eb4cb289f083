use super::{Scope, token::TOKEN_BYTES_MAX};
use crate::types::{Actor, FeedName};

/// Why credentials do not open what was asked for; each message says what to do about it. None repeats a token.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    #[error(
        "this needs a token: send it as `Authorization: Bearer …`, or log in with POST /v1/session"
    )]
    Missing,
    #[error("this is no token that can be read: {0}")]
    Malformed(&'static str),
    #[error("{0}")]
    Algorithm(&'static str),
    #[error(
        "no key here has the token's `kid`: get a new token, signed with a key that this service knows"
    )]
    KeyUnknown,
    #[error("the signature is not one of the keys this service knows: get a token from its issuer")]
    Signature,
    #[error("the token has expired: get a new one")]
    Expired,
    #[error(
        "the token is not valid yet: wait, and check the clocks of its issuer and of this service"
    )]
    NotYetValid,
    #[error("the token is for somebody else: its `aud` must hold {0:?}")]
    Audience(String),
    #[error("the token is from somebody else: its `iss` must be {0:?}")]
    Issuer(String),
    #[error("the token's claims are not as they must be: {0}")]
    Claims(String),
    #[error(
        "the ticket was to be used within seconds, and that time is over: get a new one from POST /v1/tickets"
    )]
    TicketExpired,
    #[error("this is no ticket of this service ({0}): get one from POST /v1/tickets")]
    TicketInvalid(&'static str),
    #[error("the token's `scope` must hold {0:?} for this")]
    Scope(Scope),
    #[error("the token's `feeds` do not hold the feed {:?}", .0.as_str())]
    Feed(FeedName),
    #[error("the token's `actors` do not hold the event's `actor`{}: name one that they hold", .0.as_ref().map_or_else(|| ", of which it has none".to_owned(), |actor| format!(" {:?}", actor.as_str())))]
    Actor(Option<Actor>),
}

impl Denied {
    pub(super) const TOO_LONG: Self = Self::Malformed(
        const {
            assert!(TOKEN_BYTES_MAX == 8 * 1024);
            "it may have 8 KiB"
        },
    );
}
