//! Tickets: short-lived grants to begin live streams of certain feeds, for clients that cannot send headers. They are signed
//! with a key that all nodes share, so that every node accepts them.

use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header};
use serde::{Deserialize, Serialize};

use super::{
    Denied, Grant,
    grant::{AppendLimits, Feeds, Patterns, Scope, Scopes},
    jws::Jws,
    secret::Secret,
    token::Ring,
};
use crate::types::FeedName;

/// Longest ticket, in bytes: one for 100 feeds with the longest names and a few readers, if these need no escapes in JSON.
/// It and the names of the feeds then fit into a URL.
pub const TICKET_BYTES_MAX: usize = 36 * 1024;

/// The `typ` of a ticket. It and its key ensure that a ticket is never accepted as a token, nor a token as a ticket.
const TYPE: &str = "newsfeed-ticket+jwt";

#[derive(Serialize, Deserialize)]
struct Claims {
    #[serde(skip_serializing_if = "Option::is_none")]
    sub: Option<String>,
    feeds: Vec<String>,
    /// Absent if the only one is `sub`.
    #[serde(skip_serializing_if = "Option::is_none")]
    readers: Option<Vec<String>>,
    /// When the ticket expires, in µs since 1970. Streams must begin before that.
    begin_us: u64,
    /// When the token it was issued for expires, in µs since 1970. The streams end then.
    end_us: u64,
}

/// An issued ticket.
pub struct Ticket {
    pub text: String,
    /// µs since 1970.
    pub expires_us: u64,
}

impl Ring {
    /// Issues a ticket for reading `feeds`, which `grant` must cover, as the readers of `grant`. It expires at `begin_us`.
    pub fn issue_ticket(&self, grant: &Grant, feeds: &[FeedName], begin_us: u64) -> Ticket {
        let key = &self.tickets[0];
        let claims = Claims {
            sub: grant.subject.as_deref().map(str::to_owned),
            feeds: feeds.iter().map(|feed| feed.as_str().to_owned()).collect(),
            readers: grant.readers().map(Patterns::texts),
            begin_us,
            end_us: grant.expires_us,
        };
        let mut header = Header::new(Algorithm::HS256);
        header.typ = Some(TYPE.to_owned());
        let text = jsonwebtoken::encode(&header, &claims, &EncodingKey::from_secret(key.bytes()));
        Ticket {
            text: text.expect("HMAC accepts any key"),
            expires_us: begin_us,
        }
    }

    pub fn verify_ticket(&self, ticket: &str, now_us: u64) -> Result<Grant, Denied> {
        if ticket.len() > TICKET_BYTES_MAX {
            return Err(Denied::TicketInvalid("too long"));
        }
        let jws = Jws::parse(ticket).map_err(|_| Denied::TicketInvalid("it is malformed"))?;
        if jws.header.typ.as_deref() != Some(TYPE) {
            return Err(Denied::TicketInvalid(
                "it is something else, perhaps a token",
            ));
        }
        let signed = |key: &Secret| {
            jws.is_signed_by(&DecodingKey::from_secret(key.bytes()), Algorithm::HS256)
        };
        if jws.algorithm() != Ok(Algorithm::HS256) || !self.tickets.iter().any(signed) {
            return Err(Denied::TicketInvalid("its signature does not match"));
        }
        let invalid = || Denied::TicketInvalid("its content is invalid");
        let claims: Claims = jws.claims().map_err(|_| invalid())?;
        if now_us >= claims.begin_us {
            return Err(Denied::TicketExpired);
        }
        let exact = claims
            .feeds
            .iter()
            .map(|feed| feed.parse())
            .collect::<Result<Vec<_>, _>>();
        let feeds = exact.map_err(|_| invalid())?;
        let readers = claims
            .readers
            .map(|readers| Patterns::of_claim("readers", &readers))
            .transpose()
            .map_err(|_| invalid())?;
        Ok(Grant {
            actors: None,
            readers,
            kinds: None,
            ids: None,
            subject: claims.sub.map(Into::into),
            scopes: Scopes::from_iter([Scope::Read]),
            feeds: Feeds {
                read: Patterns::exactly(&feeds),
                ..Feeds::default()
            },
            limits: AppendLimits::default(),
            begins_us: 0,
            expires_us: claims.end_us,
        })
    }
}
