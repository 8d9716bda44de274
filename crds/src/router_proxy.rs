//! RouterProxy: a gateway that swaps tokens for credentials.
#![expect(unreachable_pub, reason = "the derived schema repeats each `pub struct` inside a function")]

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube_derive::{CustomResource, KubeSchema};
use la_core::budget::LimitsSpec;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::selector::LabelSelector;
use crate::{limits, schema};

/// A gateway that swaps tokens for credentials.
///
/// Where manifests are read from a folder, the running process is the gateway: `image`, `replicas`, `ledger`
/// and `resources` describe pods and do not concern it; its own settings say where it counts use.
#[derive(CustomResource, KubeSchema, Debug, Clone, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "router.link-assistant.dev",
    version = "v1alpha1",
    kind = "RouterProxy",
    plural = "routerproxies",
    namespaced,
    doc = "A gateway that swaps tokens for credentials.",
    status = "RouterProxyStatus",
    derive = "PartialEq",
    shortname = "rproxy",
    category = "la-router",
    validation = Rule::new("self.metadata.name.size() <= 52 && self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')")
        .message("the name must have at most 52 characters, start with a letter and have no dots: a Service and a StatefulSet take it"),
    attr = r#"x_kube(crates(kube_core = "::kube_core"))"#,
    printcolumn(
        name = "Available",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Available")].status"#
    ),
    printcolumn(name = "Ready", type_ = "integer", json_path = ".status.replicas.ready"),
    printcolumn(
        name = "Programmed",
        type_ = "integer",
        json_path = ".status.replicas.programmed",
        description = "Pods that serve the newest configuration"
    ),
    printcolumn(
        name = "Tokens",
        type_ = "integer",
        json_path = ".status.tokens.live",
        description = "Tokens that work now"
    ),
    printcolumn(name = "Address", type_ = "string", json_path = ".status.address", priority = 1),
    printcolumn(
        name = "Reason",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Available")].reason"#,
        priority = 1
    ),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    crates(kube_core = "::kube_core", kube = "::kube_derive")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    crates(kube_core = "::kube_core"),
    validation = Rule::new("has(self.ledger.redis) || self.replicas <= 1")
        .message(REPLICAS_MESSAGE)
        .field_path(".replicas")
)]
pub struct RouterProxySpec {
    /// The image of the pods; the operator's default when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512), regex(pattern = schema::IMAGE))]
    pub image: Option<String>,

    /// How many pods: 0 to 16. More than one share their use through `ledger.redis`.
    #[serde(default = "default_replicas")]
    #[schemars(range(min = 0, max = 16))]
    pub replicas: i32,

    /// Which tokens are served.
    #[serde(default)]
    pub tokens: TokenAdmission,

    /// Which provider serves which models; the first match wins. 1 to 64, and only the last may be without
    /// `match`, because nothing behind it could be reached.
    #[schemars(length(min = 1, max = 64))]
    #[x_kube(validation = Rule::new(LAST_ROUTE_RULE).message(LAST_ROUTE_MESSAGE))]
    pub routes: Vec<Route>,

    /// Where use is counted. One form cannot be changed for another, nor the volume of a running ledger
    /// replaced.
    #[serde(default)]
    #[x_kube(validation = Rule::new(SAME_LEDGER_RULE).message("ledger cannot be changed; delete the RouterProxy and create another"))]
    pub ledger: LedgerSpec,

    /// How streams are kept open.
    #[serde(default, skip_serializing_if = "Streams::is_empty")]
    pub streams: Streams,

    /// How a pod ends.
    #[serde(default)]
    pub shutdown: Shutdown,

    /// What the container of a pod asks for and may use at most, as in a Pod.
    #[serde(default, skip_serializing_if = "Resources::is_empty")]
    pub resources: Resources,

    /// What is written to the log.
    #[serde(default)]
    pub observability: Observability,
}

/// How streams are kept open.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(crates(kube_core = "::kube_core"))]
pub struct Streams {
    /// After how long without a byte a comment is written into a stream, for front ends that cut quiet
    /// connections: `1s` to `10m`; never when left out. It stops when the vendor has been silent for as long
    /// as the provider's timeouts allow. After the first comment a refusal is an error event in the stream.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = schema::DURATION_MAX), regex(pattern = schema::DURATION))]
    #[x_kube(validation = Rule::new("duration(self) >= duration('1s') && duration(self) <= duration('10m')").message(KEEP_ALIVE_MESSAGE))]
    pub keep_alive: Option<String>,
}

