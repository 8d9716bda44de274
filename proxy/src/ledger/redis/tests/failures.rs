//! Servers that are gone, come back, or cannot keep a ledger.

use std::time::Duration;

use la_core::amount::Unit;

use super::*;
use crate::ledger::conformance::{NOON_MS, Party, covering, one, spent};
use crate::ledger::{Demand, ReserveError};

const SERVER_TIME: Time = Time { clock: Clock::Server, lease_ms: super::super::LEASE_MS };

fn denying(url: &str) -> Arc<Ledger> {
    open(url, SERVER_TIME, OnUnavailable::Deny, Counter::default())
}

/// Waits until the ledger says what it does not say at first.
async fn until_health(ledger: &Ledger, wanted: impl Fn(&Result<(), String>) -> bool) -> Result<(), String> {
    let mut last = ledger.health();
    let waiting = async {
        while !wanted(&last) {
            tokio::time::sleep(Duration::from_millis(2)).await;
            last = ledger.health();
        }
    };
    let is_in_time = tokio::time::timeout(Duration::from_secs(20), waiting).await.is_ok();
    assert!(is_in_time, "health stays {last:?}");
    last
}

#[tokio::test]
async fn server_that_is_gone_refuses_within_a_second_and_all_is_well_once_it_is_back() {
    let mut server = RedisServer::start(&["--appendonly", "yes", "--appendfsync", "always"]).unwrap();
    let token = Party::token("a").hard(Unit::Requests, 3, "lifetime");
    let covering = covering(&[&token]);
    let demand = Demand::once(&covering, one());
    let ledger = denying(&server.url());
    let open = ledger.reserve(&demand, NOON_MS).await.unwrap();
    ledger.reserve(&demand, NOON_MS).await.unwrap().settle(&spent(0, 0));
    ledger.quiet().await;
    server.kill();
    let gone = tokio::time::timeout(Duration::from_secs(1), until_health(&ledger, Result::is_err)).await;
    assert!(gone.unwrap().is_err());
    let refused =
        tokio::time::timeout(Duration::from_secs(2), ledger.reserve(&demand, NOON_MS)).await.unwrap();
    assert!(matches!(refused, Err(ReserveError::Unavailable(_))));
    open.settle(&spent(0, 0));
    server.restart().unwrap();
    until_health(&ledger, Result::is_ok).await.unwrap();
    ledger.quiet().await;
    let last = ledger.reserve(&demand, NOON_MS).await.unwrap();
    assert!(matches!(ledger.reserve(&demand, NOON_MS).await, Err(ReserveError::Refused(_))));
    last.release();
    ledger.close().unwrap();
}

#[tokio::test]
async fn allowed_without_a_server_a_request_is_admitted_counted_and_told() {
    let mut server = RedisServer::start(&[]).unwrap();
    let unrecorded = Counter::default();
    let ledger = open(&server.url(), SERVER_TIME, OnUnavailable::Allow, unrecorded.clone());
    let token = Party::token("a").hard(Unit::Requests, 1, "lifetime");
    let covering = covering(&[&token]);
    let demand = Demand::once(&covering, one());
    ledger.reserve(&demand, NOON_MS).await.unwrap().release();
    assert_eq!(ledger.unrecorded(), None);
    server.kill();
    for _ in 0..3 {
        ledger.reserve(&demand, NOON_MS).await.unwrap().settle(&spent(0, 0));
    }
    assert_eq!(unrecorded.get(), 3);
    assert!(ledger.health().is_ok() && ledger.unrecorded().is_some());
}

#[tokio::test]
async fn server_that_cannot_keep_a_ledger_gives_one_reason_and_is_used_once_it_can() {
    let evicting = RedisServer::start(&["--maxmemory-policy", "allkeys-lru"]).unwrap();
    let ledger = denying(&evicting.url());
    let why =
        until_health(&ledger, |health| !matches!(health, Err(why) if why.contains("being connected"))).await;
    assert_eq!(
        why.unwrap_err(),
        "has maxmemory-policy allkeys-lru, which throws away use; it must be noeviction"
    );
    evicting.command(&["CONFIG", "SET", "maxmemory-policy", "noeviction"]).unwrap();
    until_health(&ledger, Result::is_ok).await.unwrap();
}

#[tokio::test]
async fn every_server_that_cannot_be_used_has_a_reason_of_its_own() {
    let primary = RedisServer::start(&["--requirepass", "right"]).unwrap();
    let [host, port] = [primary.address().ip().to_string(), primary.address().port().to_string()];
    let replica =
        RedisServer::start(&["--replicaof", &format!("{host} {port}"), "--masterauth", "right"]).unwrap();
    let full = RedisServer::start(&["--maxmemory", "1"]).unwrap();
    let gone = RedisServer::start(&[]).unwrap().url();
    let not_tls = replica.url().replace("redis://", "rediss://");
    for (url, part) in [
        (primary.url(), "password"),
        (format!("redis://:canary-wrong@{}", primary.address()), "does not accept the user and password"),
        (replica.url(), "read-only replica"),
        (full.url(), "OOM"),
        (gone, "refused or unreachable"),
        (not_tls, "if the server does not use TLS, write redis://"),
    ] {
        let ledger = denying(&url);
        let started =
            |health: &Result<(), String>| !matches!(health, Err(why) if why.contains("being connected"));
        let why = until_health(&ledger, started).await.expect_err(&url);
        assert!(why.contains(part) && !why.contains("canary"), "{url}: {why}");
    }
    let right = denying(&format!("redis://:right@{}", primary.address()));
    until_health(&right, Result::is_ok).await.unwrap();
}
