//! Reading the report: at once, or when it differs from the one the asker has.

use std::time::Duration;

use axum::extract::{Query, State, rejection::QueryRejection};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use la_core::duration;
use la_core::report::Report;
use serde::{Deserialize, Serialize};

use super::answer::{Refusal, json};
use super::routes::SharedAdmin;

/// How often a waiting asker's report is looked at again.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Longest that an asker is kept waiting.
const MAX_WAIT: Duration = Duration::from_secs(60);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Asked {
    revision: Option<u64>,
    wait: Option<String>,
}

#[derive(Serialize)]
pub(super) struct List<T> {
    pub(super) data: T,
}

pub(super) async fn status(State(admin): State<SharedAdmin>) -> Response {
    json(StatusCode::OK, &admin.status.report((admin.now)()))
}

pub(super) async fn usage(State(admin): State<SharedAdmin>) -> Response {
    json(StatusCode::OK, &List { data: admin.status.usage((admin.now)()) })
}

pub(super) async fn ledger(State(admin): State<SharedAdmin>) -> Response {
    match admin.status.ledger().counted().await {
        Ok(book) => json(StatusCode::OK, &book),
        Err(why) => Refusal::failed(format!("ledger: {why}")).into_response(),
    }
}

/// Answers at once when the asker's revision is not the current one, else when it changes or its wait ends.
pub(super) async fn long_poll(
    State(admin): State<SharedAdmin>,
    asked: Result<Query<Asked>, QueryRejection>,
) -> Response {
    let wait =
        match asked.map_err(|e| e.to_string()).and_then(|Query(asked)| wait(&asked).map(|w| (asked, w))) {
            Ok((asked, wait)) => asked.revision.map(|revision| (revision, wait)),
            Err(message) => return Refusal::bad_request(message).into_response(),
        };
    let Some((revision, wait)) = wait else { return status(State(admin)).await };
    let mut waited = Duration::ZERO;
    loop {
        let now = (admin.now)();
        let report = admin.status.report_without_usage(now);
        if report.revision != revision || waited >= wait {
            return json(StatusCode::OK, &Report { usage: admin.status.usage(now), ..report });
        }
        let step = LOOK_EVERY.min(wait.saturating_sub(waited));
        tokio::time::sleep(step).await;
        waited = waited.saturating_add(step);
    }
}

fn wait(asked: &Asked) -> Result<Duration, String> {
    let Some(text) = &asked.wait else { return Ok(Duration::ZERO) };
    let wait = duration::parse(text).map_err(|e| format!("wait: {e}"))?;
    if wait > MAX_WAIT {
        return Err(format!("wait: {text} is longer than {}", duration::format(MAX_WAIT)));
    }
    Ok(wait)
}
