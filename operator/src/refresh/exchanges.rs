//! Exchanges the workload identities that UpstreamProviders name: one task for each account, on the leader only.
//!
//! What to do next is decided by [`la_core::oauth::federation::Exchanger`]. What comes of it is stored nowhere but in
//! memory and, by compilation, in the snapshots of proxies. A task may end at any moment: an identity can always be
//! exchanged again.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use kube::Client;
use la_core::credential::Credentials;
use la_core::oauth::federation::{Event, Exchanger, Federation, Obtained, Standing};
use la_core::oauth::{Fingerprint, Plan};
use la_core::snapshot::credential_key;
use la_crds::upstream_provider::ServiceAccountToken;
use tokio::sync::{mpsc, watch};
use tokio_util::task::AbortOnDropHandle;

use super::identity::Exchange;
use super::{Endpoint, INBOX};
use crate::clock;
use crate::metrics::Metrics;
use crate::names::ObjectName;

/// Whose identity it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Name {
    pub(super) provider: ObjectName,
    pub(super) account: String,
}

/// An identity and what the vendor is asked for in its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Identity {
    /// The ServiceAccount, in the provider's namespace.
    pub(crate) token: ServiceAccountToken,
    /// The rule at the vendor.
    pub(crate) federation: Federation,
}

/// How the exchange of an identity stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct State {
    /// How it stands.
    pub(crate) standing: Standing,
    /// The newest access token.
    pub(crate) obtained: Option<Obtained>,
}

/// Every identity that is exchanged here.
pub(crate) struct Exchanges {
    hands: Arc<Hands>,
    followed: Mutex<HashMap<ObjectName, BTreeMap<String, Follower>>>,
}

/// Called with a provider of which an identity stands otherwise, and whether there is a new access token.
pub(crate) type OnChange = Arc<dyn Fn(&ObjectName, bool) + Send + Sync>;

/// What every task needs.
pub(super) struct Hands {
    pub(super) client: Client,
    pub(super) endpoint: Arc<Endpoint>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) on_change: OnChange,
}

struct Follower {
    identity: Identity,
    plan: Plan,
    inbox: mpsc::Sender<Event>,
    state: watch::Receiver<State>,
    _task: AbortOnDropHandle<()>,
}

impl State {
    pub(super) fn of(exchanger: &Exchanger) -> Self {
        Self { standing: exchanger.standing(), obtained: exchanger.obtained().cloned() }
    }
}

impl Exchanges {
    /// Exchanges nothing yet.
    pub(crate) fn new(
        client: Client,
        endpoint: Arc<Endpoint>,
        metrics: Arc<Metrics>,
        on_change: OnChange,
    ) -> Self {
        let hands = Arc::new(Hands { client, endpoint, metrics, on_change });
        Self { hands, followed: Mutex::default() }
    }

    /// Whether every one of these identities of `provider`, by account, is exchanged already.
    pub(crate) fn follows(&self, provider: &ObjectName, wanted: &BTreeMap<String, (Identity, Plan)>) -> bool {
        self.with(|followed| {
            let known = followed.get(provider);
            wanted.iter().all(|(account, (identity, _))| {
                known.and_then(|known| known.get(account)).is_some_and(|known| known.identity == *identity)
            })
        })
    }

    /// Exchanges these identities of `provider` from now on, by account, and no others of it. One that is new here
    /// begins with the access token that `known` has of it.
    pub(crate) fn follow(
        &self,
        provider: &ObjectName,
        wanted: BTreeMap<String, (Identity, Plan)>,
        known: &BTreeMap<String, Obtained>,
    ) {
        self.with(|followed| {
            let mut before = followed.remove(provider).unwrap_or_default();
            let mut now = BTreeMap::new();
            for (account, (identity, plan)) in wanted {
                let same = before.remove(&account).filter(|follower| follower.identity == identity);
                let follower = match same {
                    Some(same) if same.plan == plan => same,
                    Some(other_plan) => {
                        let obtained = other_plan.state.borrow().obtained.clone();
                        self.start(name(provider, &account), identity, plan, obtained)
                    }
                    None => {
                        self.start(name(provider, &account), identity, plan, known.get(&account).cloned())
                    }
                };
                now.insert(account, follower);
            }
            if !now.is_empty() {
                followed.insert(provider.clone(), now);
            }
        });
    }

    /// How the identities of `provider` stand, by account.
    pub(crate) fn states(&self, provider: &ObjectName) -> BTreeMap<String, State> {
        self.with(|followed| {
            let followers = followed.get(provider).into_iter().flatten();
            followers.map(|(account, follower)| (account.clone(), follower.state.borrow().clone())).collect()
        })
    }

    /// The newest access tokens of `provider`, as snapshots have them.
    pub(crate) fn credentials(&self, provider: &ObjectName) -> Credentials {
        let obtained = |(account, state): (String, State)| {
            Some((credential_key(&provider.name, &account), state.obtained?.credential()))
        };
        self.states(provider).into_iter().filter_map(obtained).collect()
    }

    /// Exchanges an identity anew whose access token the vendor has refused: once for each token.
    pub(crate) fn demand(&self, provider: &ObjectName, account: &str, token: Fingerprint) {
        self.with(|followed| {
            if let Some(follower) = followed.get(provider).and_then(|accounts| accounts.get(account)) {
                // What finds no place is said again.
                let _ = follower.inbox.try_send(Event::Demanded(token));
            }
        });
    }

    fn start(&self, name: Name, identity: Identity, plan: Plan, known: Option<Obtained>) -> Follower {
        let (inbox, events) = mpsc::channel(INBOX);
        let (exchanger, action) = Exchanger::start(plan, known, clock::now_ms());
        let (told, state) = watch::channel(State::of(&exchanger));
        let exchange = Exchange { name, identity: identity.clone(), exchanger, told };
        let hands = Arc::clone(&self.hands);
        let task = tokio::spawn(async move { exchange.follow(&hands, action, events).await });
        Follower { identity, plan, inbox, state, _task: AbortOnDropHandle::new(task) }
    }

    fn with<T>(&self, act: impl FnOnce(&mut HashMap<ObjectName, BTreeMap<String, Follower>>) -> T) -> T {
        act(&mut self.followed.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

fn name(provider: &ObjectName, account: &str) -> Name {
    Name { provider: provider.clone(), account: account.to_owned() }
}
