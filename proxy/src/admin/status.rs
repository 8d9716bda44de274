//! What the process reports of itself, with a revision that rises whenever anything but use changes.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use la_core::budget::Budget;
use la_core::id::Subject;
use la_core::report::{BudgetUse, LEDGER_REASON, Report, SubjectUsage};

use crate::config::feed::FeedState;
use crate::config::live::LiveCell;
use crate::ledger::Ledger;
use crate::refresh;

/// Where the process is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Phase {
    Starting = 0,
    Serving = 1,
    Stopping = 2,
}

/// Collects the report.
pub struct Status {
    cell: Arc<LiveCell>,
    ledger: Arc<Ledger>,
    feed: Arc<FeedState>,
    phase: AtomicU8,
    last: Mutex<Report>,
}

impl Status {
    /// A report of a process that starts at `now` (Unix seconds). Revisions of a later process are higher.
    pub fn new(cell: Arc<LiveCell>, ledger: Arc<Ledger>, feed: Arc<FeedState>, now: i64) -> Self {
        let revision = u64::try_from(now).unwrap_or_default().saturating_mul(1_000);
        let last = Mutex::new(Report { revision, ..Report::default() });
        Self { cell, ledger, feed, phase: AtomicU8::new(Phase::Starting as u8), last }
    }

    /// Notes where the process is.
    pub fn enter(&self, phase: Phase) {
        self.phase.store(phase as u8, Ordering::Relaxed);
    }

    /// Why the process takes no requests, one sentence each; empty when it does.
    pub fn not_ready(&self) -> Vec<String> {
        let mut reasons = Vec::new();
        match self.phase.load(Ordering::Relaxed) {
            phase if phase == Phase::Starting as u8 => reasons.push("router is starting".to_owned()),
            phase if phase == Phase::Stopping as u8 => reasons.push("router is stopping".to_owned()),
            _ => {}
        }
        if !self.feed.is_loaded() {
            reasons.push("no configuration was loaded yet".to_owned());
            reasons.extend(self.feed.faults());
        }
        reasons.extend(self.ledger.health().err().map(|why| format!("{LEDGER_REASON}{why}")));
        reasons
    }

    /// What is wrong although the process takes requests, one sentence each.
    pub fn degraded(&self) -> Vec<String> {
        let unrecorded = self.ledger.unrecorded();
        let unrecorded = unrecorded.map(|why| format!("requests are admitted and counted nowhere: {why}"));
        let logins = refresh::unstored(&self.cell);
        self.ledger.log_trouble().into_iter().chain(unrecorded).chain(logins).collect()
    }

    /// The report at `now` (Unix seconds).
    pub fn report(&self, now: i64) -> Report {
        Report { usage: self.usage(now), ..self.report_without_usage(now) }
    }

    /// What everybody has used, and how their budgets stand, at `now` (Unix seconds).
    pub fn usage(&self, now: i64) -> Vec<SubjectUsage> {
        if self.ledger.is_stranger() {
            return Vec::new();
        }
        let live = self.cell.load();
        let mut owners: HashMap<&Subject, (&[Budget], &[u8])> = HashMap::new();
        for token in live.tokens() {
            owners.insert(&token.subject, (&token.limits.budgets, &token.thresholds));
            let pools = token.pools.iter().map(|pool| (&pool.subject, (&*pool.budgets, &*pool.thresholds)));
            owners.extend(pools);
        }
        let mut usage = self.ledger.usage_all();
        for used in &mut usage {
            let Some((budgets, thresholds)) = owners.get(&used.subject) else { continue };
            used.budgets = self.budgets(&used.subject, budgets, thresholds, now);
        }
        usage
    }

    /// How the budgets of one owner stand at `now` (Unix seconds).
    pub fn budgets(
        &self,
        owner: &Subject,
        budgets: &[Budget],
        thresholds: &[u8],
        now: i64,
    ) -> Vec<BudgetUse> {
        let now_ms = u64::try_from(now).unwrap_or_default().saturating_mul(1_000);
        let standings = self.ledger.standings_of(owner, budgets, now_ms);
        standings.iter().map(|standing| BudgetUse::new(standing, thresholds)).collect()
    }

