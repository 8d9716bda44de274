//! Vendor credentials in the form a proxy uses them, and the files they are read from.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::secret::{Secret, exposed};

pub mod claude;

/// What proves an account to its vendor. Never holds a refresh token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase", deny_unknown_fields)]
pub enum Credential {
    /// An OAuth access token of a Claude login, or a long-lived setup token.
    OAuth {
        /// Goes out as `Authorization: Bearer`.
        #[serde(with = "exposed")]
        access_token: Secret,
        /// When it stops working, in Unix seconds; unknown for setup tokens.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        expires_at: Option<i64>,
    },
    /// An API key.
    ApiKey {
        /// Goes out as `x-api-key`.
        #[serde(with = "exposed")]
        key: Secret,
    },
}

/// Credentials by `provider/account`, the second file beside the snapshot.
pub type Credentials = BTreeMap<String, Credential>;

impl Credential {
    /// Whether the credential has an end and `now` (Unix seconds) has reached it.
    pub fn is_expired(&self, now: i64) -> bool {
        matches!(self, Self::OAuth { expires_at: Some(at), .. } if *at <= now)
    }
}
