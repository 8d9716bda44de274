//! The only place that wires: opens what a router holds, starts it, and ends it in order.

use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use la_core::snapshot::Snapshot;
use tokio::signal::unix::{SignalKind, signal};

use crate::accounts::fleet::Fleet;
use crate::admin::{self, Access, Admin, Phase, Status};
use crate::config::feed::{Feed, Listeners};
use crate::config::generation::Highest;
use crate::config::{Flags, ManifestFolder, SnapshotDir, Source};
use crate::credentials::{HomeError, find_home_patiently, folders};
use crate::data_dir::DataDir;
use crate::ledger::{Ledger, SharedRecords};
use crate::listener::{DataPlane, Running};
use crate::observe::metrics::Metrics;
use crate::redis_link::RedisUrl;
use crate::refresh::{self, Refresher};
use crate::settings::{
    AccessSettings, LedgerInUse, LedgerSettings, ListenSettings, Policy, RefreshSettings, ServeSettings,
    SourceSettings,
};
use crate::tokens::{Minter, Signing, TokenStore};
use crate::{clock, harden};

/// Why the process ends with an error.
#[derive(Debug)]
pub enum Failure {
    /// What was configured cannot be served: every fault, one sentence each. Exit code 2.
    Configuration(Vec<String>),
    /// The machine did not let it: one sentence. Exit code 1.
    Runtime(String),
}

/// A router that is opened but does not serve yet.
pub struct Router {
    data_dir: DataDir,
    settings: ServeSettings,
    ledger: Arc<Ledger>,
    /// The Redis that replicas share, if they do.
    shares: Option<RedisUrl>,
    metrics: Arc<Metrics>,
    tokens: Option<Arc<TokenStore>>,
    feed: Feed,
    admin_listener: TcpListener,
}

impl Failure {
    fn runtime(error: impl std::fmt::Display) -> Self {
        Self::Runtime(error.to_string())
    }
}

/// Serves until SIGTERM or SIGINT.
///
/// # Errors
/// When it cannot start, or cannot end cleanly.
pub fn serve(settings: ServeSettings) -> Result<(), Failure> {
    Router::open(settings)?.run(|_| {})
}

impl Router {
    /// Opens everything, and binds the admin port, so that what is wrong is told before anything is served.
    ///
    /// # Errors
    /// The first thing that cannot be opened, or every fault of the configuration.
    pub fn open(mut settings: ServeSettings) -> Result<Self, Failure> {
        harden::process();
        for warning in &settings.warnings {
            tracing::warn!("{warning}");
        }
        let data_dir = DataDir::open(&settings.data_dir).map_err(Failure::runtime)?;
        let admin_listener = bind(settings.listen.admin)?;
        let metrics = Arc::new(Metrics::new());
        let shares = match &settings.ledger {
            LedgerSettings::Redis(redis) => Some(redis.url.clone()),
            LedgerSettings::Embedded | LedgerSettings::Memory => None,
        };
        let in_use = settings.ledger.in_use();
        let ledger = open_ledger(&data_dir, &mut settings, &metrics)?;
        let tokens = open_tokens(&data_dir, &settings)?;
        let listeners = Listeners { ledger: ledger.clone(), metrics: metrics.clone() };
        let source = open_source(&settings, tokens.as_ref(), (in_use, ledger.shared_records()))?;
        let mut feed = open_feed(&data_dir, source, listeners)?;
        let in_cluster = matches!(settings.source, SourceSettings::SnapshotDir(_));
        match feed.load(clock::unix_seconds()) {
            Ok(()) => check_logins(&feed, &settings.refresh)?,
            // An operator may still be writing; the readiness probe says what is missing.
            Err(error) if in_cluster => error.0.iter().for_each(|e| tracing::warn!("configuration: {e}")),
            Err(error) => return Err(Failure::Configuration(error.0)),
        }
        Ok(Self { data_dir, settings, ledger, shares, metrics, tokens, feed, admin_listener })
    }

