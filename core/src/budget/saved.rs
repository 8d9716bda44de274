//! What must be written down to have a book again, as plain data.
//!
//! Rates and concurrency are not in it: they begin anew with the process.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::Window;
use crate::amount::Unit;
use crate::id::Subject;
use crate::usage::Usage;

/// Everything that a book counts at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SavedBook {
    /// The format's version, [`SavedBook::VERSION`].
    pub version: u32,
    /// Requests that were ever charged.
    pub entries: u64,
    /// The latest time that the book had seen, in Unix milliseconds.
    pub at_ms: u64,
    /// Everybody.
    pub owners: Vec<SavedOwner>,
    /// What requests held that were open.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub held: Vec<SavedPart>,
}

/// What one request does to one meter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SavedPart {
    /// Whose meter it is.
    pub owner: Subject,
    /// What is counted.
    pub unit: Unit,
    /// In which window.
    pub window: Window,
    /// When the period began that it is counted in, in Unix milliseconds.
    pub start_ms: u64,
    /// How much was held.
    pub reserved: u64,
    /// How much was charged in the end.
    pub charged: u64,
}

/// One owner with all of its meters.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SavedOwner {
    /// Who.
    pub subject: Subject,
    /// When it was last used or named, in Unix milliseconds.
    pub last_seen_ms: u64,
    /// Tokens that were settled in its whole life.
    pub tokens: Usage,
    /// What they cost in nano-dollars.
    pub nano_usd: u64,
    /// What its budgets count.
    pub meters: Vec<SavedMeter>,
}

/// What one unit in one window counts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
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

impl SavedBook {
    /// The version of the format written here.
    pub const VERSION: u32 = 1;
}

impl SavedOwner {
    /// An owner of whom nothing is known.
    pub fn new(subject: Subject) -> Self {
        Self { subject, last_seen_ms: 0, tokens: Usage::default(), nano_usd: 0, meters: Vec::new() }
    }

    /// Raises every count to that of `other`, and lowers none. What was open counts as charged.
    pub fn raise_to(&mut self, other: &Self) {
        let (tokens, more) = (&mut self.tokens, &other.tokens);
        tokens.input_tokens = tokens.input_tokens.max(more.input_tokens);
        tokens.cache_write_tokens = tokens.cache_write_tokens.max(more.cache_write_tokens);
        tokens.cache_read_tokens = tokens.cache_read_tokens.max(more.cache_read_tokens);
        tokens.output_tokens = tokens.output_tokens.max(more.output_tokens);
        self.nano_usd = self.nano_usd.max(other.nano_usd);
        self.last_seen_ms = self.last_seen_ms.max(other.last_seen_ms);
        for meter in &other.meters {
            let mut raised = meter.clone().all_charged();
            let is_it = |known: &&SavedMeter| known.unit == meter.unit && known.window == meter.window;
            if let Some(known) = self.meters.iter().find(is_it) {
                raised = known.clone().all_charged().raised_to(raised);
            }
            self.put(raised);
        }
    }

