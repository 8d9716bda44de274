//! What every ledger promises, shown on each: on disk, in memory, and in a real Redis whose time is a key.

use std::sync::Arc;

use la_core::amount::{Amounts, Unit};
use la_core::budget::{Budget, Covering, Enforcement, Limits, Rate, RateSpec, Refused, RefusedBy, Standing};
use la_core::budget::{LimitsSpec, Spent};
use la_core::id::Subject;
use la_core::usage::Usage;
use tempfile::TempDir;

use super::redis::tests::Shared;
use super::{Demand, Ledger, Reservation, ReserveError};
use crate::usage_log::Keeping;

mod budgets;
mod endings;
mod limits;
mod reports;

/// Tuesday 2026-11-03 12:00 UTC, in milliseconds.
pub(super) const NOON_MS: u64 = 1_793_707_200_000;

pub(super) const MINUTE_MS: u64 = 60_000;
pub(super) const DAY_MS: u64 = 1_440 * MINUTE_MS;

/// One ledger, and what it lives in.
pub(super) struct Scene {
    pub(super) name: &'static str,
    pub(super) ledger: Arc<Ledger>,
    redis: Option<Shared>,
    _directory: Option<TempDir>,
}

/// An owner and its limits.
pub(super) struct Party {
    pub(super) subject: Subject,
    pub(super) limits: Limits,
}

impl Scene {
    /// One of each kind, all empty.
    pub(super) fn each() -> [Self; 3] {
        let directory = TempDir::new().unwrap();
        let now = i64::try_from(NOON_MS / 1_000).unwrap();
        let embedded = Ledger::open_embedded(directory.path(), Keeping::Off, now).unwrap();
        let redis = Shared::start();
        let ledger = redis.ledger();
        [
            Self { name: "embedded", ledger: embedded, redis: None, _directory: Some(directory) },
            Self { name: "memory", ledger: Ledger::memory(), redis: None, _directory: None },
            Self { name: "redis", ledger, redis: Some(redis), _directory: None },
        ]
    }

    pub(super) fn set_clock(&self, now_ms: u64) {
        if let Some(redis) = &self.redis {
            redis.set_clock(now_ms);
        }
    }

    pub(super) async fn reserve(
        &self,
        parties: &[&Party],
        amounts: Amounts,
        now_ms: u64,
    ) -> Result<Reservation, ReserveError> {
        self.set_clock(now_ms);
        let covering = covering(parties);
        self.ledger.reserve(&Demand::once(&covering, amounts), now_ms).await
    }

    /// Waits until everything that has ended is counted so.
    pub(super) async fn quiet(&self) {
        if self.redis.is_some() {
            self.ledger.quiet().await;
        }
    }

    /// How the budgets stand after all that ended, seen by a request that takes nothing.
    pub(super) async fn standings(&self, parties: &[&Party], now_ms: u64) -> Vec<Standing> {
        self.quiet().await;
        self.set_clock(now_ms);
        let unpaced = |covering| Covering { rates: &[], concurrency: None, ..covering };
        let covered: Vec<_> = covering(parties).into_iter().map(unpaced).collect();
        let demand = Demand::once(&covered, Amounts::default());
        let nothing = self.ledger.reserve(&demand, now_ms).await.unwrap();
        let standings = self.ledger.standings(&covering(parties), now_ms);
        nothing.release();
        self.quiet().await;
        standings
    }

    /// What is used of each budget.
    pub(super) async fn used(&self, parties: &[&Party], now_ms: u64) -> Vec<u64> {
        self.standings(parties, now_ms).await.iter().map(|standing| standing.used).collect()
    }

    /// Reserves, and demands that it is refused by a limit.
    pub(super) async fn refused(&self, parties: &[&Party], amounts: Amounts, now_ms: u64) -> Refused {
        match self.reserve(parties, amounts, now_ms).await {
            Err(ReserveError::Refused(refused)) => *refused,
            Err(other) => panic!("{}: {other}", self.name),
            Ok(_) => panic!("{}: was admitted", self.name),
        }
    }
}

impl Party {
    pub(super) fn token(name: &str) -> Self {
        Self { subject: Subject::of("gateway", "agents", name).unwrap(), limits: Limits::default() }
    }

    pub(super) fn pool(name: &str) -> Self {
        Self { subject: Subject::of_pool("gateway", "agents", name).unwrap(), limits: Limits::default() }
    }

    /// With a Hard budget.
    pub(super) fn hard(self, unit: Unit, limit: u64, window: &str) -> Self {
        self.budget(unit, limit, window, Enforcement::Hard)
    }

    pub(super) fn budget(mut self, unit: Unit, limit: u64, window: &str, enforcement: Enforcement) -> Self {
        let name = format!("{}-{window}", unit.name()).into();
        let window = window.parse().unwrap();
        let admits = la_core::budget::Admits::default();
        self.limits.budgets.push(Budget { name, unit, limit, window, enforcement, admits });
        self
    }

    pub(super) fn rate(mut self, unit: Unit, limit: i64, per: &str, burst: i64) -> Self {
        let spec = RateSpec { unit, limit, per: per.to_owned(), burst: Some(burst) };
        let checked = Limits::check(&LimitsSpec { rates: vec![spec], ..LimitsSpec::default() });
        let rates: Vec<Rate> = checked.unwrap().rates;
        self.limits.rates.extend(rates);
        self
    }

    pub(super) fn concurrency(mut self, limit: u64) -> Self {
        let queue = std::time::Duration::ZERO;
        self.limits.concurrency = Some(la_core::budget::Concurrency { limit, queue });
        self
    }
}

pub(super) fn covering<'a>(parties: &[&'a Party]) -> Vec<Covering<'a>> {
    parties.iter().map(|party| Covering::of(&party.subject, &party.limits)).collect()
}

pub(super) fn one() -> Amounts {
    Amounts::of_requests(1)
}

pub(super) fn amounts(tokens: u64, nano_usd: u64) -> Amounts {
    Amounts { requests: 1, tokens, nano_usd }
}

pub(super) fn spent(tokens: u64, nano_usd: u64) -> Spent {
    let kinds = Usage { input_tokens: tokens / 2, output_tokens: tokens - tokens / 2, ..Usage::default() };
    Spent { amounts: amounts(tokens, nano_usd), tokens: kinds }
}

pub(super) fn is_by(refused: &Refused, by: RefusedBy, owner: &Party) -> bool {
    refused.by == by && refused.owner == owner.subject
}
