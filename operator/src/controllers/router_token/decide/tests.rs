//! One sentence per state of a RouterToken.

use super::*;

const NOW: i64 = 1_000_000;
const DAY: i64 = 86_400;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

/// A text that started `age` seconds ago and lives a day.
fn text(id: &str, age: i64, state: TokenState) -> TokenText {
    let (from, until) = (NOW - age, NOW - age + DAY);
    TokenText { id: id.to_owned(), not_before: Time(at(from)), not_after: Time(at(until)), state }
}

fn token(spec: serde_json::Value, texts: Vec<TokenText>) -> RouterToken {
    let mut whole = serde_json::json!({ "proxyRef": { "name": "gateway" }, "secretName": "agent-token" });
    whole.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
    let mut token: RouterToken = serde_json::from_value(serde_json::json!({
        "apiVersion": "router.link-assistant.dev/v1alpha1", "kind": "RouterToken",
        "metadata": { "name": "agent", "namespace": "team-a", "generation": 2 }, "spec": whole,
    }))
    .unwrap();
    let revision = i64::try_from(texts.len()).ok();
    token.status = Some(RouterTokenStatus { tokens: texts, revision, ..RouterTokenStatus::default() });
    token
}

fn ours(id: &str) -> SecretState {
    SecretState::Ours { id: id.to_owned(), key_id: "key".to_owned(), intact: true, as_wanted: true }
}

fn ours_but(id: &str, key_id: &str, intact: bool, as_wanted: bool) -> SecretState {
    SecretState::Ours { id: id.to_owned(), key_id: key_id.to_owned(), intact, as_wanted }
}

fn ready() -> ProxyState {
    ProxyState::Ready { key_id: "key".to_owned() }
}

struct Case {
    sentence: &'static str,
    spec: serde_json::Value,
    texts: Vec<TokenText>,
    proxy: ProxyState,
    secret: SecretState,
    served: bool,
    step: Step,
    /// Ids and states afterwards, newest first.
    after: Vec<(&'static str, TokenState)>,
    events: Vec<&'static str>,
    /// Status and reason of Ready; nothing when it was not set.
    ready: Option<(&'static str, &'static str)>,
}

fn case(sentence: &'static str, texts: Vec<TokenText>, secret: SecretState) -> Case {
    Case {
        sentence,
        spec: serde_json::json!({}),
        texts,
        proxy: ready(),
        secret,
        served: true,
        step: Step::Rest,
        after: vec![],
        events: vec![],
        ready: None,
    }
}

use TokenState::{Active, Issuing, Revoked};

fn minting() -> Vec<Case> {
    vec![
        Case {
            step: Step::Issue,
            after: vec![("new", Issuing)],
            ready: Some(("False", "Issuing")),
            ..case("there is no text yet", vec![], SecretState::Free)
        },
        Case {
            step: Step::Store,
            after: vec![("a", Issuing)],
            ..case(
                "an id is recorded and the Secret is not written",
                vec![text("a", 1, Issuing)],
                SecretState::Free,
            )
        },
        Case {
            step: Step::Activate,
            after: vec![("a", Active)],
            events: vec!["Issued"],
            ready: Some(("True", "Issued")),
            ..case("the Secret is written and the id is not Active", vec![text("a", 1, Issuing)], ours("a"))
        },
        Case {
            after: vec![("a", Active)],
            ready: Some(("True", "Issued")),
            ..case("everything is as it should be", vec![text("a", 1, Active)], ours("a"))
        },
        Case {
            served: false,
            after: vec![("a", Active)],
            ready: Some(("False", "Pending")),
            ..case("the proxy does not know the text yet", vec![text("a", 1, Active)], ours("a"))
        },
        Case {
            step: Step::Store,
            after: vec![("a", Active)],
            ..case("outputs were changed", vec![text("a", 1, Active)], ours_but("a", "key", true, false))
        },
    ]
}

fn restoring() -> Vec<Case> {
    let restored = |sentence, secret| Case {
        step: Step::Issue,
        after: vec![("new", Issuing), ("a", Revoked)],
        events: vec!["SecretRestored"],
        ready: Some(("False", "Issuing")),
        ..case(sentence, vec![text("a", 9, Active)], secret)
    };
    vec![
        restored("the Secret was deleted", SecretState::Free),
        restored("the Secret was edited", ours_but("a", "key", false, false)),
        restored("the Secret holds another id", ours_but("x", "key", true, false)),
        restored("the signing key was lost", ours_but("a", "old-key", true, false)),
        Case {
            step: Step::Store,
            after: vec![("b", Issuing), ("a", Revoked)],
            ..case(
                "the Secret is edited again while it is restored",
                vec![text("b", 1, Issuing), text("a", 9, Revoked)],
                ours_but("a", "key", false, false),
            )
        },
    ]
}

fn renewing() -> Vec<Case> {
    let old = || text("a", DAY * 3 / 4, Active);
    let pending = |sentence, age| Case {
        after: vec![("b", Issuing), ("a", Active)],
        ..case(sentence, vec![text("b", age, Issuing), old()], ours_but("a", "key", true, false))
    };
    vec![
        Case {
            step: Step::Issue,
            after: vec![("new", Issuing), ("a", Active)],
            ..case("a third of its life is left", vec![old()], ours("a"))
        },
        Case { served: false, ..pending("the proxy must learn of the new text first", 1) },
        Case { step: Step::Store, ..pending("the proxy knows the new text", 1) },
        Case { served: false, step: Step::Store, ..pending("the proxy has not learned of it in time", 60) },
        Case {
            step: Step::Activate,
            after: vec![("b", Active), ("a", Active)],
            events: vec!["Rotated"],
            ready: Some(("True", "Issued")),
            ..case("the new text is in the Secret", vec![text("b", 1, Issuing), old()], ours("b"))
        },
        Case {
            step: Step::Issue,
            after: vec![("new", Issuing)],
            ready: Some(("False", "Issuing")),
            ..case("the text has ended", vec![text("a", DAY, Active)], ours("a"))
        },
        Case {
            spec: serde_json::json!({ "duration": "1h" }),
            step: Step::Issue,
            after: vec![("new", Issuing), ("a", Active)],
            ..case("another duration is asked for", vec![text("a", 9, Active)], ours("a"))
        },
        Case {
            spec: serde_json::json!({ "suspend": true }),
            after: vec![("a", Active)],
            events: vec!["Suspended"],
            ready: Some(("False", "Suspended")),
            ..case("a suspended token is not renewed", vec![old()], ours("a"))
        },
    ]
}

fn blocked() -> Vec<Case> {
    let blocked = |sentence, proxy, secret, reason| Case {
        proxy,
        after: vec![("a", Active)],
        events: vec![reason],
        ready: Some(("False", reason)),
        ..case(sentence, vec![text("a", 9, Active)], secret)
    };
    let foreign = || SecretState::Foreign { why: "it is controlled by Certificate web".to_owned() };
    vec![
        blocked("the proxy does not exist", ProxyState::Missing, SecretState::Free, "ProxyNotFound"),
        blocked(
            "the namespace is not admitted",
            ProxyState::Refusing {
                reason: reason::NAMESPACE_NOT_ADMITTED,
                message: "spec.proxyRef: not admitted".to_owned(),
            },
            SecretState::Free,
            "NamespaceNotAdmitted",
        ),
        blocked("the Secret is somebody else's", ready(), foreign(), "SecretConflict"),
        Case {
            events: vec!["SecretConflict"],
            ready: Some(("False", "SecretConflict")),
            ..case("no id is recorded while a Secret is in the way", vec![], foreign())
        },
        Case {
            proxy: ProxyState::Keyless,
            ready: Some(("False", "Issuing")),
            ..case("the proxy has no keys yet", vec![], SecretState::Free)
        },
        Case {
            ready: Some(("False", "Issuing")),
            ..case("the Secret of a deleted token has not gone", vec![], SecretState::Leaving)
        },
    ]
}

fn look<'a>(case: &Case, token: &'a RouterToken) -> Observed<'a> {
    Observed {
        token,
        now: at(NOW),
        fresh: TokenId::try_from("new".to_owned()).unwrap(),
        proxy: case.proxy.clone(),
        secret: case.secret.clone(),
        served: case.served,
        counted: Counted::default(),
    }
}

