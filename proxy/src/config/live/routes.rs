//! Routes in the form that requests are led by.

use std::sync::Arc;

use globset::{Glob, GlobSet, GlobSetBuilder};
use la_core::snapshot::{Retry, Snapshot};

use super::ProviderEntry;
use crate::accounts::Sessions;

/// Who serves which models.
#[derive(Clone)]
pub struct RouteEntry {
    models: Option<GlobSet>,
    /// Those that can be used, the first to be tried first.
    pub candidates: Vec<CandidateEntry>,
    /// How often and how long another account is tried.
    pub retry: Retry,
    /// The sessions of its requests, if they are kept on their accounts.
    pub sessions: Option<Arc<Sessions>>,
}

/// A provider that serves a route.
#[derive(Clone)]
pub struct CandidateEntry {
    /// Its place in [`super::Live::providers`].
    pub provider: usize,
    /// What the model is called there; as the client calls it when not given.
    pub model: Option<ModelName>,
}

/// A model's name.
#[derive(Clone)]
pub struct ModelName {
    /// As it is.
    pub text: Box<str>,
    /// As it stands in JSON, between the quotes.
    pub json: Box<str>,
}

impl RouteEntry {
    /// Whether it takes a model.
    pub(super) fn takes(&self, model: &str) -> bool {
        self.models.as_ref().is_none_or(|set| set.is_match(model))
    }
}

/// Every route that can be read, in order; one without a provider that can be used refuses what it takes.
pub(super) fn route_entries(
    snapshot: &Snapshot,
    providers: &[Arc<ProviderEntry>],
    faults: &mut Vec<String>,
) -> Vec<RouteEntry> {
    let mut routes: Vec<RouteEntry> = Vec::new();
    for (at, route) in snapshot.routes.iter().enumerate() {
        let models = match globs(&route.models) {
            Ok(models) => models,
            Err(e) => {
                faults.push(format!("route {at}: models: {e}"));
                continue;
            }
        };
        let mut named: Vec<_> = route.candidates.iter().collect();
        named.sort_by_key(|candidate| candidate.priority);
        let mut candidates = Vec::new();
        for candidate in named {
            match providers.iter().position(|entry| *entry.name == *candidate.provider) {
                Some(provider) => {
                    let model = candidate.model.as_deref().map(ModelName::new);
                    candidates.push(CandidateEntry { provider, model });
                }
                None => faults.push(format!("route {at}: provider {:?} cannot be used", candidate.provider)),
            }
        }
        let ttl_seconds = u32::try_from(route.affinity_seconds).unwrap_or(u32::MAX);
        let mut known = routes.iter().filter_map(|route| route.sessions.as_ref());
        let same = known.find(|known| known.ttl_seconds == ttl_seconds).cloned();
        let sessions = same.unwrap_or_else(|| Arc::new(Sessions::new(ttl_seconds)));
        let sessions = (ttl_seconds > 0).then_some(sessions);
        routes.push(RouteEntry { models, candidates, retry: route.retry, sessions });
    }
    routes
}

impl ModelName {
    fn new(name: &str) -> Self {
        let quoted = serde_json::Value::from(name).to_string();
        let json = quoted.get(1..quoted.len().saturating_sub(1)).unwrap_or_default();
        Self { text: name.into(), json: json.into() }
    }
}

fn globs(models: &[String]) -> Result<Option<GlobSet>, globset::Error> {
    if models.is_empty() {
        return Ok(None);
    }
    let mut set = GlobSetBuilder::new();
    for model in models {
        set.add(Glob::new(model)?);
    }
    set.build().map(Some)
}
