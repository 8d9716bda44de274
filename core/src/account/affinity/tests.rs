use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

const NOW: i64 = 1_790_000_000;

fn account(number: u64) -> AccountId {
    AccountId(number)
}

fn key(number: u128) -> SessionKey {
    SessionKey::from_bits(number)
}

fn subject(name: &str) -> Subject {
    Subject::of("gateway", "team-a", name).unwrap()
}

#[test]
fn key_is_of_one_token_provider_family_and_session() {
    let of =
        |token: &str, provider, model, session| SessionKey::of(&subject(token), provider, model, session);
    let base = of("agent", "claude", "claude-opus-5", "s1");
    assert_eq!(base, of("agent", "claude", "claude-opus-4-5-20251101", "s1"), "one family");
    for other in [
        of("agent-2", "claude", "claude-opus-5", "s1"),
        of("agent", "claude-2", "claude-opus-5", "s1"),
        of("agent", "claude", "claude-haiku-4-5", "s1"),
        of("agent", "claude", "claude-opus-5", "s2"),
        of("agent", "claude", "claude-opus-5", ""),
    ] {
        assert_ne!(base, other);
    }
}

#[test]
fn session_stays_for_as_long_as_it_is_used() {
    let mut bindings = Bindings::default();
    let mut now = NOW;
    let placed = bindings.place(key(1), account(1), now);
    for _ in 0..50 {
        now += 3_899;
        let seen = bindings.bound(key(1), now).unwrap();
        assert_eq!(seen, placed);
        bindings.keep(key(1), seen, now);
    }
    assert_eq!(bindings.bound(key(1), now + 3_900), None, "it is over when nobody used it");
    assert_eq!(bindings.counts(), Counts { hits: 50, escapes: 0, rebinds: 0 });
}

#[test]
fn others_hear_of_a_session_once_when_it_moves_and_while_it_is_in_use() {
    let mut bindings = Bindings::default();
    let placed = bindings.place(key(1), account(1), NOW);
    let notice = |from, to| Some(Notice { from, to: account(to) });
    assert_eq!(bindings.notice(key(1), NOW), notice(None, 1));
    bindings.keep(key(1), placed, NOW + 1);
    assert_eq!(bindings.notice(key(1), NOW + 1), None, "they know");
    bindings.escape(key(1), placed, account(2), NOW + 2);
    assert_eq!(bindings.notice(key(1), NOW + 2), None, "it stays");
    bindings.rebind(key(1), bindings.bound(key(1), NOW + 3).unwrap(), account(2), NOW + 3);
    assert_eq!(bindings.notice(key(1), NOW + 3), notice(Some(account(1)), 2));
    let due = NOW + 3 + 3_900 / 4;
    assert_eq!(bindings.notice(key(1), due - 1), None);
    assert_eq!(bindings.notice(key(1), due), notice(Some(account(2)), 2));
    assert_eq!(bindings.notice(key(2), due), None, "there is no such session");
}

#[test]
fn session_that_another_replica_moved_is_where_it_says() {
    let mut bindings = Bindings::default();
    assert!(!bindings.follow(key(1), account(1), NOW), "a session that is new here has not moved");
    let seen = bindings.bound(key(1), NOW).unwrap();
    assert_eq!(seen.account, account(1));
    assert_eq!(bindings.notice(key(1), NOW), None, "others told us");
    assert!(bindings.follow(key(1), account(2), NOW) && !bindings.follow(key(1), account(2), NOW));
    let moved = bindings.rebind(key(1), seen, account(3), NOW);
    assert_eq!(moved.account, account(2), "a request from before finds it moved");
    assert_eq!(bindings.counts(), Counts::default(), "whoever moved it counts that");
    assert!(bindings.bound(key(1), NOW + 3_899).is_some());
    bindings.follow(key(1), account(2), NOW + 3_899);
    assert!(bindings.bound(key(1), NOW + 3_900).is_some(), "it is in use elsewhere");
    let all = |now| bindings.notices(now).collect::<Vec<_>>();
    assert_eq!(all(NOW + 3_900), [(key(1), Notice { from: None, to: account(2) })]);
    assert_eq!(all(NOW + 2 * 3_900), []);
}

#[test]
fn of_requests_that_begin_a_session_together_the_first_places_it() {
    let mut bindings = Bindings::default();
    let first = bindings.place(key(1), account(1), NOW);
    assert_eq!(bindings.place(key(1), account(2), NOW), first);
    let again = bindings.place(key(1), account(2), NOW + 3_900);
    assert_eq!(again.account, account(2), "a session whose time is over is a new one");
    assert_ne!(again, bindings.place(key(2), account(2), NOW));
}

#[test]
fn one_failure_in_passing_is_one_escape_and_a_return() {
    let mut bindings = Bindings::default();
    let seen = bindings.place(key(1), account(1), NOW);
    let after = bindings.escape(key(1), seen, account(2), NOW).unwrap();
    assert_eq!(after.account, account(1));
    let next = bindings.bound(key(1), NOW).unwrap();
    bindings.keep(key(1), next, NOW);
    let after = bindings.escape(key(1), next, account(2), NOW).unwrap();
    assert_eq!(after.account, account(1), "a success in between begins the count anew");
    assert_eq!(bindings.counts(), Counts { hits: 1, escapes: 2, rebinds: 0 });
}

