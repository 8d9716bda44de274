//! Reads everything that decides about one RouterProxy. Asks the API server only for what is not known from
//! watches or from the operator's own last write.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Pod, Secret as KubeSecret};
use kube::runtime::reflector::ObjectRef;
use kube::{Api, Resource, ResourceExt as _};
use la_core::credential::Credentials;
use la_crds::compile::{Compiled, MintedToken, Mode, World, compile};
use la_crds::names::{snapshot_secret, stateful_set};
use la_crds::{RouterProxy, UpstreamProvider};

use super::ProxyError;
use crate::clock;
use crate::controllers::router_token::records;
use crate::controllers::upstream_provider::{follow_identities, secret_names};
use crate::keys::Keys;
use crate::names::ObjectName;
use crate::proxies::{self, Target};
use crate::published::Edition;
use crate::resources::secrets::read_snapshot;
use crate::shared::Shared;

/// Compiles what `proxy` should serve from what is watched.
pub(super) async fn compiled(
    shared: &Arc<Shared>,
    proxy: &RouterProxy,
    keys: &Keys,
) -> Result<Compiled, ProxyError> {
    let name = ObjectName::of(proxy);
    let mut providers = providers(shared, proxy);
    let mut exchanged = Credentials::new();
    for provider in &providers {
        // Before anything is published: what a proxy serves already must not be taken from it.
        follow_identities(shared, provider).await?;
        exchanged.extend(shared.exchanges.credentials(&ObjectName::of(provider)));
    }
    let url = proxy.spec.ledger.url_secret().map(|secret| secret.name.clone());
    let named: BTreeSet<String> = providers.iter().flat_map(secret_names).chain(url).collect();
    let routed: BTreeSet<String> = providers.iter().map(UpstreamProvider::name_any).collect();
    providers.extend(shared.stores.sharing(&name.namespace, &providers));
    let secrets = shared.secrets.read(&name.namespace, &named).await?;
    let tokens = shared.stores.tokens_of(&name);
    let tokens: Vec<_> = tokens
        .iter()
        .filter(|token| token.metadata.deletion_timestamp.is_none())
        .map(|token| {
            let texts = token.status.as_ref().map(|status| status.tokens.as_slice()).unwrap_or_default();
            MintedToken { token, ids: records::issued(texts) }
        })
        // A token without any text serves nobody yet, and need not cost a generation.
        .filter(|minted| !minted.ids.is_empty())
        .collect();
    let budgets: Vec<_> =
        shared.stores.budgets_of(&name).iter().map(|budget| budget.as_ref().clone()).collect();
    let namespaces: BTreeMap<_, _> = shared
        .stores
        .namespaces
        .state()
        .iter()
        .map(|namespace| (namespace.name_any(), namespace.labels().clone()))
        .collect();
    let mut compiled = compile(&World {
        proxy,
        providers: &providers,
        tokens: &tokens,
        budgets: &budgets,
        namespaces: &namespaces,
        secrets: &secrets,
        exchanged: &exchanged,
        keys: std::slice::from_ref(&keys.token_check),
        admin_keys: std::slice::from_ref(&keys.admin_check),
        mode: Mode::Cluster,
    });
    // Of the others only whose login it is was asked, and not every Secret was read.
    compiled.faults.retain(|fault| fault.kind != "UpstreamProvider" || routed.contains(&fault.name));
    Ok(compiled)
}

/// The providers that the routes of `proxy` lead to.
fn providers(shared: &Shared, proxy: &RouterProxy) -> Vec<UpstreamProvider> {
    let namespace = proxy.namespace().unwrap_or_default();
    let names: BTreeSet<_> =
        proxy.spec.routes.iter().flat_map(|r| &r.candidates).map(|c| &c.provider).collect();
    let find = |name: &&String| shared.stores.providers.get(&ObjectRef::new(name).within(&namespace));
    names.iter().filter_map(find).map(|provider| provider.as_ref().clone()).collect()
}

/// What was last written for a proxy, and whether its Secret still holds it.
pub(super) struct Last {
    /// What was written.
    pub(super) edition: Edition,
    /// Whether it must be written again, because somebody deleted or edited the Secret.
    pub(super) rewrite: bool,
}

/// What was last written for `proxy`: from memory while its Secret is what we wrote, else from the Secret.
pub(super) async fn last(
    shared: &Arc<Shared>,
    proxy: &RouterProxy,
    name: &ObjectName,
) -> Result<Option<Last>, ProxyError> {
    let secret = snapshot_secret(&name.name);
    let watched = shared.stores.secrets.get(&ObjectRef::new(&secret).within(&name.namespace));
    let version = watched.and_then(|metadata| metadata.resource_version());
    let remembered = shared.published.newest(name);
    if let Some(edition) = remembered.as_ref().filter(|edition| Some(&edition.version) == version.as_ref()) {
        return Ok(Some(Last { edition: edition.clone(), rewrite: false }));
    }
    let api: Api<KubeSecret> = Api::namespaced(shared.client.clone(), &name.namespace);
    let Some(found) = api.get_opt(&secret).await? else {
        // Somebody deleted it. What was in it is still remembered, so the line of generations goes on.
        let forgotten = remembered.map(|edition| Edition { version: String::new(), ..edition });
        return Ok(forgotten.map(|edition| Last { edition, rewrite: true }));
    };
    if !is_controlled_by(&found, proxy.uid()) {
        return Err(ProxyError::Conflict(format!(
            "Secret {secret} exists and is not ours; delete or rename it"
        )));
    }
    Ok(newest_of(shared, name, remembered, &found))
}

fn newest_of(
    shared: &Shared,
    name: &ObjectName,
    remembered: Option<Edition>,
    found: &KubeSecret,
) -> Option<Last> {
    let version = found.resource_version().unwrap_or_default();
    let content = read_snapshot(found);
    match (remembered, content) {
        (Some(ours), Some((snapshot, credentials))) if snapshot.order() <= ours.snapshot.order() => {
            let rewrite = snapshot != *ours.snapshot || credentials != *ours.credentials;
            if !rewrite {
                shared.published.renumber(name, version.clone());
            }
            Some(Last { edition: Edition { version, ..ours }, rewrite })
        }
        (Some(ours), None) => Some(Last { edition: Edition { version, ..ours }, rewrite: true }),
        (_, Some((snapshot, credentials))) => {
            let edition = Edition::new(snapshot, credentials, version);
            shared.published.put(name, edition.clone(), clock::now());
            Some(Last { edition, rewrite: false })
        }
        (None, None) => None,
    }
}

/// The pods to follow: those that `proxy` owns through its StatefulSet. A pod that only carries the label
/// is nobody's to trust.
pub(super) fn targets(shared: &Shared, proxy: &RouterProxy, name: &ObjectName) -> Vec<Target> {
    let set = ObjectRef::new(&stateful_set(&name.name)).within(&name.namespace);
    let Some(set) = shared.stores.sets.get(&set).filter(|set| is_controlled_by(set.as_ref(), proxy.uid()))
    else {
        return Vec::new();
    };
    let owned = |pod: &&Arc<Pod>| is_controlled_by(pod.as_ref(), set.uid());
    let pods = shared.stores.pods_of(name);
    pods.iter().filter(owned).filter_map(|pod| proxies::target(pod, name)).collect()
}

/// Whether the controller of `object` has this UID.
pub(crate) fn is_controlled_by<K: Resource>(object: &K, uid: Option<String>) -> bool {
    let controller = object.owner_references().iter().find(|owner| owner.controller == Some(true));
    uid.is_some() && controller.map(|owner| &owner.uid) == uid.as_ref()
}
