//! Counters and gauges of the operator itself, in Prometheus' text form.

use std::sync::atomic::AtomicU64;

use la_core::oauth::Answer;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

/// One of our kinds.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Kind {
    kind: &'static str,
}

/// What came of asking for a new access token.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RefreshOutcome {
    outcome: &'static str,
}

/// Everything the operator counts.
pub(crate) struct Metrics {
    registry: Registry,
    reconciles: Family<Kind, Counter>,
    failures: Family<Kind, Counter>,
    durations: Family<Kind, Histogram, fn() -> Histogram>,
    /// Tokens minted.
    pub(crate) minted: Counter,
    /// Snapshots written.
    pub(crate) snapshots: Counter,
    /// Annotations changed on pods to hurry the kubelet.
    pub(crate) nudges: Counter,
    /// Messages to pods about tokens that are to be refused at once.
    pub(crate) refusals: Counter,
    /// Polls of proxy pods that failed.
    pub(crate) poll_failures: Counter,
    refreshes: Family<RefreshOutcome, Counter>,
    leader: Gauge<i64, std::sync::atomic::AtomicI64>,
}

impl Metrics {
    /// All at zero.
    pub(crate) fn new() -> Self {
        let buckets = || Histogram::new([0.001, 0.005, 0.025, 0.1, 0.5, 2.0, 10.0]);
        let mut metrics = Self {
            registry: Registry::with_prefix("la_router_operator"),
            reconciles: Family::default(),
            failures: Family::default(),
            durations: Family::new_with_constructor(buckets as fn() -> Histogram),
            minted: Counter::<u64, AtomicU64>::default(),
            snapshots: Counter::default(),
            nudges: Counter::default(),
            refusals: Counter::default(),
            poll_failures: Counter::default(),
            refreshes: Family::default(),
            leader: Gauge::default(),
        };
        metrics.register();
        metrics
    }

    /// Counts one answer of the token endpoint.
    pub(crate) fn refreshed<R>(&self, answer: &Answer<R>) {
        let outcome = match answer {
            Answer::Renewed(_) => "renewed",
            Answer::Refused(_) => "refused",
            Answer::TryLater { .. } => "delayed",
        };
        self.refreshes.get_or_create(&RefreshOutcome { outcome }).inc();
    }

    /// Counts one reconciliation of `kind` and how it ended.
    pub(crate) fn reconciled(&self, kind: &'static str, seconds: f64, failed: bool) {
        let label = Kind { kind };
        self.reconciles.get_or_create(&label).inc();
        self.durations.get_or_create(&label).observe(seconds);
        if failed {
            self.failures.get_or_create(&label).inc();
        }
    }

    /// Says whether this replica reconciles.
    pub(crate) fn set_leader(&self, leader: bool) {
        self.leader.set(i64::from(leader));
    }

    /// The text form.
    pub(crate) fn encode(&self) -> String {
        let mut text = String::new();
        if encode(&mut text, &self.registry).is_err() {
            text.clear();
        }
        text
    }

    fn register(&mut self) {
        let r = &mut self.registry;
        r.register("reconciles", "Reconciliations, by kind", self.reconciles.clone());
        r.register("reconcile_failures", "Reconciliations that failed, by kind", self.failures.clone());
        r.register_with_unit(
            "reconcile_duration",
            "How long reconciliations took, by kind",
            Unit::Seconds,
            self.durations.clone(),
        );
        r.register("tokens_minted", "Token texts minted", self.minted.clone());
        r.register("snapshots_written", "Snapshots written for proxies", self.snapshots.clone());
        r.register("nudges", "Annotations changed to hurry a kubelet", self.nudges.clone());
        r.register(
            "refusal_messages",
            "Messages to pods about tokens to refuse at once",
            self.refusals.clone(),
        );
        r.register("refreshes", "Answers of the token endpoint", self.refreshes.clone());
        r.register("proxy_poll_failures", "Polls of proxy pods that failed", self.poll_failures.clone());
        r.register("leader", "1 on the replica that reconciles", self.leader.clone());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_carry_the_prefix_and_the_kind() {
        let metrics = Metrics::new();
        metrics.reconciled("RouterToken", 0.01, true);
        metrics.set_leader(true);
        let text = metrics.encode();
        assert!(
            text.contains("la_router_operator_reconcile_failures_total{kind=\"RouterToken\"} 1"),
            "{text}"
        );
        assert!(text.contains("la_router_operator_leader 1"), "{text}");
    }
}
