//! ServiceAccount, Service and StatefulSet of a proxy: written when they differ from what is wanted, left
//! alone and reported when they belong to somebody else.

use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{Service, ServiceAccount};
use kube::api::{Patch, PatchParams};
use kube::core::NamespaceResourceScope;
use kube::runtime::reflector::ObjectRef;
use kube::{Api, Resource, ResourceExt as _};
use la_core::duration;
use la_crds::RouterProxy;
use la_crds::names::{service, service_account, stateful_set};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::ProxyError;
use super::gather::is_controlled_by;
use crate::names::{OBJECT_MANAGER, ObjectName};
use crate::resources::proxy::{self as wanted, Pods};
use crate::resources::{Owner, is_as_wanted, sha256_hex};
use crate::shared::Shared;

/// Makes the objects what they should be; gives what is in the way.
pub(super) async fn ensure(
    shared: &Arc<Shared>,
    proxy: &RouterProxy,
    owner: &Owner<'_>,
) -> Result<Vec<String>, ProxyError> {
    let name = ObjectName::of(proxy);
    let account = wanted::service_account(owner);
    let front = wanted::service(owner);
    let set = pods(shared, proxy, owner).stateful_set();
    let mut conflicts = Vec::new();
    let unwatched = sha256_hex(json!([owner.uid, account, front]).to_string().as_bytes());
    if !shared.frames.is_fresh(&name, &unwatched) {
        let before = conflicts.len();
        let one = one::<ServiceAccount>(shared, owner, (&service_account(owner.name), &account)).await?;
        conflicts.extend(one);
        conflicts.extend(self::one::<Service>(shared, owner, (&service(owner.name), &front)).await?);
        if conflicts.len() == before {
            shared.frames.remember(&name, unwatched);
        }
    }
    let watched = ObjectRef::<StatefulSet>::new(&stateful_set(owner.name)).within(owner.namespace);
    let as_wanted = shared.stores.sets.get(&watched).is_some_and(|found| {
        is_controlled_by(found.as_ref(), proxy.uid())
            && serde_json::to_value(found.as_ref()).is_ok_and(|found| is_as_wanted(&untyped(&set), &found))
    });
    if !as_wanted {
        conflicts.extend(one::<StatefulSet>(shared, owner, (&stateful_set(owner.name), &set)).await?);
    }
    Ok(conflicts)
}

fn pods<'a>(shared: &'a Shared, proxy: &'a RouterProxy, owner: &Owner<'a>) -> Pods<'a> {
    let spec = &proxy.spec;
    Pods {
        owner: owner.clone(),
        image: spec.image.as_deref().unwrap_or(&shared.settings.proxy_image),
        replicas: spec.replicas,
        // The API server has checked the form.
        drain: duration::parse(&spec.shutdown.drain).unwrap_or(Duration::from_secs(30)),
        resources: json!(spec.resources),
        ledger: &spec.ledger,
        request_log: spec.observability.request_log,
        admin_port: shared.settings.admin_port,
    }
}

/// Writes one object unless it is as wanted; gives a sentence when it belongs to somebody else.
async fn one<K>(
    shared: &Shared,
    owner: &Owner<'_>,
    (name, wanted): (&str, &Value),
) -> Result<Option<String>, ProxyError>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + Clone
        + Debug
        + DeserializeOwned
        + Serialize,
{
    let api: Api<K> = Api::namespaced(shared.client.clone(), owner.namespace);
    if let Some(found) = api.get_opt(name).await? {
        if !is_controlled_by(&found, Some(owner.uid.to_owned())) {
            return Ok(Some(format!("{} {name} exists and is not ours; delete or rename it", K::kind(&()))));
        }
        if is_as_wanted(&untyped(wanted), &serde_json::to_value(&found)?) {
            return Ok(None);
        }
    }
    let written = api.patch(name, &PatchParams::apply(OBJECT_MANAGER).force(), &Patch::Apply(wanted)).await?;
    tracing::info!(
        object.kind = %K::kind(&()), object.name = name,
        "wrote {} {}/{name}", K::kind(&()), written.namespace().unwrap_or_default()
    );
    Ok(None)
}

/// The client library gives objects back without `apiVersion` and `kind`.
fn untyped(wanted: &Value) -> Value {
    let mut wanted = wanted.clone();
    if let Some(fields) = wanted.as_object_mut() {
        fields.remove("apiVersion");
        fields.remove("kind");
    }
    wanted
}
