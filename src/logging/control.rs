//! Changes the log filter while the service runs.

use std::{
    fmt,
    str::FromStr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::task::AbortHandle;
use tracing_subscriber::{
    EnvFilter,
    filter::{Builder, LevelFilter},
    reload,
};

/// Maximum length of a filter, in bytes.
pub const FILTER_BYTES_MAX: usize = 1024;
/// Maximum duration of a temporary filter, in s.
pub const FALL_BACK_SECONDS_MAX: u64 = 24 * 3600;

/// A valid log filter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filter(String);

impl Filter {
    pub fn as_str(&self) -> &str {
        &self.0
    }

    pub(super) fn to_env_filter(&self) -> EnvFilter {
        builder().parse_lossy(&self.0)
    }
}

/// Values of fields are compared as they are. As regular expressions, some would take exponential time to match.
fn builder() -> Builder {
    EnvFilter::builder().with_regex(false)
}

impl FromStr for Filter {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.trim().is_empty() || text.len() > FILTER_BYTES_MAX {
            return Err(format!("a filter must have 1 to {FILTER_BYTES_MAX} bytes"));
        }
        builder().parse(text).map_err(|error| error.to_string())?;
        // A single word that is not a level would be taken as the name of a module, and enable that module only.
        let lone = text.split(',').map(str::trim);
        let lone = lone.filter(|part| !part.contains(['=', '[', ']', '{', '}', '"']));
        match lone
            .into_iter()
            .find(|part| part.parse::<LevelFilter>().is_err())
        {
            Some(part) => Err(format!(
                "{part:?} is not a level (error, warn, info, debug, trace, off); to set the level of a module, write {part}=debug"
            )),
            None => Ok(Self(text.to_owned())),
        }
    }
}

/// The present log filter.
#[derive(Debug, Clone)]
pub struct Current {
    pub filter: Filter,
    /// For a temporary filter: the filter that will be restored, and the time until then.
    pub falls_back: Option<(Filter, Duration)>,
}

/// The handle on the log filter of the process; cheap to clone.
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
    /// `handle` reloads the filter, which is `filter` now.
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

    /// Sets the filter. With `time` it is temporary: afterwards the last filter that was set without `time` is restored.
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
    /// Ends the temporary filter that expires at `at`, unless another filter has been set since.
    fn fall_back(&self, at: tokio::time::Instant) {
        let mut state = self.state();
        let Some(timer) = state.timer.take_if(|timer| timer.at == at) else {
            return;
        };
        if let Err(error) = (self.apply)(timer.then.to_env_filter()) {
            tracing::error!(%error, "cannot restore the log filter");
        }
        state.filter = timer.then;
        drop(state);
        tracing::info!("the temporary log filter has expired; the previous one is restored");
    }
}

#[cfg(test)]
mod tests {
    use tracing_subscriber::{layer::SubscriberExt, util::SubscriberInitExt};

    use super::*;

    fn filter(text: &str) -> Filter {
        text.parse().expect("a filter")
    }

    #[test]
    fn invalid_and_misleading_filters_are_refused() {
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

    #[test]
    fn values_of_fields_are_no_regular_expressions() {
        for (value, shown) in [("/v1/.*", false), ("/v1/events", true)] {
            let filter = filter(&format!("[request{{route={value:?}}}]=debug"));
            let _in_use = tracing_subscriber::registry()
                .with(filter.to_env_filter())
                .set_default();
            let _request = tracing::info_span!("request", route = "/v1/events").entered();
            assert_eq!(tracing::enabled!(tracing::Level::DEBUG), shown, "{value}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn after_temporary_filters_the_last_permanent_one_is_restored() {
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
        // A second temporary filter: the expiry of the first does not end it.
        let current = control.set(filter("trace"), Some(minute)).expect("set");
        assert_eq!(current.falls_back, Some((filter("info"), minute)));
        tokio::time::sleep(minute * 3 / 4).await;
        assert_eq!(applied(), "trace");
        tokio::time::sleep(minute / 2).await;
        assert_eq!(
            (applied().as_str(), control.current().falls_back),
            ("info", None)
        );

        // A permanent filter replaces a temporary one.
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
