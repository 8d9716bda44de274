//! Stages 10 and 11: the answer passes through, byte for byte and no faster than the client reads it, and
//! whatever its ending, the request is settled once.
//!
//! The counts in it are observed on the way. A stream that must end early ends with an error event; any
//! other answer is cut, so that no client takes a part for the whole.

use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use la_dialects::anthropic::usage::{Observed, Observer};

use crate::config::live::{AccountEntry, ProviderEntry};
use crate::http1::body::Framing;
use crate::http1::write::{field, status_line};
use crate::listener::client::Client;
use crate::listener::passing::{self, Stop};
use crate::listener::seat::{End, Seat};
use crate::listener::worker::Worker;
use crate::observe::line::Line;
use crate::observe::metrics::{Failure, Kind};
use crate::observe::settlement::Outcome;
use crate::refuse::{self, Ending};

use super::admit::{Admitted, Ended};
use super::disclose;
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
    account: Arc<AccountEntry>,
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
    /// The account that serves it.
    pub(super) account: Arc<AccountEntry>,
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
            relay.accounts.settle(Outcome::ClientGone);
            client.cut();
        }
    }
}

/// Writes the client's head; says whether it announces a stream of events.
fn write_head(client: &mut Client, answered: &Answered, admitted: &Admitted, line: &Line) -> bool {
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
    disclose::write(out, &admitted.standings);
    client.end_head(answered.head.framing);
    is_stream
}

impl Relay {
    fn new(task: Task, answered: Answered, line: Line, client: &mut Client) -> Self {
        let Task { worker, provider, account, admitted } = task;
        let status = answered.head.status;
        let is_stream = write_head(client, &answered, &admitted, &line) && status == 200;
        let observer = (line.kind == Kind::Messages && status == 200).then(|| {
            if is_stream { Observer::for_stream() } else { Observer::for_json(MAX_JSON_PART_BYTES) }
        });
        worker.metrics.open_streams.inc();
        client.seat().begin_phase(provider.timeouts.idle_ms);
        let seat = Rc::clone(client.seat());
        let is_settled = false;
        let accounts =
            Accounts { worker, seat, provider, account, admitted, line, status, observer, is_settled };
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
                accounts.settle(Outcome::Complete);
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
            Ending::Reset => Outcome::BrokenOff,
            Ending::Ended(End::Due) => Outcome::Stalled,
            Ending::Ended(End::Overdue) => Outcome::Overdue,
            Ending::Ended(End::Revoked) => Outcome::Revoked,
            Ending::Ended(End::Suspended) => Outcome::Suspended,
            Ending::Ended(End::Stopping) => Outcome::Stopped,
            Ending::Ended(End::Gone) => Outcome::ClientGone,
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
    match (status, seen) {
        // 529 is the vendor's own for "no capacity".
        (400..=499 | 503 | 529, _) => Outcome::Refused,
        (500.., _) => Outcome::Failed,
        (_, Some(seen)) if outcome == Outcome::Complete && seen.error.is_some() => Outcome::ErrorEvent,
        (_, Some(seen)) if outcome == Outcome::Complete && !seen.complete => Outcome::Truncated,
        _ => outcome,
    }
}
