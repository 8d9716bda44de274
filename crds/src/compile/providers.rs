//! From an UpstreamProvider to a provider of the snapshot and its credentials.

use la_core::credential::{Credential, Credentials};
use la_core::duration;
use la_core::snapshot::{self, CredentialSource, Provider, credential_key};

use super::credentials::{self, Unresolved};
use super::{Mode, ObjectFault, Place, World};
use crate::UpstreamProvider;
use crate::conditions::reason;
use crate::rules;
use crate::upstream_provider::{Account, AccountCredential, Backend, DIRECTORY_MESSAGE};

/// Where a provider that cannot be used seems to be. Nothing is ever sent there, because its account has no
/// credential; the name cannot resolve either (RFC 6761).
const NOWHERE: &str = "https://unresolved.invalid";

/// A provider, ready for the snapshot.
pub(super) struct Resolved {
    pub(super) provider: Provider,
    pub(super) credentials: Credentials,
    pub(super) faults: Vec<ObjectFault>,
}

/// Resolves `provider`. An account without a usable credential stays, so that refusals can name it; a
/// provider that breaks a rule becomes [`unusable`].
pub(super) fn resolve(provider: &UpstreamProvider, world: &World<'_>) -> Resolved {
    let place = Place::of("UpstreamProvider", &provider.metadata);
    let mut faults: Vec<_> =
        rules::upstream_provider(&provider.spec).into_iter().map(|broken| place.broken(broken)).collect();
    let breaks_a_rule = !faults.is_empty();
    let Backend::Anthropic(backend) = &provider.spec.backend;
    let (mut accounts, mut credentials) = (Vec::new(), Credentials::new());
    for (at, account) in backend.accounts.iter().enumerate() {
        let path = format!("spec.backend.anthropic.accounts[{at}]");
        match published(account, &place.namespace, world) {
            Ok(Some(credential)) => {
                credentials.insert(credential_key(&place.name, &account.name), credential);
            }
            Ok(None) => {}
            Err(why) => faults.push(place.fault(format!("{path}.{}", why.field), why.reason, why.message)),
        }
        accounts.push(source_of(account, world.mode));
    }
    let timeouts = timeouts(provider).filter(|_| !breaks_a_rule);
    let Some(timeouts) = timeouts else {
        return Resolved { provider: unusable(&place.name), credentials: Credentials::new(), faults };
    };
    let backend = snapshot::Backend::Anthropic { base_url: backend.base_url.clone(), accounts };
    Resolved {
        provider: Provider {
            name: place.name,
            backend,
            timeouts,
            pricing: provider.spec.pricing.overrides.clone(),
        },
        credentials,
        faults,
    }
}

/// Stands for a provider that does not exist or breaks a rule.
///
/// Leaving it out would leave its routes out, and a route behind them could send the very same requests to
/// an account that was never meant for them. So they are refused instead, naming the provider.
pub(super) fn unusable(name: &str) -> Provider {
    let account =
        snapshot::Account { name: "unresolved".to_owned(), credential: CredentialSource::Published };
    let backend = snapshot::Backend::Anthropic { base_url: NOWHERE.to_owned(), accounts: vec![account] };
    Provider { name: name.to_owned(), backend, timeouts: snapshot::Timeouts::default(), pricing: Vec::new() }
}

/// The credential to publish, if any: one in a directory is read by the proxy itself.
fn published(
    account: &Account,
    namespace: &str,
    world: &World<'_>,
) -> Result<Option<Credential>, Unresolved> {
    match credentials::resolve(&account.credential, namespace, world.secrets) {
        Some(resolved) => resolved.map(Some),
        None if world.mode == Mode::Manifests => Ok(None),
        None => Err(Unresolved {
            field: "credential.directory",
            reason: reason::DIRECTORY_IN_CLUSTER,
            message: DIRECTORY_MESSAGE.to_owned(),
        }),
    }
}

fn source_of(account: &Account, mode: Mode) -> snapshot::Account {
    let credential = match (&account.credential, mode) {
        (AccountCredential::Directory(from), Mode::Manifests) => {
            CredentialSource::Directory { path: from.path.clone() }
        }
        _ => CredentialSource::Published,
    };
    snapshot::Account { name: account.name.clone(), credential }
}

fn timeouts(provider: &UpstreamProvider) -> Option<snapshot::Timeouts> {
    let times = &provider.spec.timeouts;
    let read = |text: &str| u64::try_from(duration::parse(text).ok()?.as_millis()).ok();
    Some(snapshot::Timeouts {
        connect_ms: read(&times.connect)?,
        first_byte_ms: read(&times.first_byte)?,
        idle_ms: read(&times.idle)?,
        total_ms: read(&times.total)?,
    })
}
