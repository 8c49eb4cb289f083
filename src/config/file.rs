//! The configuration file: TOML whose keys are the arguments of `newsfeed serve`. What the command line and the
//! environment leave open is added to the command line, so that clap alone checks every value, wherever it stands.

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsString,
    fs,
    io::Read,
    path::{Path, PathBuf},
};

use clap::{Arg, ArgAction, ArgMatches, Args, Command, parser::ValueSource};
use toml::{Table, Value};

use super::Config;

/// Longest configuration file, in bytes.
const FILE_BYTES_MAX: u64 = 1024 * 1024;
/// The argument that names the file; commands that have it take their settings from it.
pub const CONFIG: &str = "config";

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot read the configuration file {path}: {error}")]
    Read { path: PathBuf, error: String },
    #[error("the configuration file {path}, {place}: {error}")]
    Syntax {
        path: PathBuf,
        place: String,
        error: String,
    },
    #[error("the configuration file {path}: {key:?} {what}")]
    Key {
        path: PathBuf,
        key: String,
        what: String,
    },
    #[error("the configuration file {path}: {}", clap_message(error))]
    Value { path: PathBuf, error: clap::Error },
}

/// What clap says, without its usage, which speaks of the command line.
fn clap_message(error: &clap::Error) -> String {
    let text = error.to_string();
    let text = text.strip_prefix("error: ").unwrap_or(&text);
    text.split("\n\n").next().unwrap_or_default().to_owned()
}

/// Where each setting of a command was given.
#[derive(Debug, Default)]
pub struct Origins {
    pub path: Option<PathBuf>,
    keys: BTreeSet<String>,
}

impl Origins {
    pub fn of(&self, matches: &ArgMatches, id: &str) -> &'static str {
        if self.keys.contains(id) {
            return "file";
        }
        match matches.value_source(id) {
            Some(ValueSource::CommandLine) => "flag",
            Some(ValueSource::EnvVariable) => "environment",
            _ => "default",
        }
    }
}

/// Parses `args`, with the settings of the configuration file they name below those of flags and environment.
/// Mistakes on the command line itself end the process as clap ends it.
pub fn parse(command: &Command, args: Vec<OsString>) -> Result<(ArgMatches, Origins), Error> {
    let matches = command.clone().get_matches_from(&args);
    let (used, given) = innermost(command, &matches);
    let path = given.try_get_one::<PathBuf>(CONFIG).ok().flatten().cloned();
    let Some(path) = path else {
        return Ok((matches, Origins::default()));
    };
    let mut origins = Origins::default();
    let mut extended = args;
    for (id, values) in read(&path)? {
        let known = used.get_arguments().find(|known| known.get_id() == &*id);
        let weaker = |_: &&Arg| {
            !matches!(
                given.value_source(&id),
                Some(ValueSource::CommandLine | ValueSource::EnvVariable)
            )
        };
        if let Some(argument) = known.filter(weaker) {
            extended.extend(as_flags(argument, &values));
            origins.keys.insert(id);
        }
    }
    let matches = command.clone().try_get_matches_from(extended);
    let matches = matches.map_err(|error| Error::Value {
        path: path.clone(),
        error,
    })?;
    origins.path = Some(path);
    Ok((matches, origins))
}

/// The subcommand that was chosen, and what it was given.
pub fn innermost<'a>(
    mut command: &'a Command,
    mut matches: &'a ArgMatches,
) -> (&'a Command, &'a ArgMatches) {
    while let Some((name, inner)) = matches.subcommand() {
        let Some(next) = command.find_subcommand(name) else {
            break;
        };
        (command, matches) = (next, inner);
    }
    (command, matches)
}

/// What the file says, by argument; nothing in it is unknown.
fn read(path: &Path) -> Result<BTreeMap<String, Vec<String>>, Error> {
    let table = table(path)?;
    let settings = Config::augment_args(Command::new("serve"));
    let mut values = BTreeMap::new();
    flatten(path, &settings, "", table, &mut values)?;
    Ok(values)
}

fn table(path: &Path) -> Result<Table, Error> {
    let unreadable = |error: String| Error::Read {
        path: path.to_owned(),
        error,
    };
    let file = fs::File::open(path).map_err(|error| unreadable(error.to_string()))?;
    let mut text = String::new();
    file.take(FILE_BYTES_MAX + 1)
        .read_to_string(&mut text)
        .map_err(|error| unreadable(error.to_string()))?;
    if text.len() as u64 > FILE_BYTES_MAX {
        return Err(unreadable(format!(
            "it is longer than {FILE_BYTES_MAX} bytes"
        )));
    }
    text.parse().map_err(|error: toml::de::Error| {
        let before = error.span().map_or(0, |span| span.start);
        let line = text.as_bytes()[..before.min(text.len())]
            .iter()
            .filter(|byte| **byte == b'\n')
            .count();
        Error::Syntax {
            path: path.to_owned(),
            place: format!("line {}", line + 1),
            error: error.message().to_owned(),
        }
    })
}

/// `[tls] cert = …` is the argument `tls_cert`; a table or an array that is an argument itself is its list of values.
fn flatten(
    path: &Path,
    settings: &Command,
    prefix: &str,
    table: Table,
    values: &mut BTreeMap<String, Vec<String>>,
) -> Result<(), Error> {
    for (name, value) in table {
        let key = format!("{prefix}{name}");
        let wrong = |what: String| Error::Key {
            path: path.to_owned(),
            key: key.clone(),
            what,
        };
        let known = settings
            .get_arguments()
            .any(|known| known.get_id() == &*key && key != CONFIG);
        let list = match (value, known) {
            (Value::Table(inner), true) => inner
                .into_iter()
                .map(|(name, value)| scalar(value).map(|value| format!("{name}={value}")))
                .collect::<Option<_>>(),
            (Value::Table(inner), false) => {
                flatten(path, settings, &format!("{key}_"), inner, values)?;
                continue;
            }
            (_, false) => return Err(wrong(unknown(settings, &key))),
            (Value::Array(array), true) => array.into_iter().map(scalar).collect(),
            (value, true) => scalar(value).map(|value| vec![value]),
        };
        let list = list.ok_or_else(|| {
            wrong("must be a text, a number, true, false, or a list of them".into())
        })?;
        if values.insert(key.clone(), list).is_some() {
            return Err(wrong("is given twice, by itself and in a table".into()));
        }
    }
    Ok(())
}

fn scalar(value: Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text),
        Value::Integer(number) => Some(number.to_string()),
        Value::Float(number) => Some(number.to_string()),
        Value::Boolean(flag) => Some(flag.to_string()),
        Value::Datetime(_) | Value::Array(_) | Value::Table(_) => None,
    }
}

fn unknown(settings: &Command, key: &str) -> String {
    let written = key.replace('-', "_");
    let known = settings
        .get_arguments()
        .filter(|known| !known.is_hide_set() && known.get_id() != CONFIG)
        .map(|known| known.get_id().as_str());
    let mut known: Vec<_> = known.collect();
    known.sort_unstable();
    if known.contains(&&*written) {
        return format!("is unknown; write it {written}");
    }
    format!("is unknown; there are {}", known.join(", "))
}

fn as_flags(argument: &Arg, values: &[String]) -> Vec<OsString> {
    let Some(long) = argument.get_long() else {
        return Vec::new();
    };
    let switch = matches!(argument.get_action(), ArgAction::SetTrue);
    match values {
        [flag] if switch && flag == "true" => vec![format!("--{long}").into()],
        [flag] if switch && flag == "false" => Vec::new(),
        values => values
            .iter()
            .map(|value| format!("--{long}={value}").into())
            .collect(),
    }
}
