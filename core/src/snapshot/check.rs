//! Every fault of a snapshot at once, and the snapshot without its faulty objects.

use std::collections::BTreeSet;

use super::{Backend, CredentialSource, PoolRecord, Provider, Route, Snapshot, TokenRecord, VERSION};
use crate::budget::{LimitFault, Limits, check_budgets};
use crate::id::Subject;
use crate::price;

/// One thing that is wrong, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// The object, as a person would name it: `token gateway/team-a/agent`.
    pub object: String,
    /// The field in it, as a path: `limits.maxRequests`.
    pub field: String,
    /// What is wrong with its value, and the remedy where there is one.
    pub message: String,
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}: {}", self.object, self.field, self.message)
    }
}

impl Snapshot {
    /// The snapshot without what is faulty, and every fault found.
    ///
    /// What depends on a faulty object goes with it, so that nothing is served half.
    ///
    /// # Errors
    /// When the snapshot as a whole cannot be used: another format version, or no audience.
    pub fn checked(mut self) -> Result<(Self, Vec<Fault>), Fault> {
        self.check_frame()?;
        let mut faults = Vec::new();
        let mut seen = BTreeSet::new();
        self.keys.retain(|key| keep(&mut faults, key.check().err().map(|e| key_fault("keys", &e))));
        self.admin_keys
            .retain(|key| keep(&mut faults, key.check().err().map(|e| key_fault("adminKeys", &e))));
        self.providers.retain(|provider| keep(&mut faults, provider_fault(provider, &mut seen)));
        self.routes = keep_routes(&self, &mut faults);
        let (mut subjects, mut ids) = (BTreeSet::new(), BTreeSet::new());
        self.pools.retain(|pool| keep(&mut faults, pool_fault(pool, &mut subjects)));
        let pools: BTreeSet<_> = self.pools.iter().map(|pool| pool.subject.clone()).collect();
        self.tokens.retain(|token| {
            let fault = token_fault(token, &mut subjects, &mut ids).or_else(|| coverage_fault(token, &pools));
            keep(&mut faults, fault)
        });
        Ok((self, faults))
    }

    fn check_frame(&self) -> Result<(), Fault> {
        if self.version != VERSION {
            let message = format!("is {}, this la-router reads {VERSION} only", self.version);
            return Err(fault("snapshot", "version", message));
        }
        if self.audience.is_empty() {
            return Err(fault("snapshot", "audience", "is empty"));
        }
        Ok(())
    }
}

fn keep(faults: &mut Vec<Fault>, fault: Option<Fault>) -> bool {
    let good = fault.is_none();
    faults.extend(fault);
    good
}

fn fault(object: impl Into<String>, field: impl Into<String>, message: impl Into<String>) -> Fault {
    Fault { object: object.into(), field: field.into(), message: message.into() }
}

fn key_fault(field: &str, error: &crate::token::KeyError) -> Fault {
    fault("snapshot", field, error.to_string())
}

fn provider_fault(provider: &Provider, seen: &mut BTreeSet<String>) -> Option<Fault> {
    let object = format!("provider {}", provider.name);
    if provider.name.is_empty() {
        return Some(fault("provider", "name", "is empty"));
    }
    if !seen.insert(provider.name.clone()) {
        return Some(fault(object, "name", "is used twice"));
    }
    let Backend::Anthropic { base_url, accounts, .. } = &provider.backend;
    if !(base_url.starts_with("https://") || base_url.starts_with("http://")) || base_url.ends_with('/') {
        let message =
            format!("{base_url:?} must be http(s)://HOST[:PORT][/PREFIX] without a slash at its end");
        return Some(fault(object, "backend.anthropic.baseUrl", message));
    }
    if accounts.is_empty() {
        return Some(fault(object, "backend.anthropic.accounts", "is empty"));
    }
    let mut names = BTreeSet::new();
    for (at, account) in accounts.iter().enumerate() {
        let field = format!("backend.anthropic.accounts[{at}]");
        if account.name.is_empty() || !names.insert(&account.name) {
            return Some(fault(object, format!("{field}.name"), "is empty or used twice"));
        }
        if matches!(&account.credential, CredentialSource::Directory { path } if path.is_empty()) {
            return Some(fault(object, format!("{field}.credential.directory.path"), "is empty"));
        }
        if matches!(&account.credential, CredentialSource::Identity { token_file, .. } if token_file.is_empty())
        {
            return Some(fault(object, format!("{field}.credential.identity.tokenFile"), "is empty"));
        }
        if account.weight == 0 || account.max_concurrency == Some(0) {
            return Some(fault(object, field, "weight and maxConcurrency must be at least 1"));
        }
    }
    let times = &provider.timeouts;
    if [times.connect_ms, times.first_byte_ms, times.idle_ms, times.total_ms].contains(&0) {
        return Some(fault(object, "timeouts", "each must be at least 1 ms"));
    }
    let wrong = price::Book::with(&provider.pricing).err()?.into_iter().next()?;
    Some(fault(object, "pricing", wrong.to_string()))
}

