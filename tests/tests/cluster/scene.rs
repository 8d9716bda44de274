//! What the tests of the operator share: an API server with our kinds and a running operator, objects as
//! people write them, and what became of them.

use std::sync::LazyLock;
use std::time::Duration;

use anyhow::{Result, anyhow};
use base64::Engine as _;
use la_core::snapshot::Snapshot;
use la_tests::cluster::{ApiServer, Kubelet, Operator, eventually};
use serde_json::{Value, json};

/// How long anything may take on a busy machine.
pub(crate) const LIMIT: Duration = Duration::from_secs(40);

/// How long garbage collection may take: the controller manager learns of new kinds every 30 s.
pub(crate) const COLLECTED: Duration = Duration::from_secs(120);

const GROUP: &str = "/apis/router.link-assistant.dev/v1alpha1";

static SHARED: LazyLock<Result<Shared, String>> =
    LazyLock::new(|| Shared::start().map_err(|error| format!("{error:#}")));

struct Shared {
    scene: Scene<'static>,
    _operator: Operator,
}

/// An API server with our kinds.
#[derive(Clone, Copy)]
pub(crate) struct Scene<'a> {
    /// The server.
    pub(crate) api: &'a ApiServer,
}

impl Shared {
    fn start() -> Result<Self> {
        let scene = Scene::new(ApiServer::shared()?)?;
        let _operator = scene.operator("shared", &[])?;
        Ok(Self { scene, _operator })
    }
}

/// The scene with one operator that tests share, each in namespaces of its own.
pub(crate) fn shared() -> Scene<'static> {
    match SHARED.as_ref() {
        Ok(shared) => shared.scene,
        Err(error) => panic!("{error}"),
    }
}

impl<'a> Scene<'a> {
    /// Installs our kinds.
    pub(crate) fn new(api: &'a ApiServer) -> Result<Self> {
        api.apply_crds(&la_crds::all_crds_yaml()?)?;
        Ok(Self { api })
    }

    /// Starts an operator.
    pub(crate) fn operator(&self, identity: &str, environment: &[(&str, &str)]) -> Result<Operator> {
        let args = ["--namespace", "default", "--identity", identity, "--proxy-image", "la-router:test"];
        let more = ["--metrics-listen", "127.0.0.1:0", "--log", "info,la_operator=debug"];
        Operator::spawn_with(self.api, &[&args[..], &more[..]].concat(), environment)
    }

    /// A namespace of its own.
    pub(crate) fn namespace(&self, prefix: &str) -> String {
        self.api.namespace(prefix).unwrap()
    }

    /// Applies YAML.
    pub(crate) fn apply(&self, namespace: &str, yaml: &str) {
        self.api.apply(namespace, yaml).unwrap();
    }

    /// A provider `claude` with an API key, and the proxy `gateway` that leads to it, without pods.
    pub(crate) fn gateway(&self, namespace: &str) {
        self.apply(namespace, &provider("https://api.anthropic.com"));
        self.apply(namespace, &proxy(0, "{from: All}"));
    }

    /// A namespace of its own with the provider `claude` at `base_url`, the proxy `gateway` that leads to it, and its
    /// one pod for as long as the kubelet is kept.
    pub(crate) fn served(&self, prefix: &str, base_url: &str) -> (String, Kubelet) {
        let namespace = self.namespace(prefix);
        let kubelet = Kubelet::start(self.api, &namespace).unwrap();
        self.apply(&namespace, &provider(base_url));
        self.apply(&namespace, &proxy(1, "{from: Same}"));
        (namespace, kubelet)
    }

    /// The path of one of our objects.
    pub(crate) fn path(namespace: &str, plural: &str, name: &str) -> String {
        format!("{GROUP}/namespaces/{namespace}/{plural}/{name}")
    }

    /// One of our objects.
    pub(crate) fn object(&self, namespace: &str, plural: &str, name: &str) -> Value {
        self.api.custom(namespace, plural, name).unwrap().unwrap_or_default()
    }

    /// Status and reason of a condition.
    pub(crate) fn condition(&self, at: (&str, &str, &str), kind: &str) -> (String, String) {
        let object = self.object(at.0, at.1, at.2);
        let conditions = object["status"]["conditions"].as_array().cloned().unwrap_or_default();
        let found = conditions.into_iter().find(|condition| condition["type"] == kind).unwrap_or_default();
        (text(&found, "/status"), text(&found, "/reason"))
    }

    /// Waits until a condition has this status and reason.
    pub(crate) fn until(&self, at: (&str, &str, &str), kind: &str, wanted: (&str, &str)) {
        let holds =
            || Ok((self.condition(at, kind) == (wanted.0.to_owned(), wanted.1.to_owned())).then_some(()));
        if let Err(error) = eventually(&format!("{at:?}: {kind} {wanted:?}"), LIMIT, holds) {
            panic!("{error}; it is {:#}", self.object(at.0, at.1, at.2)["status"]);
        }
    }

    /// A Secret.
    pub(crate) fn secret(&self, namespace: &str, name: &str) -> Option<Value> {
        self.api.client().get(&secret_path(namespace, name)).unwrap()
    }

