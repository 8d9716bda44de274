//! What is refused, with which status and kind, and that nothing of it reaches the vendor.

use std::io::Write as _;

use la_core::budget::LimitsSpec;

use crate::router::{Router, Setting, body, eventually, message, read_answer, status};
use crate::vendor::Vendor;

fn exchange(router: &Router, request: &str) -> String {
    let mut client = router.connect();
    client.write_all(request.as_bytes()).unwrap();
    read_answer(&mut client)
}

#[test]
fn every_bad_token_gets_the_same_401() {
    let vendor = Vendor::start();
    let mut router = Router::start(vendor.address);
    router.publish(|snapshot| snapshot.tokens[1].ids[0].revoked = true);
    let good = router.token("id-1");
    let revoked = router.token("id-2");
    let (signed, _) = revoked.rsplit_once('.').unwrap();
    let forged_revoked = format!("{signed}.{}", good.rsplit_once('.').unwrap().1);
    let cases = [
        ("missing", String::new()),
        ("other scheme", format!("authorization: Basic {good}\r\n")),
        ("vendor key", "x-api-key: sk-ant-api03-x\r\n".to_owned()),
        ("unknown id", format!("x-api-key: {}\r\n", router.token("id-9"))),
        ("expired", format!("x-api-key: {}\r\n", router.mint("id-1", |claims| claims.exp = 1_700_000_001))),
        (
            "wrong audience",
            format!(
                "x-api-key: {}\r\n",
                router.mint("id-1", |claims| claims.aud = Some("la-router/a/b".to_owned()))
            ),
        ),
        ("forged", format!("x-api-key: {}AAAA\r\n", &good[..good.len() - 4])),
        ("forged text of a revoked id", format!("x-api-key: {forged_revoked}\r\n")),
        ("over-long", format!("x-api-key: {good}{}\r\n", "A".repeat(3_000))),
        ("two different", format!("x-api-key: {good}\r\nauthorization: Bearer {revoked}\r\n")),
        ("garbage", "x-api-key: la_sk_x\r\n".to_owned()),
    ];
    let mut texts = std::collections::BTreeSet::new();
    for (what, field) in cases {
        let answer = exchange(
            &router,
            &format!("POST /v1/messages HTTP/1.1\r\nhost: x\r\n{field}content-length: 2\r\n\r\n{{}}"),
        );
        assert_eq!(status(&answer), 401, "{what}: {answer}");
        let text = body(&answer);
        assert!(text.contains("authentication_error"), "{what}: {text}");
        texts.insert(text.split("request_id").next().unwrap().to_owned());
    }
    assert_eq!(texts.len(), 1, "{texts:?}");
    for (field, status_expected) in [
        (format!("x-api-key: {revoked}"), 403),
        (format!("x-api-key: {good}\r\nauthorization: bearer {good}"), 404),
    ] {
        let text = r#"{"model":"gone"}"#;
        router.publish(|snapshot| snapshot.routes[0].models = vec!["claude-*".to_owned()]);
        let answer = exchange(
            &router,
            &format!(
                "POST /v1/messages HTTP/1.1\r\nhost: x\r\n{field}\r\ncontent-length: {}\r\n\r\n{text}",
                text.len()
            ),
        );
        assert_eq!(status(&answer), status_expected, "{answer}");
    }
    assert_eq!(vendor.requests(), 0);
}

#[test]
fn suspended_token_is_refused_until_it_is_resumed() {
    let vendor = Vendor::start();
    let mut router = Router::start(vendor.address);
    router.publish(|snapshot| snapshot.tokens[0].suspended = true);
    let answer = router.ask("json");
    assert_eq!(status(&answer), 403);
    assert!(body(&answer).contains("permission_error"));
    router.publish(|snapshot| snapshot.tokens[0].suspended = false);
    assert_eq!(status(&router.ask("json")), 200);
}

#[test]
fn exhausted_budget_is_refused_before_the_body_is_read() {
    let vendor = Vendor::start();
    let router = Router::with(
        vendor.address,
        Setting { limits: LimitsSpec::of_requests(Some(2)), ..Setting::default() },
    );
    for _ in 0..2 {
        assert_eq!(status(&router.ask("json")), 200);
    }
    eventually("both are settled", || router.used("agent") == (2, 0));
    let mut client = router.connect();
    write!(
        client,
        "POST /v1/messages HTTP/1.1\r\nhost: x\r\nx-api-key: {}\r\ncontent-length: 500000\r\n\r\n{{",
        router.token("id-1")
    )
    .unwrap();
    let answer = read_answer(&mut client);
    assert_eq!(status(&answer), 429, "{answer}");
    assert!(
        answer.contains("x-should-retry: false") && body(&answer).contains("rate_limit_error"),
        "{answer}"
    );
    let count = exchange(
        &router,
        &message(&router.token("id-1"), "json").replace("/v1/messages", "/v1/messages/count_tokens"),
    );
    assert_eq!(status(&count), 200, "counting tokens is free: {count}");
    assert_eq!(vendor.requests(), 3);
}

