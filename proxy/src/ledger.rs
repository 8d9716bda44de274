//! The ledger: who has used how much, and whether one more request fits.
//!
//! [`Ledger::reserve`] gives a [`Reservation`], and nothing goes upstream without one; each is settled
//! exactly once, a dropped one as a request that happened. The embedded ledger survives `kill -9` without
//! losing anything; the memory one is for tests. One short lock guards all of it, and on the way of a
//! request no sync and no network happens under it.

use std::collections::BTreeSet;
use std::path::Path;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use la_core::budget::Held;
use la_core::id::Subject;
use la_core::report::SubjectUsage;
use la_core::usage::Usage;

mod book;
mod embedded;
mod state;

use book::{Book, Grants, Slot};
use embedded::KeeperHandle;
pub use embedded::OpenError;
use state::{Denied, Ending, Outcome, Shared, State, Taken};

/// When a grant is late enough to say so. One takes about 0.3 ms, under heavy load some 100 ms.
const LATE_AFTER: Duration = Duration::from_secs(1);

/// How much longer a reservation then waits for it.
const LATE_WAIT: Duration = Duration::from_secs(4);

/// All budgets of one process. Shared by every thread.
pub struct Ledger {
    shared: Arc<Shared>,
    keeper: Mutex<Option<KeeperHandle>>,
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

impl Ledger {
    /// Opens the ledger in `dir`, or makes one. `now` is in Unix seconds.
    ///
    /// # Errors
    /// When another process holds it, or a file cannot be read, is broken, or cannot be written.
    pub fn open_embedded(dir: &Path, now: i64) -> Result<Arc<Self>, OpenError> {
        let (shared, keeper) = embedded::open(dir, now)?;
        Ok(Arc::new(Self { shared, keeper: Mutex::new(Some(keeper)) }))
    }

    /// A ledger that forgets everything with the process.
    pub fn memory() -> Arc<Self> {
        let state = State::new(Book::new(Grants::Endless), None, u64::MAX, 0);
        Arc::new(Self { shared: Arc::new(Shared::new(state)), keeper: Mutex::new(None) })
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
        let taken = match self.try_reserve(subject, limit, now) {
            Ok(taken) => taken,
            Err(Denied::Refused(why)) => return Err(why),
            // Boxed: it is rare, and the future of every request would carry it.
            Err(Denied::NotGranted) => Box::pin(self.reserve_when_granted(subject, limit, now)).await?,
        };
        taken.written_down().await
    }

    /// Writes down what [`Reservation::settle_soon`] has left. For whoever is about to wait.
    pub fn write_down(&self) {
        // A failure is the ledger's trouble from now on, and refuses the next reservation.
        let _ = self.shared.with(State::write_down);
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
        self.shared.with(|state| state.retain(subjects, now));
    }

    /// Whether budgets are being granted.
    ///
    /// # Errors
    /// One sentence that says why not.
    pub fn health(&self) -> Result<(), String> {
        let state = self.shared.lock();
        state.standing().and_then(|()| if state.stalled { Err(stalled()) } else { Ok(()) })
    }

    /// Writes everything down and ends the ledger. What is open stays charged. Closing twice is one close.
    ///
    /// # Errors
    /// When it could not be written; nothing that was settled is lost by that.
    pub fn close(&self) -> Result<(), CloseError> {
        self.end(Ending::Closed).map_err(CloseError)
    }

    fn end(&self, ending: Ending) -> Result<(), String> {
        self.shared.with(|state| state.end_with(ending));
        let keeper = self.keeper.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(keeper) = keeper else { return Ok(()) };
        keeper.join().unwrap_or_else(|_| Err("its thread panicked".to_owned()))
    }

    fn try_reserve(&self, subject: &Subject, limit: Option<u64>, now: i64) -> Result<Unwritten, Denied> {
        let Taken { slot, held, losses } = self.shared.with(|state| state.reserve(subject, limit, now))?;
        let reservation = Reservation { shared: Arc::clone(&self.shared), slot, held: Some(held) };
        Ok(Unwritten { reservation: Some(reservation), losses })
    }

    async fn reserve_when_granted(
        &self,
        subject: &Subject,
        limit: Option<u64>,
        now: i64,
    ) -> Result<Unwritten, ReserveError> {
        let mut granted = pin!(async {
            loop {
                // Listens before it looks, so that no grant passes unnoticed in between.
                let mut progress = pin!(self.shared.progress.notified());
                progress.as_mut().enable();
                match self.try_reserve(subject, limit, now) {
                    Ok(taken) => return Ok(taken),
                    Err(Denied::Refused(why)) => return Err(why),
                    Err(Denied::NotGranted) => progress.await,
                }
            }
        });
        if let Ok(done) = tokio::time::timeout(LATE_AFTER, granted.as_mut()).await {
            return done;
        }
        self.shared.with(|state| state.stalled = true);
        let late = tokio::time::timeout(LATE_WAIT, granted).await;
        late.unwrap_or_else(|_| Err(ReserveError::Unavailable(stalled())))
    }
}

fn stalled() -> String {
    format!("the disk has not answered for more than {} s", LATE_AFTER.as_secs())
}

impl Drop for Ledger {
    /// Without a close the files stay as a crash would leave them.
    fn drop(&mut self) {
        let _ = self.end(Ending::Abandoned);
    }
}

/// A reservation that nothing may follow from yet. Dropped, it never was.
struct Unwritten {
    reservation: Option<Reservation>,
    losses: u64,
}

impl Unwritten {
    /// Waits until it is written down. Whatever else is ready on this thread goes first, so that what it
    /// reserves and settles is written with it: one write for many requests.
    async fn written_down(mut self) -> Result<Reservation, ReserveError> {
        tokio::task::yield_now().await;
        let unusable = || ReserveError::Unavailable("the reservation has ended".to_owned());
        let shared = &self.reservation.as_ref().ok_or_else(unusable)?.shared;
        shared.with(|state| state.write_through(self.losses)).map_err(ReserveError::Unavailable)?;
        self.reservation.take().ok_or_else(unusable)
    }
}

impl Drop for Unwritten {
    fn drop(&mut self) {
        if let Some(reservation) = self.reservation.take() {
            reservation.release();
        }
    }
}

impl Reservation {
    /// Ends the reservation as a request that happened and used `tokens`.
    pub fn settle(mut self, tokens: Usage) {
        self.end(&Outcome::Settled(tokens));
    }

    /// Like [`Reservation::settle`], but written down with the next reservation or by
    /// [`Ledger::write_down`], which the caller sees to. A crash before that charges the request as open.
    pub fn settle_soon(mut self, tokens: Usage) {
        self.end_soon(&Outcome::Settled(tokens));
    }

    /// Ends the reservation as a request that never went upstream.
    pub fn release(mut self) {
        self.end(&Outcome::Released);
    }

    fn end(&mut self, outcome: &Outcome) {
        if self.end_soon(outcome) {
            // A failure is the ledger's trouble from now on; memory knows of the end, and writes it later.
            let _ = self.shared.with(State::write_down);
        }
    }

    /// Says whether it had not ended before.
    fn end_soon(&mut self, outcome: &Outcome) -> bool {
        let Some(held) = self.held.take() else { return false };
        self.shared.with(|state| state.end(self.slot, held, outcome));
        true
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.end(&Outcome::Settled(Usage::default()));
    }
}
