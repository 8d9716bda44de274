//! What the process knows of each account beyond its credential: how it fares, and how much it does now.
//!
//! It belongs to the account's name and outlives every snapshot. A request asks it before it is sent and tells
//! it what came; both take a short lock, and none while nothing was ever wrong and the answer has no news. Where
//! replicas share a Redis, [`fleet`] brings what changes to the others, and what they tell.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use la_core::account::AccountId;
use la_core::account::health::{self, Change, Event, Health, Outcome, Policy, Standing, Utilization};
use la_core::account::reading::Reading;
use la_core::account::sharing::{self, News};

pub mod fleet;
mod places;
mod sessions;

use fleet::Outbox;
use places::{Places, Taken};
pub use sessions::{Sessions, Step};

/// What is known of one account.
pub struct Known {
    /// Which.
    pub id: AccountId,
    health: Mutex<Health>,
    /// Whether nothing in `health` keeps the account from any model, or could after another failure.
    is_calm: AtomicBool,
    places: Places,
    served: AtomicU64,
    /// Where other replicas hear of it.
    outbox: OnceLock<Arc<Outbox>>,
    /// How often its owner has forgotten why it rests, at any replica, and one more; 0 while that is not known.
    forgotten: AtomicU64,
}

/// A request's place among those that an account serves at a time; given back when dropped.
pub struct Slot {
    known: Arc<Known>,
    is_held: bool,
}

/// The right to try an account whose rest is over, which one request has at a time; given back when dropped,
/// after what came was [noted](Known::note).
pub struct Probe {
    known: Arc<Known>,
    probe: health::Probe,
}

impl Known {
    /// An account of which nothing was heard.
    pub fn new(id: AccountId) -> Arc<Self> {
        Arc::new(Self {
            id,
            health: Mutex::default(),
            is_calm: AtomicBool::new(true),
            places: Places::default(),
            served: AtomicU64::new(0),
            outbox: OnceLock::new(),
            forgotten: AtomicU64::new(0),
        })
    }

    /// Whether it can be used for a model at `now` (Unix seconds).
    pub fn standing(&self, model: &str, now: i64) -> Standing {
        if self.is_calm.load(Ordering::Relaxed) {
            return Standing::Open;
        }
        self.lock().standing(model, now)
    }

    /// Learns what came of a request. Gives the widest change of state that it made.
    pub fn note(&self, event: &Event<'_>, now: i64, policy: &Policy) -> Option<Change> {
        let is_news = !matches!(event.outcome, Outcome::Served(reading) if *reading == Reading::default());
        if !is_news && self.is_calm.load(Ordering::Relaxed) {
            return None;
        }
        // It only spreads returns over some seconds, and need not be a good one.
        let random = self.served.load(Ordering::Relaxed).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
        self.change(|health| health.note(event, now, random, policy))
    }

    /// Its credential is another one: what the vendor said of the one before counts no more.
    pub fn credential_changed(&self) {
        self.change(Health::credential_changed);
    }

    /// Forgets every reason not to use it, at every replica, for an owner who knows better. Says how many there
    /// were here.
    pub fn forget_trouble(&self) -> usize {
        let mut health = self.lock();
        let forgotten = health.clear();
        self.is_calm.store(health.has_no_trouble(), Ordering::Relaxed);
        if let Some(outbox) = self.outbox.get() {
            outbox.tell(self.id, [News::Forgotten]);
        }
        forgotten
    }

    /// A place among at most `most` requests at a time, if there is one. Where replicas count together it may be
    /// one that is [not held](Slot::is_held) so far.
    pub fn take_slot(self: &Arc<Self>, most: Option<u32>) -> Option<Slot> {
        let is_held = match self.places.take(most) {
            Taken::Yes => true,
            Taken::Ask => false,
            Taken::No => return None,
        };
        if is_held {
            self.served.fetch_add(1, Ordering::Relaxed);
        }
        Some(Slot { known: Arc::clone(self), is_held })
    }