    /// The report without what changes with every request, at `now` (Unix seconds).
    pub fn report_without_usage(&self, now: i64) -> Report {
        let live = self.cell.load();
        let snapshot = live.snapshot();
        let not_ready = self.not_ready();
        let tokens = snapshot.tokens.iter().filter(|token| token.is_live(now)).count();
        let mut report = Report {
            revision: 0,
            epoch: snapshot.epoch,
            generation: snapshot.generation,
            ready: not_ready.is_empty(),
            not_ready,
            faults: self.feed.faults(),
            ledger_id: self.ledger.id(),
            degraded: self.degraded(),
            accounts: live.accounts(now),
            live_tokens: u64::try_from(tokens).unwrap_or(u64::MAX),
            usage: Vec::new(),
        };
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        report.revision = last.revision;
        if report != *last {
            report.revision = last.revision.saturating_add(1);
            last.clone_from(&report);
        }
        report
    }

    /// What is served now.
    pub fn cell(&self) -> &LiveCell {
        &self.cell
    }

    /// Who has used what.
    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }
}

#[cfg(test)]
mod tests {
    use la_core::amount::{Amounts, Unit};
    use la_core::budget::{BudgetSpec, CalendarSpec, Enforcement, Every, LimitsSpec, Spent, WindowSpec};
    use la_core::credential::Credentials;
    use la_core::id::TokenId;
    use la_core::snapshot::{IssuedId, PoolRecord, Snapshot, TokenRecord};

    use super::*;
    use crate::config::live::Live;
    use crate::ledger::Demand;

    const NOW: i64 = 1_800_000_000;

    fn budget(name: &str, unit: Unit, limit: &str, window: WindowSpec) -> BudgetSpec {
        let (name, limit) = (name.to_owned(), limit.to_owned());
        let enforcement = Enforcement::Hard;
        BudgetSpec { name, unit, limit, window, enforcement, allow_unbounded: false, allow_unpriced: false }
    }

    fn daily() -> WindowSpec {
        let calendar = CalendarSpec { every: Every::Day, time_zone: "UTC".to_owned() };
        WindowSpec { calendar: Some(calendar), rolling: None }
    }

    /// One token with a daily budget of $5 under a pool of 100 tokens.
    fn snapshot() -> Snapshot {
        let pool = Subject::of_pool("gateway", "team", "shared").unwrap();
        let ids = vec![IssuedId {
            id: TokenId::try_from("id-1".to_owned()).unwrap(),
            not_before: 0,
            not_after: i64::MAX,
            revoked: false,
        }];
        let limits =
            LimitsSpec { budgets: vec![budget("daily", Unit::Usd, "5", daily())], ..LimitsSpec::default() };
        let token = TokenRecord {
            pools: vec![pool.clone()],
            thresholds: vec![20, 50],
            ..TokenRecord::new(Subject::of("gateway", "team", "agent").unwrap(), ids, Arc::new(limits))
        };
        let budgets = vec![budget("all", Unit::Tokens, "100", WindowSpec::default())];
        let pools = vec![PoolRecord { subject: pool, budgets, thresholds: vec![90] }];
        Snapshot { tokens: vec![token], pools, ..Snapshot::empty("team/gateway") }
    }

    #[tokio::test]
    async fn usage_tells_how_the_budgets_of_tokens_and_pools_stand() {
        let live = Live::build(snapshot(), &Credentials::default(), &|_| Err(String::new()));
        let (cell, ledger) = (LiveCell::new(live), Ledger::memory());
        let status = Status::new(cell.clone(), ledger.clone(), Arc::default(), NOW);
        assert_eq!(status.usage(NOW), [], "nobody has used anything");
        let live = cell.load();
        let token = live.tokens().next().unwrap();
        let amounts = Amounts { requests: 1, tokens: 95, nano_usd: 1_500_000_000 };
        let covering = token.covering();
        let demand = Demand::once(&covering, amounts);
        let reservation = ledger.reserve(&demand, 1_800_000_000_000).await.unwrap();
        reservation.settle(&Spent { amounts, ..Spent::default() });
        let told = |budget: &BudgetUse| {
            (budget.name.clone(), budget.used, budget.limit, budget.resets_at_ms, budget.threshold)
        };
        let usage = status.usage(NOW);
        let [agent, pool] = usage.as_slice() else { panic!("{usage:?}") };
        let [all] = pool.budgets.as_slice() else { panic!("{pool:?}") };
        assert_eq!(told(all), ("all".to_owned(), 95, 100, None, Some(90)));
        let [daily] = agent.budgets.as_slice() else { panic!("{agent:?}") };
        let midnight = Some(1_800_057_600_000);
        assert_eq!(told(daily), ("daily".to_owned(), 1_500_000_000, 5_000_000_000, midnight, Some(20)));
        let later = status.budgets(&token.subject, &token.limits.budgets, &token.thresholds, NOW + 86_400);
        assert_eq!((later[0].used, later[0].threshold), (0, None), "the day is over");
    }
}
