//! The invented site: a deterministic function of its seed, one step after another.

use std::{
    collections::{BTreeSet, VecDeque},
    ops::Range,
    str::Split,
};

use rand::{RngExt, SeedableRng, rngs::StdRng};
use serde_json::{Value, json};

use super::words::{FLIRTS, NAMES, SCRIPTS, TOPICS};
use crate::client::wire::NewEvent;

/// Time between "is typing" and the message.
const TYPING_SECONDS: f64 = 1.5;
/// Most groups, each about a topic of its own.
const GROUPS_MAX: usize = 8;
const GROUP_MEMBERS_MAX: usize = 7;

/// An action of a user of the site.
#[derive(Debug, Clone, PartialEq)]
pub enum Act {
    Append(NewEvent),
    Typing(NewEvent),
    /// Marks a feed as read by a user.
    Read {
        feed: String,
        reader: String,
    },
}

/// Friends and the state of their conversation.
#[derive(Debug)]
struct Chat {
    /// Two in the alphabetical order of their names, as in the feed's name, or the members of a group.
    people: Vec<usize>,
    /// The topic that a group is about and named after.
    group: Option<&'static str>,
    /// The remaining lines of the script. After the last one another script begins.
    lines: Split<'static, char>,
    /// The text that replaces `{}` in this script.
    topic: &'static str,
    /// Index, in `people`, of who says the next line.
    speaker: usize,
    /// Somebody is typing until this step; no other message begins before.
    busy_until: u64,
}

pub struct Site {
    rng: StdRng,
    names: Vec<String>,
    chats: Vec<Chat>,
    /// Messages being typed, with the step at which they are sent. In step order, because typing always takes equally long.
    typed: VecDeque<(u64, NewEvent)>,
    step: u64,
    typing_steps: u64,
    /// Event ids are `demo:{run}:{number}`: new in each run and unchanged when a request is retried.
    run: u64,
    events: u64,
}

impl Site {
    /// Needs at least two `users`. `run` distinguishes the events of this run from those of others with the same seed.
    pub fn new(users: usize, seed: u64, run: u64, steps_per_second: f64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let names = names(users);
        let chat = |people, group| {
            let mut lines = "".split('|');
            lines.next(); // Exhausted, so that the first message begins a script.
            Chat {
                people,
                group,
                lines,
                topic: "",
                speaker: 0,
                busy_until: 0,
            }
        };
        let pairs = friendships(users, &mut rng).into_iter().map(|(a, b)| {
            let people = if names[a] < names[b] { [a, b] } else { [b, a] };
            chat(people.to_vec(), None)
        });
        let mut chats: Vec<Chat> = pairs.collect();
        let groups = members(users, &mut rng).into_iter().zip(topics());
        // In front, where most is written.
        chats.splice(
            0..0,
            groups.map(|(people, topic)| chat(people, Some(topic))),
        );
        Self {
            rng,
            names,
            chats,
            typed: VecDeque::new(),
            step: 0,
            typing_steps: (TYPING_SECONDS * steps_per_second).ceil() as u64,
            run,
            events: 0,
        }
    }

    pub fn users(&self) -> Range<usize> {
        0..self.names.len()
    }

    pub fn user_feed(&self, user: usize) -> String {
        format!("user:{}", self.names[user])
    }

    fn chat_feed(&self, chat: usize) -> String {
        let Chat { people, group, .. } = &self.chats[chat];
        match group {
            Some(topic) => format!("group:{}", group_id(topic)),
            None => {
                let names: Vec<&str> = people.iter().map(|&user| &*self.names[user]).collect();
                format!("chat:{}", names.join("-"))
            }
        }
    }

    /// The user's own feed and those of the user's chats.
    pub fn feeds_of(&self, user: usize) -> Vec<String> {
        let chats = (0..self.chats.len()).filter(|&chat| self.chats[chat].people.contains(&user));
        let chats = chats.map(|chat| self.chat_feed(chat));
        [self.user_feed(user)].into_iter().chain(chats).collect()
    }

