//! `newsfeed demo`: fills a running service with a made-up social site.
//!
//! `Site` decides what happens, tick by tick, from a seed and nothing else: no clock, no network, so the
//! same seed tells the same story. `live` plays it: one tick is one stored event, `--rate` ticks a second.

use std::collections::{BTreeSet, VecDeque};
use std::fmt;
use std::str::{FromStr, Split};
use std::time::{Duration, Instant};

use indicatif::HumanCount;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};
use tokio::time::MissedTickBehavior;

use super::{Client, DEFAULT_URL, Error, NewEvent, Outcome, Progress, Transient, interrupted};

/// Events in one request, at most (one more in the backlog, see there).
const ARRAY_EVENTS: usize = 500;
/// The live loop wakes no more often than this, several ticks being due then, and no less often, to see
/// that its time is over.
const WAKE_SECONDS_MIN: f64 = 0.02;
const WAKE_SECONDS_MAX: f64 = 1.0;
/// A service too slow for the rate makes the demo slower, not bursty: later ticks than this are left out.
const LAG_MAX: Duration = Duration::from_secs(1);
/// Between "is typing" and the message.
const TYPING_SECONDS: f64 = 1.5;
/// Everybody sees every photo; far fewer than the 100 feeds an event may have.
const PHOTO_FEED: &str = "site:photos";
const PHOTO_FRIENDS_MAX: usize = 30;

/// Fill a running service with a lively made-up site
///
/// Users write to each other (typing first), flirt, visit profiles, post and like photos, and read what
/// they got. A backlog goes in at once, then it goes on live. Every run adds new events; the same --seed
/// tells the same story again (with the same --users and --rate).
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "Examples:\n  \
    newsfeed demo                            a minute of 40 users\n  \
    newsfeed demo --for forever --rate 5     calm, until Ctrl-C\n  \
    newsfeed demo --backlog 100000 --for 0   only history, a lot of it")]
pub struct DemoArgs {
    /// Base URL of the service
    #[arg(long, default_value = DEFAULT_URL)]
    pub url: String,
    /// People on the site (2 to 1000)
    #[arg(long, default_value_t = 40, value_parser = clap::value_parser!(u16).range(2..=1_000))]
    pub users: u16,
    /// Events to append before going live
    #[arg(long, value_name = "EVENTS", default_value_t = 2_000)]
    pub backlog: u32,
    /// Events a second once live (up to 1000)
    #[arg(long, value_name = "EVENTS", default_value = "20", value_parser = parse_rate)]
    pub rate: f64,
    /// Seconds to go on live, or `forever`
    #[arg(long = "for", value_name = "SECONDS", default_value = "60")]
    pub live_for: LiveFor,
    /// Number that decides all that happens [default: another one each run]
    #[arg(long)]
    pub seed: Option<u64>,
}

fn parse_rate(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(rate) if rate > 0.0 && rate <= 1_000.0 => Ok(rate),
        _ => Err("a number above 0, up to 1000".to_owned()),
    }
}

/// How long the demo goes on live.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum LiveFor {
    Seconds(u32),
    Forever,
}

impl FromStr for LiveFor {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "forever" => Ok(Self::Forever),
            _ => text
                .parse()
                .map(Self::Seconds)
                .map_err(|_| "whole seconds, or `forever`".to_owned()),
        }
    }
}

/// The command: backlog, where to look, then live until the time is over or Ctrl-C.
pub async fn run(args: DemoArgs) -> Result<(), Error> {
    let client = Client::new(&args.url)?;
    client.probe().await?;
    let seed = args.seed.unwrap_or_else(rand::random);
    let mut site = Site::new(usize::from(args.users), seed, rand::random(), args.rate);
    let mut done = Done::default();
    let result = tokio::select! {
        result = play(&client, &args, &mut site, &mut done) => result,
        () = interrupted() => Ok(()),
    };
    println!("{done}; --seed {seed} tells the same again");
    result
}

