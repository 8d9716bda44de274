//! Stage 9: the request goes out, and comes back with an answer that may be passed on.
//!
//! While no byte of an answer has reached the client, an attempt that failed for a reason of the vendor or of
//! the account is followed by one with another account; a client's own mistake is not. What an attempt may be
//! billed stays reserved, and the next is reserved beside it. Nothing is held or copied of an answer that is
//! well, and what follows a failure is apart, so that requests that succeed carry nothing of it.

use std::rc::Rc;
use std::sync::Arc;

use la_core::account::AccountId;
use la_core::account::Class;
use la_core::account::health::{self, Event};
use la_core::account::reading::Reading;
use la_core::price;
use la_dialects::anthropic::usage::Observed;
use la_dialects::anthropic::{classify, limits};

use super::admit::{Admitted, Covered};
use super::answer::{Answered, ContentKind, Held};
use super::choose::{self, Chosen, Wish};
use super::exchange::{self, Lost};
use super::measure::{self, Measured};
use super::read::Content;
use super::resolve::Way;
use super::{renewal, settle, substitute};
use crate::accounts::Slot;
use crate::clock;
use crate::config::live::{AccountEntry, ProviderEntry};
use crate::http1::request::RequestHead;
use crate::listener::client::Client;
use crate::listener::worker::Worker;
use crate::observe;
use crate::observe::line::Line;
use crate::observe::metrics::{Failover, Failure};
use crate::observe::settlement::Outcome;
use crate::refuse::Refusal;
use crate::surface::{Found, Operation};

/// A request, and all that it may be sent by.
#[derive(Clone, Copy)]
pub(super) struct Job<'a> {
    pub(super) worker: &'a Rc<Worker>,
    pub(super) covered: Covered<'a>,
    pub(super) way: Way<'a>,
    pub(super) found: &'a Found<'a>,
    pub(super) head: &'a RequestHead,
    pub(super) content: &'a Content<'a>,
}

/// An answer to pass on, and who gave it.
pub(super) struct Forwarded {
    pub(super) answered: Answered,
    pub(super) provider: Arc<ProviderEntry>,
    pub(super) account: Arc<AccountEntry>,
    pub(super) slot: Slot,
}

/// What came of an attempt.
type Came = Result<Answered, Box<Failed>>;

/// An attempt that another may follow.
struct Failed {
    reason: Failover,
    outcome: Outcome,
    seen: Observed,
    /// What the client gets if there is no other.
    last: Last,
}

/// What the client gets of the last attempt.
enum Last {
    Refusal(Refusal),
    Answer(Answered),
    /// An answer that says that a limit is used up.
    Quota(Answered),
    /// A refusal of the credential, which is none of the client's.
    Credential,
}

