//! UpstreamProvider: a vendor's API and the accounts that pay for it.
#![expect(unreachable_pub, reason = "the derived schema repeats each `pub struct` inside a function")]
#![expect(clippy::duplicated_attributes, reason = "every printed column says its own type")]

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube_derive::{CustomResource, KubeSchema};
use la_core::account::choice::Strategy;
use la_core::account::health::Policy;
use la_core::price::Override;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{pricing, schema};

mod credential;

pub use credential::{
    AccountCredential, FromDirectory, FromSecret, IdentityToken, SecretRef, ServiceAccountToken, TokenFile,
    WorkloadIdentity,
};
pub(crate) use credential::{DIRECTORY_MESSAGE, SERVICE_ACCOUNT_MESSAGE, TOKEN_FILE_MESSAGE};

/// A vendor's API and the accounts that pay for it.
///
/// Whoever may edit this object can read the Secrets it names, by pointing `baseURL` elsewhere: give that
/// right only to those who may read the Secrets.
#[derive(CustomResource, KubeSchema, Debug, Clone, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "router.link-assistant.dev",
    version = "v1alpha1",
    kind = "UpstreamProvider",
    namespaced,
    doc = "A vendor's API and the accounts that pay for it.",
    status = "UpstreamProviderStatus",
    derive = "PartialEq",
    shortname = "provider",
    category = "la-router",
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Ready")].status"#
    ),
    printcolumn(
        name = "Available",
        type_ = "string",
        json_path = ".status.available",
        description = "Accounts that can serve, of all"
    ),
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
#[x_kube(crates(kube_core = "::kube_core"))]
pub struct UpstreamProviderSpec {
    /// Whose API it is; exactly one.
    pub backend: Backend,

    /// How long each phase of a request may take.
    #[serde(default)]
    pub timeouts: Timeouts,

    /// When an account rests, and for how long.
    #[serde(default)]
    pub health: Health,

    /// What models cost.
    #[serde(default, skip_serializing_if = "Pricing::is_empty")]
    pub pricing: Pricing,
}

/// When an account rests, where the vendor does not say itself until when.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    crates(kube_core = "::kube_core"),
    validation = Rule::new("duration(self.cooldown) <= duration(self.maxCooldown)").message(COOLDOWN_MESSAGE).field_path(".cooldown")
)]
pub struct Health {
    /// After how many failures in a row: 1 to 100. A rate limit, an overload and a refused credential count at
    /// once, each for what it is about; a client's own mistake never counts.
    #[serde(default = "default_consecutive_failures")]
    #[schemars(range(min = 1, max = 100))]
    pub consecutive_failures: i32,

    /// The first rest: `1s` to `1h`. Doubles with every failure after one.
    #[serde(default = "default_cooldown")]
    #[schemars(length(max = schema::DURATION_MAX), regex(pattern = schema::DURATION))]
    #[x_kube(validation = Rule::new("duration(self) >= duration('1s') && duration(self) <= duration('1h')").message(FIRST_COOLDOWN_MESSAGE))]
    pub cooldown: String,

    /// The longest rest, whatever the vendor says: `1s` to `720h`.
    #[serde(default = "default_max_cooldown")]
    #[schemars(length(max = schema::DURATION_MAX), regex(pattern = schema::DURATION))]
    #[x_kube(validation = Rule::new("duration(self) >= duration('1s') && duration(self) <= duration('720h')").message(LONGEST_COOLDOWN_MESSAGE))]
    pub max_cooldown: String,

    /// Whether an account rests for as long as the vendor's `retry-after` asks.
    #[serde(default = "default_true")]
    pub honour_retry_after: bool,
}

pub(crate) const COOLDOWN_MESSAGE: &str = "must not be longer than maxCooldown";

pub(crate) const FIRST_COOLDOWN_MESSAGE: &str = "must be 1s to 1h";

pub(crate) const LONGEST_COOLDOWN_MESSAGE: &str = "must be 1s to 720h";

