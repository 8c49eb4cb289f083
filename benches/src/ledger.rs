//! What every reader must have received: exactly the acknowledged events of its feeds, once each, in version order.
//!
//! Readers of the same feeds must receive the same entries, so they share one log. The first reader to reach a position
//! writes the entry, the others compare theirs with it. A delivery therefore costs one comparison, and memory grows with
//! the number of events, not of deliveries. A reader that differs from the log continues with a list of its own. At the
//! end, each list is compared with what was acknowledged.

use std::{
    collections::HashMap,
    fmt,
    sync::{Mutex, PoisonError},
};

use super::plan::{Number, Plan};

/// The text of a version, which has a fixed length in the API.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version([u8; 26]);

impl Version {
    pub fn parse(text: &str) -> Option<Self> {
        text.as_bytes().try_into().ok().map(Self)
    }

    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or_default()
    }
}

/// An event and its version.
pub type Entry = (Version, Number);

/// The acknowledged events of each channel, in version order.
pub struct Acknowledged(Vec<Vec<Entry>>);

impl Acknowledged {
    pub fn new(plan: &Plan, channels: usize, mut entries: Vec<Entry>) -> Self {
        entries.sort_unstable();
        let mut of_channels = vec![Vec::new(); channels];
        for entry in entries {
            of_channels[plan.channel_of(entry.1)].push(entry);
        }
        Self(of_channels)
    }

    pub fn of(&self, channel: usize) -> &[Entry] {
        &self.0[channel]
    }
}

/// A set of feeds that readers follow as one.
#[derive(Debug)]
pub struct Channel {
    pub index: usize,
    pub feeds: Vec<String>,
    log: Mutex<Vec<Entry>>,
}

/// What a reader has received.
#[derive(Debug, Default)]
pub struct Place {
    /// It received this many entries from the beginning of its channel's log.
    length: usize,
    /// All that it received, once that differs from the log.
    own: Option<Vec<Entry>>,
    /// Ids that this run did not append.
    pub strangers: Vec<String>,
    /// It has received the channel's closing event: nothing follows.
    pub closed: bool,
}

impl Channel {
    pub fn new(index: usize, feeds: Vec<String>) -> Self {
        Self {
            index,
            feeds,
            log: Mutex::default(),
        }
    }

    /// For messages: the name of the first feed, and the number of further ones.
    pub fn name(&self) -> String {
        match &self.feeds[..] {
            [feed] => feed.clone(),
            feeds => format!("{} and {} more", feeds[0], feeds.len() - 1),
        }
    }

    /// Path and beginning of the query of a request for these feeds; `what` is `live` or `entries`.
    pub fn path(&self, what: &str) -> String {
        match &self.feeds[..] {
            [feed] => format!("/v1/feeds/{feed}/{what}?"),
            feeds => format!("/v1/{what}?feed={}&", feeds.join("&feed=")),
        }
    }

    /// Records that a reader received `entry`.
    pub fn take(&self, place: &mut Place, entry: Entry) {
        if let Some(own) = &mut place.own {
            own.push(entry);
            return;
        }
        let mut log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        match log.get(place.length) {
            None => log.push(entry),
            Some(logged) if *logged == entry => {}
            Some(_) => {
                let mut own = log[..place.length].to_vec();
                own.push(entry);
                place.own = Some(own);
            }
        }
        place.length += 1;
    }

