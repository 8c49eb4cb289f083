//! Errors as `application/problem+json`: the only place that maps them to a status and a code.

use std::time::Duration;

use axum::{
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde_json::{Map, Value, json};

use crate::{
    append::QUEUE_KIB_MAX,
    auth::Denied,
    error::Error,
    lifecycle::{CHANGES_AT_ONCE_MAX, JOBS_OPEN_MAX},
    live::STREAMS_MAX,
    store,
    types::Invalid,
    version::Version,
};

macro_rules! codes {
    ($($variant:ident $name:literal $status:ident,)+) => {
        /// The stable, machine-readable `code` of a problem.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Code { $($variant,)+ }

        impl Code {
            pub const ALL: &[Self] = &[$(Self::$variant,)+];

            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)+ }
            }

            pub const fn status(self) -> StatusCode {
                match self { $(Self::$variant => StatusCode::$status,)+ }
            }
        }
    };
}

codes! {
    InvalidRequest "invalid_request" BAD_REQUEST,
    InvalidJson "invalid_json" BAD_REQUEST,
    InvalidBody "invalid_body" BAD_REQUEST,
    InvalidEvent "invalid_event" BAD_REQUEST,
    KindTransient "kind_transient" BAD_REQUEST,
    KindNotTransient "kind_not_transient" BAD_REQUEST,
    InvalidFeed "invalid_feed" BAD_REQUEST,
    InvalidReader "invalid_reader" BAD_REQUEST,
    InvalidId "invalid_id" BAD_REQUEST,
    InvalidVersion "invalid_version" BAD_REQUEST,
    InvalidQuery "invalid_query" BAD_REQUEST,
    InvalidFilter "invalid_filter" BAD_REQUEST,
    VersionAhead "version_ahead" BAD_REQUEST,
    InvalidTime "invalid_time" BAD_REQUEST,
    TimeAhead "time_ahead" BAD_REQUEST,
    TokenTooLong "token_too_long" BAD_REQUEST,
    CredentialsMissing "credentials_missing" UNAUTHORIZED,
    TokenMalformed "token_malformed" UNAUTHORIZED,
    TokenAlgorithm "token_algorithm" UNAUTHORIZED,
    TokenKeyUnknown "token_key_unknown" UNAUTHORIZED,
    TokenSignature "token_signature" UNAUTHORIZED,
    TokenExpired "token_expired" UNAUTHORIZED,
    TokenNotYetValid "token_not_yet_valid" UNAUTHORIZED,
    TokenAudience "token_audience" UNAUTHORIZED,
    TokenIssuer "token_issuer" UNAUTHORIZED,
    TokenClaims "token_claims" UNAUTHORIZED,
    TicketExpired "ticket_expired" UNAUTHORIZED,
    TicketInvalid "ticket_invalid" UNAUTHORIZED,
    ScopeMissing "scope_missing" FORBIDDEN,
    FeedForbidden "feed_forbidden" FORBIDDEN,
    ActorForbidden "actor_forbidden" FORBIDDEN,
    ReaderForbidden "reader_forbidden" FORBIDDEN,
    KindForbidden "kind_forbidden" FORBIDDEN,
    IdForbidden "id_forbidden" FORBIDDEN,
    CrossSite "cross_site" FORBIDDEN,
    NotFound "not_found" NOT_FOUND,
    EventNotFound "event_not_found" NOT_FOUND,
    ErasureNotFound "erasure_not_found" NOT_FOUND,
    MethodNotAllowed "method_not_allowed" METHOD_NOT_ALLOWED,
    BodyTimeout "body_timeout" REQUEST_TIMEOUT,
    IdReused "id_reused" CONFLICT,
    VersionConflict "version_conflict" CONFLICT,
    RevisionConflict "revision_conflict" CONFLICT,
    EventErased "event_erased" GONE,
    EntryNotFound "entry_not_found" NOT_FOUND,
    NotNotify "not_notify" CONFLICT,
    OwnEntry "own_entry" CONFLICT,
    BackupRunning "backup_running" CONFLICT,
    CursorUnknown "cursor_unknown" GONE,
    CursorExpired "cursor_expired" GONE,
    HostNotAllowed "host_not_allowed" MISDIRECTED_REQUEST,
    BodyTooLarge "body_too_large" PAYLOAD_TOO_LARGE,
    TooManyEvents "too_many_events" PAYLOAD_TOO_LARGE,
    UnsupportedMediaType "unsupported_media_type" UNSUPPORTED_MEDIA_TYPE,
    TooManyRequests "too_many_requests" TOO_MANY_REQUESTS,
    TooManyBytes "too_many_bytes" TOO_MANY_REQUESTS,
    TooManyCallerStreams "too_many_caller_streams" TOO_MANY_REQUESTS,
    TooManyCallerAnswers "too_many_caller_answers" TOO_MANY_REQUESTS,
    TooManyCallerBodies "too_many_caller_bodies" TOO_MANY_REQUESTS,
    TooManyAppends "too_many_appends" TOO_MANY_REQUESTS,
    Internal "internal" INTERNAL_SERVER_ERROR,
    NotSupported "not_supported" NOT_IMPLEMENTED,
    Busy "busy" SERVICE_UNAVAILABLE,
    TooManyStreams "too_many_streams" SERVICE_UNAVAILABLE,
    TooManyErasures "too_many_erasures" SERVICE_UNAVAILABLE,
    TooManyAnswers "too_many_answers" SERVICE_UNAVAILABLE,
    TooManyBodies "too_many_bodies" SERVICE_UNAVAILABLE,
    ShuttingDown "shutting_down" SERVICE_UNAVAILABLE,
    StoreUnavailable "store_unavailable" SERVICE_UNAVAILABLE,
    Unhealthy "unhealthy" SERVICE_UNAVAILABLE,
    TailBehind "tail_behind" SERVICE_UNAVAILABLE,
    StorageFull "storage_full" INSUFFICIENT_STORAGE,
}

