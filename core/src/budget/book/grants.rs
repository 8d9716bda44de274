//! What keeps a book durable: grants ahead of use, states to write down and read back, forgetting.

use std::collections::BTreeSet;

use super::{Amounts, Book, Cover, Owner};
use crate::budget::{Grant, SavedOwner};
use crate::id::Subject;

impl Book {
    /// Whether any meter waits for a grant.
    pub const fn wants_grants(&self) -> bool {
        !self.queue.is_empty()
    }

    /// The grants to write down next. [`Book::grant`] or [`Book::deny`] must follow.
    pub fn next_grants(&mut self) -> Vec<Grant> {
        let now_ms = self.time.latest_ms();
        let mut grants = Vec::new();
        for place in std::mem::take(&mut self.queue) {
            let Some(meter) = self.meters.get_mut(place) else { continue };
            let Some(clock) = self.clocks.get_mut(meter.clock) else { continue };
            meter.advance(clock, now_ms);
            let Some(saved) = meter.next_grant(&clock.window, now_ms) else { continue };
            let Some(owner) = self.owners.get(meter.owner) else { continue };
            grants.push(Grant { meter: place, owner: owner.subject.clone(), saved });
        }
        grants
    }

    /// Gives grants that are durable now.
    pub fn grant(&mut self, grants: &[Grant]) {
        for grant in grants {
            if let Some(meter) = self.meters.get_mut(grant.meter) {
                meter.grant(&grant.saved);
            }
        }
    }

    /// Lets the meters ask again for grants that could not be made durable.
    pub fn deny(&mut self, grants: &[Grant]) {
        for grant in grants {
            if let Some(meter) = self.meters.get_mut(grant.meter) {
                meter.queued = false;
            }
        }
    }

    /// Takes over an owner as it was written down.
    pub fn restore(&mut self, saved: &SavedOwner) {
        let place = self.owner(&saved.subject);
        for meter in &saved.meters {
            let meter_place = self.meter(place, meter.unit, &meter.window);
            if let Some(known) = self.meters.get_mut(meter_place) {
                known.restore(meter);
            }
        }
        if let Some(owner) = self.owners.get_mut(place) {
            owner.last_seen_ms = saved.last_seen_ms;
            (owner.settled, owner.tokens) = (saved.settled, saved.tokens);
        }
    }

    /// Owners that differ from what was saved last, or all; from now on they count as saved.
    pub fn save(&mut self, all: bool) -> Vec<SavedOwner> {
        let (meters, clocks) = (&self.meters, &self.clocks);
        let due = self.owners.iter_mut().filter(|(_, owner)| !owner.leaving && (all || owner.changed));
        due.map(|(_, owner)| {
            owner.changed = false;
            let its = owner.meters.iter().filter_map(|place| {
                let meter = meters.get(*place)?;
                Some(meter.saved(&clocks.get(meter.clock)?.window))
            });
            SavedOwner {
                subject: owner.subject.clone(),
                last_seen_ms: owner.last_seen_ms,
                settled: owner.settled,
                tokens: owner.tokens,
                meters: its.collect(),
            }
        })
        .collect()
    }

    /// Charges what was open when a process died whose every record was kept.
    pub fn charge_open(&mut self) {
        self.meters.iter_mut().for_each(|(_, meter)| meter.charge_open());
    }

    /// Charges all that was granted and may have been spent when power was lost, in the periods it was granted
    /// for. `now_ms` is when the book is opened again.
    pub fn charge_grants(&mut self, now_ms: u64) {
        for (_, meter) in self.meters.iter_mut() {
            if let Some(clock) = self.clocks.get(meter.clock) {
                meter.charge_grant(&clock.window, now_ms);
            }
        }
    }

    /// Notes that these owners are named by a snapshot.
    pub fn see(&mut self, subjects: &BTreeSet<Subject>, now_ms: u64) {
        let (now_ms, _) = self.time.advance(now_ms);
        for subject in subjects {
            let owner = self.by_subject.get(subject).and_then(|place| self.owners.get_mut(*place));
            if let Some(owner) = owner {
                owner.last_seen_ms = owner.last_seen_ms.max(now_ms);
                owner.changed = true;
            }
        }
    }

    /// Whether anybody has not been seen for `after_ms` and is not in `keep`.
    pub fn may_forget(&self, keep: &BTreeSet<Subject>, after_ms: u64) -> bool {
        let latest_ms = self.time.latest_ms();
        self.owners.iter().any(|(_, owner)| owner.may_leave(keep, after_ms, latest_ms))
    }

    /// Marks those that [`Book::may_forget`] means, so that nothing of them can be reserved, and names them.
    pub fn leave(&mut self, keep: &BTreeSet<Subject>, after_ms: u64) -> Vec<Subject> {
        let latest_ms = self.time.latest_ms();
        let owners = self.owners.iter_mut().map(|(_, owner)| owner);
        let leaving = owners.filter(|owner| owner.may_leave(keep, after_ms, latest_ms));
        leaving
            .map(|owner| {
                owner.leaving = true;
                owner.subject.clone()
            })
            .collect()
    }

    /// Keeps those that were marked.
    pub fn keep_leaving(&mut self) {
        self.owners.iter_mut().for_each(|(_, owner)| owner.leaving = false);
    }

    /// Forgets those that were marked. Covers that were made before are stale from now on.
    pub fn forget_leaving(&mut self) {
        let leaving: Vec<u32> =
            self.owners.iter().filter(|(_, owner)| owner.leaving).map(|(place, _)| place).collect();
        if leaving.is_empty() {
            return;
        }
        self.edition += 1;
        for place in leaving {
            let Some(owner) = self.owners.remove(place) else { continue };
            self.by_subject.remove(&owner.subject);
            for level in owner.levels {
                self.levels.remove(level);
            }
            for meter in owner.meters.into_iter().filter_map(|place| self.meters.remove(place)) {
                let unused = self.clocks.get_mut(meter.clock).is_some_and(|clock| {
                    clock.meters -= 1;
                    clock.meters == 0
                });
                if unused {
                    self.clocks.remove(meter.clock);
                }
            }
        }
        self.queue.retain(|place| self.meters.get(*place).is_some());
    }

    /// Asks for the grants that `amounts` lack.
    pub(super) fn want(&mut self, cover: &Cover, amounts: &Amounts) {
        for line in &cover.lines {
            let (amount, Some(limit)) = (amounts.of(line.unit), line.hard) else { continue };
            let Some(meter) = self.meters.get_mut(line.meter) else { continue };
            if amount > 0 && meter.starts_wanting(amount, limit) {
                self.queue.push(line.meter);
            }
        }
    }
}

impl Owner {
    fn may_leave(&self, keep: &BTreeSet<Subject>, after_ms: u64, latest_ms: u64) -> bool {
        let is_old = latest_ms.saturating_sub(self.last_seen_ms) >= after_ms;
        is_old && self.open == 0 && !keep.contains(&self.subject)
    }
}
