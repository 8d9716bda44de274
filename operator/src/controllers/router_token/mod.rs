//! RouterToken: a text in a Secret, renewed before its end, restored when lost, revoked when deleted.
//!
//! Guarantees: at most one text that was not revoked or is being renewed lives at a time; no crash loses or
//! doubles one ([`mod@decide`]). Deleting the RouterToken needs nothing here: the proxy's snapshot lists only
//! tokens that exist.

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::runtime::controller::Action;
use la_crds::RouterToken;
use la_crds::conditions::{self, Wanted, kind, reason};

use self::decide::{Step, decide};
use crate::clock::NoRandomness;
use crate::controllers::status::{AFTER_CONFLICT, StatusError};
use crate::shared::Shared;

mod apply;
mod decide;
mod gather;
pub(crate) mod records;

/// Most steps of one reconciliation: Issue, Store, Activate, Rest, and a spare.
const MOST_STEPS: usize = 5;

/// Why a RouterToken could not be reconciled.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TokenError {
    /// The API server refused or failed.
    #[error("API server: {0}")]
    Api(#[source] Box<kube::Error>),
    /// The text cannot be signed.
    #[error("token cannot be signed")]
    Sign(#[from] la_core::token::KeyError),
    /// Names that cannot be part of a token.
    #[error("token cannot be named: {0}")]
    Name(#[from] la_core::id::IdError),
    /// No id can be made.
    #[error(transparent)]
    Random(#[from] NoRandomness),
    /// There is no text to store.
    #[error("no text is recorded")]
    NothingToStore,
}

impl From<StatusError> for TokenError {
    fn from(error: StatusError) -> Self {
        Self::Api(error.0)
    }
}

impl From<kube::Error> for TokenError {
    fn from(error: kube::Error) -> Self {
        Self::Api(Box::new(error))
    }
}

impl TokenError {
    /// Whether the object changed or went since it was read.
    fn is_outdated(&self) -> bool {
        matches!(self, Self::Api(error)
            if matches!(error.as_ref(), kube::Error::Api(status) if matches!(status.code, 404 | 409)))
    }
}

/// Takes one RouterToken as far as it can go now.
pub(crate) async fn reconcile(token: Arc<RouterToken>, shared: Arc<Shared>) -> Result<Action, TokenError> {
    if token.metadata.deletion_timestamp.is_some() {
        return Ok(Action::await_change());
    }
    match advance(&token, &shared).await {
        Err(error) if error.is_outdated() => Ok(Action::requeue(AFTER_CONFLICT)),
        Err(error) => {
            record_failure(&token, &shared, &error).await;
            Err(error)
        }
        done => done,
    }
}

async fn advance(token: &RouterToken, shared: &Arc<Shared>) -> Result<Action, TokenError> {
    let mut token = token.clone();
    let mut found = None;
    for _ in 0..MOST_STEPS {
        let gathered = gather::gather(shared, &token, &mut found).await?;
        let decision = decide(&gathered.observed);
        let wanted = gathered.wanted.as_ref();
        let after = apply::apply(shared, &token, &decision, (wanted, &mut found)).await?;
        if decision.step == Step::Rest {
            return Ok(decision.wake.map_or_else(Action::await_change, Action::requeue));
        }
        token = after;
    }
    Ok(Action::requeue(AFTER_CONFLICT))
}

/// Says in the status that minting failed. A second failure to say so is the back-off's to solve.
async fn record_failure(token: &RouterToken, shared: &Shared, error: &TokenError) {
    let mut status = token.status.clone().unwrap_or_default();
    let now = Timestamp::now();
    status.failed_issuance_attempts = Some(status.failed_issuance_attempts.unwrap_or(0).saturating_add(1));
    status.last_failure_time = Some(Time(now));
    let failed = Wanted::new(kind::ISSUING, true, reason::ISSUANCE_FAILED, error.to_string());
    conditions::set(&mut status.conditions, failed, token.metadata.generation, now);
    if let Err(second) = apply::write_status(shared, token, &status).await {
        tracing::debug!(error = %second, "failure of a token was not recorded in its status");
    }
}
