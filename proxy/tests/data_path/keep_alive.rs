//! Comments for clients that see nothing for long, and what becomes of a request once one was written.

use std::io::Write as _;

use la_core::snapshot::{Account, Timeouts};

use crate::router::{Router, Setting, account, body, eventually, key, message, read_answer, status};
use crate::vendor::{SSE, SSE_END, Vendor};

const COMMENT: &str = ": keep-alive\n\n";

fn router(vendor: &Vendor) -> Router {
    let accounts = vec![account("a"), Account { priority: 1, ..account("b") }];
    let timeouts = Timeouts { connect_ms: 1_000, first_byte_ms: 4_000, idle_ms: 1_500, total_ms: 20_000 };
    let setting = Setting { accounts, timeouts, keep_alive_ms: Some(500), ..Setting::default() };
    Router::with(vendor.address, setting)
}

#[test]
fn client_that_waits_for_a_stream_gets_comments_before_it_begins() {
    let vendor = Vendor::start();
    let router = router(&vendor);
    vendor.fail(&key("a"), "late", 1);
    let answer = router.ask("stream");
    let text = body(&answer);
    assert_eq!(status(&answer), 200, "{answer}");
    assert!(text.starts_with(COMMENT) && text.ends_with(&format!("{SSE}{SSE_END}")), "{text}");
    let comments = text.matches(COMMENT).count();
    assert!((2..=5).contains(&comments), "{comments} in 2.5 s: {text}");
    let head = answer.split_once("\r\n\r\n").unwrap().0;
    assert!(
        head.contains("content-type: text/event-stream") && head.contains("x-request-id: req_"),
        "{head}"
    );
    let other = router.ask("json");
    assert!(!other.contains("keep-alive"), "an answer at once has none: {other}");
}

#[test]
fn another_account_is_tried_after_comments_and_a_refusal_is_an_event() {
    let vendor = Vendor::start();
    let router = router(&vendor);
    vendor.fail(&key("a"), "late-overloaded", 1);
    let text = body(&router.ask("stream"));
    assert!(text.starts_with(COMMENT) && text.ends_with(&format!("{SSE}{SSE_END}")), "{text}");
    for name in ["a", "b"] {
        vendor.fail(&key(name), "late-overloaded", 1);
    }
    let answer = router.ask("stream");
    let text = body(&answer);
    assert!(status(&answer) == 200 && text.starts_with(COMMENT), "{answer}");
    assert!(
        text.contains("event: error\ndata: {\"type\":\"error\",\"error\":{\"type\":\"overloaded_error\""),
        "{text}"
    );
    assert!(answer.ends_with("0\r\n\r\n"), "{answer}");
    eventually("both are settled", || router.used("agent") == (2, 0));
}

#[test]
fn comments_stand_between_events_and_stop_when_the_vendor_is_silent_for_too_long() {
    let vendor = Vendor::start();
    let router = router(&vendor);
    let text = body(&router.ask("stall"));
    let (sent, end) = text.split_once("\nevent: ping\n\nevent: error").unwrap();
    assert!(end.contains("timeout_error"), "{text}");
    let comments = sent.strip_prefix(SSE).unwrap();
    assert!(comments.len() >= COMMENT.len() && comments.replace(COMMENT, "").is_empty(), "{text}");
    let text = body(&router.ask("half-an-event"));
    assert!(!text.contains(COMMENT), "no event is torn apart: {text}");
}

#[test]
fn answers_that_are_no_streams_get_no_comments() {
    let vendor = Vendor::start();
    let router = router(&vendor);
    vendor.fail(&key("a"), "late-overloaded", 1);
    vendor.fail(&key("b"), "late-overloaded", 1);
    let text = message(&router.token("id-1"), "json").replace("true", "null");
    let mut client = router.connect();
    client.write_all(text.as_bytes()).unwrap();
    let answer = read_answer(&mut client);
    assert_eq!(status(&answer), 529, "a true status: {answer}");
}
