//! What all controllers share: the client, the watched objects, and what is known beyond the API server.

use std::collections::BTreeSet;
use std::sync::Arc;

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{Namespace, Pod, Secret};
use kube::core::PartialObjectMeta;
use kube::runtime::reflector::{ObjectRef, Store};
use kube::{Client, ResourceExt as _};
use la_crds::compile::Labels;
use la_crds::{RouterBudget, RouterProxy, RouterToken, UpstreamProvider};

use crate::controllers::upstream_provider::secret_names;
use crate::events::Events;
use crate::frames::Frames;
use crate::keys::KeyRing;
use crate::metrics::Metrics;
use crate::names::ObjectName;
use crate::proxies::Fleet;
use crate::published::Published;
use crate::queue::Queue;
use crate::refresh::{Exchanges, Refreshers};
use crate::secrets::ProviderSecrets;
use crate::verified::Verified;

/// What the command line decides for every controller.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    /// Image of proxy pods whose RouterProxy names none.
    pub(crate) proxy_image: String,
    /// Admin port of proxy pods.
    pub(crate) admin_port: u16,
}

/// The watched objects.
#[derive(Clone)]
pub(crate) struct Stores {
    /// Every RouterToken.
    pub(crate) tokens: Store<RouterToken>,
    /// Every RouterBudget.
    pub(crate) budgets: Store<RouterBudget>,
    /// Every UpstreamProvider.
    pub(crate) providers: Store<UpstreamProvider>,
    /// Every RouterProxy.
    pub(crate) proxies: Store<RouterProxy>,
    /// Every namespace, for its labels.
    pub(crate) namespaces: Store<Namespace>,
    /// Metadata of the Secrets that carry our label.
    pub(crate) secrets: Store<PartialObjectMeta<Secret>>,
    /// StatefulSets that carry our label.
    pub(crate) sets: Store<StatefulSet>,
    /// Pods of proxies.
    pub(crate) pods: Store<Pod>,
}

/// Objects that wait to be reconciled.
#[derive(Clone)]
pub(crate) struct Queues {
    /// RouterTokens.
    pub(crate) tokens: Queue<RouterToken>,
    /// RouterBudgets.
    pub(crate) budgets: Queue<RouterBudget>,
    /// UpstreamProviders.
    pub(crate) providers: Queue<UpstreamProvider>,
    /// RouterProxies.
    pub(crate) proxies: Queue<RouterProxy>,
}

/// Everything a controller needs.
pub(crate) struct Shared {
    /// The API server.
    pub(crate) client: Client,
    /// What the command line decides.
    pub(crate) settings: Settings,
    /// The watched objects.
    pub(crate) stores: Stores,
    /// Objects that wait to be reconciled.
    pub(crate) queues: Queues,
    /// The signing keys of every proxy.
    pub(crate) keys: KeyRing,
    /// What was last written for every proxy.
    pub(crate) published: Arc<Published>,
    /// What proxy pods report.
    pub(crate) fleet: Fleet,
    /// The Secrets that providers name.
    pub(crate) secrets: ProviderSecrets,
    /// The logins that providers name.
    pub(crate) refreshers: Arc<Refreshers>,
    /// The workload identities that providers name.
    pub(crate) exchanges: Exchanges,
    /// Objects of proxies that were lately found as they should be.
    pub(crate) frames: Frames,
    /// Minted Secrets that were found as they should be.
    pub(crate) verified: Verified,
    /// Events.
    pub(crate) events: Arc<Events>,
    /// Counters.
    pub(crate) metrics: Arc<Metrics>,
}

impl Queues {
    /// Empty queues.
    pub(crate) fn new() -> Self {
        Self { tokens: Queue::new(), budgets: Queue::new(), providers: Queue::new(), proxies: Queue::new() }
    }
}

impl Stores {
    /// The RouterTokens that name `proxy`.
    pub(crate) fn tokens_of(&self, proxy: &ObjectName) -> Vec<Arc<RouterToken>> {
        self.tokens.state_filter(|token| proxy_of(token) == *proxy)
    }

    /// The RouterBudgets that name `proxy` and are not on their way out.
    pub(crate) fn budgets_of(&self, proxy: &ObjectName) -> Vec<Arc<RouterBudget>> {
        self.budgets.state_filter(|budget| {
            budget.metadata.deletion_timestamp.is_none() && proxy_of_budget(budget) == *proxy
        })
    }

    /// Other providers of the namespace that name a Secret which one of `providers` names: whose login it is, is
    /// decided among all of them.
    pub(crate) fn sharing(&self, namespace: &str, providers: &[UpstreamProvider]) -> Vec<UpstreamProvider> {
        let named: BTreeSet<_> = providers.iter().flat_map(secret_names).collect();
        let shares = |other: &UpstreamProvider| {
            other.namespace().as_deref() == Some(namespace)
                && providers.iter().all(|known| known.metadata.name != other.metadata.name)
                && !named.is_disjoint(&secret_names(other))
        };
        self.providers.state_filter(shares).iter().map(|other| other.as_ref().clone()).collect()
    }

    /// The labels of a namespace, if it is known.
    pub(crate) fn labels_of(&self, namespace: &str) -> Option<Labels> {
        let found = self.namespaces.get(&ObjectRef::new(namespace))?;
        Some(found.metadata.labels.clone().unwrap_or_default())
    }

    /// The pods that carry the label of `proxy`.
    pub(crate) fn pods_of(&self, proxy: &ObjectName) -> Vec<Arc<Pod>> {
        self.pods.state_filter(|pod| {
            pod.namespace().is_some_and(|namespace| namespace == proxy.namespace)
                && pod.labels().get(la_crds::names::LABEL_PROXY) == Some(&proxy.name)
        })
    }
}

/// The proxy that `token` names.
pub(crate) fn proxy_of(token: &RouterToken) -> ObjectName {
    ObjectName::new(token.proxy_namespace(), &token.spec.proxy_ref.name)
}

/// The proxy that `budget` names.
pub(crate) fn proxy_of_budget(budget: &RouterBudget) -> ObjectName {
    ObjectName::new(budget.proxy_namespace(), &budget.spec.proxy_ref.name)
}
