//! Whether the files of a store are whole, told by reading them and not by opening them: the engine, on its way, deletes
//! what damaged files do not mention, takes a damaged journal for one that ended early, and names no file.
//!
//! - Quick, before each opening: what says which tables there are, and the journals. All of it is small or read anyway.
//! - Full: every byte of every table, too.

mod journal;
mod tree;

use std::{
    fmt, fs, io,
    path::{Path, PathBuf},
};

use super::tables;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Depth {
    Quick,
    Full,
}

/// A file that is not as it was written.
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

/// What was found.
#[derive(Debug, Default)]
pub struct Survey {
    pub damages: Vec<Damage>,
    pub files: usize,
    /// Groups of commits in the journals.
    groups: usize,
    /// A journal whose last group was never finished, and where that begins: what a crash leaves.
    unfinished: Option<(PathBuf, u64)>,
}

/// Looks at the store in `folder`, which nobody may have open. One that is not there, or new, is whole.
pub fn survey(folder: &Path, depth: Depth) -> Survey {
    let mut survey = Survey::default();
    if let Err(damage) = look(folder, depth, &mut survey) {
        survey.damages.push(damage);
    }
    survey
}

/// The tables that are damaged, in a store that may be open.
pub(super) fn damaged_tables(folder: &Path) -> Vec<Damage> {
    let mut survey = Survey::default();
    if let Err(damage) = look_at_trees(&folder.join("keyspaces"), Depth::Full, &mut survey) {
        survey.damages.push(damage);
    }
    survey.damages
}

/// As [`survey`], but an unfinished group, which was acknowledged to nobody, is cut off.
pub(super) fn survey_and_mend(folder: &Path) -> io::Result<Survey> {
    let survey = survey(folder, Depth::Quick);
    if let (Some((journal, end)), true) = (&survey.unfinished, survey.damages.is_empty()) {
        let file = fs::OpenOptions::new().write(true).open(journal)?;
        file.set_len(*end)?;
        file.sync_all()?;
    }
    Ok(survey)
}

fn look(folder: &Path, depth: Depth, survey: &mut Survey) -> Result<(), Damage> {
    let journals = journals(folder)?;
    let marker = folder.join("version");
    let trees = folder.join("keyspaces");
    match fs::read(&marker) {
        // Of an earlier format the engine says so itself.
        Ok(bytes) if matches!(bytes[..], [b'F', b'J', b'L', 1..=3]) => {}
        Ok(_) => {
            return Err(Damage::new(
                &marker,
                "is damaged, or of a storage format that this program does not know",
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
                if scan.is_unfinished {
                    survey.unfinished = Some((path.clone(), scan.end as u64));
                }
                before = Some((*number, scan.last.or(after).unwrap_or(0)));
            }
            Err(what) => {
                survey.damages.push(Damage::new(path, what));
                before = Some((*number, after.unwrap_or(0)));
            }
        }
    }
    look_at_trees(&trees, depth, survey)
}

/// By number.
fn journals(folder: &Path) -> Result<Vec<(u64, PathBuf)>, Damage> {
    let mut journals = Vec::new();
    for path in entries(folder)? {
        if path.extension().is_some_and(|extension| extension == "jnl") {
            let number = path
                .file_stem()
                .and_then(|stem| stem.to_str()?.parse().ok());
            let number =
                number.ok_or_else(|| Damage::new(&path, "has a name that no journal has"))?;
            journals.push((number, path));
        }
    }
    journals.sort();
    Ok(journals)
}

fn look_at_trees(folder: &Path, depth: Depth, survey: &mut Survey) -> Result<(), Damage> {
    let (mut begun, mut filled, mut names) = (0, survey.groups > 0, false);
    for path in entries(folder)? {
        let number = path
            .file_name()
            .and_then(|name| name.to_str()?.parse::<u64>().ok());
        let Some(number) = number.filter(|_| path.is_dir()) else {
            return Err(Damage::new(&path, "is nothing that the engine wrote"));
        };
        // The names of the others are in the first.
        let is_names = number == 0;
        let depth = if is_names { Depth::Full } else { depth };
        let tables = match tree::look(&path, depth, survey) {
            Ok(Some(tables)) => tables,
            Ok(None) => continue,
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
    if filled && !names {
        survey.damages.push(Damage::missing(&folder.join("0")));
    }
    if filled && begun < tables::NAMES.len() {
        let what = format!("has {begun} of {} tables", tables::NAMES.len());
        survey.damages.push(Damage::new(folder, what));
    }
    Ok(())
}

fn entries(folder: &Path) -> Result<Vec<PathBuf>, Damage> {
    let failed = |error: io::Error| Damage::new(folder, error);
    let entries = match folder.read_dir() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(failed)?,
    };
    entries
        .map(|entry| entry.map(|entry| entry.path()).map_err(failed))
        .collect()
}
