//! `newsfeed admin backup`: copies the store of a running service into a folder.

mod receive;
mod target;

use std::{collections::HashMap, path::PathBuf};

use indicatif::HumanBytes;
use reqwest::Method;
use serde::Deserialize;
use serde_json::json;

use self::{receive::Received, target::Target};
use super::{Error, Progress, api::Failure, connection::Connection};

/// Longest body of the request. What does not fit is sent again by the service.
const REQUEST_BYTES_MAX: usize = 1024 * 1024;

/// Copy the store of a running service into a folder, while the service goes on
///
/// The folder is a store: `newsfeed serve --data` can use it, or a copy of it. It contains everything up to the version that
/// is printed. Only the embedded engine is copied; a service on FoundationDB is backed up with fdbbackup. The command
/// requires a token with the scope `admin`, and writes to TARGET.partial until the copy is complete.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "Examples:\n  \
    newsfeed admin backup /backups/monday\n  \
    newsfeed admin backup /backups/tuesday --base /backups/monday")]
pub struct BackupArgs {
    /// The folder to create. It must not exist, or be empty
    target: PathBuf,
    /// An older backup of the same service. Files that have not changed since are not sent again: they are linked, or copied
    /// if it is on another file system
    #[arg(long, value_name = "OLDER")]
    base: Option<PathBuf>,
    #[command(flatten)]
    connection: Connection,
}

impl BackupArgs {
    pub fn base(&self) -> Option<&PathBuf> {
        self.base.as_ref()
    }
}

/// What the answer begins with.
#[derive(Debug, Deserialize)]
struct Head {
    version: String,
    files: Vec<FileHead>,
}

#[derive(Debug, Deserialize)]
struct FileHead {
    name: String,
    bytes: u64,
    checksum: String,
    sent: bool,
}

/// `have` are the files of the older backup, with their checksums.
pub async fn run(args: BackupArgs, have: Vec<(String, u128)>) -> Result<(), Error> {
    let client = args.connection.reached().await?;
    let target = Target::begin(&args.target, args.base.as_deref())?;
    let mut length = 0;
    let have: HashMap<String, String> = have
        .into_iter()
        .map(|(name, checksum)| (name, format!("{checksum:032x}")))
        .take_while(|(name, checksum)| {
            length += name.len() + checksum.len() + 8;
            length < REQUEST_BYTES_MAX - 100
        })
        .collect();
    let request = client.request(Method::POST, "/v1/admin/backup");
    let request = request.json(&json!({ "have": have }));
    let response = match client.stream(request).await {
        Ok(response) => response,
        Err(Failure::NotNow { last, .. } | Failure::Final(last)) => return Err(last),
    };
    let mut received = Received::new(&client, response);
    let head = received.head().await?;
    let all = head.files.iter().map(|file| file.bytes).sum();
    let mut progress = Progress::new(Some(all));
    let mut done = 0;
    let (sent, kept): (Vec<_>, Vec<_>) = head.files.iter().partition(|file| file.sent);
    for file in sent {
        let mut writing = target.file(file)?;
        let mut left = file.bytes;
        while left > 0 {
            let part = received.part(left).await?;
            left -= part.len() as u64;
            writing.write(&part)?;
            done += part.len() as u64;
            progress.set(done, || {
                format!("{} of {}", HumanBytes(done), HumanBytes(all))
            });
        }
        writing.end()?;
    }
    received.end().await?;
    // Last, so that the service does not wait for it: these files are read to check them.
    let sent = done;
    for file in kept {
        target.file(file)?.end()?;
        done += file.bytes;
        progress.set(done, || {
            format!("{} of {}", HumanBytes(done), HumanBytes(all))
        });
    }
    target.end()?;
    println!("version {}", head.version);
    eprintln!(
        "{} files, {}, of which {} were sent",
        head.files.len(),
        HumanBytes(all),
        HumanBytes(sent)
    );
    Ok(())
}
