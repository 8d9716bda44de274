//! Tokens of `tokens issue` at a router that serves manifests: its RouterProxy and RouterBudgets hold for them too.

use la_tests::caller::Call;
use la_tests::fakes::FakeUpstream;
use la_tests::fakes::vendor::{self, Known};
use la_tests::router::{Router, Setup};

const BODY: &str =
    r#"{"model":"claude-haiku-4-5","max_tokens":16,"messages":[{"role":"user","content":"hi"}]}"#;

/// A gateway with defaults and ceilings, and a pool of all its tokens.
const GATEWAY: &str = r#"
apiVersion: router.link-assistant.dev/v1alpha1
kind: RouterProxy
metadata: {name: gateway, namespace: team}
spec:
  routes: [{candidates: [{provider: vendor}]}]
  tokens: {ceilings: {maxRequests: CEILING}, defaults: {maxRequests: 2}}
---
apiVersion: router.link-assistant.dev/v1alpha1
kind: RouterBudget
metadata: {name: everyone, namespace: team}
spec: {proxyRef: {name: gateway}, budgets: [{name: all, unit: Requests, limit: '3'}]}
"#;

async fn ask(router: &Router, token: &str) -> (u16, String) {
    let answer = Call::message(token, BODY).send(router.address()).await.unwrap();
    (answer.status, answer.text())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn issued_token_has_the_proxys_defaults_ceilings_and_pools() {
    let upstream = FakeUpstream::start(vendor::script(Known::default())).await.unwrap();
    let gateway = |ceiling| GATEWAY.replace("CEILING", ceiling);
    let setup = Setup::team(&upstream.base_url(), "").file("manifests/gateway.yaml", &gateway("100"));
    let mut router = setup.start().unwrap();
    let above = router.issue(&["--max-requests", "101"]).unwrap_err().to_string();
    let ceiling =
        r#"limits.maxRequests: is "101": the proxy's tokens.ceilings.maxRequests allows at most "100""#;
    assert!(above.contains(ceiling), "{above}");
    let (status, answer) = router.ask_admin("POST", "/api/tokens", r#"{"max_requests":101}"#).unwrap();
    assert!(
        status == 400 && answer["error"]["message"].as_str().unwrap().contains(ceiling),
        "{status} {answer}"
    );

    // Without a limit of its own it has the default's, which people see.
    let (_, issued) = router.ask_admin("POST", "/api/tokens", "{}").unwrap();
    assert_eq!(issued["max_requests"], 2);
    let token = issued["token"].as_str().unwrap();
    for _ in 0..2 {
        assert_eq!(ask(&router, token).await.0, 200);
    }
    let (status, why) = ask(&router, token).await;
    assert!(status == 429 && why.contains("maxRequests"), "{status} {why}");

    // The pool counts the requests of all of them.
    let other = router.issue(&["--max-requests", "50"]).unwrap();
    assert_eq!(ask(&router, &other).await.0, 200);
    let (status, why) = ask(&router, &other).await;
    assert!(status == 429 && why.contains("everyone"), "{status} {why}");

    // A ceiling that comes later is no reason not to start: what is above it is not served, and is told.
    router.kill();
    std::fs::write(router.directory().join("manifests/gateway.yaml"), gateway("10")).unwrap();
    router.restart().unwrap();
    assert_eq!(ask(&router, &other).await.0, 401);
    assert_eq!(ask(&router, token).await.0, 429);
    let (_, report) = router.ask_admin("GET", "/status", "").unwrap();
    assert!(report.to_string().contains("is not served: spec.limits.maxRequests"), "{report}");
}
