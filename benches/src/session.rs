//! A run with readers: they connect, events are appended on schedule, each channel gets a closing event, and what the
//! readers received is checked.

use std::{sync::Arc, time::Duration};

use super::error::Error;
use super::{
    append::channels,
    fleet::{Fleet, Follower, Habit, ReadMode, Readers},
    ledger::{Acknowledged, Channel},
    plan::Plan,
    run::{Run, with_progress},
    schedule::Schedule,
    summary::Summary,
    target::Dialer,
    writers::{Writers, get},
};
use serde_json::Value;

pub struct Session {
    pub command: &'static str,
    pub parameters: Value,
    pub plan: Plan,
    pub schedule: Arc<Schedule>,
    /// Events per append.
    pub batch: u16,
    /// Number of connections that append.
    pub connections: u32,
    /// Number of other connections, for the limit on open files.
    pub other_connections: u32,
    /// Reader `n` follows channel `follows[n]` of the plan.
    pub follows: Vec<usize>,
    /// Number of additional readers, of feeds to which nothing is appended.
    pub idle: u32,
    /// Number of additional readers, of the log of the service.
    pub log_readers: u32,
    /// Additional readers, which read slowly or not at all until the load is over.
    pub laggards: Vec<Follower>,
    pub mode: ReadMode,
    /// How long after the start all readers drop their connections.
    pub storm: Option<Duration>,
    /// How long after the last append to wait for deliveries while there are none.
    pub silence_max: Duration,
}

/// A session whose readers are connected.
pub struct Opened {
    session: Session,
    pub dialer: Arc<Dialer>,
    pub plan: Arc<Plan>,
    writers: Arc<Writers>,
    fleet: Arc<Fleet>,
    readers: Readers,
}

impl Session {
    pub async fn open(mut self, run: &Run) -> Result<Opened, Error> {
        let additional = (self.idle + self.log_readers) as usize;
        let readers = self.follows.len() + additional + self.laggards.len();
        let connections = readers + (self.connections + self.other_connections) as usize;
        let dialer = run.dialer(connections).await?;
        let empty = Plan::spread("", 0, 1, 1, None);
        let plan = Arc::new(std::mem::replace(&mut self.plan, empty));
        let mut channels = channels(&plan);
        let prompt = |channel| Follower {
            channel,
            habit: Habit::Prompt,
        };
        let mut followers: Vec<Follower> = self.follows.iter().copied().map(prompt).collect();
        followers.extend(&self.laggards);
        for idle in 0..self.idle {
            let feed = plan.feed(format_args!("idle:{idle}"));
            followers.push(prompt(channels.len()));
            channels.push(Arc::new(Channel::new(channels.len(), vec![feed])));
        }
        if self.log_readers > 0 {
            let log = channels.len();
            let (feed, all) = (plan.feed("log"), plan.feed('*'));
            followers.extend((0..self.log_readers).map(|_| prompt(log)));
            channels.push(Arc::new(Channel::of_log(log, feed, all)));
        }
        let (schedule, batch) = (&self.schedule, self.batch);
        let writers = Writers::new(
            Arc::clone(&dialer),
            Arc::clone(&plan),
            Arc::clone(schedule),
            batch,
        );
        let fleet = Fleet::new(
            Arc::clone(&dialer),
            Arc::clone(&plan),
            Arc::clone(schedule),
            batch,
            channels,
        );
        let so_far = || {
            let ready = get(&fleet.counts.ready);
            (ready, format!("{ready} of {readers} readers connected"))
        };
        let opening = fleet.open(&followers, self.mode);
        let mut readers = with_progress(readers as u64, so_far, opening).await?;
        readers.watched(run.readers_are_ready()).await?;
        Ok(Opened {
            session: self,
            dialer,
            plan,
            writers,
            fleet,
            readers,
        })
    }
}

impl Opened {
    pub async fn measure(self, run: &Run) -> Result<Summary, Error> {
        let Self {
            session,
            plan,
            writers,
            fleet,
            mut readers,
            ..
        } = self;
        let schedule = &session.schedule;
        let storm = async {
            let stormed = match session.storm {
                Some(after) => run.sleep(after).await,
                None => false,
            };
            if stormed {
                fleet.storm().await;
            }
            stormed
        };
        let work = async { tokio::join!(writers.run(session.connections), storm) };
        let so_far = || format!("{}; {}", writers.so_far(), fleet.so_far());
        let work = run.load(schedule, so_far, work);
        let (sent, stormed) = readers.watched(work).await?;
        let sent = sent?;
        let elapsed = schedule.elapsed();

        let laggards = session.laggards.len() as u64;
        let mut followed = session.follows;
        let log = fleet.channels.len() - 1;
        followed.extend((0..session.log_readers).map(|_| log));
        let all = followed.len() as u64 + u64::from(session.idle) + laggards;
        let prompt = followed.len() as u64;
        followed.extend(session.laggards.iter().map(|laggard| laggard.channel));
        let rest = async {
            let mut followed = followed.clone();
            followed.sort_unstable();
            followed.dedup();
            let followed: Vec<Arc<Channel>> = followed
                .into_iter()
                .map(|index| Arc::clone(&fleet.channels[index]))
                .collect();
            writers.close(&followed).await?;
            fleet.drained(prompt, session.silence_max).await;
            fleet.resume();
            fleet.caught_up(laggards, session.silence_max).await;
            if stormed {
                fleet.recovered(all, session.silence_max).await;
            }
            Ok::<_, Error>(())
        };
        readers.watched(rest).await??;

        let appended = sent.len() as f64;
        let acknowledged = match fleet.channels[log].is_log() {
            true => Acknowledged::new(&plan, log, sent).with_log(),
            false => Acknowledged::new(&plan, fleet.channels.len(), sent),
        };
        let expected: usize = followed
            .iter()
            .map(|channel| acknowledged.of(*channel).len())
            .sum();
        let faults = fleet.audit(readers, &acknowledged).await?;
        let late = get(&fleet.counts.delivered_late);
        let delivered = get(&fleet.counts.delivered) - late;
        let mut counts = writers.counts();
        counts.push(("readers", all));
        counts.push(("deliveries_expected", expected as u64));
        counts.extend(fleet.counts());
        if laggards > 0 {
            counts.push(("delivered_late", late));
            counts.push(("closed_by_service", get(&fleet.counts.closed_by_service)));
        }
        let seconds = elapsed.as_secs_f64();
        let mut parameters = session.parameters;
        parameters["urls"] = serde_json::json!(run.common.url);
        let mut summary = Summary {
            command: session.command,
            run: plan.run().to_owned(),
            parameters,
            closed_loop: false,
            interrupted: run.interrupted(),
            elapsed,
            counts,
            figures: vec![
                ("appended_per_second", appended / seconds),
                ("delivered_per_second", delivered as f64 / seconds),
            ],
            latencies: Vec::new(),
            faults,
            used: run.used(),
            per: vec![("append", appended as u64), ("delivery", delivered)],
            readers: all,
        };
        if stormed {
            let recovery = fleet.recovery.latencies();
            summary.counts.push(("whole_again", recovery.all.len()));
            let until_all = recovery.all.max() as f64 / 1e6;
            summary.figures.push(("all_whole_after_seconds", until_all));
        }
        for recorder in [
            &fleet.delivery,
            &fleet.log_delivery,
            &fleet.recovery,
            &fleet.catch_up,
            &writers.append,
            &writers.start_lag,
        ] {
            summary.measured(recorder);
        }
        Ok(summary)
    }
}
