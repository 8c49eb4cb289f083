//! Unix sockets: listening on a path of the file system.

use std::{
    fs,
    io::{self, ErrorKind},
    os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
};

use socket2::{Domain, SockAddr, Socket, Type};
use tokio::net::UnixListener;

use super::BACKLOG;

/// A listening unix socket. Its file is removed when this is dropped.
pub struct UnixSocket {
    pub listener: UnixListener,
    path: PathBuf,
    /// Device and number of the file, to recognize it.
    file: (u64, u64),
}

impl UnixSocket {
    /// Listens on `path`. Whoever may write to the file may connect: `mode` is set before the first connection is possible.
    pub fn bind(path: &Path, mode: u32) -> Result<Self, String> {
        let address = SockAddr::unix(path)
            .map_err(|_| "the path of a unix socket has at most 107 bytes".to_owned())?;
        if let Some(folder) = path.parent().filter(|folder| !folder.is_dir()) {
            return Err(format!("there is no folder {}", folder.display()));
        }
        remove_stale(path, &address)?;
        let listen = || {
            let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
            socket.set_nonblocking(true)?;
            socket.bind(&address)?;
            fs::set_permissions(path, fs::Permissions::from_mode(mode))?;
            let file = fs::symlink_metadata(path)?;
            socket.listen(BACKLOG)?;
            Ok(Self {
                listener: UnixListener::from_std(socket.into())?,
                path: path.to_owned(),
                file: (file.dev(), file.ino()),
            })
        };
        listen().map_err(|error: io::Error| error.to_string())
    }

    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for UnixSocket {
    fn drop(&mut self) {
        // Another service may have taken the path over.
        let file = fs::symlink_metadata(&self.path);
        if file.is_ok_and(|file| (file.dev(), file.ino()) == self.file) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Removes the socket of a process that has ended without removing it.
fn remove_stale(path: &Path, address: &SockAddr) -> Result<(), String> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error.to_string()),
        Ok(file) if !file.file_type().is_socket() => {
            return Err("there is a file that is not a socket; remove it".to_owned());
        }
        Ok(_) => {}
    }
    let connected = Socket::new(Domain::UNIX, Type::STREAM, None).and_then(|socket| {
        // A full backlog must not block.
        socket.set_nonblocking(true)?;
        socket.connect(address)
    });
    match connected {
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => {
            fs::remove_file(path).map_err(|error| format!("cannot remove the old socket: {error}"))
        }
        Err(error) if error.kind() != ErrorKind::WouldBlock => Err(format!(
            "cannot find out whether the socket is in use: {error}"
        )),
        Ok(()) | Err(_) => Err("the socket is in use by another process".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::{UnixListener, UnixStream};

    use super::*;

    fn error(path: &Path) -> String {
        match UnixSocket::bind(path, 0o600) {
            Ok(_) => panic!("listens on {}", path.display()),
            Err(error) => error,
        }
    }

    #[tokio::test]
    async fn only_a_socket_of_an_ended_process_is_replaced() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("socket");
        drop(UnixListener::bind(&path).expect("bound"));
        assert!(path.exists(), "the standard library leaves the file behind");
        let socket = UnixSocket::bind(&path, 0o620).expect("replaced");
        let mode = fs::metadata(&path).expect("a file").permissions().mode();
        assert_eq!(mode & 0o777, 0o620);
        UnixStream::connect(&path).expect("it listens");
        assert!(error(&path).contains("in use"));
        UnixStream::connect(&path).expect("it still listens");
        drop(socket);
        assert!(!path.exists());
        fs::write(&path, "content").expect("written");
        assert!(error(&path).contains("not a socket"));
        assert_eq!(fs::read_to_string(&path).expect("text"), "content");
    }

    #[tokio::test]
    async fn the_socket_of_a_successor_is_not_removed() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("socket");
        let first = UnixSocket::bind(&path, 0o600).expect("bound");
        fs::remove_file(&path).expect("removed");
        let _second = UnixSocket::bind(&path, 0o600).expect("bound");
        drop(first);
        UnixStream::connect(&path).expect("the second one listens");
    }

    #[tokio::test]
    async fn a_missing_folder_and_a_long_path_are_reported() {
        let folder = tempfile::tempdir().expect("a folder");
        let missing = folder.path().join("missing");
        let said = error(&missing.join("socket"));
        assert!(said.contains(missing.to_str().expect("UTF-8")), "{said}");
        assert!(error(&folder.path().join("x".repeat(108))).contains("107"));
    }
}