    /// Tells the members of each group of it, in the form in which the page forms groups.
    pub fn groups(&mut self) -> Vec<NewEvent> {
        let mut events = Vec::new();
        for index in 0..self.chats.len() {
            let Chat { people, group, .. } = &self.chats[index];
            let (Some(topic), people) = (*group, people.clone()) else {
                continue;
            };
            let mut feeds: Vec<String> = people.iter().map(|&user| self.user_feed(user)).collect();
            feeds.push(self.chat_feed(index));
            let members: Vec<&str> = people.iter().map(|&user| &*self.names[user]).collect();
            let data = json!({ "group": group_id(topic), "name": topic, "members": members });
            events.push(self.event("group", people[0], None, feeds, data));
        }
        events
    }

    /// The actions of the next step: one stored event on average, because a message typed now is sent later.
    pub fn step(&mut self) -> Vec<Act> {
        self.step += 1;
        let mut acts = Vec::new();
        while let Some((_, message)) = self.typed.pop_front_if(|(step, _)| *step <= self.step) {
            acts.push(Act::Append(message));
        }
        acts.push(match self.rng.random_range(0..100) {
            0..65 => self.message(),
            65..85 => self.visit(),
            _ => self.flirt(),
        });
        if self.rng.random_ratio(1, 12) {
            let user = self.rng.random_range(self.users());
            let feeds = self.feeds_of(user);
            let feed = feeds[self.rng.random_range(0..feeds.len())].clone();
            let reader = self.user_feed(user);
            acts.push(Act::Read { feed, reader });
        }
        acts
    }

    /// The next line of a random conversation, or a visit if somebody is typing in all of them.
    fn message(&mut self) -> Act {
        let chosen = near_the_front(&mut self.rng, self.chats.len());
        let Some(index) = (chosen..self.chats.len())
            .chain(0..chosen)
            .find(|&index| self.chats[index].busy_until <= self.step)
        else {
            return self.visit();
        };
        let sent_at = self.step + self.typing_steps;
        let chat = &mut self.chats[index];
        let line = chat.lines.next().unwrap_or_else(|| {
            chat.lines = pick(&mut self.rng, SCRIPTS, '\n').split('|');
            chat.topic = pick(&mut self.rng, TOPICS, ',');
            chat.speaker = self.rng.random_range(0..chat.people.len());
            chat.lines.next().unwrap_or_default()
        });
        let text = line.trim().replace("{}", chat.topic);
        let others = self.rng.random_range(1..chat.people.len());
        let next = (chat.speaker + others) % chat.people.len();
        let (from, to) = (chat.people[chat.speaker], chat.people[next]);
        let to = chat.group.is_none().then_some(to);
        chat.speaker = next;
        chat.busy_until = sent_at + 1;

        let own = to.map(|to| self.user_feed(to));
        let feeds: Vec<String> = own.into_iter().chain([self.chat_feed(index)]).collect();
        let typing = self.event("typing", from, to, feeds.clone(), json!({}));
        let message = self.event("message", from, to, feeds, json!({ "text": text }));
        self.typed.push_back((sent_at, message));
        Act::Typing(typing)
    }

    fn visit(&mut self) -> Act {
        let (from, to) = self.two_people();
        let feeds = vec![self.user_feed(to)];
        Act::Append(self.event("visit", from, Some(to), feeds, json!({})))
    }

    fn flirt(&mut self) -> Act {
        let (from, to) = self.two_people();
        let feeds = vec![self.user_feed(to)];
        let text = pick(&mut self.rng, FLIRTS, ',');
        Act::Append(self.event("flirt", from, Some(to), feeds, json!({ "text": text })))
    }

    /// Two different users.
    fn two_people(&mut self) -> (usize, usize) {
        let from = self.rng.random_range(self.users());
        let others = self.rng.random_range(1..self.names.len());
        (from, (from + others) % self.names.len())
    }

