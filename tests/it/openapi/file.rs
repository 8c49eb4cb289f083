//! `openapi.yaml` itself: it matches the router, and its examples match its schemas.

use std::collections::BTreeSet;

use newsfeed::http::{OPERATIONS, problem::Code};
use serde_json::{Value, json};

use super::spec::{Spec, TEXT};
use crate::support::bed::Bed;

crate::on_every_engine!(the_file_is_served_byte_for_byte);

async fn the_file_is_served_byte_for_byte(bed: &Bed) {
    let node = bed.node().await;
    let answer = node.send("GET", "/openapi.yaml", &[]).await;
    assert_eq!(
        (answer.status, answer.header("content-type")),
        (200, Some("application/yaml"))
    );
    assert_eq!(answer.body, TEXT.as_bytes());
}

#[test]
fn the_file_and_the_router_have_the_same_paths_and_methods() {
    let spec = Spec::read();
    let documented: BTreeSet<_> = spec
        .operations()
        .map(|(path, method, _)| (path, method.to_uppercase()))
        .collect();
    let routed: BTreeSet<_> = OPERATIONS
        .iter()
        .map(|operation| (operation.path, operation.method.to_string()))
        .collect();
    assert_eq!(documented, routed);
}

#[test]
fn the_file_and_the_program_have_the_same_problem_codes() {
    let spec = Spec::read();
    let problem = &spec.section("schemas")["Problem"]["properties"];
    let strings = |values: &Value| -> BTreeSet<String> {
        let values = values.as_array().expect("an enum");
        values
            .iter()
            .map(|value| value.to_string().replace('"', ""))
            .collect()
    };
    let codes: BTreeSet<_> = Code::ALL
        .iter()
        .map(|code| code.name().to_owned())
        .collect();
    assert_eq!(strings(&problem["code"]["enum"]), codes);
    let statuses: BTreeSet<_> = Code::ALL
        .iter()
        .map(|code| code.status().as_u16().to_string())
        .collect();
    assert_eq!(strings(&problem["status"]["enum"]), statuses);
    // Each code has an example with its status and title.
    for code in Code::ALL {
        let example = &spec.section("examples")[code.name()]["value"];
        spec.check(&json!({ "$ref": "#/components/schemas/Problem" }), example)
            .expect("a problem");
        assert_eq!(example["code"], code.name());
        assert_eq!(example["status"], code.status().as_u16());
        assert_eq!(
            example["title"],
            code.status().canonical_reason().expect("a known status")
        );
    }
}

#[test]
fn every_code_a_response_lists_has_the_status_it_is_listed_under() {
    let spec = Spec::read();
    for (path, method, operation) in spec.operations() {
        for (status, response) in operation["responses"].as_object().expect("responses") {
            let schema = &spec.resolve(response)["content"]["application/problem+json"]["schema"];
            let code = &schema["properties"]["code"];
            let listed = code["enum"]
                .as_array()
                .into_iter()
                .flatten()
                .chain(code.get("const"));
            for name in listed {
                let code = Code::ALL.iter().find(|code| name == code.name());
                let real = code
                    .expect("a code of the program")
                    .status()
                    .as_u16()
                    .to_string();
                let fits = *status == real || *status == format!("{}XX", &real[..1]);
                assert!(fits, "{name} under {status} of {method} {path}");
            }
        }
    }
}

/// Pairs of schema and example in `holder`.
fn examples<'a>(spec: &'a Spec, holder: &'a Value) -> Vec<(&'a Value, &'a Value)> {
    let schema = &holder["schema"];
    let several = holder["examples"]
        .as_object()
        .into_iter()
        .flat_map(|map| map.values());
    let several = several.map(|example| &spec.resolve(example)["value"]);
    several
        .chain(holder.get("example"))
        .map(|example| (schema, example))
        .collect()
}

#[test]
fn every_example_matches_its_schema() {
    let spec = Spec::read();
    let mut checked = 0;
    let mut check = |what: &str, schema: &Value, example: &Value| {
        spec.check(schema, example)
            .unwrap_or_else(|error| panic!("an example of {what}: {error}"));
        checked += 1;
    };
    for (path, method, operation) in spec.operations() {
        let what = format!("{method} {path}");
        for parameter in spec.parameters(path, operation) {
            for (schema, example) in examples(spec, parameter) {
                check(&what, schema, example);
            }
        }
        let responses = operation["responses"]
            .as_object()
            .expect("responses")
            .values();
        let responses: Vec<&Value> = responses.map(|response| spec.resolve(response)).collect();
        for headers in responses
            .iter()
            .filter_map(|response| response["headers"].as_object())
        {
            for (schema, example) in headers
                .values()
                .flat_map(|header| examples(spec, spec.resolve(header)))
            {
                check(&what, schema, example);
            }
        }
        let bodies = responses.into_iter().chain(operation.get("requestBody"));
        for (media, content) in bodies
            .filter_map(|body| body["content"].as_object())
            .flatten()
        {
            let examples = examples(spec, content);
            assert!(!examples.is_empty(), "{media} of {what} has an example");
            for (schema, example) in examples {
                check(&what, schema, example);
                if media == "text/event-stream" {
                    let text = example.as_str().expect("text");
                    spec.check_stream(text).expect("an example of a stream");
                }
            }
        }
    }
    for (name, schema) in spec.section("schemas") {
        // Panics if it is not a schema, also where nothing refers to it.
        spec.validator(&json!({ "$ref": format!("#/components/schemas/{name}") }));
        for example in schema["examples"].as_array().into_iter().flatten() {
            check(name, schema, example);
        }
    }
    assert!(checked > 100, "{checked}");
}

