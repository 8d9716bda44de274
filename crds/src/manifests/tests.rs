//! Manifests against the shared table, and what only a folder can get wrong.

use serde_json::{Value, json};

use super::*;

fn table() -> Value {
    serde_yaml::from_str(include_str!("../../cases/objects.yaml")).unwrap()
}

/// A JSON merge patch (RFC 7396).
fn merge(target: &mut Value, patch: &Value) {
    let Some(patch) = patch.as_object() else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = json!({});
    }
    let fields = target.as_object_mut().unwrap();
    for (key, value) in patch {
        if value.is_null() {
            fields.remove(key);
        } else {
            merge(fields.entry(key).or_insert(Value::Null), value);
        }
    }
}

fn read_texts(texts: &[(&str, &str)]) -> Result<Manifests, Vec<String>> {
    let files: Vec<_> = texts.iter().map(|(file, text)| ((*file).to_owned(), (*text).to_owned())).collect();
    read(&files).map_err(|faults| faults.iter().map(ToString::to_string).collect())
}

#[test]
fn manifests_are_held_to_the_rules_of_the_api_server() {
    let table = table();
    for case in table["cases"].as_array().unwrap() {
        if case["only"] == "server" {
            continue;
        }
        let what = case["what"].as_str().unwrap();
        let mut object = table["base"][case["kind"].as_str().unwrap()].clone();
        merge(&mut object, case.get("change").unwrap_or(&json!({})));
        let mut files = vec![("case.yaml".to_owned(), object.to_string())];
        if case["kind"] != "RouterProxy" {
            files.push(("base.yaml".to_owned(), table["base"]["RouterProxy"].to_string()));
        }
        let found = read(&files);
        let Some(field) = case["refused"].as_str() else {
            assert!(found.is_ok(), "{what}: {:?}", found.unwrap_err());
            continue;
        };
        let faults = found.expect_err(what);
        let says = case["says"].as_str().unwrap_or_default();
        assert!(
            faults.iter().any(|fault| fault.field.starts_with(field) && fault.message.contains(says)),
            "{what}: {faults:#?}"
        );
    }
}

#[test]
fn folder_with_five_faults_gives_five_lines_with_file_object_and_field() {
    let faults = read_texts(&[
        (
            "claude.yaml",
            "apiVersion: router.link-assistant.dev/v1alpha1\nkind: UpstreamProvider\nmetadata: {name: claude, namespace: platform}\nspec:\n  backend:\n    anthropic:\n      baseURL: https://api.anthropic.com/\n      accounts: [{name: main, credential: {apiKey: {secretRef: {name: key}}}}]\n  timeouts: {idle: 5 minutes}\n",
        ),
        (
            "gateway.yaml",
            "apiVersion: router.link-assistant.dev/v1alpha1\nkind: RouterProxy\nmetadata: {name: gateway, namespace: platform}\nspec: {replicas: 3, routes: [{candidates: [{provider: claude}]}]}\n---\napiVersion: router.link-assistant.dev/v1alpha1\nkind: RouterToken\nmetadata: {name: agent, namespace: team-a}\nspec: {proxyRef: {name: gateway, namespace: platform}, secretname: agent}\n",
        ),
    ])
    .unwrap_err();
    assert_eq!(
        faults,
        [
            "claude.yaml: UpstreamProvider platform/claude: spec.timeouts.idle: must be a duration such as `24h`, `1h30m` or `250ms`",
            "claude.yaml: UpstreamProvider platform/claude: spec.backend.anthropic.baseURL: must be http(s)://HOST[:PORT][/PREFIX] without user, query, fragment or a slash at its end",
            "gateway.yaml: RouterProxy platform/gateway: spec.replicas: an embedded or memory ledger belongs to one replica; set ledger.redis, or replicas to 0 or 1",
            "gateway.yaml: RouterToken team-a/agent: spec.secretname: is not a field here; known are account, adopt, budgetThresholds, duration, label, limits, outputs, providers, proxyRef, reclaimPolicy, renewBefore, renewBeforePercentage, secretName, secretTemplate, suspend",
            "gateway.yaml: RouterToken team-a/agent: spec.secretName: is missing",
        ]
    );
}

#[test]
fn what_is_not_read_is_refused() {
    let token = "apiVersion: router.link-assistant.dev/v1alpha1\nkind: RouterToken\n";
    let cases = [
        (
            "kind: ConfigMap\napiVersion: v1\nmetadata: {name: a}",
            "ConfigMap default/a: kind: \"v1\" \"ConfigMap\" is not read here",
        ),
        ("- a\n- b", "document 1: kind: is missing"),
        (
            "kind: RouterToken\napiVersion: router.link-assistant.dev/v1",
            "apiVersion: is \"router.link-assistant.dev/v1\"",
        ),
        ("a: 1\na: 2", "document 1: duplicate entry"),
        ("a: [", "document 1: "),
        (&format!("{token}metadata: {{name: a, uid: b}}\nspec: {{}}"), "metadata.uid: is not a field here"),
        (&format!("{token}metadata: {{}}\nspec: {{}}"), "metadata.name: is missing"),
        (
            &format!("{token}metadata: {{name: a}}\nspec: {{}}\nstatus: {{}}"),
            "status: is written by la-router",
        ),
        (&format!("{token}metadata: {{name: a}}\nspec: {{}}\nextra: 1"), "extra: is not a field here"),
        (
            &format!("{token}metadata: {{name: A}}\nspec: {{}}"),
            "metadata.name: must consist of lower-case letters",
        ),
        (
            "kind: Secret\napiVersion: v1\nmetadata: {name: a}\ndata: {k: '!'}",
            "Secret default/a: data.k: is not base64",
        ),
        (
            "kind: Secret\napiVersion: v1\nmetadata: {name: a}\nstringData: {k: 1}",
            "stringData.k: must be a text, is a whole number",
        ),
        ("kind: Secret\napiVersion: v1\nmetadata: {name: a}\nstringData: {a b: x}", "key \"a b\""),
        (
            "kind: Secret\napiVersion: v1\nmetadata: {name: a}\nstringdata: {}",
            "stringdata: is not a field here",
        ),
        (
            "kind: Namespace\napiVersion: v1\nmetadata: {name: a, namespace: b}",
            "metadata.namespace: is not a field here",
        ),
    ];
    for (text, expected) in cases {
        let faults = read_texts(&[("a.yaml", text)]).expect_err(text);
        assert!(faults.iter().any(|fault| fault.contains(expected)), "{text}\n{faults:#?}");
    }
}

