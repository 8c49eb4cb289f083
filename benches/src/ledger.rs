//! What every reader must have received: exactly the acknowledged events of its feeds, once each, in version order.
//!
//! Readers of the same feeds must receive the same entries, so they share one log. The first reader to reach a position
//! writes the entry, the others compare theirs with it. A delivery therefore costs one comparison, and memory grows
//! with the number of events, not of deliveries. A reader that differs from the log continues with a list of its own.
//! At the end, each list is compared with what was acknowledged.

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

    /// Adds a last channel that has the events of all others: [`Channel::of_log`].
    pub fn with_log(mut self) -> Self {
        let mut all = self.0.concat();
        all.sort_unstable();
        self.0.push(all);
        self
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
    /// If its readers follow the log of the service: which feeds of the log, as the API's filter.
    of_log: Option<String>,
    log: Mutex<Vec<Entry>>,
}

/// What a reader has received.
#[derive(Debug, Default)]
pub struct Received {
    /// It received this many entries from the beginning of its channel's log.
    length: usize,
    /// All that it received, once that differs from the log.
    own: Option<Vec<Entry>>,
    /// Ids that this run did not append.
    pub unexpected: Vec<String>,
    /// It has received the channel's closing event: nothing follows.
    pub closed: bool,
}

impl Channel {
    pub fn new(index: usize, feeds: Vec<String>) -> Self {
        Self {
            index,
            feeds,
            of_log: None,
            log: Mutex::default(),
        }
    }

    /// The log of the service, as far as it is about the feeds of the run, which match `pattern`. Its closing event goes to
    /// `feed`.
    pub fn of_log(index: usize, feed: String, pattern: String) -> Self {
        Self {
            of_log: Some(pattern),
            ..Self::new(index, vec![feed])
        }
    }

    pub fn is_log(&self) -> bool {
        self.of_log.is_some()
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
        if let Some(pattern) = &self.of_log {
            return format!("/v1/log/{what}?feed={pattern}&");
        }
        match &self.feeds[..] {
            [feed] => format!("/v1/feeds/{feed}/{what}?"),
            feeds => format!("/v1/{what}?feed={}&", feeds.join("&feed=")),
        }
    }

    /// Records that a reader received `entry`.
    pub fn take(&self, received: &mut Received, entry: Entry) {
        if let Some(own) = &mut received.own {
            own.push(entry);
            return;
        }
        let mut log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        match log.get(received.length) {
            None => log.push(entry),
            Some(logged) if *logged == entry => {}
            Some(_) => {
                let mut own = log[..received.length].to_vec();
                own.push(entry);
                received.own = Some(own);
            }
        }
        received.length += 1;
    }

    /// Compares what the readers received with what was acknowledged. Readers that received the same share their
    /// faults.
    pub fn audit(
        &self,
        all_received: &[&Received],
        acknowledged: &Acknowledged,
        plan: &Plan,
        faults: &mut Faults,
    ) {
        let log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        let mut at_length: HashMap<usize, usize> = HashMap::new();
        let mut check = |entries: &[Entry], readers: usize| {
            let wanted = acknowledged.of(self.index);
            let channel_of = |number| match self.is_log() {
                true => self.index,
                false => plan.channel_of(number),
            };
            for (kind, number) in differences(entries, wanted, channel_of, self.index) {
                faults.add(Fault {
                    kind,
                    feed: self.name(),
                    id: plan.id(number),
                    readers,
                });
            }
        };
        for received in all_received {
            match &received.own {
                Some(own) => check(own, 1),
                None => *at_length.entry(received.length).or_default() += 1,
            }
        }
        for (length, readers) in at_length {
            check(&log[..length], readers);
        }
        for id in all_received
            .iter()
            .flat_map(|received| &received.unexpected)
        {
            faults.add(Fault {
                kind: FaultKind::Unexpected,
                feed: self.name(),
                id: id.clone(),
                readers: 1,
            });
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FaultKind {
    Lost,
    Duplicated,
    OutOfOrder,
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
) -> Vec<(FaultKind, Number)> {
    if got == wanted {
        return Vec::new();
    }
    let versions: HashMap<Number, Version> =
        wanted.iter().map(|(v, number)| (*number, *v)).collect();
    let mut seen: HashMap<Number, Version> = HashMap::new();
    let mut greatest = None;
    let mut faults = Vec::new();
    for &(version, number) in got {
        if seen.insert(number, version).is_some() {
            faults.push((FaultKind::Duplicated, number));
            continue;
        }
        match versions.get(&number) {
            Some(acknowledged) if *acknowledged != version => {
                faults.push((FaultKind::OtherVersion, number))
            }
            None if channel_of(number) != channel => faults.push((FaultKind::Unexpected, number)),
            _ => {}
        }
        if greatest >= Some(version) {
            faults.push((FaultKind::OutOfOrder, number));
        }
        greatest = greatest.max(Some(version));
    }
    let lost = wanted
        .iter()
        .filter(|(_, number)| !seen.contains_key(number));
    faults.extend(lost.map(|(_, number)| (FaultKind::Lost, *number)));
    faults
}

/// An entry that was not delivered correctly to some readers of a feed.
#[derive(Debug)]
pub struct Fault {
    pub kind: FaultKind,
    pub feed: String,
    pub id: String,
    pub readers: usize,
}

impl fmt::Display for FaultKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Lost => "lost",
            Self::Duplicated => "duplicated",
            Self::OutOfOrder => "out of order",
            Self::Unexpected => "unexpected",
            Self::OtherVersion => "version differs from the acknowledged one",
        })
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            kind,
            feed,
            id,
            readers,
        } = self;
        write!(f, "{id} in {feed}: {kind} ({readers} readers)")
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
            [(FaultKind::Lost, 11)],
            "a gap"
        );
        assert_eq!(
            differ(&[wanted[0], wanted[1], wanted[1], wanted[2]]),
            [(FaultKind::Duplicated, 11)]
        );
        assert_eq!(
            differ(&[wanted[0], wanted[2], wanted[1]]),
            [(FaultKind::OutOfOrder, 11)]
        );
        assert_eq!(
            differ(&[wanted[0], entry(4, 11), entry(5, 12)]),
            [(FaultKind::OtherVersion, 11), (FaultKind::OtherVersion, 12)]
        );
        let mut with_other = wanted.to_vec();
        with_other.push(entry(9, 99));
        assert_eq!(differ(&with_other), [(FaultKind::Unexpected, 99)]);
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
            let mut all_received = [
                Received::default(),
                Received::default(),
                Received::default(),
            ];
            for turn in 0..3 {
                let reader = (turn + first) % 3;
                for (at, entry) in entries.iter().enumerate() {
                    if reader != 1 || Some(at) != missing {
                        channel.take(&mut all_received[reader], *entry);
                    }
                }
            }
            let mut faults = Faults::default();
            let all_received: Vec<&Received> = all_received.iter().collect();
            channel.audit(&all_received, &acknowledged, &plan, &mut faults);
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