#[test]
fn the_ndjson_examples_of_request_and_answer_match() {
    let spec = Spec::read();
    let (_, _, operation) = spec
        .operations()
        .find(|(path, method, _)| (*path, *method) == ("/v1/events", "post"))
        .expect("it");
    let lines = |body: &Value| -> (Value, Vec<Value>) {
        let content = &body["content"]["application/x-ndjson"];
        let text = content["examples"]["lines"]["value"]
            .as_str()
            .expect("text");
        let lines = text
            .lines()
            .map(|line| serde_json::from_str(line).expect("JSON"));
        (content["schema"]["contentSchema"].clone(), lines.collect())
    };
    let (event, sent) = lines(&operation["requestBody"]);
    let (result, answered) = lines(&operation["responses"]["200"]);
    assert_eq!(sent.len(), answered.len());
    for (sent, answered) in sent.iter().zip(&answered) {
        spec.check(&result, answered).expect("a result");
        // Exactly the lines that are not events are answered by index.
        assert_eq!(
            spec.check(&event, sent).is_err(),
            answered.get("index").is_some(),
            "{sent}"
        );
        assert!(answered.get("index").is_some() || answered["id"] == sent["id"]);
    }
}

#[test]
fn the_schemas_refuse_what_the_service_refuses() {
    let spec = Spec::read();
    let long = "n".repeat(256);
    let version = "000000800pgcvgg8srfg000000";
    let event = |field: &str, value: Value| {
        let mut event = json!({ "kind": "visit", "feeds": ["a"] });
        event[field] = value;
        event
    };
    for (schema, good, bad) in [
        (
            "Name",
            vec![
                json!("a"),
                json!("..."),
                json!(".a"),
                json!(&long[1..]),
                json!("Az09._~:@-"),
                json!("ä b"),
                json!("https://example.social/users/日本語"),
                json!("#[bot]|+\"\\"),
            ],
            vec![
                json!(""),
                json!("."),
                json!(".."),
                json!(" a"),
                json!("a\u{a0}"),
                json!("*"),
                json!("a*b"),
                json!("a\n"),
                json!("\u{85}"),
                json!("a\u{2028}"),
                json!("\u{202e}a"),
                json!("\u{feff}a"),
                json!(long),
                json!(null),
                json!(1),
            ],
        ),
        (
            "EventId",
            vec![json!("a b~"), json!(" é* "), json!("."), json!(&long[1..])],
            vec![
                json!(""),
                json!("\t"),
                json!("\u{2029}"),
                json!(long),
                json!(null),
            ],
        ),
        (
            "Version",
            vec![json!(version)],
            vec![json!("0"), json!(version.to_uppercase()), json!(null)],
        ),
        (
            "VersionInput",
            vec![json!(version), json!("0")],
            vec![json!(""), json!("00"), json!(null)],
        ),
        (
            "Event",
            vec![
                event("id", json!(null)),
                event("actor", json!(null)),
                event("expect", json!(null)),
                event("data", json!(null)),
                event("expect", json!({ "feed": "a", "version": null })),
                event("expect", json!({ "feed": "a", "version": "0" })),
                event("feeds", json!(["a", "a"])),
            ],
            vec![
                event("kind", json!(null)),
                event("feeds", json!([])),
                event(
                    "feeds",
                    json!((0..101).map(|i| format!("f{i}")).collect::<Vec<_>>()),
                ),
                event("feeds", json!([".."])),
                event("extra", json!(1)),
                event("expect", json!({ "feed": "a" })),
                event("expect", json!(["a", null])),
                json!(["x", "visit", ["a"], null, null, null]),
            ],
        ),
    ] {
        let schema = json!({ "$ref": format!("#/components/schemas/{schema}") });
        for value in good {
            spec.check(&schema, &value).expect("a good value");
        }
        for value in bad {
            assert!(spec.check(&schema, &value).is_err(), "{schema} {value}");
        }
    }
}
