//! A node: its parts, and the order in which they start and stop.

use std::{sync::Arc, time::Duration};

use tokio::sync::Semaphore;
use tokio::{
    task::JoinHandle,
    time::{Instant, timeout_at},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    append::{self, Appender},
    auth::Auth,
    clock::{AtClock, WallTime},
    feed::Feeds,
    http::{
        Acceptor, App, Deliveries, Edge, Health, Listener, Listeners, PageCache, Tasks,
        base_path::BasePath,
        cors::Cors,
        hosts::Hosts,
        limits::{Limits, Quotas},
        openapi_under,
        proxies::Proxies,
    },
    lifecycle::{
        self, Lifecycle,
        retention::{self, Retention},
    },
    live::{Hub, run_tailer, trim_transients},
    logging::LogControl,
    metrics::Metrics,
    projection,
    store::{self, Store, keys::Keys},
    times,
    tls::Tls,
};

/// The settings of a node.
#[derive(Debug, Clone)]
pub struct Settings {
    /// `None`: requests need no token.
    pub auth: Option<Arc<Auth>>,
    pub base_path: BasePath,
    pub deliveries: Deliveries,
    pub projections: projection::Settings,
    pub retention: Retention,
    /// The wall clock for `at`.
    pub wall: WallTime,
    /// Minimum time from the start of one round of live delivery to the start of the next.
    pub tail_gap: Duration,
    pub appends: append::Tuning,
    pub cors: Cors,
    pub hosts: Hosts,
    pub proxies: Proxies,
    pub limits: Limits,
    /// Above this lag of live delivery the node is not ready.
    pub ready_lag_max: Duration,
    /// The log filter, if it can be changed at run time.
    pub log: Option<LogControl>,
    pub drain: Drain,
}

/// How a node shuts down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Drain {
    /// From "not ready" to the end of accepting connections.
    pub delay: Duration,
    /// Longest time from there to the end of [`Node::serve`].
    pub time: Duration,
}

/// A running node without its listening sockets.
pub struct Node {
    app: App,
    edge: Edge,
    store: Arc<dyn Store>,
    proxies: Arc<Proxies>,
    tls: Option<Arc<Tls>>,
    batcher: JoinHandle<()>,
    background: TaskTracker,
    stop_background: CancellationToken,
    drain: Drain,
}

impl Node {
    pub fn start(store: Arc<dyn Store>, keys: Keys, settings: Settings) -> store::Result<Self> {
        let clock = AtClock::new(settings.wall.clone()).map_err(|error| {
            store::Error::Open(format!("the system clock cannot be used: {error}"))
        })?;
        let clock = Arc::new(clock);
        let metrics = Arc::new(Metrics::default());
        let tracker = TaskTracker::new();
        let (appender, batcher) = Appender::start(
            Arc::clone(&store),
            keys.clone(),
            Arc::clone(&clock),
            settings.appends,
            tracker.clone(),
            Arc::clone(&metrics),
        );
        let (twins, unread) = (metrics.twins.clone(), metrics.unread.clone());
        let feeds = Feeds::counting(Arc::clone(&store), keys.clone(), twins, unread);
        let lifecycle = Lifecycle::new(Arc::clone(&store), keys.clone(), Arc::clone(&metrics));
        let hub = Hub::new(keys.clone(), Arc::clone(&metrics));
        let stop_background = CancellationToken::new();
        let background = TaskTracker::new();
        let tailer = background.spawn(run_tailer(
            Arc::clone(&store),
            keys.clone(),
            feeds.clone(),
            Arc::clone(&hub),
            settings.tail_gap,
            stop_background.clone(),
        ));
        let janitor = background.spawn({
            let (store, keys, stop) = (Arc::clone(&store), keys.clone(), stop_background.clone());
            async move { trim_transients(&*store, &keys, stop).await }
        });
        let times = background.spawn({
            let (store, keys, stop) = (Arc::clone(&store), keys.clone(), stop_background.clone());
            let wall = settings.wall.clone();
            async move { times::record(&*store, &keys, &wall, stop).await }
        });
        let erasures = background.spawn(lifecycle::run_worker(
            lifecycle.clone(),
            stop_background.clone(),
        ));
        let projects = !settings.projections.projections.is_empty();
        let projections = background.spawn(projection::run(
            Arc::clone(&store),
            keys.clone(),
            settings.projections,
            Arc::clone(&metrics),
            stop_background.clone(),
        ));
        let removes = !settings.retention.keeps_everything();
        let retention = background.spawn(retention::run(
            Arc::clone(&store),
            keys.clone(),
            settings.retention,
            settings.wall.clone(),
            Arc::clone(&metrics),
            stop_background.clone(),
        ));
        if let Some(auth) = settings.auth.clone() {
            let stop = stop_background.clone();
            background.spawn(async move { auth.watch(stop).await });
        }
        let quotas = Quotas::new(settings.limits, &metrics);
        background.spawn({
            let (quotas, stop) = (Arc::clone(&quotas), stop_background.clone());
            async move { quotas.sweep(stop).await }
        });
        let tasks = Tasks::default();
        tasks.watch("tailer", tailer.abort_handle());
        tasks.watch("janitor", janitor.abort_handle());
        tasks.watch("times", times.abort_handle());
        tasks.watch("erasures", erasures.abort_handle());
        if projects {
            tasks.watch("projections", projections.abort_handle());
        }
        if removes {
            tasks.watch("retention", retention.abort_handle());
        }
        let app = App {
            auth: settings.auth,
            openapi: openapi_under(&settings.base_path),
            base_path: settings.base_path,
            deliveries: Arc::new(settings.deliveries),
            appender,
            feeds,
            pages: Arc::new(PageCache::new(metrics.pages.clone())),
            lifecycle,
            hub,
            health: Health::new(Arc::clone(&store), keys, tasks, settings.ready_lag_max),
            metrics,
            store: Arc::clone(&store),
            backing_up: Arc::new(Semaphore::new(1)),
            log: settings.log,
            wall: settings.wall,
            tracker,
            stopping: CancellationToken::new(),
        };
        let edge = Edge {
            quotas,
            cors: settings.cors,
            hosts: settings.hosts,
        };
        Ok(Self {
            app,
            edge,
            store,
            proxies: Arc::new(settings.proxies),
            tls: None,
            batcher,
            background,
            stop_background,
            drain: settings.drain,
        })
    }

