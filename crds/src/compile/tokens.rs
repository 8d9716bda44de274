//! From RouterTokens to the allow-list of the snapshot.

use std::collections::BTreeMap;
use std::sync::Arc;

use la_core::budget::LimitsSpec;
use la_core::id::Subject;
use la_core::snapshot::TokenRecord;

use super::{MintedToken, ObjectFault, Place, World, admits};
use crate::conditions::reason;
use crate::router_proxy::NamespacesFrom;
use crate::rules;

/// The records of all tokens that name this proxy and are admitted, in the order of their subjects.
pub(super) fn compile(world: &World<'_>, proxy: &Place, faults: &mut Vec<ObjectFault>) -> Vec<TokenRecord> {
    let mut records = Vec::new();
    for minted in world.tokens {
        let token = minted.token;
        if token.spec.proxy_ref.name != proxy.name || token.proxy_namespace() != proxy.namespace {
            continue;
        }
        match record(world, proxy, minted) {
            Ok(record) => records.push(record),
            Err(found) => faults.extend(found),
        }
    }
    records.sort_by(|a: &TokenRecord, b| a.subject.cmp(&b.subject));
    records
}

fn record(
    world: &World<'_>,
    proxy: &Place,
    minted: &MintedToken<'_>,
) -> Result<TokenRecord, Vec<ObjectFault>> {
    let token = minted.token;
    let place = Place::of("RouterToken", &token.metadata);
    let mut faults: Vec<_> =
        rules::router_token(&token.spec).into_iter().map(|broken| place.broken(broken)).collect();
    if !is_admitted(world, &place.namespace) {
        let message = format!(
            "RouterProxy {}/{} does not admit tokens of namespace {}",
            proxy.namespace, proxy.name, place.namespace
        );
        faults.push(place.fault("spec.proxyRef", reason::NAMESPACE_NOT_ADMITTED, message));
    }
    let subject = Subject::of(&proxy.name, &place.namespace, &place.name)
        .map_err(|error| vec![place.fault("metadata.name", reason::INVALID_FIELD, error.to_string())])?;
    if !faults.is_empty() {
        return Err(faults);
    }
    Ok(TokenRecord {
        subject,
        label: token.spec.label.clone(),
        ids: minted.ids.clone(),
        suspended: token.spec.suspend,
        limits: Arc::new(LimitsSpec {
            max_requests: token.spec.limits.max_requests,
            ..LimitsSpec::default()
        }),
        pools: Vec::new(),
        thresholds: Vec::new(),
    })
}

/// A namespace whose labels are not known is admitted only where they do not matter.
fn is_admitted(world: &World<'_>, namespace: &str) -> bool {
    match world.namespaces.get(namespace) {
        Some(labels) => admits(world.proxy, namespace, labels),
        None => {
            let by_label = world.proxy.spec.tokens.allowed_namespaces.from == NamespacesFrom::Selector;
            !by_label && admits(world.proxy, namespace, &BTreeMap::new())
        }
    }
}
