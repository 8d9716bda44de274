//! One issued text: who it is for and how long it lives.

use la_core::id::{IdError, Subject, TokenId};
use la_core::report::BudgetUse;
use la_core::snapshot::{IssuedId, audience_of};
use la_core::token::Claims;
use serde::{Deserialize, Serialize};

/// How long after its end a record is kept, so that its owner can still see what it was.
const REMEMBER_SECONDS: i64 = 30 * 86_400;

/// The record of one text. Times are Unix seconds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Record {
    /// Its `jti`.
    pub id: TokenId,
    /// `namespace/name` of the proxy it was issued for.
    pub proxy: String,
    /// Of the RouterToken it belongs to.
    pub namespace: String,
    /// Of the RouterToken it belongs to.
    pub name: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub label: String,
    pub issued_at: i64,
    /// Exclusive.
    pub expires_at: i64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revoked_at: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_requests: Option<u64>,
    pub origin: Origin,
}

/// What a record came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase", deny_unknown_fields)]
pub enum Origin {
    /// Asked for on the command line or over the admin API.
    Issued,
    /// Minted for a RouterToken in a manifest.
    Manifest {
        /// The life that the manifest asked for.
        duration_seconds: i64,
        /// Whether its files stay when the manifest goes away.
        retain: bool,
    },
}

/// A record as people and programs see it; keeps the names of link-assistant/router.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shown {
    pub id: String,
    pub label: String,
    /// `namespace/name` of the RouterToken.
    pub name: String,
    pub issued_at: i64,
    pub expires_at: i64,
    pub revoked: bool,
    pub max_requests: Option<u64>,
    pub used_requests: u64,
    /// How its own budgets stand, where a server tells.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub budgets: Vec<BudgetUse>,
}

impl Record {
    /// Whom its budgets count on.
    ///
    /// # Errors
    /// When a name in it is not printable ASCII.
    pub fn subject(&self) -> Result<Subject, IdError> {
        let proxy = self.proxy.rsplit('/').next().unwrap_or_default();
        Subject::of(proxy, &self.namespace, &self.name)
    }

    /// What its text claims. The same record gives the same claims.
    ///
    /// # Errors
    /// When a name in it is not printable ASCII.
    pub fn claims(&self) -> Result<Claims, IdError> {
        Ok(Claims {
            sub: self.subject()?.as_str().to_owned(),
            jti: Some(self.id.clone()),
            aud: Some(audience_of(&self.proxy)),
            iat: self.issued_at,
            nbf: None,
            exp: self.expires_at,
        })
    }

    /// Its place in a snapshot.
    pub fn issued_id(&self) -> IssuedId {
        IssuedId {
            id: self.id.clone(),
            not_before: self.issued_at,
            // A record that was expired in the second of its issue has no life at all; a snapshot wants one.
            not_after: self.expires_at.max(self.issued_at.saturating_add(1)),
            revoked: self.revoked_at.is_some() || self.expires_at <= self.issued_at,
        }
    }

    /// Whether its text works at `now`.
    pub fn is_live(&self, now: i64) -> bool {
        self.revoked_at.is_none() && now < self.expires_at
    }

    /// Whether it ended so long ago that nobody needs to see what it was.
    pub(super) fn is_forgotten(&self, now: i64) -> bool {
        now >= self.expires_at.saturating_add(REMEMBER_SECONDS)
    }

    /// What people see of it. Use counts on the whole RouterToken.
    pub fn shown(&self, used_requests: u64) -> Shown {
        Shown {
            id: self.id.to_string(),
            label: self.label.clone(),
            name: format!("{}/{}", self.namespace, self.name),
            issued_at: self.issued_at,
            expires_at: self.expires_at,
            revoked: self.revoked_at.is_some(),
            max_requests: self.max_requests,
            used_requests,
            budgets: Vec::new(),
        }
    }
}
