//! The Secrets that UpstreamProviders and the ledgers of RouterProxies name.
//!
//! Their metadata is watched only in namespaces that have such an object; their content is read when one
//! names them, and again only after it changed.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use k8s_openapi::api::core::v1::Secret;
use kube::core::PartialObjectMeta;
use kube::runtime::reflector::{ObjectRef, Store, store};
use kube::runtime::watcher;
use kube::{Api, Client, ResourceExt as _};
use tokio_util::task::AbortOnDropHandle;

use crate::names::ObjectName;
use crate::watch::{self, Change, WatchHealth};

/// Longest wait for the first list of a namespace.
const FIRST_LIST: Duration = Duration::from_secs(10);

/// Secrets by namespace and name, as compilation wants them.
pub(crate) type Contents = BTreeMap<(String, String), Secret>;

type Metadata = PartialObjectMeta<Secret>;

/// The Secrets that UpstreamProviders name.
pub(crate) struct ProviderSecrets {
    client: Client,
    health: Arc<WatchHealth>,
    on_change: Arc<dyn Fn(&ObjectName) + Send + Sync>,
    namespaces: Mutex<HashMap<String, Watched>>,
    contents: Mutex<HashMap<ObjectName, Arc<Secret>>>,
}

struct Watched {
    metadata: Store<Metadata>,
    _task: AbortOnDropHandle<()>,
}

/// Why the Secrets of a namespace cannot be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SecretsError {
    /// The first list has not come.
    #[error("secrets of namespace {namespace} cannot be listed yet")]
    NotListed {
        /// The namespace.
        namespace: String,
    },
    /// The API server refused or failed.
    #[error("secret {name} cannot be read")]
    Read {
        /// The Secret.
        name: ObjectName,
        /// Why.
        #[source]
        source: Box<kube::Error>,
    },
}

impl ProviderSecrets {
    /// Watches nothing yet. `on_change` is called with every Secret that changes in a watched namespace.
    pub(crate) fn new(
        client: Client,
        health: Arc<WatchHealth>,
        on_change: Arc<dyn Fn(&ObjectName) + Send + Sync>,
    ) -> Self {
        Self { client, health, on_change, namespaces: Mutex::default(), contents: Mutex::default() }
    }

    /// The named Secrets of one namespace, those that exist.
    ///
    /// # Errors
    /// When the API server cannot be asked.
    pub(crate) async fn read(
        &self,
        namespace: &str,
        names: &BTreeSet<String>,
    ) -> Result<Contents, SecretsError> {
        let metadata = self.metadata(namespace);
        let not_listed = || SecretsError::NotListed { namespace: namespace.to_owned() };
        match tokio::time::timeout(FIRST_LIST, metadata.wait_until_ready()).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) | Err(_) => return Err(not_listed()),
        }
        let mut contents = Contents::new();
        for name in names {
            if let Some(secret) = self.content(&metadata, ObjectName::new(namespace, name)).await? {
                contents.insert((namespace.to_owned(), name.clone()), secret.as_ref().clone());
            }
        }
        Ok(contents)
    }

    /// Stops watching namespaces that name none any more, and forgets what was read there.
    pub(crate) fn keep_only(&self, namespaces: &BTreeSet<String>) {
        let keep = |name: &String| namespaces.contains(name);
        self.namespaces.lock().unwrap_or_else(PoisonError::into_inner).retain(|name, _| keep(name));
        self.contents.lock().unwrap_or_else(PoisonError::into_inner).retain(|name, _| keep(&name.namespace));
    }

    fn metadata(&self, namespace: &str) -> Store<Metadata> {
        let mut namespaces = self.namespaces.lock().unwrap_or_else(PoisonError::into_inner);
        let watched = namespaces.entry(namespace.to_owned()).or_insert_with(|| self.watch(namespace));
        watched.metadata.clone()
    }

    fn watch(&self, namespace: &str) -> Watched {
        let (metadata, writer) = store();
        let api: Api<Metadata> = Api::namespaced(self.client.clone(), namespace);
        let events = watcher(api, watch::config());
        let on_change = Arc::clone(&self.on_change);
        let notify = move |change: Change<'_, Metadata>| {
            if let Some(secret) = change.newest() {
                on_change(&ObjectName::of(secret));
            }
        };
        let health = Arc::clone(&self.health);
        let task = tokio::spawn(watch::follow("provider secrets", events, writer, health, notify));
        Watched { metadata, _task: AbortOnDropHandle::new(task) }
    }

    async fn content(
        &self,
        metadata: &Store<Metadata>,
        name: ObjectName,
    ) -> Result<Option<Arc<Secret>>, SecretsError> {
        let reference = ObjectRef::new(&name.name).within(&name.namespace);
        let Some(newest) = metadata.get(&reference) else {
            self.contents.lock().unwrap_or_else(PoisonError::into_inner).remove(&name);
            return Ok(None);
        };
        let known = self.contents.lock().unwrap_or_else(PoisonError::into_inner).get(&name).cloned();
        if let Some(known) = known.filter(|known| known.resource_version() == newest.resource_version()) {
            return Ok(Some(known));
        }
        let api: Api<Secret> = Api::namespaced(self.client.clone(), &name.namespace);
        let found = api.get_opt(&name.name).await;
        let found = found.map_err(|e| SecretsError::Read { name: name.clone(), source: Box::new(e) })?;
        let Some(secret) = found.map(Arc::new) else { return Ok(None) };
        let mut contents = self.contents.lock().unwrap_or_else(PoisonError::into_inner);
        contents.insert(name, Arc::clone(&secret));
        Ok(Some(secret))
    }
}
