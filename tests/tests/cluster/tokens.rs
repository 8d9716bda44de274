//! RouterTokens: minted, adopted, refused, restored, renewed, deleted.

use std::time::Duration;

use la_tests::cluster::{eventually, measure};
use serde_json::json;

use super::scene::{COLLECTED, LIMIT, Scene, claims, data, secret_path, shared, text, token, value};

#[test]
fn token_is_minted_into_its_secret_and_the_snapshot() {
    let scene = shared();
    let (platform, team) = (scene.namespace("mint"), scene.namespace("mint-team"));
    scene.gateway(&platform);
    scene.until((&platform, "routerproxies", "gateway"), "Accepted", ("True", "Accepted"));
    let more = ", label: Agent, secretTemplate: {labels: {team: a}, annotations: {note: b}}, limits: {maxRequests: 7}";
    let (minted, took) = measure(|| {
        scene.apply(&team, &token("agent", &platform, more));
        scene.token_where(&team, "agent", |_| true)
    });
    println!("apply to Secret: {took:?}");
    let secret = scene.secret(&team, "agent").unwrap();
    assert_eq!(text(&secret, "/type"), "Opaque");
    assert_eq!(value(&secret, "ANTHROPIC_AUTH_TOKEN"), minted);
    assert_eq!(value(&secret, "ANTHROPIC_BASE_URL"), format!("http://gateway.{platform}.svc:8080"));
    assert_eq!(text(&secret, "/metadata/labels/team"), "a");
    assert_eq!(text(&secret, "/metadata/annotations/note"), "b");
    assert_eq!(text(&secret, "/metadata/ownerReferences/0/kind"), "RouterToken");
    assert_eq!(secret["metadata"]["ownerReferences"][0]["controller"], true);
    let claims = claims(&minted).unwrap();
    assert_eq!(text(&claims, "/sub"), format!("gateway/{team}/agent"));
    assert_eq!(text(&claims, "/aud"), format!("la-router/{platform}/gateway"));
    let record =
        eventually("the snapshot to hold the token", LIMIT, || Ok(scene.record(&platform, &team, "agent")));
    let record = record.unwrap();
    assert_eq!(text(&record, "/ids/0/id"), text(&claims, "/jti"));
    assert_eq!(
        (text(&record, "/label"), record["limits"]["maxRequests"].as_i64()),
        ("Agent".to_owned(), Some(7))
    );
    scene.until((&team, "routertokens", "agent"), "Issuing", ("False", "Issued"));
    scene.until((&team, "routertokens", "agent"), "Ready", ("False", "Pending"));
    scene.until_said(&team, "agent", "Issued");
    assert_eq!(scene.texts(&team, "agent"), [(text(&claims, "/jti"), "Active".to_owned())]);
}

#[test]
fn deleted_token_leaves_the_snapshot_and_takes_its_secret_along() {
    let scene = shared();
    let namespace = scene.namespace("deleted");
    scene.gateway(&namespace);
    scene.apply(&namespace, &token("agent", &namespace, ""));
    eventually("the token to be served", LIMIT, || Ok(scene.record(&namespace, &namespace, "agent")))
        .unwrap();
    let (_, took) = measure(|| {
        scene.api.client().delete(&Scene::path(&namespace, "routertokens", "agent")).unwrap();
        let gone = || Ok(scene.record(&namespace, &namespace, "agent").is_none().then_some(()));
        eventually("the token to leave the snapshot", LIMIT, gone).unwrap();
    });
    println!("delete to snapshot: {took:?}");
    let gone = || Ok(scene.secret(&namespace, "agent").is_none().then_some(()));
    eventually("the Secret to be collected", COLLECTED, gone).unwrap();
}

