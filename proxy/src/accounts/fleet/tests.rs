//! Replicas in one process, around a real server.

use la_core::account::affinity::SessionKey;
use la_core::account::health::{Event, Outcome, Standing, Why};
use la_core::account::reading::Reading;
use la_core::account::{AccountId, Class};
use la_core::credential::Credentials;
use la_core::secret::Secret;
use la_core::snapshot::{Account, Backend, CredentialSource, Provider, Route, Snapshot};

use super::*;
use crate::accounts::{Known, Sessions, Slot};
use crate::clock;
use crate::config::live::Live;
use crate::redis_link::server::RedisServer;

const OPUS: &str = "claude-opus-5";
const RESTS: &str = "{la:platform/gateway}:accounts:rests";

/// One replica, with two accounts of which `b` serves two requests at a time.
struct Replica {
    cell: Arc<LiveCell>,
    fleet: Arc<Fleet>,
}

impl Replica {
    async fn start(server: &RedisServer) -> Self {
        let accounts = [("a", None), ("b", Some(2))].map(|(name, most)| Account {
            max_concurrency: most,
            ..Account::new(name, CredentialSource::Published)
        });
        let mut snapshot = Snapshot::empty("platform/gateway");
        snapshot.providers = vec![Provider::anthropic("vendor", "http://127.0.0.1:1", accounts.to_vec())];
        snapshot.routes = vec![Route::to("vendor", Vec::new())];
        let cell = LiveCell::new(build(&snapshot));
        cell.publish(build(&snapshot));
        let metrics = Arc::new(Metrics::new());
        let fleet = Fleet::start(server.url().parse().unwrap(), Arc::clone(&cell), metrics).unwrap();
        let replica = Self { cell, fleet };
        replica.until("to be together", |replica| replica.is_together()).await;
        replica
    }

    fn is_together(&self) -> bool {
        *self.fleet.shared.stage.borrow() == Stage::Together
    }

    fn known(&self, name: &str) -> Arc<Known> {
        Arc::clone(&self.cell.load().account("vendor", name).unwrap().known)
    }

    fn sessions(&self) -> Arc<Sessions> {
        Arc::clone(self.cell.load().first_route().unwrap().sessions.as_ref().unwrap())
    }

    fn refused(&self, name: &str, status: u16, class: Class) {
        let live = self.cell.load();
        let policy = &live.providers()[0].health;
        let outcome = Outcome::Refused { status, class, reading: &Reading::default() };
        self.known(name).note(&Event { model: OPUS, outcome }, clock::unix_seconds(), policy);
    }

    fn why(&self, name: &str) -> Option<Why> {
        match self.known(name).standing(OPUS, clock::unix_seconds()) {
            Standing::Closed { why, .. } => Some(why),
            Standing::Open | Standing::HalfOpen => None,
        }
    }

    fn home(&self, session: u128) -> Option<AccountId> {
        let bound = self.sessions().bound(SessionKey::from_bits(session), clock::unix_seconds());
        bound.map(|binding| binding.account)
    }

    fn place(&self, session: u128, account: &str) {
        let key = SessionKey::from_bits(session);
        self.sessions().place(key, self.known(account).id, clock::unix_seconds());
    }

    /// Serves one more request at `b`, if it may.
    async fn slot(&self) -> Option<Slot> {
        self.known("b").take_slot(Some(2))?.ask(Some(2)).await
    }

