use proptest::prelude::*;

use super::*;
use crate::account::Class;
use crate::account::health::{Event, Outcome, Standing};
use crate::account::reading::Reading;

const NOW: i64 = 1_790_000_000;
const OPUS: &str = "claude-opus-5";

fn rest(scope: Scope, why: Why, until: i64) -> Rest {
    Rest { scope, why, until, strikes: 1, is_stated: why == Why::Limit }
}

fn hear(health: &mut Health, news: &News, now: i64) -> Option<Change> {
    health.hear(news, now, &Policy::default())
}

fn refused(health: &mut Health, status: u16, class: Class, now: i64) -> Vec<News> {
    let before = health.rests();
    let outcome = Outcome::Refused { status, class, reading: &Reading::default() };
    health.note(&Event { model: OPUS, outcome }, now, 0, &Policy::default());
    news(&before, &health.rests())
}

fn served(health: &mut Health, now: i64) -> Vec<News> {
    let before = health.rests();
    let outcome = Outcome::Served(&Reading::default());
    health.note(&Event { model: OPUS, outcome }, now, 0, &Policy::default());
    news(&before, &health.rests())
}

#[test]
fn replica_that_hears_of_a_rest_keeps_it_like_the_one_that_tells() {
    for (status, class) in [(429, Class::Quota), (529, Class::Overload), (403, Class::Auth)] {
        let (mut one, mut other) = (Health::default(), Health::default());
        let told = refused(&mut one, status, class, NOW);
        assert_eq!(told.len(), 1, "{told:?}");
        assert!(matches!(hear(&mut other, &told[0], NOW), Some(Change::Closed { .. })), "{told:?}");
        assert_eq!(other.standing(OPUS, NOW), one.standing(OPUS, NOW));
        assert_eq!(other.rests(), one.rests());
        assert_eq!(hear(&mut other, &told[0], NOW), None, "it is heard once");
    }
}

#[test]
fn rest_lasts_twice_as_long_the_next_time_whoever_saw_the_first() {
    let (mut one, mut other) = (Health::default(), Health::default());
    for news in refused(&mut one, 403, Class::Auth, NOW) {
        hear(&mut other, &news, NOW);
    }
    let told = refused(&mut other, 403, Class::Auth, NOW + 60);
    let [News::Rests(rest)] = &told[..] else { panic!("{told:?}") };
    assert_eq!((rest.until, rest.strikes), (NOW + 60 + 120, 2));
}

#[test]
fn later_end_holds_and_no_end_comes_sooner() {
    let of = |until| News::Rests(rest(Scope::Account, Why::Limit, until));
    let mut health = Health::default();
    assert!(hear(&mut health, &of(NOW + 100), NOW).is_some());
    assert_eq!(hear(&mut health, &of(NOW + 50), NOW), None);
    let until = |health: &Health| match health.standing(OPUS, NOW) {
        Standing::Closed { until, .. } => until,
        _ => None,
    };
    assert_eq!(until(&health), Some(NOW + 100));
    assert_eq!(hear(&mut health, &of(NOW + 200), NOW), None, "a rest that grows is no news");
    assert_eq!(until(&health), Some(NOW + 200));
}

#[test]
fn rest_that_is_over_or_absurdly_long_is_not_believed() {
    let mut health = Health::default();
    assert_eq!(hear(&mut health, &News::Rests(rest(Scope::Account, Why::Limit, NOW)), NOW), None);
    assert!(health.has_no_trouble());
    hear(&mut health, &News::Rests(rest(Scope::Account, Why::Limit, i64::MAX)), NOW);
    let most = i64::from(Policy::default().max_cooldown_seconds);
    let expected = Standing::Closed { until: Some(NOW + most), why: Why::Limit };
    assert_eq!(health.standing(OPUS, NOW), expected);
}

#[test]
fn one_request_that_shows_the_end_of_a_rest_ends_it_for_all() {
    let (mut one, mut other) = (Health::default(), Health::default());
    for news in refused(&mut one, 403, Class::Auth, NOW) {
        hear(&mut other, &news, NOW);
    }
    let later = NOW + 60;
    assert_eq!(other.standing(OPUS, later), Standing::HalfOpen);
    let told = served(&mut one, later);
    assert!(matches!(told[..], [News::Over { .. }]), "{told:?}");
    // A clock that is behind does not keep it closed.
    assert!(matches!(hear(&mut other, &told[0], later - 5), Some(Change::Opened { .. })));
    assert_eq!(other.standing(OPUS, later), Standing::Open);
}