#[test]
fn retained_secret_stays_and_is_minted_anew_for_a_token_of_the_same_name() {
    let scene = shared();
    let namespace = scene.namespace("retained");
    scene.gateway(&namespace);
    let yaml = token("agent", &namespace, ", reclaimPolicy: Retain");
    scene.apply(&namespace, &yaml);
    let first = scene.token_where(&namespace, "agent", |_| true);
    assert_eq!(scene.secret(&namespace, "agent").unwrap()["metadata"].get("ownerReferences"), None);
    scene.api.client().delete(&Scene::path(&namespace, "routertokens", "agent")).unwrap();
    let gone = || Ok(scene.record(&namespace, &namespace, "agent").is_none().then_some(()));
    eventually("the token to leave the snapshot", LIMIT, gone).unwrap();
    assert!(scene.secret(&namespace, "agent").is_some());
    scene.apply(&namespace, &yaml);
    scene.token_where(&namespace, "agent", |token| token != first);
}

#[test]
fn secret_of_somebody_else_is_left_alone_until_its_owner_agrees() {
    let scene = shared();
    let namespace = scene.namespace("conflict");
    scene.gateway(&namespace);
    let theirs = "{apiVersion: v1, kind: Secret, metadata: {name: agent}, stringData: {theirs: precious}}";
    scene.apply(&namespace, theirs);
    scene.apply(&namespace, &token("agent", &namespace, ""));
    scene.until((&namespace, "routertokens", "agent"), "Ready", ("False", "SecretConflict"));
    scene.until_said(&namespace, "agent", "SecretConflict");
    assert!(scene.texts(&namespace, "agent").is_empty(), "an id was recorded for a Secret that is not ours");
    scene.apply(&namespace, &token("agent", &namespace, ", adopt: true"));
    std::thread::sleep(Duration::from_millis(500));
    scene.until((&namespace, "routertokens", "agent"), "Ready", ("False", "SecretConflict"));
    let agree = json!({ "metadata": { "annotations": { "router.link-assistant.dev/adopt": "true" } } });
    scene.api.client().merge(&secret_path(&namespace, "agent"), &agree).unwrap();
    scene.token_where(&namespace, "agent", |_| true);
    let adopted = scene.secret(&namespace, "agent").unwrap();
    assert_eq!(value(&adopted, "theirs"), "precious");
    scene.until((&namespace, "routertokens", "agent"), "Issuing", ("False", "Issued"));
}

#[test]
fn adoption_is_refused_for_what_another_controls_or_is_not_opaque() {
    let scene = shared();
    let namespace = scene.namespace("unadoptable");
    scene.gateway(&namespace);
    let annotations = "{router.link-assistant.dev/adopt: 'true'}";
    let owner = "[{apiVersion: v1, kind: ConfigMap, name: web, uid: 1-2-3, controller: true}]";
    let secrets = format!(
        "apiVersion: v1
kind: ConfigMap
metadata: {{name: web}}
---
apiVersion: v1
kind: Secret
metadata: {{name: basic, annotations: {annotations}}}
type: kubernetes.io/basic-auth
stringData: {{username: me}}
"
    );
    scene.apply(&namespace, &secrets);
    let map =
        scene.api.client().get(&format!("/api/v1/namespaces/{namespace}/configmaps/web")).unwrap().unwrap();
    let owner = owner.replace("1-2-3", &text(&map, "/metadata/uid"));
    let controlled = format!(
        "{{apiVersion: v1, kind: Secret, metadata: {{name: controlled, annotations: {annotations}, ownerReferences: {owner}}}}}"
    );
    scene.apply(&namespace, &controlled);
    for name in ["basic", "controlled"] {
        scene.apply(&namespace, &token(name, &namespace, ", adopt: true"));
        scene.until((&namespace, "routertokens", name), "Ready", ("False", "SecretConflict"));
        assert_eq!(scene.secret(&namespace, name).unwrap()["data"].get("token"), None, "{name}");
    }
}

