//! From an UpstreamProvider to a provider of the snapshot and its credentials.

use la_core::account::health::{Policy, StopAt};
use la_core::credential::{Credential, Credentials};
use la_core::duration;
use la_core::snapshot::{self, CredentialSource, Provider, credential_key};

use super::credentials::{self, Unresolved};
use super::{Mode, ObjectFault, Place, World, logins};
use crate::UpstreamProvider;
use crate::conditions::reason;
use crate::rules;
use crate::upstream_provider::{
    Account, AccountCredential, Backend, DIRECTORY_MESSAGE, IdentityToken, RefreshMode,
    SERVICE_ACCOUNT_MESSAGE, TOKEN_FILE_MESSAGE,
};

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
        let is_its_own = logins::check(provider, at, world);
        match is_its_own.and_then(|()| published(account, &place, world)) {
            Ok(Some(credential)) => {
                credentials.insert(credential_key(&place.name, &account.name), credential);
            }
            Ok(None) => {}
            Err(why) => faults.push(place.fault(format!("{path}.{}", why.field), why.reason, why.message)),
        }
        accounts.push(account_of(account, backend.refresh.mode, world.mode));
    }
    let times = timeouts(provider).zip(health(provider)).filter(|_| !breaks_a_rule);
    let Some((timeouts, health)) = times else {
        return Resolved { provider: unusable(&place.name), credentials: Credentials::new(), faults };
    };
    let (base_url, selection) = (backend.base_url.clone(), backend.selection);
    let backend = snapshot::Backend::Anthropic { base_url, accounts, selection };
    let pricing = provider.spec.pricing.overrides.clone();
    Resolved {
        provider: Provider { name: place.name, backend, timeouts, health, pricing },
        credentials,
        faults,
    }
}

/// Stands for a provider that does not exist or breaks a rule.
///
/// Leaving it out would leave its routes out, and a route behind them could send the very same requests to
/// an account that was never meant for them. So they are refused instead, naming the provider.
pub(super) fn unusable(name: &str) -> Provider {
    Provider::anthropic(
        name,
        NOWHERE,
        vec![snapshot::Account::new("unresolved", CredentialSource::Published)],
    )
}

/// The credential to publish, if any: one in a directory or of an identity in a file is the proxy's own affair.
fn published(account: &Account, place: &Place, world: &World<'_>) -> Result<Option<Credential>, Unresolved> {
    if let Some(resolved) = credentials::resolve(&account.credential, &place.namespace, world.secrets) {
        return resolved.map(Some);
    }
    let refused = |field, reason, message: &str| {
        let message = message.to_owned();
        Err(Unresolved { field, reason, message })
    };
    match (identity_token(&account.credential), world.mode) {
        (None | Some(IdentityToken::File(_)), Mode::Manifests) => Ok(None),
        (Some(IdentityToken::ServiceAccount(_)), Mode::Cluster) => {
            Ok(world.exchanged.get(&credential_key(&place.name, &account.name)).cloned())
        }
        (None, Mode::Cluster) => {
            refused("credential.directory", reason::DIRECTORY_IN_CLUSTER, DIRECTORY_MESSAGE)
        }
        (Some(IdentityToken::File(_)), Mode::Cluster) => refused(
            "credential.workloadIdentity.tokenFrom.file",
            reason::TOKEN_FILE_IN_CLUSTER,
            TOKEN_FILE_MESSAGE,
        ),
        (Some(IdentityToken::ServiceAccount(_)), Mode::Manifests) => refused(
            "credential.workloadIdentity.tokenFrom.serviceAccount",
            reason::SERVICE_ACCOUNT_OUTSIDE_CLUSTER,
            SERVICE_ACCOUNT_MESSAGE,
        ),
    }
}

fn identity_token(credential: &AccountCredential) -> Option<&IdentityToken> {
    match credential {
        AccountCredential::WorkloadIdentity(identity) => Some(&identity.token_from),
        _ => None,
    }
}

fn account_of(account: &Account, refresh: RefreshMode, mode: Mode) -> snapshot::Account {
    let source = match (&account.credential, mode) {
        (AccountCredential::Directory(from), Mode::Manifests) => {
            CredentialSource::Directory { path: from.path.clone() }
        }
        (AccountCredential::WorkloadIdentity(identity), Mode::Manifests) => match &identity.token_from {
            IdentityToken::File(file) => {
                let (federation, token_file) = (identity.federation(), file.path.clone());
                CredentialSource::Identity { federation, token_file }
            }
            IdentityToken::ServiceAccount(_) => CredentialSource::Published,
        },
        _ => CredentialSource::Published,
    };
    let is_renewed = match &account.credential {
        AccountCredential::Oauth(_) => refresh == RefreshMode::Operator,
        AccountCredential::WorkloadIdentity(_) => true,
        _ => false,
    };
    snapshot::Account {
        priority: account.priority.unsigned_abs(),
        weight: account.weight.max(1).unsigned_abs(),
        max_concurrency: account.max_concurrency.map(|most| most.max(1).unsigned_abs()),
        disabled: account.disabled,
        renewable: is_renewed && mode == Mode::Cluster,
        ..snapshot::Account::new(&account.name, source)
    }
}

fn health(provider: &UpstreamProvider) -> Option<Policy> {
    let (spec, Backend::Anthropic(backend)) = (&provider.spec.health, &provider.spec.backend);
    let seconds = |text: &str| u32::try_from(duration::parse(text).ok()?.as_secs()).ok();
    let permille = |percent: Option<i32>| percent.map(|percent| percent.unsigned_abs().saturating_mul(10));
    let stop = backend.stop_at_utilization;
    Some(Policy {
        consecutive_failures: spec.consecutive_failures.unsigned_abs(),
        cooldown_seconds: seconds(&spec.cooldown)?,
        max_cooldown_seconds: seconds(&spec.max_cooldown)?,
        honour_retry_after: spec.honour_retry_after,
        stop_at: StopAt { five_hour: permille(stop.five_hour), seven_day: permille(stop.seven_day) },
        use_overage: backend.use_overage,
    })
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