/// An error as it is reported to the client. Internal causes go to the log only.
#[derive(Debug, Clone)]
pub struct Problem {
    pub code: Code,
    detail: String,
    extensions: Map<String, Value>,
    /// Becomes `Retry-After`.
    wait: Duration,
}

/// Longest `detail`. What a client sent may be part of it, however long that was.
pub const DETAIL_BYTES_MAX: usize = 1024;
/// The end of a detail that is kept: most say there what is expected, and where in the body the error is.
const DETAIL_END_BYTES: usize = 384;

/// `Retry-After`, unless a problem sets another.
const WAIT: Duration = Duration::from_secs(1);

pub type Result<T> = std::result::Result<T, Problem>;

impl Problem {
    pub fn new(code: Code, detail: impl Into<String>) -> Self {
        Self {
            code,
            detail: shortened(detail.into()),
            extensions: Map::new(),
            wait: WAIT,
        }
    }

    /// Sets `Retry-After`, which 429 and 503 have.
    pub fn retry_after(mut self, wait: Duration) -> Self {
        self.wait = wait;
        self
    }

    pub fn wait(&self) -> Duration {
        self.wait
    }

    pub fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.extensions.insert(name.to_owned(), value.into());
        self
    }

    /// An event has an invalid field.
    pub fn invalid_event(field: impl Into<String>, invalid: &Invalid) -> Self {
        let field = field.into();
        Self::new(Code::InvalidEvent, format!("{field} {invalid}")).with("field", field)
    }

    pub fn invalid_feed(invalid: &Invalid) -> Self {
        Self::new(Code::InvalidFeed, format!("the feed's name {invalid}"))
    }

    pub fn invalid_reader(invalid: &Invalid) -> Self {
        Self::new(Code::InvalidReader, format!("the reader's name {invalid}"))
    }

    /// The id by which an event is asked for.
    pub fn invalid_id(invalid: &Invalid) -> Self {
        Self::new(Code::InvalidId, format!("the event's id {invalid}"))
    }

    /// `why` becomes the beginning of the detail.
    pub fn because(mut self, why: &str) -> Self {
        self.detail = format!("{why}: {}", self.detail);
        self
    }

    /// The problem of one event among several: code, detail and extensions, without the HTTP part.
    pub fn to_error(&self) -> Value {
        let mut error = json!({ "code": self.code.name(), "detail": self.detail });
        if let Value::Object(fields) = &mut error {
            let extensions = self.extensions.iter().filter(|(name, _)| *name != "id");
            fields.extend(extensions.map(|(name, value)| (name.clone(), value.clone())));
        }
        error
    }
}

