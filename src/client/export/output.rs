//! Where the events are written, and the file with the position.
//!
//! The position is saved only after everything up to it has been written, and is on the disk if it goes to a file. A file
//! can have more than that after a crash: the position comes with the length that the file had, and the next run cuts the
//! file to that length before it continues. So each event is in the file exactly once.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, BufWriter, Read, Seek, SeekFrom, Stdout, Write},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use indicatif::{HumanBytes, HumanCount};

use crate::client::{Error, names, output::unwritten};

/// More than a version, a length and two line feeds.
const CURSOR_BYTES_MAX: u64 = 1_024;

pub struct Output {
    to: To,
    cursor: Option<PathBuf>,
    position: String,
    /// What the cursor file says.
    saved: Option<String>,
    saved_at: Instant,
    events: u64,
    bytes: u64,
}

enum To {
    Stdout(BufWriter<Stdout>),
    File {
        path: PathBuf,
        file: BufWriter<File>,
        length: u64,
    },
}

/// The content of a cursor file: a version and, in the next line, the length of the output file at that version.
struct Saved {
    version: String,
    length: Option<u64>,
}

impl Output {
    /// Continues where the cursor file says, or begins after `after`.
    pub fn open(
        path: Option<PathBuf>,
        cursor: Option<PathBuf>,
        after: &str,
    ) -> Result<Self, Error> {
        let saved = match &cursor {
            Some(cursor) => Saved::read(cursor)?,
            None => None,
        };
        let to = match path {
            None => To::Stdout(BufWriter::new(io::stdout())),
            Some(path) => {
                let length = saved.as_ref().map(|saved| saved.length.unwrap_or(0));
                let (file, length) = open(&path, length)?;
                let file = BufWriter::new(file);
                To::File { path, file, length }
            }
        };
        let version = saved.map(|saved| saved.version);
        let mut output = Self {
            to,
            cursor,
            position: version.clone().unwrap_or_else(|| after.to_owned()),
            saved: version,
            saved_at: Instant::now(),
            events: 0,
            bytes: 0,
        };
        // Before the first event: otherwise a crash would leave a file with events and no position.
        output.save()?;
        Ok(output)
    }

    /// Everything up to this version is written.
    pub fn position(&self) -> &str {
        &self.position
    }

    /// Events written by this run.
    pub fn events(&self) -> u64 {
        self.events
    }

    pub fn summary(&self) -> String {
        let (events, bytes) = (HumanCount(self.events), HumanBytes(self.bytes));
        format!("{events} events, {bytes}, up to {}", self.position)
    }

    pub fn event(&mut self, json: &[u8], version: String) -> Result<(), Error> {
        let bytes = json.len() as u64 + 1;
        match &mut self.to {
            To::Stdout(out) => write_line(out, json).map_err(unwritten)?,
            To::File { path, file, length } => {
                write_line(file, json).map_err(|source| failed_write(path, source))?;
                *length += bytes;
            }
        }
        self.events += 1;
        self.bytes += bytes;
        self.position = version;
        Ok(())
    }

    /// There is no event up to `version` that was not written.
    pub fn reached(&mut self, version: String) {
        self.position = version;
    }

    /// Passes on what is written, and saves the position if that was not done for `every`.
    pub fn save_sometimes(&mut self, every: Duration) -> Result<(), Error> {
        match &mut self.to {
            To::Stdout(out) => out.flush().map_err(unwritten)?,
            To::File { .. } => {}
        }
        match self.saved_at.elapsed() >= every {
            true => self.save(),
            false => Ok(()),
        }
    }

    /// Saves the position, after everything up to it.
    pub fn save(&mut self) -> Result<(), Error> {
        self.saved_at = Instant::now();
        let length = match &mut self.to {
            To::Stdout(out) => {
                out.flush().map_err(unwritten)?;
                None
            }
            To::File { path, file, length } => {
                let flushed = file.flush().and_then(|()| file.get_ref().sync_data());
                flushed.map_err(|source| failed_write(path, source))?;
                Some(*length)
            }
        };
        if self.saved.as_ref() == Some(&self.position) {
            return Ok(());
        }
        if let Some(cursor) = &self.cursor {
            let version = self.position.clone();
            Saved { version, length }.write(cursor)?;
            self.saved = Some(self.position.clone());
        }
        Ok(())
    }
}

fn write_line(out: &mut impl Write, json: &[u8]) -> io::Result<()> {
    out.write_all(json)?;
    out.write_all(b"\n")
}

