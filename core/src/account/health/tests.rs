use proptest::prelude::*;

use super::*;
use crate::account::reading::Overage;

const NOW: i64 = 1_790_000_000;
const OPUS: &str = "claude-opus-5";
const HAIKU: &str = "claude-haiku-4-5";

/// An account, and a clock that only the test moves.
struct Bench {
    health: Health,
    policy: Policy,
    now: i64,
    random: u64,
}

impl Bench {
    fn new() -> Self {
        Self { health: Health::default(), policy: Policy::default(), now: NOW, random: 0 }
    }

    fn note(&mut self, model: &str, outcome: Outcome<'_>) -> Option<Change> {
        self.health.note(&Event { model, outcome }, self.now, self.random, &self.policy)
    }

    fn refused(&mut self, model: &str, status: u16, class: Class) -> Option<Change> {
        self.note(model, Outcome::Refused { status, class, reading: &Reading::default() })
    }

    fn served(&mut self, model: &str) -> Option<Change> {
        self.note(model, Outcome::Served(&Reading::default()))
    }

    fn standing(&self, model: &str) -> Standing {
        self.health.standing(model, self.now)
    }

    /// Goes to the moment at which a model is no longer closed, and says how long that took.
    fn wait(&mut self, model: &str) -> i64 {
        let began = self.now;
        while let Standing::Closed { until: Some(until), .. } = self.standing(model) {
            assert!(until > self.now, "closed until a time that is over");
            self.now = until;
        }
        self.now - began
    }
}

fn window(name: &str, status: Status, resets_at: Option<i64>) -> Reading {
    let mut reading = Reading::default();
    let window = reading.window_mut(name.as_bytes()).unwrap();
    (window.status, window.resets_at) = (Some(status), resets_at);
    reading
}

fn rejected(name: &str, resets_at: i64) -> Reading {
    Reading { overall: Some(Status::Rejected), ..window(name, Status::Rejected, Some(resets_at)) }
}

fn quota(reading: &Reading) -> Outcome<'_> {
    Outcome::Refused { status: 429, class: Class::Quota, reading }
}

#[test]
fn throttle_without_a_time_closes_one_model_for_a_minute_and_doubles_only_when_it_comes_again() {
    let mut bench = Bench::new();
    let closed = bench.refused(OPUS, 429, Class::Quota);
    let (scope, until) = (Scope::Model(OPUS.into()), Some(NOW + 60));
    assert_eq!(closed, Some(Change::Closed { scope, until, why: Why::Throttled }));
    assert_eq!(bench.standing(HAIKU), Standing::Open);
    bench.now += 59;
    assert_eq!(bench.refused(OPUS, 429, Class::Quota), None, "failures while it is closed do not escalate");
    for expected in [1, 120, 240, 480] {
        assert_eq!(bench.wait(OPUS), expected);
        assert_eq!(bench.standing(OPUS), Standing::HalfOpen);
        bench.refused(OPUS, 429, Class::Quota);
    }
    bench.wait(OPUS);
    let scope = Scope::Model(OPUS.into());
    assert_eq!(bench.served(OPUS), Some(Change::Opened { scope, why: Why::Throttled }));
    assert_eq!(bench.standing(OPUS), Standing::Open);
    bench.refused(OPUS, 429, Class::Quota);
    assert_eq!(bench.wait(OPUS), 60, "a success ends the doubling");
}

#[test]
fn first_throttle_never_lasts_more_than_a_minute_whatever_is_set() {
    for (cooldown_seconds, expected) in [(1, 1), (60, 60), (3600, 60)] {
        let mut bench = Bench::new();
        bench.policy.cooldown_seconds = cooldown_seconds;
        bench.refused(OPUS, 429, Class::Quota);
        assert_eq!(bench.wait(OPUS), expected, "{cooldown_seconds}");
    }
}

