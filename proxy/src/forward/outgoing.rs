//! One request on its way to the gateway: the client's own credentials are left behind, ours is attached.

use std::rc::Rc;

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONNECTION, CONTENT_TYPE, COOKIE, HOST, PROXY_AUTHORIZATION};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, Uri};
use hyper::body::Incoming;
use la_dialects::anthropic::error::{self, kinds};

use super::desk::{Desk, Sender};
use super::relay::{self, Passing};
use crate::listener::seat::{End, Seat};
use crate::refuse::{self, X_REQUEST_ID};
use crate::upstream::connector;

/// How long a connection to the gateway may take.
const CONNECT_MS: u64 = 10_000;

/// How long the gateway may take to answer; longer than it gives a vendor by default.
const FIRST_BYTE_MS: u64 = 660_000;

/// Headers that belong to one connection (RFC 9110 §7.6.1).
const HOP_BY_HOP: [&str; 8] = [
    "connection",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "proxy-authenticate",
];

/// What a client may hold that the gateway must not see.
const CREDENTIALS: [HeaderName; 4] =
    [AUTHORIZATION, PROXY_AUTHORIZATION, COOKIE, HeaderName::from_static("x-api-key")];

/// Why a request was not answered by the gateway.
enum Problem {
    Head(crate::listener::violation::Violation),
    NoToken,
    Target,
    Unreachable,
    Broken,
    Late(&'static str),
    Stopping,
}

/// Answers one request.
pub(super) async fn handle(desk: Rc<Desk>, seat: Rc<Seat>, request: Request<Incoming>) -> Response<Passing> {
    let sent = match seat.next_request() {
        Some(violation) => Err(Problem::Head(violation)),
        None => forward(&desk, &seat, request).await,
    };
    match sent {
        Ok((response, sender)) => {
            let (mut head, body) = response.into_parts();
            strip_hop_by_hop(&mut head.headers);
            relay::begin(relay::Task { desk, seat, sender }, head, body)
        }
        Err(problem) => refused(&desk, &seat, &problem),
    }
}

async fn forward(
    desk: &Rc<Desk>,
    seat: &Seat,
    request: Request<Incoming>,
) -> Result<(Response<Incoming>, Sender), Problem> {
    let mut request = rewrite(desk, request)?;
    if let Some(sender) = desk.take() {
        match attempt(seat, sender, request).await? {
            Attempt::Answered(answered) => return Ok(*answered),
            Attempt::Unsent(unsent) => request = *unsent,
        }
    }
    seat.begin_phase(CONNECT_MS);
    let sender = match seat.race(Box::pin(connector::connect_for(&desk.gateway.place))).await {
        Ok(Ok(sender)) => sender,
        Ok(Err(error)) => {
            tracing::warn!("gateway cannot be reached: {error}");
            return Err(Problem::Unreachable);
        }
        Err(end) => return Err(ended(end, "connect")),
    };
    match attempt(seat, sender, request).await? {
        Attempt::Answered(answered) => Ok(*answered),
        Attempt::Unsent(_) => Err(Problem::Broken),
    }
}

enum Attempt {
    Answered(Box<(Response<Incoming>, Sender)>),
    /// The connection took nothing of the request.
    Unsent(Box<Request<Incoming>>),
}

async fn attempt(seat: &Seat, mut sender: Sender, request: Request<Incoming>) -> Result<Attempt, Problem> {
    seat.begin_phase(FIRST_BYTE_MS);
    match seat.race(sender.try_send_request(request)).await {
        Ok(Ok(response)) if response.status().is_informational() => Err(Problem::Broken),
        Ok(Ok(response)) => Ok(Attempt::Answered(Box::new((response, sender)))),
        Ok(Err(mut failure)) => match failure.take_message() {
            Some(unsent) => Ok(Attempt::Unsent(Box::new(unsent))),
            None => Err(Problem::Broken),
        },
        Err(end) => Err(ended(end, "answer")),
    }
}

/// The client's request as the gateway gets it: same method, path, query and body.
fn rewrite(desk: &Desk, request: Request<Incoming>) -> Result<Request<Incoming>, Problem> {
    let (mut head, body) = request.into_parts();
    let path = head.uri.path_and_query().map_or("/", |path| path.as_str());
    head.uri = Uri::try_from(format!("{}{path}", desk.gateway.prefix)).map_err(|_| Problem::Target)?;
    head.version = http::Version::HTTP_11;
    strip_hop_by_hop(&mut head.headers);
    for name in CREDENTIALS {
        head.headers.remove(name);
    }
    head.headers.insert(HOST, desk.gateway.host_header.clone());
    head.headers.insert(AUTHORIZATION, desk.bearer().ok_or(Problem::NoToken)?);
    head.extensions.clear();
    Ok(Request::from_parts(head, body))
}

fn strip_hop_by_hop(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| HeaderName::try_from(name.trim()).ok())
        .collect();
    for name in named {
        headers.remove(name);
    }
    for name in HOP_BY_HOP {
        headers.remove(name);
    }
}

fn ended(end: End, what: &'static str) -> Problem {
    match end {
        End::Due | End::Overdue => Problem::Late(what),
        End::Revoked | End::Suspended | End::Stopping => Problem::Stopping,
    }
}

fn refused(desk: &Desk, seat: &Seat, problem: &Problem) -> Response<Passing> {
    let id = desk.next_id();
    seat.leave_request();
    let (status, kind, message) = match problem {
        Problem::Head(violation) => {
            let refusal = refuse::Refusal::Head(*violation);
            return refuse::answer(&refusal, id).map(Passing::fixed);
        }
        Problem::NoToken => {
            (StatusCode::BAD_GATEWAY, kinds::API, "the sidecar has no token yet; try again".to_owned())
        }
        Problem::Target => {
            (StatusCode::BAD_REQUEST, kinds::INVALID_REQUEST, "path cannot be forwarded".to_owned())
        }
        Problem::Unreachable => {
            (StatusCode::BAD_GATEWAY, kinds::API, "the gateway cannot be reached".to_owned())
        }
        Problem::Broken => (
            StatusCode::BAD_GATEWAY,
            kinds::API,
            "the connection to the gateway broke before it answered".to_owned(),
        ),
        Problem::Late(what) => {
            (StatusCode::GATEWAY_TIMEOUT, kinds::TIMEOUT, format!("the gateway did not {what} in time"))
        }
        Problem::Stopping => {
            (StatusCode::SERVICE_UNAVAILABLE, kinds::API, "the sidecar is stopping; try again".to_owned())
        }
    };
    tracing::warn!(http.status = status.as_u16(), request.id = %id, "request {id} was not forwarded: {message}");
    let mut response = Response::new(Passing::fixed(Bytes::from(error::body(kind, &message, id.as_str()))));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if let Ok(id) = HeaderValue::from_str(id.as_str()) {
        response.headers_mut().insert(X_REQUEST_ID, id);
    }
    response
}