#[test]
fn fault_in_a_secret_shows_none_of_its_values() {
    let text = "kind: Secret\napiVersion: v1\nmetadata: {name: a}\ndata: {k: canary!, l: [canary], canary: {}}\nstringData: canary\ntype: [canary]";
    let faults = read_texts(&[("a.yaml", text)]).unwrap_err();
    assert!(faults.len() >= 4, "{faults:#?}");
    for fault in faults {
        assert!(!fault.replace("data.canary", "").contains("canary"), "{fault}");
    }
}

#[test]
fn two_objects_of_one_name_are_refused() {
    let table = table();
    let provider = table["base"]["UpstreamProvider"].to_string();
    let faults = read_texts(&[("a.yaml", &provider), ("b.yaml", &provider)]).unwrap_err();
    assert_eq!(
        faults,
        [
            "b.yaml: UpstreamProvider default/claude: metadata.name: there is one of this name in a.yaml already"
        ]
    );
}

#[test]
fn token_of_a_proxy_in_no_file_is_refused() {
    let token = table()["base"]["RouterToken"].to_string();
    let faults = read_texts(&[("a.yaml", &token)]).unwrap_err();
    assert_eq!(
        faults,
        [
            "a.yaml: RouterToken default/agent: spec.proxyRef: RouterProxy default/gateway is in none of the files"
        ]
    );
}

#[test]
fn budget_of_a_proxy_in_no_file_is_refused() {
    let budget = table()["base"]["RouterBudget"].to_string();
    let faults = read_texts(&[("a.yaml", &budget)]).unwrap_err();
    assert_eq!(
        faults,
        [
            "a.yaml: RouterBudget default/team: spec.proxyRef: RouterProxy default/gateway is in none of the files"
        ]
    );
}

#[test]
fn folder_with_a_faulty_budget_is_partial_so_that_nobody_goes_without_it() {
    let table = table();
    let proxy = ("a.yaml".to_owned(), table["base"]["RouterProxy"].to_string());
    let mut budget = table["base"]["RouterBudget"].clone();
    assert!(!read_usable(&[proxy.clone(), ("b.yaml".to_owned(), budget.to_string())]).is_partial);
    budget["spec"]["budgets"][0]["limit"] = json!("0");
    let reading = read_usable(&[proxy.clone(), ("b.yaml".to_owned(), budget.to_string())]);
    assert!(reading.is_partial && reading.manifests.budgets.is_empty(), "{:?}", reading.faults);
    let mut token = table["base"]["RouterToken"].clone();
    token["spec"]["limits"] = json!({ "maxRequests": 0 });
    let reading = read_usable(&[proxy, ("b.yaml".to_owned(), token.to_string())]);
    assert!(!reading.is_partial, "a faulty token is left out, and refused");
}

#[test]
fn secrets_and_namespaces_are_read_as_kubernetes_would() {
    let text = "kind: Secret\napiVersion: v1\nmetadata: {name: key, namespace: platform}\ntype: Opaque\ndata: {a: b2xk, b: \"YmluYXJ5\\n\"}\nstringData: {a: new}\n---\nkind: Namespace\napiVersion: v1\nmetadata: {name: team-a, labels: {team: a}}\n";
    let manifests = read_texts(&[("a.yaml", text)]).unwrap();
    let secret = &manifests.secrets[&("platform".to_owned(), "key".to_owned())];
    let data = secret.data.as_ref().unwrap();
    assert_eq!((&data["a"].0[..], &data["b"].0[..]), (&b"new"[..], &b"binary"[..]));
    let names: Vec<_> = manifests.namespaces.keys().map(String::as_str).collect();
    assert_eq!(names, ["platform", "team-a"]);
    assert_eq!(manifests.namespaces["team-a"]["team"], "a");
    assert_eq!(manifests.namespaces["platform"]["kubernetes.io/metadata.name"], "platform");
    let shown = format!("{manifests:?}");
    assert!(shown.contains("platform") && !shown.contains("110") && !shown.contains("new"), "{shown}");
}

#[test]
fn defaults_are_those_of_the_schema() {
    let table = table();
    let of = |kind: &str| table["base"][kind].to_string();
    let texts = [of("RouterProxy"), of("UpstreamProvider"), of("RouterToken")];
    let manifests = read_texts(&[("a", &texts[0]), ("b", &texts[1]), ("c", &texts[2])]).unwrap();
    let (proxy, provider, token) = (&manifests.proxies[0], &manifests.providers[0], &manifests.tokens[0]);
    assert_eq!((proxy.spec.replicas, proxy.spec.shutdown.drain.as_str()), (1, "30s"));
    assert!(proxy.spec.observability.request_log);
    assert_eq!(provider.spec.timeouts, crate::upstream_provider::Timeouts::default());
    assert_eq!((token.spec.duration.as_str(), token.spec.outputs.len()), ("24h", 2));
    assert_eq!(token.metadata.namespace.as_deref(), Some(DEFAULT_NAMESPACE));
}