pub(crate) const KEEP_ALIVE_MESSAGE: &str = "must be 1s to 10m";

pub(crate) const REPLICAS_MESSAGE: &str =
    "an embedded or memory ledger belongs to one replica; set ledger.redis, or replicas to 0 or 1";

const SAME_LEDGER_RULE: &str = "has(self.embedded) == has(oldSelf.embedded) && has(self.redis) == has(oldSelf.redis) && (!has(self.embedded) || self.embedded == oldSelf.embedded)";

const LAST_ROUTE_RULE: &str = "self.all(route, has(route.match)) || (self.filter(route, !has(route.match)).size() == 1 && !has(self[self.size() - 1].match))";

pub(crate) const LAST_ROUTE_MESSAGE: &str =
    "only the last route may be without match; routes behind it could not be reached";

/// Which tokens are served.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TokenAdmission {
    /// From which namespaces RouterTokens are admitted.
    #[serde(default)]
    pub allowed_namespaces: AllowedNamespaces,

    /// The `limits` of tokens that do not say: a token without any budget gets these budgets, one without a
    /// rate these rates, and so with `concurrency`, `maxOutputTokens` and `maxRequestBytes`. Must keep to
    /// `ceilings`.
    #[serde(default, skip_serializing_if = "limits::is_empty")]
    #[schemars(schema_with = "limits::limits")]
    pub defaults: LimitsSpec,

    /// What the `limits` of a token may not exceed. A token that asks for more is refused, and its condition
    /// names field, value and ceiling: a larger `limit` of a budget with the unit and window of a ceiling, of a
    /// rate with its unit and interval, or any larger number. A ceiling that a token has no counterpart of
    /// that is Hard and judges every request holds beside the token's own limits, so that none is without it.
    #[serde(default, skip_serializing_if = "limits::is_empty")]
    #[schemars(schema_with = "limits::ceilings")]
    pub ceilings: LimitsSpec,
}

/// From which namespaces RouterTokens are admitted.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    crates(kube_core = "::kube_core"),
    validation = Rule::new("has(self.selector) == (self.from == 'Selector')")
        .message("selector belongs to from: Selector, and only to it")
)]
pub struct AllowedNamespaces {
    /// `Same`: the proxy's own. `All`: every namespace. `Selector`: those whose labels match `selector`.
    #[serde(default)]
    pub from: NamespacesFrom,

    /// Labels of the namespaces; only with `from: Selector`. An empty selector matches every namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selector: Option<LabelSelector>,
}

/// How namespaces are chosen.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum NamespacesFrom {
    /// The proxy's own.
    #[default]
    Same,
    /// Every namespace.
    All,
    /// Those whose labels match.
    Selector,
}

/// Which provider serves which models.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(crates(kube_core = "::kube_core"))]
pub struct Route {
    /// Which requests take this route; every request when left out.
    #[serde(rename = "match", default, skip_serializing_if = "Option::is_none")]
    pub matching: Option<RouteMatch>,

    /// Who serves them, 1 to 8, each provider once.
    #[schemars(length(min = 1, max = 8))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["provider".to_owned()]))]
    pub candidates: Vec<Candidate>,

    /// How often and how long another account is tried, before a client has got the first byte.
    #[serde(default)]
    pub retry: Retry,

    /// How sessions keep their account.
    #[serde(default)]
    pub affinity: Affinity,
}

/// How often and how long another account is tried.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(crates(kube_core = "::kube_core"))]
pub struct Retry {
    /// Most attempts, the first included: 1 to 16. An attempt that the vendor may bill is charged.
    #[serde(default = "default_attempts")]
    #[schemars(range(min = 1, max = 16))]
    pub attempts: i32,

    /// How long the start of a stream is held back to see whether it fails: `0s` to `60s`.
    #[serde(default = "default_hold")]
    #[schemars(length(max = schema::DURATION_MAX), regex(pattern = schema::DURATION))]
    #[x_kube(validation = Rule::new("duration(self) <= duration('60s')").message(HOLD_MESSAGE))]
    pub hold: String,
}

