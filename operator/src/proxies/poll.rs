//! The long poll of one pod's admin port.
//!
//! An answer comes at once when the pod's state differs from what was last seen, else when it changes, else
//! after [`WAIT`]; use is sampled with each answer.

use std::sync::Weak;
use std::time::Duration;

use la_core::report::Report;
use reqwest::{Method, RequestBuilder, StatusCode};
use tokio::sync::watch;

use super::admin::{AdminError, AdminPort};
use super::{PodState, Target, spread};
use crate::shared::Shared;

/// How long the pod may hold an answer back.
const WAIT: Duration = Duration::from_secs(25);

/// Longest wait for an answer: [`WAIT`] and what a busy pod may take.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(35);

/// First and longest wait after a failure.
const BACK_OFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// Failures in a row after which what the pod reported before is not known to hold: about 1.4 s.
const TOLERATED: u32 = 3;

/// Most bytes of a report: 20,000 subjects of 200 bytes, and room.
const MAX_REPORT_BYTES: usize = 8 << 20;

/// Why a pod has not reported.
#[derive(Debug, thiserror::Error)]
enum PollError {
    #[error(transparent)]
    Admin(#[from] AdminError),
    #[error("no answer from the admin port")]
    Unanswered(#[source] reqwest::Error),
    #[error("admin port answered {0}")]
    Refused(StatusCode),
    #[error("report is longer than {MAX_REPORT_BYTES} bytes")]
    TooLong,
    #[error("report cannot be read")]
    Unreadable(#[source] serde_json::Error),
}

/// Polls until the operator stops.
pub(super) async fn run(
    port: &AdminPort<'_>,
    shared: &Weak<Shared>,
    target: &Target,
    state: &watch::Sender<PodState>,
) {
    let mut failures = 0;
    loop {
        // After a failure the process may be another one whose revisions say nothing about ours.
        let seen = if failures == 0 { state.borrow().report.as_ref().map(|r| r.revision) } else { None };
        let path = match seen {
            Some(revision) => format!("/v1/report?revision={revision}&wait={}s", WAIT.as_secs()),
            None => "/v1/report".to_owned(),
        };
        let Some(alive) = shared.upgrade() else { return };
        let request = port.request(&alive, (Method::GET, &path), ANSWER_TIMEOUT);
        // The pod may hold its answer back for longer than the operator takes to stop.
        drop(alive);
        let asked = match request {
            Ok(request) => ask(request).await,
            Err(error) => Err(error.into()),
        };
        let Some(shared) = shared.upgrade() else { return };
        match asked {
            Ok(report) => {
                failures = 0;
                spread::report(&shared, target, state, report);
            }
            Err(error) => {
                shared.metrics.poll_failures.inc();
                tracing::debug!(pod.name = %target.pod, error = %error, "pod {} did not report", target.pod);
                failures += 1;
                if failures >= TOLERATED || state.borrow().report.is_none() {
                    spread::failure(&shared, target, state, error.to_string());
                }
                drop(shared);
                let (first, longest) = BACK_OFF;
                tokio::time::sleep(first.saturating_mul(1 << failures.min(6)).min(longest)).await;
            }
        }
    }
}

async fn ask(request: RequestBuilder) -> Result<Report, PollError> {
    let mut answer = request.send().await.map_err(PollError::Unanswered)?;
    if answer.status() != StatusCode::OK {
        return Err(PollError::Refused(answer.status()));
    }
    let mut body = Vec::new();
    while let Some(chunk) = answer.chunk().await.map_err(PollError::Unanswered)? {
        if body.len() + chunk.len() > MAX_REPORT_BYTES {
            return Err(PollError::TooLong);
        }
        body.extend_from_slice(&chunk);
    }
    serde_json::from_slice(&body).map_err(PollError::Unreadable)
}
