//! The signing Secret of a proxy: made once, read when it changes, made anew when it was lost.

use std::sync::Arc;

use k8s_openapi::api::core::v1::Secret as KubeSecret;
use kube::api::PostParams;
use kube::runtime::reflector::ObjectRef;
use kube::{Api, ResourceExt as _};
use la_core::token::SigningKey;
use la_crds::RouterProxy;

use super::ProxyError;
use super::gather::is_controlled_by;
use crate::clock;
use crate::keys::Keys;
use crate::names::{OBJECT_MANAGER, ObjectName, signing_secret};
use crate::resources::Owner;
use crate::resources::secrets::{read_signing, signing};
use crate::shared::Shared;

/// The keys of `proxy`. When they are others than before, its tokens are looked at again.
pub(super) async fn ensure(
    shared: &Arc<Shared>,
    proxy: &RouterProxy,
    owner: &Owner<'_>,
) -> Result<Arc<Keys>, ProxyError> {
    let name = ObjectName::of(proxy);
    let secret = signing_secret(&name.name);
    let watched = shared.stores.secrets.get(&ObjectRef::new(&secret).within(&name.namespace));
    let version = watched.and_then(|metadata| metadata.resource_version()).unwrap_or_default();
    if let Some(keys) = shared.keys.at(&name, &version) {
        return Ok(keys);
    }
    let api: Api<KubeSecret> = Api::namespaced(shared.client.clone(), &name.namespace);
    let (keys, version) = match api.get_opt(&secret).await? {
        Some(found) => read(proxy, &found)?,
        None => make(&api, owner).await?,
    };
    let keys = Arc::new(keys);
    if shared.keys.hold(name.clone(), version, Arc::clone(&keys)) {
        for token in shared.stores.tokens_of(&name) {
            shared.queues.tokens.push_named(&token.namespace().unwrap_or_default(), &token.name_any());
        }
    }
    Ok(keys)
}

fn read(proxy: &RouterProxy, found: &KubeSecret) -> Result<(Keys, String), ProxyError> {
    let name = found.name_any();
    if !is_controlled_by(found, proxy.uid()) {
        return Err(ProxyError::Conflict(format!(
            "Secret {name} exists and is not ours; delete or rename it"
        )));
    }
    let keys = read_signing(found).ok_or_else(|| ProxyError::DamagedKeys(name))?;
    Ok((keys, found.resource_version().unwrap_or_default()))
}

/// Made with `create`, never with apply: of two replicas that try, one wins and the other reads.
async fn make(api: &Api<KubeSecret>, owner: &Owner<'_>) -> Result<(Keys, String), ProxyError> {
    let keys = Keys::new(
        SigningKey::from_seed(clock::random::<32>()?),
        SigningKey::from_seed(clock::random::<32>()?),
    )?;
    let secret: KubeSecret = serde_json::from_value(signing(owner, &keys))?;
    let parameters = PostParams { field_manager: Some(OBJECT_MANAGER.to_owned()), ..PostParams::default() };
    let made = api.create(&parameters, &secret).await?;
    tracing::info!(proxy.name = %owner.name, "made signing keys of proxy {}/{}", owner.namespace, owner.name);
    Ok((keys, made.resource_version().unwrap_or_default()))
}
