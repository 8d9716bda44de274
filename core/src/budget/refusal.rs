//! Why a request was refused, and when asking again can help.

use std::sync::Arc;

use crate::amount::Unit;
use crate::id::Subject;

/// A refusal. Nothing has changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{by} {name} of {owner} has {} of {} {unit} taken, and {} more do not fit", .unit.text(*.used), .unit.text(*.limit), .unit.text(*.wanted))]
pub struct Refused {
    /// What kind of limit refused.
    pub by: RefusedBy,
    /// Whose limit it is: the caller, or a pool.
    pub owner: Subject,
    /// The budget's name; empty for rates and concurrency.
    pub name: Arc<str>,
    /// What it counts.
    pub unit: Unit,
    /// What is settled and open; for a rate, what has not drained.
    pub used: u64,
    /// The limit; for a rate, the burst.
    pub limit: u64,
    /// What was asked for.
    pub wanted: u64,
    /// When the window ends, or the oldest part of a rolling one leaves, in Unix milliseconds.
    pub resets_at_ms: Option<u64>,
    /// The earliest time at which the same request can be admitted, in Unix milliseconds. Nothing when it
    /// never can (a lifetime, or more than the limit) or nobody knows (concurrency).
    pub retry_at_ms: Option<u64>,
}

/// A kind of limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RefusedBy {
    /// A Hard budget.
    Budget,
    /// A rate.
    Rate,
    /// Requests at one time.
    Concurrency,
}

impl Refused {
    /// How long this stands in the way: of several refusals the longest is the one to tell.
    pub fn stands_until(&self) -> u64 {
        match self.by {
            RefusedBy::Concurrency => 0,
            RefusedBy::Budget | RefusedBy::Rate => self.retry_at_ms.unwrap_or(u64::MAX),
        }
    }
}

impl std::fmt::Display for RefusedBy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Budget => "budget",
            Self::Rate => "rate",
            Self::Concurrency => "concurrency",
        })
    }
}
