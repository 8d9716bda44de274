//! What the lock guards: the book, the open journal segment, and what waits for the keeper.

use std::collections::BTreeSet;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use la_core::budget::Held;
use la_core::id::Subject;
use la_core::usage::Usage;
use tokio::sync::Notify;

use super::ReserveError;
use super::book::{Book, Refused, Slot};
use super::embedded::record::{self, Short};
use super::embedded::segment::Segment;

/// Shared by all threads of the process and the keeper.
pub(super) struct Shared {
    state: Mutex<State>,
    /// The keeper waits here for something to do.
    work: Condvar,
    /// Reservations wait here for the keeper.
    pub(super) progress: Notify,
}

/// Everything the lock guards.
pub(super) struct State {
    pub(super) book: Book,
    /// Where reservations are recorded; none in memory.
    pub(super) segment: Option<Segment>,
    /// Records for the segment that the kernel does not have yet.
    unwritten: Vec<u8>,
    /// How often records were lost, because a write failed.
    losses: u64,
    /// From which size a segment is due to be replaced, in bytes.
    segment_bytes: u64,
    /// Why nothing can be written down. Until the keeper has cleared it, nothing is reserved.
    pub(super) trouble: Option<String>,
    /// The keeper has not answered in time.
    pub(super) stalled: bool,
    pub(super) ending: Option<Ending>,
    /// Accounts that need their next grant.
    pub(super) queue: Vec<Slot>,
    pub(super) checkpoint_due: bool,
    /// Subjects that have a token now, once that is known.
    pub(super) keep: Option<BTreeSet<Subject>>,
    /// The latest time seen, in Unix seconds. A clock that steps back forgets nothing early.
    pub(super) now: i64,
    wake: bool,
}

/// How the ledger ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ending {
    /// In order, everything written down.
    Closed,
    /// As if the process had been killed.
    Abandoned,
}

/// One request that was taken out of a budget.
pub(super) struct Taken {
    pub(super) slot: Slot,
    pub(super) held: Held,
    /// How often records had been lost when it was.
    pub(super) losses: u64,
}

/// Why there is no reservation yet.
pub(super) enum Denied {
    /// The keeper has been asked for a grant.
    NotGranted,
    Refused(ReserveError),
}

/// What ends a reservation.
pub(super) enum Outcome {
    Settled(Usage),
    Released,
}

impl State {
    pub(super) fn new(book: Book, segment: Option<Segment>, segment_bytes: u64, now: i64) -> Self {
        Self {
            book,
            segment,
            unwritten: Vec::new(),
            losses: 0,
            segment_bytes,
            trouble: None,
            stalled: false,
            ending: None,
            queue: Vec::new(),
            checkpoint_due: false,
            keep: None,
            now,
            wake: false,
        }
    }

    /// Takes one request out of a budget. Nothing may follow from that before [`State::write_through`] has
    /// said that it is written down.
    pub(super) fn reserve(
        &mut self,
        subject: &Subject,
        limit: Option<u64>,
        now: i64,
    ) -> Result<Taken, Denied> {
        self.standing().map_err(|why| Denied::Refused(ReserveError::Unavailable(why)))?;
        self.now = self.now.max(now);
        match self.book.reserve(subject, limit, self.now) {
            Ok((slot, held)) => {
                self.want_grant(slot);
                self.record(slot, Short::reserve);
                Ok(Taken { slot, held, losses: self.losses })
            }
            Err(Refused::Exhausted { limit, used }) => {
                Err(Denied::Refused(ReserveError::Exhausted { limit, used }))
            }
            Err(Refused::NotGranted(slot)) => {
                self.want_grant(slot);
                Err(Denied::NotGranted)
            }
        }
    }

    /// Ends a reservation. When that cannot be recorded, memory has it, and the next checkpoint writes it.
    pub(super) fn end(&mut self, slot: Slot, held: Held, outcome: &Outcome) {
        match outcome {
            Outcome::Settled(tokens) => {
                self.book.settle(slot, held, tokens);
                self.record(slot, |segment, slot| Short::settle(segment, slot, tokens));
            }
            Outcome::Released => {
                self.book.release(slot, held);
                self.record(slot, Short::release);
            }
        }
    }

