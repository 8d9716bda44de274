//! `doctor`: looks at everything a router needs, one line each, with the remedy where something is wrong.
//!
//! Changes nothing but making the data folder where it is missing, and sends nothing upstream but a
//! connection.

use std::net::TcpListener;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use la_core::snapshot::{Backend, CredentialSource, Snapshot};

use super::beside::Server;
use super::say;
use crate::app::{self, Failure};
use crate::clock;
use crate::credentials::{Folder, find_home_patiently, read_assertion};
use crate::data_dir::DataDir;
use crate::ledger::{self, Ledger};
use crate::refresh::right::{Followed, judge};
use crate::settings::{LedgerSettings, Lookup, RefreshSettings, ServeArgs, ServeSettings, SourceSettings};
use crate::upstream::connector::connect;
use crate::upstream::endpoint::Endpoint;
use crate::usage_log::Keeping;

const CONNECT_PATIENCE: Duration = Duration::from_secs(5);

/// One line of the report.
struct Finding {
    verdict: Verdict,
    text: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Verdict {
    Good,
    Doubtful,
    Bad,
}

#[derive(Default)]
struct Findings(Vec<Finding>);

impl Findings {
    fn good(&mut self, text: impl Into<String>) {
        self.0.push(Finding { verdict: Verdict::Good, text: text.into() });
    }

    fn doubtful(&mut self, text: impl Into<String>) {
        self.0.push(Finding { verdict: Verdict::Doubtful, text: text.into() });
    }

    fn bad(&mut self, text: impl Into<String>) {
        self.0.push(Finding { verdict: Verdict::Bad, text: text.into() });
    }