async fn play(
    client: &Client,
    args: &DemoArgs,
    site: &mut Site,
    done: &mut Done,
) -> Result<(), Error> {
    backlog(client, u64::from(args.backlog), site, done).await?;
    println!("{}", site.where_to_look(client.base_url()));
    live(client, args, site, done).await
}

/// History for everybody, of which some have read all.
async fn backlog(
    client: &Client,
    events: u64,
    site: &mut Site,
    done: &mut Done,
) -> Result<(), Error> {
    let mut progress = Progress::new(Some(events));
    while done.appended < events {
        let wanted = (events - done.appended).min(ARRAY_EVENTS as u64) as usize;
        let mut array = Vec::new();
        // The last tick may add two, so that the backlog is one event longer than asked.
        while array.len() < wanted {
            array.extend(site.tick().into_iter().filter_map(Act::into_event));
        }
        append(client, &array, done).await?;
        let appended = HumanCount(done.appended);
        progress.set(done.appended, || format!("backlog: {appended} events"));
    }
    for reader in (0..site.names.len()).step_by(3) {
        read(client, &site.user_feed(reader), done).await?;
    }
    Ok(())
}

async fn live(
    client: &Client,
    args: &DemoArgs,
    site: &mut Site,
    done: &mut Done,
) -> Result<(), Error> {
    let mut progress = Progress::new(None);
    let started = Instant::now();
    let mut pace = Pace {
        rate: args.rate,
        played: 0.0,
    };
    let wake_seconds = (1.0 / args.rate).clamp(WAKE_SECONDS_MIN, WAKE_SECONDS_MAX);
    let mut wake = tokio::time::interval(Duration::from_secs_f64(wake_seconds));
    wake.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        wake.tick().await;
        let elapsed = started.elapsed();
        if matches!(args.live_for, LiveFor::Seconds(seconds) if elapsed.as_secs() >= u64::from(seconds))
        {
            return Ok(());
        }
        let mut events = Vec::new();
        for _ in 0..pace.ticks_due(elapsed) {
            for act in site.tick() {
                match act {
                    Act::Append(event) => events.push(event),
                    Act::Typing(typing) => {
                        client.transient(&typing).await?;
                        done.typing += 1;
                    }
                    Act::Read(feed) => read(client, &feed, done).await?,
                }
            }
        }
        for array in events.chunks(ARRAY_EVENTS) {
            append(client, array, done).await?;
        }
        progress.set(0, || {
            format!("live for {} s: {done} (Ctrl-C ends it)", elapsed.as_secs())
        });
    }
}

async fn append(client: &Client, events: &[NewEvent], done: &mut Done) -> Result<(), Error> {
    for outcome in client.append(events).await? {
        match outcome {
            // A duplicate is our own event whose answer was lost: the ids are new in every run.
            Outcome::Appended { .. } | Outcome::Duplicate { .. } => done.appended += 1,
            Outcome::Rejected { id, error } => {
                return Err(Error::Rejected {
                    what: format!("event {id}"),
                    code: error.code,
                    detail: error.detail,
                });
            }
        }
    }
    Ok(())
}

/// Reads a feed as a person does: all there is by now.
async fn read(client: &Client, feed: &str, done: &mut Done) -> Result<(), Error> {
    let version = client.feed_version(feed).await?;
    client.mark_read(feed, &version).await?;
    done.reads += 1;
    Ok(())
}

#[derive(Debug, Default)]
struct Done {
    appended: u64,
    typing: u64,
    reads: u64,
}

impl fmt::Display for Done {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            appended,
            typing,
            reads,
        } = self;
        write!(
            f,
            "{} events appended, {typing} times typing, {reads} feeds read",
            HumanCount(*appended)
        )
    }
}

/// Which ticks are due.
struct Pace {
    rate: f64,
    /// Ticks played or left out.
    played: f64,
}

