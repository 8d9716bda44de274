//! What is not on the list does not leave, and nothing that a client uses to prove itself does either.

use std::sync::Arc;

use la_tests::caller::Call;
use la_tests::fakes::FakeUpstream;
use la_tests::fakes::vendor::{self, Known};
use la_tests::proof::{rounds, seed};
use la_tests::router::Setup;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{Rng as _, SeedableRng as _};

const METHODS: [&str; 9] = ["GET", "POST", "HEAD", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "QUERY"];

/// Paths that hold something of the owner's, or nearly are one of ours.
const PATHS: [&str; 24] = [
    "/api/oauth/profile",
    "/api/oauth/usage",
    "/api/oauth/claude_cli/roles",
    "/api/claude_cli/bootstrap",
    "/v1/oauth/token",
    "/v1/organizations/me",
    "/v1/organizations/x/api_keys",
    "/v1/files",
    "/v1/files/file_1/content",
    "/v1/messages/batches",
    "/v1/messages/batches/b/results",
    "/v1/skills",
    "/v1/complete",
    "/v1/chat/completions",
    "/v1/messages",
    "/v1/messages/count_tokens",
    "/v1/models",
    "/v1/models/claude-opus-5",
    "/api/latest/anthropic/v1/messages",
    "/api/latest/anthropic/api/oauth/profile",
    "/health",
    "/metrics",
    "/status",
    "/api/tokens",
];

/// What routers, proxies and vendors read differently.
const PIECES: [&str; 22] = [
    "//", "/./", "/../", "/..", "%2e", "%2E%2e", "%2f", "%2F", "%5c", "\\", ";", ";a=b", "%00", "%0d%0a",
    "?", "?a=b", "#", " ", "%", "%zz", ".", "\u{e9}",
];

/// A path that was bent somewhere, so that it is none of the list.
fn bent(random: &mut StdRng) -> String {
    let mut path = (*PATHS.choose(random).unwrap()).to_owned();
    for _ in 0..random.random_range(1..4) {
        let at = random.random_range(1..=path.len());
        let at = (0..=at).rev().find(|at| path.is_char_boundary(*at)).unwrap_or(0);
        match random.random_range(0..4) {
            0 => path.insert_str(at, "/../"),
            1 => path = path.replacen('/', PIECES.choose(random).unwrap(), 2),
            2 => {
                let byte = path.as_bytes().get(at).copied().unwrap_or(b'/');
                path.insert_str(at, &format!("%{byte:02x}"));
            }
            _ => path.insert_str(at, PIECES.choose(random).unwrap()),
        }
    }
    path
}

