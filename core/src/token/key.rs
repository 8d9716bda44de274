//! Keys that sign and verify tokens, each pinned to one algorithm.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey};
use ring::{digest, hmac};
use serde::{Deserialize, Serialize};

use super::{Claims, PREFIX, TokenError};
use crate::secret::{Secret, exposed};

/// Fewest bytes of a shared secret that get no warning: the output size of HMAC-SHA-256 (RFC 7518 §3.2).
const RECOMMENDED_SECRET_BYTES: usize = 32;

/// Shared secrets that are examples, not secrets.
const PLACEHOLDERS: [&str; 12] = [
    "change-me",
    "changeme",
    "change_me",
    "secret",
    "your-secret",
    "your-secret-key",
    "your-secret-here",
    "your_secret_here",
    "token-secret",
    "password",
    "example",
    "test",
];

/// A signature algorithm of JSON Web Tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Algorithm {
    /// Ed25519 (RFC 8037).
    EdDsa,
    /// HMAC with SHA-256 (RFC 7518).
    Hs256,
}

/// A key that can make tokens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase", deny_unknown_fields)]
pub enum SigningKey {
    /// An Ed25519 key, by its 32-byte seed.
    Ed25519 {
        /// base64url of the seed.
        #[serde(with = "exposed")]
        seed: Secret,
    },
    /// A secret shared with every verifier; only for routers that stand alone.
    Hs256 {
        /// The bytes of the text are the key.
        #[serde(with = "exposed")]
        secret: Secret,
    },
}

/// A key that can check tokens. An Ed25519 one can do nothing else.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase", deny_unknown_fields)]
pub enum VerifyingKey {
    /// An Ed25519 public key.
    Ed25519 {
        /// Its RFC 7638 thumbprint.
        kid: String,
        /// base64url of the 32 bytes.
        public: String,
    },
    /// A shared secret.
    Hs256 {
        /// The bytes of the text are the key.
        #[serde(with = "exposed")]
        secret: Secret,
    },
}

/// Why a key cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// Not base64url of 32 bytes.
    #[error("key is not base64url of 32 bytes")]
    Form,
    /// A text from an example.
    #[error("secret is a placeholder from an example; make one with `openssl rand -hex 32`")]
    Placeholder,
    /// No text at all.
    #[error("secret is empty; leave it out to have keys made, or make one with `openssl rand -hex 32`")]
    Empty,
}

impl SigningKey {
    /// An Ed25519 key from 32 random bytes.
    pub fn from_seed(seed: [u8; 32]) -> Self {
        Self::Ed25519 { seed: Secret::new(URL_SAFE_NO_PAD.encode(seed)) }
    }

    /// A shared secret, as `TOKEN_SECRET` gives it.
    ///
    /// # Errors
    /// When it is empty or a well-known placeholder.
    pub fn from_shared(secret: Secret) -> Result<Self, KeyError> {
        let text = secret.expose().trim();
        if text.is_empty() {
            return Err(KeyError::Empty);
        }
        if PLACEHOLDERS.iter().any(|known| text.eq_ignore_ascii_case(known)) {
            return Err(KeyError::Placeholder);
        }
        Ok(Self::Hs256 { secret })
    }

    /// Whether the key is a shared secret under 32 bytes, which deserves a warning.
    pub fn is_short(&self) -> bool {
        matches!(self, Self::Hs256 { secret } if secret.expose().len() < RECOMMENDED_SECRET_BYTES)
    }

    /// The key that checks what this one signs.
    ///
    /// # Errors
    /// When an Ed25519 seed is not base64url of 32 bytes.
    pub fn verifying(&self) -> Result<VerifyingKey, KeyError> {
        match self {
            Self::Ed25519 { seed } => {
                let pair = key_pair(seed)?;
                let public = URL_SAFE_NO_PAD.encode(pair.public_key().as_ref());
                Ok(VerifyingKey::Ed25519 { kid: thumbprint(&public), public })
            }
            Self::Hs256 { secret } => Ok(VerifyingKey::Hs256 { secret: secret.clone() }),
        }
    }

    /// Makes the token text for `claims`, prefix included. The same claims give the same text.
    ///
    /// # Errors
    /// When an Ed25519 seed is not base64url of 32 bytes.
    pub fn mint(&self, claims: &Claims) -> Result<Secret, KeyError> {
        self.sign("JWT", claims).map(|jwt| Secret::new(format!("{PREFIX}{}", jwt.expose())))
    }

