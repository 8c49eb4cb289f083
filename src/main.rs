//! The `newsfeed` command: parse, set up logging, run, exit code.

use std::{error::Error, io::Write, process::ExitCode, sync::Arc};

use clap::{Parser, Subcommand};
use newsfeed::{
    client::{demo, replay},
    config::Config,
    server::{Node, Settings},
    store::{Store, embedded::Embedded, keys::Keys},
};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

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
    /// Append a list of messages to a running service.
    Replay(replay::ReplayArgs),
    /// Fill a running service with a lively made-up site.
    Demo(demo::DemoArgs),
}

#[tokio::main]
async fn main() -> ExitCode {
    let cli = Cli::parse();
    let filter = EnvFilter::try_from_env("NEWSFEED_LOG")
        .unwrap_or_else(|_| EnvFilter::new("info,fjall=warn,lsm_tree=warn"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .init();
    let done: Result<(), Box<dyn Error>> = match cli.command {
        Command::Serve(config) => serve(config).await,
        Command::Replay(args) => replay::run(args).await.map_err(Into::into),
        Command::Demo(args) => demo::run(args).await.map_err(Into::into),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("newsfeed: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn serve(config: Config) -> Result<(), Box<dyn Error>> {
    raise_file_limit();
    let shutdown = CancellationToken::new();
    tokio::spawn(stop_on_signal(shutdown.clone())?);

    let (folder, wall) = (config.data.clone(), config.wall());
    let store: Arc<dyn Store> =
        Arc::new(tokio::task::spawn_blocking(move || Embedded::open(&folder, wall)).await??);
    let keys = Keys::open(&*store, b"", config.partitions).await?;
    let settings = Settings {
        deliveries: config.deliveries(),
        wall: config.wall(),
    };
    let node = Node::start(store, keys, settings)?;
    let listener = TcpListener::bind(config.listen).await.map_err(|error| {
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

/// Cancels `shutdown` at the first SIGTERM or SIGINT; a second one ends the process at once.
fn stop_on_signal(shutdown: CancellationToken) -> std::io::Result<impl Future<Output = ()>> {
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
                std::process::exit(130);
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
