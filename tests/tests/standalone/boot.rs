//! Starting and reloading: what is wrong is said in one clear sentence each, with the right exit code,
//! and nothing is deleted; what changes on disk is served within 300 ms.

use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use la_tests::cluster::{Client, eventually, la_router, measure};
use la_tests::router::{Router, Setup};
use serde_json::Value;
use tempfile::TempDir;

/// One way to start that must fail.
struct Bad {
    sentence: &'static str,
    args: &'static [&'static str],
    environment: &'static [(&'static str, &'static str)],
    /// Files to put first: path and text.
    files: &'static [(&'static str, &'static str)],
    code: i32,
    said: &'static str,
}

const NOTHING: Bad = Bad { sentence: "", args: &[], environment: &[], files: &[], code: 0, said: "" };

/// A gateway whose account is of a ServiceAccount.
const OF_A_CLUSTER: &str = "
apiVersion: router.link-assistant.dev/v1alpha1
kind: RouterProxy
metadata: {name: gateway}
spec: {routes: [{candidates: [{provider: vendor}]}]}
---
apiVersion: router.link-assistant.dev/v1alpha1
kind: UpstreamProvider
metadata: {name: vendor}
spec:
  backend:
    anthropic:
      accounts:
      - name: main
        credential:
          workloadIdentity:
            federationRuleId: fdrl_1
            organizationId: 00000000-0000-0000-0000-000000000000
            serviceAccountId: svac_1
            tokenFrom: {serviceAccount: {name: claude}}
";

const CASES: [Bad; 14] = [
    Bad {
        sentence: "placeholder token secret is refused",
        environment: &[("TOKEN_SECRET", "change-me")],
        code: 2,
        said: "TOKEN_SECRET: secret is a placeholder",
        ..NOTHING
    },
    Bad {
        sentence: "provider that does not exist yet is refused",
        args: &["--upstream-provider", "gonka"],
        code: 2,
        said: "--upstream-provider: \"gonka\" is not a provider of this version",
        ..NOTHING
    },
    Bad {
        sentence: "flag that means nothing beside manifests is refused",
        args: &["--manifests", ".", "--upstream-base-url", "http://x"],
        code: 2,
        said: "--upstream-base-url: cannot be used with --manifests",
        ..NOTHING
    },
    Bad {
        sentence: "manifest folder that is missing is named",
        args: &["--manifests", "nowhere"],
        code: 2,
        said: "--manifests: nowhere cannot be read",
        ..NOTHING
    },
    Bad {
        sentence: "line of .lenv that sets nothing is named",
        files: &[(".lenv", "nonsense\n")],
        code: 2,
        said: ".lenv: line 1: is not of the form",
        ..NOTHING
    },
    Bad {
        sentence: "data folder that cannot be written is named",
        args: &["--data-dir", "/proc/la-router"],
        code: 1,
        said: "data folder /proc/la-router cannot be written",
        ..NOTHING
    },
    Bad {
        sentence: "unreadable credential file is named",
        args: &["--claude-code-home", "home"],
        files: &[("home/credentials.json/is-a-folder", "")],
        code: 2,
        said: "home/credentials.json cannot be read",
        ..NOTHING
    },
    Bad {
        sentence: "malformed login is named and not shown",
        args: &["--claude-code-home", "home"],
        files: &[("home/.credentials.json", "canary")],
        code: 2,
        said: "home/.credentials.json is not JSON",
        ..NOTHING
    },
    Bad {
        sentence: "corrupt ledger is named",
        files: &[("data/ledger.redb", "this is not a ledger")],
        code: 1,
        said: "ledger",
        ..NOTHING
    },
    Bad {
        sentence: "damaged token store is named",
        files: &[("data/tokens.json", "{")],
        code: 1,
        said: "data/tokens.json is damaged",
        ..NOTHING
    },
    Bad {
        sentence: "damaged signing key is named and not shown",
        files: &[("data/signing-key.json", "canary")],
        code: 1,
        said: "data/signing-key.json is damaged",
        ..NOTHING
    },
    Bad {
        sentence: "token of a ServiceAccount is refused where there is no cluster",
        args: &["--manifests", "m"],
        files: &[("m/all.yaml", OF_A_CLUSTER)],
        code: 2,
        said: "tokenFrom.serviceAccount works only in a cluster",
        ..NOTHING
    },
    Bad {
        sentence: "several faults are told at once",
        args: &["--port", "x", "--drain", "soon"],
        environment: &[("DISABLE_METRICS", "maybe")],
        code: 2,
        said: "DISABLE_METRICS: \"maybe\" is not true or false",
        ..NOTHING
    },
    Bad {
        sentence: "unknown flag is refused",
        args: &["--surprise"],
        code: 2,
        said: "--surprise",
        ..NOTHING
    },
];

