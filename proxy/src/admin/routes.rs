//! Which paths there are, and which of them need a credential.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{delete, get, post};
use axum::{Router, extract::DefaultBodyLimit};
use la_core::refusals::Refusals;

use super::answer::Refusal;
use super::{Access, Status, accounts, refusals, report, tokens};
use crate::observe::metrics::Metrics;
use crate::refresh::Bell;
use crate::tokens::TokenStore;

/// Longest body of an admin request.
const MAX_BODY_BYTES: usize = Refusals::MOST_BYTES;

/// Everything the admin API answers from.
pub struct Admin {
    pub status: Arc<Status>,
    /// Absent where an operator issues the tokens.
    pub tokens: Option<Arc<TokenStore>>,
    /// Absent where metrics are switched off.
    pub metrics: Option<Arc<Metrics>>,
    pub access: Access,
    /// Where a renewal is asked for.
    pub bell: Arc<Bell>,
    /// The wall clock in Unix seconds.
    pub now: fn() -> i64,
}

pub(super) type SharedAdmin = Arc<Admin>;

/// The API as the port serves it, or, with `trusted`, as the socket does: without asking for a credential.
pub fn router(admin: &Arc<Admin>, trusted: bool) -> Router {
    let mut open = Router::new().route("/livez", get(livez)).route("/readyz", get(readyz));
    if admin.metrics.is_some() {
        open = open.route("/metrics", get(metrics));
    }
    if trusted || admin.access.exists() {
        let mut closed = Router::new()
            .route("/status", get(report::status))
            .route("/v1/report", get(report::long_poll))
            .route("/v1/usage", get(report::usage))
            .route("/v1/ledger", get(report::ledger))
            .route("/v1/accounts", get(accounts::list))
            .route("/v1/accounts/{provider}/{name}/refresh", post(accounts::refresh))
            .route("/v1/accounts/{provider}/{name}/cooldowns", delete(accounts::forget_cooldowns))
            .route("/v1/accounts/{provider}/{name}/sessions", delete(accounts::forget_sessions));
        if admin.tokens.is_some() {
            closed = closed
                .route("/api/tokens", get(tokens::list).post(tokens::issue))
                .route("/api/tokens/{id}", get(tokens::show))
                .route("/api/tokens/{id}/revoke", post(tokens::revoke))
                .route("/api/tokens/{id}/expire", post(tokens::expire));
        }
        // Elsewhere nothing comes late that would have to be overtaken.
        if admin.access.pod_uid.is_some() {
            closed = closed.route("/v1/refusals", post(refusals::refuse));
        }
        if !trusted {
            closed = closed.route_layer(middleware::from_fn_with_state(admin.clone(), demand_credential));
        }
        open = open.merge(closed);
    }
    open.fallback(unknown).layer(DefaultBodyLimit::max(MAX_BODY_BYTES)).with_state(admin.clone())
}

async fn demand_credential(State(admin): State<SharedAdmin>, request: Request, next: Next) -> Response {
    let presented = request.headers().get(header::AUTHORIZATION).map(axum::http::HeaderValue::as_bytes);
    let live = admin.status.cell().load();
    if admin.access.admits(presented, &live.snapshot().admin_keys, (admin.now)()) {
        next.run(request).await
    } else {
        Refusal::unauthenticated().into_response()
    }
}

async fn livez() -> &'static str {
    "ok\n"
}

async fn readyz(State(admin): State<SharedAdmin>) -> Response {
    let reasons = admin.status.not_ready();
    if reasons.is_empty() {
        let degraded = admin.status.degraded();
        degraded.into_iter().fold("ok\n".to_owned(), |text, what| text + &what + "\n").into_response()
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, format!("{}\n", reasons.join("\n"))).into_response()
    }
}

async fn metrics(State(admin): State<SharedAdmin>) -> Response {
    let accounts = admin.status.cell().load().accounts((admin.now)());
    let shown = admin.metrics.as_ref().inspect(|metrics| metrics.show_accounts(&accounts));
    let text = shown.map(|metrics| metrics.encode()).unwrap_or_default();
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, kind)], text).into_response()
}

async fn unknown() -> Response {
    Refusal::not_found("there is nothing here").into_response()
}