/// Leaves out the middle of a detail that is too long.
fn shortened(mut detail: String) -> String {
    const CUT: &str = "…";
    if detail.len() > DETAIL_BYTES_MAX {
        let end = detail.ceil_char_boundary(detail.len() - DETAIL_END_BYTES);
        let begin = detail.floor_char_boundary(DETAIL_BYTES_MAX - DETAIL_END_BYTES - CUT.len());
        detail.replace_range(begin..end, CUT);
        detail.shrink_to_fit();
    }
    detail
}

impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        let text = |version: Option<Version>| {
            version.map_or(Value::Null, |version| version.to_string().into())
        };
        match &error {
            Error::IdReused { id, version } => {
                let problem = Self::new(
                    Code::IdReused,
                    "this id was already used for an event with other content; a new event needs a new id",
                )
                .with("id", id.as_str());
                match version {
                    Some(version) => problem.with("version", version.to_string()),
                    None => problem,
                }
            }
            Error::VersionConflict { id, feed, current } => {
                let problem = Self::new(
                    Code::VersionConflict,
                    "the feed has entries after the expected version; read them, then expect `current`",
                )
                .with("feed", feed.as_str())
                .with("current", text(*current));
                match id {
                    Some(id) => problem.with("id", id.as_str()),
                    None => problem,
                }
            }
            Error::VersionAhead { current, .. } => Self::new(
                Code::VersionAhead,
                "this version has not been reached here; get the feed's current version and continue from it",
            )
            .with("version", current.to_string()),
            Error::CursorUnknown { current, .. } => Self::new(
                Code::CursorUnknown,
                "this version is not of this store, which was restored or replaced since; forget what was read before, get the \
                 feed's current version and read again from there",
            )
            .with("version", current.to_string()),
            Error::CursorExpired { oldest, current, .. } => Self::new(
                Code::CursorExpired,
                "something after this version has been removed meanwhile, because the service keeps it for a limited time: \
                 forget what was read before, and read again from the feed's current version, or after `oldest`. To read \
                 what is kept from the beginning, begin with after=0 and pass kept=true with the next pages",
            )
            .with("oldest", oldest.to_string())
            .with("version", current.to_string()),
            Error::Denied(denied) => denied.clone().into(),
            Error::EventNotFound(_) => Self::new(
                Code::EventNotFound,
                "no event has this id, or you may read none of its feeds",
            ),
            Error::EntryNotFound(_) => Self::new(
                Code::EntryNotFound,
                "the feed has no entry at this version (any more): take the `version` of an entry of this feed",
            ),
            Error::NotNotify(kind) => Self::new(
                Code::NotNotify,
                "entries of this kind do not count as unread, so they cannot be marked: only kinds with the delivery `notify` \
                 have a state",
            )
            .with("kind", kind.as_str()),
            Error::OwnEntry => Self::new(
                Code::OwnEntry,
                "the reader wrote this entry, which is therefore never unread: it can be archived only",
            ),
            Error::EventErased(id) => Self::new(
                Code::EventErased,
                "this event was erased; its id cannot be used again",
            )
            .with("id", id.as_str()),
            Error::RevisionConflict { id, current } => Self::new(
                Code::RevisionConflict,
                "the event was changed after the expected revision; get it, then expect `current`",
            )
            .with("id", id.as_str())
            .with("current", current.to_string()),
            Error::FanoutTooLarge(bytes) => Self::invalid_event("data", &Invalid::DataFanout(*bytes)),
            Error::ChangesBusy => Self::new(
                Code::Busy,
                format!(
                    "this node works on {CHANGES_AT_ONCE_MAX} changes, as many as it does at once; send the same request \
                     again after Retry-After, or to another node"
                ),
            ),
            Error::TooManyErasures => Self::new(
                Code::TooManyErasures,
                format!("{JOBS_OPEN_MAX} erasures are under way, as many as allowed; try again once one of them has ended"),
            ),
            Error::TwinsMayCome => Self::new(Code::Internal, "an erasure has not ended yet"),
            Error::Busy => Self::new(
                Code::Busy,
                format!("the append queue ({} MiB) is full; send the same events again after Retry-After", QUEUE_KIB_MAX / 1024),
            ),
            Error::Late => Self::new(
                Code::Busy,
                "appends are waiting too long on this node; send the same events again after Retry-After, or to another node",
            ),
            Error::ReadsBusy => Self::new(
                Code::Busy,
                "too many reads are waiting on this node; try again after Retry-After, or use another node",
            ),
            Error::TooManyStreams => Self::new(
                Code::TooManyStreams,
                format!("this node has {STREAMS_MAX} streams and long polls open, as many as allowed; try again, or use another node"),
            ),
            Error::ShuttingDown | Error::Store(store::Error::Closed) => {
                Self::new(Code::ShuttingDown, "this node is shutting down; send the same request again, or to another node")
            }
            Error::Store(
                store::Error::Corrupt { .. } | store::Error::Damaged(_) | store::Error::Open(_),
            ) => {
                tracing::error!(%error, "the store has data that this program cannot read");
                Self::new(Code::Internal, "the service could not read its store; its log says more")
            }
            Error::Store(store::Error::Full) => Self::new(
                Code::StorageFull,
                "the service's disk is full, so this was not stored; reading still works. Send it again, with the same \
                 id, once the operator has freed space",
            ),
            Error::Store(_) => {
                tracing::warn!(%error, "the store did not answer");
                Self::new(
                    Code::StoreUnavailable,
                    "the store did not answer in time. Try again: whether the events of this request were appended is \
                     unknown, so send them with the same ids",
                )
            }
        }
    }
}

