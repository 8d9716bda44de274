//! What one proxy serves, complete: the only thing an operator tells a proxy.
//!
//! A snapshot is a file beside a file of credentials ([`crate::credential::Credentials`]). It is an
//! allow-list: a token, provider or route that is not in it does not exist. Reading it never fails
//! because of one faulty object: [`Snapshot::checked`] leaves the object out and says so, all at once.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::account::choice::Strategy;
use crate::account::health::Policy;
use crate::budget::{BudgetSpec, LimitsSpec, SavedOwner};
use crate::id::{Subject, TokenId};
use crate::oauth::federation::Federation;
use crate::price::Override;
use crate::token::VerifyingKey;

mod check;
mod wire;

pub use check::Fault;

/// The version of the format written here. A proxy refuses any other.
pub const VERSION: u32 = 1;

/// The file name of the snapshot, in a directory or a mounted Secret.
pub const SNAPSHOT_FILE: &str = "snapshot.json";

/// The file name of the credentials beside it.
pub const CREDENTIALS_FILE: &str = "credentials.json";

/// Everything a proxy needs to know but the credentials themselves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "wire::Wire", into = "wire::Wire")]
pub struct Snapshot {
    /// The format's version, [`VERSION`].
    pub version: u32,
    /// Which line of generations this is; rises when a cluster was restored from a backup.
    pub epoch: u64,
    /// Rises with every change. A proxy refuses a lower `(epoch, generation)` than it has seen.
    pub generation: u64,
    /// `namespace/name` of the RouterProxy.
    pub proxy: String,
    /// The `aud` that tokens must carry.
    pub audience: String,
    /// Keys that sign tokens.
    pub keys: Vec<VerifyingKey>,
    /// Keys that sign the operator's admin credentials.
    pub admin_keys: Vec<VerifyingKey>,
    /// Every token that exists.
    pub tokens: Vec<TokenRecord>,
    /// Every RouterBudget that covers one of them.
    pub pools: Vec<PoolRecord>,
    /// Every provider that a route can lead to.
    pub providers: Vec<Provider>,
    /// First match wins.
    pub routes: Vec<Route>,
    /// After how long without a byte for a client a comment is written into its stream, in milliseconds;
    /// never when it is not given.
    pub keep_alive_ms: Option<u64>,
    /// Which embedded ledger counts, once one was seen.
    pub ledger: Option<LedgerRecord>,
}

/// Which embedded ledger counts for a proxy, and from where it starts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct LedgerRecord {
    /// What it is called. Any other lacks what this one has counted, and may not count.
    pub id: String,
    /// What it must have counted at least: the use that was reported before the one in its place was lost. Absent
    /// once it has taken that over.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub floors: Vec<SavedOwner>,
}

/// One RouterToken: who it is, which texts of it live, what it may use, and how that is said (`L`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TokenRecord<L = Arc<LimitsSpec>> {
    /// Whom its budgets count on.
    pub subject: Subject,
    /// What people call it; shown in logs and lists. May be empty.
    #[serde(default)]
    pub label: String,
    /// The texts minted for it that have not been forgotten.
    pub ids: Vec<IssuedId>,
    /// Whether its owner has stopped it for now: 403 until lifted.
    #[serde(default)]
    pub suspended: bool,
    /// What it may use. Tokens with the same limits share them.
    pub limits: L,
    /// The pools that cover it too.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pools: Vec<Subject>,
    /// Which providers may serve it; all when empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub providers: Vec<String>,
    /// The only account that may serve it, by its name in whichever provider serves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub account: Option<String>,
    /// At which percentages of a budget to tell its owner.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub thresholds: Vec<u8>,
}

/// One RouterBudget: budgets that many tokens share.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PoolRecord {
    /// Whom its budgets count on.
    pub subject: Subject,
    /// The budgets.
    pub budgets: Vec<BudgetSpec>,
    /// At which percentages of a budget to tell its owner.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub thresholds: Vec<u8>,
}

