//! What a ledger tells.

use super::*;

#[tokio::test]
async fn standings_tell_use_limit_and_reset_in_the_order_of_budgets() {
    for scene in Scene::each() {
        let token = Party::token("a")
            .hard(Unit::Requests, 7, "lifetime")
            .hard(Unit::Tokens, 700, "Hour@UTC")
            .budget(Unit::Usd, 70, "rolling/119m", Enforcement::Shadow);
        let pool = Party::pool("p").hard(Unit::Tokens, 900, "Day@UTC");
        let parties = [&token, &pool];
        let held = scene.reserve(&parties, amounts(300, 30), NOON_MS).await.unwrap();
        let told: Vec<_> = scene
            .ledger
            .standings(&covering(&parties), NOON_MS)
            .into_iter()
            .map(|standing| (standing.name.to_string(), standing.used, standing.limit, standing.resets_at_ms))
            .collect();
        let hour_ms = 60 * MINUTE_MS;
        let expected = [
            ("Requests-lifetime", 1, 7, None),
            ("Tokens-Hour@UTC", 300, 700, Some(NOON_MS + hour_ms)),
            ("USD-rolling/119m", 30, 70, Some(NOON_MS + 2 * hour_ms)),
            ("Tokens-Day@UTC", 300, 900, Some(NOON_MS + 12 * hour_ms)),
        ]
        .map(|(name, used, limit, reset)| (name.to_owned(), used, limit, reset));
        assert_eq!(told, expected, "{}", scene.name);
        held.release();
    }
}

#[tokio::test]
async fn exhausted_budget_is_told_before_anything_is_reserved() {
    for scene in Scene::each() {
        let token = Party::token("a").hard(Unit::Requests, 2, "Hour@UTC");
        let covering = covering(&[&token]);
        assert_eq!(scene.ledger.exhausted(&covering, NOON_MS), None, "{}", scene.name);
        let held = scene.reserve(&[&token], one(), NOON_MS).await.unwrap();
        assert_eq!(scene.ledger.exhausted(&covering, NOON_MS), None, "{}", scene.name);
        let last = scene.reserve(&[&token], one(), NOON_MS).await.unwrap();
        let refused = scene.ledger.exhausted(&covering, NOON_MS).unwrap();
        assert_eq!(
            (refused.used, refused.retry_at_ms),
            (2, Some(NOON_MS + 60 * MINUTE_MS)),
            "{}",
            scene.name
        );
        last.release();
        assert_eq!(scene.ledger.exhausted(&covering, NOON_MS), None, "{}", scene.name);
        held.release();
    }
}

#[tokio::test]
async fn usage_tells_settled_and_open_requests_and_tokens_by_kind() {
    for scene in Scene::each() {
        let token = Party::token("a");
        assert_eq!(scene.ledger.usage(&token.subject), None, "{}", scene.name);
        scene.reserve(&[&token], amounts(100, 7), NOON_MS).await.unwrap().settle(&spent(41, 3));
        let open = scene.reserve(&[&token], amounts(100, 7), NOON_MS).await.unwrap();
        scene.quiet().await;
        scene.look(&token).await;
        let used = scene.ledger.usage(&token.subject).unwrap();
        let kinds = Usage { input_tokens: 20, output_tokens: 21, ..Usage::default() };
        assert_eq!((used.settled, used.open, used.tokens), (1, 1, kinds), "{}", scene.name);
        let all = scene.ledger.usage_all();
        assert_eq!((all.len(), all[0].nano_usd, &all[0].subject), (1, 3, &token.subject), "{}", scene.name);
        drop(open);
    }
}

impl Scene {
    /// Has a shared ledger read how an owner stands, as it does by itself from time to time.
    async fn look(&self, party: &Party) {
        if self.redis.is_some() {
            self.ledger.look(&party.subject).await;
        }
    }
}
