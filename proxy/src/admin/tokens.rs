//! Tokens over the admin API, with the names of link-assistant/router.

use std::time::Duration;

use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use serde::{Deserialize, Serialize};

use super::answer::{Refusal, json};
use super::routes::SharedAdmin;
use crate::config::live::Standing;
use crate::tokens::{NewToken, Origin, Record, Shown, StoreError, TokenStore};

const MAX_TTL_HOURS: u32 = 87_600;
const MAX_LABEL_CHARACTERS: usize = 128;

/// How long a change may take to reach requests before its caller is told so.
const IN_FORCE_WITHIN: Duration = Duration::from_secs(2);

/// What a new token is to be.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IssueRequest {
    #[serde(default = "one_day")]
    pub ttl_hours: u32,
    #[serde(default)]
    pub label: String,
    #[serde(default)]
    pub max_requests: Option<u64>,
}

/// A new token. The only time its text is shown.
#[derive(Serialize, Deserialize)]
pub struct IssueAnswer {
    pub token: String,
    pub id: String,
    pub label: String,
    pub ttl_hours: u32,
    pub expires_at: i64,
    pub max_requests: Option<u64>,
}

/// Every token.
#[derive(Serialize, Deserialize)]
pub struct ListAnswer {
    pub data: Vec<Shown>,
}

fn one_day() -> u32 {
    24
}

impl IssueRequest {
    /// The token to issue.
    ///
    /// # Errors
    /// Which value is out of its range.
    pub fn into_new(self) -> Result<NewToken, String> {
        if !(1..=MAX_TTL_HOURS).contains(&self.ttl_hours) {
            return Err(format!("ttl_hours: must be 1 to {MAX_TTL_HOURS}, is {}", self.ttl_hours));
        }
        if self.max_requests == Some(0) {
            return Err("max_requests: must be at least 1; leave it out for no limit".to_owned());
        }
        if self.label.chars().count() > MAX_LABEL_CHARACTERS || self.label.chars().any(char::is_control) {
            return Err(format!(
                "label: must have at most {MAX_LABEL_CHARACTERS} characters, none of them control"
            ));
        }
        Ok(NewToken {
            place: None,
            label: self.label,
            lifetime_seconds: i64::from(self.ttl_hours).saturating_mul(3_600),
            max_requests: self.max_requests,
            origin: Origin::Issued,
        })
    }
}

/// Issues a token and shows its text once.
///
/// # Errors
/// When the request is out of range or beyond what the proxy allows, or the store cannot be written.
pub fn issue_in(store: &TokenStore, request: IssueRequest, now: i64) -> Result<IssueAnswer, Refusal> {
    let ttl_hours = request.ttl_hours;
    let new = request.into_new().map_err(Refusal::bad_request)?;
    let record = store.issue(new, now).map_err(|e| refusal(&e))?;
    let text = store.text(&record).map_err(|e| refusal(&e))?;
    Ok(IssueAnswer {
        token: text.expose().to_owned(),
        id: record.id.to_string(),
        max_requests: store.max_requests(&record),
        label: record.label,
        ttl_hours,
        expires_at: record.expires_at,
    })
}

pub(super) async fn issue(State(admin): State<SharedAdmin>, body: Bytes) -> Response {
    let body: &[u8] = if body.is_empty() { b"{}" } else { &body };
    let request = match serde_json::from_slice(body) {
        Ok(request) => request,
        Err(error) => return Refusal::bad_request(error.to_string()).into_response(),
    };
    let issued = with_store(&admin, |store| {
        let issued = issue_in(store, request, (admin.now)())?;
        let record = store.record(&issued.id).map_err(|e| refusal(&e))?;
        Ok((issued, record))
    });
    match issued {
        Ok((issued, record)) => answer(in_force(&admin, &record).await.map(|()| issued)),
        Err(refusal) => refusal.into_response(),
    }
}

pub(super) async fn list(State(admin): State<SharedAdmin>) -> Response {
    answer(with_store(&admin, |store| {
        let data = store.records().iter().map(|record| shown(&admin, record)).collect();
        Ok(ListAnswer { data })
    }))
}

pub(super) async fn show(State(admin): State<SharedAdmin>, Path(id): Path<String>) -> Response {
    let record = with_store(&admin, |store| store.record(&id).map_err(|e| refusal(&e)));
    answer(record.map(|record| shown(&admin, &record)))
}

pub(super) async fn revoke(State(admin): State<SharedAdmin>, Path(id): Path<String>) -> Response {
    edited(&admin, |store| store.revoke(&id, (admin.now)())).await
}

pub(super) async fn expire(State(admin): State<SharedAdmin>, Path(id): Path<String>) -> Response {
    edited(&admin, |store| store.expire(&id, (admin.now)())).await
}

async fn edited(
    admin: &SharedAdmin,
    edit: impl FnOnce(&TokenStore) -> Result<Record, StoreError>,
) -> Response {
    match with_store(admin, |store| edit(store).map_err(|e| refusal(&e))) {
        Ok(record) => answer(in_force(admin, &record).await.map(|()| shown(admin, &record))),
        Err(refusal) => refusal.into_response(),
    }
}

/// Waits until requests are judged by `record`: whoever is answered may rely on it at once.
async fn in_force(admin: &SharedAdmin, record: &Record) -> Result<(), Refusal> {
    let wanted = record.issued_id();
    let cell = admin.status.cell();
    let mut changes = cell.subscribe();
    let agrees = || match cell.load().token(&record.id) {
        Some(entry) => {
            let is_revoked = entry.standing == Standing::Revoked;
            entry.not_after == wanted.not_after && is_revoked == wanted.revoked
        }
        None => !record.is_live((admin.now)()),
    };
    let wait = async { while !agrees() && changes.changed().await.is_ok() {} };
    let late =
        "it is stored, but not in force yet; /readyz and /status say what keeps the router from serving it";
    tokio::time::timeout(IN_FORCE_WITHIN, wait).await.map_err(|_| Refusal::failed(late.to_owned()))
}

fn with_store<T>(
    admin: &SharedAdmin,
    act: impl FnOnce(&TokenStore) -> Result<T, Refusal>,
) -> Result<T, Refusal> {
    let store = admin.tokens.as_ref().ok_or_else(|| Refusal::not_found("tokens are issued elsewhere"))?;
    act(store)
}

fn shown(admin: &SharedAdmin, record: &Record) -> Shown {
    let used = record.subject().ok().and_then(|subject| admin.status.ledger().usage(&subject));
    let mut shown = record.shown(used.map_or(0, |used| used.settled.saturating_add(used.open)));
    // A manifest may have changed its limit since the text was minted.
    if let Some(entry) = admin.status.cell().load().token(&record.id) {
        shown.max_requests = entry.max_requests();
        let budgets = &entry.limits.budgets;
        shown.budgets = admin.status.budgets(&entry.subject, budgets, &entry.thresholds, (admin.now)());
    }
    shown
}

fn refusal(error: &StoreError) -> Refusal {
    match error {
        StoreError::Unknown(_) => Refusal::not_found(error.to_string()),
        StoreError::NotAdmitted(_) => Refusal::bad_request(error.to_string()),
        _ => Refusal::failed(error.to_string()),
    }
}

fn answer(result: Result<impl Serialize, Refusal>) -> Response {
    match result {
        Ok(body) => json(StatusCode::OK, &body),
        Err(refusal) => refusal.into_response(),
    }
}
