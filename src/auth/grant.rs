//! What a token grants: scopes, feeds, and until when.

use std::{fmt, num::NonZeroU32, str::FromStr, sync::Arc};

use serde::{Deserialize, Serialize};

use super::{Denied, claims::not_null};
use crate::types::{Actor, EventId, FeedName, Invalid, Kind, ReaderName, check_prefix};

/// Most patterns in one claim of a token.
pub const PATTERNS_MAX: usize = 256;
/// Longest `sub`, in bytes.
pub const SUBJECT_BYTES_MAX: usize = 256;

/// What a token may be used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    Read,
    Append,
    Mark,
    /// Editing and erasing events.
    Change,
    /// Reading the log: all events, with all their feeds.
    Export,
    /// Reading the metrics.
    Metrics,
    /// Everything an operator may do, the metrics included.
    Admin,
}

impl Scope {
    pub const ALL: [Self; 7] = [
        Self::Read,
        Self::Append,
        Self::Mark,
        Self::Change,
        Self::Export,
        Self::Metrics,
        Self::Admin,
    ];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Append => "append",
            Self::Mark => "mark",
            Self::Change => "change",
            Self::Export => "export",
            Self::Metrics => "metrics",
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
        found.ok_or_else(|| {
            format!(
                "{text:?} is not a scope: use read, append, mark, change, export, metrics or admin"
            )
        })
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

/// A set of names or ids, given exactly and as prefixes.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
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

    /// Parses the patterns of `claim`. Actors, readers and kinds have names like feeds.
    pub fn of_claim<T: AsRef<str>>(claim: &str, patterns: &[T]) -> Result<Self, String> {
        Self::parse_with(claim, patterns, |pattern| match pattern.strip_suffix('*') {
            Some(prefix) => check_prefix(prefix),
            None => pattern.parse::<FeedName>().map(drop),
        })
    }

    /// Parses the patterns of a claim that are ids of events.
    pub fn of_ids<T: AsRef<str>>(claim: &str, patterns: &[T]) -> Result<Self, String> {
        Self::parse_with(claim, patterns, |pattern| {
            let id = pattern.strip_suffix('*').unwrap_or(pattern);
            match pattern {
                "*" => Ok(()),
                _ => id.parse::<EventId>().map(drop),
            }
        })
    }

    fn parse_with<T: AsRef<str>>(
        claim: &str,
        patterns: &[T],
        check: impl Fn(&str) -> Result<(), Invalid>,
    ) -> Result<Self, String> {
        if patterns.len() > PATTERNS_MAX {
            return Err(format!(
                "`{claim}` can have at most {PATTERNS_MAX} names and prefixes"
            ));
        }
        let (mut exact, mut prefixes) = (Vec::new(), Vec::new());
        for (index, pattern) in patterns.iter().map(AsRef::as_ref).enumerate() {
            if let Err(invalid) = check(pattern) {
                return Err(format!(
                    "`{claim}[{index}]` is neither a name nor a prefix followed by *: it {invalid}"
                ));
            }
            match pattern.strip_suffix('*') {
                Some(prefix) => prefixes.push(prefix.into()),
                None => exact.push(pattern.into()),
            }
        }
        Ok(Self::new(exact, prefixes))
    }

    /// Exactly these feeds.
    pub fn exactly(feeds: &[FeedName]) -> Self {
        let exact = feeds.iter().map(|feed| feed.as_str().into()).collect();
        Self::new(exact, Vec::new())
    }

    /// The patterns as text, as [`Self::of_claim`] takes them.
    pub fn texts(&self) -> Vec<String> {
        let exact = self.exact.iter().map(|name| name.to_string());
        let prefixes = self.prefixes.iter().map(|prefix| format!("{prefix}*"));
        exact.chain(prefixes).collect()
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

    /// Whether every name is in the set.
    fn holds_all(&self) -> bool {
        self.prefixes
            .first()
            .is_some_and(|prefix| prefix.is_empty())
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
    pub change: Patterns,
    /// The feeds that scope `export` shows of the log: those of `read`, but all if the token does not name any feeds.
    pub export: Option<Patterns>,
}

impl Feeds {
    /// The same feeds for all scopes.
    pub fn same(patterns: Patterns) -> Self {
        Self {
            read: patterns.clone(),
            append: patterns.clone(),
            change: patterns.clone(),
            export: Some(patterns.clone()),
            mark: patterns,
        }
    }

    fn hold(&self, scope: Scope, feed: &FeedName) -> bool {
        self.of(scope).is_some_and(|feeds| feeds.holds(feed))
    }

    /// `None` if the scope is not about feeds.
    fn of(&self, scope: Scope) -> Option<&Patterns> {
        match scope {
            Scope::Read => Some(&self.read),
            Scope::Append => Some(&self.append),
            Scope::Mark => Some(&self.mark),
            Scope::Change => Some(&self.change),
            Scope::Export | Scope::Metrics | Scope::Admin => None,
        }
    }
}

/// What the ids of an actor's events begin with, if the token is restricted to its actors.
fn beginning(actor: &Actor) -> String {
    format!("{actor}/")
}

/// What a token may append per second, at most. `None`: no limit of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct AppendLimits {
    #[serde(
        default,
        deserialize_with = "not_null",
        skip_serializing_if = "Option::is_none"
    )]
    pub events_per_s: Option<NonZeroU32>,
    /// Bytes of keys and values.
    #[serde(
        default,
        deserialize_with = "not_null",
        skip_serializing_if = "Option::is_none"
    )]
    pub bytes_per_s: Option<NonZeroU32>,
}

