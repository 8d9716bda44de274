//! Budgets: units, windows, pools, enforcement.

use super::*;

#[tokio::test]
async fn hard_budget_of_each_unit_admits_exactly_its_limit() {
    for scene in Scene::each() {
        for (unit, limit) in [(Unit::Requests, 3), (Unit::Tokens, 300), (Unit::Usd, 3_000_000_000)] {
            let token = Party::token(unit.name()).hard(unit, limit, "lifetime");
            for _ in 0..3 {
                scene
                    .reserve(&[&token], amounts(100, 1_000_000_000), NOON_MS)
                    .await
                    .unwrap()
                    .settle(&spent(100, 1_000_000_000));
            }
            scene.quiet().await;
            let refused = scene.refused(&[&token], amounts(1, 1), NOON_MS).await;
            assert_eq!((refused.used, refused.limit, refused.wanted), (limit, limit, 1), "{}", scene.name);
            assert!(is_by(&refused, RefusedBy::Budget, &token) && refused.retry_at_ms.is_none(), "{refused}");
        }
    }
}

#[tokio::test]
async fn refusal_changes_no_counter_of_anybody() {
    for scene in Scene::each() {
        let token = Party::token("a")
            .hard(Unit::Requests, 10, "lifetime")
            .rate(Unit::Requests, 2, "1h", 2)
            .concurrency(5);
        let pool = Party::pool("p").hard(Unit::Tokens, 100, "Day@UTC");
        for _ in 0..20 {
            assert!(is_by(
                &scene.refused(&[&token, &pool], amounts(101, 0), NOON_MS).await,
                RefusedBy::Budget,
                &pool
            ));
        }
        assert_eq!(scene.used(&[&token, &pool], NOON_MS).await, [0, 0], "{}", scene.name);
        let first = scene.reserve(&[&token, &pool], amounts(50, 0), NOON_MS).await.unwrap();
        let second = scene.reserve(&[&token, &pool], amounts(50, 0), NOON_MS).await.unwrap();
        assert_eq!(scene.used(&[&token, &pool], NOON_MS).await, [2, 100], "{}", scene.name);
        drop((first, second));
    }
}

#[tokio::test]
async fn pool_is_used_by_all_whom_it_covers() {
    for scene in Scene::each() {
        let (a, b, pool) =
            (Party::token("a"), Party::token("b"), Party::pool("team").hard(Unit::Requests, 3, "lifetime"));
        for party in [&a, &b, &a] {
            scene.reserve(&[party, &pool], one(), NOON_MS).await.unwrap().settle(&spent(0, 0));
        }
        let refused = scene.refused(&[&b, &pool], one(), NOON_MS).await;
        assert!(is_by(&refused, RefusedBy::Budget, &pool), "{}: {refused}", scene.name);
        scene.reserve(&[&b], one(), NOON_MS).await.unwrap().release();
    }
}

#[tokio::test]
async fn calendar_window_begins_anew_and_charges_nothing_of_before() {
    for scene in Scene::each() {
        let token = Party::token("a").hard(Unit::Tokens, 100, "Day@Europe/Berlin");
        let late = scene.reserve(&[&token], amounts(80, 0), NOON_MS).await.unwrap();
        let refused = scene.refused(&[&token], amounts(21, 0), NOON_MS).await;
        let midnight_ms = NOON_MS + 11 * 60 * MINUTE_MS;
        assert_eq!(
            (refused.retry_at_ms, refused.resets_at_ms),
            (Some(midnight_ms), Some(midnight_ms)),
            "{}",
            scene.name
        );
        scene.refused(&[&token], amounts(21, 0), midnight_ms - 1).await;
        let today = scene.reserve(&[&token], amounts(60, 0), midnight_ms).await.unwrap();
        late.settle(&spent(80, 0));
        assert_eq!(scene.used(&[&token], midnight_ms).await, [60], "{}", scene.name);
        today.release();
        assert_eq!(scene.used(&[&token], midnight_ms).await, [0], "{}", scene.name);
    }
}

