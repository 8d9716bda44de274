//! Requests that wait for another one of their token to end: in order, and no longer than there is a reason to.

use std::io::Write as _;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use la_core::budget::{ConcurrencySpec, LimitsSpec};

use crate::router::{Router, Setting, body, eventually, message, read_answer, status};
use crate::vendor::Vendor;

#[expect(clippy::disallowed_methods, reason = "a test measures real time")]
fn now() -> Instant {
    Instant::now()
}

/// A router where one request of a token is open and others wait so long; and the open one.
fn full(vendor: &Vendor, queue: &str) -> (Router, TcpStream) {
    let concurrency = Some(ConcurrencySpec { limit: 1, queue: Some(queue.to_owned()) });
    let limits = LimitsSpec { concurrency, ..LimitsSpec::default() };
    let router = Router::with(vendor.address, Setting { limits, threads: 2, ..Setting::default() });
    let open = send(&router, "endless");
    eventually("one is open", || router.used("agent").1 == 1 && vendor.requests() == 1);
    (router, open)
}

fn send(router: &Router, what: &str) -> TcpStream {
    let mut client = router.connect();
    client.write_all(message(&router.token("id-1"), what).as_bytes()).unwrap();
    client
}

/// Sends requests that wait, in a known order.
fn line_up(router: &Router, whats: &[&str]) -> Vec<TcpStream> {
    let shown = |count: usize| format!("la_router_queued_requests {count}");
    let clients = whats.iter().enumerate().map(|(before, what)| {
        let client = send(router, what);
        eventually("it waits", || router.metrics.encode().contains(&shown(before + 1)));
        client
    });
    clients.collect()
}

#[test]
fn waiting_requests_are_served_in_order_as_soon_as_there_is_room() {
    let vendor = Vendor::start();
    let (router, open) = full(&vendor, "20s");
    let whats: Vec<_> = (0..8).map(|number| format!("json\",\"x\":\"{number}")).collect();
    let mut clients = line_up(&router, &whats.iter().map(String::as_str).collect::<Vec<_>>());
    assert_eq!(vendor.requests(), 1, "who waits is not sent");
    let begun = now();
    drop(open);
    for client in &mut clients {
        let answer = read_answer(client);
        assert_eq!(status(&answer), 200, "{answer}");
    }
    assert!(begun.elapsed() < Duration::from_secs(3), "took {:?}", begun.elapsed());
    let seen = vendor.seen.lock().unwrap();
    let bodies = seen.requests.iter().skip(1).map(|(_, body)| String::from_utf8_lossy(body).into_owned());
    for (number, body) in bodies.enumerate() {
        assert!(body.contains(&format!("\"x\":\"{number}\"")), "{number}: {body}");
    }
}

#[test]
fn who_has_waited_long_enough_is_refused() {
    let vendor = Vendor::start();
    let (router, _open) = full(&vendor, "300ms");
    let begun = now();
    let answer = read_answer(&mut send(&router, "json"));
    assert!(begun.elapsed() >= Duration::from_millis(300), "took {:?}", begun.elapsed());
    assert_eq!(status(&answer), 429, "{answer}");
    assert!(answer.contains("retry-after: 1\r\n") && body(&answer).contains("1 of 1 requests"), "{answer}");
    assert_eq!((vendor.requests(), router.used("agent")), (1, (0, 1)));
}

#[test]
fn client_that_leaves_the_queue_is_never_sent() {
    let vendor = Vendor::start();
    let (router, open) = full(&vendor, "20s");
    let mut clients = line_up(&router, &["json", "mistaken"]);
    drop(clients.remove(0));
    eventually("it has left", || router.metrics.encode().contains("la_router_queued_requests 1"));
    drop(open);
    assert_eq!(status(&read_answer(&mut clients[0])), 400);
    assert_eq!(vendor.requests(), 2);
}

#[test]
fn revocation_and_the_routers_stopping_end_the_wait() {
    let vendor = Vendor::start();
    let (mut router, _open) = full(&vendor, "20s");
    let mut waiting = line_up(&router, &["json"]);
    router.publish(|snapshot| snapshot.tokens[0].suspended = true);
    assert_eq!(status(&read_answer(&mut waiting[0])), 403);
    let vendor = Vendor::start();
    let (router, _open) = full(&vendor, "20s");
    let mut waiting = line_up(&router, &["json"]);
    router.running.begin_drain();
    let answer = read_answer(&mut waiting[0]);
    assert_eq!(status(&answer), 503, "{answer}");
    assert!(answer.contains("retry-after: 1\r\n"), "{answer}");
}
