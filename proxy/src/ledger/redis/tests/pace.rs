//! What a reservation adds to the bare script. A measurement, run by hand with `--release -- --ignored --nocapture`.

use std::time::{Duration, Instant};

use la_core::amount::Unit;

use super::*;
use crate::ledger::Demand;
use crate::ledger::conformance::{NOON_MS, Party, amounts, covering, spent};

const ROUNDS: usize = 2_000;

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

#[tokio::test]
#[ignore = "a measurement, not a proof"]
#[expect(clippy::disallowed_methods, reason = "measures")]
async fn reservation_takes_at_most_twice_as_long_as_the_bare_script() {
    let server = RedisServer::start(&[]).unwrap();
    let time = Time { clock: Clock::Server, lease_ms: super::super::LEASE_MS };
    let ledger = open(&server.url(), time, OnUnavailable::Deny, Counter::default());
    let token = Party::token("a")
        .hard(Unit::Requests, 1 << 50, "lifetime")
        .hard(Unit::Tokens, 1 << 50, "Day@UTC")
        .hard(Unit::Usd, 1 << 50, "rolling/24h")
        .rate(Unit::Requests, 1_000_000, "1s", 1_000_000);
    let pool = Party::pool("p").hard(Unit::Usd, 1 << 50, "Month@UTC");
    let covering = covering(&[&token, &pool]);
    let amounts = amounts(100, 1_000);
    let demand = Demand::once(&covering, amounts);
    let shared = &remote(&ledger).shared;
    ledger.reserve(&demand, NOON_MS).await.unwrap().settle(&spent(1, 1));
    let (now_ms, link) = (shared.server_ms(NOON_MS), shared.linked().await.ok().unwrap());
    let seats = demand::seats(&covering).unwrap();
    let keys: Vec<_> = covering.iter().flat_map(|covering| demand::keys(covering.owner)).collect();
    let (mut bare, mut whole) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        let hold = format!("bare-{round}");
        let lease_ms = time.lease_ms;
        let ask = demand::Ask { hold: &hold, asks: demand::Asks::First, lease_ms, amounts: &amounts };
        let arguments = demand::arguments(&ask, &seats, now_ms);
        let began = Instant::now();
        link.run(Script::Reserve, &keys, &arguments).await.unwrap();
        bare.push(began.elapsed());
        link.run(Script::Finish, &keys, &demand::ending(&hold, None)).await.unwrap();
        let began = Instant::now();
        let reservation = ledger.reserve(&demand, NOON_MS).await.unwrap();
        whole.push(began.elapsed());
        reservation.settle(&spent(1, 1));
        ledger.quiet().await;
    }
    let (bare, whole) = (median(bare), median(whole));
    println!("bare script {bare:?}, reservation {whole:?}");
    assert!(whole <= bare * 2);
}
