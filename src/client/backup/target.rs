//! The folder that a backup writes. Until it is complete, it has another name and contains a file that says so, so that
//! nobody takes it for a backup.

use std::{
    fs::{self, DirBuilder, File, OpenOptions, TryLockError},
    io::{self, Read, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use twox_hash::xxhash3_128;

use super::FileHead;
use crate::client::Error;

/// In a backup that is not complete.
const UNFINISHED: &str = "unfinished-backup";
const COPY_BYTES: usize = 256 * 1024;

pub struct Target {
    folder: PathBuf,
    partial: PathBuf,
    base: Option<PathBuf>,
    /// Locked, so that two commands do not write the same backup.
    _unfinished: File,
}

impl Target {
    /// Begins a backup in `folder`. What another command left there unfinished is removed.
    pub fn begin(folder: &Path, base: Option<&Path>) -> Result<Self, Error> {
        let refuse = |what: &str| {
            let folder = folder.display();
            Err(Error::Arguments(format!(
                "{folder} {what}: name a folder that does not exist yet"
            )))
        };
        match fs::read_dir(folder).map(|mut entries| entries.next().is_none()) {
            Ok(false) => return refuse("is not empty"),
            Ok(true) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(_) => return refuse("exists, and is not a folder that can be read"),
        }
        let Some(name) = folder.file_name() else {
            return refuse("is not the name of a folder");
        };
        let mut partial = name.to_owned();
        partial.push(".partial");
        let partial = folder.with_file_name(partial);
        let unfinished = lock(&partial)?;
        Ok(Self {
            folder: folder.to_owned(),
            partial,
            base: base.map(Path::to_owned),
            _unfinished: unfinished,
        })
    }

    /// Begins to write a file, or takes it from the older backup.
    pub fn file(&self, head: &FileHead) -> Result<Writing, Error> {
        let damaged = |what: String| Error::Damaged {
            file: head.name.clone(),
            what,
        };
        if !is_of_store(&head.name) {
            return Err(damaged("is not the name of a file of a store".into()));
        }
        let path = self.partial.join(&head.name);
        if let Some(parent) = path.parent() {
            create_folder(parent, true).map_err(|error| failed(parent, error))?;
        }
        if head.name.ends_with("/current") {
            let tables = path.with_file_name("tables");
            create_folder(&tables, true).map_err(|error| failed(&tables, error))?;
        }
        let mut writing = Writing {
            file: None,
            hasher: xxhash3_128::Hasher::new(),
            head: (head.name.clone(), head.checksum.clone()),
            path,
        };
        match (&self.base, head.sent) {
            (_, true) => writing.create()?,
            (Some(base), false) => writing.take(&base.join(&head.name))?,
            (None, false) => return Err(damaged("was not sent".into())),
        }
        Ok(writing)
    }

    /// The backup is complete and on the disk.
    pub fn end(self) -> Result<(), Error> {
        let unfinished = self.partial.join(UNFINISHED);
        let end = || -> io::Result<()> {
            sync_folders(&self.partial)?;
            fs::remove_file(unfinished)?;
            File::open(&self.partial)?.sync_all()?;
            fs::rename(&self.partial, &self.folder)?;
            let parent = self
                .folder
                .parent()
                .filter(|path| !path.as_os_str().is_empty());
            File::open(parent.unwrap_or(Path::new(".")))?.sync_all()
        };
        end().map_err(|error| failed(&self.folder, error))
    }
}

/// Creates the folder of an unfinished backup, for this command alone.
fn lock(partial: &Path) -> Result<File, Error> {
    let failed = |error| failed(partial, error);
    let unfinished = partial.join(UNFINISHED);
    let is_new = !partial.exists();
    if !is_new && !unfinished.exists() {
        let partial = partial.display();
        return Err(Error::Arguments(format!(
            "{partial} is in the way and is not an unfinished backup: move it, or name another folder"
        )));
    }
    if let Some(parent) = partial.parent() {
        create_folder(parent, true).map_err(failed)?;
    }
    create_folder(partial, true).map_err(failed)?;
    let mut options = OpenOptions::new();
    let file = options.write(true).create(true).truncate(false).mode(0o600);
    let file = file.open(&unfinished).map_err(failed)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let partial = partial.display();
            return Err(Error::Arguments(format!(
                "another command is writing {partial}"
            )));
        }
        Err(TryLockError::Error(error)) => return Err(failed(error)),
    }
    for entry in fs::read_dir(partial).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        if entry.file_name() == UNFINISHED {
            continue;
        }
        let is_folder = entry.file_type().map_err(failed)?.is_dir();
        let removed = match is_folder {
            true => fs::remove_dir_all(entry.path()),
            false => fs::remove_file(entry.path()),
        };
        removed.map_err(failed)?;
    }
    Ok(file)
}

fn create_folder(folder: &Path, recursive: bool) -> io::Result<()> {
    DirBuilder::new()
        .recursive(recursive)
        .mode(0o700)
        .create(folder)
}

fn sync_folders(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            sync_folders(&entry.path())?;
        }
    }
    File::open(folder)?.sync_all()
}

