//! What a book can tell of itself: why it refused, and how every budget stands.

use std::sync::Arc;

use super::{Amounts, Asks, Book, Cover, Enforcement, Meter, Owner, Window};
use crate::amount::Unit;
use crate::budget::cover::Check;
use crate::budget::{Budget, Refused, RefusedBy};
use crate::id::Subject;
use crate::usage::Usage;

/// How one budget stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    /// Whose it is.
    pub owner: Subject,
    /// Its name.
    pub name: Arc<str>,
    /// What it counts.
    pub unit: Unit,
    /// What happens at the limit.
    pub enforcement: Enforcement,
    /// What is settled and open in the window.
    pub used: u64,
    /// What of that is open; in a rolling window also what is open for so long that it no longer counts.
    pub open: u64,
    /// The limit.
    pub limit: u64,
    /// When the window ends, or the oldest part of a rolling one leaves, in Unix milliseconds.
    pub resets_at_ms: Option<u64>,
}

/// What of a [`Standing`] changes with every request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reading {
    /// What is settled and open in the window.
    pub used: u64,
    /// When the window ends, or the oldest part of a rolling one leaves, in Unix milliseconds.
    pub resets_at_ms: Option<u64>,
}

/// What an owner has used in its life.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Used {
    /// Requests that are settled, or were charged after a crash.
    pub requests: u64,
    /// Requests that are open.
    pub open: u64,
    /// Tokens of the settled ones.
    pub tokens: Usage,
    /// Their cost in nano-dollars.
    pub nano_usd: u64,
}

impl From<&Standing> for Reading {
    fn from(standing: &Standing) -> Self {
        Self { used: standing.used, resets_at_ms: standing.resets_at_ms }
    }
}

impl Book {
    /// How every budget of `cover` stands, in its order. Nothing when the cover is stale.
    pub fn standings(&mut self, cover: &Cover, now_ms: u64) -> Vec<Standing> {
        if cover.edition != self.edition {
            return Vec::new();
        }
        let (now_ms, _) = self.time.advance(now_ms);
        let mut standings = Vec::with_capacity(cover.checks.len());
        for check in &cover.checks {
            let Some(meter) = self.meters.get_mut(check.meter) else { continue };
            let Some(clock) = self.clocks.get_mut(meter.clock) else { continue };
            meter.advance(clock, now_ms);
            let Some(owner) = self.owners.get(check.owner) else { continue };
            standings.push(Standing {
                owner: owner.subject.clone(),
                name: Arc::clone(&check.name),
                unit: check.unit,
                enforcement: check.enforcement,
                used: meter.taken(),
                open: meter.open(),
                limit: check.limit,
                resets_at_ms: meter.resets_at_ms(clock),
            });
        }
        standings
    }

    /// How every budget of `cover` reads at the moment of the last [`Book::reserve`] under it, in its order. Nothing
    /// when the cover is stale.
    pub fn readings(&self, cover: &Cover) -> Vec<Reading> {
        let checks = if cover.edition == self.edition { cover.checks.as_slice() } else { &[] };
        let mut readings = Vec::with_capacity(checks.len());
        for check in checks {
            // All or nothing: what follows goes by their order.
            let Some(meter) = self.meters.get(check.meter) else { return Vec::new() };
            let Some(clock) = self.clocks.get(meter.clock) else { return Vec::new() };
            readings.push(Reading { used: meter.taken(), resets_at_ms: meter.resets_at_ms(clock) });
        }
        readings
    }

    /// How the budgets of one owner stand, used or not. Makes no place for what was never used.
    pub fn standings_of(&mut self, owner: &Subject, budgets: &[Budget], now_ms: u64) -> Vec<Standing> {
        let (now_ms, _) = self.time.advance(now_ms);
        let mut standings = Vec::with_capacity(budgets.len());
        for Budget { name, unit, limit, window, enforcement, .. } in budgets {
            let place = self.by_subject.get(owner).and_then(|owner| self.known_meter(*owner, *unit, window));
            let mut standing = Standing {
                owner: owner.clone(),
                name: Arc::clone(name),
                unit: *unit,
                enforcement: *enforcement,
                used: 0,
                open: 0,
                limit: *limit,
                resets_at_ms: window.leaves_at(window.period_at(now_ms).start_ms),
            };
            if let Some(meter) = place.and_then(|place| self.meters.get_mut(place))
                && let Some(clock) = self.clocks.get_mut(meter.clock)
            {
                meter.advance(clock, now_ms);
                (standing.used, standing.open) = (meter.taken(), meter.open());
                standing.resets_at_ms = meter.resets_at_ms(clock);
            }
            standings.push(standing);
        }
        standings
    }

    /// The Hard budget that has nothing left, if any: the one that stays so for longest.
    pub fn exhausted(&mut self, cover: &Cover, now_ms: u64) -> Option<Refused> {
        self.refused_by_budgets(cover, &Amounts { requests: 1, tokens: 1, nano_usd: 1 }, now_ms)
    }

