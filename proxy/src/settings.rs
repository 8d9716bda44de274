//! What the process was told: flags over environment over `.lenv` over `.env`, judged once.
//!
//! Every fault is told at once. A name of link-assistant/router that means nothing here gives a warning
//! that says what replaces it. Nothing after this module reads the environment.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use la_core::duration;
use la_core::secret::Secret;
use la_core::token::SigningKey;

use crate::usage_log::{self, Keeping};

mod args;
mod dropped;
mod forward;
mod ledger;
mod lookup;
mod refresh;
mod upstream;

pub use args::{
    AccountImportArgs, AccountRefreshArgs, AccountsCommand, Command, CommandLine, CommonArgs,
    CredentialsCommand, ForwardArgs, ImportArgs, IssueArgs, LedgerArgs, LedgerCommand, ListenArgs,
    QuickstartArgs, RecomputeArgs, ServeArgs, SyncArgs, TokenAccessArgs, TokenIdArgs, TokensArgs,
    TokensCommand, UsageLogArgs,
};
pub use forward::ForwardSettings;
pub use ledger::{LedgerInUse, LedgerSettings};
pub use lookup::{Found, Lookup};
pub use refresh::{Policy, RefreshSettings};
pub use upstream::{IdentitySettings, LoginDirectory, UpstreamSettings};

const DATA_DIR_DEFAULT: &str = ".link-assistant-router";
const DRAIN_DEFAULT: Duration = Duration::from_secs(30);

/// Everything `serve` needs to know.
#[derive(Debug)]
pub struct ServeSettings {
    pub data_dir: PathBuf,
    pub source: SourceSettings,
    pub refresh: RefreshSettings,
    pub listen: ListenSettings,
    pub ledger: LedgerSettings,
    pub bounds: Bounds,
    pub access: AccessSettings,
    pub usage_log: Keeping,
    pub logging: Logging,
    /// Said once at start.
    pub warnings: Vec<String>,
}

/// Where the configuration comes from.
#[derive(Debug)]
pub enum SourceSettings {
    /// A snapshot that an operator writes.
    SnapshotDir(PathBuf),
    /// The manifests in a folder; minted tokens go to the other.
    Manifests { dir: PathBuf, tokens_dir: PathBuf },
    /// One provider, told by flags.
    Flags(UpstreamSettings),
}

#[derive(Debug)]
pub struct ListenSettings {
    pub listen: SocketAddr,
    pub admin: SocketAddr,
    /// When not said, a manifest may say it.
    pub drain: Option<Duration>,
}

/// What keeps memory and work bounded.
#[derive(Debug)]
pub struct Bounds {
    pub threads: usize,
    pub max_connections: usize,
    pub max_body_bytes: usize,
    pub body_budget_bytes: usize,
    /// When not said, a manifest may say it.
    pub request_log: Option<bool>,
}

#[derive(Debug)]
pub struct AccessSettings {
    /// The key made of `TOKEN_SECRET`, where it is given.
    pub shared_key: Option<SigningKey>,
    pub admin_key: Option<Secret>,
    /// The UID of the pod, which an operator's credential must name.
    pub pod_uid: Option<String>,
    pub metrics: bool,
}

#[derive(Debug, Clone)]
pub struct Logging {
    /// As [`tracing_subscriber::filter::Targets`] reads it.
    pub filter: String,
}

/// Collects faults and warnings while settings are read.
#[derive(Debug, Default)]
pub struct Judge {
    pub faults: Vec<String>,
    pub warnings: Vec<String>,
}

impl Default for ListenSettings {
    fn default() -> Self {
        Self {
            listen: SocketAddr::new(IpAddr::from([0, 0, 0, 0]), 8080),
            admin: SocketAddr::new(IpAddr::from([127, 0, 0, 1]), 8081),
            drain: None,
        }
    }
}

impl ListenSettings {
    /// The drain time where neither flags nor a manifest say one.
    pub const DRAIN_DEFAULT: Duration = DRAIN_DEFAULT;
}

