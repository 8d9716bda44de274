//! The manifests in a folder, compiled by the very code that the operator uses, with their tokens minted
//! here.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use la_core::credential::Credentials;
use la_core::duration;
use la_core::snapshot::IssuedId;
use la_crds::compile::{Compiled, MintedToken, Mode, ObjectFault, World, compile};
use la_crds::conditions::reason;
use la_crds::manifests::{Manifests, read_usable};
use la_crds::router_proxy::{self, Ledger, LedgerSpec};
use la_crds::{RouterProxy, RouterToken};
use tokio::sync::watch;

use super::fingerprint::Fingerprint;
use super::{FromManifest, Generations, LoadError, Loaded};
use crate::ledger::{OnUnavailable, SharedRecords};
use crate::settings::LedgerInUse;
use crate::tokens::{IssueRules, Minter, Origin, Record, TokenStore, Wanted};

/// Most bytes of one manifest.
const MAX_FILE_BYTES: u64 = 4 << 20;

/// The folder, and what is minted for it.
pub struct ManifestFolder {
    dir: PathBuf,
    tokens: Arc<TokenStore>,
    minter: Minter,
    /// Where use is counted.
    ledger: LedgerInUse,
    /// Where records are shared with other processes.
    shared: Option<SharedRecords>,
    /// What is ignored of the manifests, once it was said.
    ignored: Option<String>,
    changes: watch::Receiver<u64>,
    /// When a renewal is due, in Unix seconds.
    due: Option<i64>,
    served_before: bool,
}

