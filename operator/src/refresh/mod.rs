//! Access tokens of the accounts that UpstreamProviders name. OAuth logins are renewed here, identities exchanged in
//! [`exchanges`]: one task for each Secret and key, and for each identity, on the leader only.
//!
//! What to do next is decided by [`la_core::oauth::Renewer`]; here are its hands. A login is stored by
//! compare-and-swap on the version of its Secret before anything else is done with it, and reaches proxies
//! as any change of that Secret does.
//!
//! # Guarantees
//! * A task that has posted ends only when what came is stored: [`Refreshers::finish`] waits for it. Only a login
//!   whose Secret is gone and that nobody names any more is dropped, and that is said.
//! * Secrets that nobody names any more are let alone from then on.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::future::join_all;
use kube::Client;
use la_core::oauth::{Event, Fingerprint, Plan, Standing};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use crate::clock;
use crate::events::Events;
use crate::metrics::Metrics;
use crate::names::ObjectName;

mod endpoint;
mod exchanges;
mod identity;
mod login;
mod store;

pub(crate) use endpoint::{Endpoint, EndpointError};
pub(crate) use exchanges::{Exchanges, Identity, State as ExchangeState};

/// What waits for a login that is busy; more is said again by whoever said it.
const INBOX: usize = 16;

/// Where a login is.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct LoginName {
    /// The Secret.
    pub(crate) secret: ObjectName,
    /// The key in it, where the reference says one.
    pub(crate) key: Option<String>,
}

/// How a login stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct State {
    /// How it stands.
    pub(crate) standing: Standing,
    /// When it was renewed last by this process, in Unix milliseconds.
    pub(crate) renewed_at_ms: Option<i64>,
}

/// Every login that is renewed here.
pub(crate) struct Refreshers {
    hands: Arc<Hands>,
    logins: Mutex<HashMap<LoginName, Follower>>,
    /// Tasks of logins that nobody names any more.
    ending: Mutex<Vec<JoinHandle<()>>>,
}

/// What every task needs.
struct Hands {
    client: Client,
    endpoint: Arc<Endpoint>,
    metrics: Arc<Metrics>,
    events: Arc<Events>,
    /// Called with the Secret of a login that stands otherwise.
    on_change: Arc<dyn Fn(&ObjectName) + Send + Sync>,
    /// Which logins a provider names.
    named: Mutex<HashMap<ObjectName, BTreeMap<LoginName, Plan>>>,
}

struct Follower {
    plan: Plan,
    inbox: mpsc::Sender<Event>,
    state: watch::Receiver<State>,
    task: JoinHandle<()>,
}

impl Refreshers {
    /// Renews nothing yet.
    pub(crate) fn new(
        client: Client,
        endpoint: Arc<Endpoint>,
        (metrics, events): (Arc<Metrics>, Arc<Events>),
        on_change: Arc<dyn Fn(&ObjectName) + Send + Sync>,
    ) -> Self {
        let named = Mutex::default();
        let hands = Arc::new(Hands { client, endpoint, metrics, events, on_change, named });
        Self { hands, logins: Mutex::default(), ending: Mutex::default() }
    }

    /// Renews the logins that `provider` names, and those that other providers name.
    pub(crate) fn follow(&self, provider: &ObjectName, logins: BTreeMap<LoginName, Plan>) {
        let mut named = self.hands.named.lock().unwrap_or_else(PoisonError::into_inner);
        if logins.is_empty() {
            named.remove(provider);
        } else {
            named.insert(provider.clone(), logins);
        }
        let mut wanted: BTreeMap<LoginName, Plan> = BTreeMap::new();
        for (name, plan) in named.values().flatten() {
            let known = wanted.entry(name.clone()).or_insert(*plan);
            // Of two wishes the earlier renewal serves both.
            known.before_ms = known.before_ms.max(plan.before_ms);
        }
        let mut followed = self.logins.lock().unwrap_or_else(PoisonError::into_inner);
        let mut ending = self.ending.lock().unwrap_or_else(PoisonError::into_inner);
        ending.retain(|task| !task.is_finished());
        let unwanted = |name: &LoginName, follower: &mut Follower| wanted.get(name) != Some(&follower.plan);
        let mut replaced: HashMap<LoginName, JoinHandle<()>> =
            followed.extract_if(unwanted).map(|(name, follower)| (name, follower.task)).collect();
        for (name, plan) in wanted {
            let before = replaced.remove(&name);
            followed.entry(name).or_insert_with_key(|name| self.start(name.clone(), plan, before));
        }
        ending.extend(replaced.into_values());
    }

    /// How a login stands, if it is renewed here.
    pub(crate) fn state(&self, name: &LoginName) -> Option<State> {
        let logins = self.logins.lock().unwrap_or_else(PoisonError::into_inner);
        logins.get(name).map(|follower| *follower.state.borrow())
    }

    /// Looks again at the logins in a Secret that has changed.
    pub(crate) fn changed(&self, secret: &ObjectName) {
        let logins = self.logins.lock().unwrap_or_else(PoisonError::into_inner);
        for (_, follower) in logins.iter().filter(|(name, _)| name.secret == *secret) {
            // One that is too busy to hear of it reads the Secret before it goes on.
            let _ = follower.inbox.try_send(Event::Changed);
        }
    }

    /// Renews a login whose access token the vendor has refused: once for each token.
    pub(crate) fn demand(&self, name: &LoginName, token: Fingerprint) {
        let logins = self.logins.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(follower) = logins.get(name) {
            let _ = follower.inbox.try_send(Event::Demanded(token));
        }
    }

    /// Ends every task; one that holds what is not stored keeps trying first.
    pub(crate) async fn finish(&self) {
        let followers: Vec<_> =
            self.logins.lock().unwrap_or_else(PoisonError::into_inner).drain().map(|(_, f)| f.task).collect();
        let ending = std::mem::take(&mut *self.ending.lock().unwrap_or_else(PoisonError::into_inner));
        join_all(followers.into_iter().chain(ending)).await;
    }

    fn start(&self, name: LoginName, plan: Plan, before: Option<JoinHandle<()>>) -> Follower {
        let (inbox, events) = mpsc::channel(INBOX);
        let first = State { standing: Standing::Missing, renewed_at_ms: None };
        let (told, state) = watch::channel(first);
        let hands = Arc::clone(&self.hands);
        let task = tokio::spawn(async move {
            if let Some(before) = before {
                // Its own end is all there is to know of it.
                let _ = before.await;
            }
            login::follow(&hands, &name, plan, (events, told)).await;
        });
        Follower { plan, inbox, state, task }
    }
}

impl Hands {
    /// Whether any provider names the login, as far as is known.
    fn is_named(&self, login: &LoginName) -> bool {
        let named = self.named.lock().unwrap_or_else(PoisonError::into_inner);
        named.values().any(|logins| logins.contains_key(login))
    }
}

/// Waits until a time in Unix milliseconds; for ever, when there is none.
async fn due(until_ms: Option<i64>) {
    match until_ms {
        Some(until_ms) => {
            let left = u64::try_from(until_ms.saturating_sub(clock::now_ms())).unwrap_or_default();
            tokio::time::sleep(Duration::from_millis(left)).await;
        }
        None => std::future::pending().await,
    }
}
