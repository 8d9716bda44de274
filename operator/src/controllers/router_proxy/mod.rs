//! RouterProxy: pods, their Service, and the snapshot they serve.
//!
//! Guarantees: a changed or deleted token, provider or credential is in the snapshot Secret before anything
//! else is done about the proxy; generations only rise; what the status says of pods, they reported.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Secret as KubeSecret;
use kube::api::{Patch, PatchParams};
use kube::runtime::controller::Action;
use kube::{Api, Resource as _, ResourceExt as _};
use la_core::snapshot::Snapshot;
use la_crds::RouterProxy;
use la_crds::compile::Compiled;
use la_crds::names::snapshot_secret;

use self::decide::ledger::Counted;
use self::decide::{Observed, Previous, decide, next_snapshot};
use self::gather::Last;
use crate::clock::{self, NoRandomness};
use crate::controllers::status::{self, AFTER_CONFLICT, StatusError};
use crate::faults::{self, Point};
use crate::names::{OBJECT_MANAGER, ObjectName};
use crate::proxies::spread;
use crate::published::Edition;
use crate::resources::Owner;
use crate::resources::secrets::{self, SnapshotError};
use crate::secrets::SecretsError;
use crate::shared::Shared;

mod decide;
mod frame;
mod gather;
mod keys;

pub(crate) use gather::is_controlled_by;

/// Objects that are not watched are looked at this often.
const PERIOD: Duration = Duration::from_secs(600);

/// An object of somebody else is looked at again after this.
const CONFLICT_PERIOD: Duration = Duration::from_secs(5);

