//! A vendor that behaves: the Anthropic API as real clients know it, with a correct answer to every
//! operation the router serves, and a table of model names that make it misbehave on purpose.
//!
//! | Model | Answer |
//! |---|---|
//! | any other | a short message; thinking first, if the request enables it |
//! | `script-tools` | a message that calls the tool `add` |
//! | `script-usage-IN-OUT` | a message that used IN and OUT tokens |
//! | `script-STATUS` (400, 401, 402, 403, 404, 409, 413, 429, 500, 502, 503, 504, 529) | that refusal; 429 with `retry-after: 1` |
//! | `script-429-final` | 429 with `x-should-retry: false` and no `retry-after` |
//! | `script-html` | 503 with an HTML page |
//! | `script-redirect` | 307 to another host |
//! | `script-slow` | a stream with 100 ms between events |
//! | `script-bytes` | a stream in writes of one byte |
//! | `script-huge` | a message of 8 MiB |
//! | `script-error-event` | a stream that ends with an `overloaded_error` event |
//! | `script-truncate`, `script-reset`, `script-stall` | a stream that is closed, reset or silent in its middle |
//! | `script-close-head`, `script-reset-head`, `script-stall-head` | no answer; closed, reset or silent |
//! | `hold-MS` | a stream whose end comes after MS milliseconds |
//!
//! Every answer carries headers that a client must never see: see [`CANARY_HEADERS`].

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::answer::{Answer, Break, Framing};
use super::request::Received;
use super::upstream::Script;

mod message;

pub use message::{ToolCall, Turn, json, stream};

/// Headers that tell of the owner's account. A router keeps them to itself.
pub const CANARY_HEADERS: [(&str, &str); 4] = [
    ("set-cookie", "session=canary-cookie; Secure; HttpOnly"),
    ("anthropic-organization-id", "canary-organization"),
    ("anthropic-ratelimit-unified-status", "canary-allowed"),
    ("cf-ray", "canary-ray"),
];

/// The event that ends a stream for want of capacity.
pub const OVERLOADED_EVENT: &str = "event: error\ndata: {\"type\":\"error\",\"error\":{\"type\":\"overloaded_error\",\"message\":\"Overloaded\"}}\n\n";

/// The credentials that the vendor knows; none known, and any is good.
#[derive(Debug, Clone, Default)]
pub struct Known {
    /// An OAuth access token: `Authorization: Bearer` with the OAuth beta flag.
    pub bearer: Option<String>,
    /// An API key: `x-api-key`.
    pub key: Option<String>,
}

/// The models on the list.
const MODELS: [&str; 3] = ["claude-opus-5", "claude-sonnet-5", "claude-haiku-4-5"];

const OAUTH_BETA: &str = "oauth-2025-04-20";

/// Answers as the vendor would.
pub fn script(known: Known) -> Script {
    Arc::new(move |request| {
        let answer = refused(&known, request).unwrap_or_else(|| answer(request));
        let answer = answer.header("request-id", "req_fake").header("server", "scripted");
        CANARY_HEADERS.iter().fold(answer, |answer, (name, value)| answer.header(name, value))
    })
}

/// The refusal of an account whose five hours are used up for another hour.
#[expect(clippy::disallowed_methods, reason = "a vendor tells real times")]
pub fn limited() -> Answer {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let reset = now.saturating_add(3_600).to_string();
    Answer::error(429, "rate_limit_error", "This request would exceed your account's rate limit")
        .header("anthropic-ratelimit-unified-status", "rejected")
        .header("anthropic-ratelimit-unified-5h-status", "rejected")
        .header("anthropic-ratelimit-unified-5h-reset", &reset)
        .header("retry-after", "3600")
}

/// What is wrong with a request before its operation is looked at.
fn refused(known: &Known, request: &Received) -> Option<Answer> {
    if request.headers.iter().any(|(_, value)| value.contains("la_sk_")) {
        return Some(Answer::error(401, "authentication_error", "a router's token reached the vendor"));
    }
    if !known.accepts(request) {
        return Some(Answer::error(401, "authentication_error", "invalid x-api-key or bearer token"));
    }
    if request.path() != "/" && request.header("anthropic-version").is_none() {
        return Some(Answer::error(400, "invalid_request_error", "anthropic-version: header is required"));
    }
    let is_json = request.header("content-type").is_some_and(|kind| kind.starts_with("application/json"));
    let needs_json = request.method == "POST" && !(is_json && request.json().is_object());
    needs_json.then(|| Answer::error(400, "invalid_request_error", "body: a JSON object is required"))
}

