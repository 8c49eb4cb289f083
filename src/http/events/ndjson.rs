//! NDJSON: lines of events, committed and answered as they arrive.

use std::{convert::Infallible, pin::pin, sync::Arc};

use axum::{
    body::Body,
    http::header,
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use futures_util::StreamExt;
use serde_json::json;
use tokio::sync::mpsc;
use tokio_util::task::TaskTracker;

use super::{RESULT_BYTES, result, reused, wire::parse_one};
use crate::{
    auth::Denied,
    error::Error,
    fairness::parse,
    feed::Reader,
    http::{
        App,
        access::Granted,
        body::Lines,
        limits::{Limited, Storing},
        problem::{Problem, Result},
    },
    types::Event,
};

/// Lines of an NDJSON body that are committed together.
const CHUNK_LINES: usize = 1000;
/// Chunks of results that can wait for an NDJSON client to read them.
const ANSWER_CHUNKS_MAX: usize = 4;

/// Commits lines in order, as they arrive, and answers each as it commits. Runs as a task of its own, which continues
/// when the client disconnects.
pub fn append(
    app: Arc<App>,
    granted: Granted,
    reader: Reader,
    limits: Limited,
    storing: Storing,
    body: Body,
) -> Response {
    let (answers, receiver) = mpsc::channel(ANSWER_CHUNKS_MAX);
    let tracker: TaskTracker = app.tracker.clone();
    tracker.spawn(async move {
        let mut lines = Lines::new(body, limits.body());
        let mut index = 0;
        let mut over = pin!(granted.over());
        loop {
            let chunk = tokio::select! {
                // Checked first, so that nothing is appended after the token has expired.
                biased;
                () = &mut over => Err(Denied::Expired.into()),
                chunk = lines.next_chunk(CHUNK_LINES) => chunk,
                // The answer ends here; the client sends the lines without a result again.
                () = app.stopping.cancelled() => return,
            };
            // Memory for the results, before the events are appended.
            let mut reserved = limits.answer();
            let chunk = chunk.and_then(|chunk| {
                reserved.grow(chunk.len() * RESULT_BYTES)?;
                Ok(chunk)
            });
            let (chunk, failed) = match chunk {
                Ok(chunk) if chunk.is_empty() => return,
                Ok(chunk) => (chunk, None),
                Err(problem) => (Vec::new(), Some(problem)),
            };
            let count = chunk.len();
            let answer = match failed {
                None => append_lines(&app, &granted, reader, &storing, chunk, index).await,
                Some(ref problem) => bad_line(index, problem),
            };
            index += count;
            // A client that does not read its results will not send more lines either.
            if answers.send(reserved.hold(answer)).await.is_err() || failed.is_some() {
                return;
            }
        }
    });
    let stream = futures_util::stream::unfold(receiver, |mut receiver| async move {
        let answer = receiver.recv().await?;
        Some((Ok::<_, Infallible>(answer), receiver))
    });
    (
        [
            (header::CONTENT_TYPE, "application/x-ndjson"),
            (header::CACHE_CONTROL, "no-store"),
        ],
        Body::from_stream(stream.boxed()),
    )
        .into_response()
}

fn bad_line(index: usize, problem: &Problem) -> Vec<u8> {
    let mut line = json!({ "index": index, "status": "rejected", "error": problem.to_error() })
        .to_string()
        .into_bytes();
    line.push(b'\n');
    line
}

/// The valid events, and for each line whether it is one.
fn parse_lines(app: &App, granted: &Granted, lines: &[Bytes]) -> (Vec<Event>, Vec<Result<()>>) {
    let mut events = Vec::with_capacity(lines.len());
    let parsed = lines.iter().map(|line| {
        events.push(parse_one(app, granted, line)?);
        Ok(())
    });
    let parsed = parsed.collect();
    (events, parsed)
}

/// Appends `lines` and returns their results. `first` is the index of the first one.
async fn append_lines(
    app: &Arc<App>,
    granted: &Granted,
    reader: Reader,
    storing: &Storing,
    lines: Vec<Bytes>,
    first: usize,
) -> Vec<u8> {
    let count = lines.len();
    let length = lines.iter().map(Bytes::len).sum();
    let (events, parsed) = {
        let (app, granted) = (Arc::clone(app), granted.clone());
        parse(length, move || parse_lines(&app, &granted, &lines)).await
    };
    let charged = storing.charge_later(&events);
    let mut appended = match app.stopping.run_until_cancelled(charged).await {
        Some(charge) => match app.appender.reserve(events).await {
            Ok(permit) => permit
                .append()
                .await
                .inspect(|outcomes| charge.settle(outcomes)),
            Err(error) => Err(error),
        },
        None => Err(Error::ShuttingDown),
    };
    if let Ok(outcomes) = &mut appended {
        reused::conceal(app, granted, reader, outcomes).await;
    }
    let (mut outcomes, failure) = match appended {
        Ok(outcomes) => (outcomes.into_iter(), None),
        Err(error) => (Vec::new().into_iter(), Some(Problem::from(error))),
    };
    let mut answer = Vec::with_capacity(count * 100);
    for (index, parsed) in (first..).zip(parsed) {
        let problem = parsed.err().or_else(|| failure.clone());
        match (problem, &mut outcomes) {
            (Some(problem), _) => answer.extend(bad_line(index, &problem)),
            (None, outcomes) => {
                let Some(outcome) = outcomes.next() else {
                    continue;
                };
                result(&mut answer, outcome);
                answer.push(b'\n');
            }
        }
    }
    answer
}
