//! Notify keys.

use foundationdb_tuple::{pack, unpack};

use super::{entry::decode_entry, text::Text};
use crate::{
    store::{
        KeyValue, Result,
        keys::{corrupt, is_unread, version_of},
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

    fn of(entry: Entry) -> Self {
        let kind = match entry.is_erased() {
            true => "",
            false => entry.kind.as_str(),
        };
        Self {
            version: entry.version,
            kind: kind.to_owned(),
            actor: entry.actor.map(|actor| actor.as_str().to_owned()),
            id: entry.id,
            read_at: entry.read_at,
        }
    }
}

pub fn encode_notify(entry: &Entry) -> Vec<u8> {
    let (kind, actor) = match entry.change {
        Some(Change::Erased) => ("", None),
        _ => (entry.kind.as_str(), entry.actor.as_ref().map(Actor::as_str)),
    };
    pack(&(kind, actor, entry.id.as_str(), entry.read_at))
}

/// A notify key, or what it would be of an entry that counts as unread and has none.
pub fn decode_notify(item: &KeyValue) -> Result<NotifyKey> {
    if is_unread(&item.key) {
        return Ok(NotifyKey::of(decode_entry(item)?));
    }
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
