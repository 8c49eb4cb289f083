//! Feed patterns, compared with a simple model.

use newsfeed::{
    auth::{PATTERNS_MAX, Patterns},
    types::FeedName,
};
use proptest::prelude::*;

use crate::support::names::NAMES;

/// Names of few letters, so that they share prefixes.
fn name() -> impl Strategy<Value = String> {
    "[ab:.]{1,5}".prop_filter("a name", |name| name.parse::<FeedName>().is_ok())
}

fn pattern() -> impl Strategy<Value = String> {
    prop_oneof![name(), "[ab:.]{0,4}".prop_map(|start| format!("{start}*"))]
}

fn model(patterns: &[String], name: &str) -> bool {
    patterns
        .iter()
        .any(|pattern| match pattern.strip_suffix('*') {
            Some(start) => name.starts_with(start),
            None => name == pattern,
        })
}

proptest! {
    #[test]
    fn a_set_of_patterns_matches_what_any_of_them_matches(
        patterns in proptest::collection::vec(pattern(), 0..12),
        names in proptest::collection::vec(name(), 1..20),
    ) {
        let parsed = Patterns::parse(&patterns).expect("patterns");
        for name in names {
            let feed: FeedName = name.parse().expect("a name");
            prop_assert_eq!(parsed.holds(&feed), model(&patterns, &name), "{:?} {}", patterns, name);
        }
    }

    #[test]
    fn invalid_patterns_are_refused(text in ".{0,6}") {
        // A prefix is what a name can begin with.
        let valid = match text.strip_suffix('*') {
            Some(prefix) => prefix.is_empty() || format!("{prefix}a").parse::<FeedName>().is_ok(),
            None => text.parse::<FeedName>().is_ok(),
        };
        prop_assert_eq!(Patterns::parse(&[text]).is_ok(), valid);
    }
}

#[test]
fn patterns_hold_names_of_real_systems() {
    let holds = |pattern: &str, name: &str| {
        let patterns = Patterns::parse(&[pattern]).expect("a pattern");
        patterns.holds(&name.parse().expect("a name"))
    };
    for name in NAMES {
        assert!(holds(name, name) && holds("*", name), "{name}");
        assert!(!holds(name, &format!("{name}x")));
        for (end, _) in name.char_indices() {
            assert!(holds(&format!("{}*", &name[..end]), name), "{name} {end}");
        }
    }
    assert!(!holds("repo:owner/*", "repo:owner"));
    let error = Patterns::parse(&["user:42", "repo:*/name"]).expect_err("not a pattern");
    assert!(
        error.contains("`feeds[1]`") && error.contains("must not contain `*`"),
        "{error}"
    );
    let error = Patterns::parse(&["Zoe\u{308}*"]).expect_err("not normalized");
    assert!(error.contains("NFC"), "{error}");
}

#[test]
fn patterns_have_limits() {
    let feed: FeedName = "x".repeat(255).parse().expect("a name");
    for pattern in [
        "*".to_owned(),
        "x".repeat(255),
        format!("{}*", "x".repeat(255)),
        "x*".to_owned(),
    ] {
        assert!(Patterns::parse(&[pattern]).expect("a pattern").holds(&feed));
    }
    assert!(Patterns::parse(&[format!("{}*", "x".repeat(256))]).is_err());
    assert!(Patterns::parse(&vec!["a"; PATTERNS_MAX]).is_ok());
    assert!(Patterns::parse(&vec!["a"; PATTERNS_MAX + 1]).is_err());
}
