//! UpstreamProvider: are its credentials there, and can its accounts serve? Writes nothing but its status;
//! the credentials reach a proxy with the proxy's snapshot.

use std::collections::BTreeSet;
use std::sync::Arc;

use jiff::Timestamp;
use kube::runtime::controller::Action;
use kube::{Resource as _, ResourceExt as _};
use la_core::duration;
use la_core::oauth::{Jitter, Plan};
use la_crds::UpstreamProvider;
use la_crds::upstream_provider::Backend;

use self::decide::{Observed, decide};
use crate::controllers::status;
use crate::names::ObjectName;
use crate::secrets::SecretsError;
use crate::shared::Shared;

mod decide;
mod gather;
mod identities;

pub(crate) use gather::{logins, secret_names};
pub(crate) use identities::follow as follow_identities;

/// Why an UpstreamProvider could not be reconciled.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ProviderError {
    /// Its Secrets cannot be read.
    #[error(transparent)]
    Secrets(#[from] SecretsError),
    /// What proxies serve cannot be read.
    #[error("API server: {0}")]
    Api(#[source] Box<kube::Error>),
    /// Its status cannot be written.
    #[error(transparent)]
    Status(#[from] status::StatusError),
}

/// Says how one UpstreamProvider is.
pub(crate) async fn reconcile(
    provider: Arc<UpstreamProvider>,
    shared: Arc<Shared>,
) -> Result<Action, ProviderError> {
    if provider.metadata.deletion_timestamp.is_some() {
        return Ok(Action::await_change());
    }
    let name = ObjectName::of(provider.as_ref());
    follow_identities(&shared, &provider).await.map_err(|error| ProviderError::Api(Box::new(error)))?;
    let gathered = gather::gather(&shared, &provider).await?;
    let logins = gathered.logins.iter();
    let plans = logins.clone().map(|(login, account)| (login.clone(), plan(&provider, account)));
    shared.refreshers.follow(&name, plans.collect());
    let state = |(login, account): &(_, String)| Some((account.clone(), shared.refreshers.state(login)?));
    let renewals = logins.filter_map(state).collect();
    let decision = decide(&Observed {
        provider: &provider,
        now: Timestamp::now(),
        faults: &gathered.compiled.faults,
        credentials: &gathered.compiled.credentials,
        reports: &gathered.reports,
        renewals: &renewals,
        exchanges: &shared.exchanges.states(&name),
    });
    let object = provider.object_ref(&());
    let calm = decision.notes.is_empty();
    shared.events.publish(decision.notes, &object).await;
    if calm {
        shared.events.forget(&object);
    }
    status::write(&shared.client, provider.as_ref(), provider.status.as_ref(), &decision.status).await?;
    Ok(decision.wake.map_or_else(Action::await_change, Action::requeue))
}

/// When the login of an account is renewed, or its identity exchanged.
fn plan(provider: &UpstreamProvider, account: &str) -> Plan {
    let Backend::Anthropic(backend) = &provider.spec.backend;
    let before = backend.refresh.before.as_deref().and_then(|text| duration::parse(text).ok());
    let before_ms = before.and_then(|before| i64::try_from(before.as_millis()).ok());
    Plan {
        renews: true,
        before_ms: before_ms.unwrap_or(Plan::BEFORE_DEFAULT_MS),
        jitter: Jitter::of(&provider.name_any(), account),
        serves_unstored: false,
    }
}

/// Namespaces that have a provider, or a proxy that names a Secret: the only ones whose Secrets are looked at.
pub(crate) fn namespaces(shared: &Shared) -> BTreeSet<String> {
    let proxies = shared.stores.proxies.state_filter(|proxy| proxy.spec.ledger.url_secret().is_some());
    let proxies = proxies.iter().filter_map(|proxy| proxy.namespace());
    let providers = shared.stores.providers.state();
    providers.iter().filter_map(|provider| provider.namespace()).chain(proxies).collect()
}
