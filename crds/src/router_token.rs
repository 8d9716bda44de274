//! RouterToken: a scoped, capped, expiring `la_sk_` token for one agent, kept in a Secret.
#![expect(unreachable_pub, reason = "the derived schema repeats each `pub struct` inside a function")]
#![expect(clippy::duplicated_attributes, reason = "every printed column says its own type")]

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube_derive::{CustomResource, KubeSchema};
use la_core::budget::LimitsSpec;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::limits::{self, BudgetStatus};
use crate::schema;

/// A token that an agent uses instead of a vendor's credential.
///
/// The token's text is written to the Secret `secretName` beside this object and renewed before it
/// expires. Deleting this object revokes it.
#[derive(CustomResource, KubeSchema, Debug, Clone, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "router.link-assistant.dev",
    version = "v1alpha1",
    kind = "RouterToken",
    namespaced,
    doc = "A scoped, capped, expiring token that an agent uses instead of a vendor's credential.",
    status = "RouterTokenStatus",
    derive = "PartialEq",
    shortname = "rtok",
    category = "la-router",
    selectable = ".spec.proxyRef.name",
    selectable = ".spec.secretName",
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Ready")].status"#
    ),
    printcolumn(name = "Proxy", type_ = "string", json_path = ".spec.proxyRef.name"),
    printcolumn(
        name = "Used",
        type_ = "integer",
        json_path = ".status.usage.requests",
        description = "Requests settled so far"
    ),
    printcolumn(
        name = "Expires",
        type_ = "string",
        json_path = r#".status.tokens[?(@.state=="Active")].notAfter"#,
        description = "When the newest text stops working, unless renewed"
    ),
    printcolumn(name = "Secret", type_ = "string", json_path = ".spec.secretName", priority = 1),
    printcolumn(name = "Label", type_ = "string", json_path = ".spec.label", priority = 1),
    printcolumn(
        name = "Reason",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Ready")].reason"#,
        priority = 1
    ),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    crates(kube_core = "::kube_core")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    crates(kube_core = "::kube_core"),
    validation = Rule::new("!(has(self.renewBefore) && has(self.renewBeforePercentage))")
        .message("renewBefore and renewBeforePercentage exclude each other")
        .field_path(".renewBefore"),
    validation = Rule::new("!has(self.renewBefore) || duration(self.renewBefore) < duration(self.duration)")
        .message("must be shorter than duration")
        .field_path(".renewBefore")
)]
pub struct RouterTokenSpec {
    /// The RouterProxy that serves this token. Cannot be changed: a token's text is made for one proxy, and
    /// its use is counted there.
    #[x_kube(validation = Rule::new("self == oldSelf").message("proxyRef cannot be changed; delete the RouterToken and create another"))]
    pub proxy_ref: ProxyRef,

    /// The Secret that the token is written to, in this namespace. Cannot be changed.
    ///
    /// A Secret of this name that belongs to somebody else is left alone and reported as `SecretConflict`.
    #[schemars(length(min = 1, max = 253), regex(pattern = schema::OBJECT_NAME))]
    #[x_kube(validation = Rule::new("self == oldSelf").message("secretName cannot be changed; delete the RouterToken and create another"))]
    pub secret_name: String,

    /// Whether an existing Secret may be taken over. It must be of type `Opaque`, not controlled by another
    /// object, and carry the annotation `router.link-assistant.dev/adopt: "true"`.
    #[serde(default)]
    pub adopt: bool,

    /// What happens to the Secret when this object is deleted. The token in it is revoked either way.
    #[serde(default)]
    pub reclaim_policy: ReclaimPolicy,

    /// Labels and annotations for the Secret.
    #[serde(default, skip_serializing_if = "SecretTemplate::is_empty")]
    pub secret_template: SecretTemplate,

    /// Which keys the Secret gets: `Token` writes `token`; `AnthropicEnv` writes `ANTHROPIC_BASE_URL` and
    /// `ANTHROPIC_AUTH_TOKEN`.
    #[serde(default = "default_outputs")]
    #[schemars(length(min = 1, max = 2))]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    #[x_kube(validation = Rule::new("self.all(one, self.exists_one(other, other == one))").message("must name each output once"))]
    pub outputs: Vec<Output>,

    /// What people call this token; shown in logs and lists. At most 128 characters.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 128))]
    pub label: String,

    /// How long one text of the token lives: `1m` to `8760h` (a year).
    #[serde(default = "default_duration")]
    #[schemars(length(max = schema::DURATION_MAX), regex(pattern = schema::DURATION))]
    #[x_kube(validation = Rule::new("duration(self) >= duration('1m') && duration(self) <= duration('8760h')").message("must be 1m to 8760h"))]
    pub duration: String,

    /// How long before its end a text is replaced: at least `10m`, less than `duration`. When neither this
    /// nor `renewBeforePercentage` is set, a text is replaced when a third of its life is left.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = schema::DURATION_MAX), regex(pattern = schema::DURATION))]
    #[x_kube(validation = Rule::new("duration(self) >= duration('10m')").message("must be at least 10m"))]
    pub renew_before: Option<String>,

    /// The share of its life, in percent, that a text still has when it is replaced: 1 to 90. Excludes
    /// `renewBefore`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 90))]
    pub renew_before_percentage: Option<i32>,

    /// Stops the token for now: it is answered 403 until this is lifted, and not renewed. Its use is kept.
    #[serde(default)]
    pub suspend: bool,

    /// Which providers may serve it, at most 16; all when left out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), inner(length(min = 1, max = 253), regex(pattern = schema::OBJECT_NAME)))]
    pub providers: Vec<String>,

