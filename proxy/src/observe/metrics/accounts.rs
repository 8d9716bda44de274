//! Accounts: failovers, cooldowns, sessions that stay or move, and how full each account is.

use std::sync::atomic::AtomicU64;

use la_core::account::{Class, Scope};
use la_core::report::{AccountReport, AccountState};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::ReasonLabel;
use crate::accounts::Step;
use crate::refuse::Refusal;

/// Why another account was tried, as a label.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failover {
    /// No connection.
    Connect,
    /// The connection broke before the answer, or the answer was none.
    Broken,
    /// No answer in time.
    Timeout,
    /// A limit was used up.
    Quota,
    /// The vendor had no capacity.
    Overload,
    /// The credential was not accepted.
    Auth,
    /// The vendor failed otherwise.
    Fault,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ScopeLabel {
    scope: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OutcomeLabel {
    outcome: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct WindowLabels {
    provider: String,
    account: String,
    window: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StateLabels {
    provider: String,
    account: String,
    state: &'static str,
}

/// The handles.
pub(super) struct Counters {
    failovers: [Counter; Failover::ALL.len()],
    cooldowns: [Counter; SCOPES.len()],
    steps: [Counter; STEPS.len()],
    utilizations: Family<WindowLabels, Gauge<f64, AtomicU64>>,
    states: Family<StateLabels, Gauge>,
}

const SCOPES: [&str; 3] = ["account", "family", "model"];

const STEPS: [&str; 4] = ["hit", "escape", "rebind", "follow"];

impl Failover {
    const ALL: [Self; 7] =
        [Self::Connect, Self::Broken, Self::Timeout, Self::Quota, Self::Overload, Self::Auth, Self::Fault];

    fn label(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Broken => "broken",
            Self::Timeout => "timeout",
            Self::Quota => "quota",
            Self::Overload => "overload",
            Self::Auth => "auth",
            Self::Fault => "fault",
        }
    }

    /// For an answer of a class.
    pub fn of(class: Class) -> Self {
        match class {
            Class::Quota => Self::Quota,
            Class::Overload => Self::Overload,
            Class::Auth => Self::Auth,
            Class::Unknown | Class::Client | Class::ContextTooLong => Self::Fault,
        }
    }

    /// For no answer, by what its client would be told.
    pub fn of_refusal(refusal: &Refusal) -> Self {
        match refusal {
            Refusal::Unreachable { .. } | Refusal::Timeout { what: "connect", .. } => Self::Connect,
            Refusal::Timeout { .. } => Self::Timeout,
            _ => Self::Broken,
        }
    }
}

impl Counters {
    pub(super) fn register(registry: &mut Registry) -> Self {
        let failovers = Family::<ReasonLabel, Counter>::default();
        registry.register("failovers", "Requests that went on with another account", failovers.clone());
        let cooldowns = Family::<ScopeLabel, Counter>::default();
        registry.register("cooldowns", "Times that accounts were put to rest", cooldowns.clone());
        let steps = Family::<OutcomeLabel, Counter>::default();
        registry.register("affinity", "Requests of sessions, by what became of the session", steps.clone());
        let (utilizations, states) = (Family::default(), Family::default());
        let text = "How full the windows of accounts are";
        registry.register("account_utilization_ratio", text, Family::clone(&utilizations));
        registry.register("account_state", "1 for the state that an account is in", Family::clone(&states));
        Self {
            failovers: Failover::ALL
                .map(|reason| failovers.get_or_create(&ReasonLabel { reason: reason.label() }).clone()),
            cooldowns: SCOPES.map(|scope| cooldowns.get_or_create(&ScopeLabel { scope }).clone()),
            steps: STEPS.map(|outcome| steps.get_or_create(&OutcomeLabel { outcome }).clone()),
            utilizations,
            states,
        }
    }

    pub(super) fn failover(&self, reason: Failover) {
        if let Some(counter) = self.failovers.get(reason as usize) {
            counter.inc();
        }
    }

    pub(super) fn cooldown(&self, scope: &Scope) {
        let at = match scope {
            Scope::Account => 0,
            Scope::Family(_) => 1,
            Scope::Model(_) => 2,
        };
        if let Some(counter) = self.cooldowns.get(at) {
            counter.inc();
        }
    }

    pub(super) fn step(&self, step: Step) {
        let at = match step {
            Step::Hit => 0,
            Step::Escape => 1,
            Step::Rebind => 2,
            Step::Follow => 3,
        };
        if let Some(counter) = self.steps.get(at) {
            counter.inc();
        }
    }

    /// Shows accounts as they are now, and none that is gone.
    pub(super) fn show(&self, reports: &[AccountReport]) {
        self.utilizations.clear();
        self.states.clear();
        for report in reports {
            let (provider, account) = (report.provider.clone(), report.name.clone());
            let windows = [("5h", report.five_hour_permille), ("7d", report.seven_day_permille)];
            for (window, permille) in windows {
                let Some(permille) = permille else { continue };
                let labels = WindowLabels { provider: provider.clone(), account: account.clone(), window };
                self.utilizations.get_or_create(&labels).set(f64::from(permille) / 1_000.0);
            }
            let state = state_label(report.state);
            self.states.get_or_create(&StateLabels { provider, account, state }).set(1);
        }
    }
}

fn state_label(state: AccountState) -> &'static str {
    match state {
        AccountState::Ready => "ready",
        AccountState::Cooling => "cooling",
        AccountState::Disabled => "disabled",
        AccountState::Renewing => "renewing",
        AccountState::LoginRequired => "login_required",
        AccountState::Missing => "missing",
        AccountState::Expired => "expired",
        AccountState::Unauthorized => "unauthorized",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_stands_at_its_index() {
        for (at, reason) in Failover::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, at, "{reason:?}");
        }
    }
}
