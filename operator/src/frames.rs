//! Which objects of proxies were lately found to be as they should be, so that a busy proxy does not ask the
//! API server for them with every token.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::clock;
use crate::names::ObjectName;

/// How long an object that is not watched is taken to be as it was found.
const TRUSTED_FOR: Duration = Duration::from_secs(300);

/// Per proxy: the hash of what was wanted when its objects were last found to be so.
#[derive(Debug, Default)]
pub(crate) struct Frames(Mutex<HashMap<ObjectName, (String, Instant)>>);

impl Frames {
    /// Whether the objects of `proxy` were lately found to be what hashes to `wanted`.
    pub(crate) fn is_fresh(&self, proxy: &ObjectName, wanted: &str) -> bool {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let now = clock::instant();
        known.get(proxy).is_some_and(|(hash, since)| hash == wanted && now - *since < TRUSTED_FOR)
    }

    /// Remembers that they were.
    pub(crate) fn remember(&self, proxy: &ObjectName, wanted: String) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.insert(proxy.clone(), (wanted, clock::instant()));
    }

    /// Forgets a proxy that is gone.
    pub(crate) fn forget(&self, proxy: &ObjectName) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(proxy);
    }
}
