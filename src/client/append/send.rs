//! Sends lines to the service until each has an answer.

use reqwest::{Method, header};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::{event::Expect, input::Line};
use crate::client::{
    Error,
    api::Client,
    line::Painter,
    wire::{Outcome, Rejection},
};

/// The outcome of a line.
#[derive(Debug)]
pub struct Answer {
    /// The service's JSON. A line without an id is identified by its index among all lines.
    pub json: String,
    pub outcome: LineOutcome,
}

#[derive(Debug)]
pub enum LineOutcome {
    Stored(Outcome, Stored),
    Rejected(Rejection),
    /// A transient that was accepted, with its id. Nothing tells whether anybody received it.
    Sent(String),
}

#[derive(Debug, Deserialize)]
pub struct Stored {
    id: String,
    version: String,
}

impl Answer {
    /// `index` counts lines from 0 without blank lines.
    fn parse(json: &str, index: u64) -> serde_json::Result<Self> {
        let (json, outcome) = match serde_json::from_str(json)? {
            Outcome::Rejected { error } => (renumbered(json, index)?, LineOutcome::Rejected(error)),
            stored => (
                json.to_owned(),
                LineOutcome::Stored(stored, serde_json::from_str(json)?),
            ),
        };
        Ok(Self { json, outcome })
    }

    fn rejected(rejection: Rejection, index: u64) -> Self {
        let error = &rejection;
        let json = serde_json::json!({
            "index": index, "status": "rejected", "error": { "code": error.code, "detail": error.detail },
        });
        Self {
            json: json.to_string(),
            outcome: LineOutcome::Rejected(rejection),
        }
    }

    /// `None` if it is not stored.
    pub fn is_duplicate(&self) -> Option<bool> {
        match &self.outcome {
            LineOutcome::Stored(outcome, _) => Some(*outcome == Outcome::Duplicate),
            LineOutcome::Rejected(_) | LineOutcome::Sent(_) => None,
        }
    }

    pub fn rejection(&self) -> Option<&Rejection> {
        match &self.outcome {
            LineOutcome::Rejected(rejection) => Some(rejection),
            LineOutcome::Stored(..) | LineOutcome::Sent(_) => None,
        }
    }

    /// Whether the id is that of an erased event, so that nothing was stored.
    pub fn is_erased(&self) -> bool {
        matches!(self.outcome, LineOutcome::Stored(Outcome::Erased, _))
    }

    /// `event` is its number among all events, from 1.
    pub fn text(&self, line: &Line, event: u64, painter: &Painter) -> String {
        let row = |what: &str, version: &str, id: &str| {
            format!("{what:9}  {}  {}", painter.dim(version), painter.plain(id))
        };
        match &self.outcome {
            LineOutcome::Stored(Outcome::Duplicate, Stored { id, version }) => {
                row("duplicate", version, id)
            }
            LineOutcome::Stored(Outcome::Erased, Stored { id, version }) => {
                row("erased", version, id)
            }
            LineOutcome::Stored(_, Stored { id, version }) => row("appended", version, id),
            LineOutcome::Sent(id) => format!("sent       {}", painter.plain(id)),
            LineOutcome::Rejected(Rejection { code, detail }) => painter.bad(&format!(
                "rejected   line {} (event {event}), {code}: {detail}",
                line.number
            )),
        }
    }
}

/// The service identifies a line that is not an event by its index in the request. Replaces it by the index among all
/// lines.
fn renumbered(json: &str, index: u64) -> serde_json::Result<String> {
    #[derive(Deserialize)]
    struct BadLine<'a> {
        index: Option<u64>,
        #[serde(borrow)]
        error: &'a RawValue,
    }
    let BadLine {
        index: given,
        error,
    } = serde_json::from_str(json)?;
    Ok(match given {
        None => json.to_owned(),
        Some(_) => format!("{{\"index\":{index},\"status\":\"rejected\",\"error\":{error}}}"),
    })
}

