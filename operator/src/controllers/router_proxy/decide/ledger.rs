//! Which embedded ledger counts for a proxy, and from where one starts whose volume was lost. Pure.
//!
//! The first ledger that a pod names counts. A pod with another one has lost what was counted, and serves nobody
//! until an owner of the proxy accepts it; then it starts from the use that was reported last. Only one pod has an
//! embedded ledger: the API server refuses more.

use std::collections::HashMap;
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt as _;
use la_core::amount::Unit;
use la_core::budget::{Budget, Limits, SavedMeter, SavedOwner, Window, check_budgets};
use la_core::id::Subject;
use la_core::snapshot::LedgerRecord;
use la_core::usage::Usage;
use la_crds::conditions::reason;
use la_crds::limits::BudgetStatus;
use la_crds::names::ANNOTATION_ACCEPT_LEDGER;
use la_crds::{RouterBudget, RouterToken};

use super::Observed;
use crate::events::Note;

/// Tokens and budgets of a proxy.
#[derive(Debug, Clone, Default)]
pub(crate) struct Counted {
    /// The tokens.
    pub(crate) tokens: Vec<Arc<RouterToken>>,
    /// The budgets.
    pub(crate) budgets: Vec<Arc<RouterBudget>>,
}

/// What is in the place of a proxy's ledger.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Standing<'a> {
    /// No pod has named one yet, or use is counted elsewhere.
    Unknown,
    /// The one that counts, as far as is known.
    Counts(&'a str),
    /// Another one.
    Lost(Lost<'a>),
    /// Another one, which an owner of the proxy accepts.
    Accepted(&'a str),
}

/// A ledger that is in the place of the one that counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Lost<'a> {
    /// The one that counts.
    counts: &'a str,
    /// The other one.
    found: &'a str,
    /// The pod that has it.
    pod: &'a str,
}

/// What is in the place of the proxy's ledger.
pub(super) fn standing<'a>(seen: &Observed<'a>) -> Standing<'a> {
    let in_status = seen.proxy.status.as_ref().and_then(|status| status.ledger.as_ref());
    let known = in_status.map(|ledger| ledger.id.as_str()).or_else(|| Some(written(seen)?.id.as_str()));
    let staying = seen.pods.iter().filter(|(_, pod)| !pod.leaving);
    let mut found =
        staying.filter_map(|(name, pod)| Some((name, pod.report.as_ref()?.ledger_id.as_deref()?)));
    let Some(counts) = known else {
        return found.next().map_or(Standing::Unknown, |(_, first)| Standing::Counts(first));
    };
    let Some((pod, found)) = found.find(|(_, found)| *found != counts) else {
        return Standing::Counts(counts);
    };
    match seen.proxy.annotations().get(ANNOTATION_ACCEPT_LEDGER) {
        Some(accepted) if accepted == found => Standing::Accepted(found),
        _ => Standing::Lost(Lost { counts, found, pod }),
    }
}

/// What pods are told of it.
pub(super) fn record(seen: &Observed<'_>) -> Option<LedgerRecord> {
    let (id, floors) = match standing(seen) {
        Standing::Unknown => return None,
        Standing::Accepted(id) => (id, floors(seen)),
        Standing::Counts(id) | Standing::Lost(Lost { counts: id, .. }) => (id, floors_not_taken(seen, id)),
    };
    Some(LedgerRecord { id: id.to_owned(), floors })
}

/// The Event that it is worth.
pub(super) fn note(seen: &Observed<'_>, standing: &Standing<'_>) -> Option<Note> {
    match standing {
        Standing::Unknown | Standing::Counts(_) => None,
        Standing::Lost(lost) => Some(Note::warning(reason::LEDGER_LOST, "Count", lost.message(seen))),
        Standing::Accepted(id) => {
            let message = format!("ledger {id} counts from now on, from the use that was reported last");
            Some(Note::normal(reason::LEDGER_ACCEPTED, "Count", message))
        }
    }
}

impl<'a> Standing<'a> {
    /// The ledger that counts from now on.
    pub(super) fn counts(&self) -> Option<&'a str> {
        match self {
            Self::Unknown => None,
            Self::Counts(id) | Self::Accepted(id) | Self::Lost(Lost { counts: id, .. }) => Some(id),
        }
    }
}

impl Lost<'_> {
    /// What has happened and what to do.
    pub(super) fn message(&self, seen: &Observed<'_>) -> String {
        let Self { counts, found, pod } = self;
        let (name, namespace) = (seen.proxy.name_any(), seen.proxy.namespace().unwrap_or_default());
        format!(
            "the ledger of pod {pod} is {found}; {counts}, which has counted so far, is gone with its volume, and \
             requests are refused. Bring the volume back, or go on from the use that was reported last: kubectl \
             annotate --overwrite -n {namespace} routerproxy {name} {ANNOTATION_ACCEPT_LEDGER}={found}"
        )
    }
}

