//! The texts recorded in a RouterToken's status: which is current, what becomes of older ones, when the
//! current one is replaced.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use la_core::duration;
use la_core::id::TokenId;
use la_core::snapshot::IssuedId;
use la_crds::RouterTokenSpec;
use la_crds::router_token::{TokenState, TokenText};

/// Most texts remembered per token. Only a token that is renewed more than 32 times within one life has
/// more live ones; its oldest are then refused before their end.
const MOST_TEXTS: usize = 32;

/// Most seconds by which renewals of many tokens are spread.
const MOST_JITTER_SECONDS: i64 = 300;

/// Least seconds a text lives before it is replaced.
const LEAST_AGE_SECONDS: i64 = 5;

/// What becomes of older texts when a new one is recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Older {
    /// They live to their own end: a planned renewal.
    Live,
    /// They are refused from now on: the Secret was deleted or edited, or the key was lost.
    Revoked,
}

/// The newest text that is not revoked.
pub(crate) fn current(texts: &[TokenText]) -> Option<&TokenText> {
    texts.iter().filter(|text| text.state != TokenState::Revoked).rev().max_by_key(|text| text.not_before.0)
}

/// The newest text that was written to the Secret and is not revoked.
pub(crate) fn held(texts: &[TokenText]) -> Option<&TokenText> {
    texts.iter().filter(|text| text.state == TokenState::Active).rev().max_by_key(|text| text.not_before.0)
}

/// The texts as a snapshot lists them. A text that is being issued counts: it may already be in the Secret.
pub(crate) fn issued(texts: &[TokenText]) -> Vec<IssuedId> {
    let mut issued: Vec<_> = texts
        .iter()
        .filter_map(|text| {
            Some(IssuedId {
                id: TokenId::try_from(text.id.clone()).ok()?,
                not_before: text.not_before.0.as_second(),
                not_after: text.not_after.0.as_second(),
                revoked: text.state == TokenState::Revoked,
            })
        })
        .collect();
    // The order of a status list is the API server's business and must not count as a change.
    issued.sort_by(|a, b| (b.not_before, &b.id).cmp(&(a.not_before, &a.id)));
    issued
}

/// A text that starts now.
pub(crate) fn fresh(id: &TokenId, spec: &RouterTokenSpec, now: Timestamp) -> TokenText {
    let not_before = Timestamp::from_second(now.as_second()).unwrap_or(now);
    let not_after = not_before.saturating_add(life(spec)).unwrap_or(Timestamp::MAX);
    TokenText {
        id: id.to_string(),
        not_before: Time(not_before),
        not_after: Time(not_after),
        state: TokenState::Issuing,
    }
}

/// The texts after `new` was recorded: newest first, without what has ended.
pub(crate) fn with(texts: &[TokenText], new: TokenText, older: Older, now: Timestamp) -> Vec<TokenText> {
    let mut kept: Vec<_> = texts.iter().filter(|text| text.not_after.0 > now).cloned().collect();
    kept.sort_by_key(|text| std::cmp::Reverse(text.not_before.0));
    if older == Older::Revoked {
        kept.iter_mut().for_each(|text| text.state = TokenState::Revoked);
    }
    kept.insert(0, new);
    kept.truncate(MOST_TEXTS);
    kept
}

/// When `text` is replaced. Every text has a jitter of its own, which a restart does not change.
pub(crate) fn renewal(spec: &RouterTokenSpec, text: &TokenText) -> Timestamp {
    let (start, end) = (text.not_before.0.as_second(), text.not_after.0.as_second());
    let life_seconds = end.saturating_sub(start);
    let before = match (&spec.renew_before, spec.renew_before_percentage) {
        (Some(before), _) => seconds(duration::parse(before).unwrap_or_default()),
        (None, Some(percentage)) => life_seconds.saturating_mul(i64::from(percentage)) / 100,
        (None, None) => life_seconds / 3,
    };
    let age = life_seconds.saturating_sub(before);
    let most_jitter = (age.min(before) / 20).clamp(0, MOST_JITTER_SECONDS);
    let spread: i64 = text.id.bytes().fold(0, |sum, byte| (sum * 31 + i64::from(byte)) % 1_000_003);
    let at = start.saturating_add(age).saturating_sub(spread % (most_jitter + 1));
    Timestamp::from_second(at.max(start.saturating_add(LEAST_AGE_SECONDS))).unwrap_or(text.not_after.0)
}