impl From<Denied> for Problem {
    fn from(denied: Denied) -> Self {
        let code = match denied {
            Denied::Missing => Code::CredentialsMissing,
            Denied::Malformed(_) => Code::TokenMalformed,
            Denied::Algorithm(_) => Code::TokenAlgorithm,
            Denied::KeyUnknown => Code::TokenKeyUnknown,
            Denied::Signature => Code::TokenSignature,
            Denied::Expired => Code::TokenExpired,
            Denied::NotYetValid => Code::TokenNotYetValid,
            Denied::Audience(_) => Code::TokenAudience,
            Denied::Issuer(_) => Code::TokenIssuer,
            Denied::Claims(_) => Code::TokenClaims,
            Denied::TicketExpired => Code::TicketExpired,
            Denied::TicketInvalid(_) => Code::TicketInvalid,
            Denied::Scope(_) => Code::ScopeMissing,
            Denied::Feed(_) | Denied::AllFeeds(_) => Code::FeedForbidden,
            Denied::Actor(_) => Code::ActorForbidden,
            Denied::Reader(_) => Code::ReaderForbidden,
            Denied::Kind(_) => Code::KindForbidden,
            Denied::Id(_) | Denied::IdOfActor(..) => Code::IdForbidden,
        };
        let problem = Self::new(code, denied.to_string());
        match denied {
            Denied::Scope(scope) => problem.with("scope", scope.name()),
            Denied::Feed(feed) => problem.with("feed", feed.as_str()),
            Denied::Actor(Some(actor)) => problem.with("actor", actor.as_str()),
            Denied::Reader(reader) => problem.with("reader", reader.as_str()),
            Denied::Kind(kind) => problem.with("kind", kind.as_str()),
            Denied::Id(id) | Denied::IdOfActor(id, _) => problem.with("id", id.as_str()),
            _ => problem,
        }
    }
}

