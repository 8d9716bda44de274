//! The samples are what a user copies first: they parse by the product's own rules, run in a namespace that
//! enforces `restricted`, and show the credential to nobody who should not have it.

use la_crds::upstream_provider::AccountCredential;
use serde_json::Value;

use crate::checkout::{against_restricted, called, documents, files, of_kind, read, render, root, text};

const KINDS: [&str; 4] = ["provider", "proxy", "budget", "token"];
/// What can be applied instead of one of the kinds.
const INSTEAD: [&str; 2] = ["accounts", "workload-identity"];
const AGENTS: [&str; 3] = ["agent-job", "claude-code", "forwarder-job"];

fn sample(name: &str) -> String {
    read(format!("deploy/samples/{name}.yaml"))
}

/// The pod specs of a sample.
fn pods(name: &str) -> Vec<Value> {
    let objects = documents(&sample(name));
    let pods =
        objects.iter().map(|object| object["spec"]["template"]["spec"].clone()).filter(Value::is_object);
    pods.collect()
}

fn mounts_a_secret(pod: &Value, container: &Value) -> bool {
    let secrets: Vec<&str> = pod["volumes"]
        .as_array()
        .into_iter()
        .flatten()
        .filter(|volume| volume["secret"].is_object())
        .map(|volume| text(&volume["name"]))
        .collect();
    let mounts = container["volumeMounts"].as_array().into_iter().flatten();
    mounts.map(|mount| text(&mount["name"])).any(|name| secrets.contains(&name))
}

#[test]
fn every_sample_is_checked_here() {
    let found: Vec<_> = files("deploy/samples")
        .iter()
        .map(|path| path.file_stem().unwrap().to_str().unwrap().to_owned())
        .collect();
    for name in found.iter().filter(|name| *name != "README") {
        assert!(
            KINDS.iter().chain(&INSTEAD).chain(&AGENTS).any(|known| known == name),
            "{name}.yaml is checked by no test"
        );
    }
}

#[test]
fn kinds_of_the_samples_follow_the_rules_of_the_product() {
    let given: Vec<(String, String)> =
        KINDS.iter().map(|name| (format!("{name}.yaml"), sample(name))).collect();
    let manifests = la_crds::manifests::read(&given).unwrap_or_else(|faults| panic!("{faults:#?}"));
    assert_eq!((manifests.proxies.len(), manifests.providers.len(), manifests.tokens.len()), (1, 1, 1));
    assert_eq!(manifests.budgets.len(), 1);
    let proxy = &manifests.proxies[0];
    let reference = &manifests.tokens[0].spec.proxy_ref;
    assert_eq!(proxy.metadata.name.as_deref(), Some(reference.name.as_str()));
    assert_eq!(proxy.metadata.namespace, reference.namespace);
    assert_eq!(
        manifests.providers[0].metadata.name.as_deref(),
        Some(proxy.spec.routes[0].candidates[0].provider.as_str())
    );
}

#[test]
fn key_of_the_accounts_serves_only_where_no_login_can() {
    let given = [("accounts.yaml".to_owned(), sample("accounts"))];
    let manifests = la_crds::manifests::read(&given).unwrap_or_else(|faults| panic!("{faults:#?}"));
    let accounts = manifests.providers[0].spec.backend.accounts();
    let (keys, logins): (Vec<_>, Vec<_>) =
        accounts.iter().partition(|account| matches!(account.credential, AccountCredential::ApiKey(_)));
    assert_eq!((keys.len(), logins.len()), (1, 2));
    assert!(logins.iter().all(|login| login.priority < keys[0].priority));
}

#[test]
fn workload_identity_is_of_a_service_account_that_can_do_nothing_else() {
    let sample = sample("workload-identity");
    let [service_account, provider] = &documents(&sample)[..] else { panic!("{sample}") };
    assert_eq!(service_account["automountServiceAccountToken"], false);
    let credential = &provider["spec"]["backend"]["anthropic"]["accounts"][0]["credential"];
    let token = &credential["workloadIdentity"]["tokenFrom"]["serviceAccount"];
    assert_eq!(token["name"], service_account["metadata"]["name"]);
    assert!(sample.contains(&format!(
        "system:serviceaccount:{}:{}",
        text(&provider["metadata"]["namespace"]),
        text(&token["name"])
    )));
}

