//! Claude Code from npm, with nothing but a base URL and a token.

use std::path::Path;
use std::process::{Command, Output, Stdio};

use la_tests::cluster::component;
use serde_json::Value;

use crate::isolation::isolated;
use crate::scene::{REFUSALS, Scene, turn};

/// The package's own program, which its starter for Node would only start again.
const PROGRAM: &str = "node_modules/@anthropic-ai/claude-code-linux-x64/claude";

/// One prompt in `home`, which becomes its folder and its home.
pub(crate) fn claude_code(home: &Path, base_url: &str, token: &str, prompt: &str) -> Command {
    std::fs::create_dir_all(home).unwrap();
    let mut command = Command::new(component("node-clients", PROGRAM).unwrap());
    command.args(["-p", prompt]).current_dir(home).stdin(Stdio::null());
    command.env_clear().env("HOME", home).env("PATH", "/usr/bin:/bin");
    command.env("ANTHROPIC_BASE_URL", base_url).env("ANTHROPIC_AUTH_TOKEN", token);
    // Without these it waits for hosts that do not exist here, and repeats refused requests for minutes.
    command.env("CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC", "1").env("DISABLE_AUTOUPDATER", "1");
    command.env("CLAUDE_CODE_MAX_RETRIES", "0");
    command
}

/// The turn is one prompt; `format` is `json` or `stream-json`.
fn run(scene: &Scene, token: &str, format: &str) -> Output {
    let home = scene.gateway.directory().join("home");
    let mut command = claude_code(&home, &scene.gateway.base_url(), token, "Say hello.");
    command.args(["--output-format", format]);
    if format == "stream-json" {
        command.args(["--verbose", "--include-partial-messages"]);
    }
    command.output().unwrap()
}

pub(crate) fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

fn result(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {}", text(output)))
}

#[test]
fn claude_code_completes_a_turn() {
    isolated("claude_code::claude_code_completes_a_turn", || {
        let scene = Scene::start();
        let output = run(&scene, &scene.token("good"), "json");
        let result = result(&output);
        assert_eq!(result["is_error"], false, "{result}");
        let turn = turn();
        assert_eq!(result["result"], turn.text, "{result}");
        assert_eq!(result["usage"]["input_tokens"], turn.input_tokens, "{result}");
        assert_eq!(result["usage"]["output_tokens"], turn.output_tokens, "{result}");
        scene.check_upstream(true);
        let streamed =
            |body: &[u8]| serde_json::from_slice::<Value>(body).is_ok_and(|body| body["stream"] == true);
        assert!(
            scene.upstream.received().iter().any(|request| streamed(&request.body)),
            "nothing was streamed"
        );
    });
}

#[test]
fn claude_code_shows_a_streamed_turn_as_it_comes() {
    isolated("claude_code::claude_code_shows_a_streamed_turn_as_it_comes", || {
        let scene = Scene::start();
        let output = run(&scene, &scene.token("good"), "stream-json");
        let said = text(&output);
        let lines = said.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let words: Vec<String> = lines
            .filter_map(|line| line.pointer("/event/delta/text").and_then(Value::as_str).map(str::to_owned))
            .collect();
        assert!(words.len() > 1, "the text came in one piece: {said}");
        assert_eq!(words.concat(), turn().text, "{said}");
        scene.check_upstream(true);
    });
}

#[test]
fn claude_code_names_the_status_of_each_refusal() {
    isolated("claude_code::claude_code_names_the_status_of_each_refusal", || {
        let scene = Scene::start();
        for refusal in &REFUSALS {
            scene.prepare(refusal);
            let output = run(&scene, &scene.token(refusal.token), "json");
            let result = result(&output);
            assert_eq!(result["is_error"], true, "{}: {result}", refusal.what);
            let said = result.to_string();
            assert!(said.contains(&refusal.status.to_string()), "{}: {result}", refusal.what);
            scene.check_upstream(refusal.upstream.is_some());
        }
    });
}
