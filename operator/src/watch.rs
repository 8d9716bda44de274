//! Watches: each kind is listed and watched once, into a store that every controller reads.
//!
//! Guarantees: after an object changed or went, the store is changed first and `on_change` is called after
//! it, also for what went while the watch was down. A failing watch is retried for ever with a back-off and
//! seen by the liveness probe.

use std::collections::HashMap;
use std::fmt::Debug;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures::{Stream, StreamExt as _, TryStreamExt as _};
use kube::runtime::reflector::{ObjectRef, store};
use kube::runtime::watcher::{Config, Event};
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Resource, ResourceExt as _};

use crate::clock;

/// How long the API server keeps one watch, in seconds: under the 240 s after which some load balancers
/// drop a silent connection.
const WATCH_TIMEOUT_SECONDS: u32 = 200;

/// A watch that has failed for this long without a break makes the process restart.
const HOPELESS: Duration = Duration::from_secs(300);

/// A failure older than this belongs to the past: a failing watch is retried at least every 30 s.
const RECENT: Duration = Duration::from_secs(90);

/// Since when each watch has been failing.
#[derive(Debug, Default)]
pub(crate) struct WatchHealth(Mutex<HashMap<&'static str, Failing>>);

#[derive(Debug, Clone, Copy)]
struct Failing {
    since: Instant,
    last: Instant,
}

impl WatchHealth {
    /// The watches that have failed for too long.
    pub(crate) fn hopeless(&self) -> Vec<&'static str> {
        let now = clock::instant();
        let failing = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let dead = |f: &Failing| now - f.since > HOPELESS && now - f.last < RECENT;
        failing.iter().filter(|(_, f)| dead(f)).map(|(kind, _)| *kind).collect()
    }

    fn failed(&self, kind: &'static str) {
        let now = clock::instant();
        let mut failing = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = failing.entry(kind).or_insert(Failing { since: now, last: now });
        if now - entry.last > RECENT {
            entry.since = now;
        }
        entry.last = now;
    }

    fn worked(&self, kind: &'static str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(kind);
    }
}

/// How every kind is watched.
pub(crate) fn config() -> Config {
    Config::default().timeout(WATCH_TIMEOUT_SECONDS)
}

/// An object before and after a change; the one is absent when it is new, the other when it went.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Change<'a, K> {
    /// As the store had it.
    pub(crate) before: Option<&'a K>,
    /// As the store has it now.
    pub(crate) after: Option<&'a K>,
}

impl<'a, K> Change<'a, K> {
    /// The newest that is known of the object.
    pub(crate) fn newest(&self) -> Option<&'a K> {
        self.after.or(self.before)
    }

    /// Whether what `part` gives is new, gone or another.
    pub(crate) fn differs<T: PartialEq>(&self, part: impl Fn(&'a K) -> T) -> bool {
        self.before.map(&part) != self.after.map(&part)
    }
}

/// Feeds `events` into the store behind `writer` and calls `on_change` with what changed, until dropped.
pub(crate) async fn follow<K>(
    kind: &'static str,
    events: impl Stream<Item = watcher::Result<Event<K>>> + Send,
    mut writer: store::Writer<K>,
    health: Arc<WatchHealth>,
    on_change: impl Fn(Change<'_, K>) + Send,
) where
    K: Resource<DynamicType = ()> + Clone + Debug + Send + Sync + 'static,
{
    let reader = writer.as_reader();
    let events = events
        .default_backoff()
        .inspect_err(|error| tracing::warn!(watch.kind = kind, %error, "watch of {kind} failed, retrying"));
    let mut events = std::pin::pin!(events);
    while let Some(event) = events.next().await {
        let Ok(event) = event else {
            health.failed(kind);
            continue;
        };
        health.worked(kind);
        let event = event.modify(|object| object.managed_fields_mut().clear());
        match &event {
            Event::Apply(object) => {
                let before = reader.get(&ObjectRef::from_obj(object));
                writer.apply_watcher_event(&event);
                on_change(Change { before: before.as_deref(), after: Some(object) });
            }
            Event::Delete(object) => {
                writer.apply_watcher_event(&event);
                on_change(Change { before: Some(object), after: None });
            }
            Event::InitDone => {
                let before = by_name(&reader);
                writer.apply_watcher_event(&event);
                relisted(&before, &by_name(&reader), &on_change);
            }
            Event::Init | Event::InitApply(_) => writer.apply_watcher_event(&event),
        }
    }
}

type ByName<K> = HashMap<ObjectRef<K>, Arc<K>>;

fn by_name<K: Resource<DynamicType = ()> + Clone>(store: &store::Store<K>) -> ByName<K> {
    store.state().into_iter().map(|object| (ObjectRef::from_obj(object.as_ref()), object)).collect()
}

fn relisted<K: Resource<DynamicType = ()>>(
    before: &ByName<K>,
    after: &ByName<K>,
    on_change: &impl Fn(Change<'_, K>),
) {
    for (name, object) in after {
        on_change(Change { before: before.get(name).map(Arc::as_ref), after: Some(object) });
    }
    for (_, object) in before.iter().filter(|(name, _)| !after.contains_key(name)) {
        on_change(Change { before: Some(object), after: None });
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex as StdMutex;

    use futures::stream;
    use k8s_openapi::api::core::v1::Namespace;

    use super::*;

    fn namespace(name: &str) -> Namespace {
        let mut namespace = Namespace::default();
        namespace.metadata.name = Some(name.to_owned());
        namespace
    }

    #[tokio::test]
    async fn what_went_while_the_watch_was_down_is_told_as_gone() {
        let (_reader, writer) = store::store();
        let events = [
            Event::Init,
            Event::InitApply(namespace("a")),
            Event::InitApply(namespace("b")),
            Event::InitDone,
            Event::Init,
            Event::InitApply(namespace("b")),
            Event::InitDone,
        ];
        let told = StdMutex::new(Vec::new());
        let on_change = |change: Change<'_, Namespace>| {
            let name = change.newest().unwrap().name_any();
            told.lock().unwrap().push((name, change.before.is_some(), change.after.is_some()));
        };
        let health = Arc::default();
        follow("namespaces", stream::iter(events.map(Ok)), writer, health, on_change).await;
        let mut told = told.into_inner().unwrap();
        let last = told.split_off(2);
        assert_eq!(last, [("b".to_owned(), true, true), ("a".to_owned(), true, false)]);
    }
}
