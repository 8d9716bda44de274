//! The only place where an error becomes an answer, in the shape that Anthropic's clients parse.
//!
//! What a client is told never depends on which of its credentials' checks failed, and never holds a
//! credential, an address inside the owner's network, or a path on this machine.

use bytes::Bytes;
use http::header::{ALLOW, CONNECTION, CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderName, HeaderValue, Response, StatusCode};
use la_core::report::AccountReport;
use la_dialects::anthropic::error::{self, kinds};
use la_dialects::anthropic::surface::NotFound;
use la_dialects::facts::FactsError;

use crate::http1::violation::Violation;
use crate::listener::seat::End;
use crate::listener::worker::RequestId;
use crate::observe::metrics::Reason;

mod limited;
mod none_left;

pub use limited::{Limited, named};
pub use none_left::NoneLeft;

/// Carries the request's name on every answer.
pub const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Tells the vendor's SDKs whether trying again can help.
pub const X_SHOULD_RETRY: HeaderName = HeaderName::from_static("x-should-retry");

/// Why a request is refused.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// Its head, or the framing of its body, is bad.
    #[error("{0}")]
    Head(#[from] Violation),
    /// Nothing is served there.
    #[error("{0}")]
    Surface(#[from] NotFound),
    /// It has no good token. Which check failed is nobody's business.
    #[error("invalid token; send a la_sk_ token of this router as `authorization: Bearer` or `x-api-key`")]
    Token,
    /// Its token was revoked, removed or suspended.
    #[error("this token was {0}")]
    Standing(&'static str),
    /// One of its limits refuses it.
    #[error("{0}")]
    Limited(Box<Limited>),
    /// A budget must hold, and nobody can say how much the request may use.
    #[error("{what}, so {budget} cannot hold; leave it out, or let the budget admit it by `allowUnbounded`")]
    Unbounded {
        /// What has no bound.
        what: String,
        /// The budget.
        budget: String,
    },
    /// A budget of money must hold, and the model has no price.
    #[error(
        "no price is known for model {model:?}, so {budget} cannot hold; add the model to the provider's \
         `pricing.overrides`, or let the budget admit it by `allowUnpriced`"
    )]
    Unpriced {
        /// The model, as the client named it.
        model: String,
        /// The budget.
        budget: String,
    },
    /// It asks for more output than its token may.
    #[error("`max_tokens` is {asked}: this token may ask for at most {most} (its `maxOutputTokens`)")]
    OutputTooLarge {
        /// What it asks for.
        asked: u64,
        /// What it may ask for.
        most: u64,
    },
    /// Its body is over the limit.
    #[error("request body is larger than {max_bytes} bytes, the most that {}", body_limit(*.is_own))]
    BodyTooLarge {
        /// The limit.
        max_bytes: usize,
        /// Whether it is the token's own.
        is_own: bool,
    },
    /// Its body is compressed.
    #[error("compressed request bodies are not read; send it without content-encoding")]
    BodyCompressed,
    /// Its body stopped arriving.
    #[error("request body did not arrive in time")]
    BodySlow,
    /// Its body broke off.
    #[error("request body broke off")]
    BodyBroken,
    /// Its body is not what the operation needs.
    #[error("{0}")]
    Facts(#[from] FactsError),
    /// There is no memory for its body now.
    #[error("too many request bodies are being read at this moment; try again")]
    NoMemory,
    /// No route takes its model.
    #[error("model {model:?} is not served here")]
    Model {
        /// The model, as the client named it.
        model: String,
    },
    /// There is nothing that requests could go to.
    #[error("no provider is configured")]
    NoProvider,
    /// The ledger cannot answer.
    #[error("the budget of this token cannot be checked at this moment; try again")]
    Ledger,
    /// No account has a usable credential.
    #[error("no usable credential: {}", accounts(.0))]
    NoAccount(Vec<AccountReport>),
    /// Every account that could serve it rests or is busy.
    #[error("{0}")]
    NoneLeft(Box<NoneLeft>),
    /// The vendor does not accept the credential of the only account that is left.
    #[error(
        "provider {provider} does not accept the credential of account {provider}/{account}; its owner has to renew it"
    )]
    Credential {
        /// The provider's name.
        provider: String,
        /// The account's name.
        account: String,
    },
    /// The vendor refused it, and the head of its client's stream has been sent.
    #[error("provider answered with status {status}")]
    Vendor {
        /// The vendor's status.
        status: u16,
        /// What it said.
        body: Vec<u8>,
    },
    /// The vendor cannot be reached.
    #[error("provider {provider} cannot be reached")]
    Unreachable {
        /// The provider's name.
        provider: String,
    },
    /// The connection to the vendor broke before its answer.
    #[error("the connection to provider {provider} broke before it answered")]
    Broken {
        /// The provider's name.
        provider: String,
    },
    /// The vendor did not connect or answer in time.
    #[error("provider {provider} did not {what} in time")]
    Timeout {
        /// The provider's name.
        provider: String,
        /// `connect` or `answer`.
        what: &'static str,
    },
    /// The vendor's answer cannot be passed on.
    #[error("provider {provider} answered with status {status}, which is not passed on")]
    Answer {
        /// The provider's name.
        provider: String,
        /// Its status.
        status: u16,
    },
    /// The vendor's answer has two lengths.
    #[error("provider {provider} answered with conflicting lengths")]
    Ambiguous {
        /// The provider's name.
        provider: String,
    },
    /// The router is stopping.
    #[error("the router is stopping; try again")]
    Stopping,
    /// The client has gone, and nobody is told.
    #[error("client has gone")]
    Gone,
}

