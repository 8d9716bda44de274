//! The snapshot in the form that requests are served from, and the cell it is swapped in.
//!
//! [`Live::build`] does all work that does not depend on a request: globs are compiled, addresses taken
//! apart, credentials turned into header values. A request loads one [`Live`] and keeps it to its end.
//! What a vendor said about a credential (a 401) is kept beside it, and carried over to the next
//! snapshot for as long as the credential is the same; how an account fares, for as long as it has its name.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use la_core::account::AccountId;
use la_core::account::choice::Strategy;
use la_core::account::health::Policy;
use la_core::credential::{Credential, Credentials};
use la_core::id::TokenId;
use la_core::price;
use la_core::refusals::Refusals;
use la_core::report::AccountReport;
use la_core::snapshot::{self, Backend, CredentialSource, Snapshot, Timeouts};
use tokio::sync::watch;

use crate::upstream::endpoint::Endpoint;

mod accounts;
mod ahead;
mod routes;
mod tokens;

use accounts::prepare_account;
pub use accounts::{AccountEntry, Fitness, Proof, Renewal, RenewalStage, Wishes};
use ahead::Ahead;
pub use ahead::TooMany;
use routes::route_entries;
pub use routes::{CandidateEntry, ModelName, RouteEntry};
use tokens::token_entries;
pub use tokens::{Pool, Standing, TokenEntry};

/// Everything that requests are served from.
#[derive(Clone)]
pub struct Live {
    snapshot: Arc<Snapshot>,
    tokens: HashMap<TokenId, Arc<TokenEntry>>,
    providers: Vec<Arc<ProviderEntry>>,
    routes: Vec<RouteEntry>,
    faults: Vec<String>,
    serial: u64,
}

/// One provider, ready to be called.
pub struct ProviderEntry {
    /// Its name.
    pub name: Arc<str>,
    /// Where its requests go.
    pub endpoint: Endpoint,
    /// How long each phase may take.
    pub timeouts: Timeouts,
    /// What its models cost, and how much they take.
    pub prices: price::Book,
    /// Who pays.
    pub accounts: Vec<Arc<AccountEntry>>,
    /// How a new session gets its account.
    pub selection: Strategy,
    /// When its accounts rest, and for how long.
    pub health: Policy,
    /// Requests without a session that were given an account.
    turns: AtomicU64,
}

/// The one place where a new [`Live`] is put for every thread to find.
pub struct LiveCell {
    current: ArcSwap<Live>,
    changes: watch::Sender<u64>,
    /// Held while what is served is replaced.
    ahead: Mutex<Ahead>,
}

impl Live {
    /// Prepares a checked snapshot. Never fails: what cannot be used is left out and told by [`Live::faults`].
    /// `own` gives the credential of an account, by its key, that this process gets by itself.
    pub fn build(
        snapshot: Snapshot,
        credentials: &Credentials,
        own: &dyn Fn(&str) -> Result<Credential, String>,
    ) -> Self {
        let mut faults = Vec::new();
        let mut providers: Vec<Arc<ProviderEntry>> = Vec::new();
        for provider in &snapshot.providers {
            match prepare_provider(provider, credentials, own) {
                Ok(entry) => providers.push(Arc::new(entry)),
                Err(message) => faults.push(format!("provider {}: {message}", provider.name)),
            }
        }
        let routes = route_entries(&snapshot, &providers, &mut faults);
        let tokens = token_entries(&snapshot, &mut faults);
        Self { snapshot: Arc::new(snapshot), tokens, providers, routes, faults, serial: 0 }
    }

    /// The snapshot this was built from.
    pub fn snapshot(&self) -> &Snapshot {
        &self.snapshot
    }

    /// Which publication this is; differs between any two.
    pub fn serial(&self) -> u64 {
        self.serial
    }

    /// What could not be used, one sentence each.
    pub fn faults(&self) -> &[String] {
        &self.faults
    }

    /// The minted text called `id`.
    pub fn token(&self, id: &TokenId) -> Option<&Arc<TokenEntry>> {
        self.tokens.get(id)
    }

    /// Every minted text.
    pub fn tokens(&self) -> impl Iterator<Item = &Arc<TokenEntry>> {
        self.tokens.values()
    }