/// What models cost, where it is not what the built-in table says.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Pricing {
    /// Prices and limits of single models, each model once, at most 64. For a model of the built-in table
    /// what is not given keeps its place; any other model needs all five prices and both limits.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "pricing::overrides")]
    pub overrides: Vec<Override>,
}

/// Whose API a provider speaks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Backend {
    /// The Anthropic Messages API.
    Anthropic(AnthropicBackend),
}

/// The Anthropic Messages API and its accounts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(crates(kube_core = "::kube_core"))]
pub struct AnthropicBackend {
    /// Where the API is: `http(s)://HOST[:PORT][/PREFIX]` without a slash at its end. Plain `http` sends the
    /// credential unencrypted; use it only for a server of your own on a network you trust.
    #[serde(rename = "baseURL", default = "default_anthropic_base_url")]
    #[schemars(length(max = 512))]
    #[x_kube(validation = Rule::new(BASE_URL_RULE).message(BASE_URL_MESSAGE))]
    pub base_url: String,

    /// The accounts, 1 to 16.
    #[schemars(length(min = 1, max = 16))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".to_owned()]))]
    pub accounts: Vec<Account>,

    /// How accounts of the same `priority` share requests. A new session gets one by a hash, so that all pods
    /// agree, and keeps it: by the room left in both rate-limit windows with `LeastUtilized`, by `weight` with
    /// `Weighted`, otherwise evenly. Requests without a session: to the most room for what is in flight, in
    /// turn (`RoundRobin`), to the fewest requests so far (`LeastUsed`), always in the same order (`Priority`),
    /// or by `weight` (`Weighted`).
    #[serde(default)]
    #[schemars(schema_with = "schema::strategy")]
    pub selection: Strategy,

    /// From which use of a rate-limit window on an account gets no new sessions, nor requests without one, in
    /// percent: 1 to 100. What the vendor itself refuses is avoided in any case.
    #[serde(default, skip_serializing_if = "StopAtUtilization::is_empty")]
    pub stop_at_utilization: StopAtUtilization,

    /// Whether an account is used beyond its windows while the vendor allows that as paid overage.
    #[serde(default = "default_true")]
    pub use_overage: bool,

    /// Who renews the logins of `oauth` accounts. A `workloadIdentity` is always exchanged by the operator.
    #[serde(default)]
    pub refresh: Refresh,
}

/// From which use of a rate-limit window on an account gets no new sessions.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct StopAtUtilization {
    /// Of the window of five hours, in percent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100))]
    pub five_hour: Option<i32>,

    /// Of the window of seven days, in percent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100))]
    pub seven_day: Option<i32>,
}

/// Who renews logins, and when.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    crates(kube_core = "::kube_core"),
    validation = Rule::new("!has(self.before) || self.mode == 'Operator'").message(BEFORE_MESSAGE).field_path(".before")
)]
pub struct Refresh {
    /// `Operator`: the operator, which writes the Secret; nobody else may use the login meanwhile, because its
    /// refresh token works once. `External`: somebody else writes the Secret. A folder of manifests is never
    /// written: there a login in a Secret is read again only.
    #[serde(default)]
    pub mode: RefreshMode,

    /// How long before its end an access token is renewed: `1m` to `24h`. When left out, between 30 and 20
    /// percent of its life are left.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = schema::DURATION_MAX), regex(pattern = schema::DURATION))]
    #[x_kube(validation = Rule::new("duration(self) >= duration('1m') && duration(self) <= duration('24h')").message(REFRESH_BEFORE_MESSAGE))]
    pub before: Option<String>,
}

pub(crate) const BEFORE_MESSAGE: &str = "before belongs to mode: Operator";

pub(crate) const REFRESH_BEFORE_MESSAGE: &str = "must be 1m to 24h";

/// Who renews logins.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum RefreshMode {
    /// The operator.
    #[default]
    Operator,
    /// Somebody else.
    External,
}

/// A base URL, as a regular expression that CEL and Rust read alike.
pub(crate) const BASE_URL_PATTERN: &str = "^https?://([A-Za-z0-9]([-A-Za-z0-9.]*[A-Za-z0-9])?|\\[[0-9A-Fa-f:.]+\\])(:[0-9]{1,5})?(/[-A-Za-z0-9._~]+)*$";

