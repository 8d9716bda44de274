//! The usage log of a real process: what its lines say, that it counts as the ledger does, and the commands
//! around it.

use std::process::{Command, Output};
use std::time::Duration;

use la_tests::caller::Call;
use la_tests::cluster::{eventually, la_router};
use la_tests::fakes::FakeUpstream;
use la_tests::fakes::vendor::{self, Known};
use la_tests::router::{Router, Setup};
use serde_json::Value;
use tempfile::TempDir;

fn body(model: &str, stream: bool) -> String {
    format!(
        r#"{{"model":"{model}","max_tokens":16,"stream":{stream},"messages":[{{"role":"user","content":"hi"}}]}}"#
    )
}

fn ledger(data_dir: &std::path::Path, args: &[&str]) -> Output {
    let mut command = Command::new(la_router().unwrap());
    command.env_clear().env("DATA_DIR", data_dir).arg("ledger").args(args).output().unwrap()
}

fn printed(output: &Output) -> String {
    assert!(output.status.success(), "{}", said(output));
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

fn lines(router: &Router) -> Vec<Value> {
    let text = std::fs::read_to_string(router.data_dir().join("usage/usage-1.jsonl")).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// A router that has answered three requests, one of them streaming, and refused one.
async fn used(setup: Setup, upstream: &FakeUpstream) -> Router {
    let router = setup.start().unwrap();
    let token = router.issue(&["--label", "laptop", "--max-requests", "3"]).unwrap();
    for (model, stream) in [("claude-opus-5", false), ("script-usage-30-40", true), ("script-529", false)] {
        Call::message(&token, body(model, stream)).send(router.address()).await.unwrap();
    }
    let refused = Call::message(&token, body("claude-opus-5", false)).send(router.address()).await.unwrap();
    assert_eq!((refused.status, upstream.count()), (429, 3));
    router
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_charge_has_a_line_that_says_what_was_asked_served_and_charged() {
    let upstream = FakeUpstream::start(vendor::script(Known::default())).await.unwrap();
    let router = used(Setup::flags(&upstream.base_url()), &upstream).await;
    let lines = eventually("three lines", Duration::from_secs(5), || {
        Ok(Some(lines(&router)).filter(|lines| lines.len() == 3))
    });
    let lines = lines.unwrap();
    for (at, line) in lines.iter().enumerate() {
        assert_eq!(line["number"], at + 1);
        assert!(line["requestId"].as_str().is_some_and(|id| id.starts_with("req_")), "{line}");
        assert!(line["time"].as_str().is_some_and(|time| time.ends_with('Z')), "{line}");
        assert_eq!((&line["provider"], &line["account"]), (&"anthropic".into(), &"api-key".into()), "{line}");
        assert!(line["subject"].as_str().is_some_and(|subject| subject.matches('/').count() == 2), "{line}");
        assert_eq!((&line["reserved"]["requests"], &line["charged"]["requests"]), (&1.into(), &1.into()));
        assert_eq!(line["meters"][0]["unit"], "Requests");
        assert!(line.get("late").is_none(), "{line}");
    }
    let streamed = &lines[1];
    assert_eq!((&streamed["ending"], &streamed["quality"]), (&"complete".into(), &"complete".into()));
    assert_eq!((&streamed["model"], &streamed["status"]), (&"script-usage-30-40".into(), &200.into()));
    assert_eq!(streamed["usage"]["outputTokens"], 40);
    assert_eq!(streamed["billed"]["outputTokens"], 40);
    // An overloaded vendor has surely not run it: that it costs nothing is all there is to know.
    assert_eq!((&lines[2]["status"], &lines[2]["quality"]), (&529.into(), &"complete".into()));
    assert_eq!((&lines[2]["charged"]["tokens"], &lines[2]["charged"]["nanoUsd"]), (&0.into(), &0.into()));
    let all = std::fs::read_to_string(router.data_dir().join("usage/usage-1.jsonl")).unwrap();
    for secret in ["sk-ant", "la_sk_", "\"hi\""] {
        assert!(!all.contains(secret), "{secret} is in {all}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn recompute_agrees_beside_a_server_after_its_kill_and_on_the_files() {
    let upstream = FakeUpstream::start(vendor::script(Known::default())).await.unwrap();
    let mut router = used(Setup::flags(&upstream.base_url()), &upstream).await;
    let agrees = |router: &Router| {
        let text = printed(&ledger(&router.data_dir(), &["recompute"]));
        assert!(text.starts_with("SUBJECT") && text.ends_with("log and ledger agree\n"), "{text}");
        text
    };
    agrees(&router);
    router.kill();
    let on_files = agrees(&router);
    router.restart().unwrap();
    assert_eq!(agrees(&router), on_files);
    router.terminate().unwrap();
    router.wait(Duration::from_secs(20)).unwrap();
    // A line that somebody has taken out is missed.
    let file = router.data_dir().join("usage/usage-1.jsonl");
    let text = std::fs::read_to_string(&file).unwrap();
    let without: Vec<_> = text.lines().enumerate().filter(|(at, _)| *at != 1).map(|(_, line)| line).collect();
    std::fs::write(&file, without.join("\n") + "\n").unwrap();
    let differs = ledger(&router.data_dir(), &["recompute"]);
    assert_eq!(differs.status.code(), Some(1), "{}", said(&differs));
    assert!(said(&differs).contains("the log lacks 1 charges, 2 to 2"), "{}", said(&differs));
    assert!(
        said(&differs).contains("Requests of lifetime since 0: 2 by the log, 3 by the ledger"),
        "{}",
        said(&differs)
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn change_of_prices_is_replayed_over_the_log() {
    let upstream = FakeUpstream::start(vendor::script(Known::default())).await.unwrap();
    let router = used(Setup::flags(&upstream.base_url()), &upstream).await;
    let prices = router.directory().join("prices.yaml");
    let rates = "{input: '10', cacheWrite5m: '0', cacheWrite1h: '0', cacheRead: '0', output: '100'}";
    let other = format!(
        "- model: script-usage-30-40\n  perMillion: {rates}\n  contextWindow: 1000\n  maxOutputTokens: 100\n"
    );
    std::fs::write(&prices, other).unwrap();
    let replayed = printed(&ledger(&router.data_dir(), &["recompute", "--prices", prices.to_str().unwrap()]));
    assert!(replayed.starts_with("SUBJECT") && replayed.contains("USD REPLAYED"), "{replayed}");
    assert!(replayed.contains("1 charges whose use is not known keep their cost"), "{replayed}");
    std::fs::write(&prices, "- model: claude-opus-5\n  perMillion: {input: '-1'}\n").unwrap();
    let refused = ledger(&router.data_dir(), &["recompute", "--prices", prices.to_str().unwrap()]);
    assert_eq!(refused.status.code(), Some(2), "{}", said(&refused));
    assert!(said(&refused).contains("pricing.overrides[0].perMillion.input"), "{}", said(&refused));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn export_moves_a_ledger_and_import_never_lowers_one() {
    let upstream = FakeUpstream::start(vendor::script(Known::default())).await.unwrap();
    let mut router = used(Setup::flags(&upstream.base_url()), &upstream).await;
    let exported = printed(&ledger(&router.data_dir(), &["export"]));
    let file = router.directory().join("export.json");
    std::fs::write(&file, &exported).unwrap();
    let path = file.to_str().unwrap();
    let beside = ledger(&router.data_dir(), &["import", path]);
    assert!(said(&beside).contains("stop it before an import"), "{}", said(&beside));
    router.kill();
    let full = ledger(&router.data_dir(), &["import", path]);
    assert_eq!(full.status.code(), Some(2), "{}", said(&full));
    assert!(said(&full).contains("--merge"), "{}", said(&full));

    // Into nothing, as on another machine; and again into what is there already.
    let other = TempDir::new().unwrap();
    for args in [&["import", path][..], &["import", "--merge", path]] {
        assert!(printed(&ledger(other.path(), args)).contains("imported 1 subjects"));
        let again: Value = serde_json::from_str(&printed(&ledger(other.path(), &["export"]))).unwrap();
        let before: Value = serde_json::from_str(&exported).unwrap();
        let settled = |book: &Value| book["owners"][0]["meters"][0]["settled"].as_u64();
        assert_eq!(
            (settled(&again), &again["owners"][0]["tokens"]),
            (Some(3), &before["owners"][0]["tokens"])
        );
    }
    let later = exported.replacen("\"version\": 1", "\"version\": 2", 1);
    std::fs::write(&file, later).unwrap();
    let refused = ledger(other.path(), &["import", "--merge", path]);
    assert_eq!(refused.status.code(), Some(2));
    assert!(said(&refused).contains("version: is 2, this la-router reads 1"), "{}", said(&refused));

    // The token is used up by what was merged into its own ledger, and the log begins anew with that.
    std::fs::write(&file, exported.replacen("\"settled\": 3", "\"settled\": 2", 1)).unwrap();
    printed(&ledger(&router.data_dir(), &["import", "--merge", path]));
    router.restart().unwrap();
    let agrees = printed(&ledger(&router.data_dir(), &["recompute"]));
    assert!(
        agrees.contains("counted from usage-2.jsonl") && agrees.ends_with("log and ledger agree\n"),
        "{agrees}"
    );
    let (_, usage) = router.ask_admin("GET", "/v1/usage", "").unwrap();
    assert_eq!(usage["data"][0]["requests"], 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn log_that_is_off_writes_nothing() {
    let upstream = FakeUpstream::start(vendor::script(Known::default())).await.unwrap();
    let router = used(Setup::flags(&upstream.base_url()).arg("--usage-log", "off"), &upstream).await;
    assert!(!router.data_dir().join("usage").exists());
    let differs = ledger(&router.data_dir(), &["recompute"]);
    assert_eq!(differs.status.code(), Some(1));
    assert!(said(&differs).contains("there is no usage log"), "{}", said(&differs));
}
