//! The signing keys of every proxy, as its signing Secret holds them.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use la_core::token::{KeyError, SigningKey, VerifyingKey};

use crate::names::ObjectName;

/// The keys of one proxy, ready for use.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Keys {
    /// Signs tokens.
    pub(crate) token: SigningKey,
    /// Signs admin credentials.
    pub(crate) admin: SigningKey,
    /// Checks tokens.
    pub(crate) token_check: VerifyingKey,
    /// Checks admin credentials.
    pub(crate) admin_check: VerifyingKey,
}

/// The keys of every proxy whose signing Secret is known.
#[derive(Debug, Default)]
pub(crate) struct KeyRing(RwLock<HashMap<ObjectName, Held>>);

#[derive(Debug)]
struct Held {
    version: String,
    keys: Arc<Keys>,
}

impl Keys {
    /// Prepares two signing keys.
    ///
    /// # Errors
    /// When one of them is no key.
    pub(crate) fn new(token: SigningKey, admin: SigningKey) -> Result<Self, KeyError> {
        let (token_check, admin_check) = (token.verifying()?, admin.verifying()?);
        Ok(Self { token, admin, token_check, admin_check })
    }

    /// The id of the key that signs tokens.
    pub(crate) fn id(&self) -> &str {
        self.token_check.kid().unwrap_or_default()
    }
}

impl KeyRing {
    /// The keys of `proxy`.
    pub(crate) fn of(&self, proxy: &ObjectName) -> Option<Arc<Keys>> {
        let held = self.0.read().unwrap_or_else(PoisonError::into_inner);
        held.get(proxy).map(|held| Arc::clone(&held.keys))
    }

    /// The keys of `proxy`, if its signing Secret still has the resource version they were read at.
    pub(crate) fn at(&self, proxy: &ObjectName, version: &str) -> Option<Arc<Keys>> {
        let held = self.0.read().unwrap_or_else(PoisonError::into_inner);
        held.get(proxy).filter(|held| held.version == version).map(|held| Arc::clone(&held.keys))
    }

    /// Remembers the keys of `proxy`; says whether they are others than before.
    pub(crate) fn hold(&self, proxy: ObjectName, version: String, keys: Arc<Keys>) -> bool {
        let mut held = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let before = held.insert(proxy, Held { version, keys: Arc::clone(&keys) });
        before.is_none_or(|before| before.keys != keys)
    }

    /// Forgets the keys of a proxy that is gone.
    pub(crate) fn forget(&self, proxy: &ObjectName) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).remove(proxy);
    }
}
