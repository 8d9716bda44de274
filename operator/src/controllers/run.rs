//! Runs one controller: takes objects from its queue, a few at a time and each by one worker only, and
//! retries what failed after a rising, jittered wait.

use std::collections::HashMap;
use std::fmt::Debug;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::{FutureExt as _, StreamExt as _};
use kube::runtime::controller::{Action, Config, applier};
use kube::runtime::reflector::{ObjectRef, Store};
use kube::{Resource, ResourceExt as _};

use crate::clock;
use crate::queue::Queue;
use crate::shared::Shared;

/// Objects of one kind that are worked on at a time.
const CONCURRENCY: u16 = 8;

/// First and longest wait after a failure.
const BACK_OFF: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(300));

/// How often in a row an object has failed.
#[derive(Debug, Default)]
struct Attempts(Mutex<HashMap<String, u32>>);

/// Reconciles objects from `queue` until dropped.
pub(crate) async fn run<K, F, E>(
    kind: &'static str,
    shared: Arc<Shared>,
    (store, queue): (Store<K>, Queue<K>),
    reconcile: impl Fn(Arc<K>, Arc<Shared>) -> F + Copy + Send + 'static,
) where
    K: Resource<DynamicType = ()> + Clone + Debug + Send + Sync + 'static,
    F: Future<Output = Result<Action, E>> + Send + 'static,
    E: std::error::Error + Send + Sync + 'static,
{
    let attempts = Arc::new(Attempts::default());
    let worked = Arc::clone(&attempts);
    let one = move |object: Arc<K>, shared: Arc<Shared>| {
        let attempts = Arc::clone(&worked);
        async move {
            let started = clock::instant();
            let done = reconcile(Arc::clone(&object), Arc::clone(&shared)).await;
            let seconds = clock::instant().duration_since(started).as_secs_f64();
            shared.metrics.reconciled(kind, seconds, done.is_err());
            if done.is_ok() {
                attempts.forget(&key(object.as_ref()));
            }
            done
        }
        .boxed()
    };
    let retry = move |object: Arc<K>, error: &E, _: Arc<Shared>| {
        let name = key(object.as_ref());
        let wait = wait(attempts.failed(&name), clock::random().unwrap_or_default());
        tracing::warn!(
            object.kind = kind, object.name = %name, error = %chain(error), retry_ms = wait.as_millis(),
            "{kind} {name} could not be reconciled"
        );
        Action::requeue(wait)
    };
    let config = Config::default().concurrency(CONCURRENCY);
    // What fails is told above; that an object is gone by the time it is its turn is no failure.
    applier(one, retry, shared, store, queue, config).for_each(|_| std::future::ready(())).await;
}

impl Attempts {
    fn failed(&self, key: &str) -> u32 {
        let mut attempts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = attempts.entry(key.to_owned()).or_default();
        *count = count.saturating_add(1);
        *count
    }

    fn forget(&self, key: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(key);
    }
}

fn key<K: Resource<DynamicType = ()>>(object: &K) -> String {
    let name = ObjectRef::from_obj(object);
    format!("{}/{}", name.namespace.unwrap_or_default(), object.name_any())
}

/// Doubles with each attempt, and differs by up to a fifth between objects that fail together.
fn wait(attempt: u32, random: [u8; 1]) -> Duration {
    let (first, longest) = BACK_OFF;
    let whole = first.saturating_mul(1 << attempt.saturating_sub(1).min(16)).min(longest);
    whole.mul_f64(0.8 + 0.4 * f64::from(random[0]) / 255.0)
}

/// An error with its causes.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wait_doubles_up_to_five_minutes_give_or_take_a_fifth() {
        assert_eq!(wait(1, [0]), Duration::from_millis(200));
        assert_eq!(wait(1, [255]), Duration::from_millis(300));
        assert_eq!(wait(3, [0]), Duration::from_millis(800));
        assert_eq!(wait(99, [0]), Duration::from_secs(240));
        assert_eq!(wait(u32::MAX, [255]), Duration::from_secs(360));
    }
}
