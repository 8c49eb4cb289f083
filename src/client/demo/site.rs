//! The made-up site: a function of its seed, one step after the other.

use std::{
    collections::{BTreeSet, VecDeque},
    ops::Range,
    str::Split,
};

use rand::{RngExt, SeedableRng, rngs::StdRng};
use serde_json::{Value, json};

use super::words::{FLIRTS, NAMES, SCRIPTS, TOPICS};
use crate::client::wire::NewEvent;

/// Between "is typing" and the message.
const TYPING_SECONDS: f64 = 1.5;

/// What somebody on the site does.
#[derive(Debug, Clone, PartialEq)]
pub enum Act {
    Append(NewEvent),
    Typing(NewEvent),
    /// Reads all of a feed.
    Read(String),
}

/// Two friends and where their conversation stands.
#[derive(Debug)]
struct Chat {
    /// By alphabet, as in the feed's name.
    people: [usize; 2],
    /// What is still to be said; at the end another script begins.
    lines: Split<'static, char>,
    /// What the `{}` of this script stands for.
    topic: &'static str,
    /// Which of the two says the next line.
    speaker: usize,
    /// Somebody is typing until this step, so nobody answers yet.
    busy_until: u64,
}

pub struct Site {
    rng: StdRng,
    names: Vec<String>,
    chats: Vec<Chat>,
    /// Typed but not yet sent: the step when it is, and the message. In step order, as all type equally long.
    typed: VecDeque<(u64, NewEvent)>,
    step: u64,
    typing_steps: u64,
    /// Ids are `demo:{run}:{number}`: new in each run, the same when a request is sent again.
    run: u64,
    events: u64,
}

impl Site {
    /// With at least two `users`. `run` tells the events of this run from those of others with the same seed.
    pub fn new(users: usize, seed: u64, run: u64, steps_per_second: f64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let names = names(users);
        let chat = |(a, b): (usize, usize)| {
            let mut lines = "".split('|');
            lines.next(); // Nothing is left to say, so the first message begins a script.
            Chat {
                people: if names[a] < names[b] { [a, b] } else { [b, a] },
                lines,
                topic: "",
                speaker: 0,
                busy_until: 0,
            }
        };
        let chats = friendships(users, &mut rng).into_iter().map(chat).collect();
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
        let [a, b] = self.chats[chat].people;
        format!("chat:{}-{}", self.names[a], self.names[b])
    }

    /// What happens in this moment: one stored event on average, since a message typed now is sent later.
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
            let reader = self.rng.random_range(self.users());
            acts.push(Act::Read(self.user_feed(reader)));
        }
        acts
    }

    /// The next line of some conversation, or a visit when everybody is typing already.
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
            chat.speaker = self.rng.random_range(0..2);
            chat.lines.next().unwrap_or_default()
        });
        let text = line.trim().replace("{}", chat.topic);
        let (from, to) = (chat.people[chat.speaker], chat.people[1 - chat.speaker]);
        chat.speaker = 1 - chat.speaker;
        chat.busy_until = sent_at + 1;

        let feeds = vec![self.user_feed(to), self.chat_feed(index)];
        let typing = self.event("typing", from, to, feeds.clone(), json!({}));
        let message = self.event("message", from, to, feeds, json!({ "text": text }));
        self.typed.push_back((sent_at, message));
        Act::Typing(typing)
    }

    fn visit(&mut self) -> Act {
        let (from, to) = self.two_people();
        let feeds = vec![self.user_feed(to)];
        Act::Append(self.event("visit", from, to, feeds, json!({})))
    }

    fn flirt(&mut self) -> Act {
        let (from, to) = self.two_people();
        let feeds = vec![self.user_feed(to)];
        let text = pick(&mut self.rng, FLIRTS, ',');
        Act::Append(self.event("flirt", from, to, feeds, json!({ "text": text })))
    }

    /// Two different ones.
    fn two_people(&mut self) -> (usize, usize) {
        let from = self.rng.random_range(self.users());
        let others = self.rng.random_range(1..self.names.len());
        (from, (from + others) % self.names.len())
    }

    fn event(
        &mut self,
        kind: &'static str,
        from: usize,
        to: usize,
        feeds: Vec<String>,
        mut data: Value,
    ) -> NewEvent {
        data["from"] = json!(self.names[from]);
        data["to"] = json!(self.names[to]);
        self.events += 1;
        NewEvent {
            id: format!("demo:{:016x}:{}", self.run, self.events),
            kind,
            feeds,
            actor: self.user_feed(from),
            data,
        }
    }

    /// Commands to see it all with.
    pub fn where_to_look(&self, url: &str) -> String {
        let (user, other, chat) = (self.user_feed(0), self.user_feed(1), self.chat_feed(0));
        let (users, chats) = (self.names.len(), self.chats.len());
        format!(
            "{users} users, {chats} chats. Where to look, in another terminal:\n\
             \n  # what is new for {user}: its version, what is unread\
             \n  curl -s {url}/v1/feeds/{user}\
             \n  # the newest entries, of a person, of a chat, of several feeds as one\
             \n  curl -s '{url}/v1/feeds/{user}/entries?limit=5'\
             \n  curl -s '{url}/v1/feeds/{chat}/entries?limit=5'\
             \n  curl -s '{url}/v1/entries?feed={user}&feed={other}&limit=5'\
             \n  # everything as it happens, typing included (Ctrl-C ends it)\
             \n  curl -sN {url}/v1/feeds/{user}/live\n"
        )
    }
}

