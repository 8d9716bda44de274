//! The whole product on a real kubelet, one step after the other: install, apply, stream, search, revoke.
//!
//! Run by `make e2e`, as root. The first process starts the node and then itself again inside the node's network
//! namespace, from which nothing leads out. Every line it prints is a statement that it has just proved.

mod agents;
mod install;
mod node;
mod search;
mod speed;
mod upstream;
mod world;

use std::io::Write as _;
use std::process::ExitCode;

use anyhow::Result;

use crate::world::World;

type Step = fn(&mut World) -> Result<String>;

const STEPS: [(&str, Step); 9] = [
    ("the chart installs in a namespace that enforces `restricted`", install::chart),
    ("provider, proxy and token of the samples become ready", install::samples),
    ("an agent that mounts the Secret gets a streamed answer", agents::with_secret),
    (
        "an agent beside the forwarder gets one without a credential, and its Job completes",
        agents::beside_forwarder,
    ),
    ("the upstream saw the vendor's credential and never a token", agents::upstream_saw_the_credential),
    ("a token answers within 3 s of its apply", speed::apply_to_answer),
    ("a deleted token is refused within 2 s", speed::delete_to_refusal),
    ("the gateway goes on serving while no operator runs", speed::without_operator),
    ("the vendor's credential is nowhere but in its own Secret and the snapshot", search::credential),
];

fn main() -> ExitCode {
    let outcome = match node::inside() {
        None => node::run_inside(),
        Some(node) => steps(node).map(|()| true),
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            say(&format!("FAILED: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn steps(node: node::Node) -> Result<()> {
    let mut world = World::enter(node)?;
    for (number, (statement, step)) in STEPS.iter().enumerate() {
        match step(&mut world) {
            Ok(fact) => say(&format!("[{}/{}] {statement}{fact}", number + 1, STEPS.len())),
            Err(error) => {
                say(&format!("[{}/{}] NOT TRUE: {statement}", number + 1, STEPS.len()));
                say(&world.scene());
                return Err(error);
            }
        }
    }
    Ok(())
}

fn say(line: &str) {
    // With standard output closed there is nobody left to tell.
    let _ = writeln!(std::io::stdout(), "{line}");
}
