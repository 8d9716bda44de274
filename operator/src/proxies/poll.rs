//! The long poll of one pod's admin port.
//!
//! The credential is signed anew for every request, is good for this pod only and for at most a minute. An
//! answer comes at once when the pod's state differs from what was last seen, else when it changes, else
//! after [`WAIT`]; use is sampled with each answer.

use std::net::SocketAddr;
use std::sync::Weak;
use std::time::Duration;

use la_core::report::{ADMIN_LIFETIME_SECONDS, ADMIN_TYPE, AdminClaims, Report};
use la_core::secret::Secret;
use reqwest::StatusCode;
use tokio::sync::watch;

use super::{PodState, Target, spread};
use crate::clock;
use crate::shared::Shared;

/// How long the pod may hold an answer back.
const WAIT: Duration = Duration::from_secs(25);

/// Longest wait for an answer: [`WAIT`] and what a busy pod may take.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(35);

/// Longest wait for a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// First and longest wait after a failure.
const BACK_OFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// Failures in a row after which what the pod reported before is not known to hold: about 1.4 s.
const TOLERATED: u32 = 3;

/// Most bytes of a report: 20,000 subjects of 200 bytes, and room.
const MAX_REPORT_BYTES: usize = 8 << 20;

/// Why a pod has not reported.
#[derive(Debug, thiserror::Error)]
enum PollError {
    #[error("no signing key yet")]
    NoKey,
    #[error("admin credential cannot be signed")]
    Unsigned(#[source] la_core::token::KeyError),
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
pub(super) async fn run(shared: &Weak<Shared>, target: &Target, state: &watch::Sender<PodState>) {
    let Ok(http) = client() else {
        tracing::error!(pod.name = %target.pod, "no client for pod {}: it is not polled", target.pod);
        return;
    };
    let mut failures = 0;
    while let Some(credential) = sign(shared, target) {
        // After a failure the process may be another one whose revisions say nothing about ours.
        let seen = if failures == 0 { state.borrow().report.as_ref().map(|r| r.revision) } else { None };
        let asked = match credential {
            Ok(credential) => ask(&http, shared, target, (seen, &credential)).await,
            Err(error) => Err(error),
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

fn client() -> reqwest::Result<reqwest::Client> {
    reqwest::Client::builder()
        // Pods are asked over plain HTTP; looking for the system's certificates fails in an image that has none.
        .tls_certs_only([])
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .connect_timeout(CONNECT_TIMEOUT)
        .timeout(ANSWER_TIMEOUT)
        .build()
}

/// A credential for this pod; nothing when the operator is stopping.
fn sign(shared: &Weak<Shared>, target: &Target) -> Option<Result<Secret, PollError>> {
    let shared = shared.upgrade()?;
    let Some(keys) = shared.keys.of(&target.proxy) else { return Some(Err(PollError::NoKey)) };
    let now = clock::now();
    let claims = AdminClaims { aud: target.uid.clone(), iat: now, exp: now + ADMIN_LIFETIME_SECONDS };
    Some(keys.admin.sign(ADMIN_TYPE, &claims).map_err(PollError::Unsigned))
}

async fn ask(
    http: &reqwest::Client,
    shared: &Weak<Shared>,
    target: &Target,
    (revision, credential): (Option<u64>, &Secret),
) -> Result<Report, PollError> {
    let port = shared.upgrade().map_or(0, |shared| shared.settings.admin_port);
    let address = SocketAddr::new(target.address, port);
    let query = match revision {
        Some(revision) => format!("?revision={revision}&wait={}s", WAIT.as_secs()),
        None => String::new(),
    };
    let request = http.get(format!("http://{address}/v1/report{query}")).bearer_auth(credential.expose());
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