impl ManifestFolder {
    /// With `shared`, all processes of the RouterProxy that share it mint the same texts.
    pub fn new(
        dir: PathBuf,
        tokens: Arc<TokenStore>,
        minter: Minter,
        (ledger, shared): (LedgerInUse, Option<SharedRecords>),
    ) -> Self {
        let changes = tokens.subscribe();
        Self { dir, tokens, minter, ledger, shared, ignored: None, changes, due: None, served_before: false }
    }

    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.clone()
    }

    pub fn fingerprint(&self) -> u64 {
        let mut print = Fingerprint::default();
        print.add_folder(&self.dir);
        print.value() ^ self.changes.borrow().rotate_left(32)
    }

    pub fn is_due(&self, now: i64) -> bool {
        self.due.is_some_and(|due| due <= now)
    }

    /// Reads and compiles the folder, and mints what it asks for at `now` (Unix seconds).
    ///
    /// At the first time every fault is an error, so that a person corrects all of them at once. Later a
    /// faulty object is left out and reported.
    ///
    /// # Errors
    /// Every fault of the folder.
    pub fn load(&mut self, now: i64) -> Result<Loaded, LoadError> {
        let (manifests, mut faults) = self.read()?;
        let proxy = the_proxy(&manifests).map_err(|message| fail(&faults, message))?;
        self.tokens.serve_as(&qualified(proxy)).map_err(|e| LoadError(vec![e.to_string()]))?;
        self.tokens.issue_by(issue_rules(&manifests, proxy));
        let first = self.compile(&manifests, proxy);
        let written: Vec<_> = first.faults.iter().filter(|fault| !self.is_issued(fault)).collect();
        let is_faultless = faults.is_empty() && written.is_empty();
        if !self.served_before && !is_faultless {
            faults.extend(written.into_iter().map(|fault| manifests.locate(fault).to_string()));
            return Err(LoadError(faults));
        }
        let joined = self.shared.as_ref().map_or(Ok(()), |shared| self.tokens.join(shared));
        faults.extend(joined.err().map(|error| error.to_string()));
        faults.extend(self.mint(&manifests, proxy, &first, now));
        let compiled = self.compile(&manifests, proxy);
        faults.extend(compiled.faults.iter().map(|fault| self.told(&manifests, fault)));
        self.served_before = true;
        self.say_ignored(other_ledger(&manifests, proxy, self.ledger));
        let told = from_manifest(proxy);
        let (snapshot, credentials) = (compiled.snapshot, compiled.credentials);
        Ok(Loaded { snapshot, credentials, faults, generations: Generations::Ours, told })
    }

    /// What the folder would give, without minting anything.
    ///
    /// # Errors
    /// Every fault of the folder.
    pub fn preview(&mut self) -> Result<Loaded, LoadError> {
        let (manifests, mut faults) = self.read()?;
        let proxy = the_proxy(&manifests).map_err(|message| fail(&faults, message))?;
        let compiled = self.compile(&manifests, proxy);
        self.ignored = other_ledger(&manifests, proxy, self.ledger);
        faults.extend(compiled.faults.iter().map(|fault| self.told(&manifests, fault)));
        let (snapshot, credentials) = (compiled.snapshot, compiled.credentials);
        Ok(Loaded {
            snapshot,
            credentials,
            faults,
            generations: Generations::Ours,
            told: from_manifest(proxy),
        })
    }

    /// What the manifests say and this process does not do, as it was found last.
    pub fn ignored(&self) -> Option<&str> {
        self.ignored.as_deref()
    }

    /// Says it once, and again when it is another.
    fn say_ignored(&mut self, ignored: Option<String>) {
        if let Some(what) = ignored.as_ref().filter(|_| ignored != self.ignored) {
            tracing::warn!("configuration: {what}");
        }
        self.ignored = ignored;
    }

    /// Every faultless object of the folder, and the faults of the others.
    ///
    /// A file that is not YAML could hold any object; what was served before stays, so that a slip while
    /// writing revokes nothing. So it does while a RouterBudget is faulty, so that nobody goes without it.
    fn read(&self) -> Result<(Manifests, Vec<String>), LoadError> {
        let reading = read_usable(&read_files(&self.dir)?);
        let faults: Vec<String> = reading.faults.iter().map(ToString::to_string).collect();
        if reading.is_partial { Err(LoadError(faults)) } else { Ok((reading.manifests, faults)) }
    }

    /// Compiles the folder, and the tokens that were issued beside it as what they would be in it.
    fn compile(&self, manifests: &Manifests, proxy: &RouterProxy) -> Compiled {
        let issued = self.issued();
        let own = tokens_of(manifests, proxy).map(|token| {
            let (namespace, name) = place(token);
            MintedToken { token, ids: self.minter.ids(&namespace, &name) }
        });
        let issued = issued.iter().map(|(token, id)| MintedToken { token, ids: vec![id.clone()] });
        let tokens: Vec<MintedToken<'_>> = own.chain(issued).collect();
        let mut compiled = compile(&World {
            proxy,
            providers: &manifests.providers,
            tokens: &tokens,
            budgets: &manifests.budgets,
            namespaces: &manifests.namespaces,
            secrets: &manifests.secrets,
            exchanged: &Credentials::new(),
            keys: self.tokens.verifying(),
            admin_keys: &[],
            mode: Mode::Manifests,
        });
        let rules = issue_rules(manifests, proxy);
        compiled.faults.retain(|fault| !rules.excuse(fault));
        compiled
    }

    /// The tokens that were issued on the command line or over the admin API.
    fn issued(&self) -> Vec<(RouterToken, IssuedId)> {
        let records = self.tokens.records().into_iter().filter(|record| record.origin == Origin::Issued);
        records.filter_map(|record| Some((record.as_router_token().ok()?, record.issued_id()))).collect()
    }

    /// Whether a fault is about an issued token, which no file has.
    fn is_issued(&self, fault: &ObjectFault) -> bool {
        let is_it = |record: &Record| {
            record.origin == Origin::Issued
                && record.namespace == fault.namespace
                && record.name == fault.name
        };
        fault.kind == "RouterToken" && self.tokens.records().iter().any(is_it)
    }

    fn told(&self, manifests: &Manifests, fault: &ObjectFault) -> String {
        if self.is_issued(fault) {
            format!("token {} is not served: {}: {}", fault.name, fault.field, fault.message)
        } else {
            manifests.locate(fault).to_string()
        }
    }

    /// Mints for every token that is served, and revokes those that are gone.
    fn mint(
        &mut self,
        manifests: &Manifests,
        proxy: &RouterProxy,
        first: &Compiled,
        now: i64,
    ) -> Vec<String> {
        let faulty: BTreeSet<(String, String)> = first
            .faults
            .iter()
            .filter(|fault| fault.kind == "RouterToken")
            .map(|fault| (fault.namespace.clone(), fault.name.clone()))
            .collect();
        let names = manifests.token_names();
        let present = names.map(|(namespace, name)| (namespace.to_owned(), name.to_owned())).collect();
        let mut failed = self.minter.revoke_gone(&present, now);
        let mut wanted = Vec::new();
        for token in tokens_of(manifests, proxy).filter(|token| !faulty.contains(&place(token))) {
            match Wanted::of(token) {
                Ok(token) => wanted.push(token),
                Err(error) => {
                    let (namespace, name) = place(token);
                    failed.push(format!("RouterToken {namespace}/{name}: {error}"));
                }
            }
        }
        failed.extend(self.minter.mint(&wanted, now));
        // What could not be renewed is tried again, though not at every look.
        self.due = self.minter.next_due(&wanted, now).map(|due| due.max(now.saturating_add(1)));
        failed
    }
}