#[tokio::test]
async fn rolling_window_lets_go_of_what_is_old() {
    for scene in Scene::each() {
        let token = Party::token("a").hard(Unit::Requests, 4, "rolling/1h");
        for at_ms in [NOON_MS, NOON_MS + MINUTE_MS, NOON_MS + MINUTE_MS, NOON_MS + 30 * MINUTE_MS] {
            scene.reserve(&[&token], one(), at_ms).await.unwrap().settle(&spent(0, 0));
        }
        scene.quiet().await;
        let refused = scene.refused(&[&token], one(), NOON_MS + 31 * MINUTE_MS).await;
        let free_ms = refused.retry_at_ms.unwrap();
        assert!((NOON_MS + 60 * MINUTE_MS..=NOON_MS + 61 * MINUTE_MS).contains(&free_ms), "{}", scene.name);
        scene.refused(&[&token], one(), free_ms - 1).await;
        assert_eq!(scene.used(&[&token], free_ms).await, [3], "{}", scene.name);
        let two = scene.refused(&[&token], Amounts::of_requests(2), free_ms).await;
        assert!(
            two.retry_at_ms > Some(free_ms) && two.retry_at_ms <= Some(NOON_MS + 62 * MINUTE_MS),
            "{}",
            scene.name
        );
        assert_eq!(scene.used(&[&token], NOON_MS + 3 * 60 * MINUTE_MS).await, [0], "{}", scene.name);
    }
}

#[tokio::test]
async fn clock_that_is_set_back_opens_no_window_again() {
    for scene in Scene::each() {
        let token =
            Party::token("a").hard(Unit::Requests, 1, "Day@UTC").hard(Unit::Tokens, 100, "rolling/24h");
        let tomorrow_ms = NOON_MS + DAY_MS;
        scene.reserve(&[&token], amounts(100, 0), tomorrow_ms).await.unwrap().settle(&spent(100, 0));
        scene.quiet().await;
        for at_ms in [tomorrow_ms - 1, NOON_MS, NOON_MS - 30 * DAY_MS] {
            scene.refused(&[&token], amounts(1, 0), at_ms).await;
        }
        scene.reserve(&[&token], amounts(100, 0), tomorrow_ms + 2 * DAY_MS).await.unwrap().release();
    }
}

#[tokio::test]
async fn soft_and_shadow_budgets_admit_and_count() {
    for scene in Scene::each() {
        let token = Party::token("a").budget(Unit::Requests, 1, "lifetime", Enforcement::Soft).budget(
            Unit::Tokens,
            1,
            "Hour@UTC",
            Enforcement::Shadow,
        );
        for _ in 0..3 {
            scene.reserve(&[&token], amounts(10, 0), NOON_MS).await.unwrap().settle(&spent(10, 0));
        }
        assert_eq!(scene.used(&[&token], NOON_MS).await, [3, 30], "{}", scene.name);
    }
}

#[tokio::test]
async fn use_counts_by_unit_and_window_whatever_a_budget_is_called_or_allows() {
    for scene in Scene::each() {
        let before = Party::token("a").hard(Unit::Requests, 2, "lifetime");
        for _ in 0..2 {
            scene.reserve(&[&before], one(), NOON_MS).await.unwrap().settle(&spent(0, 0));
        }
        let mut renamed = Party::token("a").hard(Unit::Requests, 2, "lifetime");
        renamed.limits.budgets[0].name = "another".into();
        scene.quiet().await;
        assert_eq!(&*scene.refused(&[&renamed], one(), NOON_MS).await.name, "another", "{}", scene.name);
        let raised = Party::token("a").hard(Unit::Requests, 3, "lifetime").hard(Unit::Requests, 9, "Day@UTC");
        scene.reserve(&[&raised], one(), NOON_MS).await.unwrap().settle(&spent(0, 0));
        assert_eq!(scene.used(&[&raised], NOON_MS).await, [3, 1], "{}", scene.name);
    }
}

#[tokio::test]
async fn requests_at_the_same_time_never_go_over() {
    for scene in Scene::each() {
        let token = Party::token("a").hard(Unit::Requests, 100, "lifetime");
        let pool = Party::pool("p").hard(Unit::Tokens, 1_700, "rolling/1h");
        scene.set_clock(NOON_MS);
        let covering = covering(&[&token, &pool]);
        let demand = Demand::once(&covering, amounts(17, 0));
        let all = (0..500).map(|_| scene.ledger.reserve(&demand, NOON_MS));
        let all = futures::future::join_all(all).await;
        assert_eq!(all.iter().filter(|one| one.is_ok()).count(), 100, "{}", scene.name);
        drop(all);
        assert_eq!(
            scene.ledger.standings(&covering, NOON_MS).iter().map(|s| s.used).collect::<Vec<_>>(),
            [100, 1_700]
        );
    }
}
