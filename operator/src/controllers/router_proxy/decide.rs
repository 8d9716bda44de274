//! What one proxy should serve, and what to say of it. Pure.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use la_core::credential::Credentials;
use la_core::report::LEDGER_REASON;
use la_core::snapshot::Snapshot;
use la_crds::RouterProxy;
use la_crds::compile::{Compiled, ObjectFault};
use la_crds::conditions::{self, Holds, Wanted, kind, reason};
use la_crds::names::service_url;
use la_crds::router_proxy::{LedgerStatus, ReplicaCounts, RouterProxyStatus, TokenCounts};

use self::ledger::Counted;
use super::ProxyError;
use crate::events::Note;
use crate::proxies::PodState;
use crate::published::Order;
use crate::resources::sha256_hex;

pub(crate) mod ledger;

/// How long pods may take to a new snapshot before Programmed says that they have not followed.
const FOLLOWING: Duration = Duration::from_secs(3);

/// How long a pod may refuse a snapshot before it is taken at its word. Files may arrive within that time.
const REFUSING: Duration = Duration::from_secs(10);

/// Least seconds between two epochs that are begun because a pod refuses.
const NEW_LINE_SECONDS: i64 = 600;

/// What is known of one RouterProxy.
#[derive(Debug, Clone)]
pub(crate) struct Observed<'a> {
    /// The object.
    pub(crate) proxy: &'a RouterProxy,
    /// Now.
    pub(crate) now: Timestamp,
    /// What it should serve.
    pub(crate) compiled: &'a Compiled,
    /// What was last written for it, and how long ago.
    pub(crate) previous: Option<Previous<'a>>,
    /// Its pods, by name.
    pub(crate) pods: &'a BTreeMap<String, PodState>,
    /// Its tokens and budgets, whose statuses say what was reported last.
    pub(crate) counted: &'a Counted,
    /// Objects of other people that are in the way.
    pub(crate) conflicts: &'a [String],
}

/// What was last written for a proxy.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Previous<'a> {
    /// The snapshot.
    pub(crate) snapshot: &'a Snapshot,
    /// The credentials beside it.
    pub(crate) credentials: &'a Credentials,
    /// How long ago it was written.
    pub(crate) age: Duration,
}

/// The snapshot to write now, if what is served must change.
pub(crate) fn next_snapshot(seen: &Observed<'_>) -> Option<Snapshot> {
    let wanted = Snapshot { ledger: ledger::record(seen), ..seen.compiled.snapshot.clone() };
    let (epoch, generation) = next_order(seen, &wanted)?;
    Some(Snapshot { epoch, generation, ..wanted })
}

fn next_order(seen: &Observed<'_>, wanted: &Snapshot) -> Option<Order> {
    let reported = seen.pods.values().filter_map(PodState::order).max();
    let Some(previous) = seen.previous else {
        // Nothing is known of what came before, so the line of generations starts anew. Seconds since 1970
        // rise even when proxy, Secret and operator were all made anew beside an old ledger volume.
        let epoch = u64::try_from(seen.now.as_second()).unwrap_or(1);
        return Some((epoch.max(reported.map_or(0, |(epoch, _)| epoch.saturating_add(1))), 1));
    };
    let last = previous.snapshot.order();
    if let Some((epoch, _)) = reported.filter(|reported| *reported > last) {
        // A pod has seen what we have not: the cluster was restored from a backup.
        return Some((epoch.saturating_add(1), 1));
    }
    if is_refused(seen, previous) {
        let now = u64::try_from(seen.now.as_second()).unwrap_or(1);
        return Some((now.max(last.0.saturating_add(1)), 1));
    }
    let same = previous.snapshot.serves_same_as(wanted) && *previous.credentials == seen.compiled.credentials;
    (!same).then_some((last.0, last.1.saturating_add(1)))
}

/// Whether a pod serves nothing because it refuses what it is given. A pod that restarts in a restored
/// cluster does: it remembers a later generation and cannot say which. A new epoch, which is the present
/// second, is above any that it can remember. One that refuses for another reason gets no second one soon.
fn is_refused(seen: &Observed<'_>, previous: Previous<'_>) -> bool {
    let epoch = i64::try_from(previous.snapshot.epoch).unwrap_or(i64::MAX);
    let line_is_old = seen.now.as_second().saturating_sub(epoch) >= NEW_LINE_SECONDS;
    line_is_old && previous.age >= REFUSING && refusing(seen)
}

fn refusing(seen: &Observed<'_>) -> bool {
    seen.pods.values().filter(|pod| !pod.leaving).any(|pod| {
        pod.order() == Some((0, 0)) && pod.report.as_ref().is_some_and(|report| !report.faults.is_empty())
    })
}

