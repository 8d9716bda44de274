//! What is told of every kind of limit, and when to ask again.

use la_core::budget::{Admits, Budget, Enforcement};

use super::*;

const NOW_MS: u64 = 1_800_000_000_000;

fn own() -> Subject {
    Subject::of("gateway", "team", "agent").unwrap()
}

fn refused(by: RefusedBy, unit: Unit, [used, limit, wanted]: [u64; 3]) -> Refused {
    let name = if by == RefusedBy::Budget { "main" } else { "" }.into();
    Refused { by, owner: own(), name, unit, used, limit, wanted, resets_at_ms: None, retry_at_ms: None }
}

fn timed(refused: Refused, in_ms: u64) -> Refused {
    Refused { resets_at_ms: Some(NOW_MS + in_ms), retry_at_ms: Some(NOW_MS + in_ms), ..refused }
}

/// What is told of a refusal by a budget of `window`, of which `open` is held by open requests.
fn told(refused: Refused, window: &str, open: u64) -> (Option<u64>, String) {
    let (name, enforcement) = ("main".into(), Enforcement::Hard);
    let Refused { ref owner, unit, used, limit, resets_at_ms, .. } = refused;
    let window = window.parse().unwrap();
    let budgets = [Budget { name, unit, limit, window, enforcement, admits: Admits::default() }];
    let covering = [Covering::pool(owner, &budgets)];
    let standing = Standing {
        owner: owner.clone(),
        name: "main".into(),
        unit,
        enforcement,
        used,
        open,
        limit,
        resets_at_ms,
    };
    let limited = Limited::new(refused.clone(), &covering, vec![standing], NOW_MS);
    (limited.retry_after_seconds(), limited.to_string())
}

#[test]
fn budgets_say_how_they_stand_and_when_to_ask_again() {
    use RefusedBy::Budget;
    use Unit::{Requests, Tokens, Usd};
    let pool = Subject::of_pool("gateway", "platform", "all").unwrap();
    let cases = [
        (
            "a window",
            timed(refused(Budget, Tokens, [90, 100, 30]), 60_001),
            ("Day@UTC", 0),
            Some(61),
            "budget main of this token is used up: 90 of 100 Tokens in Day@UTC, and this request may use 30 more; \
             it resets at 2027-01-15T08:01:01Z",
        ),
        (
            "a window of a pool",
            Refused {
                owner: pool,
                ..timed(refused(Budget, Usd, [1_500_000_000, 2_000_000_000, 600_000_000]), 1)
            },
            ("Hour@UTC", 0),
            Some(1),
            "budget main of pool platform/all is used up: 1.5 of 2 USD in Hour@UTC, and this request may use 0.6 \
             more; it resets at 2027-01-15T08:00:01Z",
        ),
        (
            "a lifetime",
            refused(Budget, Requests, [2, 2, 1]),
            ("lifetime", 1),
            None,
            "budget main of this token is used up: 2 of 2 Requests for its whole lifetime; it does not reset, \
             only its owner can raise it",
        ),
        (
            "a lifetime that open requests hold",
            refused(Budget, Tokens, [90, 100, 30]),
            ("lifetime", 80),
            Some(1),
            "budget main of this token has 90 of 100 Tokens used or held by open requests, and this request may use \
             30 more; try again when one of them has ended",
        ),
        (
            "more than all there is",
            refused(Budget, Tokens, [0, 100, 101]),
            ("Day@UTC", 0),
            None,
            "budget main of this token can never admit this request: it may use 101 Tokens and 100 is all there is; \
             ask for less, by `max_tokens` or a shorter input",
        ),
    ];
    for (what, refused, (window, open), retry, text) in cases {
        assert_eq!(told(refused, window, open), (retry, text.to_owned()), "{what}");
    }
}

#[test]
fn rates_and_concurrency_say_when_there_is_room() {
    use RefusedBy::{Concurrency, Rate};
    use Unit::{Requests, Tokens};
    let cases = [
        (
            "a rate",
            timed(refused(Rate, Requests, [3, 3, 1]), 2_500),
            ("lifetime", 0),
            Some(3),
            "the rate of Requests of this token is used up: 3 of 3 at once, and this request needs 1 more; it has \
             room at 2027-01-15T08:00:03Z",
        ),
        (
            "more than a rate ever lets through",
            refused(Rate, Tokens, [0, 50, 60]),
            ("lifetime", 0),
            None,
            "the rate of Tokens of this token can never admit this request: it may use 60 and 50 is the most at \
             once; ask for less, by `max_tokens` or a shorter input",
        ),
        (
            "concurrency",
            refused(Concurrency, Requests, [4, 4, 1]),
            ("lifetime", 0),
            Some(1),
            "4 of 4 requests of this token are open, the most at one time; try again when one of them has ended",
        ),
    ];
    for (what, refused, (window, open), retry, text) in cases {
        assert_eq!(told(refused, window, open), (retry, text.to_owned()), "{what}");
    }
}
