//! Minted Secrets that were read and found as they should be, so that they need not be read again until
//! they change.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use crate::names::ObjectName;

/// Per Secret: the resource version that was read, and the hash of what was wanted then.
#[derive(Debug, Default)]
pub(crate) struct Verified(Mutex<HashMap<ObjectName, (String, String)>>);

impl Verified {
    /// Whether `secret` at `version` was found to be what hashes to `wanted`.
    pub(crate) fn is(&self, secret: &ObjectName, version: &str, wanted: &str) -> bool {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.get(secret).is_some_and(|(seen, hash)| seen == version && hash == wanted)
    }

    /// Remembers that it was.
    pub(crate) fn remember(&self, secret: ObjectName, version: String, wanted: String) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(secret, (version, wanted));
    }

    /// Forgets a Secret that changed or went.
    pub(crate) fn forget(&self, secret: &ObjectName) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(secret);
    }
}
