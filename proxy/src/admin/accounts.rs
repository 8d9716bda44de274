//! Accounts: how they stand, and renewing their logins.

use std::time::Duration;

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use la_core::report::AccountReport;
use serde::{Deserialize, Serialize};

use super::answer::{Refusal, json};
use super::report::List;
use super::routes::SharedAdmin;
use crate::config::live::{AccountEntry, Live, RenewalStage};

/// How long an asker is kept waiting; longer than one call of the token endpoint may take.
const PATIENCE: Duration = Duration::from_secs(35);

/// The answer to a list.
#[derive(Debug, Serialize, Deserialize)]
pub struct ListAnswer {
    pub data: Vec<AccountReport>,
}

pub(super) async fn list(State(admin): State<SharedAdmin>) -> Response {
    json(StatusCode::OK, &List { data: admin.status.cell().load().accounts((admin.now)()) })
}

/// Has a login renewed now, and tells how its account stands then.
pub(super) async fn refresh(
    State(admin): State<SharedAdmin>,
    Path((provider, name)): Path<(String, String)>,
) -> Response {
    let find = || admin.status.cell().load().account(&provider, &name).cloned();
    let Some(before) = find() else {
        return Refusal::not_found(format!("there is no account {provider}/{name}")).into_response();
    };
    let refuse =
        |why: &str| Refusal::bad_request(format!("account {provider}/{name}: {why}")).into_response();
    let renewal = before.renewal();
    if renewal.stage == RenewalStage::Nobody && !renewal.message.is_empty() {
        return refuse(&renewal.message);
    }
    match tokio::time::timeout(PATIENCE, admin.bell.ring(&provider, &name)).await {
        Ok(Err(why)) => refuse(&why.to_string()),
        // Late or not, the account tells how far it came.
        Ok(Ok(())) | Err(_) => match find() {
            Some(account) => json(StatusCode::OK, &account.report((admin.now)())),
            None => refuse("is not served any more"),
        },
    }
}

#[derive(Serialize)]
struct Forgotten {
    forgotten: usize,
}

/// Forgets the sessions of an account; their next requests find accounts anew.
pub(super) async fn forget_sessions(
    State(admin): State<SharedAdmin>,
    Path(names): Path<(String, String)>,
) -> Response {
    forget(&admin, &names, |live, account| live.forget_sessions(account))
}

/// Forgets why an account rests: its owner knows that it can serve again.
pub(super) async fn forget_cooldowns(
    State(admin): State<SharedAdmin>,
    Path(names): Path<(String, String)>,
) -> Response {
    forget(&admin, &names, |_, account| account.known.forget_trouble())
}

fn forget(
    admin: &SharedAdmin,
    (provider, name): &(String, String),
    what: impl FnOnce(&Live, &AccountEntry) -> usize,
) -> Response {
    let live = admin.status.cell().load();
    match live.account(provider, name) {
        Some(account) => json(StatusCode::OK, &Forgotten { forgotten: what(&live, account) }),
        None => Refusal::not_found(format!("there is no account {provider}/{name}")).into_response(),
    }
}
