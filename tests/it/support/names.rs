//! Names as they occur in the payloads of real systems.

/// A name of each kind that needs care somewhere: in paths, in queries, in JSON, in a shell.
pub const NAMES: [&str; 15] = [
    "repo:owner/name",
    "dependabot[bot]",
    "https://example.social/users/anna",
    "at://did:plc:abc/app.bsky.feed.post/3k",
    "#channel",
    "anna+news@example.com",
    "auth0|5f7c",
    "Zoë",
    "日本語",
    "a b",
    "👩\u{200d}💻 & 🚀",
    r#"say "hi" \o/"#,
    "100%25?&=;,<>",
    "...",
    "\u{5d0}\u{5d1} \u{61}\u{200f}b",
];

/// The name as part of a URL, in paths and in queries.
pub fn encoded(name: &str) -> String {
    percent_encoding::utf8_percent_encode(name, percent_encoding::NON_ALPHANUMERIC).to_string()
}