#[test]
fn next_step_follows_from_what_is_there() {
    for case in minting().into_iter().chain(restoring()).chain(renewing()).chain(blocked()) {
        let token = token(case.spec.clone(), case.texts.clone());
        let decision = decide(&look(&case, &token));
        assert_eq!(decision.step, case.step, "{}", case.sentence);
        let after: Vec<_> =
            decision.status.tokens.iter().map(|text| (text.id.as_str(), text.state)).collect();
        assert_eq!(after, case.after, "{}", case.sentence);
        let events: Vec<_> = decision.notes.iter().map(|note| note.reason).collect();
        assert_eq!(events, case.events, "{}", case.sentence);
        let ready = conditions::find(&decision.status.conditions, kind::READY);
        let ready = ready.map(|ready| (ready.status.as_str(), ready.reason.as_str()));
        assert_eq!(ready, case.ready, "{}", case.sentence);
    }
}

/// Whatever is found, at most one text that is not revoked was ever put into the Secret without being
/// replaced by plan: the property that no crash may break.
#[test]
fn no_state_leads_to_two_live_texts_unless_a_renewal_was_planned() {
    for case in minting().into_iter().chain(restoring()).chain(blocked()) {
        let token = token(case.spec.clone(), case.texts.clone());
        let decision = decide(&look(&case, &token));
        let live = decision.status.tokens.iter().filter(|text| text.state != Revoked).count();
        assert!(live <= 1, "{}: {live} live texts", case.sentence);
    }
}

#[test]
fn at_rest_the_status_does_not_change_by_itself() {
    for mut case in minting().into_iter().chain(renewing()).chain(blocked()) {
        let mut token = token(case.spec.clone(), std::mem::take(&mut case.texts));
        let first = decide(&look(&case, &token));
        if first.step != Step::Rest {
            continue;
        }
        token.status = Some(first.status.clone());
        let mut later = look(&case, &token);
        later.now = at(NOW + 1);
        let second = decide(&later);
        assert_eq!(second.status, first.status, "{}", case.sentence);
    }
}

