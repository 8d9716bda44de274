//! From kinds and Secrets to what one proxy serves.
//!
//! Pure, and shared by the operator and manifests mode. A faulty object is left out, failing closed, and
//! reported; everything else keeps working. Whoever calls gives the snapshot its place in the order.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Secret;
use la_core::credential::Credentials;
use la_core::snapshot::{IssuedId, Snapshot};
use la_core::token::VerifyingKey;

use crate::{RouterProxy, RouterToken, UpstreamProvider};

/// Everything that decides what one proxy serves.
#[derive(Debug, Clone, Copy)]
pub struct World<'a> {
    /// The proxy.
    pub proxy: &'a RouterProxy,
    /// Providers; those outside the proxy's namespace are not considered.
    pub providers: &'a [UpstreamProvider],
    /// Tokens that name this proxy, with the texts minted for them. Others are not considered.
    pub tokens: &'a [MintedToken<'a>],
    /// Labels of every namespace, by name.
    pub namespaces: &'a BTreeMap<String, BTreeMap<String, String>>,
    /// Secrets by namespace and name.
    pub secrets: &'a BTreeMap<(String, String), Secret>,
    /// Keys that sign tokens.
    pub keys: &'a [VerifyingKey],
    /// Keys that sign the operator's admin credentials.
    pub admin_keys: &'a [VerifyingKey],
    /// Where the kinds come from.
    pub mode: Mode,
}

/// A RouterToken and the texts minted for it.
#[derive(Debug, Clone)]
pub struct MintedToken<'a> {
    /// The token.
    pub token: &'a RouterToken,
    /// The texts that have not been forgotten.
    pub ids: Vec<IssuedId>,
}

/// Where kinds come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// A Kubernetes API.
    Cluster,
    /// A folder of manifests; the credential form `directory` is allowed.
    Manifests,
}

/// What one proxy serves, and what had to be left out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Compiled {
    /// The snapshot, with epoch and generation 0.
    pub snapshot: Snapshot,
    /// The credentials beside it.
    pub credentials: Credentials,
    /// What is wrong with which object.
    pub faults: Vec<ObjectFault>,
}

/// What is wrong with one object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectFault {
    /// The object's kind.
    pub kind: &'static str,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// The field in it, as a path: `spec.routes[0].candidates[0].provider`.
    pub field: String,
    /// One of [`crate::conditions::reason`].
    pub reason: &'static str,
    /// What is wrong and what to do, for a person; never a part of a credential.
    pub message: String,
}

impl std::fmt::Display for ObjectFault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}/{}: {}: {}", self.kind, self.namespace, self.name, self.field, self.message)
    }
}

/// Compiles the world of one proxy.
pub fn compile(world: &World<'_>) -> Compiled {
    let meta = &world.proxy.metadata;
    let (namespace, name) = (meta.namespace.as_deref(), meta.name.as_deref());
    let proxy = format!("{}/{}", namespace.unwrap_or_default(), name.unwrap_or_default());
    Compiled { snapshot: Snapshot::empty(&proxy), credentials: Credentials::new(), faults: Vec::new() }
}
