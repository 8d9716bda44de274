//! The mounted token: read at start, read again when the file changes, kept when the file makes no sense.

use std::cell::{Cell, RefCell};
use std::io;
use std::path::PathBuf;

use http::HeaderValue;
use la_core::token::{MAX_BYTES, PREFIX};

use crate::config::fingerprint::Fingerprint;

/// The file and what it last held.
pub(super) struct TokenFile {
    path: PathBuf,
    seen: Cell<Option<u64>>,
    value: RefCell<Option<HeaderValue>>,
}

/// Why the file gives no token. Shows nothing of what is in it.
#[derive(Debug, thiserror::Error)]
pub(super) enum TokenFileError {
    #[error("token file {path} cannot be read: {error}")]
    Unreadable { path: PathBuf, error: io::Error },
    #[error("token file {path} does not hold a token, which starts with {PREFIX}")]
    NoToken { path: PathBuf },
}

impl TokenFile {
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path, seen: Cell::new(None), value: RefCell::new(None) }
    }

    /// The value of `authorization`, if a token was ever read.
    pub(super) fn bearer(&self) -> Option<HeaderValue> {
        self.value.borrow().clone()
    }

    /// Reads the file if it has changed since the last look; says whether it did.
    ///
    /// # Errors
    /// When it has, and gives no token now. The last one stays in use.
    pub(super) fn look(&self) -> Result<bool, TokenFileError> {
        let mut print = Fingerprint::default();
        print.add(&self.path);
        let print = print.value();
        if self.seen.replace(Some(print)) == Some(print) {
            return Ok(false);
        }
        let text = std::fs::read_to_string(&self.path)
            .map_err(|error| TokenFileError::Unreadable { path: self.path.clone(), error })?;
        let token = text.trim();
        let is_token = token.starts_with(PREFIX) && token.len() <= MAX_BYTES;
        let value = HeaderValue::from_str(&format!("Bearer {token}")).ok().filter(|_| is_token);
        let mut value = value.ok_or_else(|| TokenFileError::NoToken { path: self.path.clone() })?;
        value.set_sensitive(true);
        Ok(self.value.replace(Some(value.clone())) != Some(value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn token_follows_its_file_and_survives_a_bad_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        let file = TokenFile::new(path.clone());
        assert!(matches!(file.look(), Err(TokenFileError::Unreadable { .. })));
        assert!(file.bearer().is_none());
        std::fs::write(&path, "la_sk_one\n").unwrap();
        assert!(file.look().unwrap());
        assert!(!file.look().unwrap());
        assert_eq!(file.bearer().unwrap(), "Bearer la_sk_one");
        std::fs::write(&path, "canary-not-a-token").unwrap();
        let error = file.look().unwrap_err().to_string();
        assert!(!error.contains("canary"), "{error}");
        assert_eq!(file.bearer().unwrap(), "Bearer la_sk_one");
        std::fs::write(&path, "la_sk_three").unwrap();
        assert!(file.look().unwrap());
        assert_eq!(file.bearer().unwrap(), "Bearer la_sk_three");
    }
}
