//! Stages 10 and 11: the answer passes through, byte for byte and no faster than the client reads it, and
//! whatever its ending, the request is settled once.
//!
//! The counts in it are observed on the way. A stream that must end early ends with an error event; any
//! other answer is cut, so that no client takes a part for the whole.

use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use la_core::account::health::{self, Event};
use la_dialects::anthropic::usage::{Observed, Observer};

use crate::accounts::Slot;
use crate::config::live::{AccountEntry, ProviderEntry};
use crate::http1::body::Framing;
use crate::http1::write::{field, status_line};
use crate::listener::client::Client;
use crate::listener::passing::{self, Stop};
use crate::listener::seat::{End, Seat};
use crate::listener::worker::Worker;
use crate::observe;
use crate::observe::line::Line;
use crate::observe::metrics::{Failure, Kind};
use crate::observe::settlement::Outcome;
use crate::refuse::{self, Ending};

use super::admit::{Admitted, Ended};
use super::answer::{Answered, ContentKind};
use super::settle;

/// Most bytes kept of one member of a JSON answer while looking for its counts.
const MAX_JSON_PART_BYTES: usize = 32 * 1024;

/// An answer on its way.
struct Relay {
    accounts: Accounts,
    answered: Answered,
    is_stream: bool,
}

/// What is written down when an answer ends, once, even when its client's connection is dropped.
struct Accounts {
    worker: Rc<Worker>,
    seat: Rc<Seat>,
    provider: Arc<ProviderEntry>,
    account: Arc<AccountEntry>,
    /// The request's place among those of its account, until it is settled.
    slot: Option<Slot>,
    admitted: Box<Admitted>,
    line: Line,
    status: u16,
    observer: Option<Observer>,
    is_settled: bool,
}

/// What a relay needs besides the answer.
pub(super) struct Task {
    /// The thread.
    pub(super) worker: Rc<Worker>,
    /// The vendor.
    pub(super) provider: Arc<ProviderEntry>,
    /// The account that serves it.
    pub(super) account: Arc<AccountEntry>,
    /// The request's place among those of the account.
    pub(super) slot: Slot,
    /// What is to be settled.
    pub(super) admitted: Box<Admitted>,
}

/// Passes the vendor's answer on to its end.
pub(super) async fn run(task: Task, answered: Answered, line: Line, client: &mut Client) {
    let mut relay = Relay::new(task, answered, line, client);
    match std::future::poll_fn(|context| relay.poll(client, context)).await {
        Ok(()) => {
            let Relay { accounts, answered, .. } = relay;
            accounts.worker.pool.put(&accounts.provider.endpoint.place, answered.connection);
        }
        // The connection is dropped, which cancels the request at the vendor.
        Err(Stop::BrokenOff) => relay.break_off(client, Ending::Reset).await,
        Err(Stop::Ended(end)) => relay.break_off(client, Ending::Ended(end)).await,
        Err(Stop::ClientGone) => {
            relay.accounts.settle(Outcome::ClientGone);
            client.cut();
        }
    }
}

/// Writes the client's head, unless a comment was written before it.
fn write_head(client: &mut Client, answered: &Answered, admitted: &Admitted, line: &Line) {
    if client.has_begun() {
        return;
    }
    if answered.kind != ContentKind::Events {
        client.stop_pulse();
    }
    let out = client.begin_head();
    status_line(out, answered.status);
    out.extend_from_slice(&answered.fields);
    field(out, b"x-request-id", line.id.as_str().as_bytes());
    admitted.told.write(out);
    client.end_head(answered.framing);
}

/// The fields of a head that is sent before the vendor's is there, to a client that waits for a stream.
pub(super) fn fields_before_answer(admitted: &Admitted, line: &Line) -> Vec<u8> {
    let mut out = b"content-type: text/event-stream\r\ncache-control: no-cache\r\n".to_vec();
    field(&mut out, b"x-request-id", line.id.as_str().as_bytes());
    admitted.told.write(&mut out);
    out
}

impl Relay {
    fn new(task: Task, mut answered: Answered, line: Line, client: &mut Client) -> Self {
        let Task { worker, provider, account, slot, admitted } = task;
        let status = answered.status;
        write_head(client, &answered, &admitted, &line);
        worker.buffers.give(std::mem::take(&mut answered.fields));
        let is_stream = answered.kind == ContentKind::Events && status == 200;
        let observer = (line.kind == Kind::Messages && status == 200).then(|| {
            if is_stream { Observer::for_stream() } else { Observer::for_json(MAX_JSON_PART_BYTES) }
        });
        worker.metrics.open_streams.inc();
        client.seat().begin_phase(provider.timeouts.idle_ms);
        let seat = Rc::clone(client.seat());
        let (is_settled, slot) = (false, Some(slot));
        let accounts =
            Accounts { worker, seat, provider, account, slot, admitted, line, status, observer, is_settled };
        Self { accounts, answered, is_stream }
    }