impl Pace {
    fn ticks_due(&mut self, elapsed: Duration) -> u32 {
        let due = (elapsed.as_secs_f64() * self.rate).floor();
        let ticks = (due - self.played).min((LAG_MAX.as_secs_f64() * self.rate).ceil());
        self.played = due;
        ticks as u32
    }
}

/// What somebody on the site does.
#[derive(Debug, Clone, PartialEq)]
enum Act {
    Append(NewEvent),
    Typing(Transient),
    Read(String),
}

impl Act {
    fn into_event(self) -> Option<NewEvent> {
        match self {
            Self::Append(event) => Some(event),
            Self::Typing(_) | Self::Read(_) => None,
        }
    }
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
    /// Somebody is typing until then, so nobody answers yet.
    busy_until: u64,
}

/// The site: a function of its seed, one [`Site::tick`] after the other.
struct Site {
    rng: StdRng,
    names: Vec<String>,
    chats: Vec<Chat>,
    /// Owner and number of the newest photos, for who likes them.
    photos: VecDeque<(usize, u64)>,
    /// Typed but not yet sent: the tick when it is, and the message. In tick order, as all type equally long.
    typed: VecDeque<(u64, NewEvent)>,
    tick: u64,
    typing_ticks: u64,
    /// Ids are `demo:{run}:{number}`: new in each run, the same when a request is sent again.
    run: u64,
    events: u64,
}

impl Site {
    /// `run` tells the events of this run from those of others with the same seed.
    fn new(users: usize, seed: u64, run: u64, rate: f64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let names = names(users);
        let friends = friendships(users, &mut rng);
        let chat = |&(a, b): &(usize, usize)| {
            let people = if names[a] < names[b] { [a, b] } else { [b, a] };
            let mut lines = "".split('|');
            lines.next(); // Nothing is left to say, so the first message begins a script.
            Chat {
                people,
                lines,
                topic: "",
                speaker: 0,
                busy_until: 0,
            }
        };
        let chats = friends.iter().map(chat).collect();
        let typing_ticks = (TYPING_SECONDS * rate).ceil() as u64;
        let (photos, typed) = (VecDeque::new(), VecDeque::new());
        Self {
            rng,
            names,
            chats,
            photos,
            typed,
            tick: 0,
            typing_ticks,
            run,
            events: 0,
        }
    }

    /// What happens in this moment: one stored event on average, since a message typed now is sent later.
    fn tick(&mut self) -> Vec<Act> {
        self.tick += 1;
        let mut acts = Vec::new();
        while self
            .typed
            .front()
            .is_some_and(|(tick, _)| *tick <= self.tick)
        {
            acts.extend(
                self.typed
                    .pop_front()
                    .map(|(_, message)| Act::Append(message)),
            );
        }
        acts.push(match self.rng.random_range(0..100) {
            0..62 => self.message(),
            62..78 => self.visit(),
            78..87 => self.flirt(),
            87..91 => self.photo(),
            _ => self.like(),
        });
        if self.rng.random_ratio(1, 12) {
            let reader = self.rng.random_range(0..self.names.len());
            acts.push(Act::Read(self.user_feed(reader)));
        }
        acts
    }

    /// The next line of some conversation, or a visit when everybody is typing already.
    fn message(&mut self) -> Act {
        // Squared, so that the chats in front are the lively ones.
        let chosen = (self.rng.random::<f64>().powi(2) * self.chats.len() as f64) as usize;
        let order = (chosen..self.chats.len()).chain(0..chosen);
        let Some(index) = order
            .into_iter()
            .find(|&index| self.chats[index].busy_until <= self.tick)
        else {
            return self.visit();
        };
        let sent_at = self.tick + self.typing_ticks;
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
        let typing = Transient {
            kind: "typing".to_owned(),
            feeds: feeds.clone(),
            actor: Some(self.user_feed(from)),
            data: json!({ "from": self.names[from], "to": self.names[to] }),
        };
        let message = self.event(
            "message",
            from,
            feeds,
            json!({ "to": self.names[to], "text": text }),
        );
        self.typed.push_back((sent_at, message));
        Act::Typing(typing)
    }