impl ServeSettings {
    /// Judges the command line against the places below it.
    ///
    /// # Errors
    /// Every fault, one sentence each.
    pub fn read(args: &ServeArgs, lookup: &Lookup) -> Result<Self, Vec<String>> {
        let mut judge = Judge { faults: Vec::new(), warnings: dropped::warnings(lookup) };
        let data_dir = data_dir(&args.common, lookup, &mut judge);
        let source = source(args, lookup, &data_dir, &mut judge);
        let in_cluster = matches!(source, SourceSettings::SnapshotDir(_));
        let refresh = RefreshSettings::read(&args.refresh, lookup, &mut judge);
        let listen = listen(args, lookup, &mut judge);
        let ledger = LedgerSettings::read(&args.ledger, lookup, &mut judge);
        let bounds = bounds(args, lookup, &mut judge);
        let access = access(args, lookup, in_cluster, &mut judge);
        let usage_log = usage_log(&args.usage_log, &ledger, lookup, &mut judge);
        if switch(false, "DISABLE_ANTHROPIC_API", lookup, &mut judge) {
            judge
                .faults
                .push("DISABLE_ANTHROPIC_API: there is no other API in this version to serve".to_owned());
        }
        let logging = Logging::read(&args.common, lookup, &mut judge);
        if !judge.faults.is_empty() {
            return Err(judge.faults);
        }
        let warnings = judge.warnings;
        Ok(Self { data_dir, source, refresh, listen, ledger, bounds, access, usage_log, logging, warnings })
    }
}

impl Logging {
    /// The filter of `--log`, `RUST_LOG`, or what `--verbose` makes of the default.
    pub fn read(args: &CommonArgs, lookup: &Lookup, judge: &mut Judge) -> Self {
        let verbose = switch(args.verbose, "VERBOSE", lookup, judge);
        let default = if verbose { "info,la_proxy=debug" } else { "info" };
        let Some(found) = lookup.find(("--log", args.log.as_deref()), "RUST_LOG") else {
            return Self { filter: default.to_owned() };
        };
        if let Err(error) = tracing_subscriber::filter::Targets::from_str(&found.text) {
            judge.faults.push(format!("{}: {:?} is not a log filter: {error}", found.place, found.text));
        }
        Self { filter: found.text }
    }
}

impl Judge {
    /// Reads `found` with `read`, or reports what it should have been.
    pub fn parse<T>(
        &mut self,
        found: Option<Found>,
        what: &str,
        read: impl Fn(&str) -> Option<T>,
    ) -> Option<T> {
        let found = found?;
        let value = read(&found.text);
        if value.is_none() {
            self.faults.push(format!("{}: {:?} is not {what}", found.place, found.text));
        }
        value
    }
}

/// The folder of keys, tokens and ledger.
pub fn data_dir(args: &CommonArgs, lookup: &Lookup, judge: &mut Judge) -> PathBuf {
    if let Some(found) = lookup.find(("--data-dir", args.data_dir.as_deref()), "DATA_DIR") {
        return PathBuf::from(found.text);
    }
    match lookup.named("HOME") {
        Some(home) => PathBuf::from(home.text).join(DATA_DIR_DEFAULT),
        None => {
            judge.faults.push("--data-dir: must be given, because HOME is not set".to_owned());
            PathBuf::new()
        }
    }
}

/// The key made of `TOKEN_SECRET`, where it is given.
pub fn shared_key(flag: Option<&Secret>, lookup: &Lookup, judge: &mut Judge) -> Option<SigningKey> {
    let flag = ("--token-secret", flag.map(Secret::expose));
    let found = lookup.find(flag, "TOKEN_SECRET")?;
    match SigningKey::from_shared(Secret::new(found.text)) {
        Ok(key) => {
            if key.is_short() {
                let place = &found.place;
                judge
                    .warnings
                    .push(format!("{place} has fewer than 32 bytes; make one with `openssl rand -hex 32`"));
            }
            Some(key)
        }
        Err(error) => {
            judge.faults.push(format!("{}: {error}", found.place));
            None
        }
    }
}

/// A flag without value, or the truth of an environment name.
pub fn switch(flag: bool, name: &str, lookup: &Lookup, judge: &mut Judge) -> bool {
    flag || judge.parse(lookup.named(name), "true or false", boolean).unwrap_or(false)
}

fn source(
    args: &ServeArgs,
    lookup: &Lookup,
    data_dir: &std::path::Path,
    judge: &mut Judge,
) -> SourceSettings {
    if let Some(dir) = &args.source.snapshot_dir {
        upstream::refuse_beside("--snapshot-dir", &args.upstream, lookup, judge);
        refresh::refuse_beside("--snapshot-dir", &args.refresh, judge);
        return SourceSettings::SnapshotDir(existing_dir("--snapshot-dir", dir, judge));
    }
    if let Some(dir) = &args.source.manifests {
        upstream::refuse_beside("--manifests", &args.upstream, lookup, judge);
        let dir = existing_dir("--manifests", dir, judge);
        let tokens_dir =
            args.source.tokens_dir.as_ref().map_or_else(|| data_dir.join("tokens"), PathBuf::from);
        return SourceSettings::Manifests { dir, tokens_dir };
    }
    SourceSettings::Flags(UpstreamSettings::read(&args.upstream, lookup, judge))
}

