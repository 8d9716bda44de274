//! The node's life: started by a script, entered by starting this program again, ended by a script.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

const DIRECTORY: &str = "LA_E2E_DIRECTORY";

/// A running node, seen from inside its network namespace.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) directory: PathBuf,
}

/// The node whose namespace this process is in.
pub(crate) fn inside() -> Option<Node> {
    Some(Node { directory: PathBuf::from(variable(DIRECTORY)?) })
}

/// Starts a node, runs this program inside it and gives whether that succeeded.
pub(crate) fn run_inside() -> Result<bool> {
    let name = format!("la-router-e2e-{}", std::process::id());
    let directory = std::env::temp_dir().join(&name);
    let owner = std::process::id().to_string();
    crate::say("[0] starting a Kubernetes node: 10 to 60 s");
    let script = |file: &str| Command::new(checkout().join("tests/cluster").join(file));
    let up =
        script("node-up.sh").arg(&directory).args([&name, &owner]).status().context("starting node-up.sh")?;
    ensure!(up.success(), "node-up.sh: {up}");
    let outcome = Command::new("nsenter")
        .arg(format!("--net=/run/netns/{name}"))
        .arg(std::env::current_exe()?)
        .env(DIRECTORY, &directory)
        .status();
    let down = script("node-down.sh").arg(&directory).arg(&name).status().context("starting node-down.sh")?;
    ensure!(down.success(), "node-down.sh: {down}");
    Ok(outcome.context("starting nsenter")?.success())
}

impl Node {
    /// A command that finds the node's API server and the tools of its version.
    pub(crate) fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new(program);
        command.current_dir(checkout()).env("KUBECONFIG", self.directory.join("admin.kubeconfig"));
        for kind in ["CACHE", "CONFIG", "DATA"] {
            command.env(format!("HELM_{kind}_HOME"), self.directory.join("helm"));
        }
        command
    }

    /// Imports an archive and gives the image in it another name as well.
    pub(crate) fn import(&self, archive: &Path, name: &str, other: &str) -> Result<()> {
        let ctr = la_tests::cluster::component("containerd", "ctr")?;
        let socket = self.directory.join("containerd.sock");
        let base = || {
            let mut command = self.command(&ctr);
            command.arg("-a").arg(&socket).args(["-n", "k8s.io", "images"]);
            command
        };
        run(base().arg("import").arg(archive))?;
        if name != other {
            run(base().args(["tag", "--force", name, other]))?;
        }
        Ok(())
    }
}

/// Runs a command to its end and gives its standard output.
pub(crate) fn run(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("starting {}", command.get_program().display()))?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{:?}: {}: {errors}", command, output.status);
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The root of the checkout.
pub(crate) fn checkout() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

#[expect(clippy::disallowed_methods, reason = "the edge where this test program reads its environment")]
pub(crate) fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok()
}
