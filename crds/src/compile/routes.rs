//! From the routes of a RouterProxy to routes and providers of the snapshot.

use std::collections::BTreeMap;

use la_core::credential::Credentials;
use la_core::duration;
use la_core::snapshot::{AFFINITY_SECONDS, Candidate, Provider, Retry, Route};

use super::{Mode, ObjectFault, Place, World, providers};
use crate::conditions::reason;
use crate::router_proxy::{self, SecretKey};
use crate::rules;

/// Routes, and all that they lead to.
pub(super) struct Routed {
    pub(super) routes: Vec<Route>,
    pub(super) providers: Vec<Provider>,
    pub(super) credentials: Credentials,
}

/// The rules that the proxy itself breaks.
pub(super) fn faults_of_proxy(world: &World<'_>, place: &Place) -> Vec<ObjectFault> {
    let broken = rules::router_proxy(&place.name, &world.proxy.spec);
    let mut faults: Vec<_> = broken.into_iter().map(|broken| place.broken(broken)).collect();
    if world.mode == Mode::Cluster {
        faults.extend(ledger_fault(world, place));
    }
    faults
}

/// Pods cannot start without the Secret that they mount.
fn ledger_fault(world: &World<'_>, place: &Place) -> Option<ObjectFault> {
    let SecretKey { name, key } = world.proxy.spec.ledger.url_secret()?;
    let field = |part: &str| format!("spec.ledger.redis.urlSecretRef.{part}");
    let Some(secret) = world.secrets.get(&(place.namespace.clone(), name.clone())) else {
        let message = format!("Secret {}/{name} does not exist", place.namespace);
        return Some(place.fault(field("name"), reason::SECRET_NOT_FOUND, message));
    };
    let found = secret.data.as_ref().is_some_and(|data| data.contains_key(key));
    let message = || format!("Secret {name} has no key {key:?}");
    (!found).then(|| place.fault(field("key"), reason::SECRET_KEY_NOT_FOUND, message()))
}

/// Compiles the routes. Only providers that a route leads to are published; all of the namespace are checked.
pub(super) fn compile(world: &World<'_>, place: &Place, faults: &mut Vec<ObjectFault>) -> Routed {
    let mut known = BTreeMap::new();
    for provider in world.providers {
        let name = provider.metadata.name.clone().unwrap_or_default();
        if provider.metadata.namespace.as_deref() != Some(place.namespace.as_str()) {
            continue;
        }
        let resolved = providers::resolve(provider, world);
        faults.extend(resolved.faults);
        known.insert(name, (resolved.provider, resolved.credentials));
    }
    let mut routes = Vec::new();
    let mut used = BTreeMap::new();
    let mut credentials = Credentials::new();
    for (at, route) in world.proxy.spec.routes.iter().enumerate() {
        for (nth, candidate) in route.candidates.iter().enumerate() {
            if used.contains_key(&candidate.provider) && known.contains_key(&candidate.provider) {
                continue;
            }
            let provider = match known.get(&candidate.provider) {
                Some((provider, published)) => {
                    credentials.extend(published.clone());
                    provider.clone()
                }
                None => {
                    let field = format!("spec.routes[{at}].candidates[{nth}].provider");
                    let message =
                        format!("UpstreamProvider {}/{} does not exist", place.namespace, candidate.provider);
                    faults.push(place.fault(field, reason::PROVIDER_NOT_FOUND, message));
                    providers::unusable(&candidate.provider)
                }
            };
            used.insert(candidate.provider.clone(), provider);
        }
        routes.push(route_of(route));
    }
    Routed { routes, providers: used.into_values().collect(), credentials }
}

/// After how long a silence streams get a comment.
pub(super) fn keep_alive_ms(world: &World<'_>) -> Option<u64> {
    let every = duration::parse(world.proxy.spec.streams.keep_alive.as_deref()?).ok()?;
    u64::try_from(every.as_millis()).ok()
}

/// What breaks a rule is reported, and is here as if it were not written.
fn route_of(route: &router_proxy::Route) -> Route {
    let candidate = |candidate: &router_proxy::Candidate| Candidate {
        provider: candidate.provider.clone(),
        priority: candidate.priority.unsigned_abs(),
        model: candidate.model.clone(),
    };
    let default = Retry::default();
    let hold = duration::parse(&route.retry.hold).ok();
    let hold_ms = hold.and_then(|hold| u64::try_from(hold.as_millis()).ok()).unwrap_or(default.hold_ms);
    let retry = Retry { attempts: route.retry.attempts.max(1).unsigned_abs(), hold_ms };
    let affinity = duration::parse(&route.affinity.ttl).map_or(AFFINITY_SECONDS, |ttl| ttl.as_secs());
    Route {
        models: route.matching.as_ref().map(|matching| matching.models.clone()).unwrap_or_default(),
        candidates: route.candidates.iter().map(candidate).collect(),
        retry,
        affinity_seconds: affinity,
    }
}