impl Problem {
    /// The `WWW-Authenticate` header of RFC 6750. It names no error if the request had no credentials.
    fn challenge(&self) -> Option<String> {
        let error = match self.code {
            Code::CredentialsMissing => return Some("Bearer realm=\"newsfeed\"".to_owned()),
            Code::ScopeMissing => "insufficient_scope",
            code if code.status() == StatusCode::UNAUTHORIZED => "invalid_token",
            _ => return None,
        };
        let scope = self.extensions.get("scope").and_then(Value::as_str);
        let scope = scope.map_or_else(String::new, |scope| format!(", scope=\"{scope}\""));
        let code = self.code.name();
        Some(format!(
            "Bearer realm=\"newsfeed\", error=\"{error}\", error_description=\"{code}\"{scope}"
        ))
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = self.code.status();
        let challenge = self.challenge();
        let mut body = json!({
            "type": "about:blank",
            "title": status.canonical_reason().unwrap_or_default(),
            "status": status.as_u16(),
            "code": self.code.name(),
            "detail": self.detail,
        });
        if let Value::Object(fields) = &mut body {
            fields.extend(self.extensions);
        }
        let mut response = (status, body.to_string()).into_response();
        // For the metrics.
        response.extensions_mut().insert(self.code);
        let headers = response.headers_mut();
        headers.insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/problem+json"),
        );
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if let Some(challenge) = challenge.and_then(|text| text.try_into().ok()) {
            headers.insert(header::WWW_AUTHENTICATE, challenge);
        }
        if matches!(
            status,
            StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS
        ) {
            let seconds = self.wait.as_millis().div_ceil(1000).max(1);
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds as u64));
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_details_keep_their_beginning_and_their_end() {
        for part in ["x", "…", "\u{1F600}"] {
            let name = part.repeat(1_000_000);
            let long = shortened(format!("unknown field `{name}` at line 1"));
            assert!((DETAIL_BYTES_MAX - 8..=DETAIL_BYTES_MAX).contains(&long.len()));
            assert!(long.capacity() < 2 * DETAIL_BYTES_MAX);
            assert!(long.starts_with(&format!("unknown field `{part}")));
            assert!(long.ends_with(&format!("{part}` at line 1")));
        }
        let fits = "x".repeat(DETAIL_BYTES_MAX);
        assert_eq!(shortened(fits.clone()), fits);
    }

    #[test]
    fn the_codes_of_errors_are_those_of_problems() {
        let (id, feed) = ("a", "a");
        for error in [
            Error::IdReused {
                id: id.parse().expect("an id"),
                version: None,
            },
            Error::VersionConflict {
                id: id.parse().ok(),
                feed: feed.parse().expect("a name"),
                current: None,
            },
            Error::VersionAhead {
                asked: Version::ZERO,
                current: Version::ZERO,
            },
            Error::CursorUnknown {
                asked: Version::ZERO,
                current: Version::ZERO,
            },
            Error::Busy,
            Error::Late,
            Error::ReadsBusy,
            Error::TooManyStreams,
            Error::ShuttingDown,
            Error::Store(store::Error::Closed),
            Error::Store(store::Error::Open(String::new())),
            Error::Store(store::Error::Damaged(String::new())),
            Error::Store(store::Error::Full),
            Error::Store(store::Error::Unknown),
        ] {
            assert_eq!(error.code(), Problem::from(error).code.name());
        }
    }
}
