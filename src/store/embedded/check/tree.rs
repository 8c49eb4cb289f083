//! The files of a table. Its folder contains `current`, which names the list of files, `v…`, and has the checksum of that
//! list. The list has the checksums of the files, which are in the folder `tables`.

use std::{
    fs::{self, File},
    io::{self, BufRead, BufReader, Read},
    path::{Path, PathBuf},
};

use super::{Damage, Depth, Survey, entries};

/// What a table consists of.
pub(in super::super) struct Listing {
    /// The contents of `current`.
    pub(in super::super) current: Vec<u8>,
    /// The name of the list of files, and its contents.
    pub(in super::super) name: String,
    pub(in super::super) list: Vec<u8>,
    /// The numbers and checksums of the files.
    pub(in super::super) files: Vec<(u64, u128)>,
}

/// Checks a table and returns its number of files; `None` if the program ended while the folder was being created.
pub(super) fn check(
    folder: &Path,
    depth: Depth,
    survey: &mut Survey,
) -> Result<Option<usize>, Damage> {
    let tables = folder.join("tables");
    let stored = entries(&tables)?;
    if stored.is_empty() && !folder.join("current").exists() {
        return Ok(None);
    }
    survey.files += 2;
    let listed = listing(folder)?.files;
    if depth == Depth::Full {
        check_files(&tables, &stored, &listed, survey);
    }
    Ok(Some(listed.len()))
}

/// Reads what the table in `folder` consists of.
pub(in super::super) fn listing(folder: &Path) -> Result<Listing, Damage> {
    let current = folder.join("current");
    let current_bytes = fs::read(&current).map_err(|error| Damage::new(&current, error))?;
    let (number, checksum) =
        read_current(&current_bytes).ok_or_else(|| Damage::new(&current, "is damaged"))?;
    let name = format!("v{number}");
    let list = folder.join(&name);
    let bytes = fs::read(&list).map_err(|error| {
        Damage::new(
            &current,
            format!("names {}, which cannot be read: {error}", list.display()),
        )
    })?;
    let damaged = || {
        Damage::new(
            &list,
            format!(
                "is damaged, or {}, which contains its checksum",
                current.display()
            ),
        )
    };
    if checksum_of(&bytes[..]).ok() != Some(checksum) {
        return Err(damaged());
    }
    let files = read_list(&list).ok_or_else(damaged)?;
    Ok(Listing {
        current: current_bytes,
        name,
        list: bytes,
        files,
    })
}

/// Compares the files `stored` in the folder `tables` with those that are `listed`.
fn check_files(tables: &Path, stored: &[PathBuf], listed: &[(u64, u128)], survey: &mut Survey) {
    for (number, checksum) in listed {
        survey.files += 1;
        let file = tables.join(number.to_string());
        let read =
            File::open(&file).and_then(|file| checksum_of(BufReader::with_capacity(1 << 18, file)));
        survey
            .damages
            .extend(match read.map(|read| read == *checksum) {
                Ok(true) => None,
                Ok(false) => Some(Damage::new(&file, "is damaged")),
                Err(error) => Some(Damage::new(&file, error)),
            });
    }
    for path in stored {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if name.parse::<u64>().is_err() && !name.starts_with("._") && name != ".DS_Store" {
            survey
                .damages
                .push(Damage::new(path, "was not written by the storage engine"));
        }
    }
}

fn read_current(bytes: &[u8]) -> Option<(u64, u128)> {
    let (list, rest) = bytes.split_first_chunk()?;
    let (checksum, rest) = rest.split_first_chunk()?;
    // The type of the checksum follows.
    (rest == [0]).then(|| (u64::from_le_bytes(*list), u128::from_le_bytes(*checksum)))
}

/// The files in a list, with their checksums.
fn read_list(path: &Path) -> Option<Vec<(u64, u128)>> {
    let reader = sfa::Reader::new(path).ok()?;
    let mut reader = reader.toc().section(b"tables")?.buf_reader(path).ok()?;
    let mut tables = Vec::new();
    let [levels] = take(&mut reader)?;
    for _ in 0..levels {
        let [runs] = take(&mut reader)?;
        for _ in 0..runs {
            for _ in 0..u32::from_le_bytes(take(&mut reader)?) {
                let number = u64::from_le_bytes(take(&mut reader)?);
                let [_kind] = take(&mut reader)?;
                let checksum = u128::from_le_bytes(take(&mut reader)?);
                let _seqno: [u8; 8] = take(&mut reader)?;
                tables.push((number, checksum));
            }
        }
    }
    Some(tables)
}

fn take<const N: usize>(reader: &mut impl Read) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    reader.read_exact(&mut bytes).ok()?;
    Some(bytes)
}

fn checksum_of(mut reader: impl BufRead) -> io::Result<u128> {
    let mut hasher = twox_hash::xxhash3_128::Hasher::new();
    loop {
        let bytes = reader.fill_buf()?;
        if bytes.is_empty() {
            return Ok(hasher.finish_128());
        }
        hasher.write(bytes);
        let len = bytes.len();
        reader.consume(len);
    }
}
