//! Logins that a router renews itself: once per rotation, never lost, never in the way of others.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;
use std::time::Duration;

use la_tests::caller::{Call, Reply};
use la_tests::cluster::{Client, Process, eventually, la_router};
use la_tests::fakes::FakeUpstream;
use la_tests::fakes::oauth::{self, Login, Twist, Vault};
use la_tests::redis::RedisServer;
use la_tests::router::{Router, Setup};
use serde_json::Value;
use tempfile::TempDir;

const BODY: &str =
    r#"{"model":"claude-haiku-4-5","max_tokens":16,"messages":[{"role":"user","content":"hi"}]}"#;

/// Longer than any test needs it.
const LONG: Duration = Duration::from_secs(8 * 3_600);

/// So long before its end a login is surely due.
const DUE: Duration = Duration::from_secs(60);

const PATIENCE: Duration = Duration::from_secs(20);

/// A vendor, and the folder of one login of it.
struct Scene {
    vault: Arc<Vault>,
    vendor: FakeUpstream,
    home: TempDir,
}

impl Scene {
    /// One whose login has so long to live.
    async fn with(lifetime: Duration) -> Self {
        let vault = Vault::new(LONG);
        let vendor = FakeUpstream::start(oauth::script(Arc::clone(&vault))).await.unwrap();
        let home = TempDir::with_prefix("la-router-home-").unwrap();
        let scene = Self { vault, vendor, home };
        scene.log_in(lifetime);
        scene
    }

    fn log_in(&self, lifetime: Duration) -> Login {
        let login = self.vault.log_in(lifetime);
        self.put(&login.file());
        login
    }

    fn file(&self) -> PathBuf {
        self.home.path().join(".credentials.json")
    }

    /// As Claude Code writes it: another file in its place.
    fn put(&self, text: &str) {
        let draft = self.home.path().join("draft");
        fs::write(&draft, text).unwrap();
        fs::rename(draft, self.file()).unwrap();
    }

    fn text(&self) -> String {
        fs::read_to_string(self.file()).unwrap()
    }

    fn setup(&self) -> Setup {
        Setup::flags(&self.vendor.base_url())
            .without_env("ANTHROPIC_API_KEY")
            .env("CLAUDE_CODE_HOME", &self.home.path().display().to_string())
            .env("CLAUDE_OAUTH_REFRESH_URL", &format!("{}{}", self.vendor.base_url(), oauth::PATH))
    }

    fn start(&self) -> Router {
        self.setup().start().unwrap()
    }

    /// Waits until the file holds the so-manieth login that the vendor has issued.
    fn stored(&self, number: u32) {
        let token = format!("sk-ant-ort01-canary-{number}\"");
        eventually("the new login", PATIENCE, || Ok(self.text().contains(&token).then_some(()))).unwrap();
    }

    /// What the file would be if these were its three values.
    fn rotated(&self, number: u32, expires_at: u64) -> String {
        let login = Login {
            access_token: format!("sk-ant-oat01-canary-{number}"),
            refresh_token: format!("sk-ant-ort01-canary-{number}"),
            expires_at,
        };
        login.file()
    }

    fn expires_at(&self) -> u64 {
        let file: Value = serde_json::from_str(&self.text()).unwrap();
        file["claudeAiOauth"]["expiresAt"].as_u64().unwrap()
    }
}

fn account(router: &Router) -> Value {
    router.ask_admin("GET", "/v1/accounts", "").unwrap().1["data"][0].clone()
}

fn until(router: &Router, what: &str, good: impl Fn(&Value) -> bool) -> Value {
    eventually(what, PATIENCE, || Ok(Some(account(router)).filter(|account| good(account))))
        .unwrap_or_else(|error| panic!("{error}: {}\n{}", account(router), router.log()))
}

/// Waits until what the file holds is served.
fn served(scene: &Scene, router: &Router) -> Value {
    until(router, "what is stored", |account| {
        account["state"] == "Ready" && account["credentialExpiresAt"] == scene.expires_at() / 1_000
    })
}

async fn message(router: &Router, token: &str) -> Reply {
    Call::message(token, BODY).send(router.address()).await.unwrap()
}

fn count(text: &str, part: &str) -> usize {
    text.matches(part).count()
}