/// One minted text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct IssuedId {
    /// Its `jti`.
    pub id: TokenId,
    /// From when it is valid, in Unix seconds.
    pub not_before: i64,
    /// Until when it is valid, exclusive, in Unix seconds.
    pub not_after: i64,
    /// Whether it was revoked: 403. An id that is not listed at all is unknown: 401.
    #[serde(default)]
    pub revoked: bool,
}

/// One UpstreamProvider.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Provider {
    /// Its name, unique in the snapshot.
    pub name: String,
    /// Whose API it speaks.
    pub backend: Backend,
    /// How long each phase of a request may take.
    pub timeouts: Timeouts,
    /// When its accounts rest, and for how long.
    #[serde(default)]
    pub health: Policy,
    /// Prices and limits of models that differ from the built-in table, or are not in it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pricing: Vec<Override>,
}

/// Whose API a provider speaks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase", deny_unknown_fields)]
pub enum Backend {
    /// The Anthropic Messages API.
    Anthropic {
        /// Scheme, host, optional port and path prefix, without a trailing slash.
        base_url: String,
        /// Who pays.
        accounts: Vec<Account>,
        /// How a new session gets its account.
        #[serde(default)]
        selection: Strategy,
    },
}

/// One vendor credential.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Account {
    /// Its name, unique in its provider.
    pub name: String,
    /// Where its credential is.
    pub credential: CredentialSource,
    /// Lower goes first, where the provider's selection looks at it.
    #[serde(default)]
    pub priority: u32,
    /// How much of the load it takes beside others; at least 1.
    #[serde(default = "default_weight")]
    pub weight: u32,
    /// Most requests that it serves at a time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_concurrency: Option<u32>,
    /// Whether its owner has taken it out of service.
    #[serde(default)]
    pub disabled: bool,
    /// Whether whoever wrote the snapshot renews its credential before it ends, and when the vendor refuses it.
    #[serde(default)]
    pub renewable: bool,
}

/// Where an account's credential is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase", deny_unknown_fields)]
pub enum CredentialSource {
    /// In the credentials beside the snapshot, under `provider/account`.
    Published,
    /// In a Claude home that the proxy reads, and re-reads when it changes. Never in a cluster.
    Directory {
        /// The directory.
        path: String,
    },
    /// An identity that the proxy exchanges for access tokens itself. Never in a cluster.
    Identity {
        /// What the vendor is asked for in its name.
        federation: Federation,
        /// The file with the identity's token, read at every exchange.
        token_file: String,
    },
}

/// How long each phase of an upstream request may take, in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Timeouts {
    /// Name look-up, connection and TLS together.
    pub connect_ms: u64,
    /// From the request's last byte to the answer's first.
    pub first_byte_ms: u64,
    /// Between two reads of the answer.
    pub idle_ms: u64,
    /// From the first attempt to the answer's last byte.
    pub total_ms: u64,
}

/// Which provider serves which models.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Route {
    /// Globs (`*`, `?`, `[…]`, `{a,b}`) of model ids; empty matches every model.
    pub models: Vec<String>,
    /// Who serves them, at least one.
    pub candidates: Vec<Candidate>,
    /// How often and how long another account is tried.
    #[serde(default)]
    pub retry: Retry,
    /// How long a session without requests keeps its account, in seconds; 0 keeps none.
    #[serde(default = "default_affinity_seconds")]
    pub affinity_seconds: u64,
}

/// Who serves a route.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Candidate {
    /// The provider's name.
    pub provider: String,
    /// Lower goes first; the next is tried when none of the accounts before it can serve.
    #[serde(default)]
    pub priority: u32,
    /// What the model is called there; as the client calls it when not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
}

/// How often and how long another account is tried before a client gets the first byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Retry {
    /// Most attempts, the first included; at least 1.
    pub attempts: u32,
    /// Longest time that the start of a stream is held back to see whether it fails, in milliseconds.
    pub hold_ms: u64,
}

/// How long a session keeps its account unless the route says otherwise: longer than the longest lifetime of
/// a prompt cache, which is one hour (Anthropic's documentation, August 2026).
pub const AFFINITY_SECONDS: u64 = 65 * 60;

