use proptest::prelude::*;

use super::Strategy;
use super::*;

fn candidate(name: &str) -> Candidate {
    Candidate {
        id: AccountId::of("claude", name),
        priority: 0,
        weight: 1,
        in_flight: 0,
        max_concurrency: None,
        served: 0,
        utilization: Utilization::default(),
    }
}

fn candidates(count: usize) -> Vec<Candidate> {
    (0..count).map(|at| candidate(&format!("account-{at}"))).collect()
}

fn session(number: u128) -> Chooser {
    // Real keys are digests; a product with a large odd number spreads these as well.
    Chooser::Session(SessionKey::from_bits(number.wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835)))
}

const ALL: [Strategy; 5] = [
    Strategy::LeastUtilized,
    Strategy::RoundRobin,
    Strategy::LeastUsed,
    Strategy::Priority,
    Strategy::Weighted,
];

/// Which account, by its id, a chooser comes to first.
fn first(strategy: Strategy, chooser: Chooser, candidates: &[Candidate]) -> AccountId {
    candidates[order(strategy, chooser, candidates).next().unwrap()].id
}

/// How many of the sessions from 0 on come to each candidate.
fn shares(strategy: Strategy, candidates: &[Candidate], sessions: u128) -> Vec<u32> {
    let mut shares = vec![0; candidates.len()];
    for number in 0..sessions {
        shares[order(strategy, session(number), candidates).next().unwrap()] += 1;
    }
    shares
}

#[test]
fn every_candidate_is_tried_once_whatever_the_strategy() {
    for count in [0, 1, 2, 15, 16, 17, 40] {
        let candidates = candidates(count);
        for strategy in ALL {
            for chooser in [session(7), Chooser::Turn(0), Chooser::Turn(u64::MAX)] {
                let mut places: Vec<_> = order(strategy, chooser, &candidates).collect();
                places.sort_unstable();
                assert_eq!(places, (0..count).collect::<Vec<_>>(), "{strategy:?} of {count}");
            }
        }
    }
}

#[test]
fn sessions_are_shared_in_proportion_to_the_weights() {
    let mut given = candidates(4);
    for (candidate, weight) in given.iter_mut().zip([1, 2, 3, 4]) {
        candidate.weight = weight;
    }
    let weighted = shares(Strategy::Weighted, &given, 20_000);
    for (share, weight) in weighted.iter().zip([1, 2, 3, 4]) {
        assert!(share.abs_diff(weight * 2000) < 200, "{weighted:?}");
    }
    let equal = shares(Strategy::RoundRobin, &given, 20_000);
    assert!(equal.iter().all(|share| share.abs_diff(5000) < 300), "{equal:?}");
    for (candidate, fill) in given.iter_mut().zip([None, Some(500), Some(800), Some(1200)]) {
        candidate.utilization.seven_day = fill;
    }
    let by_room = shares(Strategy::LeastUtilized, &given, 15_000);
    for (share, expected) in by_room.iter().zip([8000_u32, 4000, 2000, 1000]) {
        assert!(share.abs_diff(expected) < 300, "{by_room:?}");
    }
}

#[test]
fn what_one_replica_alone_knows_decides_for_no_session() {
    let plain = candidates(5);
    let mut busy = plain.clone();
    for (at, candidate) in (1..).zip(&mut busy) {
        (candidate.in_flight, candidate.served) = (at * 3, u64::from(at) * 100);
        candidate.max_concurrency = Some(1);
        candidate.utilization.five_hour = Some(499);
    }
    busy.reverse();
    for strategy in ALL {
        for number in 0..500 {
            let chooser = session(number);
            assert_eq!(first(strategy, chooser, &plain), first(strategy, chooser, &busy), "{strategy:?}");
        }
    }
}

#[test]
fn lower_priority_numbers_come_first_under_every_strategy() {
    let mut given = candidates(6);
    for (at, candidate) in given.iter_mut().enumerate() {
        candidate.priority = [2, 0, 1, 0, 2, 1][at];
        candidate.in_flight = [0, 9, 0, 9, 0, 0][at];
        candidate.utilization.five_hour = [None, Some(990), None, Some(990), None, None][at];
    }
    for strategy in ALL {
        for chooser in [session(1), session(2), Chooser::Turn(3), Chooser::Turn(4)] {
            let order = order(strategy, chooser, &given);
            let priorities: Vec<_> = order.map(|at| given[at].priority).collect();
            assert_eq!(priorities, [0, 0, 1, 1, 2, 2], "{strategy:?}");
        }
    }
}

