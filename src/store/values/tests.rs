//! The bytes of all kinds of values, and what several kinds have in common.

use bytes::Bytes;
use foundationdb_tuple::{Bytes as TupleBytes, pack};
use proptest::prelude::*;

use super::{stamp::STAMP_BYTES, *};
use crate::{
    store::{
        KeyValue,
        epoch::Row,
        keys::{Keys, versioned},
    },
    types::{Actor, Change, Delivery, Entry, FeedName, NO_TWIN, ReaderName},
    version::Version,
};

pub(super) fn any_entry() -> impl Strategy<Value = Entry> {
    let name = "[A-Za-z0-9_~:@-][A-Za-z0-9._~:@-]{0,11}";
    let delivery = prop_oneof![
        Just(Delivery::Entry),
        Just(Delivery::Notify),
        Just(Delivery::Transient)
    ];
    let time = prop_oneof![
        Just(None),
        "20[0-9]{2}-[01]1-[012]1T[01][0-9]:[0-5][0-9]:[0-5][0-9](\\.[0-9]{1,9})?(Z|[+-]0[0-9]:30)"
            .prop_filter("no such month", |text| !text.contains("-00-")
                && !text.contains("-01T"))
            .prop_map(|text| text.parse().ok()),
    ];
    let text = (
        "[ -~]{1,20}",
        name,
        proptest::option::of(name),
        ".{0,40}",
        time,
    );
    (text, delivery, any::<u64>(), any::<i64>(), any::<u16>()).prop_map(
        |((id, kind, actor, data, time), delivery, read_at, at, index)| Entry {
            version: Version::new(3, 9, 5 << 16).at_index(index),
            id: id.parse().expect("id"),
            kind: kind.parse().expect("kind"),
            delivery,
            actor: actor.map(|actor| actor.parse().expect("actor")),
            at,
            time,
            data: serde_json::to_vec(&data).expect("string").into(),
            read_at,
            change: None,
        },
    )
}

pub(super) fn item(version: Version, value: Vec<u8>) -> KeyValue {
    KeyValue {
        key: versioned(b"any", version).into(),
        value: value.into(),
    }
}

proptest! {
    #[test]
    fn entries_round_trip(entry in any_entry()) {
        prop_assert_eq!(decode_entry(&item(entry.version, encode_entry(&entry))).expect("decodes"), entry.clone());
        let notify = decode_notify(&item(entry.version, encode_notify(&entry))).expect("decodes");
        let actor = entry.actor.as_ref().map(Actor::as_str);
        prop_assert_eq!((notify.version, &notify.id, notify.actor.as_deref()), (entry.version, &entry.id, actor));
        let feed: FeedName = "user:1".parse().expect("name");
        let index = entry.version.to_bytes()[14..].try_into().map(u16::from_be_bytes).expect("two bytes");
        let transient = decode_transient(&item(entry.version, encode_transient(index, &[&feed], &entry))).expect("decodes");
        prop_assert_eq!(transient, TransientRecord::Event(Record { entry, feeds: vec![feed], exports: false }));
    }

    /// Also several changed events of one value, of which one is edited by the commit that writes it.
    #[test]
    fn changes_round_trip(
        mut entries in proptest::collection::vec((any_entry(), 0..6u8), 1..9),
        now in 0..9usize,
    ) {
        entries.sort_by_key(|(entry, _)| entry.version);
        entries.dedup_by_key(|(entry, _)| entry.version);
        let (of, stamp) = (Version::new(3, 0, 0xff00), Version::new(4, 0xff00, 0xff));
        let stamped = |mut value: Vec<u8>| {
            if is_to_be_stamped(&value) {
                value[STAMP_AT..STAMP_BYTES].copy_from_slice(&stamp.to_bytes());
            }
            value
        };
        let mut expected = Vec::new();
        for (index, (entry, role)) in entries.iter_mut().enumerate() {
            entry.change = match role {
                0 => None,
                1 if index == now => Some(Change::EditedAt(THIS_COMMIT)),
                1 => Some(Change::EditedAt(of)),
                2 => Some(Change::Edit(of)),
                3 => Some(Change::Erasure(of)),
                _ => Some(Change::Erased),
            };
            if entry.changed().is_some() {
                entry.read_at = NO_TWIN;
            }
            let mut read = entry.clone();
            if read.change == Some(Change::EditedAt(THIS_COMMIT)) {
                read.change = Some(Change::EditedAt(stamp));
            }
            let alone = match entry.changed() {
                Some(_) => decode_change(&item(entry.version, encode_change(entry))),
                None => decode_entry(&item(entry.version, stamped(encode_entry(entry)))),
            };
            let alone = alone.expect("decodes");
            match read.change {
                Some(Change::Erasure(_)) => {
                    prop_assert_eq!((&alone.id, &alone.kind, alone.change), (&read.id, &read.kind, read.change));
                    prop_assert_eq!((alone.actor, alone.data.len()), (None, 0));
                }
                Some(Change::Erased) => {
                    prop_assert_eq!((&alone.id, alone.read_at, alone.change), (&read.id, read.read_at, read.change));
                    prop_assert_eq!((alone.actor, alone.data.len()), (None, 0));
                }
                _ => prop_assert_eq!(&alone, &read),
            }
            expected.push(read);
        }
        let feed: FeedName = "user:1".parse().expect("name");
        let index = |entry: &Entry| entry.version.to_bytes()[14..].try_into().map(u16::from_be_bytes).expect("two bytes");
        let records: Vec<_> = entries.iter().map(|(entry, _)| RecordParts { index: index(entry), feeds: vec![&feed], exports: true, entry }).collect();
        let mut read = Vec::new();
        for (index, value) in encode_records(&records) {
            read.extend(decode_records(&item(expected[0].version.at_index(index), stamped(value))).expect("decodes"));
        }
        prop_assert_eq!(read.into_iter().map(|record| record.entry).collect::<Vec<_>>(), expected);
    }

    #[test]
    fn invalid_bytes_are_an_error_not_a_panic(value in proptest::collection::vec(any::<u8>(), 0..60)) {
        let item = item(Version::ZERO, value);
        let _ = (decode_entry(&item), decode_notify(&item), decode_records(&item), decode_transient(&item), decode_claim(&item), decode_lineage(&item), decode_change(&item));
    }
}