/// What to say, and when to look again.
#[derive(Debug, Clone)]
pub(crate) struct Decision {
    /// The status as it should be.
    pub(crate) status: RouterProxyStatus,
    /// Events.
    pub(crate) notes: Vec<Note>,
    /// When to look again at the latest.
    pub(crate) wake: Option<Duration>,
}

/// Decides what to say, once the newest snapshot is written.
pub(crate) fn decide(seen: &Observed<'_>) -> Decision {
    let mut status = seen.proxy.status.clone().unwrap_or_default();
    let generation = seen.proxy.metadata.generation;
    let (name, namespace) = (&seen.proxy.metadata.name, &seen.proxy.metadata.namespace);
    let order = seen.previous.map_or((0, 0), |previous| previous.snapshot.order());
    let counts = counts(seen, order);
    status.observed_generation = generation;
    status.address =
        Some(service_url(name.as_deref().unwrap_or_default(), namespace.as_deref().unwrap_or_default()));
    status.replicas = Some(counts);
    status.config_hash = config_hash(&seen.compiled.snapshot);
    status.tokens = Some(TokenCounts { live: live(seen) });
    let standing = ledger::standing(seen);
    if let Some(id) = standing.counts() {
        status.ledger = Some(LedgerStatus { id: id.to_owned() });
    }
    let (programmed, wake) = programmed(seen, counts, &status);
    for wanted in [accepted(seen), programmed, available(seen, counts), ledger_ready(seen, &standing)] {
        conditions::set(&mut status.conditions, wanted, generation, seen.now);
    }
    let refused = refusing(seen).then_some(REFUSING);
    let wake = [wake, refused].into_iter().flatten().min();
    let notes = notes(seen).chain(ledger::note(seen, &standing)).collect();
    Decision { notes, status, wake }
}

/// What to say when the proxy could not be made what it should be.
pub(crate) fn failed(proxy: &RouterProxy, now: Timestamp, error: &ProxyError) -> Decision {
    let mut status = proxy.status.clone().unwrap_or_default();
    status.observed_generation = proxy.metadata.generation;
    let message = error.to_string();
    let (kind, reason) = match error {
        ProxyError::Conflict(_) => (kind::ACCEPTED, reason::OBJECT_CONFLICT),
        ProxyError::DamagedKeys(_) => (kind::ACCEPTED, reason::CREDENTIAL_MALFORMED),
        _ => (kind::PROGRAMMED, reason::PENDING),
    };
    let wanted = Wanted::new(kind, false, reason, message.clone());
    conditions::set(&mut status.conditions, wanted, proxy.metadata.generation, now);
    Decision { status, notes: vec![Note::warning(reason, "Apply", message)], wake: None }
}

fn own_faults<'a>(seen: &'a Observed<'_>) -> impl Iterator<Item = &'a ObjectFault> {
    seen.compiled
        .faults
        .iter()
        .filter(|fault| fault.kind == "RouterProxy" && Some(&fault.name) == seen.proxy.metadata.name.as_ref())
}

fn counts(seen: &Observed<'_>, order: Order) -> ReplicaCounts {
    let count = |is: &dyn Fn(&PodState) -> bool| {
        i32::try_from(seen.pods.values().filter(|pod| !pod.leaving && is(pod)).count()).unwrap_or(i32::MAX)
    };
    ReplicaCounts {
        desired: seen.proxy.spec.replicas,
        ready: count(&|pod| pod.report.as_ref().is_some_and(|report| report.ready)),
        programmed: count(&|pod| pod.order().is_some_and(|served| served >= order)),
    }
}

fn live(seen: &Observed<'_>) -> i64 {
    let reported = seen.pods.values().filter_map(|pod| pod.report.as_ref()).map(|report| report.live_tokens);
    i64::try_from(reported.max().unwrap_or(0)).unwrap_or(i64::MAX)
}

/// Of everything but tokens: those change all the time.
fn config_hash(snapshot: &Snapshot) -> Option<String> {
    let configuration = Snapshot { tokens: Vec::new(), epoch: 0, generation: 0, ..snapshot.clone() };
    serde_json::to_vec(&configuration).ok().map(|bytes| sha256_hex(&bytes))
}

fn accepted(seen: &Observed<'_>) -> Wanted {
    if let Some(conflict) = seen.conflicts.first() {
        return Wanted::new(kind::ACCEPTED, false, reason::OBJECT_CONFLICT, conflict.clone());
    }
    let faults: Vec<_> = own_faults(seen).collect();
    match faults.first() {
        None => Wanted::new(kind::ACCEPTED, true, reason::ACCEPTED, "the spec makes sense"),
        Some(first) => {
            let all: Vec<_> =
                faults.iter().map(|fault| format!("{}: {}", fault.field, fault.message)).collect();
            Wanted::new(kind::ACCEPTED, false, first.reason, all.join("; "))
        }
    }
}