impl Known {
    fn accepts(&self, request: &Received) -> bool {
        if self.bearer.is_none() && self.key.is_none() {
            return true;
        }
        let bearers = request.headers_named("authorization");
        let keys = request.headers_named("x-api-key");
        match (bearers.as_slice(), keys.as_slice()) {
            ([bearer], []) => {
                let betas = request.headers_named("anthropic-beta").join(",");
                let has_flag = betas.split(',').any(|flag| flag.trim() == OAUTH_BETA);
                has_flag
                    && bearer.strip_prefix("Bearer ").is_some_and(|text| self.bearer.as_deref() == Some(text))
            }
            ([], [key]) => self.key.as_deref() == Some(*key),
            _ => false,
        }
    }
}

fn answer(request: &Received) -> Answer {
    match (request.method.as_str(), request.path()) {
        ("HEAD" | "GET", "/") => Answer::json(200, "{}"),
        ("POST", "/v1/messages") => message_answer(request),
        ("POST", "/v1/messages/count_tokens") => {
            misbehaviour(&request.model()).unwrap_or_else(|| Answer::json(200, r#"{"input_tokens":14}"#))
        }
        ("GET", "/v1/models") => models(),
        ("GET", path) => match path.strip_prefix("/v1/models/").filter(|id| MODELS.contains(id)) {
            Some(id) => Answer::json(200, model(id)),
            None => Answer::error(404, "not_found_error", "no such model"),
        },
        _ => Answer::error(404, "not_found_error", "no such operation"),
    }
}

fn message_answer(request: &Received) -> Answer {
    let model = request.model();
    if let Some(answer) = misbehaviour(&model) {
        return answer;
    }
    let body = request.json();
    let is_stream = body.get("stream").and_then(serde_json::Value::as_bool).unwrap_or_default();
    let turn = Turn::asked_for_by(&body);
    if !is_stream {
        return Answer::json(200, json(&turn));
    }
    let mut events = stream(&turn);
    if model == "script-error-event" {
        events.truncate(events.len() / 2);
        events.push(OVERLOADED_EVENT.to_owned());
    }
    let answer = Answer::stream(&events);
    let middle = answer.body.len() / 2;
    match model.as_str() {
        "script-slow" => answer.paused(Duration::from_millis(100)),
        "script-bytes" => answer.byte_by_byte(),
        "script-truncate" => answer.broken(Break::Close, middle),
        "script-reset" => answer.broken(Break::Reset, middle),
        "script-stall" => answer.broken(Break::Stall, middle),
        _ => match model.strip_prefix("hold-").and_then(|ms| ms.parse().ok()) {
            Some(ms) => held(&events, Duration::from_millis(ms)),
            None => answer,
        },
    }
}

/// A stream in two writes, the second after `time`.
fn held(events: &[String], time: Duration) -> Answer {
    let last = events.len().saturating_sub(2);
    let (before, after) = events.split_at(last);
    Answer::stream(&[before.concat(), after.concat()]).paused(time)
}

/// The answers of models whose name asks for a fault, whatever the operation.
fn misbehaviour(model: &str) -> Option<Answer> {
    let answer = match model.strip_prefix("script-")? {
        "429" => Answer::error(429, "rate_limit_error", "This request would exceed your rate limit.")
            .header("retry-after", "1"),
        "429-final" => Answer::error(429, "rate_limit_error", "Your spend limit is reached.")
            .header("x-should-retry", "false"),
        "html" => Answer::html(503),
        "redirect" => Answer::json(307, "{}").header("location", "http://127.0.0.1:9/v1/messages"),
        "close-head" => Answer::none(Break::Close),
        "reset-head" => Answer::none(Break::Reset),
        "stall-head" => Answer::none(Break::Stall),
        status => {
            let status: u16 = status.parse().ok()?;
            let (_, kind) = ERRORS.iter().find(|(known, _)| *known == status)?;
            Answer::error(status, kind, &format!("scripted refusal {status}"))
        }
    };
    Some(answer)
}

/// The vendor's refusals (its `api/errors` page, August 2026).
const ERRORS: [(u16, &str); 12] = [
    (400, "invalid_request_error"),
    (401, "authentication_error"),
    (402, "billing_error"),
    (403, "permission_error"),
    (404, "not_found_error"),
    (409, "conflict_error"),
    (413, "request_too_large"),
    (500, "api_error"),
    (502, "api_error"),
    (503, "api_error"),
    (504, "timeout_error"),
    (529, "overloaded_error"),
];

fn models() -> Answer {
    let data: Vec<_> = MODELS.iter().map(|id| model_value(id)).collect();
    let page = serde_json::json!({
        "data": data, "has_more": false, "first_id": MODELS.first(), "last_id": MODELS.last(),
    });
    Answer::json(200, page.to_string()).framed(Framing::Chunked)
}

fn model(id: &str) -> String {
    model_value(id).to_string()
}

fn model_value(id: &str) -> serde_json::Value {
    serde_json::json!({
        "type": "model", "id": id, "display_name": id, "created_at": "2026-01-01T00:00:00Z",
        "lifecycle": "active", "max_input_tokens": 200_000, "max_tokens": 64_000,
    })
}
