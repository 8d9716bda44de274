//! Whose turn it is among requests that wait for another one of their owner to end.
//!
//! Each owner has one queue, first come, first served. Only its front asks the ledger, and it asks again when a
//! request of that owner ends; by the clock only where other processes have open requests too. Who waits holds no
//! reservation; one that gives up leaves its place to the next. Owners without open or waiting requests are
//! forgotten.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use la_core::id::Subject;
use tokio::sync::Notify;

/// The queues of one process.
#[derive(Default)]
pub struct Turns {
    queues: Mutex<HashMap<Subject, Weak<Queue>>>,
}

/// The queue of one owner.
#[derive(Default)]
pub struct Queue {
    /// Held by the front; given on in the order in which it was asked for.
    front: tokio::sync::Mutex<()>,
    waiting: AtomicUsize,
    freed: Notify,
}

/// An open request of an owner. Dropped when it has ended, it wakes the front of the queue.
pub struct Turn(Arc<Queue>);

/// A place in a queue; given up when dropped.
struct Place<'a>(&'a AtomicUsize);

impl Turns {
    /// The queue of `owner`.
    pub fn of(&self, owner: &Subject) -> Arc<Queue> {
        let mut queues = self.queues.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(queue) = queues.get(owner).and_then(Weak::upgrade) {
            return queue;
        }
        if queues.len() == queues.capacity() {
            queues.retain(|_, queue| queue.strong_count() > 0);
        }
        let queue = Arc::new(Queue::default());
        queues.insert(owner.clone(), Arc::downgrade(&queue));
        queue
    }
}

impl Queue {
    /// Whether others wait, who come first.
    pub fn is_waited_in(&self) -> bool {
        self.waiting.load(Ordering::Acquire) > 0
    }

    /// Waits until it is this request's turn, then asks for what it needs until that gives something. Every
    /// question but the first follows the end of another request, or the `pause` after the one before.
    pub async fn wait<T>(&self, pause: Option<Duration>, mut ask: impl AsyncFnMut() -> Option<T>) -> T {
        self.waiting.fetch_add(1, Ordering::AcqRel);
        let _place = Place(&self.waiting);
        let _front = self.front.lock().await;
        loop {
            // One that ends from here on leaves a permit behind, so that no end passes unnoticed.
            let freed = self.freed.notified();
            if let Some(given) = ask().await {
                return given;
            }
            match pause {
                Some(pause) => drop(tokio::time::timeout(pause, freed).await),
                None => freed.await,
            }
        }
    }

    /// A request of this owner has been admitted.
    pub fn begin(self: &Arc<Self>) -> Turn {
        Turn(Arc::clone(self))
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.0.freed.notify_one();
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};

    use futures::future::{join_all, select};

    use super::*;

    fn owner(name: &str) -> Subject {
        Subject::of("proxy", "agents", name).unwrap()
    }

    fn run<T>(work: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(work)
    }

    #[test]
    fn who_came_first_is_served_first_and_only_the_front_asks() {
        run(async {
            let queue = Turns::default().of(&owner("a"));
            let (free, asked, served) = (Cell::new(0), Cell::new(0), RefCell::new(Vec::new()));
            let waits = (0..8).map(async |number| {
                let turn = queue
                    .wait(None, async || {
                        asked.set(asked.get() + 1);
                        (free.get() > 0).then(|| {
                            free.set(free.get() - 1);
                            queue.begin()
                        })
                    })
                    .await;
                served.borrow_mut().push(number);
                tokio::task::yield_now().await;
                free.set(free.get() + 1);
                drop(turn);
            });
            let first = async {
                tokio::task::yield_now().await;
                assert_eq!((asked.get(), queue.is_waited_in()), (1, true), "only the front asks");
                free.set(1);
                drop(queue.begin());
            };
            futures::join!(join_all(waits), first);
            assert_eq!(*served.borrow(), (0..8).collect::<Vec<_>>());
            assert!(!queue.is_waited_in());
            assert!(asked.get() <= 17, "{} questions: nobody polls", asked.get());
        });
    }

    #[test]
    fn front_that_gives_up_leaves_its_place_to_the_next() {
        run(async {
            let queue = Turns::default().of(&owner("a"));
            let mut never = Box::pin(queue.wait(None, async || None::<()>));
            assert!(futures::poll!(&mut never).is_pending());
            let mut next = Box::pin(queue.wait(None, async || Some(7)));
            assert!(futures::poll!(&mut next).is_pending(), "it is not its turn");
            drop(never);
            let told = select(next, Box::pin(std::future::pending::<()>())).await;
            assert!(matches!(told, futures::future::Either::Left((7, _))));
            assert!(!queue.is_waited_in());
        });
    }

    #[test]
    fn owner_keeps_its_queue_while_anybody_uses_it_and_is_forgotten_then() {
        let turns = Turns::default();
        let turn = turns.of(&owner("a")).begin();
        assert!(Arc::ptr_eq(&turn.0, &turns.of(&owner("a"))));
        assert!(!Arc::ptr_eq(&turn.0, &turns.of(&owner("b"))));
        drop(turn);
        for number in 0..10_000 {
            drop(turns.of(&owner(&number.to_string())));
        }
        assert!(turns.queues.lock().unwrap().len() < 16, "what nobody uses is let go of");
    }
}