/// What was last written of a ledger.
fn written<'a>(seen: &Observed<'a>) -> Option<&'a LedgerRecord> {
    seen.previous?.snapshot.ledger.as_ref()
}

/// The floors that were written for the ledger `id`, until its pod serves requests from there.
fn floors_not_taken(seen: &Observed<'_>, id: &str) -> Vec<SavedOwner> {
    let Some(previous) = seen.previous else { return Vec::new() };
    let Some(written) = written(seen).filter(|written| written.id == id) else { return Vec::new() };
    let has_taken = seen.pods.values().any(|pod| {
        let ready =
            pod.report.as_ref().is_some_and(|report| report.ready && report.ledger_id.as_deref() == Some(id));
        ready && pod.order() >= Some(previous.snapshot.order())
    });
    if has_taken { Vec::new() } else { written.floors.clone() }
}

/// The use that was reported last, as the statuses of tokens and budgets have it.
fn floors(seen: &Observed<'_>) -> Vec<SavedOwner> {
    let (snapshot, proxy) = (&seen.compiled.snapshot, seen.proxy.name_any());
    let limits: HashMap<&Subject, _> =
        snapshot.tokens.iter().map(|token| (&token.subject, &token.limits)).collect();
    let tokens = seen.counted.tokens.iter().filter_map(|token| {
        let usage = token.status.as_ref()?.usage.as_ref()?;
        let subject = Subject::of(&proxy, &token.namespace()?, &token.name_any()).ok()?;
        let budgets =
            limits.get(&subject).and_then(|spec| Limits::check(spec).ok()).unwrap_or_default().budgets;
        let mut floor = used(subject, &budgets, &usage.windows, &usage.observed_at);
        let whole = |count: i64| u64::try_from(count).unwrap_or_default();
        let (input_tokens, output_tokens) = (whole(usage.input_tokens), whole(usage.output_tokens));
        floor.tokens = Usage { input_tokens, output_tokens, ..Usage::default() };
        floor.nano_usd = Unit::Usd.parse(&usage.cost_usd).unwrap_or_default();
        raise(&mut floor, meter(Unit::Requests, &Window::Lifetime, whole(usage.requests), 0));
        Some(floor)
    });
    let pools = seen.counted.budgets.iter().filter_map(|budget| {
        let status = budget.status.as_ref()?;
        let subject = Subject::of_pool(&proxy, &budget.namespace()?, &budget.name_any()).ok()?;
        let budgets = check_budgets(&budget.spec.budgets).ok()?;
        Some(used(subject, &budgets, &status.budgets, status.observed_at.as_ref()?))
    });
    tokens.chain(pools).collect()
}

/// What one owner has used of its budgets, as was observed then.
fn used(subject: Subject, budgets: &[Budget], stood: &[BudgetStatus], observed_at: &Time) -> SavedOwner {
    let observed_ms = u64::try_from(observed_at.0.as_millisecond()).unwrap_or_default();
    let mut owner = SavedOwner { last_seen_ms: observed_ms, ..SavedOwner::new(subject) };
    for status in stood {
        let is_it = |budget: &&Budget| *budget.name == *status.name && budget.unit == status.unit;
        let (Some(budget), Ok(used)) = (budgets.iter().find(is_it), status.unit.parse(&status.used)) else {
            continue;
        };
        raise(&mut owner, meter(budget.unit, &budget.window, used, observed_ms));
    }
    owner
}

/// A meter of which so much was taken when it was observed. Of a rolling window all of it counts as taken then.
fn meter(unit: Unit, window: &Window, taken: u64, observed_ms: u64) -> SavedMeter {
    let start_ms = window.period_at(observed_ms).start_ms;
    let is_rolling = matches!(window, Window::Rolling { .. });
    SavedMeter {
        unit,
        window: window.clone(),
        start_ms,
        settled: taken,
        open: 0,
        granted: taken,
        granted_until_ms: u64::MAX,
        periods: if is_rolling { vec![(start_ms, taken)] } else { Vec::new() },
    }
}

/// Several budgets may look at one meter.
fn raise(owner: &mut SavedOwner, meter: SavedMeter) {
    let subject = owner.subject.clone();
    owner.raise_to(&SavedOwner { meters: vec![meter], ..SavedOwner::new(subject) });
}

#[cfg(test)]
mod tests;