const BASE_URL_RULE: &str = "self.matches(r'^https?://([A-Za-z0-9]([-A-Za-z0-9.]*[A-Za-z0-9])?|\\[[0-9A-Fa-f:.]+\\])(:[0-9]{1,5})?(/[-A-Za-z0-9._~]+)*$')";

pub(crate) const BASE_URL_MESSAGE: &str =
    "must be http(s)://HOST[:PORT][/PREFIX] without user, query, fragment or a slash at its end";

/// One account at the vendor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    crates(kube_core = "::kube_core"),
    validation = Rule::new("!has(self.credential.directory)").message(DIRECTORY_MESSAGE).field_path(".credential.directory"),
    validation = Rule::new("!has(self.credential.workloadIdentity) || !has(self.credential.workloadIdentity.tokenFrom.file)").message(TOKEN_FILE_MESSAGE).field_path(".credential.workloadIdentity.tokenFrom.file")
)]
pub struct Account {
    /// Its name, unique in this provider; shown in statuses, logs and errors.
    #[schemars(length(min = 1, max = 63), regex(pattern = schema::LABEL_NAME))]
    pub name: String,

    /// What proves the account to the vendor; exactly one form.
    pub credential: AccountCredential,

    /// Lower goes first, whatever the `selection`: 0 to 1000. An account behind others serves while none of
    /// them can.
    #[serde(default)]
    #[schemars(range(min = 0, max = 1000))]
    pub priority: i32,

    /// With `selection: Weighted`, how much of the load it takes beside others: 1 to 1000.
    #[serde(default = "default_weight")]
    #[schemars(range(min = 1, max = 1000))]
    pub weight: i32,

    /// Most requests that it serves at a time, through all pods of a gateway together, 1 to 10000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 10_000))]
    pub max_concurrency: Option<i32>,

    /// Takes it out of service; its sessions move on.
    #[serde(default)]
    pub disabled: bool,
}

/// How long each phase of a request to the vendor may take. Each is `10ms` to `24h`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(crates(kube_core = "::kube_core"))]
pub struct Timeouts {
    /// Name look-up, connection and TLS together.
    #[serde(default = "default_connect")]
    #[schemars(length(max = schema::DURATION_MAX), regex(pattern = schema::DURATION))]
    #[x_kube(validation = Rule::new(TIMEOUT_RULE).message(TIMEOUT_MESSAGE))]
    pub connect: String,

    /// From the request's last byte to the answer's first.
    #[serde(default = "default_first_byte")]
    #[schemars(length(max = schema::DURATION_MAX), regex(pattern = schema::DURATION))]
    #[x_kube(validation = Rule::new(TIMEOUT_RULE).message(TIMEOUT_MESSAGE))]
    pub first_byte: String,

    /// Between two reads of the answer.
    #[serde(default = "default_idle")]
    #[schemars(length(max = schema::DURATION_MAX), regex(pattern = schema::DURATION))]
    #[x_kube(validation = Rule::new(TIMEOUT_RULE).message(TIMEOUT_MESSAGE))]
    pub idle: String,

    /// From the first attempt to the answer's last byte.
    #[serde(default = "default_total")]
    #[schemars(length(max = schema::DURATION_MAX), regex(pattern = schema::DURATION))]
    #[x_kube(validation = Rule::new(TIMEOUT_RULE).message(TIMEOUT_MESSAGE))]
    pub total: String,
}

const TIMEOUT_RULE: &str = "duration(self) >= duration('10ms') && duration(self) <= duration('24h')";

const TIMEOUT_MESSAGE: &str = "must be 10ms to 24h";

/// What the operator says of an UpstreamProvider.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(crates(kube_core = "::kube_core"))]
pub struct UpstreamProviderStatus {
    /// The generation of the spec that this status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,

    /// `Accepted`: the spec makes sense. `CredentialsResolved`: every account's credential was found and
    /// read. `Ready`: at least one account can serve.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".to_owned()]))]
    pub conditions: Vec<Condition>,

