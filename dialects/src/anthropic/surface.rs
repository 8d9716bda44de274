//! Which operations exist, and how each is addressed upstream.
//!
//! What is not in the table does not exist: there is no decoding, no normalising and no prefix match.
//! The upstream path and query are written anew from the table and from values checked here; nothing of
//! the client's own target is copied.

use std::borrow::Cow;

mod query;

/// Something that a client can ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Operation {
    /// `POST /v1/messages`.
    Messages,
    /// `POST /v1/messages/count_tokens`.
    CountTokens,
    /// `GET /v1/models`.
    Models,
    /// `GET /v1/models/{id}`.
    Model,
    /// `GET /health`, answered here.
    Health,
    /// `HEAD /`, answered here.
    Root,
}

impl Operation {
    /// Whether the operation is answered here, without an upstream and without a token.
    pub fn is_local(self) -> bool {
        matches!(self, Self::Health | Self::Root)
    }

    /// A short name for logs and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Messages => "messages",
            Self::CountTokens => "count_tokens",
            Self::Models => "models",
            Self::Model => "model",
            Self::Health => "health",
            Self::Root => "root",
        }
    }

    fn method(self) -> &'static str {
        match self {
            Self::Messages | Self::CountTokens => "POST",
            Self::Models | Self::Model | Self::Health => "GET",
            Self::Root => "HEAD",
        }
    }
}

/// An operation, and the target to ask an upstream for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found<'a> {
    /// What is asked for.
    pub operation: Operation,
    /// The path to send, without the legacy prefix.
    pub upstream_path: Cow<'static, str>,
    /// The query to send, without `?`.
    pub upstream_query: Option<Cow<'static, str>>,
    /// The model named in the path, for [`Operation::Model`].
    pub model: Option<&'a str>,
}

/// Why there is no operation.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotFound {
    /// The path is not in the table.
    #[error("no such path here; this router serves /v1/messages, /v1/messages/count_tokens and /v1/models")]
    Path,
    /// The path is in the table, with another method.
    #[error("method not allowed here; use {allow}")]
    Method {
        /// The method that the path has; for the `allow` header.
        allow: &'static str,
    },
    /// A query parameter is unknown, repeated, or has a value outside its range.
    #[error("query parameter {name:?} is not allowed here, is repeated, or has a bad value")]
    Query {
        /// Its name, at most 24 characters of `[a-z_]`; empty when it is none such.
        name: String,
    },
}

/// The prefix under which an older router served the same paths.
const LEGACY_PREFIX: &str = "/api/latest/anthropic";

const MODEL_PREFIX: &str = "/v1/models/";

/// Most characters of an id in a path or query.
const MAX_ID_CHARACTERS: usize = 128;

/// Finds the operation behind a request's method, path and query, all as received.
///
/// # Errors
/// Which of the three is not known here.
pub fn find<'a>(method: &str, path: &'a str, query: Option<&str>) -> Result<Found<'a>, NotFound> {
    let (operation, model) = by_path(path).ok_or(NotFound::Path)?;
    if method != operation.method() {
        return Err(NotFound::Method { allow: operation.method() });
    }
    let upstream_query = query::rebuild(operation, query.unwrap_or_default())?;
    let upstream_path = match operation {
        Operation::Messages => Cow::Borrowed("/v1/messages"),
        Operation::CountTokens => Cow::Borrowed("/v1/messages/count_tokens"),
        Operation::Models => Cow::Borrowed("/v1/models"),
        Operation::Model => Cow::Owned(format!("{MODEL_PREFIX}{}", model.unwrap_or_default())),
        Operation::Health => Cow::Borrowed("/health"),
        Operation::Root => Cow::Borrowed("/"),
    };
    Ok(Found { operation, upstream_path, upstream_query, model })
}

fn by_path(path: &str) -> Option<(Operation, Option<&str>)> {
    match path {
        "/health" => return Some((Operation::Health, None)),
        "/" => return Some((Operation::Root, None)),
        _ => {}
    }
    match path.strip_prefix(LEGACY_PREFIX).unwrap_or(path) {
        "/v1/messages" => Some((Operation::Messages, None)),
        "/v1/messages/count_tokens" => Some((Operation::CountTokens, None)),
        "/v1/models" => Some((Operation::Models, None)),
        other => {
            let id = other.strip_prefix(MODEL_PREFIX).filter(|id| is_id(id))?;
            Some((Operation::Model, Some(id)))
        }
    }
}

/// Whether a text can stand in a path or query as it is: `[A-Za-z0-9._:@-]{1,128}`, not a dot segment.
fn is_id(text: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b':' | b'@' | b'-');
    (1..=MAX_ID_CHARACTERS).contains(&text.len()) && text.bytes().all(allowed) && !matches!(text, "." | "..")
}

#[cfg(test)]
mod tests;