/// Whether `name` is a file that a backup consists of. Other names, such as those of folders above, are refused.
fn is_of_store(name: &str) -> bool {
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    match *name.split('/').collect::<Vec<_>>() {
        ["version" | "lock" | "removals" | "0.jnl"] => true,
        ["keyspaces", table, file] => {
            is_number(table) && (file == "current" || file.strip_prefix('v').is_some_and(is_number))
        }
        ["keyspaces", table, "tables", file] => is_number(table) && is_number(file),
        _ => false,
    }
}

/// A file that is being written.
pub struct Writing {
    file: Option<File>,
    hasher: xxhash3_128::Hasher,
    /// Name and checksum.
    head: (String, String),
    path: PathBuf,
}

impl Writing {
    fn create(&mut self) -> Result<(), Error> {
        let mut options = OpenOptions::new();
        let file = options.write(true).create_new(true).mode(0o600);
        let file = file
            .open(&self.path)
            .map_err(|error| failed(&self.path, error))?;
        self.file = Some(file);
        Ok(())
    }

    pub fn write(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.hasher.write(bytes);
        let written = self
            .file
            .as_mut()
            .map_or(Ok(()), |file| file.write_all(bytes));
        written.map_err(|error| failed(&self.path, error))
    }

    /// Links or copies the file `from` an older backup. It is read in any case: a damaged one makes a damaged backup.
    fn take(&mut self, from: &Path) -> Result<(), Error> {
        let failed = |source| Error::Read {
            path: from.to_owned(),
            source,
        };
        let mut file = File::open(from).map_err(failed)?;
        if fs::hard_link(from, &self.path).is_err() {
            self.create()?;
        }
        let mut buffer = vec![0; COPY_BYTES];
        loop {
            let read = file.read(&mut buffer).map_err(failed)?;
            if read == 0 {
                return Ok(());
            }
            self.write(&buffer[..read])?;
        }
    }

    /// The whole file is written: checks it.
    pub fn end(self) -> Result<(), Error> {
        let (name, checksum) = self.head;
        if format!("{:032x}", self.hasher.finish_128()) != checksum {
            return Err(Error::Damaged {
                file: name,
                what: "is damaged: its bytes do not have the checksum that the store has of it"
                    .into(),
            });
        }
        match self.file {
            Some(file) => file.sync_all().map_err(|error| failed(&self.path, error)),
            None => Ok(()),
        }
    }
}

fn failed(path: &Path, source: io::Error) -> Error {
    Error::Write {
        path: path.to_owned(),
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(name: &str, content: &[u8], sent: bool) -> FileHead {
        FileHead {
            name: name.into(),
            bytes: content.len() as u64,
            checksum: format!("{:032x}", twox_hash::XxHash3_128::oneshot(content)),
            sent,
        }
    }

    #[test]
    fn names_outside_of_a_store_are_refused() {
        for name in [
            "version",
            "0.jnl",
            "keyspaces/0/current",
            "keyspaces/12/v3",
            "keyspaces/1/tables/7",
        ] {
            assert!(is_of_store(name), "{name}");
        }
        for name in [
            "",
            "/etc/passwd",
            "../version",
            "keyspaces/../current",
            "keyspaces/1/tables/../../../x",
            "1.jnl",
            "keyspaces/1/v",
            "keyspaces//current",
            "keyspaces/1/tables/",
        ] {
            assert!(!is_of_store(name), "{name}");
        }
    }

    #[test]
    fn a_folder_appears_when_it_is_complete_and_what_is_left_of_another_attempt_is_removed() {
        let folder = tempfile::tempdir().expect("a folder");
        let target = folder.path().join("a/monday");
        let unfinished = Target::begin(&target, None).expect("begins");
        let second = Target::begin(&target, None)
            .err()
            .expect("refused")
            .to_string();
        assert!(second.contains("another command is writing"), "{second}");
        let mut file = unfinished
            .file(&head("keyspaces/1/tables/7", b"one", true))
            .expect("begins");
        file.write(b"two").expect("written");
        let error = file.end().expect_err("another checksum").to_string();
        assert!(error.contains("keyspaces/1/tables/7 is damaged"), "{error}");
        drop(unfinished);
        assert!(!target.exists());

        let again = Target::begin(&target, None).expect("begins again");
        let mut file = again
            .file(&head("keyspaces/1/tables/8", b"one", true))
            .expect("begins");
        file.write(b"one").expect("written");
        file.end().expect("as sent");
        again.end().expect("complete");
        assert!(!target.join("keyspaces/1/tables/7").exists());
        let error = Target::begin(&target, None)
            .err()
            .expect("refused")
            .to_string();
        assert!(error.contains("is not empty"), "{error}");

        // The next one takes the file from there, unless it is damaged.
        let next = Target::begin(&folder.path().join("tuesday"), Some(&target)).expect("begins");
        next.file(&head("keyspaces/1/tables/8", b"one", false))
            .expect("taken")
            .end()
            .expect("as it was");
        let other = next
            .file(&head("keyspaces/1/tables/9", b"one", false))
            .err();
        assert!(matches!(other, Some(Error::Read { .. })));
        fs::write(target.join("keyspaces/1/tables/9"), "two").expect("written");
        let damaged = next
            .file(&head("keyspaces/1/tables/9", b"one", false))
            .expect("linked")
            .end();
        assert!(matches!(damaged, Err(Error::Damaged { .. })));
    }
}
