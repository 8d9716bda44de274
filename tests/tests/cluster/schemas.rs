//! What the API server accepts and refuses, by the table that the reading of manifests is held to as well.

use std::path::Path;

use la_tests::cluster::ApiServer;
use serde_json::{Value, json};

fn table() -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../crds/cases/objects.yaml");
    serde_yaml::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

/// The server with the kinds in it.
fn server() -> &'static ApiServer {
    let api = ApiServer::shared().unwrap();
    api.apply_crds(&la_crds::all_crds_yaml().unwrap()).unwrap();
    api
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

fn collection(namespace: &str, kind: &Value) -> String {
    let plural = match kind.as_str().unwrap() {
        "RouterToken" => "routertokens",
        "RouterBudget" => "routerbudgets",
        "UpstreamProvider" => "upstreamproviders",
        "RouterProxy" => "routerproxies",
        other => panic!("{other} is no kind"),
    };
    format!("/apis/router.link-assistant.dev/v1alpha1/namespaces/{namespace}/{plural}")
}

/// Holds the server's answer against what the case expects.
fn judge(case: &Value, status: u16, body: &str) -> Result<(), String> {
    let what = case["what"].as_str().unwrap();
    let refused = case["server"].as_str().or(case["refused"].as_str());
    let said: Value = serde_json::from_str(body).unwrap_or_default();
    let message = said["message"].as_str().unwrap_or(body);
    match (status, refused) {
        (200 | 201, None) => Ok(()),
        (400..500, Some(field))
            if message.contains(field) && message.contains(case["says"].as_str().unwrap_or_default()) =>
        {
            Ok(())
        }
        _ => Err(format!("{what}: {status}: {message}")),
    }
}

#[test]
fn objects_are_accepted_and_refused_as_the_table_says() {
    let (api, table) = (server(), table());
    let namespace = api.namespace("schemas").unwrap();
    let mut wrong = Vec::new();
    for case in table["cases"].as_array().unwrap() {
        if case["only"] == "manifests" {
            continue;
        }
        let mut object = table["base"][case["kind"].as_str().unwrap()].clone();
        merge(&mut object, case.get("change").unwrap_or(&json!({})));
        let path = format!("{}?dryRun=All&fieldValidation=Strict", collection(&namespace, &case["kind"]));
        let answer = api.client().send("POST", &path, "application/json", &object.to_string()).unwrap();
        wrong.extend(judge(case, answer.status, &answer.body).err());
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn what_must_not_change_cannot_be_changed() {
    let (api, table) = (server(), table());
    let namespace = api.namespace("updates").unwrap();
    for object in table["base"].as_object().unwrap().values() {
        api.client().create(&collection(&namespace, &object["kind"]), object).unwrap();
    }
    let mut wrong = Vec::new();
    for case in table["updates"].as_array().unwrap() {
        let base = &table["base"][case["kind"].as_str().unwrap()];
        let name = base["metadata"]["name"].as_str().unwrap();
        let path = format!("{}/{name}?dryRun=All", collection(&namespace, &case["kind"]));
        let kind = "application/merge-patch+json";
        let answer = api.client().send("PATCH", &path, kind, &case["to"].to_string()).unwrap();
        wrong.extend(judge(case, answer.status, &answer.body).err());
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn defaults_of_the_server_are_those_of_the_manifests() {
    let (api, table) = (server(), table());
    let namespace = api.namespace("defaults").unwrap();
    let base = |kind: &str| table["base"][kind].clone();
    let kinds = ["RouterProxy", "UpstreamProvider", "RouterToken", "RouterBudget"];
    let files: Vec<_> = kinds.iter().map(|kind| ((*kind).to_owned(), base(kind).to_string())).collect();
    let read = la_crds::manifests::read(&files).unwrap();
    let mine = [
        serde_json::to_value(&read.proxies[0].spec).unwrap(),
        serde_json::to_value(&read.providers[0].spec).unwrap(),
        serde_json::to_value(&read.tokens[0].spec).unwrap(),
        serde_json::to_value(&read.budgets[0].spec).unwrap(),
    ];
    for (kind, mine) in kinds.iter().zip(mine) {
        let theirs = api.client().create(&collection(&namespace, &json!(kind)), &base(kind)).unwrap();
        assert_eq!(theirs["spec"], mine, "{kind}");
    }
}
