//! A lost volume, step by step.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use la_core::budget::LimitsSpec;
use la_core::credential::Credentials;
use la_core::report::Report;
use la_core::snapshot::{Snapshot, TokenRecord};
use la_crds::RouterProxy;
use la_crds::compile::Compiled;
use la_crds::conditions::{find, kind};
use serde_json::json;

use super::super::{Previous, decide, next_snapshot};
use super::*;
use crate::proxies::PodState;

const NOW: i64 = 1_800_000_000;

#[derive(Default)]
struct Case {
    /// What the status says counts.
    recorded: Option<&'static str>,
    accepted: Option<&'static str>,
    /// What was written last.
    written: Option<LedgerRecord>,
    /// The ledgers of the pods; whether each is ready, and on its way out.
    pods: Vec<(&'static str, bool, bool)>,
}

fn proxy(case: &Case) -> RouterProxy {
    let mut proxy: RouterProxy = serde_json::from_value(json!({
        "apiVersion": "router.link-assistant.dev/v1alpha1", "kind": "RouterProxy",
        "metadata": { "name": "gateway", "namespace": "platform", "generation": 2 },
        "spec": { "routes": [{ "candidates": [{ "provider": "claude" }] }] },
        "status": case.recorded.map_or(json!({}), |id| json!({ "ledger": { "id": id } })),
    }))
    .unwrap();
    if let Some(id) = case.accepted {
        proxy.annotations_mut().insert(ANNOTATION_ACCEPT_LEDGER.to_owned(), id.to_owned());
    }
    proxy
}

fn pod((ledger, ready, leaving): (&str, bool, bool)) -> PodState {
    let ledger_id = Some(ledger.to_owned());
    let report = Report { epoch: 7, generation: 3, ready, ledger_id, ..Report::default() };
    PodState { report: Some(report), leaving, ..PodState::default() }
}

fn floor(name: &str) -> SavedOwner {
    SavedOwner::new(Subject::of("gateway", "team-a", name).unwrap())
}

fn counts(id: &str, floors: &[SavedOwner]) -> LedgerRecord {
    LedgerRecord { id: id.to_owned(), floors: floors.to_vec() }
}

/// What the ledger's record is in the next snapshot, and what is decided once it is written.
fn judged(
    case: &Case,
    compiled: &Compiled,
    counted: &Counted,
) -> (Option<LedgerRecord>, super::super::Decision) {
    let (proxy, none) = (proxy(case), Credentials::new());
    let pods: BTreeMap<_, _> =
        (0..).zip(&case.pods).map(|(at, state)| (format!("gateway-{at}"), pod(*state))).collect();
    let before =
        Snapshot { epoch: 7, generation: 3, ledger: case.written.clone(), ..compiled.snapshot.clone() };
    let previous = Previous { snapshot: &before, credentials: &none, age: Duration::from_secs(60) };
    let mut seen = Observed {
        proxy: &proxy,
        now: Timestamp::from_second(NOW).unwrap(),
        compiled,
        previous: Some(previous),
        pods: &pods,
        counted,
        conflicts: &[],
    };
    let next = next_snapshot(&seen).unwrap_or_else(|| before.clone());
    seen.previous = Some(Previous { snapshot: &next, ..previous });
    (next.ledger.clone(), decide(&seen))
}

fn nothing() -> Compiled {
    let snapshot = Snapshot::empty("platform/gateway");
    Compiled { snapshot, credentials: Credentials::new(), faults: Vec::new() }
}

/// A sentence, the ledger that counts then, and whether use can be counted, where that is known.
type Judgement = (&'static str, Case, Option<&'static str>, Option<bool>);

fn cases() -> [Judgement; 8] {
    [
        ("no pod reports", Case::default(), None, None),
        ("the first", Case { pods: vec![("a", true, false)], ..Case::default() }, Some("a"), Some(true)),
        (
            "the same again",
            Case { recorded: Some("a"), pods: vec![("a", true, false)], ..Case::default() },
            Some("a"),
            Some(true),
        ),
        (
            "another one",
            Case { recorded: Some("a"), pods: vec![("b", false, false)], ..Case::default() },
            Some("a"),
            Some(false),
        ),
        (
            "another one, and the status is lost too",
            Case { written: Some(counts("a", &[])), pods: vec![("b", false, false)], ..Case::default() },
            Some("a"),
            Some(false),
        ),
        (
            "another one beside an earlier consent",
            Case {
                recorded: Some("b"),
                accepted: Some("b"),
                pods: vec![("c", false, false)],
                ..Case::default()
            },
            Some("b"),
            Some(false),
        ),
        (
            "another one of a pod on its way out",
            Case {
                recorded: Some("a"),
                pods: vec![("b", false, true), ("a", true, false)],
                ..Case::default()
            },
            Some("a"),
            Some(true),
        ),
        (
            "an accepted one",
            Case {
                recorded: Some("a"),
                accepted: Some("b"),
                pods: vec![("b", false, false)],
                ..Case::default()
            },
            Some("b"),
            Some(true),
        ),
    ]
}

#[test]
fn first_ledger_counts_and_another_one_only_once_it_is_accepted() {
    for (sentence, case, expected, is_ready) in cases() {
        let (record, decision) = judged(&case, &nothing(), &Counted::default());
        assert_eq!(record.as_ref().map(|record| record.id.as_str()), expected, "{sentence}");
        assert_eq!(decision.status.ledger.map(|ledger| ledger.id).as_deref(), expected, "{sentence}");
        let condition = find(&decision.status.conditions, kind::LEDGER_READY).unwrap();
        let status = is_ready.map_or("Unknown", |is_ready| if is_ready { "True" } else { "False" });
        assert_eq!(condition.status, status, "{sentence}: {condition:?}");
        assert_eq!(condition.reason == reason::LEDGER_LOST, is_ready == Some(false), "{sentence}");
    }
}

#[test]
fn owner_is_told_what_to_do() {
    let case = Case { recorded: Some("a"), pods: vec![("b", false, false)], ..Case::default() };
    let (_, decision) = judged(&case, &nothing(), &Counted::default());
    let [note] = decision.notes.as_slice() else { panic!("{:?}", decision.notes) };
    assert!(note.warning && note.reason == reason::LEDGER_LOST);
    let command = "kubectl annotate --overwrite -n platform routerproxy gateway \
                   router.link-assistant.dev/accept-ledger=b";
    assert!(
        note.message.starts_with("the ledger of pod gateway-0 is b; a, which")
            && note.message.ends_with(command)
    );
}

#[test]
fn floors_stay_until_a_pod_serves_from_them() {
    let floors = [floor("agent")];
    let written = Some(counts("b", &floors));
    let stays = |pods| {
        let case = Case { recorded: Some("b"), written: written.clone(), pods, ..Case::default() };
        judged(&case, &nothing(), &Counted::default()).0.unwrap().floors == floors
    };
    assert!(stays(vec![]), "no pod reports");
    assert!(stays(vec![("b", false, false)]), "it is not ready");
    assert!(stays(vec![("c", true, false)]), "it has another ledger");
    assert!(!stays(vec![("b", true, false)]));
}

fn budget(name: &str, unit: &str, window: serde_json::Value) -> serde_json::Value {
    json!({ "name": name, "unit": unit, "limit": "100", "window": window })
}

fn day_and_hour() -> LimitsSpec {
    let budgets = [
        budget("day", "Requests", json!({ "calendar": { "every": "Day" } })),
        budget("hour", "USD", json!({ "rolling": "1h" })),
    ];
    serde_json::from_value(json!({ "budgets": budgets })).unwrap()
}

/// A token of which 7 requests were reported, 4 of that day.
fn used_token() -> RouterToken {
    let stood = json!([
        { "name": "day", "unit": "Requests", "used": "4", "limit": "100" },
        { "name": "hour", "unit": "USD", "used": "1.5", "limit": "100" },
        { "name": "renamed", "unit": "Tokens", "used": "9", "limit": "100" },
    ]);
    serde_json::from_value(json!({
        "apiVersion": "router.link-assistant.dev/v1alpha1", "kind": "RouterToken",
        "metadata": { "name": "agent", "namespace": "team-a" },
        "spec": { "proxyRef": { "name": "gateway", "namespace": "platform" }, "secretName": "agent" },
        "status": { "usage": {
            "observedAt": "2027-01-15T07:30:00Z", "requests": 7, "inputTokens": 30, "outputTokens": 12,
            "costUSD": "2.25", "windows": stood,
        } },
    }))
    .unwrap()
}

/// A pool of which 42 tokens were reported.
fn used_pool() -> RouterBudget {
    serde_json::from_value(json!({
        "apiVersion": "router.link-assistant.dev/v1alpha1", "kind": "RouterBudget",
        "metadata": { "name": "team", "namespace": "team-a" },
        "spec": {
            "proxyRef": { "name": "gateway", "namespace": "platform" },
            "budgets": [budget("all", "Tokens", json!({}))],
        },
        "status": {
            "observedAt": "2027-01-15T07:30:00Z",
            "budgets": [{ "name": "all", "unit": "Tokens", "used": "42", "limit": "100" }],
        },
    }))
    .unwrap()
}

#[test]
fn accepted_ledger_starts_from_the_use_that_was_reported() {
    let subject = Subject::of("gateway", "team-a", "agent").unwrap();
    let mut compiled = nothing();
    let record = TokenRecord::new(subject.clone(), Vec::new(), Arc::new(day_and_hour()));
    compiled.snapshot.tokens.push(record);
    let counted = Counted { tokens: vec![Arc::new(used_token())], budgets: vec![Arc::new(used_pool())] };
    let case =
        Case { recorded: Some("a"), accepted: Some("b"), pods: vec![("b", false, false)], ..Case::default() };
    let record = judged(&case, &compiled, &counted).0.unwrap();
    let [agent, team] = record.floors.as_slice() else { panic!("{record:?}") };
    assert_eq!((&agent.subject, agent.nano_usd), (&subject, 2_250_000_000));
    assert_eq!((agent.tokens.total_input(), agent.tokens.output_tokens), (30, 12));
    let told = |owner: &SavedOwner| -> Vec<(String, u64, u64, usize)> {
        let each = owner.meters.iter();
        each.map(|meter| {
            (format!("{} {}", meter.unit, meter.window), meter.start_ms, meter.settled, meter.periods.len())
        })
        .collect()
    };
    let midnight_ms = 1_799_971_200_000;
    let [day, hour, life] = &told(agent)[..] else { panic!("{agent:?}") };
    assert_eq!(*day, ("Requests Day@UTC".to_owned(), midnight_ms, 4, 0));
    assert_eq!((hour.0.as_str(), hour.2, hour.3), ("USD rolling/1h", 1_500_000_000, 1));
    assert_eq!(*life, ("Requests lifetime".to_owned(), 0, 7, 0));
    assert_eq!(team.subject.pool(), Some("team-a/team"));
    assert_eq!(told(team), [("Tokens lifetime".to_owned(), 0, 42, 0)]);
}
