//! etcd, the Kubernetes API server and its controller manager on loopback: 4 to 5 s to ready.
//!
//! CEL rules, server-side apply, status subresources, garbage collection by owner references, StatefulSets'
//! pods and the audit log are real. There is no scheduler and no kubelet: see [`super::Kubelet`].

use std::io::Write as _;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use base64::Engine as _;
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::audit::{self, Write};
use super::{Client, Process, component, eventually, watchdog};

const START_LIMIT: Duration = Duration::from_secs(60);

/// Who the operator is in the audit log.
const OPERATOR_USER: &str = "la-router-operator";

static SHARED: LazyLock<Result<ApiServer, String>> =
    LazyLock::new(|| ApiServer::start().map_err(|error| format!("{error:#}")));

/// A running API server. Dropping it ends everything it consists of.
#[derive(Debug)]
pub struct ApiServer {
    client: Client,
    kube: PathBuf,
    /// Of etcd and of the server.
    ports: [u16; 2],
    server: Process,
    _others: Vec<Process>,
    directory: TempDir,
}

/// What kubectl did.
#[derive(Debug, Clone)]
pub struct Answer {
    /// Whether its exit code was 0.
    pub success: bool,
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
}

impl ApiServer {
    /// The one that all tests of a test binary share; each takes namespaces of its own.
    ///
    /// # Errors
    /// When it did not start, with the reason.
    pub fn shared() -> Result<&'static Self> {
        SHARED.as_ref().map_err(|error| anyhow!("{error}"))
    }

    /// Starts one for a test that cannot share, for instance because it stops it.
    ///
    /// # Errors
    /// When a component is missing or did not get ready; the message says which.
    pub fn start() -> Result<Self> {
        let kube = component("kube", "kube")?;
        let directory = TempDir::with_prefix("la-router-api-")?;
        watchdog::remove_at_end(directory.path())?;
        let at = directory.path();
        let [etcd_port, peer_port, api_port, proxy_port] = free_ports()?;
        write_files(at, api_port)?;
        let run = |name: &str, args: &[String]| run(&kube, at, name, args);
        let mut processes = vec![run("etcd", &etcd_args(etcd_port, peer_port))?];
        processes.push(run("kube-apiserver", &api_args(etcd_port, api_port))?);
        let certificate = at.join("certificates/apiserver.crt");
        eventually("the API server's certificate", START_LIMIT, || {
            still_running(&mut processes)?;
            Ok(certificate.exists().then_some(()))
        })?;
        processes.push(run("kubectl", &proxy_args(proxy_port))?);
        let client = Client::new(([127, 0, 0, 1], proxy_port).into());
        eventually("the API server to be ready", START_LIMIT, || {
            still_running(&mut processes)?;
            let ready = client.send("GET", "/readyz", "", "").is_ok_and(|answer| answer.status == 200);
            Ok(ready.then_some(()))
        })?;
        processes.push(run("kube-controller-manager", &manager_args())?);
        let server = processes.remove(1);
        let server =
            Self { client, kube, ports: [etcd_port, api_port], server, _others: processes, directory };
        eventually("the controller manager to work", START_LIMIT, || {
            server.client.get("/api/v1/namespaces/default/serviceaccounts/default")
        })?;
        Ok(server)
    }

    /// Does `act` while nobody serves the API, and then serves it again.
    ///
    /// # Errors
    /// When it does not get ready again.
    pub fn without<T>(&mut self, act: impl FnOnce() -> T) -> Result<T> {
        self.server.kill();
        let product = act();
        let [etcd_port, api_port] = self.ports;
        let args = api_args(etcd_port, api_port);
        self.server = run(&self.kube, self.directory.path(), "kube-apiserver", &args)?;
        eventually("the API server to be ready again", START_LIMIT, || {
            let ready = self.client.send("GET", "/readyz", "", "").is_ok_and(|answer| answer.status == 200);
            Ok(ready.then_some(()))
        })?;
        Ok(product)
    }

    /// A client with every right.
    pub fn client(&self) -> Client {
        self.client
    }

    /// A kubeconfig with every right.
    pub fn kubeconfig(&self) -> PathBuf {
        self.directory.path().join("admin.kubeconfig")
    }

    /// A kubeconfig with every right, under a name of its own in the audit log.
    pub fn operator_kubeconfig(&self) -> PathBuf {
        self.directory.path().join("operator.kubeconfig")
    }

    /// Where logs and scratch files go.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Runs the real kubectl with `stdin`.
    ///
    /// # Errors
    /// When it cannot be run; what it answers is in the [`Answer`].
    pub fn kubectl(&self, args: &[&str], stdin: &str) -> Result<Answer> {
        let mut child = Command::new(&self.kube)
            .args(["kubectl", "--kubeconfig"])
            .arg(self.kubeconfig())
            .arg("--cache-dir")
            .arg(self.directory.path().join("kubectl-cache"))
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        // kubectl may refuse its arguments before it reads all of its input.
        let _ = child.stdin.take().context("kubectl has no standard input")?.write_all(stdin.as_bytes());
        let output = child.wait_with_output()?;
        Ok(Answer {
            success: output.status.success(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        })
    }

    /// `kubectl apply` of `yaml` into `namespace`.
    ///
    /// # Errors
    /// When any object was refused, with the server's words.
    pub fn apply(&self, namespace: &str, yaml: &str) -> Result<()> {
        let answer = self.kubectl(&["apply", "--server-side", "-n", namespace, "-f", "-"], yaml)?;
        ensure!(answer.success, "kubectl apply: {}", answer.stderr);
        Ok(())
    }

    /// Applies custom resource definitions and waits until the server serves them.
    ///
    /// # Errors
    /// When one was refused or is not served in time.
    pub fn apply_crds(&self, yaml: &str) -> Result<()> {
        self.apply("default", yaml)?;
        let wait = ["wait", "--for=condition=Established", "--timeout=30s", "-f", "-"];
        let answer = self.kubectl(&wait, yaml)?;
        ensure!(answer.success, "kubectl wait: {}", answer.stderr);
        Ok(())
    }

    /// Creates a namespace with a unique name and waits for its service account, without which no pod is made.
    ///
    /// # Errors
    /// When the server refuses or the account does not come.
    pub fn namespace(&self, prefix: &str) -> Result<String> {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let name = format!("{prefix}-{}", NEXT.fetch_add(1, Ordering::Relaxed));
        let object = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
        self.client.create("/api/v1/namespaces", &object)?;
        let account = format!("/api/v1/namespaces/{name}/serviceaccounts/default");
        eventually("the namespace's service account", START_LIMIT, || self.client.get(&account))?;
        Ok(name)
    }

    /// A custom object of this group, `None` when there is none.
    ///
    /// # Errors
    /// When the server answers anything but 200 and 404.
    pub fn custom(&self, namespace: &str, plural: &str, name: &str) -> Result<Option<Value>> {
        let group = "router.link-assistant.dev/v1alpha1";
        self.client.get(&format!("/apis/{group}/namespaces/{namespace}/{plural}/{name}"))
    }

    /// A place in the audit log, for [`Self::operator_writes_since`].
    pub fn audit_mark(&self) -> u64 {
        self.audit_log().metadata().map_or(0, |file| file.len())
    }

    /// What operators started with [`super::Operator`] have tried to write since `mark`.
    ///
    /// # Errors
    /// When the audit log cannot be read.
    pub fn operator_writes_since(&self, mark: u64) -> Result<Vec<Write>> {
        audit::writes(&self.audit_log(), mark, OPERATOR_USER)
    }

    fn audit_log(&self) -> PathBuf {
        self.directory.path().join("audit.log")
    }
}

