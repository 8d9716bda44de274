//! Metrics of one process. Labels come from fixed sets, and every handle is resolved once, so that
//! counting is one atomic addition.

use std::sync::atomic::AtomicU64;

use la_core::account::Scope;
use la_core::amount::Amounts;
use la_core::report::AccountReport;
use la_core::usage::Usage;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use super::settlement::Settlement;
use crate::accounts::Step;

mod accounts;
mod budgets;

pub use accounts::Failover;

/// Upper bounds of the request duration buckets, in seconds: a refusal takes microseconds, an agent's
/// long turn many minutes.
const DURATION_BUCKETS: [f64; 12] =
    [0.001, 0.005, 0.025, 0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 180.0, 600.0, 1800.0];

/// Status classes from 1xx to 5xx.
const CLASSES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];

/// What a request was for, as a label.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A message.
    Messages,
    /// Counting tokens.
    CountTokens,
    /// The list of models.
    Models,
    /// One model.
    Model,
    /// Answered here: health, unknown paths, bad heads.
    Local,
}

/// Why a request was refused here, as a label.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// A head that no server should accept.
    Head,
    /// Too many connections.
    Connections,
    /// A path, method or query that is not served.
    Surface,
    /// No good token.
    Token,
    /// A token that was revoked or suspended.
    Standing,
    /// A budget that is used up.
    Budget,
    /// A rate that is used up.
    Rate,
    /// Too many requests of one token at one time.
    Concurrency,
    /// A request that nobody can bound, under a budget that must hold.
    Unbounded,
    /// A model without a price, under a budget that must hold.
    Unpriced,
    /// A body that is too large, malformed, compressed or late.
    Body,
    /// No memory left for bodies.
    Memory,
    /// No route takes the model.
    Model,
    /// The ledger cannot answer.
    Ledger,
    /// No account with a usable credential.
    Account,
    /// The vendor could not be reached, or failed.
    Upstream,
}

/// How a vendor failed, as a label.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// No connection.
    Connect,
    /// The connection broke before the answer.
    Send,
    /// No answer in time.
    Timeout,
    /// The answer broke off.
    Reset,
    /// The answer stalled.
    Stall,
    /// The answer was a redirect or otherwise unusable.
    Answer,
    /// The vendor refused the credential.
    Unauthorized,
}