/// The bytes of format 2. A change of these is a new format.
#[test]
fn values_are_written_as_format_2_says() {
    let entry = Entry {
        version: Version::new(1, 2, 3),
        id: "m-1".parse().expect("id"),
        kind: "message".parse().expect("kind"),
        delivery: Delivery::Notify,
        actor: Some("user:7".parse().expect("actor")),
        at: 1_000,
        time: None,
        data: Bytes::from_static(b"null"),
        read_at: 42,
        change: None,
    };
    let data = || TupleBytes::from(&b"null"[..]);
    let fields = (
        42u64,
        1u16,
        "m-1",
        "message",
        Some("user:7"),
        1_000i64,
        data(),
    );
    let tagged = (
        0u16,
        42u64,
        1u16,
        "m-1",
        "message",
        Some("user:7"),
        1_000i64,
        data(),
    );
    assert_eq!(encode_entry(&entry), pack(&tagged));
    let later = Entry {
        time: "2025-11-21T22:08:10Z".parse().ok(),
        ..entry.clone()
    };
    let with_time = [encode_entry(&entry), pack(&"2025-11-21T22:08:10Z")].concat();
    assert_eq!(encode_entry(&later), with_time);
    let notify = ("message", Some("user:7"), "m-1", 42u64);
    assert_eq!(encode_notify(&entry), pack(&notify));
    let feeds: Vec<FeedName> = ["b", "a"].map(|name| name.parse().expect("name")).into();
    let parts = RecordParts {
        index: 3,
        feeds: feeds.iter().collect(),
        exports: true,
        entry: &entry,
    };
    let record = (0u16, 3u16, true, vec!["b", "a"], fields.clone());
    assert_eq!(encode_records(&[parts]), [(3, pack(&(record,)))]);
    let transient = (0u16, 0u16, false, vec!["b", "a"], fields);
    assert_eq!(
        encode_transient(0, &feeds.iter().collect::<Vec<_>>(), &entry),
        pack(&(Some(transient), Option::<()>::None))
    );
    let digest = 7u128.to_be_bytes();
    let claim = (TupleBytes::from(&digest[..]), vec!["b", "a"]);
    assert_eq!(encode_claim(7, &feeds), pack(&claim));
}

/// The entry whose bytes are written out below.
fn message(version: Version, change: Option<Change>) -> Entry {
    Entry {
        version,
        id: "m-1".parse().expect("id"),
        kind: "message".parse().expect("kind"),
        delivery: Delivery::Notify,
        actor: None,
        at: 1_000,
        time: None,
        data: Bytes::from_static(b"null"),
        read_at: 42,
        change,
    }
}

