//! Checks whether the files of a store are intact by reading them, without opening the database.
//!
//! This reads private file formats of fjall, lsm-tree and sfa. Their versions are therefore pinned exactly in
//! Cargo.toml. Before raising them, compare these formats and run the damage tests. This checks what the engine does
//! not, as of fjall 3.1 and lsm-tree 3.1:
//! - When it opens a database, the engine treats a damaged journal like one that ended early, and truncates it:
//!   acknowledged writes would be lost silently. It does not notice missing journals either.
//! - It refuses a last group with an end but with pages missing, although a crash can leave that, see
//!   [`survey_and_mend`].
//! - It does not compare the list of a table's files with its checksum, and deletes table files that are not listed.
//! - It deletes tables whose list, or whose name, is missing.
//! - It does not verify whole table files, and its errors do not name the damaged file.
//!
//! The engine itself refuses to open a database with other damage, such as missing table files. That is not checked
//! before opening ([`Depth::Quick`]), but only afterwards, to name the damaged file ([`Depth::Full`]).

mod journal;
pub(super) mod tree;

use std::{
    fmt, fs, io,
    path::{Path, PathBuf},
};

use super::tables;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Depth {
    /// What opening a damaged database would make worse: the journals, and the lists of tables and of their files.
    Quick,
    /// Every byte of every table, too.
    Full,
}

/// A damaged or missing file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    pub file: PathBuf,
    pub what: String,
}

impl Damage {
    fn new(file: &Path, what: impl ToString) -> Self {
        Self {
            file: file.to_owned(),
            what: what.to_string(),
        }
    }

    fn missing(file: &Path) -> Self {
        Self::new(file, "is missing")
    }
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.file.display(), self.what)
    }
}

/// The result of a check.
#[derive(Debug, Default)]
pub struct Survey {
    pub damages: Vec<Damage>,
    pub files: usize,
    /// Groups of commits in the journals.
    groups: usize,
    /// The journal whose last group is torn, and the offset of that group.
    torn: Option<(PathBuf, u64)>,
}

/// Checks the store in `folder`, which must not be open. A missing or new store is not damaged.
pub fn survey(folder: &Path, depth: Depth) -> Survey {
    let mut survey = Survey::default();
    if let Err(damage) = check(folder, depth, &mut survey) {
        survey.damages.push(damage);
    }
    survey
}

/// Whether `folder` contains no file of a store, or does not exist.
pub(super) fn is_absent(folder: &Path) -> bool {
    let has_journals = journals(folder).is_ok_and(|journals| !journals.is_empty());
    !(folder.join("version").exists() || folder.join("keyspaces").exists() || has_journals)
}

/// Checks all tables, in a store that may be open.
pub(super) fn damaged_tables(folder: &Path) -> Vec<Damage> {
    let mut survey = Survey::default();
    if let Err(damage) = check_trees(&folder.join("keyspaces"), Depth::Full, &mut survey) {
        survey.damages.push(damage);
    }
    survey.damages
}

/// As [`survey`], to the depth needed before opening. If the last group of the newest journal is torn, it is cut off: its
/// sync never finished, so its commits were never acknowledged. (The engine cuts off groups without an end itself.)
pub(super) fn survey_and_mend(folder: &Path) -> io::Result<Survey> {
    let survey = survey(folder, Depth::Quick);
    if let (Some((journal, end)), true) = (&survey.torn, survey.damages.is_empty()) {
        let file = fs::OpenOptions::new().write(true).open(journal)?;
        file.set_len(*end)?;
        file.sync_all()?;
    }
    Ok(survey)
}