#[test]
fn faults_that_only_this_replica_may_see_are_not_told() {
    let mut health = Health::default();
    let policy = Policy::default();
    let before = health.rests();
    for _ in 0..policy.consecutive_failures {
        health.note(&Event { model: OPUS, outcome: Outcome::NoAnswer }, NOW, 0, &policy);
    }
    assert!(matches!(health.standing(OPUS, NOW), Standing::Closed { why: Why::Failing, .. }));
    assert_eq!(news(&before, &health.rests()), []);
}

#[test]
fn end_of_one_rest_ends_neither_a_longer_one_nor_another() {
    let mut health = Health::default();
    hear(&mut health, &News::Rests(rest(Scope::Account, Why::Forbidden, NOW + 100)), NOW);
    hear(&mut health, &News::Rests(rest(Scope::Model(OPUS.into()), Why::Limit, NOW + 10)), NOW);
    let over = News::Over { scope: Scope::Account, why: Why::Forbidden, until: NOW + 50 };
    assert_eq!(hear(&mut health, &over, NOW), None);
    assert_eq!(health.rests().len(), 2);
}

#[test]
fn owner_who_forgets_at_one_replica_forgets_at_all() {
    let mut health = Health::default();
    hear(&mut health, &News::Rests(rest(Scope::Account, Why::Limit, NOW + 100)), NOW);
    assert!(matches!(hear(&mut health, &News::Forgotten, NOW), Some(Change::Opened { .. })));
    assert!(health.has_no_trouble());
    assert_eq!(hear(&mut health, &News::Forgotten, NOW), None);
}

#[test]
fn what_is_told_is_what_is_read() {
    for scope in [Scope::Account, Scope::Family("opus"), Scope::Model("claude opus 5 [1m]".into())] {
        for why in WHYS {
            let rest = rest(scope.clone(), why, NOW);
            assert_eq!(Rest::read(&rest.name(), &rest.value()), Ok(rest));
        }
    }
}

#[test]
fn what_is_no_rest_of_this_version_is_not_read() {
    let (name, value) = ("limit account", "1 1790000000 1 stated");
    assert!(Rest::read(name, value).is_ok());
    let long = format!("limit model {}", "x".repeat(MAX_MODEL_BYTES + 1));
    for name in ["", "limit", "limit ", "other account", "limit family nobody", "failing account", &long] {
        assert_eq!(Rest::read(name, value), Err(Unreadable), "{name:?}");
    }
    for value in [
        "",
        "2 1790000000 1 stated",
        "1 1790000000 1 stated more",
        "1 -1 1 stated",
        "1 99999999999999999999 1 stated",
        "1 1790000000 -1 stated",
        "1 1790000000 1 perhaps",
        "\u{0} \u{0} \u{0} \u{0}",
    ] {
        assert_eq!(Rest::read(name, value), Err(Unreadable), "{value:?}");
    }
}

proptest! {
    #[test]
    fn replicas_that_hear_the_same_in_one_order_agree(
        told in prop::collection::vec((0..3_usize, 0..5_usize, 1..1_000_i64, 0..8_u8), 0..40)
    ) {
        let scopes = [Scope::Account, Scope::Family("opus"), Scope::Model(OPUS.into())];
        let (mut one, mut other) = (Health::default(), Health::default());
        for (scope, why, after, kind) in told {
            let (scope, why, until) = (scopes[scope].clone(), WHYS[why], NOW + after);
            let news = match kind {
                0 => News::Forgotten,
                1 | 2 => News::Over { scope, why, until },
                _ => News::Rests(rest(scope, why, until)),
            };
            hear(&mut one, &news, NOW);
            // Whoever tells has it already, and hears it again.
            hear(&mut other, &news, NOW);
            hear(&mut other, &news, NOW);
        }
        let sorted = |health: &Health| {
            let mut rests = health.rests();
            rests.sort_by_key(Rest::name);
            rests
        };
        prop_assert_eq!(sorted(&one), sorted(&other));
    }
}
