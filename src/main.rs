//! The `newsfeed` command: parses arguments, sets up logging, runs the command and returns its exit code.

mod copy;
mod help;
mod start;

use std::{error::Error, io::Write, process::ExitCode, time::Duration};

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};
use indicatif::HumanBytes;
use newsfeed::{
    auth::mint,
    client::{
        self, append, backup, completions, demo, edit, erase, event, export, history, import, mark,
        readers, replay, state, tail,
    },
    clock::WallTime,
    config::{
        Config, Engine, Opened, RetentionArgs, StoreConfig, check,
        file::{self, Origins},
    },
    http,
    lifecycle::retention,
    logging,
    server::{Node, Settings},
    store::{
        Store,
        audit::audit,
        embedded::{self, Embedded},
        epoch,
        keys::{self, FORMAT},
    },
};
use tokio_util::sync::CancellationToken;

/// Appends allocate memory in one thread and free it in others. The system's allocator takes a fifth longer for that.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Far more than the embedded store's few readers need. Bounded because each thread keeps memory of its own.
const BLOCKING_THREADS_MAX: usize = 16;

/// How long the runtime waits at exit for blocking work that a stopped node has given up on, such as a read from a disk
/// that hangs.
const ABANDONED_WORK_MAX: Duration = Duration::from_secs(1);

/// A newsfeed service: history up to a version, then live from it; nothing lost, nothing twice, no gap.
#[derive(Parser)]
#[command(version, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the service.
    Serve(Box<Config>),
    /// Check the configuration of the service.
    #[command(subcommand, name = "config")]
    Configuration(Configuration),
    /// Maintain a store, or sign a test token.
    #[command(subcommand)]
    Admin(Admin),
    Append(append::AppendArgs),
    Event(event::EventArgs),
    Edit(edit::EditArgs),
    Erase(erase::EraseArgs),
    Tail(tail::TailArgs),
    History(history::HistoryArgs),
    Export(export::ExportArgs),
    Import(import::ImportArgs),
    #[command(alias = "head")]
    State(state::StateArgs),
    Mark(mark::MarkArgs),
    Readers(readers::ReadersArgs),
    Replay(replay::ReplayArgs),
    Demo(demo::DemoArgs),
    Completions(completions::CompletionsArgs),
}

#[derive(Subcommand)]
enum Configuration {
    /// Check the settings that `newsfeed serve` would use with the same flags, environment variables and --config file,
    /// and print them as a configuration file.
    Check(Box<Config>),
}

#[derive(Subcommand)]
enum Admin {
    /// Show the epoch of an existing store, or raise it. On FoundationDB, raise it after a restore from a backup, before the
    /// first node starts. An embedded store raises it by itself whenever `newsfeed serve` opens it; it must not be in use.
    Epoch {
        #[command(flatten)]
        store: StoreConfig,
        /// Begin a new epoch. Versions assigned from then on are above all earlier ones, and cursors from what the restore
        /// has lost are refused. Appends in flight are retried.
        #[arg(long)]
        raise: bool,
        /// The version to which the cluster was restored, as `fdbrestore` prints it: cursors above it are refused.
        /// Without it, cursors above the last thing that was stored are.
        #[arg(long, value_name = "VERSION", requires = "raise")]
        restored_version: Option<u64>,
    },
    /// Sign a token and print it, to try a service that requires tokens. In production, tokens come from the system that
    /// logs users in.
    #[command(after_help = "Example:\n  \
        newsfeed admin token --key secret --sub user:42 --scope read,mark --feed 'user:42' --feed 'chat:*'")]
    Token(mint::MintArgs),
    /// Migrate an existing store to the newest format, and say which format it had. Stores of format 2 can be used without
    /// that, but take more keys for each message. Programs that do not know the new format cannot open the store any more: on
    /// FoundationDB, every node must run this program before. An embedded store must not be in use.
    Migrate {
        #[command(flatten)]
        store: StoreConfig,
    },
    Copy(copy::CopyArgs),
    /// Read a whole store and report damage: every entry and, in an embedded store, every byte of its files. The store
    /// must not be in use. Undamaged data is not changed.
    Check {
        #[command(flatten)]
        store: StoreConfig,
    },
    Backup(backup::BackupArgs),
    /// Rewrite the files of an embedded store, so that what was removed, such as an erased event, is in none of them. It must
    /// not be in use. A running service does this within a day of a removal; use the command to have it done at once, or to
    /// shrink a store of an earlier release. It needs about as much free disk space as the store takes. FoundationDB
    /// overwrites removed data itself.
    Compact {
        #[command(flatten)]
        store: StoreConfig,
    },
    /// Say what the retention rules would remove now, of an existing store, without removing anything. Rules are those of
    /// `newsfeed serve`, so give the same --config file, or try others as flags. An embedded store must not be in use.
    Retention {
        #[command(flatten)]
        store: StoreConfig,
        #[command(flatten)]
        retention: RetentionArgs,
        /// Only say what would be removed. The service itself removes it.
        #[arg(long, required = true)]
        dry_run: bool,
    },
}

