//! `la_sk_` tokens: a compact JWT behind a prefix, signed with a key whose algorithm is pinned.
//!
//! Reading is strict and in two steps, because one Ed25519 check costs about 45 µs: [`parse`] finds the
//! token's id so that its record can be looked up, [`Parsed::verify`] checks signature, times and
//! audience. Limits never come from claims; they come from the record.

mod claims;
mod format;
mod key;

pub use claims::Claims;
pub use format::{MAX_BYTES, PREFIX, Parsed, open, parse};
pub use key::{Algorithm, KeyError, SigningKey, VerifyingKey};

/// Why a token text is not good. Clients see one text for all of these.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// The text is not `la_sk_` and three base64url parts, or is over [`MAX_BYTES`].
    #[error("token is malformed: {reason}")]
    Malformed {
        /// What is wrong with its form.
        reason: &'static str,
    },
    /// No key has the token's `kid`, or the token has none and no key without `kid` exists.
    #[error("token names no key known here")]
    UnknownKey,
    /// The token's `alg` is not the one its key is pinned to.
    #[error("token's algorithm is not its key's")]
    WrongAlgorithm,
    /// The signature does not belong to the text.
    #[error("token's signature is wrong")]
    BadSignature,
    /// The token was made for another router.
    #[error("token is for another audience")]
    WrongAudience,
    /// `exp` has passed.
    #[error("token has expired")]
    Expired,
    /// `nbf` or `iat` lies ahead.
    #[error("token is not valid yet")]
    NotYetValid,
}
