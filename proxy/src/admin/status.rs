//! What the process reports of itself, with a revision that rises whenever anything but use changes.

use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use la_core::report::{LEDGER_REASON, Report};

use crate::config::feed::FeedState;
use crate::config::live::LiveCell;
use crate::ledger::Ledger;

/// Where the process is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Phase {
    Starting = 0,
    Serving = 1,
    Stopping = 2,
}

/// Collects the report.
pub struct Status {
    cell: Arc<LiveCell>,
    ledger: Arc<Ledger>,
    feed: Arc<FeedState>,
    phase: AtomicU8,
    last: Mutex<Report>,
}

impl Status {
    /// A report of a process that starts at `now` (Unix seconds). Revisions of a later process are higher.
    pub fn new(cell: Arc<LiveCell>, ledger: Arc<Ledger>, feed: Arc<FeedState>, now: i64) -> Self {
        let revision = u64::try_from(now).unwrap_or_default().saturating_mul(1_000);
        let last = Mutex::new(Report { revision, ..Report::default() });
        Self { cell, ledger, feed, phase: AtomicU8::new(Phase::Starting as u8), last }
    }

    /// Notes where the process is.
    pub fn enter(&self, phase: Phase) {
        self.phase.store(phase as u8, Ordering::Relaxed);
    }

    /// Why the process takes no requests, one sentence each; empty when it does.
    pub fn not_ready(&self) -> Vec<String> {
        let mut reasons = Vec::new();
        match self.phase.load(Ordering::Relaxed) {
            phase if phase == Phase::Starting as u8 => reasons.push("router is starting".to_owned()),
            phase if phase == Phase::Stopping as u8 => reasons.push("router is stopping".to_owned()),
            _ => {}
        }
        if !self.feed.is_loaded() {
            reasons.push("no configuration was loaded yet".to_owned());
            reasons.extend(self.feed.faults());
        }
        reasons.extend(self.ledger.health().err().map(|why| format!("{LEDGER_REASON}{why}")));
        reasons
    }

    /// What is wrong although the process takes requests, one sentence each.
    pub fn remarks(&self) -> Vec<String> {
        let unrecorded = self.ledger.unrecorded();
        unrecorded
            .map(|why| format!("requests are admitted and counted nowhere: {why}"))
            .into_iter()
            .collect()
    }

    /// The report at `now` (Unix seconds).
    pub fn report(&self, now: i64) -> Report {
        let live = self.cell.load();
        let snapshot = live.snapshot();
        let not_ready = self.not_ready();
        let tokens = snapshot.tokens.iter().filter(|token| token.is_live(now)).count();
        let mut report = Report {
            revision: 0,
            epoch: snapshot.epoch,
            generation: snapshot.generation,
            ready: not_ready.is_empty(),
            not_ready,
            faults: self.feed.faults().into_iter().chain(self.remarks()).collect(),
            accounts: live.accounts(now),
            live_tokens: u64::try_from(tokens).unwrap_or(u64::MAX),
            usage: Vec::new(),
        };
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        report.revision = last.revision;
        if report != *last {
            report.revision = last.revision.saturating_add(1);
            last.clone_from(&report);
        }
        drop(last);
        report.usage = self.ledger.usage_all();
        report
    }

    /// What is served now.
    pub fn cell(&self) -> &LiveCell {
        &self.cell
    }

    /// Who has used what.
    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }
}
