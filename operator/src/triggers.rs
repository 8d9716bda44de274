//! Which objects are reconciled because of which change.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{Namespace, Pod, Secret};
use kube::core::PartialObjectMeta;
use kube::{Resource, ResourceExt as _};
use la_crds::names::{ANNOTATION_ACCEPT_LEDGER, LABEL_PROXY, snapshot_secret};
use la_crds::router_token::RouterTokenStatus;
use la_crds::{RouterBudget, RouterProxy, RouterToken, UpstreamProvider};

use crate::controllers::router_token::records;
use crate::controllers::{router_proxy, upstream_provider};
use crate::names::{ObjectName, TOKEN_ANNOTATION};
use crate::shared::{Queues, Shared, Stores, proxy_of, proxy_of_budget};
use crate::watch::Change;

/// A RouterToken: itself when people changed it, its proxy when what is served changed.
pub(crate) fn token(shared: &Shared, change: Change<'_, RouterToken>) {
    let Some(token) = change.newest() else { return };
    let own = |t: &RouterToken| (t.uid(), t.metadata.generation, t.metadata.deletion_timestamp.clone());
    if change.differs(own) {
        push_token(&shared.queues, token);
    }
    let texts = |status: &RouterTokenStatus| records::issued(&status.tokens);
    let served = |t: &'_ RouterToken| {
        (t.uid(), t.spec.clone(), t.status.as_ref().map(texts), t.metadata.deletion_timestamp.clone())
    };
    let labelled = change.differs(|t| t.metadata.labels.clone());
    if labelled {
        // Which RouterBudgets cover it, and whether one of them is faulty.
        push_token(&shared.queues, token);
    }
    if labelled || change.differs(served) {
        push_proxy(&shared.queues, &proxy_of(token));
    }
    if labelled || change.differs(own) {
        push_budgets_of(shared, &proxy_of(token));
    }
}

/// A RouterBudget: itself, its proxy, and the tokens that it covers or covered.
pub(crate) fn budget(shared: &Shared, change: Change<'_, RouterBudget>) {
    let Some(budget) = change.newest() else { return };
    if change.differs(|b| (b.uid(), b.metadata.generation, b.metadata.deletion_timestamp.clone())) {
        let (name, proxy) = (ObjectName::of(budget), proxy_of_budget(budget));
        shared.queues.budgets.push_named(&name.namespace, &name.name);
        push_proxy(&shared.queues, &proxy);
        for token in shared.stores.tokens_of(&proxy) {
            push_token(&shared.queues, &token);
        }
    }
}

/// An UpstreamProvider: itself, those that name one of its Secrets, and the proxies whose routes lead to them.
pub(crate) fn provider(shared: &Shared, change: Change<'_, UpstreamProvider>) {
    let Some(provider) = change.newest() else { return };
    if change.after.is_none() {
        shared.secrets.keep_only(&upstream_provider::namespaces(shared));
        shared.refreshers.follow(&ObjectName::of(provider), BTreeMap::new());
        shared.exchanges.follow(&ObjectName::of(provider), BTreeMap::new(), &BTreeMap::new());
    }
    if change.differs(|p| (p.uid(), p.metadata.generation)) {
        let name = ObjectName::of(provider);
        shared.queues.providers.push_named(&name.namespace, &name.name);
        push_users_of(&shared.stores, &shared.queues, &name);
        let named = change.before.into_iter().chain(change.after).flat_map(upstream_provider::secret_names);
        for secret in named.collect::<BTreeSet<_>>() {
            provider_secret(&shared.stores, &shared.queues, &ObjectName::new(&name.namespace, &secret));
        }
    }
}

/// A RouterProxy: itself, and the tokens and budgets that name it.
pub(crate) fn proxy(shared: &Arc<Shared>, change: Change<'_, RouterProxy>) {
    let Some(proxy) = change.newest() else { return };
    let name = ObjectName::of(proxy);
    if change.differs(|p| p.annotations().get(ANNOTATION_ACCEPT_LEDGER).cloned()) {
        push_proxy(&shared.queues, &name);
    }
    if !change.differs(|p| (p.uid(), p.metadata.generation)) {
        return;
    }
    let replaced = change.after.map(|p| p.uid()) != change.before.map(|p| p.uid());
    if change.before.is_some() && replaced {
        router_proxy::forget(shared, &name);
    }
    push_proxy(&shared.queues, &name);
    for token in shared.stores.tokens_of(&name) {
        push_token(&shared.queues, &token);
    }
    push_budgets_of(shared, &name);
}

