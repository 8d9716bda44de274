//! What was last written for every proxy, since when each token id is part of it, and which are not any more.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use la_core::credential::Credentials;
use la_core::id::TokenId;
use la_core::refusals::Verdict;
use la_core::snapshot::Snapshot;
use tokio::sync::watch;

use self::refused::Refused;
use crate::clock;
use crate::names::ObjectName;

mod refused;

/// Epoch and generation of a snapshot.
pub(crate) type Order = (u64, u64);

/// What was last written for one proxy.
#[derive(Debug, Clone)]
pub(crate) struct Edition {
    /// The snapshot.
    pub(crate) snapshot: Arc<Snapshot>,
    /// The credentials beside it.
    pub(crate) credentials: Arc<Credentials>,
    /// The Secret's resource version.
    pub(crate) version: String,
    /// When it was written or first read.
    pub(crate) since: Instant,
}

/// What was last written for every proxy.
#[derive(Debug, Default)]
pub(crate) struct Published(Mutex<HashMap<ObjectName, Shelf>>);

#[derive(Debug)]
struct Shelf {
    newest: Option<Edition>,
    /// The first snapshot that had the id live, without a break until now.
    live_since: HashMap<TokenId, Order>,
    refused: Refused,
    order: watch::Sender<Order>,
}

impl Default for Shelf {
    fn default() -> Self {
        let (newest, live_since, refused) = (None, HashMap::new(), Refused::default());
        Self { newest, live_since, refused, order: watch::Sender::new((0, 0)) }
    }
}

impl Published {
    /// What was last written for `proxy`.
    pub(crate) fn newest(&self, proxy: &ObjectName) -> Option<Edition> {
        self.with(|all| all.get(proxy).and_then(|shelf| shelf.newest.clone()))
    }

    /// Follows the order of what is written for `proxy`.
    pub(crate) fn follow(&self, proxy: &ObjectName) -> watch::Receiver<Order> {
        self.with(|all| all.entry(proxy.clone()).or_default().order.subscribe())
    }

    /// The order of the first snapshot from which on `id` is live at `proxy`.
    pub(crate) fn live_since(&self, proxy: &ObjectName, id: &str) -> Option<Order> {
        self.with(|all| all.get(proxy)?.live_since.get(id).copied())
    }

    /// Texts of tokens that may not be used any more, of which a pod of `proxy` that serves the snapshot `served`
    /// does not know at `now` (Unix seconds).
    pub(crate) fn refused_since(
        &self,
        proxy: &ObjectName,
        served: Order,
        now: i64,
    ) -> Vec<(TokenId, Verdict)> {
        self.with(|all| all.get(proxy).map(|shelf| shelf.refused.since(served, now)).unwrap_or_default())
    }

    /// Remembers what was written for `proxy`, or read from its Secret, at `now` (Unix seconds).
    pub(crate) fn put(&self, proxy: &ObjectName, edition: Edition, now: i64) {
        self.with(|all| {
            let shelf = all.entry(proxy.clone()).or_default();
            let order = edition.snapshot.order();
            let known = std::mem::take(&mut shelf.live_since);
            for issued in edition.snapshot.tokens.iter().flat_map(|token| &token.ids) {
                if !issued.revoked {
                    let since = known.get(&issued.id).copied().unwrap_or(order);
                    shelf.live_since.insert(issued.id.clone(), since);
                }
            }
            if let Some(before) = &shelf.newest {
                shelf.refused.compare(&before.snapshot, &edition.snapshot, now);
            }
            shelf.newest = Some(edition);
            shelf.order.send_replace(order);
        });
    }

    /// Remembers that the same content now has another resource version.
    pub(crate) fn renumber(&self, proxy: &ObjectName, version: String) {
        self.with(|all| {
            if let Some(newest) = all.get_mut(proxy).and_then(|shelf| shelf.newest.as_mut()) {
                newest.version = version;
            }
        });
    }

    /// Forgets a proxy that is gone.
    pub(crate) fn forget(&self, proxy: &ObjectName) {
        self.with(|all| all.remove(proxy));
    }

    fn with<T>(&self, act: impl FnOnce(&mut HashMap<ObjectName, Shelf>) -> T) -> T {
        act(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Edition {
    /// What has just been written or read.
    pub(crate) fn new(snapshot: Snapshot, credentials: Credentials, version: String) -> Self {
        let (snapshot, credentials) = (Arc::new(snapshot), Arc::new(credentials));
        Self { snapshot, credentials, version, since: clock::instant() }
    }
}

#[cfg(test)]
mod tests {
    use la_core::id::Subject;
    use la_core::snapshot::{IssuedId, TokenRecord};

    use super::*;

    fn edition(generation: u64, ids: &[&str]) -> Edition {
        let issued = |id: &&str| IssuedId {
            id: TokenId::try_from((*id).to_owned()).unwrap(),
            not_before: 0,
            not_after: 10,
            revoked: false,
        };
        let subject = Subject::of("gateway", "team-a", "agent").unwrap();
        let record = TokenRecord::new(subject, ids.iter().map(issued).collect(), Default::default());
        let snapshot =
            Snapshot { epoch: 1, generation, tokens: vec![record], ..Snapshot::empty("platform/gateway") };
        Edition::new(snapshot, Credentials::new(), generation.to_string())
    }

    #[test]
    fn id_is_live_since_the_first_snapshot_that_had_it_without_a_break() {
        let (published, proxy) = (Published::default(), ObjectName::new("platform", "gateway"));
        published.put(&proxy, edition(1, &["a"]), 0);
        published.put(&proxy, edition(2, &["a", "b"]), 0);
        assert_eq!(published.live_since(&proxy, "a"), Some((1, 1)));
        assert_eq!(published.live_since(&proxy, "b"), Some((1, 2)));
        published.put(&proxy, edition(3, &["b"]), 0);
        published.put(&proxy, edition(4, &["a", "b"]), 0);
        assert_eq!(published.live_since(&proxy, "a"), Some((1, 4)));
        assert_eq!(*published.follow(&proxy).borrow(), (1, 4));
    }
}