fn existing_dir(flag: &str, text: &str, judge: &mut Judge) -> PathBuf {
    let dir = PathBuf::from(text);
    match std::fs::metadata(&dir) {
        Ok(meta) if meta.is_dir() => {}
        Ok(_) => judge.faults.push(format!("{flag}: {text} is not a folder")),
        Err(error) => judge.faults.push(format!("{flag}: {text} cannot be read: {error}")),
    }
    dir
}

fn listen(args: &ServeArgs, lookup: &Lookup, judge: &mut Judge) -> ListenSettings {
    let default = ListenSettings::default();
    let args = &args.listen;
    let host = lookup.find(("--host", args.host.as_deref()), "ROUTER_HOST");
    let host = judge.parse(host, "an IP address or `localhost`", address).unwrap_or(default.listen.ip());
    let port = lookup.find(("--port", args.port.as_deref()), "ROUTER_PORT");
    let port = judge.parse(port, "a port number", |t| t.parse().ok()).unwrap_or(default.listen.port());
    let admin = lookup.find(("--admin-listen", args.admin_listen.as_deref()), "ADMIN_LISTEN");
    let admin = judge.parse(admin, "ADDRESS:PORT", socket_address).unwrap_or(default.admin);
    let drain = lookup.find(("--drain", args.drain.as_deref()), "DRAIN");
    let drain = judge.parse(drain, "a duration such as `30s`", |t| duration::parse(t).ok());
    let listen = SocketAddr::new(host, port);
    if listen == admin && port != 0 {
        judge.faults.push(format!("--admin-listen: {admin} is the address of requests too"));
    }
    ListenSettings { listen, admin, drain }
}

fn bounds(args: &ServeArgs, lookup: &Lookup, judge: &mut Judge) -> Bounds {
    let args = &args.bounds;
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let mut count = |flag: (&str, Option<&str>), name: &str, default: usize| {
        judge.parse(lookup.find(flag, name), "a whole number of at least 1", positive).unwrap_or(default)
    };
    let threads = count(("--threads", args.threads.as_deref()), "ROUTER_THREADS", cores);
    let max_connections =
        count(("--max-connections", args.max_connections.as_deref()), "MAX_CONNECTIONS", 4096);
    let max_body_bytes =
        count(("--max-body-bytes", args.max_body_bytes.as_deref()), "MAX_BODY_BYTES", 32 << 20);
    let budget = ("--body-budget-bytes", args.body_budget_bytes.as_deref());
    let body_budget_bytes = count(budget, "BODY_BUDGET_BYTES", 256 << 20);
    let log = lookup.find(("--request-log", args.request_log.as_deref()), "REQUEST_LOG");
    let request_log = judge.parse(log, "true or false", boolean);
    if body_budget_bytes < max_body_bytes {
        let message = format!(
            "--body-budget-bytes: {body_budget_bytes} is less than one body may have, {max_body_bytes}"
        );
        judge.faults.push(message);
    }
    Bounds { threads, max_connections, max_body_bytes, body_budget_bytes, request_log }
}

fn access(args: &ServeArgs, lookup: &Lookup, in_cluster: bool, judge: &mut Judge) -> AccessSettings {
    let args = &args.access;
    let shared_key = if in_cluster {
        if args.token_secret.is_some() || lookup.named("TOKEN_SECRET").is_some() {
            judge.faults.push(
                "--token-secret: cannot be used with --snapshot-dir, which brings its own keys".to_owned(),
            );
        }
        None
    } else {
        shared_key(args.token_secret.as_ref(), lookup, judge)
    };
    let admin_key =
        lookup.find(("--admin-key", args.admin_key.as_ref().map(Secret::expose)), "TOKEN_ADMIN_KEY");
    AccessSettings {
        shared_key,
        // As with link-assistant/router, an empty key is no key, and not one that everybody knows.
        admin_key: admin_key.map(|found| Secret::new(found.text)).filter(|key| !key.is_empty()),
        pod_uid: lookup.named("POD_UID").map(|found| found.text),
        metrics: !switch(args.disable_metrics, "DISABLE_METRICS", lookup, judge),
    }
}