    fn visit(&mut self) -> Act {
        let (from, to) = self.two_people();
        let feeds = vec![self.user_feed(to)];
        Act::Append(self.event("visit", from, feeds, json!({ "to": self.names[to] })))
    }

    fn flirt(&mut self) -> Act {
        let (from, to) = self.two_people();
        let text = pick(&mut self.rng, FLIRTS, ',');
        let feeds = vec![self.user_feed(to)];
        Act::Append(self.event(
            "flirt",
            from,
            feeds,
            json!({ "to": self.names[to], "text": text }),
        ))
    }

    /// One event in many feeds: all friends' and the site's.
    fn photo(&mut self) -> Act {
        let owner = self.rng.random_range(0..self.names.len());
        let topic = pick(&mut self.rng, TOPICS, ',');
        let caption = pick(&mut self.rng, CAPTIONS, '|').replace("{}", topic);
        let others = self
            .chats
            .iter()
            .filter(|chat| chat.people.contains(&owner));
        let friends = others.map(|chat| {
            if chat.people[0] == owner {
                chat.people[1]
            } else {
                chat.people[0]
            }
        });
        let mut feeds: Vec<String> = friends
            .take(PHOTO_FRIENDS_MAX)
            .map(|friend| self.user_feed(friend))
            .collect();
        feeds.push(PHOTO_FEED.to_owned());
        let photo = self.events;
        self.photos.push_front((owner, photo));
        self.photos.truncate(20);
        Act::Append(self.event(
            "photo",
            owner,
            feeds,
            json!({ "photo": photo, "caption": caption }),
        ))
    }

    /// A like of a recent photo, or a visit while there is none.
    fn like(&mut self) -> Act {
        let from = self.rng.random_range(0..self.names.len());
        let others: Vec<_> = self
            .photos
            .iter()
            .copied()
            .filter(|(owner, _)| *owner != from)
            .collect();
        let Some(&(owner, photo)) = others.choose(&mut self.rng) else {
            return self.visit();
        };
        let feeds = vec![self.user_feed(owner)];
        Act::Append(self.event("like", from, feeds, json!({ "photo": photo })))
    }

    /// Two different ones.
    fn two_people(&mut self) -> (usize, usize) {
        let from = self.rng.random_range(0..self.names.len());
        let step = self.rng.random_range(1..self.names.len());
        (from, (from + step) % self.names.len())
    }

    fn event(&mut self, kind: &str, actor: usize, feeds: Vec<String>, mut data: Value) -> NewEvent {
        data["from"] = json!(self.names[actor]);
        let id = format!("demo:{:016x}:{}", self.run, self.events);
        self.events += 1;
        NewEvent {
            id,
            kind: kind.to_owned(),
            feeds,
            actor: Some(self.user_feed(actor)),
            data,
        }
    }

    fn user_feed(&self, user: usize) -> String {
        format!("user:{}", self.names[user])
    }

    fn chat_feed(&self, chat: usize) -> String {
        let [a, b] = self.chats[chat].people;
        format!("chat:{}-{}", self.names[a], self.names[b])
    }

    fn where_to_look(&self, url: &str) -> String {
        let user = self.user_feed(0);
        let chat = self.chat_feed(0);
        format!(
            "{} users, {} chats. Where to look, in another terminal:\n\
             \n  # what is new for {user}: its version, what is unread\
             \n  curl -s {url}/v1/feeds/{user}\
             \n  # the newest entries, of a person, of a chat, of several feeds as one\
             \n  curl -s '{url}/v1/feeds/{user}/entries?limit=5'\
             \n  curl -s '{url}/v1/feeds/{chat}/entries?limit=5'\
             \n  curl -s '{url}/v1/entries?feed={user}&feed={PHOTO_FEED}&limit=5'\
             \n  # everything as it happens, typing included (Ctrl-C ends it)\
             \n  curl -sN {url}/v1/feeds/{user}/live\n",
            self.names.len(),
            self.chats.len(),
        )
    }
}