#[test]
fn deleted_or_edited_secret_gets_a_new_token_and_the_old_one_is_revoked() {
    let scene = shared();
    let namespace = scene.namespace("restored");
    scene.gateway(&namespace);
    scene.apply(&namespace, &token("agent", &namespace, ""));
    let first = scene.token_where(&namespace, "agent", |_| true);
    scene.until((&namespace, "routertokens", "agent"), "Issuing", ("False", "Issued"));
    scene.api.client().delete(&secret_path(&namespace, "agent")).unwrap();
    let second = scene.token_where(&namespace, "agent", |token| token != first);
    scene.until_said(&namespace, "agent", "SecretRestored");
    scene.until((&namespace, "routertokens", "agent"), "Issuing", ("False", "Issued"));
    scene.api.client().merge(&secret_path(&namespace, "agent"), &data("token", "edited")).unwrap();
    let third = scene.token_where(&namespace, "agent", |token| token != second && token != "edited");
    scene.until((&namespace, "routertokens", "agent"), "Issuing", ("False", "Issued"));
    let states: Vec<_> = scene.texts(&namespace, "agent");
    let expected = [(&third, "Active"), (&second, "Revoked"), (&first, "Revoked")]
        .map(|(token, state)| (text(&claims(token).unwrap(), "/jti"), state.to_owned()));
    assert_eq!(states, expected);
    let revoked = || {
        let ids = scene.record(&namespace, &namespace, "agent").map(|record| record["ids"].clone());
        let revoked =
            ids.and_then(|ids| Some(ids.as_array()?.iter().filter(|id| id["revoked"] == true).count()));
        Ok((revoked == Some(2)).then_some(()))
    };
    eventually("both old ids to be revoked in the snapshot", LIMIT, revoked).unwrap();
}

#[test]
fn foreign_metadata_on_our_secret_is_kept_and_changes_nothing() {
    let scene = shared();
    let namespace = scene.namespace("foreign-metadata");
    scene.gateway(&namespace);
    scene.apply(&namespace, &token("agent", &namespace, ""));
    let first = scene.token_where(&namespace, "agent", |_| true);
    scene.until((&namespace, "routertokens", "agent"), "Issuing", ("False", "Issued"));
    let theirs = json!({ "metadata": { "labels": { "theirs": "kept" } } });
    scene.api.client().merge(&secret_path(&namespace, "agent"), &theirs).unwrap();
    let fewer = json!({ "spec": { "outputs": ["Token"] } });
    scene.api.client().merge(&Scene::path(&namespace, "routertokens", "agent"), &fewer).unwrap();
    let fewer = || {
        let secret = scene.secret(&namespace, "agent").unwrap_or_default();
        Ok(secret["data"].get("ANTHROPIC_AUTH_TOKEN").is_none().then_some(secret))
    };
    let secret = eventually("the output to go", LIMIT, fewer).unwrap();
    assert_eq!(value(&secret, "token"), first, "a change of outputs made a new token");
    assert_eq!(text(&secret, "/metadata/labels/theirs"), "kept");
}

#[test]
fn suspended_token_is_suspended_in_the_snapshot_and_keeps_its_text() {
    let scene = shared();
    let namespace = scene.namespace("suspended");
    scene.gateway(&namespace);
    scene.apply(&namespace, &token("agent", &namespace, ""));
    let first = scene.token_where(&namespace, "agent", |_| true);
    scene.apply(&namespace, &token("agent", &namespace, ", suspend: true"));
    let suspended = || {
        let record = scene.record(&namespace, &namespace, "agent").unwrap_or_default();
        Ok((record["suspended"] == true).then_some(()))
    };
    eventually("the record to be suspended", LIMIT, suspended).unwrap();
    scene.until((&namespace, "routertokens", "agent"), "Ready", ("False", "Suspended"));
    assert_eq!(value(&scene.secret(&namespace, "agent").unwrap(), "token"), first);
}

