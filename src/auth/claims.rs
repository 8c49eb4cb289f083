//! Parses and checks the claims of a token (RFC 7519, RFC 9068).

use std::collections::HashMap;

use serde::{Deserialize, Deserializer, de::IgnoredAny};

use super::{
    Denied,
    grant::{AppendLimits, Feeds, Grant, Patterns, SUBJECT_BYTES_MAX, Scopes},
};

/// Later times (after the year 5138) are treated as this one.
const SECONDS_MAX: f64 = 1e11;

/// What the claims of a token must satisfy.
#[derive(Debug, Clone, Default)]
pub struct Rules {
    pub audience: Option<String>,
    pub issuer: Option<String>,
    /// Accepted clock difference, in µs.
    pub leeway_us: u64,
}

impl Rules {
    /// Checks that a grant is valid at this time.
    pub fn in_time(&self, grant: &Grant, now_us: u64) -> Result<(), Denied> {
        if now_us >= grant.expires_us.saturating_add(self.leeway_us) {
            return Err(Denied::Expired);
        }
        if now_us.saturating_add(self.leeway_us) < grant.begins_us {
            return Err(Denied::NotYetValid);
        }
        Ok(())
    }
}

/// The claims that this service reads.
const READ: [&str; 13] = [
    "exp", "nbf", "iat", "aud", "iss", "sub", "scope", "feeds", "actors", "readers", "kinds",
    "ids", "limits",
];

/// Which claims are null.
#[derive(Deserialize)]
#[serde(transparent)]
pub struct Nulls(HashMap<String, Option<IgnoredAny>>);

impl Nulls {
    /// Refuses null for a claim that this service reads: whoever wrote `"actors": null` did not mean "anybody", as a
    /// token without that claim does.
    pub fn refuse(&self) -> Result<(), Denied> {
        let null = |name: &&str| matches!(self.0.get(*name), Some(None));
        match READ.iter().find(|name| null(name)) {
            None => Ok(()),
            Some(name) => Err(Denied::Claims(format!("`{name}` must not be null"))),
        }
    }
}

#[derive(Deserialize)]
pub struct Claims {
    exp: Option<f64>,
    nbf: Option<f64>,
    iat: Option<f64>,
    aud: Option<Audience>,
    iss: Option<String>,
    sub: Option<String>,
    scope: Option<String>,
    feeds: Option<FeedsClaim>,
    actors: Option<Vec<String>>,
    readers: Option<Vec<String>>,
    kinds: Option<Vec<String>>,
    ids: Option<Vec<String>>,
    limits: Option<AppendLimits>,
}

/// A part of a claim that restricts the token. `null` is an error, because it could be meant as "none" or as "any".
pub(super) fn not_null<'de, T: Deserialize<'de>, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<T>, D::Error> {
    T::deserialize(deserializer).map(Some)
}

#[derive(Deserialize)]
#[serde(untagged)]
enum FeedsClaim {
    Same(Vec<String>),
    ByScope(ByScope),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ByScope {
    #[serde(default)]
    read: Vec<String>,
    #[serde(default)]
    append: Vec<String>,
    #[serde(default)]
    mark: Vec<String>,
    #[serde(default)]
    change: Vec<String>,
}

impl FeedsClaim {
    fn feeds(&self) -> Result<Feeds, String> {
        match self {
            Self::Same(feeds) => Patterns::parse(feeds).map(Feeds::same),
            Self::ByScope(by) => Ok(Feeds {
                export: Some(Patterns::of_claim("feeds.read", &by.read)?),
                read: Patterns::of_claim("feeds.read", &by.read)?,
                append: Patterns::of_claim("feeds.append", &by.append)?,
                mark: Patterns::of_claim("feeds.mark", &by.mark)?,
                change: Patterns::of_claim("feeds.change", &by.change)?,
            }),
        }
    }
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Audience {
    One(String),
    Several(Vec<String>),
}

impl Audience {
    fn holds(&self, name: &str) -> bool {
        match self {
            Self::One(one) => one == name,
            Self::Several(several) => several.iter().any(|one| one == name),
        }
    }
}

impl Claims {
    /// The grant of these claims, if they satisfy `rules`. The time is not checked.
    pub fn grant(self, rules: &Rules) -> Result<Grant, Denied> {
        let wrong = |what: &str| Denied::Claims(what.to_owned());
        let exp = self.exp.ok_or_else(|| wrong("`exp` is missing"))?;
        let begins_us = [("`nbf`", self.nbf), ("`iat`", self.iat)]
            .into_iter()
            .filter_map(|(name, seconds)| Some(micros(name, seconds?)))
            .try_fold(0, |latest, next| next.map(|next| latest.max(next)))?;
        if let Some(audience) = &rules.audience
            && !self.aud.is_some_and(|aud| aud.holds(audience))
        {
            return Err(Denied::Audience(audience.clone()));
        }
        if let Some(issuer) = &rules.issuer
            && self.iss.as_ref() != Some(issuer)
        {
            return Err(Denied::Issuer(issuer.clone()));
        }
        if self
            .sub
            .as_ref()
            .is_some_and(|sub| sub.is_empty() || sub.len() > SUBJECT_BYTES_MAX)
        {
            return Err(Denied::Claims(format!(
                "`sub` must have 1 to {SUBJECT_BYTES_MAX} bytes"
            )));
        }
        Ok(Grant {
            subject: self.sub.map(Into::into),
            scopes: Scopes::parse(&self.scope.unwrap_or_default()),
            feeds: self
                .feeds
                .map_or_else(|| Ok(Feeds::default()), |feeds| feeds.feeds())
                .map_err(Denied::Claims)?,
            actors: self
                .actors
                .map(|actors| Patterns::of_claim("actors", &actors))
                .transpose()
                .map_err(Denied::Claims)?,
            readers: self
                .readers
                .map(|readers| Patterns::of_claim("readers", &readers))
                .transpose()
                .map_err(Denied::Claims)?,
            kinds: self
                .kinds
                .map(|kinds| Patterns::of_claim("kinds", &kinds))
                .transpose()
                .map_err(Denied::Claims)?,
            ids: self
                .ids
                .map(|ids| Patterns::of_ids("ids", &ids))
                .transpose()
                .map_err(Denied::Claims)?,
            limits: self.limits.unwrap_or_default(),
            begins_us,
            expires_us: micros("`exp`", exp)?,
        })
    }
}

fn micros(name: &str, seconds: f64) -> Result<u64, Denied> {
    if !(0.0..).contains(&seconds) {
        return Err(Denied::Claims(format!("{name} must be seconds since 1970")));
    }
    Ok((seconds.min(SECONDS_MAX) * 1e6) as u64)
}
