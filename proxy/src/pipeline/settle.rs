//! Stage 11: what a request is charged, whatever its ending. Every reservation ends here, once.
//!
//! | Ending | Charged | Quality |
//! |---|---|---|
//! | the vendor reported its final usage, whatever came after | that, at the price of the model that ran | complete |
//! | cut or broken after some usage was reported: client gone, token revoked, stop, timeout, reset, truncated, error event | the last reported input, and of output the larger of what was reported and what was emitted, by its bytes; hidden thinking counts as all the output that was asked for | partial |
//! | the vendor says that it used more than it counted | the larger of what it counted and the reservation | partial |
//! | sent, a stream was asked for, and nothing of it was seen; any 5xx but those below | the bound of the input: it was read, and nothing was said | unknown |
//! | sent, and an answer that is no stream did not come or had no usage; counts that cannot be, or are more than double the bounds | the reservation; what cannot be is also logged and counted | unknown |
//! | the vendor's own 4xx, 503 and 529 | one request, no tokens and no money | complete |
//! | not sent: no connection, or refused here | nothing: released in full | complete |
//!
//! A request that was tried several times is charged the sum of its attempts, each by its own ending, as one request
//! (`admit/attempts.rs`).
//!
//! A request that no budget of tokens or money covers has no bounds: it is charged as one request, and its tokens
//! and cost are reported as far as the vendor told them.

use la_core::amount::Amounts;
use la_core::budget::Spent;
use la_core::price::{self, Billed, Bounds, Price};
use la_core::usage::{Terms, Usage};
use la_dialects::anthropic::usage::{Observed, Quality};

use crate::observe::settlement::Outcome;
use crate::refuse::Refusal;

use super::measure::Measured;

/// Counts above the bounds by this factor are no overrun but a mistake.
const BEYOND_BELIEF: u64 = 2;

/// What a request is charged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Charge {
    /// Under its budgets and in reports.
    pub(super) spent: Spent,
    /// How far that is known.
    pub(super) quality: Quality,
    /// What decides its cost, where the vendor counted it.
    pub(super) billed: Option<Billed>,
    /// What it cost, if a price is known.
    pub(super) cost_nano_usd: Option<u64>,
    /// Whether the vendor's counts could not be believed.
    pub(super) is_implausible: bool,
}

/// Decides what a request is charged. `served` is the price of the model that ran, if it was named and its price
/// is known.
pub(super) fn charge(
    measured: &Measured,
    outcome: Outcome,
    seen: &Observed,
    served: Option<Price>,
) -> Charge {
    let bill = Bill { measured, price: served.or(measured.price) };
    match outcome {
        Outcome::Unsent => bill.nothing(0),
        Outcome::Refused => bill.nothing(1),
        Outcome::Failed => bill.bound_of_input(),
        _ if seen.fault.is_some() || bill.is_beyond_belief(seen) => {
            Charge { is_implausible: true, ..bill.reservation() }
        }
        _ if seen.is_final() || seen.quality() == Quality::Complete => {
            bill.counted(seen.usage.unwrap_or_default(), &seen.terms, Quality::Complete)
        }
        _ if seen.has_more => bill.more_than_counted(seen),
        _ if seen.quality() == Quality::Partial => bill.cut(seen),
        _ if measured.is_stream && seen.is_silent() => bill.bound_of_input(),
        _ if measured.bounds.is_none() => {
            bill.counted(seen.usage.unwrap_or_default(), &seen.terms, Quality::Unknown)
        }
        _ => bill.reservation(),
    }
}

/// How a request ended that got no answer, by what its client is told.
pub(super) fn outcome_of(refusal: &Refusal) -> Outcome {
    match refusal {
        Refusal::Gone => Outcome::ClientGone,
        Refusal::Standing("suspended") => Outcome::Suspended,
        Refusal::Standing(_) => Outcome::Revoked,
        Refusal::Stopping => Outcome::Stopped,
        Refusal::Timeout { .. } => Outcome::Stalled,
        // Whatever it was, nothing of it can be passed on.
        Refusal::Answer { .. } => Outcome::Failed,
        Refusal::Vendor { status, .. } => outcome_of_status(*status).unwrap_or(Outcome::BrokenOff),
        _ => Outcome::BrokenOff,
    }
}

