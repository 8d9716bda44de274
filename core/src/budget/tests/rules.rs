//! The rules one by one, each with what it is for.

use std::collections::BTreeSet;

use crate::amount::{Amounts, Unit};
use crate::budget::*;
use crate::id::Subject;
use crate::usage::Usage;

const HOUR_MS: u64 = 3_600_000;
const DAY_MS: u64 = 24 * HOUR_MS;

/// 2027-01-15, 08:00 UTC.
const NOW_MS: u64 = 1_800_000_000_000;

fn subject(name: &str) -> Subject {
    Subject::of("proxy", "agents", name).unwrap()
}

fn budget(unit: Unit, limit: u64, window: &str) -> Budget {
    let (window, enforcement) = (window.parse().unwrap(), Enforcement::Hard);
    Budget { name: "b".into(), unit, limit, window, enforcement, admits: Admits::default() }
}

fn soft(budget: Budget, enforcement: Enforcement) -> Budget {
    Budget { enforcement, ..budget }
}

/// A book in memory and a cover of one owner.
fn alone(budgets: &[Budget]) -> (Book, Cover) {
    let mut book = Book::new(Grants::Endless);
    let owner = &subject("a");
    let cover = book.cover(&[Covering { owner, budgets, rates: &[], concurrency: None }]);
    (book, cover)
}

fn tokens(tokens: u64) -> Amounts {
    Amounts { requests: 1, tokens, nano_usd: tokens * 3_000 }
}

fn spent(amounts: Amounts) -> Spent {
    Spent { amounts, tokens: Usage { output_tokens: amounts.tokens, ..Usage::default() } }
}

fn take(book: &mut Book, cover: &Cover, amounts: Amounts, now_ms: u64) -> HoldId {
    book.reserve(cover, &amounts, now_ms).unwrap().hold
}

fn refused(book: &mut Book, cover: &Cover, amounts: Amounts, now_ms: u64) -> Refused {
    match book.reserve(cover, &amounts, now_ms) {
        Err(Denied::Refused(refused)) => refused,
        other => panic!("{other:?}"),
    }
}

fn used(book: &mut Book, cover: &Cover, now_ms: u64) -> Vec<u64> {
    book.standings(cover, now_ms).iter().map(|standing| standing.used).collect()
}

#[test]
fn pool_and_own_budget_admit_together_or_not_at_all() {
    let mut book = Book::new(Grants::Endless);
    let (a, b, pool) = (subject("a"), subject("b"), subject("pool"));
    let own = [budget(Unit::Requests, 10, "lifetime")];
    let shared = [budget(Unit::Tokens, 100, "Day@UTC")];
    let mut cover = |owner| {
        let own = Covering { owner, budgets: &own, rates: &[], concurrency: None };
        book.cover(&[own, Covering::pool(&pool, &shared)])
    };
    let (of_a, of_b) = (cover(&a), cover(&b));
    take(&mut book, &of_a, tokens(70), NOW_MS);
    let why = refused(&mut book, &of_b, tokens(31), NOW_MS);
    assert_eq!((&why.owner, why.used, why.limit, why.wanted), (&pool, 70, 100, 31));
    assert_eq!(
        why.to_string(),
        "budget b of proxy/agents/pool has 70 of 100 Tokens taken, and 31 more do not fit"
    );
    assert_eq!(used(&mut book, &of_b, NOW_MS), [0, 70], "the refusal took nothing of b's own budget");
    take(&mut book, &of_b, tokens(30), NOW_MS);
    assert_eq!(used(&mut book, &of_b, NOW_MS), [1, 100]);
    assert_eq!(book.used(&b).unwrap().open, 1);
}