    /// Accounts that can serve, of all: `1/2`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub available: Option<String>,

    /// Each account.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".to_owned()]))]
    pub accounts: Vec<AccountStatus>,
}

/// What the operator says of one account.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AccountStatus {
    /// Its name.
    pub name: String,

    /// Whether it can serve.
    pub state: AccountState,

    /// Why it cannot, without any part of the credential.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,

    /// Until when it rests, where that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Time>,

    /// When its credential stops working, where that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credential_expires_at: Option<Time>,

    /// When the operator last renewed its login, or exchanged its identity.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_refresh_time: Option<Time>,

    /// How much of its rate-limit windows is used, as the vendor last said.
    #[serde(default, skip_serializing_if = "Utilization::is_empty")]
    pub utilization: Utilization,
}

/// How much of the rate-limit windows of an account is used; above 100 where the vendor allows overage.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Utilization {
    /// Of five hours, in percent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub five_hour: Option<i32>,

    /// Of seven days, in percent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seven_day: Option<i32>,
}

/// Whether an account can serve.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum AccountState {
    /// It can.
    Ready,
    /// Its Secret, or the key in it, does not exist.
    Missing,
    /// Its credential cannot be read.
    Malformed,
    /// Its credential has passed its end.
    Expired,
    /// The vendor answered 401 to its current credential.
    Unauthorized,
    /// Its credential cannot serve, and a new one has been asked for.
    Renewing,
    /// It rests, because the vendor asked for it or failed too often.
    Cooling,
    /// Its owner has taken it out of service.
    Disabled,
    /// Its login cannot be renewed any more: somebody has to log in again and put the new login into the
    /// Secret.
    LoginRequired,
    /// The vendor does not accept its workload identity: somebody has to correct the federation rule, or what
    /// this account says of it.
    IdentityDenied,
}

fn default_anthropic_base_url() -> String {
    "https://api.anthropic.com".to_owned()
}

fn default_connect() -> String {
    text_of(la_core::snapshot::Timeouts::default().connect_ms)
}

fn default_first_byte() -> String {
    text_of(la_core::snapshot::Timeouts::default().first_byte_ms)
}

fn default_idle() -> String {
    text_of(la_core::snapshot::Timeouts::default().idle_ms)
}

fn default_total() -> String {
    text_of(la_core::snapshot::Timeouts::default().total_ms)
}

fn default_consecutive_failures() -> i32 {
    Policy::default().consecutive_failures.cast_signed()
}

fn default_cooldown() -> String {
    text_of(u64::from(Policy::default().cooldown_seconds) * 1000)
}

fn default_max_cooldown() -> String {
    text_of(u64::from(Policy::default().max_cooldown_seconds) * 1000)
}

fn default_weight() -> i32 {
    1
}

fn default_true() -> bool {
    true
}

fn text_of(time_ms: u64) -> String {
    la_core::duration::format(std::time::Duration::from_millis(time_ms))
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            connect: default_connect(),
            first_byte: default_first_byte(),
            idle: default_idle(),
            total: default_total(),
        }
    }
}

impl Default for Health {
    fn default() -> Self {
        Self {
            consecutive_failures: default_consecutive_failures(),
            cooldown: default_cooldown(),
            max_cooldown: default_max_cooldown(),
            honour_retry_after: true,
        }
    }
}

impl StopAtUtilization {
    /// Whether it stops nothing.
    pub fn is_empty(&self) -> bool {
        self.five_hour.is_none() && self.seven_day.is_none()
    }
}

impl Utilization {
    /// Whether nothing is known.
    pub fn is_empty(&self) -> bool {
        self.five_hour.is_none() && self.seven_day.is_none()
    }
}

impl Pricing {
    /// Whether it changes nothing.
    pub fn is_empty(&self) -> bool {
        self.overrides.is_empty()
    }
}

impl Backend {
    /// The accounts, in order.
    pub fn accounts(&self) -> &[Account] {
        let Self::Anthropic(backend) = self;
        &backend.accounts
    }
}