    /// The only account that may serve it, by its name in the provider. While it cannot, requests are refused
    /// instead of served by another.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63), regex(pattern = schema::LABEL_NAME))]
    pub account: Option<String>,

    /// What the token may use. Each part that is left out is taken from the `tokens.defaults` of the proxy.
    #[serde(default, skip_serializing_if = "limits::is_empty")]
    #[schemars(schema_with = "limits::limits")]
    pub limits: LimitsSpec,

    /// At which percentages of a budget an Event says so, once per window: 1 to 100, at most 8. That a Hard
    /// budget has nothing left is always said.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "limits::thresholds")]
    pub budget_thresholds: Vec<u8>,
}

/// Which RouterProxy.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ProxyRef {
    /// Its name.
    #[schemars(length(min = 1, max = 52), regex(pattern = schema::LABEL_NAME))]
    pub name: String,

    /// Its namespace; this object's own when left out. The proxy decides which namespaces it admits
    /// (`tokens.allowedNamespaces`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63), regex(pattern = schema::LABEL_NAME))]
    pub namespace: Option<String>,
}

/// What happens to a minted Secret when its RouterToken is deleted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ReclaimPolicy {
    /// It is deleted too.
    #[default]
    Delete,
    /// It stays, with a token that is refused.
    Retain,
}

/// Labels and annotations for a minted Secret.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(crates(kube_core = "::kube_core"))]
pub struct SecretTemplate {
    /// Labels. Keys that start with `router.link-assistant.dev/`, `kubernetes.io/`, `kubectl.kubernetes.io/`
    /// or `app.kubernetes.io/managed-by` are refused.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "schema::labels")]
    #[x_kube(validation = Rule::new(RESERVED_RULE).message(RESERVED_MESSAGE))]
    pub labels: BTreeMap<String, String>,

    /// Annotations, with the same keys refused.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "schema::annotations")]
    #[x_kube(validation = Rule::new(RESERVED_RULE).message(RESERVED_MESSAGE))]
    pub annotations: BTreeMap<String, String>,
}

const RESERVED_RULE: &str = "self.all(key, !key.startsWith('router.link-assistant.dev/') && \
     !key.startsWith('app.kubernetes.io/managed-by') && !key.startsWith('kubernetes.io/') && \
     !key.startsWith('kubectl.kubernetes.io/'))";

const RESERVED_MESSAGE: &str = "keys that start with router.link-assistant.dev/, kubernetes.io/, \
     kubectl.kubernetes.io/ or app.kubernetes.io/managed-by are reserved";

/// Which keys of a minted Secret are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub enum Output {
    /// `token`: the text.
    Token,
    /// `ANTHROPIC_BASE_URL` and `ANTHROPIC_AUTH_TOKEN`, as Claude Code and the SDKs read them.
    AnthropicEnv,
}

/// What the operator says of a RouterToken.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(crates(kube_core = "::kube_core"))]
pub struct RouterTokenStatus {
    /// The generation of the spec that this status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,

    /// `Ready`: the Secret holds a token that its proxy serves. `Issuing`: a text is being made.
    /// `Programmed`: every ready pod of the proxy knows the newest text. `BudgetExhausted`: a Hard budget of
    /// the token, or of a RouterBudget that covers it, has nothing left.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".to_owned()]))]
    pub conditions: Vec<Condition>,

    /// How many texts have been minted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<i64>,

    /// The texts that exist, newest first. Their ids only.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["id".to_owned()]))]
    pub tokens: Vec<TokenText>,

    /// When the newest text will be replaced.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub renewal_time: Option<Time>,

    /// What the token has used, all its texts together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usage: Option<TokenUsage>,

    /// When minting last failed; cleared by success.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_failure_time: Option<Time>,

    /// How many times in a row minting failed; cleared by success.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failed_issuance_attempts: Option<i32>,
}

/// One text of a token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TokenText {
    /// Its id (`jti`).
    pub id: String,
    /// From when it is valid.
    pub not_before: Time,
    /// Until when it is valid, exclusive.
    pub not_after: Time,
    /// What has become of it.
    pub state: TokenState,
}

/// What has become of one text of a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum TokenState {
    /// Its id is recorded; whether the Secret holds its text is not known yet.
    Issuing,
    /// It was written to the Secret, and works until it expires.
    Active,
    /// It is refused.
    Revoked,
}

/// What a token has used, as its proxy last reported.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(crates(kube_core = "::kube_core"))]
pub struct TokenUsage {
    /// When the proxy reported it.
    pub observed_at: Time,
    /// Requests that were settled.
    pub requests: i64,
    /// Input tokens, cached ones included.
    pub input_tokens: i64,
    /// Output tokens.
    pub output_tokens: i64,
    /// What they cost, in US dollars.
    #[serde(rename = "costUSD", default)]
    pub cost_usd: String,
    /// How its budgets stand.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".to_owned()]))]
    pub windows: Vec<BudgetStatus>,
}

fn default_outputs() -> Vec<Output> {
    vec![Output::Token, Output::AnthropicEnv]
}

fn default_duration() -> String {
    "24h".to_owned()
}

impl SecretTemplate {
    /// Whether it adds nothing.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty() && self.annotations.is_empty()
    }
}

impl RouterToken {
    /// The namespace of the proxy this token is for.
    pub fn proxy_namespace(&self) -> &str {
        let own = self.metadata.namespace.as_deref().unwrap_or_default();
        self.spec.proxy_ref.namespace.as_deref().unwrap_or(own)
    }
}
