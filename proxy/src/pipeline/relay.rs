//! Stages 10 and 11: the answer passes through, byte for byte and no faster than the client reads it, and
//! whatever its ending, the request is settled once.
//!
//! The counts in it are observed on the way. A stream that must end early ends with an error event; any
//! other answer is cut, so that no client takes a part for the whole.

use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use la_dialects::anthropic::usage::Observer;

use crate::config::live::ProviderEntry;
use crate::http1::body::Framing;
use crate::http1::write::{field, status_line};
use crate::listener::client::Client;
use crate::listener::passing::{self, Stop};
use crate::listener::seat::{End, Seat};
use crate::listener::worker::Worker;
use crate::observe::line::Line;
use crate::observe::metrics::{Failure, Kind};
use crate::refuse::{self, Ending};

use super::admit::Admitted;
use super::forward::Answered;

/// Most bytes kept of one member of a JSON answer while looking for its counts.
const MAX_JSON_PART_BYTES: usize = 32 * 1024;

/// What may be seen of the vendor's head. Not its cookies, organisation or quotas: those are the owner's.
const ANSWER_FIELDS: [&[u8]; 7] = [
    b"content-type",
    b"content-encoding",
    b"cache-control",
    b"retry-after",
    b"x-should-retry",
    b"request-id",
    b"retry-after-ms",
];

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
    admitted: Admitted,
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
    /// What is to be settled.
    pub(super) admitted: Admitted,
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
            relay.accounts.settle("client gone");
            client.cut();
        }
    }
}

/// Writes the client's head; says whether it announces a stream of events.
fn write_head(client: &mut Client, answered: &Answered, line: &Line) -> bool {
    let out = client.begin_head();
    status_line(out, answered.head.status);
    let mut is_stream = false;
    let fields = answered.connection.fields();
    for (at, (name, value)) in fields.clone().enumerate() {
        // Each is a single value; of a repeated one the first counts.
        if ANSWER_FIELDS.contains(&name) && !fields.clone().take(at).any(|(earlier, _)| earlier == name) {
            is_stream |= name == b"content-type" && value.starts_with(b"text/event-stream");
            field(out, name, value);
        }
    }
    field(out, b"x-request-id", line.id.as_str().as_bytes());
    client.end_head(answered.head.framing);
    is_stream
}

impl Relay {
    fn new(task: Task, answered: Answered, line: Line, client: &mut Client) -> Self {
        let Task { worker, provider, admitted } = task;
        let status = answered.head.status;
        let is_stream = write_head(client, &answered, &line) && status == 200;
        let observer = (line.kind == Kind::Messages && status == 200).then(|| {
            if is_stream { Observer::for_stream() } else { Observer::for_json(MAX_JSON_PART_BYTES) }
        });
        worker.metrics.open_streams.inc();
        client.seat().begin_phase(provider.timeouts.idle_ms);
        let seat = Rc::clone(client.seat());
        let accounts =
            Accounts { worker, seat, provider, admitted, line, status, observer, is_settled: false };
        Self { accounts, answered, is_stream }
    }

    /// Passes on what comes, to its end.
    fn poll(&mut self, client: &mut Client, context: &mut Context<'_>) -> Poll<Result<(), Stop>> {
        let Self { accounts, answered, .. } = self;
        let connection = &mut answered.connection;
        loop {
            ready!(passing::poll_part(client, connection, context))?;
            let (part, ends) = (connection.part(), connection.is_ended());
            accounts.observe(part);
            if ends && !accounts.is_whole(answered.head.framing) {
                return Poll::Ready(Err(Stop::BrokenOff));
            }
            if ends {
                // Before the client can see the end, so that whoever asks then is told of it.
                accounts.settle("complete");
            }
            let sent = client.send(context, part, ends);
            if ends {
                return Poll::Ready(Ok(()));
            }
            sent.map_err(|_| Stop::ClientGone)?;
        }
    }

    /// Ends the answer before its end.
    async fn break_off(mut self, client: &mut Client, ending: Ending) {
        let outcome = match ending {
            Ending::Reset => "upstream broke off",
            Ending::Ended(End::Due) => "upstream stalled",
            Ending::Ended(End::Overdue) => "took too long",
            Ending::Ended(End::Revoked) => "token revoked",
            Ending::Ended(End::Suspended) => "token suspended",
            Ending::Ended(End::Stopping) => "router stopped",
            Ending::Ended(End::Gone) => "client gone",
        };
        let metrics = &self.accounts.worker.metrics;
        match ending {
            Ending::Reset => metrics.failure(Failure::Reset),
            Ending::Ended(End::Due) => metrics.failure(Failure::Stall),
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
    fn settle(&mut self, outcome: &str) {
        if std::mem::replace(&mut self.is_settled, true) {
            return;
        }
        let observed = self.observer.take().map(Observer::finish);
        let usage = observed.as_ref().and_then(|observed| observed.usage);
        self.admitted.describe(&self.line.facts(self.status, outcome, observed.as_ref()));
        self.admitted.settle(usage.unwrap_or_default());
        self.line.conclude(self.status, outcome, usage.as_ref());
        self.worker.metrics.open_streams.dec();
        self.seat.leave_request();
    }
}

impl Drop for Accounts {
    fn drop(&mut self) {
        self.settle("client gone");
    }
}