/// Why a RouterProxy could not be reconciled.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ProxyError {
    /// The API server refused or failed.
    #[error("API server: {0}")]
    Api(#[source] Box<kube::Error>),
    /// The provider's Secrets cannot be read.
    #[error(transparent)]
    Secrets(#[from] SecretsError),
    /// Its status cannot be written.
    #[error(transparent)]
    Status(#[from] StatusError),
    /// The snapshot cannot be written.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// An object cannot be built.
    #[error("object cannot be built")]
    Build(#[from] serde_json::Error),
    /// Keys cannot be made.
    #[error("keys cannot be made")]
    Keys(#[from] la_core::token::KeyError),
    /// No randomness.
    #[error(transparent)]
    Random(#[from] NoRandomness),
    /// The signing Secret is ours but holds no keys.
    #[error("Secret {0} does not hold usable keys; delete it to have new ones made, which voids all tokens")]
    DamagedKeys(String),
    /// A Secret of somebody else is in the way.
    #[error("{0}")]
    Conflict(String),
}

impl From<kube::Error> for ProxyError {
    fn from(error: kube::Error) -> Self {
        Self::Api(Box::new(error))
    }
}

impl ProxyError {
    fn is_outdated(&self) -> bool {
        match self {
            Self::Status(error) => error.is_outdated(),
            Self::Api(error) => {
                matches!(error.as_ref(), kube::Error::Api(status) if matches!(status.code, 404 | 409))
            }
            _ => false,
        }
    }
}

/// Makes one RouterProxy what it should be, the snapshot first.
pub(crate) async fn reconcile(proxy: Arc<RouterProxy>, shared: Arc<Shared>) -> Result<Action, ProxyError> {
    if proxy.metadata.deletion_timestamp.is_some() {
        return Ok(Action::await_change());
    }
    match advance(&proxy, &shared).await {
        Err(error) if error.is_outdated() => Ok(Action::requeue(AFTER_CONFLICT)),
        Err(error) => {
            report_failure(&proxy, &shared, &error).await;
            Err(error)
        }
        done => done,
    }
}

/// Forgets a proxy that was deleted.
pub(crate) fn forget(shared: &Arc<Shared>, name: &ObjectName) {
    shared.fleet.follow(shared, name, Vec::new());
    shared.keys.forget(name);
    shared.published.forget(name);
    shared.frames.forget(name);
}

async fn advance(proxy: &RouterProxy, shared: &Arc<Shared>) -> Result<Action, ProxyError> {
    let (name, uid) = (ObjectName::of(proxy), proxy.uid().unwrap_or_default());
    let owner = Owner { kind: "RouterProxy", namespace: &name.namespace, name: &name.name, uid: &uid };
    let keys = keys::ensure(shared, proxy, &owner).await?;
    let compiled = gather::compiled(shared, proxy, &keys).await?;
    let counted =
        Counted { tokens: shared.stores.tokens_of(&name), budgets: shared.stores.budgets_of(&name) };
    let edition = publish(shared, proxy, &owner, (&compiled, &counted)).await?;
    let conflicts = frame::ensure(shared, proxy, &owner).await?;
    shared.fleet.follow(shared, &name, gather::targets(shared, proxy, &name));
    if shared.fleet.serves(&name, edition.snapshot.order()) {
        // A pod may have reported this snapshot before its writing was answered, and one that lagged may be gone.
        spread::queue_unprogrammed(shared, &counted.tokens);
    }
    let pods = shared.fleet.pods_of(&name);
    let observed = Observed {
        proxy,
        now: Timestamp::now(),
        compiled: &compiled,
        previous: Some(previous(&edition)),
        pods: &pods,
        counted: &counted,
        conflicts: &conflicts,
    };
    let decision = decide(&observed);
    let object = proxy.object_ref(&());
    if decision.notes.is_empty() {
        shared.events.forget(&object);
    }
    shared.events.publish(decision.notes, &object).await;
    status::write(&shared.client, proxy, proxy.status.as_ref(), &decision.status).await?;
    let period = if conflicts.is_empty() { PERIOD } else { CONFLICT_PERIOD };
    Ok(Action::requeue(decision.wake.unwrap_or(period).min(period)))
}

/// Writes the snapshot if what is served must change; gives what is in the Secret then.
async fn publish(
    shared: &Arc<Shared>,
    proxy: &RouterProxy,
    owner: &Owner<'_>,
    (compiled, counted): (&Compiled, &Counted),
) -> Result<Edition, ProxyError> {
    let name = ObjectName::of(proxy);
    let last = gather::last(shared, proxy, &name).await?;
    let pods = shared.fleet.pods_of(&name);
    let next = next_snapshot(&Observed {
        proxy,
        now: Timestamp::now(),
        compiled,
        previous: last.as_ref().map(|last| previous(&last.edition)),
        pods: &pods,
        counted,
        conflicts: &[],
    });
    let (snapshot, credentials) = match (next, &last) {
        (Some(next), _) => (next, compiled.credentials.clone()),
        (None, Some(Last { edition, rewrite: false })) => return Ok(edition.clone()),
        (None, Some(Last { edition, rewrite: true })) => {
            ((*edition.snapshot).clone(), (*edition.credentials).clone())
        }
        (None, None) => (compiled.snapshot.clone(), compiled.credentials.clone()),
    };
    let version = last.map(|last| last.edition.version).filter(|version| !version.is_empty());
    let secret = secrets::snapshot(owner, &snapshot, &credentials, version.as_deref())?;
    let api: Api<KubeSecret> = Api::namespaced(shared.client.clone(), owner.namespace);
    let parameters = PatchParams::apply(OBJECT_MANAGER).force();
    let written = api.patch(&snapshot_secret(owner.name), &parameters, &Patch::Apply(&secret)).await?;
    faults::linger(Point::AfterSnapshot).await;
    shared.metrics.snapshots.inc();
    Ok(shelve(shared, &name, (snapshot, compiled, credentials), written.resource_version()))
}

fn shelve(
    shared: &Shared,
    name: &ObjectName,
    (snapshot, compiled, credentials): (Snapshot, &Compiled, la_core::credential::Credentials),
    version: Option<String>,
) -> Edition {
    tracing::info!(
        proxy.name = %name, snapshot.generation = snapshot.generation, tokens = snapshot.tokens.len(),
        faults = compiled.faults.len(), "wrote snapshot {} of proxy {name}", snapshot.generation
    );
    let edition = Edition::new(snapshot, credentials, version.unwrap_or_default());
    shared.published.put(name, edition.clone(), clock::now());
    edition
}

fn previous(edition: &Edition) -> Previous<'_> {
    Previous {
        snapshot: &edition.snapshot,
        credentials: &edition.credentials,
        age: clock::instant().duration_since(edition.since),
    }
}

/// Says in status and Event why the proxy is not what it should be.
async fn report_failure(proxy: &RouterProxy, shared: &Arc<Shared>, error: &ProxyError) {
    let decision = decide::failed(proxy, Timestamp::now(), error);
    shared.events.publish(decision.notes, &proxy.object_ref(&())).await;
    let written = status::write(&shared.client, proxy, proxy.status.as_ref(), &decision.status).await;
    if let Err(second) = written {
        tracing::debug!(error = %second, "failure of a proxy was not recorded in its status");
    }
}