fn body_limit(is_own: bool) -> &'static str {
    if is_own { "this token may send (its `maxRequestBytes`)" } else { "is read here" }
}

fn accounts(reports: &[AccountReport]) -> String {
    let each: Vec<_> = reports
        .iter()
        .map(|report| format!("account {}/{}: {}", report.provider, report.name, report.message))
        .collect();
    each.join("; ")
}

/// The answer to a refused request.
pub fn answer(refusal: &Refusal, id: RequestId) -> Response<Bytes> {
    let (status, kind) = class(refusal);
    let body = Bytes::from(error::body(kind, &refusal.to_string(), id.as_str()));
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if let Ok(id) = HeaderValue::from_str(id.as_str()) {
        headers.insert(X_REQUEST_ID, id);
    }
    match retry_after_seconds(refusal) {
        Some(after) => drop(headers.insert(RETRY_AFTER, HeaderValue::from(after))),
        None if matches!(refusal, Refusal::Limited(_)) => {
            headers.insert(X_SHOULD_RETRY, HeaderValue::from_static("false"));
        }
        None => {}
    }
    match refusal {
        Refusal::Head(_) | Refusal::BodyTooLarge { .. } | Refusal::BodySlow | Refusal::BodyBroken => {
            headers.insert(CONNECTION, HeaderValue::from_static("close"));
        }
        Refusal::Surface(NotFound::Method { allow }) => {
            headers.insert(ALLOW, HeaderValue::from_static(allow));
        }
        _ => {}
    }
    response
}

/// The status of that answer.
pub fn status(refusal: &Refusal) -> StatusCode {
    class(refusal).0
}

/// The refusal that ends a request before its answer has begun.
pub fn ended(end: End, provider: &str, what: &'static str) -> Refusal {
    match end {
        End::Due | End::Overdue => Refusal::Timeout { provider: provider.to_owned(), what },
        End::Revoked => Refusal::Standing("revoked"),
        End::Suspended => Refusal::Standing("suspended"),
        End::Stopping => Refusal::Stopping,
        End::Gone => Refusal::Gone,
    }
}

/// The event that ends a stream after its answer has begun.
pub fn event(end: Ending, id: RequestId) -> Bytes {
    let (kind, message) = match end {
        Ending::Reset => (kinds::API, "the provider broke off its answer"),
        Ending::Ended(End::Due) => (kinds::TIMEOUT, "the provider stopped sending"),
        Ending::Ended(End::Overdue) => (kinds::TIMEOUT, "the answer took longer than is allowed"),
        Ending::Ended(End::Revoked) => (kinds::PERMISSION, "this token was revoked"),
        Ending::Ended(End::Suspended) => (kinds::PERMISSION, "this token was suspended"),
        Ending::Ended(End::Stopping | End::Gone) => (kinds::API, "the router is stopping; try again"),
    };
    Bytes::from(error::event(kind, message, id.as_str()))
}

/// The event by which a request is refused whose client has the head of a stream already.
pub fn late(refusal: &Refusal, id: RequestId) -> Bytes {
    let one_line = |body: &[u8]| body.starts_with(b"{") && memchr::memchr2(b'\n', b'\r', body).is_none();
    match refusal {
        // What the vendor said stays as it said it.
        Refusal::Vendor { body, .. } if one_line(body) => Bytes::from(error::event_of(body)),
        _ => Bytes::from(error::event(class(refusal).1, &refusal.to_string(), id.as_str())),
    }
}

