//! A client that leaves: whatever its request waits for, it stops within a second.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

use la_core::budget::{ConcurrencySpec, LimitsSpec};
use la_core::snapshot::{Backend, Timeouts};

use crate::router::{Router, Setting, account, eventually, message, rounds};
use crate::vendor::Vendor;

/// How soon it has to stop.
const SOON: Duration = Duration::from_secs(1);

#[expect(clippy::disallowed_methods, reason = "a test measures real time")]
fn now() -> Instant {
    Instant::now()
}

fn router(vendor: &Vendor) -> Router {
    let timeouts = Timeouts { connect_ms: 60_000, first_byte_ms: 60_000, idle_ms: 60_000, total_ms: 600_000 };
    let setting = Setting { accounts: vec![account("a")], timeouts, ..Setting::default() };
    Router::with(vendor.address, setting)
}

fn ask(router: &Router, what: &str) -> TcpStream {
    let mut client = router.connect();
    client.write_all(message(&router.token("id-1"), what).as_bytes()).unwrap();
    client
}

/// Lets clients of `begin` leave, and waits until `open` says each time that nothing is left of them.
fn leave(router: &Router, begin: impl Fn() -> TcpStream, open: impl Fn() -> usize) {
    for round in 0..rounds(100) {
        let client = begin();
        let left = now();
        drop(client);
        eventually("nothing is left of it", || open() == 0);
        assert!(left.elapsed() < SOON, "round {round}: took {:?}", left.elapsed());
    }
    eventually("everything is settled", || router.used("agent").1 == 0);
}

fn being_answered(vendor: &Vendor) -> usize {
    vendor.seen.lock().unwrap().open.values().map(|(open, _)| *open).sum()
}

#[test]
fn while_it_waits_for_the_answer() {
    let vendor = Vendor::start();
    let router = router(&vendor);
    let begin = || {
        let client = ask(&router, "until-closed");
        eventually("the vendor has it", || being_answered(&vendor) == 1);
        client
    };
    leave(&router, begin, || being_answered(&vendor));
}

#[test]
fn while_the_start_of_its_stream_is_held() {
    let vendor = Vendor::start();
    let router = router(&vendor);
    let begin = || {
        let client = ask(&router, "start-until-closed");
        eventually("the vendor has it", || being_answered(&vendor) == 1);
        client
    };
    leave(&router, begin, || being_answered(&vendor));
}

#[test]
fn in_the_middle_of_its_stream() {
    let vendor = Vendor::start();
    let router = router(&vendor);
    let begin = || {
        let mut client = ask(&router, "content-until-closed");
        assert!(client.read(&mut [0; 64]).unwrap() > 0);
        client
    };
    leave(&router, begin, || being_answered(&vendor));
}

#[test]
fn while_it_waits_for_its_turn() {
    let vendor = Vendor::start();
    let mut router = router(&vendor);
    router.publish(|snapshot| {
        let concurrency = Some(ConcurrencySpec { limit: 1, queue: Some("60s".to_owned()) });
        snapshot.tokens[0].limits = LimitsSpec { concurrency, ..LimitsSpec::default() }.into();
    });
    let first = ask(&router, "until-closed");
    eventually("the vendor has the first", || vendor.requests() == 1);
    let queued = || {
        let metrics = router.metrics.encode();
        let (_, count) = metrics.split_once("\nla_router_queued_requests ").unwrap();
        count.lines().next().unwrap().parse::<usize>().unwrap()
    };
    let begin = || {
        let client = ask(&router, "json");
        eventually("it waits", || queued() == 1);
        client
    };
    for round in 0..rounds(100) {
        let client = begin();
        let left = now();
        drop(client);
        eventually("nobody waits", || queued() == 0);
        assert!(left.elapsed() < SOON, "round {round}: took {:?}", left.elapsed());
    }
    drop(first);
    eventually("everything is settled", || router.used("agent") == (1, 0));
    assert_eq!(vendor.requests(), 1, "who left in the queue was never sent");
}

#[test]
fn while_it_connects() {
    // A listener with a full backlog lets nobody in: its kernel drops what comes.
    let full = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    full.bind(&"127.0.0.1:0".parse::<std::net::SocketAddr>().unwrap().into()).unwrap();
    full.listen(0).unwrap();
    let listener = TcpListener::from(full);
    let address = listener.local_addr().unwrap();
    let mut filling = Vec::new();
    while let Ok(socket) = TcpStream::connect_timeout(&address, Duration::from_millis(200)) {
        filling.push(socket);
    }
    let vendor = Vendor::start();
    let mut router = router(&vendor);
    router.publish(|snapshot| {
        let Backend::Anthropic { base_url, .. } = &mut snapshot.providers[0].backend;
        *base_url = format!("http://{address}");
    });
    let begin = || {
        let client = ask(&router, "json");
        eventually("it is admitted", || router.used("agent").1 == 1);
        client
    };
    leave(&router, begin, || usize::try_from(router.used("agent").1).unwrap());
    assert_eq!(router.used("agent"), (0, 0), "nothing was sent");
}
