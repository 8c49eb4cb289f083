//! The `newsfeed` command: parse, set up logging, run, exit code.

mod help;

use std::{
    error::Error,
    io::{IsTerminal, Write},
    process::ExitCode,
};

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};
use newsfeed::{
    client::{self, append, bench, completions, demo, head, history, mark, replay, tail},
    clock::WallTime,
    config::{
        Config, Opened, StoreConfig, check,
        file::{self, Origins},
    },
    server::{self, Node},
    store::epoch,
};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

/// Appends allocate in one thread and free in others; the system's allocator takes a fifth longer for them.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Far more than the embedded store's few readers need; each thread keeps memory of its own.
const BLOCKING_THREADS_MAX: usize = 16;

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
    Serve(Config),
    /// Look at the configuration of the service.
    #[command(subcommand, name = "config")]
    Configuration(Configuration),
    /// Look after a store.
    #[command(subcommand)]
    Admin(Admin),
    Append(append::AppendArgs),
    Tail(tail::TailArgs),
    History(history::HistoryArgs),
    Head(head::HeadArgs),
    Mark(mark::MarkArgs),
    Replay(replay::ReplayArgs),
    Demo(demo::DemoArgs),
    Bench(bench::BenchArgs),
    Completions(completions::CompletionsArgs),
}

#[derive(Subcommand)]
enum Configuration {
    /// Check what `newsfeed serve` would be told by the same flags, environment and --config file, and print it, as a
    /// configuration file.
    Check(Box<Config>),
}

#[derive(Subcommand)]
enum Admin {
    /// Show the epoch, or raise it: after a restore from a backup, or when the store's clock was set back. (The
    /// embedded store must not be in use.)
    Epoch {
        #[command(flatten)]
        store: StoreConfig,
        /// Raise it by one. Versions minted from then on lie above all before; what is in flight is tried again.
        #[arg(long)]
        raise: bool,
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
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .max_blocking_threads(BLOCKING_THREADS_MAX)
        .build();
    match runtime {
        Ok(runtime) => runtime.block_on(run(cli, &given)),
        Err(error) => {
            eprintln!("newsfeed: cannot start: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(cli: Cli, given: &Given<'_>) -> ExitCode {
    start_log(matches!(cli.command, Command::Serve(_)));
    let done: Result<(), Box<dyn Error>> = match cli.command {
        Command::Serve(config) => serve(config).await,
        Command::Configuration(Configuration::Check(config)) => check(&config, given),
        Command::Admin(Admin::Epoch { store, raise }) => epoch(&store, raise).await,
        Command::Append(args) => append::run(args).await.map_err(Into::into),
        Command::Tail(args) => tail::run(args).await.map_err(Into::into),
        Command::History(args) => history::run(args).await.map_err(Into::into),
        Command::Head(args) => head::run(args).await.map_err(Into::into),
        Command::Mark(args) => mark::run(args).await.map_err(Into::into),
        Command::Replay(args) => replay::run(args).await.map_err(Into::into),
        Command::Demo(args) => demo::run(args).await.map_err(Into::into),
        Command::Bench(args) => bench::run(args).await.map_err(Into::into),
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
                // Some of it may be what a service said.
                Some(error) => eprintln!("newsfeed: {}", client::printable(&error.to_string())),
                None => eprintln!("newsfeed: {error}"),
            }
            client.map_or(ExitCode::FAILURE, |error| error.exit_code().into())
        }
    }
}

/// To stderr: a service's log, or what a command has to say to who waits for it.
fn start_log(service: bool) {
    let filter = EnvFilter::try_from_env("NEWSFEED_LOG")
        .unwrap_or_else(|_| EnvFilter::new("info,fjall=warn,lsm_tree=warn"));
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    if service {
        log.init();
    } else {
        log.without_time().with_target(false).init();
    }
}

/// The subcommand's arguments, and from where they are.
struct Given<'a> {
    command: &'a clap::Command,
    matches: &'a clap::ArgMatches,
    origins: &'a Origins,
}

fn check(config: &Config, given: &Given<'_>) -> Result<(), Box<dyn Error>> {
    for name in check::strange_variables(given.command) {
        eprintln!("newsfeed: the environment variable {name} is no setting; it is ignored");
    }
    config.check()?;
    print!(
        "{}",
        check::effective(given.command, given.matches, given.origins)
    );
    Ok(())
}

async fn serve(config: Config) -> Result<(), Box<dyn Error>> {
    raise_file_limit();
    let shutdown = CancellationToken::new();
    tokio::spawn(stop_on_signal(shutdown.clone())?);

    // Kept to the end: with FoundationDB it holds the client library's thread.
    let opened = config.store.open(config.wall()).await?;
    let node = Node::start(opened.store.clone(), opened.keys.clone(), config.settings())?;
    let listener = server::listen(config.listen).map_err(|error| {
        format!(
            "cannot listen on {}: {error}; choose another --listen",
            config.listen
        )
    })?;

    // On stdout and flushed, so that whoever asked for port 0 can read the address from a pipe.
    let mut stdout = std::io::stdout();
    writeln!(
        stdout,
        "newsfeed is listening on http://{}",
        listener.local_addr()?
    )?;
    stdout.flush()?;
    node.serve(listener, shutdown).await;
    Ok(())
}

async fn epoch(config: &StoreConfig, raise: bool) -> Result<(), Box<dyn Error>> {
    let Opened { store, keys, .. } = &config.open(WallTime::system(0)).await?;
    let epoch = if raise {
        epoch::raise(&**store, keys).await?
    } else {
        epoch::current(&**store).await?
    };
    println!("epoch {epoch}");
    store.close().await;
    Ok(())
}

/// Cancels `shutdown` at the first SIGTERM or SIGINT; a second one ends the process at once.
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
                // Without exit handlers: threads of the store may be running.
                let _ = kill_process(getpid(), Signal::KILL);
            }
            shutdown.cancel();
        }
    })
}

/// Every connection is a file: take as many as the system lets us.
fn raise_file_limit() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        tracing::warn!(%error, "cannot raise the limit of open files");
    }
}
