//! Wires everything: the only place that knows all parts.

use std::sync::{Arc, OnceLock};

use futures::future::join_all;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{Namespace, Pod, Secret};
use kube::core::PartialObjectMeta;
use kube::runtime::reflector::store::Writer;
use kube::runtime::reflector::{Store, store};
use kube::runtime::watcher;
use kube::{Api, Client, Config};
use la_core::oauth::TokenEndpoint;
use la_crds::names::{LABEL_MANAGED_BY, LABEL_PROXY, MANAGER};
use la_crds::{RouterBudget, RouterProxy, RouterToken, UpstreamProvider};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

use crate::args::RunArgs;
use crate::controllers::{router_budget, router_proxy, router_token, run, upstream_provider};
use crate::events::Events;
use crate::lease::{Leadership, LeaseError};
use crate::metrics::Metrics;
use crate::probes;
use crate::proxies::Fleet;
use crate::refresh::{Endpoint, EndpointError, Exchanges, Refreshers};
use crate::secrets::ProviderSecrets;
use crate::shared::{Queues, Settings, Shared, Stores};
use crate::triggers;
use crate::watch::{self, WatchHealth};

/// Why the operator ended.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// No API server is configured.
    #[error("no API server: neither a kubeconfig nor a service account was found")]
    NoCluster(#[source] kube::config::InferConfigError),
    /// No client for it.
    #[error("no client for the API server")]
    Client(#[source] kube::Error),
    /// The lease cannot be used.
    #[error(transparent)]
    Lease(#[from] LeaseError),
    /// The lease was lost: another replica reconciles from now on.
    #[error("the lease was lost")]
    LeaseLost,
    /// Logins could not be renewed.
    #[error(transparent)]
    Endpoint(#[from] EndpointError),
    /// Probes cannot be served.
    #[error("probes cannot be served at {address}")]
    Probes {
        /// Where.
        address: std::net::SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// Signals cannot be received.
    #[error("signals cannot be received")]
    Signals(#[source] std::io::Error),
}

/// The writing halves of the stores.
struct Writers {
    tokens: Writer<RouterToken>,
    budgets: Writer<RouterBudget>,
    providers: Writer<UpstreamProvider>,
    proxies: Writer<RouterProxy>,
    namespaces: Writer<Namespace>,
    secrets: Writer<PartialObjectMeta<Secret>>,
    sets: Writer<StatefulSet>,
    pods: Writer<Pod>,
}

/// Runs until a signal or the loss of the lease.
///
/// # Errors
/// What keeps the operator from running, or why it must not go on.
pub async fn run(args: RunArgs) -> Result<(), RunError> {
    let config = Config::infer().await.map_err(RunError::NoCluster)?;
    let (metrics, health) = (Arc::new(Metrics::new()), Arc::new(WatchHealth::default()));
    let address = args.metrics_listen;
    let failed = |source| RunError::Probes { address, source };
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let probes = probes::serve(listener, Arc::clone(&metrics), Arc::clone(&health));
    let mut stop = signal(SignalKind::terminate()).map_err(RunError::Signals)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(RunError::Signals)?;
    let lease =
        Leadership::prepare(config.clone(), &args.namespace, &args.lease_name, &args.identity).await?;
    let refreshers = OnceLock::new();
    let ended = tokio::select! {
        ended = probes => ended.map_err(failed),
        ended = lead(config, &args, (&lease, &refreshers), metrics, health) => ended,
        _ = stop.recv() => Ok(()),
        _ = interrupt.recv() => Ok(()),
    };
    tracing::info!(operator.identity = %args.identity, "operator {} is stopping", args.identity);
    if let Some(refreshers) = refreshers.get() {
        refreshers.finish().await;
    }
    lease.release().await;
    ended
}

/// Waits for the lease, then reconciles for as long as it is ours.
async fn lead(
    config: Config,
    args: &RunArgs,
    (lease, refreshers): (&Leadership, &OnceLock<Arc<Refreshers>>),
    metrics: Arc<Metrics>,
    health: Arc<WatchHealth>,
) -> Result<(), RunError> {
    tracing::info!(operator.identity = %args.identity, "operator {} waits for the lease", args.identity);
    lease.won().await;
    tracing::info!(operator.identity = %args.identity, "operator {} leads", args.identity);
    metrics.set_leader(true);
    let client = Client::try_from(config).map_err(RunError::Client)?;
    let (shared, writers) = assemble(client, args, metrics, Arc::clone(&health))?;
    // What has begun to be renewed must be stored, whatever ends this function.
    let _ = refreshers.set(Arc::clone(&shared.refreshers));
    tokio::select! {
        () = lease.lost() => Err(RunError::LeaseLost),
        () = watch_all(&shared, writers, &health) => Ok(()),
        () = reconcile_all(Arc::clone(&shared)) => Ok(()),
    }
}

fn assemble(
    client: Client,
    args: &RunArgs,
    metrics: Arc<Metrics>,
    health: Arc<WatchHealth>,
) -> Result<(Arc<Shared>, Writers), EndpointError> {
    let (stores, writers) = stores();
    let queues = Queues::new();
    let (url, client_id) = (args.oauth_refresh_url.clone(), args.oauth_client_id.clone());
    let endpoint = TokenEndpoint { url, client_id };
    let endpoint = Arc::new(Endpoint::new(endpoint, args.token_exchange_url.clone())?);
    let on_renewal = {
        let (stores, queues) = (stores.clone(), queues.clone());
        Arc::new(move |secret: &_| triggers::login(&stores, &queues, secret))
    };
    let on_exchange = {
        let (stores, queues) = (stores.clone(), queues.clone());
        Arc::new(move |provider: &_, is_new| triggers::exchange(&stores, &queues, provider, is_new))
    };
    let exchanges = Exchanges::new(client.clone(), Arc::clone(&endpoint), Arc::clone(&metrics), on_exchange);
    let events = Arc::new(Events::new(client.clone(), &args.identity));
    let voices = (Arc::clone(&metrics), Arc::clone(&events));
    let refreshers = Arc::new(Refreshers::new(client.clone(), endpoint, voices, on_renewal));
    let on_change = {
        let (stores, queues, refreshers) = (stores.clone(), queues.clone(), Arc::clone(&refreshers));
        Arc::new(move |secret: &_| {
            refreshers.changed(secret);
            triggers::provider_secret(&stores, &queues, secret);
        })
    };
    let settings = Settings { proxy_image: args.proxy_image.clone(), admin_port: args.admin_port };
    let shared = Shared {
        settings,
        stores,
        queues,
        keys: crate::keys::KeyRing::default(),
        published: Arc::default(),
        fleet: Fleet::default(),
        secrets: ProviderSecrets::new(client.clone(), health, on_change),
        refreshers,
        exchanges,
        frames: crate::frames::Frames::default(),
        verified: crate::verified::Verified::default(),
        events,
        metrics,
        client,
    };
    Ok((Arc::new(shared), writers))
}

fn stores() -> (Stores, Writers) {
    let (tokens, tokens_writer) = store();
    let (budgets, budgets_writer) = store();
    let (providers, providers_writer) = store();
    let (proxies, proxies_writer) = store();
    let (namespaces, namespaces_writer) = store();
    let (secrets, secrets_writer) = store();
    let (sets, sets_writer) = store();
    let (pods, pods_writer) = store();
    let stores = Stores { tokens, budgets, providers, proxies, namespaces, secrets, sets, pods };
    let writers = Writers {
        tokens: tokens_writer,
        budgets: budgets_writer,
        providers: providers_writer,
        proxies: proxies_writer,
        namespaces: namespaces_writer,
        secrets: secrets_writer,
        sets: sets_writer,
        pods: pods_writer,
    };
    (stores, writers)
}

/// Watches every kind, once.
async fn watch_all(shared: &Arc<Shared>, writers: Writers, health: &Arc<WatchHealth>) {
    let own = watch::config().labels(&format!("{LABEL_MANAGED_BY}={MANAGER}"));
    let of_proxies = watch::config().labels(LABEL_PROXY);
    let health = || Arc::clone(health);
    tokio::join!(
        watch::follow("routertokens", all(shared, watch::config()), writers.tokens, health(), |c| {
            triggers::token(shared, c);
        }),
        watch::follow("routerbudgets", all(shared, watch::config()), writers.budgets, health(), |c| {
            triggers::budget(shared, c);
        }),
        watch::follow("upstreamproviders", all(shared, watch::config()), writers.providers, health(), |c| {
            triggers::provider(shared, c);
        }),
        watch::follow("routerproxies", all(shared, watch::config()), writers.proxies, health(), |c| {
            triggers::proxy(shared, c);
        }),
        watch::follow("namespaces", all(shared, watch::config()), writers.namespaces, health(), |c| {
            triggers::namespace(shared, c);
        }),
        watch::follow("secrets", all(shared, own.clone()), writers.secrets, health(), |c| {
            triggers::own_secret(shared, c);
        }),
        watch::follow("statefulsets", all(shared, own), writers.sets, health(), |c| triggers::set(shared, c)),
        watch::follow("pods", all(shared, of_proxies), writers.pods, health(), |c| triggers::pod(shared, c)),
    );
}

fn all<K>(
    shared: &Shared,
    config: watcher::Config,
) -> impl futures::Stream<Item = watcher::Result<watcher::Event<K>>> + Send + use<K>
where
    K: kube::Resource<DynamicType = ()>
        + Clone
        + serde::de::DeserializeOwned
        + std::fmt::Debug
        + Send
        + 'static,
{
    watcher(Api::<K>::all(shared.client.clone()), config)
}

/// Reconciles once every store is filled: a proxy compiled from half of its tokens would revoke the others.
async fn reconcile_all(shared: Arc<Shared>) {
    let stores = &shared.stores;
    let filled = join_all([
        ready(&stores.tokens),
        ready(&stores.budgets),
        ready(&stores.providers),
        ready(&stores.proxies),
        ready(&stores.namespaces),
        ready(&stores.secrets),
        ready(&stores.sets),
        ready(&stores.pods),
    ]);
    filled.await;
    tracing::info!(tokens = stores.tokens.len(), proxies = stores.proxies.len(), "every object is known");
    let of = |shared: &Arc<Shared>| Arc::clone(shared);
    let (tokens, budgets, providers, proxies) = (
        (stores.tokens.clone(), shared.queues.tokens.clone()),
        (stores.budgets.clone(), shared.queues.budgets.clone()),
        (stores.providers.clone(), shared.queues.providers.clone()),
        (stores.proxies.clone(), shared.queues.proxies.clone()),
    );
    tokio::join!(
        run::run("RouterToken", of(&shared), tokens, router_token::reconcile),
        run::run("RouterBudget", of(&shared), budgets, router_budget::reconcile),
        run::run("UpstreamProvider", of(&shared), providers, upstream_provider::reconcile),
        run::run("RouterProxy", of(&shared), proxies, router_proxy::reconcile),
    );
}

fn ready<K>(store: &Store<K>) -> futures::future::BoxFuture<'_, ()>
where
    K: kube::Resource<DynamicType = ()> + Clone + Send + Sync + 'static,
{
    Box::pin(async move {
        if store.wait_until_ready().await.is_err() {
            // The watch that fills it is gone, and with it the process.
            std::future::pending::<()>().await;
        }
    })
}
