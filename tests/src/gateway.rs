//! A real `la-router` that serves a snapshot made here, as one in a cluster does: tokens are minted by the test.

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};
use la_core::budget::LimitsSpec;
use la_core::credential::{Credential, Credentials};
use la_core::id::{Subject, TokenId};
use la_core::secret::Secret;
use la_core::snapshot::{
    Account, CREDENTIALS_FILE, CredentialSource, IssuedId, Provider, Route, SNAPSHOT_FILE, Snapshot,
    TokenRecord, credential_key,
};
use la_core::token::{Claims, SigningKey};
use tempfile::TempDir;

use crate::cluster::{Client, Process, eventually, la_router};

/// The one account of every provider.
const ACCOUNT: &str = "key";

const PROXY: &str = "tests/gateway";

/// Long before any test runs.
const NOT_BEFORE: i64 = 1_700_000_000;

/// Long after.
const NOT_AFTER: i64 = 4_000_000_000;

/// A running router in front of one upstream. Dropping it kills it.
#[derive(Debug)]
pub struct Gateway {
    /// The process.
    pub process: Process,
    address: SocketAddr,
    admin: SocketAddr,
    directory: TempDir,
    texts: BTreeMap<String, Secret>,
}

/// One token to mint.
#[derive(Debug, Clone, Default)]
pub struct Token {
    /// Its name, by which [`Gateway::token`] gives its text.
    pub name: String,
    /// What it may use.
    pub limits: LimitsSpec,
    /// Refused with 403.
    pub suspended: bool,
}

impl Gateway {
    /// Starts a router before `base_url` with an API key, and waits until it is ready.
    ///
    /// # Errors
    /// When the binary is missing or does not get ready.
    pub fn start(base_url: &str, key: &str, tokens: &[Token], args: &[&str]) -> Result<Self> {
        let directory = TempDir::with_prefix("la-router-gateway-")?;
        let texts = write_snapshot(directory.path(), (base_url, key), tokens)?;
        let [address, admin] = free_addresses()?;
        let mut command = Command::new(la_router()?);
        serve(&mut command, directory.path(), address, admin);
        let process = Process::spawn(command.args(args), &directory.path().join("log"))?;
        let mut gateway = Self { process, address, admin, directory, texts };
        eventually("la-router to be ready", Duration::from_secs(10), || {
            if let Some(status) = gateway.process.ended()? {
                return Err(anyhow!("la-router ended with {status}: {}", gateway.process.log()));
            }
            let ready = Client::new(admin).send("GET", "/readyz", "", "");
            Ok(ready.is_ok_and(|answer| answer.status == 200).then_some(()))
        })
        .with_context(|| gateway.process.log())?;
        Ok(gateway)
    }

    /// Resident memory that is the process's own now, in bytes: without pages of its program's file, of which the
    /// kernel keeps more or fewer as it likes.
    ///
    /// # Errors
    /// When the system cannot tell.
    pub fn own_bytes(&self) -> Result<u64> {
        let rollup = std::fs::read_to_string(format!("/proc/{}/smaps_rollup", self.process.id()))?;
        let line = rollup.lines().find_map(|line| line.strip_prefix("Anonymous:")).context("no Anonymous")?;
        let kilobytes: u64 = line.trim().trim_end_matches(" kB").parse()?;
        Ok(kilobytes * 1_024)
    }

    /// What clients put before `/v1/messages`.
    pub fn base_url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Ends it at once (SIGKILL).
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// Where clients connect to.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The admin port.
    pub fn admin(&self) -> SocketAddr {
        self.admin
    }

    /// The text of a token that was asked for.
    ///
    /// # Errors
    /// When none of that name was.
    pub fn token(&self, name: &str) -> Result<&str> {
        self.texts.get(name).map(Secret::expose).with_context(|| format!("no token {name}"))
    }

    /// A directory that lasts as long as the router.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }
}

