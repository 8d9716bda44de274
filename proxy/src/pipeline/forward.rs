//! Stage 9: the request goes out, once, and the head of the vendor's answer comes in.
//!
//! The only thing ever tried twice is a request of which a kept connection provably took nothing.

use std::rc::Rc;

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, TRANSFER_ENCODING};
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;

use crate::config::live::ProviderEntry;
use crate::listener::seat::{End, Seat};
use crate::listener::worker::Worker;
use crate::observe::metrics::Failure;
use crate::refuse::{self, Refusal};
use crate::upstream::{self, Sender};

use super::admit::Admitted;

/// The head of an answer, and the connection that the rest of it comes over.
pub(super) struct Answered {
    /// The vendor's answer.
    pub(super) response: Response<Incoming>,
    /// To be kept once the answer has ended cleanly.
    pub(super) sender: Sender,
}

/// Who sends, and to whom.
#[derive(Clone, Copy)]
pub(super) struct Way<'a> {
    /// The thread.
    pub(super) worker: &'a Rc<Worker>,
    /// The client's connection.
    pub(super) seat: &'a Seat,
    /// The vendor.
    pub(super) provider: &'a ProviderEntry,
}

/// Sends the request and waits for the head of the answer.
pub(super) async fn send(
    way: Way<'_>,
    admitted: &mut Admitted,
    mut request: Request<Full<Bytes>>,
) -> Result<Answered, Refusal> {
    way.seat.limit_request(way.provider.timeouts.total_ms);
    if let Some(sender) = way.worker.pool.take(&way.provider.endpoint.place) {
        match attempt(way, admitted, sender, request).await? {
            Attempt::Answered(answered) => return judge(way, answered),
            Attempt::Unsent(unsent) => request = *unsent,
        }
    }
    let sender = connect(way).await?;
    match attempt(way, admitted, sender, request).await? {
        Attempt::Answered(answered) => judge(way, answered),
        Attempt::Unsent(_) => Err(broken(way)),
    }
}

enum Attempt {
    Answered(Answered),
    /// The connection took nothing of the request.
    Unsent(Box<Request<Full<Bytes>>>),
}

async fn connect(way: Way<'_>) -> Result<Sender, Refusal> {
    let Way { worker, seat, provider } = way;
    seat.begin_phase(provider.timeouts.connect_ms);
    // Boxed: it is rare, and large enough to weigh on every request otherwise.
    let connecting = Box::pin(upstream::connect(&provider.endpoint.place));
    match seat.race(connecting).await {
        Ok(Ok(sender)) => {
            worker.metrics.upstream_connections.inc();
            Ok(sender)
        }
        Ok(Err(e)) => {
            tracing::warn!(provider.name = %provider.name, "provider {} cannot be reached: {e}", provider.name);
            worker.metrics.failure(Failure::Connect);
            Err(Refusal::Unreachable { provider: provider.name.to_string() })
        }
        Err(end) => Err(ended(way, end, "connect")),
    }
}

async fn attempt(
    way: Way<'_>,
    admitted: &mut Admitted,
    mut sender: Sender,
    request: Request<Full<Bytes>>,
) -> Result<Attempt, Refusal> {
    way.seat.begin_phase(way.provider.timeouts.first_byte_ms);
    admitted.set_sent(true);
    match way.seat.race(sender.try_send_request(request)).await {
        Ok(Ok(response)) => Ok(Attempt::Answered(Answered { response, sender })),
        Ok(Err(mut failure)) => match failure.take_message() {
            Some(unsent) => {
                admitted.set_sent(false);
                Ok(Attempt::Unsent(Box::new(unsent)))
            }
            None => Err(broken(way)),
        },
        Err(end) => Err(ended(way, end, "answer")),
    }
}

/// Refuses answers that only whoever holds the credential should follow.
fn judge(way: Way<'_>, answered: Answered) -> Result<Answered, Refusal> {
    let status = answered.response.status();
    if status.is_informational() || status.is_redirection() {
        way.worker.metrics.failure(Failure::Answer);
        let provider = way.provider.name.to_string();
        return Err(Refusal::Answer { provider, status: status.as_u16() });
    }
    let headers = answered.response.headers();
    if headers.contains_key(TRANSFER_ENCODING) && headers.contains_key(CONTENT_LENGTH) {
        // Two ends for one answer: somebody on the way would take the wrong one (RFC 9112 §6.3).
        way.worker.metrics.failure(Failure::Answer);
        return Err(Refusal::Ambiguous { provider: way.provider.name.to_string() });
    }
    if status == StatusCode::UNAUTHORIZED {
        way.worker.metrics.failure(Failure::Unauthorized);
    }
    Ok(answered)
}

fn broken(way: Way<'_>) -> Refusal {
    way.worker.metrics.failure(Failure::Send);
    Refusal::Broken { provider: way.provider.name.to_string() }
}

fn ended(way: Way<'_>, end: End, what: &'static str) -> Refusal {
    if matches!(end, End::Due | End::Overdue) {
        way.worker.metrics.failure(Failure::Timeout);
    }
    refuse::ended(end, &way.provider.name, what)
}