    fn show(&self) -> String {
        let line = |finding: &Finding| {
            let mark = match finding.verdict {
                Verdict::Good => "ok  ",
                Verdict::Doubtful => "warn",
                Verdict::Bad => "FAIL",
            };
            format!("{mark}  {}\n", finding.text)
        };
        self.0.iter().map(line).collect()
    }
}

/// Looks, and fails when something is wrong.
pub(super) fn run(args: &ServeArgs, lookup: &Lookup) -> Result<(), Failure> {
    let settings = ServeSettings::read(args, lookup).map_err(Failure::Configuration)?;
    let mut findings = Findings::default();
    findings.good(format!("la-router {}: every flag and variable is understood", env!("CARGO_PKG_VERSION")));
    settings.warnings.iter().for_each(|warning| findings.doubtful(warning.clone()));
    let served = Server::find(&settings.data_dir)?.is_some();
    data_dir(&settings, served, &mut findings);
    ports(&settings, served, &mut findings);
    if let Some(snapshot) = configuration(&settings, served, &mut findings) {
        credentials(&snapshot, &settings.refresh, &mut findings);
        upstreams(&snapshot, &mut findings)?;
    }
    say(&findings.show())?;
    let bad = findings.0.iter().filter(|finding| finding.verdict == Verdict::Bad).count();
    if bad == 0 {
        Ok(())
    } else {
        Err(Failure::Runtime(format!("{bad} of {} checks failed", findings.0.len())))
    }
}

fn data_dir(settings: &ServeSettings, served: bool, findings: &mut Findings) {
    let path = settings.data_dir.display();
    if served {
        findings.good(format!("data folder {path}: a router runs on it"));
        return;
    }
    let data_dir = match DataDir::open(&settings.data_dir) {
        Ok(data_dir) => data_dir,
        Err(error) => return findings.bad(error.to_string()),
    };
    findings.good(format!("data folder {path}: can be written"));
    match &settings.ledger {
        LedgerSettings::Embedded => {}
        LedgerSettings::Memory => return findings.good("ledger: in memory".to_owned()),
        LedgerSettings::Redis(redis) => {
            return match ledger::try_redis(redis) {
                Ok(()) => findings.good(format!("ledger: {} can keep it", redis.url)),
                Err(why) => findings.bad(format!("ledger: {}: {why}", redis.url)),
            };
        }
    }
    match Ledger::open_embedded(data_dir.path(), Keeping::Owed, clock::unix_seconds()) {
        Err(error) => findings.bad(error.to_string()),
        Ok(ledger) => match ledger.close() {
            Ok(()) => findings.good(format!("ledger: {} tokens have used it", ledger.usage_all().len())),
            Err(error) => findings.bad(error.to_string()),
        },
    }
}

fn ports(settings: &ServeSettings, served: bool, findings: &mut Findings) {
    for (what, address) in [("requests", settings.listen.listen), ("administration", settings.listen.admin)] {
        match TcpListener::bind(address) {
            Ok(_) => findings.good(format!("{address} is free for {what}")),
            Err(_) if served => findings.good(format!("{address} for {what} is in use, as it should be")),
            Err(error) => findings.bad(app::not_bound(address, &error)),
        }
    }
}

/// What would be served, read the way `serve` reads it.
fn configuration(settings: &ServeSettings, served: bool, findings: &mut Findings) -> Option<Snapshot> {
    if served && !matches!(settings.source, SourceSettings::SnapshotDir(_)) {
        findings.doubtful(
            "configuration: not compiled, because a running router holds the data folder; see its /status",
        );
        return None;
    }
    let data_dir = match DataDir::open(&settings.data_dir) {
        Ok(data_dir) => data_dir,
        // Said before.
        Err(_) => return None,
    };
    let result = match app::preview(&data_dir, settings) {
        Ok(result) => result,
        Err(Failure::Configuration(faults)) => {
            faults.into_iter().for_each(|fault| findings.bad(fault));
            return None;
        }
        Err(Failure::Runtime(error)) => {
            findings.bad(error);
            return None;
        }
    };
    let app::Preview { snapshot, faults, ignored } = result;
    ignored.into_iter().for_each(|what| findings.doubtful(what));
    faults.into_iter().for_each(|fault| findings.bad(fault));
    let (tokens, routes) = (snapshot.tokens.len(), snapshot.routes.len());
    findings.good(format!(
        "configuration: {tokens} tokens, {} providers, {routes} routes",
        snapshot.providers.len()
    ));
    Some(snapshot)
}

fn credentials(snapshot: &Snapshot, settings: &RefreshSettings, findings: &mut Findings) {
    for provider in &snapshot.providers {
        let Backend::Anthropic { accounts, .. } = &provider.backend;
        for account in accounts {
            let (provider, account, source) = (&provider.name, &account.name, &account.credential);
            match source {
                CredentialSource::Published => {
                    findings.good(format!("account {provider}/{account}: has a credential"));
                }
                CredentialSource::Directory { path } => {
                    login(&Folder { provider, account, path: Path::new(path) }, settings, findings);
                }
                CredentialSource::Identity { token_file, .. } => {
                    let name = format!("account {provider}/{account}");
                    match read_assertion(Path::new(token_file)) {
                        Ok(_) => findings.good(format!("{name}: {token_file} holds an identity token")),
                        Err(error) => findings.bad(format!("{name}: {error}")),
                    }
                }
            }
        }
    }
}

/// How long a login is good, and who renews it.
fn login(folder: &Folder<'_>, settings: &RefreshSettings, findings: &mut Findings) {
    let name = format!("account {}", folder.key());
    let found = match find_home_patiently(folder.path) {
        Ok(found) => found,
        Err(error) => return findings.bad(format!("{name}: {error}")),
    };
    let keeper = match found.login.refresh_token() {
        Some(_) => judge(settings, folder.path, &found.file),
        None => Err(Followed::NoRefreshToken),
    };
    let left = found.login.expires_at().map(|at| at.saturating_sub(clock::unix_seconds()));
    let place = folder.path.display();
    let end = match left {
        None => "has no known end".to_owned(),
        Some(left) if left <= 0 => "has expired".to_owned(),
        Some(left) => format!("is good for {} more minutes", left / 60),
    };
    match (keeper, left) {
        (Ok(()), _) => findings.good(format!("{name}: the login in {place} {end}; renewed here")),
        (Err(why), Some(..=0)) => findings.bad(format!(
            "{name}: the login in {place} {end}, and is not renewed here: {why}; use Claude Code once, or log \
             in again"
        )),
        (Err(why), _) => {
            findings.good(format!("{name}: the login in {place} {end}; not renewed here: {why}"));
        }
    }
}

fn upstreams(snapshot: &Snapshot, findings: &mut Findings) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::Runtime(format!("no runtime: {error}")))?;
    for provider in &snapshot.providers {
        let Backend::Anthropic { base_url, .. } = &provider.backend;
        let name = &provider.name;
        match reach(&runtime, base_url) {
            Ok(()) => findings.good(format!("provider {name}: {base_url} can be reached")),
            Err(error) => findings.bad(format!(
                "provider {name}: {base_url} cannot be reached: {error}; check network and proxy"
            )),
        }
    }
    Ok(())
}

fn reach(runtime: &tokio::runtime::Runtime, base_url: &str) -> Result<(), String> {
    let endpoint = Endpoint::parse(base_url).map_err(|e| e.to_string())?;
    let local = tokio::task::LocalSet::new();
    let buffers = Rc::default();
    let connected =
        async { tokio::time::timeout(CONNECT_PATIENCE, connect(&endpoint.place, &buffers)).await };
    match local.block_on(runtime, connected) {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!("no connection within {} s", CONNECT_PATIENCE.as_secs())),
    }
}
