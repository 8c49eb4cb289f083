//! Audiences: who is given what, at which cost, and while subscribers come and go.

use std::{
    collections::{HashMap, HashSet},
    pin::pin,
    task::{Context, Poll, Waker},
};

use futures_util::FutureExt;
use proptest::{collection::vec, prelude::*, sample::subsequence};

use super::*;

/// A hub and the budget of its rounds, which are driven by hand.
struct Rounds {
    hub: Arc<Hub>,
    budget: WorkBudget,
}

impl Rounds {
    /// `units` of work between two yields.
    fn yielding_every(units: usize) -> Self {
        Self {
            hub: Hub::new(Keys::before_opening(b""), Arc::default()),
            budget: WorkBudget::yielding_every(units),
        }
    }

    fn subscribe(&self, feeds: &[FeedName]) -> Subscription {
        self.hub.subscribe(feeds.to_vec()).expect("room")
    }

    /// A round that dispatches an entry at each of `times`, named by its feeds. Calls `meanwhile` whenever the round yields,
    /// and returns how often that was.
    fn round(
        &mut self,
        entries: &[(u64, Vec<FeedName>)],
        moment: u64,
        mut meanwhile: impl FnMut(),
    ) -> usize {
        let (hub, budget) = (&self.hub, &mut self.budget);
        let mut round = pin!(async {
            let (_, joining) = hub.begin_round(budget).await;
            for (time, feeds) in entries {
                hub.dispatch(&entry(*time, 1), feeds, News::Entry, budget)
                    .await;
            }
            let moment = Version::moment(0, moment);
            hub.end_round(joining, moment, budget).await;
        });
        let mut yields = 0;
        let mut context = Context::from_waker(Waker::noop());
        while round.as_mut().poll(&mut context) == Poll::Pending {
            yields += 1;
            meanwhile();
        }
        yields
    }
}

fn names(count: usize) -> Vec<FeedName> {
    let name = |index| format!("f{index}").parse().expect("a name");
    (0..count).map(name).collect()
}

fn take(subscription: &mut Subscription) -> Vec<Arc<Item>> {
    match subscription.receive().now_or_never() {
        Some(Received::Items(items)) => items,
        Some(_) => panic!("the subscriber lags"),
        None => Vec::new(),
    }
}

fn has_joined(subscription: &mut Subscription) -> bool {
    subscription.joined().now_or_never().flatten().is_some()
}

/// The time of an entry and the feeds that it was found in.
fn located(item: &Item) -> (u64, Vec<FeedName>) {
    let News::Entry(located) = &item.news else {
        panic!("{item:?}");
    };
    let feeds = match &located.feeds[..] {
        [] => vec![located.feed.clone()],
        several => several.to_vec(),
    };
    assert_eq!(feeds.first(), Some(&located.feed));
    (located.entry.version.time(), feeds)
}

#[derive(Debug, Clone)]
enum Step {
    Subscribe(Vec<FeedName>),
    Leave(usize),
}

fn any_feeds() -> impl Strategy<Value = Vec<FeedName>> {
    subsequence(names(6), 1..=6).prop_shuffle()
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => any_feeds().prop_map(Step::Subscribe),
        1 => any::<usize>().prop_map(Step::Leave),
    ]
}

