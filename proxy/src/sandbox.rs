//! A scripted upstream for trying things out without an account: Anthropic's Messages API with answers
//! that are always the same, as JSON and as a stream. Listens on loopback; only `quickstart` starts it.

use std::convert::Infallible;
use std::net::TcpListener;
use std::time::Duration;

use bytes::Bytes;
use futures::stream;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt as _, Full, Limited, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use serde_json::{Value, json};

/// The key that it takes; no vendor knows it.
pub const API_KEY: &str = "sandbox-key-of-la-router";

const MODEL: &str = "claude-sandbox";
const WORDS: [&str; 12] = [
    "Hello",
    " from",
    " the",
    " sandbox",
    " of",
    " la-router:",
    " this",
    " answer",
    " is",
    " scripted,",
    " and",
    " streamed.",
];
const PAUSE: Duration = Duration::from_millis(40);
const MAX_BODY_BYTES: usize = 32 << 20;
const OUTPUT_TOKENS: usize = WORDS.len();

type Answer = Response<BoxBody<Bytes, Infallible>>;

#[derive(Deserialize)]
struct Asked {
    model: String,
    #[serde(default)]
    stream: bool,
}

/// Serves on `listener` for as long as the runtime lives. Must be called within one.
///
/// # Errors
/// When the listener cannot be used.
pub fn start(listener: TcpListener) -> std::io::Result<()> {
    listener.set_nonblocking(true)?;
    let listener = tokio::net::TcpListener::from_std(listener)?;
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            tokio::spawn(async move {
                let http = hyper::server::conn::http1::Builder::new();
                // A client that goes away is no fault.
                let _ = http.serve_connection(TokioIo::new(socket), service_fn(answer)).await;
            });
        }
    });
    Ok(())
}

async fn answer(request: Request<Incoming>) -> Result<Answer, Infallible> {
    let key = request.headers().get("x-api-key").map(http::HeaderValue::as_bytes);
    if key != Some(API_KEY.as_bytes()) {
        return Ok(refuse(StatusCode::UNAUTHORIZED, "authentication_error", "invalid x-api-key"));
    }
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let Ok(body) = Limited::new(request.into_body(), MAX_BODY_BYTES).collect().await else {
        return Ok(refuse(StatusCode::BAD_REQUEST, "invalid_request_error", "body cannot be read"));
    };
    let body = body.to_bytes();
    Ok(match (&method, path.as_str()) {
        (&Method::POST, "/v1/messages") => messages(&body),
        (&Method::POST, "/v1/messages/count_tokens") => {
            json_answer(&json!({ "input_tokens": input_tokens(&body) }))
        }
        (&Method::GET, "/v1/models") => {
            json_answer(&json!({ "data": [model()], "has_more": false, "first_id": MODEL, "last_id": MODEL }))
        }
        (&Method::GET, path) if path.starts_with("/v1/models/") => json_answer(&model()),
        _ => refuse(StatusCode::NOT_FOUND, "not_found_error", "the sandbox does not have this"),
    })
}

fn messages(body: &[u8]) -> Answer {
    let Ok(asked) = serde_json::from_slice::<Asked>(body) else {
        return refuse(StatusCode::BAD_REQUEST, "invalid_request_error", "model: field required");
    };
    let input = input_tokens(body);
    if asked.stream {
        return streamed(&asked.model, input);
    }
    json_answer(&json!({
        "id": "msg_sandbox", "type": "message", "role": "assistant", "model": asked.model,
        "content": [{ "type": "text", "text": WORDS.concat() }],
        "stop_reason": "end_turn", "stop_sequence": null,
        "usage": { "input_tokens": input, "output_tokens": OUTPUT_TOKENS },
    }))
}

fn streamed(model: &str, input: usize) -> Answer {
    let start = json!({ "type": "message_start", "message": {
        "id": "msg_sandbox", "type": "message", "role": "assistant", "model": model, "content": [],
        "stop_reason": null, "stop_sequence": null,
        "usage": { "input_tokens": input, "output_tokens": 1 },
    }});
    let block =
        json!({ "type": "content_block_start", "index": 0, "content_block": { "type": "text", "text": "" } });
    let words = WORDS.iter().map(|word| {
        json!({ "type": "content_block_delta", "index": 0, "delta": { "type": "text_delta", "text": word } })
    });
    let end = [
        json!({ "type": "content_block_stop", "index": 0 }),
        json!({ "type": "message_delta", "delta": { "stop_reason": "end_turn", "stop_sequence": null },
                "usage": { "output_tokens": OUTPUT_TOKENS } }),
        json!({ "type": "message_stop" }),
    ];
    let events: Vec<Value> = [start, block].into_iter().chain(words).chain(end).collect();
    let frames = stream::unfold(events.into_iter(), |mut events| async move {
        let event = events.next()?;
        tokio::time::sleep(PAUSE).await;
        let name = event.get("type").and_then(Value::as_str).unwrap_or_default();
        let text = format!("event: {name}\ndata: {event}\n\n");
        Some((Ok::<_, Infallible>(Frame::data(Bytes::from(text))), events))
    });
    let mut answer = Response::new(StreamBody::new(frames).boxed());
    set_type(&mut answer, "text/event-stream; charset=utf-8");
    answer
}

fn model() -> Value {
    json!({ "type": "model", "id": MODEL, "display_name": "Sandbox", "created_at": "2026-01-01T00:00:00Z" })
}

/// A rough count, as good as a script needs.
fn input_tokens(body: &[u8]) -> usize {
    body.len().div_ceil(4)
}

fn json_answer(body: &Value) -> Answer {
    let mut answer = Response::new(Full::new(Bytes::from(body.to_string())).boxed());
    set_type(&mut answer, "application/json");
    answer
}

fn refuse(status: StatusCode, kind: &str, message: &str) -> Answer {
    let mut answer = json_answer(&json!({ "type": "error", "error": { "type": kind, "message": message } }));
    *answer.status_mut() = status;
    answer
}

fn set_type(answer: &mut Answer, kind: &'static str) {
    answer.headers_mut().insert(header::CONTENT_TYPE, http::HeaderValue::from_static(kind));
}
