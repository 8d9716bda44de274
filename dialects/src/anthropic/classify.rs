//! What an error answer means for the account that it came through.
//!
//! The vendor's own code decides first, then the HTTP status. Text decides last, and only where both are
//! general (400 and 403): as sentences that the vendor is known to write, since a client's own text can stand
//! in a message.

use std::borrow::Cow;

use la_core::account::Class;
use serde::Deserialize;

use super::error::kinds;

/// Most bytes of a body that need to be given: the vendor's errors have up to a few hundred.
pub const MAX_BODY_BYTES: usize = 16 * 1024;

/// What an error means, by its status and the beginning of its body. For an error in a stream the status is
/// the stream's own, 200, and the body the event's data.
pub fn class(status: u16, body: &[u8]) -> Class {
    let envelope: Envelope<'_> = serde_json::from_slice(body).unwrap_or_default();
    let error = envelope.error.unwrap_or_default();
    let code = error.details.as_ref().and_then(|details| details.error_code.as_deref());
    let named = code.and_then(by_code).or_else(|| by_type(&error.r#type));
    named.or_else(|| by_text(status, &error)).unwrap_or_else(|| match (status, &*error.r#type) {
        (401 | 402 | 429 | 529, _) => by_status(status),
        (_, kinds::INVALID_REQUEST) => Class::Client,
        (_, kinds::PERMISSION) => Class::Auth,
        _ => by_status(status),
    })
}

#[derive(Default, Deserialize)]
struct Envelope<'a> {
    #[serde(borrow)]
    error: Option<Inner<'a>>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Inner<'a> {
    #[serde(borrow)]
    r#type: Cow<'a, str>,
    #[serde(borrow)]
    message: Cow<'a, str>,
    #[serde(borrow)]
    details: Option<Details<'a>>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Details<'a> {
    #[serde(borrow)]
    error_code: Option<Cow<'a, str>>,
}

/// Codes that are more exact than a type, by the vendors that use them.
fn by_code(code: &str) -> Option<Class> {
    match code {
        "insufficient_quota"
        | "usage_limit_reached"
        | "quota_exhausted"
        | "billing_hard_limit_reached"
        | "credit_balance_too_low"
        | "rate_limit_exceeded" => Some(Class::Quota),
        "overloaded" => Some(Class::Overload),
        "invalid_api_key" | "token_expired" | "token_revoked" | "invalid_token" => Some(Class::Auth),
        "prompt_too_long" | "context_length_exceeded" => Some(Class::ContextTooLong),
        _ => by_type(code),
    }
}

/// Types that mean one thing. `api_error` says no more than the status, and what `invalid_request_error` and
/// `permission_error` mean is in their text.
fn by_type(kind: &str) -> Option<Class> {
    match kind {
        kinds::RATE_LIMIT | kinds::BILLING => Some(Class::Quota),
        kinds::OVERLOADED => Some(Class::Overload),
        kinds::AUTHENTICATION => Some(Class::Auth),
        kinds::REQUEST_TOO_LARGE => Some(Class::ContextTooLong),
        kinds::NOT_FOUND | "conflict_error" => Some(Class::Client),
        kinds::TIMEOUT => Some(Class::Unknown),
        _ => None,
    }
}

fn by_status(status: u16) -> Class {
    match status {
        402 | 429 => Class::Quota,
        401 | 403 => Class::Auth,
        529 => Class::Overload,
        413 => Class::ContextTooLong,
        408 => Class::Unknown,
        400..=499 => Class::Client,
        _ => Class::Unknown,
    }
}

/// What the vendor writes when a prompt does not fit.
const TOO_LONG: [&str; 3] =
    ["prompt is too long", "exceed context limit", "input is too long for requested model"];

/// How the vendor's sentences about an account with nothing left begin. Those about a mistake can have any words
/// further on: the client's own.
const QUOTA_BEGINNINGS: [&str; 6] = [
    "your credit balance",
    "you have reached your",
    "you've reached your",
    "claude ai usage limit",
    "this request would exceed your",
    "rate limit",
];

/// What sentences about a limit have in them, where a status says that the credential may not do this.
const QUOTA_WORDS: [&str; 6] =
    ["usage limit", "credit balance", "rate limit", "rate_limit", "too many requests", "quota"];

fn by_text(status: u16, error: &Inner<'_>) -> Option<Class> {
    let message = error.message.trim_start().to_ascii_lowercase();
    let says = |words: &[&str]| words.iter().any(|words| message.contains(words));
    let is_mistake = status == 400 || error.r#type == kinds::INVALID_REQUEST;
    let is_forbidden = status == 403 || error.r#type == kinds::PERMISSION;
    if is_mistake && says(&TOO_LONG) {
        return Some(Class::ContextTooLong);
    }
    let begins = || QUOTA_BEGINNINGS.iter().any(|words| message.starts_with(words));
    let is_quota = (is_mistake && begins()) || (is_forbidden && says(&QUOTA_WORDS));
    is_quota.then_some(Class::Quota)
}

#[cfg(test)]
mod tests;
