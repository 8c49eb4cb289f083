//! Versions, keys and values: whatever decodes encodes to the same again.

use bytes::Bytes;
use newsfeed::{
    store::{
        KeyValue,
        keys::{self, Keys},
        values::{self, RecordParts, TransientRecord},
    },
    types::{Delivery, Entry, FeedName, ReadState, ReaderName},
    version::Version,
};

use super::hammer;
use crate::support::bed::Bed;

#[tokio::test]
async fn version_text() {
    let corpus = [
        "0",
        "",
        "000000800pgcvgij9uqfvvvvvs",
        "vvvvvvvvvvvvvvvvvvvvvvvvvs",
    ];
    let corpus = corpus.map(|text| text.as_bytes().to_vec());
    hammer("version text", &corpus, async |input| {
        let Ok(text) = std::str::from_utf8(input) else {
            return Ok(());
        };
        match text.parse::<Version>() {
            Ok(version) if version.to_string() == text || text == "0" => Ok(()),
            Ok(version) => Err(format!("it reads as {version}")),
            Err(_) => Ok(()),
        }
    })
    .await;
}

async fn keys() -> Keys {
    Bed::embedded().keys().await
}

fn entry(delivery: Delivery) -> Entry {
    Entry {
        version: Version::ZERO,
        id: "m-1".parse().expect("an id"),
        kind: "message".parse().expect("a kind"),
        delivery,
        actor: Some("user:7".parse().expect("an actor")),
        at: 1_763_759_290_000_000,
        time: Some("2025-11-21T22:08:10+01:00".parse().expect("a time")),
        data: Bytes::from_static(b"{\"text\":\"a\\u0000b\"}"),
        read_at: 42,
        change: None,
    }
}

#[tokio::test]
async fn key() {
    let keys = keys().await;
    let feed: FeedName = "user:42".parse().expect("a name");
    let at = Version::new(1, 2, 3);
    let prefixes = [
        keys.claim(&"m-1".parse().expect("an id")),
        keys.feed(&feed),
        keys.notify(&feed),
        keys.log(7),
        keys.transient(300),
    ];
    let mut corpus = prefixes.map(|prefix| keys::versioned(&prefix, at)).to_vec();
    corpus.push(keys::unread_versioned(&keys.feed(&feed), at));
    corpus.extend([
        keys.epoch(),
        keys.last(),
        keys.at(),
        keys.wake(),
        Vec::new(),
    ]);
    hammer("key", &corpus, async |key| match keys::version_of(key) {
        Ok(version)
            if keys::entry_keys(&key[..key.len() - 16], version).contains(&key.to_vec()) =>
        {
            Ok(())
        }
        Ok(version) => Err(format!("it ends with {version:?}")),
        Err(error) if key.len() < 16 && !error.to_string().is_empty() => Ok(()),
        Err(error) => Err(error.to_string()),
    })
    .await;
}

/// A value either fails to decode, or encodes to a value with the same meaning.
#[tokio::test]
async fn value() {
    let keys = keys().await;
    let feed: FeedName = "user:42".parse().expect("a name");
    let key = Bytes::from(keys::versioned(&keys.feed(&feed), Version::new(1, 2, 0)));
    let parts = |entry| RecordParts {
        index: 3,
        feeds: vec![&feed, &feed],
        exports: true,
        entry,
    };
    let (notify, transient) = (entry(Delivery::Notify), entry(Delivery::Transient));
    let records = values::encode_records(&[parts(&notify), parts(&transient)]);
    let reader = ReaderName::named("user:7".parse().expect("a name"));
    let corpus = [
        values::encode_entry(&notify),
        values::encode_notify(&notify),
        records[0].1.clone(),
        values::encode_transient(0, &[&feed], &transient),
        values::encode_marker_moved(&feed, &reader),
        values::encode_news_of_mark(&feed, &reader, Version::new(1, 2, 0), ReadState::Read),
        values::encode_news_of_removal([&feed]),
        values::encode_marked(Version::new(1, 2, 0), "message", ReadState::Archived),
        values::encode_mark(ReadState::Unread),
        values::encode_claim(7, std::slice::from_ref(&feed)),
    ];
    let item = |value: Vec<u8>| KeyValue {
        key: key.clone(),
        value: value.into(),
    };
    hammer("value", &corpus, async |input| {
        let given = item(input.to_vec());
        if let Ok(entry) = values::decode_entry(&given) {
            let again = values::decode_entry(&item(values::encode_entry(&entry)));
            if again.as_ref().ok() != Some(&entry) {
                return Err(format!("{entry:?} becomes {again:?}"));
            }
        }
        if let Ok(notify) = values::decode_notify(&given)
            && notify.version != Version::new(1, 2, 0)
        {
            return Err(format!("{notify:?}"));
        }
        if let Ok(claim) = values::decode_claim(&given)
            && let Some(event) = &claim.event
        {
            let value = values::encode_claim(event.digest, &event.feeds);
            let again = values::decode_claim(&item(value));
            if again.as_ref().ok() != Some(&claim) {
                return Err(format!("{claim:?} becomes {again:?}"));
            }
        }
        if let Ok(records) = values::decode_records(&given) {
            let parts: Vec<RecordParts<'_>> = records
                .iter()
                .map(|record| (record, record.entry.version.to_bytes()))
                .map(|(record, version)| RecordParts {
                    index: u16::from_be_bytes([version[14], version[15]]),
                    feeds: record.feeds.iter().collect(),
                    exports: record.exports,
                    entry: &record.entry,
                })
                .collect();
            let encoded = values::encode_records(&parts);
            let mut again = Vec::new();
            for (_, value) in encoded {
                again.extend(
                    values::decode_records(&item(value)).map_err(|error| error.to_string())?,
                );
            }
            if again != records {
                return Err(format!("{records:?} become {again:?}"));
            }
        }
        if let Ok(marked) = values::decode_marked(&given) {
            let value = values::encode_marked(marked.entry, &marked.kind, marked.mark.state);
            let again = values::decode_marked(&item(value));
            if again.as_ref().ok() != Some(&marked) {
                return Err(format!("{marked:?} becomes {again:?}"));
            }
        }
        let _ = values::decode_mark(&given);
        match values::decode_transient(&given) {
            Ok(TransientRecord::MarkerMoved { feed, reader, .. }) => {
                let value = values::encode_marker_moved(&feed, &reader);
                let again = values::decode_transient(&item(value));
                match again {
                    Ok(TransientRecord::MarkerMoved {
                        feed: same,
                        reader: of,
                        ..
                    }) if (&same, &of) == (&feed, &reader) => Ok(()),
                    other => Err(format!("{feed} {reader:?} becomes {other:?}")),
                }
            }
            _ => Ok(()),
        }
    })
    .await;
}
