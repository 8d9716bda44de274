//! One session of Claude Code in which every account of a pool gets into trouble, and of which it sees nothing.

use std::fs;
use std::process::Output;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use la_tests::cluster::eventually;
use la_tests::fakes::oauth::{self, Vault};
use la_tests::fakes::vendor::{self, OVERLOADED_EVENT, ToolCall, Turn};
use la_tests::fakes::{Answer, FakeUpstream, Received, Script};
use la_tests::router::{Router, Setup};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::runtime::Runtime;

use crate::claude_code::{claude_code, text};
use crate::isolation::isolated;

/// What the vendor does to the first attempt of a turn.
#[derive(Clone, Copy)]
enum Trouble {
    Nothing,
    Overloaded,
    /// 200, and a stream whose first event is the error.
    OverloadedInItsStream,
    LimitUsedUp,
    AccessTokensKilled,
}

/// The turns of the session. All but the last call a tool.
const STORY: [Trouble; 8] = [
    Trouble::Nothing,
    Trouble::Overloaded,
    Trouble::Nothing,
    Trouble::OverloadedInItsStream,
    Trouble::Nothing,
    Trouble::LimitUsedUp,
    // The other account rests for an hour: only a new token can save this one.
    Trouble::AccessTokensKilled,
    Trouble::Nothing,
];

/// What the tool finds, turn after turn; all of it together is the last answer.
const FINDINGS: [&str; STORY.len() - 1] = ["as", "if", "nothing", "at", "all", "had", "happened"];

/// Longer than the session takes, and far enough from its end that nothing is renewed unasked.
const LIFETIME: Duration = Duration::from_secs(8 * 3_600);

/// A line is written when its answer is over, which the client may see a little earlier.
const LINES_WITHIN: Duration = Duration::from_secs(5);

/// The vendor's side of the session.
fn script(vault: Arc<Vault>) -> Script {
    let usual = oauth::script(Arc::clone(&vault));
    let begun = AtomicUsize::new(0);
    Arc::new(move |request| {
        let Some(found) = found_so_far(request) else { return usual(request) };
        let turn = found.len();
        let is_first = begun.fetch_max(turn + 1, Ordering::Relaxed) <= turn;
        match STORY.get(turn).copied().filter(|_| is_first).unwrap_or(Trouble::Nothing) {
            Trouble::Nothing => {}
            Trouble::Overloaded => return Answer::error(529, "overloaded_error", "Overloaded"),
            Trouble::OverloadedInItsStream => return Answer::stream(&[OVERLOADED_EVENT.to_owned()]),
            Trouble::LimitUsedUp => return vendor::limited(),
            Trouble::AccessTokensKilled => vault.kill_access_tokens(),
        }
        let answer = usual(request);
        if answer.status != 200 {
            return answer;
        }
        Answer::stream(&vendor::stream(&next(&request.json(), &found)))
    })
}

/// What the tool has found before a turn of the session; nothing for any other request of Claude Code.
fn found_so_far(request: &Received) -> Option<Vec<String>> {
    let body = request.json();
    let has_tools = body["tools"].as_array().is_some_and(|tools| !tools.is_empty());
    let messages = body["messages"].as_array().filter(|_| has_tools && request.path() == "/v1/messages")?;
    let blocks = messages.iter().filter_map(|message| message["content"].as_array()).flatten();
    let results = blocks.filter(|block| block["type"] == "tool_result");
    Some(results.map(|result| words(&result["content"])).collect())
}

fn words(content: &Value) -> String {
    let text = content.as_str().or_else(|| content[0]["text"].as_str());
    text.unwrap_or_default().trim().to_owned()
}

fn next(request: &Value, found: &[String]) -> Turn {
    let turn = Turn::asked_for_by(request);
    if found.len() == FINDINGS.len() {
        return Turn { text: found.join(" "), ..turn };
    }
    let tool = ToolCall {
        id: format!("toolu_{}", found.len()),
        name: "Bash".to_owned(),
        input: json!({"command": format!("cat finding-{}", found.len()), "description": "Look"}),
    };
    Turn { text: "Let me look.".to_owned(), tool: Some(tool), ..turn }
}

/// A vendor, a router that may renew its two logins, and what there is to find.
struct Scene {
    vault: Arc<Vault>,
    upstream: FakeUpstream,
    router: Router,
    _logins: [TempDir; 2],
    _runtime: Runtime,
}

