//! Every way in which a stream can end: what the client sees of it, and what it costs.

use std::time::Duration;

use la_tests::caller::{Call, Caller, Reply};
use la_tests::cluster::{eventually, measure};
use la_tests::fakes::FakeUpstream;
use la_tests::fakes::vendor::{self, Known};
use la_tests::router::{Router, Setup};
use serde_json::Value;

fn body(model: &str) -> String {
    format!(r#"{{"model":"{model}","max_tokens":5,"stream":true,"messages":[]}}"#)
}

/// A router with short times, and its token.
fn impatient(upstream: &FakeUpstream) -> (Router, String) {
    let timeouts = "timeouts: {firstByte: 500ms, idle: 500ms, total: 20s}";
    let router = Setup::team(&upstream.base_url(), timeouts).agent().start().unwrap();
    let token = router.team_token("agent").unwrap();
    (router, token)
}

/// Waits until the ledger has so many requests, and none open.
fn settled(router: &Router, requests: u64) -> Value {
    eventually(&format!("{requests} settled requests"), Duration::from_secs(10), || {
        let (_, usage) = router.ask_admin("GET", "/v1/usage", "")?;
        let entry = &usage["data"][0];
        Ok((entry["requests"] == requests && entry["open"] == 0).then(|| entry.clone()))
    })
    .unwrap()
}

/// Sends a request for a stream and waits for the first bytes of its body.
pub(crate) async fn begin(router: &Router, token: &str, model: &str) -> (Caller, Vec<u8>) {
    let mut caller = Caller::connect(router.address()).await.unwrap();
    caller.write(&Call::message(token, body(model)).bytes()).await.unwrap();
    assert_eq!(caller.head().await.unwrap().status, 200);
    let first = caller.some().await.unwrap();
    assert!(!first.is_empty());
    (caller, first)
}

/// Reads a stream that has begun to its end or cut.
pub(crate) async fn rest(caller: &mut Caller) -> String {
    let mut bytes = Vec::new();
    while !bytes.ends_with(b"0\r\n\r\n") {
        match caller.some().await {
            Ok(more) if !more.is_empty() => bytes.extend(more),
            _ => break,
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn has_error(reply: &Reply, kind: &str) -> bool {
    let text = reply.text();
    text.rsplit_once("event: error\ndata: ").is_some_and(|(_, data)| {
        serde_json::from_str::<Value>(data.trim()).is_ok_and(|data| data["error"]["type"] == kind)
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stream_that_a_vendor_breaks_off_ends_as_a_failure_and_is_settled() {
    let upstream = FakeUpstream::start(vendor::script(Known::default())).await.unwrap();
    let (router, token) = impatient(&upstream);
    let cases = [
        ("script-truncate", "api_error"),
        ("script-reset", "api_error"),
        ("script-stall", "timeout_error"),
        ("script-error-event", "overloaded_error"),
    ];
    for (at, (model, kind)) in cases.into_iter().enumerate() {
        let reply = Call::message(&token, body(model)).send(router.address()).await.unwrap();
        assert_eq!(reply.status, 200, "{model}: {}", reply.text());
        assert!(has_error(&reply, kind), "{model}: {}", reply.text());
        assert!(!reply.text().contains("message_stop"), "{model}: {}", reply.text());
        settled(&router, at as u64 + 1);
    }
    for (at, model) in ["script-close-head", "script-reset-head", "script-stall-head"].into_iter().enumerate()
    {
        let reply = Call::message(&token, body(model)).send(router.address()).await.unwrap();
        assert!(matches!(reply.status, 502 | 504), "{model}: {}", reply.status);
        settled(&router, at as u64 + 5);
    }
    let reply = Call::message(&token, body("claude-opus-5")).send(router.address()).await.unwrap();
    assert!(reply.complete && reply.text().contains("message_stop"), "{}", reply.text());
    settled(&router, 8);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn client_that_leaves_cancels_its_request_and_still_pays_for_it() {
    let upstream = FakeUpstream::start(vendor::script(Known::default())).await.unwrap();
    let router = Setup::flags(&upstream.base_url()).start().unwrap();
    let token = router.issue(&[]).unwrap();
    for (at, model) in ["script-slow", "script-stall"].into_iter().enumerate() {
        let (caller, _) = begin(&router, &token, model).await;
        drop(caller);
        let entry = settled(&router, at as u64 + 1);
        assert!(entry["tokens"]["inputTokens"].as_u64().is_some_and(|tokens| tokens > 0), "{model}: {entry}");
        let gone = |at| {
            eventually("the vendor to see it", Duration::from_secs(5), || {
                Ok((upstream.cancelled() > at).then_some(()))
            })
        };
        gone(at).unwrap_or_else(|error| panic!("{model}: {error}"));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn revoked_token_loses_its_open_stream_within_five_seconds() {
    let upstream = FakeUpstream::start(vendor::script(Known::default())).await.unwrap();
    let router = Setup::flags(&upstream.base_url()).start().unwrap();
    let token = router.issue(&["--label", "doomed"]).unwrap();
    let other = router.issue(&[]).unwrap();
    let (mut doomed, _) = begin(&router, &token, "script-stall").await;
    let (mut kept, _) = begin(&router, &other, "hold-1500").await;
    let (_, list) = router.ask_admin("GET", "/api/tokens", "").unwrap();
    let entry = list["data"].as_array().unwrap().iter().find(|token| token["label"] == "doomed").unwrap();
    let id = entry["id"].as_str().unwrap().to_owned();
    let (status, _) = router.ask_admin("POST", &format!("/api/tokens/{id}/revoke"), "").unwrap();
    assert!(status < 300, "{status}");
    let end =
        tokio::time::timeout(Duration::from_secs(5), rest(&mut doomed)).await.expect("the stream went on");
    assert!(end.contains("event: error") && end.contains("permission_error"), "{end}");
    let refused = Call::message(&token, body("claude-opus-5")).send(router.address()).await.unwrap();
    assert_eq!(refused.status, 403);
    let whole = rest(&mut kept).await;
    assert!(whole.contains("message_stop") && !whole.contains("event: error"), "{whole}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn router_that_is_told_to_end_lets_streams_end_first() {
    let upstream = FakeUpstream::start(vendor::script(Known::default())).await.unwrap();
    let mut router = Setup::flags(&upstream.base_url()).arg("--drain", "20s").start().unwrap();
    let token = router.issue(&[]).unwrap();
    let (mut caller, _) = begin(&router, &token, "hold-2000").await;
    router.terminate().unwrap();
    eventually("the port to close", Duration::from_secs(5), || {
        Ok(std::net::TcpStream::connect(router.address()).is_err().then_some(()))
    })
    .unwrap();
    let whole = rest(&mut caller).await;
    assert!(whole.contains("message_stop"), "{whole}");
    assert!(router.wait(Duration::from_secs(5)).unwrap().success(), "{}", router.log());
    router.restart().unwrap();
    assert_eq!(settled(&router, 1)["requests"], 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stream_that_outlasts_the_drain_is_told_so_and_settled() {
    let upstream = FakeUpstream::start(vendor::script(Known::default())).await.unwrap();
    let mut router = Setup::flags(&upstream.base_url()).arg("--drain", "1s").start().unwrap();
    let token = router.issue(&[]).unwrap();
    let (mut caller, _) = begin(&router, &token, "script-stall").await;
    router.terminate().unwrap();
    let (ended, took) = measure(|| router.wait(Duration::from_secs(10)));
    assert!(ended.unwrap().success(), "{}", router.log());
    assert!(took < Duration::from_secs(5), "took {took:?}");
    let end = rest(&mut caller).await;
    assert!(end.contains("event: error") && end.contains("stopping"), "{end}");
    router.restart().unwrap();
    assert_eq!(settled(&router, 1)["requests"], 1);
}
