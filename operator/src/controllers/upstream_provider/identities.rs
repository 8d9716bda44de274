//! The workload identities of an UpstreamProvider: which ones the operator exchanges, and what is known of them
//! when a replica begins to lead.
//!
//! Access tokens are kept nowhere but in the snapshots of proxies. A new leader takes over from there what the
//! provider's status speaks of, end and time of exchange alike: the status is of this very spec, so the token is of
//! this very identity. Anything else is exchanged anew, which costs one call and nothing else.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Secret as KubeSecret;
use kube::{Api, ResourceExt as _};
use la_core::credential::{Credential, Credentials};
use la_core::oauth::Plan;
use la_core::oauth::federation::Obtained;
use la_core::snapshot::credential_key;
use la_crds::names::snapshot_secret;
use la_crds::upstream_provider::{AccountCredential, IdentityToken};
use la_crds::{RouterProxy, UpstreamProvider};

use super::plan;
use crate::controllers::router_proxy::is_controlled_by;
use crate::names::ObjectName;
use crate::refresh::Identity;
use crate::resources::secrets::read_snapshot;
use crate::shared::Shared;

/// Exchanges the identities of `provider` from now on.
///
/// # Errors
/// When a snapshot cannot be read that may hold an access token of one.
pub(crate) async fn follow(shared: &Shared, provider: &UpstreamProvider) -> Result<(), kube::Error> {
    let (name, wanted) = (ObjectName::of(provider), identities(provider));
    let known = if shared.exchanges.follows(&name, &wanted) {
        BTreeMap::new()
    } else {
        served(shared, provider, wanted.keys()).await?
    };
    shared.exchanges.follow(&name, wanted, &known);
    Ok(())
}

/// The identities of `provider` that are in use, by account.
fn identities(provider: &UpstreamProvider) -> BTreeMap<String, (Identity, Plan)> {
    let accounts = provider.spec.backend.accounts().iter().filter(|account| !account.disabled);
    let identity = |credential: &AccountCredential| match credential {
        AccountCredential::WorkloadIdentity(identity) => match &identity.token_from {
            IdentityToken::ServiceAccount(token) => {
                Some(Identity { token: token.clone(), federation: identity.federation() })
            }
            IdentityToken::File(_) => None,
        },
        _ => None,
    };
    accounts
        .filter_map(|account| {
            Some((account.name.clone(), (identity(&account.credential)?, plan(provider, &account.name))))
        })
        .collect()
}

/// Access tokens of these accounts that proxies serve and the provider's status speaks of.
async fn served<'a>(
    shared: &Shared,
    provider: &UpstreamProvider,
    accounts: impl Iterator<Item = &'a String>,
) -> Result<BTreeMap<String, Obtained>, kube::Error> {
    let spoken: BTreeMap<_, _> =
        accounts.filter_map(|account| Some((account, spoken_of(provider, account)?))).collect();
    let mut known = BTreeMap::new();
    if spoken.is_empty() {
        return Ok(known);
    }
    let namespace = provider.namespace().unwrap_or_default();
    let of_provider = |proxy: &RouterProxy| proxy.namespace().as_ref() == Some(&namespace);
    for proxy in shared.stores.proxies.state_filter(of_provider) {
        let Some(credentials) = published(shared, &proxy).await? else { continue };
        for (account, (expires_at, obtained_at)) in &spoken {
            let found = credentials.get(&credential_key(&provider.name_any(), account));
            if let Some(Credential::OAuth { access_token, expires_at: Some(at) }) = found
                && at == expires_at
            {
                let (access_token, expires_at, obtained_at) = (access_token.clone(), *at, *obtained_at);
                known.insert((*account).clone(), Obtained { access_token, expires_at, obtained_at });
            }
        }
    }
    Ok(known)
}

/// When the access token of an account ends and when it was made, in Unix seconds, if the status is of this spec.
fn spoken_of(provider: &UpstreamProvider, account: &str) -> Option<(i64, i64)> {
    let status = provider.status.as_ref()?;
    if status.observed_generation.is_none() || status.observed_generation != provider.metadata.generation {
        return None;
    }
    let account = status.accounts.iter().find(|known| known.name == account)?;
    let second = |time: &Option<k8s_openapi::apimachinery::pkg::apis::meta::v1::Time>| {
        time.as_ref().map(|time| time.0.as_second())
    };
    Some((second(&account.credential_expires_at)?, second(&account.last_refresh_time)?))
}

/// The credentials that `proxy` serves, if it has any.
async fn published(shared: &Shared, proxy: &RouterProxy) -> Result<Option<Arc<Credentials>>, kube::Error> {
    let name = ObjectName::of(proxy);
    if let Some(edition) = shared.published.newest(&name) {
        return Ok(Some(edition.credentials));
    }
    let api: Api<KubeSecret> = Api::namespaced(shared.client.clone(), &name.namespace);
    let found = api.get_opt(&snapshot_secret(&name.name)).await?;
    let ours = found.filter(|secret| is_controlled_by(secret, proxy.uid()));
    Ok(ours.and_then(|secret| read_snapshot(&secret)).map(|(_, credentials)| Arc::new(credentials)))
}
