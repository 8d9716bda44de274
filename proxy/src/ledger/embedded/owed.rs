//! What a start owes to the usage log: the lines of charges that the journal has and the log lacks.

use std::collections::BTreeSet;
use std::io;

use la_core::budget::{SavedBook, SavedPart, Spent};
use la_core::id::Subject;

use super::recover::{Charged, Recovered};
use super::{OpenError, Setup, io_at};
use crate::usage_log::{self, Bounds, Charge, Keeping, Late, Opening, UsageLog};

/// Opens the log and writes what it lacks. Where it does not lead up to what was recovered, it goes on in a new
/// file that begins with what the ledger counts now. Nothing when no log is to be kept.
pub(super) fn settled(
    setup: &Setup,
    recovered: &Recovered,
    now_ms: u64,
) -> Result<Option<UsageLog>, OpenError> {
    let folder = usage_log::folder(&setup.dir);
    let opened = open(setup, recovered, now_ms).map_err(io_at(&folder))?;
    Ok(opened.filter(|_| matches!(setup.log, Keeping::On(_))))
}

fn open(setup: &Setup, recovered: &Recovered, now_ms: u64) -> io::Result<Option<UsageLog>> {
    let folder = usage_log::folder(&setup.dir);
    let bounds = match setup.log {
        Keeping::Off => return Ok(None),
        Keeping::Owed => Bounds::default(),
        Keeping::On(bounds) => bounds.within(&setup.dir)?,
    };
    let ends = usage_log::ends(&folder)?;
    let first = recovered.entries.saturating_sub(recovered.charged.len() as u64);
    let leads_up = |entries: u64| recovered.is_whole && (first..=recovered.entries).contains(&entries);
    let last = ends.as_ref().map_or(0, |ends| ends.number);
    // The charges of a ledger in a Redis have numbers of their own.
    let own = ends.filter(|ends| ends.ledger.is_none());
    if let Some((ends, known)) = own.and_then(|ends| ends.entries.filter(|e| leads_up(*e)).map(|e| (ends, e)))
    {
        let mut log = UsageLog::go_on(&ends, bounds)?;
        owe(&mut log, recovered, known.saturating_sub(first), now_ms);
        log.write_down(now_ms);
        return Ok(Some(log));
    }
    if setup.log == Keeping::Owed {
        return Ok(None);
    }
    let book = SavedBook {
        version: SavedBook::VERSION,
        entries: recovered.entries,
        at_ms: now_ms,
        owners: recovered.book.saved().collect(),
        held: Vec::new(),
    };
    usage_log::begin(&folder, last.saturating_add(1), bounds).and_then(|log| {
        usage_log::write_opening(&folder, log.number(), &Opening { continues: false, ledger: None, book })?;
        usage_log::prune(&folder, bounds, now_ms)?;
        Ok(Some(log))
    })
}

/// Adds the lines of all charges but the first `known` of those that were recovered.
fn owe(log: &mut UsageLog, recovered: &Recovered, known: u64, now_ms: u64) {
    let first = recovered.entries.saturating_sub(recovered.charged.len() as u64);
    let numbered = (first.saturating_add(1)..).zip(&recovered.charged);
    for (number, Charged { subject, spent, parts }) in
        numbered.skip(usize::try_from(known).unwrap_or(usize::MAX))
    {
        let late = if spent.is_some() { Late::Killed } else { Late::Open };
        let reserved = usage_log::amounts(parts, |part| part.reserved);
        // What an open request is charged is a bound, and not what anything cost.
        let spent = spent
            .unwrap_or(Spent { amounts: usage_log::amounts(parts, |part| part.charged), ..Spent::default() });
        let cost_nano_usd = if late == Late::Killed { spent.amounts.nano_usd } else { 0 };
        let (pools, parts) = (pools_of(subject, parts), parts.clone());
        let (time_ms, late) = (now_ms, Some(late));
        let charge = Charge { number, time_ms, subject, pools, reserved, spent, cost_nano_usd, parts, late };
        log.push(&charge, None);
    }
}

fn pools_of<'a>(subject: &Subject, parts: &'a [SavedPart]) -> Vec<&'a Subject> {
    let owners: BTreeSet<_> =
        parts.iter().map(|part| &part.owner).filter(|owner| *owner != subject).collect();
    owners.into_iter().collect()
}
