//! Which tokens a RouterBudget covers, and what becomes of them while it is faulty.

use la_core::snapshot::PoolRecord;
use serde_json::json;

use super::*;

/// The faultless world with a pool of the platform over all namespaces that are called agents.
fn pooled(change: impl FnOnce(&mut Manifests)) -> Compiled {
    let pool = r#"
---
apiVersion: router.link-assistant.dev/v1alpha1
kind: RouterBudget
metadata: {name: fleet, namespace: platform}
spec:
  proxyRef: {name: gateway}
  appliesTo: {namespaceSelector: {matchLabels: {agents: "yes"}}}
  budgets: [{name: day, unit: USD, limit: "5", window: {calendar: {every: Day}}}]
  thresholds: [80]
---
apiVersion: router.link-assistant.dev/v1alpha1
kind: RouterBudget
metadata: {name: team, namespace: team-a}
spec: {proxyRef: {name: gateway, namespace: platform}, budgets: [{name: all, unit: Requests, limit: "9"}]}
"#;
    let mut manifests = world(|text| format!("{text}{pool}"));
    change(&mut manifests);
    compiled(&manifests, Mode::Cluster)
}

fn selector(json: serde_json::Value) -> Option<crate::selector::LabelSelector> {
    Some(serde_json::from_value(json).unwrap())
}

fn pools_of(compiled: &Compiled) -> Vec<Vec<&str>> {
    let tokens = compiled.snapshot.tokens.iter();
    tokens.map(|token| token.pools.iter().map(la_core::id::Subject::as_str).collect()).collect()
}

#[test]
fn pools_cover_tokens_by_namespace_and_label() {
    let both = vec!["pool:gateway/platform/fleet", "pool:gateway/team-a/team"];
    let (fleet, team) = (vec![both[0]], vec![both[1]]);
    let named = |value: &str| json!({ "namespaceSelector": { "matchLabels": { "agents": value } } });
    let tier = |value: &str| json!({ "tokenSelector": { "matchLabels": { "tier": value } } });
    let cases = [
        ("namespaces that are called so", 0, named("yes"), &both),
        ("namespaces that are called otherwise", 0, named("no"), &team),
        ("every namespace", 0, json!({ "namespaceSelector": {} }), &both),
        ("no namespace selected is the pool's own", 0, json!({}), &team),
        ("a label that the token has", 1, tier("gold"), &both),
        ("a label that it has otherwise", 1, tier("silver"), &fleet),
    ];
    for (sentence, at, applies_to, expected) in cases {
        let compiled = pooled(|world| {
            world.tokens[0].metadata.labels = Some([("tier".to_owned(), "gold".to_owned())].into());
            world.budgets[at].spec.applies_to = serde_json::from_value(applies_to).unwrap();
        });
        assert_eq!((&pools_of(&compiled)[0], compiled.faults.len()), (expected, 0), "{sentence}");
        let records = &compiled.snapshot.pools;
        let subjects: Vec<_> = records.iter().map(|pool| pool.subject.as_str()).collect();
        assert_eq!(&subjects, expected, "{sentence}");
        let (_, unusable) = compiled.snapshot.clone().checked().unwrap();
        assert_eq!(unusable, [], "{sentence}");
    }
    let other = pooled(|world| world.budgets[1].spec.proxy_ref.namespace = None);
    assert_eq!(pools_of(&other), [fleet], "a pool of another proxy is no concern");
    let PoolRecord { budgets, thresholds, .. } = &other.snapshot.pools[0];
    assert_eq!((budgets[0].name.as_str(), &thresholds[..]), ("day", &[80][..]));
}

#[test]
fn token_that_a_faulty_pool_covers_is_refused() {
    type Change = fn(&mut Manifests);
    let cases: [(&str, Change, &str); 3] = [
        (
            "an unknown time zone",
            |world| {
                let calendar = json!({ "calendar": { "every": "Day", "timeZone": "Mars/Base" } });
                world.budgets[0].spec.budgets[0].window = serde_json::from_value(calendar).unwrap();
            },
            "RouterBudget platform/fleet: spec.budgets[0].window.calendar.timeZone: is \"Mars/Base\": must be a time zone",
        ),
        (
            "a pool that reaches beyond its namespace",
            |world| world.budgets[1].spec.applies_to.namespace_selector = selector(json!({})),
            "RouterBudget team-a/team: spec.appliesTo.namespaceSelector: only a RouterBudget in namespace platform of its proxy may select namespaces",
        ),
        (
            "a selector that makes no sense",
            |world| {
                let nonsense = json!({ "matchExpressions": [{ "key": "a", "operator": "In" }] });
                world.budgets[1].spec.applies_to.token_selector = selector(nonsense);
            },
            "RouterBudget team-a/team: spec.appliesTo.tokenSelector.matchExpressions[0]: In and NotIn need values",
        ),
    ];
    for (sentence, change, expected) in cases {
        let compiled = pooled(change);
        assert!(compiled.snapshot.tokens.is_empty(), "{sentence}");
        let said: Vec<_> = compiled.faults.iter().map(ToString::to_string).collect();
        assert!(said.iter().any(|fault| fault.starts_with(expected)), "{sentence}: {said:#?}");
        let [refused] = &compiled.faults.iter().filter(|f| f.kind == "RouterToken").collect::<Vec<_>>()[..]
        else {
            panic!("{sentence}: {said:#?}")
        };
        assert_eq!((refused.reason, refused.name.as_str()), (reason::BUDGET_FAULTY, "agent"), "{sentence}");
    }
}

#[test]
fn token_of_a_namespace_without_known_labels_is_covered_by_every_pool_that_asks_for_labels() {
    let compiled = pooled(|world| {
        world.proxies[0].spec.tokens.allowed_namespaces =
            crate::router_proxy::AllowedNamespaces { from: NamespacesFrom::All, selector: None };
        world.namespaces.remove("team-a");
    });
    assert_eq!(pools_of(&compiled), [["pool:gateway/platform/fleet", "pool:gateway/team-a/team"]]);
}

#[test]
fn pool_that_covers_nothing_is_refused_in_a_folder_and_left_out_in_a_cluster() {
    let idle = r#"
---
apiVersion: router.link-assistant.dev/v1alpha1
kind: RouterBudget
metadata: {name: idle, namespace: platform}
spec: {proxyRef: {name: gateway}, budgets: [{name: all, unit: Requests, limit: "9"}]}
"#;
    let manifests = world(|text| format!("{text}{idle}"));
    let there = compiled(&manifests, Mode::Cluster);
    assert_eq!((there.snapshot.pools.len(), there.faults.len()), (0, 0));
    let here = compiled(&manifests, Mode::Manifests);
    let said: Vec<_> = here.faults.iter().map(ToString::to_string).collect();
    assert_eq!(
        said,
        [
            "RouterBudget platform/idle: spec.appliesTo: covers no token of the proxy; choose namespaces and labels that some token has"
        ]
    );
}
