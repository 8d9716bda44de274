//! The snapshot in the form that requests are served from, and the cell it is swapped in.
//!
//! [`Live::build`] does all work that does not depend on a request: globs are compiled, addresses taken
//! apart, credentials turned into header values. A request loads one [`Live`] and keeps it to its end.
//! What a vendor said about a credential (a 401) is kept beside it, and carried over to the next
//! snapshot for as long as the credential is the same.

use std::collections::HashMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use globset::{Glob, GlobSet, GlobSetBuilder};
use http::HeaderValue;
use la_core::amount::Unit;
use la_core::budget::{Budget, Covering, Enforcement, LimitFault, Limits, LimitsSpec, Window, check_budgets};
use la_core::credential::{Credential, Credentials};
use la_core::id::{Subject, TokenId};
use la_core::oauth::Fingerprint;
use la_core::price;
use la_core::report::{AccountReport, AccountState};
use la_core::secret::Secret;
use la_core::snapshot::{self, Backend, CredentialSource, Snapshot, Timeouts, TokenRecord};
use tokio::sync::watch;

use crate::credentials::Folder;
use crate::upstream::endpoint::Endpoint;

/// Everything that requests are served from.
pub struct Live {
    snapshot: Snapshot,
    tokens: HashMap<TokenId, Arc<TokenEntry>>,
    providers: Vec<Arc<ProviderEntry>>,
    routes: Vec<RouteEntry>,
    faults: Vec<String>,
    serial: u64,
}

/// One minted text, with what its record says.
#[derive(Debug)]
pub struct TokenEntry {
    /// Whom its budgets count on.
    pub subject: Subject,
    /// Its `jti`.
    pub id: TokenId,
    /// From when it is valid, in Unix seconds.
    pub not_before: i64,
    /// Until when it is valid, exclusive, in Unix seconds.
    pub not_after: i64,
    /// Whether it may be used at all.
    pub standing: Standing,
    /// What it may use.
    pub limits: Arc<Limits>,
    /// What it may use together with others.
    pub pools: Box<[Arc<Pool>]>,
    /// At which percentages of a budget its owner is told.
    pub thresholds: Box<[u8]>,
}

/// Budgets that tokens share.
#[derive(Debug)]
pub struct Pool {
    /// Whom they count on.
    pub subject: Subject,
    /// The budgets.
    pub budgets: Vec<Budget>,
    /// At which percentages of a budget its owner is told.
    pub thresholds: Box<[u8]>,
}

/// Whether a token may be used, its times aside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// It may.
    Good,
    /// This text was revoked.
    Revoked,
    /// The owner has stopped the token for now.
    Suspended,
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
    /// In the order in which they are tried.
    pub accounts: Vec<Arc<AccountEntry>>,
}

/// One account and what is known of its credential.
pub struct AccountEntry {
    /// The provider's name.
    pub provider: Arc<str>,
    /// Its own name.
    pub name: Arc<str>,
    credential: Result<Credential, String>,
    proof: Option<Proof>,
    refused: AtomicBool,
    /// Whether it is read from a folder, where this process may renew it.
    in_folder: bool,
    renewal: Mutex<Renewal>,
}

/// How the renewal of a credential stands. Carried over from one snapshot to the next by the account's name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Renewal {
    pub stage: RenewalStage,
    /// When it was renewed last, in Unix seconds.
    pub last: Option<i64>,
    /// What there is to say of it, such as why it waits; no part of a credential.
    pub message: String,
}

/// Where the renewal of a credential is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum RenewalStage {
    /// Nobody that is known here renews it.
    #[default]
    Nobody,
    /// It will be renewed before its end, or when the vendor refuses it.
    Planned,
    /// A new one has been asked for.
    Underway,
    /// It was renewed and is served, but is not stored so far and would be lost with the process.
    Unstored,
    /// The vendor gives no new one until somebody logs in.
    LoginRequired,
}

/// A credential as it goes out.
#[derive(Clone)]
pub enum Proof {
    /// The value of `authorization`.
    Bearer(HeaderValue),
    /// The value of `x-api-key`.
    ApiKey(HeaderValue),
}

struct RouteEntry {
    models: Option<GlobSet>,
    provider: usize,
}

