//! What a start makes of the files: the last checkpoint, the journal since, and the grants.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use la_core::budget::{Book, Ended, Grants, SavedPart, Spent, Taken};
use la_core::id::Subject;

use super::record::Record;
use super::segment::{self, Tail};
use super::store::{self, Head, Kept};
use super::{OpenError, Setup, io_at, unreadable};

/// The book as it stands now, with nothing open. What differs from the checkpoint counts as not saved.
pub(super) struct Recovered {
    pub(super) book: Book,
    /// What the ledger is called; empty where nothing was called so yet.
    pub(super) id: String,
    /// What the journal has charged since the checkpoint, then what was open, in order. The last has the number
    /// `entries`.
    pub(super) charged: Vec<Charged>,
    /// Requests that were ever charged.
    pub(super) entries: u64,
    /// Whether every record was kept, so that `charged` is all there is.
    pub(super) is_whole: bool,
    pub(super) last_segment: u64,
    /// Whether the checkpoint refers to the last segment, so that it is known to survive a power cut.
    pub(super) is_durable: bool,
}

/// What the journal says of one charge.
pub(super) struct Charged {
    pub(super) subject: Subject,
    /// Nothing for a request that was open.
    pub(super) spent: Option<Spent>,
    pub(super) parts: Vec<SavedPart>,
}

/// A book while the journal is replayed.
struct Replay {
    book: Book,
    /// What requests hold that are open, by what the journal calls them.
    open: BTreeMap<u32, Vec<Taken>>,
    charged: Vec<Charged>,
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
    let mut replay =
        Replay { book, open: BTreeMap::new(), charged: Vec::new(), places: HashMap::new(), now_ms };
    for number in head.segment..=last_segment {
        let file = segment::path(dir, number);
        if !numbers.contains(&number) {
            return Err(OpenError::Damaged { file, what: "it is missing".to_owned() });
        }
        let is_last = number == last_segment && number > head.segment;
        if is_last && segment::is_unmade(dir, number, tail).map_err(io_at(&file))? {
            break;
        }
        replay.places.clear();
        let mut nameless = false;
        segment::read(dir, number, tail, |record| nameless |= replay.apply(&record).is_none())
            .map_err(|why| unreadable(file.clone(), why))?;
        if nameless && tail == Tail::Kept {
            return Err(OpenError::Damaged {
                file,
                what: "it uses a place or a request that it does not name".to_owned(),
            });
        }
    }
    let records_are_whole = same_boot || head.clean;
    replay.charge_open();
    let Replay { mut book, charged, .. } = replay;
    for (subject, saved) in &kept.grants {
        book.restore_grant(subject, saved, records_are_whole);
    }
    if records_are_whole {
        book.charge_open();
    } else {
        book.charge_grants(now_ms);
    }
    let entries = head.entries.saturating_add(charged.len() as u64);
    let is_durable = last_segment == head.segment;
    let (id, is_whole) = (head.id.clone(), records_are_whole);
    Ok(Recovered { book, id, charged, entries, is_whole, last_segment, is_durable })
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
    let (book, id, charged) = (Book::new(Grants::Needed), String::new(), Vec::new());
    Ok(Recovered { book, id, charged, entries: 0, is_whole: true, last_segment, is_durable: false })
}

impl Replay {
    /// Nothing when the segment uses a meter or a request that it has not named.
    fn apply(&mut self, record: &Record) -> Option<()> {
        match record {
            Record::Meter { place, unit, window, subject } => {
                let meter = self.book.meter_of(subject, *unit, window);
                self.places.insert(*place, meter);
            }
            Record::Period { place, start_ms } => {
                self.book.replay_period(*self.places.get(place)?, *start_ms);
            }
            Record::Reserve { hold, taken } => {
                let held = self.open.entry(*hold).or_default();
                for (place, amount) in taken {
                    let meter = *self.places.get(place)?;
                    self.book.replay_take(meter, *amount, self.now_ms);
                    let start_ms = self.book.period_of(meter);
                    // As the book has it: what is taken again in the same period is one part with the first.
                    match held.iter_mut().find(|part| (part.meter, part.start_ms) == (meter, start_ms)) {
                        Some(part) => part.amount = part.amount.saturating_add(*amount),
                        None => held.push(Taken { meter, start_ms, amount: *amount }),
                    }
                }
            }
            Record::End { hold, spent } => {
                let held = self.open.remove(hold)?;
                let amounts = spent.as_ref().map(|spent| &spent.amounts);
                let ended: Vec<_> = self.book.ending(&held, amounts).collect();
                if let Some(spent) = spent {
                    self.charge(held.first()?.meter, Some(*spent), &ended)?;
                }
                for ended in &ended {
                    self.book.replay_end(ended);
                }
            }
            Record::Holds => self.open.clear(),
            Record::Hold { hold, taken } => {
                let place = |taken: &Taken| Some(Taken { meter: *self.places.get(&taken.meter)?, ..*taken });
                let held: Option<_> = taken.iter().map(place).collect();
                self.open.insert(*hold, held?);
            }
        }
        Some(())
    }

    /// Notes a charge; `spent` is nothing for a request that was open.
    fn charge(&mut self, caller: u32, spent: Option<Spent>, ended: &[Ended]) -> Option<()> {
        let subject = self.book.meter_at(caller)?.0.clone();
        let parts = ended.iter().filter_map(|ended| self.book.named(ended)).collect();
        self.charged.push(Charged { subject, spent, parts });
        spent.is_none_or(|spent| self.book.replay_spent(caller, &spent)).then_some(())
    }

    /// Notes the requests that were open when the process died. Each takes of its caller's requests first.
    fn charge_open(&mut self) {
        for held in std::mem::take(&mut self.open).into_values() {
            // A request that is free has taken nothing, and comes to nothing.
            let Some(caller) = held.first().filter(|taken| taken.amount > 0) else { continue };
            let ending = self.book.ending(&held, None);
            let counting: Vec<_> =
                ending.map(|ended| Ended { charged: ended.taken.amount, ..ended }).collect();
            self.charge(caller.meter, None, &counting);
        }
    }
}
