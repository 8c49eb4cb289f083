//! The transient log.

use foundationdb_tuple::{PackResult, TupleDepth, TupleUnpack, pack, unpack};

use super::{
    EVENT,
    entry::entry_tuple,
    readers::{Mark, code, state},
    record::{LastVersion, Record, RecordTuple, record_from},
    text::{Text, feeds_from, names},
    version::StoredVersion,
};
use crate::{
    store::{
        KeyValue, Result,
        keys::{corrupt, version_of},
    },
    types::{Entry, FeedName, ReadState, ReaderName},
    version::Version,
};

/// A record of the transient log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TransientRecord {
    Event(Record),
    MarkerMoved {
        feed: FeedName,
        /// Whose marker; see [`Keys::marker`](crate::store::keys::Keys::marker).
        reader: ReaderName,
        version: Version,
    },
    /// A reader marked an entry, at the version of the mark.
    Marked {
        feed: FeedName,
        reader: ReaderName,
        entry: Version,
        mark: Mark,
    },
    /// Notify keys of the feeds were removed.
    Removed {
        feeds: Vec<FeedName>,
        version: Version,
    },
}

pub fn encode_transient(index: u16, feeds: &[&FeedName], entry: &Entry) -> Vec<u8> {
    let feeds = names(feeds.iter().copied());
    let (entry, none) = (entry_tuple(entry), LastVersion(None));
    let record: RecordTuple<'_> = (EVENT, index, false, feeds, entry, none);
    pack(&(Some(record), Option::<()>::None))
}

pub fn encode_marker_moved(feed: &FeedName, reader: &ReaderName) -> Vec<u8> {
    pack(&(Option::<()>::None, Some((feed.as_str(), reader.as_str()))))
}

/// `entry` is the version of the entry.
pub fn encode_news_of_mark(
    feed: &FeedName,
    reader: &ReaderName,
    entry: Version,
    state: ReadState,
) -> Vec<u8> {
    let (none, entry) = (Option::<()>::None, StoredVersion(entry));
    let mark = Some((reader.as_str(), entry, code(state)));
    pack(&(none, none, (vec![feed.as_str()], mark)))
}

pub fn encode_news_of_removal<'a>(feeds: impl IntoIterator<Item = &'a FeedName>) -> Vec<u8> {
    let none = Option::<()>::None;
    pack(&(none, none, (names(feeds), none)))
}

type MovedTuple<'a> = (Text<'a>, String);
type MarkedTuple<'a> = (Vec<Text<'a>>, Option<(String, StoredVersion, u16)>);

/// What stands behind the first two elements.
enum Rest<'a> {
    None,
    News(MarkedTuple<'a>),
}

impl<'de: 'a, 'a> TupleUnpack<'de> for Rest<'a> {
    fn unpack(input: &'de [u8], depth: TupleDepth) -> PackResult<(&'de [u8], Self)> {
        if input.is_empty() {
            return Ok((input, Self::None));
        }
        let (input, news) = TupleUnpack::unpack(input, depth)?;
        Ok((input, Self::News(news)))
    }
}

pub fn decode_transient(item: &KeyValue) -> Result<TransientRecord> {
    let bad = |what: String| corrupt(&item.key, what);
    let version = version_of(&item.key)?;
    let tuple: (Option<RecordTuple<'_>>, Option<MovedTuple<'_>>, Rest<'_>) =
        unpack(&item.value).map_err(|error| corrupt(&item.key, error))?;
    let feed = |feed: Text<'_>| feed.named(&item.value, FeedName::stored).map_err(bad);
    let reader = |reader: String| {
        let reader = ReaderName::stored(reader.into());
        reader.map_err(|error| corrupt(&item.key, error))
    };
    Ok(match tuple {
        (Some(record), None, Rest::None) => {
            let record = record_from((version, None), &item.value, record);
            TransientRecord::Event(record.map_err(bad)?)
        }
        (None, Some((of, by)), Rest::None) => TransientRecord::MarkerMoved {
            feed: feed(of)?,
            reader: reader(by)?,
            version,
        },
        (None, None, Rest::News((of, mark))) => {
            let mut feeds = feeds_from(&item.value, of).map_err(bad)?;
            match (mark, feeds.len()) {
                (None, _) => TransientRecord::Removed { feeds, version },
                (Some((by, entry, code)), 1) => TransientRecord::Marked {
                    feed: feeds.remove(0),
                    reader: reader(by)?,
                    entry: entry.0,
                    mark: Mark {
                        state: state(code).map_err(bad)?,
                        marked: version,
                    },
                },
                _ => return Err(bad("a mark names several feeds".into())),
            }
        }
        _ => {
            return Err(bad(
                "the record is neither a transient nor news of a reader".into(),
            ));
        }
    })
}

#[cfg(test)]
mod tests {
    use super::{super::tests::item, *};
    #[test]
    fn news_of_readers_round_trip() {
        let feed: FeedName = "user:1".parse().expect("name");
        let (version, entry) = (Version::new(0, 1, 2), Version::new(0, 1, 1));
        let read = |value: Vec<u8>| decode_transient(&item(version, value)).expect("decodes");
        let named = ReaderName::named("user:7".parse().expect("a name"));
        for reader in [ReaderName::OWN, named] {
            let expected = TransientRecord::MarkerMoved {
                feed: feed.clone(),
                reader: reader.clone(),
                version,
            };
            assert_eq!(read(encode_marker_moved(&feed, &reader)), expected);
            let state = ReadState::Archived;
            let mark = Mark {
                state,
                marked: version,
            };
            let expected = TransientRecord::Marked {
                feed: feed.clone(),
                reader: reader.clone(),
                entry,
                mark,
            };
            assert_eq!(
                read(encode_news_of_mark(&feed, &reader, entry, state)),
                expected
            );
        }
        let feeds = vec![feed.clone(), "user:2".parse().expect("name")];
        let removal = encode_news_of_removal(&feeds);
        let expected = TransientRecord::Removed { feeds, version };
        assert_eq!(read(removal.clone()), expected);
        let more = [removal, pack(&7)].concat();
        assert!(decode_transient(&item(version, more)).is_err());
    }
}
