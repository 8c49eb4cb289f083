//! What is kept, as a list of rules: `feeds=chat:*,kinds=typing,age=1d`.

use std::{str::FromStr, time::Duration};

use clap::Args;

use super::kinds::items;
use crate::{
    lifecycle::retention::{AGE_MIN, ENTRIES_MAX, RULES_MAX, Retention, Rule},
    types::{FeedName, Kind, check_prefix},
};

/// The greatest age.
const DAYS_MAX: u64 = 36_500;

#[derive(Debug, Clone, Args)]
pub struct RetentionArgs {
    /// What to keep of some feeds, as `feeds=PATTERN,kinds=KIND,age=AGE,entries=NUMBER`: entries younger than AGE, and of each
    /// feed only the newest NUMBER. PATTERN is the name of a feed or a beginning followed by `*` (default: all feeds); `kinds`
    /// can be repeated (default: all kinds); AGE is a number with s, m, h or d. The first rule that fits an entry's feed and
    /// kind decides, and what none fits is kept. Can be repeated or separated by `;`; a comma or semicolon in the name of a
    /// kind is written `\,` or `\;`. In the file, each rule can be a `[[retention]]` table. All nodes need the same rules.
    #[arg(long, env = "NEWSFEED_RETENTION", value_name = "RULE")]
    pub retention: Vec<RuleList>,

    /// Age from which events are removed from the log: a number with s, m, h or d [default: they are kept]. Consumers of the
    /// log that are further behind lose events.
    #[arg(long, env = "NEWSFEED_RETENTION_LOG_AGE", value_name = "AGE", value_parser = parse_age)]
    pub retention_log_age: Option<Duration>,
}

impl RetentionArgs {
    /// # Errors
    /// If there are too many rules.
    pub fn retention(&self) -> Result<Retention, String> {
        let lists = self.retention.iter();
        let rules: Vec<Rule> = lists.flat_map(|list| &list.0).cloned().collect();
        if rules.len() > RULES_MAX {
            return Err(format!(
                "--retention: there can be at most {RULES_MAX} rules"
            ));
        }
        Ok(Retention {
            rules: rules.into(),
            log_age: self.retention_log_age,
        })
    }
}

/// One or more rules.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuleList(pub Vec<Rule>);

impl FromStr for RuleList {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let rules = items(text, ';').into_iter().map(parse_rule);
        rules.collect::<Result<_, _>>().map(Self)
    }
}

fn parse_rule(text: &str) -> Result<Rule, String> {
    let mut feeds = None;
    let (mut kinds, mut age, mut entries) = (Vec::new(), None, None);
    for item in items(text, ',') {
        let (name, value) = item
            .split_once('=')
            .ok_or("expected a rule such as feeds=chat:*,age=30d")?;
        let is_repeated = match name {
            "feeds" => feeds.replace(parse_feeds(value)?).is_some(),
            "kinds" => {
                kinds.push(parse_kind(value)?);
                false
            }
            "age" => age.replace(parse_age(value)?).is_some(),
            "entries" => entries.replace(parse_entries(value)?).is_some(),
            _ => {
                return Err(format!(
                    "{name:?} is not known: a rule has feeds, kinds, age and entries"
                ));
            }
        };
        if is_repeated {
            return Err(format!("{name} is there twice in a rule"));
        }
    }
    if age.is_none() && entries.is_none() {
        return Err(format!("the rule {text:?} needs age, entries or both"));
    }
    Ok(Rule {
        feeds: feeds.unwrap_or_else(|| "*".to_owned()),
        kinds,
        age,
        entries,
    })
}

fn parse_feeds(text: &str) -> Result<String, String> {
    let checked = match text.strip_suffix('*') {
        Some(beginning) => check_prefix(beginning),
        None => text.parse::<FeedName>().map(drop),
    };
    match checked {
        Ok(()) => Ok(text.to_owned()),
        Err(invalid) => Err(format!(
            "feeds={text:?} is neither a name nor a beginning followed by *: it {invalid}"
        )),
    }
}

fn parse_kind(text: &str) -> Result<Kind, String> {
    let kind = text.replace("\\,", ",").replace("\\;", ";");
    kind.parse().map_err(|error| format!("the kind {error}"))
}

fn parse_entries(text: &str) -> Result<u64, String> {
    match text.parse() {
        Ok(number @ 1..=ENTRIES_MAX) => Ok(number),
        _ => Err(format!("entries must be a number from 1 to {ENTRIES_MAX}")),
    }
}

fn parse_age(text: &str) -> Result<Duration, String> {
    let expected = || {
        format!(
            "{text:?} is not an age: expected a number with s, m, h or d, from {}s to {DAYS_MAX}d",
            AGE_MIN.as_secs()
        )
    };
    let unit = text.chars().next_back().ok_or_else(expected)?;
    let seconds = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3_600,
        'd' => 86_400,
        _ => return Err(expected()),
    };
    let number: u64 = text[..text.len() - 1].parse().map_err(|_| expected())?;
    let age = number.checked_mul(seconds).map(Duration::from_secs);
    let most = Duration::from_secs(DAYS_MAX * 86_400);
    age.filter(|age| (AGE_MIN..=most).contains(age))
        .ok_or_else(expected)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_are_read_as_they_are_shown() {
        let text = r"feeds=chat:*,kinds=a=b,kinds=x\,y\;z,age=90m;entries=1000;feeds=user:1,age=30d,entries=5";
        let list: RuleList = text.parse().expect("rules");
        let kind = |name: &str| -> Kind { name.parse().expect("a kind") };
        assert_eq!(list.0[0].kinds, [kind("a=b"), kind("x,y;z")]);
        assert_eq!(list.0[0].age, Some(Duration::from_secs(5_400)));
        assert_eq!((&*list.0[1].feeds, list.0[1].entries), ("*", Some(1_000)));
        assert_eq!(list.0[2].feeds, "user:1");
        let shown: Vec<_> = list.0.iter().map(ToString::to_string).collect();
        assert_eq!(shown.join(";").parse(), Ok(list));
    }

    #[test]
    fn what_is_no_rule_is_refused() {
        for (bad, wanted) in [
            ("", "expected a rule"),
            ("30d", "expected a rule"),
            ("feeds=chat:*", "needs age, entries or both"),
            ("feeds=chat:*,kinds=a", "needs age, entries or both"),
            ("age=30d;", "expected a rule"),
            ("age=30", "is not an age"),
            ("age=d", "is not an age"),
            ("age=9s", "from 10s to"),
            ("age=36501d", "is not an age"),
            ("age=99999999999999999999d", "is not an age"),
            ("age=-1d", "is not an age"),
            ("age=1é", "is not an age"),
            ("age=1d,age=2d", "age is there twice"),
            ("feeds=a,feeds=b,age=1d", "feeds is there twice"),
            ("feeds=a\tb,age=1d", "neither a name nor a beginning"),
            ("feeds=,age=1d", "neither a name nor a beginning"),
            ("kinds=a\tb,age=1d", "the kind"),
            ("entries=0", "from 1 to"),
            ("entries=1000001", "from 1 to"),
            ("days=3", "\"days\" is not known"),
        ] {
            let error = bad.parse::<RuleList>().expect_err(bad);
            assert!(error.contains(wanted), "{bad}: {error}");
        }
    }
}
