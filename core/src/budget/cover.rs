//! What covers a request: the limits of its own token and of every pool, found once, judged many times.

use std::sync::Arc;

use super::{Budget, Enforcement, Limits, Pace, Rate};
use crate::amount::{Amounts, Unit};
use crate::id::Subject;

/// One owner of limits that a request must keep to.
#[derive(Debug, Clone, Copy)]
pub struct Covering<'a> {
    /// Whose use is counted.
    pub owner: &'a Subject,
    /// Its budgets.
    pub budgets: &'a [Budget],
    /// Its rates.
    pub rates: &'a [Rate],
    /// Its most requests at one time.
    pub concurrency: Option<u64>,
}

/// The limits that cover a request, and where in one [`super::Book`] they are counted.
///
/// Made once for a token and a snapshot. A book that has forgotten anybody since says so, and the cover is
/// made anew.
#[derive(Debug, Clone, Default)]
pub struct Cover {
    pub(super) edition: u64,
    /// The first is the caller.
    pub(super) seats: Vec<Seat>,
    pub(super) lines: Vec<Line>,
    pub(super) checks: Vec<Check>,
    pub(super) rates: Vec<RateCheck>,
}

/// An owner, and its limit of requests at one time.
#[derive(Debug, Clone, Copy)]
pub(super) struct Seat {
    pub(super) owner: u32,
    pub(super) limit: Option<u64>,
}

/// A meter that the request is counted on, once, however many budgets look at it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Line {
    pub(super) meter: u32,
    pub(super) unit: Unit,
    /// The lowest Hard limit.
    pub(super) hard: Option<u64>,
    /// The lowest Soft or Shadow limit.
    pub(super) soft: Option<u64>,
}

/// A budget, and the meter it looks at.
#[derive(Debug, Clone)]
pub(super) struct Check {
    pub(super) meter: u32,
    pub(super) owner: u32,
    pub(super) name: Arc<str>,
    pub(super) unit: Unit,
    pub(super) limit: u64,
    pub(super) enforcement: Enforcement,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct RateCheck {
    pub(super) level: u32,
    pub(super) owner: u32,
    pub(super) unit: Unit,
    pub(super) pace: Pace,
}

impl<'a> Covering<'a> {
    /// All of the limits of one owner.
    pub fn of(owner: &'a Subject, limits: &'a Limits) -> Self {
        let concurrency = limits.concurrency.map(|concurrency| concurrency.limit);
        Self { owner, budgets: &limits.budgets, rates: &limits.rates, concurrency }
    }

    /// A pool: budgets only.
    pub const fn pool(owner: &'a Subject, budgets: &'a [Budget]) -> Self {
        Self { owner, budgets, rates: &[], concurrency: None }
    }
}

impl Cover {
    /// On how many meters a request is counted.
    pub fn meters(&self) -> usize {
        self.lines.len()
    }

    /// What `amounts` take of every meter, by its place: the caller's requests first.
    pub fn takes(&self, amounts: &Amounts) -> impl Iterator<Item = (u32, u64)> {
        self.lines.iter().map(|line| (line.meter, amounts.of(line.unit)))
    }

    /// Forgets whose it is and keeps its memory.
    pub fn forget(&mut self) {
        self.clear(0);
    }

    /// Empties it and keeps its memory.
    pub(super) fn clear(&mut self, edition: u64) {
        self.edition = edition;
        self.seats.clear();
        self.lines.clear();
        self.checks.clear();
        self.rates.clear();
    }

    pub(super) fn add(&mut self, meter: u32, owner: u32, budget: &Budget) {
        let Budget { unit, limit, enforcement, .. } = *budget;
        self.checks.push(Check { meter, owner, name: Arc::clone(&budget.name), unit, limit, enforcement });
        if let Some(line) = self.count(meter, unit) {
            let lowest = if enforcement == Enforcement::Hard { &mut line.hard } else { &mut line.soft };
            *lowest = Some(lowest.map_or(limit, |other| other.min(limit)));
        }
    }

    /// Has the request counted on a meter.
    pub(super) fn count(&mut self, meter: u32, unit: Unit) -> Option<&mut Line> {
        let known = self.lines.iter().position(|line| line.meter == meter);
        let at = known.unwrap_or_else(|| {
            self.lines.push(Line { meter, unit, hard: None, soft: None });
            self.lines.len() - 1
        });
        self.lines.get_mut(at)
    }
}
