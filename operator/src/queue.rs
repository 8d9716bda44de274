//! Objects waiting to be reconciled, each at most once.
//!
//! Bounded by the number of objects that exist: pushing what already waits does nothing.

use std::collections::HashSet;
use std::fmt::Debug;
use std::hash::Hash;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use futures::Stream;
use futures::task::AtomicWaker;
use kube::Resource;
use kube::runtime::reflector::ObjectRef;

/// A set of waiting objects; also the stream that takes them out.
pub(crate) struct Queue<K: Resource>(Arc<Inner<K>>);

struct Inner<K: Resource> {
    waiting: Mutex<HashSet<ObjectRef<K>>>,
    waker: AtomicWaker,
}

/// A queue's stream never fails.
#[derive(Debug, thiserror::Error)]
#[error("queue failed")]
pub(crate) enum Never {}

impl<K: Resource> Clone for Queue<K> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<K: Resource<DynamicType = ()>> Queue<K> {
    /// An empty queue.
    pub(crate) fn new() -> Self {
        Self(Arc::new(Inner { waiting: Mutex::default(), waker: AtomicWaker::new() }))
    }

    /// Adds an object, unless it waits already.
    pub(crate) fn push(&self, object: ObjectRef<K>) {
        let added = self.0.waiting.lock().unwrap_or_else(PoisonError::into_inner).insert(object);
        if added {
            self.0.waker.wake();
        }
    }

    /// Adds the object `namespace/name`.
    pub(crate) fn push_named(&self, namespace: &str, name: &str) {
        self.push(ObjectRef::new(name).within(namespace));
    }

    fn take(&self) -> Option<ObjectRef<K>> {
        let mut waiting = self.0.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let next = waiting.iter().next().cloned()?;
        waiting.take(&next)
    }
}

impl<K: Resource<DynamicType = ()>> Stream for Queue<K>
where
    ObjectRef<K>: Hash + Eq + Debug,
{
    type Item = Result<ObjectRef<K>, Never>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.waker.register(context.waker());
        match self.take() {
            Some(object) => Poll::Ready(Some(Ok(object))),
            None => Poll::Pending,
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::{FutureExt as _, StreamExt as _};
    use k8s_openapi::api::core::v1::Secret;

    use super::*;

    #[test]
    fn object_pushed_twice_comes_out_once() {
        let mut queue = Queue::<Secret>::new();
        queue.push_named("team-a", "agent");
        queue.push_named("team-a", "agent");
        let first = queue.next().now_or_never().flatten().unwrap().unwrap();
        assert_eq!(first, ObjectRef::new("agent").within("team-a"));
        assert!(queue.next().now_or_never().is_none());
        queue.push_named("team-a", "agent");
        assert!(queue.next().now_or_never().is_some());
    }
}
