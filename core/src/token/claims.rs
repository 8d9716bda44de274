//! What a token says of itself.

use serde::{Deserialize, Serialize};

use crate::id::TokenId;

/// The claims of a token. Times are Unix seconds. Unknown claims are ignored, repeated ones refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claims {
    /// Whom budgets count on; see [`crate::id::Subject`]. A UUID in tokens of link-assistant/router.
    pub sub: String,
    /// The id of this text. Absent in tokens of link-assistant/router, whose `sub` takes its place.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jti: Option<TokenId>,
    /// The router the token is for. Demanded of tokens whose key has a `kid`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub aud: Option<String>,
    /// When it was made.
    pub iat: i64,
    /// From when it is valid.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nbf: Option<i64>,
    /// Until when it is valid, exclusive.
    pub exp: i64,
}

impl Claims {
    /// The id that the token's record is kept under: `jti`, or `sub` where there is none.
    pub fn id(&self) -> Option<TokenId> {
        self.jti.clone().or_else(|| TokenId::try_from(self.sub.clone()).ok())
    }
}
