use std::collections::VecDeque;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use super::*;

#[derive(Debug, Clone)]
enum Step {
    Reserve(u64),
    Settle,
    SettleNewest,
    Release,
    Grant(u64),
    NextGrant(u64),
    Crash,
    PowerCut,
}

/// What the balance must agree with, kept in a wider integer and by plain bookkeeping of every hold.
#[derive(Default)]
struct Model {
    settled: u128,
    granted: u128,
    open: u128,
    held: VecDeque<(Held, u64)>,
}

impl Model {
    fn taken(&self) -> u128 {
        self.settled + self.open
    }

    fn forget(&mut self) {
        self.held.clear();
        self.open = 0;
    }

    fn end(&mut self, amount: u64) -> u128 {
        self.open -= u128::from(amount);
        u128::from(amount)
    }
}

/// One step out of one random word: a vector of words is ten times cheaper to make than one of steps.
fn step(word: u64) -> Step {
    let (kind, argument) = (word % 24, word >> 5);
    let amount = match argument % 11 {
        0..6 => argument / 11 % 4,
        6..9 => argument / 11 % 200,
        9 => argument << 5,
        _ => u64::MAX - argument / 11 % 3,
    };
    match kind {
        0..8 => Step::Reserve(amount),
        8..12 => Step::Settle,
        12..14 => Step::SettleNewest,
        14..17 => Step::Release,
        17..20 => Step::Grant(amount),
        20..22 => Step::NextGrant(argument % 300),
        22 => Step::Crash,
        _ => Step::PowerCut,
    }
}

fn limit() -> impl Strategy<Value = Option<u64>> {
    prop_oneof![1 => Just(None), 5 => (0..500_u64).prop_map(Some), 1 => any::<u64>().prop_map(Some)]
}

fn take(balance: &mut Balance, model: &mut Model, step: &Step, limit: Option<u64>) {
    match *step {
        Step::Reserve(amount) => reserve(balance, model, amount, limit),
        Step::Settle | Step::SettleNewest => {
            let next =
                if matches!(step, Step::Settle) { model.held.pop_front() } else { model.held.pop_back() };
            if let Some((held, amount)) = next {
                balance.settle(held);
                model.settled += model.end(amount);
            }
        }
        Step::Release => {
            if let Some((held, amount)) = model.held.pop_front() {
                balance.release(held);
                model.end(amount);
            }
        }
        Step::Grant(granted) => {
            balance.grant(granted);
            model.granted = model.granted.max(u128::from(granted));
        }
        Step::NextGrant(quantum) => {
            if let Some(granted) = balance.next_grant(quantum, limit) {
                assert!(limit.is_none_or(|limit| granted <= limit), "a grant went over the limit");
                assert!(granted > balance.granted(), "a grant that grants nothing was asked for");
                balance.grant(granted);
                model.granted = u128::from(granted);
            }
        }
        Step::Crash => {
            model.settled = model.taken();
            model.forget();
            *balance = balance.after_crash();
        }
        Step::PowerCut => {
            model.settled = model.granted;
            model.forget();
            *balance = balance.after_power_cut();
        }
    }
}

fn reserve(balance: &mut Balance, model: &mut Model, amount: u64, limit: Option<u64>) {
    let before = *balance;
    let wanted = model.taken() + u128::from(amount);
    match balance.reserve(amount, limit) {
        Ok(held) => {
            assert!(limit.is_none_or(|limit| wanted <= u128::from(limit)), "went over the limit");
            assert!(wanted <= model.granted, "went over the grant");
            model.open += u128::from(amount);
            model.held.push_back((held, amount));
        }
        Err(refusal) => {
            assert_eq!(*balance, before, "a refusal changed something");
            let over_limit = limit.is_some_and(|limit| wanted > u128::from(limit));
            assert_eq!(
                matches!(refusal, Refusal::OverLimit { .. }),
                over_limit,
                "refused for the wrong reason"
            );
            assert!(over_limit || wanted > model.granted, "refused what fits");
        }
    }
}

