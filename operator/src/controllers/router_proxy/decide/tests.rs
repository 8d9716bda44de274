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
    snapshot.routes.push(la_core::snapshot::Route::to("claude", vec![label.to_owned()]));
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

/// What is seen at second 1,000 of a proxy without tokens and budgets, with nothing in its way.
fn look<'a>(
    proxy: &'a RouterProxy,
    compiled: &'a Compiled,
    previous: Option<Previous<'a>>,
    pods: &'a BTreeMap<String, PodState>,
) -> Observed<'a> {
    let counted = const { &Counted { tokens: Vec::new(), budgets: Vec::new() } };
    Observed { proxy, now: at(1_000), compiled, previous, pods, counted, conflicts: &[] }
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
        let seen = look(&proxy, &compiled, previous, &pods);
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

const GOOD: (&str, &str) = ("True", "Accepted");
const AVAILABLE: (&str, &str) = ("True", "Available");
const COUNTS: (&str, &str) = ("True", "LedgerReady");
const NO_PODS: (&str, &str) = ("False", "NoReadyPods");
const UNKNOWN: (&str, &str) = ("Unknown", "Unknown");

fn states_of_pods() -> Vec<Case> {
    let zero = ("False", "ScaledToZero");
    let not_ready = vec![format!("{LEDGER_REASON}the disk is full")];
    let broken = Report { epoch: 7, generation: 3, not_ready, ..Report::default() };
    vec![
        Case { sentence: "its pod serves the newest", ..Case::default() },
        Case {
            sentence: "no pod runs yet",
            pods: vec![],
            expected: [GOOD, NO_PODS, NO_PODS, UNKNOWN],
            ..Case::default()
        },
        Case {
            sentence: "it is scaled to zero",
            replicas: 0,
            pods: vec![],
            expected: [GOOD, zero, zero, UNKNOWN],
            ..Case::default()
        },
        Case {
            sentence: "its pod is behind for too long",
            pods: vec![pod(7, 2)],
            expected: [GOOD, ("False", "Pending"), AVAILABLE, COUNTS],
            ..Case::default()
        },
        Case {
            sentence: "its pod cannot be reached",
            pods: vec![PodState { unreachable: Some("no answer".to_owned()), ..PodState::default() }],
            expected: [GOOD, ("False", "Pending"), NO_PODS, UNKNOWN],
            ..Case::default()
        },
        Case {
            sentence: "its pod cannot count use",
            pods: vec![PodState { report: Some(broken), ..PodState::default() }],
            expected: [GOOD, ("True", "Programmed"), NO_PODS, ("False", "LedgerUnavailable")],
            ..Case::default()
        },
    ]
}

fn states_of_the_spec() -> Vec<Case> {
    let fault = ObjectFault {
        kind: "RouterProxy",
        namespace: "platform".to_owned(),
        name: "gateway".to_owned(),
        field: "spec.routes[0].candidates[0].provider".to_owned(),
        reason: reason::PROVIDER_NOT_FOUND,
        message: "does not exist".to_owned(),
    };
    let but_accepted = |reason| [("False", reason), ("True", "Programmed"), AVAILABLE, COUNTS];
    vec![
        Case {
            sentence: "somebody else's Service is in the way",
            conflicts: vec!["Service gateway exists and is not ours".to_owned()],
            expected: but_accepted("ObjectConflict"),
            ..Case::default()
        },
        Case {
            sentence: "a provider does not exist",
            faults: vec![fault],
            expected: but_accepted("ProviderNotFound"),
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
    for case in states_of_pods().into_iter().chain(states_of_the_spec()) {
        let (proxy, pods, none) = (proxy(case.replicas), pods(case.pods), Credentials::new());
        let compiled = Compiled { faults: case.faults, ..compiled("a") };
        let before = written(7, 3, "a");
        let age = Duration::from_secs(case.age_seconds);
        let previous = Some(Previous { snapshot: &before, credentials: &none, age });
        let seen = Observed { conflicts: &case.conflicts, ..look(&proxy, &compiled, previous, &pods) };
        let expected = case.expected.map(|(status, reason)| (status.to_owned(), reason.to_owned()));
        assert_eq!(conditions_of(&decide(&seen).status), expected, "{}", case.sentence);
    }
}

#[test]
fn pod_that_refuses_everything_gets_a_new_epoch_once() {
    let (proxy, compiled, none) = (proxy(1), compiled("a"), Credentials::new());
    let refusing = |faults: &[&str]| {
        let faults = faults.iter().map(|fault| (*fault).to_owned()).collect();
        pods(vec![PodState { report: Some(Report { faults, ..Report::default() }), ..PodState::default() }])
    };
    let old = "snapshot 3 of epoch 7 is older than 8 of epoch 7, which was served before; it is refused";
    let cases = [
        ("it refuses for long", 7, &[old][..], 60, Some((9_000, 1))),
        ("it has just been told", 7, &[old][..], 1, None),
        ("it refuses nothing, it is starting", 7, &[][..], 60, None),
        ("the epoch is new already", 8_990, &[old][..], 60, None),
    ];
    for (sentence, epoch, faults, age_seconds, expected) in cases {
        let (before, pods) = (written(epoch, 3, "a"), refusing(faults));
        let age = Duration::from_secs(age_seconds);
        let previous = Some(Previous { snapshot: &before, credentials: &none, age });
        let seen = Observed { now: at(9_000), ..look(&proxy, &compiled, previous, &pods) };
        assert_eq!(next_snapshot(&seen).map(|snapshot| snapshot.order()), expected, "{sentence}");
    }
}

#[test]
fn programmed_does_not_flap_while_pods_follow_a_change() {
    let (mut proxy, pods, none) = (proxy(1), pods(vec![pod(7, 3)]), Credentials::new());
    let compiled = compiled("a");
    let decide_at = |proxy: &RouterProxy, generation, age| {
        let before = written(7, generation, "a");
        let previous = Some(Previous { snapshot: &before, credentials: &none, age });
        decide(&look(proxy, &compiled, previous, &pods))
    };
    proxy.status = Some(decide_at(&proxy, 3, Duration::from_secs(60)).status);
    let young = decide_at(&proxy, 4, Duration::from_secs(1));
    assert_eq!(conditions_of(&young.status)[1].0, "True");
    assert_eq!(young.wake, Some(FOLLOWING - Duration::from_secs(1)), "nobody would look again");
    let old = decide_at(&proxy, 4, FOLLOWING);
    assert_eq!(conditions_of(&old.status)[1].0, "False");
}