#[test]
fn bad_bodies_are_refused_each_for_its_own_reason() {
    let vendor = Vendor::start();
    let router = Router::start(vendor.address);
    let token = router.token("id-1");
    let large = format!("{{\"model\":\"json\",\"x\":\"{}\"}}", "y".repeat(1 << 20));
    let cases = [
        ("not JSON", "", "hello", 400, "invalid_request_error"),
        ("no model", "", "{}", 400, "invalid_request_error"),
        ("duplicated model", "", r#"{"model":"json","model":"x"}"#, 400, "invalid_request_error"),
        ("escaped model", "", r#"{"\u006dodel":"json"}"#, 400, "invalid_request_error"),
        ("compressed", "content-encoding: gzip\r\n", r#"{"model":"json"}"#, 415, "invalid_request_error"),
        ("over the limit", "", &large, 413, "request_too_large"),
    ];
    for (what, field, text, expected, kind) in cases {
        let request = format!(
            "POST /v1/messages HTTP/1.1\r\nhost: x\r\nx-api-key: {token}\r\n{field}content-length: {}\r\n\r\n{text}",
            text.len()
        );
        let answer = exchange(&router, &request);
        assert_eq!(status(&answer), expected, "{what}: {answer}");
        assert!(body(&answer).contains(kind), "{what}: {answer}");
    }
    let chunked = format!(
        "POST /v1/messages HTTP/1.1\r\nhost: x\r\nx-api-key: {token}\r\ntransfer-encoding: chunked\r\n\r\n{:x}\r\n{large}\r\n0\r\n\r\n",
        large.len()
    );
    assert_eq!(status(&exchange(&router, &chunked)), 413);
    assert_eq!((vendor.requests(), router.used("agent").0), (0, 0));
    let good = r#"{"model":"json","max_tokens":9}"#;
    let parts: String = good.chars().map(|c| format!("1\r\n{c}\r\n")).collect();
    let answer = exchange(
        &router,
        &format!(
            "POST /v1/messages HTTP/1.1\r\nhost: x\r\nx-api-key: {token}\r\ntransfer-encoding: chunked\r\n\r\n{parts}0\r\n\r\n"
        ),
    );
    assert_eq!(status(&answer), 200);
    assert_eq!(vendor.seen.lock().unwrap().requests[0].1, good.as_bytes());
}

#[test]
fn paths_and_methods_outside_the_table_are_refused() {
    let vendor = Vendor::start();
    let router = Router::start(vendor.address);
    let token = router.token("id-1");
    let cases = [
        ("GET", "/api/oauth/profile", 404),
        ("POST", "/v1//messages", 404),
        ("POST", "/v1/messages/../oauth", 404),
        ("POST", "/v1/%6dessages", 404),
        ("GET", "/v1/messages", 405),
        ("DELETE", "/v1/messages", 405),
        ("POST", "/v1/messages?beta=true&x=1", 400),
        ("GET", "/v1/models/..", 404),
    ];
    for (method, target, expected) in cases {
        let answer = exchange(
            &router,
            &format!("{method} {target} HTTP/1.1\r\nhost: x\r\nx-api-key: {token}\r\n\r\n"),
        );
        assert_eq!(status(&answer), expected, "{method} {target}: {answer}");
        assert!(body(&answer).contains("\"type\":\"error\""), "{answer}");
    }
    assert_eq!(vendor.requests(), 0);
}

#[test]
fn one_connection_too_many_is_told_so_at_once() {
    let vendor = Vendor::start();
    let router = Router::with(vendor.address, Setting { max_connections: 2, ..Setting::default() });
    let first = router.connect();
    let _second = router.connect();
    eventually("both are counted", || router.metrics.encode().contains("la_router_connections 2"));
    let answer = read_answer(&mut router.connect());
    assert_eq!(status(&answer), 503, "{answer}");
    assert!(body(&answer).contains("api_error") && answer.contains("connection: close"), "{answer}");
    drop(first);
    eventually("its place is free", || status(&router.ask("json")) == 200);
}

#[test]
fn missing_and_expired_credentials_are_named_and_never_shown() {
    let vendor = Vendor::start();
    let mut router = Router::start(vendor.address);
    router.credentials.clear();
    let old = la_core::credential::Credential::OAuth {
        access_token: la_core::secret::Secret::new("old-canary"),
        expires_at: Some(1),
    };
    router.credentials.insert("anthropic/spare".to_owned(), old);
    router.publish(|_| ());
    let answer = router.ask("json");
    assert_eq!(status(&answer), 502, "{answer}");
    let text = body(&answer);
    assert!(
        text.contains("anthropic/main: credential is missing")
            && text.contains("anthropic/spare: credential has expired"),
        "{text}"
    );
    assert!(!text.contains("canary") && text.contains("api_error"));
    eventually("nothing is charged", || router.used("agent") == (0, 0));
}
