//! Errors in the shape of the Anthropic API, as an answer and as an event of a stream.

use serde::Serialize;

/// The error types of the API, each with the HTTP status that it belongs to.
/// Source: the vendor's `api/errors` page, read in August 2026.
pub mod kinds {
    /// 400: the request cannot be understood.
    pub const INVALID_REQUEST: &str = "invalid_request_error";
    /// 401: no credential, or a bad one.
    pub const AUTHENTICATION: &str = "authentication_error";
    /// 402: the account cannot pay.
    pub const BILLING: &str = "billing_error";
    /// 403: a good credential that may not do this.
    pub const PERMISSION: &str = "permission_error";
    /// 404: no such path or model.
    pub const NOT_FOUND: &str = "not_found_error";
    /// 413: the body is over the limit.
    pub const REQUEST_TOO_LARGE: &str = "request_too_large";
    /// 429: too many requests, or no budget left.
    pub const RATE_LIMIT: &str = "rate_limit_error";
    /// 500, 502, 503: a fault on this side or the next.
    pub const API: &str = "api_error";
    /// 504: the next side did not answer in time.
    pub const TIMEOUT: &str = "timeout_error";
    /// 529: the vendor has no capacity.
    pub const OVERLOADED: &str = "overloaded_error";
}

#[derive(Serialize)]
struct Envelope<'a> {
    r#type: &'static str,
    error: Inner<'a>,
    request_id: &'a str,
}

#[derive(Serialize)]
struct Inner<'a> {
    r#type: &'a str,
    message: &'a str,
}

/// The body of a refusal: `{"type":"error","error":{"type":…,"message":…},"request_id":…}`.
pub fn body(kind: &str, message: &str, request_id: &str) -> Vec<u8> {
    let envelope = Envelope { r#type: "error", error: Inner { r#type: kind, message }, request_id };
    // Three plain strings always serialise; an empty object is still JSON if that ever changes.
    serde_json::to_vec(&envelope).unwrap_or_else(|_| b"{}".to_vec())
}

/// The same as an event of a stream whose head has been sent.
///
/// A half-sent event before it cannot be taken back, and clients stop at half a JSON text before they see the
/// error. So the event first renames whatever it follows to `ping`, which clients skip unread.
pub fn event(kind: &str, message: &str, request_id: &str) -> Vec<u8> {
    event_of(&body(kind, message, request_id))
}

/// The same with a body that is there already and has no line break.
pub fn event_of(body: &[u8]) -> Vec<u8> {
    let mut bytes = b"\nevent: ping\n\nevent: error\ndata: ".to_vec();
    bytes.extend_from_slice(body);
    bytes.extend_from_slice(b"\n\n");
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sse::Decoder;

    #[test]
    fn refusal_has_the_shape_that_clients_parse() {
        let text = String::from_utf8(body(kinds::RATE_LIMIT, "say \"no\"", "req_1")).unwrap();
        assert_eq!(
            text,
            r#"{"type":"error","error":{"type":"rate_limit_error","message":"say \"no\""},"request_id":"req_1"}"#
        );
    }

    #[test]
    fn error_event_is_seen_after_any_part_of_an_event_and_nothing_half_is_read() {
        let before = "event: content_block_delta\r\ndata: {\"type\":\"content_block_delta\"}\r\n\r\n";
        for sent in 0..=before.len() {
            let mut bytes = before.as_bytes()[..sent].to_vec();
            bytes.extend(event(kinds::API, "two\nlines", "req_1"));
            let mut seen = Vec::new();
            Decoder::new(1024).feed(&bytes, |event| {
                if event.name != "ping" {
                    seen.push((event.name.to_owned(), event.data.to_vec()));
                }
            });
            let last = seen.pop();
            assert_eq!(
                last,
                Some(("error".to_owned(), body(kinds::API, "two\nlines", "req_1"))),
                "after {sent}"
            );
            assert!(seen.iter().all(|(_, data)| data.ends_with(b"}")), "after {sent}: {seen:?}");
        }
    }
}