fn agrees(balance: &Balance, model: &Model, limit: Option<u64>) {
    assert_eq!(u128::from(balance.settled()), model.settled);
    assert_eq!(u128::from(balance.open()), model.open);
    assert_eq!(u128::from(balance.granted()), model.granted);
    let taken = u128::from(balance.settled()) + u128::from(balance.open());
    assert!(taken <= u128::from(balance.granted()), "{taken} taken of {} granted", balance.granted());
    assert_eq!(u128::from(balance.taken()), taken);
    if let Some(limit) = limit {
        assert!(taken <= u128::from(limit), "{taken} taken of a limit of {limit}");
    }
}

/// 10^4 histories; 10^5 when `LA_PROOF` is 1. Only tests read the environment here.
#[expect(clippy::disallowed_methods, reason = "a test chooses its number of rounds by the environment")]
fn rounds() -> u32 {
    if std::env::var("LA_PROOF").is_ok_and(|proof| proof == "1") { 100_000 } else { 10_000 }
}

#[test]
fn no_history_goes_over_the_limit_or_below_zero() {
    let config = Config { cases: rounds(), failure_persistence: None, ..Config::default() };
    let histories = (limit(), any::<bool>(), vec(any::<u64>(), 0..=200));
    TestRunner::new(config)
        .run(&histories, |(limit, generous, words)| {
            let steps: Vec<Step> = words.into_iter().map(step).collect();
            let (mut balance, mut model) = (Balance::default(), Model::default());
            // A power cut may charge all that was granted: the limit is a bound when every grant kept to it.
            let bound = limit.filter(|_| !generous);
            for step in &steps {
                let step = match (step, bound) {
                    (Step::Grant(granted), Some(bound)) => Step::Grant(*granted.min(&bound)),
                    _ => step.clone(),
                };
                take(&mut balance, &mut model, &step, limit);
                agrees(&balance, &model, bound);
            }
            Ok(())
        })
        .unwrap();
}

#[test]
fn limit_that_falls_refuses_and_takes_nothing_back() {
    let mut balance = Balance::without_grants();
    let held = balance.reserve(5, Some(5)).unwrap();
    assert_eq!(balance.reserve(1, Some(3)), Err(Refusal::OverLimit { limit: 3 }));
    balance.settle(held);
    assert_eq!((balance.settled(), balance.open()), (5, 0));
    assert!(balance.is_exhausted(Some(5)));
    assert!(!balance.is_exhausted(Some(6)));
    assert!(!balance.is_exhausted(None));
}

#[test]
fn grant_is_asked_for_once_half_of_the_last_is_used() {
    let mut balance = Balance::default();
    assert_eq!(balance.next_grant(64, None), Some(64));
    balance.grant(64);
    for _ in 0..31 {
        let held = balance.reserve(1, None).unwrap();
        balance.settle(held);
    }
    assert_eq!(balance.next_grant(64, None), None);
    let held = balance.reserve(1, None).unwrap();
    assert_eq!(balance.next_grant(64, None), Some(96));
    assert_eq!(balance.next_grant(64, Some(80)), Some(80), "not above the limit");
    assert_eq!(balance.next_grant(64, Some(64)), None, "nothing left to grant");
    balance.release(held);
}

#[test]
fn hold_of_another_balance_cannot_make_this_one_negative() {
    let mut rich = Balance::without_grants();
    let held = rich.reserve(100, None).unwrap();
    let mut poor = Balance::restored(1, 0, 10);
    let own = poor.reserve(2, None).unwrap();
    poor.settle(held);
    assert_eq!((poor.settled(), poor.open()), (3, 0));
    poor.release(own);
    assert_eq!((poor.settled(), poor.open(), poor.granted()), (3, 0, 10));
}

#[test]
fn restored_balance_never_has_less_granted_than_taken() {
    assert_eq!(Balance::restored(7, 0, 3).granted(), 7);
    assert_eq!(Balance::restored(7, 2, 3).granted(), 9);
    assert_eq!(Balance::restored(3, 1, 7).unspent_grant(), 3);
    assert_eq!(Balance::restored(u64::MAX, 1, 0).open(), 0);
}

#[test]
fn crash_charges_what_was_open_and_a_power_cut_all_that_was_granted() {
    let balance = Balance::restored(3, 2, 10);
    assert_eq!(balance.after_crash(), Balance::restored(5, 0, 10));
    assert_eq!(balance.after_power_cut(), Balance::restored(10, 0, 10));
}
