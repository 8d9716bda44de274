//! Refusals in the vendor's shape, and none of them costs the vendor a byte.

use la_tests::caller::{Call, Reply};
use la_tests::fakes::vendor::{self, Known};
use la_tests::fakes::{Answer, Break, FakeUpstream, always};
use la_tests::router::Setup;

const BODY: &str = r#"{"model":"claude-opus-5","max_tokens":5,"messages":[]}"#;

/// The status and the error type of a refusal, whose shape is checked.
fn refusal(reply: &Reply, what: &str) -> (u16, String) {
    let body = reply.json();
    assert_eq!(reply.header("content-type"), Some("application/json"), "{what}: {}", reply.text());
    assert_eq!(body["type"], "error", "{what}: {}", reply.text());
    assert!(body["error"]["message"].as_str().is_some_and(|message| !message.is_empty()), "{what}");
    assert_eq!(body["request_id"].as_str(), reply.header("x-request-id"), "{what}");
    (reply.status, body["error"]["type"].as_str().unwrap_or_default().to_owned())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_refused_here_is_refused_in_the_vendors_shape_and_never_leaves() {
    let upstream = FakeUpstream::start(vendor::script(Known::default())).await.unwrap();
    let setup = Setup::flags(&upstream.base_url()).arg("--max-body-bytes", "10000");
    let router = setup.start().unwrap();
    let good = router.issue(&[]).unwrap();
    let other = router.issue(&[]).unwrap();
    let revoked = router.issue(&["--label", "to-revoke"]).unwrap();
    let (_, list) = router.ask_admin("GET", "/api/tokens", "").unwrap();
    let listed = list["data"].as_array().unwrap().iter().find(|token| token["label"] == "to-revoke").unwrap();
    router.tokens(&["revoke", listed["id"].as_str().unwrap()]).unwrap();
    let message = |body: &str| Call::message(&good, body);
    let long = format!(r#"{{"model":"m","x":"{}"}}"#, "x".repeat(10_000));
    let cases = [
        ("no token", Call::new("POST", "/v1/messages").json(BODY), 401, "authentication_error"),
        ("a vendor's key", Call::message("sk-ant-api03-x", BODY), 401, "authentication_error"),
        ("forged token", Call::message(&good.replace('.', ".A"), BODY), 401, "authentication_error"),
        ("two tokens", message(BODY).header("x-api-key", &other), 401, "authentication_error"),
        ("revoked token", Call::message(&revoked, BODY), 403, "permission_error"),
        ("unknown path", Call::new("GET", "/v1/files").bearer(&good), 404, "not_found_error"),
        ("unknown method", Call::new("GET", "/v1/messages").bearer(&good), 405, "invalid_request_error"),
        ("long body", message(&long), 413, "request_too_large"),
        ("compressed body", message(BODY).header("content-encoding", "gzip"), 415, "invalid_request_error"),
        ("no JSON", message("model=m"), 400, "invalid_request_error"),
        ("no model", message("{}"), 400, "invalid_request_error"),
        ("two models", message(r#"{"model":"a","model":"b"}"#), 400, "invalid_request_error"),
        ("escaped model", message(r#"{"mod\u0065l":"a","model":"b"}"#), 400, "invalid_request_error"),
        ("negative limit", message(r#"{"model":"a","max_tokens":-1}"#), 400, "invalid_request_error"),
    ];
    for (what, call, status, kind) in cases {
        let reply = call.send(router.address()).await.unwrap();
        assert_eq!(refusal(&reply, what), (status, kind.to_owned()), "{what}: {}", reply.text());
    }
    assert_eq!((upstream.bytes(), upstream.count()), (0, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn used_up_token_is_refused_for_good_and_not_forwarded() {
    let upstream = FakeUpstream::start(vendor::script(Known::default())).await.unwrap();
    let router = Setup::flags(&upstream.base_url()).start().unwrap();
    let token = router.issue(&["--max-requests", "1"]).unwrap();
    assert_eq!(Call::message(&token, BODY).send(router.address()).await.unwrap().status, 200);
    let reply = Call::message(&token, BODY).send(router.address()).await.unwrap();
    assert_eq!(refusal(&reply, "used up"), (429, "rate_limit_error".to_owned()));
    assert_eq!(reply.header("x-should-retry"), Some("false"));
    assert_eq!(upstream.count(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn vendor_that_does_not_answer_is_a_bad_gateway() {
    let upstream = FakeUpstream::start(always(Answer::none(Break::Close))).await.unwrap();
    let router = Setup::flags(&upstream.base_url()).start().unwrap();
    let token = router.issue(&[]).unwrap();
    for (what, answer) in [("closes", Answer::none(Break::Close)), ("resets", Answer::none(Break::Reset))] {
        upstream.set_script(always(answer));
        let reply = Call::message(&token, BODY).send(router.address()).await.unwrap();
        assert_eq!(refusal(&reply, what), (502, "api_error".to_owned()));
    }
    drop(upstream);
    let reply = Call::message(&token, BODY).send(router.address()).await.unwrap();
    assert_eq!(refusal(&reply, "is not there"), (502, "api_error".to_owned()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn login_that_is_not_there_is_a_bad_gateway_that_names_the_account() {
    let upstream = FakeUpstream::start(vendor::script(Known::default())).await.unwrap();
    let setup = Setup::flags(&upstream.base_url()).without_env("ANTHROPIC_API_KEY");
    let router = setup.arg("--claude-code-home", "{dir}/nowhere").start().unwrap();
    let token = router.issue(&[]).unwrap();
    let reply = Call::message(&token, BODY).send(router.address()).await.unwrap();
    assert_eq!(refusal(&reply, "no login"), (502, "api_error".to_owned()));
    assert!(reply.text().contains("primary"), "{}", reply.text());
    assert_eq!(upstream.bytes(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn silent_vendor_is_a_gateway_timeout() {
    let upstream = FakeUpstream::start(always(Answer::none(Break::Stall))).await.unwrap();
    let setup = Setup::team(&upstream.base_url(), "timeouts: {firstByte: 300ms}").agent();
    let router = setup.start().unwrap();
    let token = router.team_token("agent").unwrap();
    let reply = Call::message(&token, BODY).send(router.address()).await.unwrap();
    assert_eq!(refusal(&reply, "silent"), (504, "timeout_error".to_owned()));
    assert_eq!(upstream.count(), 1);
}
