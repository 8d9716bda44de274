//! The background thread that makes things durable: grants, checkpoints, and a new start after a failure.
//!
//! It alone syncs, and never under the lock. A failure of any write makes the ledger refuse reservations
//! until the keeper has put the whole state of memory into new files.

use std::fs::File;
use std::sync::Arc;
use std::time::Duration;

use la_core::budget::{Grant, SavedOwner};
use la_core::id::Subject;

use super::segment::{self, Segment};
use super::store::{self, Head, Store};
use super::{Setup, Step, sweep};
use crate::ledger::state::{Ending, REMEMBERED_MS, Shared, State};
use crate::usage_log::{self, Opening, UsageLog};

/// Pause between two attempts to write again.
const RETRY: Duration = Duration::from_millis(250);

/// Owns the files and the lock on the directory; gives up both when its thread ends.
pub(super) struct Keeper {
    shared: Arc<Shared>,
    setup: Setup,
    store: Store,
    _lock: File,
}

enum Job {
    End(Ending),
    /// Why it is needed.
    Repair(String),
    Checkpoint,
    Grant(Vec<Grant>),
    /// Begin another file of the usage log.
    TurnLog,
}

/// The state of memory at the moment when records began to go to a new segment.
struct Cut {
    segment: u64,
    entries: u64,
    rows: Vec<SavedOwner>,
    forget: Vec<Subject>,
}

/// Which accounts a cut takes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Take {
    /// Those that changed; those long unused are to be forgotten.
    Changed,
    /// All, and nothing is forgotten.
    All,
}

/// A write that failed, in words.
struct Failed(String);

impl Keeper {
    pub(super) fn new(shared: Arc<Shared>, setup: Setup, store: Store, lock: File) -> Self {
        Self { shared, setup, store, _lock: lock }
    }

    /// Works until the ledger ends. Returns why the end was not in order.
    pub(super) fn run(mut self) -> Result<(), String> {
        let mut retrying = false;
        loop {
            let (done, repaired) = match self.next_job(retrying) {
                Job::End(Ending::Abandoned) => return Ok(()),
                Job::End(Ending::Closed) => return self.finish(),
                Job::Repair(why) => {
                    if !retrying {
                        tracing::error!("ledger refuses requests: {why}");
                    }
                    (self.repair(false), true)
                }
                Job::Checkpoint => (self.checkpoint(false), false),
                Job::Grant(grants) => (self.grant(&grants), false),
                Job::TurnLog => {
                    self.turn_log();
                    continue;
                }
            };
            retrying = repaired && done.is_err();
            self.shared.with(|state| note(state, done, repaired));
            self.shared.progress.notify_waiters();
        }
    }

    fn next_job(&self, retrying: bool) -> Job {
        let mut state = self.shared.lock();
        let mut pause = retrying;
        loop {
            if let Some(ending) = state.ending {
                return Job::End(ending);
            }
            if let Some(why) = &state.trouble {
                if !std::mem::take(&mut pause) {
                    return Job::Repair(why.clone());
                }
                state = self.shared.wait(state, Some(RETRY));
            } else if std::mem::take(&mut state.checkpoint_due) {
                return Job::Checkpoint;
            } else if state.book.wants_grants() {
                return Job::Grant(state.book.next_grants());
            } else if state.log.as_ref().is_some_and(|log| log.is_due(state.book.latest_ms())) {
                return Job::TurnLog;
            } else {
                state = self.shared.wait(state, None);
            }
        }
    }

    /// Writes grants down, then gives them.
    fn grant(&self, grants: &[Grant]) -> Result<(), Failed> {
        let written = self.write_grants(grants);
        self.shared.with(|state| match written {
            Ok(()) => state.book.grant(grants),
            Err(_) => state.book.deny(grants),
        });
        written
    }

    fn write_grants(&self, grants: &[Grant]) -> Result<(), Failed> {
        if grants.is_empty() {
            return Ok(());
        }
        self.step(Step::Granting)?;
        self.store.grant(grants).map_err(|error| self.store_failed(error))?;
        self.step(Step::GrantWritten)
    }

    /// Moves on to a new segment and writes down what the old ones say.
    ///
    /// At every point the files tell the whole truth: until the checkpoint is committed it says "replay
    /// from the old segment", and the old one and the new one are both there; from then on it says
    /// "replay from the new one", and the old one is only rubbish. An account that is to be forgotten
    /// cannot be reserved from between the cut and the commit, so no record can refer to what is gone.
    fn checkpoint(&mut self, clean: bool) -> Result<(), Failed> {
        let segment = self.next_segment()?;
        let cut = self.cut(Some(segment), Take::Changed)?;
        let head = self.head(&cut, clean);
        let written = self.store.checkpoint(&head, &cut.rows, &cut.forget);
        self.shared.with(|state| match written {
            Ok(()) => state.book.forget_leaving(),
            Err(_) => state.book.keep_leaving(),
        });
        written.map_err(|error| self.store_failed(error))?;
        self.swept(&cut)
    }