/// A namespace whose labels changed: its tokens, and every proxy that chooses namespaces by label, or has a
/// budget that does.
pub(crate) fn namespace(shared: &Shared, change: Change<'_, Namespace>) {
    let Some(namespace) = change.newest().filter(|_| change.differs(|n| n.metadata.labels.clone())) else {
        return;
    };
    for proxy in shared.stores.proxies.state() {
        let name = ObjectName::of(proxy.as_ref());
        let budgets = shared.stores.budgets_of(&name);
        let pooled = budgets.iter().any(|budget| budget.spec.applies_to.namespace_selector.is_some());
        if pooled || proxy.spec.tokens.allowed_namespaces.selector.is_some() {
            push_proxy(&shared.queues, &name);
        }
        if pooled {
            push_budgets_of(shared, &name);
        }
    }
    for token in shared.stores.tokens.state() {
        if token.namespace().as_deref() == Some(&namespace.name_any()) {
            push_token(&shared.queues, &token);
        }
    }
}

/// A Secret that carries our label: the RouterToken or RouterProxy it was made for.
pub(crate) fn own_secret(shared: &Shared, change: Change<'_, PartialObjectMeta<Secret>>) {
    let Some(secret) = change.newest() else { return };
    let name = ObjectName::of(secret);
    if change.after.is_none() {
        shared.verified.forget(&name);
    }
    if let Some(token) = secret.annotations().get(TOKEN_ANNOTATION) {
        shared.queues.tokens.push_named(&name.namespace, token);
    }
    let Some(proxy) = secret.labels().get(LABEL_PROXY) else { return };
    let proxy = ObjectName::new(&name.namespace, proxy);
    let version = change.after.and_then(kube::ResourceExt::resource_version);
    let newest = shared.published.newest(&proxy).map(|edition| edition.version);
    if name.name != snapshot_secret(&proxy.name) || version.is_none() || newest != version {
        push_proxy(&shared.queues, &proxy);
    }
}

/// A StatefulSet or pod of a proxy: the proxy.
pub(crate) fn set(shared: &Shared, change: Change<'_, StatefulSet>) {
    of_proxy(shared, change);
}

/// See [`set`].
pub(crate) fn pod(shared: &Shared, change: Change<'_, Pod>) {
    of_proxy(shared, change);
}

/// A Secret that some provider or proxy may name: the providers that do, their proxies, and the proxies that
/// do.
pub(crate) fn provider_secret(stores: &Stores, queues: &Queues, secret: &ObjectName) {
    for name in providers_of(stores, secret) {
        queues.providers.push_named(&name.namespace, &name.name);
        push_users_of(stores, queues, &name);
    }
    for proxy in stores.proxies.state() {
        let name = ObjectName::of(proxy.as_ref());
        let named = proxy.spec.ledger.url_secret().is_some_and(|url| url.name == secret.name);
        if named && name.namespace == secret.namespace {
            push_proxy(queues, &name);
        }
    }
}

/// A login that stands otherwise, by its Secret: the providers that name it.
pub(crate) fn login(stores: &Stores, queues: &Queues, secret: &ObjectName) {
    for name in providers_of(stores, secret) {
        queues.providers.push_named(&name.namespace, &name.name);
    }
}

/// An identity of a provider that stands otherwise: the provider, and with a new access token its proxies.
pub(crate) fn exchange(stores: &Stores, queues: &Queues, provider: &ObjectName, is_new: bool) {
    queues.providers.push_named(&provider.namespace, &provider.name);
    if is_new {
        push_users_of(stores, queues, provider);
    }
}

fn providers_of(stores: &Stores, secret: &ObjectName) -> Vec<ObjectName> {
    let names_it = |provider: &UpstreamProvider| {
        provider.namespace().as_ref() == Some(&secret.namespace)
            && upstream_provider::secret_names(provider).contains(&secret.name)
    };
    let found = stores.providers.state_filter(names_it);
    found.iter().map(|provider| ObjectName::of(provider.as_ref())).collect()
}

fn of_proxy<K: Resource>(shared: &Shared, change: Change<'_, K>) {
    let Some(object) = change.newest() else { return };
    if let (Some(proxy), Some(namespace)) = (object.labels().get(LABEL_PROXY), object.namespace()) {
        shared.queues.proxies.push_named(&namespace, proxy);
    }
}

fn push_users_of(stores: &Stores, queues: &Queues, provider: &ObjectName) {
    for proxy in stores.proxies.state() {
        let leads_there =
            proxy.spec.routes.iter().flat_map(|r| &r.candidates).any(|c| c.provider == provider.name);
        let name = ObjectName::of(proxy.as_ref());
        if name.namespace == provider.namespace && leads_there {
            push_proxy(queues, &name);
        }
    }
}

fn push_budgets_of(shared: &Shared, proxy: &ObjectName) {
    for budget in shared.stores.budgets_of(proxy) {
        let name = ObjectName::of(budget.as_ref());
        shared.queues.budgets.push_named(&name.namespace, &name.name);
    }
}

fn push_token(queues: &Queues, token: &RouterToken) {
    queues.tokens.push_named(&token.namespace().unwrap_or_default(), &token.name_any());
}

fn push_proxy(queues: &Queues, proxy: &ObjectName) {
    queues.proxies.push_named(&proxy.namespace, &proxy.name);
}
