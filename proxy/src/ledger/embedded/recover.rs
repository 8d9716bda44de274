//! What a start makes of the files: the last checkpoint, and the journal since.

use std::collections::HashMap;
use std::path::Path;

use la_core::budget::Balance;
use la_core::id::Subject;
use la_core::usage::Usage;

use super::record::Record;
use super::segment::{self, Tail};
use super::store::{self, Head};
use super::{OpenError, Row, Setup, io_at, unreadable};

/// The accounts as they stand now, with nothing open.
pub(super) struct Recovered {
    pub(super) rows: Vec<Row>,
    /// Those of them that differ from the checkpoint.
    pub(super) changed: Vec<Row>,
    pub(super) last_segment: u64,
    /// Whether the checkpoint refers to the last segment, so that it is known to survive a power cut.
    pub(super) is_durable: bool,
}

/// Accounts while the journal is replayed.
struct Replay {
    rows: Vec<Row>,
    places: HashMap<Subject, usize>,
    /// Where the slots of the segment that is read are.
    slots: HashMap<u32, usize>,
    now: i64,
}

/// Replays the journal over the rows of a checkpoint and charges what is in doubt.
///
/// In the same boot the kernel has kept every record: what is open was open when the process died, and is
/// charged as one request each. In another boot any record may be missing: the whole grant is charged,
/// unless the process had ended in order.
pub(super) fn recover(setup: &Setup, head: &Head, rows: Vec<Row>, now: i64) -> Result<Recovered, OpenError> {
    let dir = setup.dir.as_path();
    let same_boot = !setup.boot.is_empty() && head.boot == setup.boot;
    let tail = if same_boot { Tail::Kept } else { Tail::Lost };
    let numbers = segment::numbers(dir).map_err(io_at(dir))?;
    let last_segment = numbers.last().copied().unwrap_or_default().max(head.segment);
    let before: HashMap<Subject, Row> = rows.iter().map(|row| (row.subject.clone(), row.clone())).collect();
    let mut replay = Replay::over(rows, now);
    for number in head.segment..=last_segment {
        let file = segment::path(dir, number);
        if !numbers.contains(&number) {
            return Err(OpenError::Damaged { file, what: "it is missing".to_owned() });
        }
        replay.slots.clear();
        let mut nameless = false;
        segment::read(dir, number, tail, |record| nameless |= !replay.apply(record))
            .map_err(|why| unreadable(file.clone(), why))?;
        if nameless && tail == Tail::Kept {
            return Err(OpenError::Damaged { file, what: "it uses a slot that it does not name".to_owned() });
        }
    }
    let rows = replay.charged(same_boot || head.clean);
    let changed = rows.iter().filter(|row| before.get(&row.subject) != Some(row)).cloned().collect();
    Ok(Recovered { rows, changed, last_segment, is_durable: last_segment == head.segment })
}

/// What to start from where there is no redb file.
pub(super) fn nothing_there(dir: &Path) -> Result<Recovered, OpenError> {
    let numbers = segment::numbers(dir).map_err(io_at(dir))?;
    for number in &numbers {
        let mut records = 0_u64;
        // A first start that died before its redb file was in place leaves a segment without a record.
        let _ = segment::read(dir, *number, Tail::Lost, |_| records += 1);
        if records > 0 {
            let what = format!("it is missing beside {}", segment::path(dir, *number).display());
            return Err(OpenError::Damaged { file: store::path(dir), what });
        }
    }
    let last_segment = numbers.last().copied().unwrap_or_default();
    Ok(Recovered { rows: Vec::new(), changed: Vec::new(), last_segment, is_durable: false })
}

impl Replay {
    fn over(rows: Vec<Row>, now: i64) -> Self {
        let places = rows.iter().enumerate().map(|(at, row)| (row.subject.clone(), at)).collect();
        Self { rows, places, slots: HashMap::new(), now }
    }

    /// Whether the record's slot is known.
    fn apply(&mut self, record: Record) -> bool {
        match record {
            Record::Name { slot, subject } => {
                let at = self.place(subject);
                self.slots.insert(slot, at);
                true
            }
            Record::Reserve { slot } => self.change(slot, |row| row.open = row.open.saturating_add(1)),
            Record::Release { slot } => self.change(slot, |row| row.open = row.open.saturating_sub(1)),
            Record::Settle { slot, tokens } => self.change(slot, |row| {
                row.open = row.open.saturating_sub(1);
                row.settled = row.settled.saturating_add(1);
                row.tokens = row.tokens.plus(&tokens);
            }),
        }
    }

    fn change(&mut self, slot: u32, how: impl FnOnce(&mut Row)) -> bool {
        let at = self.slots.get(&slot).copied();
        let Some(row) = at.and_then(|at| self.rows.get_mut(at)) else { return false };
        how(row);
        row.last_seen = row.last_seen.max(self.now);
        true
    }

    fn place(&mut self, subject: Subject) -> usize {
        if let Some(at) = self.places.get(&subject) {
            return *at;
        }
        let at = self.rows.len();
        self.places.insert(subject.clone(), at);
        let tokens = Usage::default();
        self.rows.push(Row { subject, settled: 0, open: 0, granted: 0, tokens, last_seen: self.now });
        at
    }

    fn charged(self, journal_is_whole: bool) -> Vec<Row> {
        let charge = |row: Row| {
            let balance = Balance::restored(row.settled, row.open, row.granted);
            let balance = if journal_is_whole { balance.after_crash() } else { balance.after_power_cut() };
            Row { settled: balance.settled(), open: 0, granted: balance.granted(), ..row }
        };
        self.rows.into_iter().map(charge).collect()
    }
}
