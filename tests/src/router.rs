//! A real `la-router` as a person starts it: from flags and environment, or from a folder of manifests, on free
//! ports, with a data folder of its own.

use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use tempfile::TempDir;

use crate::cluster::{Client, Process, eventually, la_router};

/// The credential of the admin API.
pub const ADMIN_KEY: &str = "canary-admin-key-0123456789abcdef";

/// The vendor's API key, unless another credential is set up.
pub const API_KEY: &str = "sk-ant-api03-canary-key";

/// How long a router may take to be ready; generous, because tests share their machine.
const READY_WITHIN: Duration = Duration::from_secs(20);

/// A gateway before [`VENDOR`].
const GATEWAY: &str = r#"
apiVersion: router.link-assistant.dev/v1alpha1
kind: RouterProxy
metadata: {name: gateway, namespace: team}
spec: {routes: [{candidates: [{provider: vendor}]}]}
"#;

/// A vendor with an API key. What else there is to say of it stands at MORE.
const VENDOR: &str = r#"
apiVersion: router.link-assistant.dev/v1alpha1
kind: UpstreamProvider
metadata: {name: vendor, namespace: team}
spec:
  backend: {anthropic: {baseURL: BASE_URL, accounts: [{name: main, credential: {apiKey: {secretRef: {name: login}}}}]}}
  MORE
---
apiVersion: v1
kind: Secret
metadata: {name: login, namespace: team}
stringData: {apiKey: sk-ant-api03-canary-key}
"#;

/// A token of that gateway.
const AGENT: &str = r#"
apiVersion: router.link-assistant.dev/v1alpha1
kind: RouterToken
metadata: {name: agent, namespace: team}
spec: {proxyRef: {name: gateway}, secretName: agent-token}
"#;

/// How a router is to be started.
pub struct Setup {
    data_dir: Option<PathBuf>,
    args: Vec<String>,
    environment: Vec<(String, String)>,
    files: Vec<(String, String)>,
}

/// A router. Dropping it kills it and removes its folder.
pub struct Router {
    process: Process,
    setup: Setup,
    address: SocketAddr,
    admin: SocketAddr,
    directory: TempDir,
}

impl Setup {
    /// From flags, in front of one upstream, with [`API_KEY`].
    pub fn flags(base_url: &str) -> Self {
        Self { data_dir: None, args: Vec::new(), environment: Vec::new(), files: Vec::new() }
            .env("ANTHROPIC_API_KEY", API_KEY)
            .arg("--upstream-base-url", base_url)
    }

    /// From manifests: name and text of each file of the folder.
    pub fn manifests(files: &[(&str, &str)]) -> Self {
        let named = files.iter().map(|(name, text)| (format!("manifests/{name}"), (*text).to_owned()));
        Self { data_dir: None, args: Vec::new(), environment: Vec::new(), files: named.collect() }
            .arg("--manifests", "{dir}/manifests")
    }

    /// From manifests of a gateway `gateway` before the vendor at `base_url`, of which `more` is one more line of
    /// its `spec`. All is in the namespace `team`, in `manifests/gateway.yaml` and `manifests/vendor.yaml`, and there
    /// is no token so far.
    pub fn team(base_url: &str, more: &str) -> Self {
        let vendor = VENDOR.replace("BASE_URL", base_url).replace("MORE", more);
        Self::manifests(&[("gateway.yaml", GATEWAY), ("vendor.yaml", &vendor)])
            .arg("--tokens-dir", "{dir}/tokens")
    }

    /// The same with a RouterToken `agent` without limits.
    #[must_use]
    pub fn agent(self) -> Self {
        self.file("manifests/agent.yaml", AGENT)
    }

    /// From a folder `snapshot` with the files of a snapshot, by name, as in a cluster.
    pub fn snapshot(files: &[(&str, String)]) -> Self {
        let named = files.iter().map(|(name, text)| (format!("snapshot/{name}"), text.clone()));
        Self { data_dir: None, args: Vec::new(), environment: Vec::new(), files: named.collect() }
            .arg("--snapshot-dir", "{dir}/snapshot")
    }

    /// The same with a flag and its value. `{dir}` stands for the router's folder.
    #[must_use]
    pub fn arg(mut self, flag: &str, value: &str) -> Self {
        self.args.extend([flag.to_owned(), value.to_owned()]);
        self
    }

    /// The same with another data folder than the one in the router's own.
    #[must_use]
    pub fn data_dir(mut self, data_dir: &Path) -> Self {
        self.data_dir = Some(data_dir.to_owned());
        self
    }

    /// The same with a name in the environment, which is otherwise empty. `{dir}` stands for the router's folder.
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// The same without a name in the environment.
    #[must_use]
    pub fn without_env(mut self, name: &str) -> Self {
        self.environment.retain(|(other, _)| other != name);
        self
    }

    /// The same with a file in the router's folder, in the place of any before that is called so.
    #[must_use]
    pub fn file(mut self, path: &str, text: &str) -> Self {
        self.files.push((path.to_owned(), text.to_owned()));
        self
    }

