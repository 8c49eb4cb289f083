//! `newsfeed admin copy`.

use std::error::Error;

use clap::Args;
use newsfeed::{
    client::Progress,
    clock::WallTime,
    config::{Location, Sides},
    store::{self, copy},
};

/// Copy a whole store into an empty place, also of the other engine
///
/// The copy continues the life of the store: every cursor, marker, id and version stays valid, and it begins a new epoch. No
/// node may serve the source or the target meanwhile, and the source is not changed. If the command is interrupted, run it
/// again: it continues. Until then, the target cannot be opened as a store. In the end, both sides are read and every key
/// and value is compared.
///
/// A store is embedded:FOLDER, or fdb:CLUSTER_FILE?prefix=TEXT; quote the latter. In a cluster, the file is
/// /etc/foundationdb/fdb.cluster and the prefix newsfeed/ unless you give others.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    newsfeed admin copy --from embedded:/var/lib/newsfeed --to fdb:                       to the cluster of this machine\n  \
    newsfeed admin copy --from 'fdb:/etc/a.cluster?prefix=a/' --to embedded:./newsfeed-data   and back to a folder")]
pub struct CopyArgs {
    /// The store to copy
    #[arg(long, value_name = "STORE")]
    from: Location,
    /// Where to copy it: an empty place, or an unfinished copy of the same store
    #[arg(long, value_name = "STORE")]
    to: Location,
    /// Do not report progress on stderr
    #[arg(long, short)]
    quiet: bool,
}

pub async fn run(args: CopyArgs) -> Result<(), Box<dyn Error>> {
    let sides = Sides::open(&args.from, &args.to).await?;
    let mut told = Told {
        copying: (!args.quiet).then(|| Progress::new(None)),
        verifying: None,
        quiet: args.quiet,
    };
    let copied = copy::copy(
        &sides.from,
        &sides.to,
        &args.from.to_string(),
        &WallTime::system(0),
        |progress| told.tell(progress),
    )
    .await;
    drop(told);
    sides.close().await;
    let copy::Report {
        keys,
        bytes,
        checksum,
        epoch,
    } = copied.map_err(explained)?;
    println!(
        "copied {keys} keys ({bytes} bytes) and verified them: checksum {checksum:032x}, epoch {epoch}"
    );
    Ok(())
}

fn explained(error: store::Error) -> Box<dyn Error> {
    match error {
        store::Error::Full => {
            "the disk of the target is full: free some space, and run the same command again".into()
        }
        store::Error::Unavailable(_) | store::Error::Unknown | store::Error::TooOld => {
            format!("{error}: run the same command again when it is available").into()
        }
        other => other.into(),
    }
}

/// Progress for people.
struct Told {
    copying: Option<Progress>,
    verifying: Option<Progress>,
    quiet: bool,
}

impl Told {
    fn tell(&mut self, progress: copy::Progress) {
        match progress {
            copy::Progress::Copied { keys, bytes } => {
                if let Some(bar) = &mut self.copying {
                    bar.set(keys, || {
                        format!("copied {keys} keys, {} MB", bytes / 1_000_000)
                    });
                }
            }
            copy::Progress::Watching => {
                if let Some(bar) = &mut self.verifying {
                    bar.say(|| "verified; watching whether a node serves the source".to_owned());
                }
            }
            copy::Progress::Verified { keys, of } => {
                self.copying = None;
                if !self.quiet {
                    self.verifying
                        .get_or_insert_with(|| Progress::new(Some(of)))
                        .set(keys, || format!("verified {keys} of {of} keys"));
                }
            }
        }
    }
}
