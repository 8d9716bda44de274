//! Holds that expire, settle once, and belong to whoever renews them.

use la_core::amount::Unit;
use la_core::budget::RefusedBy;

use super::*;
use crate::ledger::Demand;
use crate::ledger::conformance::{MINUTE_MS, NOON_MS, Party, amounts, covering, one, spent};

const LEASE: Time = Time { clock: Clock::Key, lease_ms: super::super::LEASE_MS };

fn leased(shared: &Shared) -> Arc<Ledger> {
    shared.ledger_with(LEASE, OnUnavailable::Deny, Counter::default())
}

#[tokio::test]
async fn hold_that_nobody_renews_stays_charged_and_leaves_the_open_requests() {
    let shared = Shared::start();
    let token = Party::token("a").hard(Unit::Tokens, 100, "lifetime").concurrency(1);
    let covering = covering(&[&token]);
    let demand = Demand::once(&covering, amounts(40, 0));
    shared.set_clock(NOON_MS);
    let (killed, other) = (leased(&shared), leased(&shared));
    let held = killed.reserve(&demand, NOON_MS).await.unwrap();
    shared.set_clock(NOON_MS + MINUTE_MS - 1);
    let refused = other.reserve(&demand, NOON_MS).await.err().unwrap();
    assert!(refused.to_string().starts_with("concurrency"), "{refused}");
    shared.set_clock(NOON_MS + MINUTE_MS);
    let next = other.reserve(&demand, NOON_MS).await.unwrap();
    let standing = &other.standings(&covering, NOON_MS)[0];
    assert_eq!((standing.used, standing.open), (80, 40));
    held.settle(&spent(1, 0));
    killed.quiet().await;
    next.release();
    other.quiet().await;
    other.look(&token.subject).await;
    assert_eq!(other.standings(&covering, NOON_MS)[0].used, 40, "what expired stays charged as reserved");
}

#[tokio::test]
async fn hold_that_is_renewed_lasts() {
    let shared = Shared::start();
    let token = Party::token("a").concurrency(1);
    let covering = covering(&[&token]);
    let demand = Demand::once(&covering, one());
    shared.set_clock(NOON_MS);
    let ledger = leased(&shared);
    let held = ledger.reserve(&demand, NOON_MS).await.unwrap();
    let link = remote(&ledger).shared.linked().await.ok().unwrap();
    for minutes in 1..4 {
        shared.set_clock(NOON_MS + minutes * MINUTE_MS - 1);
        let mut arguments = vec![super::super::LEASE_MS.to_string(), "1000000".to_owned()];
        arguments.push(remote(&ledger).shared.name(1));
        link.run(Script::Renew, &demand::keys(&token.subject), &arguments).await.unwrap();
    }
    shared.set_clock(NOON_MS + 4 * MINUTE_MS - 2);
    assert!(ledger.reserve(&demand, NOON_MS).await.is_err());
    drop(held);
}

#[tokio::test]
async fn request_that_has_ended_here_stands_in_nobodys_way() {
    let shared = Shared::start();
    shared.set_clock(NOON_MS);
    let ledger = leased(&shared);
    for token in [Party::token("a").hard(Unit::Tokens, 100, "lifetime"), Party::token("b").concurrency(1)] {
        let covering = covering(&[&token]);
        let demand = Demand::once(&covering, amounts(80, 0));
        for round in 0..21 {
            let reserved = ledger.reserve(&demand, NOON_MS).await;
            let reserved = reserved.unwrap_or_else(|refused| panic!("{round}: {refused}"));
            reserved.settle(&spent(1, 0));
        }
        let one_more = ledger.reserve(&demand, NOON_MS).await;
        assert_eq!(one_more.is_ok(), token.subject.as_str().ends_with('b'), "21 and 80 are too many");
    }
}

#[tokio::test]
async fn second_settlement_of_a_hold_changes_nothing() {
    let shared = Shared::start();
    shared.set_clock(NOON_MS);
    let token = Party::token("a").hard(Unit::Tokens, 1_000, "rolling/1h").rate(Unit::Tokens, 1, "1h", 100);
    let covering = covering(&[&token]);
    let ledger = leased(&shared);
    let held = ledger.reserve(&Demand::once(&covering, amounts(90, 0)), NOON_MS).await.unwrap();
    held.settle(&spent(30, 0));
    ledger.quiet().await;
    let everything = || shared.server.command(&["HGETALL", &demand::keys(&token.subject)[0]]).unwrap();
    let before = everything();
    let link = remote(&ledger).shared.linked().await.ok().unwrap();
    let again = spent(90, 9);
    let arguments = demand::ending(&remote(&ledger).shared.name(1), Some((&again.amounts, &again.tokens)));
    for _ in 0..3 {
        let answer = link.run(Script::Finish, &demand::keys(&token.subject), &arguments).await.unwrap();
        assert_eq!(answer, redis::Value::Int(0));
    }
    assert_eq!(everything(), before);
}

