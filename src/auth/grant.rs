//! What a token grants: scopes, feeds, and until when.

use std::{fmt, str::FromStr, sync::Arc};

use super::Denied;
use crate::types::{Actor, FeedName, check_prefix};

/// Most feed patterns in a token.
pub const PATTERNS_MAX: usize = 256;
/// Longest `sub`, in bytes.
pub const SUBJECT_BYTES_MAX: usize = 256;

/// What a token may be used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    Read,
    Append,
    Mark,
    Admin,
}

impl Scope {
    pub const ALL: [Self; 4] = [Self::Read, Self::Append, Self::Mark, Self::Admin];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Append => "append",
            Self::Mark => "mark",
            Self::Admin => "admin",
        }
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Scope {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|scope| scope.name() == text);
        found.ok_or_else(|| format!("{text:?} is not a scope: use read, append, mark or admin"))
    }
}

/// A set of scopes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Scopes(u8);

impl Scopes {
    /// Parses a `scope` claim. Unknown scopes are ignored: an issuer may use others for other services.
    pub fn parse(text: &str) -> Self {
        text.split(' ')
            .filter_map(|name| name.parse().ok())
            .collect()
    }

    pub fn holds(self, scope: Scope) -> bool {
        self.0 & 1 << scope as u8 != 0
    }
}

impl FromIterator<Scope> for Scopes {
    fn from_iter<T: IntoIterator<Item = Scope>>(scopes: T) -> Self {
        let bits = scopes.into_iter().map(|scope| 1 << scope as u8);
        Self(bits.fold(0, |all, bit| all | bit))
    }
}

/// A set of feeds, as exact names and prefixes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Patterns {
    /// Sorted.
    exact: Vec<Box<str>>,
    /// Sorted, and none is a prefix of another: so only the greatest one at or below a name can be its prefix.
    prefixes: Vec<Box<str>>,
}

impl Patterns {
    /// Each pattern is a feed's name, or a prefix followed by `*`.
    pub fn parse<T: AsRef<str>>(patterns: &[T]) -> Result<Self, String> {
        Self::of_claim("feeds", patterns)
    }

    /// Parses the patterns of `claim`. Actors have names like feeds.
    pub fn of_claim<T: AsRef<str>>(claim: &str, patterns: &[T]) -> Result<Self, String> {
        if patterns.len() > PATTERNS_MAX {
            return Err(format!(
                "`{claim}` can have at most {PATTERNS_MAX} names and prefixes"
            ));
        }
        let (mut exact, mut prefixes) = (Vec::new(), Vec::new());
        for (index, pattern) in patterns.iter().map(AsRef::as_ref).enumerate() {
            let (list, text, valid) = match pattern.strip_suffix('*') {
                Some(prefix) => (&mut prefixes, prefix, check_prefix(prefix)),
                None => (&mut exact, pattern, pattern.parse::<FeedName>().map(drop)),
            };
            if let Err(invalid) = valid {
                return Err(format!(
                    "`{claim}[{index}]` is neither a name nor a prefix followed by *: it {invalid}"
                ));
            }
            list.push(text.into());
        }
        Ok(Self::new(exact, prefixes))
    }

    /// Exactly these feeds.
    pub fn exactly(feeds: &[FeedName]) -> Self {
        let exact = feeds.iter().map(|feed| feed.as_str().into()).collect();
        Self::new(exact, Vec::new())
    }

    fn new(mut exact: Vec<Box<str>>, mut prefixes: Vec<Box<str>>) -> Self {
        exact.sort_unstable();
        prefixes.sort_unstable();
        // A prefix sorts right before the prefixes that begin with it.
        prefixes.dedup_by(|next, kept| next.starts_with(&**kept));
        Self { exact, prefixes }
    }

    pub fn holds(&self, feed: &FeedName) -> bool {
        self.holds_name(feed.as_str())
    }

    fn holds_name(&self, name: &str) -> bool {
        let after = self.prefixes.partition_point(|prefix| &**prefix <= name);
        let below = self.prefixes[..after].last();
        below.is_some_and(|prefix| name.starts_with(&**prefix))
            || self
                .exact
                .binary_search_by(|exact| (**exact).cmp(name))
                .is_ok()
    }
}

/// The feeds granted for each scope.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Feeds {
    pub read: Patterns,
    pub append: Patterns,
    pub mark: Patterns,
}

impl Feeds {
    /// The same feeds for all scopes.
    pub fn same(patterns: Patterns) -> Self {
        Self {
            read: patterns.clone(),
            append: patterns.clone(),
            mark: patterns,
        }
    }

    fn hold(&self, scope: Scope, feed: &FeedName) -> bool {
        match scope {
            Scope::Read => self.read.holds(feed),
            Scope::Append => self.append.holds(feed),
            Scope::Mark => self.mark.holds(feed),
            // Scope `admin` is not about feeds.
            Scope::Admin => false,
        }
    }
}

/// What a token or ticket grants, and when.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    pub subject: Option<Arc<str>>,
    pub scopes: Scopes,
    pub feeds: Feeds,
    /// The actors it may append with; `None`: any.
    pub actors: Option<Patterns>,
    /// µs since 1970, without leeway.
    pub begins_us: u64,
    /// µs since 1970, without leeway.
    pub expires_us: u64,
}

impl Grant {
    /// Checks that `scope` is granted.
    pub fn allows(&self, scope: Scope) -> Result<(), Denied> {
        match self.scopes.holds(scope) {
            true => Ok(()),
            false => Err(Denied::Scope(scope)),
        }
    }

    /// Checks that it may append with `actor`.
    pub fn speaks_for(&self, actor: Option<&Actor>) -> Result<(), Denied> {
        let held = |actors: &Patterns| actor.is_some_and(|actor| actors.holds_name(actor.as_str()));
        match self.actors.as_ref().is_none_or(held) {
            true => Ok(()),
            false => Err(Denied::Actor(actor.cloned())),
        }
    }

    /// Checks that `scope` is granted for all of `feeds`.
    pub fn covers<'a>(
        &self,
        scope: Scope,
        feeds: impl IntoIterator<Item = &'a FeedName>,
    ) -> Result<(), Denied> {
        match feeds.into_iter().find(|feed| !self.feeds.hold(scope, feed)) {
            None => Ok(()),
            Some(feed) => Err(Denied::Feed(feed.clone())),
        }
    }
}