    /// Serves HTTPS instead of HTTP if `tls` is given, except on unix sockets.
    pub fn over(mut self, tls: Option<Arc<Tls>>) -> Self {
        if let Some(tls) = &tls {
            let watch = Arc::clone(tls).watch(self.stop_background.clone());
            self.background.spawn(watch);
        }
        self.tls = tls;
        self
    }

    /// Serves `listeners` until `shutdown`, then stops in this order:
    ///
    /// 1. The node reports that it is not ready, and continues to serve for the drain delay.
    /// 2. It accepts no more connections, and removes the files of unix sockets.
    /// 3. Streams end with `bye`, and requests in progress are answered. Clients have half of the drain time to
    ///    receive their responses.
    /// 4. Work that outlives its request ends, and queued appends commit. They have until three quarters of the time.
    /// 5. Background tasks end and the store closes.
    ///
    /// A step that takes too long is abandoned, which has the effect of a crash: nothing that was acknowledged is lost.
    pub async fn serve(self, listeners: Vec<Listener>, shutdown: CancellationToken) {
        let Self {
            app,
            mut edge,
            store,
            proxies,
            tls,
            batcher,
            background,
            stop_background,
            drain,
        } = self;
        let addresses = listeners.iter().filter_map(Listener::address);
        edge.hosts.listening(addresses, app.auth.is_some());
        let acceptor = Acceptor::new(&app, &edge, proxies, tls);
        let connections = acceptor.connections();
        let mut listeners = Listeners::new(listeners);
        let told_to_stop = async {
            shutdown.cancelled().await;
            app.health.leaving.cancel();
            tracing::info!(delay = ?drain.delay, "draining: not ready any more");
            tokio::time::sleep(drain.delay).await;
        };
        tokio::select! {
            // Accepting comes first, so that connections which the kernel has accepted already are served.
            biased;
            () = acceptor.run(&mut listeners) => {}
            () = told_to_stop => {}
        }
        drop(listeners);

        let Drain { time, .. } = drain;
        let began = Instant::now();
        let [clients_until, appends_until, end_at] =
            [time / 2, time * 3 / 4, time].map(|t| began + t);
        tracing::info!(streams = app.hub.subscribers(), ?time, "stopping");
        app.stopping.cancel();
        app.hub.close();
        if !connections.drain(clients_until).await {
            tracing::warn!(
                "connections closed: their clients did not take their responses in time"
            );
        }

        app.tracker.close();
        let requests = timeout_at(appends_until, app.tracker.wait()).await;
        if requests.is_err() {
            tracing::warn!(
                "requests abandoned: they did not end in time; events without a response may or may not be appended"
            );
        }
        // The batcher ends when the last `Appender` is dropped.
        drop(app);
        if timeout_at(appends_until, batcher).await.is_err() {
            tracing::warn!(
                "appends abandoned: they did not commit in time and were not acknowledged"
            );
        }

        stop_background.cancel();
        background.close();
        let closed = async {
            background.wait().await;
            store.close().await;
        };
        match timeout_at(end_at, closed).await {
            Ok(()) => tracing::info!("stopped"),
            Err(_elapsed) => tracing::warn!(
                "stopped before the store was closed; all acknowledged events are in it"
            ),
        }
    }
}
