//! The sessions of this process and the accounts they are on, shared by its threads, and with other replicas where
//! there is an outbox.

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use la_core::account::AccountId;
use la_core::account::affinity::{Binding, Bindings, DEFAULT_CAPACITY, SessionKey};

use super::fleet::Outbox;

/// Sessions that are remembered for the same time.
pub struct Sessions {
    /// How long one that is not used is remembered, in seconds.
    pub ttl_seconds: u32,
    bindings: Mutex<Bindings>,
    /// Where other replicas hear of them.
    outbox: OnceLock<Arc<Outbox>>,
}

/// What became of a session when its request went to another account, or stayed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Its account served the request.
    Hit,
    /// Another account served the request, and the session stays where it was.
    Escape,
    /// The session moved.
    Rebind,
    /// Another replica had moved the session.
    Follow,
}

impl Sessions {
    /// No session, to be remembered for `ttl_seconds` after its last use.
    pub fn new(ttl_seconds: u32) -> Self {
        let bindings = Mutex::new(Bindings::new(DEFAULT_CAPACITY, ttl_seconds));
        Self { ttl_seconds, bindings, outbox: OnceLock::new() }
    }

    /// The account that a session is on.
    pub fn bound(&self, key: SessionKey, now: i64) -> Option<Binding> {
        self.lock().bound(key, now)
    }

    /// Puts a new session on an account, unless another request was first; gives where it is.
    pub fn place(&self, key: SessionKey, account: AccountId, now: i64) -> Binding {
        self.change(key, now, |bindings| bindings.place(key, account, now)).0
    }

    /// The session's account served a request that was sent by `seen`.
    pub fn keep(&self, key: SessionKey, seen: Binding, now: i64) -> Option<Step> {
        self.change(key, now, |bindings| bindings.keep(key, seen, now)).1
    }

    /// The account failed a request, sent by `seen`, in a way that passes, and the request goes to `to`.
    pub fn escape(
        &self,
        key: SessionKey,
        seen: Binding,
        to: AccountId,
        now: i64,
    ) -> (Option<Binding>, Option<Step>) {
        self.change(key, now, |bindings| bindings.escape(key, seen, to, now))
    }

    /// The account that a request was sent by, `seen`, is of no more use to the session, which moves to `to`.
    pub fn rebind(&self, key: SessionKey, seen: Binding, to: AccountId, now: i64) -> (Binding, Option<Step>) {
        self.change(key, now, |bindings| bindings.rebind(key, seen, to, now))
    }

    /// Forgets every session of an account, at every replica; says how many there were here.
    pub fn clear_account(&self, account: AccountId) -> usize {
        let cleared = self.forget_here(account);
        if let Some(outbox) = self.outbox.get() {
            outbox.forget_sessions(account);
        }
        cleared
    }

    /// Has other replicas hear of every session from its next request on.
    pub(super) fn join(&self, outbox: &Arc<Outbox>) {
        let _ = self.outbox.set(Arc::clone(outbox));
    }

    /// Tells other replicas of every session, also of those that they were told of before.
    pub(super) fn tell_again(&self, now: i64) {
        let bindings = self.lock();
        if let Some(outbox) = self.outbox.get() {
            for (key, notice) in bindings.notices(now) {
                outbox.place((self.ttl_seconds, key), notice);
            }
        }
    }

    /// Another replica has a session on this account. Says whether it moved.
    pub(super) fn follow(&self, key: SessionKey, account: AccountId, now: i64) -> bool {
        self.lock().follow(key, account, now)
    }

    /// Forgets every session of an account in this process only.
    pub(super) fn forget_here(&self, account: AccountId) -> usize {
        self.lock().clear_account(account)
    }

    /// Does something to a session, says what it was counted as, and has other replicas hear of it.
    fn change<T>(
        &self,
        key: SessionKey,
        now: i64,
        job: impl FnOnce(&mut Bindings) -> T,
    ) -> (T, Option<Step>) {
        let mut bindings = self.lock();
        let before = bindings.counts();
        let done = job(&mut bindings);
        let after = bindings.counts();
        if let Some(outbox) = self.outbox.get()
            && let Some(notice) = bindings.notice(key, now)
        {
            outbox.place((self.ttl_seconds, key), notice);
        }
        let step = if after.hits != before.hits {
            Some(Step::Hit)
        } else if after.escapes != before.escapes {
            Some(Step::Escape)
        } else if after.rebinds != before.rebinds {
            Some(Step::Rebind)
        } else {
            None
        };
        (done, step)
    }

    /// A thread that panicked under the lock leaves a table that forgets at worst.
    fn lock(&self) -> MutexGuard<'_, Bindings> {
        self.bindings.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
