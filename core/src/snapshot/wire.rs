//! How a snapshot is written: limits that many tokens have stand in it once, and tokens name their place.
//!
//! Ten thousand tokens under the same budgets would otherwise be megabytes of the same text, in a Secret that
//! holds one and in the memory of whoever reads it.

use std::collections::HashMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{LedgerRecord, PoolRecord, Provider, Route, Snapshot, TokenRecord};
use crate::budget::LimitsSpec;
use crate::token::VerifyingKey;

/// A snapshot as it is written.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Wire {
    version: u32,
    epoch: u64,
    generation: u64,
    proxy: String,
    audience: String,
    keys: Vec<VerifyingKey>,
    admin_keys: Vec<VerifyingKey>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    limits: Vec<Arc<LimitsSpec>>,
    tokens: Vec<TokenRecord<usize>>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pools: Vec<PoolRecord>,
    providers: Vec<Provider>,
    routes: Vec<Route>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    keep_alive_ms: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ledger: Option<LedgerRecord>,
}

/// A token names limits that are not in the snapshot.
#[derive(Debug, thiserror::Error)]
#[error("token {token}: limits: there is no entry {at} of `limits`, which has {entries}")]
pub(super) struct NoSuchLimits {
    token: String,
    at: usize,
    entries: usize,
}

impl TryFrom<Wire> for Snapshot {
    type Error = NoSuchLimits;

    fn try_from(wire: Wire) -> Result<Self, NoSuchLimits> {
        let limits = wire.limits;
        let with_limits = |token: TokenRecord<usize>| match limits.get(token.limits) {
            Some(shared) => Ok(token.with(Arc::clone(shared))),
            None => {
                let (token, at) = (token.subject.to_string(), token.limits);
                Err(NoSuchLimits { token, at, entries: limits.len() })
            }
        };
        Ok(Self {
            version: wire.version,
            epoch: wire.epoch,
            generation: wire.generation,
            proxy: wire.proxy,
            audience: wire.audience,
            keys: wire.keys,
            admin_keys: wire.admin_keys,
            tokens: wire.tokens.into_iter().map(with_limits).collect::<Result<_, _>>()?,
            pools: wire.pools,
            providers: wire.providers,
            routes: wire.routes,
            keep_alive_ms: wire.keep_alive_ms,
            ledger: wire.ledger,
        })
    }
}

impl From<Snapshot> for Wire {
    fn from(snapshot: Snapshot) -> Self {
        let mut limits: Vec<Arc<LimitsSpec>> = Vec::new();
        let mut places: HashMap<Arc<LimitsSpec>, usize> = HashMap::new();
        let placed = |token: TokenRecord| {
            let at = *places.entry(Arc::clone(&token.limits)).or_insert_with_key(|spec| {
                limits.push(Arc::clone(spec));
                limits.len() - 1
            });
            token.with(at)
        };
        let tokens = snapshot.tokens.into_iter().map(placed).collect();
        Self {
            version: snapshot.version,
            epoch: snapshot.epoch,
            generation: snapshot.generation,
            proxy: snapshot.proxy,
            audience: snapshot.audience,
            keys: snapshot.keys,
            admin_keys: snapshot.admin_keys,
            limits,
            tokens,
            pools: snapshot.pools,
            providers: snapshot.providers,
            routes: snapshot.routes,
            keep_alive_ms: snapshot.keep_alive_ms,
            ledger: snapshot.ledger,
        }
    }
}

impl<L> TokenRecord<L> {
    /// The same with limits said in another way.
    fn with<M>(self, limits: M) -> TokenRecord<M> {
        let Self { subject, label, ids, suspended, limits: _, pools, providers, account, thresholds } = self;
        TokenRecord { subject, label, ids, suspended, limits, pools, providers, account, thresholds }
    }
}

#[cfg(test)]
mod tests {
    use super::super::IssuedId;
    use super::*;
    use crate::id::{Subject, TokenId};

    fn snapshot(limits: [Option<u64>; 3]) -> Snapshot {
        let token = |(at, most): (usize, Option<u64>)| {
            let subject = Subject::of("gateway", "team-a", &format!("agent-{at}")).unwrap();
            let id = TokenId::try_from(format!("id-{at}")).unwrap();
            let issued = IssuedId { id, not_before: 0, not_after: 10, revoked: false };
            TokenRecord::new(subject, vec![issued], Arc::new(LimitsSpec::of_requests(most)))
        };
        let tokens = limits.into_iter().enumerate().map(token).collect();
        Snapshot { tokens, ..Snapshot::empty("platform/gateway") }
    }

    #[test]
    fn same_limits_are_written_and_kept_once() {
        let given = snapshot([Some(5), None, Some(5)]);
        let json = serde_json::to_value(&given).unwrap();
        assert_eq!(json["limits"], serde_json::json!([{"maxRequests": 5}, {}]));
        assert_eq!(json["tokens"][2]["limits"], 0);
        let read: Snapshot = serde_json::from_value(json).unwrap();
        assert_eq!(read, given);
        assert!(Arc::ptr_eq(&read.tokens[0].limits, &read.tokens[2].limits));
    }

    #[test]
    fn token_without_its_limits_makes_the_snapshot_unreadable() {
        let mut json = serde_json::to_value(snapshot([Some(5), None, None])).unwrap();
        json["tokens"][1]["limits"] = 2.into();
        let error = serde_json::from_value::<Snapshot>(json).unwrap_err().to_string();
        assert_eq!(
            error,
            "token gateway/team-a/agent-1: limits: there is no entry 2 of `limits`, which has 2"
        );
    }
}
