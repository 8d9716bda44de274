//! The admin port and socket: what is open, what needs a credential, and what does not exist.

use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use la_tests::cluster::{Client, measure};
use la_tests::router::Setup;
use serde_json::json;

const CLOSED: [(&str, &str); 8] = [
    ("GET", "/status"),
    ("GET", "/v1/report"),
    ("GET", "/v1/usage"),
    ("GET", "/v1/accounts"),
    ("GET", "/api/tokens"),
    ("POST", "/api/tokens"),
    ("GET", "/api/tokens/x"),
    ("POST", "/api/tokens/x/revoke"),
];

#[test]
fn without_a_credential_nothing_but_probes_and_metrics_exists() {
    let router = Setup::flags("http://127.0.0.1:9").arg("--admin-key", "").env("TOKEN_ADMIN_KEY", "").start();
    let router = router.unwrap();
    let client = Client::new(router.admin());
    for (method, path) in CLOSED {
        assert_eq!(client.send(method, path, "", "").unwrap().status, 404, "{method} {path}");
    }
    let metrics = client.send("GET", "/metrics", "", "").unwrap();
    assert!(metrics.status == 200 && metrics.body.contains("la_router_"), "{}", metrics.body);
}

#[test]
fn wrong_credential_opens_nothing() {
    let router = Setup::flags("http://127.0.0.1:9").start().unwrap();
    let client = Client::new(router.admin());
    for credential in ["", "Bearer wrong", "Basic canary-admin-key-0123456789abcdef", "Bearer "] {
        for (method, path) in CLOSED {
            let answer = client.send_with(method, path, &[("authorization", credential)], "").unwrap();
            assert_eq!(answer.status, 401, "{credential:?} {method} {path}");
        }
    }
}

#[test]
fn metrics_can_be_switched_off() {
    let router = Setup::flags("http://127.0.0.1:9").env("DISABLE_METRICS", "true").start().unwrap();
    assert_eq!(Client::new(router.admin()).send("GET", "/metrics", "", "").unwrap().status, 404);
}

#[test]
fn socket_is_private() {
    let router = Setup::flags("http://127.0.0.1:9").start().unwrap();
    for (file, mode) in
        [("admin.sock", 0o600), ("tokens.json", 0o600), ("signing-key.json", 0o600), ("", 0o700)]
    {
        let _ = router.issue(&[]).unwrap();
        let path = router.data_dir().join(file);
        let found = std::fs::metadata(&path).unwrap().permissions().mode() & 0o777;
        assert_eq!(found, mode, "{}", path.display());
    }
}

#[test]
fn long_poll_answers_when_the_report_changes() {
    let router = Setup::flags("http://127.0.0.1:9").start().unwrap();
    let (code, report) = router.ask_admin("GET", "/v1/report", "").unwrap();
    assert_eq!(code, 200);
    let revision = report["revision"].as_u64().unwrap();
    let stale = format!("/v1/report?revision={}&wait=5s", revision - 1);
    let (_, time) = measure(|| router.ask_admin("GET", &stale, "").unwrap());
    assert!(time < Duration::from_secs(2), "another revision is answered at once, took {time:?}");
    let same = format!("/v1/report?revision={revision}&wait=300ms");
    let (answer, time) = measure(|| router.ask_admin("GET", &same, "").unwrap());
    assert_eq!(answer.1["revision"], revision);
    assert!(time >= Duration::from_millis(300), "{time:?}");
    let waited = format!("/v1/report?revision={revision}&wait=8s");
    std::thread::scope(|scope| {
        let polling = scope.spawn(|| measure(|| router.ask_admin("GET", &waited, "").unwrap()));
        router.issue(&[]).unwrap();
        let (answer, time) = polling.join().unwrap();
        assert!(
            answer.1["revision"].as_u64().unwrap() > revision && time < Duration::from_secs(5),
            "{time:?}"
        );
        assert_eq!(answer.1["liveTokens"], 1);
    });
    for bad in ["/v1/report?wait=2h", "/v1/report?revision=x", "/v1/report?surprise=1"] {
        assert_eq!(router.ask_admin("GET", bad, "").unwrap().0, 400, "{bad}");
    }
}

#[test]
fn tokens_live_and_die_over_the_api() {
    let router = Setup::flags("http://127.0.0.1:9").start().unwrap();
    let body = json!({"ttl_hours": 2, "label": "ci", "max_requests": 7}).to_string();
    let (code, issued) = router.ask_admin("POST", "/api/tokens", &body).unwrap();
    assert_eq!(code, 200, "{issued}");
    assert!(issued["token"].as_str().unwrap().starts_with("la_sk_"));
    let id = issued["id"].as_str().unwrap();
    let (_, list) = router.ask_admin("GET", "/api/tokens", "").unwrap();
    assert_eq!(list["data"][0]["id"], id);
    assert!(!list.to_string().contains("la_sk_"), "a list shows no text");
    let (code, shown) = router.ask_admin("GET", &format!("/api/tokens/{id}"), "").unwrap();
    assert_eq!((code, &shown["max_requests"], &shown["revoked"]), (200, &json!(7), &json!(false)));
    for _ in 0..2 {
        let (code, shown) = router.ask_admin("POST", &format!("/api/tokens/{id}/revoke"), "").unwrap();
        assert_eq!((code, &shown["revoked"]), (200, &json!(true)));
    }
    assert_eq!(router.ask_admin("GET", "/api/tokens/nobody", "").unwrap().0, 404);
    for bad in [
        r#"{"ttl_hours":0}"#,
        r#"{"max_requests":0}"#,
        r#"{"account":"x"}"#,
        "nonsense",
        r#"{"ttl_hours":99999}"#,
    ] {
        assert_eq!(router.ask_admin("POST", "/api/tokens", bad).unwrap().0, 400, "{bad}");
    }
}