#[test]
fn refusal_names_what_stands_in_the_way_longest() {
    let budgets = [budget(Unit::Requests, 1, "Hour@UTC"), budget(Unit::Requests, 1, "Day@UTC")];
    let (mut book, cover) = alone(&budgets);
    take(&mut book, &cover, tokens(0), NOW_MS);
    let why = refused(&mut book, &cover, tokens(0), NOW_MS);
    assert_eq!(
        (why.resets_at_ms, why.retry_at_ms),
        (Some(NOW_MS + 16 * HOUR_MS), Some(NOW_MS + 16 * HOUR_MS))
    );

    let budgets = [budget(Unit::Requests, 1, "Hour@UTC"), budget(Unit::Requests, 1, "lifetime")];
    let (mut book, cover) = alone(&budgets);
    take(&mut book, &cover, tokens(0), NOW_MS);
    let why = refused(&mut book, &cover, tokens(0), NOW_MS);
    assert_eq!((why.resets_at_ms, why.retry_at_ms), (None, None), "a lifetime never ends");
    assert_eq!(book.exhausted(&cover, NOW_MS), Some(why));

    let (mut book, cover) = alone(&[budget(Unit::Tokens, 10, "Day@UTC")]);
    let why = refused(&mut book, &cover, tokens(11), NOW_MS);
    assert_eq!(why.retry_at_ms, None, "more than the limit never fits");
    assert!(why.resets_at_ms.is_some());
    assert_eq!(book.exhausted(&cover, NOW_MS), None);
}

#[test]
fn hold_over_a_border_settles_into_its_own_window() {
    let (mut book, cover) = alone(&[budget(Unit::Tokens, 100, "Hour@UTC")]);
    let old = take(&mut book, &cover, tokens(80), NOW_MS);
    let later_ms = NOW_MS + HOUR_MS;
    let new = take(&mut book, &cover, tokens(100), later_ms);
    book.settle(old, &spent(tokens(90))).unwrap();
    assert_eq!(used(&mut book, &cover, later_ms), [100]);
    book.release(new).unwrap();
    assert_eq!(used(&mut book, &cover, later_ms), [0]);
    assert_eq!(book.used(&subject("a")).unwrap().tokens.output_tokens, 90, "and it was spent all the same");
}

#[test]
fn clock_that_steps_back_opens_nothing_again() {
    for window in ["Hour@UTC", "Day@Europe/Berlin", "rolling/1h"] {
        let budgets = [budget(Unit::Requests, 1, window)];
        let (mut book, cover) = alone(&budgets);
        take(&mut book, &cover, tokens(0), NOW_MS);
        for back_ms in [1, HOUR_MS, 400 * DAY_MS] {
            refused(&mut book, &cover, tokens(0), NOW_MS - back_ms);
        }
        let saved = book.save(true);
        let mut book = Book::new(Grants::Needed);
        saved.iter().for_each(|owner| book.restore(owner));
        book.charge_open();
        let owner = &subject("a");
        let cover = book.cover(&[Covering { owner, budgets: &budgets, rates: &[], concurrency: None }]);
        refused(&mut book, &cover, tokens(0), NOW_MS - DAY_MS);
        assert_eq!(used(&mut book, &cover, NOW_MS - DAY_MS), [1], "{window}: not over a restart either");
        assert_eq!(used(&mut book, &cover, NOW_MS + 2 * DAY_MS), [0], "{window}: time goes on");
    }
}

#[test]
fn raise_takes_all_or_nothing_and_fills_windows_in_order() {
    let budgets = [budget(Unit::Tokens, 100, "Hour@UTC"), budget(Unit::Usd, 300_000, "lifetime")];
    let (mut book, cover) = alone(&budgets);
    let hold = take(&mut book, &cover, tokens(60), NOW_MS);
    let more = Amounts { requests: 0, tokens: 50, nano_usd: 1 };
    assert!(matches!(book.raise(hold, &cover, &more, NOW_MS), Err(Denied::Refused(_))));
    assert_eq!(used(&mut book, &cover, NOW_MS), [60, 180_000], "nothing of either was taken");
    let later_ms = NOW_MS + HOUR_MS;
    book.raise(hold, &cover, &more, later_ms).unwrap();
    assert_eq!(used(&mut book, &cover, later_ms), [50, 180_001], "the second attempt is in the next hour");
    let settled = book.settle(hold, &spent(Amounts { requests: 1, tokens: 85, nano_usd: 5 })).unwrap();
    assert_eq!(settled.overrun, Amounts::default());
    assert_eq!(used(&mut book, &cover, later_ms), [25, 5], "the first attempt's 60 are in the hour before");
    assert_eq!(book.raise(hold, &cover, &more, later_ms), Err(Denied::Stale));
}