#[tokio::test]
async fn question_that_is_asked_again_takes_once() {
    let shared = Shared::start();
    shared.set_clock(NOON_MS);
    let token = Party::token("a").hard(Unit::Requests, 10, "lifetime");
    let covering = covering(&[&token]);
    let seats = demand::seats(&covering).unwrap();
    let ledger = leased(&shared);
    let link = remote(&ledger).shared.linked().await.ok().unwrap();
    let amounts = one();
    let ask = demand::Ask { hold: "x-1", asks: demand::Asks::First, lease_ms: 1_000, amounts: &amounts };
    for _ in 0..3 {
        let arguments = demand::arguments(&ask, &seats, NOON_MS);
        let value = link.run(Script::Reserve, &demand::keys(&token.subject), &arguments).await.unwrap();
        let told = demand::Told::read(&value, &seats).unwrap();
        assert_eq!(told.outcome, demand::Outcome::Admitted);
        assert_eq!((told.owners[0].meters[0].open, told.owners[0].meters[0].settled), (1, 0));
    }
}

#[tokio::test]
async fn scripts_are_handed_over_again_where_the_server_has_lost_them() {
    let shared = Shared::start();
    shared.set_clock(NOON_MS);
    let token = Party::token("a").hard(Unit::Requests, 2, "lifetime");
    let covering = covering(&[&token]);
    let demand = Demand::once(&covering, one());
    let ledger = leased(&shared);
    ledger.reserve(&demand, NOON_MS).await.unwrap().settle(&spent(0, 0));
    ledger.quiet().await;
    assert_eq!(shared.server.command(&["SCRIPT", "FLUSH"]).unwrap(), "+OK\r\n");
    ledger.reserve(&demand, NOON_MS).await.unwrap().settle(&spent(0, 0));
    ledger.quiet().await;
    let refused = ledger.reserve(&demand, NOON_MS).await.err().unwrap();
    let crate::ledger::ReserveError::Refused(why) = refused else { panic!("{refused}") };
    assert_eq!((why.by, why.used), (RefusedBy::Budget, 2));
}

#[tokio::test]
async fn period_that_was_guessed_wrong_is_asked_for_again() {
    let shared = Shared::start();
    let token = Party::token("a").hard(Unit::Requests, 2, "Day@UTC");
    let covering = covering(&[&token]);
    let demand = Demand::once(&covering, one());
    shared.set_clock(NOON_MS);
    let ledger = leased(&shared);
    for wrong_ms in [0, NOON_MS - 100 * 1_440 * MINUTE_MS, NOON_MS + 100 * 1_440 * MINUTE_MS] {
        remote(&ledger).shared.ahead_ms.store(0, std::sync::atomic::Ordering::Relaxed);
        ledger.reserve(&demand, wrong_ms).await.unwrap().release();
        ledger.quiet().await;
    }
    drop(ledger.reserve(&demand, NOON_MS).await.unwrap());
    let standing = &ledger.standings(&covering, NOON_MS)[0];
    assert_eq!((standing.used, standing.resets_at_ms), (1, Some(NOON_MS + 720 * MINUTE_MS)));
}

#[tokio::test]
async fn limit_that_doubles_cannot_count_is_refused_by_name() {
    let shared = Shared::start();
    shared.set_clock(NOON_MS);
    let token = Party::token("a").hard(Unit::Usd, 1 << 53, "lifetime");
    let covering = covering(&[&token]);
    let ledger = shared.ledger_with(LEASE, OnUnavailable::Allow, Counter::default());
    assert!(ledger.objection(&covering).unwrap().contains("make it smaller"));
    let refused = ledger.reserve(&Demand::once(&covering, one()), NOON_MS).await.err().unwrap();
    assert!(
        refused.to_string().contains("budget USD-lifetime of gateway/agents/a has limit 9007199254740992"),
        "{refused}"
    );
}