    /// Notes which subjects have a token now.
    pub(super) fn retain(&mut self, subjects: &BTreeSet<Subject>, now: i64) {
        self.now = self.now.max(now);
        let before = self.keep.replace(subjects.clone()).unwrap_or_default();
        self.book.see(&before, now);
        self.book.see(subjects, now);
        if self.book.may_leave(subjects, self.now) {
            self.checkpoint_due = true;
            self.wake = true;
        }
    }

    /// Whether anything can be reserved, and why not.
    pub(super) fn standing(&self) -> Result<(), String> {
        match (&self.ending, &self.trouble) {
            (Some(_), _) => Err("it is closed".to_owned()),
            (None, Some(trouble)) => Err(trouble.clone()),
            (None, None) => Ok(()),
        }
    }

    pub(super) fn end_with(&mut self, ending: Ending) {
        self.ending.get_or_insert(ending);
        self.wake = true;
    }

    fn want_grant(&mut self, slot: Slot) {
        if self.segment.is_some() && self.book.starts_wanting(slot) {
            self.queue.push(slot);
            self.wake = true;
        }
    }

    /// Adds a record to what is to be written, with the slot's name before it where the segment lacks it.
    fn record(&mut self, slot: Slot, make: impl FnOnce(u64, u32) -> Short) {
        let (Some(segment), None) = (&self.segment, &self.trouble) else { return };
        let Some(account) = self.book.account_mut(slot) else { return };
        let number = segment.number();
        if std::mem::replace(&mut account.named_in, number) != number {
            self.unwritten.extend_from_slice(&record::name(number, slot.0, &account.subject));
        }
        self.unwritten.extend_from_slice(make(number, slot.0).as_bytes());
    }

    /// Writes down what a reservation of before needs to be kept.
    pub(super) fn write_through(&mut self, losses: u64) -> Result<(), String> {
        self.write_down()?;
        if losses == self.losses { Ok(()) } else { Err("its record could not be written".to_owned()) }
    }

    /// Hands every record to the kernel in one write.
    pub(super) fn write_down(&mut self) -> Result<(), String> {
        let (Some(segment), false) = (&mut self.segment, self.unwritten.is_empty()) else { return Ok(()) };
        let written = segment.append(&self.unwritten);
        self.unwritten.clear();
        if let Err(error) = written {
            let why = format!("cannot write {}: {error}", segment.path().display());
            self.losses += 1;
            self.trouble = Some(why.clone());
            self.wake = true;
            return Err(why);
        }
        if segment.len_bytes() >= self.segment_bytes && !self.checkpoint_due {
            self.checkpoint_due = true;
            self.wake = true;
        }
        Ok(())
    }

    /// Goes on in another segment; gives the one before.
    pub(super) fn switch(&mut self, segment: Segment) -> Option<Segment> {
        // A failure is a trouble like any other: the keeper, whose switch this is, finds it afterwards.
        let _ = self.write_down();
        self.segment.replace(segment)
    }
}

impl Shared {
    pub(super) fn new(state: State) -> Self {
        Self { state: Mutex::new(state), work: Condvar::new(), progress: Notify::new() }
    }

    /// Does something under the lock, then wakes the keeper if that left it something to do.
    pub(super) fn with<T>(&self, job: impl FnOnce(&mut State) -> T) -> T {
        let mut state = self.lock();
        let done = job(&mut state);
        let wake = std::mem::take(&mut state.wake);
        drop(state);
        if wake {
            self.work.notify_one();
        }
        done
    }

    /// A thread that panicked under the lock leaves numbers that are each still valid.
    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for work; at most `at_most`, if given.
    pub(super) fn wait<'a>(
        &self,
        state: MutexGuard<'a, State>,
        at_most: Option<Duration>,
    ) -> MutexGuard<'a, State> {
        match at_most {
            Some(at_most) => self.work.wait_timeout(state, at_most).unwrap_or_else(PoisonError::into_inner).0,
            None => self.work.wait(state).unwrap_or_else(PoisonError::into_inner),
        }
    }
}
