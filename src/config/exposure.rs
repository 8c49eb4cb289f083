//! Warnings at the start about what would make secrets known to others on the same machine.

use std::{fs, os::unix::fs::MetadataExt, path::Path};

use super::Config;

/// Read or write for everybody.
const OF_ALL: u32 = 0o006;
/// Read or write for the group.
const OF_GROUP: u32 = 0o060;

impl Config {
    /// Warns about files with secrets that other users can read or change, and about running as root.
    pub fn warn_of_exposure(&self) {
        if rustix::process::geteuid().is_root() {
            tracing::warn!(
                "running as root: run the service as a user of its own, which can do less harm"
            );
        }
        for (flag, path) in [
            ("--auth-secret-file", &self.auth.auth_secret_file),
            ("--auth-ticket-key", &self.auth.auth_ticket_key),
            ("--tls-key", &self.transport.tls_key),
        ] {
            if let Some(path) = path
                && is_exposed(path)
            {
                tracing::warn!(path = %path.display(), "other users can read or change the file of {flag}: chmod 600 it");
            }
        }
    }
}

fn is_exposed(path: &Path) -> bool {
    let Ok(found) = fs::metadata(path) else {
        // Opening it reports that.
        return false;
    };
    let mode = found.mode();
    mode & OF_ALL != 0 || mode & OF_GROUP != 0 && !has_list(path)
}

/// Whether the file has an access control list, as the credentials of systemd do. The permissions of its group are then
/// only the most that the list grants to anybody.
fn has_list(path: &Path) -> bool {
    let mut nothing = [0; 0];
    rustix::fs::getxattr(path, c"system.posix_acl_access", &mut nothing).is_ok()
}
