//! What only a shared ledger promises, against a real server.

use std::path::Path;
use std::sync::Arc;

use la_core::id::Subject;
use prometheus_client::metrics::counter::Counter;

use super::demand::{self, Counted};
use super::{OnUnavailable, RedisSettings, Remote, Script, Time, lock};
use crate::ledger::{Ledger, Place, Turns};
use crate::redis_link::Clock;
use crate::redis_link::server::RedisServer;
use crate::usage_log::Keeping;

mod cluster;
mod failures;
mod histories;
mod holds;
mod log;
mod pace;
mod together;

/// Ten years: nothing expires while a test turns the clock.
const FOR_LONG_MS: u64 = 315_360_000_000;

/// A server whose time is a key.
pub(in crate::ledger) struct Shared {
    pub(super) server: RedisServer,
}

impl Shared {
    pub(in crate::ledger) fn start() -> Self {
        Self { server: RedisServer::start(&[]).unwrap() }
    }

    /// A ledger of one process, of which holds do not expire.
    pub(in crate::ledger) fn ledger(&self) -> Arc<Ledger> {
        self.ledger_with(
            Time { clock: Clock::Key, lease_ms: FOR_LONG_MS },
            OnUnavailable::Deny,
            Counter::default(),
        )
    }

    pub(super) fn ledger_with(
        &self,
        time: Time,
        on_unavailable: OnUnavailable,
        unrecorded: Counter,
    ) -> Arc<Ledger> {
        open(&self.server.url(), time, on_unavailable, unrecorded)
    }

    pub(in crate::ledger) fn set_clock(&self, now_ms: u64) {
        let answer = self.server.command(&["SET", "{la:gateway}:clock", &now_ms.to_string()]).unwrap();
        assert_eq!(answer, "+OK\r\n");
    }
}

pub(super) fn open(url: &str, time: Time, on_unavailable: OnUnavailable, unrecorded: Counter) -> Arc<Ledger> {
    let settings = RedisSettings { url: url.parse().unwrap(), on_unavailable };
    logged(settings, (Path::new(""), Keeping::Off), unrecorded, time)
}

fn logged(settings: RedisSettings, log: (&Path, Keeping), unrecorded: Counter, time: Time) -> Arc<Ledger> {
    let place = Place::There(Remote::open_with(settings, log, unrecorded, time).unwrap());
    Arc::new(Ledger { place, turns: Turns::default() })
}

impl Ledger {
    /// Waits until the server has acknowledged every end.
    pub(in crate::ledger) async fn quiet(&self) {
        let mut ends = remote(self).shared.ends.subscribe();
        ends.wait_for(|ends| ends.unknown() == 0).await.unwrap();
    }

    /// Reads now how an owner stands.
    pub(in crate::ledger) async fn look(&self, owner: &Subject) {
        let shared = &remote(self).shared;
        let Ok(link) = shared.linked().await else { panic!("no connection") };
        let value = link.run(Script::Look, &demand::keys(owner), &["0".to_owned()]).await.unwrap();
        lock(&shared.mirror).look(owner, Counted::read(&value).unwrap());
    }
}

pub(super) fn remote(ledger: &Ledger) -> &Remote {
    match &ledger.place {
        Place::There(remote) => remote,
        Place::Here { .. } => panic!("not shared"),
    }
}