proptest! {
    /// Whatever subscribers come and go, between rounds and while one is dispatched: each gets every entry above the round
    /// with which it joined once, in order, with exactly those of its feeds that hold it, in its order. Those who get an
    /// entry through the same feeds share one item. The tables are empty when all have left.
    #[test]
    fn every_subscriber_gets_each_entry_once_with_its_feeds_in_its_order(
        rounds in vec((vec(any_feeds(), 0..4), vec(any_step(), 0..3), vec(any_step(), 0..8)), 1..8),
        units in 1..20usize,
    ) {
        struct Expecting {
            subscription: Subscription,
            feeds: Vec<FeedName>,
            joined: bool,
            entries: Vec<(u64, Vec<FeedName>)>,
        }

        let mut driven = Rounds::yielding_every(units);
        let hub = Arc::clone(&driven.hub);
        let mut all: Vec<Expecting> = Vec::new();
        let step = |all: &mut Vec<Expecting>, step| match step {
            Step::Subscribe(feeds) => all.push(Expecting {
                subscription: hub.subscribe(feeds.clone()).expect("room"),
                feeds,
                joined: false,
                entries: Vec::new(),
            }),
            Step::Leave(which) if !all.is_empty() => {
                all.remove(which % all.len());
            }
            Step::Leave(_) => {}
        };
        let mut time = 0;
        for (entries, before, during) in rounds {
            before.into_iter().for_each(|next| step(&mut all, next));
            let entries: Vec<_> = entries.into_iter().map(|feeds| {
                time += 1;
                (time, feeds)
            }).collect();
            for expecting in all.iter_mut().filter(|expecting| expecting.joined) {
                for (time, feeds) in &entries {
                    let own = expecting.feeds.iter().filter(|feed| feeds.contains(feed));
                    let own: Vec<_> = own.cloned().collect();
                    if !own.is_empty() {
                        expecting.entries.push((*time, own));
                    }
                }
            }
            all.iter_mut().for_each(|expecting| expecting.joined = true);
            let mut during = during.into_iter();
            driven.round(&entries, time, || {
                if let Some(next) = during.next() {
                    step(&mut all, next);
                }
            });
            let mut shared: HashMap<(u64, Vec<FeedName>), Arc<Item>> = HashMap::new();
            for expecting in &mut all {
                prop_assert_eq!(has_joined(&mut expecting.subscription), expecting.joined);
                let items = take(&mut expecting.subscription);
                let found: Vec<_> = items.iter().map(|item| located(item)).collect();
                prop_assert_eq!(&found, &std::mem::take(&mut expecting.entries));
                for (located, item) in found.into_iter().zip(items) {
                    let first = shared.entry(located).or_insert_with(|| Arc::clone(&item));
                    prop_assert!(Arc::ptr_eq(first, &item));
                }
            }
        }
        drop(all);
        prop_assert_eq!(hub.board().sizes(), (0, 0));
        prop_assert!(hub.board().partitions(&hub.keys).is_empty());
    }
}

/// Renders everything that is queued for the subscriptions. Returns how many items there were, and how many of them had to
/// be rendered.
fn render(subscriptions: &mut [Subscription]) -> (usize, usize) {
    let (mut items, mut rendered) = (0, 0);
    for item in subscriptions.iter_mut().flat_map(take) {
        items += 1;
        item.rendered(|_| {
            rendered += 1;
            "frame".into()
        });
    }
    (items, rendered)
}

/// Many streams on the same many feeds: an entry in all of the feeds is matched once and rendered once, and costs each
/// stream one push.
#[test]
fn the_cost_of_an_entry_grows_with_its_feeds_plus_its_subscribers() {
    const ENTRIES: usize = 15;
    let cost = |feeds: usize, subscribers: usize| {
        let mut driven = Rounds::yielding_every(100);
        let feeds = names(feeds);
        let subscribe = |_| driven.subscribe(&feeds);
        let mut subscriptions: Vec<_> = (0..subscribers).map(subscribe).collect();
        driven.round(&[], 0, || {});
        assert_eq!(driven.hub.board().sizes(), (1, feeds.len()));
        let entries: Vec<_> = (1..=ENTRIES as u64)
            .map(|time| (time, feeds.clone()))
            .collect();
        let yields = driven.round(&entries, ENTRIES as u64, || {});
        let counts = render(&mut subscriptions);
        assert_eq!(counts, (ENTRIES * subscribers, ENTRIES));
        yields
    };
    let (feeds, subscribers) = (cost(100, 1), cost(1, 1_000));
    let both = cost(100, 1_000);
    assert!(
        both <= feeds + subscribers + 2,
        "{both} > {feeds} + {subscribers}"
    );
}

