//! Writing a status: only when it differs, and only onto the object it was decided on.

use std::fmt::Debug;
use std::time::Duration;

use jiff::Timestamp;
use kube::api::{Patch, PatchParams};
use kube::core::NamespaceResourceScope;
use kube::{Api, Client, Resource, ResourceExt as _};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::json;

use crate::names::STATUS_MANAGER;

/// Least seconds between two writes of use alone.
pub(crate) const USAGE_PERIOD_SECONDS: i64 = 10;

/// After a write that was decided on old knowledge: the newer object is on its way here.
pub(crate) const AFTER_CONFLICT: Duration = Duration::from_millis(50);

/// Why a status was not written.
#[derive(Debug, thiserror::Error)]
#[error("status cannot be written: {0}")]
pub(crate) struct StatusError(#[source] pub(crate) Box<kube::Error>);

impl StatusError {
    /// Whether the object changed or went since it was read: the newer one is on its way here.
    pub(crate) fn is_outdated(&self) -> bool {
        matches!(self.0.as_ref(), kube::Error::Api(status) if matches!(status.code, 404 | 409))
    }
}

/// How long to wait at `now` for `due`.
pub(crate) fn wait_until(due: Timestamp, now: Timestamp) -> Duration {
    let wait = Duration::try_from(due.duration_since(now)).unwrap_or_default();
    // Timers run on another clock: looking just before the time would be looking twice.
    wait.saturating_add(Duration::from_millis(50))
}

/// Writes `wanted` as the status of `object`, whose status is `found`, and gives the object as it is then.
/// The resource version makes a write that was decided on old knowledge fail: of two replicas, or of two
/// steps, only one succeeds.
pub(crate) async fn write<K, S>(
    client: &Client,
    object: &K,
    found: Option<&S>,
    wanted: &S,
) -> Result<K, StatusError>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + DeserializeOwned,
    S: Serialize + PartialEq,
{
    if found == Some(wanted) {
        return Ok(object.clone());
    }
    let patch = json!({
        "apiVersion": K::api_version(&()),
        "kind": K::kind(&()),
        "metadata": { "resourceVersion": object.resource_version(), "uid": object.uid() },
        "status": wanted,
    });
    let api: Api<K> = Api::namespaced(client.clone(), &object.namespace().unwrap_or_default());
    let parameters = PatchParams::apply(STATUS_MANAGER).force();
    let written = api.patch_status(&object.name_any(), &parameters, &Patch::Apply(&patch)).await;
    written.map_err(|error| StatusError(Box::new(error)))
}
