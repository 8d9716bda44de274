//! How a reservation ends, once.

use super::*;

#[tokio::test]
async fn settling_charges_what_was_spent_and_gives_back_the_rest() {
    for scene in Scene::each() {
        let token =
            Party::token("a").hard(Unit::Tokens, 100, "lifetime").hard(Unit::Usd, 1_000, "rolling/1h");
        let held = scene.reserve(&[&token], amounts(90, 900), NOON_MS).await.unwrap();
        assert_eq!(*held.reserved(), amounts(90, 900));
        assert_eq!(scene.used(&[&token], NOON_MS).await, [90, 900], "{}", scene.name);
        assert_eq!(held.settle(&spent(30, 300)).overrun, Amounts::default(), "{}", scene.name);
        assert_eq!(scene.used(&[&token], NOON_MS).await, [30, 300], "{}", scene.name);
    }
}

#[tokio::test]
async fn use_beyond_the_reservation_is_charged_and_told() {
    for scene in Scene::each() {
        let token = Party::token("a").hard(Unit::Tokens, 100, "lifetime");
        let held = scene.reserve(&[&token], amounts(90, 0), NOON_MS).await.unwrap();
        let overrun = held.settle(&spent(130, 0)).overrun;
        assert_eq!(overrun, Amounts { requests: 0, tokens: 40, nano_usd: 0 }, "{}", scene.name);
        assert_eq!(scene.used(&[&token], NOON_MS).await, [130], "{}", scene.name);
    }
}

#[tokio::test]
async fn reservation_that_is_dropped_is_charged_and_one_that_is_released_is_not() {
    for scene in Scene::each() {
        let token = Party::token("a").hard(Unit::Requests, 9, "Day@UTC").hard(Unit::Tokens, 100, "lifetime");
        drop(scene.reserve(&[&token], amounts(40, 0), NOON_MS).await.unwrap());
        assert_eq!(scene.used(&[&token], NOON_MS).await, [1, 40], "{}", scene.name);
        scene.reserve(&[&token], amounts(60, 0), NOON_MS).await.unwrap().release();
        assert_eq!(scene.used(&[&token], NOON_MS).await, [1, 40], "{}", scene.name);
    }
}

#[tokio::test]
async fn raise_takes_more_under_all_limits_or_changes_nothing() {
    for scene in Scene::each() {
        let token = Party::token("a").hard(Unit::Tokens, 100, "lifetime").concurrency(1);
        let pool = Party::pool("p").hard(Unit::Tokens, 90, "rolling/1h");
        let parties = [&token, &pool];
        let mut held = scene.reserve(&parties, amounts(50, 0), NOON_MS).await.unwrap();
        let covering = covering(&parties);
        let more = |tokens| Demand::once(&covering, Amounts { requests: 0, tokens, nano_usd: 0 });
        held.raise(&more(30), NOON_MS).await.unwrap();
        let refused = held.raise(&more(11), NOON_MS).await.unwrap_err();
        assert!(
            matches!(&refused, ReserveError::Refused(why) if is_by(why, RefusedBy::Budget, &pool)),
            "{refused}"
        );
        assert_eq!(*held.reserved(), amounts(80, 0), "{}", scene.name);
        assert!(is_by(
            &scene.refused(&parties, amounts(1, 0), NOON_MS).await,
            RefusedBy::Concurrency,
            &token
        ));
        held.settle(&spent(60, 0));
        assert_eq!(scene.used(&parties, NOON_MS).await, [60, 60], "{}", scene.name);
    }
}

#[tokio::test]
async fn raise_in_the_next_period_is_charged_there() {
    for scene in Scene::each() {
        let token = Party::token("a").hard(Unit::Tokens, 100, "Hour@UTC");
        let mut held = scene.reserve(&[&token], amounts(50, 0), NOON_MS).await.unwrap();
        let (covering, later_ms) = (covering(&[&token]), NOON_MS + 60 * MINUTE_MS);
        scene.set_clock(later_ms);
        let amounts = Amounts { requests: 0, tokens: 50, nano_usd: 0 };
        held.raise(&Demand::once(&covering, amounts), later_ms).await.unwrap();
        held.settle(&spent(70, 0));
        assert_eq!(scene.used(&[&token], later_ms).await, [20], "{}", scene.name);
    }
}

#[tokio::test]
async fn closed_ledger_refuses_and_keeps_what_was_settled() {
    for scene in Scene::each() {
        let token = Party::token("a").hard(Unit::Requests, 9, "lifetime");
        scene.reserve(&[&token], one(), NOON_MS).await.unwrap().settle(&spent(0, 0));
        scene.ledger.close().unwrap();
        let refused = scene.reserve(&[&token], one(), NOON_MS).await;
        assert!(matches!(refused, Err(ReserveError::Unavailable(_))), "{}", scene.name);
        assert!(scene.ledger.health().is_err(), "{}", scene.name);
        scene.ledger.close().unwrap();
    }
}
