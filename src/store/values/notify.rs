//! Notify keys.

use foundationdb_tuple::{pack, unpack};

use super::text::Text;
use crate::{
    store::{
        KeyValue, Result,
        keys::{corrupt, version_of},
    },
    types::{Actor, Change, Entry, EventId},
    version::Version,
};

/// The value of a notify key, with its version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotifyKey {
    pub version: Version,
    pub kind: String,
    pub actor: Option<String>,
    pub id: EventId,
    pub read_at: u64,
}

impl NotifyKey {
    /// It is only the place of an erased entry, see [`Change::Erased`].
    pub fn is_erased(&self) -> bool {
        self.kind.is_empty()
    }
}

pub fn encode_notify(entry: &Entry) -> Vec<u8> {
    let (kind, actor) = match entry.change {
        Some(Change::Erased) => ("", None),
        _ => (entry.kind.as_str(), entry.actor.as_ref().map(Actor::as_str)),
    };
    pack(&(kind, actor, entry.id.as_str(), entry.read_at))
}

pub fn decode_notify(item: &KeyValue) -> Result<NotifyKey> {
    let (kind, actor, id, read_at): (String, Option<String>, Text<'_>, u64) =
        unpack(&item.value).map_err(|error| corrupt(&item.key, error))?;
    let id = id
        .named(&item.value, EventId::stored)
        .map_err(|what| corrupt(&item.key, what))?;
    Ok(NotifyKey {
        version: version_of(&item.key)?,
        kind,
        actor,
        id,
        read_at,
    })
}