#[test]
fn no_cooldown_is_longer_than_the_longest_that_is_set() {
    let mut bench = Bench::new();
    bench.policy.max_cooldown_seconds = 100;
    for expected in [60, 100, 100] {
        bench.refused(OPUS, 429, Class::Quota);
        assert_eq!(bench.wait(OPUS), expected);
    }
    let reading = rejected("7d", bench.now + 500_000);
    bench.note(OPUS, quota(&reading));
    assert_eq!(bench.wait(HAIKU), 100);
    assert_eq!(bench.standing(HAIKU), Standing::HalfOpen, "the reset is not there yet: one request tries");
}

#[test]
fn overload_pauses_one_model_shortly_without_a_probe() {
    let mut bench = Bench::new();
    for expected in [1, 2, 4, 8, 16, 32, 60, 60] {
        // Even a head that speaks of limits makes no quota of it.
        let reading = rejected("7d", bench.now + 500_000);
        bench.note(OPUS, Outcome::Refused { status: 529, class: Class::Overload, reading: &reading });
        assert!(matches!(bench.standing(OPUS), Standing::Closed { why: Why::Overloaded, .. }));
        assert_eq!(bench.standing(HAIKU), Standing::Open);
        assert_eq!(bench.wait(OPUS), expected);
        assert_eq!(bench.standing(OPUS), Standing::Open);
    }
    bench.served(OPUS);
    bench.refused(OPUS, 529, Class::Overload);
    assert_eq!(bench.wait(OPUS), 1);
}

#[test]
fn unauthorized_account_waits_for_another_credential() {
    let mut bench = Bench::new();
    let why = Why::Unauthorized;
    let closed = Change::Closed { scope: Scope::Account, until: None, why };
    assert_eq!(bench.refused(OPUS, 401, Class::Auth), Some(closed));
    assert_eq!(bench.refused(OPUS, 401, Class::Auth), None, "said once");
    bench.now += 10_000_000;
    assert_eq!(bench.standing(HAIKU), Standing::Closed { until: None, why });
    bench.health.credential_changed();
    assert_eq!(bench.standing(HAIKU), Standing::Open);
}

#[test]
fn forbidden_account_is_tried_again_later_and_later() {
    let mut bench = Bench::new();
    for expected in [60, 120, 240] {
        bench.refused(OPUS, 403, Class::Auth);
        assert_eq!(bench.wait(HAIKU), expected);
        assert_eq!(bench.standing(HAIKU), Standing::HalfOpen);
    }
    bench.refused(OPUS, 403, Class::Auth);
    bench.health.credential_changed();
    assert_eq!(bench.standing(HAIKU), Standing::Open);
}

#[test]
fn faults_close_the_account_only_when_enough_follow_each_other() {
    let mut bench = Bench::new();
    for _ in 0..10 {
        for fault in 0..4 {
            let outcome = if fault % 2 == 0 { bench.note(OPUS, Outcome::NoAnswer) } else { None };
            assert_eq!(outcome, None);
            assert_eq!(bench.refused(HAIKU, 404, Class::Client), None, "a client's mistake is no fault");
        }
        bench.refused(HAIKU, 502, Class::Unknown);
        bench.refused(HAIKU, 502, Class::Unknown);
        assert_eq!(bench.standing(HAIKU), Standing::Open);
        bench.served(HAIKU);
    }
    let changes: Vec<_> = (0..7).map(|_| bench.refused(OPUS, 500, Class::Unknown).is_some()).collect();
    assert_eq!(changes, [false, false, false, false, true, false, false]);
    for expected in [60, 120, 240] {
        assert_eq!(bench.wait(HAIKU), expected);
        assert_eq!(bench.standing(HAIKU), Standing::HalfOpen);
        bench.note(HAIKU, Outcome::NoAnswer);
    }
    bench.policy.consecutive_failures = 0;
    let mut bench = Bench { policy: bench.policy, ..Bench::new() };
    (0..99).for_each(|_| assert_eq!(bench.note(OPUS, Outcome::NoAnswer), None));
}

