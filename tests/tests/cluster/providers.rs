//! UpstreamProviders: what is wrong with a credential is told where people look, and everything else works on.

use la_tests::cluster::eventually;
use serde_json::Value;

use super::scene::{LIMIT, Scene, data, proxy, secret_path, shared, token, value};

/// Two accounts: an API key, and a login in the Secret `login`.
const TWO_ACCOUNTS: &str = "apiVersion: router.link-assistant.dev/v1alpha1
kind: UpstreamProvider
metadata: {name: claude}
spec:
  backend:
    anthropic:
      accounts:
      - {name: login, credential: {oauth: {secretRef: {name: login}}}}
      - {name: main, credential: {apiKey: {secretRef: {name: key}}}}
---
apiVersion: v1
kind: Secret
metadata: {name: key}
stringData: {key: sk-ant-api03-canary}
";

const LOGIN: &str = r#"{"claudeAiOauth":{"accessToken":"sk-ant-oat01-canary","refreshToken":"sk-ant-ort01-canary","expiresAt":4102444800000}}"#;

fn login_secret(content: &str) -> String {
    let content = serde_json::to_string(content).unwrap();
    format!(
        "{{apiVersion: v1, kind: Secret, metadata: {{name: login}}, stringData: {{.credentials.json: {content}}}}}"
    )
}

fn published(scene: Scene<'_>, namespace: &str) -> Value {
    let secret = scene.secret(namespace, "gateway-snapshot").unwrap_or_default();
    serde_json::from_str(&value(&secret, "credentials.json")).unwrap_or_default()
}

#[test]
fn bad_credential_is_told_and_heals_while_the_other_account_serves() {
    let scene = shared();
    let namespace = scene.namespace("bad-credential");
    let claude = (namespace.as_str(), "upstreamproviders", "claude");
    scene.apply(&namespace, TWO_ACCOUNTS);
    scene.apply(&namespace, &proxy(0, "{from: Same}"));
    scene.apply(&namespace, &token("agent", &namespace, ""));
    scene.until(claude, "CredentialsResolved", ("False", "SecretNotFound"));
    scene.until(claude, "Ready", ("True", "PartlyAvailable"));
    scene.until_said(&namespace, "claude", "SecretNotFound");
    scene.token_where(&namespace, "agent", |_| true);
    let keyed = || Ok(published(scene, &namespace)["claude/main"].is_object().then_some(()));
    eventually("the good account's credential to be published", LIMIT, keyed).unwrap();

    scene.apply(&namespace, &login_secret("{not json sk-ant-oat01-canary"));
    scene.until(claude, "CredentialsResolved", ("False", "CredentialMalformed"));
    scene.until_said(&namespace, "claude", "CredentialMalformed");

    scene.apply(&namespace, &login_secret(LOGIN));
    scene.until(claude, "CredentialsResolved", ("True", "Resolved"));
    scene.until(claude, "Ready", ("True", "Available"));
    let login = || Ok(published(scene, &namespace)["claude/login"].is_object().then_some(()));
    eventually("the login to be published", LIMIT, login).unwrap();
    let status = scene.object(&namespace, "upstreamproviders", "claude")["status"].to_string();
    assert!(status.contains("2100-01-01T00:00:00Z") && status.contains("2/2"), "{status}");
    no_canary(scene, &namespace);
}

#[test]
fn login_that_two_providers_name_serves_the_older_until_that_is_gone() {
    let scene = shared();
    let namespace = scene.namespace("one-login");
    let [claude, other] = ["claude", "other"].map(|name| (namespace.as_str(), "upstreamproviders", name));
    scene.apply(&namespace, &login_secret(LOGIN));
    scene.apply(&namespace, TWO_ACCOUNTS);
    scene.until(claude, "CredentialsResolved", ("True", "Resolved"));
    let by_key = "oauth: {secretRef: {name: login, key: .credentials.json}}";
    let second = TWO_ACCOUNTS.replace("{name: claude}", "{name: other}");
    scene.apply(&namespace, &second.replace("oauth: {secretRef: {name: login}}", by_key));
    scene.until(other, "CredentialsResolved", ("False", "Duplicate"));
    scene.until_said(&namespace, "other", "Duplicate");
    let status = scene.object(&namespace, "upstreamproviders", "other")["status"].to_string();
    let both = "account other/login holds the same login as account claude/login; log in anew";
    assert!(status.contains(both) && status.contains("1/2"), "{status}");
    assert_eq!(scene.condition(claude, "CredentialsResolved"), ("True".to_owned(), "Resolved".to_owned()));
    scene.api.client().delete(&Scene::path(&namespace, "upstreamproviders", "claude")).unwrap();
    scene.until(other, "CredentialsResolved", ("True", "Resolved"));
}

/// The refresh token is nowhere but in its Secret; the rest is nowhere but there and in the snapshot.
fn no_canary(scene: Scene<'_>, namespace: &str) {
    assert!(
        !published(scene, namespace).to_string().contains("sk-ant-ort01"),
        "a refresh token was published"
    );
    for path in [
        Scene::path(namespace, "upstreamproviders", "claude"),
        Scene::path(namespace, "routerproxies", "gateway"),
        Scene::path(namespace, "routertokens", "agent"),
        format!("/apis/events.k8s.io/v1/namespaces/{namespace}/events"),
        format!("/api/v1/namespaces/{namespace}/configmaps"),
        secret_path(namespace, "agent"),
    ] {
        let mut object = scene.api.client().get(&path).unwrap().unwrap_or_default();
        object["metadata"]["managedFields"] = Value::Null;
        assert!(!object.to_string().contains("canary"), "{path} holds a credential");
    }
}

#[test]
fn changed_credential_is_published() {
    let scene = shared();
    let namespace = scene.namespace("changed-credential");
    scene.gateway(&namespace);
    let until = |wanted: &str| {
        let there = || Ok(published(scene, &namespace).to_string().contains(wanted).then_some(()));
        eventually("the credential to be published", LIMIT, there).unwrap();
    };
    until("sk-ant-api03-canary");
    scene.api.client().merge(&secret_path(&namespace, "key"), &data("key", "sk-ant-api03-newer")).unwrap();
    until("sk-ant-api03-newer");
}

#[test]
fn proxy_says_which_provider_it_lacks_and_recovers() {
    let scene = shared();
    let namespace = scene.namespace("no-provider");
    let gateway = (namespace.as_str(), "routerproxies", "gateway");
    scene.apply(&namespace, &proxy(0, "{from: Same}"));
    scene.until(gateway, "Accepted", ("False", "ProviderNotFound"));
    scene.until_said(&namespace, "gateway", "ProviderNotFound");
    scene.apply(&namespace, TWO_ACCOUNTS);
    scene.until(gateway, "Accepted", ("True", "Accepted"));
}