#[test]
fn second_escape_in_a_row_moves_the_session() {
    let mut bindings = Bindings::default();
    let seen = bindings.place(key(1), account(1), NOW);
    let seen = bindings.escape(key(1), seen, account(2), NOW).unwrap();
    let moved = bindings.escape(key(1), seen, account(3), NOW).unwrap();
    assert_eq!(moved.account, account(3));
    assert_eq!(bindings.bound(key(1), NOW), Some(moved));
    assert_eq!(bindings.counts(), Counts { hits: 0, escapes: 1, rebinds: 1 });
}

#[test]
fn requests_that_failed_together_are_one_escape_in_a_row() {
    let mut bindings = Bindings::default();
    let seen = bindings.place(key(1), account(1), NOW);
    for _ in 0..10 {
        assert_eq!(bindings.escape(key(1), seen, account(2), NOW).unwrap().account, account(1));
    }
    bindings.keep(key(1), seen, NOW);
    let next = bindings.bound(key(1), NOW).unwrap();
    assert_eq!(
        bindings.escape(key(1), next, account(2), NOW).unwrap().account,
        account(2),
        "a success from before the escape does not say that the account is well after it"
    );
}

#[test]
fn requests_that_were_rejected_together_move_the_session_once() {
    let mut bindings = Bindings::default();
    let seen = bindings.place(key(1), account(1), NOW);
    let moved = bindings.rebind(key(1), seen, account(2), NOW);
    for to in 3..10 {
        assert_eq!(bindings.rebind(key(1), seen, account(to), NOW), moved);
        assert_eq!(bindings.escape(key(1), seen, account(to), NOW), Some(moved));
    }
    bindings.keep(key(1), seen, NOW);
    assert_eq!(bindings.bound(key(1), NOW), Some(moved));
    assert_eq!(bindings.counts(), Counts { hits: 0, escapes: 0, rebinds: 1 });
}

#[test]
fn rejection_after_an_escape_still_moves_the_session() {
    let mut bindings = Bindings::default();
    let seen = bindings.place(key(1), account(1), NOW);
    bindings.escape(key(1), seen, account(2), NOW);
    assert_eq!(bindings.rebind(key(1), seen, account(2), NOW).account, account(2));
}

#[test]
fn session_that_was_forgotten_is_placed_where_its_request_goes() {
    let mut bindings = Bindings::default();
    let seen = bindings.place(key(1), account(1), NOW);
    assert_eq!(bindings.clear_account(account(1)), 1);
    bindings.keep(key(1), seen, NOW);
    assert_eq!((bindings.bound(key(1), NOW), bindings.escape(key(1), seen, account(2), NOW)), (None, None));
    assert_eq!(bindings.rebind(key(1), seen, account(2), NOW).account, account(2));
    assert_eq!(bindings.counts().rebinds, 0);
}

#[test]
fn clearing_an_account_leaves_the_others() {
    let mut bindings = Bindings::default();
    for number in 0..1000 {
        bindings.place(key(number), account((number % 3) as u64), NOW);
    }
    assert_eq!(bindings.clear_account(account(1)), 333);
    assert_eq!((bindings.clear_account(account(1)), bindings.len()), (0, 667));
    let bound = |number| bindings.bound(key(number), NOW).map(|binding| binding.account);
    assert_eq!([bound(0), bound(1), bound(2)], [Some(account(0)), None, Some(account(2))]);
}

#[test]
fn least_recently_used_session_leaves_when_there_is_no_room() {
    let mut bindings = Bindings::new(3, 100);
    for number in 0..3 {
        bindings.place(key(number), account(1), NOW);
    }
    let seen = bindings.bound(key(0), NOW).unwrap();
    bindings.keep(key(0), seen, NOW);
    bindings.place(key(3), account(1), NOW);
    assert_eq!(bindings.bound(key(1), NOW), None);
    assert!([0, 2, 3].iter().all(|number| bindings.bound(key(*number), NOW).is_some()));
    let mut none = Bindings::new(3, 0);
    none.place(key(1), account(1), NOW);
    assert_eq!(none.bound(key(1), NOW), None, "no time to live, no memory");
}

#[test]
fn clock_that_steps_back_loses_nothing() {
    let mut bindings = Bindings::new(3, 100);
    let seen = bindings.place(key(1), account(1), NOW);
    bindings.keep(key(1), seen, NOW - 1_000_000);
    assert_eq!(bindings.bound(key(1), NOW - 1_000_000), Some(seen));
    assert_eq!(bindings.bound(key(1), NOW + 99), Some(seen));
    assert_eq!(bindings.bound(key(1), NOW + 100), None);
}

/// A tenth of the rounds, unless the whole proof is asked for.
fn rounds(full: u32) -> u32 {
    #[expect(clippy::disallowed_methods, reason = "tests read their own switch")]
    let whole = std::env::var_os("LA_PROOF").is_some_and(|value| value == "1");
    if whole { full } else { full / 10 }
}

