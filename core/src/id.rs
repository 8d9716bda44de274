//! Identities: the subject that budgets count on, and the id of one minted token text.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// Why a text is not an identity.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    /// The text is empty or longer than the kind allows.
    #[error("must have 1 to {max} characters, has {found}")]
    Length {
        /// Most characters allowed.
        max: usize,
        /// Characters found.
        found: usize,
    },
    /// The text has a character outside the allowed set.
    #[error("must consist of {allowed}, has {found:?}")]
    Character {
        /// The allowed set, in words.
        allowed: &'static str,
        /// The first character outside it.
        found: char,
    },
}

/// What a budget counts on: `proxy/namespace/name` of a RouterToken, or `pool:proxy/namespace/name` of a
/// RouterBudget, for as long as the name is used.
///
/// Outlives every minted text: a rotated, re-minted or re-created token keeps its subject.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Subject(Arc<str>);

/// The id (`jti`) of one minted token text: 1 to 64 characters of `[A-Za-z0-9_-]`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TokenId(Arc<str>);

impl Subject {
    /// Most characters in a subject: three Kubernetes names, two slashes and `pool:` fit (253 + 63 + 253 + 7).
    pub const MAX_CHARACTERS: usize = 576;

    /// The subject of the RouterToken `namespace/name` at the proxy called `proxy`.
    ///
    /// # Errors
    /// When the parts are empty, too long, or not made of printable ASCII without spaces.
    pub fn of(proxy: &str, namespace: &str, name: &str) -> Result<Self, IdError> {
        Self::try_from(format!("{proxy}/{namespace}/{name}"))
    }

    /// The subject of the RouterBudget `namespace/name` at the proxy called `proxy`. No token's is the same:
    /// a name has no colon.
    ///
    /// # Errors
    /// As [`Subject::of`].
    pub fn of_pool(proxy: &str, namespace: &str, name: &str) -> Result<Self, IdError> {
        Self::try_from(format!("pool:{proxy}/{namespace}/{name}"))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// `namespace/name` of a RouterBudget, if it is one's.
    pub fn pool(&self) -> Option<&str> {
        self.0.strip_prefix("pool:")?.split_once('/').map(|(_, pool)| pool)
    }
}

impl TryFrom<String> for Subject {
    type Error = IdError;

    fn try_from(text: String) -> Result<Self, IdError> {
        check(&text, Self::MAX_CHARACTERS, "printable ASCII without spaces", |c| c.is_ascii_graphic())?;
        Ok(Self(text.into()))
    }
}

impl TokenId {
    /// Most characters in a token id.
    pub const MAX_CHARACTERS: usize = 64;

    /// An id made of 16 random bytes, as 32 hexadecimal digits.
    pub fn from_random(bytes: [u8; 16]) -> Self {
        let text: String = bytes.iter().map(|b| format!("{b:02x}")).collect();
        Self(text.into())
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for TokenId {
    type Error = IdError;

    fn try_from(text: String) -> Result<Self, IdError> {
        check(&text, Self::MAX_CHARACTERS, "letters, digits, `-` and `_`", |c| {
            c.is_ascii_alphanumeric() || c == '-' || c == '_'
        })?;
        Ok(Self(text.into()))
    }
}

fn check(text: &str, max: usize, allowed: &'static str, good: fn(char) -> bool) -> Result<(), IdError> {
    if text.is_empty() || text.len() > max {
        return Err(IdError::Length { max, found: text.chars().count() });
    }
    match text.chars().find(|c| !good(*c)) {
        Some(found) => Err(IdError::Character { allowed, found }),
        None => Ok(()),
    }
}

macro_rules! text_identity {
    ($kind:ident) => {
        impl From<$kind> for String {
            fn from(id: $kind) -> String {
                id.0.as_ref().to_owned()
            }
        }

        impl std::fmt::Display for $kind {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl std::borrow::Borrow<str> for $kind {
            fn borrow(&self) -> &str {
                &self.0
            }
        }
    };
}

text_identity!(Subject);
text_identity!(TokenId);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn token_id_refuses_what_could_break_a_path_or_a_log_line() {
        for bad in ["", "a b", "a/b", "a\n", "é", &"x".repeat(65)] {
            assert!(TokenId::try_from(bad.to_owned()).is_err(), "{bad:?} was accepted");
        }
        assert!(TokenId::try_from("3f2b-A_9".to_owned()).is_ok());
    }

    #[test]
    fn random_id_is_the_hex_of_its_bytes() {
        assert_eq!(TokenId::from_random([0xab; 16]).as_str(), "ab".repeat(16));
    }
}
