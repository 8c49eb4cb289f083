//! Reads `openapi.yaml` and validates answers with it.

use std::{
    collections::BTreeMap,
    str::FromStr,
    sync::{Arc, LazyLock, Mutex},
};

use jsonschema::Validator;
use newsfeed::version::Version;
use serde_json::{Map, Value, json};

pub const TEXT: &str = include_str!("../../../openapi.yaml");

pub struct Spec {
    root: Value,
    /// The validators of schemas so far: compiling one takes longer than many validations.
    compiled: Mutex<BTreeMap<String, Arc<Validator>>>,
}

impl Spec {
    /// The file, which all tests share.
    pub fn read() -> &'static Self {
        static SPEC: LazyLock<Spec> = LazyLock::new(|| Spec {
            root: serde_saphyr::from_str(TEXT).expect("openapi.yaml is YAML"),
            compiled: Mutex::default(),
        });
        &SPEC
    }

    /// `#/components/{name}`.
    pub fn section(&self, name: &str) -> &Map<String, Value> {
        self.root["components"][name]
            .as_object()
            .expect("a section of components")
    }

    /// Resolves a `$ref`; other values are returned as they are.
    pub fn resolve<'a>(&'a self, value: &'a Value) -> &'a Value {
        match value["$ref"].as_str() {
            Some(reference) => {
                let pointer = reference
                    .strip_prefix('#')
                    .expect("a reference into this file");
                let target = self.root.pointer(pointer);
                self.resolve(target.unwrap_or_else(|| panic!("{reference} is missing")))
            }
            None => value,
        }
    }

    /// The validator of a schema of the file.
    pub fn validator(&self, schema: &Value) -> Arc<Validator> {
        let key = schema.to_string();
        let known = self.compiled.lock().expect("no panic").get(&key).cloned();
        known.unwrap_or_else(|| {
            let validator = Arc::new(self.compile(schema));
            let mut compiled = self.compiled.lock().expect("no panic");
            compiled.insert(key, validator.clone());
            validator
        })
    }

    fn compile(&self, schema: &Value) -> Validator {
        // The schemas are included so that references to them resolve.
        let document = json!({ "$schema": "https://json-schema.org/draft/2020-12/schema",
                               "allOf": [schema], "components": { "schemas": self.section("schemas") } });
        jsonschema::options()
            .should_validate_formats(true)
            .build(&document)
            .unwrap_or_else(|error| panic!("{schema} is not a schema: {error}"))
    }

    /// Validates `value`; the error lists all violations.
    pub fn check(&self, schema: &Value, value: &Value) -> Result<(), String> {
        let errors = errors(&self.validator(schema), value);
        match errors.is_empty() {
            true => Ok(()),
            false => Err(format!("{} in {value}", errors.join("; "))),
        }
    }

    /// All operations: path, method and description.
    pub fn operations(&self) -> impl Iterator<Item = (&str, &str, &Value)> {
        let paths = self.root["paths"].as_object().expect("paths");
        paths.iter().flat_map(|(path, item)| {
            let item = item.as_object().expect("a path item");
            let methods = item.iter().filter(|(name, _)| *name != "parameters");
            methods.map(move |(method, operation)| (path.as_str(), method.as_str(), operation))
        })
    }

    /// The parameters of an operation, including those of its path.
    pub fn parameters<'a>(&'a self, path: &str, operation: &'a Value) -> Vec<&'a Value> {
        let of_path = self.root["paths"][path]["parameters"].as_array();
        let own = operation["parameters"].as_array();
        let both = of_path.into_iter().chain(own).flatten();
        both.map(|parameter| self.resolve(parameter)).collect()
    }

    /// The response that `operation` documents for a status, and its key.
    pub fn response<'a>(
        &'a self,
        operation: &'a Value,
        status: u16,
    ) -> Option<(String, &'a Value)> {
        let keys = [status.to_string(), format!("{}XX", status / 100)];
        keys.into_iter().find_map(|key| {
            let response = operation["responses"].get(&key)?;
            Some((key, self.resolve(response)))
        })
    }

    /// The schema of an event's data, and the member of the data that is the event's id, if it has one, from the table in the
    /// description of the stream at `path`. In the log, `is_of_log`, events and changes have other data.
    fn stream_event(
        &self,
        path: &str,
        name: &str,
        is_of_log: bool,
    ) -> Option<(Value, Option<&str>)> {
        let of_log = match name {
            "event" => Some(("LogEvent", "version")),
            "edited" if is_of_log => Some(("LogEdit", "edited")),
            "erased" if is_of_log => Some(("LogErasure", "erased")),
            _ => None,
        };
        if let Some((schema, id)) = of_log {
            let schema = format!("#/components/schemas/{schema}");
            return Some((json!({ "$ref": schema }), Some(id)));
        }
        let description = self.root["paths"][path]["get"]["description"].as_str();
        let row = description?
            .lines()
            .find(|line| line.starts_with(&format!("| `{name}` |")))?;
        let mut cells = row.split('|').skip(2).map(str::trim);
        let (id, data) = (cells.next()?, cells.next()?.trim_matches('`'));
        Some((
            json!({ "$ref": format!("#/components/schemas/{data}") }),
            match id {
                "version" => Some("version"),
                "version of the edit" => Some("edited"),
                "version of the erasure" => Some("erased"),
                _ => None,
            },
        ))
    }

    /// Validates each server-sent event with its own schema; returns their names.
    pub fn check_stream(&self, text: &str) -> Result<Vec<String>, String> {
        let mut names = Vec::new();
        let mut blocks = text.split("\n\n").filter(|block| !block.is_empty());
        let hello = blocks
            .next()
            .and_then(|block| block.strip_prefix("retry: "))
            .map(|rest| rest.trim_start_matches(|c: char| c.is_ascii_digit()));
        match hello.map(|rest| rest.strip_prefix("\nid: ").map(Version::from_str)) {
            Some(None | Some(Ok(_))) => {}
            _ => {
                return Err(format!(
                    "it does not begin with retry and an optional id: {text}"
                ));
            }
        }
        // A stream of states begins with them, and has no positions.
        let path = match text.contains("\nevent: state\n") {
            true => "/v1/state/live",
            false => "/v1/feeds/{feed}/live",
        };
        for block in blocks {
            let event = crate::support::sse::parse(block).ok_or(format!("no event in {block}"))?;
            let (schema, id) = self
                .stream_event(path, &event.name, event.data.get("feed").is_none())
                .ok_or(format!("unknown: {block}"))?;
            self.check(&schema, &event.data)?;
            let version = id.and_then(|id| event.data[id].as_str());
            if event.id.as_deref() != version {
                return Err(format!("wrong id in {block}"));
            }
            names.push(event.name);
        }
        Ok(names)
    }
}

fn errors(validator: &Validator, value: &Value) -> Vec<String> {
    let errors = validator.iter_errors(value);
    errors
        .map(|error| format!("{error} at {}", error.instance_path()))
        .collect()
}