#[test]
fn agents_run_where_restricted_is_enforced() {
    for name in AGENTS {
        let pods = pods(name);
        assert_eq!(pods.len(), 1, "{name} has no pod");
        for pod in &pods {
            let faults = against_restricted(pod);
            assert!(faults.is_empty(), "{name}: {faults:?}");
            assert_eq!(pod["automountServiceAccountToken"], false, "{name} gives its agent API rights");
        }
    }
}

#[test]
fn secret_is_mounted_as_a_directory_so_that_renewals_arrive() {
    for name in AGENTS {
        for pod in pods(name) {
            let containers =
                ["containers", "initContainers"].iter().flat_map(|list| pod[list].as_array()).flatten();
            for mount in containers.flat_map(|container| container["volumeMounts"].as_array()).flatten() {
                assert!(
                    mount["name"] != "la-router" || mount["subPath"].is_null(),
                    "{name} mounts the Secret by subPath"
                );
            }
        }
    }
}

#[test]
fn agent_beside_the_forwarder_holds_no_credential() {
    let [pod] = &pods("forwarder-job")[..] else { panic!("not one pod") };
    let [sidecar] = &pod["initContainers"].as_array().unwrap()[..] else { panic!("not one sidecar") };
    assert_eq!(sidecar["restartPolicy"], "Always");
    assert!(sidecar["startupProbe"].is_object(), "the agent may start before the sidecar listens");
    assert!(mounts_a_secret(pod, sidecar));
    let [agent] = &pod["containers"].as_array().unwrap()[..] else { panic!("not one agent") };
    assert!(!mounts_a_secret(pod, agent) && agent["envFrom"].is_null());
    for variable in agent["env"].as_array().unwrap() {
        assert!(variable["valueFrom"].is_null(), "{} comes from elsewhere", text(&variable["name"]));
    }
}

#[test]
fn long_lived_agent_reads_its_token_from_the_file() {
    let objects = documents(&sample("claude-code"));
    let settings: Value =
        serde_json::from_str(text(&of_kind(&objects, "ConfigMap")[0]["data"]["settings.json"])).unwrap();
    assert_eq!(settings["apiKeyHelper"], "cat /var/run/la-router/token");
    let [pod] = &pods("claude-code")[..] else { panic!("not one pod") };
    let variables = pod["containers"][0]["env"].as_array().unwrap();
    let from_secret = variables.iter().filter(|variable| variable["valueFrom"]["secretKeyRef"].is_object());
    let names: Vec<_> = from_secret.map(|variable| text(&variable["name"])).collect();
    assert_eq!(names, ["ANTHROPIC_BASE_URL"], "a token in the environment outlives its renewal");
}

#[test]
fn compose_and_akash_run_the_image_of_this_version_without_a_secret_in_them() {
    for place in ["deploy/compose.yaml", "deploy/akash.yaml"] {
        let [file] = &documents(&read(place))[..] else { panic!("{place} is not one document") };
        let service = &file["services"]["la-router"];
        assert!(text(&service["image"]).ends_with(concat!(":", env!("CARGO_PKG_VERSION"))), "{place}");
        assert!(!read(place).contains("sk-"), "{place} shows a key");
    }
}

#[test]
fn plain_manifests_hold_what_the_chart_installs() {
    let plain = documents(&read("deploy/install.yaml"));
    let names = |objects: &[Value]| {
        let mut kinds: Vec<_> = objects.iter().map(|object| text(&object["kind"]).to_owned()).collect();
        kinds.sort();
        kinds
    };
    let mut rendered = render(&[]).unwrap();
    rendered.push(serde_json::json!({"kind": "Namespace"}));
    assert_eq!(names(&plain), names(&rendered));
    for object in &plain {
        assert!(!called(object).ends_with('/'), "an object of {} has no name", root().display());
    }
}
