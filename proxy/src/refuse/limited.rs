//! What a caller is told when one of its limits refuses: which, how it stands, and when asking again can help.

use std::fmt;

use jiff::Timestamp;
use la_core::amount::Unit;
use la_core::budget::{Covering, Refused, RefusedBy, Standing, Window};
use la_core::id::Subject;

use crate::observe::metrics::Reason;

/// A refusal by a limit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limited {
    refused: Refused,
    /// Over which stretch of time it counts, if it is a budget.
    window: Option<Window>,
    /// Only requests that are open now stand in the way.
    is_held: bool,
    retry_after_seconds: Option<u64>,
    /// How all budgets of the caller stand.
    pub standings: Vec<Standing>,
}

impl Limited {
    /// What to tell of a refusal at `now_ms` to a caller under the limits `covering`, which stand as `standings`
    /// say.
    pub fn new(refused: Refused, covering: &[Covering<'_>], standings: Vec<Standing>, now_ms: u64) -> Self {
        let is_it = |owner: &Subject, name: &str| {
            refused.by == RefusedBy::Budget && *owner == refused.owner && *name == *refused.name
        };
        let mut budgets = covering
            .iter()
            .flat_map(|covering| covering.budgets.iter().map(|budget| (covering.owner, budget)));
        let window = budgets
            .find(|(owner, budget)| is_it(owner, &budget.name))
            .map(|(_, budget)| budget.window.clone());
        let standing = standings.iter().find(|standing| is_it(&standing.owner, &standing.name));
        let is_held = standing.is_some_and(|standing| {
            // A request that is counted stays one; what was reserved of the rest is mostly given back.
            let settled = refused.used.saturating_sub(standing.open);
            refused.unit != Unit::Requests && settled.saturating_add(refused.wanted) <= refused.limit
        });
        let wait_ms = match (refused.by, is_held) {
            (RefusedBy::Concurrency, _) | (_, true) => Some(0),
            (RefusedBy::Budget | RefusedBy::Rate, false) => {
                refused.retry_at_ms.map(|at_ms| at_ms.saturating_sub(now_ms))
            }
        };
        let retry_after_seconds = wait_ms.map(|wait_ms| wait_ms.div_ceil(1_000).max(1));
        Self { refused, window, is_held, retry_after_seconds, standings }
    }

    /// In how many seconds asking again can help; nothing when it cannot.
    pub fn retry_after_seconds(&self) -> Option<u64> {
        self.retry_after_seconds
    }

    /// Why the request counts as refused.
    pub fn reason(&self) -> Reason {
        match self.refused.by {
            RefusedBy::Budget => Reason::Budget,
            RefusedBy::Rate => Reason::Rate,
            RefusedBy::Concurrency => Reason::Concurrency,
        }
    }

    fn budget(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Refused { owner, name, unit, used, limit, wanted, resets_at_ms, .. } = &self.refused;
        let (budget, used, limit) = (named(name, owner), unit.text(*used), unit.text(*limit));
        let wanted_text = unit.text(*wanted);
        if *wanted > self.refused.limit {
            return write!(
                f,
                "{budget} can never admit this request: it may use {wanted_text} {unit} and {limit} is all there is; \
                 ask for less, by `max_tokens` or a shorter input"
            );
        }
        if self.is_held {
            return write!(
                f,
                "{budget} has {used} of {limit} {unit} used or held by open requests, and this request may use \
                 {wanted_text} more; try again when one of them has ended"
            );
        }
        write!(f, "{budget} is used up: {used} of {limit} {unit}")?;
        let reset = self.window.as_ref().zip(*resets_at_ms);
        match &reset {
            Some((window, _)) => write!(f, " in {window}")?,
            None => f.write_str(" for its whole lifetime")?,
        }
        // One is the least there is: what the request needs has not been looked at.
        if *wanted > 1 {
            write!(f, ", and this request may use {wanted_text} more")?;
        }
        match reset {
            Some((_, at_ms)) => write!(f, "; it resets at {}", shown_time(at_ms)),
            None => f.write_str("; it does not reset, only its owner can raise it"),
        }
    }

    fn rate(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Refused { owner, unit, used, limit, wanted, retry_at_ms, .. } = &self.refused;
        let whose = of(owner);
        match retry_at_ms {
            Some(at_ms) => write!(
                f,
                "the rate of {unit} {whose} is used up: {used} of {limit} at once, and this request needs {wanted} \
                 more; it has room at {}",
                shown_time(*at_ms)
            ),
            None => write!(
                f,
                "the rate of {unit} {whose} can never admit this request: it may use {wanted} and {limit} is the \
                 most at once; ask for less, by `max_tokens` or a shorter input"
            ),
        }
    }
}

impl fmt::Display for Limited {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.refused.by {
            RefusedBy::Budget => self.budget(f),
            RefusedBy::Rate => self.rate(f),
            RefusedBy::Concurrency => write!(
                f,
                "{} of {} requests {} are open, the most at one time; try again when one of them has ended",
                self.refused.used,
                self.refused.limit,
                of(&self.refused.owner)
            ),
        }
    }
}

/// A budget by name and owner.
pub fn named(budget: &str, owner: &Subject) -> String {
    format!("budget {budget} {}", of(owner))
}

fn of(owner: &Subject) -> String {
    owner.pool().map_or_else(|| "of this token".to_owned(), |pool| format!("of pool {pool}"))
}

/// A time in Unix milliseconds, as people read it.
pub(super) fn shown_time(at_ms: u64) -> String {
    // Whole seconds, rounded up as `retry-after` is.
    let seconds = i64::try_from(at_ms.div_ceil(1_000)).unwrap_or(i64::MAX);
    Timestamp::from_second(seconds)
        .map_or_else(|_| "a time after all calendars".to_owned(), |at| at.to_string())
}

#[cfg(test)]
mod tests;