#[test]
fn use_beyond_the_reservation_is_charged_and_marked() {
    let (mut book, cover) = alone(&[budget(Unit::Tokens, 100, "lifetime")]);
    let hold = take(&mut book, &cover, tokens(90), NOW_MS);
    let settled = book.settle(hold, &spent(tokens(120))).unwrap();
    assert_eq!(settled.overrun, Amounts { requests: 0, tokens: 30, nano_usd: 90_000 });
    assert_eq!(used(&mut book, &cover, NOW_MS), [120]);
    refused(&mut book, &cover, tokens(1), NOW_MS);
    take(&mut book, &cover, tokens(0), NOW_MS);
}

#[test]
fn soft_and_shadow_admit_and_say_so() {
    let soft_one = soft(budget(Unit::Tokens, 10, "lifetime"), Enforcement::Soft);
    let shadow = soft(budget(Unit::Requests, 1, "Day@UTC"), Enforcement::Shadow);
    let (mut book, cover) = alone(&[soft_one, shadow]);
    assert!(!book.reserve(&cover, &tokens(10), NOW_MS).unwrap().is_over);
    assert!(book.reserve(&cover, &tokens(0), NOW_MS).unwrap().is_over, "the second request of the day");
    assert!(book.reserve(&cover, &tokens(5), NOW_MS).unwrap().is_over);
    assert_eq!(used(&mut book, &cover, NOW_MS), [15, 3]);
    assert_eq!(book.exhausted(&cover, NOW_MS), None);
}

#[test]
fn amount_beyond_counting_is_refused_whatever_the_enforcement() {
    for enforcement in [Enforcement::Hard, Enforcement::Soft, Enforcement::Shadow] {
        for window in ["lifetime", "rolling/1h"] {
            let (mut book, cover) = alone(&[soft(budget(Unit::Tokens, u64::MAX, window), enforcement)]);
            let all = Amounts { tokens: u64::MAX, ..Amounts::default() };
            let hold = take(&mut book, &cover, all, NOW_MS);
            refused(&mut book, &cover, all, NOW_MS);
            refused(&mut book, &cover, tokens(1), NOW_MS);
            assert_eq!(used(&mut book, &cover, NOW_MS), [u64::MAX]);
            book.settle(hold, &spent(Amounts::default())).unwrap();
        }
    }
}

#[test]
fn budgets_of_one_unit_and_window_count_once_and_a_new_name_refills_nothing() {
    let hard = budget(Unit::Tokens, 100, "lifetime");
    let warning =
        Budget { name: "warning".into(), ..soft(budget(Unit::Tokens, 50, "lifetime"), Enforcement::Soft) };
    let (mut book, cover) = alone(&[hard, warning]);
    let admission = book.reserve(&cover, &tokens(60), NOW_MS).unwrap();
    assert!(admission.is_over);
    assert_eq!(used(&mut book, &cover, NOW_MS), [60, 60]);
    let renamed = [Budget { name: "new".into(), ..budget(Unit::Tokens, 70, "lifetime") }];
    let owner = &subject("a");
    let cover = book.cover(&[Covering { owner, budgets: &renamed, rates: &[], concurrency: None }]);
    assert_eq!(refused(&mut book, &cover, tokens(11), NOW_MS).used, 60);
}

#[test]
fn concurrency_and_rates_are_judged_with_the_budgets_in_one_step() {
    let mut book = Book::new(Grants::Endless);
    let rate = |unit, limit, burst| Rate { unit, pace: Pace::new(limit, 60_000, burst).unwrap() };
    let (owner, budgets) = (&subject("a"), &[budget(Unit::Requests, 100, "lifetime")]);
    let rates = &[rate(Unit::Requests, 60, 3), rate(Unit::Tokens, 6_000, 1_000)];
    let cover = book.cover(&[Covering { owner, budgets, rates, concurrency: Some(2) }]);
    let first = take(&mut book, &cover, tokens(900), NOW_MS);
    let why = refused(&mut book, &cover, tokens(200), NOW_MS);
    assert_eq!((why.by, why.unit, why.used, why.limit), (RefusedBy::Rate, Unit::Tokens, 900, 1_000));
    assert_eq!(why.retry_at_ms, Some(NOW_MS + 1_000));
    let second = take(&mut book, &cover, tokens(100), NOW_MS);
    let why = refused(&mut book, &cover, tokens(0), NOW_MS);
    assert_eq!((why.by, why.used, why.limit), (RefusedBy::Concurrency, 2, 2));
    book.settle(first, &spent(tokens(0))).unwrap();
    book.release(second).unwrap();
    assert_eq!(used(&mut book, &cover, NOW_MS), [1]);
    // One of the three at once is used: the released request never happened, the free one did.
    for _ in 0..2 {
        let hold = take(&mut book, &cover, tokens(500), NOW_MS);
        book.settle(hold, &spent(tokens(500))).unwrap();
    }
    let why = refused(&mut book, &cover, tokens(0), NOW_MS);
    assert_eq!((why.by, why.unit, why.retry_at_ms), (RefusedBy::Rate, Unit::Requests, Some(NOW_MS + 1_000)));
    // Set back by a day, the clock goes on from there, and so does the rate.
    refused(&mut book, &cover, tokens(0), NOW_MS - DAY_MS);
    take(&mut book, &cover, tokens(0), NOW_MS - DAY_MS + 1_000);
}

