//! From kinds and Secrets to what one proxy serves.
//!
//! Pure, and shared by the operator and manifests mode. A faulty object is left out, failing closed, and
//! reported; everything else keeps working. Whoever calls gives the snapshot its place in the order.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use la_core::credential::Credentials;
use la_core::snapshot::{IssuedId, Snapshot};
use la_core::token::VerifyingKey;

use crate::conditions::reason;
use crate::router_proxy::NamespacesFrom;
use crate::rules::Broken;
use crate::{RouterBudget, RouterProxy, RouterToken, UpstreamProvider};

mod admission;
mod credentials;
mod logins;
mod providers;
mod routes;
#[cfg(test)]
mod tests;
mod tokens;

pub use admission::{Admission, Admitted, Labels};
pub use credentials::login_in;

/// Everything that decides what one proxy serves. Has no `Debug`, because Kubernetes' Secrets show theirs.
#[derive(Clone, Copy)]
pub struct World<'a> {
    /// The proxy.
    pub proxy: &'a RouterProxy,
    /// Providers; those outside the proxy's namespace are not considered.
    pub providers: &'a [UpstreamProvider],
    /// Tokens that name this proxy, with the texts minted for them. Others are not considered.
    pub tokens: &'a [MintedToken<'a>],
    /// Budgets that name this proxy. Others are not considered.
    pub budgets: &'a [RouterBudget],
    /// Labels of every namespace, by name.
    pub namespaces: &'a BTreeMap<String, Labels>,
    /// Secrets by namespace and name.
    pub secrets: &'a BTreeMap<(String, String), Secret>,
    /// Access tokens that workload identities were exchanged for, by `provider/account`. An identity that was not
    /// exchanged yet is no fault.
    pub exchanged: &'a Credentials,
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
    /// A folder of manifests; credentials may be in directories and identity tokens in files.
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
    let place = Place::of("RouterProxy", &world.proxy.metadata);
    let mut snapshot = Snapshot::empty(&format!("{}/{}", place.namespace, place.name));
    snapshot.keys = world.keys.to_vec();
    snapshot.admin_keys = world.admin_keys.to_vec();
    let mut faults = routes::faults_of_proxy(world, &place);
    let routed = routes::compile(world, &place, &mut faults);
    snapshot.routes = routed.routes;
    snapshot.providers = routed.providers;
    snapshot.keep_alive_ms = routes::keep_alive_ms(world);
    (snapshot.tokens, snapshot.pools) = tokens::compile(world, &place, &mut faults);
    Compiled { snapshot, credentials: routed.credentials, faults }
}

/// Whether `proxy` admits RouterTokens of `namespace`, which has these labels.
pub fn admits(proxy: &RouterProxy, namespace: &str, labels: &Labels) -> bool {
    let allowed = &proxy.spec.tokens.allowed_namespaces;
    match allowed.from {
        NamespacesFrom::Same => proxy.metadata.namespace.as_deref() == Some(namespace),
        NamespacesFrom::All => true,
        NamespacesFrom::Selector => {
            allowed.selector.as_ref().is_some_and(|selector| selector.matches(labels))
        }
    }
}

/// Which object a fault is about.
#[derive(Debug, Clone)]
struct Place {
    kind: &'static str,
    namespace: String,
    name: String,
}

impl Place {
    fn of(kind: &'static str, meta: &ObjectMeta) -> Self {
        let text = |part: &Option<String>| part.clone().unwrap_or_default();
        Self { kind, namespace: text(&meta.namespace), name: text(&meta.name) }
    }

    fn fault(
        &self,
        field: impl Into<String>,
        reason: &'static str,
        message: impl Into<String>,
    ) -> ObjectFault {
        let (kind, namespace, name) = (self.kind, self.namespace.clone(), self.name.clone());
        ObjectFault { kind, namespace, name, field: field.into(), reason, message: message.into() }
    }

    fn broken(&self, rule: Broken) -> ObjectFault {
        self.fault(rule.field, reason::INVALID_FIELD, rule.message)
    }
}
