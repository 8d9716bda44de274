//! What a start makes of the files: the last checkpoint, the journal since, and the grants.

use std::collections::HashMap;
use std::path::Path;

use la_core::budget::{Book, Grants};

use super::record::Record;
use super::segment::{self, Tail};
use super::store::{self, Head, Kept};
use super::{OpenError, Setup, io_at, unreadable};

/// The book as it stands now, with nothing open. What differs from the checkpoint counts as not saved.
pub(super) struct Recovered {
    pub(super) book: Book,
    pub(super) last_segment: u64,
    /// Whether the checkpoint refers to the last segment, so that it is known to survive a power cut.
    pub(super) is_durable: bool,
}

/// A book while the journal is replayed.
struct Replay {
    book: Book,
    /// Where the meters of the segment that is read are in the book.
    places: HashMap<u32, u32>,
    now_ms: u64,
}

/// Replays the journal over a checkpoint and charges what is in doubt.
///
/// In the same boot the kernel has kept every record: what is open was open when the process died, and is
/// charged as it was reserved. In another boot any record may be missing: whatever was granted is charged,
/// unless the process had ended in order.
pub(super) fn recover(setup: &Setup, head: &Head, kept: &Kept, now_ms: u64) -> Result<Recovered, OpenError> {
    let dir = setup.dir.as_path();
    let same_boot = !setup.boot.is_empty() && head.boot == setup.boot;
    let tail = if same_boot { Tail::Kept } else { Tail::Lost };
    let numbers = segment::numbers(dir).map_err(io_at(dir))?;
    let last_segment = numbers.last().copied().unwrap_or_default().max(head.segment);
    let mut book = Book::new(Grants::Needed);
    kept.owners.iter().for_each(|owner| book.restore(owner));
    let mut replay = Replay { book, places: HashMap::new(), now_ms };
    for number in head.segment..=last_segment {
        let file = segment::path(dir, number);
        if !numbers.contains(&number) {
            return Err(OpenError::Damaged { file, what: "it is missing".to_owned() });
        }
        replay.places.clear();
        let mut nameless = false;
        segment::read(dir, number, tail, |record| nameless |= replay.apply(&record).is_none())
            .map_err(|why| unreadable(file.clone(), why))?;
        if nameless && tail == Tail::Kept {
            return Err(OpenError::Damaged {
                file,
                what: "it uses a place that it does not name".to_owned(),
            });
        }
    }
    let (mut book, records_are_whole) = (replay.book, same_boot || head.clean);
    for (subject, saved) in &kept.grants {
        book.restore_grant(subject, saved, records_are_whole);
    }
    if records_are_whole {
        book.charge_open();
    } else {
        book.charge_grants(now_ms);
    }
    Ok(Recovered { book, last_segment, is_durable: last_segment == head.segment })
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
    Ok(Recovered { book: Book::new(Grants::Needed), last_segment, is_durable: false })
}

impl Replay {
    /// Nothing when the segment uses a meter that it has not named.
    fn apply(&mut self, record: &Record) -> Option<()> {
        match record {
            Record::Meter { place, unit, window, subject } => {
                let meter = self.book.meter_of(subject, *unit, window);
                self.places.insert(*place, meter);
            }
            Record::Period { place, start_ms } => {
                self.book.replay_period(*self.places.get(place)?, *start_ms);
            }
            Record::Reserve { taken } => {
                for (place, amount) in taken {
                    self.book.replay_take(*self.places.get(place)?, *amount, self.now_ms);
                }
            }
            Record::End { spent, ended } => {
                for ended in ended {
                    let mut ended = *ended;
                    ended.taken.meter = *self.places.get(&ended.taken.meter)?;
                    self.book.replay_end(&ended);
                }
                if let Some((caller, spent)) = spent {
                    self.book.replay_spent(*self.places.get(caller)?, spent);
                }
            }
        }
        Some(())
    }
}