    /// Puts all of memory into a new redb file and a segment that no failed write has touched.
    fn repair(&mut self, clean: bool) -> Result<(), Failed> {
        let usable = self.shared.with(|state| {
            state.book.keep_leaving();
            // What the cut tells must not be told again by the segment that stays.
            let _ = state.write_down();
            state.segment.as_ref().is_some_and(Segment::is_fresh)
        });
        let segment = if usable { None } else { Some(self.next_segment()?) };
        let cut = self.cut(segment, Take::All)?;
        let head = self.head(&cut, clean);
        let dir = &self.setup.dir;
        // The old handle goes only now: it held the old file, which has no name any more.
        self.store = Store::replace(dir, &head, &cut.rows).map_err(|error| self.store_failed(error))?;
        self.swept(&cut)
    }

    fn finish(&mut self) -> Result<(), String> {
        let in_trouble = self.shared.lock().trouble.is_some();
        let done = if in_trouble { self.repair(true) } else { self.checkpoint(true) };
        self.shared.progress.notify_waiters();
        self.shared.with(|state| {
            if done.is_ok() {
                state.trouble = None;
                let _ = state.write_down();
            }
            // From now on another process may have it. Of what still ends, the journal tells the next start.
            state.log = None;
        });
        done.map_err(|Failed(why)| why)
    }

    /// Goes on with the usage log in another file, and removes what is more than is to be kept. A failure is the
    /// log's own: it stays where it is.
    fn turn_log(&self) {
        let (known, now_ms) = {
            let state = self.shared.lock();
            (state.log.as_ref().map(|log| (log.number(), log.bounds())), state.book.latest_ms())
        };
        let Some((number, bounds)) = known else { return };
        let folder = usage_log::folder(&self.setup.dir);
        let turned = usage_log::begin(&folder, number.saturating_add(1), bounds).and_then(|next| {
            let number = next.number();
            let (before, opening) = self.shared.with(|state| {
                // A failure is the ledger's trouble, and the lines wait for its end.
                let _ = state.write_down();
                let continues = !state.log.as_ref().is_some_and(UsageLog::is_broken_off);
                let before = state.log.as_mut().map(|log| log.turn(next));
                (before, Opening { continues, ledger: None, book: state.saved() })
            });
            usage_log::write_opening(&folder, number, &opening)?;
            before.map_or(Ok(()), |before| before.sync_all())?;
            usage_log::prune(&folder, bounds, now_ms)
        });
        if let Err(error) = turned {
            tracing::error!("usage log cannot go on in another file of {}: {error}", folder.display());
            self.shared.with(|state| state.log.as_mut().map(|log: &mut UsageLog| log.put_off(now_ms)));
        }
    }

    fn next_segment(&self) -> Result<Segment, Failed> {
        let dir = &self.setup.dir;
        let known =
            segment::numbers(dir).ok().and_then(|numbers| numbers.last().copied()).unwrap_or_default();
        let current = self.shared.lock().segment.as_ref().map_or(0, Segment::number);
        let number = known.max(current).saturating_add(1);
        let path = segment::path(dir, number);
        let made = Segment::create(dir, number).map_err(|error| Failed(cannot_write(&path, &error)))?;
        match self.step(Step::SegmentMade) {
            Ok(()) => Ok(made),
            Err(failed) => {
                let _ = std::fs::remove_file(path);
                Err(failed)
            }
        }
    }

    fn cut(&self, segment: Option<Segment>, take: Take) -> Result<Cut, Failed> {
        let (cut, old, named) = self.shared.with(|state| {
            let old = segment.and_then(|segment| state.switch(segment));
            let all = take == Take::All;
            let forget = match &state.keep {
                Some(keep) if !all => state.book.leave(keep, REMEMBERED_MS),
                _ => Vec::new(),
            };
            let segment = state.segment.as_ref().map_or(0, Segment::number);
            state.checkpoint_due = false;
            state.record_holds();
            let named = state.write_down();
            (Cut { segment, entries: state.entries, rows: state.book.save(all), forget }, old, named)
        });
        // Closed outside the lock.
        drop(old);
        named.map_err(Failed)?;
        self.step(Step::Switched)?;
        Ok(cut)
    }

    fn head(&self, cut: &Cut, clean: bool) -> Head {
        let (boot, id) = (self.setup.boot.clone(), self.shared.lock().id.clone());
        Head { segment: cut.segment, entries: cut.entries, clean, boot, id }
    }

    fn swept(&self, cut: &Cut) -> Result<(), Failed> {
        self.step(Step::CheckpointWritten)?;
        sweep(&self.setup.dir, cut.segment);
        self.step(Step::Swept)
    }

    fn step(&self, step: Step) -> Result<(), Failed> {
        (self.setup.probe)(step).map_err(|error| Failed(cannot_write(&self.setup.dir, &error)))
    }

    fn store_failed(&self, error: redb::Error) -> Failed {
        Failed(cannot_write(&store::path(&self.setup.dir), &error))
    }
}

/// Notes how a job went. Only a repair, which has written everything, ends trouble.
fn note(state: &mut State, done: Result<(), Failed>, repaired: bool) {
    state.stalled = false;
    match done {
        Ok(()) if repaired => {
            state.trouble = None;
            tracing::info!("ledger can write again");
        }
        Ok(()) => {}
        Err(Failed(why)) => state.trouble = Some(why),
    }
}

fn cannot_write(path: &std::path::Path, error: &dyn std::fmt::Display) -> String {
    format!("cannot write {}: {error}", path.display())
}
