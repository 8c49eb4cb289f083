//! The transient log.

use std::borrow::Cow;

use foundationdb_tuple::{pack, unpack};

use super::{
    EVENT,
    entry::entry_tuple,
    names,
    record::{LastVersion, Record, RecordTuple, record_from},
    text,
};
use crate::{
    store::{
        KeyValue, Result,
        keys::{corrupt, version_of},
    },
    types::{Entry, FeedName},
    version::Version,
};

/// A record of the transient log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TransientRecord {
    Event(Record),
    MarkerMoved {
        feed: FeedName,
        /// Whose marker; see [`Keys::marker`](crate::store::keys::Keys::marker).
        reader: String,
        version: Version,
    },
}

pub fn encode_transient(index: u16, feeds: &[&FeedName], entry: &Entry) -> Vec<u8> {
    let feeds = names(feeds.iter().copied());
    let (entry, none) = (entry_tuple(entry), LastVersion(None));
    let record: RecordTuple<'_> = (EVENT, index, false, feeds, entry, none);
    pack(&(Some(record), Option::<()>::None))
}

pub fn encode_marker_moved(feed: &FeedName, reader: &str) -> Vec<u8> {
    pack(&(Option::<()>::None, Some((feed.as_str(), reader))))
}

pub fn decode_transient(item: &KeyValue) -> Result<TransientRecord> {
    let bad = |what: String| corrupt(&item.key, what);
    let version = version_of(&item.key)?;
    let tuple: (Option<RecordTuple<'_>>, Option<(Cow<'_, str>, String)>) =
        unpack(&item.value).map_err(|error| corrupt(&item.key, error))?;
    match tuple {
        (Some(record), None) => record_from((version, None), &item.value, record)
            .map(TransientRecord::Event)
            .map_err(bad),
        (None, Some((feed, reader))) => {
            let feed = text(&item.value, feed, FeedName::stored).map_err(bad)?;
            Ok(TransientRecord::MarkerMoved {
                feed,
                reader,
                version,
            })
        }
        _ => Err(bad(
            "the record is neither a transient nor a moved marker".into()
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::{super::tests::item, *};
    use crate::store::keys::OWN_READER;

    #[test]
    fn marker_news_round_trips() {
        let feed: FeedName = "user:1".parse().expect("name");
        let version = Version::new(0, 1, 2);
        for reader in [OWN_READER, "user:7"] {
            let item = item(version, encode_marker_moved(&feed, reader));
            let read = decode_transient(&item).expect("decodes");
            let expected = TransientRecord::MarkerMoved {
                feed: feed.clone(),
                reader: reader.into(),
                version,
            };
            assert_eq!(read, expected);
        }
    }
}
