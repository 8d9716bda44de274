//! The official SDKs for Python and TypeScript.

use std::path::Path;
use std::process::Command;

use la_tests::cluster::component;
use serde_json::{Value, json};

use crate::isolation::isolated;
use crate::scene::{REFUSALS, Scene, turn};

/// The class that an SDK raises for a status.
fn class(status: u16) -> &'static str {
    match status {
        401 => "AuthenticationError",
        403 => "PermissionDeniedError",
        429 => "RateLimitError",
        _ => "InternalServerError",
    }
}

#[derive(Clone, Copy)]
enum Sdk {
    Python,
    TypeScript,
}

impl Sdk {
    fn run(self, scene: &Scene, token: &str, work: &str) -> Value {
        let script = |name: &str| Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients").join(name);
        let mut command = match self {
            Self::Python => {
                let mut python = Command::new(component("python-clients", "venv/bin/python").unwrap());
                python.arg(script("sdk.py"));
                python
            }
            Self::TypeScript => {
                let mut node = Command::new("node");
                node.arg(script("sdk.mjs")).current_dir(component("node-clients", "").unwrap());
                node
            }
        };
        command
            .arg(work)
            .env("ANTHROPIC_BASE_URL", scene.gateway.base_url())
            .env("ANTHROPIC_AUTH_TOKEN", token);
        let output = command.env_remove("ANTHROPIC_API_KEY").output().unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{work}: {error}: {errors}"))
    }

    fn completes_turns(self) {
        let scene = Scene::start();
        let token = scene.token("good");
        let turn = turn();
        let whole = json!({
            "text": turn.text, "stop": "end_turn", "input": turn.input_tokens, "output": turn.output_tokens});
        assert_eq!(self.run(&scene, &token, "create"), whole);
        let mut seen = self.run(&scene, &token, "stream");
        let pieces = seen.as_object_mut().and_then(|seen| seen.remove("pieces"));
        assert!(pieces.is_some_and(|pieces| pieces.as_u64() > Some(1)), "the text came in one piece");
        assert_eq!(seen, whole);
        scene.check_upstream(true);
    }

    fn sees_refusals(self) {
        let scene = Scene::start();
        for refusal in &REFUSALS {
            scene.prepare(refusal);
            let seen = self.run(&scene, &scene.token(refusal.token), "refused");
            let what = refusal.what;
            assert_eq!(seen["status"], refusal.status, "{what}: {seen}");
            assert_eq!(seen["type"], refusal.kind, "{what}: {seen}");
            let name = seen["class"].as_str().unwrap_or_default();
            assert!(name == class(refusal.status) || refusal.status == 529, "{what}: {seen}");
            assert!(seen["message"].as_str().is_some_and(|message| !message.is_empty()), "{what}: {seen}");
            scene.check_upstream(refusal.upstream.is_some());
        }
    }
}

#[test]
fn python_sdk_completes_turns_whole_and_streamed() {
    isolated("sdks::python_sdk_completes_turns_whole_and_streamed", || Sdk::Python.completes_turns());
}

#[test]
fn python_sdk_sees_each_refusal_as_its_own_class() {
    isolated("sdks::python_sdk_sees_each_refusal_as_its_own_class", || Sdk::Python.sees_refusals());
}

#[test]
fn typescript_sdk_completes_turns_whole_and_streamed() {
    isolated("sdks::typescript_sdk_completes_turns_whole_and_streamed", || Sdk::TypeScript.completes_turns());
}

#[test]
fn typescript_sdk_sees_each_refusal_as_its_own_class() {
    isolated("sdks::typescript_sdk_sees_each_refusal_as_its_own_class", || Sdk::TypeScript.sees_refusals());
}
