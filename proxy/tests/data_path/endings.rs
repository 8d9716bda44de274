//! Every way in which an answer can end: what the client sees, and that the request is settled once.

use std::io::{Read as _, Write as _};
use std::time::{Duration, Instant};

use la_core::id::TokenId;
use la_core::refusals::{Refusals, Verdict};
use la_core::snapshot::Timeouts;

use crate::router::{Router, Setting, body, eventually, message, read_answer, read_rest, status};
use crate::vendor::{SSE, Vendor};

#[expect(clippy::disallowed_methods, reason = "a test measures real time")]
fn now() -> Instant {
    Instant::now()
}

fn begin(router: &Router, what: &str) -> std::net::TcpStream {
    let mut client = router.connect();
    client.write_all(message(&router.token("id-1"), what).as_bytes()).unwrap();
    let mut scratch = [0; 4_096];
    let mut seen = Vec::new();
    while !String::from_utf8_lossy(&seen).contains("text_delta") {
        let count = client.read(&mut scratch).unwrap();
        assert!(count > 0, "{}", String::from_utf8_lossy(&seen));
        seen.extend_from_slice(&scratch[..count]);
    }
    client
}

#[test]
fn client_that_leaves_cancels_the_vendor_and_is_charged() {
    let vendor = Vendor::start();
    let router = Router::start(vendor.address);
    drop(begin(&router, "endless"));
    eventually("the vendor's connection is closed", || vendor.seen.lock().unwrap().gone == 1);
    eventually("it is settled", || router.used("agent") == (1, 0));
    assert!(router.metrics.encode().contains("la_router_tokens_total{direction=\"input\"} 7"));
}

#[test]
fn client_that_leaves_before_the_answer_is_charged() {
    let vendor = Vendor::start();
    let router = Router::start(vendor.address);
    let mut client = router.connect();
    client.write_all(message(&router.token("id-1"), "silent").as_bytes()).unwrap();
    eventually("the vendor has it", || vendor.requests() == 1);
    drop(client);
    eventually("it is settled", || router.used("agent") == (1, 0));
}

#[test]
fn broken_stream_ends_with_an_error_event() {
    let vendor = Vendor::start();
    let router = Router::start(vendor.address);
    for what in ["reset", "undelimited"] {
        let text = body(&router.ask(what));
        assert!(
            text.starts_with(SSE) && text.contains("event: error") && text.contains("api_error"),
            "{what}: {text}"
        );
    }
    eventually("both are settled", || router.used("agent") == (2, 0));
}

#[test]
fn stalled_stream_ends_with_a_timeout_event() {
    let vendor = Vendor::start();
    let router = Router::start(vendor.address);
    let text = body(&router.ask("stall"));
    assert!(text.starts_with(SSE) && text.contains("timeout_error"), "{text}");
    eventually("it is settled", || router.used("agent") == (1, 0));
}

#[test]
fn answer_that_is_no_stream_is_cut_when_it_breaks_off() {
    let vendor = Vendor::start();
    let router = Router::start(vendor.address);
    let answer = router.ask("cut-json");
    let whole = answer.split_once("\r\n\r\n").is_some_and(|(_, text)| text.len() >= 1_000);
    assert!(!whole, "{answer}");
    eventually("it is settled", || router.used("agent") == (1, 0));
}

#[test]
fn silent_vendor_is_a_504_and_a_deaf_one_a_502() {
    let vendor = Vendor::start();
    let mut router = Router::start(vendor.address);
    for (what, expected, kind) in
        [("silent", 504, "timeout_error"), ("hangup", 502, "api_error"), ("redirect", 502, "api_error")]
    {
        let answer = router.ask(what);
        assert_eq!(status(&answer), expected, "{what}: {answer}");
        assert!(body(&answer).contains(kind), "{what}: {answer}");
    }
    eventually("all are settled", || router.used("agent") == (3, 0));
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    router.publish(|snapshot| {
        let la_core::snapshot::Backend::Anthropic { base_url, .. } = &mut snapshot.providers[0].backend;
        *base_url = format!("http://{closed}");
    });
    assert_eq!(status(&router.ask("json")), 502);
    eventually("what was not sent is not charged", || router.used("agent") == (3, 0));
}

