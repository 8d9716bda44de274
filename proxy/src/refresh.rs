//! Renews Claude logins in folders and exchanges workload identities: one caretaker per login or identity, on the
//! admin thread.
//!
//! Which logins are renewed here is decided in [`right`]; what is done, and in which order, by
//! [`la_core::oauth::Renewer`] and [`la_core::oauth::federation::Exchanger`]. A caretaker wakes when its login is
//! due, its file has changed, the vendor has refused its token, or a person asks. Others see how it stands in the
//! account ([`crate::config::live::AccountEntry::renewal`]).

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use la_core::oauth::{Jitter, Plan};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;

use crate::accounts::fleet::Fleet;
use crate::config::live::{LiveCell, RenewalStage};
use crate::credentials::{Homes, folders, identities};
use crate::observe::metrics::Metrics;
use crate::settings::RefreshSettings;
use crate::upstream::endpoint::EndpointError;

mod caretaker;
mod desk;
mod endpoint;
mod federation;
pub mod right;
pub(crate) mod store;

use caretaker::Caretaker;
use desk::{Account, Asker, Desk};
use federation::{Exchange, Identity};

/// How many people can ask for one login at a time.
const MAX_ASKERS: usize = 8;

/// What all caretakers use.
struct Shared {
    settings: RefreshSettings,
    client: endpoint::Client,
    cell: Arc<LiveCell>,
    homes: Arc<Homes>,
    metrics: Arc<Metrics>,
    /// The other processes that may renew the same logins, where they share a Redis.
    fleet: Option<Arc<Fleet>>,
}

/// Takes requests of people for a renewal, from any thread.
#[derive(Debug, Default)]
pub struct Bell {
    desks: Mutex<BTreeMap<Account, mpsc::Sender<Asker>>>,
}

/// Why nobody can be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NoAnswer {
    /// The account has no login in a folder, nor an identity in a file.
    #[error("has no login in a folder, nor an identity in a file; only those are renewed")]
    NoLogin,
    /// Too many ask at the same time.
    #[error("is being asked for by too many; try again")]
    Crowded,
}

/// The caretakers of every login that is served.
pub struct Refresher {
    shared: Rc<Shared>,
    bell: Arc<Bell>,
    caretakers: BTreeMap<Account, Employed>,
    /// Caretakers that have not yet told how their login stands.
    silent: Vec<oneshot::Receiver<()>>,
}

/// What one caretaker takes care of.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Charge {
    Home(PathBuf),
    Identity(Identity),
}

struct Employed {
    charge: Charge,
    stop: watch::Sender<bool>,
    ended: JoinHandle<()>,
}

/// A refresher that runs. Dropping it stops nothing.
pub struct Running {
    stop: watch::Sender<bool>,
    ended: JoinHandle<()>,
    cell: Arc<LiveCell>,
    bell: Arc<Bell>,
    silent: Vec<oneshot::Receiver<()>>,
}

impl Shared {
    fn plan(&self, account: &Account) -> Plan {
        Plan {
            renews: true,
            before_ms: i64::try_from(self.settings.before.as_millis()).unwrap_or(i64::MAX),
            jitter: Jitter::of(&account.provider, &account.name),
            serves_unstored: true,
        }
    }
}

impl Refresher {
    /// A refresher of the logins and identities that `cell` serves from `homes`, beside those of the `fleet`.
    ///
    /// # Errors
    /// When the URL of a token endpoint is none.
    pub fn new(
        settings: RefreshSettings,
        cell: Arc<LiveCell>,
        homes: Arc<Homes>,
        metrics: Arc<Metrics>,
        fleet: Option<Arc<Fleet>>,
    ) -> Result<Self, EndpointError> {
        let client = endpoint::Client::new(settings.endpoint.clone(), &settings.exchange_url)?;
        let shared = Rc::new(Shared { settings, client, cell, homes, metrics, fleet });
        Ok(Self { shared, bell: Arc::default(), caretakers: BTreeMap::new(), silent: Vec::new() })
    }

    /// Runs on this thread's local tasks until stopped.
    pub fn start(mut self) -> Running {
        let (stop, stopped) = watch::channel(false);
        let (cell, bell) = (self.shared.cell.clone(), self.bell.clone());
        self.employ();
        let silent = std::mem::take(&mut self.silent);
        let ended = tokio::task::spawn_local(self.run(stopped));
        Running { stop, ended, cell, bell, silent }
    }

