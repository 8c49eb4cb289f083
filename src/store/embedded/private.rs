//! The data folder is for its owner only: nobody else can enter it or read its files.

use std::{
    fs::{self, DirBuilder, Permissions},
    io,
    os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt},
    path::Path,
};

use super::removals;

const FOLDER_MODE: u32 = 0o700;
const FILE_MODE: u32 = 0o600;
/// The permissions of everybody but the owner.
const OF_OTHERS: u32 = 0o077;
/// Of a folder in which each user may delete only files of their own, such as `/tmp`.
const STICKY: u32 = 0o1000;

/// Creates the folder, and the folders above it, for the owner only. Takes the permissions of others away from an existing
/// store, such as one of an earlier version or one restored from a backup. Where that is not possible, it says so.
pub fn create(folder: &Path) -> io::Result<()> {
    let mut builder = DirBuilder::new();
    builder.recursive(true).mode(FOLDER_MODE).create(folder)?;
    let path = folder.display();
    match narrow(folder) {
        Ok(0) => {}
        Ok(narrowed) => {
            tracing::warn!(%path, narrowed, "other users had permissions in the data folder; now only its owner has");
        }
        Err(error) => {
            tracing::warn!(%path, "OTHER USERS HAVE PERMISSIONS IN THE DATA FOLDER: {error}; use a folder of its own with mode 0700");
        }
    }
    Ok(())
}

/// Returns how many files and folders had permissions for others.
fn narrow(folder: &Path) -> io::Result<usize> {
    let mode = fs::metadata(folder)?.mode();
    let mut narrowed = 0;
    let mut alone = mode & STICKY == 0;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        match is_of_store(&entry.file_name().to_string_lossy()) {
            true => narrowed += narrow_tree(&entry.path())?,
            // Of the file system, in the root of a volume.
            false if entry.file_name() == "lost+found" => {}
            false => alone = false,
        }
    }
    if mode & OF_OTHERS == 0 {
        return Ok(narrowed);
    }
    if !alone {
        return Err(io::Error::other("it is also used for other files"));
    }
    fs::set_permissions(folder, Permissions::from_mode(FOLDER_MODE))?;
    Ok(narrowed + 1)
}

/// Whether the engine creates files of this name in the data folder.
fn is_of_store(name: &str) -> bool {
    matches!(name, "lock" | "version" | "keyspaces")
        || name.starts_with(removals::FILE)
        || name.ends_with(".jnl")
}

fn narrow_tree(path: &Path) -> io::Result<usize> {
    let found = fs::symlink_metadata(path)?;
    if found.is_symlink() {
        return Ok(0);
    }
    let mut narrowed = 0;
    if found.mode() & OF_OTHERS != 0 {
        let mode = if found.is_dir() {
            FOLDER_MODE
        } else {
            FILE_MODE
        };
        fs::set_permissions(path, Permissions::from_mode(mode))?;
        narrowed += 1;
    }
    if found.is_dir() {
        for entry in fs::read_dir(path)? {
            narrowed += narrow_tree(&entry?.path())?;
        }
    }
    Ok(narrowed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).expect("it exists").mode() & 0o7777
    }

    #[test]
    fn a_store_is_narrowed_and_files_of_others_are_left() {
        let folder = tempfile::tempdir().expect("a folder");
        let data = folder.path().join("a/data");
        create(&data).expect("created");
        assert_eq!(
            [mode(&data), mode(&folder.path().join("a"))],
            [FOLDER_MODE; 2]
        );
        let tree = data.join("keyspaces/1");
        fs::create_dir_all(&tree).expect("created");
        let files = [data.join("lock"), data.join("0.jnl"), tree.join("table")];
        let set = |path: &Path, mode| {
            fs::set_permissions(path, Permissions::from_mode(mode)).expect("set");
        };
        for file in &files {
            fs::write(file, "").expect("written");
            set(file, 0o644);
        }
        for folder in [&data, &tree] {
            set(folder, 0o755);
        }
        create(&data).expect("there");
        for file in &files {
            assert_eq!(mode(file), FILE_MODE, "{}", file.display());
        }
        assert_eq!([mode(&data), mode(&tree)], [FOLDER_MODE; 2]);

        // Somebody's own files are in it, or it is everybody's: only the store is narrowed.
        let notes = data.join("notes");
        fs::write(&notes, "").expect("written");
        for (file, mode) in [(&notes, 0o644), (&files[0], 0o664), (&data, 0o755)] {
            set(file, mode);
        }
        create(&data).expect("there");
        assert_eq!(
            [mode(&notes), mode(&files[0]), mode(&data)],
            [0o644, FILE_MODE, 0o755]
        );
        fs::remove_file(&notes).expect("removed");
        set(&data, 0o1777);
        create(&data).expect("there");
        assert_eq!(mode(&data), 0o1777);
    }
}
