//! Which events are appended, and to which feeds. All of it follows from an event's number, so that only the versions
//! that the service assigns have to be stored.

use std::{
    collections::HashMap,
    fmt::{self, Write},
};

use newsfeed::client::list::Message;

/// The feeds of a run begin with this and the run's name, so that runs do not share feeds.
const PREFIX: &str = "bench";
/// Separates two feeds in the JSON of an event.
const SEPARATOR: &str = "\",\"";

/// An event's number in the run, from 0.
pub type Number = u32;

#[derive(Debug)]
pub struct Plan {
    /// The unique name of the run.
    run: String,
    kind: String,
    text: String,
    shape: Shape,
}

#[derive(Debug)]
enum Shape {
    /// Each event goes to one feed, chosen uniformly at random, or to the hot feed.
    Spread {
        feeds: u32,
        /// Number of feeds that one stream follows.
        merged: u32,
        hot_share: f64,
    },
    /// Each message goes to the feed of its receiver and to the chat of its two users.
    Day {
        messages: Vec<Message>,
        receivers: Vec<u64>,
        channels: HashMap<u64, usize>,
    },
}

/// What an id belongs to.
#[derive(Debug, PartialEq)]
pub enum Owner {
    Event(Number),
    /// The closing event of a channel.
    Closing,
    /// Not an event of this run.
    Unknown,
}

impl Plan {
    fn new(kind: &str, data_bytes: usize, shape: Shape) -> Self {
        Self {
            run: format!("{:08x}", rand::random::<u32>()),
            kind: kind.to_owned(),
            text: "x".repeat(data_bytes),
            shape,
        }
    }

    /// A plan in which `hot_share` (0 to 1) of all events go to one additional feed, the hot one.
    pub fn spread(
        kind: &str,
        data_bytes: usize,
        feeds: u32,
        merged: u32,
        hot_share: Option<f64>,
    ) -> Self {
        let hot_share = hot_share.unwrap_or_default();
        let shape = Shape::Spread {
            feeds,
            merged,
            hot_share,
        };
        Self::new(kind, data_bytes, shape)
    }

    pub fn day(kind: &str, data_bytes: usize, messages: Vec<Message>) -> Self {
        let (mut receivers, mut channels) = (Vec::new(), HashMap::new());
        for message in &messages {
            channels.entry(message.to).or_insert_with(|| {
                receivers.push(message.to);
                receivers.len() - 1
            });
        }
        let shape = Shape::Day {
            messages,
            receivers,
            channels,
        };
        Self::new(kind, data_bytes, shape)
    }

    pub fn run(&self) -> &str {
        &self.run
    }

    /// The channels: sets of feeds that readers follow as one. Each event belongs to one channel. The hot feed is the
    /// last.
    pub fn channels(&self) -> Vec<Vec<String>> {
        match &self.shape {
            Shape::Spread {
                feeds,
                merged,
                hot_share,
            } => {
                let all: Vec<String> = (0..*feeds).map(|feed| self.feed(feed)).collect();
                let ordinary = all.chunks(*merged as usize).map(<[String]>::to_vec);
                let hot = (*hot_share > 0.0).then(|| vec![self.feed("hot")]);
                ordinary.chain(hot).collect()
            }
            Shape::Day { receivers, .. } => receivers
                .iter()
                .map(|user| vec![self.feed(format_args!("user:{user}"))])
                .collect(),
        }
    }

    pub fn channel_of(&self, number: Number) -> usize {
        match &self.shape {
            Shape::Spread { feeds, merged, .. } => match self.feed_number(number) {
                Some(feed) => (feed / merged) as usize,
                None => feeds.div_ceil(*merged) as usize,
            },
            Shape::Day {
                messages, channels, ..
            } => channels[&message(messages, number).to],
        }
    }

    pub fn feeds_of(&self, number: Number) -> Vec<String> {
        let feeds = fmt::from_fn(|f| self.write_feeds(number, f)).to_string();
        feeds.split(SEPARATOR).map(str::to_owned).collect()
    }

    /// Writes the feeds, separated by [`SEPARATOR`]. Does not allocate, because it runs for every event of the load.
    fn write_feeds(&self, number: Number, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let run = &self.run;
        match &self.shape {
            Shape::Spread { .. } => match self.feed_number(number) {
                Some(feed) => write!(f, "{PREFIX}:{run}:{feed}"),
                None => write!(f, "{PREFIX}:{run}:hot"),
            },
            Shape::Day { messages, .. } => {
                let Message { from, to, .. } = message(messages, number);
                let (low, high) = (from.min(to), from.max(to));
                write!(
                    f,
                    "{PREFIX}:{run}:user:{to}{SEPARATOR}{PREFIX}:{run}:chat:{low}-{high}"
                )
            }
        }
    }

