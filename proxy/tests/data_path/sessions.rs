//! Which account the requests of a session go to.

use std::collections::BTreeSet;
use std::io::Write as _;

use la_core::snapshot::{Account, Backend};

use crate::router::{Router, Setting, account, key, message, read_answer, status};
use crate::vendor::Vendor;

const TURNS: usize = 50;

fn pool(vendor: &Vendor) -> Router {
    let accounts = ["a", "b", "c", "d", "e"].map(account).to_vec();
    Router::with(vendor.address, Setting { accounts, threads: 2, ..Setting::default() })
}

/// One turn of a session of a token; says which credential served it last.
fn turn(router: &Router, vendor: &Vendor, (token, session): (&str, &str)) -> String {
    let text = message(&router.token(token), "stream");
    let text = text.replace("host: x\r\n", &format!("host: x\r\nx-claude-code-session-id: {session}\r\n"));
    let mut client = router.connect();
    client.write_all(text.as_bytes()).unwrap();
    assert_eq!(status(&read_answer(&mut client)), 200);
    vendor.credentials().pop().unwrap()
}

fn steps(router: &Router) -> [u64; 3] {
    let metrics = router.metrics.encode();
    ["hit", "escape", "rebind"].map(|step| {
        let name = format!("la_router_affinity_total{{outcome=\"{step}\"}} ");
        metrics.split_once(&name).unwrap().1.lines().next().unwrap().parse().unwrap()
    })
}

#[test]
fn session_stays_on_its_account_and_sessions_spread() {
    let vendor = Vendor::start();
    let router = pool(&vendor);
    let mut homes = BTreeSet::new();
    for session in 0..20 {
        let session = format!("s{session}");
        let home = turn(&router, &vendor, ("id-1", &session));
        for _ in 1..TURNS / 10 {
            assert_eq!(turn(&router, &vendor, ("id-1", &session)), home, "{session}");
        }
        homes.insert(home);
    }
    assert!(homes.len() >= 3, "twenty sessions are on {homes:?}");
    assert_eq!(steps(&router), [100, 0, 0]);
}

#[test]
fn one_overload_is_one_escape_and_a_return() {
    let vendor = Vendor::start();
    let router = pool(&vendor);
    let home = turn(&router, &vendor, ("id-1", "s"));
    vendor.fail(&home, "overloaded", 1);
    assert_ne!(turn(&router, &vendor, ("id-1", "s")), home, "this turn goes elsewhere");
    for _ in 0..TURNS {
        assert_eq!(turn(&router, &vendor, ("id-1", "s")), home);
    }
    assert_eq!(steps(&router)[1..], [1, 0]);
}

#[test]
fn second_failure_in_a_row_and_a_limit_that_is_used_up_move_the_session_once() {
    for (what, times, expected) in [("overloaded", 2, [1, 1]), ("limited", 1, [0, 1])] {
        let vendor = Vendor::start();
        let router = pool(&vendor);
        let home = turn(&router, &vendor, ("id-1", "s"));
        vendor.fail(&home, what, times);
        for _ in 0..times {
            assert_ne!(turn(&router, &vendor, ("id-1", "s")), home, "{what}");
        }
        let other = vendor.credentials().pop().unwrap();
        for _ in 0..TURNS {
            assert_eq!(turn(&router, &vendor, ("id-1", "s")), other, "{what}");
        }
        assert_eq!(steps(&router)[1..], expected, "{what}");
    }
}

#[test]
fn sessions_of_two_tokens_are_two_sessions_whatever_they_are_called() {
    let vendor = Vendor::start();
    let router = pool(&vendor);
    let named = (0..100).map(|name| format!("s{name}"));
    let differ = |session: &String| {
        turn(&router, &vendor, ("id-1", session)) != turn(&router, &vendor, ("id-2", session))
    };
    assert!(named.clone().any(|session| differ(&session)));
    let session = named.clone().find(differ).unwrap();
    let (one, two) = (turn(&router, &vendor, ("id-1", &session)), turn(&router, &vendor, ("id-2", &session)));
    vendor.fail(&one, "limited", 1);
    let _ = turn(&router, &vendor, ("id-1", &session));
    assert_eq!(turn(&router, &vendor, ("id-2", &session)), two, "one moves without the other");
}

#[test]
fn accounts_that_come_and_go_move_no_session_but_their_own() {
    let vendor = Vendor::start();
    let mut router = pool(&vendor);
    let sessions: Vec<_> = (0..20).map(|name| format!("s{name}")).collect();
    let all = |router: &Router| -> Vec<_> {
        sessions.iter().map(|session| turn(router, &vendor, ("id-1", session))).collect()
    };
    let before = all(&router);
    let credential = la_core::credential::Credential::ApiKey { key: la_core::secret::Secret::new(key("f")) };
    router.credentials.insert("anthropic/f".to_owned(), credential);
    router.publish(|snapshot| {
        let Backend::Anthropic { accounts, .. } = &mut snapshot.providers[0].backend;
        accounts.push(account("f"));
    });
    assert_eq!(all(&router), before, "one more account takes no session that is at home elsewhere");
    router.publish(|snapshot| {
        let Backend::Anthropic { accounts, .. } = &mut snapshot.providers[0].backend;
        accounts.remove(0);
        accounts[0] = Account { disabled: true, ..account("b") };
    });
    let after = all(&router);
    for (session, (before, after)) in sessions.iter().zip(before.iter().zip(&after)) {
        let has_gone = [key("a"), key("b")].contains(before);
        assert_eq!(before != after, has_gone, "{session} was on {before} and is on {after}");
    }
    assert_eq!(all(&router), after);
}

#[test]
fn sessions_of_an_account_can_be_forgotten() {
    let vendor = Vendor::start();
    let router = pool(&vendor);
    let home = turn(&router, &vendor, ("id-1", "s"));
    vendor.fail(&home, "limited", 1);
    let other = turn(&router, &vendor, ("id-1", "s"));
    let live = router.live.load();
    let forgotten = |name: &str| live.forget_sessions(live.account("anthropic", name).unwrap());
    let name = ["a", "b", "c", "d", "e"].into_iter().find(|name| key(name) == other).unwrap();
    assert_eq!((forgotten(name), forgotten(name)), (1, 0));
}
