//! Which tables have removed data in their files. The engine writes that a key is gone, or its new value; the old value
//! stays in a file until [`super::cleaning`] has rewritten it.
//!
//! A file in the data folder keeps this over restarts. It is on disk before the removal is.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

/// Name of the file: the wall time of the first removal in µs, and the names of the tables, each on a line.
pub(super) const FILE: &str = "removals";
const UNFINISHED: &str = "removals.new";

pub(super) struct Removals {
    folder: PathBuf,
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    /// Tables with removals that no cleaning covers, and the time of the first.
    tables: BTreeSet<String>,
    since: Option<u64>,
    /// What is being cleaned.
    cleaning: Option<(BTreeSet<String>, Option<u64>)>,
}

impl Removals {
    /// Reads what is stored in `folder`. If it cannot be read, all of `tables` count.
    pub(super) fn load(folder: &Path, tables: impl Iterator<Item = &'static str>) -> Self {
        let known = match fs::read_to_string(folder.join(FILE)) {
            Ok(text) => parse(&text).unwrap_or_else(|| Known {
                tables: tables.map(str::to_owned).collect(),
                since: Some(0),
                cleaning: None,
            }),
            Err(_) => Known::default(),
        };
        Self {
            folder: folder.to_owned(),
            known: Mutex::new(known),
        }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that a commit will remove something from `tables`, at `now` in µs.
    pub(super) fn note<'a>(&self, tables: impl Iterator<Item = &'a str>, now: u64) {
        let mut known = self.known();
        let before = known.tables.len();
        for table in tables {
            if !known.tables.contains(table) {
                known.tables.insert(table.to_owned());
            }
        }
        if known.tables.len() > before {
            known.since.get_or_insert(now);
            self.store(&known);
        }
    }

    /// Whether the first removal is older than `age`, or the wall clock was set back, and no cleaning runs.
    pub(super) fn is_due(&self, now: u64, age: Duration) -> bool {
        let known = self.known();
        let is_old = |since| now < since || u128::from(now - since) >= age.as_micros();
        known.cleaning.is_none() && known.since.is_some_and(is_old)
    }

    /// Begins a cleaning and returns the tables with removals; `None` if one runs already. Must not run during a commit.
    pub(super) fn begin(&self) -> Option<BTreeSet<String>> {
        let mut known = self.known();
        if known.cleaning.is_some() {
            return None;
        }
        let tables = std::mem::take(&mut known.tables);
        known.cleaning = Some((tables.clone(), known.since.take()));
        Some(tables)
    }

    /// Ends a cleaning. What it did not manage remains to be done.
    pub(super) fn end(&self, is_clean: bool) {
        let mut known = self.known();
        let cleaned = known.cleaning.take();
        if let (Some((tables, since)), false) = (cleaned, is_clean) {
            known.tables.extend(tables);
            known.since = since.or(known.since);
        }
        self.store(&known);
    }

    /// The contents of the file; `None` if nothing is to be cleaned.
    pub(super) fn stored(&self) -> Option<String> {
        text(&self.known())
    }

    /// A failure is logged only: the removal itself is more important.
    fn store(&self, known: &Known) {
        let stored = match text(known) {
            Some(text) => self.replace(&text),
            None => match fs::remove_file(self.folder.join(FILE)) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
                removed => removed,
            },
        };
        if let Err(error) = stored {
            tracing::warn!(%error, "cannot note that files of the store contain removed data; it is forgotten at a restart");
        }
    }

    fn replace(&self, text: &str) -> io::Result<()> {
        let unfinished = self.folder.join(UNFINISHED);
        let mut file = File::create(&unfinished)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(unfinished, self.folder.join(FILE))?;
        File::open(&self.folder)?.sync_all()
    }
}

fn text(known: &Known) -> Option<String> {
    let cleaning = known.cleaning.as_ref();
    let tables = cleaning.into_iter().flat_map(|(tables, _)| tables);
    let tables: BTreeSet<&String> = tables.chain(&known.tables).collect();
    let since = cleaning.and_then(|(_, since)| *since);
    let since = since.into_iter().chain(known.since).min()?;
    let lines = tables.into_iter().map(|table| format!("{table}\n"));
    Some(format!("{since}\n{}", lines.collect::<String>()))
}

fn parse(text: &str) -> Option<Known> {
    let (since, tables) = text.split_once('\n')?;
    Some(Known {
        since: Some(since.parse().ok()?),
        tables: tables.lines().map(str::to_owned).collect(),
        cleaning: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const AGE: Duration = Duration::from_micros(100);

    fn load(folder: &Path) -> Removals {
        Removals::load(folder, ["a", "b"].into_iter())
    }

    #[test]
    fn removals_are_kept_until_a_cleaning_has_covered_them() {
        let folder = tempfile::tempdir().expect("a folder");
        let removals = load(folder.path());
        assert!(!removals.is_due(u64::MAX, AGE) && removals.stored().is_none());
        removals.note(["b"].into_iter(), 1_000);
        removals.note(["a", "b"].into_iter(), 1_050);
        let removals = load(folder.path());
        assert_eq!(removals.stored().as_deref(), Some("1000\na\nb\n"));
        assert!(!removals.is_due(1_099, AGE) && removals.is_due(1_100, AGE));
        assert!(removals.is_due(999, AGE), "the clock was set back");

        let both = Some(["a", "b"].map(str::to_owned).into());
        assert_eq!(removals.begin(), both);
        assert!(removals.begin().is_none() && !removals.is_due(u64::MAX, AGE));
        // A crash now does not lose what is being cleaned, nor what is removed meanwhile.
        removals.note(["b"].into_iter(), 2_000);
        assert_eq!(
            load(folder.path()).stored().as_deref(),
            Some("1000\na\nb\n")
        );
        removals.end(false);
        assert_eq!(removals.begin(), both);
        removals.note(["b"].into_iter(), 3_000);
        removals.end(true);
        assert_eq!(load(folder.path()).stored().as_deref(), Some("3000\nb\n"));
        removals.begin();
        removals.end(true);
        assert!(!folder.path().join(FILE).exists());
    }

    #[test]
    fn an_unreadable_file_counts_for_all_tables() {
        let folder = tempfile::tempdir().expect("a folder");
        fs::write(folder.path().join(FILE), "?").expect("written");
        let removals = load(folder.path());
        assert!(removals.is_due(1_000, AGE));
        assert_eq!(removals.stored().as_deref(), Some("0\na\nb\n"));
    }
}
