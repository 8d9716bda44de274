//! From RouterTokens and RouterBudgets to the allow-list of the snapshot.

use std::collections::BTreeSet;
use std::sync::Arc;

use la_core::snapshot::{PoolRecord, TokenRecord};

use super::admission::Admission;
use super::{MintedToken, Mode, ObjectFault, Place, World};

/// The records of all tokens that name this proxy and are admitted, in the order of their subjects, and of
/// the pools that cover them.
pub(super) fn compile(
    world: &World<'_>,
    proxy: &Place,
    faults: &mut Vec<ObjectFault>,
) -> (Vec<TokenRecord>, Vec<PoolRecord>) {
    let admission = Admission::new(world.proxy, world.budgets);
    let mut records: Vec<TokenRecord> = Vec::new();
    for minted in world.tokens {
        let token = minted.token;
        if token.spec.proxy_ref.name != proxy.name || token.proxy_namespace() != proxy.namespace {
            continue;
        }
        match record(world, &admission, minted) {
            Ok(record) => records.push(record),
            Err(found) => faults.extend(found),
        }
    }
    records.sort_by(|a, b| a.subject.cmp(&b.subject));
    let covering: BTreeSet<_> = records.iter().flat_map(|record| &record.pools).collect();
    let (pools, idle) = admission.records(&covering);
    faults.extend(admission.faults().cloned());
    // In a cluster tokens come and go, and the status of the RouterBudget says it.
    if world.mode == Mode::Manifests {
        faults.extend(idle);
    }
    (records, pools)
}

fn record(
    world: &World<'_>,
    admission: &Admission<'_>,
    minted: &MintedToken<'_>,
) -> Result<TokenRecord, Vec<ObjectFault>> {
    let token = minted.token;
    let namespace = token.metadata.namespace.as_deref().unwrap_or_default();
    let admitted = admission.judge(token, world.namespaces.get(namespace))?;
    Ok(TokenRecord {
        subject: admitted.subject,
        label: token.spec.label.clone(),
        ids: minted.ids.clone(),
        suspended: token.spec.suspend,
        limits: Arc::new(admitted.limits),
        pools: admitted.pools,
        providers: token.spec.providers.clone(),
        account: token.spec.account.clone(),
        thresholds: token.spec.budget_thresholds.clone(),
    })
}
