//! What the steps share: the node, its API, the upstream.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use la_tests::cluster::{Client, Process, component, eventually};
use serde_json::Value;

use crate::node::{Node, checkout, run, variable};
use crate::upstream::Upstream;

pub(crate) const VERSION: &str = env!("CARGO_PKG_VERSION");
const API_PORT: u16 = 8001;
const LIMIT: Duration = Duration::from_secs(60);

pub(crate) struct World {
    pub(crate) node: Node,
    pub(crate) api: Client,
    pub(crate) upstream: Upstream,
    _proxy: Process,
}

impl World {
    pub(crate) fn enter(node: Node) -> Result<Self> {
        let kube = component("kube", "kube")?;
        let mut proxy = node.command(&kube);
        proxy.args(["kubectl", "proxy", "--port", &API_PORT.to_string()]);
        let proxy = Process::spawn(&mut proxy, &node.directory.join("logs/kubectl-proxy.log"))?;
        let api = Client::new(([127, 0, 0, 1], API_PORT).into());
        eventually("kubectl proxy", LIMIT, || {
            Ok(api.send("GET", "/readyz", "", "").is_ok_and(|answer| answer.status == 200).then_some(()))
        })?;
        let upstream = Upstream::start()?;
        let world = Self { node, api, upstream, _proxy: proxy };
        world.import_images()?;
        Ok(world)
    }

    fn import_images(&self) -> Result<()> {
        let images = images()?;
        for name in ["la-router", "la-router-operator"] {
            let archive = images.join(format!("{name}.tar"));
            ensure!(archive.exists(), "{} is missing: run `make images`", archive.display());
            let published = format!("ghcr.io/la-router/{name}:{VERSION}");
            self.node.import(&archive, &format!("docker.io/local/{name}:{VERSION}"), &published)?;
        }
        let archive = self.node.directory.join("agent.tar");
        let script = checkout().join("tests/cluster/agent-image.sh");
        let agent = "docker.io/curlimages/curl:8.11.1";
        run(self.node.command(script).arg(&archive).arg(agent))?;
        self.node.import(&archive, agent, agent)
    }

    pub(crate) fn kubectl(&self, args: &[&str]) -> Result<String> {
        run(self.node.command(component("kube", "kube")?).arg("kubectl").args(args))
    }

    /// `kubectl apply` of a text.
    pub(crate) fn apply(&self, yaml: &str) -> Result<()> {
        let file = self.node.directory.join("applied.yaml");
        std::fs::write(&file, yaml)?;
        self.kubectl(&["apply", "-f", file.to_str().context("path is not UTF-8")?]).map(drop)
    }

    /// A sample as it is in the repository.
    pub(crate) fn sample(name: &str) -> Result<String> {
        let file = checkout().join("deploy/samples").join(name);
        std::fs::read_to_string(&file).with_context(|| file.display().to_string())
    }

    /// The object at a path of the API; an error when there is none.
    pub(crate) fn object(&self, path: &str) -> Result<Value> {
        self.api.get(path)?.with_context(|| format!("{path} is not there"))
    }

    /// The gateway as agents reach it.
    pub(crate) fn gateway(&self) -> Result<Client> {
        let service = self.object("/api/v1/namespaces/la-router/services/gateway")?;
        let address = service["spec"]["clusterIP"].as_str().context("gateway has no address")?;
        Ok(Client::new(format!("{address}:8080").parse()?))
    }

    /// What to look at when a step failed.
    pub(crate) fn scene(&self) -> String {
        let questions: [&[&str]; 6] = [
            &["get", "pods,jobs,statefulsets,pvc,rtok,provider,rproxy", "-A", "-o", "wide"],
            &["get", "events", "-A", "--sort-by=.lastTimestamp"],
            &["-n", "la-router", "logs", "deployment/la-router-operator", "--tail=40"],
            &["-n", "la-router", "logs", "gateway-0", "--tail=40"],
            &["-n", "la-router", "describe", "rproxy,provider"],
            &["-n", "agents", "describe", "pods"],
        ];
        questions.map(|args| self.kubectl(args).unwrap_or_else(|error| format!("{error:#}"))).join("\n---\n")
    }
}

/// Where `make images` has put the archives: beside `debug` in the target directory.
fn images() -> Result<PathBuf> {
    if let Some(images) = variable("LA_IMAGES") {
        return Ok(images.into());
    }
    let program = std::env::current_exe()?;
    let target = program
        .ancestors()
        .find(|directory| directory.join("deps").is_dir())
        .and_then(|found| found.parent());
    Ok(target.context("no target directory above the test")?.join("images"))
}
