//! The log line of a service that has started: which program, where, and with which settings.

use newsfeed::{
    config::{Config, Engine, Opened, check},
    store::{self, epoch},
};

use crate::Given;

/// `urls` are the addresses that the service listens on.
pub async fn log(
    config: &Config,
    given: &Given<'_>,
    opened: &Opened,
    urls: &str,
) -> store::Result<()> {
    let epoch = epoch::current(&*opened.store).await?;
    let (engine, folder, cluster_file) = match config.store.store {
        Engine::Embedded => ("embedded", Some(config.store.data.display()), None),
        Engine::Fdb => ("fdb", None, Some(config.store.cluster_file.display())),
    };
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        addresses = urls,
        tls = config.transport.tls_cert.is_some(),
        engine,
        folder = folder.map(tracing::field::display),
        cluster_file = cluster_file.map(tracing::field::display),
        epoch,
        format = opened.keys.format(),
        settings = check::changed(given.command, given.matches, given.origins),
        "started"
    );
    Ok(())
}