/// The one place where a new [`Live`] is put for every thread to find.
pub struct LiveCell {
    current: ArcSwap<Live>,
    changes: watch::Sender<u64>,
}

impl Live {
    /// Prepares a checked snapshot. Never fails: what cannot be used is left out and told by [`Live::faults`].
    pub fn build(
        snapshot: Snapshot,
        credentials: &Credentials,
        read_login: &dyn Fn(&Folder<'_>) -> Result<Credential, String>,
    ) -> Self {
        let mut faults = Vec::new();
        let mut providers: Vec<Arc<ProviderEntry>> = Vec::new();
        for provider in &snapshot.providers {
            match prepare_provider(provider, credentials, read_login) {
                Ok(entry) => providers.push(Arc::new(entry)),
                Err(message) => faults.push(format!("provider {}: {message}", provider.name)),
            }
        }
        let mut routes = Vec::new();
        for (at, route) in snapshot.routes.iter().enumerate() {
            let provider = route
                .candidates
                .iter()
                .min_by_key(|candidate| candidate.priority)
                .map(|c| c.provider.as_str());
            let provider = provider.and_then(|name| providers.iter().position(|entry| *entry.name == *name));
            match (provider, globs(&route.models)) {
                (Some(provider), Ok(models)) => routes.push(RouteEntry { models, provider }),
                (None, _) => faults.push(format!("route {at}: its provider cannot be used")),
                (_, Err(e)) => faults.push(format!("route {at}: models: {e}")),
            }
        }
        let tokens = token_entries(&snapshot, &mut faults);
        Self { snapshot, tokens, providers, routes, faults, serial: 0 }
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

    /// The provider of the first route that takes `model`.
    pub fn provider_for(&self, model: &str) -> Option<&Arc<ProviderEntry>> {
        let route =
            self.routes.iter().find(|route| route.models.as_ref().is_none_or(|set| set.is_match(model)))?;
        self.providers.get(route.provider)
    }

    /// The provider of the first route: the one that lists models.
    pub fn first_provider(&self) -> Option<&Arc<ProviderEntry>> {
        self.providers.get(self.routes.first()?.provider)
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

    /// Takes over what was learned about credentials that have not changed, and how their renewal stands.
    fn inherit(&mut self, before: &Self) {
        self.serial = before.serial.wrapping_add(1);
        for account in self.providers.iter().flat_map(|provider| &provider.accounts) {
            let Some(old) = before.account(&account.provider, &account.name) else { continue };
            if old.credential == account.credential {
                account.refused.store(old.refused.load(Ordering::Relaxed), Ordering::Relaxed);
            }
            // Elsewhere the snapshot says whether anybody renews it.
            if account.in_folder {
                account.set_renewal(old.renewal());
            }
        }
    }
}

impl TokenEntry {
    /// Most requests in the subject's life.
    pub fn max_requests(&self) -> Option<u64> {
        let is_it = |budget: &&Budget| budget.unit == Unit::Requests && budget.window == Window::Lifetime;
        let hard = self.limits.budgets.iter().filter(is_it).filter(|b| b.enforcement == Enforcement::Hard);
        hard.map(|budget| budget.limit).min()
    }

    /// Whose limits cover its requests: its own first, then every pool's.
    pub fn covering(&self) -> Vec<Covering<'_>> {
        let pools = self.pools.iter().map(|pool| Covering::pool(&pool.subject, &pool.budgets));
        std::iter::once(Covering::of(&self.subject, &self.limits)).chain(pools).collect()
    }
}

impl AccountEntry {
    /// Whether it can serve at `now` (Unix seconds).
    pub fn state(&self, now: i64) -> AccountState {
        match &self.credential {
            Err(_) => AccountState::Missing,
            Ok(_) if self.proof.is_none() => AccountState::Missing,
            Ok(credential) if credential.is_expired(now) => self.or_renewal(AccountState::Expired),
            Ok(_) if self.refused.load(Ordering::Relaxed) => self.or_renewal(AccountState::Unauthorized),
            Ok(_) => AccountState::Ready,
        }
    }

    /// Of a credential that cannot serve, its renewal says more.
    fn or_renewal(&self, state: AccountState) -> AccountState {
        match self.renewal().stage {
            RenewalStage::Nobody | RenewalStage::Planned | RenewalStage::Unstored => state,
            RenewalStage::Underway => AccountState::Renewing,
            RenewalStage::LoginRequired => AccountState::LoginRequired,
        }
    }

    /// Whether somebody will renew its credential, so that waiting for another one makes sense.
    pub fn is_renewable(&self) -> bool {
        matches!(self.renewal().stage, RenewalStage::Planned | RenewalStage::Underway)
    }

    /// How its renewal stands.
    pub fn renewal(&self) -> Renewal {
        self.renewal.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set_renewal(&self, renewal: Renewal) {
        *self.renewal.lock().unwrap_or_else(PoisonError::into_inner) = renewal;
    }

    /// Its access token, where the vendor has refused it.
    pub fn refused_token(&self) -> Option<&Secret> {
        match &self.credential {
            Ok(Credential::OAuth { access_token, .. }) if self.refused.load(Ordering::Relaxed) => {
                Some(access_token)
            }
            _ => None,
        }
    }

    /// Its state and, where it cannot serve, why.
    pub fn report(&self, now: i64) -> AccountReport {
        let state = self.state(now);
        let renewal = self.renewal();
        let message = match (state, &self.credential) {
            (AccountState::Missing, Err(message)) => message.clone(),
            (AccountState::Missing, Ok(_)) => "credential has characters that no header may carry".to_owned(),
            (AccountState::Expired, _) => "credential has expired".to_owned(),
            (AccountState::Unauthorized, _) => "vendor answered 401 to this credential".to_owned(),
            _ => renewal.message,
        };
        let mut report = AccountReport::new(&self.provider, &self.name, state, message);
        if let Ok(Credential::OAuth { expires_at, .. }) = &self.credential {
            report.credential_expires_at = *expires_at;
        }
        report.last_refresh_time = renewal.last;
        report.refused = self.refused_token().map(|token| Fingerprint::of(token).to_string());
        report
    }

    /// Its credential as it goes out, where it has one.
    pub fn proof(&self) -> Option<&Proof> {
        self.proof.as_ref()
    }
}

impl LiveCell {
    /// A cell that holds `live`.
    pub fn new(live: Live) -> Arc<Self> {
        Arc::new(Self { current: ArcSwap::from_pointee(live), changes: watch::Sender::new(0) })
    }

    /// What is served now.
    pub fn load(&self) -> Arc<Live> {
        self.current.load_full()
    }

    /// Serves `live` from now on.
    pub fn publish(&self, mut live: Live) {
        live.inherit(&self.current.load());
        self.current.store(Arc::new(live));
        self.tell();
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
                if entry.credential != account.credential && entry.proof.is_some() {
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
    read_login: &dyn Fn(&Folder<'_>) -> Result<Credential, String>,
) -> Result<ProviderEntry, String> {
    let Backend::Anthropic { base_url, accounts, .. } = &provider.backend;
    let endpoint = Endpoint::parse(base_url).map_err(|e| format!("base URL {base_url:?}: {e}"))?;
    let name: Arc<str> = provider.name.as_str().into();
    let accounts = accounts.iter().map(|account| {
        let folder = |path| Folder { provider: &provider.name, account: &account.name, path };
        let credential = match &account.credential {
            CredentialSource::Published => credentials
                .get(&snapshot::credential_key(&provider.name, &account.name))
                .cloned()
                .ok_or_else(|| "credential is missing".to_owned()),
            CredentialSource::Directory { path } => read_login(&folder(Path::new(path))),
        };
        Arc::new(prepare_account(name.clone(), account, credential))
    });
    let accounts = accounts.collect();
    let prices = price::Book::with(&provider.pricing).map_err(|wrong| {
        let each: Vec<_> = wrong.iter().map(ToString::to_string).collect();
        format!("pricing: {}", each.join("; "))
    })?;
    Ok(ProviderEntry { name, endpoint, timeouts: provider.timeouts, prices, accounts })
}

fn prepare_account(
    provider: Arc<str>,
    account: &snapshot::Account,
    credential: Result<Credential, String>,
) -> AccountEntry {
    let proof = credential.as_ref().ok().and_then(proof);
    let stage = if account.renewable { RenewalStage::Planned } else { RenewalStage::Nobody };
    AccountEntry {
        provider,
        name: account.name.as_str().into(),
        credential,
        proof,
        refused: AtomicBool::new(false),
        in_folder: matches!(account.credential, CredentialSource::Directory { .. }),
        renewal: Mutex::new(Renewal { stage, ..Renewal::default() }),
    }
}

fn proof(credential: &Credential) -> Option<Proof> {
    let sensitive = |text: &str| {
        let mut value = HeaderValue::from_str(text).ok().filter(|_| !text.is_empty())?;
        value.set_sensitive(true);
        Some(value)
    };
    match credential {
        Credential::OAuth { access_token, .. } if access_token.is_empty() => None,
        Credential::OAuth { access_token, .. } => {
            sensitive(&format!("Bearer {}", access_token.expose())).map(Proof::Bearer)
        }
        Credential::ApiKey { key } => sensitive(key.expose()).map(Proof::ApiKey),
    }
}

fn globs(models: &[String]) -> Result<Option<GlobSet>, globset::Error> {
    if models.is_empty() {
        return Ok(None);
    }
    let mut set = GlobSetBuilder::new();
    for model in models {
        set.add(Glob::new(model)?);
    }
    set.build().map(Some)
}

/// Every text of every token. A token whose limits cannot be kept to is left out; a checked snapshot has none.
fn token_entries(snapshot: &Snapshot, faults: &mut Vec<String>) -> HashMap<TokenId, Arc<TokenEntry>> {
    let (mut entries, pools) = (HashMap::new(), pools(snapshot, faults));
    let mut known: HashMap<&LimitsSpec, Arc<Limits>> = HashMap::new();
    for record in &snapshot.tokens {
        let (limits, pools) = match (limits(&record.limits, &mut known), pools_of(record, &pools)) {
            (Ok(limits), Ok(pools)) => (limits, pools),
            (Err(message), _) | (_, Err(message)) => {
                faults.push(format!("token {}: {message}", record.subject));
                continue;
            }
        };
        for issued in &record.ids {
            let standing = match (issued.revoked, record.suspended) {
                (true, _) => Standing::Revoked,
                (false, true) => Standing::Suspended,
                (false, false) => Standing::Good,
            };
            let entry = TokenEntry {
                subject: record.subject.clone(),
                id: issued.id.clone(),
                not_before: issued.not_before,
                not_after: issued.not_after,
                standing,
                limits: Arc::clone(&limits),
                pools: pools.clone(),
                thresholds: record.thresholds.as_slice().into(),
            };
            entries.insert(issued.id.clone(), Arc::new(entry));
        }
    }
    entries
}

fn limits<'a>(
    spec: &'a LimitsSpec,
    known: &mut HashMap<&'a LimitsSpec, Arc<Limits>>,
) -> Result<Arc<Limits>, String> {
    if let Some(same) = known.get(spec) {
        return Ok(Arc::clone(same));
    }
    let limits = Arc::new(Limits::check(spec).map_err(|faults| listed("limits.", &faults))?);
    known.insert(spec, Arc::clone(&limits));
    Ok(limits)
}

fn pools(snapshot: &Snapshot, faults: &mut Vec<String>) -> HashMap<Subject, Arc<Pool>> {
    let mut pools = HashMap::new();
    for record in &snapshot.pools {
        match check_budgets(&record.budgets) {
            Ok(budgets) => {
                let (subject, thresholds) = (record.subject.clone(), record.thresholds.as_slice().into());
                let pool = Arc::new(Pool { subject, budgets, thresholds });
                pools.insert(record.subject.clone(), pool);
            }
            Err(wrong) => faults.push(format!("pool {}: {}", record.subject, listed("", &wrong))),
        }
    }
    pools
}

fn pools_of(record: &TokenRecord, pools: &HashMap<Subject, Arc<Pool>>) -> Result<Box<[Arc<Pool>]>, String> {
    let find = |subject: &Subject| pools.get(subject).cloned().ok_or_else(|| format!("{subject} is missing"));
    record.pools.iter().map(find).collect()
}

fn listed(path: &str, faults: &[LimitFault]) -> String {
    let each: Vec<_> = faults.iter().map(|fault| format!("{path}{fault}")).collect();
    each.join("; ")
}

#[cfg(test)]
mod tests;