    /// Starts the router and waits until it is ready.
    ///
    /// # Errors
    /// When the binary is missing, or does not get ready; the message holds its log.
    pub fn start(self) -> Result<Router> {
        let directory = TempDir::with_prefix("la-router-")?;
        for (name, text) in &self.files {
            let path = directory.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap_or(&path))?;
            std::fs::write(path, text)?;
        }
        let [address, admin] = free_addresses()?;
        let process = spawn(&self, directory.path(), address, admin)?;
        let mut router = Router { process, setup: self, address, admin, directory };
        router.wait_until_ready()?;
        Ok(router)
    }
}

impl Router {
    /// Where clients connect to.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where the admin API, probes and metrics are.
    pub fn admin(&self) -> SocketAddr {
        self.admin
    }

    /// What clients put before `/v1/messages`.
    pub fn base_url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The folder of everything that belongs to it, which is removed with it.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// The text that was minted for the RouterToken `team/name`.
    ///
    /// # Errors
    /// When there is none so far.
    pub fn team_token(&self, name: &str) -> std::io::Result<String> {
        let text = std::fs::read_to_string(self.directory().join(format!("tokens/team/{name}/token")))?;
        Ok(text.trim().to_owned())
    }

    /// Its data folder.
    pub fn data_dir(&self) -> PathBuf {
        data_dir(&self.setup, self.directory())
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    /// Everything it has written so far, across restarts.
    pub fn log(&self) -> String {
        self.process.log()
    }

    /// Runs `la-router tokens …` on its data folder and gives what it prints, without white space around it.
    ///
    /// # Errors
    /// When the command fails; the message is its error output.
    pub fn tokens(&self, args: &[&str]) -> Result<String> {
        let mut command = Command::new(la_router()?);
        command.env_clear().env("DATA_DIR", self.data_dir()).arg("tokens").args(args);
        let output = command.output()?;
        ensure!(output.status.success(), "tokens {args:?}: {}", String::from_utf8_lossy(&output.stderr));
        Ok(String::from_utf8(output.stdout)?.trim().to_owned())
    }

    /// Issues a token and gives its text.
    ///
    /// # Errors
    /// When the command fails.
    pub fn issue(&self, args: &[&str]) -> Result<String> {
        self.tokens(&[&["issue"], args].concat())
    }

    /// Asks the admin API, with its key.
    ///
    /// # Errors
    /// When there is no answer.
    pub fn ask_admin(&self, method: &str, path: &str, body: &str) -> Result<(u16, serde_json::Value)> {
        let bearer = format!("Bearer {ADMIN_KEY}");
        let headers = [("authorization", bearer.as_str()), ("content-type", "application/json")];
        let answer = Client::new(self.admin).send_with(method, path, &headers, body)?;
        Ok((answer.status, serde_json::from_str(&answer.body).unwrap_or_default()))
    }

    /// Asks it to end (SIGTERM).
    ///
    /// # Errors
    /// When the signal cannot be sent.
    pub fn terminate(&self) -> Result<()> {
        self.process.terminate()
    }

    /// Waits for its end, at most so long.
    ///
    /// # Errors
    /// When it does not end.
    pub fn wait(&mut self, limit: Duration) -> Result<ExitStatus> {
        self.process.wait(limit)
    }

    /// Ends it at once (SIGKILL).
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// Starts it again after its end, on the same folder and ports, and waits until it is ready.
    ///
    /// # Errors
    /// When it does not get ready.
    pub fn restart(&mut self) -> Result<()> {
        self.process.kill();
        self.process = spawn(&self.setup, self.directory.path(), self.address, self.admin)?;
        self.wait_until_ready()
    }

    fn wait_until_ready(&mut self) -> Result<()> {
        let ready = eventually("la-router to be ready", READY_WITHIN, || {
            if let Some(status) = self.process.ended()? {
                bail!("la-router ended with {status}");
            }
            let answer = Client::new(self.admin).send("GET", "/readyz", "", "");
            Ok(answer.is_ok_and(|answer| answer.status == 200).then_some(()))
        });
        ready.with_context(|| self.process.log())
    }
}

fn spawn(setup: &Setup, directory: &Path, address: SocketAddr, admin: SocketAddr) -> Result<Process> {
    let place = directory.display().to_string();
    let filled = |text: &String| text.replace("{dir}", &place);
    let mut command = Command::new(la_router()?);
    command.env_clear().env("HOME", directory).env("TOKEN_ADMIN_KEY", ADMIN_KEY).current_dir(directory);
    command.envs(setup.environment.iter().map(|(name, value)| (name, filled(value))));
    command.arg("serve").arg("--data-dir").arg(data_dir(setup, directory));
    command.args(["--host", "127.0.0.1", "--port", &address.port().to_string()]);
    command.args(["--admin-listen", &admin.to_string()]);
    command.args(setup.args.iter().map(filled));
    Process::spawn(&mut command, &directory.join("log"))
}

fn data_dir(setup: &Setup, directory: &Path) -> PathBuf {
    setup.data_dir.clone().unwrap_or_else(|| directory.join("data"))
}

fn free_addresses<const N: usize>() -> Result<[SocketAddr; N]> {
    // All are held until all are known, so that no two are the same.
    let listeners: Vec<TcpListener> =
        (0..N).map(|_| TcpListener::bind("127.0.0.1:0")).collect::<Result<_, _>>()?;
    let addresses: Vec<SocketAddr> =
        listeners.iter().map(TcpListener::local_addr).collect::<Result<_, _>>()?;
    addresses.try_into().ok().context("not enough free ports")
}
