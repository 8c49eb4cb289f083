//! `newsfeed config check`: prints the effective configuration and the source of each setting.

use std::fmt::Write;

use clap::{Arg, ArgMatches, Command};

use super::{
    file::{CONFIG, Origins},
    kinds,
};
use crate::auth::SECRET_VARIABLE;

/// The effective settings, written as a configuration file. Settings contain no secrets: these are read from files named
/// here, or from an environment variable that is not an argument.
pub fn effective(command: &Command, matches: &ArgMatches, origins: &Origins) -> String {
    let mut text = match &origins.path {
        Some(path) => format!("# read from {}\n", path.display()),
        None => "# no configuration file\n".to_owned(),
    };
    let settings = command.get_arguments().filter(|argument| {
        let hidden = argument.is_hide_set() || argument.get_id() == CONFIG;
        !hidden && argument.get_env().is_some()
    });
    for argument in settings {
        let id = argument.get_id().as_str();
        let origin = origins.of(matches, id);
        let line = match matches.try_get_raw(id) {
            Ok(Some(values)) => {
                let values: Vec<_> = values
                    .flat_map(|value| split(id, &value.to_string_lossy()))
                    .collect();
                match &*values {
                    [value] if !is_list(argument) => format!("{id} = {value}"),
                    values => format!("{id} = [{}]", values.join(", ")),
                }
            }
            _ => format!("# {id} is not set"),
        };
        let _ = if origin == "default" {
            writeln!(text, "{line}")
        } else {
            writeln!(text, "{line}  # {origin}")
        };
    }
    text
}

/// Clap splits most lists itself.
fn split(id: &str, text: &str) -> Vec<String> {
    match id {
        "kinds" => kinds::items(text).into_iter().map(literal).collect(),
        _ => vec![literal(text)],
    }
}

fn is_list(argument: &Arg) -> bool {
    matches!(argument.get_action(), clap::ArgAction::Append)
}

fn literal(text: &str) -> String {
    match text.parse::<i64>() {
        Ok(number) => number.to_string(),
        Err(_) if matches!(text, "true" | "false") => text.to_owned(),
        Err(_) => toml::Value::String(text.to_owned()).to_string(),
    }
}

/// Environment variables that look like settings but are not. They are not errors: Kubernetes sets such variables for any
/// service called newsfeed.
pub fn unknown_variables(command: &Command) -> Vec<String> {
    const OTHERS: [&str; 3] = [SECRET_VARIABLE, "NEWSFEED_TOKEN", "NEWSFEED_URL"];
    let known: Vec<_> = command
        .get_arguments()
        .filter_map(|argument| argument.get_env()?.to_str())
        .chain(OTHERS)
        .collect();
    let mut unknown: Vec<_> = std::env::vars_os()
        .filter_map(|(name, _)| name.into_string().ok())
        .filter(|name| name.starts_with("NEWSFEED_") && !known.contains(&&**name))
        .collect();
    unknown.sort_unstable();
    unknown
}
