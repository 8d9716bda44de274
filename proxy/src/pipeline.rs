//! The life of a request: stages in a fixed order, each taking what the one before gives.
//!
//! Guarantees: nothing goes upstream before a good token, a route and a reservation; every reservation is
//! settled or released exactly once; every request is counted exactly once.

use std::rc::Rc;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Response};
use la_dialects::anthropic::usage::Observed;

pub mod authenticate;
pub mod covers;

mod admit;
mod choose;
mod disclose;
mod forward;
mod measure;
mod queue;
mod read;
mod relay;
mod resolve;
mod settle;
mod substitute;

use admit::{Covered, Ended};
use forward::{Outgoing, Way};
use read::Content;

use crate::clock;
use crate::http1::request::RequestHead;
use crate::http1::violation::Violation;
use crate::listener::client::Client;
use crate::listener::worker::Worker;
use crate::observe::line::Line;
use crate::refuse::{self, Refusal, X_REQUEST_ID};
use crate::surface::{self, Operation};

/// Answers one request.
pub(crate) async fn handle(worker: &Rc<Worker>, client: &mut Client, head: Result<RequestHead, Violation>) {
    let mut line = Line::begin(worker);
    let served = match head {
        Ok(head) => {
            let served = serve(worker, client, &head, &mut line).await;
            client.recycle(head);
            served
        }
        Err(violation) => Err(Refusal::Head(violation)),
    };
    match served {
        Ok(Served::Local) => local(client, line),
        Ok(Served::Upstream(task, answered)) => relay::run(task, answered, line, client).await,
        Err(Refusal::Gone) => client.cut(),
        Err(refusal) => refused(worker, client, &refusal, line),
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
    client: &mut Client,
    head: &RequestHead,
    line: &mut Line,
) -> Result<Served, Refusal> {
    let found = surface::of(head)?;
    line.kind = surface::kind(found.operation);
    if found.operation.is_local() {
        return Ok(Served::Local);
    }
    let caller = authenticate::caller(worker.live.load(), &worker.memo, head, clock::unix_seconds())?;
    line.token(&caller.token);
    client.seat().depend_on(&caller.token, &caller.live);
    let (token, covering) = (&*caller.token, caller.token.covering());
    let cover = worker.covers.of(&caller.token);
    let covered = Covered { token, covering: &covering, cover: &cover };
    let content = match found.operation {
        Operation::Messages => {
            // What is here already costs nothing to read, and is judged as a whole soon.
            if !client.body_is_read() {
                authenticate::not_exhausted(worker, covered)?;
            }
            read::content(worker, client, head, &token.limits).await?
        }
        Operation::CountTokens => read::content(worker, client, head, &token.limits).await?,
        _ => Content::none(worker),
    };
    let model = content.model(head);
    line.model(model);
    let provider = resolve::provider(&caller.live, &found, model)?;
    let measured = match found.operation {
        Operation::Messages => {
            let asked = content.message(head, &token.limits)?;
            Some(measure::message(&covering, &provider.prices, &asked)?)
        }
        _ => None,
    };
    let mut admitted = admit::request(worker, client, covered, measured).await?;
    let chosen = choose::account(&provider, clock::unix_seconds())?;
    line.account(&chosen.account);
    let body = content.bytes(head);
    let mut outgoing = worker.buffers.take();
    substitute::head(&mut outgoing, &found, (&provider.endpoint, &chosen.proof), head, body.len());
    let way = Way { worker, provider: &provider };
    let answered = forward::send(way, client, &mut admitted, Outgoing { head: &outgoing, body }).await;
    worker.buffers.give(outgoing);
    let answered = answered.inspect_err(|refusal| {
        let (outcome, seen) = (settle::outcome_of(refusal), &Observed::default());
        let status = refuse::status(refusal).as_u16();
        let (account, prices) = (&chosen.account, &provider.prices);
        let ended = Ended { outcome, status, seen, account, prices, line };
        let settlement = admitted.settle(&ended);
        line.unanswered(settlement);
    })?;
    if answered.head.status == 401 {
        worker.live.mark_unauthorized(&chosen.account);
    }
    let task = relay::Task { worker: Rc::clone(worker), provider, account: chosen.account, admitted };
    Ok(Served::Upstream(task, answered))
}

fn local(client: &mut Client, mut line: Line) {
    let mut response = Response::new(Bytes::from_static(b"ok"));
    if let Ok(id) = HeaderValue::from_str(line.id.as_str()) {
        response.headers_mut().insert(X_REQUEST_ID, id);
    }
    line.conclude(200, "complete", None);
    client.seat().leave_request();
    client.answer(&response);
}

fn refused(worker: &Worker, client: &mut Client, refusal: &Refusal, mut line: Line) {
    let mut response = refuse::answer(refusal, line.id);
    if let Refusal::Limited(limited) = refusal {
        for (name, value) in disclose::fields(&limited.standings) {
            if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(&name), HeaderValue::from_bytes(&value)) {
                response.headers_mut().append(name, value);
            }
        }
    }
    let reason = refuse::reason(refusal);
    worker.metrics.refusal(reason);
    line.conclude(response.status().as_u16(), reason.label(), None);
    client.seat().leave_request();
    client.answer(&response);
}
