//! How the engine writes the files of a table.
//!
//! The engine stores the settings of a table when it creates it, and uses them for all files that it writes later. A store of
//! an earlier release has its settings changed before it is opened. Its files keep their form until a compaction writes
//! them again.

use std::{path::Path, sync::Arc};

use fjall::{
    CompressionType, KeyspaceCreateOptions,
    compaction::Leveled,
    config::{BlockSizePolicy, CompressionPolicy},
};
use lsm_tree::{AbstractTree, AnyTree, Guard, SeqNo, SequenceNumberCounter};

/// Size of the data in memory at which a table writes a file.
const MEMTABLE_BYTES: u64 = 32 * 1024 * 1024;

/// Files of the first level of a table at which the engine itself compacts it. The threads in [`compaction`](super::compaction)
/// do it at four, so that the engine finds nothing to compact unless they are far behind. It slows down commits at 20.
const ENGINE_COMPACTS_AT: u8 = 12;

/// The settings that differ from those of the engine.
#[derive(Debug, Clone, Copy)]
pub(super) struct Settings {
    /// Size of a block before compression. A block is the unit of compression and of reads from the disk: larger ones take
    /// less space, and more time to find a single key.
    block_bytes: u32,
}

impl Settings {
    /// For keys that are read one by one.
    pub(super) const POINTS: Self = Self {
        block_bytes: 8 * 1024,
    };
    /// For keys that are read in ranges.
    pub(super) const RANGES: Self = Self {
        block_bytes: 16 * 1024,
    };

    /// Every file is compressed. Left to itself, the engine compresses only what is compacted twice, and it moves files whose
    /// keys are above all others, as those of the log are, to the last level as they are.
    pub(super) fn options(self) -> KeyspaceCreateOptions {
        KeyspaceCreateOptions::default()
            .max_memtable_size(MEMTABLE_BYTES)
            .compaction_strategy(Arc::new(
                Leveled::default().with_l0_threshold(ENGINE_COMPACTS_AT),
            ))
            .data_block_size_policy(BlockSizePolicy::all(self.block_bytes))
            .data_block_compression_policy(CompressionPolicy::all(CompressionType::Lz4))
    }

    /// The stored form of [`Self::options`]: a list with one item, for all levels.
    fn stored(self) -> [(&'static str, Vec<u8>); 3] {
        let block_bytes = [&[1], &self.block_bytes.to_le_bytes()[..]].concat();
        [
            // The second byte is the code of LZ4.
            ("data_block_compression_policy", vec![1, 1]),
            ("data_block_size_policy", block_bytes),
            ("leveled_l0_threshold", vec![ENGINE_COMPACTS_AT]),
        ]
    }
}

/// Gives the tables of the store in `folder` their settings, if the store has all of `tables`. The store must not be open,
/// and nobody else may open it meanwhile. Returns how many settings changed.
pub(super) fn apply(folder: &Path, tables: &[(&str, Settings)]) -> lsm_tree::Result<usize> {
    // The engine keeps names and settings of tables in a tree of its own.
    let names = folder.join("keyspaces").join("0");
    if !names.join("current").exists() {
        return Ok(0);
    }
    let seqno = SequenceNumberCounter::default();
    let tree = lsm_tree::Config::new(names, seqno.clone(), SequenceNumberCounter::default());
    let tree = tree.open()?;
    let mut changed = Vec::new();
    let mut found = 0;
    for item in tree.prefix(b"n", SeqNo::MAX, None) {
        let (key, name) = item.into_inner()?;
        let Some((_, settings)) = tables
            .iter()
            .find(|(table, _)| table.as_bytes() == &name[..])
        else {
            continue;
        };
        found += 1;
        for (setting, value) in settings.stored() {
            let key = [b"c", &key[1..], setting.as_bytes()].concat();
            if tree.get(&key, SeqNo::MAX)?.as_deref() != Some(&value[..]) {
                changed.push((key, value));
            }
        }
    }
    if found < tables.len() || changed.is_empty() {
        return Ok(0);
    }
    changed.sort();
    write(&tree, &seqno, &changed)?;
    Ok(changed.len())
}

fn write(
    tree: &AnyTree,
    seqno: &SequenceNumberCounter,
    items: &[(Vec<u8>, Vec<u8>)],
) -> lsm_tree::Result<()> {
    // The items must be newer than those that they replace.
    seqno.fetch_max(tree.get_highest_seqno().map_or(0, |last| last + 1));
    let mut ingestion = tree.ingestion()?;
    for (key, value) in items {
        ingestion.write(&key[..], &value[..])?;
    }
    ingestion.finish()
}

#[cfg(test)]
mod tests {
    use fjall::Database;

    use super::*;

    const TABLES: [(&str, Settings); 2] = [("a", Settings::POINTS), ("b", Settings::RANGES)];

    /// Creates the tables as `options` says.
    fn create(folder: &Path, options: impl Fn(Settings) -> KeyspaceCreateOptions) {
        let db = Database::builder(folder).open().expect("opens");
        for (name, settings) in TABLES {
            let table = db.keyspace(name, || options(settings)).expect("created");
            table.insert("k", "v").expect("inserted");
        }
    }

    #[test]
    fn the_stored_form_is_that_of_the_engine() {
        let folder = tempfile::tempdir().expect("a folder");
        assert_eq!(apply(folder.path(), &TABLES).expect("no store yet"), 0);
        create(folder.path(), Settings::options);
        assert_eq!(apply(folder.path(), &TABLES).expect("compared"), 0);
    }

    #[test]
    fn an_existing_store_gets_the_settings_once() {
        let folder = tempfile::tempdir().expect("a folder");
        create(folder.path(), |_| KeyspaceCreateOptions::default());
        let more = [&TABLES[..], &[("c", Settings::POINTS)]].concat();
        assert_eq!(apply(folder.path(), &more).expect("another store"), 0);
        assert_eq!(apply(folder.path(), &TABLES).expect("changed"), 6);
        assert_eq!(apply(folder.path(), &TABLES).expect("compared"), 0);
        let db = Database::builder(folder.path()).open().expect("opens");
        for (name, settings) in TABLES {
            let options = || KeyspaceCreateOptions::default();
            let table = db.keyspace(name, options).expect("opens");
            let expected = settings.options();
            assert_eq!(
                table.config.data_block_size_policy,
                expected.data_block_size_policy
            );
            assert_eq!(
                table.config.data_block_compression_policy,
                expected.data_block_compression_policy
            );
            assert_eq!(table.get("k").expect("read").as_deref(), Some(&b"v"[..]));
        }
    }
}