#[test]
fn bad_start_ends_with_a_clear_sentence_and_deletes_nothing() {
    for case in CASES {
        let folder = TempDir::new().unwrap();
        for (path, text) in case.files {
            let path = folder.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let output = start(folder.path(), case.args, case.environment);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(case.code), "{}: {said}", case.sentence);
        assert!(said.contains(case.said), "{}: {said}", case.sentence);
        assert!(!said.contains("canary"), "{}: {said}", case.sentence);
        for (path, text) in case.files {
            assert_eq!(&fs::read_to_string(folder.path().join(path)).unwrap(), text, "{}", case.sentence);
        }
    }
}

#[test]
fn port_in_use_is_named_and_ends_with_1() {
    let folder = TempDir::new().unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let port = address.port().to_string();
    for args in [&["--admin-listen", &address.to_string()][..], &["--host", "127.0.0.1", "--port", &port][..]]
    {
        let output = start(folder.path(), args, &[]);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{args:?}: {said}");
        assert!(said.contains(&format!("{address} is in use")), "{args:?}: {said}");
    }
}

#[test]
fn data_folder_is_held_by_one_router() {
    let router = Setup::flags("http://127.0.0.1:9").start().unwrap();
    let output = start(router.directory(), &["--data-dir", router.data_dir().to_str().unwrap()], &[]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("is in use by another la-router"), "{said}");
}

