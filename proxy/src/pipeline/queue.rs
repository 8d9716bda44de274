//! Stage 5b: a request at its caller's limit of concurrency waits for its turn, if its limits let it.
//!
//! It holds nothing but its connection and body while it waits, and is woken by the end of another request of
//! the same caller. Its client's leaving, a revocation and the router's stopping end the wait at once.

use std::rc::Rc;
use std::task::Poll;

use la_core::amount::{Amounts, Unit};
use la_core::budget::{Concurrency, Refused, RefusedBy};

use crate::clock;
use crate::ledger::{Demand, Ledger, Queue, Reservation, ReserveError, Turn};
use crate::listener::client::Client;
use crate::listener::worker::Worker;
use crate::observe::metrics::Metrics;
use crate::refuse::{self, Refusal};

use super::admit::Covered;

/// Why nothing was reserved: what the ledger says, or what ended the wait.
pub(super) enum NotReserved {
    Ledger(ReserveError),
    Ended(Refusal),
}

/// A request that is shown as waiting, until dropped.
struct Queued<'a>(&'a Metrics);

/// Reserves `amounts`, at once or in its turn. Who is admitted keeps the turn until its end.
pub(super) async fn reserve(
    worker: &Worker,
    client: &mut Client,
    covered: Covered<'_>,
    amounts: Amounts,
) -> Result<(Reservation, Option<Turn>), NotReserved> {
    let Covered { covering, caller } = covered;
    let (ledger, demand) = (&*worker.ledger, Demand { covering, amounts, known: Some(&caller.cover) });
    let Some(concurrency) = caller.token.limits.concurrency else {
        return ledger
            .reserve(&demand, clock::unix_milliseconds())
            .await
            .map(|reservation| (reservation, None))
            .map_err(NotReserved::Ledger);
    };
    let queue = ledger.turns().of(&caller.token.subject);
    let at_once = if concurrency.queue.is_zero() {
        Some(ledger.reserve(&demand, clock::unix_milliseconds()).await)
    } else if queue.is_waited_in() {
        None
    } else {
        unless_full(ledger, &demand).await
    };
    let reserved = match at_once {
        Some(reserved) => reserved.map_err(NotReserved::Ledger)?,
        None => {
            // Boxed: it is rare, and the future of every request would carry it.
            let _queued = Queued::begin(&worker.metrics);
            let waited = Box::pin(wait((ledger, &demand), client, &queue, concurrency)).await?;
            let full = || full(covered, concurrency);
            waited.unwrap_or_else(|| Err(full())).map_err(NotReserved::Ledger)?
        }
    };
    Ok((reserved, Some(queue.begin())))
}

/// Nothing when the time to wait has passed.
async fn wait(
    (ledger, demand): (&Ledger, &Demand<'_>),
    client: &mut Client,
    queue: &Queue,
    concurrency: Concurrency,
) -> Result<Option<Result<Reservation, ReserveError>>, NotReserved> {
    let seat = Rc::clone(client.seat());
    seat.begin_phase(u64::MAX);
    let turn = queue.wait(ledger.asks_again_after(), async || unless_full(ledger, demand).await);
    let mut turn = std::pin::pin!(tokio::time::timeout(concurrency.queue, turn));
    let unless_leaving = std::future::poll_fn(|context| {
        if seat.is_leaving() { Poll::Ready(None) } else { turn.as_mut().poll(context).map(Some) }
    });
    match client.race(unless_leaving).await {
        Ok(Some(waited)) => Ok(waited.ok()),
        Ok(None) => Err(NotReserved::Ended(Refusal::Stopping)),
        Err(end) => Err(NotReserved::Ended(refuse::ended(end, "", "wait"))),
    }
}

/// What the ledger says; nothing when only open requests of the same caller stand in the way.
async fn unless_full(ledger: &Ledger, demand: &Demand<'_>) -> Option<Result<Reservation, ReserveError>> {
    match ledger.reserve(demand, clock::unix_milliseconds()).await {
        Err(ReserveError::Refused(why)) if why.by == RefusedBy::Concurrency => None,
        other => Some(other),
    }
}

impl<'a> Queued<'a> {
    fn begin(metrics: &'a Metrics) -> Self {
        metrics.queued.inc();
        Self(metrics)
    }
}

impl Drop for Queued<'_> {
    fn drop(&mut self) {
        self.0.queued.dec();
    }
}

fn full(covered: Covered<'_>, concurrency: Concurrency) -> ReserveError {
    ReserveError::Refused(Box::new(Refused {
        by: RefusedBy::Concurrency,
        owner: covered.caller.token.subject.clone(),
        name: "".into(),
        unit: Unit::Requests,
        used: concurrency.limit,
        limit: concurrency.limit,
        wanted: 1,
        resets_at_ms: None,
        retry_at_ms: None,
    }))
}