    /// The first route that takes `model`.
    pub fn route_for(&self, model: &str) -> Option<&RouteEntry> {
        self.routes.iter().find(|route| route.takes(model))
    }

    /// The first route: the one that lists models.
    pub fn first_route(&self) -> Option<&RouteEntry> {
        self.routes.first()
    }

    /// Every route, the first match first.
    pub fn routes(&self) -> &[RouteEntry] {
        &self.routes
    }

    /// The provider at a place in [`Live::providers`].
    pub fn provider(&self, at: usize) -> Option<&Arc<ProviderEntry>> {
        self.providers.get(at)
    }

    /// Every provider that can be called.
    pub fn providers(&self) -> &[Arc<ProviderEntry>] {
        &self.providers
    }

    /// The state of every account at `now` (Unix seconds).
    pub fn accounts(&self, now: i64) -> Vec<AccountReport> {
        self.providers
            .iter()
            .flat_map(|provider| &provider.accounts)
            .map(|account| account.report(now))
            .collect()
    }

    /// The account of a provider.
    pub fn account(&self, provider: &str, name: &str) -> Option<&Arc<AccountEntry>> {
        let mut accounts = self.providers.iter().flat_map(|provider| &provider.accounts);
        accounts.find(|account| *account.provider == *provider && *account.name == *name)
    }

    /// Forgets every session of an account, at every replica, and says how many there were here.
    pub fn forget_sessions(&self, account: &AccountEntry) -> usize {
        let sessions = self.routes.iter().filter_map(|route| route.sessions.as_ref());
        // Routes that remember for the same time share a table: it is empty the second time.
        sessions.map(|sessions| sessions.clear_account(account.known.id)).sum()
    }

    /// Takes over what the process knows of accounts and sessions, and what was learned about credentials that
    /// have not changed.
    fn inherit(&mut self, before: &Self) {
        self.serial = before.serial.wrapping_add(1);
        // Nobody else has them yet.
        let providers = self.providers.iter_mut().filter_map(Arc::get_mut);
        for account in providers.flat_map(|provider| &mut provider.accounts).filter_map(Arc::get_mut) {
            let Some(old) = before.account(&account.provider, &account.name) else { continue };
            account.known = Arc::clone(&old.known);
            if old.credential == account.credential {
                account.refused.store(old.refused.load(Ordering::Relaxed), Ordering::Relaxed);
            } else {
                account.known.credential_changed();
            }
            // Elsewhere the snapshot says whether anybody renews it.
            if account.is_own {
                account.set_renewal(old.renewal());
            }
        }
        for sessions in self.routes.iter_mut().filter_map(|route| route.sessions.as_mut()) {
            let mut known = before.routes.iter().filter_map(|route| route.sessions.as_ref());
            if let Some(same) = known.find(|known| known.ttl_seconds == sessions.ttl_seconds) {
                *sessions = Arc::clone(same);
            }
        }
    }
}

impl ProviderEntry {
    /// Its account with this id.
    pub fn account(&self, id: AccountId) -> Option<&Arc<AccountEntry>> {
        self.accounts.iter().find(|account| account.known.id == id)
    }

    /// The number of a request without a session.
    pub fn next_turn(&self) -> u64 {
        self.turns.fetch_add(1, Ordering::Relaxed)
    }
}

impl LiveCell {
    /// A cell that holds `live`.
    pub fn new(live: Live) -> Arc<Self> {
        let (current, changes, ahead) =
            (ArcSwap::from_pointee(live), watch::Sender::new(0), Mutex::default());
        Arc::new(Self { current, changes, ahead })
    }

    /// What is served now.
    pub fn load(&self) -> Arc<Live> {
        self.current.load_full()
    }

    /// Serves `live` from now on, but for what [`LiveCell::refuse`] was told of later snapshots.
    pub fn publish(&self, mut live: Live) {
        let mut ahead = self.ahead.lock().unwrap_or_else(PoisonError::into_inner);
        live.inherit(&self.current.load());
        ahead.reached(live.snapshot.order());
        ahead.take_from(&mut live.tokens);
        self.current.store(Arc::new(live));
        self.tell();
    }