    /// The tokens that are issued here.
    pub fn tokens(&self) -> Option<&TokenStore> {
        self.tokens.as_deref()
    }

    /// Takes what has changed since it was opened, before anything is served.
    ///
    /// # Errors
    /// Every fault of the configuration.
    pub fn reload(&mut self) -> Result<(), Failure> {
        self.feed.load(clock::unix_seconds()).map_err(|error| Failure::Configuration(error.0))
    }

    /// Serves until SIGTERM or SIGINT; calls `started` with the address of requests when it does.
    ///
    /// # Errors
    /// When the port is taken, or what is held cannot be ended cleanly.
    pub fn run(self, started: impl FnOnce(SocketAddr)) -> Result<(), Failure> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            // The wait for the drain blocks, and looking up the token endpoint's name meanwhile.
            .max_blocking_threads(2)
            .build()
            .map_err(|e| Failure::Runtime(format!("no runtime: {e}")))?;
        tokio::task::LocalSet::new().block_on(&runtime, self.run_here(started))
    }

    /// The other replicas, once this one knows what they know.
    async fn fleet(&self) -> Result<Option<Arc<Fleet>>, Failure> {
        let Some(url) = self.shares.clone() else { return Ok(None) };
        let fleet = Fleet::start(url, self.feed.cell(), self.metrics.clone()).map_err(Failure::Runtime)?;
        fleet.known().await;
        Ok(Some(fleet))
    }

    fn refresher(&self, fleet: Option<Arc<Fleet>>) -> Result<Refresher, Failure> {
        let (settings, metrics) = (self.settings.refresh.clone(), self.metrics.clone());
        Refresher::new(settings, self.feed.cell(), self.feed.homes(), metrics, fleet)
            .map_err(|error| Failure::Configuration(vec![format!("CLAUDE_OAUTH_REFRESH_URL {error}")]))
    }

    async fn run_here(mut self, started: impl FnOnce(SocketAddr)) -> Result<(), Failure> {
        let cell = self.feed.cell();
        let feed = self.feed.state();
        let told = feed.from_manifest();
        let status =
            Arc::new(Status::new(cell.clone(), self.ledger.clone(), feed.clone(), clock::unix_seconds()));
        let mut stop = Stop::new()?;
        let fleet = self.fleet().await?;
        let mut refresher = self.refresher(fleet.clone())?.start();
        refresher.known().await;
        self.feed.catch_up();
        let running = data_plane(&self.settings, told.request_log)
            .start(cell, self.ledger.clone(), self.metrics.clone())
            .map_err(|error| Failure::Runtime(not_bound(self.settings.listen.listen, &error)))?;
        let listen = running.local_addr();
        let admin = Arc::new(Admin {
            status: status.clone(),
            tokens: self.tokens.clone(),
            metrics: self.settings.access.metrics.then(|| self.metrics.clone()),
            access: admin_access(&self.settings),
            bell: refresher.bell(),
            now: clock::unix_seconds,
        });
        let admin_addr = start_admin(self.admin_listener, &self.data_dir, &admin)?;
        status.enter(Phase::Serving);
        tracing::info!("listening on {listen} for requests, on {admin_addr} for administration");
        started(listen);
        tokio::spawn(self.feed.run(clock::unix_seconds));
        let name = stop.wait().await;
        let drain = self.settings.listen.drain.or(feed.from_manifest().drain);
        let drain = drain.unwrap_or(ListenSettings::DRAIN_DEFAULT);
        tracing::info!("{name}: no new requests; open ones have {} s", drain.as_secs());
        status.enter(Phase::Stopping);
        // A login that was renewed meanwhile is stored before the end, however long requests take.
        let (ended, lost) = tokio::join!(end(running, drain, &self.ledger), refresher.close(drain));
        if let Some(fleet) = fleet {
            fleet.close();
        }
        ended?;
        if !lost.is_empty() {
            return Err(Failure::Runtime(lost.join("; ")));
        }
        let _ = std::fs::remove_file(self.data_dir.file(admin::SOCKET_FILE));
        tracing::info!("stopped");
        Ok(())
    }
}

