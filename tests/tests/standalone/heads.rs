//! Request heads that no server should accept, over raw sockets: a refusal in the vendor's shape, then the
//! end of the connection, and never a second request upstream for one that was accepted.

use std::net::SocketAddr;
use std::time::Duration;

use la_tests::caller::{Caller, Reply};
use la_tests::cluster::measure;
use la_tests::fakes::FakeUpstream;
use la_tests::fakes::vendor::{self, Known};
use la_tests::router::Setup;

/// A head that would be served if the one before it were forgiven.
const SMUGGLED: &str = "GET /health HTTP/1.1\r\nhost: x\r\n\r\n";

const HEADS: [(&str, &str, u16); 40] = [
    ("bare LF at every end", "GET /health HTTP/1.1\nhost: x\n\n", 400),
    ("bare LF after the request line", "GET /health HTTP/1.1\nhost: x\r\n\r\n", 400),
    ("bare LF inside a field", "GET /health HTTP/1.1\r\nhost: x\r\na: b\nc: d\r\n\r\n", 400),
    ("bare CR inside a field", "GET /health HTTP/1.1\r\nhost: x\r\na: b\rc: d\r\n\r\n", 400),
    ("bare CR in the request line", "GET /health\r HTTP/1.1\r\nhost: x\r\n\r\n", 400),
    ("NUL in a value", "GET /health HTTP/1.1\r\nhost: x\r\na: \0\r\n\r\n", 400),
    ("NUL in a name", "GET /health HTTP/1.1\r\nhost: x\r\na\0: b\r\n\r\n", 400),
    ("NUL in the target", "GET /he\0alth HTTP/1.1\r\nhost: x\r\n\r\n", 400),
    ("folded with a space", "GET /health HTTP/1.1\r\nhost: x\r\na: b\r\n c\r\n\r\n", 400),
    ("folded with a tab", "GET /health HTTP/1.1\r\nhost: x\r\na: b\r\n\tc\r\n\r\n", 400),
    ("white space before the first field", "GET /health HTTP/1.1\r\n host: x\r\n\r\n", 400),
    ("space before the colon", "GET /health HTTP/1.1\r\nhost : x\r\n\r\n", 400),
    ("tab before the colon", "GET /health HTTP/1.1\r\nhost\t: x\r\n\r\n", 400),
    ("no colon", "GET /health HTTP/1.1\r\nhost: x\r\nnonsense\r\n\r\n", 400),
    ("empty name", "GET /health HTTP/1.1\r\nhost: x\r\n: b\r\n\r\n", 400),
    ("no host", "GET /health HTTP/1.1\r\na: b\r\n\r\n", 400),
    ("two hosts", "GET /health HTTP/1.1\r\nhost: x\r\nhost: x\r\n\r\n", 400),
    ("host with a user", "GET /health HTTP/1.1\r\nhost: a@x\r\n\r\n", 400),
    (
        "length twice",
        "POST /v1/messages HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\nContent-Length: 0\r\n\r\n",
        400,
    ),
    (
        "two lengths",
        "POST /v1/messages HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\ncontent-length: 5\r\n\r\n",
        400,
    ),
    ("list of lengths", "POST /v1/messages HTTP/1.1\r\nhost: x\r\ncontent-length: 0, 0\r\n\r\n", 400),
    ("signed length", "POST /v1/messages HTTP/1.1\r\nhost: x\r\ncontent-length: +0\r\n\r\n", 400),
    ("negative length", "POST /v1/messages HTTP/1.1\r\nhost: x\r\ncontent-length: -1\r\n\r\n", 400),
    ("hexadecimal length", "POST /v1/messages HTTP/1.1\r\nhost: x\r\ncontent-length: 0x0\r\n\r\n", 400),
    (
        "length beyond numbers",
        "POST /v1/messages HTTP/1.1\r\nhost: x\r\ncontent-length: 99999999999999999999\r\n\r\n",
        400,
    ),
    (
        "length, then chunked",
        "POST /v1/messages HTTP/1.1\r\nhost: x\r\ncontent-length: 4\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        400,
    ),
    (
        "chunked, then length",
        "POST /v1/messages HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\ncontent-length: 4\r\n\r\n0\r\n\r\n",
        400,
    ),
    (
        "chunked twice",
        "POST /v1/messages HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        400,
    ),
    (
        "coding before chunked",
        "POST /v1/messages HTTP/1.1\r\nhost: x\r\ntransfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        400,
    ),
    (
        "obfuscated chunked",
        "POST /v1/messages HTTP/1.1\r\nhost: x\r\ntransfer-encoding: \u{b}chunked\r\n\r\n0\r\n\r\n",
        400,
    ),
    (
        "quoted chunked",
        "POST /v1/messages HTTP/1.1\r\nhost: x\r\ntransfer-encoding: \"chunked\"\r\n\r\n0\r\n\r\n",
        400,
    ),
    (
        "chunked in HTTP/1.0",
        "POST /v1/messages HTTP/1.0\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        400,
    ),
    ("absolute target", "GET http://x/health HTTP/1.1\r\nhost: x\r\n\r\n", 400),
    ("authority as target", "CONNECT api.anthropic.com:443 HTTP/1.1\r\nhost: x\r\n\r\n", 400),
    ("asterisk as target", "OPTIONS * HTTP/1.1\r\nhost: x\r\n\r\n", 400),
    ("two spaces in the request line", "GET  /health HTTP/1.1\r\nhost: x\r\n\r\n", 400),
    ("body of a GET", "GET /health HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\nab", 400),
    ("upgrade", "GET /health HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: h2c\r\n\r\n", 400),
    ("unknown expectation", "GET /health HTTP/1.1\r\nhost: x\r\nexpect: the-worst\r\n\r\n", 417),
    ("HTTP/2 preface", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
];

/// Sends bytes in two parts and gives the one answer before the connection's end.
async fn only_answer(address: SocketAddr, bytes: &[u8], split: usize, what: &str) -> Reply {
    let mut caller = Caller::connect(address).await.unwrap();
    let (start, rest) = bytes.split_at(split);
    caller.write(start).await.unwrap();
    tokio::task::yield_now().await;
    // The connection may have ended already.
    let _refused = caller.write(rest).await;
    let reply = caller.reply(false).await.unwrap_or_else(|error| panic!("{what}: no answer: {error}"));
    let more = caller.some().await.unwrap_or_else(|error| panic!("{what}: reset: {error}"));
    assert!(more.is_empty(), "{what}: answered twice: {}", String::from_utf8_lossy(&more));
    reply
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_head_is_refused_and_its_connection_ends() {
    let upstream = FakeUpstream::start(vendor::script(Known::default())).await.unwrap();
    let router = Setup::flags(&upstream.base_url()).start().unwrap();
    let long = format!("GET /health HTTP/1.1\r\nhost: x\r\na: {}\r\n\r\n", "b".repeat(32 * 1024));
    let endless = format!("GET /health HTTP/1.1\r\nhost: x\r\na: {}", "b".repeat(40 * 1024));
    let many = format!("GET /health HTTP/1.1\r\nhost: x\r\n{}\r\n", "a: b\r\n".repeat(100));
    let sized = [
        ("over 32 kB", long.as_str(), 431),
        ("over 32 kB and unfinished", &endless, 431),
        ("over 100 fields", &many, 431),
    ];
    for (what, head, status) in HEADS.into_iter().chain(sized) {
        let bytes = format!("{head}{SMUGGLED}").into_bytes();
        for split in [0, 3, head.len() / 2, head.len()] {
            let reply = only_answer(router.address(), &bytes, split, what).await;
            assert_eq!(reply.status, status, "{what}, split at {split}: {}", reply.text());
            assert_eq!(reply.json()["error"]["type"], "invalid_request_error", "{what}: {}", reply.text());
            assert_eq!(reply.header("connection"), Some("close"), "{what}");
        }
    }
    assert_eq!(upstream.bytes(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn obfuscated_chunks_never_make_two_requests() {
    let upstream = FakeUpstream::start(vendor::script(Known::default())).await.unwrap();
    let router = Setup::flags(&upstream.base_url()).start().unwrap();
    let token = router.issue(&[]).unwrap();
    let head = |token: &str| {
        format!(
            "POST /v1/messages HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\ncontent-type: application/json\r\n\
             anthropic-version: 2023-06-01\r\ntransfer-encoding: chunked\r\n\r\n"
        )
    };
    let body = r#"{"model":"claude-opus-5","max_tokens":5}"#;
    let size = format!("{:x}", body.len());
    let bodies = [
        ("extension", format!("{size};a=b\r\n{body}\r\n0\r\n\r\n")),
        ("space after the size", format!("{size} \r\n{body}\r\n0\r\n\r\n")),
        ("space before the size", format!(" {size}\r\n{body}\r\n0\r\n\r\n")),
        ("prefix 0x", format!("0x{size}\r\n{body}\r\n0\r\n\r\n")),
        ("sign", format!("+{size}\r\n{body}\r\n0\r\n\r\n")),
        ("LF after the size", format!("{size}\n{body}\r\n0\r\n\r\n")),
        ("LF after the chunk", format!("{size}\r\n{body}\n0\r\n\r\n")),
        ("chunk longer than its size", format!("{size}\r\n{body}x\r\n0\r\n\r\n")),
        ("size of nine digits", format!("0000000{size}\r\n{body}\r\n0\r\n\r\n")),
        ("trailer", format!("{size}\r\n{body}\r\n0\r\na: b\r\n\r\n")),
        ("LF at the end", format!("{size}\r\n{body}\r\n0\r\n\n")),
    ];
    for (what, chunks) in bodies {
        let bytes = format!("{}{chunks}{SMUGGLED}", head(&token)).into_bytes();
        for split in [0, bytes.len() / 2] {
            let reply = only_answer(router.address(), &bytes, split, what).await;
            assert_eq!(reply.status, 400, "{what}: {}", reply.text());
        }
    }
    assert_eq!(upstream.bytes(), 0);
    let mut caller = Caller::connect(router.address()).await.unwrap();
    let good = format!("{}{size}\r\n{body}\r\n0\r\n\r\n{SMUGGLED}", head(&token));
    caller.write(good.as_bytes()).await.unwrap();
    let statuses = [caller.reply(false).await.unwrap().status, caller.reply(false).await.unwrap().status];
    assert_eq!((statuses, upstream.count()), ([200, 200], 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn head_that_takes_thirty_seconds_is_refused() {
    let upstream = FakeUpstream::start(vendor::script(Known::default())).await.unwrap();
    let router = Setup::flags(&upstream.base_url()).start().unwrap();
    let mut caller = Caller::connect(router.address()).await.unwrap();
    caller.write(b"GET /health HTTP/1.1\r\nhost: x\r\n").await.unwrap();
    let reply = caller.reply(false).await.unwrap();
    assert_eq!((reply.status, reply.header("connection")), (408, Some("close")), "{}", reply.text());
    assert!(caller.some().await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connection_that_is_one_too_many_is_told_so_at_once() {
    let upstream = FakeUpstream::start(vendor::script(Known::default())).await.unwrap();
    // One thread, so that connections are let in in the order in which they were made.
    let setup = Setup::flags(&upstream.base_url()).arg("--threads", "1");
    let router = setup.arg("--max-connections", "2").start().unwrap();
    let _held =
        [Caller::connect(router.address()).await.unwrap(), Caller::connect(router.address()).await.unwrap()];
    let mut one_more = Caller::connect(router.address()).await.unwrap();
    let started = tokio::time::timeout(Duration::from_secs(2), one_more.reply(false));
    let reply = started.await.unwrap().unwrap();
    assert_eq!((reply.status, reply.json()["error"]["type"].as_str()), (503, Some("api_error")));
    assert_eq!(reply.header("connection"), Some("close"));
    let (_, took) = measure(|| drop(router));
    assert!(took < Duration::from_secs(5), "ending took {took:?}");
}