    /// Compares what the readers received with what was acknowledged. Readers that received the same share their faults.
    pub fn audit(
        &self,
        places: &[&Place],
        acknowledged: &Acknowledged,
        plan: &Plan,
        faults: &mut Faults,
    ) {
        let log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        let mut at_length: HashMap<usize, usize> = HashMap::new();
        let mut check = |entries: &[Entry], readers: usize| {
            let wanted = acknowledged.of(self.index);
            for (wrong, number) in differences(entries, wanted, |n| plan.channel_of(n), self.index)
            {
                faults.add(Fault {
                    wrong,
                    feed: self.name(),
                    id: plan.id(number),
                    readers,
                });
            }
        };
        for place in places {
            match &place.own {
                Some(own) => check(own, 1),
                None => *at_length.entry(place.length).or_default() += 1,
            }
        }
        for (length, readers) in at_length {
            check(&log[..length], readers);
        }
        for id in places.iter().flat_map(|place| &place.strangers) {
            faults.add(Fault {
                wrong: Wrong::Unexpected,
                feed: self.name(),
                id: id.clone(),
                readers: 1,
            });
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wrong {
    Lost,
    Doubled,
    Disordered,
    /// It belongs to other feeds, or was not appended by this run.
    Unexpected,
    /// Its version differs from the one in the response to its append.
    OtherVersion,
}

/// The faults in `got`. An event whose append got no response may be present or not.
fn differences(
    got: &[Entry],
    wanted: &[Entry],
    channel_of: impl Fn(Number) -> usize,
    channel: usize,
) -> Vec<(Wrong, Number)> {
    if got == wanted {
        return Vec::new();
    }
    let told: HashMap<Number, Version> = wanted.iter().map(|(v, number)| (*number, *v)).collect();
    let mut seen: HashMap<Number, Version> = HashMap::new();
    let mut greatest = None;
    let mut wrong = Vec::new();
    for &(version, number) in got {
        if seen.insert(number, version).is_some() {
            wrong.push((Wrong::Doubled, number));
            continue;
        }
        match told.get(&number) {
            Some(told) if *told != version => wrong.push((Wrong::OtherVersion, number)),
            None if channel_of(number) != channel => wrong.push((Wrong::Unexpected, number)),
            _ => {}
        }
        if greatest >= Some(version) {
            wrong.push((Wrong::Disordered, number));
        }
        greatest = greatest.max(Some(version));
    }
    let lost = wanted
        .iter()
        .filter(|(_, number)| !seen.contains_key(number));
    wrong.extend(lost.map(|(_, number)| (Wrong::Lost, *number)));
    wrong
}

/// An entry that was not delivered correctly to some readers of a feed.
#[derive(Debug)]
pub struct Fault {
    pub wrong: Wrong,
    pub feed: String,
    pub id: String,
    pub readers: usize,
}

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Lost => "lost",
            Self::Doubled => "doubled",
            Self::Disordered => "disordered",
            Self::Unexpected => "unexpected",
            Self::OtherVersion => "version differs from the acknowledged one",
        })
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            wrong,
            feed,
            id,
            readers,
        } = self;
        write!(f, "{id} in {feed}: {wrong} ({readers} readers)")
    }
}

/// Keeps the first [`FAULTS_KEPT`] faults and counts all.
#[derive(Debug, Default)]
pub struct Faults {
    pub first: Vec<Fault>,
    pub count: u64,
}

const FAULTS_KEPT: usize = 100;

impl Faults {
    pub fn merge(&mut self, other: Self) {
        self.count += other.count;
        let room = FAULTS_KEPT - self.first.len();
        self.first.extend(other.first.into_iter().take(room));
    }

    pub fn add(&mut self, fault: Fault) {
        self.count += 1;
        if self.first.len() < FAULTS_KEPT {
            self.first.push(fault);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(version: u8, number: Number) -> Entry {
        (Version([version; 26]), number)
    }

    #[test]
    fn each_kind_of_fault_is_detected() {
        let wanted = [entry(1, 10), entry(2, 11), entry(3, 12)];
        let differ = |got: &[Entry]| differences(got, &wanted, |n| usize::from(n >= 90), 0);
        assert_eq!(differ(&wanted), []);
        assert_eq!(
            differ(&[wanted[0], wanted[2]]),
            [(Wrong::Lost, 11)],
            "a gap"
        );
        assert_eq!(
            differ(&[wanted[0], wanted[1], wanted[1], wanted[2]]),
            [(Wrong::Doubled, 11)]
        );
        assert_eq!(
            differ(&[wanted[0], wanted[2], wanted[1]]),
            [(Wrong::Disordered, 11)]
        );
        assert_eq!(
            differ(&[wanted[0], entry(4, 11), entry(5, 12)]),
            [(Wrong::OtherVersion, 11), (Wrong::OtherVersion, 12)]
        );
        let mut with_other = wanted.to_vec();
        with_other.push(entry(9, 99));
        assert_eq!(differ(&with_other), [(Wrong::Unexpected, 99)]);
        with_other[3] = entry(9, 13);
        assert_eq!(differ(&with_other), [], "not acknowledged, but appended");
    }

    #[test]
    fn only_the_reader_that_differs_has_faults() {
        let plan = Plan::spread("message", 0, 1, 1, None);
        let entries: Vec<Entry> = (0..9).map(|n| entry(n, n.into())).collect();
        let acknowledged = Acknowledged::new(&plan, 1, entries.clone());
        let faults_without = |missing: Option<usize>, first: usize| -> Vec<String> {
            let channel = Channel::new(0, vec!["f".to_owned()]);
            let mut places = [Place::default(), Place::default(), Place::default()];
            for turn in 0..3 {
                let reader = (turn + first) % 3;
                for (at, entry) in entries.iter().enumerate() {
                    if reader != 1 || Some(at) != missing {
                        channel.take(&mut places[reader], *entry);
                    }
                }
            }
            let mut faults = Faults::default();
            let places: Vec<&Place> = places.iter().collect();
            channel.audit(&places, &acknowledged, &plan, &mut faults);
            faults.first.iter().map(Fault::to_string).collect()
        };
        assert_eq!(faults_without(None, 0), [""; 0]);
        let lost = |number| vec![format!("{} in f: lost (1 readers)", plan.id(number))];
        for first in 0..3 {
            assert_eq!(faults_without(Some(4), first), lost(4));
            assert_eq!(faults_without(Some(8), first), lost(8), "the last entry");
        }
    }
}
