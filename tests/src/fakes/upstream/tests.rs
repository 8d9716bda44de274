//! The fake answers as scripted, and remembers.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::super::answer::Break;
use super::super::vendor::{self, Known};
use super::*;

const BODY: &str = r#"{"model":"claude-opus-5","stream":true,"max_tokens":5,"messages":[]}"#;

fn post(body: &str, headers: &str) -> String {
    format!("POST /v1/messages HTTP/1.1\r\nhost: a\r\n{headers}content-length: {}\r\n\r\n{body}", body.len())
}

async fn ask(upstream: &FakeUpstream, request: &str) -> (String, io::Result<()>) {
    let mut stream = TcpStream::connect(upstream.address()).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    stream.shutdown().await.unwrap();
    let mut answer = Vec::new();
    let ending = stream.read_to_end(&mut answer).await.map(|_| ());
    (String::from_utf8_lossy(&answer).into_owned(), ending)
}

#[tokio::test]
async fn whole_requests_are_remembered_with_their_bytes_and_answered() {
    let upstream = FakeUpstream::start(always(Answer::json(200, "{}"))).await.unwrap();
    let chunked = "POST /v1/x?y HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n2\r\nab\r\n1\r\nc\r\n0\r\n\r\n";
    let (answer, _) = ask(&upstream, &format!("{}{chunked}", post("abc", ""))).await;
    assert_eq!(answer.matches("HTTP/1.1 200").count(), 2, "{answer}");
    let received = upstream.received();
    assert_eq!(received.len(), 2);
    assert_eq!(received[0].body_sha256, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    assert_eq!(received[1].body, b"abc");
    assert_eq!((received[0].billed, received[1].billed), (true, false));
    assert_eq!((upstream.connections(), upstream.billed()), (1, 1));
}

#[tokio::test]
async fn half_a_request_is_no_request() {
    let upstream = FakeUpstream::start(always(Answer::json(200, "{}"))).await.unwrap();
    let whole = post("abc", "");
    let (answer, _) = ask(&upstream, &whole[..whole.len() - 1]).await;
    assert_eq!(answer, "");
    assert_eq!(upstream.count(), 0);
    assert_eq!(upstream.bytes(), whole.len() as u64 - 1);
}

#[tokio::test]
async fn vendor_demands_its_credential_and_streams() {
    let known = Known { bearer: Some("good".to_owned()), key: Some("key".to_owned()) };
    let upstream = FakeUpstream::start(vendor::script(known)).await.unwrap();
    let rest = "anthropic-version: 2023-06-01\r\ncontent-type: application/json\r\n";
    let cases = [
        ("authorization: Bearer good\r\nanthropic-beta: a,oauth-2025-04-20\r\n", "HTTP/1.1 200"),
        ("x-api-key: key\r\n", "HTTP/1.1 200"),
        ("authorization: Bearer good\r\n", "HTTP/1.1 401"),
        ("authorization: Bearer good\r\nx-api-key: key\r\n", "HTTP/1.1 401"),
        ("x-api-key: good\r\n", "HTTP/1.1 401"),
        ("x-api-key: key\r\nx-other: la_sk_1\r\n", "HTTP/1.1 401"),
        ("", "HTTP/1.1 401"),
    ];
    for (headers, expected) in cases {
        let (answer, _) = ask(&upstream, &post(BODY, &format!("{headers}{rest}"))).await;
        assert!(answer.starts_with(expected), "{headers}: {answer}");
        assert_eq!(answer.contains("event: message_stop"), expected.ends_with("200"), "{headers}");
    }
    assert_eq!(upstream.billed(), 2);
}

#[tokio::test]
async fn broken_answers_break_as_scripted() {
    let upstream = FakeUpstream::start(always(Answer::json(200, "x".repeat(100)).broken(Break::Reset, 10)))
        .await
        .unwrap();
    let (_, ending) = ask(&upstream, &post("abc", "")).await;
    assert_eq!(ending.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    upstream.set_script(always(Answer::json(200, "x".repeat(100)).broken(Break::Close, 10)));
    let (answer, ending) = ask(&upstream, &post("abc", "")).await;
    assert!(ending.is_ok() && answer.ends_with(&"x".repeat(10)));
}

#[tokio::test]
async fn caller_that_goes_away_is_noticed() {
    let upstream =
        FakeUpstream::start(always(Answer::json(200, "xx").broken(Break::Stall, 1))).await.unwrap();
    let mut stream = TcpStream::connect(upstream.address()).await.unwrap();
    stream.write_all(post("abc", "").as_bytes()).await.unwrap();
    let mut buffer = [0; 1024];
    assert!(stream.read(&mut buffer).await.unwrap() > 0);
    drop(stream);
    for _ in 0..500 {
        if upstream.cancelled() == 1 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("nobody noticed");
}

#[tokio::test]
async fn control_port_tells_what_arrived_and_forgets() {
    let upstream = Arc::new(FakeUpstream::start(vendor::script(Known::default())).await.unwrap());
    let control = FakeUpstream::start(super::super::control::script(Arc::clone(&upstream))).await.unwrap();
    let (_, seen) = ask(&upstream, &post(BODY, "X-Seen: yes\r\n")).await;
    seen.unwrap();
    let (told, _) = ask(&control, "GET /received HTTP/1.1\r\nhost: a\r\n\r\n").await;
    assert!(told.contains(r#"["X-Seen","yes"]"#) && told.contains(r#""model":"claude-opus-5""#), "{told}");
    let (_, reset) = ask(&control, "POST /reset HTTP/1.1\r\nhost: a\r\n\r\n").await;
    reset.unwrap();
    assert_eq!(upstream.count(), 0);
}
