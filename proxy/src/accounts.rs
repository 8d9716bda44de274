//! What the process knows of each account beyond its credential: how it fares, and how much it does now.
//!
//! It belongs to the account's name and outlives every snapshot. A request asks it before it is sent and tells
//! it what came; both take a short lock, and none while nothing was ever wrong and the answer has no news.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use la_core::account::AccountId;
use la_core::account::health::{self, Change, Event, Health, Outcome, Policy, Standing, Utilization};
use la_core::account::reading::Reading;

mod sessions;

pub use sessions::{Sessions, Step};

/// What is known of one account.
pub struct Known {
    /// Which.
    pub id: AccountId,
    health: Mutex<Health>,
    /// Whether nothing in `health` keeps the account from any model, or could after another failure.
    is_calm: AtomicBool,
    in_flight: AtomicU32,
    served: AtomicU64,
}

/// A request's place among those that an account serves at a time; given back when dropped.
pub struct Slot(Arc<Known>);

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
            in_flight: AtomicU32::new(0),
            served: AtomicU64::new(0),
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
        let mut health = self.lock();
        let change = health.note(event, now, random, policy);
        self.is_calm.store(health.has_no_trouble(), Ordering::Relaxed);
        change
    }

    /// Its credential is another one: what the vendor said of the one before counts no more.
    pub fn credential_changed(&self) {
        let mut health = self.lock();
        health.credential_changed();
        self.is_calm.store(health.has_no_trouble(), Ordering::Relaxed);
    }

    /// Forgets every reason not to use it, for an owner who knows better.
    pub fn forget_trouble(&self) -> usize {
        let mut health = self.lock();
        let forgotten = health.clear();
        self.is_calm.store(health.has_no_trouble(), Ordering::Relaxed);
        forgotten
    }

    /// A place among at most `most` requests at a time, if there is one.
    pub fn take_slot(self: &Arc<Self>, most: Option<u32>) -> Option<Slot> {
        let most = most.unwrap_or(u32::MAX);
        let next = |in_flight: u32| (in_flight < most).then(|| in_flight.saturating_add(1));
        self.in_flight.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next).ok()?;
        self.served.fetch_add(1, Ordering::Relaxed);
        Some(Slot(Arc::clone(self)))
    }

    /// The right to try a model of an account that is half open, if nobody has it.
    pub fn claim_probe(self: &Arc<Self>, model: &str, now: i64) -> Option<Probe> {
        let probe = self.lock().claim_probe(model, now)?;
        Some(Probe { known: Arc::clone(self), probe })
    }

    /// Requests that it serves now.
    pub fn in_flight(&self) -> u32 {
        self.in_flight.load(Ordering::Relaxed)
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

    /// A thread that panicked under the lock leaves values that are each still valid.
    fn lock(&self) -> MutexGuard<'_, Health> {
        self.health.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        self.known.lock().release_probe(self.probe);
    }
}
