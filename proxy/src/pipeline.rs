//! The life of a request: stages in a fixed order, each taking what the one before gives.
//!
//! Guarantees: nothing goes upstream before a good token, a route and a reservation; every reservation is
//! settled or released exactly once; every request is counted exactly once.

use std::rc::Rc;

use bytes::Bytes;
use http::{HeaderValue, Request, Response};
use hyper::body::Incoming;

pub mod answer;
pub mod authenticate;

mod admit;
mod choose;
mod forward;
mod read;
mod relay;
mod resolve;
mod substitute;

use answer::Answer;
use forward::Way;
use read::Content;

use crate::clock;
use crate::listener::seat::Seat;
use crate::listener::worker::Worker;
use crate::observe::line::Line;
use crate::refuse::{self, Refusal, X_REQUEST_ID};
use crate::surface::{self, Operation};

/// Answers one request.
pub async fn handle(worker: Rc<Worker>, seat: Rc<Seat>, request: Request<Incoming>) -> Response<Answer> {
    let mut line = Line::begin(&worker);
    let served = match seat.next_request() {
        Some(violation) => Err(Refusal::Head(violation)),
        None => serve(&worker, &seat, request, &mut line).await,
    };
    match served {
        Ok(Served::Local) => local(&seat, line),
        Ok(Served::Upstream(task, answered)) => relay::begin(task, answered, line).map(Answer::relayed),
        Err(refusal) => refused(&worker, &seat, &refusal, line),
    }
}

#[expect(
    clippy::large_enum_variant,
    reason = "it is moved twice on one stack; a box would cost every request"
)]
enum Served {
    Local,
    Upstream(relay::Task, forward::Answered),
}

async fn serve(
    worker: &Rc<Worker>,
    seat: &Rc<Seat>,
    request: Request<Incoming>,
    line: &mut Line,
) -> Result<Served, Refusal> {
    let (head, body) = request.into_parts();
    let found = surface::of(&head)?;
    line.kind = surface::kind(found.operation);
    if found.operation.is_local() {
        return Ok(Served::Local);
    }
    let caller =
        authenticate::caller(worker.live.load(), &worker.memo, &head.headers, clock::unix_seconds())?;
    line.token(&caller.token);
    seat.depend_on(&caller.token, &caller.live);
    let content = match found.operation {
        Operation::Messages => {
            authenticate::not_exhausted(&caller, &worker.ledger)?;
            read::content(worker, seat, &head.headers, body).await?
        }
        Operation::CountTokens => read::content(worker, seat, &head.headers, body).await?,
        _ => Content::none(worker),
    };
    line.model(content.model());
    let provider = resolve::provider(&caller.live, &found, &content)?;
    let mut admitted = admit::request(&worker.ledger, found.operation, &caller).await?;
    let chosen = choose::account(&provider, caller.now)?;
    line.account(&chosen.account);
    let Content { bytes, share, .. } = content;
    let outgoing = substitute::request(&found, &provider.endpoint, &chosen.proof, &head.headers, bytes)?;
    let way = Way { worker, seat, provider: &provider };
    let answered = forward::send(way, &mut admitted, outgoing).await?;
    drop(share);
    if answered.response.status() == http::StatusCode::UNAUTHORIZED {
        worker.live.mark_unauthorized(&chosen.account);
    }
    let task = relay::Task { worker: Rc::clone(worker), seat: Rc::clone(seat), provider, admitted };
    Ok(Served::Upstream(task, answered))
}

fn local(seat: &Seat, mut line: Line) -> Response<Answer> {
    let mut response = Response::new(Answer::fixed(Bytes::from_static(b"ok")));
    if let Ok(id) = HeaderValue::from_str(line.id.as_str()) {
        response.headers_mut().insert(X_REQUEST_ID, id);
    }
    line.conclude(200, "complete", None);
    seat.leave_request();
    response
}

fn refused(worker: &Worker, seat: &Seat, refusal: &Refusal, mut line: Line) -> Response<Answer> {
    let response = refuse::answer(refusal, line.id);
    let reason = refuse::reason(refusal);
    worker.metrics.refusal(reason);
    line.conclude(response.status().as_u16(), reason.label(), None);
    seat.leave_request();
    response.map(Answer::fixed)
}
