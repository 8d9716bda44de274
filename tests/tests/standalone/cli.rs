//! Commands beside a running server and without one, and `quickstart` from nothing.

use std::process::{Command, Output};
use std::time::Duration;

use la_tests::caller::Call;
use la_tests::cluster::{Process, eventually, la_router};
use la_tests::router::Setup;
use tempfile::TempDir;

fn run(args: &[&str], folder: &std::path::Path) -> Output {
    let mut command = Command::new(la_router().unwrap());
    command.env_clear().env("HOME", folder).env("DATA_DIR", folder.join("data")).current_dir(folder);
    command.args(args).output().unwrap()
}

fn text(output: &Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout.clone()).unwrap().trim().to_owned()
}

#[test]
fn tokens_issued_without_a_server_are_served_by_the_next_one() {
    let folder = TempDir::new().unwrap();
    let token = text(&run(&["tokens", "issue", "--label", "early", "--max-requests", "3"], folder.path()));
    assert!(token.starts_with("la_sk_") && !token.contains('\n'), "{token}");
    let list = text(&run(&["tokens", "list"], folder.path()));
    assert!(list.starts_with("ID ") && list.contains("0/3") && list.ends_with("early"), "{list}");
    let id = list.lines().nth(1).unwrap().split(' ').next().unwrap();
    let shown: serde_json::Value =
        serde_json::from_str(&text(&run(&["tokens", "show", id], folder.path()))).unwrap();
    assert_eq!(shown["label"], "early");
    assert_eq!(text(&run(&["tokens", "expire", id], folder.path())), format!("expired {id}"));
    assert_eq!(text(&run(&["tokens", "revoke", id], folder.path())), format!("revoked {id}"));
    let absent = run(&["tokens", "show", "nobody"], folder.path());
    assert_eq!(absent.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&absent.stderr).contains("there is no token nobody"));
}

#[test]
fn tokens_commands_go_through_a_running_server() {
    let router = Setup::flags("http://127.0.0.1:9").start().unwrap();
    router.issue(&["--label", "beside"]).unwrap();
    let list = router.tokens(&["list"]).unwrap();
    let id = list.lines().nth(1).unwrap().split(' ').next().unwrap().to_owned();
    assert_eq!(router.tokens(&["revoke", &id]).unwrap(), format!("revoked {id}"));
    assert!(router.tokens(&["show", &id]).unwrap().contains("\"revoked\": true"));
    assert!(router.tokens(&["show", "../../status"]).unwrap_err().to_string().contains("there is no token"));
    let (_, report) = router.ask_admin("GET", "/status", "").unwrap();
    assert_eq!(report["notReady"], serde_json::json!([]));
}

#[test]
fn doctor_names_what_is_wrong_and_ends_with_1() {
    let folder = TempDir::new().unwrap();
    let args = [
        "doctor",
        "--upstream-base-url",
        "http://127.0.0.1:9",
        "--port",
        "0",
        "--admin-listen",
        "127.0.0.1:0",
    ];
    let output = run(&args, folder.path());
    let said = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("FAIL  account anthropic/primary: no Claude login in"), "{said}");
    assert!(said.contains("FAIL  provider anthropic: http://127.0.0.1:9 cannot be reached"), "{said}");
    assert!(said.contains("ok    data folder"), "{said}");
}

#[test]
fn completions_are_printed_for_every_shell() {
    let folder = TempDir::new().unwrap();
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        assert!(text(&run(&["completions", shell], folder.path())).contains("la-router"), "{shell}");
    }
}

#[tokio::test]
async fn quickstart_needs_nothing_and_its_curl_streams() {
    let folder = TempDir::new().unwrap();
    let mut command = Command::new(la_router().unwrap());
    command.env_clear().env("HOME", folder.path()).current_dir(folder.path());
    command.args(["quickstart", "--port", "0", "--admin-listen", "127.0.0.1:0", "--data-dir", "data"]);
    let mut process = Process::spawn(&mut command, &folder.path().join("log")).unwrap();
    let said = eventually("the instructions", Duration::from_secs(20), || {
        assert!(process.ended()?.is_none(), "{}", process.log());
        Ok(process.log().contains("Ctrl-C ends it").then(|| process.log()))
    });
    let said = said.unwrap();
    let value = |name: &str| {
        let line = said.lines().find_map(|line| line.strip_prefix(&format!("export {name}=")));
        line.unwrap_or_else(|| panic!("{name} is not in {said}")).to_owned()
    };
    let address = value("ANTHROPIC_BASE_URL").trim_start_matches("http://").parse().unwrap();
    let curl = said.lines().find(|line| line.starts_with("curl ")).unwrap();
    let body = curl.rsplit(" -d '").next().unwrap().trim_end_matches('\'');
    let reply = Call::message(&value("ANTHROPIC_AUTH_TOKEN"), body).send(address).await.unwrap();
    assert_eq!(reply.status, 200, "{}", reply.text());
    assert!(reply.complete && reply.text().contains("event: message_stop"), "{}", reply.text());
    process.terminate().unwrap();
    assert_eq!(process.wait(Duration::from_secs(10)).unwrap().code(), Some(0), "{}", process.log());
}