fn accounts_command(router: &Router, args: &[&str]) -> Output {
    let mut command = Command::new(la_router().unwrap());
    command.env_clear().env("DATA_DIR", router.data_dir()).arg("accounts").args(args).output().unwrap()
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn due_login_is_renewed_and_stored_and_everything_else_in_its_file_stays() {
    let scene = Scene::with(DUE).await;
    fs::set_permissions(scene.file(), fs::Permissions::from_mode(0o644)).unwrap();
    let router = scene.start();
    let token = router.issue(&[]).unwrap();
    scene.stored(2);
    let served = served(&scene, &router);
    assert_eq!(scene.text(), scene.rotated(2, scene.expires_at()));
    assert_eq!(mode(&scene.file()), 0o600);
    assert_eq!(fs::read_dir(scene.home.path()).unwrap().count(), 1, "nothing else is left in the folder");
    assert!(!served["lastRefreshTime"].is_null(), "{served}");
    assert_eq!(message(&router, &token).await.status, 200);
    assert_eq!(scene.vault.violations(), Vec::<String>::new());
    assert_eq!((scene.vault.calls().len(), scene.vault.rotations()), (1, 1));
    let log = router.log();
    assert!(!log.contains("canary-1") && !log.contains("canary-2"), "{log}");
    assert_eq!(count(&log, "is renewed until"), 1, "{log}");
    let metrics = Client::new(router.admin()).send("GET", "/metrics", "", "").unwrap();
    assert!(metrics.body.contains(r#"la_router_refreshes_total{outcome="renewed"} 1"#), "{}", metrics.body);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn expired_login_is_renewed_at_the_start() {
    let scene = Scene::with(Duration::ZERO).await;
    let router = scene.start();
    let token = router.issue(&[]).unwrap();
    until(&router, "the renewal", |account| account["state"] == "Ready");
    assert_eq!(message(&router, &token).await.status, 200);
    assert_eq!(scene.vault.calls().len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn token_that_the_vendor_refuses_is_renewed_once_however_many_see_it() {
    let scene = Scene::with(LONG).await;
    let router = scene.start();
    let token = router.issue(&[]).unwrap();
    assert_eq!(message(&router, &token).await.status, 200);
    scene.vault.twist(&[Twist::Late(300)]);
    scene.vault.kill_access_tokens();
    let calls = (0..100).map(|_| message(&router, &token));
    let replies = futures::future::join_all(calls).await;
    assert!(replies.iter().all(|reply| reply.status == 200), "a client saw that the token was refused");
    scene.stored(2);
    served(&scene, &router);
    assert_eq!(message(&router, &token).await.status, 200);
    assert_eq!(scene.vault.calls().len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rotation_by_another_client_is_adopted() {
    let scene = Scene::with(LONG).await;
    let router = scene.start();
    let token = router.issue(&[]).unwrap();
    let old = Login {
        access_token: String::new(),
        refresh_token: "sk-ant-ort01-canary-1".to_owned(),
        expires_at: 0,
    };
    let theirs = scene.vault.rotate_elsewhere(&old).unwrap();
    // The router finds out by a refusal, before the file says so.
    let (call, address) = (Call::message(&token, BODY), router.address());
    let refused = tokio::spawn(async move { call.send(address).await });
    eventually("the call", PATIENCE, || Ok((!scene.vault.calls().is_empty()).then_some(()))).unwrap();
    scene.put(&theirs.file());
    until(&router, "the other token", |account| account["state"] == "Ready");
    // Whether it waits for the other token is a matter of the requests.
    refused.await.unwrap().unwrap();
    assert_eq!(message(&router, &token).await.status, 200);
    assert_eq!(scene.text(), theirs.file());
    assert_eq!((scene.vault.calls().len(), scene.vault.rotations()), (1, 1));
    assert!(!router.log().contains("is over"), "{}", router.log());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dead_login_gives_one_message_and_no_further_call_until_somebody_logs_in() {
    let scene = Scene::with(Duration::ZERO).await;
    scene.put(&scene.rotated(77, 1_000));
    let router = scene.start();
    let token = router.issue(&[]).unwrap();
    let dead = until(&router, "the end", |account| account["state"] == "LoginRequired");
    let message_text = dead["message"].as_str().unwrap().to_owned();
    assert!(message_text.contains("log in again") && !message_text.contains("canary"), "{message_text}");
    for _ in 0..20 {
        assert_ne!(message(&router, &token).await.status, 200);
    }
    let refused = accounts_command(&router, &["refresh", "primary"]);
    assert!(!refused.status.success());
    assert!(String::from_utf8_lossy(&refused.stderr).contains("log in again"));
    assert_eq!(scene.vault.calls().len(), 1);
    assert_eq!(count(&router.log(), "is over"), 1, "{}", router.log());
    scene.log_in(LONG);
    until(&router, "the new login", |account| account["state"] == "Ready");
    assert_eq!(message(&router, &token).await.status, 200);
    assert_eq!(scene.vault.calls().len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_that_decide_nothing_are_waited_out() {
    for twist in
        [Twist::RateLimited(Some(1)), Twist::Status(500), Twist::Html, Twist::Redirect, Twist::InvalidGrant]
    {
        let scene = Scene::with(DUE).await;
        scene.vault.twist(&[twist]);
        let router = scene.start();
        let token = router.issue(&[]).unwrap();
        eventually("the call", PATIENCE, || Ok((!scene.vault.calls().is_empty()).then_some(()))).unwrap();
        assert_eq!(message(&router, &token).await.status, 200, "{twist:?}: the old token is good meanwhile");
        if twist == Twist::InvalidGrant {
            let dead = until(&router, "the end", |account| account["message"] != "");
            assert_eq!(dead["state"], "Ready", "a login that is over serves to its end");
            continue;
        }
        scene.stored(2);
        served(&scene, &router);
        assert_eq!(scene.vault.calls().len(), 2, "{twist:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_routers_on_one_folder_call_once() {
    let scene = Scene::with(DUE).await;
    scene.vault.twist(&[Twist::Late(500)]);
    let routers = [scene.start(), scene.start()];
    scene.stored(2);
    for router in &routers {
        served(&scene, router);
        let token = router.issue(&[]).unwrap();
        assert_eq!(message(router, &token).await.status, 200);
    }
    assert_eq!(scene.vault.calls().len(), 1);
}

/// Another folder whose login is the file of this scene, as where a file is mounted into two homes.
fn other_home(scene: &Scene) -> TempDir {
    let home = TempDir::with_prefix("la-router-home-").unwrap();
    std::os::unix::fs::symlink(scene.file(), home.path().join(".credentials.json")).unwrap();
    home
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_routers_with_homes_of_their_own_and_one_login_call_once_where_they_share_a_redis() {
    let scene = Scene::with(DUE).await;
    let (other, server) = (other_home(&scene), RedisServer::start(&[]).unwrap());
    // Whoever is second asks while the first waits for its answer.
    scene.vault.twist(&[Twist::Late(3_000)]);
    let start = |home: &Path| {
        let setup = scene.setup().env("CLAUDE_CODE_HOME", &home.display().to_string());
        setup.arg("--ledger", "redis").arg("--redis-url", &server.url()).start().unwrap()
    };
    let routers = [start(scene.home.path()), start(other.path())];
    assert!(!scene.text().contains("canary-2"), "the second was to start before the answer to the first");
    scene.stored(2);
    for router in &routers {
        served(&scene, router);
        let token = router.issue(&[]).unwrap();
        assert_eq!(message(router, &token).await.status, 200);
    }
    assert_eq!((scene.vault.calls().len(), scene.vault.rotations()), (1, 1));
    let said = routers.iter().map(|router| count(&router.log(), "is renewed until")).sum::<usize>();
    assert_eq!(said, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn login_is_not_renewed_while_nobody_knows_who_else_renews_it() {
    let scene = Scene::with(DUE).await;
    let mut server = RedisServer::start(&[]).unwrap();
    server.kill();
    let setup = scene.setup().arg("--ledger", "redis").arg("--redis-url", &server.url());
    let router = setup.arg("--ledger-on-unavailable", "allow").start().unwrap();
    let waits = || Ok(router.log().contains("is not renewed for now").then_some(()));
    eventually("the router to wait", PATIENCE, waits).unwrap();
    assert_eq!(scene.vault.calls().len(), 0);
    server.restart().unwrap();
    scene.stored(2);
    served(&scene, &router);
    assert_eq!((scene.vault.calls().len(), scene.vault.rotations()), (1, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn read_only_folder_is_served_to_its_end_and_never_renewed() {
    let scene = Scene::with(Duration::from_secs(3)).await;
    let before = scene.text();
    fs::set_permissions(scene.file(), fs::Permissions::from_mode(0o400)).unwrap();
    let router = scene.start();
    let token = router.issue(&[]).unwrap();
    assert_eq!(message(&router, &token).await.status, 200);
    let said = until(&router, "the warning", |account| account["message"] != "");
    assert!(said["message"].as_str().unwrap().contains("is read-only"), "{said}");
    assert_eq!(count(&router.log(), "and is not renewed here"), 1, "{}", router.log());
    until(&router, "its end", |account| account["state"] == "Expired");
    assert_eq!((scene.vault.calls().len(), scene.text()), (0, before));
    let asked = accounts_command(&router, &["refresh", "primary"]);
    assert_eq!(asked.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&asked.stderr).contains("is read-only"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn own_login_of_claude_code_is_renewed_only_when_asked_for() {
    for (args, calls) in [(&[][..], 0), (&[("--refresh", "always")], 1), (&[("--refresh", "never")], 0)] {
        let scene = Scene::with(DUE).await;
        let own = scene.home.path().join(".claude");
        fs::create_dir(&own).unwrap();
        fs::rename(scene.file(), own.join(".credentials.json")).unwrap();
        let setup = scene.setup().env("HOME", &scene.home.path().display().to_string());
        let setup = setup.without_env("CLAUDE_CODE_HOME");
        let setup = args.iter().fold(setup, |setup, (flag, value)| setup.arg(flag, value));
        let router = setup.start().unwrap();
        if calls > 0 {
            until(&router, "the renewal", |account| !account["lastRefreshTime"].is_null());
        } else {
            until(&router, "the reason", |account| account["message"] != "");
        }
        assert_eq!(scene.vault.calls().len(), calls, "{args:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn login_that_cannot_be_written_serves_from_memory_and_is_stored_when_it_can() {
    let scene = Scene::with(LONG).await;
    let mut router = scene.start();
    let token = router.issue(&[]).unwrap();
    until(&router, "the login", |account| account["state"] == "Ready");
    // The draft cannot be made: a folder has its name.
    let draft = scene.home.path().join(format!("..credentials.json.{}.draft", router.pid()));
    fs::create_dir(&draft).unwrap();
    scene.vault.kill_access_tokens();
    let _finds_out = message(&router, &token).await;
    let held =
        until(&router, "the renewal", |account| account["message"] != "" && account["state"] == "Ready");
    assert!(held["message"].as_str().unwrap().contains("cannot be written"), "{held}");
    assert_eq!(message(&router, &token).await.status, 200, "{}", router.log());
    assert_eq!(scene.text(), scene.rotated(1, scene.expires_at()), "the file is as it was");
    let degraded = router.ask_admin("GET", "/status", "").unwrap().1["degraded"].to_string();
    assert!(degraded.contains("kept in memory only"), "{degraded}");
    assert_eq!(count(&router.log(), "kept in memory only"), 1, "{}", router.log());
    router.terminate().unwrap();
    std::thread::sleep(Duration::from_millis(1_500));
    fs::remove_dir(&draft).unwrap();
    assert_eq!(router.wait(PATIENCE).unwrap().code(), Some(0), "{}", router.log());
    assert_eq!(scene.text(), scene.rotated(2, scene.expires_at()));
    assert_eq!(scene.vault.calls().len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn router_that_cannot_store_a_login_does_not_end_well() {
    let scene = Scene::with(DUE).await;
    let mut router = scene.setup().arg("--drain", "1s").start().unwrap();
    scene.stored(2);
    served(&scene, &router);
    let draft = scene.home.path().join(format!("..credentials.json.{}.draft", router.pid()));
    fs::create_dir(&draft).unwrap();
    let asked = accounts_command(&router, &["refresh"]);
    assert!(String::from_utf8_lossy(&asked.stderr).contains("kept in memory only"), "{asked:?}");
    router.terminate().unwrap();
    assert_eq!(router.wait(PATIENCE).unwrap().code(), Some(1), "{}", router.log());
    assert!(router.log().contains("kept in memory only"), "{}", router.log());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_anywhere_but_between_answer_and_store_the_login_lives() {
    for (point, calls) in [("refresh-claimed", 1), ("refresh-stored", 1), ("refresh-refused", 2)] {
        let scene = Scene::with(DUE).await;
        if point == "refresh-refused" {
            scene.vault.twist(&[Twist::InvalidGrant]);
        }
        let mut dying = fault(&scene, point);
        let ended = dying.wait(PATIENCE).unwrap();
        assert_eq!(ended.code(), None, "{point}: killed by a signal");
        let router = scene.start();
        let token = router.issue(&[]).unwrap();
        scene.stored(2);
        served(&scene, &router);
        assert_eq!(message(&router, &token).await.status, 200, "{point}");
        assert_eq!((scene.vault.calls().len(), scene.vault.rotations()), (calls, 1), "{point}");
        assert!(!router.log().contains("is over"), "{point}: {}", router.log());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_while_the_endpoint_is_silent_the_login_lives() {
    let scene = Scene::with(DUE).await;
    scene.vault.twist(&[Twist::Hang]);
    let mut router = scene.start();
    eventually("the call", PATIENCE, || Ok((!scene.vault.calls().is_empty()).then_some(()))).unwrap();
    router.kill();
    let router = scene.start();
    scene.stored(2);
    served(&scene, &router);
    assert_eq!(scene.text(), scene.rotated(2, scene.expires_at()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_between_answer_and_store_a_login_is_asked_for_once() {
    for cut in [false, true] {
        let scene = Scene::with(DUE).await;
        let router = if cut {
            scene.vault.twist(&[Twist::Cut]);
            scene.start()
        } else {
            let mut dying = fault(&scene, "refresh-answered");
            dying.wait(PATIENCE).unwrap();
            scene.start()
        };
        let dead = until(&router, "the end", |account| {
            account["message"].as_str().is_some_and(|said| said.contains("log in again"))
        });
        assert_eq!(scene.vault.calls().len(), 2, "{dead}");
        assert_eq!(count(&router.log(), "is over"), 1, "{}", router.log());
    }
}

/// A router that dies at a point of its first renewal; it may do so before it is ready.
fn fault(scene: &Scene, point: &str) -> Process {
    let mut command = Command::new(la_router().unwrap());
    let data = scene.home.path().join("data");
    command.env_clear().env("LA_FAULT", point).env("CLAUDE_CODE_HOME", scene.home.path());
    command.env("HOME", &data);
    command.env("CLAUDE_OAUTH_REFRESH_URL", format!("{}{}", scene.vendor.base_url(), oauth::PATH));
    command.args(["serve", "--host", "127.0.0.1", "--port", "0", "--admin-listen", "127.0.0.1:0"]);
    command.arg("--data-dir").arg(&data);
    Process::spawn(&mut command, &scene.home.path().join("log")).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_accounts_with_one_login_are_refused_by_name() {
    let scene = Scene::with(LONG).await;
    let copy = TempDir::new().unwrap();
    fs::copy(scene.file(), copy.path().join("auth.json")).unwrap();
    let setup = scene.setup().env("ADDITIONAL_ACCOUNT_DIRS", &copy.path().display().to_string());
    let error = setup.start().err().map(|error| format!("{error:#}")).unwrap_or_default();
    assert!(error.contains("account anthropic/account-1"), "{error}");
    assert!(error.contains("the same login as account anthropic/primary"), "{error}");
    assert!(!error.contains("canary"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn person_can_have_a_login_renewed_and_sees_it_in_the_list() {
    let scene = Scene::with(LONG).await;
    let router = scene.start();
    let token = router.issue(&[]).unwrap();
    until(&router, "the login", |account| account["state"] == "Ready");
    let asked = accounts_command(&router, &["refresh", "anthropic/primary"]);
    assert!(asked.status.success(), "{}", String::from_utf8_lossy(&asked.stderr));
    assert_eq!(scene.vault.rotations(), 1);
    let listed = String::from_utf8(accounts_command(&router, &["list"]).stdout).unwrap();
    let row = listed.lines().nth(1).unwrap_or_default();
    assert!(row.starts_with("anthropic/primary  Ready"), "{listed}");
    assert!(!row.contains("  -"), "{listed}");
    assert_eq!(message(&router, &token).await.status, 200);
    let unknown = accounts_command(&router, &["refresh", "nobody"]);
    assert_eq!(unknown.status.code(), Some(2));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thousand_requests_across_a_rotation_cost_one_call_and_none_sees_a_401() {
    let scene = Scene::with(LONG).await;
    let router = Arc::new(scene.start());
    let token = router.issue(&[]).unwrap();
    assert_eq!(message(&router, &token).await.status, 200);
    // The endpoint kills the old token at once, and answers half a second later.
    scene.vault.twist(&[Twist::Late(500)]);
    let mut calls = tokio::task::JoinSet::new();
    for number in 0..1_000 {
        if number == 300 {
            scene.vault.kill_access_tokens();
        }
        let (router, token) = (Arc::clone(&router), token.clone());
        calls.spawn(async move { message(&router, &token).await.status });
    }
    let statuses = calls.join_all().await;
    assert!(statuses.iter().all(|status| *status == 200), "{statuses:?}");
    assert_eq!((scene.vault.calls().len(), scene.vault.rotations()), (1, 1));
}