fn default_affinity_seconds() -> u64 {
    AFFINITY_SECONDS
}

fn default_weight() -> u32 {
    1
}

impl Default for Retry {
    /// Four attempts, 5 s.
    fn default() -> Self {
        Self { attempts: 4, hold_ms: 5_000 }
    }
}

impl Provider {
    /// A provider that speaks the Anthropic Messages API, with everything else as it is by default.
    pub fn anthropic(name: &str, base_url: &str, accounts: Vec<Account>) -> Self {
        let (base_url, selection) = (base_url.to_owned(), Strategy::default());
        Self {
            name: name.to_owned(),
            backend: Backend::Anthropic { base_url, accounts, selection },
            timeouts: Timeouts::default(),
            health: Policy::default(),
            pricing: Vec::new(),
        }
    }
}

impl Account {
    /// An account with no wishes.
    pub fn new(name: &str, credential: CredentialSource) -> Self {
        let name = name.to_owned();
        let (priority, weight, max_concurrency) = (0, default_weight(), None);
        Self { name, credential, priority, weight, max_concurrency, disabled: false, renewable: false }
    }
}

impl Route {
    /// A route of `models` to one provider, with everything else as it is by default.
    pub fn to(provider: &str, models: Vec<String>) -> Self {
        let candidate = Candidate { provider: provider.to_owned(), priority: 0, model: None };
        let (candidates, retry) = (vec![candidate], Retry::default());
        Self { models, candidates, retry, affinity_seconds: AFFINITY_SECONDS }
    }
}

impl Default for Timeouts {
    /// 10 s, 10 min, 5 min and 60 min. Claude Code gives up on a silent gateway stream after 5 min and on a
    /// whole request after 10 min (its documentation, August 2026).
    fn default() -> Self {
        Self { connect_ms: 10_000, first_byte_ms: 600_000, idle_ms: 300_000, total_ms: 3_600_000 }
    }
}

impl Snapshot {
    /// A snapshot of `proxy` that serves nothing yet.
    pub fn empty(proxy: &str) -> Self {
        Self {
            version: VERSION,
            epoch: 0,
            generation: 0,
            proxy: proxy.to_owned(),
            audience: audience_of(proxy),
            keys: Vec::new(),
            admin_keys: Vec::new(),
            tokens: Vec::new(),
            pools: Vec::new(),
            providers: Vec::new(),
            routes: Vec::new(),
            keep_alive_ms: None,
            ledger: None,
        }
    }

    /// Its place in the order of snapshots.
    pub fn order(&self) -> (u64, u64) {
        (self.epoch, self.generation)
    }

    /// Whether both serve the same, whatever their generation.
    pub fn serves_same_as(&self, other: &Self) -> bool {
        let place = |snapshot: &Self| Self { epoch: 0, generation: 0, ..snapshot.clone() };
        place(self) == place(other)
    }

    /// Subjects of all tokens and pools.
    pub fn subjects(&self) -> BTreeSet<&Subject> {
        let pools = self.pools.iter().map(|pool| &pool.subject);
        self.tokens.iter().map(|token| &token.subject).chain(pools).collect()
    }
}

impl TokenRecord {
    /// A token that is not suspended, in no pool, with every provider and account open to it.
    pub fn new(subject: Subject, ids: Vec<IssuedId>, limits: Arc<LimitsSpec>) -> Self {
        Self {
            subject,
            label: String::new(),
            ids,
            suspended: false,
            limits,
            pools: Vec::new(),
            providers: Vec::new(),
            account: None,
            thresholds: Vec::new(),
        }
    }

    /// Whether any of its texts is valid at `now` (Unix seconds).
    pub fn is_live(&self, now: i64) -> bool {
        self.ids.iter().any(|issued| !issued.revoked && issued.not_before <= now && now < issued.not_after)
    }
}

/// The `aud` of tokens for the proxy `namespace/name`.
pub fn audience_of(proxy: &str) -> String {
    format!("la-router/{proxy}")
}

/// The key under which an account's credential is published.
pub fn credential_key(provider: &str, account: &str) -> String {
    format!("{provider}/{account}")
}
