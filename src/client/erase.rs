//! `newsfeed erase`: removes events for good.

use std::{
    io::{self, BufRead, IsTerminal, Write},
    time::Duration,
};

use indicatif::HumanCount;

use super::{
    Error,
    api::Client,
    connection::Connection,
    feeds::{Changed, Erase, Erasure, ErasureStatus, Told},
    names,
    output::{Output, Printer, status},
    progress::Progress,
};

/// Most ids of one request.
const IDS_MAX: usize = 300;
/// How often to ask how far an erasure is.
const ASK_EVERY: Duration = Duration::from_millis(500);

/// Erase events for good
///
/// Erased events are gone from every feed and from the log, with their data and their actor, and everybody who follows
/// them is told. It cannot be undone. What remains is the id, so that it cannot be used again. On a terminal, the command
/// asks before it erases. It ends when everything is erased; a large erasure goes on in the service even if the command is
/// stopped. The token needs the scope change. If the output is not a terminal, it is JSON, as in the API.
///
/// The exit code is 0 if nothing is left of what was to be erased, 1 if something could not be erased or the only event does
/// not exist, and 2 for a usage error.
#[derive(Debug, Clone, clap::Args)]
#[command(group = clap::ArgGroup::new("what").args(["ids", "feed", "actor"]).required(true))]
#[command(after_help = "Examples:\n  \
    newsfeed erase m-1001                          one event\n  \
    newsfeed erase m-1001 m-1002 m-1003 --yes      several, without asking\n  \
    newsfeed erase --actor user:42                 everything that user:42 has written\n  \
    newsfeed erase --feed chat:7                   all entries of a feed, which stay in other feeds\n  \
    newsfeed erase --feed user:42 --everywhere     all events that are in a feed, in all their feeds")]
pub struct EraseArgs {
    /// The ids of the events
    #[arg(value_name = "ID")]
    ids: Vec<String>,
    /// Erase all entries of this feed. An event that is in other feeds, too, stays there
    #[arg(long, value_parser = names::name)]
    feed: Option<String>,
    /// Erase the events of the feed from all their feeds (needs a token for all feeds)
    #[arg(long, requires = "feed", conflicts_with_all = ["ids", "actor"])]
    everywhere: bool,
    /// Erase all events of this actor (needs a token for all feeds, or one of the actor)
    #[arg(long, value_parser = names::name)]
    actor: Option<String>,
    /// Erase one event only if this is its revision: the version of its last edit or, if it was never edited, its own
    #[arg(long, value_name = "VERSION", value_parser = names::version, conflicts_with_all = ["feed", "actor"])]
    revision: Option<String>,
    /// Do not ask
    #[arg(long, short)]
    yes: bool,
    /// Do not report progress on stderr
    #[arg(long, short)]
    quiet: bool,
    #[command(flatten)]
    output: Output,
    #[command(flatten)]
    connection: Connection,
}

pub async fn run(args: EraseArgs) -> Result<(), Error> {
    if args.revision.is_some() && args.ids.len() > 1 {
        let what = "--revision is for one event".to_owned();
        return Err(Error::Usage(what, "erase"));
    }
    let client = args.connection.reached().await?;
    if !args.yes && io::stdin().is_terminal() && !confirmed(&args)? {
        return Err(Error::Arguments("nothing was erased".to_owned()));
    }
    let mut printer = args.output.open();
    match (&*args.ids, &args.feed, &args.actor) {
        ([id], ..) => one(&client, id, &args, &mut printer).await?,
        (_, Some(feed), _) => {
            let everywhere = args.everywhere;
            let what = Erase::Feed { feed, everywhere };
            many(&client, &what, &args, &mut printer).await?;
        }
        (_, _, Some(actor)) => many(&client, &Erase::Actor { actor }, &args, &mut printer).await?,
        (ids, ..) => {
            for events in ids.chunks(IDS_MAX) {
                many(&client, &Erase::Events { events }, &args, &mut printer).await?;
            }
        }
    }
    printer.flush()
}

/// Asks on the terminal.
fn confirmed(args: &EraseArgs) -> Result<bool, Error> {
    let what = match (&*args.ids, &args.feed, &args.actor) {
        (_, Some(feed), _) if args.everywhere => {
            format!("all events that are in {feed}, in all their feeds")
        }
        (_, Some(feed), _) => format!("all entries of {feed}"),
        (_, _, Some(actor)) => format!("all events of {actor}, in all feeds"),
        ([id], ..) => format!("the event {id}"),
        (ids, ..) => format!("{} events", ids.len()),
    };
    let mut stderr = io::stderr();
    let asked = write!(
        stderr,
        "Erase {} for good? This cannot be undone. [y/N] ",
        super::printable(&what)
    );
    let mut answer = String::new();
    let answered = asked
        .and_then(|()| stderr.flush())
        .and_then(|()| io::stdin().lock().read_line(&mut answer));
    answered.map_err(|source| Error::Read {
        path: "standard input".into(),
        source,
    })?;
    Ok(["y", "yes"].contains(&&*answer.trim().to_lowercase()))
}

async fn one(
    client: &Client,
    id: &str,
    args: &EraseArgs,
    printer: &mut Printer,
) -> Result<(), Error> {
    let erased = client.erase(id, args.revision.as_deref()).await?;
    let Changed { id, erased: at, .. } = &erased.value;
    printer.print(erased.json.get(), |painter| {
        let id = painter.plain(id);
        match at {
            Some(at) => format!("erased     {}  {id}", painter.dim(at)),
            None => format!("{id} had been erased before"),
        }
    })
}

/// Waits until everything is erased.
async fn many(
    client: &Client,
    what: &Erase<'_>,
    args: &EraseArgs,
    printer: &mut Printer,
) -> Result<(), Error> {
    let mut erasure = client.begin_erasure(what).await?;
    let said = |erased: u64| match erased {
        1 => "1 event erased".to_owned(),
        _ => format!("{} events erased", HumanCount(erased)),
    };
    if !args.quiet && erasure.value.status == ErasureStatus::Running {
        let id = &erasure.value.id;
        status(&format!(
            "erasure {id} has begun; it goes on even if this command is stopped"
        ));
    }
    let mut progress = (!args.quiet).then(|| Progress::new(None));
    while erasure.value.status == ErasureStatus::Running {
        if let Some(progress) = &mut progress {
            let erased = erasure.value.erased;
            progress.set(erased, || said(erased));
        }
        tokio::time::sleep(ASK_EVERY).await;
        erasure = client.erasure(&erasure.value.id).await?;
    }
    drop(progress);
    let Told { json, value } = &erasure;
    let Erasure { erased, .. } = value;
    printer.print(json.get(), |_| match what {
        Erase::Events { events } => format!(
            "{} of {} (the others were erased before, or do not exist)",
            said(*erased),
            HumanCount(events.len() as u64)
        ),
        _ => said(*erased),
    })
}