fn main() -> ExitCode {
    let command = help::grouped(Cli::command());
    let (matches, origins) = match file::parse(&command, std::env::args_os().collect()) {
        Ok(parsed) => parsed,
        Err(error) => {
            eprintln!("newsfeed: {error}");
            return ExitCode::FAILURE;
        }
    };
    let cli = Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    let (command, matches) = file::innermost(&command, &matches);
    let given = Given {
        command,
        matches,
        origins: &origins,
    };
    if let Command::Serve(_) | Command::Admin(_) = cli.command {
        // Before any thread starts: no file that the store creates, now or later, is for other users.
        rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .max_blocking_threads(BLOCKING_THREADS_MAX)
        .build();
    match runtime {
        Ok(runtime) => {
            let code = runtime.block_on(run(cli, &given));
            runtime.shutdown_timeout(ABANDONED_WORK_MAX);
            code
        }
        Err(error) => {
            eprintln!("newsfeed: cannot start: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(cli: Cli, given: &Given<'_>) -> ExitCode {
    if !matches!(cli.command, Command::Serve(_)) {
        logging::init_for_commands();
    }
    let done: Result<(), Box<dyn Error>> = match cli.command {
        Command::Serve(config) => serve(*config, given).await,
        Command::Configuration(Configuration::Check(config)) => check(&config, given).await,
        Command::Admin(Admin::Epoch {
            store,
            raise,
            restored_version,
        }) => epoch(&store, raise, restored_version).await,
        Command::Admin(Admin::Token(args)) => mint_token(&args).map_err(Into::into),
        Command::Admin(Admin::Copy(args)) => copy::run(args).await,
        Command::Admin(Admin::Check { store }) => check_store(&store).await,
        Command::Admin(Admin::Migrate { store }) => migrate(&store).await,
        Command::Admin(Admin::Backup(args)) => back_up(args).await,
        Command::Admin(Admin::Compact { store }) => compact(&store).await,
        Command::Admin(Admin::Retention {
            store, retention, ..
        }) => survey_retention(&store, &retention).await,
        Command::Append(args) => append::run(args).await.map_err(Into::into),
        Command::Tail(args) => tail::run(args).await.map_err(Into::into),
        Command::History(args) => history::run(args).await.map_err(Into::into),
        Command::Export(args) => export::run(args).await.map_err(Into::into),
        Command::Import(args) => import::run(args).await.map_err(Into::into),
        Command::Event(args) => event::run(args).await.map_err(Into::into),
        Command::Edit(args) => edit::run(args).await.map_err(Into::into),
        Command::Erase(args) => erase::run(args).await.map_err(Into::into),
        Command::State(args) => state::run(args).await.map_err(Into::into),
        Command::Mark(args) => mark::run(args).await.map_err(Into::into),
        Command::Readers(args) => readers::run(args).await.map_err(Into::into),
        Command::Replay(args) => replay::run(args).await.map_err(Into::into),
        Command::Demo(args) => demo::run(args).await.map_err(Into::into),
        Command::Completions(args) => {
            completions::run(&args, &mut help::grouped(Cli::command())).map_err(Into::into)
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let client = error.downcast_ref::<client::Error>();
            match client {
                Some(client::Error::Closed) => {}
                // The message may contain text from a service.
                Some(error) => eprintln!("newsfeed: {}", client::printable(&error.to_string())),
                None => eprintln!("newsfeed: {error}"),
            }
            client.map_or(ExitCode::FAILURE, |error| error.exit_code().into())
        }
    }
}

/// The subcommand's arguments and their sources.
struct Given<'a> {
    command: &'a clap::Command,
    matches: &'a clap::ArgMatches,
    origins: &'a Origins,
}

async fn check(config: &Config, given: &Given<'_>) -> Result<(), Box<dyn Error>> {
    for name in check::unknown_variables(given.command) {
        eprintln!("newsfeed: the environment variable {name} is not a setting; it is ignored");
    }
    config.check().await?;
    print!(
        "{}",
        check::effective(given.command, given.matches, given.origins)
    );
    Ok(())
}

async fn serve(config: Config, given: &Given<'_>) -> Result<(), Box<dyn Error>> {
    let (log, traces) = config.logging.init()?;
    raise_file_limit();
    let shutdown = CancellationToken::new();
    tokio::spawn(stop_on_signal(shutdown.clone())?);

    let places = config.places().await?;
    config.warn_of_exposure();
    let tls = config.transport.tls()?;
    let auth = config.auth().await?;
    config.retention.retention()?;
    // Kept until the end: with FoundationDB it holds the client library's thread.
    let opening = config.store.open(config.wall());
    let Some(opened) = shutdown.run_until_cancelled(opening).await else {
        return Ok(());
    };
    let opened = opened?;
    let settings = Settings {
        log: Some(log),
        ..config.settings(auth)
    };
    let node = Node::start(opened.store.clone(), opened.keys.clone(), settings)?;
    let scheme = if tls.is_some() { "https" } else { "http" };
    let node = node.over(tls);
    let listeners = http::listen(&places, config.listen_mode)?;
    let urls = listeners.iter().map(|listener| listener.url(scheme));
    let urls = urls.collect::<std::io::Result<Vec<_>>>()?.join(" ");
    start::log(&config, given, &opened, &urls).await?;

    // Printed on stdout and flushed, so that a parent process that asked for port 0 can read the address from a pipe.
    let mut stdout = std::io::stdout();
    writeln!(stdout, "newsfeed is listening on {urls}")?;
    stdout.flush()?;
    node.serve(listeners, shutdown).await;
    traces.finish().await;
    Ok(())
}

async fn epoch(
    config: &StoreConfig,
    raise: bool,
    restored: Option<u64>,
) -> Result<(), Box<dyn Error>> {
    let Opened { store, keys, .. } = &config.open_existing().await?;
    let epoch = if raise {
        epoch::raise(&**store, keys, &WallTime::system(0), restored).await?
    } else {
        epoch::current(&**store).await?
    };
    println!("epoch {epoch}");
    store.close().await;
    Ok(())
}

/// Opening refuses every format that cannot be read.
async fn migrate(config: &StoreConfig) -> Result<(), Box<dyn Error>> {
    let Opened { store, keys, .. } = &config.open_existing().await?;
    let before = keys::migrate(&**store, keys).await?;
    store.close().await;
    match before {
        FORMAT => println!("the store has format {FORMAT}, the newest: nothing to migrate"),
        _ => println!("the store had format {before} and has format {FORMAT} now"),
    }
    Ok(())
}

fn mint_token(args: &mint::MintArgs) -> Result<(), String> {
    println!("{}", mint::token(args, &WallTime::system(0))?);
    Ok(())
}

async fn check_store(config: &StoreConfig) -> Result<(), Box<dyn Error>> {
    if config.store == Engine::Embedded {
        let survey = embedded::check_files(&config.data)?;
        for damage in &survey.damages {
            println!("{damage}");
        }
        if let count @ 1.. = survey.damages.len() {
            return Err(format!(
                "{count} of the store's files are damaged: restore its folder from a backup (events appended since the backup are lost)"
            )
            .into());
        }
        println!("{} files are undamaged", survey.files);
    }
    let Opened { store, keys, .. } = &config.open_existing().await?;
    let counts = audit(&**store, keys).await;
    store.close().await;
    println!("{}", counts?);
    Ok(())
}

async fn back_up(args: backup::BackupArgs) -> Result<(), Box<dyn Error>> {
    let have = args.base().map(|base| embedded::table_files(base));
    backup::run(args, have.transpose()?.unwrap_or_default()).await?;
    Ok(())
}

async fn compact(config: &StoreConfig) -> Result<(), Box<dyn Error>> {
    if config.store != Engine::Embedded {
        println!("FoundationDB overwrites removed data itself: there is nothing to compact");
        return Ok(());
    }
    let store = Embedded::open_existing(&config.data, WallTime::system(0))?;
    let before = embedded::disk_bytes(&config.data)?;
    let compacted = tokio::task::block_in_place(|| store.compact());
    store.close().await;
    compacted?;
    let after = embedded::disk_bytes(&config.data)?;
    println!(
        "compacted: the store takes {} on disk, before it was {}",
        HumanBytes(after),
        HumanBytes(before)
    );
    Ok(())
}

async fn survey_retention(
    config: &StoreConfig,
    retention: &RetentionArgs,
) -> Result<(), Box<dyn Error>> {
    let retention = retention.retention()?;
    if retention.keeps_everything() {
        return Err("no retention is configured: give --retention, --retention-log-age, or the --config file of the service".into());
    }
    let Opened { store, keys, .. } = &config.open_existing().await?;
    let now = WallTime::system(0).micros();
    let survey = retention::survey(&**store, keys, &retention, now).await;
    store.close().await;
    println!("{}", survey?);
    Ok(())
}

/// Cancels `shutdown` at the first SIGTERM or SIGINT. A second signal kills the process immediately.
fn stop_on_signal(shutdown: CancellationToken) -> std::io::Result<impl Future<Output = ()>> {
    use rustix::process::{Signal, getpid, kill_process};
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        for attempt in 0.. {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            if attempt > 0 {
                // Exit handlers must not run, because threads of the store may still be running.
                let _ = kill_process(getpid(), Signal::KILL);
            }
            shutdown.cancel();
        }
    })
}

/// Every connection is an open file, so raise the limit as far as the system allows.
fn raise_file_limit() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        tracing::warn!(%error, "cannot raise the limit on open files");
    }
}