/// Overlapping feeds, in another order for each stream: the worst case. What they share is shared, and nothing is left of
/// them when they have gone.
#[test]
fn many_different_audiences_share_what_they_can_and_leave_nothing_behind() {
    let mut driven = Rounds::yielding_every(1_000);
    let feeds = names(100);
    let rotated = |by: usize| {
        let mut feeds = feeds.clone();
        feeds.rotate_left(by);
        feeds
    };
    let mut subscriptions: Vec<_> = (0..300)
        .map(|index| driven.subscribe(&rotated(index % 100)))
        .collect();
    driven.round(&[], 0, || {});
    assert_eq!(driven.hub.board().sizes(), (100, 100 * 100));
    driven.round(&[(1, feeds[7..8].to_vec())], 1, || {});
    assert_eq!(render(&mut subscriptions), (300, 1));
    driven.round(&[(2, feeds.clone())], 2, || {});
    assert_eq!(render(&mut subscriptions), (300, 100));
    // Only the audience that begins with the second of these feeds has them in the other order.
    driven.round(&[(3, feeds[..2].to_vec())], 3, || {});
    assert_eq!(render(&mut subscriptions), (300, 2));
    // The names are held once for each audience.
    let held: HashSet<_> = subscriptions.iter().map(|it| it.feeds().as_ptr()).collect();
    assert_eq!(held.len(), 100);
    subscriptions.truncate(100);
    assert_eq!(driven.hub.board().sizes(), (100, 100 * 100));
    subscriptions.truncate(1);
    assert_eq!(driven.hub.board().sizes(), (1, 100));
    // Those who leave before they have joined leave nothing either.
    drop(driven.subscribe(&rotated(5)));
    assert_eq!(driven.hub.board().sizes(), (1, 100));
    subscriptions.clear();
    assert_eq!(driven.hub.board().sizes(), (0, 0));
    assert!(driven.hub.board().partitions(&driven.hub.keys).is_empty());
}

/// The board is not locked while a round yields: streams come and go then. Who comes joins with the next round, and who
/// stays gets everything once, wherever the walk over its audience was interrupted.
#[test]
fn subscribers_come_and_go_while_a_large_audience_is_given_an_entry() {
    let mut driven = Rounds::yielding_every(1);
    let hub = Arc::clone(&driven.hub);
    let feeds = names(2);
    let mut old: Vec<_> = (0..2_000).map(|_| driven.subscribe(&feeds)).collect();
    driven.round(&[], 1, || {});
    let mut new = Vec::new();
    let yields = driven.round(&[(2, feeds.clone()), (3, feeds.clone())], 3, || {
        new.push(hub.subscribe(feeds.clone()).expect("room"));
        // Some have been given the entry, and some have not.
        old.remove(0);
        old.pop();
        old.remove(old.len() / 2);
        // The round has not ended: it is not known yet that nothing else comes.
        assert_eq!(hub.board().moment, Some(Version::moment(0, 1)));
    });
    assert!(yields > 10, "{yields}");
    assert_eq!(old.len(), 2_000 - 3 * yields);
    for subscription in &mut old {
        let times: Vec<_> = take(subscription)
            .iter()
            .map(|item| located(item).0)
            .collect();
        assert_eq!(times, [2, 3]);
    }
    for subscription in &mut new {
        assert!(!has_joined(subscription));
        assert!(take(subscription).is_empty());
    }
    driven.round(&[(4, feeds.clone())], 4, || {});
    driven.round(&[(5, feeds.clone())], 5, || {});
    for subscription in &mut new {
        let joined = subscription.joined().now_or_never().flatten();
        assert_eq!(joined, Some(Version::moment(0, 4)));
        let times: Vec<_> = take(subscription)
            .iter()
            .map(|item| located(item).0)
            .collect();
        assert_eq!(times, [5]);
    }
}

/// A queue is bounded by what it holds, and the names of many feeds are most of an entry without data.
#[test]
fn the_names_of_the_feeds_count_towards_the_bytes_of_a_queue_in_equal_shares() {
    let mut driven = Rounds::yielding_every(1_000);
    let name = |index| format!("{index:0>255}").parse().expect("a name");
    let feeds: Vec<FeedName> = (0..100).map(name).collect();
    let mut subscription = driven.subscribe(&feeds);
    driven.round(&[], 0, || {});
    let entries = |times: std::ops::RangeInclusive<u64>| -> Vec<_> {
        times.map(|time| (time, feeds.clone())).collect()
    };
    driven.round(&entries(1..=2), 2, || {});
    assert_eq!(take(&mut subscription).len(), 2);
    driven.round(&entries(3..=5), 5, || {});
    let received = subscription.receive().now_or_never();
    assert!(matches!(received, Some(Received::Lagged)));
    // Those who listen to the same feeds share the names.
    let mut others: Vec<_> = (1..100).map(|_| driven.subscribe(&feeds)).collect();
    others.push(subscription);
    driven.round(&[], 5, || {});
    driven.round(&entries(6..=100), 100, || {});
    assert!(others.iter_mut().all(|other| take(other).len() == 95));
}