/// How an answer ended that is an error by its status.
pub(super) fn outcome_of_status(status: u16) -> Option<Outcome> {
    match status {
        // 529 is the vendor's own for "no capacity".
        400..=499 | 503 | 529 => Some(Outcome::Refused),
        500.. => Some(Outcome::Failed),
        _ => None,
    }
}

/// What a charge is made of.
struct Bill<'a> {
    measured: &'a Measured,
    price: Option<Price>,
}

impl Bill<'_> {
    fn nothing(&self, requests: u64) -> Charge {
        let spent = Spent { amounts: Amounts::of_requests(requests), tokens: Usage::default() };
        let cost_nano_usd = self.price.map(|_| 0);
        Charge { spent, quality: Quality::Complete, billed: None, cost_nano_usd, is_implausible: false }
    }

    /// What the vendor counted.
    fn counted(&self, usage: Usage, terms: &Terms, quality: Quality) -> Charge {
        let billed = Billed::new(&usage, terms);
        let cost_nano_usd = self.price.map(|price| price::cost_nano_usd(&billed, &price));
        let tokens = usage.total_input().saturating_add(usage.output_tokens);
        let amounts = Amounts { requests: 1, tokens, nano_usd: cost_nano_usd.unwrap_or_default() };
        let spent = Spent { amounts, tokens: usage };
        Charge { spent, quality, billed: Some(billed), cost_nano_usd, is_implausible: false }
    }

    /// What was counted of an answer that ended early, and what can have been said beyond it.
    fn cut(&self, seen: &Observed) -> Charge {
        let usage = seen.usage.unwrap_or_default();
        let said = seen.output_at_most();
        let output = match (self.measured.bounds, said) {
            (Some(bounds), said) => said.map_or(bounds.output_tokens, |said| said.min(bounds.output_tokens)),
            // It came whole, and the vendor told no more.
            (None, _) if seen.complete => usage.output_tokens,
            (None, said) => said.unwrap_or_else(|| seen.output_at_least()),
        };
        let usage = Usage { output_tokens: output.max(usage.output_tokens), ..usage };
        self.counted(usage, &seen.terms, Quality::Partial)
    }

    fn more_than_counted(&self, seen: &Observed) -> Charge {
        let counted = self.counted(seen.usage.unwrap_or_default(), &seen.terms, Quality::Partial);
        let reserved = self.reservation();
        let is_less = counted.spent.amounts.tokens < reserved.spent.amounts.tokens;
        if is_less { Charge { quality: Quality::Partial, ..reserved } } else { counted }
    }

    fn bound_of_input(&self) -> Charge {
        let bounds = self.measured.bounds.map(|bounds| Bounds { output_tokens: 0, ..bounds });
        self.bounded(bounds)
    }

    fn reservation(&self) -> Charge {
        self.bounded(self.measured.bounds)
    }

    /// All that is within `bounds`, at the price that was reserved.
    fn bounded(&self, bounds: Option<Bounds>) -> Charge {
        let Some(bounds) = bounds else {
            return Charge { quality: Quality::Unknown, cost_nano_usd: None, ..self.nothing(1) };
        };
        let cost_nano_usd = self.measured.price.map(|price| price::most_nano_usd(&bounds, &price));
        let tokens = bounds.total_tokens();
        let amounts = Amounts { requests: 1, tokens, nano_usd: cost_nano_usd.unwrap_or_default() };
        let Bounds { input_tokens, output_tokens, .. } = bounds;
        let spent = Spent { amounts, tokens: Usage { input_tokens, output_tokens, ..Usage::default() } };
        Charge { spent, quality: Quality::Unknown, billed: None, cost_nano_usd, is_implausible: false }
    }

    /// Whether the counts are more than a request within the bounds can have used.
    fn is_beyond_belief(&self, seen: &Observed) -> bool {
        let (Some(bounds), Some(usage)) = (self.measured.bounds, seen.usage) else { return false };
        let counted = usage.total_input().saturating_add(usage.output_tokens);
        !self.measured.is_unbounded && counted > bounds.total_tokens().saturating_mul(BEYOND_BELIEF)
    }
}

#[cfg(test)]
mod tests;
