//! Rates, requests at one time, and which limit a refusal names.

use super::*;

#[tokio::test]
async fn rate_admits_its_burst_at_once_and_then_its_limit_per_interval() {
    for scene in Scene::each() {
        let token = Party::token("a").rate(Unit::Requests, 60, "1m", 5);
        for _ in 0..5 {
            scene.reserve(&[&token], one(), NOON_MS).await.unwrap().settle(&spent(0, 0));
        }
        scene.quiet().await;
        let refused = scene.refused(&[&token], one(), NOON_MS).await;
        assert!(is_by(&refused, RefusedBy::Rate, &token), "{}: {refused}", scene.name);
        assert_eq!(
            (refused.used, refused.limit, refused.retry_at_ms),
            (5, 5, Some(NOON_MS + 1_000)),
            "{}",
            scene.name
        );
        scene.refused(&[&token], one(), NOON_MS + 999).await;
        scene.reserve(&[&token], one(), NOON_MS + 1_000).await.unwrap().settle(&spent(0, 0));
    }
}

#[tokio::test]
async fn rate_of_tokens_gives_back_what_was_not_used() {
    for scene in Scene::each() {
        let token = Party::token("a").rate(Unit::Tokens, 1_000, "1h", 1_000);
        scene.reserve(&[&token], amounts(900, 0), NOON_MS).await.unwrap().settle(&spent(400, 0));
        scene.quiet().await;
        let held = scene.reserve(&[&token], amounts(600, 0), NOON_MS).await.unwrap();
        assert_eq!(scene.refused(&[&token], amounts(1, 0), NOON_MS).await.used, 1_000, "{}", scene.name);
        held.release();
        scene.quiet().await;
        scene.reserve(&[&token], amounts(600, 0), NOON_MS).await.unwrap().release();
    }
}

#[tokio::test]
async fn clock_that_is_set_back_does_not_stop_a_rate() {
    for scene in Scene::each() {
        let token = Party::token("a").rate(Unit::Requests, 1, "1s", 1);
        scene.reserve(&[&token], one(), NOON_MS + DAY_MS).await.unwrap().settle(&spent(0, 0));
        scene.quiet().await;
        scene.refused(&[&token], one(), NOON_MS).await;
        scene.reserve(&[&token], one(), NOON_MS + 1_000).await.unwrap().settle(&spent(0, 0));
    }
}

#[tokio::test]
async fn requests_at_one_time_are_bounded_and_a_seat_comes_free_with_each_end() {
    for scene in Scene::each() {
        let token = Party::token("a").concurrency(3);
        let mut open = Vec::new();
        for _ in 0..3 {
            open.push(scene.reserve(&[&token], one(), NOON_MS).await.unwrap());
        }
        let refused = scene.refused(&[&token], one(), NOON_MS).await;
        assert!(is_by(&refused, RefusedBy::Concurrency, &token), "{}: {refused}", scene.name);
        assert_eq!((refused.used, refused.limit, refused.retry_at_ms), (3, 3, None), "{}", scene.name);
        for (end, held) in open.into_iter().enumerate() {
            match end {
                0 => drop(held.settle(&spent(0, 0))),
                1 => held.release(),
                _ => drop(held),
            }
            scene.quiet().await;
            scene.reserve(&[&token], one(), NOON_MS).await.unwrap().settle(&spent(0, 0));
            scene.quiet().await;
        }
    }
}

#[tokio::test]
async fn refusal_names_the_limit_that_stands_longest() {
    for scene in Scene::each() {
        let token = Party::token("a")
            .hard(Unit::Requests, 1, "Hour@UTC")
            .hard(Unit::Tokens, 10, "Day@UTC")
            .rate(Unit::Requests, 1, "1m", 1)
            .concurrency(1);
        let pool = Party::pool("p").hard(Unit::Usd, 5, "Month@UTC");
        let held = scene.reserve(&[&token, &pool], amounts(10, 5), NOON_MS).await.unwrap();
        let month = scene.refused(&[&token, &pool], amounts(1, 1), NOON_MS).await;
        assert!(is_by(&month, RefusedBy::Budget, &pool), "{}: {month}", scene.name);
        let day = scene.refused(&[&token, &pool], amounts(1, 0), NOON_MS).await;
        assert_eq!(&*day.name, "Tokens-Day@UTC", "{}: {day}", scene.name);
        let hour = scene.refused(&[&token, &pool], amounts(0, 0), NOON_MS).await;
        assert_eq!(&*hour.name, "Requests-Hour@UTC", "{}: {hour}", scene.name);
        held.settle(&spent(10, 5));
    }
}

#[tokio::test]
async fn amount_beyond_counting_is_refused() {
    for scene in Scene::each() {
        let token = Party::token("a").hard(Unit::Tokens, 1_000, "lifetime");
        let refused = scene.refused(&[&token], amounts(u64::MAX, 0), NOON_MS).await;
        assert!(is_by(&refused, RefusedBy::Budget, &token), "{}: {refused}", scene.name);
        assert_eq!(scene.used(&[&token], NOON_MS).await, [0], "{}", scene.name);
    }
}