/// Whether the list has it: written out here a second time, on purpose.
fn is_listed(method: &str, target: &str) -> bool {
    let path = target.strip_prefix("/api/latest/anthropic").unwrap_or(target);
    let is_id = |id: &str| {
        id != "."
            && id != ".."
            && !id.is_empty()
            && id.bytes().all(|b| b.is_ascii_alphanumeric() || b"._:@-".contains(&b))
    };
    match method {
        "POST" => {
            matches!(path.strip_suffix('?').unwrap_or(path), "/v1/messages" | "/v1/messages/count_tokens")
        }
        "GET" => {
            let path = path.strip_suffix('?').unwrap_or(path);
            path == "/v1/models"
                || path.strip_prefix("/v1/models/").is_some_and(is_id)
                || target.starts_with("/health")
        }
        _ => false,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_byte_of_an_unlisted_request_reaches_the_vendor() {
    let upstream = FakeUpstream::start(vendor::script(Known::default())).await.unwrap();
    let router = Setup::flags(&upstream.base_url()).start().unwrap();
    let token = router.issue(&[]).unwrap();
    let seed = seed();
    let mut random = StdRng::seed_from_u64(seed);
    let mut tried = 0;
    while tried < rounds(2_000) {
        let method = *METHODS.choose(&mut random).unwrap();
        let target = if random.random_ratio(1, 4) {
            (*PATHS.choose(&mut random).unwrap()).to_owned()
        } else {
            bent(&mut random)
        };
        if is_listed(method, &target) {
            continue;
        }
        tried += 1;
        let call = Call::new(method, &target).bearer(&token);
        let reply = call
            .send(router.address())
            .await
            .unwrap_or_else(|error| panic!("seed {seed}: {method} {target:?}: {error}"));
        assert!(
            (400..500).contains(&reply.status) || method == "HEAD",
            "seed {seed}: {method} {target:?}: {}",
            reply.status
        );
        assert_eq!(upstream.bytes(), 0, "seed {seed}: {method} {target:?} reached the vendor");
    }
}

/// Fields in which clients and proxies carry credentials, addresses and identities.
const FIELDS: [&str; 40] = [
    "proxy-authorization",
    "proxy-authenticate",
    "cookie",
    "set-cookie",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-proto",
    "forwarded",
    "x-real-ip",
    "x-client-ip",
    "true-client-ip",
    "cf-connecting-ip",
    "via",
    "referer",
    "origin",
    "from",
    "x-auth-token",
    "x-access-token",
    "x-csrf-token",
    "x-goog-api-key",
    "api-key",
    "x-amz-security-token",
    "x-amz-date",
    "authentication",
    "x-authorization",
    "x-original-url",
    "x-rewrite-url",
    "x-http-method-override",
    "x-anthropic-api-key",
    "anthropic-api-key",
    "anthropic-auth-token",
    "anthropic-organization-id",
    "anthropic-workspace-id",
    "openai-organization",
    "accept-language",
    "accept-encoding",
    "x-request-id",
    "traceparent",
    "te",
    "x-custom",
];

/// Fields that pass, in which a client may have put its credential by mistake.
const PASSING: [&str; 8] = [
    "user-agent",
    "accept",
    "anthropic-beta",
    "anthropic-version",
    "x-app",
    "x-stainless-lang",
    "x-claude-code-session-id",
    "anthropic-custom",
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_credential_of_a_client_reaches_the_vendor_or_a_log() {
    let upstream = Arc::new(FakeUpstream::start(vendor::script(Known::default())).await.unwrap());
    let router = Setup::flags(&upstream.base_url()).env("VERBOSE", "true").start().unwrap();
    let token = router.issue(&[]).unwrap();
    let body =
        r#"{"model":"claude-opus-5","max_tokens":5,"messages":[{"role":"user","content":"canary-prompt"}]}"#;
    let mut sent = 0;
    for name in FIELDS {
        for value in ["canary-plain", "la_sk_canary", "sk-ant-canary"] {
            let reply = Call::message(&token, body).header(name, value).send(router.address()).await.unwrap();
            assert_eq!(reply.status, 200, "{name}: {}", reply.text());
            sent += 1;
        }
    }
    for name in PASSING {
        for value in ["la_sk_canary", "Bearer sk-ant-oat01-canary"] {
            let reply = Call::message(&token, body).header(name, value).send(router.address()).await.unwrap();
            assert_eq!(reply.status, 200, "{name}: {}", reply.text());
            sent += 1;
        }
    }
    let named = Call::message(&token, body)
        .header("x-stainless-os", "canary-named")
        .header("connection", "X-Stainless-OS");
    assert_eq!(named.send(router.address()).await.unwrap().status, 200);
    for received in upstream.received() {
        for (name, value) in &received.headers {
            let own = name == "x-api-key" && value == la_tests::router::API_KEY;
            assert!(own || !value.contains("canary"), "{name}: {value} reached the vendor");
        }
    }
    assert_eq!(upstream.count(), sent + 1);
    let bytes = upstream.bytes();
    for query in [
        "api_key=canary-query",
        "beta=canary-query",
        "beta=true&key=canary-query",
        "canary-query",
        "beta=true&beta=canary-query",
    ] {
        let call = Call::new("POST", &format!("/v1/messages?{query}")).bearer(&token).json(body);
        assert_eq!(call.send(router.address()).await.unwrap().status, 400, "{query}");
    }
    assert_eq!(upstream.bytes(), bytes, "a refused query reached the vendor");
    let log = router.log();
    assert!(log.contains("\"outcome\""), "{log}");
    for secret in ["canary", token.as_str()] {
        assert!(!log.contains(secret), "{secret} is in the log");
    }
    let metrics = la_tests::cluster::Client::new(router.admin()).send("GET", "/metrics", "", "").unwrap();
    assert!(metrics.body.contains("la_router_requests_total") && !metrics.body.contains("canary"));
}
