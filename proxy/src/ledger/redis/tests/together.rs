//! Several processes that share one budget.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use futures::future::join_all;
use la_core::amount::Unit;

use super::*;
use crate::ledger::conformance::{NOON_MS, Party, amounts, covering, spent};
use crate::ledger::{Demand, ReserveError};

const CLIENTS: usize = 64;
const LIMIT: u64 = 1_000_000_000;
const MOST: u64 = 13_000_000;

/// Spends until nothing fits although nothing is open.
async fn spend(ledger: &Ledger, demand: &Demand<'_>, open: &AtomicUsize, settled: &AtomicU64) {
    loop {
        let is_quiet = open.load(Ordering::SeqCst) == 0;
        open.fetch_add(1, Ordering::SeqCst);
        let asked = ledger.reserve(demand, NOON_MS).await;
        match asked {
            Ok(reservation) => {
                let cost = MOST / 2 + settled.load(Ordering::SeqCst) % (MOST / 2);
                settled.fetch_add(cost, Ordering::SeqCst);
                reservation.settle(&spent(0, cost));
                ledger.quiet().await;
            }
            Err(ReserveError::Refused(_)) if is_quiet => {
                open.fetch_sub(1, Ordering::SeqCst);
                return;
            }
            Err(ReserveError::Refused(_)) => {}
            Err(other) => panic!("{other}"),
        }
        open.fetch_sub(1, Ordering::SeqCst);
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn money_of_three_processes_ends_below_the_limit_by_less_than_one_reservation() {
    let server = RedisServer::start(&[]).unwrap();
    let time = Time { clock: Clock::Server, lease_ms: super::super::LEASE_MS };
    let ledgers = [0, 1, 2].map(|_| open(&server.url(), time, OnUnavailable::Deny, Counter::default()));
    let token = Party::token("a").hard(Unit::Usd, LIMIT, "lifetime");
    let covering = covering(&[&token]);
    let demand = Demand::once(&covering, amounts(0, MOST));
    let (open, settled) = (AtomicUsize::new(0), AtomicU64::new(0));
    let clients = (0..CLIENTS).zip(ledgers.iter().cycle());
    let all = join_all(clients.map(|(_, ledger)| spend(ledger, &demand, &open, &settled)));
    tokio::time::timeout(Duration::from_secs(60), all).await.unwrap();
    let [ledger, ..] = &ledgers;
    ledger.look(&token.subject).await;
    let standing = &ledger.standings(&covering, NOON_MS)[0];
    assert_eq!((standing.used, standing.open), (settled.load(Ordering::SeqCst), 0));
    assert!(standing.used <= LIMIT && standing.used > LIMIT - MOST, "{}", standing.used);
}