    fn event(
        &mut self,
        kind: &'static str,
        from: usize,
        to: Option<usize>,
        feeds: Vec<String>,
        mut data: Value,
    ) -> NewEvent {
        data["from"] = json!(self.names[from]);
        if let Some(to) = to {
            data["to"] = json!(self.names[to]);
        }
        self.events += 1;
        NewEvent {
            id: format!("demo:{:016x}:{}", self.run, self.events),
            kind,
            feeds,
            actor: self.user_feed(from),
            time: None,
            data,
        }
    }

    /// Commands to look at the result.
    pub fn where_to_look(&self, url: &str) -> String {
        let (user, other) = (self.user_feed(0), self.user_feed(1));
        let (users, chats) = (self.names.len(), self.chats.len());
        let groups = self.chats.iter().filter(|chat| chat.group.is_some());
        let groups = groups.count();
        let (group, chat) = (self.chat_feed(0), self.chat_feed(groups));
        format!(
            "{users} users, {chats} chats, {groups} of them groups. To look at them, run in another terminal:\n\
             \n  # the state of {user}: version and unread count\
             \n  curl -s {url}/v1/feeds/{user}\
             \n  # what a group is for a member\
             \n  curl -s '{url}/v1/feeds/{group}?reader={user}'\
             \n  # the newest entries of a user, of a chat, and of two feeds merged\
             \n  curl -s '{url}/v1/feeds/{user}/entries?limit=5'\
             \n  curl -s '{url}/v1/feeds/{chat}/entries?limit=5'\
             \n  curl -s '{url}/v1/entries?feed={user}&feed={other}&limit=5'\
             \n  # live entries and typing (Ctrl-C stops)\
             \n  curl -sN {url}/v1/feeds/{user}/live\n"
        )
    }
}

/// Each user knows up to three earlier ones, so that everybody is connected and the first users have most friends.
fn friendships(users: usize, rng: &mut StdRng) -> BTreeSet<(usize, usize)> {
    let mut friends = BTreeSet::new();
    for user in 1..users {
        for _ in 0..rng.random_range(1..=3) {
            friends.insert((near_the_front(rng, user), user));
        }
    }
    friends
}

/// The members of the groups: one group for every eight users, in which the first users are most often.
fn members(users: usize, rng: &mut StdRng) -> Vec<Vec<usize>> {
    let groups = users.div_ceil(8).min(GROUPS_MAX);
    let group = |_| {
        let size = rng.random_range(3..=GROUP_MEMBERS_MAX).min(users);
        let mut people = BTreeSet::new();
        while people.len() < size {
            people.insert(near_the_front(rng, users));
        }
        people.into_iter().collect()
    };
    (0..groups).map(group).collect()
}

fn group_id(topic: &str) -> String {
    topic.replace(' ', "-")
}

fn topics() -> impl Iterator<Item = &'static str> {
    TOPICS.split(',').map(str::trim)
}

/// A random index below `length`; low ones are more likely.
fn near_the_front(rng: &mut StdRng, length: usize) -> usize {
    (rng.random::<f64>().powi(2) * length as f64) as usize
}

/// The names of the list, then the same names with numbers.
fn names(users: usize) -> Vec<String> {
    let first = NAMES.split(' ').map(str::to_owned);
    let numbered =
        (2..).flat_map(|number| NAMES.split(' ').map(move |name| format!("{name}{number}")));
    first.chain(numbered).take(users).collect()
}