/// Each later user knows up to three earlier ones: everybody is connected, and those in front are popular.
fn friendships(users: usize, rng: &mut StdRng) -> BTreeSet<(usize, usize)> {
    let mut friends = BTreeSet::new();
    for user in 1..users {
        for _ in 0..rng.random_range(1..=3) {
            friends.insert((near_the_front(rng, user), user));
        }
    }
    friends
}

/// An index below `length`, a low one rather than a high one.
fn near_the_front(rng: &mut StdRng, length: usize) -> usize {
    (rng.random::<f64>().powi(2) * length as f64) as usize
}

/// The list's names, and when it is used up the same ones with a number.
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

    fn story(seed: u64, run: u64, steps: usize) -> Vec<Act> {
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
    fn the_seed_makes_the_story_and_the_run_makes_the_ids() {
        assert_eq!(story(1, 1, 500), story(1, 1, 500));
        assert_ne!(story(1, 1, 500), story(2, 1, 500));
        let (one, other) = (events(&story(1, 1, 500)), events(&story(1, 2, 500)));
        let ids: HashSet<_> = one.iter().chain(&other).map(|event| &event.id).collect();
        assert_eq!(ids.len(), one.len() + other.len());
        let mut pairs = one.iter().zip(&other);
        assert!(pairs.all(|(a, b)| a.feeds == b.feeds && a.data == b.data));
    }

    #[test]
    fn a_step_is_about_one_event_and_nobody_hears_of_what_they_did_themselves() {
        let acts = story(3, 3, 5_000);
        let events = events(&acts);
        assert!((4_900..=5_000).contains(&events.len()), "{}", events.len());
        let kinds: HashSet<_> = events.iter().map(|event| event.kind).collect();
        assert_eq!(kinds, HashSet::from(["message", "visit", "flirt"]));
        assert!(acts.iter().any(|act| matches!(act, Act::Read(_))));
        assert!(
            events
                .iter()
                .all(|event| !event.feeds.contains(&event.actor))
        );
    }

    #[test]
    fn typing_comes_before_its_message_and_people_take_turns() {
        let mut typing: HashMap<String, String> = HashMap::new();
        for act in story(4, 4, 3_000) {
            match act {
                Act::Typing(event) => {
                    let before = typing.insert(event.feeds[1].clone(), event.actor);
                    assert_eq!(before, None, "one at a time types in a chat");
                }
                Act::Append(event) if event.kind == "message" => {
                    let (user, chat) = (&event.feeds[0], &event.feeds[1]);
                    assert_eq!(typing.remove(chat), Some(event.actor.clone()));
                    let mut names = [user, &event.actor].map(|feed| feed.replace("user:", ""));
                    names.sort();
                    assert_eq!(*chat, format!("chat:{}", names.join("-")));
                    assert!(!event.data["text"].as_str().expect("text").contains("{}"));
                }
                _ => {}
            }
        }
    }

    #[test]
    fn two_users_and_many_users_make_a_site() {
        for users in [2, 1_000] {
            let mut site = Site::new(users, 1, 1, 1_000.0);
            let names: HashSet<_> = site.names.iter().collect();
            assert_eq!(names.len(), users);
            let known: HashSet<_> = site.chats.iter().flat_map(|chat| chat.people).collect();
            assert_eq!(known.len(), users, "everybody has somebody to write to");
            (0..100).for_each(|_| drop(site.step()));
        }
    }
}
