//! The key that signs: made of `TOKEN_SECRET`, or kept in the data folder, or made there.

use std::io;
use std::path::PathBuf;

use la_core::secret::Secret;
use la_core::token::{Claims, KeyError, SigningKey, VerifyingKey};
use ring::rand::{SecureRandom as _, SystemRandom};

use crate::data_dir::{DataDir, read_optional, write_whole};

const KEY_FILE: &str = "signing-key.json";

/// The key that signs new texts, and every key that may have signed old ones.
#[derive(Debug)]
pub struct Signing {
    key: SigningKey,
    verifying: Vec<VerifyingKey>,
}

/// Why there is no key to sign with. Nothing was deleted or overwritten.
#[derive(Debug, thiserror::Error)]
pub enum KeyFileError {
    #[error("signing key {path} cannot be {what}: {error}")]
    Io { path: PathBuf, what: &'static str, error: io::Error },
    #[error(
        "signing key {path} is damaged: {reason}; restore it, or move it away to have a new one made, \
             which makes every token issued so far invalid"
    )]
    Damaged { path: PathBuf, reason: String },
    #[error("no random numbers from the system")]
    NoRandom,
}

impl Signing {
    /// The key of `TOKEN_SECRET` where there is one, else that of the data folder, made on first use.
    ///
    /// # Errors
    /// When the kept key cannot be read, written or used.
    pub fn open(data_dir: &DataDir, shared: Option<SigningKey>) -> Result<Self, KeyFileError> {
        let path = data_dir.file(KEY_FILE);
        let io = |what| move |error| (what, error);
        let failed = |(what, error)| KeyFileError::Io { path: path.clone(), what, error };
        let kept = read_optional(&path).map_err(io("read")).map_err(failed)?;
        let kept = kept.map(|bytes| read_key(&bytes)).transpose();
        let kept = kept.map_err(|reason| KeyFileError::Damaged { path: path.clone(), reason })?;
        let key = match (shared, &kept) {
            (Some(shared), _) => shared,
            (None, Some((kept, _))) => kept.clone(),
            (None, None) => {
                let made = SigningKey::from_seed(random()?);
                let text = serde_json::to_vec(&made)
                    .map_err(|e| KeyFileError::Damaged { path: path.clone(), reason: e.to_string() })?;
                write_whole(&path, &text).map_err(io("written")).map_err(failed)?;
                made
            }
        };
        let damaged =
            |error: KeyError| KeyFileError::Damaged { path: path.clone(), reason: error.to_string() };
        let mut verifying = vec![key.verifying().map_err(damaged)?];
        verifying.extend(kept.map(|(_, verifying)| verifying).filter(|kept| !verifying.contains(kept)));
        Ok(Self { key, verifying })
    }

    /// Every key whose tokens are believed.
    pub fn verifying(&self) -> &[VerifyingKey] {
        &self.verifying
    }

    /// The text of a token that claims `claims`.
    ///
    /// # Errors
    /// Never with a key that was opened.
    pub fn mint(&self, claims: &Claims) -> Result<Secret, KeyError> {
        self.key.mint(claims)
    }
}

/// Random bytes of the system.
///
/// # Errors
/// When the system has none.
pub(super) fn random<const N: usize>() -> Result<[u8; N], KeyFileError> {
    let mut bytes = [0; N];
    SystemRandom::new().fill(&mut bytes).map_err(|_| KeyFileError::NoRandom)?;
    Ok(bytes)
}

fn read_key(bytes: &[u8]) -> Result<(SigningKey, VerifyingKey), String> {
    // The parser's message could show a part of the seed; its place is enough.
    let key: SigningKey = serde_json::from_slice(bytes)
        .map_err(|e| format!("not a key file (line {}, column {})", e.line(), e.column()))?;
    let verifying = key.verifying().map_err(|e| e.to_string())?;
    Ok((key, verifying))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn key_is_made_once_and_kept() {
        let folder = tempfile::tempdir().unwrap();
        let data_dir = DataDir::open(folder.path()).unwrap();
        let first = Signing::open(&data_dir, None).unwrap();
        let second = Signing::open(&data_dir, None).unwrap();
        assert_eq!(first.verifying(), second.verifying());
        let shared = SigningKey::from_shared(Secret::new("0123456789abcdef0123456789abcdef")).unwrap();
        let third = Signing::open(&data_dir, Some(shared)).unwrap();
        assert_eq!(third.verifying().len(), 2, "tokens signed with the kept key stay good");
    }

    #[test]
    fn damaged_key_is_left_alone_and_not_shown() {
        let folder = tempfile::tempdir().unwrap();
        let data_dir = DataDir::open(folder.path()).unwrap();
        let text = r#"{"ed25519":{"seed":"canary"}}"#;
        std::fs::write(data_dir.file(KEY_FILE), text).unwrap();
        let error = Signing::open(&data_dir, None).unwrap_err().to_string();
        assert!(error.contains("is damaged") && !error.contains("canary"), "{error}");
        assert_eq!(std::fs::read_to_string(data_dir.file(KEY_FILE)).unwrap(), text);
    }
}