/// Why an answer that has begun ends before its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// The vendor broke it off.
    Reset,
    /// It had to end.
    Ended(End),
}

/// Why the request counts as refused.
pub fn reason(refusal: &Refusal) -> Reason {
    match refusal {
        Refusal::Head(_) => Reason::Head,
        Refusal::Surface(_) => Reason::Surface,
        Refusal::Token => Reason::Token,
        Refusal::Standing(_) => Reason::Standing,
        Refusal::Limited(limited) => limited.reason(),
        Refusal::Unbounded { .. } => Reason::Unbounded,
        Refusal::Unpriced { .. } => Reason::Unpriced,
        Refusal::BodyTooLarge { .. }
        | Refusal::BodyCompressed
        | Refusal::BodySlow
        | Refusal::BodyBroken
        | Refusal::OutputTooLarge { .. }
        | Refusal::Facts(_) => Reason::Body,
        Refusal::NoMemory => Reason::Memory,
        Refusal::Model { .. } | Refusal::NoProvider => Reason::Model,
        Refusal::Ledger => Reason::Ledger,
        Refusal::NoAccount(_) | Refusal::NoneLeft(_) | Refusal::Credential { .. } => Reason::Account,
        Refusal::Stopping | Refusal::Gone => Reason::Connections,
        Refusal::Unreachable { .. }
        | Refusal::Broken { .. }
        | Refusal::Timeout { .. }
        | Refusal::Answer { .. }
        | Refusal::Vendor { .. }
        | Refusal::Ambiguous { .. } => Reason::Upstream,
    }
}

fn class(refusal: &Refusal) -> (StatusCode, &'static str) {
    match refusal {
        Refusal::Head(violation) => (violation.status(), kinds::INVALID_REQUEST),
        Refusal::Surface(NotFound::Path) | Refusal::Model { .. } => (StatusCode::NOT_FOUND, kinds::NOT_FOUND),
        Refusal::Surface(NotFound::Method { .. }) => (StatusCode::METHOD_NOT_ALLOWED, kinds::INVALID_REQUEST),
        Refusal::Surface(NotFound::Query { .. })
        | Refusal::Facts(_)
        | Refusal::OutputTooLarge { .. }
        | Refusal::Unbounded { .. }
        | Refusal::BodyBroken => (StatusCode::BAD_REQUEST, kinds::INVALID_REQUEST),
        Refusal::Token => (StatusCode::UNAUTHORIZED, kinds::AUTHENTICATION),
        Refusal::Standing(_) | Refusal::Unpriced { .. } => (StatusCode::FORBIDDEN, kinds::PERMISSION),
        Refusal::Limited(_) => (StatusCode::TOO_MANY_REQUESTS, kinds::RATE_LIMIT),
        Refusal::NoneLeft(none) if none.is_limit => (StatusCode::TOO_MANY_REQUESTS, kinds::RATE_LIMIT),
        Refusal::BodyTooLarge { .. } => (StatusCode::PAYLOAD_TOO_LARGE, kinds::REQUEST_TOO_LARGE),
        Refusal::BodyCompressed => (StatusCode::UNSUPPORTED_MEDIA_TYPE, kinds::INVALID_REQUEST),
        Refusal::BodySlow => (StatusCode::REQUEST_TIMEOUT, kinds::INVALID_REQUEST),
        Refusal::NoMemory | Refusal::Ledger | Refusal::NoneLeft(_) | Refusal::Stopping | Refusal::Gone => {
            (StatusCode::SERVICE_UNAVAILABLE, kinds::API)
        }
        Refusal::Timeout { .. } => (StatusCode::GATEWAY_TIMEOUT, kinds::TIMEOUT),
        Refusal::NoProvider
        | Refusal::NoAccount(_)
        | Refusal::Credential { .. }
        | Refusal::Vendor { .. }
        | Refusal::Unreachable { .. }
        | Refusal::Broken { .. }
        | Refusal::Answer { .. }
        | Refusal::Ambiguous { .. } => (StatusCode::BAD_GATEWAY, kinds::API),
    }
}

fn retry_after_seconds(refusal: &Refusal) -> Option<u64> {
    match refusal {
        Refusal::NoMemory | Refusal::Stopping => Some(1),
        Refusal::Ledger => Some(5),
        Refusal::Limited(limited) => limited.retry_after_seconds(),
        Refusal::NoneLeft(none) => none.retry_after_seconds(),
        _ => None,
    }
}
