//! Reads everything that decides about one UpstreamProvider.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use kube::ResourceExt as _;
use la_core::report::AccountReport;
use la_crds::compile::{Compiled, Mode, World, compile};
use la_crds::conditions::reason;
use la_crds::router_proxy::{
    Affinity, Candidate, LedgerSpec, Observability, Resources, Retry, Route, Shutdown, Streams,
    TokenAdmission,
};
use la_crds::upstream_provider::{Account, AccountCredential, Backend, RefreshMode};
use la_crds::{RouterProxy, RouterProxySpec, UpstreamProvider};

use crate::names::ObjectName;
use crate::refresh::LoginName;
use crate::secrets::SecretsError;
use crate::shared::Shared;

/// What compiles of the provider, and what pods say of its accounts.
pub(super) struct Gathered {
    /// Credentials and faults.
    pub(super) compiled: Compiled,
    /// What pods say of accounts in this namespace.
    pub(super) reports: Vec<AccountReport>,
    /// The logins that are renewed for it, with their accounts.
    pub(super) logins: Vec<(LoginName, String)>,
}

/// Observes `provider`.
pub(super) async fn gather(
    shared: &Arc<Shared>,
    provider: &UpstreamProvider,
) -> Result<Gathered, SecretsError> {
    let namespace = provider.namespace().unwrap_or_default();
    let secrets = shared.secrets.read(&namespace, &secret_names(provider)).await?;
    let proxy = only_for(provider, &namespace);
    let mut providers = shared.stores.sharing(&namespace, std::slice::from_ref(provider));
    providers.push(provider.clone());
    let mut compiled = compile(&World {
        proxy: &proxy,
        providers: &providers,
        tokens: &[],
        budgets: &[],
        namespaces: &BTreeMap::new(),
        secrets: &secrets,
        exchanged: &shared.exchanges.credentials(&ObjectName::of(provider)),
        keys: &[],
        admin_keys: &[],
        mode: Mode::Cluster,
    });
    compiled.faults.retain(|fault| fault.kind == "UpstreamProvider" && fault.name == provider.name_any());
    let mut logins = logins(provider);
    logins.retain(|(_, account)| !is_taken(provider, account, &compiled));
    Ok(Gathered { compiled, reports: reports(shared, &namespace), logins })
}

/// Whether the login of an account is another account's, which renews it.
fn is_taken(provider: &UpstreamProvider, account: &str, compiled: &Compiled) -> bool {
    let accounts = provider.spec.backend.accounts();
    let Some(at) = accounts.iter().position(|known| known.name == account) else { return false };
    let place = format!("accounts[{at}].");
    compiled.faults.iter().any(|fault| fault.reason == reason::DUPLICATE && fault.field.contains(&place))
}

/// The Secrets that `provider` names.
pub(crate) fn secret_names(provider: &UpstreamProvider) -> BTreeSet<String> {
    let accounts = provider.spec.backend.accounts().iter();
    accounts.filter_map(|account| account.credential.secret_ref()).map(|secret| secret.name.clone()).collect()
}

/// The logins of `provider` that the operator renews, with their accounts.
pub(crate) fn logins(provider: &UpstreamProvider) -> Vec<(LoginName, String)> {
    let Backend::Anthropic(backend) = &provider.spec.backend;
    if backend.refresh.mode != RefreshMode::Operator {
        return Vec::new();
    }
    let namespace = provider.namespace().unwrap_or_default();
    let login = |account: &Account| match &account.credential {
        AccountCredential::Oauth(from) => {
            let secret = ObjectName::new(&namespace, &from.secret_ref.name);
            Some((LoginName { secret, key: from.secret_ref.key.clone() }, account.name.clone()))
        }
        _ => None,
    };
    backend.accounts.iter().filter_map(login).collect()
}

/// A proxy whose only route leads to `provider`, so that a provider is judged by the rules of compilation
/// whether or not a real proxy uses it.
fn only_for(provider: &UpstreamProvider, namespace: &str) -> RouterProxy {
    let candidate = Candidate { provider: provider.name_any(), priority: 0, model: None };
    let (retry, affinity) = (Retry::default(), Affinity::default());
    let spec = RouterProxySpec {
        image: None,
        replicas: 0,
        tokens: TokenAdmission::default(),
        routes: vec![Route { matching: None, candidates: vec![candidate], retry, affinity }],
        ledger: LedgerSpec::default(),
        streams: Streams::default(),
        shutdown: Shutdown::default(),
        resources: Resources::default(),
        observability: Observability::default(),
    };
    let mut proxy = RouterProxy::new("provider-check", spec);
    proxy.metadata.namespace = Some(namespace.to_owned());
    proxy
}

fn reports(shared: &Shared, namespace: &str) -> Vec<AccountReport> {
    let proxies = shared.stores.proxies.state_filter(|proxy| proxy.namespace().as_deref() == Some(namespace));
    let mut reports = Vec::new();
    for proxy in proxies {
        for pod in shared.fleet.pods_of(&ObjectName::of(proxy.as_ref())).into_values() {
            reports.extend(pod.report.into_iter().flat_map(|report| report.accounts));
        }
    }
    reports
}