    /// The token in a Secret, once one is there for which `good` holds.
    pub(crate) fn token_where(&self, namespace: &str, secret: &str, good: impl Fn(&str) -> bool) -> String {
        let found = eventually(&format!("a token in Secret {namespace}/{secret}"), LIMIT, || {
            let found = self.secret(namespace, secret).map(|secret| value(&secret, "token"));
            Ok(found.filter(|token| !token.is_empty() && good(token)))
        });
        found.unwrap()
    }

    /// The ids in a RouterToken's status with their states, newest first.
    pub(crate) fn texts(&self, namespace: &str, name: &str) -> Vec<(String, String)> {
        let object = self.object(namespace, "routertokens", name);
        let texts = object["status"]["tokens"].as_array().cloned().unwrap_or_default();
        texts.iter().map(|text_of| (text(text_of, "/id"), text(text_of, "/state"))).collect()
    }

    /// The snapshot that was written for the proxy `gateway`.
    pub(crate) fn snapshot(&self, namespace: &str) -> Option<Value> {
        let secret = self.secret(namespace, "gateway-snapshot")?;
        serde_json::from_str(&value(&secret, "snapshot.json")).ok()
    }

    /// The record of a token in the snapshot of the proxy `gateway`, with its limits.
    pub(crate) fn record(&self, proxy: &str, namespace: &str, name: &str) -> Option<Value> {
        let subject = format!("gateway/{namespace}/{name}");
        let snapshot: Snapshot = serde_json::from_value(self.snapshot(proxy)?).ok()?;
        let record = snapshot.tokens.iter().find(|token| token.subject.as_str() == subject)?;
        serde_json::to_value(record).ok()
    }

    /// How many Events say `reason` of the object called `name`.
    pub(crate) fn events(&self, namespace: &str, name: &str, reason: &str) -> usize {
        self.events_of(namespace, name, reason).len()
    }

    /// How often Events say it: the same Event again becomes a series.
    pub(crate) fn times_said(&self, namespace: &str, name: &str, reason: &str) -> u64 {
        let events = self.events_of(namespace, name, reason);
        events.iter().map(|event| event["series"]["count"].as_u64().unwrap_or(1)).sum()
    }

    fn events_of(&self, namespace: &str, name: &str, reason: &str) -> Vec<Value> {
        let path = format!("/apis/events.k8s.io/v1/namespaces/{namespace}/events");
        let list = self.api.client().get(&path).unwrap().unwrap_or_default();
        let said = |event: &&Value| event["reason"] == reason && event["regarding"]["name"] == name;
        list["items"].as_array().into_iter().flatten().filter(said).cloned().collect()
    }

    /// Waits for an Event.
    pub(crate) fn until_said(&self, namespace: &str, name: &str, reason: &str) {
        let said = || Ok((self.events(namespace, name, reason) > 0).then_some(()));
        eventually(&format!("the Event {reason} of {name}"), LIMIT, said).unwrap();
    }
}

/// A provider `claude` at `base_url` with one API key.
pub(crate) fn provider(base_url: &str) -> String {
    format!(
        "apiVersion: router.link-assistant.dev/v1alpha1
kind: UpstreamProvider
metadata: {{name: claude}}
spec:
  backend:
    anthropic:
      baseURL: {base_url}
      accounts: [{{name: main, credential: {{apiKey: {{secretRef: {{name: key}}}}}}}}]
---
apiVersion: v1
kind: Secret
metadata: {{name: key}}
stringData: {{key: sk-ant-api03-canary}}
"
    )
}

/// The proxy `gateway` that leads to `claude`.
pub(crate) fn proxy(replicas: i32, allowed: &str) -> String {
    format!(
        "apiVersion: router.link-assistant.dev/v1alpha1
kind: RouterProxy
metadata: {{name: gateway}}
spec:
  replicas: {replicas}
  tokens: {{allowedNamespaces: {allowed}}}
  routes: [{{candidates: [{{provider: claude}}]}}]
"
    )
}

/// A token called `name` for the proxy `gateway` in `proxy`, in the Secret `name`, with further fields.
pub(crate) fn token(name: &str, proxy: &str, more: &str) -> String {
    format!(
        "apiVersion: router.link-assistant.dev/v1alpha1
kind: RouterToken
metadata: {{name: {name}}}
spec: {{proxyRef: {{name: gateway, namespace: {proxy}}}, secretName: {name}{more}}}
---
"
    )
}

/// The path of a Secret.
pub(crate) fn secret_path(namespace: &str, name: &str) -> String {
    format!("/api/v1/namespaces/{namespace}/secrets/{name}")
}

/// A value of a Secret, decoded.
pub(crate) fn value(secret: &Value, key: &str) -> String {
    let encoded = secret["data"][key].as_str().unwrap_or_default();
    let bytes = base64::engine::general_purpose::STANDARD.decode(encoded).unwrap();
    String::from_utf8(bytes).unwrap()
}

/// A text at a JSON pointer, empty when there is none.
pub(crate) fn text(value: &Value, pointer: &str) -> String {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned()
}

/// The claims of a token, not verified.
pub(crate) fn claims(token: &str) -> Result<Value> {
    let payload = token.split('.').nth(1).ok_or_else(|| anyhow!("no claims"))?;
    Ok(serde_json::from_slice(&base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(payload)?)?)
}

/// A merge patch of a Secret's data.
pub(crate) fn data(key: &str, text: &str) -> Value {
    json!({ "data": { key: base64::engine::general_purpose::STANDARD.encode(text) } })
}