pub(crate) const HOLD_MESSAGE: &str = "must be at most 60s";

/// How sessions keep their account.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(crates(kube_core = "::kube_core"))]
pub struct Affinity {
    /// For how long without a request: `0s` (not at all) to `24h`. Shorter than the lifetime of the vendor's
    /// prompt caches (one hour at most), it makes sessions pay for their caches again.
    #[serde(default = "default_affinity")]
    #[schemars(length(max = schema::DURATION_MAX), regex(pattern = schema::DURATION))]
    #[x_kube(validation = Rule::new("duration(self) <= duration('24h')").message(AFFINITY_MESSAGE))]
    pub ttl: String,
}

pub(crate) const AFFINITY_MESSAGE: &str = "must be at most 24h";

/// Which requests take a route.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RouteMatch {
    /// Model ids, 1 to 64. Globs: `*` any characters, `?` one, `[…]` a set, `{a,b}` alternatives.
    #[schemars(length(min = 1, max = 64), inner(length(min = 1, max = 128), regex(pattern = schema::MODEL_GLOB)))]
    pub models: Vec<String>,
}

/// Who serves a route.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Candidate {
    /// The name of an UpstreamProvider in this namespace.
    #[schemars(length(min = 1, max = 253), regex(pattern = schema::OBJECT_NAME))]
    pub provider: String,

    /// Lower goes first: 0 to 1000. Candidates behind it serve while no account before them can.
    #[serde(default)]
    #[schemars(range(min = 0, max = 1000))]
    pub priority: i32,

    /// What the model is called there; as the client calls it when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 128), regex(pattern = schema::MODEL))]
    pub model: Option<String>,
}

/// Where use is counted, and what happens while it cannot be.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    crates(kube_core = "::kube_core"),
    validation = Rule::new("self.onUnavailable == 'Deny' || has(self.redis)").message(ALLOW_MESSAGE).field_path(".onUnavailable")
)]
pub struct LedgerSpec {
    /// Where; exactly one.
    #[serde(flatten)]
    pub place: Ledger,

    /// What happens to requests while Redis cannot answer. `Allow` admits them uncounted, and budgets do not
    /// hold meanwhile; only with `redis`.
    #[serde(default)]
    pub on_unavailable: OnUnavailable,
}

pub(crate) const ALLOW_MESSAGE: &str = "Allow needs ledger.redis; other ledgers are part of the pod";

/// Where use is counted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Ledger {
    /// In files on a volume of the one pod.
    Embedded(EmbeddedLedger),
    /// In Redis or Valkey 7 or later, which all pods share.
    Redis(RedisLedger),
    /// In the memory of the one pod. A restart forgets all use, so every budget begins anew: for trials.
    Memory(MemoryLedger),
}

/// What happens to requests while the ledger cannot answer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum OnUnavailable {
    /// They are refused.
    #[default]
    Deny,
    /// They are admitted uncounted.
    Allow,
}

/// A ledger in Redis.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RedisLedger {
    /// The Secret, in this namespace, and the key in it that hold the URL, such as
    /// `rediss://user:password@redis.example:6379/0`. The pods mount that key as a file and read it when they
    /// start: after a change, `kubectl rollout restart` the StatefulSet of the proxy's name.
    pub url_secret_ref: SecretKey,
}

/// A key of a Secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SecretKey {
    /// The Secret's name.
    #[schemars(length(min = 1, max = 253), regex(pattern = schema::OBJECT_NAME))]
    pub name: String,

    /// The key.
    #[schemars(length(min = 1, max = 253), regex(pattern = schema::SECRET_KEY))]
    pub key: String,
}

/// A ledger in memory.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct MemoryLedger {}

/// A ledger in files.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct EmbeddedLedger {
    /// The volume.
    #[serde(default)]
    pub storage: LedgerStorage,
}

/// The volume of an embedded ledger.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LedgerStorage {
    /// How large, as a Kubernetes quantity without fraction.
    #[serde(default = "default_storage_size")]
    #[schemars(length(max = 20), regex(pattern = schema::SIZE))]
    pub size: String,

    /// Its StorageClass; the cluster's default when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253), regex(pattern = schema::OBJECT_NAME))]
    pub storage_class_name: Option<String>,
}