/// What a token or ticket grants, and when.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    pub subject: Option<Arc<str>>,
    pub scopes: Scopes,
    pub feeds: Feeds,
    /// The actors it may append with; `None`: any.
    pub actors: Option<Patterns>,
    /// The readers it may act as; `None`: its actors if it has `actors`, else its subject.
    pub readers: Option<Patterns>,
    /// The kinds it may append; `None`: any.
    pub kinds: Option<Patterns>,
    /// The ids it may claim; `None`: those of its actors if it has `actors`, else any.
    pub ids: Option<Patterns>,
    pub limits: AppendLimits,
    /// µs since 1970, without leeway.
    pub begins_us: u64,
    /// µs since 1970, without leeway.
    pub expires_us: u64,
}

impl Grant {
    /// Checks that `scope` is granted.
    pub fn allows(&self, scope: Scope) -> Result<(), Denied> {
        self.allows_one_of(&[scope])
    }

    /// Checks that one of `scopes` is granted. A refusal names the first, which should be the one that grants least.
    pub fn allows_one_of(&self, scopes: &[Scope]) -> Result<(), Denied> {
        match scopes {
            [first, ..] if !scopes.iter().any(|scope| self.scopes.holds(*scope)) => {
                Err(Denied::Scope(*first))
            }
            _ => Ok(()),
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

    /// The readers it may act as; `None`: its subject.
    pub fn readers(&self) -> Option<&Patterns> {
        self.readers.as_ref().or(self.actors.as_ref())
    }

    /// Checks that it may act as `reader`. Everybody may act as the feed's own one.
    pub fn reads_as(&self, reader: &ReaderName) -> Result<(), Denied> {
        let Some(name) = reader.name().map(Actor::as_str) else {
            return Ok(());
        };
        let held = match self.readers() {
            Some(readers) => readers.holds_name(name),
            None => self.subject.as_deref() == Some(name),
        };
        match held {
            true => Ok(()),
            false => Err(Denied::Reader(reader.clone())),
        }
    }

    /// Checks that it may append events of `kind`.
    pub fn sends(&self, kind: &Kind) -> Result<(), Denied> {
        let held = |kinds: &Patterns| kinds.holds_name(kind.as_str());
        match self.kinds.as_ref().is_none_or(held) {
            true => Ok(()),
            false => Err(Denied::Kind(kind.clone())),
        }
    }

    /// Checks that it may claim `id` for an event of `actor`, which it must speak for. Not for ids from
    /// [`Self::new_id`], which nobody can have guessed.
    pub fn claims(&self, id: &EventId, actor: Option<&Actor>) -> Result<(), Denied> {
        if let Some(ids) = &self.ids {
            return match ids.holds_name(id.as_str()) {
                true => Ok(()),
                false => Err(Denied::Id(id.clone())),
            };
        }
        match actor {
            Some(actor) if self.actors.is_some() && !id.is_under(&beginning(actor)) => {
                Err(Denied::IdOfActor(id.clone(), actor.clone()))
            }
            _ => Ok(()),
        }
    }

    /// A new id for an event of `actor`: one that [`Self::claims`] accepts when the event is sent again, if such an id is
    /// possible and not too long.
    pub fn new_id(&self, actor: Option<&Actor>) -> EventId {
        match (&self.ids, &self.actors, actor) {
            (Some(ids), ..) => match ids.prefixes.first() {
                Some(prefix) => EventId::generate_under(prefix),
                None => EventId::generate(),
            },
            (None, Some(_), Some(actor)) => EventId::generate_under(&beginning(actor)),
            _ => EventId::generate(),
        }
    }

    /// Whether it grants `scope` for every feed.
    pub fn covers_all(&self, scope: Scope) -> bool {
        self.scopes.holds(scope) && self.feeds.of(scope).is_some_and(Patterns::holds_all)
    }

    /// Checks that `scope` is granted for every feed.
    pub fn covers_every_feed(&self, scope: Scope) -> Result<(), Denied> {
        match self.covers_all(scope) {
            true => Ok(()),
            false => Err(Denied::AllFeeds(scope)),
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
