//! Lines to the service, until each has its answer.

use reqwest::{Method, header};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::input::Line;
use crate::client::{
    Error,
    api::Client,
    line::Painter,
    wire::{Outcome, Rejection},
};

/// What became of a line.
#[derive(Debug)]
pub struct Answer {
    /// In the service's words, but that a line without an id has its number among all lines.
    pub json: String,
    pub told: Told,
}

#[derive(Debug)]
pub enum Told {
    Stored(Outcome, Stored),
    Rejected(Rejection),
    /// Accepted; whether anybody heard it nobody knows.
    Signalled(String),
}

#[derive(Debug, Deserialize)]
pub struct Stored {
    id: String,
    version: String,
}

impl Answer {
    /// `index` counts lines from 0, blank ones left out.
    fn parse(json: &str, index: u64) -> serde_json::Result<Self> {
        let (json, told) = match serde_json::from_str(json)? {
            Outcome::Rejected { error } => (renumbered(json, index)?, Told::Rejected(error)),
            outcome => (
                json.to_owned(),
                Told::Stored(outcome, serde_json::from_str(json)?),
            ),
        };
        Ok(Self { json, told })
    }

    fn rejected(rejection: Rejection, index: u64) -> Self {
        let error = &rejection;
        let json = serde_json::json!({
            "index": index, "status": "rejected", "error": { "code": error.code, "detail": error.detail },
        });
        Self {
            json: json.to_string(),
            told: Told::Rejected(rejection),
        }
    }

    pub fn rejection(&self) -> Option<&Rejection> {
        match &self.told {
            Told::Rejected(rejection) => Some(rejection),
            Told::Stored(..) | Told::Signalled(_) => None,
        }
    }

    pub fn text(&self, line: &Line, painter: &Painter) -> String {
        let row = |what: &str, version: &str, id: &str| {
            format!("{what:9}  {}  {}", painter.dim(version), painter.plain(id))
        };
        match &self.told {
            Told::Stored(Outcome::Duplicate, Stored { id, version }) => {
                row("duplicate", version, id)
            }
            Told::Stored(_, Stored { id, version }) => row("appended", version, id),
            Told::Signalled(id) => format!("sent       {}", painter.plain(id)),
            Told::Rejected(Rejection { code, detail }) => painter.bad(&format!(
                "rejected   line {}, {code}: {detail}",
                line.number
            )),
        }
    }
}

/// A line that is no event is answered with its number in the request, and we make the requests.
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
    /// Appends lines of which the first has `index`. There is an answer for each, in order; what the service could not
    /// take, or did not answer, is sent again.
    pub(super) async fn append_lines(
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
                cause: "it ended its answer early".to_owned(),
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

    async fn post_lines(&self, body: Vec<u8>) -> Result<String, Error> {
        let request = self
            .request(Method::POST, "/v1/events")
            .header(header::CONTENT_TYPE, "application/x-ndjson");
        let answer = self.answered(request.body(body)).await?;
        String::from_utf8(answer.into()).map_err(|error| self.not_newsfeed(error.to_string()))
    }

    /// Sends lines as signals, one after the other.
    pub(super) async fn signal_lines(
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
                        told: Told::Signalled(id),
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