/// What would be served.
#[derive(Debug)]
pub struct Preview {
    pub snapshot: Snapshot,
    /// What would be left out, one sentence each.
    pub faults: Vec<String>,
    /// What is configured and would not be done.
    pub ignored: Option<String>,
}

/// What would be served, without serving or minting anything.
///
/// # Errors
/// As [`Router::open`].
pub fn preview(data_dir: &DataDir, settings: &ServeSettings) -> Result<Preview, Failure> {
    let tokens = open_tokens(data_dir, settings)?;
    let mut source = open_source(settings, tokens.as_ref(), (settings.ledger.in_use(), None))?;
    let loaded = source.preview(clock::unix_seconds()).map_err(|error| Failure::Configuration(error.0))?;
    let ignored = source.ignored().map(str::to_owned);
    Ok(Preview { snapshot: loaded.snapshot, faults: loaded.faults, ignored })
}

/// A login that is there and cannot be used, or not renewed as was asked for, is a fault; one that is missing
/// may still come.
fn check_logins(feed: &Feed, settings: &RefreshSettings) -> Result<(), Failure> {
    let live = feed.cell().load();
    let mut faults = Vec::new();
    let found: Vec<_> =
        folders(live.snapshot()).map(|folder| (find_home_patiently(folder.path), folder)).collect();
    let logins = feed.homes().read(live.snapshot());
    for (found, folder) in found {
        match found {
            Ok(found) => {
                if let Err(why) = logins.of(&folder.key()) {
                    faults.push(format!("account {}: {why}", folder.key()));
                }
                if settings.policy == Policy::Always
                    && let Err(why) = refresh::right::judge(settings, folder.path, &found.file)
                {
                    faults.push(format!("account {}: --refresh is `always`, but {why}", folder.key()));
                }
            }
            Err(error @ HomeError::None { .. }) => tracing::warn!("{error}"),
            Err(error) => faults.push(error.to_string()),
        }
    }
    if faults.is_empty() { Ok(()) } else { Err(Failure::Configuration(faults)) }
}

fn open_ledger(
    data_dir: &DataDir,
    settings: &mut ServeSettings,
    metrics: &Metrics,
) -> Result<Arc<Ledger>, Failure> {
    match std::mem::take(&mut settings.ledger) {
        LedgerSettings::Embedded => {
            Ledger::open_embedded(data_dir.path(), settings.usage_log, clock::unix_seconds())
                .map_err(Failure::runtime)
        }
        LedgerSettings::Redis(redis) => {
            let log = (data_dir.path(), settings.usage_log);
            Ledger::open_redis(redis, log, metrics.unrecorded.clone()).map_err(Failure::runtime)
        }
        LedgerSettings::Memory => Ok(Ledger::memory()),
    }
}

fn open_tokens(data_dir: &DataDir, settings: &ServeSettings) -> Result<Option<Arc<TokenStore>>, Failure> {
    if matches!(settings.source, SourceSettings::SnapshotDir(_)) {
        return Ok(None);
    }
    let signing = Signing::open(data_dir, settings.access.shared_key.clone()).map_err(Failure::runtime)?;
    let tokens = TokenStore::open(data_dir, signing).map_err(Failure::runtime)?;
    Ok(Some(Arc::new(tokens)))
}

fn open_feed(data_dir: &DataDir, source: Source, listeners: Listeners) -> Result<Feed, Failure> {
    let highest = match source {
        Source::SnapshotDir(_) => Some(Highest::open(data_dir).map_err(Failure::runtime)?),
        Source::Manifests(_) | Source::Flags(_) => None,
    };
    Ok(Feed::new(source, highest, listeners))
}