#[derive(Debug, Clone)]
enum Step {
    Place(u128, u64),
    Keep(u128, bool),
    Escape(u128, u64, bool),
    Rebind(u128, u64, bool),
    Clear(u64),
    Pass(i64),
}

fn step() -> impl Strategy<Value = Step> {
    let (key, to) = (0..12_u128, 0..4_u64);
    prop_oneof![
        4 => (key.clone(), to.clone()).prop_map(|(key, to)| Step::Place(key, to)),
        3 => (key.clone(), any::<bool>()).prop_map(|(key, old)| Step::Keep(key, old)),
        3 => (key.clone(), to.clone(), any::<bool>()).prop_map(|(key, to, old)| Step::Escape(key, to, old)),
        3 => (key, to.clone(), any::<bool>()).prop_map(|(key, to, old)| Step::Rebind(key, to, old)),
        1 => to.prop_map(Step::Clear),
        2 => (0..60_i64).prop_map(Step::Pass),
    ]
}

/// The same rules, without any care for cost.
#[derive(Default)]
struct Naive {
    /// By key: account, version, escapes in a row, last use; the order of use beside it.
    sessions: BTreeMap<u128, (u64, u64, bool, i64)>,
    order: Vec<u128>,
    versions: u64,
}

const CAPACITY: usize = 8;
const TTL: i64 = 100;

impl Naive {
    fn use_now(&mut self, key: u128, now: i64) {
        self.order.retain(|other| *other != key);
        self.order.push(key);
        self.sessions.entry(key).and_modify(|session| session.3 = now);
    }

    fn forget(&mut self, keep: impl Fn(&(u64, u64, bool, i64)) -> bool) {
        self.sessions.retain(|_, session| keep(session));
        self.order.retain(|key| self.sessions.contains_key(key));
    }

    fn place(&mut self, key: u128, to: u64, now: i64) {
        if !self.sessions.contains_key(&key) {
            if self.sessions.len() == CAPACITY {
                let oldest = self.order.remove(0);
                self.sessions.remove(&oldest);
            }
            self.versions += 1;
            self.sessions.insert(key, (to, self.versions, false, now));
        }
        self.use_now(key, now);
    }

    fn move_to(&mut self, key: u128, to: u64, escaped: bool, now: i64) {
        self.versions += 1;
        self.sessions.insert(key, (to, self.versions, escaped, now));
        self.use_now(key, now);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(rounds(10_000)) })]

    #[test]
    fn every_history_is_that_of_the_naive_table(steps in prop::collection::vec(step(), 1..120)) {
        let (mut bindings, mut naive, mut now) = (Bindings::new(CAPACITY, TTL as u32), Naive::default(), NOW);
        // What a slow request of each session was sent by.
        let mut old: BTreeMap<u128, Binding> = BTreeMap::new();
        for step in steps {
            naive.forget(|session| now - session.3 < TTL);
            let seen = |key: &u128, is_old: bool| match is_old {
                true => old.get(key).copied(),
                false => bindings.bound(SessionKey::from_bits(*key), now),
            };
            match step {
                Step::Pass(seconds) => now += seconds,
                Step::Place(number, to) => {
                    let placed = bindings.place(key(number), account(to), now);
                    old.entry(number).or_insert(placed);
                    naive.place(number, to, now);
                }
                Step::Keep(number, is_old) => {
                    let Some(seen) = seen(&number, is_old) else { continue };
                    bindings.keep(key(number), seen, now);
                    if let Some(session) = naive.sessions.get_mut(&number).filter(|s| account(s.0) == seen.account) {
                        session.2 &= session.1 != seen.version;
                        naive.use_now(number, now);
                    }
                }
                Step::Escape(number, to, is_old) => {
                    let Some(seen) = seen(&number, is_old) else { continue };
                    bindings.escape(key(number), seen, account(to), now);
                    match naive.sessions.get(&number).copied() {
                        Some((at, version, escaped, _)) if version == seen.version => {
                            naive.move_to(number, if escaped { to } else { at }, !escaped, now);
                        }
                        _ => {}
                    }
                }
                Step::Rebind(number, to, is_old) => {
                    let Some(seen) = seen(&number, is_old) else { continue };
                    bindings.rebind(key(number), seen, account(to), now);
                    match naive.sessions.get(&number).copied() {
                        None => naive.place(number, to, now),
                        Some((at, ..)) if account(at) == seen.account => naive.move_to(number, to, false, now),
                        Some(_) => {}
                    }
                }
                Step::Clear(number) => {
                    bindings.clear_account(account(number));
                    naive.forget(|session| session.0 != number);
                }
            }
            naive.forget(|session| now - session.3 < TTL);
            for number in 0..12 {
                let expected = naive.sessions.get(&number).map(|session| (account(session.0), session.1));
                let bound = bindings.bound(key(number), now).map(|bound| (bound.account, bound.version));
                prop_assert_eq!(bound, expected, "session {}", number);
            }
            prop_assert!(bindings.len() <= CAPACITY && bindings.entries.len() <= CAPACITY);
        }
    }
}
