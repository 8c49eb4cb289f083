//! The configuration file: TOML whose keys are the options of `newsfeed serve`. Settings given neither as flags nor in
//! the environment are appended to the command line, so that clap alone validates every value, whatever its source.

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsString,
    fs,
    io::Read,
    path::{Path, PathBuf},
};

use clap::{Arg, ArgAction, ArgMatches, Args, Command, parser::ValueSource};
use toml::{Table, Value};

use super::{Config, kinds::escaped};

/// Maximum size of a configuration file, in bytes.
const FILE_BYTES_MAX: u64 = 1024 * 1024;
/// The argument that names the file. Every command with this argument reads its settings from the file.
pub const CONFIG: &str = "config";
/// The argument whose values can be tables.
const RULES: &str = "retention";

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

/// The message of a clap error without the usage section, which is about the command line.
fn clap_message(error: &clap::Error) -> String {
    let text = error.to_string();
    let text = text.strip_prefix("error: ").unwrap_or(&text);
    text.split("\n\n").next().unwrap_or_default().to_owned()
}

/// The source of each setting of a command.
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

/// Parses `args` and the configuration file they name. Flags and environment variables override the file. A mistake on
/// the command line itself exits the process the way clap does.
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
        // The file may have settings of `serve` that this command does not have; clap panics when asked for those.
        let Some(argument) = used.get_arguments().find(|known| known.get_id() == &*id) else {
            continue;
        };
        let overridden = matches!(
            given.value_source(&id),
            Some(ValueSource::CommandLine | ValueSource::EnvVariable)
        );
        if !overridden {
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

/// The selected subcommand and its matches.
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

/// The settings in the file, by argument id. Unknown keys are errors.
fn read(path: &Path) -> Result<BTreeMap<String, Vec<String>>, Error> {
    let table = table(path)?;
    let mut reader = Reader {
        path,
        command: Config::augment_args(Command::new("serve")),
        settings: BTreeMap::new(),
    };
    reader.flatten("", table)?;
    let values = reader.settings.into_iter();
    Ok(values.map(|(id, (_, values))| (id, values)).collect())
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

struct Reader<'a> {
    path: &'a Path,
    command: Command,
    /// The key as it is written in the file and the values, by argument id.
    settings: BTreeMap<String, (String, Vec<String>)>,
}

impl Reader<'_> {
    /// Reads the settings of `table`, whose name is `prefix`: `cert` in `[tls]` is the argument `tls_cert`. A table that
    /// is an argument itself is a list of `key=value`.
    fn flatten(&mut self, prefix: &str, table: Table) -> Result<(), Error> {
        for (name, value) in table {
            let key = format!("{prefix}{name}");
            let id = argument(&self.command, &key).map(|argument| argument.get_id().to_string());
            let values = match (value, &id) {
                (Value::Table(inner), Some(_)) => inner
                    .into_iter()
                    .map(|(name, value)| {
                        scalar(value).map(|value| format!("{}={value}", escaped(&name)))
                    })
                    .collect::<Option<_>>(),
                (Value::Table(inner), None) => {
                    self.flatten(&format!("{key}_"), inner)?;
                    continue;
                }
                (_, None) => return Err(self.wrong(&key, unknown(&self.command, &key))),
                (Value::Array(array), Some(id)) => {
                    let item = |value| match value {
                        Value::Table(rule) if id == RULES => self::rule(rule),
                        value => scalar(value),
                    };
                    array.into_iter().map(item).collect()
                }
                (value, Some(_)) => scalar(value).map(|value| vec![value]),
            };
            let values = values.ok_or_else(|| {
                self.wrong(
                    &key,
                    "must be a string, a number, true, false, or a list of these".into(),
                )
            })?;
            if let Some(id) = id {
                self.set(id, key, values)?;
            }
        }
        Ok(())
    }

    fn set(&mut self, id: String, key: String, values: Vec<String>) -> Result<(), Error> {
        match self.settings.get(&id) {
            Some((earlier, _)) if *earlier == key => Err(self.wrong(
                &key,
                "is set twice, on its own and in a table; keep one of them".into(),
            )),
            Some((earlier, _)) => Err(self.wrong(
                &key,
                format!("and {earlier:?} are the same setting; keep {id:?}"),
            )),
            None => {
                self.settings.insert(id, (key, values));
                Ok(())
            }
        }
    }

    fn wrong(&self, key: &str, what: String) -> Error {
        Error::Key {
            path: self.path.to_owned(),
            key: key.to_owned(),
            what,
        }
    }
}

/// The argument that `key` names, by its id or by its long flag written with `_`. The two differ for flags that can be
/// repeated: `--cors-origin` is `cors_origin` or `cors_origins`.
fn argument<'a>(command: &'a Command, key: &str) -> Option<&'a Arg> {
    let mut known = command
        .get_arguments()
        .filter(|known| known.get_id() != CONFIG);
    known.find(|known| {
        let flag = known.get_long().map(|long| long.replace('-', "_"));
        known.get_id() == key || flag.as_deref() == Some(key)
    })
}

/// A rule as one text. What can be repeated is a list in the table.
fn rule(table: Table) -> Option<String> {
    let mut items = Vec::new();
    for (name, value) in table {
        let values = match value {
            Value::Array(values) => values,
            value => vec![value],
        };
        for value in values {
            let value = escaped(&scalar(value)?).replace(';', "\\;");
            items.push(format!("{name}={value}"));
        }
    }
    Some(items.join(","))
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

/// Why `key` is not a setting, with the settings there are.
fn unknown(command: &Command, key: &str) -> String {
    let written = key.replace('-', "_");
    if argument(command, &written).is_some() {
        return format!("is unknown; write it {written}");
    }
    let known = command
        .get_arguments()
        .filter(|known| !known.is_hide_set() && known.get_id() != CONFIG)
        .map(|known| known.get_id().as_str());
    let mut known: Vec<_> = known.collect();
    known.sort_unstable();
    format!("is unknown; the settings are {}", known.join(", "))
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
