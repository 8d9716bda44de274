//! The life of a request: stages in a fixed order, each taking what the one before gives.
//!
//! Guarantees: nothing goes upstream before a good token, a route and a reservation; every reservation is
//! settled or released exactly once; every request is counted exactly once.

use std::rc::Rc;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Response};
use la_dialects::anthropic::usage::Observed;

pub mod authenticate;
pub mod callers;

mod admit;
mod answer;
mod choose;
pub mod disclose;
mod exchange;
mod forward;
mod measure;
mod queue;
mod read;
mod relay;
mod renewal;
mod resolve;
mod settle;
mod substitute;

use admit::{Admitted, Covered, Ended};
use answer::Answered;
use forward::{Forwarded, Job};
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
        Err(refusal) => refused(worker, client, &refusal, line).await,
    }
}

enum Served {
    Local,
    Upstream(relay::Task, Answered),
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
    let known = worker.callers.of(&caller.token);
    let covered = Covered { caller: &known, covering: &covering };
    let body = match found.operation {
        Operation::Messages => {
            // What is here already costs nothing to read, and is judged as a whole soon.
            if !client.body_is_read() {
                authenticate::not_exhausted(worker, covered)?;
            }
            Some(read::body(worker, client, head, &token.limits).await?)
        }
        Operation::CountTokens => Some(read::body(worker, client, head, &token.limits).await?),
        _ => None,
    };
    let weighs = found.operation == Operation::Messages && measure::weighs(&covering);
    let content = body.as_ref().map_or(Ok(Content::NONE), |body| body.content(head, weighs))?;
    let model = content.model();
    line.model(model);
    let way = resolve::way(&caller.live, token, &found, model)?;
    let measured = match found.operation {
        Operation::Messages => {
            let asked = content.message(&token.limits)?;
            Some(measure::dearest(&covering, way, &asked)?)
        }
        _ => None,
    };
    let admitted = admit::request(worker, client, covered, measured).await?;
    let job = Job { worker, covered, way, found: &found, head, content: &content };
    forward(job, client, admitted, line).await
}

/// Has it answered upstream; without an answer that can be passed on, settles it.
async fn forward(
    job: Job<'_>,
    client: &mut Client,
    mut admitted: Box<Admitted>,
    line: &mut Line,
) -> Result<Served, Refusal> {
    if let Some(every_ms) = job.keep_alive_ms() {
        client.keep_alive(every_ms, relay::fields_before_answer(&admitted, line));
    }
    let answered = forward::answer(job, client, &mut admitted, line).await;
    match answered.and_then(|forwarded| forwarded.in_time_for(client)) {
        Ok(Forwarded { answered, provider, account, slot }) => {
            let worker = Rc::clone(job.worker);
            Ok(Served::Upstream(relay::Task { worker, provider, account, slot, admitted }, answered))
        }
        Err(refusal) => {
            let (outcome, seen) = (settle::outcome_of(&refusal), &Observed::default());
            let status = refuse::status(&refusal).as_u16();
            if let Some((account, prices)) = line.account().cloned().zip(job.prices()) {
                let ended = Ended { outcome, status, seen, account: &account, prices, line };
                let settlement = admitted.settle(&ended);
                line.unanswered(settlement);
            }
            Err(refusal)
        }
    }
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

async fn refused(worker: &Worker, client: &mut Client, refusal: &Refusal, mut line: Line) {
    if client.has_begun() {
        return refused_late(worker, client, refusal, line).await;
    }
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

/// Refuses a request whose client has the head of a stream already.
async fn refused_late(worker: &Worker, client: &mut Client, refusal: &Refusal, mut line: Line) {
    let reason = refuse::reason(refusal);
    worker.metrics.refusal(reason);
    line.conclude(200, reason.label(), None);
    client.seat().leave_request();
    client.break_off(Some(&refuse::late(refusal, line.id))).await;
}