/// What came of renewing a login, as a label.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refresh {
    /// A new one is stored.
    Renewed,
    /// Another stored a new one, which is used.
    Adopted,
    /// The endpoint refused the refresh token.
    Refused,
    /// The endpoint could not be asked, or decided nothing.
    Delayed,
    /// A new one came and could not be stored at once.
    Unstored,
    /// Somebody has to log in.
    GivenUp,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    operation: &'static str,
    status: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OperationLabel {
    operation: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReasonLabel {
    reason: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct FailureLabel {
    kind: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OutcomeLabel {
    outcome: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DirectionLabel {
    direction: &'static str,
}

/// Every metric of the process.
pub struct Metrics {
    registry: Registry,
    requests: [[Counter; CLASSES.len()]; Kind::ALL.len()],
    durations: [Histogram; Kind::ALL.len()],
    refusals: [Counter; Reason::ALL.len()],
    failures: [Counter; Failure::ALL.len()],
    refreshes: [Counter; Refresh::ALL.len()],
    tokens: [Counter; 4],
    budgets: budgets::Counters,
    accounts: accounts::Counters,
    /// Client connections that are open.
    pub connections: Gauge,
    /// Requests that wait for another one of their token to end.
    pub queued: Gauge,
    /// Answers that are being relayed.
    pub open_streams: Gauge,
    /// Bytes of request bodies held in memory.
    pub body_bytes: Gauge,
    /// Connections made to vendors.
    pub upstream_connections: Counter,
    /// Requests admitted without a ledger.
    pub unrecorded: Counter,
    generation: Gauge<u64, AtomicU64>,
    faults: Gauge,
    reloads: Counter,
}

impl Kind {
    const ALL: [Self; 5] = [Self::Messages, Self::CountTokens, Self::Models, Self::Model, Self::Local];

    /// The label's text.
    pub fn label(self) -> &'static str {
        match self {
            Self::Messages => "messages",
            Self::CountTokens => "count_tokens",
            Self::Models => "models",
            Self::Model => "model",
            Self::Local => "local",
        }
    }
}

impl Reason {
    const ALL: [Self; 16] = [
        Self::Head,
        Self::Connections,
        Self::Surface,
        Self::Token,
        Self::Standing,
        Self::Budget,
        Self::Rate,
        Self::Concurrency,
        Self::Unbounded,
        Self::Unpriced,
        Self::Body,
        Self::Memory,
        Self::Model,
        Self::Ledger,
        Self::Account,
        Self::Upstream,
    ];

    /// The label's text.
    pub fn label(self) -> &'static str {
        match self {
            Self::Head => "head",
            Self::Connections => "connections",
            Self::Surface => "surface",
            Self::Token => "token",
            Self::Standing => "standing",
            Self::Budget => "budget",
            Self::Rate => "rate",
            Self::Concurrency => "concurrency",
            Self::Unbounded => "unbounded",
            Self::Unpriced => "unpriced",
            Self::Body => "body",
            Self::Memory => "memory",
            Self::Model => "model",
            Self::Ledger => "ledger",
            Self::Account => "account",
            Self::Upstream => "upstream",
        }
    }
}

impl Failure {
    const ALL: [Self; 7] = [
        Self::Connect,
        Self::Send,
        Self::Timeout,
        Self::Reset,
        Self::Stall,
        Self::Answer,
        Self::Unauthorized,
    ];

    /// The label's text.
    pub fn label(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Send => "send",
            Self::Timeout => "timeout",
            Self::Reset => "reset",
            Self::Stall => "stall",
            Self::Answer => "answer",
            Self::Unauthorized => "unauthorized",
        }
    }
}

impl Refresh {
    const ALL: [Self; 6] =
        [Self::Renewed, Self::Adopted, Self::Refused, Self::Delayed, Self::Unstored, Self::GivenUp];

    /// The label's text.
    pub fn label(self) -> &'static str {
        match self {
            Self::Renewed => "renewed",
            Self::Adopted => "adopted",
            Self::Refused => "refused",
            Self::Delayed => "delayed",
            Self::Unstored => "unstored",
            Self::GivenUp => "given_up",
        }
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// All metrics at zero.
    pub fn new() -> Self {
        let mut registry = Registry::with_prefix("la_router");
        let requests = request_counters(&mut registry);
        let durations = duration_histograms(&mut registry);
        let refusals = {
            let family = Family::<ReasonLabel, Counter>::default();
            registry.register("refusals", "Requests refused by the router itself", family.clone());
            Reason::ALL.map(|reason| family.get_or_create(&ReasonLabel { reason: reason.label() }).clone())
        };
        let failures = {
            let family = Family::<FailureLabel, Counter>::default();
            registry.register("upstream_errors", "Failures of vendors", family.clone());
            Failure::ALL.map(|failure| family.get_or_create(&FailureLabel { kind: failure.label() }).clone())
        };
        let refreshes = {
            let family = Family::<OutcomeLabel, Counter>::default();
            registry.register("refreshes", "Renewals of Claude logins", family.clone());
            Refresh::ALL
                .map(|outcome| family.get_or_create(&OutcomeLabel { outcome: outcome.label() }).clone())
        };
        let tokens = {
            let family = Family::<DirectionLabel, Counter>::default();
            registry.register("tokens", "Tokens that vendors reported", family.clone());
            ["input", "cache_write", "cache_read", "output"]
                .map(|direction| family.get_or_create(&DirectionLabel { direction }).clone())
        };
        let budgets = budgets::Counters::register(&mut registry);
        let accounts = accounts::Counters::register(&mut registry);
        let metrics = Self {
            requests,
            durations,
            refusals,
            failures,
            refreshes,
            tokens,
            budgets,
            accounts,
            connections: Gauge::default(),
            queued: Gauge::default(),
            open_streams: Gauge::default(),
            body_bytes: Gauge::default(),
            upstream_connections: Counter::default(),
            unrecorded: Counter::default(),
            generation: Gauge::default(),
            faults: Gauge::default(),
            reloads: Counter::default(),
            registry,
        };
        metrics.register_rest()
    }

    fn register_rest(mut self) -> Self {
        let registry = &mut self.registry;
        registry.register("connections", "Open client connections", self.connections.clone());
        registry.register("queued_requests", "Requests that wait for their turn", self.queued.clone());
        registry.register("open_streams", "Answers being relayed", self.open_streams.clone());
        registry.register("body_bytes", "Request bodies held in memory, in bytes", self.body_bytes.clone());
        registry.register(
            "upstream_connections",
            "Connections made to vendors",
            self.upstream_connections.clone(),
        );
        registry.register(
            "unrecorded_requests",
            "Requests admitted and counted nowhere, because the ledger could not be asked",
            self.unrecorded.clone(),
        );
        registry.register(
            "snapshot_generation",
            "Generation of the snapshot that is served",
            self.generation.clone(),
        );
        registry.register("snapshot_faults", "Objects left out of the snapshot", self.faults.clone());
        registry.register("snapshot_loads", "Snapshots loaded", self.reloads.clone());
        self
    }

    /// Counts one request that ended with `status` after `duration_ms`.
    pub fn request(&self, kind: Kind, status: u16, duration_ms: u64) {
        let class = usize::from(status / 100).saturating_sub(1).min(CLASSES.len() - 1);
        if let Some(counter) = self.requests.get(kind as usize).and_then(|row| row.get(class)) {
            counter.inc();
        }
        if let Some(histogram) = self.durations.get(kind as usize) {
            // Exact below 2^53 ms.
            #[expect(clippy::cast_precision_loss, reason = "a duration in ms is far below 2^53")]
            histogram.observe(duration_ms as f64 / 1_000.0);
        }
    }

    /// Counts one refusal.
    pub fn refusal(&self, reason: Reason) {
        if let Some(counter) = self.refusals.get(reason as usize) {
            counter.inc();
        }
    }

    /// Counts one outcome of renewing a login.
    pub fn refresh(&self, outcome: Refresh) {
        if let Some(counter) = self.refreshes.get(outcome as usize) {
            counter.inc();
        }
    }

    /// Counts one failure of a vendor.
    pub fn failure(&self, failure: Failure) {
        if let Some(counter) = self.failures.get(failure as usize) {
            counter.inc();
        }
    }

    /// Counts what a vendor reported.
    pub fn tokens(&self, usage: &Usage) {
        let counts =
            [usage.input_tokens, usage.cache_write_tokens, usage.cache_read_tokens, usage.output_tokens];
        for (counter, count) in self.tokens.iter().zip(counts) {
            counter.inc_by(count);
        }
    }

    /// Counts what was reserved for a request.
    pub fn reserved(&self, amounts: &Amounts) {
        self.budgets.reserved(amounts);
    }

    /// Counts what a request came to.
    pub fn settled(&self, settlement: &Settlement) {
        self.budgets.settled(settlement);
    }

    /// Counts a request that goes on with another account.
    pub fn failover(&self, reason: Failover) {
        self.accounts.failover(reason);
    }

    /// Counts an account that is put to rest.
    pub fn cooldown(&self, scope: &Scope) {
        self.accounts.cooldown(scope);
    }

    /// Counts what became of the session of a request.
    pub fn affinity(&self, step: Step) {
        self.accounts.step(step);
    }

    /// Shows accounts as they are now.
    pub fn show_accounts(&self, reports: &[AccountReport]) {
        self.accounts.show(reports);
    }

    /// Notes that a snapshot is served.
    pub fn snapshot_loaded(&self, generation: u64, faults: usize) {
        self.generation.set(generation);
        self.faults.set(i64::try_from(faults).unwrap_or(i64::MAX));
        self.reloads.inc();
    }

    /// The text that Prometheus scrapes (OpenMetrics 1.0).
    pub fn encode(&self) -> String {
        let mut text = String::new();
        // Writing to a String cannot fail.
        let _ = encode(&mut text, &self.registry);
        text
    }
}

fn request_counters(registry: &mut Registry) -> [[Counter; CLASSES.len()]; Kind::ALL.len()] {
    let family = Family::<RequestLabels, Counter>::default();
    registry.register("requests", "Requests that ended, by what they were for and how", family.clone());
    Kind::ALL.map(|kind| {
        CLASSES.map(|status| {
            let labels = RequestLabels { operation: kind.label(), status };
            family.get_or_create(&labels).clone()
        })
    })
}

fn duration_histograms(registry: &mut Registry) -> [Histogram; Kind::ALL.len()] {
    let family =
        Family::<OperationLabel, Histogram>::new_with_constructor(|| Histogram::new(DURATION_BUCKETS));
    registry.register("request_duration_seconds", "From the head to the answer's last byte", family.clone());
    Kind::ALL.map(|kind| family.get_or_create(&OperationLabel { operation: kind.label() }).clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_label_stands_at_the_index_of_its_kind() {
        for (at, kind) in Kind::ALL.into_iter().enumerate() {
            assert_eq!(kind as usize, at, "{kind:?}");
        }
        for (at, reason) in Reason::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, at, "{reason:?}");
        }
        for (at, failure) in Failure::ALL.into_iter().enumerate() {
            assert_eq!(failure as usize, at, "{failure:?}");
        }
    }

    #[test]
    fn counted_requests_appear_under_their_names() {
        let metrics = Metrics::new();
        metrics.request(Kind::Messages, 200, 12);
        metrics.tokens(&Usage { input_tokens: 3, output_tokens: 4, ..Usage::default() });
        metrics.refusal(Reason::Token);
        metrics.failure(Failure::Reset);
        let text = metrics.encode();
        for line in [
            "la_router_requests_total{operation=\"messages\",status=\"2xx\"} 1",
            "la_router_tokens_total{direction=\"output\"} 4",
            "la_router_refusals_total{reason=\"token\"} 1",
            "la_router_upstream_errors_total{kind=\"reset\"} 1",
            "la_router_request_duration_seconds_bucket{le=\"0.025\",operation=\"messages\"} 1",
        ] {
            assert!(text.contains(line), "{line} is missing in\n{text}");
        }
    }
}
