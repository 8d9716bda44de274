//! A proxy whose ledger is not the one that has counted so far: its volume was lost.

use std::time::Duration;

use la_core::budget::{SavedMeter, SavedOwner};
use la_core::snapshot::{LedgerRecord, SNAPSHOT_FILE, Snapshot};
use la_tests::caller::{Call, Reply};
use la_tests::cluster::{Client, eventually};
use la_tests::fakes::FakeUpstream;
use la_tests::fakes::vendor::{self, Known};
use la_tests::gateway::{self, Token};
use la_tests::router::{Router, Setup};
use serde_json::json;

const BODY: &str =
    r#"{"model":"claude-haiku-4-5","max_tokens":16,"messages":[{"role":"user","content":"hi"}]}"#;

/// Puts the next snapshot where the router looks, whole.
fn publish(router: &Router, snapshot: &mut Snapshot, ledger: LedgerRecord) {
    snapshot.generation += 1;
    snapshot.ledger = Some(ledger);
    let [new, file] = ["new.json", SNAPSHOT_FILE].map(|name| router.directory().join("snapshot").join(name));
    std::fs::write(&new, serde_json::to_string(snapshot).unwrap()).unwrap();
    std::fs::rename(new, file).unwrap();
    eventually("the snapshot to be served", Duration::from_secs(10), || {
        let (_, report) = router.ask_admin("GET", "/status", "")?;
        Ok((report["generation"] == snapshot.generation).then_some(()))
    })
    .unwrap();
}

fn readiness(router: &Router) -> (u16, String) {
    let answer = Client::new(router.admin()).send("GET", "/readyz", "", "").unwrap();
    (answer.status, answer.body)
}

fn until_ready(router: &Router) {
    let ready = || Ok((readiness(router).0 == 200).then_some(()));
    eventually("the router to be ready", Duration::from_secs(10), ready).unwrap();
}

async fn ask(router: &Router, token: &str) -> Reply {
    Call::message(token, BODY).send(router.address()).await.unwrap()
}

#[tokio::test]
async fn another_ledger_serves_nobody_until_it_is_accepted_and_starts_from_the_reported_use() {
    let upstream = FakeUpstream::start(vendor::script(Known::default())).await.unwrap();
    let limits = serde_json::from_value(json!({ "maxRequests": 5 })).unwrap();
    let agent = Token { name: "agent".to_owned(), limits, suspended: false };
    let (mut snapshot, texts) = gateway::snapshot(&upstream.base_url(), &[agent]).unwrap();
    let (subject, token) = (snapshot.tokens[0].subject.clone(), texts["agent"].expose());
    let files = gateway::snapshot_files(&snapshot, "sk-ant-api03-key").unwrap();
    let mut router = Setup::snapshot(&files).env("POD_UID", "test").start().unwrap();
    assert_eq!(ask(&router, token).await.status, 200, "so far any ledger is the first");
    let (_, report) = router.ask_admin("GET", "/status", "").unwrap();
    let own = report["ledgerId"].as_str().unwrap().to_owned();

    publish(&router, &mut snapshot, LedgerRecord { id: "another".to_owned(), floors: Vec::new() });
    let (status, why) = readiness(&router);
    assert_eq!((status, why.contains(&format!("it is {own} and not another"))), (503, true), "{why}");
    let refused = ask(&router, token).await;
    assert_eq!(refused.status, 503, "{}", refused.text());
    let (_, report) = router.ask_admin("GET", "/status", "").unwrap();
    assert_eq!((report["usage"].clone(), report["ready"].clone()), (json!([]), json!(false)));
    assert_eq!(report["notReady"].as_array().map(Vec::len), Some(1), "{report}");

    let meter: SavedMeter = serde_json::from_value(json!({
        "unit": "Requests", "window": "lifetime", "startMs": 0, "settled": 4, "open": 0, "granted": 4,
        "grantedUntilMs": 1,
    }))
    .unwrap();
    let floors = vec![SavedOwner { meters: vec![meter], ..SavedOwner::new(subject) }];
    publish(&router, &mut snapshot, LedgerRecord { id: own.clone(), floors });
    until_ready(&router);
    assert_eq!(ask(&router, token).await.status, 200, "four of five are used");
    assert_eq!(ask(&router, token).await.status, 429);
    publish(&router, &mut snapshot, LedgerRecord { id: own, floors: Vec::new() });
    router.restart().unwrap();
    assert_eq!(ask(&router, token).await.status, 429, "the floor has outlived its file and the process");
    let (_, report) = router.ask_admin("GET", "/status", "").unwrap();
    assert_eq!(report["usage"][0]["requests"], 5, "{report}");
}