#[test]
fn without_a_session_each_strategy_does_what_it_is_called() {
    let turn = |strategy, turn, given: &[Candidate]| first(strategy, Chooser::Turn(turn), given);
    let mut given = candidates(3);
    let ids: Vec<_> = given.iter().map(|candidate| candidate.id).collect();

    let turns: Vec<_> = (0..6).map(|at| turn(Strategy::RoundRobin, at, &given)).collect();
    assert_eq!(turns[..3], turns[3..]);
    let mut once = turns[..3].to_vec();
    once.sort_unstable();
    once.dedup();
    assert_eq!(once.len(), 3, "each in its turn");

    let always: Vec<_> = (0..6).map(|at| turn(Strategy::Priority, at, &given)).collect();
    assert!(always.iter().all(|id| *id == always[0]));

    (given[0].served, given[1].served, given[2].served) = (5, 4, 6);
    assert_eq!(turn(Strategy::LeastUsed, 1, &given), ids[1]);

    // 4 of 1000 are less than 1 of 100: five requests for a whole account, two for a tenth of one.
    (given[0].in_flight, given[1].in_flight, given[2].in_flight) = (4, 1, 5);
    given[1].utilization = Utilization { five_hour: Some(100), seven_day: Some(900) };
    assert_eq!(turn(Strategy::LeastUtilized, 1, &given), ids[0]);
    given[0].max_concurrency = Some(4);
    assert_eq!(turn(Strategy::LeastUtilized, 1, &given), ids[2], "a full one after those with room");
    given[1].utilization = Utilization { five_hour: Some(5000), seven_day: None };
    given[2].max_concurrency = Some(1);
    assert_eq!(turn(Strategy::LeastUtilized, 1, &given), ids[1], "a used up one before full ones");
}

#[test]
fn many_requests_without_a_session_do_not_meet_at_one_idle_account() {
    for strategy in [Strategy::LeastUtilized, Strategy::LeastUsed, Strategy::Weighted] {
        let given = candidates(4);
        let mut shares = [0_u32; 4];
        for turn in 0..4000 {
            shares[order(strategy, Chooser::Turn(turn), &given).next().unwrap()] += 1;
        }
        assert!(shares.iter().all(|share| share.abs_diff(1000) < 150), "{strategy:?}: {shares:?}");
    }
}

#[test]
fn logarithm_is_exact_to_its_last_bits() {
    assert_eq!([log2(0), log2(1), log2(2), log2(1 << 63)], [0, 0, 1 << 32, 63 << 32]);
    for number in [3_u64, 5, 1000, 123_456_789, u64::MAX / 3, u64::MAX] {
        let expected = (number as f64).log2() * 2_f64.powi(32);
        let difference = (log2(number) as f64 - expected).abs();
        assert!(difference < 4096.0, "{number}: {difference}");
    }
}

/// The same bits on every replica and in every version: sessions must not move when a router is upgraded.
#[test]
fn places_are_the_same_for_ever() {
    let mut given = candidates(5);
    given[3].weight = 7;
    let firsts: Vec<_> =
        (0..16).map(|number| order(Strategy::Weighted, session(number), &given).next().unwrap()).collect();
    assert_eq!(firsts, PINNED);
}

const PINNED: [usize; 16] = [3, 3, 3, 3, 3, 3, 3, 0, 0, 3, 3, 3, 3, 1, 3, 3];

/// A tenth of the rounds, unless the whole proof is asked for.
fn rounds(full: u32) -> u32 {
    #[expect(clippy::disallowed_methods, reason = "tests read their own switch")]
    let whole = std::env::var_os("LA_PROOF").is_some_and(|value| value == "1");
    if whole { full } else { full / 10 }
}

prop_compose! {
    fn any_candidate()(
        name in "[a-z]{1,8}",
        weight in 0..50_u32,
        five_hour in prop::option::of(0..1200_u32),
    ) -> Candidate {
        let utilization = Utilization { five_hour, seven_day: None };
        Candidate { weight, utilization, ..candidate(&name) }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(rounds(5_000)) })]

    /// Another account takes sessions and gives none to others; its order among the others is kept.
    #[test]
    fn account_that_comes_or_goes_moves_only_its_own_sessions(
        mut fewer in prop::collection::vec(any_candidate(), 1..20),
        added in any_candidate(),
        keys in prop::collection::vec(any::<u128>(), 50),
        at in any::<prop::sample::Index>(),
    ) {
        fewer.sort_by_key(|candidate| candidate.id);
        fewer.dedup_by_key(|candidate| candidate.id);
        fewer.retain(|candidate| candidate.id != added.id);
        prop_assume!(!fewer.is_empty());
        let mut more = fewer.clone();
        more.insert(at.index(fewer.len() + 1), added);
        for strategy in ALL {
            for key in &keys {
                let chooser = Chooser::Session(SessionKey::from_bits(*key));
                let ids = |candidates: &[Candidate]| -> Vec<_> {
                    order(strategy, chooser, candidates).map(|at| candidates[at].id).collect()
                };
                let without: Vec<_> = ids(&more).into_iter().filter(|id| *id != added.id).collect();
                prop_assert_eq!(&without, &ids(&fewer));
            }
        }
    }
}
