//! What one proxy serves, complete: the only thing an operator tells a proxy.
//!
//! A snapshot is a file beside a file of credentials ([`crate::credential::Credentials`]). It is an
//! allow-list: a token, provider or route that is not in it does not exist. Reading it never fails
//! because of one faulty object: [`Snapshot::checked`] leaves the object out and says so, all at once.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::budget::{BudgetSpec, LimitsSpec};
use crate::id::{Subject, TokenId};
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
        /// Tried in this order; the first with a usable credential serves.
        accounts: Vec<Account>,
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
    /// The provider's name.
    pub provider: String,
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