impl Scene {
    fn start() -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let vault = Vault::new(LIFETIME);
        let upstream = runtime.block_on(FakeUpstream::start(script(Arc::clone(&vault)))).unwrap();
        let logins = [(); 2].map(|()| TempDir::with_prefix("la-router-login-").unwrap());
        for login in &logins {
            let file = login.path().join(".credentials.json");
            fs::write(file, vault.log_in(LIFETIME).file()).unwrap();
        }
        let [primary, second] = logins.each_ref().map(|login| login.path().display().to_string());
        let mut setup = Setup::flags(&upstream.base_url())
            .without_env("ANTHROPIC_API_KEY")
            .env("CLAUDE_CODE_HOME", &primary)
            .env("ADDITIONAL_ACCOUNT_DIRS", &second)
            .env("CLAUDE_OAUTH_REFRESH_URL", &format!("{}{}", upstream.base_url(), oauth::PATH));
        for (at, finding) in FINDINGS.iter().enumerate() {
            setup = setup.file(&format!("home/finding-{at}"), finding);
        }
        Self { vault, upstream, router: setup.start().unwrap(), _logins: logins, _runtime: runtime }
    }

    /// The whole session, and every event of it that Claude Code tells.
    fn run(&self) -> (Output, Vec<Value>) {
        let token = self.router.issue(&[]).unwrap();
        let home = self.router.directory().join("home");
        let mut session = claude_code(&home, &self.router.base_url(), &token, "What happened?");
        session.args(["--output-format", "stream-json", "--verbose", "--allowedTools", "Bash(cat:*)"]);
        let output = session.output().unwrap();
        let events = text(&output).lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        (output, events)
    }

    /// Everything that the vendor was asked, and what it answered.
    fn asked(&self) -> Vec<String> {
        let received = self.upstream.received();
        let bearer = |request: &Received| request.header("authorization").map(str::to_owned);
        let home = received.first().and_then(bearer);
        let name = |request: &Received| match bearer(request) {
            // The third that the vendor has issued; two were there from the start.
            Some(text) if text.ends_with("-3") => "the other account's new token",
            some if some == home => "its own account",
            _ => "the other account",
        };
        let line = |request: &Received| match (found_so_far(request), request.status) {
            (Some(found), Some(status)) => format!("turn {}: {status} to {}", found.len(), name(request)),
            (_, status) => format!("{} {}: {status:?}", request.method, request.target),
        };
        received.iter().map(line).collect()
    }

    /// The status of each answer of the router, and how it ended, once every turn has its line in the log.
    fn answered(&self) -> Vec<(u64, String)> {
        let answer = |line: Value| {
            Some((line["http.status"].as_u64()?, line["outcome"].as_str().unwrap_or_default().to_owned()))
        };
        let answered = || {
            let log = self.router.log();
            let lines = log.lines().filter_map(|line| serde_json::from_str(line).ok());
            let answered: Vec<_> = lines.filter_map(answer).collect();
            Ok((answered.len() >= STORY.len()).then_some(answered))
        };
        eventually("a line of each turn", LINES_WITHIN, answered)
            .unwrap_or_else(|error| panic!("{error}: {}", self.router.log()))
    }
}

#[test]
fn session_in_which_every_account_fails_ends_as_if_nothing_had_happened() {
    isolated("story::session_in_which_every_account_fails_ends_as_if_nothing_had_happened", || {
        let scene = Scene::start();
        let (output, events) = scene.run();
        let said = text(&output);
        assert!(output.status.success(), "{}: {said}\n{}", output.status, scene.router.log());
        let result = events.iter().find(|event| event["type"] == "result").unwrap();
        assert_eq!(
            (&result["is_error"], &result["num_turns"]),
            (&json!(false), &json!(STORY.len())),
            "{result}"
        );
        assert_eq!(result["result"], FINDINGS.join(" "), "{result}");
        assert!(events.iter().all(|event| event["subtype"] != "api_retry"), "it was told of trouble: {said}");
        let good = vec![(200, "complete".to_owned()); STORY.len()];
        assert_eq!(scene.answered(), good, "{}", scene.router.log());
        let asked = [
            "turn 0: 200 to its own account",
            "turn 1: 529 to its own account",
            "turn 1: 200 to the other account",
            "turn 2: 200 to its own account",
            "turn 3: 200 to its own account",
            "turn 3: 200 to the other account",
            "turn 4: 200 to its own account",
            "turn 5: 429 to its own account",
            "turn 5: 200 to the other account",
            "turn 6: 401 to the other account",
            "POST /v1/oauth/token: Some(200)",
            "turn 6: 200 to the other account's new token",
            "turn 7: 200 to the other account's new token",
        ];
        assert_eq!(scene.asked(), asked, "{}", scene.router.log());
        assert_eq!((scene.vault.rotations(), scene.vault.violations()), (1, Vec::new()));
        assert_eq!(scene.upstream.violations(), Vec::<String>::new());
    });
}