/// Whether `text` was made with another duration than the spec asks for now.
pub(crate) fn has_other_duration(spec: &RouterTokenSpec, text: &TokenText) -> bool {
    text.not_after.0.as_second().saturating_sub(text.not_before.0.as_second()) != seconds(life(spec))
}

fn life(spec: &RouterTokenSpec) -> Duration {
    // The API server has checked the form; an object from before that rule gets the default.
    let parsed = duration::parse(&spec.duration).unwrap_or(Duration::from_secs(86_400));
    Duration::from_secs(parsed.as_secs().max(1))
}

fn seconds(duration: Duration) -> i64 {
    i64::try_from(duration.as_secs()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn text(id: &str, from: i64, until: i64, state: TokenState) -> TokenText {
        TokenText { id: id.to_owned(), not_before: Time(at(from)), not_after: Time(at(until)), state }
    }

    fn spec(json: serde_json::Value) -> RouterTokenSpec {
        let mut whole = serde_json::json!({ "proxyRef": { "name": "gateway" }, "secretName": "agent" });
        whole.as_object_mut().unwrap().extend(json.as_object().unwrap().clone());
        serde_json::from_value(whole).unwrap()
    }

    #[test]
    fn current_text_is_the_newest_that_is_not_revoked_in_whatever_order_they_come() {
        let mut texts = vec![
            text("old", 10, 100, TokenState::Active),
            text("revoked", 30, 100, TokenState::Revoked),
            text("new", 20, 100, TokenState::Issuing),
        ];
        assert_eq!(current(&texts).unwrap().id, "new");
        assert_eq!(held(&texts).unwrap().id, "old");
        texts.reverse();
        assert_eq!(current(&texts).unwrap().id, "new");
    }

    #[test]
    fn text_that_is_being_issued_is_served() {
        let ids = issued(&[text("a", 2, 3, TokenState::Issuing), text("b", 1, 2, TokenState::Revoked)]);
        assert_eq!(ids.iter().map(|issued| issued.revoked).collect::<Vec<_>>(), [false, true]);
    }

    #[test]
    fn older_texts_live_on_a_renewal_and_are_revoked_on_a_restore() {
        let texts = [text("ended", 0, 50, TokenState::Active), text("live", 10, 100, TokenState::Active)];
        let new = text("new", 60, 160, TokenState::Issuing);
        let renewed = with(&texts, new.clone(), Older::Live, at(60));
        assert_eq!(renewed.iter().map(|t| t.id.as_str()).collect::<Vec<_>>(), ["new", "live"]);
        assert_eq!(renewed[1].state, TokenState::Active);
        let restored = with(&texts, new, Older::Revoked, at(60));
        assert_eq!(restored[1].state, TokenState::Revoked);
        assert_eq!(restored[0].state, TokenState::Issuing);
    }

    #[test]
    fn renewal_comes_before_the_end_as_asked() {
        let day = 86_400;
        let cases = [
            ("a third of its life by default", serde_json::json!({}), day * 2 / 3),
            ("renewBefore", serde_json::json!({ "renewBefore": "1h" }), day - 3_600),
            ("renewBeforePercentage", serde_json::json!({ "renewBeforePercentage": 50 }), day / 2),
        ];
        for (sentence, json, expected) in cases {
            let at = renewal(&spec(json), &text("some-id", 0, day, TokenState::Active)).as_second();
            assert!((expected - MOST_JITTER_SECONDS..=expected).contains(&at), "{sentence}: {at}");
        }
    }

    #[test]
    fn changed_duration_is_noticed() {
        let day = text("a", 0, 86_400, TokenState::Active);
        assert!(!has_other_duration(&spec(serde_json::json!({})), &day));
        assert!(has_other_duration(&spec(serde_json::json!({ "duration": "1h" })), &day));
    }

    #[test]
    fn number_of_texts_is_bounded() {
        let many: Vec<_> = (0..100).map(|i| text(&format!("t{i}"), i, 1_000, TokenState::Active)).collect();
        let kept = with(&many, text("new", 200, 1_000, TokenState::Issuing), Older::Live, at(200));
        assert_eq!(kept.len(), MOST_TEXTS);
        assert_eq!((kept[0].id.as_str(), kept[1].id.as_str()), ("new", "t99"));
    }
}