    async fn until(&self, what: &str, good: impl Fn(&Self) -> bool) {
        let waiting = async {
            while !good(self) {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        let is_in_time = tokio::time::timeout(Duration::from_secs(20), waiting).await.is_ok();
        assert!(is_in_time, "never happened: {what}");
    }
}

impl Drop for Replica {
    fn drop(&mut self) {
        self.fleet.close();
    }
}

fn build(snapshot: &Snapshot) -> Live {
    let (snapshot, faults) = snapshot.clone().checked().unwrap();
    assert_eq!(faults, []);
    Live::build(snapshot, &Credentials::default(), &|_| Err("no directories here".to_owned()))
}

fn login(text: &str) -> Fingerprint {
    Fingerprint::of(&Secret::new(text))
}

#[tokio::test]
async fn rest_that_one_replica_saw_is_kept_by_all_and_by_one_that_starts_later() {
    let server = RedisServer::start(&[]).unwrap();
    let (one, other) = (Replica::start(&server).await, Replica::start(&server).await);
    one.refused("a", 403, Class::Auth);
    other.until("the rest to be heard of", |other| other.why("a") == Some(Why::Forbidden)).await;
    let rests = |replica: &Replica| replica.known("a").look(la_core::account::health::Health::rests);
    assert_eq!(rests(&one), rests(&other));
    let late = Replica::start(&server).await;
    assert_eq!((late.why("a"), late.why("b")), (Some(Why::Forbidden), None));
}

#[tokio::test]
async fn owner_who_forgets_a_rest_at_one_replica_forgets_it_at_all() {
    let server = RedisServer::start(&[]).unwrap();
    let (one, other) = (Replica::start(&server).await, Replica::start(&server).await);
    one.refused("a", 403, Class::Auth);
    other.until("the rest to be heard of", |other| other.why("a").is_some()).await;
    assert_eq!(other.known("a").forget_trouble(), 1);
    one.until("the rest to be forgotten", |one| one.why("a").is_none()).await;
    assert_eq!(Replica::start(&server).await.why("a"), None);
}

#[tokio::test]
async fn what_was_learned_before_and_during_an_outage_is_known_after_it_even_if_the_server_lost_it() {
    let mut server = RedisServer::start(&[]).unwrap();
    let (one, other) = (Replica::start(&server).await, Replica::start(&server).await);
    one.refused("a", 403, Class::Auth);
    one.place(1, "a");
    let are_heard = |other: &Replica| other.why("a").is_some() && other.home(1).is_some();
    other.until("both to be heard of", are_heard).await;
    server.kill();
    for replica in [&one, &other] {
        replica.until("the outage to be seen", |replica| !replica.is_together()).await;
    }
    one.refused("b", 403, Class::Auth);
    one.place(2, "b");
    assert_eq!((one.why("b"), other.why("b")), (Some(Why::Forbidden), None));
    // It keeps nothing over a restart.
    server.restart().unwrap();
    other.until("the rest of the outage", |other| other.why("b") == Some(Why::Forbidden)).await;
    let late = Replica::start(&server).await;
    late.until("the rest of before", |late| late.why("a") == Some(Why::Forbidden)).await;
    let homes = |replica: &Replica| [1, 2].map(|session| replica.home(session));
    late.until("the sessions of before and during it", |late| homes(late) == homes(&one)).await;
    one.known("a").forget_trouble();
    late.until("the rest to be forgotten", |late| late.why("a").is_none()).await;
}

#[tokio::test]
async fn session_is_where_the_first_replica_placed_it_and_goes_where_one_moves_it() {
    let server = RedisServer::start(&[]).unwrap();
    let (one, other) = (Replica::start(&server).await, Replica::start(&server).await);
    let (a, b) = (one.known("a").id, one.known("b").id);
    one.place(1, "a");
    other.until("the session to be heard of", |other| other.home(1) == Some(a)).await;
    let (key, now) = (SessionKey::from_bits(1), clock::unix_seconds());
    let seen = other.sessions().bound(key, now).unwrap();
    other.sessions().rebind(key, seen, b, now);
    one.until("the move to be heard of", |one| one.home(1) == Some(b)).await;
    let late = Replica::start(&server).await;
    assert_eq!(late.home(1), Some(b), "whoever starts knows it too");
    assert_eq!(other.sessions().clear_account(b), 1);
    for replica in [&one, &late] {
        replica.until("the session to be forgotten", |replica| replica.home(1).is_none()).await;
    }
    assert_eq!(Replica::start(&server).await.home(1), None);
}

#[tokio::test]
async fn of_replicas_that_place_a_session_at_the_same_time_one_is_followed() {
    let server = RedisServer::start(&[]).unwrap();
    let (one, other) = (Replica::start(&server).await, Replica::start(&server).await);
    for session in 0..50 {
        one.place(session, "a");
        other.place(session, "b");
    }
    one.until("the replicas to agree", |one| (0..50).all(|session| one.home(session) == other.home(session)))
        .await;
}

#[tokio::test]
async fn replicas_hold_no_more_places_than_there_are_and_all_of_them() {
    let server = RedisServer::start(&[]).unwrap();
    let (one, other) = (Replica::start(&server).await, Replica::start(&server).await);
    let first = one.slot().await.unwrap();
    let second = other.slot().await.unwrap();
    assert!(one.slot().await.is_none() && other.slot().await.is_none(), "two are two, whoever serves them");
    drop(first);
    let waiting = async {
        loop {
            if let Some(slot) = other.slot().await {
                return slot;
            }
        }
    };
    let third = tokio::time::timeout(Duration::from_secs(20), waiting).await.unwrap();
    assert!(one.slot().await.is_none());
    drop((second, third));
}

#[tokio::test]
async fn places_of_a_process_that_is_gone_come_back_and_those_of_one_that_lives_do_not() {
    let server = RedisServer::start(&[]).unwrap();
    let one = Replica::start(&server).await;
    let table = format!("{{la:platform/gateway}}:accounts:places:{:016x}", one.known("b").id.bits());
    let ends = format!("{table}:ends");
    server.command(&["HSET", &table, "gone", "2"]).unwrap();
    server.command(&["ZADD", &ends, "4000000000000", "gone"]).unwrap();
    assert!(one.slot().await.is_none());
    server.command(&["ZADD", &ends, "1000", "gone"]).unwrap();
    assert!(one.slot().await.is_some());
}

#[tokio::test]
async fn without_the_server_each_process_counts_alone_and_together_again_after_it() {
    let mut server = RedisServer::start(&[]).unwrap();
    let (one, other) = (Replica::start(&server).await, Replica::start(&server).await);
    let held = [one.slot().await.unwrap(), one.slot().await.unwrap()];
    assert!(other.slot().await.is_none());
    server.kill();
    // Whoever asks meanwhile is answered, too.
    let alone = async {
        loop {
            if let Some(slot) = other.slot().await {
                return slot;
            }
        }
    };
    let alone = tokio::time::timeout(Duration::from_secs(20), alone).await.unwrap();
    server.restart().unwrap();
    for replica in [&one, &other] {
        replica.until("to be together again", Replica::is_together).await;
    }
    assert!(one.slot().await.is_none() && other.slot().await.is_none(), "three are in use");
    drop((held, alone));
    let both = async {
        loop {
            let (first, second) = (one.slot().await, other.slot().await);
            if first.is_some() && second.is_some() {
                return;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(20), both).await.unwrap();
}

#[tokio::test]
async fn login_is_renewed_by_one_process_at_a_time_and_by_none_that_cannot_ask() {
    let mut server = RedisServer::start(&[]).unwrap();
    let (one, other) = (Replica::start(&server).await, Replica::start(&server).await);
    let lease = one.fleet.lease_login(login("r1")).await.unwrap();
    assert_eq!(other.fleet.lease_login(login("r1")).await.err(), Some(NotLeased::Busy));
    assert!(other.fleet.lease_login(login("r2")).await.is_ok(), "another login is another's");
    drop(lease);
    let free = async {
        while other.fleet.lease_login(login("r1")).await.is_err() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), free).await.unwrap();
    server.kill();
    one.until("the outage to be seen", |one| !one.is_together()).await;
    assert!(matches!(one.fleet.lease_login(login("r3")).await, Err(NotLeased::Unknown(_))));
}

#[tokio::test]
async fn what_cannot_be_read_is_passed_over_and_the_rest_is_heard() {
    let server = RedisServer::start(&[]).unwrap();
    server.command(&["HSET", RESTS, "garbage", "\u{0}", "0000000000000001 limit account", "2 new"]).unwrap();
    let one = Replica::start(&server).await;
    let news = "{la:platform/gateway}:accounts:news";
    for entry in [["x", "y", "z", ""], ["kind", "rest", "name", "?"], ["kind", "later", "value", "1"]] {
        server.command(&["XADD", news, "*", entry[0], entry[1], entry[2], entry[3]]).unwrap();
    }
    let other = Replica::start(&server).await;
    other.refused("a", 403, Class::Auth);
    one.until("the rest to be heard of", |one| one.why("a").is_some()).await;
    assert!(one.is_together() && one.fleet.shared.said_unreadable.load(std::sync::atomic::Ordering::Relaxed));
}

#[tokio::test]
async fn account_that_comes_later_is_known_as_the_others_know_it() {
    let server = RedisServer::start(&[]).unwrap();
    let (one, other) = (Replica::start(&server).await, Replica::start(&server).await);
    let mut snapshot = one.cell.load().snapshot().clone();
    let Backend::Anthropic { accounts, .. } = &mut snapshot.providers[0].backend;
    accounts.push(Account::new("c", CredentialSource::Published));
    one.cell.publish(build(&snapshot));
    one.until("it to be told of", |one| one.known("c").outbox.get().is_some()).await;
    one.refused("c", 403, Class::Auth);
    let told = async {
        while server.command(&["HLEN", RESTS]).unwrap() != ":1\r\n" {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), told).await.unwrap();
    other.cell.publish(build(&snapshot));
    other.until("its rest to be known", |other| other.why("c") == Some(Why::Forbidden)).await;
}

#[tokio::test]
async fn all_keys_are_in_one_slot_of_a_cluster() {
    let bus = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port().to_string();
    let server = RedisServer::start(&["--cluster-enabled", "yes", "--cluster-port", &bus]).unwrap();
    server.command(&["CLUSTER", "ADDSLOTSRANGE", "0", "16383"]).unwrap();
    let (one, other) = (Replica::start(&server).await, Replica::start(&server).await);
    one.refused("a", 403, Class::Auth);
    one.place(1, "b");
    other.until("all to be heard of", |other| other.why("a").is_some() && other.home(1).is_some()).await;
    assert!(one.slot().await.is_some() && other.fleet.lease_login(login("r1")).await.is_ok());
}
