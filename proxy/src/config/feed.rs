//! Feeds what is served: loads the source, watches it, and publishes what changed.
//!
//! Looks at metadata twenty times a second on the admin thread. A source that cannot be read keeps what is
//! served and is reported; a snapshot older than one served before is refused.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use la_core::budget::{Covering, Limits, check_budgets};
use la_core::snapshot::Snapshot;
use tokio::sync::watch;

use super::fingerprint::Fingerprint;
use super::generation::{GenerationError, Highest};
use super::live::{Live, LiveCell};
use super::{FromManifest, Generations, LoadError, Loaded, Source};
use crate::credentials::{Homes, Logins, TORN_READS, candidates, folders};
use crate::ledger::Ledger;
use crate::observe::metrics::Metrics;

const LOOK_EVERY: Duration = Duration::from_millis(50);

/// When to look again at a change that may not be complete.
const SETTLE: Duration = Duration::from_millis(20);

/// How often a source that could not be read is tried again without a change, in looks.
const RETRY_AFTER_LOOKS: u32 = 20;

/// How often the ledger is told who still has a token, in seconds.
const RETAIN_EVERY_SECONDS: i64 = 3_600;

/// Loads and watches one source.
pub struct Feed {
    source: Source,
    highest: Option<Highest>,
    cell: Arc<LiveCell>,
    listeners: Listeners,
    retained_at: i64,
    state: Arc<FeedState>,
    /// What is served, without credentials, to build it anew when a login changes.
    served: Option<Loaded>,
    seen: Seen,
    failed_looks: Option<u32>,
    /// A change that was seen once and is taken when the next look still finds it.
    unsettled: Option<u64>,
    homes: Arc<Homes>,
    /// How often in a row a login was found that another seemed to be writing.
    torn_reads: u32,
}

/// Who is told of every new snapshot.
pub struct Listeners {
    pub ledger: Arc<Ledger>,
    pub metrics: Arc<Metrics>,
}

/// What others see of the feed.
#[derive(Debug, Default)]
pub struct FeedState {
    inner: Mutex<Told>,
}

#[derive(Debug, Default, Clone)]
struct Told {
    loaded: bool,
    faults: Vec<String>,
    problem: Vec<String>,
    manifest: FromManifest,
}

#[derive(Debug, Default, PartialEq, Eq, Clone, Copy)]
struct Seen {
    source: u64,
    logins: u64,
}

impl FeedState {
    /// Whether anything was ever served.
    pub fn is_loaded(&self) -> bool {
        self.read().loaded
    }

    /// Objects left out, and why the newest version of the source is not served, one sentence each.
    pub fn faults(&self) -> Vec<String> {
        let told = self.read();
        let mut faults = told.problem;
        for fault in told.faults {
            if !faults.contains(&fault) {
                faults.push(fault);
            }
        }
        faults
    }

    /// What a RouterProxy says of this process.
    pub fn from_manifest(&self) -> FromManifest {
        self.read().manifest
    }

    fn read(&self) -> Told {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn tell(&self, told: Told) {
        *self.inner.lock().unwrap_or_else(PoisonError::into_inner) = told;
    }
}

impl Feed {
    /// A feed that serves nothing yet. `highest` is for sources that bring generations of their own.
    pub fn new(source: Source, highest: Option<Highest>, listeners: Listeners) -> Self {
        let nothing = Live::build(Snapshot::empty("-/-"), &Default::default(), &|_| Err(String::new()));
        Self {
            source,
            highest,
            cell: LiveCell::new(nothing),
            listeners,
            retained_at: 0,
            state: Arc::new(FeedState::default()),
            served: None,
            seen: Seen::default(),
            failed_looks: None,
            unsettled: None,
            homes: Arc::default(),
            torn_reads: 0,
        }
    }

    pub fn cell(&self) -> Arc<LiveCell> {
        self.cell.clone()
    }

    pub fn state(&self) -> Arc<FeedState> {
        self.state.clone()
    }

    /// The folders of logins, for whoever renews them.
    pub fn homes(&self) -> Arc<Homes> {
        self.homes.clone()
    }

    /// The source, for what only it can do.
    pub fn source(&self) -> &Source {
        &self.source
    }

    /// Loads for the first time, at `now` (Unix seconds).
    ///
    /// # Errors
    /// Every fault of the source; the feed can go on and look again.
    pub fn load(&mut self, now: i64) -> Result<(), LoadError> {
        self.seen.source = self.source.fingerprint();
        let loaded = self.source.load(now).and_then(|loaded| self.take(loaded, now));
        match loaded {
            Ok(()) => {
                self.failed_looks = None;
                Ok(())
            }
            Err(error) => {
                self.failed_looks = Some(0);
                let told = Told { problem: error.0.clone(), ..self.state.read() };
                self.state.tell(told);
                Err(error)
            }
        }
    }