/// How a pod ends.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(crates(kube_core = "::kube_core"))]
pub struct Shutdown {
    /// How long open answers may take to finish once the pod is asked to end: `0s` to `1h`.
    #[serde(default = "default_drain")]
    #[schemars(length(max = schema::DURATION_MAX), regex(pattern = schema::DURATION))]
    #[x_kube(validation = Rule::new("duration(self) <= duration('1h')").message("must be at most 1h"))]
    pub drain: String,
}

/// What a container asks for and may use at most.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Resources {
    /// What is set aside for it, such as `cpu: 500m` and `memory: 128Mi`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "schema::quantities")]
    pub requests: BTreeMap<String, Quantity>,

    /// What it may use at most.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "schema::quantities")]
    pub limits: BTreeMap<String, Quantity>,
}

/// What is written to the log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Observability {
    /// One line per request, without any part of request or answer.
    #[serde(default = "default_request_log")]
    pub request_log: bool,
}

/// What the operator says of a RouterProxy.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(crates(kube_core = "::kube_core"))]
pub struct RouterProxyStatus {
    /// The generation of the spec that this status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,

    /// `Accepted`: the spec makes sense and every provider exists. `Programmed`: every pod serves the newest
    /// configuration. `Available`: at least one pod is ready. `LedgerReady`: use can be counted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".to_owned()]))]
    pub conditions: Vec<Condition>,

    /// The base URL for clients in the cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,

    /// The pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replicas: Option<ReplicaCounts>,

    /// A digest of the newest configuration, credentials left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config_hash: Option<String>,

    /// The tokens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokens: Option<TokenCounts>,

    /// The embedded ledger that counts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ledger: Option<LedgerStatus>,
}

/// How many pods are in which state.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ReplicaCounts {
    /// Pods that should run.
    pub desired: i32,
    /// Pods that are ready.
    pub ready: i32,
    /// Pods that serve the newest configuration.
    pub programmed: i32,
}

/// The embedded ledger that counts for a RouterProxy.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LedgerStatus {
    /// What it is called, for as long as its volume lasts. A ledger of another name is refused, because what was
    /// counted would be lost with it, until the annotation `router.link-assistant.dev/accept-ledger` names it.
    pub id: String,
}

/// How many tokens are in which state.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TokenCounts {
    /// Tokens with a text that works now.
    pub live: i64,
}

fn default_replicas() -> i32 {
    1
}

fn default_storage_size() -> String {
    "1Gi".to_owned()
}

fn default_attempts() -> i32 {
    la_core::snapshot::Retry::default().attempts.cast_signed()
}

fn default_hold() -> String {
    la_core::duration::format(Duration::from_millis(la_core::snapshot::Retry::default().hold_ms))
}

fn default_affinity() -> String {
    la_core::duration::format(Duration::from_secs(la_core::snapshot::AFFINITY_SECONDS))
}

fn default_drain() -> String {
    "30s".to_owned()
}

fn default_request_log() -> bool {
    true
}

impl Default for Retry {
    fn default() -> Self {
        Self { attempts: default_attempts(), hold: default_hold() }
    }
}

impl Default for Affinity {
    fn default() -> Self {
        Self { ttl: default_affinity() }
    }
}

impl Streams {
    /// Whether nothing is done.
    pub fn is_empty(&self) -> bool {
        self.keep_alive.is_none()
    }
}

impl Default for Ledger {
    fn default() -> Self {
        Self::Embedded(EmbeddedLedger::default())
    }
}

impl Default for LedgerStorage {
    fn default() -> Self {
        Self { size: default_storage_size(), storage_class_name: None }
    }
}

impl Default for Shutdown {
    fn default() -> Self {
        Self { drain: default_drain() }
    }
}

impl Default for Observability {
    fn default() -> Self {
        Self { request_log: default_request_log() }
    }
}

impl LedgerSpec {
    /// The Secret with the URL of Redis.
    pub fn url_secret(&self) -> Option<&SecretKey> {
        match &self.place {
            Ledger::Redis(redis) => Some(&redis.url_secret_ref),
            Ledger::Embedded(_) | Ledger::Memory(_) => None,
        }
    }
}

impl Resources {
    /// Whether it says nothing.
    pub fn is_empty(&self) -> bool {
        self.requests.is_empty() && self.limits.is_empty()
    }
}