/// A route goes on without a candidate that is not there, and not at all without any.
fn keep_routes(snapshot: &Snapshot, faults: &mut Vec<Fault>) -> Vec<Route> {
    let known = |name: &str| snapshot.providers.iter().any(|provider| provider.name == name);
    let mut kept = Vec::new();
    for (at, route) in snapshot.routes.iter().enumerate() {
        let mut route = route.clone();
        for (nth, candidate) in route.candidates.iter().enumerate().filter(|(_, c)| !known(&c.provider)) {
            let message = format!("{:?} is not a usable provider of this proxy", candidate.provider);
            faults.push(fault("snapshot", format!("routes[{at}].candidates[{nth}].provider"), message));
        }
        route.candidates.retain(|candidate| known(&candidate.provider));
        if route.retry.attempts == 0 {
            faults.push(fault("snapshot", format!("routes[{at}].retry.attempts"), "must be at least 1"));
        } else if !route.candidates.is_empty() {
            kept.push(route);
        }
    }
    kept
}

fn token_fault(
    token: &TokenRecord,
    subjects: &mut BTreeSet<String>,
    ids: &mut BTreeSet<String>,
) -> Option<Fault> {
    let object = format!("token {}", token.subject);
    if !subjects.insert(token.subject.to_string()) {
        return Some(fault(object, "subject", "is used twice"));
    }
    if let Err(faults) = Limits::check(&token.limits) {
        return faults.into_iter().next().map(|wrong| limit_fault(object, "limits.", &wrong));
    }
    for (at, issued) in token.ids.iter().enumerate() {
        if !ids.insert(issued.id.to_string()) {
            return Some(fault(object, format!("ids[{at}].id"), "belongs to two tokens"));
        }
        if issued.not_after <= issued.not_before {
            return Some(fault(object, format!("ids[{at}].notAfter"), "is not after notBefore"));
        }
    }
    None
}

/// A token without a pool that covers it could spend past it: it is refused instead.
fn coverage_fault(token: &TokenRecord, pools: &BTreeSet<Subject>) -> Option<Fault> {
    let missing = token.pools.iter().find(|pool| !pools.contains(*pool))?;
    Some(fault(format!("token {}", token.subject), "pools", format!("{missing} is not a usable pool")))
}

fn pool_fault(pool: &PoolRecord, subjects: &mut BTreeSet<String>) -> Option<Fault> {
    let object = format!("pool {}", pool.subject);
    if !subjects.insert(pool.subject.to_string()) {
        return Some(fault(object, "subject", "is used twice"));
    }
    check_budgets(&pool.budgets).err()?.into_iter().next().map(|wrong| limit_fault(object, "", &wrong))
}

fn limit_fault(object: String, path: &str, wrong: &LimitFault) -> Fault {
    fault(object, format!("{path}{}", wrong.field), format!("is {:?}: {}", wrong.value, wrong.remedy))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::{Account, IssuedId};
    use super::*;
    use crate::budget::LimitsSpec;
    use crate::id::TokenId;

    fn provider(name: &str, base_url: &str) -> Provider {
        Provider::anthropic(name, base_url, vec![Account::new("main", CredentialSource::Published)])
    }

    fn token(name: &str, id: &str) -> TokenRecord {
        let id = TokenId::try_from(id.to_owned()).unwrap();
        let issued = IssuedId { id, not_before: 0, not_after: 10, revoked: false };
        TokenRecord::new(Subject::of("gateway", "team-a", name).unwrap(), vec![issued], Arc::default())
    }

    fn route(provider: &str) -> Route {
        Route::to(provider, Vec::new())
    }

    #[test]
    fn every_faulty_object_is_left_out_and_reported_at_once() {
        let mut snapshot = Snapshot::empty("platform/gateway");
        snapshot.providers = vec![
            provider("good", "https://api.anthropic.com"),
            provider("bad", "ftp://x"),
            provider("good", "http://x"),
        ];
        snapshot.routes = vec![route("bad"), route("good"), route("gone")];
        let none = LimitsSpec { max_requests: Some(0), ..LimitsSpec::default() };
        let zero = TokenRecord { limits: Arc::new(none), ..token("c", "id-3") };
        snapshot.tokens = vec![token("a", "id-1"), token("b", "id-1"), zero, token("a", "id-4")];
        let (kept, faults) = snapshot.checked().unwrap();
        let shown: Vec<_> = faults.iter().map(ToString::to_string).collect();
        assert_eq!(
            shown,
            [
                "provider bad: backend.anthropic.baseUrl: \"ftp://x\" must be http(s)://HOST[:PORT][/PREFIX] without a slash at its end",
                "provider good: name: is used twice",
                "snapshot: routes[0].candidates[0].provider: \"bad\" is not a usable provider of this proxy",
                "snapshot: routes[2].candidates[0].provider: \"gone\" is not a usable provider of this proxy",
                "token gateway/team-a/b: ids[0].id: belongs to two tokens",
                "token gateway/team-a/c: limits.maxRequests: is \"0\": must be a whole number above zero",
                "token gateway/team-a/a: subject: is used twice",
            ]
        );
        assert_eq!((kept.providers.len(), kept.routes.len(), kept.tokens.len()), (1, 1, 1));
    }

    #[test]
    fn snapshot_of_another_version_is_refused_whole() {
        let snapshot = Snapshot { version: 2, ..Snapshot::empty("a/b") };
        assert_eq!(snapshot.checked().unwrap_err().field, "version");
    }

    #[test]
    fn unknown_field_in_a_snapshot_is_refused() {
        let mut json = serde_json::to_value(Snapshot::empty("a/b")).unwrap();
        json["surprise"] = 1.into();
        assert!(serde_json::from_value::<Snapshot>(json).is_err());
    }
}
