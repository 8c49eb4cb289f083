//! Changing what is logged while the service runs.

use std::{
    fmt,
    str::FromStr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::task::AbortHandle;
use tracing_subscriber::{EnvFilter, filter::LevelFilter, reload};

/// Longest filter, in bytes.
pub const FILTER_BYTES_MAX: usize = 1024;
/// Longest time after which a filter falls back by itself, in s.
pub const FALL_BACK_SECONDS_MAX: u64 = 24 * 3600;

/// What is logged, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filter(String);

impl Filter {
    pub fn as_str(&self) -> &str {
        &self.0
    }

    pub(super) fn to_env_filter(&self) -> EnvFilter {
        EnvFilter::new(&self.0)
    }
}

impl FromStr for Filter {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.trim().is_empty() || text.len() > FILTER_BYTES_MAX {
            return Err(format!("a filter has 1 to {FILTER_BYTES_MAX} bytes"));
        }
        EnvFilter::builder()
            .parse(text)
            .map_err(|error| error.to_string())?;
        // A lone word that is no level would be taken for a module, all of which is logged, and nothing else.
        let lone = text.split(',').map(str::trim);
        let lone = lone.filter(|part| !part.contains(['=', '[', ']', '{', '}', '"']));
        match lone
            .into_iter()
            .find(|part| part.parse::<LevelFilter>().is_err())
        {
            Some(part) => Err(format!(
                "{part:?} is no level (error, warn, info, debug, trace, off); for a module write {part}=debug"
            )),
            None => Ok(Self(text.to_owned())),
        }
    }
}

/// What is logged now, and what it falls back to.
#[derive(Debug, Clone)]
pub struct Current {
    pub filter: Filter,
    /// The filter it was before, if this one is for a time only, and how much of that is left.
    pub falls_back: Option<(Filter, Duration)>,
}

/// The handle on the filter of the process; cheap to clone.
#[derive(Clone)]
pub struct LogControl(Arc<Inner>);

struct Inner {
    apply: Box<dyn Fn(EnvFilter) -> Result<(), reload::Error> + Send + Sync>,
    state: Mutex<State>,
}

struct State {
    filter: Filter,
    timer: Option<Timer>,
}

struct Timer {
    then: Filter,
    at: tokio::time::Instant,
    task: AbortHandle,
}

impl fmt::Debug for LogControl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("LogControl")
            .field(&self.0.state().filter)
            .finish()
    }
}

impl Inner {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl LogControl {
    /// `handle` is of the filter that is `filter` now.
    pub fn new<S: 'static>(filter: Filter, handle: reload::Handle<EnvFilter, S>) -> Self {
        Self(Arc::new(Inner {
            apply: Box::new(move |filter| handle.reload(filter)),
            state: Mutex::new(State {
                filter,
                timer: None,
            }),
        }))
    }

    pub fn current(&self) -> Current {
        let state = self.0.state();
        let falls_back = state.timer.as_ref().map(|timer| {
            let left = timer
                .at
                .saturating_duration_since(tokio::time::Instant::now());
            (timer.then.clone(), left)
        });
        Current {
            filter: state.filter.clone(),
            falls_back,
        }
    }

    /// Logs by `filter` from now on; with `time` only for so long, and then by the last filter that was set without.
    pub fn set(&self, filter: Filter, time: Option<Duration>) -> Result<Current, reload::Error> {
        let mut state = self.0.state();
        (self.0.apply)(filter.to_env_filter())?;
        let timer = state.timer.take();
        let lasting = match timer {
            Some(timer) => {
                timer.task.abort();
                timer.then
            }
            None => state.filter.clone(),
        };
        state.filter = filter;
        state.timer = time.map(|time| {
            let inner = Arc::downgrade(&self.0);
            let at = tokio::time::Instant::now() + time;
            let task = tokio::spawn(async move {
                tokio::time::sleep_until(at).await;
                if let Some(inner) = inner.upgrade() {
                    inner.fall_back(at);
                }
            });
            Timer {
                then: lasting,
                at,
                task: task.abort_handle(),
            }
        });
        drop(state);
        Ok(self.current())
    }
}

impl Inner {
    /// Ends the time of the filter that is due at `at`, unless another was set meanwhile.
    fn fall_back(&self, at: tokio::time::Instant) {
        let mut state = self.state();
        let Some(timer) = state.timer.take_if(|timer| timer.at == at) else {
            return;
        };
        if let Err(error) = (self.apply)(timer.then.to_env_filter()) {
            tracing::error!(%error, "the log filter cannot fall back");
        }
        state.filter = timer.then;
        drop(state);
        tracing::info!("the log filter has fallen back");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filter(text: &str) -> Filter {
        text.parse().expect("a filter")
    }

    #[test]
    fn a_filter_that_would_not_do_what_it_says_is_refused() {
        for good in [
            "info",
            "OFF",
            "info,newsfeed=debug",
            "newsfeed::live=trace",
            "[request{status=500}]=debug",
        ] {
            assert_eq!(filter(good).as_str(), good);
        }
        let long = "info,".repeat(300);
        for bad in [
            "",
            " ",
            "debgu",
            "info,newsfeed",
            "newsfeed=loud",
            "info,newsfeed=debug=info",
            &long,
        ] {
            assert!(bad.parse::<Filter>().is_err(), "{bad}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_filter_for_a_time_falls_back_to_the_last_that_was_set_without() {
        let (layer, handle) =
            reload::Layer::<_, tracing_subscriber::Registry>::new(EnvFilter::new("info"));
        let control = LogControl::new(filter("info"), handle.clone());
        let applied = || {
            handle
                .with_current(|filter| filter.to_string())
                .expect("there")
        };
        let minute = Duration::from_secs(60);

        control.set(filter("debug"), Some(minute)).expect("set");
        assert_eq!(applied(), "debug");
        tokio::time::advance(minute / 2).await;
        // Another for a time: the first's end does not end it.
        let current = control.set(filter("trace"), Some(minute)).expect("set");
        assert_eq!(current.falls_back, Some((filter("info"), minute)));
        tokio::time::sleep(minute * 3 / 4).await;
        assert_eq!(applied(), "trace");
        tokio::time::sleep(minute / 2).await;
        assert_eq!(
            (applied().as_str(), control.current().falls_back),
            ("info", None)
        );

        // One that lasts takes the place of one that does not.
        control.set(filter("debug"), Some(minute)).expect("set");
        control.set(filter("warn"), None).expect("set");
        tokio::time::sleep(minute * 2).await;
        assert_eq!(
            (applied().as_str(), control.current().filter),
            ("warn", filter("warn"))
        );
        drop(layer);
    }
}
