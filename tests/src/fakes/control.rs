//! The control port of the fake as a program: `GET /received` tells what arrived, `POST /reset` forgets it.

use std::sync::Arc;

use super::answer::Answer;
use super::request::Received;
use super::upstream::{FakeUpstream, Script};

/// Longest body that is told in full.
const SHOWN_BODY_BYTES: usize = 64 * 1024;

#[derive(serde::Serialize)]
struct Told<'a> {
    #[serde(flatten)]
    request: &'a Received,
    model: String,
    /// The body as text, if it is short.
    body: Option<String>,
}

/// The script of a control port of `upstream`.
pub fn script(upstream: Arc<FakeUpstream>) -> Script {
    Arc::new(move |request| match (request.method.as_str(), request.path()) {
        ("GET", "/received") => Answer::json(200, received(&upstream).to_string()),
        ("POST", "/reset") => {
            upstream.reset();
            Answer::json(200, "{}")
        }
        _ => Answer::json(404, r#"{"error":"GET /received or POST /reset"}"#),
    })
}

fn received(upstream: &FakeUpstream) -> serde_json::Value {
    let requests = upstream.received();
    let told: Vec<_> = requests.iter().map(tell).collect();
    serde_json::json!({
        "connections": upstream.connections(),
        "bytes": upstream.bytes(),
        "count": requests.len(),
        "billed": upstream.billed(),
        "cancelled": upstream.cancelled(),
        "violations": upstream.violations(),
        "requests": told,
    })
}

fn tell(request: &Received) -> Told<'_> {
    let is_short = request.body.len() <= SHOWN_BODY_BYTES;
    let body = is_short.then(|| String::from_utf8_lossy(&request.body).into_owned());
    Told { request, model: request.model(), body }
}