fn failed_write(path: &Path, source: io::Error) -> Error {
    Error::Write {
        path: path.to_owned(),
        source,
    }
}

/// Opens the output file and cuts it to `length`. Without `length` the file must be new, or empty.
fn open(path: &Path, length: Option<u64>) -> Result<(File, u64), Error> {
    let opened = || {
        let mut file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(path)?;
        let found = file.metadata()?.len();
        let keep = match length {
            Some(keep) if keep > found => {
                return Err(io::Error::other(format!(
                    "it has {found} bytes, but the cursor file says that {keep} were written: it is not the file that was \
                     exported to"
                )));
            }
            Some(keep) => keep,
            None if found > 0 => {
                return Err(io::Error::other(
                    "it exists: give the --cursor that belongs to it, or another file",
                ));
            }
            None => 0,
        };
        file.set_len(keep)?;
        file.seek(SeekFrom::Start(keep))?;
        // So that the name of a new file survives a power failure as surely as its content.
        sync_folder(path)?;
        Ok((file, keep))
    };
    opened().map_err(|source| failed_write(path, source))
}

fn sync_folder(path: &Path) -> io::Result<()> {
    let folder = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty());
    File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
}

impl Saved {
    /// `None` if there is no file yet.
    fn read(path: &Path) -> Result<Option<Self>, Error> {
        let failed = |source| Error::Read {
            path: path.to_owned(),
            source,
        };
        let mut text = String::new();
        match File::open(path) {
            Ok(file) => file.take(CURSOR_BYTES_MAX).read_to_string(&mut text),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => Err(error),
        }
        .map_err(failed)?;
        let mut lines = text.lines();
        let version = lines
            .next()
            .and_then(|line| names::version(line.trim()).ok());
        let length = lines.next().map(|line| line.trim().parse()).transpose();
        match (version, length) {
            (Some(version), Ok(length)) => Ok(Some(Self { version, length })),
            _ => Err(failed(io::Error::other(
                "it is not a cursor of `newsfeed export`; remove it to start over, or give another file with --cursor",
            ))),
        }
    }

    /// Atomic: after a crash the file has the old content or the new one.
    fn write(&self, path: &Path) -> Result<(), Error> {
        let mut temporary = path.to_owned().into_os_string();
        temporary.push(".new");
        let temporary = Path::new(&temporary);
        let length = self
            .length
            .map_or_else(String::new, |length| format!("{length}\n"));
        let written = || {
            let mut file = File::create(temporary)?;
            write!(file, "{}\n{length}", self.version)?;
            // Before the rename, or a power failure could leave an empty file under the name.
            file.sync_data()?;
            fs::rename(temporary, path)?;
            sync_folder(path)
        };
        written().map_err(|source| failed_write(path, source))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const VERSION: &str = "000000800pgcvgij9uqfvvvvvs";

    /// A file is cut to what the cursor knows of, and everything else is refused rather than lost.
    #[test]
    fn a_file_continues_at_its_cursor() {
        let folder = tempfile::tempdir().expect("a folder");
        let (file, cursor) = (folder.path().join("out"), folder.path().join("cursor"));
        let open = || Output::open(Some(file.clone()), Some(cursor.clone()), "0");
        let content = || fs::read_to_string(&file).expect("a file");

        let mut output = open().expect("new");
        assert_eq!(fs::read_to_string(&cursor).expect("kept"), "0\n0\n");
        output.event(b"{1}", VERSION.to_owned()).expect("written");
        output.save().expect("saved");
        output
            .event(b"{2}", VERSION.replace('8', "9"))
            .expect("written");
        // A crash after the second event was written and before it was saved.
        drop(output);
        assert_eq!(content(), "{1}\n{2}\n");
        let mut output = open().expect("continued");
        assert_eq!((content().as_str(), output.position()), ("{1}\n", VERSION));
        output
            .event(b"{2}", VERSION.replace('8', "9"))
            .expect("written");
        output.save().expect("saved");
        drop(output);
        assert_eq!(content(), "{1}\n{2}\n");

        let refused = |what: &str| {
            let error = open().err().expect("refused").to_string();
            assert!(error.contains(what), "{error}");
        };
        fs::write(&file, "{1}").expect("written");
        refused("it is not the file");
        fs::remove_file(&cursor).expect("removed");
        refused("it exists");
        fs::write(&cursor, "yesterday").expect("written");
        refused("remove it to start over");
        assert_eq!(content(), "{1}");
    }
}
