//! Stage 5: what a request may come to is taken out of all limits that cover it, before anything goes upstream.
//!
//! A message takes what was measured. Counting tokens and listing models is free: no budget counts it, but it
//! takes part in rates of requests and in concurrency, where the caller has any.

use std::rc::Rc;
use std::sync::Arc;

use la_core::amount::{Amounts, Unit};
use la_core::budget::{Covering, Limits, Reading, Settled, Spent, Standing};
use la_core::price;
use la_dialects::anthropic::usage::Observed;

use crate::clock;
use crate::config::live::AccountEntry;
use crate::ledger::{Reservation, ReserveError, Turn};
use crate::listener::client::Client;
use crate::listener::worker::Worker;
use crate::observe::line::Line;
use crate::observe::metrics::Metrics;
use crate::observe::settlement::{Outcome, Settlement};
use crate::refuse::{Limited, Refusal};

use super::callers::Known;
use super::disclose::Told;
use super::measure::Measured;
use super::queue::{self, NotReserved};
use super::settle::{Charge, charge};

mod attempts;

use attempts::{Earlier, served_price};

/// A request that may go upstream. Dropped before it was sent, it costs nothing; dropped after, it is
/// charged all that it holds.
pub(super) struct Admitted {
    metrics: Arc<Metrics>,
    reservation: Option<Reservation>,
    /// Of a caller whose requests may wait for each other; given up after the reservation.
    turn: Option<Turn>,
    /// Nothing for a request that is free.
    measured: Option<Measured>,
    /// How the budgets of its caller stand with it.
    pub(super) told: Told,
    /// Whether the vendor may have received the attempt that runs.
    sent: bool,
    /// Attempts that have failed, and what they came to.
    earlier: Earlier,
}

/// A caller and all of the limits that cover it.
#[derive(Clone, Copy)]
pub(super) struct Covered<'a> {
    /// The caller.
    pub(super) caller: &'a Rc<Known>,
    /// Its own limits, then its pools'.
    pub(super) covering: &'a [Covering<'a>],
}

impl Covered<'_> {
    fn has_budgets(&self) -> bool {
        self.covering.iter().any(|covering| !covering.budgets.is_empty())
    }
}

/// How a request ended.
#[derive(Clone, Copy)]
pub(super) struct Ended<'a> {
    pub(super) outcome: Outcome,
    /// The status of the answer that the client gets.
    pub(super) status: u16,
    /// What was seen of the vendor's answer.
    pub(super) seen: &'a Observed,
    pub(super) account: &'a Arc<AccountEntry>,
    pub(super) prices: &'a price::Book,
    pub(super) line: &'a Line,
}

/// Admits a request that was `measured`, or one that is free.
pub(super) async fn request(
    worker: &Worker,
    client: &mut Client,
    covered: Covered<'_>,
    measured: Option<Measured>,
) -> Result<Box<Admitted>, Refusal> {
    let amounts = measured.map_or(Amounts::default(), |measured| measured.amounts);
    let (mut reservation, mut turn) = (None, None);
    if measured.is_some() || is_judged(&covered.caller.token.limits) {
        let reserved = queue::reserve(worker, client, covered, amounts).await;
        let (reserved, its_turn) = reserved.map_err(|why| refusal(worker, covered, why))?;
        (reservation, turn) = (Some(reserved), its_turn);
    }
    worker.metrics.reserved(&amounts);
    let readings = match &mut reservation {
        Some(reservation) => reservation.take_readings(),
        None if covered.has_budgets() => standings(worker, covered).iter().map(Reading::from).collect(),
        None => Vec::new(),
    };
    let (metrics, told) = (Arc::clone(&worker.metrics), Told::new(covered.caller, readings));
    let earlier = Earlier::default();
    // Boxed: from here on it goes through every stage, and is large.
    Ok(Box::new(Admitted { metrics, reservation, turn, measured, told, sent: false, earlier }))
}

/// The refusal by a limit, as the caller is told of it.
pub(super) fn limited(worker: &Worker, covered: Covered<'_>, refused: la_core::budget::Refused) -> Refusal {
    let now_ms = clock::unix_milliseconds();
    let standings = standings(worker, covered);
    Refusal::Limited(Box::new(Limited::new(refused, covered.covering, standings, now_ms)))
}

/// Whether a request that is free has anything to be refused by.
fn is_judged(limits: &Limits) -> bool {
    limits.concurrency.is_some() || limits.rates.iter().any(|rate| rate.unit == Unit::Requests)
}

fn refusal(worker: &Worker, covered: Covered<'_>, why: NotReserved) -> Refusal {
    match why {
        NotReserved::Ended(refusal) => refusal,
        NotReserved::Ledger(ReserveError::Refused(why)) => limited(worker, covered, *why),
        NotReserved::Ledger(ReserveError::Unavailable(message)) => {
            tracing::warn!("ledger cannot admit a request: {message}");
            Refusal::Ledger
        }
    }
}

fn standings(worker: &Worker, covered: Covered<'_>) -> Vec<Standing> {
    worker.ledger.standings(covered.covering, clock::unix_milliseconds())
}

impl Admitted {
    /// Notes whether the vendor may have received the request.
    pub(super) fn set_sent(&mut self, sent: bool) {
        self.sent = sent;
    }

    /// Settles it, to be written down before this thread waits, and says what it came to; nothing for a request
    /// that is free, and in a second call.
    pub(super) fn settle(&mut self, ended: &Ended<'_>) -> Option<Settlement> {
        let mut reservation = self.reservation.take()?;
        let _turn = self.turn.take();
        let Ended { seen, prices, .. } = *ended;
        let was_sent = self.sent || self.earlier.is_any();
        let outcome = if was_sent { ended.outcome } else { Outcome::Unsent };
        let Some(measured) = self.measured else {
            end(reservation, outcome, &Spent::default());
            return None;
        };
        // The price of the model that was asked for is known already.
        let served = served_price(seen, prices, ended.line.asked_model());
        let its_outcome = if self.sent { outcome } else { Outcome::Unsent };
        let charge = self.earlier.with(charge(&measured, its_outcome, seen, served));
        let Charge { spent: charged, quality, billed, cost_nano_usd, is_implausible } = charge;
        let mut settlement = Settlement {
            outcome,
            quality,
            usage: seen.usage,
            model: seen.model,
            account: Arc::clone(ended.account),
            reserved: *reservation.reserved(),
            charged,
            billed,
            cost_nano_usd,
            overrun: Amounts::default(),
            is_implausible,
        };
        if reservation.is_logged() {
            reservation.describe(&ended.line.facts(ended.status, &settlement));
        }
        let settled = end(reservation, outcome, &charged);
        // Without bounds nothing but the request was reserved, and nothing is over it.
        settlement.overrun = measured.bounds.map_or(Amounts::default(), |_| settled.overrun);
        self.metrics.settled(&settlement);
        Some(settlement)
    }
}

fn end(reservation: Reservation, outcome: Outcome, spent: &Spent) -> Settled {
    if outcome == Outcome::Unsent {
        reservation.release();
        return Settled::default();
    }
    reservation.settle_soon(spent)
}

impl Drop for Admitted {
    fn drop(&mut self) {
        match self.reservation.take() {
            // What it used is not known: it is charged as it was reserved.
            Some(reservation) if self.sent || self.earlier.is_any() => drop(reservation),
            Some(reservation) => reservation.release(),
            None => {}
        }
    }
}