fn programmed(
    seen: &Observed<'_>,
    counts: ReplicaCounts,
    before: &RouterProxyStatus,
) -> (Wanted, Option<Duration>) {
    let pods = i32::try_from(seen.pods.values().filter(|pod| !pod.leaving).count()).unwrap_or(i32::MAX);
    let pending = |reason, message: String| (Wanted::new(kind::PROGRAMMED, false, reason, message), None);
    if counts.desired == 0 && pods == 0 {
        return pending(reason::SCALED_TO_ZERO, "no pod should run".to_owned());
    }
    if pods == 0 {
        return pending(reason::NO_READY_PODS, "no pod is running yet".to_owned());
    }
    let all = "every pod serves the newest configuration";
    if counts.programmed >= pods && pods >= counts.desired {
        return (Wanted::new(kind::PROGRAMMED, true, reason::PROGRAMMED, all), None);
    }
    // Pods follow within a second, so a change alone does not make the condition flap.
    let age = seen.previous.map_or(FOLLOWING, |previous| previous.age);
    if conditions::is_true(&before.conditions, kind::PROGRAMMED) && age < FOLLOWING {
        return (Wanted::new(kind::PROGRAMMED, true, reason::PROGRAMMED, all), Some(FOLLOWING - age));
    }
    let unreachable = seen.pods.iter().find_map(|(name, pod)| {
        pod.unreachable.as_ref().map(|why| format!("; {name} cannot be reached: {why}"))
    });
    let message = format!(
        "{} of {} pods serve the newest configuration{}",
        counts.programmed,
        pods.max(counts.desired),
        unreachable.unwrap_or_default()
    );
    pending(reason::PENDING, message)
}

fn available(seen: &Observed<'_>, counts: ReplicaCounts) -> Wanted {
    if counts.ready > 0 {
        let message = format!("{} of {} pods are ready", counts.ready, counts.desired);
        return Wanted::new(kind::AVAILABLE, true, reason::AVAILABLE, message);
    }
    if counts.desired == 0 {
        return Wanted::new(kind::AVAILABLE, false, reason::SCALED_TO_ZERO, "no pod should run");
    }
    let why: Vec<_> = seen
        .pods
        .iter()
        .filter(|(_, pod)| !pod.leaving)
        .map(|(name, pod)| match (&pod.report, &pod.unreachable) {
            (Some(report), _) => format!("{name}: {}", report.not_ready.join(", ")),
            (None, Some(why)) => format!("{name} cannot be reached: {why}"),
            (None, None) => format!("{name} was not asked yet"),
        })
        .collect();
    let message = if why.is_empty() { "no pod is running yet".to_owned() } else { why.join("; ") };
    Wanted::new(kind::AVAILABLE, false, reason::NO_READY_PODS, message)
}

/// A pod that cannot count use says so among the reasons why it is not ready.
fn ledger_ready(seen: &Observed<'_>, standing: &ledger::Standing<'_>) -> Wanted {
    if let ledger::Standing::Lost(lost) = standing {
        return Wanted::new(kind::LEDGER_READY, false, reason::LEDGER_LOST, lost.message(seen));
    }
    let reports: Vec<_> =
        seen.pods.values().filter(|pod| !pod.leaving).filter_map(|pod| pod.report.as_ref()).collect();
    let broken =
        reports.iter().flat_map(|report| &report.not_ready).find(|why| why.starts_with(LEDGER_REASON));
    match broken {
        Some(why) => Wanted::new(kind::LEDGER_READY, false, reason::LEDGER_UNAVAILABLE, why.clone()),
        None if reports.is_empty() => {
            Wanted::new(kind::LEDGER_READY, Holds::Unknown, reason::UNKNOWN, "no pod reports")
        }
        None => Wanted::new(kind::LEDGER_READY, true, reason::LEDGER_READY, "use can be counted"),
    }
}

fn notes<'a>(seen: &'a Observed<'_>) -> impl Iterator<Item = Note> + 'a {
    let conflicts = seen
        .conflicts
        .iter()
        .map(|conflict| Note::warning(reason::OBJECT_CONFLICT, "Apply", conflict.clone()));
    let faults = own_faults(seen)
        .map(|fault| Note::warning(fault.reason, "Compile", format!("{}: {}", fault.field, fault.message)));
    conflicts.chain(faults)
}

#[cfg(test)]
mod tests;