fn serve(command: &mut Command, directory: &Path, address: SocketAddr, admin: SocketAddr) {
    command.env_clear().env("POD_UID", "test").arg("serve");
    command
        .arg("--snapshot-dir")
        .arg(directory.join("snapshot"))
        .arg("--data-dir")
        .arg(directory.join("data"));
    command.args(["--host", &address.ip().to_string(), "--port", &address.port().to_string()]);
    command.args(["--admin-listen", &admin.to_string()]);
}

/// Writes both files and gives the texts of the tokens by name.
///
/// # Errors
/// When a token cannot be made or a file not be written.
pub fn write_snapshot(
    directory: &Path,
    (base_url, key): (&str, &str),
    tokens: &[Token],
) -> Result<BTreeMap<String, Secret>> {
    let (snapshot, texts) = snapshot(base_url, tokens)?;
    let files = directory.join("snapshot");
    std::fs::create_dir_all(&files)?;
    for (name, text) in snapshot_files(&snapshot, key)? {
        std::fs::write(files.join(name), text)?;
    }
    Ok(texts)
}

/// Both files of a snapshot, by name.
///
/// # Errors
/// When they cannot be written as JSON.
pub fn snapshot_files(snapshot: &Snapshot, key: &str) -> Result<[(&'static str, String); 2]> {
    let credential = Credential::ApiKey { key: Secret::new(key) };
    let keys = snapshot.providers.iter().map(|provider| credential_key(&provider.name, ACCOUNT));
    let credentials: Credentials = keys.map(|name| (name, credential.clone())).collect();
    let snapshot = serde_json::to_string(snapshot)?;
    Ok([(CREDENTIALS_FILE, serde_json::to_string(&credentials)?), (SNAPSHOT_FILE, snapshot)])
}

/// A snapshot with one provider, and the texts of its tokens by name.
///
/// # Errors
/// When a token cannot be made.
pub fn snapshot(base_url: &str, tokens: &[Token]) -> Result<(Snapshot, BTreeMap<String, Secret>)> {
    let signing = SigningKey::from_seed([7; 32]);
    let mut snapshot = Snapshot::empty(PROXY);
    (snapshot.epoch, snapshot.generation) = (1, 1);
    snapshot.keys = vec![signing.verifying()?];
    snapshot.providers = vec![provider(base_url)];
    snapshot.routes = vec![Route::to("vendor", Vec::new())];
    let mut texts = BTreeMap::new();
    for token in tokens {
        let record = record(token)?;
        let id = record.ids.first().map(|issued| issued.id.clone());
        let claims = Claims {
            sub: record.subject.as_str().to_owned(),
            jti: id,
            aud: Some(snapshot.audience.clone()),
            iat: NOT_BEFORE,
            nbf: None,
            exp: NOT_AFTER,
        };
        texts.insert(token.name.clone(), signing.mint(&claims)?);
        snapshot.tokens.push(record);
    }
    Ok((snapshot, texts))
}

fn provider(base_url: &str) -> Provider {
    let account = Account::new(ACCOUNT, CredentialSource::Published);
    Provider::anthropic("vendor", base_url, vec![account])
}

fn record(token: &Token) -> Result<TokenRecord> {
    let id = TokenId::try_from(format!("id-{}", token.name))?;
    let issued = IssuedId { id, not_before: NOT_BEFORE, not_after: NOT_AFTER, revoked: false };
    let (subject, limits) = (Subject::of("gateway", "tests", &token.name)?, Arc::new(token.limits.clone()));
    let record = TokenRecord::new(subject, vec![issued], limits);
    Ok(TokenRecord { label: token.name.clone(), suspended: token.suspended, ..record })
}

fn free_addresses<const N: usize>() -> Result<[SocketAddr; N]> {
    let listeners: Vec<TcpListener> =
        (0..N).map(|_| TcpListener::bind("127.0.0.1:0")).collect::<Result<_, _>>()?;
    let addresses: Vec<SocketAddr> =
        listeners.iter().map(TcpListener::local_addr).collect::<Result<_, _>>()?;
    addresses.try_into().map_err(|_| anyhow!("not enough free ports"))
}
