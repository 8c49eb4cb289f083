//! The log, which goes to stderr, and traces, which can be exported to an OpenTelemetry collector.

mod control;
mod fields;
#[cfg(feature = "otlp")]
mod otlp;
mod trace_parent;

use std::{error::Error, io::IsTerminal};

use clap::{Args, ValueEnum};
use tracing_subscriber::{
    EnvFilter, Layer, Registry, fmt, layer::SubscriberExt, reload, util::SubscriberInitExt,
};

use self::fields::PlainFields;
#[cfg(feature = "otlp")]
pub use self::otlp::adopt;
pub use self::{
    control::{Current, FALL_BACK_SECONDS_MAX, FILTER_BYTES_MAX, Filter, LogControl},
    trace_parent::TraceParent,
};

/// The storage engine logs a lot at level info.
const DEFAULT_FILTER: &str = "info,fjall=warn,lsm_tree=warn";

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// Human-readable lines.
    Text,
    /// One JSON object per line.
    Json,
}

/// Options of logging and tracing.
#[derive(Debug, Clone, Args)]
pub struct LogArgs {
    /// Log filter in the syntax of `tracing`: levels by module, such as `info,newsfeed=debug`.
    #[arg(long, env = "NEWSFEED_LOG", default_value = DEFAULT_FILTER, value_name = "FILTER")]
    pub log: Filter,

    /// Format of the log.
    #[arg(long, env = "NEWSFEED_LOG_FORMAT", value_enum, default_value_t = LogFormat::Text)]
    pub log_format: LogFormat,

    /// OpenTelemetry collector to export traces to, over HTTP, such as http://localhost:4318. Can also be set with
    /// OTEL_EXPORTER_OTLP_ENDPOINT. Requires a program built with the feature otlp.
    #[arg(long, env = "NEWSFEED_OTLP_ENDPOINT", value_name = "URL")]
    pub otlp_endpoint: Option<String>,

    /// Share of the traces begun by this service that is exported, from 0 to 1. For other traces, the caller decides.
    #[arg(long, env = "NEWSFEED_OTLP_SAMPLE", default_value_t = 1.0, value_parser = parse_share, value_name = "SHARE")]
    pub otlp_sample: f64,
}

fn parse_share(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(share) if (0.0..=1.0).contains(&share) => Ok(share),
        _ => Err("must be a number from 0 to 1".into()),
    }
}

/// The export of traces. [`Traces::finish`] sends the remaining spans when the service stops.
pub struct Traces {
    #[cfg(feature = "otlp")]
    exporter: Option<otlp::Exporter>,
}

impl Traces {
    pub async fn finish(self) {
        #[cfg(feature = "otlp")]
        if let Some(exporter) = self.exporter {
            exporter.finish().await;
        }
    }
}

impl LogArgs {
    /// Starts logging for the whole process.
    pub fn init(&self) -> Result<(LogControl, Traces), Box<dyn Error>> {
        let (filter, handle) = reload::Layer::new(self.log.to_env_filter());
        let lines = fmt::layer().with_writer(std::io::stderr);
        let lines: Box<dyn Layer<_> + Send + Sync> = match self.log_format {
            LogFormat::Text if std::io::stderr().is_terminal() => lines.with_ansi(true).boxed(),
            LogFormat::Text => lines.with_ansi(false).fmt_fields(PlainFields).boxed(),
            LogFormat::Json => lines
                .json()
                .flatten_event(true)
                .with_span_list(false)
                .boxed(),
        };
        let registry = Registry::default().with(filter).with(lines);
        let endpoint = self.otlp_endpoint.clone();
        let endpoint = endpoint.or_else(|| std::env::var("OTEL_EXPORTER_OTLP_ENDPOINT").ok());
        let traces = match endpoint {
            None => {
                registry.init();
                Traces {
                    #[cfg(feature = "otlp")]
                    exporter: None,
                }
            }
            #[cfg(feature = "otlp")]
            Some(endpoint) => {
                let exporter = otlp::Exporter::start(&endpoint, self.otlp_sample)?;
                registry.with(exporter.layer()).init();
                Traces {
                    exporter: Some(exporter),
                }
            }
            #[cfg(not(feature = "otlp"))]
            Some(_) => {
                return Err(
                    "this program was built without OTLP: build it with `cargo build --release --features otlp`, or \
                     remove --otlp-endpoint (and OTEL_EXPORTER_OTLP_ENDPOINT)"
                        .into(),
                );
            }
        };
        Ok((LogControl::new(self.log.clone(), handle), traces))
    }
}

/// Starts logging for client and admin commands: human-readable, with the filter in NEWSFEED_LOG.
pub fn init_for_commands() {
    let filter =
        EnvFilter::try_from_env("NEWSFEED_LOG").unwrap_or_else(|_| EnvFilter::new(DEFAULT_FILTER));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .without_time()
        .with_target(false)
        .init();
}