    /// `None` for the hot feed. Its events are evenly spaced; the others are spread at random over their feeds.
    fn feed_number(&self, number: Number) -> Option<u32> {
        let Shape::Spread {
            feeds, hot_share, ..
        } = &self.shape
        else {
            return None;
        };
        let hot_before = |number: u64| (number as f64 * hot_share).floor();
        let number = u64::from(number);
        let hot = hot_before(number + 1) > hot_before(number);
        (!hot).then(|| (mix(number) % u64::from(*feeds)) as u32)
    }

    pub fn feed(&self, name: impl fmt::Display) -> String {
        format!("{PREFIX}:{}:{name}", self.run)
    }

    pub fn id(&self, number: Number) -> String {
        format!("{PREFIX}-{}-{number}", self.run)
    }

    pub fn owner(&self, id: &str) -> Owner {
        let ours = id
            .strip_prefix(PREFIX)
            .and_then(|id| id.strip_prefix('-')?.strip_prefix(&self.run))
            .and_then(|id| id.strip_prefix('-'));
        match ours.map(|rest| (rest.starts_with("end-"), rest.parse())) {
            Some((true, _)) => Owner::Closing,
            Some((false, Ok(number))) => Owner::Event(number),
            _ => Owner::Unknown,
        }
    }

    /// Writes the body of a request that appends the events `numbers`: an array unless there is only one.
    pub fn body(&self, numbers: std::ops::Range<Number>, body: &mut String) {
        let array = numbers.len() > 1;
        body.clear();
        if array {
            body.push('[');
        }
        for number in numbers {
            if body.len() > 1 {
                body.push(',');
            }
            let feeds = fmt::from_fn(|f| self.write_feeds(number, f));
            self.event(body, format_args!("{number}"), feeds);
        }
        if array {
            body.push(']');
        }
    }

    /// The body of a request that appends the closing events of `channels`. A reader that receives its channel's
    /// closing event has received all entries that precede it.
    pub fn closing_body(&self, channels: &[(usize, String)]) -> String {
        let mut body = String::from("[");
        for (channel, feed) in channels {
            if body.len() > 1 {
                body.push(',');
            }
            self.event(&mut body, format_args!("end-{channel}"), feed);
        }
        body + "]"
    }

    fn event(&self, out: &mut String, name: fmt::Arguments<'_>, feeds: impl fmt::Display) {
        let Self {
            run, kind, text, ..
        } = self;
        let written = write!(
            out,
            r#"{{"id":"{PREFIX}-{run}-{name}","kind":"{kind}","feeds":["{feeds}"],"data":{{"text":"{text}"}}}}"#
        );
        written.expect("writing to a String cannot fail");
    }
}

/// The list starts again at its end.
fn message(messages: &[Message], number: Number) -> Message {
    messages[number as usize % messages.len()]
}

/// SplitMix64: maps consecutive numbers to uniformly distributed ones.
pub fn mix(number: u64) -> u64 {
    let mut z = number.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_in_the_feeds_of_its_channel() {
        let messages = vec![
            Message::new(1, 2, 0),
            Message::new(3, 2, 1),
            Message::new(2, 1, 2),
        ];
        for (plan, events) in [
            (Plan::spread("message", 3, 10, 1, None), 1_000),
            (Plan::spread("message", 3, 10, 4, Some(0.25)), 1_000),
            (Plan::day("message", 3, messages), 3),
        ] {
            let channels = plan.channels();
            let mut counts = vec![0; channels.len()];
            for number in 0..events {
                let channel = plan.channel_of(number);
                counts[channel] += 1;
                assert!(channels[channel].contains(&plan.feeds_of(number)[0]));
            }
            assert!(counts.iter().all(|count| *count > 0), "{counts:?}");
            if channels.len() == 4 {
                assert_eq!(counts[3], 250, "the hot feed");
            }
        }
    }

    #[test]
    fn ids_have_their_owners_and_bodies_are_json() {
        let plan = Plan::spread("message", 3, 10, 1, None);
        assert_eq!(plan.owner(&plan.id(17)), Owner::Event(17));
        for unknown in ["", "bench-", "bench-00-17", &format!("{}x", plan.id(17))] {
            assert_eq!(plan.owner(unknown), Owner::Unknown, "{unknown}");
        }
        let mut body = String::new();
        plan.body(5..6, &mut body);
        let one: serde_json::Value = serde_json::from_str(&body).expect("JSON");
        assert_eq!(one["id"], plan.id(5));
        assert_eq!(one["data"]["text"], "xxx");
        plan.body(5..8, &mut body);
        let three: serde_json::Value = serde_json::from_str(&body).expect("JSON");
        assert_eq!(three[2]["id"], plan.id(7));
        let closing = plan.closing_body(&[(3, plan.feed(3))]);
        let closing: serde_json::Value = serde_json::from_str(&closing).expect("JSON");
        let id = closing[0]["id"].as_str().expect("an id");
        assert_eq!(plan.owner(id), Owner::Closing);
    }
}