#[test]
fn changed_duration_is_a_planned_renewal_in_which_the_old_text_lives_on() {
    let scene = shared();
    let namespace = scene.namespace("renewed");
    scene.gateway(&namespace);
    scene.apply(&namespace, &token("agent", &namespace, ""));
    let first = scene.token_where(&namespace, "agent", |_| true);
    scene.until((&namespace, "routertokens", "agent"), "Issuing", ("False", "Issued"));
    scene.apply(&namespace, &token("agent", &namespace, ", duration: 1h"));
    let two = || {
        let texts = scene.texts(&namespace, "agent");
        Ok((texts.len() == 2).then_some(texts))
    };
    let texts = eventually("a second text", LIMIT, two).unwrap();
    assert!(texts.iter().all(|(_, state)| state != "Revoked"), "{texts:?}");
    // Without pods nobody can learn of the new text, so the Secret keeps the old one for a while.
    assert_eq!(value(&scene.secret(&namespace, "agent").unwrap(), "token"), first);
    let both = || {
        let record = scene.record(&namespace, &namespace, "agent").unwrap_or_default();
        Ok((record["ids"].as_array().is_some_and(|ids| ids.len() == 2)).then_some(()))
    };
    eventually("both texts to be served", LIMIT, both).unwrap();
}

#[test]
fn token_says_what_is_wrong_with_its_proxy_and_recovers() {
    let scene = shared();
    let (platform, team) = (scene.namespace("admits"), scene.namespace("asks"));
    scene.apply(&team, &token("agent", &platform, ""));
    scene.until((&team, "routertokens", "agent"), "Ready", ("False", "ProxyNotFound"));
    scene.until_said(&team, "agent", "ProxyNotFound");
    scene.apply(&platform, &super::scene::provider("https://api.anthropic.com"));
    let by_label = "{from: Selector, selector: {matchLabels: {agents: allowed}}}";
    scene.apply(&platform, &super::scene::proxy(0, by_label));
    scene.until((&team, "routertokens", "agent"), "Ready", ("False", "NamespaceNotAdmitted"));
    scene.until_said(&team, "agent", "NamespaceNotAdmitted");
    assert!(scene.secret(&team, "agent").is_none());
    let label = json!({ "metadata": { "labels": { "agents": "allowed" } } });
    scene.api.client().merge(&format!("/api/v1/namespaces/{team}"), &label).unwrap();
    scene.token_where(&team, "agent", |_| true);
    eventually("the token to be served", LIMIT, || Ok(scene.record(&platform, &team, "agent"))).unwrap();
    let label = json!({ "metadata": { "labels": { "agents": null } } });
    scene.api.client().merge(&format!("/api/v1/namespaces/{team}"), &label).unwrap();
    let gone = || Ok(scene.record(&platform, &team, "agent").is_none().then_some(()));
    eventually("the token to leave the snapshot", LIMIT, gone).unwrap();
    scene.until((&team, "routertokens", "agent"), "Ready", ("False", "NamespaceNotAdmitted"));
}

#[test]
fn lost_signing_secret_gets_a_new_key_and_every_token_a_new_text() {
    let scene = shared();
    let namespace = scene.namespace("lost-key");
    scene.gateway(&namespace);
    scene.apply(&namespace, &token("agent", &namespace, ""));
    let first = scene.token_where(&namespace, "agent", |_| true);
    scene.until((&namespace, "routertokens", "agent"), "Issuing", ("False", "Issued"));
    scene.api.client().delete(&secret_path(&namespace, "gateway-signing-keys")).unwrap();
    let second = scene.token_where(&namespace, "agent", |token| token != first);
    assert_ne!(first.split('.').next(), second.split('.').next(), "the key id is the same");
    let kept = || Ok(scene.secret(&namespace, "gateway-signing-keys"));
    let keys = eventually("the signing Secret", LIMIT, kept).unwrap();
    assert_eq!(keys["immutable"], true);
}