/// Each later user knows up to three earlier ones, mostly those who know many: everybody is connected, and
/// a few are popular, the first above all.
fn friendships(users: usize, rng: &mut StdRng) -> BTreeSet<(usize, usize)> {
    let mut friends = BTreeSet::new();
    // Everybody as often as they have friends, and once more.
    let mut known = vec![0];
    for user in 1..users {
        for _ in 0..rng.random_range(1..=3) {
            let friend = *known.choose(rng).unwrap_or(&0);
            if friends.insert((friend, user)) {
                known.push(friend);
            }
        }
        let own = friends.iter().filter(|(_, b)| *b == user).count();
        known.extend(std::iter::repeat_n(user, own + 1));
    }
    friends
}

/// The list's names, and when it is used up the same ones with a number.
fn names(users: usize) -> Vec<String> {
    let numbered =
        (2..).flat_map(|number| NAMES.split(' ').map(move |name| format!("{name}{number}")));
    NAMES
        .split(' ')
        .map(str::to_owned)
        .chain(numbered)
        .take(users)
        .collect()
}

/// Only for the lists below, none of which is empty.
fn pick(rng: &mut StdRng, list: &'static str, separator: char) -> &'static str {
    let items: Vec<_> = list.split(separator).map(str::trim).collect();
    items[rng.random_range(0..items.len())]
}

const NAMES: &str = "anna ben clara david elif felix greta hugo ines jonas katya luis mia noah \
    olga paul quentin rosa samir tara uma viktor wanda xenia yusuf zoe aiko bruno \
    chloe dmitri emma farid gloria hana ivan jana kofi lena marco nina oscar priya \
    rafael sofia tom ulrike vera walter yara zeno";

const TOPICS: &str = "the lake, salsa night, the flea market, climbing, the new ramen place, board games, \
    the open air cinema, swimming, the jazz bar, a bike tour, the museum, karaoke, yoga, the concert";

const FLIRTS: &str =
    "😉, ❤️, 🌹, nice smile!, your profile made my day, coffee?, we should talk more, wow 😍";

const CAPTIONS: &str =
    "{}, finally! | me and {} | last night: {} | {} ❤️ | who is in for {}? | no filter, just {}";

/// A conversation a line, said in turns.
const SCRIPTS: &str = "\
hey, how are you? | good! just back from {} | oh nice, how was it? | wonderful, a bit crowded 😅 | next time take me along | deal 🙂
are you free on Saturday? | I think so, why? | some of us are going to {} | count me in! | 4 pm at the station? | perfect, see you
did you see my photos? | of {}? they are amazing | thank you ☺️ | which camera is that? | just my old phone, honestly | no way
I cannot stop thinking about {} | again? 😂 | it was that good | then let's go back next week | really? | really.
good morning ☀️ | morning! slept well? | not much, {} went on until three | worth it? | absolutely
random question: {}, yes or no? | yes, always | right answer | do I win something? | a coffee, if you like | Thursday? | Thursday.
running ten minutes late, sorry! | no worries, I have a seat by the window | order me a tea please | done. and cake. | you are the best
my sister asked about {} | tell her it's closed on Mondays | too late, she is standing in front of it | oh no 🙈
what are you reading? | something about {}, you would hate it | try me | 600 pages, no dialogue | ok, you know me well
thanks for yesterday | I had not laughed like that in months | same time next week? | yes, but I choose the place | let me guess: {} | maybe 😏
do you still have my umbrella? | the green one? yes | I'd need it for {} | come and get it | tonight? | tonight works
guess who I met at {} | no idea | your old maths teacher! | did he remember me? | he said: the one who never stopped talking | fair";

#[cfg(test)]
mod tests {
    use std::collections::{HashMap, HashSet};

    use super::*;

    fn story(seed: u64, run: u64, ticks: usize) -> Vec<Act> {
        let mut site = Site::new(40, seed, run, 20.0);
        (0..ticks).flat_map(|_| site.tick()).collect()
    }

    fn events(acts: &[Act]) -> Vec<NewEvent> {
        acts.iter().cloned().filter_map(Act::into_event).collect()
    }

    #[test]
    fn the_seed_makes_the_story_and_the_run_makes_the_ids() {
        assert_eq!(story(1, 1, 500), story(1, 1, 500));
        assert_ne!(story(1, 1, 500), story(2, 1, 500));
        let (one, other) = (events(&story(1, 1, 500)), events(&story(1, 2, 500)));
        let ids: HashSet<_> = one.iter().chain(&other).map(|event| &event.id).collect();
        assert_eq!(ids.len(), one.len() + other.len());
        assert!(
            one.iter()
                .zip(&other)
                .all(|(a, b)| a.feeds == b.feeds && a.data == b.data)
        );
    }

    #[test]
    fn a_tick_is_about_one_event_of_every_kind_a_valid_one() {
        let acts = story(3, 3, 5_000);
        let events = events(&acts);
        assert!((4_900..=5_000).contains(&events.len()), "{}", events.len());
        let kinds: HashSet<_> = events.iter().map(|event| event.kind.as_str()).collect();
        assert_eq!(
            kinds,
            HashSet::from(["message", "visit", "flirt", "photo", "like"])
        );
        assert!(acts.iter().any(|act| matches!(act, Act::Read(_))));
        for event in &events {
            assert!((1..=100).contains(&event.feeds.len()) && event.id.len() <= 128);
            let name_ok = |name: &String| {
                name.bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || b":-".contains(&byte))
            };
            assert!(
                event.feeds.iter().chain(&event.actor).all(name_ok),
                "{event:?}"
            );
            let to_self = event.feeds.contains(event.actor.as_ref().unwrap());
            assert!(
                !to_self,
                "nobody hears of what they did themselves: {event:?}"
            );
        }
    }

    #[test]
    fn typing_comes_before_its_message_and_people_take_turns() {
        let mut typing: HashMap<String, Option<String>> = HashMap::new();
        for act in story(4, 4, 3_000) {
            match act {
                Act::Typing(transient) => {
                    let before = typing.insert(transient.feeds[1].clone(), transient.actor);
                    assert_eq!(before.flatten(), None, "one at a time types in a chat");
                }
                Act::Append(event) if event.kind == "message" => {
                    let (user, chat) = (&event.feeds[0], &event.feeds[1]);
                    assert_eq!(typing.insert(chat.clone(), None).flatten(), event.actor);
                    let names = [user, event.actor.as_ref().unwrap()]
                        .map(|feed| feed.strip_prefix("user:").unwrap());
                    assert_eq!(
                        chat,
                        &format!(
                            "chat:{}-{}",
                            names.iter().min().unwrap(),
                            names.iter().max().unwrap()
                        )
                    );
                    assert!(!event.data["text"].as_str().unwrap().contains("{}"));
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
            (0..100).for_each(|_| drop(site.tick()));
        }
    }

    #[test]
    fn the_rate_is_kept_and_a_stall_is_not_made_up_for() {
        let mut pace = Pace {
            rate: 20.0,
            played: 0.0,
        };
        let due: Vec<u32> = [0, 49, 50, 150, 1_150, 61_150, 61_200]
            .map(|ms| pace.ticks_due(Duration::from_millis(ms)))
            .into();
        assert_eq!(due, [0, 0, 1, 2, 20, 20, 1]);
    }

    #[test]
    fn arguments_are_checked() {
        assert_eq!("forever".parse(), Ok(LiveFor::Forever));
        assert_eq!("90".parse(), Ok(LiveFor::Seconds(90)));
        assert!("1m".parse::<LiveFor>().is_err() && "-1".parse::<LiveFor>().is_err());
        assert!(
            parse_rate("0").is_err() && parse_rate("NaN").is_err() && parse_rate("1001").is_err()
        );
        assert_eq!(parse_rate("0.5"), Ok(0.5));
    }
}
