//! What a journal writes down of a book, and how a book is made of a journal again.

use super::{Amounts, Book, HoldId, Spent, share};
use crate::amount::Unit;
use crate::budget::{SavedMeter, SavedPart, Window};
use crate::id::Subject;

/// What a request has taken of one meter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Taken {
    /// The meter's place.
    pub meter: u32,
    /// The beginning of the period it was taken in, in Unix milliseconds.
    pub start_ms: u64,
    /// How much.
    pub amount: u64,
}

/// What the end of a request does to one meter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ended {
    /// What was held.
    pub taken: Taken,
    /// What of it is charged.
    pub charged: u64,
}

impl HoldId {
    /// What a journal calls it while it is open; the next hold may be called so again.
    pub const fn number(self) -> u32 {
        self.at
    }
}

impl Book {
    /// Everything that is held now, by [`HoldId::number`].
    pub fn open_holds(&self) -> impl Iterator<Item = (u32, &[Taken])> {
        let numbered = (0..).zip(&self.holds);
        numbered.filter(|(_, hold)| hold.is_open).map(|(at, hold)| (at, hold.parts.as_slice()))
    }

    /// What an open hold has taken.
    pub fn held(&self, hold: HoldId) -> &[Taken] {
        self.open_hold(hold).map_or(&[], |hold| &hold.parts)
    }

    /// What an open hold has reserved.
    pub fn reserved(&self, hold: HoldId) -> Option<&Amounts> {
        self.open_hold(hold).map(|hold| &hold.reserved)
    }

    /// Whose limits cover an open hold, the caller first.
    pub fn owners_of(&self, hold: HoldId) -> impl Iterator<Item = &Subject> {
        let seats = self.open_hold(hold).map_or(&[][..], |hold| &hold.seats);
        seats.iter().filter_map(|seat| self.owners.get(*seat)).map(|owner| &owner.subject)
    }

    /// A part with the names of its meter. Nothing for a place without one.
    pub fn named(&self, ended: &Ended) -> Option<SavedPart> {
        let Ended { taken: Taken { meter, start_ms, amount }, charged } = *ended;
        let (owner, unit, window, _) = self.meter_at(meter)?;
        let (owner, window) = (owner.clone(), window.clone());
        Some(SavedPart { owner, unit, window, start_ms, reserved: amount, charged })
    }

    /// What ending a request that has taken `parts`, charged as `spent` or not at all, will do to meters that still
    /// count it.
    pub fn ending(&self, parts: &[Taken], spent: Option<&Amounts>) -> impl Iterator<Item = Ended> {
        parts.iter().enumerate().filter_map(move |(index, part)| {
            let meter = self.meters.get(part.meter)?;
            let charged = spent.map_or(0, |spent| share(parts, index, spent.of(meter.unit)));
            let counts = meter.counts(part.start_ms) && part.amount.max(charged) > 0;
            counts.then_some(Ended { taken: *part, charged })
        })
    }

    /// When the period began that a meter is in; never for a place without one.
    pub fn period_of(&self, place: u32) -> u64 {
        self.meters.get(place).map_or(u64::MAX, |meter| meter.start_ms())
    }

    /// What a meter counts, and when the period began that it is in.
    pub fn meter_at(&self, place: u32) -> Option<(&Subject, Unit, &Window, u64)> {
        let meter = self.meters.get(place)?;
        let owner = self.owners.get(meter.owner)?;
        Some((&owner.subject, meter.unit, &self.clocks.get(meter.clock)?.window, meter.start_ms()))
    }

    /// The place of a meter; a new one when there is none.
    pub fn meter_of(&mut self, subject: &Subject, unit: Unit, window: &Window) -> u32 {
        let owner = self.owner(subject);
        self.meter(owner, unit, window)
    }

    /// Puts a meter into the period that begins at `start_ms`. False when there is no such meter.
    pub fn replay_period(&mut self, place: u32, start_ms: u64) -> bool {
        self.meters.get_mut(place).map(|meter| meter.begin(start_ms)).is_some()
    }

    /// Takes an amount as a journal says, for an owner who is in use at `now_ms`. False when there is no such
    /// meter.
    pub fn replay_take(&mut self, place: u32, amount: u64, now_ms: u64) -> bool {
        let Some(meter) = self.meters.get_mut(place) else { return false };
        meter.take(amount);
        if let Some(owner) = self.owners.get_mut(meter.owner) {
            owner.last_seen_ms = owner.last_seen_ms.max(now_ms);
            owner.changed = true;
        }
        true
    }

    /// Ends what was taken as a journal says. False when there is no such meter.
    pub fn replay_end(&mut self, ended: &Ended) -> bool {
        let Taken { meter, start_ms, amount } = ended.taken;
        let Some(meter) = self.meters.get_mut(meter) else { return false };
        meter.end(start_ms, amount, ended.charged);
        if let Some(owner) = self.owners.get_mut(meter.owner) {
            owner.changed = true;
        }
        true
    }

    /// Adds to the reports of a meter's owner. False when there is no such meter.
    pub fn replay_spent(&mut self, place: u32, spent: &Spent) -> bool {
        let owner = self.meters.get(place).map(|meter| meter.owner);
        owner.and_then(|owner| self.owners.get_mut(owner)).map(|owner| owner.spend(spent)).is_some()
    }

    /// Takes over the last grant of a meter, which was written down after the meter was. When records were
    /// lost, the meter is at least as it was when the grant was made.
    pub fn restore_grant(&mut self, subject: &Subject, saved: &SavedMeter, records_are_whole: bool) {
        let place = self.meter_of(subject, saved.unit, &saved.window);
        if let Some(meter) = self.meters.get_mut(place) {
            meter.restore_grant(saved, records_are_whole);
        }
    }

    /// Charges what was open when a process died whose every record was kept.
    pub fn charge_open(&mut self) {
        for (_, meter) in self.meters.iter_mut() {
            if meter.balance().open() > 0 {
                meter.charge_open();
                if let Some(owner) = self.owners.get_mut(meter.owner) {
                    owner.changed = true;
                }
            }
        }
    }

    /// Charges all that was granted and may have been spent when power was lost, in the periods it was granted
    /// for. `now_ms` is when the book is opened again.
    pub fn charge_grants(&mut self, now_ms: u64) {
        for (_, meter) in self.meters.iter_mut() {
            let Some(clock) = self.clocks.get(meter.clock) else { continue };
            if meter.charge_grant(&clock.window, now_ms)
                && let Some(owner) = self.owners.get_mut(meter.owner)
            {
                owner.changed = true;
            }
        }
    }
}
