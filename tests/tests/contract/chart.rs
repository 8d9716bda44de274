//! The chart renders, refuses what it does not know, and asks for no more rights than the operator uses.

use serde_json::{Value, json};

use crate::checkout::{against_restricted, called, helm, of_kind, render, root, text};

const GROUP: &str = "router.link-assistant.dev";

#[test]
fn chart_renders_with_default_and_odd_values() {
    let cases: [(&str, &[&str]); 9] = [
        ("default values", &[]),
        (
            "everything optional off",
            &["--set", "crds.enabled=false,rbac.create=false,rbac.aggregate=false,metrics.service=false"],
        ),
        (
            "a service account of the user's",
            &["--set", "serviceAccount.create=false,serviceAccount.name=mine"],
        ),
        ("long names", &["--set", "fullnameOverride=a234567890-234567890-234567890-234567890-2345"]),
        (
            "images by other names",
            &["--set", "operator.image.repository=r.example/o,operator.image.tag=x,proxy.image.tag=y"],
        ),
        (
            "a place to run",
            &[
                "--set",
                "operator.nodeSelector.disk=ssd,operator.priorityClassName=high",
                "--set-json",
                r#"operator.tolerations=[{"operator":"Exists"}]"#,
            ],
        ),
        (
            "another token endpoint",
            &["--set", "operator.oauth.refreshURL=http://oauth.test/token,operator.oauth.clientID=mine"],
        ),
        (
            "workload identities",
            &[
                "--set",
                "operator.oauth.exchangeURL=https://x.test/token",
                "--set-json",
                r#"workloadIdentity.serviceAccounts=[{"namespace":"a","name":"claude"},{"namespace":"b","name":"c.d"}]"#,
            ],
        ),
        (
            "several replicas and a pull secret",
            &["--set", "operator.replicas=3,imagePullSecrets[0].name=pull"],
        ),
    ];
    for (case, options) in cases {
        let objects = render(options).unwrap_or_else(|error| panic!("{case}: {error}"));
        let [deployment] = of_kind(&objects, "Deployment")[..] else { panic!("{case}: not one Deployment") };
        let faults = against_restricted(&deployment["spec"]["template"]["spec"]);
        assert!(faults.is_empty(), "{case}: {faults:?}");
        for object in &objects {
            let most = if object["kind"] == "Service" { 63 } else { 253 };
            let length = text(&object["metadata"]["name"]).len();
            assert!(
                (1..=most).contains(&length),
                "{case}: {} has a name that Kubernetes refuses",
                called(object)
            );
        }
    }
}

#[test]
fn chart_refuses_values_that_it_does_not_know() {
    let cases = [
        ("a misspelt value", "operator.replica=2"),
        ("an unknown group", "injector.enabled=true"),
        ("a value of another type", "crds.keep=perhaps"),
        ("an unknown pull policy", "operator.image.pullPolicy=Sometimes"),
        ("a token endpoint that is no URL", "operator.oauth.refreshURL=oauth.test"),
        ("an exchange that is no URL", "operator.oauth.exchangeURL=x.test"),
        ("a ServiceAccount without a namespace", "workloadIdentity.serviceAccounts[0].name=claude"),
        ("a name that Kubernetes refuses", "fullnameOverride=Not_A_Name"),
        ("a service account without a name", "serviceAccount.create=false"),
    ];
    for (case, set) in cases {
        assert!(render(&["--set", set]).is_err(), "{case} was accepted: {set}");
    }
}

#[test]
fn kinds_are_kept_on_uninstall_unless_asked_otherwise() {
    let keep = |objects: &[Value]| -> Vec<Value> {
        let kinds = of_kind(objects, "CustomResourceDefinition");
        assert_eq!(kinds.len(), 4);
        kinds.iter().map(|kind| kind["metadata"]["annotations"]["helm.sh/resource-policy"].clone()).collect()
    };
    assert!(keep(&render(&[]).unwrap()).iter().all(|policy| policy == "keep"));
    assert!(keep(&render(&["--set", "crds.keep=false"]).unwrap()).iter().all(Value::is_null));
    let without = render(&["--set", "crds.enabled=false"]).unwrap();
    assert!(of_kind(&without, "CustomResourceDefinition").is_empty());
}

#[test]
fn no_role_has_a_wildcard_or_a_way_to_more_rights() {
    let objects = render(&[]).unwrap();
    for role in [of_kind(&objects, "ClusterRole"), of_kind(&objects, "Role")].concat() {
        for rule in role["rules"].as_array().unwrap() {
            let words =
                ["apiGroups", "resources", "verbs"].iter().flat_map(|field| rule[field].as_array().unwrap());
            for word in words.map(text) {
                let reach = ["*", "escalate", "bind", "impersonate", "pods/exec", "serviceaccounts/token"];
                assert!(!reach.contains(&word), "{} has {word}", called(role));
            }
        }
    }
}

#[test]
fn operator_may_ask_for_tokens_of_listed_service_accounts_only() {
    let listed = r#"workloadIdentity.serviceAccounts=[{"namespace":"platform","name":"claude"}]"#;
    let objects = render(&["--set-json", listed]).unwrap();
    let mut found = Vec::new();
    for role in [of_kind(&objects, "ClusterRole"), of_kind(&objects, "Role")].concat() {
        for rule in role["rules"].as_array().unwrap() {
            if rule["resources"].as_array().unwrap().iter().any(|r| text(r) == "serviceaccounts/token") {
                found.push((text(&role["metadata"]["namespace"]), rule));
            }
        }
    }
    let [(namespace, rule)] = found[..] else { panic!("{found:?}") };
    assert_eq!(namespace, "platform");
    assert_eq!((&rule["resourceNames"], &rule["verbs"]), (&json!(["claude"]), &json!(["create"])));
}

#[test]
fn tenants_get_tokens_but_neither_providers_nor_proxies() {
    let objects = render(&[]).unwrap();
    let edits = of_kind(&objects, "ClusterRole").into_iter().filter(|role| {
        let labels = role["metadata"]["labels"].as_object().unwrap();
        labels.keys().any(|label| label.starts_with("rbac.authorization.k8s.io/aggregate-to-"))
    });
    for rule in edits.flat_map(|role| role["rules"].as_array().unwrap()) {
        assert_eq!(rule["apiGroups"], json!([GROUP]));
        let reads = ["get", "list", "watch"];
        let writes = rule["verbs"].as_array().unwrap().iter().any(|verb| !reads.contains(&text(verb)));
        assert!(!writes || rule["resources"] == json!(["routertokens"]), "{rule}");
    }
}

#[test]
fn chart_and_crates_have_one_version() {
    let chart: Value = serde_yaml::from_str(&crate::checkout::read("charts/la-router/Chart.yaml")).unwrap();
    assert_eq!(text(&chart["version"]), env!("CARGO_PKG_VERSION"));
    assert_eq!(text(&chart["appVersion"]), env!("CARGO_PKG_VERSION"));
}

#[test]
fn helm_finds_nothing_to_say() {
    let output = helm()
        .args(["lint", "--strict", "--quiet", "charts/la-router"])
        .current_dir(root())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}