    /// Refuses tokens at once, and until a snapshot is served that is at least as late as the one that was named;
    /// says of how many ids that is news. Nothing can be allowed by it.
    ///
    /// # Errors
    /// When too many ids wait for their snapshots; then it changes nothing.
    pub fn refuse(&self, refusals: &Refusals) -> Result<usize, TooMany> {
        let mut ahead = self.ahead.lock().unwrap_or_else(PoisonError::into_inner);
        let before = self.current.load_full();
        let news = ahead.add(refusals, before.snapshot.order())?;
        if news > 0 {
            let mut live = Live { serial: before.serial.wrapping_add(1), ..(*before).clone() };
            ahead.take_from(&mut live.tokens);
            self.current.store(Arc::new(live));
            self.tell();
        }
        Ok(news)
    }

    /// Notes that the vendor answered 401 to the credential of `account`. Lasts until it changes.
    pub fn mark_unauthorized(&self, account: &AccountEntry) {
        if account.refused.swap(true, Ordering::Relaxed) {
            return;
        }
        tracing::warn!(
            provider.name = %account.provider,
            account.name = %account.name,
            "vendor answered 401 to account {}/{}; it is passed over until its credential changes",
            account.provider,
            account.name,
        );
        let live = self.current.load();
        let entry = live.account(&account.provider, &account.name);
        if let Some(entry) = entry.filter(|entry| entry.credential == account.credential) {
            entry.refused.store(true, Ordering::Relaxed);
        }
        self.tell();
    }

    /// The same account with another credential than `account` has, as soon as it is served; nothing when
    /// `patience` is over, or nobody will renew it any more.
    pub async fn renewed(&self, account: &AccountEntry, patience: Duration) -> Option<Arc<AccountEntry>> {
        let mut changes = self.subscribe();
        let renewal = async {
            loop {
                changes.borrow_and_update();
                let entry = self.load().account(&account.provider, &account.name).cloned()?;
                if entry.credential != account.credential && entry.proof().is_some() {
                    return Some(entry);
                }
                if !entry.is_renewable() {
                    return None;
                }
                changes.changed().await.ok()?;
            }
        };
        tokio::time::timeout(patience, renewal).await.ok().flatten()
    }

    /// Notes how the renewal of an account stands, for as long as an account of that name is served.
    pub fn set_renewal(&self, provider: &str, name: &str, renewal: Renewal) {
        let live = self.load();
        let Some(account) = live.account(provider, name) else { return };
        if account.renewal() != renewal {
            account.set_renewal(renewal);
            self.tell();
        }
    }

    /// Sees a new number after every change.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    fn tell(&self) {
        self.changes.send_modify(|number| *number = number.wrapping_add(1));
    }
}

fn prepare_provider(
    provider: &snapshot::Provider,
    credentials: &Credentials,
    own: &dyn Fn(&str) -> Result<Credential, String>,
) -> Result<ProviderEntry, String> {
    let Backend::Anthropic { base_url, accounts, selection } = &provider.backend;
    let endpoint = Endpoint::parse(base_url).map_err(|e| format!("base URL {base_url:?}: {e}"))?;
    let name: Arc<str> = provider.name.as_str().into();
    let accounts = accounts.iter().map(|account| {
        let key = snapshot::credential_key(&provider.name, &account.name);
        let credential = match &account.credential {
            CredentialSource::Published => {
                credentials.get(&key).cloned().ok_or_else(|| "credential is missing".to_owned())
            }
            CredentialSource::Directory { .. } | CredentialSource::Identity { .. } => own(&key),
        };
        Arc::new(prepare_account(name.clone(), account, credential))
    });
    let accounts = accounts.collect();
    let prices = price::Book::with(&provider.pricing).map_err(|wrong| {
        let each: Vec<_> = wrong.iter().map(ToString::to_string).collect();
        format!("pricing: {}", each.join("; "))
    })?;
    Ok(ProviderEntry {
        name,
        endpoint,
        timeouts: provider.timeouts,
        prices,
        accounts,
        selection: *selection,
        health: provider.health.clone(),
        turns: AtomicU64::new(0),
    })
}

#[cfg(test)]
mod tests;