fn free_ports<const N: usize>() -> Result<[u16; N]> {
    let listeners: Vec<TcpListener> =
        (0..N).map(|_| TcpListener::bind("127.0.0.1:0")).collect::<Result<_, _>>()?;
    let ports: Vec<u16> =
        listeners.iter().map(|l| l.local_addr().map(|a| a.port())).collect::<Result<_, _>>()?;
    ports.try_into().map_err(|_| anyhow!("not enough free ports"))
}

fn still_running(processes: &mut [Process]) -> Result<()> {
    for process in processes {
        if let Some(status) = process.ended()? {
            let log = process.log();
            let tail: Vec<&str> = log.lines().rev().take(8).collect();
            bail!("a component ended with {status}: {}", tail.join("\n"));
        }
    }
    Ok(())
}

fn run(kube: &Path, at: &Path, name: &str, args: &[String]) -> Result<Process> {
    let log = at.join(format!("{name}.log"));
    Process::spawn(Command::new(kube).arg(name).args(args).current_dir(at), &log)
}

fn write_files(at: &Path, api_port: u16) -> Result<()> {
    std::fs::create_dir(at.join("certificates"))?;
    write_keys(at)?;
    let tokens =
        format!("admin-token,admin,1,system:masters\noperator-token,{OPERATOR_USER},2,system:masters\n");
    std::fs::write(at.join("tokens.csv"), tokens)?;
    std::fs::write(at.join("audit.yaml"), audit::POLICY)?;
    for user in ["admin", "operator"] {
        std::fs::write(at.join(format!("{user}.kubeconfig")), kubeconfig(at, api_port, user).to_string())?;
    }
    Ok(())
}