#[test]
fn clients_mistakes_change_nothing() {
    let mut bench = Bench::new();
    for class in [Class::Client, Class::ContextTooLong] {
        for status in [400, 403, 413, 429, 500] {
            let reading = rejected("5h", NOW + 3600);
            assert_eq!(bench.note(OPUS, Outcome::Refused { status, class, reading: &reading }), None);
            assert_eq!(bench.standing(OPUS), Standing::Open);
        }
    }
}

#[test]
fn exactly_one_request_probes_and_a_probe_that_never_reports_is_given_back() {
    let mut bench = Bench::new();
    assert_eq!(bench.health.claim_probe(OPUS, bench.now), None, "nothing to probe");
    bench.refused(OPUS, 403, Class::Auth);
    assert_eq!(bench.health.claim_probe(OPUS, bench.now), None, "not yet");
    bench.now += 60;
    let first = bench.health.claim_probe(OPUS, bench.now).unwrap();
    assert_eq!(bench.health.claim_probe(HAIKU, bench.now), None, "for no model of the account");
    assert!(matches!(bench.standing(OPUS), Standing::Closed { until: Some(_), why: Why::Forbidden }));
    bench.health.release_probe(first);
    let second = bench.health.claim_probe(HAIKU, bench.now).unwrap();
    bench.health.release_probe(first);
    assert_eq!(bench.health.claim_probe(OPUS, bench.now), None, "only its holder gives a probe back");
    bench.now += 120;
    let third = bench.health.claim_probe(OPUS, bench.now).unwrap();
    assert_ne!(second, third);
    bench.served(OPUS);
    assert_eq!(bench.standing(HAIKU), Standing::Open);
}

#[test]
fn limit_closes_what_it_names_until_its_reset_and_at_most_thirty_seconds_more() {
    for random in [0, 1, 29, 30, u64::MAX] {
        let mut bench = Bench { random, ..Bench::new() };
        bench.note(OPUS, quota(&rejected("5h", NOW + 3600)));
        let lasted = bench.wait(HAIKU);
        assert!((3601..=3630).contains(&lasted), "{lasted} s with {random}");
        assert_eq!(bench.standing(HAIKU), Standing::Open, "a stated end needs no probe");
    }
    let mut bench = Bench::new();
    bench.note(OPUS, quota(&rejected("7d_opus", NOW + 9000)));
    assert_eq!(bench.standing("claude-sonnet-4-5"), Standing::Open);
    assert!(matches!(bench.standing("claude-opus-4-5"), Standing::Closed { why: Why::Limit, .. }));
    let mut bench = Bench::new();
    bench.note(OPUS, quota(&rejected("7d_oi", NOW + 9000)));
    assert_eq!(bench.standing("claude-opus-4-5"), Standing::Open);
    assert!(matches!(bench.standing(OPUS), Standing::Closed { why: Why::Limit, .. }));
}

#[test]
fn success_ends_no_limit_before_its_time() {
    let mut bench = Bench::new();
    bench.note(OPUS, quota(&rejected("5h", NOW + 3600)));
    let allowed = Reading { overall: Some(Status::Allowed), ..Reading::default() };
    assert_eq!(bench.note(OPUS, Outcome::Served(&allowed)), None);
    assert!(matches!(bench.standing(OPUS), Standing::Closed { .. }));
    bench.wait(OPUS);
    let opened = bench.note(OPUS, Outcome::Served(&allowed));
    assert_eq!(opened, Some(Change::Opened { scope: Scope::Account, why: Why::Limit }));
}

#[test]
fn one_limit_is_told_once() {
    let mut bench = Bench::new();
    assert!(bench.note(OPUS, quota(&rejected("5h", NOW + 3600))).is_some());
    for random in 0..30 {
        bench.random = random;
        assert_eq!(bench.note(HAIKU, quota(&rejected("5h", NOW + 3600))), None);
    }
    let longer = bench.note(HAIKU, quota(&rejected("7d", NOW + 90_000)));
    assert!(matches!(longer, Some(Change::Closed { scope: Scope::Account, .. })));
}

