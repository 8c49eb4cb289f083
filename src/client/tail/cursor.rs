//! A file that keeps the position of `newsfeed tail`.

use std::{
    fs::File,
    io::{self, Read, Write},
    path::{Path, PathBuf},
};

use crate::client::{Error, names};

/// More than a version and a line feed.
const FILE_BYTES_MAX: u64 = 1_024;

/// Holds one version as a line. Writing is atomic: after a crash the file has the old version or the new one.
#[derive(Debug)]
pub struct Cursor {
    path: PathBuf,
}

impl Cursor {
    pub fn new(path: PathBuf) -> Self {
        Self { path }
    }

    /// `None` if there is no file yet.
    pub fn read(&self) -> Result<Option<String>, Error> {
        let failed = |source| Error::Read {
            path: self.path.clone(),
            source,
        };
        let mut text = String::new();
        match File::open(&self.path) {
            Ok(file) => file.take(FILE_BYTES_MAX).read_to_string(&mut text),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => Err(error),
        }
        .map_err(failed)?;
        match names::version(text.trim()) {
            Ok(version) => Ok(Some(version)),
            Err(_) => Err(failed(io::Error::other(
                "it does not contain a version; remove it to start over, or give another file with --cursor",
            ))),
        }
    }

    pub fn write(&self, version: &str) -> Result<(), Error> {
        let mut temporary = self.path.clone().into_os_string();
        temporary.push(".new");
        let temporary = Path::new(&temporary);
        let written = || {
            let mut file = File::create(temporary)?;
            writeln!(file, "{version}")?;
            // Before the rename, or a power failure could leave an empty file under the name.
            file.sync_data()?;
            std::fs::rename(temporary, &self.path)
        };
        written().map_err(|source| Error::Write {
            path: self.path.clone(),
            source,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_is_read_as_written_and_other_content_is_rejected() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("cursor");
        let cursor = Cursor::new(path.clone());
        assert_eq!(cursor.read().expect("no file"), None);
        for version in ["0", "000000800pgcvgij9uqfvvvvvs"] {
            cursor.write(version).expect("written");
            assert_eq!(cursor.read().expect("read").as_deref(), Some(version));
        }
        let files = std::fs::read_dir(folder.path()).expect("listed").count();
        assert_eq!(files, 1, "no temporary file is left");
        for wrong in ["", "later", "\u{0}"] {
            std::fs::write(&path, wrong).expect("written");
            let error = cursor.read().expect_err("no version").to_string();
            assert!(error.contains("remove it to start over"), "{error}");
        }
        let nowhere = Cursor::new(folder.path().join("none/cursor"));
        assert!(matches!(nowhere.write("0"), Err(Error::Write { .. })));
    }
}