/// What follows a failed attempt.
enum Next<'a> {
    Attempt(Chosen<'a>),
    Last(Box<Answered>, Chosen<'a>),
}

/// What was tried for one request.
#[derive(Default)]
struct Course {
    attempts: u32,
    tried: Vec<AccountId>,
    /// Whether a new credential was waited for: once is enough.
    has_waited: bool,
}

/// Sends the request until an answer can be passed on.
pub(super) async fn answer(
    job: Job<'_>,
    client: &mut Client,
    admitted: &mut Admitted,
    line: &mut Line,
) -> Result<Forwarded, Refusal> {
    let mut course = Course::default();
    let mut chosen = match choose::account(job.worker, job.wish(), &[]) {
        Some(chosen) if chosen.slot.is_held() => chosen,
        // Boxed: it is rare, and the future of every request would carry it.
        _ => Box::pin(course.choose(job, client)).await?.ok_or_else(|| choose::nobody(job.wish()))?,
    };
    client.seat().limit_request(chosen.stop.provider.timeouts.total_ms);
    if !job.is_first(&chosen) {
        let measured = job.measure(&chosen)?;
        admitted.make_room(job.worker, job.covered, measured).await?;
    }
    loop {
        course.attempts += 1;
        line.attempt(&chosen.account);
        let answered = match attempt(job, client, admitted, &mut chosen).await? {
            Ok(answered) => answered,
            Err(failed) => match Box::pin(course.next(job, client, admitted, (chosen, *failed))).await? {
                Next::Attempt(next) => {
                    chosen = next;
                    continue;
                }
                Next::Last(answered, its) => {
                    chosen = its;
                    *answered
                }
            },
        };
        let Chosen { stop, account, slot, .. } = chosen;
        return Ok(Forwarded { answered, provider: Arc::clone(stop.provider), account, slot });
    }
}

/// Sends it once.
async fn attempt(
    job: Job<'_>,
    client: &mut Client,
    admitted: &mut Admitted,
    chosen: &mut Chosen<'_>,
) -> Result<Came, Refusal> {
    let (worker, provider) = (job.worker, chosen.stop.provider);
    let Some(proof) = chosen.account.proof() else { return Err(choose::nobody(job.wish())) };
    let body = job.content.pieces(chosen.stop.candidate.model.as_ref());
    let length = body.iter().map(|piece| piece.len()).sum();
    let mut head = worker.buffers.take();
    substitute::head(&mut head, job.found, (&provider.endpoint, proof), job.head, length);
    let [before, model, after] = body;
    let exchanged = exchange::run((worker, provider), client, admitted, [&head, before, model, after]).await;
    worker.buffers.give(head);
    let (head, connection) = match exchanged {
        Ok(answered) => answered,
        Err(Lost::Ended(refusal)) => return Err(refusal),
        Err(Lost::Failed(refusal)) => {
            job.note(chosen, health::Outcome::NoAnswer);
            return Ok(Err(Box::new(Failed::without_answer(refusal))));
        }
    };
    let reading = limits::read(connection.fields(), clock::noted_seconds());
    let answered = Answered::new(head, connection, &worker.buffers);
    match answered.status {
        200..=299 if answered.kind == ContentKind::Events && job.content.is_stream() => {
            held(job, client, chosen, (answered, &reading)).await
        }
        200..=299 => Ok(job.served(chosen, answered, &reading)),
        400..=599 => Box::pin(refused(job, client, chosen, (answered, &reading))).await,
        // Only whoever holds the credential should follow it.
        status => {
            worker.metrics.failure(Failure::Answer);
            job.note(chosen, health::Outcome::Refused { status, class: Class::Unknown, reading: &reading });
            Err(Refusal::Answer { provider: provider.name.to_string(), status })
        }
    }
}

/// Holds the start of a stream back until it is known that it is one.
async fn held(
    job: Job<'_>,
    client: &mut Client,
    chosen: &mut Chosen<'_>,
    (mut answered, reading): (Answered, &Reading),
) -> Result<Came, Refusal> {
    let provider = chosen.stop.provider;
    client.seat().begin_phase(provider.timeouts.idle_ms);
    let hold_ms = job.way.route.retry.hold_ms;
    let failed = match answered.hold(client, hold_ms, &job.worker.buffers).await {
        Ok(Held::Begun) => return Ok(job.served(chosen, answered, reading)),
        Ok(Held::Failed(class)) => {
            let status = answered.status;
            job.note(chosen, health::Outcome::Refused { status, class, reading });
            if !class.is_retryable() {
                return Ok(Ok(answered));
            }
            let seen = answered.seen();
            Failed {
                reason: Failover::of(class),
                outcome: Outcome::ErrorEvent,
                seen,
                last: Last::of(class, answered),
            }
        }
        Ok(Held::Broken) => {
            job.note(chosen, health::Outcome::NoAnswer);
            let broken = Refusal::Broken { provider: provider.name.to_string() };
            Failed { seen: answered.seen(), ..Failed::without_answer(broken) }
        }
        Err(end) => match exchange::ended((job.worker, provider), client, end, "answer") {
            Lost::Ended(refusal) => return Err(refusal),
            Lost::Failed(refusal) => {
                job.note(chosen, health::Outcome::NoAnswer);
                Failed { seen: answered.seen(), ..Failed::without_answer(refusal) }
            }
        },
    };
    Ok(Err(Box::new(failed)))
}

/// Reads a refusal and decides whose business it is.
async fn refused(
    job: Job<'_>,
    client: &mut Client,
    chosen: &mut Chosen<'_>,
    (mut answered, reading): (Answered, &Reading),
) -> Result<Came, Refusal> {
    let (provider, status) = (chosen.stop.provider, answered.status);
    client.seat().begin_phase(provider.timeouts.first_byte_ms);
    if let Err(end) = answered.read(client).await
        && let Lost::Ended(refusal) = exchange::ended((job.worker, provider), client, end, "answer")
    {
        return Err(refusal);
    }
    let class = classify::class(status, &answered.held);
    if status == 401 && class == Class::Auth {
        job.worker.metrics.failure(Failure::Unauthorized);
        job.worker.live.mark_unauthorized(&chosen.account);
    } else {
        job.note(chosen, health::Outcome::Refused { status, class, reading });
    }
    if !class.is_retryable() {
        return Ok(Ok(answered));
    }
    let outcome = settle::outcome_of_status(status).unwrap_or(Outcome::Refused);
    let last = if status == 401 { Last::Credential } else { Last::of(class, answered) };
    let failed = Failed { reason: Failover::of(class), outcome, seen: Observed::default(), last };
    Ok(Err(Box::new(failed)))
}

impl Course {
    /// What follows an attempt that failed: another one, or what the client gets.
    async fn next<'a>(
        &mut self,
        job: Job<'a>,
        client: &mut Client,
        admitted: &mut Admitted,
        (failing, failed): (Chosen<'a>, Failed),
    ) -> Result<Next<'a>, Refusal> {
        let Failed { reason, outcome, seen, last } = failed;
        let prices = &failing.stop.provider.prices;
        admitted.end_attempt(outcome, &seen, (prices, Some(failing.stop.model(job.asked()))));
        self.tried.push(failing.account.known.id);
        if self.attempts < job.way.route.retry.attempts {
            let next = self.choose(job, client).await?;
            let Some(next) = next else { return job.end(failing, last, true) };
            if self.has_room(job, admitted, &next).await {
                job.worker.metrics.failover(reason);
                return Ok(Next::Attempt(next));
            }
        }
        job.end(failing, last, false)
    }

    /// Whether another attempt may be made besides those that may be billed.
    async fn has_room(&self, job: Job<'_>, admitted: &mut Admitted, next: &Chosen<'_>) -> bool {
        match job.measure(next) {
            Ok(measured) => admitted.make_room(job.worker, job.covered, measured).await.is_ok(),
            Err(_) => false,
        }
    }

    /// An account that was not tried; if there is none, one that was, with a new credential.
    async fn choose<'a>(&mut self, job: Job<'a>, client: &mut Client) -> Result<Option<Chosen<'a>>, Refusal> {
        if let Some(chosen) = choose::with_place(job.worker, job.wish(), &self.tried).await {
            return Ok(Some(chosen));
        }
        if std::mem::replace(&mut self.has_waited, true) {
            return Ok(None);
        }
        match renewal::wait(job, client).await? {
            Some(chosen) if !chosen.slot.is_held() => {
                self.tried.retain(|tried| *tried != chosen.account.known.id);
                Ok(choose::with_place(job.worker, job.wish(), &self.tried).await)
            }
            renewed => Ok(renewed),
        }
    }
}

