//! Tokens that an operator wants refused at once, ahead of the files that say so.

use axum::body::Bytes;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use la_core::refusals::Refusals;
use serde::Serialize;

use super::answer::{Refusal, json};
use super::routes::SharedAdmin;

#[derive(Serialize)]
struct Taken {
    /// Ids of which it was news.
    refused: usize,
}

/// Refuses tokens until the snapshot that the message names is served.
pub(super) async fn refuse(State(admin): State<SharedAdmin>, body: Bytes) -> Response {
    let refusals: Refusals = match serde_json::from_slice(&body) {
        Ok(refusals) => refusals,
        Err(error) => return Refusal::bad_request(error.to_string()).into_response(),
    };
    match admin.status.cell().refuse(&refusals) {
        Ok(refused) => {
            if refused > 0 {
                tracing::info!(
                    snapshot.epoch = refusals.epoch,
                    snapshot.generation = refusals.generation,
                    "{refused} tokens are refused ahead of snapshot {}",
                    refusals.generation
                );
            }
            json(StatusCode::OK, &Taken { refused })
        }
        Err(error) => Refusal::too_large(error.to_string()).into_response(),
    }
}