fn open_source(
    settings: &ServeSettings,
    tokens: Option<&Arc<TokenStore>>,
    ledger: (LedgerInUse, Option<SharedRecords>),
) -> Result<Source, Failure> {
    match (&settings.source, tokens) {
        (SourceSettings::SnapshotDir(dir), _) => Ok(Source::SnapshotDir(SnapshotDir::new(dir.clone()))),
        (SourceSettings::Flags(upstream), Some(tokens)) => {
            Ok(Source::Flags(Flags::new(upstream.clone(), tokens.clone())))
        }
        (SourceSettings::Manifests { dir, tokens_dir }, Some(tokens)) => {
            let minter = Minter::new(tokens.clone(), tokens_dir.clone(), base_url(settings.listen.listen));
            Ok(Source::Manifests(ManifestFolder::new(dir.clone(), tokens.clone(), minter, ledger)))
        }
        (_, None) => Err(Failure::Runtime("token store was not opened".to_owned())),
    }
}

/// How clients on this machine reach a listener.
pub fn base_url(listen: SocketAddr) -> String {
    let host = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::from([127, 0, 0, 1]),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::from(std::net::Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    format!("http://{}", SocketAddr::new(host, listen.port()))
}

fn data_plane(settings: &ServeSettings, told_log: Option<bool>) -> DataPlane {
    let bounds = &settings.bounds;
    DataPlane {
        listen: settings.listen.listen,
        threads: bounds.threads,
        max_connections: bounds.max_connections,
        max_body_bytes: bounds.max_body_bytes,
        body_budget_bytes: bounds.body_budget_bytes,
        request_log: bounds.request_log.or(told_log).unwrap_or(true),
    }
}

/// Outside a cluster the flat key; in one, only the operator, which names the pod.
fn admin_access(settings: &ServeSettings) -> Access {
    let AccessSettings { admin_key, pod_uid, .. } = &settings.access;
    let in_cluster = matches!(settings.source, SourceSettings::SnapshotDir(_));
    Access { key: admin_key.clone(), pod_uid: pod_uid.clone().filter(|_| in_cluster) }
}

fn start_admin(listener: TcpListener, data_dir: &DataDir, admin: &Arc<Admin>) -> Result<SocketAddr, Failure> {
    let address = listener.local_addr().map_err(Failure::runtime)?;
    let listener = tokio::net::TcpListener::from_std(listener).map_err(Failure::runtime)?;
    tokio::spawn(admin::serve(listener, admin::router(admin, false)));
    match admin::bind_socket(data_dir) {
        Ok(socket) => {
            tokio::spawn(admin::serve(socket, admin::router(admin, true)));
        }
        Err(error) => {
            let path = data_dir.file(admin::SOCKET_FILE);
            tracing::warn!(
                "no admin socket at {}: {error}; the tokens commands will not work",
                path.display()
            );
        }
    }
    Ok(address)
}

/// Lets open requests go on for `drain`, settles all, and closes the ledger.
async fn end(running: Running, drain: Duration, ledger: &Ledger) -> Result<(), Failure> {
    running.begin_drain();
    let drained = tokio::task::spawn_blocking(move || running.join(drain)).await.map_err(Failure::runtime)?;
    if drained.cut > 0 {
        tracing::warn!("{} requests were cut at the end of the drain time", drained.cut);
    }
    ledger.close().map_err(Failure::runtime)
}

fn bind(address: SocketAddr) -> Result<TcpListener, Failure> {
    let listener =
        TcpListener::bind(address).map_err(|error| Failure::Runtime(not_bound(address, &error)))?;
    listener.set_nonblocking(true).map_err(Failure::runtime)?;
    Ok(listener)
}

/// Why an address cannot be listened on, and what to do.
pub fn not_bound(address: SocketAddr, error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::AddrInUse => format!("{address} is in use by another program; give another port"),
        io::ErrorKind::PermissionDenied => format!("{address} needs rights that this user does not have"),
        _ => format!("{address} cannot be listened on: {error}"),
    }
}

/// The signals that end the process.
pub(crate) struct Stop {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
}

impl Stop {
    pub(crate) fn new() -> Result<Self, Failure> {
        let on = |kind| signal(kind).map_err(Failure::runtime);
        Ok(Self { terminate: on(SignalKind::terminate())?, interrupt: on(SignalKind::interrupt())? })
    }

    pub(crate) async fn wait(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}
