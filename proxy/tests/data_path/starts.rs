//! The start of a stream: what is seen of one that fails there, and that nothing is tried again after it.

use std::io::{Read as _, Write as _};
use std::time::{Duration, Instant};

use la_core::snapshot::{Account, Retry};

use crate::router::{Router, Setting, account, body, eventually, key, message, read_answer, rounds, status};
use crate::vendor::{FAILED_START, SSE, SSE_END, Vendor};

#[expect(clippy::disallowed_methods, reason = "a test measures real time")]
fn now() -> Instant {
    Instant::now()
}

fn in_order() -> Vec<Account> {
    vec![account("a"), Account { priority: 1, ..account("b") }]
}

fn router(vendor: &Vendor) -> Router {
    Router::with(vendor.address, Setting { accounts: in_order(), ..Setting::default() })
}

#[test]
fn error_at_the_start_of_a_stream_split_anywhere_is_never_seen() {
    let vendor = Vendor::start();
    let router = router(&vendor);
    for split in 0..=FAILED_START.len() {
        vendor.fail(&key("a"), &format!("failed-start-{split}"), 1);
        let answer = router.ask("stream");
        assert_eq!(status(&answer), 200, "split at {split}: {answer}");
        assert_eq!(body(&answer), format!("{SSE}{SSE_END}"), "split at {split}");
        assert_eq!(vendor.credentials().split_off(2 * split), [key("a"), key("b")], "split at {split}");
        router.live.load().account("anthropic", "a").unwrap().known.forget_trouble();
    }
}

#[test]
fn start_that_says_nothing_is_passed_on_when_its_time_is_over() {
    let vendor = Vendor::start();
    let retry = Retry { hold_ms: 200, ..Retry::default() };
    let router = Router::with(vendor.address, Setting { accounts: in_order(), retry, ..Setting::default() });
    let mut client = router.connect();
    let begun = now();
    client.write_all(message(&router.token("id-1"), "quiet-start").as_bytes()).unwrap();
    let mut bytes = [0; 4_096];
    let count = client.read(&mut bytes).unwrap();
    let took = begun.elapsed();
    assert!(took >= Duration::from_millis(200) && took < Duration::from_millis(1_000), "took {took:?}");
    let text = String::from_utf8_lossy(&bytes[..count]).into_owned();
    assert!(text.contains("message_start") && !text.contains("text_delta"), "{text}");
    let rest = read_answer(&mut client);
    assert!(rest.contains("text_delta"), "{rest}");
    assert_eq!(vendor.requests(), 1);
}

#[test]
fn nothing_is_tried_again_after_the_first_byte() {
    let vendor = Vendor::start();
    let router = router(&vendor);
    let rounds = rounds(1_000);
    let framed = SSE.len() + SSE_END.len();
    for round in 0..rounds {
        // Anywhere behind the first event of content, and always at another place.
        let after = SSE.len() + (round * 7_919) % (framed - SSE.len());
        let answer = router.ask(&format!("reset-after-{after}"));
        let text = body(&answer);
        assert_eq!(
            text.matches("message_start").count(),
            2,
            "after {after}: once as name, once as type: {text}"
        );
        let ends = text.contains("event: error") || text.ends_with("<cut>") || answer.contains('<');
        assert!(ends || text.ends_with(SSE_END), "after {after}: {text}");
        assert_eq!(vendor.requests(), round + 1, "after {after}");
    }
    eventually("all are settled", || router.used("agent") == (rounds as u64, 0));
}