    async fn run(mut self, mut stopped: watch::Receiver<bool>) {
        let mut served = self.shared.cell.subscribe();
        while !*stopped.borrow() {
            tokio::select! {
                _ = served.changed() => self.employ(),
                _ = stopped.changed() => {}
            }
            self.silent.clear();
        }
        for (_, employed) in std::mem::take(&mut self.caretakers) {
            employed.stop.send_replace(true);
            // A caretaker that panicked has no more to store.
            let _ = employed.ended.await;
        }
    }

    /// One caretaker for every folder and identity that is served now, and none for another.
    fn employ(&mut self) {
        let live = self.shared.cell.load();
        let of =
            |provider: &str, name: &str| Account { provider: provider.to_owned(), name: name.to_owned() };
        let homes = folders(live.snapshot())
            .map(|folder| (of(folder.provider, folder.account), Charge::Home(folder.path.to_owned())));
        let identities = identities(live.snapshot()).map(|identity| {
            let (federation, token_file) = (identity.federation.clone(), identity.token_file.to_owned());
            let charge = Charge::Identity(Identity { federation, token_file });
            (of(identity.provider, identity.account), charge)
        });
        let wanted: BTreeMap<Account, Charge> = homes.chain(identities).collect();
        let homes = &self.shared.homes;
        self.caretakers.retain(|account, employed| {
            let stays = wanted.get(account) == Some(&employed.charge);
            if !stays {
                employed.stop.send_replace(true);
                if matches!(employed.charge, Charge::Identity(_)) {
                    homes.forget_exchanged(&account.key());
                }
            }
            stays && !employed.ended.is_finished()
        });
        self.bell.with(|desks| desks.retain(|account, _| wanted.contains_key(account)));
        for (account, charge) in wanted {
            if !self.caretakers.contains_key(&account) {
                let employed = self.start_one(&account, charge);
                self.caretakers.insert(account, employed);
            }
        }
    }

    fn start_one(&mut self, account: &Account, charge: Charge) -> Employed {
        let (stop, stopped) = watch::channel(false);
        let (ask, asked) = mpsc::channel(MAX_ASKERS);
        self.bell.with(|desks| desks.insert(account.clone(), ask));
        let (unknown, silent) = oneshot::channel();
        self.silent.push(silent);
        let shared = self.shared.clone();
        let desk = Desk::new(account.clone(), shared.cell.clone(), unknown, asked, stopped);
        let ended = match charge.clone() {
            Charge::Home(home) => tokio::task::spawn_local(Caretaker::new(desk, home, shared).run()),
            Charge::Identity(identity) => {
                tokio::task::spawn_local(Exchange::new(desk, identity, shared).run())
            }
        };
        Employed { charge, stop, ended }
    }
}

impl Running {
    /// Waits until it is known of every login that was served at the start who renews it, so that no request
    /// takes one for lost that is about to be renewed.
    pub async fn known(&mut self) {
        for known in self.silent.drain(..) {
            // The other end is let go of, also by a caretaker that ended.
            let _ = known.await;
        }
    }

    /// Where people ask.
    pub fn bell(&self) -> Arc<Bell> {
        self.bell.clone()
    }

    /// Ends what was begun, for at most `limit`. Gives one sentence for each login that was renewed and is not
    /// stored, and is lost when the process ends.
    pub async fn close(self, limit: Duration) -> Vec<String> {
        self.stop.send_replace(true);
        let _ = tokio::time::timeout(limit, self.ended).await;
        unstored(&self.cell)
    }
}

impl Bell {
    /// Has an account's login renewed now, and waits until there is nothing more to do for now.
    ///
    /// # Errors
    /// When nobody can be asked.
    pub async fn ring(&self, provider: &str, name: &str) -> Result<(), NoAnswer> {
        let account = Account { provider: provider.to_owned(), name: name.to_owned() };
        let desk = self.with(|desks| desks.get(&account).cloned()).ok_or(NoAnswer::NoLogin)?;
        let (asker, answer) = oneshot::channel();
        desk.try_send(asker).map_err(|_| NoAnswer::Crowded)?;
        // The asker is let go of: a caretaker that ends meanwhile has nothing more to do either.
        let _ = answer.await;
        Ok(())
    }

    fn with<T>(&self, act: impl FnOnce(&mut BTreeMap<Account, mpsc::Sender<Asker>>) -> T) -> T {
        act(&mut self.desks.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// One sentence for each login that was renewed and is not stored so far.
pub fn unstored(cell: &LiveCell) -> Vec<String> {
    let live = cell.load();
    let accounts = live.providers().iter().flat_map(|provider| &provider.accounts);
    let unstored = accounts.filter(|account| account.renewal().stage == RenewalStage::Unstored);
    unstored
        .map(|account| {
            let message = account.renewal().message;
            format!("login of account {}/{}: {message}", account.provider, account.name)
        })
        .collect()
}