#[test]
fn programmed_stays_when_pods_go_and_use_is_written_only_now_and_then() {
    let mut token = token(serde_json::json!({}), vec![text("a", 1, Active)]);
    let case = case("", vec![], ours("a"));
    let used = |requests| counted(requests, 0);
    token.status = Some(decide(&Observed { counted: used(1), ..look(&case, &token) }).status);
    let gone = decide(&Observed { served: false, counted: used(2), ..look(&case, &token) });
    assert!(conditions::is_true(&gone.status.conditions, kind::PROGRAMMED));
    assert_eq!(gone.status.usage.as_ref().unwrap().requests, 1, "written again at once");
    assert!(gone.wake.unwrap() <= Duration::from_secs(11), "nobody would write it later");
    let later = decide(&Observed { now: at(NOW + 10), counted: used(2), ..look(&case, &token) });
    assert_eq!(later.status.usage.unwrap().requests, 2);
}

/// A token that has made requests, and used so many of the 10 dollars of its one budget.
fn counted(requests: u64, dollars: u64) -> Counted {
    let budget = la_core::report::BudgetUse {
        name: "month".to_owned(),
        unit: Unit::Usd,
        enforcement: la_core::budget::Enforcement::Hard,
        used: dollars * 1_000_000_000,
        limit: 10_000_000_000,
        resets_at_ms: None,
        threshold: (dollars >= 8).then_some(80),
    };
    let own = SubjectUsage {
        subject: la_core::id::Subject::of("gateway", "team-a", "agent").unwrap(),
        requests,
        open: 0,
        tokens: la_core::usage::Usage::default(),
        nano_usd: dollars * 1_000_000_000 + 1,
        budgets: vec![budget],
    };
    Counted { reported: true, own: Some(own), ..Counted::default() }
}

#[test]
fn budgets_are_in_the_status_and_a_threshold_is_told_once() {
    let mut token = token(serde_json::json!({}), vec![text("a", 1, Active)]);
    let case = case("", vec![], ours("a"));
    let mut said = Vec::new();
    for (requests, dollars) in [(1, 1), (1, 8), (2, 9), (3, 10), (3, 10)] {
        let decision = decide(&Observed { counted: counted(requests, dollars), ..look(&case, &token) });
        said.push(decision.notes.iter().map(|note| note.reason).collect::<Vec<_>>());
        token.status = Some(decision.status);
    }
    assert_eq!(said, [vec![], vec!["BudgetThreshold"], vec![], vec!["BudgetExhausted"], vec![]]);
    let status = token.status.clone().unwrap();
    let usage = status.usage.as_ref().unwrap();
    assert_eq!((usage.cost_usd.as_str(), usage.windows[0].used.as_str()), ("10.000000001", "10"));
    let exhausted = conditions::find(&status.conditions, kind::BUDGET_EXHAUSTED).unwrap();
    assert_eq!((exhausted.status.as_str(), exhausted.message.as_str()), ("True", "nothing is left of month"));
    let silent = decide(&look(&case, &token));
    assert_eq!(Some(silent.status), token.status, "while no pod reports, what was said stays");
}

#[test]
fn exhausted_pool_is_said_of_the_tokens_that_it_covers() {
    let token = token(serde_json::json!({}), vec![text("a", 1, Active)]);
    let case = case("", vec![], ours("a"));
    let mut pool = counted(9, 10).own.unwrap();
    pool.subject = la_core::id::Subject::of_pool("gateway", "platform", "fleet").unwrap();
    let counted = Counted { pools: vec![pool], ..counted(1, 1) };
    let decision = decide(&Observed { counted, ..look(&case, &token) });
    let exhausted = conditions::find(&decision.status.conditions, kind::BUDGET_EXHAUSTED).unwrap();
    assert_eq!(exhausted.message, "nothing is left of month of RouterBudget platform/fleet");
    assert!(decision.notes.is_empty(), "the RouterBudget tells it");
}

#[test]
fn token_without_budgets_has_nothing_to_say_of_them() {
    let token = token(serde_json::json!({}), vec![text("a", 1, Active)]);
    let counted = Counted { reported: true, ..Counted::default() };
    let decision = decide(&Observed { counted, ..look(&case("", vec![], ours("a")), &token) });
    assert!(conditions::find(&decision.status.conditions, kind::BUDGET_EXHAUSTED).is_none());
}

#[test]
fn token_is_looked_at_again_when_it_is_due() {
    let token = token(serde_json::json!({ "renewBefore": "1h" }), vec![text("a", 0, Active)]);
    let wake = decide(&look(&case("", vec![], ours("a")), &token)).wake.unwrap();
    let due = Duration::from_secs(23 * 3_600);
    assert!(wake <= due + Duration::from_secs(1) && wake >= due - Duration::from_secs(300), "{wake:?}");
}
