//! Which answers may pass, so that the same request is worth a retry. Every other answer is final.
//!
//! The JavaScript library has the same table in `web/newsfeed/temporary.js`, and `docs/http.md` documents it. A test
//! compares all three with the codes of the service.

/// Statuses of the service, and of proxies and content delivery networks in front of it that cannot reach it. Not 501,
/// 505 and 507, which do not pass by themselves.
pub const STATUSES: [u16; 16] = [
    408, 425, 429, 500, 502, 503, 504, 520, 521, 522, 523, 524, 529, 530, 598, 599,
];

/// The codes of the service that go with these statuses. A rejected event among others has only a code.
pub const CODES: [&str; 17] = [
    "body_timeout",
    "busy",
    "internal",
    "shutting_down",
    "store_unavailable",
    "tail_behind",
    "too_many_answers",
    "too_many_bodies",
    "too_many_appends",
    "too_many_bytes",
    "too_many_caller_answers",
    "too_many_caller_bodies",
    "too_many_caller_streams",
    "too_many_erasures",
    "too_many_requests",
    "too_many_streams",
    "unhealthy",
];

pub fn status(status: u16) -> bool {
    STATUSES.contains(&status)
}

pub fn code(code: &str) -> bool {
    CODES.contains(&code)
}