#[test]
fn free_request_is_rated_and_takes_a_seat_but_no_budget_counts_it() {
    let mut book = Book::new(Grants::Needed);
    let pace = Pace::new(60, 60_000, 2).unwrap();
    let rates = &[Rate { unit: Unit::Requests, pace }];
    let (owner, budgets) = (&subject("a"), &[budget(Unit::Requests, 1, "lifetime")]);
    let cover = book.cover(&[Covering { owner, budgets, rates, concurrency: Some(1) }]);
    let free = Amounts::default();
    let first = take(&mut book, &cover, free, NOW_MS);
    assert_eq!(refused(&mut book, &cover, free, NOW_MS).by, RefusedBy::Concurrency);
    book.settle(first, &Spent::default()).unwrap();
    let second = take(&mut book, &cover, free, NOW_MS);
    assert_eq!(used(&mut book, &cover, NOW_MS), [0], "no budget counts it");
    book.settle(second, &Spent::default()).unwrap();
    let why = refused(&mut book, &cover, free, NOW_MS);
    assert_eq!((why.by, why.wanted, why.retry_at_ms), (RefusedBy::Rate, 1, Some(NOW_MS + 1_000)));
    let third = take(&mut book, &cover, free, NOW_MS + 1_000);
    book.release(third).unwrap();
    take(&mut book, &cover, free, NOW_MS + 1_000);
    assert_eq!(book.used(owner).unwrap().requests, 0, "nor do reports");
}

#[test]
fn grants_come_before_use_in_every_unit_and_die_with_their_window() {
    for (unit, window) in
        [(Unit::Requests, "lifetime"), (Unit::Tokens, "Hour@UTC"), (Unit::Usd, "rolling/1h")]
    {
        let mut book = Book::new(Grants::Needed);
        let (owner, budgets) = (&subject("a"), &[budget(unit, 5_000_000, window)]);
        let cover = book.cover(&[Covering { owner, budgets, rates: &[], concurrency: None }]);
        assert_eq!(book.reserve(&cover, &tokens(100), NOW_MS), Err(Denied::NotGranted));
        let grants = book.next_grants();
        assert_eq!(book.reserve(&cover, &tokens(100), NOW_MS), Err(Denied::NotGranted));
        assert!(!book.wants_grants(), "asked for once");
        book.deny(&grants);
        assert_eq!(book.reserve(&cover, &tokens(100), NOW_MS), Err(Denied::NotGranted));
        let grants = book.next_grants();
        book.grant(&grants);
        let hold = take(&mut book, &cover, tokens(100), NOW_MS);
        book.settle(hold, &spent(tokens(1))).unwrap();
        let later_ms = NOW_MS + HOUR_MS;
        let later = book.reserve(&cover, &tokens(1), later_ms);
        assert_eq!(later.is_ok(), window == "lifetime", "{window}");
        book.grant(&grants);
        let late = book.reserve(&cover, &tokens(1), later_ms);
        assert_eq!(late.is_ok(), window == "lifetime", "{window}: given too late, it is void");
    }
}

#[test]
fn use_beyond_the_grant_asks_for_a_grant_that_covers_it() {
    let mut book = Book::new(Grants::Needed);
    let (owner, budgets) = (&subject("a"), &[budget(Unit::Tokens, 1_000, "lifetime")]);
    let cover = book.cover(&[Covering { owner, budgets, rates: &[], concurrency: None }]);
    assert_eq!(book.reserve(&cover, &tokens(100), NOW_MS), Err(Denied::NotGranted));
    let grants = book.next_grants();
    book.grant(&grants);
    let hold = take(&mut book, &cover, tokens(100), NOW_MS);
    book.settle(hold, &spent(tokens(2_000))).unwrap();
    let grants = book.next_grants();
    assert_eq!(grants.iter().map(|grant| grant.saved.granted).collect::<Vec<_>>(), [2_000]);
    book.grant(&grants);
    assert!(!book.wants_grants());
}

