//! What must be written down to have a book again, as plain data.
//!
//! Rates and concurrency are not in it: they begin anew with the process.

use serde::{Deserialize, Serialize};

use super::Window;
use crate::amount::{Amounts, Unit};
use crate::id::Subject;
use crate::usage::Usage;

/// One owner with all of its meters.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SavedOwner {
    /// Who.
    pub subject: Subject,
    /// When it was last used or named, in Unix milliseconds.
    pub last_seen_ms: u64,
    /// What was settled in its whole life.
    pub settled: Amounts,
    /// The tokens of that, by kind.
    pub tokens: Usage,
    /// What its budgets count.
    pub meters: Vec<SavedMeter>,
}

/// What one unit in one window counts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SavedMeter {
    /// What is counted.
    pub unit: Unit,
    /// In which window.
    pub window: Window,
    /// When the period began that was seen last, in Unix milliseconds.
    pub start_ms: u64,
    /// Settled in this period; of a rolling window, all that was ever reserved and has ended.
    pub settled: u64,
    /// Open in this period; of a rolling window, in all.
    pub open: u64,
    /// How much of it may be taken (settled and open), by what is durable.
    pub granted: u64,
    /// From when the grant is void, in Unix milliseconds.
    pub granted_until_ms: u64,
    /// Of a rolling window: beginnings of periods, and what was taken in each and still counts.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub periods: Vec<(u64, u64)>,
}

impl SavedOwner {
    /// An owner of whom nothing is known.
    pub fn new(subject: Subject) -> Self {
        let (settled, tokens, meters) = (Amounts::default(), Usage::default(), Vec::new());
        Self { subject, last_seen_ms: 0, settled, tokens, meters }
    }

    /// Puts a meter as it was written down later.
    pub fn put(&mut self, saved: SavedMeter) {
        let is_it = |meter: &&mut SavedMeter| meter.unit == saved.unit && meter.window == saved.window;
        match self.meters.iter_mut().find(is_it) {
            Some(meter) => *meter = saved,
            None => self.meters.push(saved),
        }
    }
}
