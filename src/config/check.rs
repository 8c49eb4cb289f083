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
        "kinds" => kinds::items(text, ',').into_iter().map(literal).collect(),
        "retention" => kinds::items(text, ';').into_iter().map(literal).collect(),
        _ => vec![literal(text)],
    }
}

/// The settings that differ from their defaults, as `name=value`, in one line for the log. Of secrets it says only that
/// they are set.
pub fn changed(command: &Command, matches: &ArgMatches, origins: &Origins) -> String {
    let mut settings = Vec::new();
    if let Some(path) = &origins.path {
        settings.push(format!("{CONFIG}={:?}", path.display().to_string()));
    }
    for argument in command.get_arguments() {
        let id = argument.get_id().as_str();
        let known = argument.get_env().is_some() && id != CONFIG;
        if !known || origins.of(matches, id) == "default" {
            continue;
        }
        let Ok(Some(values)) = matches.try_get_raw(id) else {
            continue;
        };
        let values: Vec<_> = values.map(|value| value.to_string_lossy()).collect();
        let defaults = argument.get_default_values().iter();
        let defaults: Vec<_> = defaults.map(|value| value.to_string_lossy()).collect();
        if values.join(",") != defaults.join(",") {
            let values: Vec<_> = values.iter().map(|value| shown(value)).collect();
            settings.push(format!("{id}={}", values.join(",")));
        }
    }
    if std::env::var_os(SECRET_VARIABLE).is_some() {
        settings.push("auth_secret is set".to_owned());
    }
    settings.join(" ")
}

/// A value as a word of a line: quoted if it has spaces or control characters. A URL is shown without user, password and
/// query, which may be secret.
fn shown(value: &str) -> String {
    let url = value
        .contains("://")
        .then(|| reqwest::Url::parse(value).ok());
    let value = match url.flatten() {
        Some(mut url)
            if !url.username().is_empty() || url.password().is_some() || url.query().is_some() =>
        {
            // These fail only for URLs that cannot have a user.
            let _ = (url.set_username(""), url.set_password(None));
            url.set_query(None);
            url.to_string()
        }
        _ => value.to_owned(),
    };
    match value.contains(|c: char| c.is_whitespace() || c.is_control() || c == '"') {
        true => format!("{value:?}"),
        false => value,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_one_word_and_a_url_has_no_secret() {
        for (value, expected) in [
            ("9", "9"),
            ("a=notify", "a=notify"),
            ("/my data", "\"/my data\""),
            ("a\nb", "\"a\\nb\""),
            ("https://app.example.com", "https://app.example.com"),
            (
                "https://user:pass@h.example/jwks?key=1",
                "https://h.example/jwks",
            ),
            ("https://h.example/jwks?key=1#x", "https://h.example/jwks#x"),
        ] {
            assert_eq!(shown(value), expected);
        }
    }
}