    /// Whether raising it to `other` would change nothing that counts.
    pub fn is_at_least(&self, other: &Self) -> bool {
        let (tokens, floor) = (&self.tokens, &other.tokens);
        let counts = |floor: &SavedMeter| {
            let is_it = |meter: &&SavedMeter| meter.unit == floor.unit && meter.window == floor.window;
            self.meters.iter().find(is_it).is_some_and(|meter| meter.is_at_least(floor))
        };
        tokens.input_tokens >= floor.input_tokens
            && tokens.cache_write_tokens >= floor.cache_write_tokens
            && tokens.cache_read_tokens >= floor.cache_read_tokens
            && tokens.output_tokens >= floor.output_tokens
            && self.nano_usd >= other.nano_usd
            && other.meters.iter().all(counts)
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

impl SavedMeter {
    /// With nothing open and nothing granted.
    fn all_charged(self) -> Self {
        let settled = self.settled.saturating_add(self.open);
        Self { settled, open: 0, granted: settled, granted_until_ms: u64::MAX, ..self }
    }

    /// Whether it counts a later period than `floor`, or has taken as much.
    fn is_at_least(&self, floor: &Self) -> bool {
        let taken = |meter: &Self| meter.settled.saturating_add(meter.open);
        if matches!(self.window, Window::Rolling { .. }) {
            let has_left =
                |start_ms: u64| start_ms.saturating_add(self.window.counts_for_ms()) <= self.start_ms;
            let has = |(start_ms, least): &(u64, u64)| {
                let mut same = self.periods.iter().filter(|(known_ms, _)| known_ms == start_ms);
                has_left(*start_ms) || same.any(|(_, taken)| taken >= least)
            };
            return floor.periods.iter().all(has);
        }
        self.start_ms > floor.start_ms || (self.start_ms == floor.start_ms && taken(self) >= taken(floor))
    }

    /// The larger of both where they count the same period, else the later.
    fn raised_to(self, other: Self) -> Self {
        let settled = match (&self.window, self.start_ms.cmp(&other.start_ms)) {
            (Window::Rolling { .. }, _) | (_, Ordering::Equal) => self.settled.max(other.settled),
            (_, Ordering::Less) => other.settled,
            (_, Ordering::Greater) => self.settled,
        };
        let mut periods: BTreeMap<u64, u64> = self.periods.into_iter().collect();
        for (start_ms, taken) in other.periods {
            let most = periods.entry(start_ms).or_default();
            *most = taken.max(*most);
        }
        let start_ms = self.start_ms.max(other.start_ms);
        Self { start_ms, settled, granted: settled, periods: periods.into_iter().collect(), ..self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meter(window: &str, start_ms: u64, settled: u64, periods: &[(u64, u64)]) -> SavedMeter {
        let (unit, window) = (Unit::Tokens, window.parse().unwrap());
        let periods = periods.to_vec();
        SavedMeter {
            unit,
            window,
            start_ms,
            settled,
            open: 0,
            granted: settled,
            granted_until_ms: u64::MAX,
            periods,
        }
    }

    #[test]
    fn raising_takes_the_larger_count_of_every_period_and_lowers_none() {
        let subject = Subject::of("gateway", "team", "agent").unwrap();
        let owner = |meters, nano_usd| SavedOwner { meters, nano_usd, ..SavedOwner::new(subject.clone()) };
        let cases = [
            ("same period", meter("Day@UTC", 5, 10, &[]), meter("Day@UTC", 5, 7, &[]), (5, 10, vec![])),
            ("the other is later", meter("Day@UTC", 5, 10, &[]), meter("Day@UTC", 9, 7, &[]), (9, 7, vec![])),
            (
                "the other is earlier",
                meter("Day@UTC", 9, 7, &[]),
                meter("Day@UTC", 5, 10, &[]),
                (9, 7, vec![]),
            ),
            (
                "rolling",
                meter("rolling/1h", 5, 10, &[(1, 4), (5, 6)]),
                meter("rolling/1h", 9, 8, &[(5, 7), (9, 1)]),
                (9, 10, vec![(1, 4), (5, 7), (9, 1)]),
            ),
        ];
        for (what, mine, other, (start_ms, settled, periods)) in cases {
            let (mut raised, floor) = (owner(vec![mine], 3), owner(vec![other], 2));
            raised.raise_to(&floor);
            let [meter] = raised.meters.as_slice() else { panic!("{what}") };
            assert_eq!(
                (meter.start_ms, meter.settled, &meter.periods),
                (start_ms, settled, &periods),
                "{what}"
            );
            assert_eq!(raised.nano_usd, 3, "{what}");
            assert!(raised.is_at_least(&floor), "{what}: once is enough");
        }
        let mut empty = SavedOwner::new(subject.clone());
        assert!(
            !empty.is_at_least(&owner(vec![meter("lifetime", 0, 1, &[])], 0)) && empty.is_at_least(&empty)
        );
        let mut open = meter("lifetime", 0, 4, &[]);
        open.open = 2;
        empty.raise_to(&owner(vec![open], 0));
        assert_eq!((empty.meters[0].settled, empty.meters[0].open, empty.meters[0].granted), (6, 0, 6));
    }
}