#[test]
fn retry_after_is_believed_only_if_it_is_to_be() {
    for (honour_retry_after, expected) in [(true, 1801), (false, 60)] {
        let mut bench = Bench::new();
        bench.policy.honour_retry_after = honour_retry_after;
        bench.note(OPUS, quota(&Reading { retry_after_seconds: Some(1800), ..Reading::default() }));
        assert_eq!(bench.standing(HAIKU), Standing::Open);
        assert_eq!(bench.wait(OPUS), expected, "{honour_retry_after}");
    }
}

#[test]
fn overage_keeps_an_account_that_is_used_up_where_policy_lets_it() {
    let overage = Overage { status: Some(Status::Allowed), is_in_use: true, is_disabled: false };
    let reading = Reading { overage, retry_after_seconds: Some(9000), ..rejected("5h", NOW + 9000) };
    let mut bench = Bench::new();
    assert_eq!(bench.note(OPUS, Outcome::Served(&reading)), None);
    bench.note(OPUS, quota(&reading));
    assert_eq!(bench.wait(OPUS), 60, "refused all the same: a throttle, not a wait for the reset");
    bench.policy.use_overage = false;
    bench.note(OPUS, Outcome::Served(&reading));
    assert!(matches!(bench.standing(HAIKU), Standing::Closed { why: Why::Limit, .. }));
}

#[test]
fn full_account_takes_no_new_sessions_until_the_reset_and_then_counts_as_unknown() {
    let mut bench = Bench::new();
    bench.policy.stop_at = StopAt { five_hour: Some(900), seven_day: Some(500) };
    let mut reading = Reading { overall: Some(Status::Allowed), ..Reading::default() };
    let mut fill = |name: &[u8], utilization, resets_at| {
        let window = reading.window_mut(name).unwrap();
        (window.utilization, window.resets_at) = (utilization, resets_at);
        bench.note(OPUS, Outcome::Served(&reading));
        (bench.health.stopped_until(NOW, &bench.policy), bench.health.utilization(NOW))
    };
    let known = |five_hour, seven_day| Utilization { five_hour, seven_day };
    assert_eq!(fill(b"5h", Some(899), Some(NOW + 10)), (None, known(Some(899), None)));
    assert_eq!(fill(b"5h", Some(900), Some(NOW + 10)), (Some(NOW + 10), known(Some(900), None)));
    assert_eq!(fill(b"5h", Some(1500), None), (Some(NOW + 10), known(Some(900), None)), "no reset, no news");
    assert_eq!(fill(b"7d", Some(500), Some(NOW + 99)), (Some(NOW + 99), known(Some(900), Some(500))));
    assert_eq!(bench.standing(OPUS), Standing::Open, "those that are on it stay");
    assert_eq!(bench.health.stopped_until(NOW + 10, &bench.policy), Some(NOW + 99));
    assert_eq!(bench.health.stopped_until(NOW + 99, &bench.policy), None);
    assert_eq!(bench.health.utilization(NOW + 99), Utilization::default());
}

#[test]
fn clearing_forgets_every_reason() {
    let mut bench = Bench::new();
    bench.refused(OPUS, 401, Class::Auth);
    bench.refused(OPUS, 403, Class::Auth);
    bench.note(HAIKU, quota(&rejected("7d_oi", NOW + 9000)));
    assert_eq!(bench.health.cooldowns(NOW).count(), 2);
    assert_eq!(bench.health.clear(), 3);
    assert_eq!((bench.standing(OPUS), bench.standing(HAIKU)), (Standing::Open, Standing::Open));
}

