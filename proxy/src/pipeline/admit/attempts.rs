//! Several attempts at one request, each of which the vendor may bill, under one reservation.
//!
//! It is one request to budgets of requests, to rates and to concurrency, however often it is tried. What an
//! attempt may have cost is decided when it ends, and stays reserved; another needs its own room beside that,
//! taken atomically before it is sent.

use la_core::amount::Amounts;
use la_core::budget::Spent;
use la_core::price;
use la_dialects::anthropic::usage::{Observed, Quality};

use super::{Admitted, Covered, refusal};
use crate::clock;
use crate::ledger::Demand;
use crate::listener::worker::Worker;
use crate::observe::settlement::Outcome;
use crate::pipeline::measure::Measured;
use crate::pipeline::queue::NotReserved;
use crate::pipeline::settle::{Charge, charge};
use crate::refuse::Refusal;

/// What the attempts before the one that runs came to.
#[derive(Debug, Default)]
pub(super) struct Earlier {
    is_any: bool,
    /// Nothing of a request that is free.
    charge: Option<Charge>,
}

impl Admitted {
    /// Ends the attempt that runs, which another may follow. What it came to is charged with the request.
    pub(in crate::pipeline) fn end_attempt(
        &mut self,
        outcome: Outcome,
        seen: &Observed,
        (prices, asked): (&price::Book, Option<&str>),
    ) {
        if !std::mem::take(&mut self.sent) {
            return;
        }
        self.earlier.is_any = true;
        let Some(measured) = &self.measured else { return };
        let charge = charge(measured, outcome, seen, served_price(seen, prices, asked));
        self.earlier.charge = Some(self.earlier.with(charge));
    }

    /// Makes room for an attempt that comes to `measured` at most, beside all before it.
    ///
    /// # Errors
    /// When there is none, or the ledger cannot answer: there must be no such attempt.
    pub(in crate::pipeline) async fn make_room(
        &mut self,
        worker: &Worker,
        covered: Covered<'_>,
        measured: Option<Measured>,
    ) -> Result<(), Refusal> {
        self.measured = measured;
        let (Some(reservation), Some(measured)) = (&mut self.reservation, measured) else { return Ok(()) };
        let needed = self.earlier.amounts().plus(&measured.amounts);
        let held = reservation.reserved();
        let more = Amounts {
            requests: 0,
            tokens: needed.tokens.saturating_sub(held.tokens),
            nano_usd: needed.nano_usd.saturating_sub(held.nano_usd),
        };
        if more == Amounts::default() {
            return Ok(());
        }
        let demand = Demand { covering: covered.covering, amounts: more, known: Some(&covered.caller.cover) };
        let raised = reservation.raise(&demand, clock::unix_milliseconds()).await;
        raised.map_err(|why| refusal(worker, covered, NotReserved::Ledger(why)))?;
        worker.metrics.reserved(&more);
        Ok(())
    }
}

/// The price of the model that the vendor says it ran, if it is another one than `asked`, whose price is known.
pub(super) fn served_price(
    seen: &Observed,
    prices: &price::Book,
    asked: Option<&str>,
) -> Option<price::Price> {
    let other = seen.model.as_ref().filter(|served| asked != Some(served.as_str()))?;
    prices.model(other.as_str()).ok().map(|model| model.price)
}

impl Earlier {
    /// Whether there was any.
    pub(super) fn is_any(&self) -> bool {
        self.is_any
    }

    /// Tokens and money of all of them.
    fn amounts(&self) -> Amounts {
        self.charge.map_or(Amounts::default(), |charge| Amounts { requests: 0, ..charge.spent.amounts })
    }

    /// The charge of the whole request, given that of its last attempt.
    pub(super) fn with(&self, last: Charge) -> Charge {
        let Some(earlier) = self.charge else { return last };
        let (amounts, more) = (earlier.spent.amounts, last.spent.amounts);
        let amounts = Amounts {
            requests: amounts.requests.max(more.requests),
            tokens: amounts.tokens.saturating_add(more.tokens),
            nano_usd: amounts.nano_usd.saturating_add(more.nano_usd),
        };
        let is_free = earlier.spent.amounts.tokens == 0 && earlier.spent.amounts.nano_usd == 0;
        Charge {
            spent: Spent { amounts, tokens: earlier.spent.tokens.plus(&last.spent.tokens) },
            quality: worse(earlier.quality, last.quality),
            // Of several that cost something none alone decides the cost.
            billed: last.billed.filter(|_| is_free),
            cost_nano_usd: earlier.cost_nano_usd.zip(last.cost_nano_usd).map(|(a, b)| a.saturating_add(b)),
            is_implausible: earlier.is_implausible || last.is_implausible,
        }
    }
}

fn worse(a: Quality, b: Quality) -> Quality {
    match (a, b) {
        (Quality::Unknown, _) | (_, Quality::Unknown) => Quality::Unknown,
        (Quality::Partial, _) | (_, Quality::Partial) => Quality::Partial,
        (Quality::Complete, Quality::Complete) => Quality::Complete,
    }
}