#[test]
fn revoked_suspended_or_removed_token_ends_its_stream_within_five_seconds() {
    let changes: [fn(&mut la_core::snapshot::Snapshot); 3] = [
        |snapshot| snapshot.tokens[0].ids[0].revoked = true,
        |snapshot| snapshot.tokens[0].suspended = true,
        |snapshot| drop(snapshot.tokens.remove(0)),
    ];
    for change in changes {
        let vendor = Vendor::start();
        let mut router = Router::start(vendor.address);
        let mut client = begin(&router, "endless");
        router.publish(|_| ());
        let begun = now();
        router.publish(change);
        let rest = read_rest(&mut client);
        assert!(begun.elapsed() < Duration::from_secs(1), "took {:?}", begun.elapsed());
        assert!(
            rest.contains("event: error") && rest.contains("permission_error") && rest.ends_with("0\r\n\r\n"),
            "{rest}"
        );
        eventually("the vendor's connection is closed", || vendor.seen.lock().unwrap().gone == 1);
        eventually("it is settled", || router.used("agent") == (1, 0));
    }
}

#[test]
fn token_that_is_refused_ahead_of_its_snapshot_ends_its_stream_at_once() {
    for (verdict, refused_with) in
        [(Verdict::Suspended, 403), (Verdict::Revoked, 403), (Verdict::Removed, 401)]
    {
        let vendor = Vendor::start();
        let mut router = Router::start(vendor.address);
        let mut client = begin(&router, "endless");
        let id = TokenId::try_from("id-1".to_owned()).unwrap();
        let [message] = Refusals::split((0, 7), &[(id, verdict)]).try_into().unwrap();
        let begun = now();
        assert_eq!(router.live.refuse(&message), Ok(1));
        assert_eq!(status(&router.ask("json")), refused_with, "{verdict:?}");
        let rest = read_rest(&mut client);
        assert!(begun.elapsed() < Duration::from_secs(1), "took {:?}", begun.elapsed());
        assert!(rest.contains("event: error") && rest.contains("permission_error"), "{rest}");
        eventually("it is settled", || router.used("agent") == (1, 0));
        router.publish(|snapshot| snapshot.generation = 6);
        assert_eq!(status(&router.ask("json")), refused_with, "an older snapshot brought it back");
        router.publish(|snapshot| snapshot.generation = 7);
        assert_eq!(status(&router.ask("json")), 200, "its snapshot has the last word");
    }
}

#[test]
fn client_that_reads_nothing_is_let_go_of() {
    let vendor = Vendor::start();
    let timeouts = Timeouts { connect_ms: 1_000, first_byte_ms: 1_000, idle_ms: 60_000, total_ms: 1_000 };
    let router = Router::with(vendor.address, Setting { timeouts, ..Setting::default() });
    let client = begin(&router, "endless");
    eventually("it is settled", || router.used("agent") == (1, 0));
    eventually("its connection is gone or idle", || {
        router.metrics.encode().contains("la_router_open_streams 0")
    });
    drop(client);
}

#[test]
fn draining_lets_open_requests_end_and_cuts_them_at_the_deadline() {
    let vendor = Vendor::start();
    let router = Router::with(vendor.address, Setting { threads: 2, ..Setting::default() });
    let mut endless = begin(&router, "endless");
    let mut idle = router.connect();
    let mut stalled = router.connect();
    stalled.write_all(message(&router.token("id-2"), "silent").as_bytes()).unwrap();
    eventually("all are open", || vendor.requests() == 2);
    router.running.begin_drain();
    assert_eq!(idle.read(&mut [0; 1]).unwrap(), 0, "an idle connection closes");
    eventually("nobody accepts", || std::net::TcpStream::connect(router.address).is_err());
    assert_eq!(status(&read_answer(&mut stalled)), 504, "an open request may end");
    let Router { running, ledger, .. } = router;
    let begun = now();
    assert_eq!(running.join(Duration::from_millis(300)).cut, 1);
    assert!(begun.elapsed() < Duration::from_secs(2), "took {:?}", begun.elapsed());
    let rest = read_answer(&mut endless);
    assert!(rest.contains("event: error") && rest.contains("the router is stopping"), "{rest}");
    assert!(ledger.usage_all().iter().all(|usage| (usage.requests, usage.open) == (1, 0)));
}