    /// Passes on what was held, then what comes, to its end.
    fn poll(&mut self, client: &mut Client, context: &mut Context<'_>) -> Poll<Result<(), Stop>> {
        let Self { accounts, answered, .. } = self;
        loop {
            let held = std::mem::take(&mut answered.held);
            if held.is_empty() && !std::mem::take(&mut answered.has_part) {
                ready!(passing::poll_part(client, &mut answered.connection, context))?;
            }
            let connection = &answered.connection;
            let part = if held.is_empty() { connection.part() } else { &held };
            let ends = connection.is_ended() && !answered.has_part;
            accounts.observe(part);
            if ends && !accounts.is_whole(answered.framing) {
                return Poll::Ready(Err(Stop::BrokenOff));
            }
            if ends {
                // Before the client can see the end, so that whoever asks then is told of it.
                accounts.settle(Outcome::Complete);
            }
            let sent = client.send(context, part, ends);
            accounts.worker.buffers.give(held);
            if ends {
                return Poll::Ready(Ok(()));
            }
            sent.map_err(|_| Stop::ClientGone)?;
        }
    }

    /// Ends the answer before its end.
    async fn break_off(mut self, client: &mut Client, ending: Ending) {
        let outcome = match ending {
            Ending::Reset => Outcome::BrokenOff,
            Ending::Ended(End::Due) => Outcome::Stalled,
            Ending::Ended(End::Overdue) => Outcome::Overdue,
            Ending::Ended(End::Revoked) => Outcome::Revoked,
            Ending::Ended(End::Suspended) => Outcome::Suspended,
            Ending::Ended(End::Stopping) => Outcome::Stopped,
            Ending::Ended(End::Gone) => Outcome::ClientGone,
        };
        match ending {
            Ending::Reset => self.accounts.failed(Failure::Reset),
            Ending::Ended(End::Due) => self.accounts.failed(Failure::Stall),
            Ending::Ended(_) => {}
        }
        self.accounts.settle(outcome);
        let event = self.is_stream.then(|| refuse::event(ending, self.accounts.line.id));
        client.break_off(event.as_deref()).await;
    }
}

impl Accounts {
    fn observe(&mut self, part: &[u8]) {
        if let Some(observer) = &mut self.observer {
            observer.feed(part);
        }
        self.seat.begin_phase(self.provider.timeouts.idle_ms);
    }

    /// The vendor has failed in the middle of its answer.
    fn failed(&self, failure: Failure) {
        self.worker.metrics.failure(failure);
        let model = self.line.asked_model().unwrap_or_default();
        let event = Event { model, outcome: health::Outcome::NoAnswer };
        observe::health::learn(&self.worker.metrics, &self.account, &event, &self.provider.health);
    }

    /// Whether an answer that seems to have ended has. When only the end of the connection says so, its
    /// text must say it too.
    fn is_whole(&self, framing: Framing) -> bool {
        framing != Framing::UntilClose
            || self.observer.as_ref().is_none_or(|observer| {
                let seen = observer.so_far();
                seen.complete || seen.error.is_some()
            })
    }

    /// Settles everything. Whatever comes first decides; later calls change nothing.
    fn settle(&mut self, outcome: Outcome) {
        if std::mem::replace(&mut self.is_settled, true) {
            return;
        }
        let seen = &self.observer.take().map(Observer::finish);
        let outcome = outcome_of(self.status, outcome, seen.as_ref());
        let unseen = Observed::default();
        let settlement = self.admitted.settle(&Ended {
            outcome,
            status: self.status,
            seen: seen.as_ref().unwrap_or(&unseen),
            account: &self.account,
            prices: &self.provider.prices,
            line: &self.line,
        });
        self.line.conclude(self.status, outcome.label(), settlement.as_ref());
        self.worker.metrics.open_streams.dec();
        self.slot.take();
        self.seat.leave_request();
    }
}

impl Drop for Accounts {
    fn drop(&mut self) {
        self.settle(Outcome::ClientGone);
    }
}

/// How an answer ended, by its status and what was seen in it.
fn outcome_of(status: u16, outcome: Outcome, seen: Option<&Observed>) -> Outcome {
    match (settle::outcome_of_status(status), seen) {
        (Some(error), _) => error,
        (None, Some(seen)) if outcome == Outcome::Complete && seen.error.is_some() => Outcome::ErrorEvent,
        (None, Some(seen)) if outcome == Outcome::Complete && !seen.complete => Outcome::Truncated,
        _ => outcome,
    }
}