/// The bytes of changes, which format 2 has since edits and erasures exist.
#[test]
fn changes_are_written_as_format_2_says() {
    let (at, of) = (Version::new(1, 2, 3), Version::new(4, 5, 6));
    let entry = |change| message(at, change);
    let fields = || {
        let data = TupleBytes::from(&b"null"[..]);
        (
            42u64,
            1u16,
            "m-1",
            "message",
            Option::<&str>::None,
            1_000i64,
            data,
        )
    };
    let flat = |head: Vec<u8>| {
        let (read_at, delivery, id, kind, actor, at, data) = fields();
        [head, pack(&(read_at, delivery, id, kind, actor, at, data))].concat()
    };
    let version = |version: Version| TupleBytes::from(version.to_bytes().to_vec());
    let stamp = |version: Version| [&[0xff][..], &version.to_bytes()].concat();
    let edited = entry(Some(Change::EditedAt(of)));
    assert_eq!(
        encode_entry(&edited),
        [stamp(of), flat(pack(&(1u16,)))].concat()
    );
    let edit = entry(Some(Change::Edit(of)));
    assert_eq!(encode_change(&edit), flat(pack(&(2u16, version(of)))));
    let erasure = entry(Some(Change::Erasure(of)));
    assert_eq!(
        encode_change(&erasure),
        pack(&(3u16, version(of), "m-1", "message"))
    );
    let erased = entry(Some(Change::Erased));
    assert_eq!(encode_entry(&erased), pack(&(4u16, 42u64, "m-1")));
    assert_eq!(
        encode_notify(&erased),
        pack(&("", Option::<&str>::None, "m-1", 42u64))
    );

    let feeds: Vec<FeedName> = vec!["a".parse().expect("name")];
    let this_commit = entry(Some(Change::EditedAt(THIS_COMMIT)));
    let records = [&edited, &edit, &this_commit].map(|entry| RecordParts {
        index: 3,
        feeds: feeds.iter().collect(),
        exports: true,
        entry,
    });
    let with_version = |tag: u16| (tag, 3u16, true, vec!["a"], fields(), version(of));
    let stamped = (1u16, 3u16, true, vec!["a"], fields());
    let value = pack(&(with_version(1), with_version(2), stamped));
    assert_eq!(
        encode_records(&records),
        [(3, [stamp(Version::ZERO), value].concat())]
    );

    let edits = vec![Edit {
        version: of,
        change_id: Some(9),
    }];
    let event = ClaimedEvent {
        digest: 7,
        feeds: feeds.clone(),
        edits,
    };
    let hash = |hash: u128| TupleBytes::from(hash.to_be_bytes().to_vec());
    let kept = (version(of), hash(9));
    let claim = (hash(7), vec!["a"], vec![kept.clone()]);
    assert_eq!(encode_claim_of(&event), pack(&claim));
    let edits: Vec<(Option<TupleBytes<'_>>, _)> =
        vec![(None, hash(8)), (Some(version(of)), hash(9))];
    let claim = pack(&(hash(7), vec!["a"], edits));
    let value = encode_edited_claim(&event, Some(8));
    assert_eq!(value, [stamp(Version::ZERO), claim].concat());
    assert_eq!(
        encode_indexed(&feeds, Keys::hash(&feeds[0]), true),
        pack(&(vec!["a"], Option::<u64>::None, true))
    );
}

#[test]
fn what_a_later_program_writes_is_refused() {
    let at = Version::new(1, 2, 3);
    let more = |mut value: Vec<u8>| {
        value.extend(pack(&7));
        item(at, value)
    };
    let entry = (5u16, 42u64, 1u16, "m-1", "message", 0i64);
    for decode in [decode_entry, decode_change] {
        let refused = decode(&item(at, pack(&entry))).map(drop);
        let message = refused.expect_err("an unknown tag").to_string();
        assert!(message.contains("unknown tag 5"), "{message}");
    }
    let data = TupleBytes::from(&b"null"[..]);
    let fields = (42u64, 1u16, "m-1", "k", Option::<&str>::None, 0i64, data);
    let record = (5u16, 0u16, true, vec!["a"], fields);
    assert!(decode_records(&item(at, pack(&(record,)))).is_err());
    let feed: FeedName = "a".parse().expect("name");
    let entry = message(at, None);
    let with_time = Entry {
        time: "2025-11-21T22:08:10Z".parse().ok(),
        ..entry.clone()
    };
    for entry in [&entry, &with_time] {
        assert!(decode_entry(&more(encode_entry(entry))).is_err());
        assert!(decode_notify(&more(encode_notify(entry))).is_err());
        let transient = encode_transient(0, &[&feed], entry);
        assert!(decode_transient(&more(transient)).is_err());
    }
    let feeds = std::slice::from_ref(&feed);
    assert!(decode_claim(&more(encode_claim(7, feeds))).is_err());
    assert!(decode_indexed(&more(encode_indexed(feeds, 7, false))).is_err());
    assert!(decode_transient(&more(encode_marker_moved(&feed, &ReaderName::OWN))).is_err());
    let row = Row {
        epoch: 1,
        began: at,
        previous_end: Version::ZERO,
    };
    let moments = [encode_lineage(&row), at.to_bytes().to_vec()].concat();
    assert!(decode_lineage(&item(at, moments)).is_err());
    assert!(decode_time(&more(encode_time(at))).is_err());
    for from in [Version::ZERO, at.before()] {
        let checkpoint = Checkpoint { from, until: at };
        let value = Bytes::from(encode_checkpoint(checkpoint));
        let read = decode_checkpoint(b"", Some(&value));
        assert_eq!(read.expect("decodes"), checkpoint);
        let value = more(value.to_vec()).value;
        assert!(decode_checkpoint(b"", Some(&value)).is_err());
    }
}
