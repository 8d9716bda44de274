//! One sentence per state of a RouterProxy.

use la_core::report::Report;

use super::*;

fn proxy(replicas: i32) -> RouterProxy {
    serde_json::from_value(serde_json::json!({
        "apiVersion": "router.link-assistant.dev/v1alpha1", "kind": "RouterProxy",
        "metadata": { "name": "gateway", "namespace": "platform", "generation": 2 },
        "spec": { "replicas": replicas, "routes": [{ "candidates": [{ "provider": "claude" }] }] },
    }))
    .unwrap()
}

fn compiled(label: &str) -> Compiled {
    let mut snapshot = Snapshot::empty("platform/gateway");
    snapshot
        .routes
        .push(la_core::snapshot::Route { models: vec![label.to_owned()], provider: "claude".to_owned() });
    Compiled { snapshot, credentials: Credentials::new(), faults: Vec::new() }
}

fn written(epoch: u64, generation: u64, label: &str) -> Snapshot {
    Snapshot { epoch, generation, ..compiled(label).snapshot }
}

fn pod(epoch: u64, generation: u64) -> PodState {
    let report = Report { epoch, generation, ready: true, live_tokens: 4, ..Report::default() };
    PodState { report: Some(report), ..PodState::default() }
}

fn pods(states: Vec<PodState>) -> BTreeMap<String, PodState> {
    states.into_iter().enumerate().map(|(at, state)| (format!("gateway-{at}"), state)).collect()
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

#[test]
fn generation_rises_only_with_what_is_served() {
    let none = Credentials::new();
    let cases = [
        ("nothing was written before", None, vec![], Some((1_000, 1))),
        ("nothing is known but a pod reports more", None, vec![pod(5_000, 9)], Some((5_001, 1))),
        ("the same is served", Some(written(7, 3, "a")), vec![pod(7, 3)], None),
        ("something else is served", Some(written(7, 3, "b")), vec![pod(7, 3)], Some((7, 4))),
        ("a pod has seen a later generation", Some(written(7, 3, "a")), vec![pod(7, 8)], Some((8, 1))),
        ("a pod has seen a later epoch", Some(written(7, 3, "a")), vec![pod(9, 1)], Some((10, 1))),
        ("a pod is behind", Some(written(7, 3, "a")), vec![pod(7, 1)], None),
    ];
    for (sentence, before, states, expected) in cases {
        let (proxy, compiled, pods) = (proxy(1), compiled("a"), pods(states));
        let previous = before.as_ref().map(|snapshot| Previous {
            snapshot,
            credentials: &none,
            age: Duration::from_secs(60),
        });
        let seen = Observed {
            proxy: &proxy,
            now: at(1_000),
            compiled: &compiled,
            previous,
            pods: &pods,
            conflicts: &[],
        };
        assert_eq!(next_snapshot(&seen).map(|snapshot| snapshot.order()), expected, "{sentence}");
    }
}

struct Case {
    sentence: &'static str,
    replicas: i32,
    pods: Vec<PodState>,
    age_seconds: u64,
    conflicts: Vec<String>,
    faults: Vec<ObjectFault>,
    /// Status and reason of Accepted, Programmed, Available, LedgerReady.
    expected: [(&'static str, &'static str); 4],
}

impl Default for Case {
    fn default() -> Self {
        Self {
            sentence: "",
            replicas: 1,
            pods: vec![pod(7, 3)],
            age_seconds: 60,
            conflicts: vec![],
            faults: vec![],
            expected: [
                ("True", "Accepted"),
                ("True", "Programmed"),
                ("True", "Available"),
                ("True", "LedgerReady"),
            ],
        }
    }
}

fn cases() -> Vec<Case> {
    let no_pods = ("False", "NoReadyPods");
    let unknown = ("Unknown", "Unknown");
    let good = ("True", "Accepted");
    let broken = Report {
        epoch: 7,
        generation: 3,
        not_ready: vec!["the ledger cannot be written".to_owned()],
        ..Report::default()
    };
    let fault = ObjectFault {
        kind: "RouterProxy",
        namespace: "platform".to_owned(),
        name: "gateway".to_owned(),
        field: "spec.routes[0].candidates[0].provider".to_owned(),
        reason: reason::PROVIDER_NOT_FOUND,
        message: "does not exist".to_owned(),
    };
    vec![
        Case { sentence: "its pod serves the newest", ..Case::default() },
        Case {
            sentence: "no pod runs yet",
            pods: vec![],
            expected: [good, no_pods, no_pods, unknown],
            ..Case::default()
        },
        Case {
            sentence: "it is scaled to zero",
            replicas: 0,
            pods: vec![],
            expected: [good, ("False", "ScaledToZero"), ("False", "ScaledToZero"), unknown],
            ..Case::default()
        },
        Case {
            sentence: "its pod is behind for too long",
            pods: vec![pod(7, 2)],
            expected: [good, ("False", "Pending"), ("True", "Available"), ("True", "LedgerReady")],
            ..Case::default()
        },
        Case {
            sentence: "its pod cannot be reached",
            pods: vec![PodState { unreachable: Some("no answer".to_owned()), ..PodState::default() }],
            expected: [good, ("False", "Pending"), no_pods, unknown],
            ..Case::default()
        },
        Case {
            sentence: "its pod cannot count use",
            pods: vec![PodState { report: Some(broken), ..PodState::default() }],
            expected: [good, ("True", "Programmed"), no_pods, ("False", "LedgerUnavailable")],
            ..Case::default()
        },
        Case {
            sentence: "somebody else's Service is in the way",
            conflicts: vec!["Service gateway exists and is not ours".to_owned()],
            expected: [
                ("False", "ObjectConflict"),
                ("True", "Programmed"),
                ("True", "Available"),
                ("True", "LedgerReady"),
            ],
            ..Case::default()
        },
        Case {
            sentence: "a provider does not exist",
            faults: vec![fault],
            expected: [
                ("False", "ProviderNotFound"),
                ("True", "Programmed"),
                ("True", "Available"),
                ("True", "LedgerReady"),
            ],
            ..Case::default()
        },
    ]
}

fn conditions_of(status: &RouterProxyStatus) -> [(String, String); 4] {
    [kind::ACCEPTED, kind::PROGRAMMED, kind::AVAILABLE, kind::LEDGER_READY].map(|kind| {
        let condition = conditions::find(&status.conditions, kind).unwrap();
        (condition.status.clone(), condition.reason.clone())
    })
}

#[test]
fn status_says_what_the_pods_really_report() {
    for case in cases() {
        let (proxy, pods, none) = (proxy(case.replicas), pods(case.pods), Credentials::new());
        let compiled = Compiled { faults: case.faults, ..compiled("a") };
        let before = written(7, 3, "a");
        let age = Duration::from_secs(case.age_seconds);
        let previous = Some(Previous { snapshot: &before, credentials: &none, age });
        let conflicts = &case.conflicts;
        let seen =
            Observed { proxy: &proxy, now: at(1_000), compiled: &compiled, previous, pods: &pods, conflicts };
        let expected = case.expected.map(|(status, reason)| (status.to_owned(), reason.to_owned()));
        assert_eq!(conditions_of(&decide(&seen).status), expected, "{}", case.sentence);
    }
}

#[test]
fn programmed_does_not_flap_while_pods_follow_a_change() {
    let (mut proxy, pods, none) = (proxy(1), pods(vec![pod(7, 3)]), Credentials::new());
    let compiled = compiled("a");
    let decide_at = |proxy: &RouterProxy, generation, age| {
        let before = written(7, generation, "a");
        let previous = Some(Previous { snapshot: &before, credentials: &none, age });
        decide(&Observed {
            proxy,
            now: at(1_000),
            compiled: &compiled,
            previous,
            pods: &pods,
            conflicts: &[],
        })
    };
    proxy.status = Some(decide_at(&proxy, 3, Duration::from_secs(60)).status);
    let young = decide_at(&proxy, 4, Duration::from_secs(1));
    assert_eq!(conditions_of(&young.status)[1].0, "True");
    assert_eq!(young.wake, Some(FOLLOWING - Duration::from_secs(1)), "nobody would look again");
    let old = decide_at(&proxy, 4, FOLLOWING);
    assert_eq!(conditions_of(&old.status)[1].0, "False");
}