    /// Serves what was renewed or exchanged since the source was loaded.
    pub fn catch_up(&mut self) {
        let found = self.logins();
        if found != self.seen.logins {
            self.read_logins(found);
        }
    }

    /// Watches the source for the rest of the process.
    pub async fn run(mut self, now: fn() -> i64) {
        let (mut changes, mut logins) = (self.source.changes(), Some(self.homes.subscribe()));
        loop {
            let pause = if self.unsettled.is_some() { SETTLE } else { LOOK_EVERY };
            let either = async {
                tokio::select! { () = next(&mut changes) => {}, () = next(&mut logins) => {} }
            };
            // The timeout paces the looks at files.
            let _ = tokio::time::timeout(pause, either).await;
            self.look(now());
        }
    }

    /// Looks once, and loads what changed.
    fn look(&mut self, now: i64) {
        let found = Seen { source: self.source.fingerprint(), logins: self.logins() };
        let retry = self.failed_looks.is_some_and(|looks| looks >= RETRY_AFTER_LOOKS);
        self.failed_looks = self.failed_looks.map(|looks| looks.saturating_add(1));
        let changed = found.source != self.seen.source;
        if changed
            && self.source.is_written_in_steps()
            && self.unsettled.replace(found.source) != Some(found.source)
        {
            return;
        }
        self.unsettled = None;
        if changed || retry || self.source.is_due(now) {
            let before = self.state.faults();
            // What is wrong is in the state, and is said once.
            let _ = self.load(now);
            let after = self.state.faults();
            for fault in after.iter().filter(|fault| !before.contains(fault)) {
                tracing::warn!("configuration: {fault}");
            }
        } else if found.logins != self.seen.logins {
            self.read_logins(found.logins);
        }
        self.retain(now);
    }

    /// Serves logins that have changed. One that another seems to be writing is looked at again first.
    fn read_logins(&mut self, found: u64) {
        let Some(served) = &self.served else { return };
        let logins = self.homes.read(&served.snapshot);
        if logins.is_torn && self.torn_reads < TORN_READS {
            self.torn_reads += 1;
            return;
        }
        tracing::info!("a credential has changed and is read again");
        self.cell.publish(build(served, &logins));
        self.torn_reads = 0;
        self.seen.logins = found;
    }

    fn take(&mut self, mut loaded: Loaded, now: i64) -> Result<(), LoadError> {
        match (loaded.generations, &mut self.highest) {
            (Generations::Theirs, Some(highest)) => {
                match highest.accept(loaded.snapshot.order()) {
                    Ok(()) => {}
                    Err(error @ GenerationError::Older { .. }) => {
                        return Err(LoadError(vec![error.to_string()]));
                    }
                    // It may revoke a token: better served than remembered.
                    Err(error) => loaded.faults.push(error.to_string()),
                }
            }
            (Generations::Theirs, None) => {}
            (Generations::Ours, _) => {
                let before = self.served.as_ref().map(|served| &served.snapshot);
                let same = before.is_some_and(|before| before.serves_same_as(&loaded.snapshot));
                let last = before.map_or(0, |before| before.generation);
                loaded.snapshot.generation = if same { last } else { last.saturating_add(1) };
            }
        }
        let unchanged = self.served.as_ref().is_some_and(|served| {
            served.snapshot == loaded.snapshot && served.credentials == loaded.credentials
        });
        loaded.faults.extend(objections(&self.listeners.ledger, &loaded.snapshot));
        // Before anything is served, or told to be.
        self.listeners.ledger.expect(loaded.snapshot.ledger.as_ref(), now);
        if !unchanged {
            self.cell.publish(build(&loaded, &self.homes.read(&loaded.snapshot)));
            let (epoch, generation) = loaded.snapshot.order();
            let (tokens, providers) = (loaded.snapshot.tokens.len(), loaded.snapshot.providers.len());
            tracing::info!(
                snapshot.epoch = epoch,
                snapshot.generation = generation,
                "serving {tokens} tokens over {providers} providers"
            );
        }
        let faults: Vec<String> = loaded.faults.iter().chain(self.cell.load().faults()).cloned().collect();
        self.listeners.metrics.snapshot_loaded(loaded.snapshot.generation, faults.len());
        let told = Told { loaded: true, faults, problem: Vec::new(), manifest: loaded.told };
        self.state.tell(told);
        self.served = Some(loaded);
        self.seen.logins = self.logins();
        self.retained_at = 0;
        Ok(())
    }

    /// Lets the ledger forget whom nothing has named for long.
    fn retain(&mut self, now: i64) {
        if now.saturating_sub(self.retained_at) < RETAIN_EVERY_SECONDS {
            return;
        }
        if let Some(served) = &self.served {
            self.retained_at = now;
            let subjects = served.snapshot.subjects().into_iter().cloned().collect();
            self.listeners.ledger.retain(&subjects, now);
        }
    }