#[test]
fn whoever_is_forgotten_makes_old_covers_stale() {
    let budgets = [budget(Unit::Requests, 3, "Day@UTC"), budget(Unit::Tokens, 9, "lifetime")];
    let (mut book, mut cover) = alone(&budgets);
    let hold = take(&mut book, &cover, tokens(1), NOW_MS);
    let (nobody, a) = (BTreeSet::new(), BTreeSet::from([subject("a")]));
    book.see(&a, NOW_MS + DAY_MS);
    assert!(!book.may_forget(&nobody, DAY_MS), "something is open");
    book.release(hold).unwrap();
    assert!(!book.may_forget(&nobody, DAY_MS), "it was seen just now");
    book.see(&nobody, NOW_MS + 2 * DAY_MS);
    assert!(!book.may_forget(&a, DAY_MS), "it is to be kept");
    assert!(book.may_forget(&nobody, DAY_MS));
    assert_eq!(book.leave(&nobody, DAY_MS), [subject("a")]);
    assert_eq!(book.reserve(&cover, &tokens(1), NOW_MS), Err(Denied::NotGranted), "until that is decided");
    book.keep_leaving();
    let hold = take(&mut book, &cover, tokens(1), NOW_MS);
    book.release(hold).unwrap();
    book.see(&nobody, NOW_MS + 4 * DAY_MS);
    book.leave(&nobody, DAY_MS);
    book.forget_leaving();
    assert_eq!(book.reserve(&cover, &tokens(1), NOW_MS), Err(Denied::Stale));
    assert_eq!(book.used(&subject("a")), None);
    assert!(book.save(true).is_empty());
    for _ in 0..2 {
        book.renew(&mut cover, &[Covering::pool(&subject("a"), &budgets)]);
        take(&mut book, &cover, tokens(1), NOW_MS);
    }
    assert_eq!(used(&mut book, &cover, NOW_MS), [2, 2], "a cover that is made anew is as good as the first");
}

#[test]
fn what_is_saved_survives_its_text() {
    let budgets = [budget(Unit::Requests, 3, "Day@Europe/Berlin"), budget(Unit::Usd, 90_000, "rolling/24h")];
    let (mut book, cover) = alone(&budgets);
    let hold = take(&mut book, &cover, tokens(1), NOW_MS);
    take(&mut book, &cover, tokens(2), NOW_MS);
    book.settle(hold, &spent(tokens(1))).unwrap();
    let saved = book.save(false);
    assert!(book.save(false).is_empty(), "nothing has changed since");
    let text = serde_json::to_string(&saved).unwrap();
    assert_eq!(serde_json::from_str::<Vec<SavedOwner>>(&text).unwrap(), saved, "{text}");
    let mut again = Book::new(Grants::Endless);
    saved.iter().for_each(|owner| again.restore(owner));
    assert_eq!(again.save(true), saved);
}

#[test]
#[ignore = "a measurement, not a proof; run with --release -- --ignored --nocapture"]
#[expect(clippy::disallowed_methods, reason = "measures")]
fn reserve_and_settle_over_four_budgets_take_a_tenth_of_a_microsecond() {
    let four: Vec<Budget> = [
        budget(Unit::Requests, 1 << 40, "lifetime"),
        budget(Unit::Tokens, 1 << 60, "Day@Europe/Berlin"),
        budget(Unit::Usd, 1 << 60, "Month@UTC"),
        budget(Unit::Tokens, 1 << 60, "rolling/24h"),
    ]
    .into();
    for budgets in [&four[..1], &four[..]] {
        let (mut book, cover) = alone(budgets);
        let count = 5_000_000_u32;
        let start = std::time::Instant::now();
        for round in 0..count {
            let hold = take(&mut book, &cover, tokens(300), NOW_MS + u64::from(round / 1_000));
            book.settle(hold, &spent(tokens(200))).unwrap();
        }
        println!("{} budgets: {:?} for reserve and settle", budgets.len(), start.elapsed() / count);
    }
}