    /// The right to try a model of an account that is half open, if nobody has it.
    pub fn claim_probe(self: &Arc<Self>, model: &str, now: i64) -> Option<Probe> {
        let probe = self.lock().claim_probe(model, now)?;
        Some(Probe { known: Arc::clone(self), probe })
    }

    /// Requests that it serves now.
    pub fn in_flight(&self) -> u32 {
        self.places.count().used
    }

    /// Requests that it was given since the process began.
    pub fn served(&self) -> u64 {
        self.served.load(Ordering::Relaxed)
    }

    /// How full its windows are.
    pub fn utilization(&self, now: i64) -> Utilization {
        self.lock().utilization(now)
    }

    /// Until when it takes no new sessions, because a window is as full as its owner lets it become.
    pub fn stopped_until(&self, now: i64, policy: &Policy) -> Option<i64> {
        self.lock().stopped_until(now, policy)
    }

    /// Looks at its health, to tell of it.
    pub fn look<T>(&self, at: impl FnOnce(&Health) -> T) -> T {
        at(&self.lock())
    }

    /// Has other replicas hear of it from now on. Says whether they did not before.
    fn join(&self, outbox: &Arc<Outbox>) -> bool {
        // Under the lock, so that nothing is told twice or not at all.
        let _health = self.lock();
        self.outbox.set(Arc::clone(outbox)).is_ok()
    }

    /// Tells other replicas of every rest, also of those that they were told of before.
    fn tell_again(&self) {
        let health = self.lock();
        if let Some(outbox) = self.outbox.get() {
            outbox.tell(self.id, sharing::news(&[], &health.rests()));
        }
    }

    /// Learns what another replica tells.
    fn hear(&self, news: &News, now: i64, policy: &Policy) -> Option<Change> {
        let mut health = self.lock();
        let change = health.hear(news, now, policy);
        self.is_calm.store(health.has_no_trouble(), Ordering::Relaxed);
        change
    }

    /// Its owner has forgotten so often why it rests, at any replica. Says whether that is more than was known.
    fn hear_forgotten(&self, times: u64) -> bool {
        let before = self.forgotten.swap(times.saturating_add(1), Ordering::Relaxed);
        before > 0 && before <= times
    }

    /// Changes what is known of how it fares, and tells other replicas what that changed of its rests.
    fn change<T>(&self, change: impl FnOnce(&mut Health) -> T) -> T {
        let mut health = self.lock();
        let told = self.outbox.get().map(|outbox| (outbox, health.rests()));
        let done = change(&mut health);
        self.is_calm.store(health.has_no_trouble(), Ordering::Relaxed);
        if let Some((outbox, before)) = told {
            outbox.tell(self.id, sharing::news(&before, &health.rests()));
        }
        done
    }

    /// A thread that panicked under the lock leaves values that are each still valid.
    fn lock(&self) -> MutexGuard<'_, Health> {
        self.health.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Slot {
    /// Whether the request may be sent. Otherwise the other replicas have to leave it a place
    /// ([`Slot::ask`]).
    pub fn is_held(&self) -> bool {
        self.is_held
    }

    /// Asks for a place among the requests of all replicas, of at most `most` at a time. Nothing when they leave
    /// none.
    pub async fn ask(self, most: Option<u32>) -> Option<Self> {
        if self.is_held {
            return Some(self);
        }
        let answer = self.known.outbox.get()?.ask_for_place(&self.known, most?);
        match answer {
            // Nobody to ask, or no answer: the process counts alone.
            None => self.known.take_slot(most).filter(Self::is_held),
            Some(answer) => match answer.await {
                Ok(slot) => slot,
                Err(_) => self.known.take_slot(most).filter(Self::is_held),
            },
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        if self.is_held
            && self.known.places.give_back()
            && let Some(outbox) = self.known.outbox.get()
        {
            outbox.wake();
        }
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        self.known.lock().release_probe(self.probe);
    }
}
