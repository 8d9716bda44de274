//! Tokens in the form that requests are judged by.

use std::collections::HashMap;
use std::sync::Arc;

use la_core::amount::Unit;
use la_core::budget::{Budget, Covering, Enforcement, LimitFault, Limits, LimitsSpec, Window, check_budgets};
use la_core::id::{Subject, TokenId};
use la_core::snapshot::{Snapshot, TokenRecord};

/// One minted text, with what its record says.
#[derive(Debug, Clone)]
pub struct TokenEntry {
    /// Whom its budgets count on.
    pub subject: Subject,
    /// Its `jti`.
    pub id: TokenId,
    /// From when it is valid, in Unix seconds.
    pub not_before: i64,
    /// Until when it is valid, exclusive, in Unix seconds.
    pub not_after: i64,
    /// Whether it may be used at all.
    pub standing: Standing,
    /// What it may use.
    pub limits: Arc<Limits>,
    /// What it may use together with others.
    pub pools: Box<[Arc<Pool>]>,
    /// Which providers may serve it; all when empty.
    pub providers: Box<[Box<str>]>,
    /// The only account that may serve it, by its name in whichever provider serves.
    pub account: Option<Box<str>>,
    /// At which percentages of a budget its owner is told.
    pub thresholds: Box<[u8]>,
}

/// Budgets that tokens share.
#[derive(Debug)]
pub struct Pool {
    /// Whom they count on.
    pub subject: Subject,
    /// The budgets.
    pub budgets: Vec<Budget>,
    /// At which percentages of a budget its owner is told.
    pub thresholds: Box<[u8]>,
}

/// Whether a token may be used, its times aside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// It may.
    Good,
    /// This text was revoked.
    Revoked,
    /// The owner has stopped the token for now.
    Suspended,
}

#[cfg(test)]
impl TokenEntry {
    /// One of a token without limits that is good for ever.
    pub(crate) fn named(name: &str) -> Self {
        Self {
            subject: Subject::of("gateway", "team", name).unwrap(),
            id: TokenId::try_from(name.to_owned()).unwrap(),
            not_before: 0,
            not_after: i64::MAX,
            standing: Standing::Good,
            limits: Arc::default(),
            pools: Box::default(),
            providers: Box::default(),
            account: None,
            thresholds: Box::default(),
        }
    }
}

impl TokenEntry {
    /// Whether a provider may serve it.
    pub fn may_reach(&self, provider: &str) -> bool {
        self.providers.is_empty() || self.providers.iter().any(|name| **name == *provider)
    }

    /// Most requests in the subject's life.
    pub fn max_requests(&self) -> Option<u64> {
        let is_it = |budget: &&Budget| budget.unit == Unit::Requests && budget.window == Window::Lifetime;
        let hard = self.limits.budgets.iter().filter(is_it).filter(|b| b.enforcement == Enforcement::Hard);
        hard.map(|budget| budget.limit).min()
    }

    /// Whose limits cover its requests: its own first, then every pool's.
    pub fn covering(&self) -> Vec<Covering<'_>> {
        let pools = self.pools.iter().map(|pool| Covering::pool(&pool.subject, &pool.budgets));
        std::iter::once(Covering::of(&self.subject, &self.limits)).chain(pools).collect()
    }
}

/// Every text of every token. A token whose limits cannot be kept to is left out; a checked snapshot has none.
pub(super) fn token_entries(
    snapshot: &Snapshot,
    faults: &mut Vec<String>,
) -> HashMap<TokenId, Arc<TokenEntry>> {
    let (mut entries, pools) = (HashMap::new(), pools(snapshot, faults));
    let mut known: HashMap<&LimitsSpec, Arc<Limits>> = HashMap::new();
    for record in &snapshot.tokens {
        let (limits, pools) = match (limits(&record.limits, &mut known), pools_of(record, &pools)) {
            (Ok(limits), Ok(pools)) => (limits, pools),
            (Err(message), _) | (_, Err(message)) => {
                faults.push(format!("token {}: {message}", record.subject));
                continue;
            }
        };
        for issued in &record.ids {
            let standing = match (issued.revoked, record.suspended) {
                (true, _) => Standing::Revoked,
                (false, true) => Standing::Suspended,
                (false, false) => Standing::Good,
            };
            let entry = TokenEntry {
                subject: record.subject.clone(),
                id: issued.id.clone(),
                not_before: issued.not_before,
                not_after: issued.not_after,
                standing,
                limits: Arc::clone(&limits),
                pools: pools.clone(),
                providers: record.providers.iter().map(|name| name.as_str().into()).collect(),
                account: record.account.as_deref().map(Into::into),
                thresholds: record.thresholds.as_slice().into(),
            };
            entries.insert(issued.id.clone(), Arc::new(entry));
        }
    }
    entries
}

fn limits<'a>(
    spec: &'a LimitsSpec,
    known: &mut HashMap<&'a LimitsSpec, Arc<Limits>>,
) -> Result<Arc<Limits>, String> {
    if let Some(same) = known.get(spec) {
        return Ok(Arc::clone(same));
    }
    let limits = Arc::new(Limits::check(spec).map_err(|faults| listed("limits.", &faults))?);
    known.insert(spec, Arc::clone(&limits));
    Ok(limits)
}

fn pools(snapshot: &Snapshot, faults: &mut Vec<String>) -> HashMap<Subject, Arc<Pool>> {
    let mut pools = HashMap::new();
    for record in &snapshot.pools {
        match check_budgets(&record.budgets) {
            Ok(budgets) => {
                let (subject, thresholds) = (record.subject.clone(), record.thresholds.as_slice().into());
                let pool = Arc::new(Pool { subject, budgets, thresholds });
                pools.insert(record.subject.clone(), pool);
            }
            Err(wrong) => faults.push(format!("pool {}: {}", record.subject, listed("", &wrong))),
        }
    }
    pools
}

fn pools_of(record: &TokenRecord, pools: &HashMap<Subject, Arc<Pool>>) -> Result<Box<[Arc<Pool>]>, String> {
    let find = |subject: &Subject| pools.get(subject).cloned().ok_or_else(|| format!("{subject} is missing"));
    record.pools.iter().map(find).collect()
}

fn listed(path: &str, faults: &[LimitFault]) -> String {
    let each: Vec<_> = faults.iter().map(|fault| format!("{path}{fault}")).collect();
    each.join("; ")
}
