//! What passes: bytes untouched, credentials swapped, listed fields only.

use std::io::Write as _;

use crate::router::{OAUTH, Router, body, eventually, message, read_answer, status};
use crate::vendor::{JSON, SSE, SSE_END, Vendor};

#[test]
fn streamed_answer_passes_untouched_and_is_settled_once() {
    let vendor = Vendor::start();
    let router = Router::start(vendor.address);
    let answer = router.ask("stream");
    assert_eq!((status(&answer), body(&answer)), (200, format!("{SSE}{SSE_END}")), "{answer}");
    let head = answer.split_once("\r\n\r\n").unwrap().0;
    assert!(head.contains("x-request-id: req_") && head.contains("\r\nrequest-id: req_vendor"), "{head}");
    for hidden in ["set-cookie", "organization", "ratelimit"] {
        assert!(!head.contains(hidden), "{hidden} is in {head}");
    }
    eventually("one settled request", || router.used("agent") == (1, 0));
    let text = router.metrics.encode();
    for line in
        ["tokens_total{direction=\"input\"} 7", "tokens_total{direction=\"output\"} 5", "open_streams 0"]
    {
        assert!(text.contains(line), "{line} is missing in {text}");
    }
}

#[test]
fn credential_is_swapped_and_only_listed_fields_go_upstream() {
    let vendor = Vendor::start();
    let router = Router::start(vendor.address);
    let token = router.token("id-1");
    let body = r#"{"model":"json","max_tokens":9,"messages":[{"role":"user","content":"häl\u006co"}]}"#;
    let request = format!(
        "POST /v1/messages?beta=true HTTP/1.1\r\nhost: evil.example\r\nx-api-key: {token}\r\nAuthorization: Bearer {token}\r\n\
         cookie: canary\r\nproxy-authorization: canary\r\nx-forwarded-for: canary\r\nx-forwarded-host: canary\r\nvia: canary\r\n\
         anthropic-beta: a-1,b-2\r\nanthropic-beta: c-3\r\nx-stainless-lang: js\r\nx-stainless-os: canary\r\n\
         connection: keep-alive, x-stainless-os\r\nuser-agent: claude-cli/9 (external, cli)\r\nx-app: cli\r\n\
         x-claude-code-session-id: s1\r\nanthropic-organization-id: canary\r\nx-custom: canary\r\nte: canary\r\n\
         x-stainless-leak: {token}\r\naccept-encoding: gzip, canary\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    let mut client = router.connect();
    client.write_all(request.as_bytes()).unwrap();
    let answer = read_answer(&mut client);
    assert_eq!((status(&answer), crate::router::body(&answer)), (200, JSON.to_owned()), "{answer}");
    let seen = vendor.seen.lock().unwrap();
    let (head, sent) = &seen.requests[0];
    assert_eq!(sent, body.as_bytes());
    assert!(head.starts_with("POST /v1/messages?beta=true HTTP/1.1\r\n"), "{head}");
    for absent in ["canary\r\n", "la_sk_", "evil", "x-api-key", "cookie", "connection"] {
        assert!(!head.replace(OAUTH, "").contains(absent), "{absent:?} is in {head}");
    }
    for present in [
        format!("authorization: Bearer {OAUTH}\r\n"),
        format!("host: {}\r\n", vendor.address),
        "anthropic-version: 2023-06-01\r\n".to_owned(),
        "anthropic-beta: a-1,b-2,c-3,oauth-2025-04-20\r\n".to_owned(),
        "x-stainless-lang: js\r\n".to_owned(),
        "user-agent: claude-cli/9 (external, cli)\r\n".to_owned(),
        "x-claude-code-session-id: s1\r\n".to_owned(),
        "accept-encoding: identity\r\n".to_owned(),
    ] {
        assert!(head.contains(&present), "{present:?} is missing in {head}");
    }
}

#[test]
fn connections_are_kept_on_both_sides() {
    let vendor = Vendor::start();
    let router = Router::start(vendor.address);
    let mut client = router.connect();
    for _ in 0..5 {
        for what in ["json", "stream"] {
            client.write_all(message(&router.token("id-1"), what).as_bytes()).unwrap();
            assert_eq!(status(&read_answer(&mut client)), 200);
        }
    }
    assert_eq!((vendor.requests(), vendor.seen.lock().unwrap().connections), (10, 1));
}

#[test]
fn models_and_health_cost_nothing() {
    let vendor = Vendor::start();
    let router = Router::start(vendor.address);
    let mut client = router.connect();
    let token = router.token("id-1");
    for (target, expected) in [
        ("/v1/models?limit=10", "/v1/models?limit=10"),
        ("/api/latest/anthropic/v1/models/a-1", "/v1/models/a-1"),
    ] {
        write!(client, "GET {target} HTTP/1.1\r\nhost: x\r\nx-api-key: {token}\r\n\r\n").unwrap();
        assert_eq!(status(&read_answer(&mut client)), 200);
        assert!(
            vendor.last_head().starts_with(&format!("GET {expected} HTTP/1.1\r\n")),
            "{}",
            vendor.last_head()
        );
    }
    write!(client, "GET /health HTTP/1.1\r\nhost: x\r\n\r\n").unwrap();
    let answer = read_answer(&mut client);
    assert_eq!((status(&answer), body(&answer).as_str()), (200, "ok"));
    assert_eq!((vendor.requests(), router.used("agent")), (2, (0, 0)));
}

#[test]
fn vendor_error_passes_with_its_bytes() {
    let vendor = Vendor::start();
    let router = Router::start(vendor.address);
    let answer = router.ask("overloaded");
    assert_eq!(status(&answer), 529);
    assert!(answer.contains("retry-after: 7") && body(&answer).contains("overloaded_error"), "{answer}");
    eventually("one settled request", || router.used("agent") == (1, 0));
}

#[test]
fn account_that_the_vendor_refuses_is_skipped_until_its_credential_changes() {
    let vendor = Vendor::start();
    let mut router = Router::start(vendor.address);
    vendor.fail(OAUTH, "unauthorized", 1);
    assert_eq!(status(&router.ask("json")), 200, "a client sees nothing of it");
    assert_eq!(vendor.requests(), 2);
    assert_eq!(status(&router.ask("json")), 200);
    assert!(vendor.last_head().contains("x-api-key: sk-ant-api03-spare\r\n"), "{}", vendor.last_head());
    router.publish(|_| ());
    assert_eq!(status(&router.ask("json")), 200);
    assert!(vendor.last_head().contains("x-api-key: "), "{}", vendor.last_head());
    let fresh = la_core::credential::Credential::OAuth {
        access_token: la_core::secret::Secret::new("fresh"),
        expires_at: None,
    };
    router.credentials.insert("anthropic/main".to_owned(), fresh);
    router.publish(|_| ());
    assert_eq!(status(&router.ask("json")), 200);
    assert!(vendor.last_head().contains("authorization: Bearer fresh\r\n"), "{}", vendor.last_head());
}