impl Forwarded {
    /// Passes the answer on, unless its client has the head of a stream already and this is none.
    pub(super) fn in_time_for(self, client: &Client) -> Result<Self, Refusal> {
        let Answered { status, kind, .. } = self.answered;
        if !client.has_begun() || (status == 200 && kind == ContentKind::Events) {
            return Ok(self);
        }
        Err(Refusal::Vendor { status, body: self.answered.held })
    }
}

impl<'a> Job<'a> {
    /// After how long without a byte the client gets a comment, if it waits for a stream and is to get any.
    pub(super) fn keep_alive_ms(&self) -> Option<u64> {
        self.way.keep_alive_ms().filter(|_| self.content.is_stream())
    }

    /// What models cost where the request goes first.
    pub(super) fn prices(&self) -> Option<&'a price::Book> {
        self.way.stops().next().map(|stop| &stop.provider.prices)
    }

    /// What an account is chosen for.
    pub(super) fn wish(&self) -> Wish<'a> {
        let now = clock::noted_seconds();
        Wish { way: self.way, asked: self.asked(), session: self.content.session.as_deref(), now }
    }

    /// The model that the client asked for.
    pub(super) fn asked(&self) -> &'a str {
        self.found.model.unwrap_or_else(|| self.content.model())
    }

    /// Whether the request was measured for where it goes now.
    fn is_first(&self, chosen: &Chosen<'_>) -> bool {
        self.way.stops().next().is_some_and(|first| std::ptr::eq(first.candidate, chosen.stop.candidate))
    }

    /// Measures it for where it goes now.
    fn measure(&self, chosen: &Chosen<'_>) -> Result<Option<Measured>, Refusal> {
        if self.found.operation != Operation::Messages {
            return Ok(None);
        }
        let asked = self.content.message(&self.covered.caller.token.limits)?;
        measure::at(self.covered.covering, chosen.stop, &asked).map(Some)
    }

    /// The account has answered well.
    fn served(&self, chosen: &mut Chosen<'_>, answered: Answered, reading: &Reading) -> Came {
        if answered.kind == ContentKind::Html {
            // Whoever sends it, it is not the vendor's API.
            let (status, class) = (answered.status, Class::Unknown);
            self.note(chosen, health::Outcome::Refused { status, class, reading });
            return Ok(answered);
        }
        if chosen.was_refused {
            chosen.account.accepted();
        }
        self.note(chosen, health::Outcome::Served(reading));
        if let Some(kept) = chosen.kept.take() {
            kept.served(self.worker, clock::noted_seconds());
        }
        Ok(answered)
    }

    /// Tells the account's health what came.
    fn note(&self, chosen: &mut Chosen<'_>, outcome: health::Outcome<'_>) {
        let Chosen { stop, account, probe, .. } = chosen;
        // Other operations have limits of their own, which say nothing of messages.
        let is_own_limit = matches!(outcome, health::Outcome::Refused { class: Class::Quota, .. });
        if is_own_limit && self.found.operation != Operation::Messages {
            return;
        }
        let event = Event { model: stop.model(self.asked()), outcome };
        observe::health::learn(&self.worker.metrics, account, &event, &stop.provider.health);
        probe.take();
    }

    /// What the client gets of the last attempt; `is_exhausted` when no account was left to try.
    fn end(self, failing: Chosen<'a>, last: Last, is_exhausted: bool) -> Result<Next<'a>, Refusal> {
        match last {
            Last::Refusal(refusal) => Err(refusal),
            Last::Credential => Err(Refusal::Credential {
                provider: failing.account.provider.to_string(),
                account: failing.account.name.to_string(),
            }),
            Last::Quota(answered) => match choose::nobody(self.wish()) {
                Refusal::NoneLeft(left) if is_exhausted && left.is_limit => Err(Refusal::NoneLeft(left)),
                // The vendor's word of a limit says more than why else nobody can serve.
                _ => Ok(Next::Last(Box::new(answered), failing)),
            },
            Last::Answer(answered) => Ok(Next::Last(Box::new(answered), failing)),
        }
    }
}

impl Failed {
    /// No answer came, or none that is one; what may have been sent is billed as far as was seen.
    fn without_answer(refusal: Refusal) -> Self {
        let (reason, outcome) = (Failover::of_refusal(&refusal), settle::outcome_of(&refusal));
        Self { reason, outcome, seen: Observed::default(), last: Last::Refusal(refusal) }
    }
}

impl Last {
    fn of(class: Class, answered: Answered) -> Self {
        if class == Class::Quota { Self::Quota(answered) } else { Self::Answer(answered) }
    }
}