fn tokens_of<'a>(manifests: &'a Manifests, proxy: &'a RouterProxy) -> impl Iterator<Item = &'a RouterToken> {
    let namespace = proxy.metadata.namespace.as_deref().unwrap_or_default();
    let name = proxy.metadata.name.as_deref().unwrap_or_default();
    manifests
        .tokens
        .iter()
        .filter(move |token| token.proxy_namespace() == namespace && token.spec.proxy_ref.name == name)
}

fn issue_rules(manifests: &Manifests, proxy: &RouterProxy) -> IssueRules {
    IssueRules {
        proxy: proxy.clone(),
        budgets: manifests.budgets.clone(),
        namespaces: manifests.namespaces.clone(),
    }
}

fn place(token: &RouterToken) -> (String, String) {
    let meta = &token.metadata;
    (meta.namespace.clone().unwrap_or_default(), meta.name.clone().unwrap_or_default())
}

fn qualified(proxy: &RouterProxy) -> String {
    let meta = &proxy.metadata;
    format!("{}/{}", meta.namespace.as_deref().unwrap_or_default(), meta.name.as_deref().unwrap_or_default())
}

/// What a RouterProxy says of its ledger, where this process counts otherwise: the field describes pods. One that says
/// what holds without it says nothing.
fn other_ledger(manifests: &Manifests, proxy: &RouterProxy, in_use: LedgerInUse) -> Option<String> {
    let spec = &proxy.spec.ledger;
    if *spec == LedgerSpec::default() {
        return None;
    }
    let kind = match spec.place {
        Ledger::Embedded(_) => "embedded",
        Ledger::Redis(_) => "redis",
        Ledger::Memory(_) => "memory",
    };
    let policy = match spec.on_unavailable {
        router_proxy::OnUnavailable::Deny => ("deny", OnUnavailable::Deny),
        router_proxy::OnUnavailable::Allow => ("allow", OnUnavailable::Allow),
    };
    let (field, flag, said, used) = if kind != in_use.kind {
        ("spec.ledger", "--ledger", kind, in_use.kind)
    } else if policy.1 != in_use.on_unavailable {
        let used = if policy.1 == OnUnavailable::Deny { "allow" } else { "deny" };
        ("spec.ledger.onUnavailable", "--ledger-on-unavailable", policy.0, used)
    } else {
        return None;
    };
    let meta = &proxy.metadata;
    let fault = ObjectFault {
        kind: "RouterProxy",
        namespace: meta.namespace.clone().unwrap_or_default(),
        name: meta.name.clone().unwrap_or_default(),
        field: field.to_owned(),
        reason: reason::INVALID_FIELD,
        message: format!(
            "is {said}, and this process uses {used}: the field describes pods; start la-router with {flag} {said}, or \
             leave it out"
        ),
    };
    Some(manifests.locate(&fault).to_string())
}

/// What is wrong with the folder as a whole; where files have faults, those say it better.
fn fail(faults: &[String], message: String) -> LoadError {
    LoadError(if faults.is_empty() { vec![message] } else { faults.to_vec() })
}

fn the_proxy(manifests: &Manifests) -> Result<&RouterProxy, String> {
    match manifests.proxies.as_slice() {
        [proxy] => Ok(proxy),
        [] => {
            Err("manifests: there is no RouterProxy in the folder; la-router serves exactly one".to_owned())
        }
        several => {
            let names: Vec<_> = several.iter().map(qualified).collect();
            Err(format!(
                "manifests: la-router serves exactly one RouterProxy, the folder has {}",
                names.join(", ")
            ))
        }
    }
}

fn from_manifest(proxy: &RouterProxy) -> FromManifest {
    let drain: Option<Duration> = duration::parse(&proxy.spec.shutdown.drain).ok();
    FromManifest { drain, request_log: Some(proxy.spec.observability.request_log) }
}

/// Every manifest in the folder, in the order of their names.
fn read_files(dir: &Path) -> Result<Vec<(String, String)>, LoadError> {
    let unreadable = |path: &Path, error: &dyn std::fmt::Display| {
        LoadError(vec![format!("{}: cannot be read: {error}", path.display())])
    };
    let mut names: Vec<String> = std::fs::read_dir(dir)
        .map_err(|error| unreadable(dir, &error))?
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| !name.starts_with('.') && (name.ends_with(".yaml") || name.ends_with(".yml")))
        .collect();
    names.sort();
    let mut files = Vec::new();
    for name in names {
        let path = dir.join(&name);
        let size = std::fs::metadata(&path).map_err(|error| unreadable(&path, &error))?.len();
        if size > MAX_FILE_BYTES {
            return Err(unreadable(&path, &format!("has {size} bytes, more than {MAX_FILE_BYTES}")));
        }
        let text = std::fs::read_to_string(&path).map_err(|error| unreadable(&path, &error))?;
        files.push((name, text));
    }
    Ok(files)
}
