//! What the lock guards: the book, the open journal segment, and what waits for the keeper.

use std::cell::RefCell;
use std::collections::{BTreeSet, HashMap};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use la_core::amount::Amounts;
use la_core::budget::{
    Book, Cover, Covering, Denied, Ended, HoldId, Reading, SavedBook, SavedOwner, SavedPart, Settled, Spent,
    Standing, Taken as Part,
};
use la_core::id::Subject;
use la_core::snapshot::LedgerRecord;
use tokio::sync::Notify;

use super::Demand;
use super::embedded::record::Batch;
use super::embedded::segment::Segment;
use crate::usage_log::{Charge, Told, UsageLog};

/// How long use outlives the token and the last request of a subject: 30 days, in milliseconds.
pub(super) const REMEMBERED_MS: u64 = 30 * 86_400 * 1_000;

/// Most meters that one request is counted on: a record of the journal must have room for them.
const MOST_METERS: usize = 128;

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
    /// What the ledger is called; nothing where it forgets everything with the process.
    pub(super) id: String,
    /// Where reservations are recorded; none in memory.
    pub(super) segment: Option<Segment>,
    /// Where charges are told, if anywhere.
    pub(super) log: Option<UsageLog>,
    /// Requests that were ever charged.
    pub(super) entries: u64,
    /// What the open segment knows of every meter, by place: its own number, and the period.
    named: Vec<(u64, u64)>,
    /// Records for the segment that the kernel does not have yet.
    unwritten: Batch,
    /// How often records were lost, because a write failed.
    losses: u64,
    /// Memory for the cover of a question that reserves nothing.
    cover: Cover,
    /// From which size a segment is due to be replaced, in bytes.
    segment_bytes: u64,
    /// Why nothing can be written down. Until the keeper has cleared it, nothing is reserved.
    pub(super) trouble: Option<String>,
    /// Why it is not the ledger that is to count.
    pub(super) stranger: Option<String>,
    /// The keeper has not answered in time.
    pub(super) stalled: bool,
    pub(super) ending: Option<Ending>,
    pub(super) checkpoint_due: bool,
    /// Subjects that have a token now, once that is known.
    pub(super) keep: Option<BTreeSet<Subject>>,
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

/// What a request has taken.
pub(super) struct Taken {
    pub(super) hold: HoldId,
    /// How often records had been lost when it did.
    pub(super) losses: u64,
    /// Whether a usage log will tell of it.
    pub(super) is_logged: bool,
    /// How every budget reads with it.
    pub(super) readings: Vec<Reading>,
}

/// Why nothing was taken yet.
pub(super) enum Refusal {
    Denied(Denied),
    Unavailable(String),
}

impl State {
    pub(super) fn new(book: Book, segment: Option<Segment>, segment_bytes: u64) -> Self {
        let unwritten = Batch::for_segment(segment.as_ref().map_or(0, Segment::seed));
        Self {
            book,
            segment,
            id: String::new(),
            log: None,
            entries: 0,
            named: Vec::new(),
            unwritten,
            losses: 0,
            cover: Cover::default(),
            segment_bytes,
            trouble: None,
            stranger: None,
            stalled: false,
            ending: None,
            checkpoint_due: false,
            keep: None,
            wake: false,
        }
    }

    /// Takes what a request demands. Nothing may follow from that before [`State::write_through`] has said that
    /// it is written down.
    pub(super) fn reserve(&mut self, demand: &Demand<'_>, now_ms: u64) -> Result<Taken, Refusal> {
        self.standing().map_err(Refusal::Unavailable)?;
        let (mut fresh, mut known) = (Cover::default(), demand.known.map(RefCell::borrow_mut));
        let cover = known.as_deref_mut().unwrap_or(&mut fresh);
        self.book.renew(cover, demand.covering);
        if cover.meters() > MOST_METERS {
            let why = format!("{} budgets cover one request, {MOST_METERS} at most", cover.meters());
            return Err(Refusal::Unavailable(why));
        }
        let reserved = self.book.reserve(cover, &demand.amounts, now_ms);
        self.wake |= self.segment.is_some() && self.book.wants_grants();
        let hold = reserved.map_err(Refusal::Denied)?.hold;
        self.record_taken(hold, cover, &demand.amounts);
        let readings = self.book.readings(cover);
        Ok(Taken { hold, losses: self.losses, readings, is_logged: self.log.is_some() })
    }

    /// Takes more for an open request and records it, or does neither.
    pub(super) fn raise(&mut self, hold: HoldId, demand: &Demand<'_>, now_ms: u64) -> Result<(), Refusal> {
        self.standing().map_err(Refusal::Unavailable)?;
        let cover = self.book.cover(demand.covering);
        let raised = self.book.raise(hold, &cover, &demand.amounts, now_ms);
        self.wake |= self.segment.is_some() && self.book.wants_grants();
        raised.map_err(Refusal::Denied)?;
        self.record_taken(hold, &cover, &demand.amounts);
        // What could not be recorded stays taken in memory: there is no next attempt, and the request ends.
        self.write_down().map_err(Refusal::Unavailable)
    }

