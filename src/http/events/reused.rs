//! `id_reused` names the version of the event that has the id already. That event may be in feeds that the caller must
//! not know about, so the version is left out unless the caller may read one of them.

use crate::{
    append::Outcome,
    error::Error,
    feed::Reader,
    http::{App, access::Granted},
    types::EventId,
    version::Version,
};

/// Most events of one array, or of one chunk of NDJSON, that are looked up to tell their versions.
pub const REUSED_LOOKED_UP_MAX: usize = 16;

/// Removes the versions that the caller may not know from `outcomes`.
pub async fn conceal(
    app: &App,
    granted: &Granted,
    reader: Reader,
    outcomes: &mut [(EventId, Outcome)],
) {
    if granted.reads_all() {
        return;
    }
    let reused = outcomes
        .iter_mut()
        .filter_map(|(_, outcome)| match outcome {
            Outcome::Rejected(Error::IdReused { id, version }) => Some((&*id, version)),
            _ => None,
        });
    for (index, (id, told)) in reused.enumerate() {
        let Some(version) = told.take() else { continue };
        if index < REUSED_LOOKED_UP_MAX && may_read(app, granted, reader, id, version).await {
            *told = Some(version);
        }
    }
}

/// As [`conceal`], for the error of an atomic append.
pub async fn conceal_error(app: &App, granted: &Granted, reader: Reader, error: &mut Error) {
    if let Error::IdReused { id, version: told } = error
        && let Some(version) = *told
        && !granted.reads_all()
        && !may_read(app, granted, reader, id, version).await
    {
        *told = None;
    }
}

/// Whether the caller may read a feed of the event. Not if that cannot be found out.
async fn may_read(
    app: &App,
    granted: &Granted,
    reader: Reader,
    id: &EventId,
    version: Version,
) -> bool {
    if !granted.reads_some() {
        return false;
    }
    let feeds = async {
        let feeds = app.feeds.of(reader).turn().await?;
        feeds.of_event(id, version).await
    };
    feeds.await.is_ok_and(|feeds| granted.reads_one_of(&feeds))
}
