//! Edits and erasures of an export, applied to the events of the service.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::client::{
    Error,
    api::Client,
    feeds::{Change, Edit, Entry},
};

/// What became of a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Applied {
    /// The event is as the change says: it was changed now, or had been before.
    Yes,
    /// The event was erased from some of its feeds only, which cannot be asked for.
    No,
}

/// Applies the change that `line` tells of. What it is about must have been appended before.
pub async fn apply(client: &Client, line: &[u8]) -> Result<Applied, Error> {
    let told: Entry = serde_json::from_slice(line).map_err(|error| {
        Error::Arguments(format!("a line with `change` makes no sense: {error}"))
    })?;
    let found = match client.event(&told.id).await {
        Ok(found) => found.value,
        // It was erased, or never imported.
        Err(Error::Refused { code, .. }) if code == "event_not_found" => return Ok(Applied::Yes),
        Err(error) => return Err(error),
    };
    match told.change {
        Some(Change::Erased) => {
            let feeds = |entry: &Entry| entry.feeds.iter().cloned().collect::<BTreeSet<String>>();
            if !feeds(&found).is_subset(&feeds(&told)) {
                return Ok(Applied::No);
            }
            client.erase(&told.id, None).await?;
        }
        Some(Change::Edited) => {
            let value = |entry: &Entry| serde_json::from_str::<Value>(entry.data.get()).ok();
            if value(&found) != value(&told) {
                // The same change of the same export, however often it is imported.
                let version = told.edited.as_deref().unwrap_or_default();
                let edit = Edit {
                    data: &told.data,
                    change: &format!("import {version}"),
                    revision: None,
                };
                client.edit(&told.id, &edit).await?;
            }
        }
        None => {}
    }
    Ok(Applied::Yes)
}