    /// Ends a request as `spent`, or as one that never went upstream. When that cannot be recorded, memory has
    /// it, and the next checkpoint writes it. `told` is what the usage log is to say of it besides.
    pub(super) fn end(&mut self, hold: HoldId, spent: Option<&Spent>, told: Option<&Told>) -> Settled {
        if let Some(spent) = spent {
            self.log_charge(hold, spent, told);
        }
        let is_recorded = self.segment.is_some() && self.trouble.is_none();
        if is_recorded && self.book.reserved(hold).is_some() {
            match spent {
                Some(spent) => self.unwritten.settle(hold.number(), spent),
                None => self.unwritten.release(hold.number()),
            }
        }
        let settled = match spent {
            Some(spent) => self.book.settle(hold, spent).unwrap_or_default(),
            None => {
                self.book.release(hold);
                Settled::default()
            }
        };
        self.wake |= self.segment.is_some() && self.book.wants_grants();
        settled
    }

    /// Everything as it is now.
    pub(super) fn saved(&self) -> SavedBook {
        let held = self.book.open_holds().flat_map(|(_, parts)| parts);
        SavedBook {
            version: SavedBook::VERSION,
            entries: self.entries,
            at_ms: self.book.latest_ms(),
            owners: self.book.saved().collect(),
            held: held.filter_map(|part| named(&self.book, part)).collect(),
        }
    }

    /// Takes in which ledger is to count.
    pub(super) fn expect(&mut self, record: Option<&LedgerRecord>, now_ms: u64) {
        // One that is in memory has nothing to lose.
        let Some(record) = record.filter(|_| self.segment.is_some()) else {
            self.stranger = None;
            return;
        };
        self.stranger = (record.id != self.id).then(|| {
            format!(
                "it is {} and not {}, which has counted so far: its volume was lost or replaced; bring that one \
                 back, or have the owner of the RouterProxy accept this one",
                self.id, record.id
            )
        });
        if self.stranger.is_none() && !record.floors.is_empty() {
            // Floors come with every snapshot for a while; what is open is not raised again.
            let lacking = self.not_counted(&record.floors);
            if !lacking.is_empty() {
                self.raise_to(&lacking, now_ms);
            }
        }
    }

    /// Those of `floors` that are above what is counted.
    fn not_counted(&self, floors: &[SavedOwner]) -> Vec<SavedOwner> {
        let known: HashMap<Subject, SavedOwner> =
            self.book.saved().map(|known| (known.subject.clone(), known)).collect();
        let counts =
            |floor: &SavedOwner| known.get(&floor.subject).is_some_and(|known| known.is_at_least(floor));
        floors.iter().filter(|floor| !counts(floor)).cloned().collect()
    }

    /// Raises counts to those of `owners`. Nothing is reserved until all of it is on disk.
    pub(super) fn raise_to(&mut self, owners: &[SavedOwner], now_ms: u64) {
        let known = self.book.saved().map(|known| (known.subject.clone(), known));
        let mut known: HashMap<Subject, SavedOwner> = known.collect();
        for owner in owners {
            let subject = &owner.subject;
            let raised = known.entry(subject.clone()).or_insert_with(|| SavedOwner::new(subject.clone()));
            raised.raise_to(owner);
            self.book.restore(raised);
        }
        self.book.see(&owners.iter().map(|owner| owner.subject.clone()).collect(), now_ms);
        // No line of the log tells of it.
        self.entries += 1;
        self.log.iter_mut().for_each(UsageLog::break_off);
        let write_all = || "what was counted elsewhere is taken over".to_owned();
        self.trouble = self.trouble.take().or_else(|| self.segment.is_some().then(write_all));
        self.wake = true;
    }

