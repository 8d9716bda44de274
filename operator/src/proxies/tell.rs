//! Telling one pod which tokens to refuse, ahead of its files: they need a second and longer, this a request.
//!
//! A pod that does not hear of it gets the files all the same. So nothing here is ever waited for, and what goes
//! wrong is said to those who debug only.

use std::sync::Weak;
use std::time::Duration;

use la_core::refusals::Refusals;
use reqwest::{Method, StatusCode};

use super::Target;
use super::admin::{AdminError, AdminPort};
use super::lag::Lag;
use crate::clock;
use crate::published::Order;
use crate::shared::Shared;

/// Longest wait for an answer.
const TIMEOUT: Duration = Duration::from_secs(2);

/// First and longest pause between two messages. Also those that were heard are repeated: a container that was
/// started again meanwhile knows nothing of them.
const BACK_OFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(1));

/// Until a proxy that knows no such messages is tried again: it is of an older version, and files are all it has.
const UNKNOWN_PAUSE: Duration = Duration::from_secs(600);

/// Why a pod was not told.
#[derive(Debug, thiserror::Error)]
enum TellError {
    #[error(transparent)]
    Admin(#[from] AdminError),
    #[error("no answer from the admin port")]
    Unanswered(#[from] reqwest::Error),
    #[error("admin port answered {0}")]
    Refused(StatusCode),
}

/// Tells the pod until the operator stops.
pub(super) async fn run(port: &AdminPort<'_>, shared: &Weak<Shared>, target: &Target, mut lag: Lag) {
    let (mut told, mut attempt): (Order, u32) = ((0, 0), 0);
    let mut served = None;
    while let Some(wanted) = lag.wanted().await {
        if told != wanted {
            (told, attempt) = (wanted, 0);
        }
        // While it cannot be reached, it serves no less than before.
        served = lag.served().or(served);
        let Some(alive) = shared.upgrade() else { return };
        let refused = served.map(|served| alive.published.refused_since(&target.proxy, served, clock::now()));
        drop(alive);
        let messages = Refusals::split(wanted, &refused.unwrap_or_default());
        let waited = if messages.is_empty() {
            lag.change().await
        } else {
            let outcome = tell(port, shared, &messages).await;
            attempt += 1;
            if let Err(error) = &outcome {
                tracing::debug!(pod.name = %target.pod, %error, "pod {} was not told of refusals", target.pod);
            }
            lag.rest(wanted, pause(attempt, &outcome)).await
        };
        if waited.is_none() {
            return;
        }
    }
}

async fn tell(port: &AdminPort<'_>, shared: &Weak<Shared>, messages: &[Refusals]) -> Result<(), TellError> {
    for message in messages {
        let Some(alive) = shared.upgrade() else { break };
        let request = port.request(&alive, (Method::POST, "/v1/refusals"), TIMEOUT)?;
        alive.metrics.refusals.inc();
        drop(alive);
        let answer = request.json(message).send().await?;
        if answer.status() != StatusCode::OK {
            return Err(TellError::Refused(answer.status()));
        }
    }
    Ok(())
}

/// How long to wait after the given attempt.
fn pause(attempt: u32, outcome: &Result<(), TellError>) -> Duration {
    let (first, longest) = BACK_OFF;
    match outcome {
        Err(TellError::Refused(StatusCode::NOT_FOUND)) => UNKNOWN_PAUSE,
        _ => first.saturating_mul(1 << attempt.saturating_sub(1).min(8)).min(longest),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_repeated_soon_but_for_proxies_that_know_none() {
        let refused = |status| Err(TellError::Refused(status));
        let cases = [
            ("after the first", 1, Ok(()), 100),
            ("after the third", 3, Ok(()), 400),
            ("much later", 1_000, Ok(()), 1_000),
            ("after one that failed", 1, refused(StatusCode::SERVICE_UNAVAILABLE), 100),
            ("with an older proxy", 1, refused(StatusCode::NOT_FOUND), 600_000),
        ];
        for (sentence, attempt, outcome, pause_ms) in cases {
            assert_eq!(pause(attempt, &outcome), Duration::from_millis(pause_ms), "{sentence}");
        }
    }
}
