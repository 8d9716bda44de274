//! A credential that the vendor refuses and that somebody renews: who waits for the new one, and for how long.

use std::io::Write as _;
use std::time::{Duration, Instant};

use la_core::credential::Credential;
use la_core::secret::Secret;
use la_core::snapshot::Account;

use crate::router::{
    OAUTH, Router, Setting, account, body, eventually, key, message, read_answer, rounds, status,
};
use crate::vendor::Vendor;

#[expect(clippy::disallowed_methods, reason = "a test measures real time")]
fn now() -> Instant {
    Instant::now()
}

fn router(vendor: &Vendor, others: &[&str]) -> Router {
    let main = Account { renewable: true, ..account("main") };
    let others = others.iter().map(|name| Account { priority: 1, ..account(name) });
    let accounts = std::iter::once(main).chain(others).collect();
    Router::with(vendor.address, Setting { accounts, ..Setting::default() })
}

fn renew(router: &mut Router, access_token: &str) {
    let fresh = Credential::OAuth { access_token: Secret::new(access_token), expires_at: None };
    router.credentials.insert("anthropic/main".to_owned(), fresh);
    router.publish(|_| ());
}

#[test]
fn request_waits_for_the_new_credential_when_nobody_else_can_serve() {
    let vendor = Vendor::start();
    let mut router = router(&vendor, &[]);
    vendor.fail(OAUTH, "unauthorized", 8);
    let mut clients: Vec<_> = (0..8).map(|_| router.connect()).collect();
    for client in &mut clients {
        client.write_all(message(&router.token("id-1"), "json").as_bytes()).unwrap();
    }
    eventually("the vendor has refused it", || router.live.load().accounts(0)[0].refused.is_some());
    eventually("all are open", || router.used("agent").1 == 8);
    renew(&mut router, "fresh");
    for client in &mut clients {
        let answer = read_answer(client);
        assert_eq!(status(&answer), 200, "nobody sees a 401: {answer}");
    }
    let used = vendor.credentials();
    assert_eq!(used.iter().filter(|used| **used == "fresh").count(), 8, "{used:?}");
    eventually("each was one request", || router.used("agent") == (8, 0));
}

#[test]
fn other_accounts_serve_at_once_and_the_new_credential_afterwards() {
    let vendor = Vendor::start();
    let mut router = router(&vendor, &["spare"]);
    vendor.fail(OAUTH, "unauthorized", 1);
    let begun = now();
    assert_eq!(status(&router.ask("json")), 200);
    assert!(begun.elapsed() < Duration::from_secs(1), "nobody waits: {:?}", begun.elapsed());
    renew(&mut router, "fresh");
    assert_eq!(status(&router.ask("json")), 200);
    assert_eq!(vendor.credentials(), [OAUTH.to_owned(), key("spare"), "fresh".to_owned()]);
}

#[test]
fn second_refusal_is_the_end_and_no_401() {
    let vendor = Vendor::start();
    let mut router = router(&vendor, &[]);
    vendor.fail(OAUTH, "unauthorized", 1);
    vendor.fail("fresh", "unauthorized", 1);
    let mut client = router.connect();
    client.write_all(message(&router.token("id-1"), "json").as_bytes()).unwrap();
    eventually("the vendor has refused it", || vendor.requests() == 1);
    renew(&mut router, "fresh");
    let answer = read_answer(&mut client);
    assert_eq!(status(&answer), 502, "{answer}");
    assert!(body(&answer).contains("account anthropic/main"), "{answer}");
    assert_eq!(vendor.requests(), 2);
}

#[test]
fn client_that_leaves_while_it_waits_is_let_go_of() {
    let vendor = Vendor::start();
    let router = router(&vendor, &[]);
    for round in 0..rounds(100) {
        vendor.fail(OAUTH, "unauthorized", 1);
        let mut client = router.connect();
        client.write_all(message(&router.token("id-1"), "json").as_bytes()).unwrap();
        // The first is refused; all others find that and wait at once.
        eventually("it waits", || router.used("agent").1 == 1 && vendor.requests() == 1);
        let left = now();
        drop(client);
        eventually("nothing is left of it", || router.used("agent").1 == 0);
        assert!(left.elapsed() < Duration::from_secs(1), "round {round}: took {:?}", left.elapsed());
    }
}