fn pick(rng: &mut StdRng, list: &'static str, separator: char) -> &'static str {
    let items: Vec<_> = list.split(separator).map(str::trim).collect();
    items[rng.random_range(0..items.len())]
}

#[cfg(test)]
mod tests {
    use std::collections::{HashMap, HashSet};

    use super::*;

    fn activity(seed: u64, run: u64, steps: usize) -> Vec<Act> {
        let mut site = Site::new(40, seed, run, 20.0);
        (0..steps).flat_map(|_| site.step()).collect()
    }

    fn events(acts: &[Act]) -> Vec<NewEvent> {
        let appended = |act: &Act| match act {
            Act::Append(event) => Some(event.clone()),
            _ => None,
        };
        acts.iter().filter_map(appended).collect()
    }

    #[test]
    fn the_seed_determines_the_activity_and_the_run_the_ids() {
        assert_eq!(activity(1, 1, 500), activity(1, 1, 500));
        assert_ne!(activity(1, 1, 500), activity(2, 1, 500));
        let (one, other) = (events(&activity(1, 1, 500)), events(&activity(1, 2, 500)));
        let ids: HashSet<_> = one.iter().chain(&other).map(|event| &event.id).collect();
        assert_eq!(ids.len(), one.len() + other.len());
        let mut pairs = one.iter().zip(&other);
        assert!(pairs.all(|(a, b)| a.feeds == b.feeds && a.data == b.data));
    }

    #[test]
    fn a_step_is_about_one_event_and_nobody_gets_their_own_events() {
        let acts = activity(3, 3, 5_000);
        let events = events(&acts);
        assert!((4_900..=5_000).contains(&events.len()), "{}", events.len());
        let kinds: HashSet<_> = events.iter().map(|event| event.kind).collect();
        assert_eq!(kinds, HashSet::from(["message", "visit", "flirt"]));
        assert!(acts.iter().any(|act| matches!(act, Act::Read { .. })));
        assert!(
            events
                .iter()
                .all(|event| !event.feeds.contains(&event.actor))
        );
    }

    #[test]
    fn typing_precedes_the_message_and_people_take_turns() {
        let mut typing: HashMap<String, String> = HashMap::new();
        let chat_of = |event: &NewEvent| event.feeds.last().expect("a feed").clone();
        let mut in_groups: HashMap<String, HashSet<String>> = HashMap::new();
        for act in activity(4, 4, 3_000) {
            match act {
                Act::Typing(event) => {
                    let before = typing.insert(chat_of(&event), event.actor);
                    assert_eq!(before, None, "only one person types in a chat at a time");
                }
                Act::Append(event) if event.kind == "message" => {
                    let chat = &chat_of(&event);
                    assert_eq!(typing.remove(chat), Some(event.actor.clone()));
                    if chat.starts_with("group:") {
                        assert_eq!(event.feeds.len(), 1, "each reads it there");
                        let writers = in_groups.entry(chat.clone()).or_default();
                        writers.insert(event.actor);
                        continue;
                    }
                    let user = &event.feeds[0];
                    let mut names = [user, &event.actor].map(|feed| feed.replace("user:", ""));
                    names.sort();
                    assert_eq!(*chat, format!("chat:{}", names.join("-")));
                    assert!(!event.data["text"].as_str().expect("text").contains("{}"));
                }
                _ => {}
            }
        }
        assert!(in_groups.values().all(|writers| writers.len() > 2));
    }

    #[test]
    fn two_users_or_many_make_a_site() {
        for users in [2, 1_000] {
            let mut site = Site::new(users, 1, 1, 1_000.0);
            let names: HashSet<_> = site.names.iter().collect();
            assert_eq!(names.len(), users);
            let people = site.chats.iter().flat_map(|chat| chat.people.clone());
            let known: HashSet<_> = people.collect();
            let groups = site.groups();
            assert!(!groups.is_empty() && groups.len() <= GROUPS_MAX);
            for event in groups {
                // Its members and the group.
                assert!(event.feeds.len() > 2.min(users) && event.feeds.contains(&event.actor));
                assert!(event.feeds.last().expect("a feed").starts_with("group:"));
            }
            assert_eq!(known.len(), users, "everybody has somebody to write to");
            (0..100).for_each(|_| drop(site.step()));
        }
    }
}
