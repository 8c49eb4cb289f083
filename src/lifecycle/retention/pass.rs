//! Which versions are due in a pass.

use std::time::Duration;

use super::{Retention, TWINS_TICKS_MAX};
use crate::{
    lineage::Lineage,
    store::{Result, Snapshot, keys::Keys, rows::Sweep},
    times::version_at,
    version::Version,
};

/// The version of a time is known a little differently later, when more is known of the time around it. A pass begins so much
/// before the end of the one before.
const OVERLAP: Duration = Duration::from_secs(60);

/// Versions in `(after, until]` are due, if their age is all that counts; the pass before has removed what is below.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Span {
    pub(super) after: Version,
    pub(super) until: Version,
}

/// Nothing is due.
const NOTHING: Span = Span {
    after: Version::ZERO,
    until: Version::ZERO,
};

/// The bounds of a pass.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pass {
    /// What the row said when these were read.
    of: (u64, u64),
    /// Everything above may still get twins.
    pub(super) floor: Version,
    /// The same, of the pass before.
    pub(super) last_floor: Version,
    /// Of each rule; empty if the rule has no age.
    pub(super) ages: Vec<Span>,
    /// Of the log.
    pub(super) log: Span,
}

impl Pass {
    pub(super) async fn read(
        snapshot: &dyn Snapshot,
        keys: &Keys,
        lineage: &Lineage,
        retention: &Retention,
        row: &Sweep,
    ) -> Result<Self> {
        let known = lineage.at(snapshot).await?;
        let floor = floor(row.began_at);
        let at = async |micros: u64, age: Duration| {
            let then = micros.saturating_sub(age.as_micros() as u64);
            version_at(snapshot, keys, &known, then).await
        };
        let span = async |age: Option<Duration>| {
            let Some(age) = age else {
                return Ok(NOTHING);
            };
            let after = match row.done {
                0 => Version::ZERO,
                done => at(done, age.saturating_add(OVERLAP)).await?,
            };
            let until = at(row.began, age).await?.min(floor);
            Result::Ok(Span { after, until })
        };
        let mut ages = Vec::with_capacity(retention.rules.len());
        for rule in &*retention.rules {
            ages.push(span(rule.age).await?);
        }
        Ok(Self {
            of: (row.done, row.began),
            floor,
            last_floor: floor_of_done(row),
            ages,
            log: span(retention.log_age).await?,
        })
    }

    pub(super) fn is_of(&self, row: &Sweep) -> bool {
        self.of == (row.done, row.began)
    }

    /// The greatest version that a rule may remove, if it does not count entries.
    pub(super) fn until_of(&self, rules: &[usize]) -> Version {
        let until = rules.iter().map(|&rule| self.ages[rule].until);
        until.max().unwrap_or(Version::ZERO)
    }
}

fn floor_of_done(row: &Sweep) -> Version {
    match row.done {
        0 => Version::ZERO,
        _ => floor(row.done_at),
    }
}

/// Nothing at or below can get a twin after `moment`.
pub(super) fn floor(moment: Version) -> Version {
    let time = moment.time().saturating_sub(TWINS_TICKS_MAX);
    Version::moment(moment.epoch(), time)
}