impl Client {
    /// Appends lines; `index` is that of the first. The answers are in the same order. Lines that were rejected temporarily
    /// or not answered are sent again.
    pub(in crate::client) async fn append_lines(
        &self,
        lines: &[Line],
        index: u64,
    ) -> Result<Vec<Answer>, Error> {
        let mut answers: Vec<Option<Answer>> = lines.iter().map(|_| None).collect();
        let mut patience = self.patience();
        loop {
            let unanswered = |&number: &usize| answers[number].is_none();
            let numbers: Vec<usize> = (0..lines.len()).filter(unanswered).collect();
            if numbers.is_empty() {
                return Ok(answers.into_iter().flatten().collect());
            }
            let mut body = Vec::new();
            for &number in &numbers {
                body.extend_from_slice(&lines[number].json);
                body.push(b'\n');
            }
            let text = self.post_lines(body).await?;
            let mut last = Error::Lost {
                url: self.base_url().to_owned(),
                cause: "the response ended early".to_owned(),
            };
            for (&number, json) in numbers.iter().zip(text.lines()) {
                let answer = Answer::parse(json, index + number as u64);
                let answer = answer.map_err(|error| self.not_newsfeed(error.to_string()))?;
                match answer.rejection() {
                    Some(rejection) if rejection.not_now() => {
                        last = rejection.clone().of("an event".to_owned());
                    }
                    _ => answers[number] = Some(answer),
                }
            }
            if answers.iter().any(Option::is_none) {
                patience.pause(None, last).await?;
            }
        }
    }

    /// Appends all lines or none. `expect` are conditions besides those of the events.
    pub(super) async fn append_atomic(
        &self,
        lines: &[Line],
        expect: &[Expect],
    ) -> Result<Vec<Answer>, Error> {
        let mut body = b"{\"expect\":".to_vec();
        serde_json::to_writer(&mut body, expect).expect("names serialize and a Vec takes them");
        body.extend_from_slice(b",\"events\":[");
        for (index, line) in lines.iter().enumerate() {
            if index > 0 {
                body.push(b',');
            }
            body.extend_from_slice(&line.json);
        }
        body.extend_from_slice(b"]}");
        let request = self
            .request(Method::POST, "/v1/events?atomic=true")
            .header(header::CONTENT_TYPE, "application/json");
        let results: Vec<Box<RawValue>> = self.call(request.body(body)).await?;
        let answers = results.iter().zip(0..);
        answers
            .map(|(json, index)| Answer::parse(json.get(), index))
            .collect::<serde_json::Result<_>>()
            .map_err(|error| self.not_newsfeed(error.to_string()))
    }

    async fn post_lines(&self, body: Vec<u8>) -> Result<String, Error> {
        let request = self
            .request(Method::POST, "/v1/events")
            .header(header::CONTENT_TYPE, "application/x-ndjson");
        let answer = self.answered(request.body(body)).await?;
        String::from_utf8(answer.into()).map_err(|error| self.not_newsfeed(error.to_string()))
    }

    /// Sends lines as transients, one after the other.
    pub(super) async fn send_transients(
        &self,
        lines: &[Line],
        index: u64,
    ) -> Result<Vec<Answer>, Error> {
        #[derive(Deserialize)]
        struct Accepted {
            id: String,
        }
        let mut answers = Vec::with_capacity(lines.len());
        for (line, index) in lines.iter().zip(index..) {
            let request = self
                .request(Method::POST, "/v1/transient")
                .header(header::CONTENT_TYPE, "application/json");
            answers.push(match self.answered(request.body(line.json.clone())).await {
                Ok(answer) => {
                    let json = String::from_utf8_lossy(&answer).into_owned();
                    let accepted = serde_json::from_str(&json);
                    let Accepted { id } =
                        accepted.map_err(|error| self.not_newsfeed(error.to_string()))?;
                    Answer {
                        json,
                        outcome: LineOutcome::Sent(id),
                    }
                }
                Err(Error::Refused {
                    status: 400,
                    code,
                    detail,
                    ..
                }) => Answer::rejected(Rejection { code, detail }, index),
                Err(error) => return Err(error),
            });
        }
        Ok(answers)
    }
}