    /// The Hard budget that `amounts` do not fit under, if any: the one that stays so for longest.
    pub fn refused_by_budgets(&mut self, cover: &Cover, amounts: &Amounts, now_ms: u64) -> Option<Refused> {
        let (now_ms, _) = self.time.advance(now_ms);
        for line in &cover.lines {
            let meter = self.meters.get_mut(line.meter)?;
            meter.advance(self.clocks.get_mut(meter.clock)?, now_ms);
        }
        let refusals = cover.checks.iter().filter_map(|check| self.refused_by_budget(check, amounts));
        refusals.max_by_key(Refused::stands_until)
    }

    /// What `subject` has used in its life, if it was ever known.
    pub fn used(&self, subject: &Subject) -> Option<Used> {
        self.owners.get(*self.by_subject.get(subject)?).map(|owner| self.used_by(owner))
    }

    /// What everybody has used.
    pub fn used_by_all(&self) -> impl Iterator<Item = (&Subject, Used)> {
        self.owners.iter().map(|(_, owner)| (&owner.subject, self.used_by(owner)))
    }

    fn used_by(&self, owner: &Owner) -> Used {
        let meters = owner.meters.iter().filter_map(|place| self.meters.get(*place));
        let is_it = |meter: &&Meter| {
            let window = self.clocks.get(meter.clock).map(|clock| &clock.window);
            meter.unit == Unit::Requests && window == Some(&Window::Lifetime)
        };
        let balance = meters.into_iter().find(is_it).map(Meter::balance).copied().unwrap_or_default();
        let (tokens, nano_usd) = (owner.tokens, owner.nano_usd);
        Used { requests: balance.settled(), open: balance.open(), tokens, nano_usd }
    }

    /// Every limit of `cover` that `amounts` do not fit under; of these, the one that stands longest.
    pub(super) fn explain(&self, cover: &Cover, amounts: &Amounts, asks: Asks) -> Option<Refused> {
        let budgets = cover.checks.iter().filter_map(|check| self.refused_by_budget(check, amounts));
        let rates = cover.rates.iter().filter_map(|rate| {
            let (level, at_ms) = (self.levels.get(rate.level)?.1, self.time.steady_ms());
            let wanted = amounts.of_rate(rate.unit, asks == Asks::First);
            if wanted == 0 || level.admits(&rate.pace, wanted, at_ms) {
                return None;
            }
            let retry_at_ms = level.wait_ms(&rate.pace, wanted, at_ms).map(|wait| self.time.shown_in(wait));
            let (used, limit) = (level.units(&rate.pace, at_ms), rate.pace.burst());
            let owner = self.owners.get(rate.owner)?.subject.clone();
            let (by, name, unit) = (RefusedBy::Rate, Arc::from(""), rate.unit);
            Some(Refused {
                by,
                owner,
                name,
                unit,
                used,
                limit,
                wanted,
                resets_at_ms: retry_at_ms,
                retry_at_ms,
            })
        });
        let full = cover.seats.iter().filter(|place| asks == Asks::First && self.is_full(place));
        let seats = full.filter_map(|seat| {
            let (Owner { subject, open, .. }, by) = (self.owners.get(seat.owner)?, RefusedBy::Concurrency);
            let (owner, name, unit) = (subject.clone(), Arc::from(""), Unit::Requests);
            let (used, limit, wanted) = (*open, seat.limit?, 1);
            Some(Refused {
                by,
                owner,
                name,
                unit,
                used,
                limit,
                wanted,
                resets_at_ms: None,
                retry_at_ms: None,
            })
        });
        budgets.chain(rates).chain(seats).max_by_key(Refused::stands_until)
    }

    fn refused_by_budget(&self, check: &Check, amounts: &Amounts) -> Option<Refused> {
        let meter = self.meters.get(check.meter)?;
        let (used, wanted) = (meter.taken(), amounts.of(check.unit));
        // Beyond counting, every budget refuses.
        let limit = if check.enforcement == Enforcement::Hard { check.limit } else { u64::MAX };
        let sum = used.checked_add(wanted).filter(|sum| *sum <= limit);
        if wanted == 0 || (sum.is_some() && meter.balance().taken().checked_add(wanted).is_some()) {
            return None;
        }
        let clock = self.clocks.get(meter.clock)?;
        Some(Refused {
            by: RefusedBy::Budget,
            owner: self.owners.get(check.owner)?.subject.clone(),
            name: Arc::clone(&check.name),
            unit: check.unit,
            used,
            limit,
            wanted,
            resets_at_ms: meter.resets_at_ms(clock),
            retry_at_ms: meter.room_at_ms(&clock.window, wanted, limit),
        })
    }
}