fn check(folder: &Path, depth: Depth, survey: &mut Survey) -> Result<(), Damage> {
    let journals = journals(folder)?;
    let marker = folder.join("version");
    let trees = folder.join("keyspaces");
    match fs::read(&marker) {
        // The engine refuses earlier formats itself.
        Ok(bytes) if matches!(bytes[..], [b'F', b'J', b'L', 1..=3]) => {}
        Ok(_) => {
            return Err(Damage::new(
                &marker,
                "is damaged, or has a storage format that this program does not know",
            ));
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return match journals.is_empty() && !trees.exists() {
                true => Ok(()),
                false => Err(Damage::missing(&marker)),
            };
        }
        Err(error) => return Err(Damage::new(&marker, error)),
    }
    let lock = folder.join("lock");
    if !lock.exists() {
        return Err(Damage::missing(&lock));
    }
    if !trees.is_dir() {
        return Err(Damage::missing(&trees));
    }
    let Some(&(newest, _)) = journals.last() else {
        return Err(Damage::missing(&folder.join("*.jnl")));
    };

    let mut before = None::<(u64, u64)>;
    for (number, path) in &journals {
        survey.files += 1;
        if let Some((previous, _)) = before
            && *number != previous + 1
        {
            survey.damages.push(Damage::missing(
                &folder.join(format!("{}.jnl", previous + 1)),
            ));
        }
        let bytes = fs::read(path).map_err(|error| Damage::new(path, error))?;
        let after = before.map(|(_, last)| last);
        match journal::scan(&bytes, *number == newest, after) {
            Ok(scan) => {
                survey.groups += scan.groups;
                if scan.is_torn {
                    survey.torn = Some((path.clone(), scan.end as u64));
                }
                before = Some((*number, scan.last.or(after).unwrap_or(0)));
            }
            Err(what) => {
                survey.damages.push(Damage::new(path, what));
                before = Some((*number, after.unwrap_or(0)));
            }
        }
    }
    check_trees(&trees, depth, survey)
}

/// The journals in order.
pub(super) fn journals(folder: &Path) -> Result<Vec<(u64, PathBuf)>, Damage> {
    let mut journals = Vec::new();
    for path in entries(folder)? {
        if path.extension().is_some_and(|extension| extension == "jnl") {
            let number = path
                .file_stem()
                .and_then(|stem| stem.to_str()?.parse().ok());
            let number =
                number.ok_or_else(|| Damage::new(&path, "does not have the name of a journal"))?;
            journals.push((number, path));
        }
    }
    journals.sort();
    Ok(journals)
}

fn check_trees(folder: &Path, depth: Depth, survey: &mut Survey) -> Result<(), Damage> {
    let (mut begun, mut filled, mut names) = (0, survey.groups > 0, false);
    let mut unfinished = Vec::new();
    for path in entries(folder)? {
        let number = path
            .file_name()
            .and_then(|name| name.to_str()?.parse::<u64>().ok());
        let Some(number) = number.filter(|_| path.is_dir()) else {
            return Err(Damage::new(&path, "was not written by the storage engine"));
        };
        // The first one contains the names of the others.
        let is_names = number == 0;
        let depth = if is_names { Depth::Full } else { depth };
        let tables = match tree::check(&path, depth, survey) {
            Ok(Some(tables)) => tables,
            Ok(None) => {
                unfinished.push(path);
                continue;
            }
            Err(damage) => {
                survey.damages.push(damage);
                1
            }
        };
        match is_names {
            true => names = tables > 0,
            false => {
                begun += 1;
                filled |= tables > 0;
            }
        }
    }
    // All tables are created before anything is committed. The engine would remove the folder.
    if filled {
        let lists = unfinished.iter().map(|tree| tree.join("current"));
        let missing = lists.map(|list| Damage::missing(&list));
        survey.damages.extend(missing);
    }
    if filled && !names {
        survey.damages.push(Damage::missing(&folder.join("0")));
    }
    // Whether the store should contain more is known once it is open: that depends on its format.
    if filled && begun < tables::EARLIER_TABLES {
        let what = format!("contains only {begun} tables");
        survey.damages.push(Damage::new(folder, what));
    }
    Ok(())
}

pub(super) fn entries(folder: &Path) -> Result<Vec<PathBuf>, Damage> {
    let failed = |error: io::Error| Damage::new(folder, error);
    let entries = match folder.read_dir() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(failed)?,
    };
    entries
        .map(|entry| entry.map(|entry| entry.path()).map_err(failed))
        .collect()
}