    /// How the budgets of some owners stand.
    pub(super) fn standings(&mut self, covering: &[Covering<'_>], now_ms: u64) -> Vec<Standing> {
        self.book.cover_again(&mut self.cover, covering);
        self.book.standings(&self.cover, now_ms)
    }

    /// The Hard budget that has nothing left, if any.
    pub(super) fn exhausted(
        &mut self,
        covering: &[Covering<'_>],
        now_ms: u64,
    ) -> Option<la_core::budget::Refused> {
        self.book.cover_again(&mut self.cover, covering);
        self.book.exhausted(&self.cover, now_ms)
    }

    /// Notes which subjects have a token now.
    pub(super) fn retain(&mut self, subjects: &BTreeSet<Subject>, now_ms: u64) {
        let before = self.keep.replace(subjects.clone()).unwrap_or_default();
        self.book.see(&before, now_ms);
        self.book.see(subjects, now_ms);
        if self.book.may_forget(subjects, REMEMBERED_MS) {
            self.checkpoint_due = true;
            self.wake = true;
        }
    }

    /// Whether anything can be reserved, and why not.
    pub(super) fn standing(&self) -> Result<(), String> {
        match (&self.ending, self.stranger.as_ref().or(self.trouble.as_ref())) {
            (Some(_), _) => Err("it is closed".to_owned()),
            (None, Some(why)) => Err(why.clone()),
            (None, None) => Ok(()),
        }
    }

    pub(super) fn end_with(&mut self, ending: Ending) {
        self.ending.get_or_insert(ending);
        self.wake = true;
    }

    /// Records what was just taken under `cover`.
    fn record_taken(&mut self, hold: HoldId, cover: &Cover, amounts: &Amounts) {
        let (Some(segment), None) = (&self.segment, &self.trouble) else { return };
        let (book, batch, number) = (&self.book, &mut self.unwritten, segment.number());
        for (meter, _) in cover.takes(amounts) {
            name(book, batch, &mut self.named, number, meter);
        }
        batch.reserve(hold.number(), cover.takes(amounts));
    }

    /// Numbers the charge, and tells it to the log.
    fn log_charge(&mut self, hold: HoldId, spent: &Spent, told: Option<&Told>) {
        let Some(reserved) = self.book.reserved(hold).copied() else { return };
        self.entries += 1;
        let Some(log) = &mut self.log else { return };
        let mut owners = self.book.owners_of(hold);
        let Some(subject) = owners.next() else { return };
        let parts = self.book.ending(self.book.held(hold), Some(&spent.amounts));
        let charge = Charge {
            number: self.entries,
            time_ms: told.map_or_else(|| self.book.latest_ms(), |told| told.time_ms),
            subject,
            pools: owners.collect(),
            reserved,
            spent: *spent,
            cost_nano_usd: spent.amounts.nano_usd,
            parts: parts.filter_map(|ended| self.book.named(&ended)).collect(),
            late: None,
        };
        log.push(&charge, told);
    }

    /// Names the requests that are open in the segment, for whoever reads it without those before.
    pub(super) fn record_holds(&mut self) {
        let Some(segment) = &self.segment else { return };
        let (book, batch, number) = (&self.book, &mut self.unwritten, segment.number());
        if book.open_holds().next().is_none() {
            return;
        }
        batch.holds();
        for (hold, parts) in book.open_holds() {
            for part in parts {
                name(book, batch, &mut self.named, number, part.meter);
            }
            batch.hold(hold, parts, |place| book.period_of(place));
        }
    }

    /// Writes down what a reservation of before needs to be kept.
    pub(super) fn write_through(&mut self, losses: u64) -> Result<(), String> {
        self.write_down()?;
        if losses == self.losses { Ok(()) } else { Err("its record could not be written".to_owned()) }
    }

    /// Hands every record to the kernel in one write, then every line of the usage log.
    pub(super) fn write_down(&mut self) -> Result<(), String> {
        self.write_records()?;
        // While records are missing, the log waits: it must never know more than the journal.
        if let (Some(log), None) = (&mut self.log, &self.trouble) {
            self.wake |= log.write_down(self.book.latest_ms());
        }
        Ok(())
    }

    fn write_records(&mut self) -> Result<(), String> {
        let (Some(segment), false) = (&mut self.segment, self.unwritten.as_bytes().is_empty()) else {
            return Ok(());
        };
        let written = segment.append(self.unwritten.as_bytes());
        self.unwritten.clear(segment.seed());
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
        self.unwritten.clear(segment.seed());
        self.segment.replace(segment)
    }
}

fn named(book: &Book, part: &Part) -> Option<SavedPart> {
    book.named(&Ended { taken: *part, charged: 0 })
}

/// Writes down which meter is at a place and in which period, where the segment lacks it. What was named in
/// a write that failed is never missed: after one, records go to another segment.
#[inline]
fn name(book: &Book, batch: &mut Batch, named: &mut Vec<(u64, u64)>, number: u64, place: u32) {
    if named.get(place as usize) != Some(&(number, book.period_of(place))) {
        name_anew(book, batch, named, number, place);
    }
}

#[cold]
fn name_anew(book: &Book, batch: &mut Batch, named: &mut Vec<(u64, u64)>, number: u64, place: u32) {
    let at = place as usize;
    if named.len() <= at {
        named.resize(at + 1, (0, 0));
    }
    let Some((subject, unit, window, start_ms)) = book.meter_at(place) else { return };
    let Some(known) = named.get_mut(at) else { return };
    if known.0 != number {
        batch.meter(place, unit, window, subject);
    }
    batch.period(place, start_ms);
    *known = (number, start_ms);
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