fn kubeconfig(at: &Path, api_port: u16, user: &str) -> Value {
    let authority = at.join("certificates/apiserver.crt");
    json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "test",
        "clusters": [{"name": "test", "cluster": {
            "server": format!("https://127.0.0.1:{api_port}"), "certificate-authority": authority}}],
        "users": [{"name": user, "user": {"token": format!("{user}-token")}}],
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": user}}],
    })
}

/// What stands before the 65 bytes of a P-256 point in the DER of a public key (RFC 5480).
const P256_POINT_FOLLOWS: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86,
    0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];

/// A fresh P-256 key pair as PEM, for the tokens of service accounts.
fn write_keys(at: &Path) -> Result<()> {
    let (algorithm, random) = (&ECDSA_P256_SHA256_FIXED_SIGNING, SystemRandom::new());
    let private =
        EcdsaKeyPair::generate_pkcs8(algorithm, &random).map_err(|_| anyhow!("making a P-256 key"))?;
    let pair =
        EcdsaKeyPair::from_pkcs8(algorithm, private.as_ref(), &random).map_err(|_| anyhow!("reading it"))?;
    let public = [&P256_POINT_FOLLOWS, pair.public_key().as_ref()].concat();
    let pem = |kind: &str, der: &[u8]| {
        let text = base64::engine::general_purpose::STANDARD.encode(der);
        format!("-----BEGIN {kind} KEY-----\n{text}\n-----END {kind} KEY-----\n")
    };
    std::fs::write(at.join("service-accounts.key"), pem("PRIVATE", private.as_ref()))?;
    std::fs::write(at.join("service-accounts.pub"), pem("PUBLIC", &public))?;
    Ok(())
}

fn strings(args: &[&str]) -> Vec<String> {
    args.iter().map(|arg| (*arg).to_owned()).collect()
}

fn etcd_args(port: u16, peer_port: u16) -> Vec<String> {
    let (client, peer) = (format!("http://127.0.0.1:{port}"), format!("http://127.0.0.1:{peer_port}"));
    strings(&[
        "--data-dir=etcd",
        "--unsafe-no-fsync",
        "--log-level=warn",
        &format!("--listen-client-urls={client}"),
        &format!("--advertise-client-urls={client}"),
        &format!("--listen-peer-urls={peer}"),
        &format!("--initial-advertise-peer-urls={peer}"),
        &format!("--initial-cluster=default={peer}"),
    ])
}

fn api_args(etcd_port: u16, port: u16) -> Vec<String> {
    strings(&[
        &format!("--etcd-servers=http://127.0.0.1:{etcd_port}"),
        &format!("--secure-port={port}"),
        "--bind-address=127.0.0.1",
        "--cert-dir=certificates",
        "--endpoint-reconciler-type=none",
        "--service-account-key-file=service-accounts.pub",
        "--service-account-signing-key-file=service-accounts.key",
        "--service-account-issuer=https://kubernetes.default.svc",
        "--service-cluster-ip-range=10.96.0.0/16",
        "--authorization-mode=RBAC",
        "--token-auth-file=tokens.csv",
        "--audit-policy-file=audit.yaml",
        "--audit-log-path=audit.log",
        "--audit-log-mode=blocking",
        "--enable-priority-and-fairness=false",
    ])
}

fn proxy_args(port: u16) -> Vec<String> {
    strings(&["proxy", "--kubeconfig=admin.kubeconfig", &format!("--port={port}")])
}

fn manager_args() -> Vec<String> {
    strings(&[
        "--kubeconfig=admin.kubeconfig",
        "--service-account-private-key-file=service-accounts.key",
        "--root-ca-file=certificates/apiserver.crt",
        "--leader-elect=false",
        "--secure-port=0",
        "--kube-api-qps=200",
        "--kube-api-burst=400",
    ])
}