fn usage_log(args: &UsageLogArgs, ledger: &LedgerSettings, lookup: &Lookup, judge: &mut Judge) -> Keeping {
    let default = usage_log::Bounds::default();
    let is_on = lookup.find(("--usage-log", args.usage_log.as_deref()), "USAGE_LOG");
    let is_on = judge.parse(is_on, "`on` or `off`", boolean);
    let is_kept = !matches!(ledger, LedgerSettings::Memory);
    if is_on == Some(true) && !is_kept {
        judge.faults.push("--usage-log: on: --ledger memory keeps no usage log; turn it off".to_owned());
    }
    let is_on = is_on.unwrap_or(is_kept);
    let max_bytes = ("--usage-log-max-bytes", args.usage_log_max_bytes.as_deref());
    let max_bytes = lookup.find(max_bytes, "USAGE_LOG_MAX_BYTES");
    let enough = |text: &str| text.parse().ok().filter(|bytes| *bytes >= usage_log::FEWEST_BYTES);
    let max_bytes = judge.parse(max_bytes, "a whole number of at least 1048576", enough);
    let max_age = ("--usage-log-max-age", args.usage_log_max_age.as_deref());
    let max_age = lookup.find(max_age, "USAGE_LOG_MAX_AGE");
    let enough = |text: &str| duration::parse(text).ok().filter(|age| *age >= usage_log::SHORTEST_AGE);
    let max_age = judge.parse(max_age, "a duration of at least `1h`", enough);
    let bounds = usage_log::Bounds {
        max_bytes: max_bytes.unwrap_or(default.max_bytes),
        max_age: max_age.unwrap_or(default.max_age),
    };
    if is_on { Keeping::On(bounds) } else { Keeping::Off }
}

fn address(text: &str) -> Option<IpAddr> {
    if text == "localhost" { Some(IpAddr::from([127, 0, 0, 1])) } else { text.parse().ok() }
}

fn socket_address(text: &str) -> Option<SocketAddr> {
    let (host, port) = text.rsplit_once(':')?;
    let host = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(host);
    Some(SocketAddr::new(address(host)?, port.parse().ok()?))
}

fn positive(text: &str) -> Option<usize> {
    text.parse().ok().filter(|count| *count > 0)
}

fn boolean(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "1" | "true" | "yes" | "on" => Some(true),
        "0" | "false" | "no" | "off" => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    fn read(line: &[&str], environment: &[(&str, &str)]) -> Result<ServeSettings, Vec<String>> {
        let line = CommandLine::try_parse_from([&["la-router"], line].concat()).unwrap();
        ServeSettings::read(&line.serve, &Lookup::of(environment))
    }

    #[test]
    fn nothing_needs_to_be_said() {
        let settings = read(&[], &[("HOME", "/home/me")]).unwrap();
        assert_eq!(settings.data_dir, PathBuf::from("/home/me/.link-assistant-router"));
        assert_eq!(settings.listen.listen.to_string(), "0.0.0.0:8080");
        assert_eq!(settings.listen.admin.to_string(), "127.0.0.1:8081");
        let SourceSettings::Flags(upstream) = settings.source else { panic!("{:?}", settings.source) };
        assert_eq!(upstream.base_url, "https://api.anthropic.com");
        assert_eq!(upstream.logins[0].path, PathBuf::from("/home/me/.claude"));
    }

    #[test]
    fn every_fault_is_told_at_once() {
        let faults = read(
            &["--port", "x", "--drain", "1d", "--admin-listen", "8081"],
            &[("TOKEN_SECRET", "change-me"), ("DISABLE_METRICS", "maybe"), ("UPSTREAM_PROVIDER", "gonka")],
        )
        .unwrap_err();
        let places: Vec<_> = faults.iter().map(|fault| fault.split(':').next().unwrap()).collect();
        let expected = [
            "--data-dir",
            "UPSTREAM_PROVIDER",
            "CLAUDE_CODE_HOME",
            "--port",
            "--admin-listen",
            "--drain",
            "TOKEN_SECRET",
            "DISABLE_METRICS",
        ];
        assert_eq!(places, expected, "{faults:#?}");
    }

    #[test]
    fn flag_wins_over_environment() {
        let settings =
            read(&["--port", "1"], &[("HOME", "/h"), ("ROUTER_PORT", "2"), ("ROUTER_HOST", "::1")]).unwrap();
        assert_eq!(settings.listen.listen.to_string(), "[::1]:1");
    }

    #[test]
    fn short_token_secret_is_warned_about_and_never_shown() {
        let settings = read(&["--token-secret", "canary-short"], &[("HOME", "/h")]).unwrap();
        assert!(settings.warnings[0].contains("fewer than 32 bytes"), "{:?}", settings.warnings);
        assert!(!format!("{settings:?}").contains("canary-short"));
    }
}