    /// The state of every login that is read from a folder.
    fn logins(&self) -> u64 {
        let mut print = Fingerprint::default();
        for folder in self.served.iter().flat_map(|served| folders(&served.snapshot)) {
            for file in candidates(folder.path) {
                print.add(&file);
            }
        }
        print.value() ^ self.homes.changes()
    }
}

fn build(loaded: &Loaded, logins: &Logins) -> Live {
    Live::build(loaded.snapshot.clone(), &loaded.credentials, &|key| logins.of(key))
}

/// Limits that the ledger cannot keep to: it refuses every request under them.
fn objections(ledger: &Ledger, snapshot: &Snapshot) -> Vec<String> {
    let tokens = snapshot.tokens.iter().filter_map(|token| {
        let limits = Limits::check(&token.limits).ok()?;
        ledger.objection(&[Covering::of(&token.subject, &limits)])
    });
    let pools = snapshot.pools.iter().filter_map(|pool| {
        let budgets = check_budgets(&pool.budgets).ok()?;
        ledger.objection(&[Covering::pool(&pool.subject, &budgets)])
    });
    tokens.chain(pools).collect()
}

/// The next change of what may never change again.
async fn next(changes: &mut Option<watch::Receiver<u64>>) {
    let is_over = match changes {
        Some(changes) => changes.changed().await.is_err(),
        None => true,
    };
    if is_over {
        std::future::pending::<()>().await;
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use la_core::report::AccountState;

    use super::super::Flags;
    use super::super::snapshot_dir::SnapshotDir;
    use super::*;
    use crate::data_dir::DataDir;
    use crate::settings::{LoginDirectory, UpstreamSettings};
    use crate::tokens::{Signing, TokenStore};

    fn listeners() -> Listeners {
        Listeners { ledger: Ledger::memory(), metrics: Arc::new(Metrics::new()) }
    }

    fn put(folder: &Path, generation: u64) {
        let snapshot = Snapshot { generation, ..Snapshot::empty("platform/gateway") };
        std::fs::write(folder.join("snapshot.json"), serde_json::to_vec(&snapshot).unwrap()).unwrap();
        std::fs::write(folder.join("credentials.json"), "{}").unwrap();
    }

    #[test]
    fn newer_snapshot_is_served_and_older_or_unreadable_one_is_reported() {
        let (folder, data) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let data_dir = DataDir::open(data.path()).unwrap();
        let source = Source::SnapshotDir(SnapshotDir::new(folder.path().to_owned()));
        let mut feed = Feed::new(source, Highest::open(&data_dir).ok(), listeners());
        assert!(feed.load(0).is_err());
        assert!(!feed.state().is_loaded());
        put(folder.path(), 5);
        feed.look(0);
        assert_eq!(feed.cell().load().snapshot().generation, 5);
        put(folder.path(), 4);
        feed.look(0);
        assert_eq!(feed.cell().load().snapshot().generation, 5);
        assert!(
            feed.state().faults()[0].contains("4 of epoch 0 is older than 5"),
            "{:?}",
            feed.state().faults()
        );
        std::fs::write(folder.path().join("snapshot.json"), "{").unwrap();
        feed.look(0);
        assert!(feed.state().faults()[0].contains("is not readable"), "{:?}", feed.state().faults());
        put(folder.path(), 6);
        feed.look(0);
        assert_eq!(feed.cell().load().snapshot().generation, 6);
        assert_eq!(feed.state().faults(), Vec::<String>::new());
    }

    #[test]
    fn login_that_another_is_writing_is_looked_at_again_before_it_is_taken_for_damaged() {
        let (data, home) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let login = home.path().join(".credentials.json");
        std::fs::write(&login, r#"{"accessToken":"sk-ant-oat01-one"}"#).unwrap();
        let data_dir = DataDir::open(data.path()).unwrap();
        let signing = Signing::open(&data_dir, None).unwrap();
        let tokens = Arc::new(TokenStore::open(&data_dir, signing).unwrap());
        let primary = LoginDirectory { account: "primary".to_owned(), path: home.path().to_owned() };
        let upstream = UpstreamSettings {
            base_url: "http://127.0.0.1:9".to_owned(),
            logins: vec![primary],
            setup_token: None,
            api_key: None,
            identity: None,
        };
        let source = Source::Flags(Flags::new(upstream, tokens));
        let mut feed = Feed::new(source, None, listeners());
        feed.load(0).unwrap();
        let state = |feed: &Feed| feed.cell().load().accounts(0)[0].state;
        std::fs::write(&login, r#"{"accessTo"#).unwrap();
        for look in 1..=TORN_READS {
            feed.look(0);
            assert_eq!(state(&feed), AccountState::Ready, "look {look}");
        }
        feed.look(0);
        assert_eq!(state(&feed), AccountState::Missing);
        std::fs::write(&login, r#"{"accessToken":"sk-ant-oat01-two"}"#).unwrap();
        feed.look(0);
        assert_eq!(state(&feed), AccountState::Ready);
    }
}