#[test]
fn of_too_many_cooldowns_the_one_that_ends_first_leaves() {
    let mut bench = Bench::new();
    bench.refused(OPUS, 403, Class::Auth);
    for at in 0..20 {
        bench.note(&format!("m{at}"), quota(&rejected("7d_oi", NOW + 1000 + 100 * at)));
    }
    bench.refused("late", 529, Class::Overload);
    let held: Vec<_> = bench.health.cooldowns(NOW).map(|cooldown| cooldown.scope.to_string()).collect();
    assert_eq!(held.len(), 17);
    assert_eq!(held[0], "account", "what holds for all never leaves");
    assert!(held.contains(&"model m19".to_owned()) && !held.contains(&"model m3".to_owned()), "{held:?}");
    assert!(!held.contains(&"model late".to_owned()));
}

/// A tenth of the rounds, unless the whole proof is asked for.
fn rounds(full: u32) -> u32 {
    #[expect(clippy::disallowed_methods, reason = "tests read their own switch")]
    let whole = std::env::var_os("LA_PROOF").is_some_and(|value| value == "1");
    if whole { full } else { full / 10 }
}

#[derive(Debug, Clone)]
struct Step {
    model: usize,
    outcome: u8,
    window: usize,
    reset: i64,
    pass: i64,
    random: u64,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = (0..4_usize, 0..8_u8, 0..5_usize, -100..700_000_i64, 0..2000_i64, any::<u64>());
    let step = step.prop_map(|(model, outcome, window, reset, pass, random)| Step {
        model,
        outcome,
        window,
        reset,
        pass,
        random,
    });
    prop::collection::vec(step, 1..60)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(rounds(20_000)) })]

    /// Of any history: nothing is closed for longer than is set, what ends is not closed after its end, limits of
    /// one model touch no other, and after a success nothing that was over is left.
    #[test]
    fn every_history_keeps_the_promises(steps in steps()) {
        const MODELS: [&str; 4] = [OPUS, "claude-opus-4-5", HAIKU, "gpt-5"];
        let mut bench = Bench::new();
        for step in steps {
            bench.now += step.pass;
            bench.random = step.random;
            let model = MODELS[step.model];
            let others: Vec<_> = MODELS.iter().filter(|other| **other != model).collect();
            let before: Vec<_> = others.iter().map(|other| bench.standing(other)).collect();
            let name = ["5h", "7d", "7d_opus", "7d_oi", "30d"][step.window];
            let reading = rejected(name, bench.now + step.reset);
            let none = Reading::default();
            let change = bench.note(model, match step.outcome {
                0 => Outcome::Served(&none),
                1 => Outcome::Served(&reading),
                2 => quota(&reading),
                3 => quota(&none),
                4 => Outcome::Refused { status: 529, class: Class::Overload, reading: &reading },
                5 => Outcome::Refused { status: 500, class: Class::Unknown, reading: &none },
                6 => Outcome::Refused { status: 403, class: Class::Auth, reading: &none },
                _ => Outcome::NoAnswer,
            });
            let is_models_own = match step.outcome {
                2 => step.window > 2 || step.reset <= 0,
                3 | 4 => true,
                _ => false,
            };
            if is_models_own {
                let after: Vec<_> = others.iter().map(|other| bench.standing(other)).collect();
                prop_assert_eq!(before, after, "{} touched others", model);
            }
            if let Some(Change::Closed { until: Some(until), .. }) = change {
                prop_assert!(until > bench.now && until <= bench.now + 691_200);
            }
            for cooldown in bench.health.cooldowns(bench.now) {
                prop_assert!(cooldown.until <= bench.now + 691_200);
            }
            if step.outcome == 0 {
                prop_assert_ne!(bench.standing(model), Standing::HalfOpen);
            }
            prop_assert!(bench.health.cooldowns.len() <= MAX_SCOPED + 3);
        }
        bench.now += 691_200;
        for model in MODELS {
            let is_closed = matches!(bench.standing(model), Standing::Closed { .. });
            prop_assert!(!is_closed, "{} never returns", model);
        }
    }
}