    /// Signs `claims` as a bare compact JWT whose header says `typ`.
    ///
    /// # Errors
    /// When an Ed25519 seed is not base64url of 32 bytes.
    pub fn sign(&self, typ: &str, claims: &impl Serialize) -> Result<Secret, KeyError> {
        let header = match self.verifying()? {
            VerifyingKey::Ed25519 { kid, .. } => format!(r#"{{"typ":"{typ}","alg":"EdDSA","kid":"{kid}"}}"#),
            VerifyingKey::Hs256 { .. } => format!(r#"{{"typ":"{typ}","alg":"HS256"}}"#),
        };
        let payload = serde_json::to_vec(claims).map_err(|_| KeyError::Form)?;
        let signed = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(payload));
        let signature = match self {
            Self::Ed25519 { seed } => URL_SAFE_NO_PAD.encode(key_pair(seed)?.sign(signed.as_bytes())),
            Self::Hs256 { secret } => {
                URL_SAFE_NO_PAD.encode(hmac::sign(&hmac_key(secret), signed.as_bytes()))
            }
        };
        Ok(Secret::new(format!("{signed}.{signature}")))
    }
}

impl VerifyingKey {
    /// The algorithm this key is pinned to.
    pub fn algorithm(&self) -> Algorithm {
        match self {
            Self::Ed25519 { .. } => Algorithm::EdDsa,
            Self::Hs256 { .. } => Algorithm::Hs256,
        }
    }

    /// The key's id, where it has one.
    pub fn kid(&self) -> Option<&str> {
        match self {
            Self::Ed25519 { kid, .. } => Some(kid),
            Self::Hs256 { .. } => None,
        }
    }

    /// Whether the key can be used at all.
    ///
    /// # Errors
    /// When an Ed25519 key is not base64url of 32 bytes, or a shared secret is empty.
    pub fn check(&self) -> Result<(), KeyError> {
        match self {
            Self::Ed25519 { public, .. } => bytes32(public).map(|_| ()),
            Self::Hs256 { secret } if secret.is_empty() => Err(KeyError::Empty),
            Self::Hs256 { .. } => Ok(()),
        }
    }

    /// Checks `signature` over `signed`.
    pub(super) fn verify(&self, signed: &[u8], signature: &[u8]) -> Result<(), TokenError> {
        let good = match self {
            Self::Ed25519 { public, .. } => bytes32(public)
                .is_ok_and(|key| UnparsedPublicKey::new(&ED25519, key).verify(signed, signature).is_ok()),
            Self::Hs256 { secret } => hmac::verify(&hmac_key(secret), signed, signature).is_ok(),
        };
        if good { Ok(()) } else { Err(TokenError::BadSignature) }
    }
}

fn key_pair(seed: &Secret) -> Result<Ed25519KeyPair, KeyError> {
    Ed25519KeyPair::from_seed_unchecked(&bytes32(seed.expose())?).map_err(|_| KeyError::Form)
}

fn hmac_key(secret: &Secret) -> hmac::Key {
    hmac::Key::new(hmac::HMAC_SHA256, secret.expose().as_bytes())
}

fn bytes32(text: &str) -> Result<[u8; 32], KeyError> {
    URL_SAFE_NO_PAD.decode(text).ok().and_then(|b| b.try_into().ok()).ok_or(KeyError::Form)
}

/// The RFC 7638 thumbprint of an Ed25519 public key given in base64url.
fn thumbprint(public: &str) -> String {
    let canonical = format!(r#"{{"crv":"Ed25519","kty":"OKP","x":"{public}"}}"#);
    URL_SAFE_NO_PAD.encode(digest::digest(&digest::SHA256, canonical.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn public_half_of_a_seed_is_the_published_vector() {
        let VerifyingKey::Ed25519 { public, kid } = SigningKey::from_seed([2; 32]).verifying().unwrap()
        else {
            panic!("an Ed25519 seed gave another kind of key")
        };
        assert_eq!(public, "gTl3Dqh9F19Wo1Rmw0x-zMuNipG07jeiXfYPW4_Js5Q");
        assert_eq!(kid.len(), 43);
    }

    #[test]
    fn placeholder_secrets_are_refused_and_short_ones_marked() {
        for text in ["change-me", "CHANGEME", " secret ", "your-secret-key"] {
            assert_eq!(SigningKey::from_shared(Secret::new(text)), Err(KeyError::Placeholder), "{text}");
        }
        assert_eq!(SigningKey::from_shared(Secret::new(" ")), Err(KeyError::Empty));
        assert!(SigningKey::from_shared(Secret::new("k".repeat(31))).unwrap().is_short());
        assert!(!SigningKey::from_shared(Secret::new("k".repeat(32))).unwrap().is_short());
    }

    #[test]
    fn debug_of_a_key_shows_no_seed() {
        let key = SigningKey::from_seed([7; 32]);
        assert!(!format!("{key:?}").contains(&URL_SAFE_NO_PAD.encode([7; 32])));
    }
}