#[test]
fn manifest_folder_with_five_faults_gives_five_lines() {
    let folder = TempDir::new().unwrap();
    fs::create_dir(folder.path().join("m")).unwrap();
    let faulty = [
        ("1.yaml", PROXY.replace("routes:", "surprise: 1\n  routes:")),
        ("2.yaml", PROVIDER.replace("http://127.0.0.1:9", "ftp://x")),
        ("3.yaml", token("a").replace("secretName: a", "secretName: a\n  duration: soon")),
        ("4.yaml", token("b").replace("name: gateway", "name: nobody")),
        ("5.yaml", token("c").replace("secretName: c", "secretName: c\n  limits: {maxRequests: 0}")),
    ];
    for (name, text) in &faulty {
        fs::write(folder.path().join("m").join(name), text).unwrap();
    }
    let output = start(folder.path(), &["--manifests", "m"], &[]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{said}");
    let lines: Vec<_> = said.lines().filter(|line| line.starts_with("la-router: ")).collect();
    assert_eq!(lines.len(), 5, "{said}");
    for (name, _) in &faulty {
        let found = lines.iter().filter(|line| line.starts_with(&format!("la-router: {name}: "))).count();
        assert_eq!(found, 1, "{name}: {said}");
    }
}

#[test]
fn missing_token_secret_is_no_error_and_dropped_names_are_warned_about() {
    let router = Setup::flags("http://127.0.0.1:9")
        .env("STORAGE_POLICY", "both")
        .env("TOKEN_SECRET", "short-one")
        .start()
        .unwrap();
    let log = router.log();
    assert!(log.contains("STORAGE_POLICY is gone: tokens are kept in DATA_DIR/tokens.json"), "{log}");
    assert!(log.contains("TOKEN_SECRET has fewer than 32 bytes"), "{log}");
    assert!(!log.contains("short-one"), "{log}");
    assert!(router.issue(&[]).unwrap().starts_with("la_sk_"));
    let router = Setup::flags("http://127.0.0.1:9").start().unwrap();
    assert!(router.issue(&[]).unwrap().starts_with("la_sk_"));
}

#[test]
fn new_manifest_is_served_within_300_ms() {
    let router = manifests_router();
    let mut times: Vec<Duration> = Vec::new();
    for number in 2..11_u64 {
        // Written elsewhere and moved in, so that the clock starts when it is complete.
        let draft = router.directory().join("draft");
        fs::write(&draft, token(&format!("agent-{number}"))).unwrap();
        fs::rename(&draft, router.directory().join(format!("manifests/t{number}.yaml"))).unwrap();
        let (served, time) = measure(|| until(&router, "the token", |report| report["liveTokens"] == number));
        served.unwrap();
        times.push(time);
        let minted = router.data_dir().join(format!("tokens/team-a/agent-{number}/token"));
        assert!(fs::read_to_string(minted).unwrap().starts_with("la_sk_"));
    }
    times.sort();
    // The median: single tries also show what else the machine was doing.
    assert!(times[times.len() / 2] <= Duration::from_millis(300), "{times:?}");
}

#[test]
fn faulty_manifest_is_left_out_and_reported_while_others_are_served() {
    let router = manifests_router();
    let path = router.directory().join("manifests/t2.yaml");
    fs::write(&path, token("b").replace("secretName: b", "secretName: b\n  surprise: 1")).unwrap();
    until(&router, "the fault", |report| report["faults"].to_string().contains("spec.surprise")).unwrap();
    assert_eq!(status(&router)["liveTokens"], 1);
    assert!(router.log().contains("spec.surprise"), "{}", router.log());
    fs::write(&path, "{[").unwrap();
    until(&router, "the next fault", |report| report["faults"].to_string().contains("t2.yaml: document 1"))
        .unwrap();
    assert_eq!(status(&router)["liveTokens"], 1, "what is not YAML revokes nothing");
    fs::write(&path, token("b")).unwrap();
    until(&router, "both tokens", |report| {
        report["liveTokens"] == 2 && report["faults"] == serde_json::json!([])
    })
    .unwrap();
    fs::remove_file(&path).unwrap();
    until(&router, "the end of one", |report| report["liveTokens"] == 1).unwrap();
    assert!(!router.data_dir().join("tokens/team-a/b").exists());
}

#[test]
fn changed_login_is_read_again_and_never_written() {
    let login = |token: &str| {
        format!(r#"{{"claudeAiOauth":{{"accessToken":"{token}","refreshToken":"canary-refresh"}}}}"#)
    };
    let router = Setup::flags("http://127.0.0.1:9")
        .without_env("ANTHROPIC_API_KEY")
        .env("CLAUDE_CODE_HOME", "{dir}/home")
        .start()
        .unwrap();
    let state = |report: &Value| report["accounts"][0]["state"].clone();
    assert_eq!(state(&status(&router)), "Missing");
    fs::create_dir(router.directory().join("home")).unwrap();
    let path = router.directory().join("home/.credentials.json");
    fs::write(&path, login("sk-ant-oat01-one")).unwrap();
    until(&router, "the login", |report| state(report) == "Ready").unwrap();
    fs::write(&path, "{").unwrap();
    until(&router, "the damage", |report| state(report) == "Missing").unwrap();
    fs::write(&path, login("sk-ant-oat01-two")).unwrap();
    until(&router, "the new login", |report| state(report) == "Ready").unwrap();
    assert_eq!(fs::read_to_string(&path).unwrap(), login("sk-ant-oat01-two"));
    assert!(!router.log().contains("sk-ant") && !router.log().contains("canary-refresh"));
}

#[test]
fn sigterm_ends_with_0_and_closes_the_socket() {
    let mut router = Setup::flags("http://127.0.0.1:9").start().unwrap();
    router.terminate().unwrap();
    let status = router.wait(Duration::from_secs(10)).unwrap();
    assert_eq!(status.code(), Some(0), "{}", router.log());
    assert!(!router.data_dir().join("admin.sock").exists());
}

const PROXY: &str = "apiVersion: router.link-assistant.dev/v1alpha1
kind: RouterProxy
metadata: {name: gateway, namespace: platform}
spec:
  tokens: {allowedNamespaces: {from: All}}
  routes: [{candidates: [{provider: claude}]}]
";

const PROVIDER: &str = "apiVersion: router.link-assistant.dev/v1alpha1
kind: UpstreamProvider
metadata: {name: claude, namespace: platform}
spec:
  backend:
    anthropic:
      baseURL: http://127.0.0.1:9
      accounts: [{name: main, credential: {apiKey: {secretRef: {name: key, key: api-key}}}}]
---
apiVersion: v1
kind: Secret
metadata: {name: key, namespace: platform}
stringData: {api-key: sk-ant-api03-canary}
";

fn token(name: &str) -> String {
    format!(
        "apiVersion: router.link-assistant.dev/v1alpha1
kind: RouterToken
metadata: {{name: {name}, namespace: team-a}}
spec:
  proxyRef: {{name: gateway, namespace: platform}}
  secretName: {name}
"
    )
}

fn manifests_router() -> Router {
    Setup::manifests(&[("proxy.yaml", PROXY), ("provider.yaml", PROVIDER), ("t1.yaml", &token("a"))])
        .start()
        .unwrap()
}

fn status(router: &Router) -> Value {
    router.ask_admin("GET", "/status", "").unwrap().1
}

fn until(router: &Router, what: &str, good: impl Fn(&Value) -> bool) -> anyhow::Result<()> {
    eventually(what, Duration::from_secs(10), || Ok(good(&status(router)).then_some(())))
}

/// Starts a router that is expected to end at once.
fn start(folder: &Path, args: &[&str], environment: &[(&str, &str)]) -> Output {
    let mut command = Command::new(la_router().unwrap());
    command.env_clear().env("ANTHROPIC_API_KEY", "sk-ant-api03-canary").current_dir(folder);
    command.envs(environment.iter().copied()).arg("serve").args(args);
    for (flag, value) in [("--data-dir", "data"), ("--port", "0"), ("--admin-listen", "127.0.0.1:0")] {
        if !args.contains(&flag) {
            command.args([flag, value]);
        }
    }
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let ended = eventually("the router to end", Duration::from_secs(10), || Ok(child.try_wait()?));
    if ended.is_err() {
        child.kill().unwrap();
    }
    child.wait_with_output().unwrap()
}

#[test]
fn probes_are_open_and_tell_the_truth() {
    let router = Setup::flags("http://127.0.0.1:9").start().unwrap();
    let client = Client::new(router.admin());
    for path in ["/livez", "/readyz"] {
        assert_eq!(client.send("GET", path, "", "").unwrap().status, 200, "{path}");
    }
}

#[test]
fn ledger_that_only_a_pod_would_have_is_warned_of_at_the_start_and_by_doctor() {
    let mut router = Setup::team("http://127.0.0.1:9", "").start().unwrap();
    let file = router.directory().join("manifests/gateway.yaml");
    let before = fs::read_to_string(&file).unwrap();
    let with = |ledger: &str| {
        let text = before.replacen("spec: {", &format!("spec: {{ledger: {{{ledger}}}, "), 1);
        fs::write(&file, text).unwrap();
    };
    router.kill();
    // One that says what this process does is no reason to say anything.
    with("embedded: {storage: {size: 2Gi}}");
    router.restart().unwrap();
    assert!(!router.log().contains("spec.ledger"), "{}", router.log());
    router.kill();
    with("redis: {urlSecretRef: {name: shared, key: url}}");
    router.restart().unwrap();
    let warning = "gateway.yaml: RouterProxy team/gateway: spec.ledger: is redis, and this process uses embedded: the \
                   field describes pods; start la-router with --ledger redis, or leave it out";
    assert!(router.log().contains(warning), "{}", router.log());
    assert_eq!(router.log().matches("spec.ledger").count(), 1, "{}", router.log());
    router.kill();
    let mut doctor = Command::new(la_router().unwrap());
    doctor.env_clear().env("HOME", router.directory()).arg("doctor").arg("--data-dir").arg(router.data_dir());
    let said = doctor.arg("--manifests").arg(router.directory().join("manifests")).output().unwrap();
    let said = String::from_utf8_lossy(&said.stdout).into_owned();
    assert!(said.lines().any(|line| line.starts_with("warn") && line.contains(warning)), "{said}");
}
