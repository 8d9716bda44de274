//! One login is one account. As two it would seem to have its limits twice, and renewed under two names it would be
//! lost to both.

use super::World;
use super::credentials::{Unresolved, login_in};
use crate::UpstreamProvider;
use crate::conditions::reason;
use crate::upstream_provider::{Account, AccountCredential};

/// Refuses an account, the one at `at`, whose login another of the namespace names as well: an earlier one of its
/// provider, or one of an older provider; of two that are as old, the first by name.
pub(super) fn check(provider: &UpstreamProvider, at: usize, world: &World<'_>) -> Result<(), Unresolved> {
    let Some(account) = provider.spec.backend.accounts().get(at) else { return Ok(()) };
    let Some(own) = place(provider, account, world) else { return Ok(()) };
    let of_namespace = |other: &&UpstreamProvider| other.metadata.namespace == provider.metadata.namespace;
    let mut providers: Vec<_> = world.providers.iter().filter(of_namespace).collect();
    let age = |provider: &UpstreamProvider| provider.metadata.creation_timestamp.clone();
    providers.sort_by_key(|provider| (age(provider), provider.metadata.name.clone()));
    let accounts = providers.into_iter().flat_map(|other| {
        let accounts = other.spec.backend.accounts().iter().enumerate();
        accounts.map(move |(nth, account)| (other, nth, account))
    });
    let before = accounts
        .take_while(|(other, nth, _)| other.metadata.name != provider.metadata.name || *nth != at)
        .find(|(other, _, account)| place(other, account, world).as_ref() == Some(&own));
    let Some((other, _, taken)) = before else { return Ok(()) };
    let called = |provider: &UpstreamProvider, account: &Account| {
        format!("{}/{}", provider.metadata.name.as_deref().unwrap_or_default(), account.name)
    };
    Err(Unresolved {
        field: "credential.oauth.secretRef.name",
        reason: reason::DUPLICATE,
        message: format!(
            "Secret {} of account {} holds the same login as account {}; log in anew for one of them",
            own.0,
            called(provider, account),
            called(other, taken)
        ),
    })
}

/// The Secret and the key that hold the login of an account, if they do.
fn place(provider: &UpstreamProvider, account: &Account, world: &World<'_>) -> Option<(String, String)> {
    let AccountCredential::Oauth(from) = &account.credential else { return None };
    let namespace = provider.metadata.namespace.clone().unwrap_or_default();
    let secret = world.secrets.get(&(namespace, from.secret_ref.name.clone()))?;
    let (key, _) = login_in(secret, &from.secret_ref).ok()?;
    Some((from.secret_ref.name.clone(), key))
}
