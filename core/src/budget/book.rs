//! The book: every owner's meters, rates and open holds, and the one step that admits a request under all
//! of them. It knows no file, no lock and no clock.

use std::collections::HashMap;

use super::balance::Balance;
use super::cover::{Cover, Covering, RateCheck, Seat};
use super::meter::{Clock, Fit, Meter};
use super::places::Places;
use super::rate::Level;
use super::{Enforcement, Rate, Refused, Window};
use crate::amount::{Amounts, Unit};
use crate::id::Subject;
use crate::usage::Usage;

mod explain;
mod grants;
mod journal;
mod time;

pub use explain::{Reading, Standing, Used};
pub use journal::{Ended, Taken};
use time::Time;

/// Whether what is taken under a Hard limit must have been granted durably before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Grants {
    /// It must.
    Needed,
    /// Nothing is durable: a ledger in memory.
    Endless,
}

/// All budgets of one process.
#[derive(Debug)]
pub struct Book {
    grants: Grants,
    time: Time,
    /// Rises when places may have changed hands.
    edition: u64,
    owners: Places<Owner>,
    by_subject: HashMap<Subject, u32>,
    clocks: Places<Clock>,
    meters: Places<Meter>,
    levels: Places<(Rate, Level)>,
    holds: Vec<Hold>,
    ended: Vec<u32>,
    /// Meters that need their next grant.
    queue: Vec<u32>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Owner {
    subject: Subject,
    last_seen_ms: u64,
    tokens: Usage,
    nano_usd: u64,
    /// Requests that are open now.
    open: u64,
    meters: Vec<u32>,
    levels: Vec<u32>,
    /// Differs from what was saved last.
    changed: bool,
    /// Is being forgotten; nothing may be reserved until that is decided.
    leaving: bool,
}

/// What one request has taken.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Hold {
    generation: u32,
    is_open: bool,
    /// More was taken for it later, perhaps in another period: one meter may have several parts.
    is_raised: bool,
    reserved: Amounts,
    /// Owners, the caller first.
    seats: Vec<u32>,
    parts: Vec<Taken>,
    rates: Vec<RatePart>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct RatePart {
    level: u32,
    amount: u64,
}

/// A hold of a book. One that has ended has no effect: its number is not given again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct HoldId {
    at: u32,
    generation: u32,
}

/// Which step of a request asks: only the first takes a seat among the requests that are open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Asks {
    First,
    Again,
}

/// A request that was admitted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Admission {
    /// What it holds until it is settled or released.
    pub hold: HoldId,
    /// Whether a Soft or Shadow budget would have refused it; [`Book::standings`] says which.
    pub is_over: bool,
}

/// Why a request was not admitted. Nothing has changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Denied {
    /// A limit refused it.
    Refused(Refused),
    /// The limits admit it, but the next grant must come first; it has been asked for.
    NotGranted,
    /// The cover was made before somebody was forgotten: make it anew.
    Stale,
}

/// What a request came to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Spent {
    /// What budgets are charged.
    pub amounts: Amounts,
    /// The tokens by kind, for reports.
    pub tokens: Usage,
}

/// What settling did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Settled {
    /// What was charged beyond the reservation. Should be nothing: reservations are upper bounds.
    pub overrun: Amounts,
}

impl Book {
    /// An empty book.
    pub fn new(grants: Grants) -> Self {
        Self {
            grants,
            time: Time::default(),
            edition: 0,
            owners: Places::new(),
            by_subject: HashMap::new(),
            clocks: Places::new(),
            meters: Places::new(),
            levels: Places::new(),
            holds: Vec::new(),
            ended: Vec::new(),
            queue: Vec::new(),
        }
    }

    /// Finds where the limits that cover a request are counted. The first is the caller's.
    pub fn cover(&mut self, covering: &[Covering<'_>]) -> Cover {
        let mut cover = Cover::default();
        self.cover_again(&mut cover, covering);
        cover
    }

    /// As [`Book::cover_again`], unless `cover` was made before of these very limits and is still good.
    pub fn renew(&mut self, cover: &mut Cover, covering: &[Covering<'_>]) {
        if cover.seats.is_empty() || cover.edition != self.edition {
            self.cover_again(cover, covering);
        }
    }

    /// As [`Book::cover`], in the memory of an earlier cover.
    pub fn cover_again(&mut self, cover: &mut Cover, covering: &[Covering<'_>]) {
        cover.clear(self.edition);
        for Covering { owner, budgets, rates, concurrency } in covering {
            let owner = self.owner(owner);
            if cover.seats.is_empty() {
                // All requests of a caller are counted for ever, whatever limits it has now.
                // As if under a limit nobody reaches: then it is granted ahead of use, and no power cut loses it.
                let line = cover.count(self.meter(owner, Unit::Requests, &Window::Lifetime), Unit::Requests);
                line.into_iter().for_each(|line| line.hard = Some(u64::MAX));
            }
            cover.seats.push(Seat { owner, limit: *concurrency });
            let all_requests = cover.lines.first().filter(|_| cover.seats.len() == 1).map(|line| line.meter);
            for budget in *budgets {
                let is_all = budget.unit == Unit::Requests && budget.window == Window::Lifetime;
                let known = all_requests.filter(|_| is_all);
                let meter = known.unwrap_or_else(|| self.meter(owner, budget.unit, &budget.window));
                cover.add(meter, owner, budget);
            }
            for rate in *rates {
                let level = self.level(owner, rate);
                cover.rates.push(RateCheck { level, owner, unit: rate.unit, pace: rate.pace });
            }
        }
    }

    /// Takes `amounts` under all limits of `cover`, or nothing. `now_ms` is in Unix milliseconds.
    ///
    /// Without any amount it is a request that is free: no budget counts it, but it takes part in rates of
    /// requests and in concurrency.
    ///
    /// # Errors
    /// Why not; no counter has changed.
    pub fn reserve(&mut self, cover: &Cover, amounts: &Amounts, now_ms: u64) -> Result<Admission, Denied> {
        let is_over = self.judge(cover, amounts, now_ms, Asks::First)?;
        let at = self.ended.pop().unwrap_or_else(|| {
            self.holds.push(Hold::default());
            u32::try_from(self.holds.len() - 1).unwrap_or(u32::MAX)
        });
        if let Some(hold) = self.holds.get_mut(at as usize) {
            hold.is_open = true;
            hold.seats.extend(cover.seats.iter().map(|seat| seat.owner));
        }
        for seat in &cover.seats {
            if let Some(owner) = self.owners.get_mut(seat.owner) {
                owner.open = owner.open.saturating_add(1);
                owner.changed = true;
                owner.last_seen_ms = owner.last_seen_ms.max(self.time.latest_ms());
            }
        }
        self.take(at, cover, amounts, Asks::First);
        let generation = self.holds.get(at as usize).map_or(0, |hold| hold.generation);
        Ok(Admission { hold: HoldId { at, generation }, is_over })
    }

    /// Takes more for an open hold, before an attempt that may be billed besides an earlier one.
    ///
    /// # Errors
    /// Why not; the hold is as it was. [`Denied::Stale`] also when the hold has ended.
    pub fn raise(&mut self, hold: HoldId, cover: &Cover, more: &Amounts, now_ms: u64) -> Result<(), Denied> {
        if self.open_hold(hold).is_none() {
            return Err(Denied::Stale);
        }
        self.judge(cover, more, now_ms, Asks::Again)?;
        self.take(hold.at, cover, more, Asks::Again);
        Ok(())
    }

    /// Ends a hold as a request that happened. Nothing when it has ended before.
    pub fn settle(&mut self, hold: HoldId, spent: &Spent) -> Option<Settled> {
        let reserved = self.open_hold(hold)?.reserved;
        self.end(hold.at, Some(&spent.amounts));
        let caller = self.holds.get(hold.at as usize).and_then(|hold| hold.seats.first().copied());
        if let Some(owner) = caller.and_then(|caller| self.owners.get_mut(caller)) {
            owner.spend(spent);
        }
        self.close(hold.at);
        Some(Settled::beyond(&reserved, spent))
    }

    /// Ends a hold as a request that never went upstream. Nothing when it has ended before.
    pub fn release(&mut self, hold: HoldId) -> Option<()> {
        self.open_hold(hold)?;
        self.end(hold.at, None);
        self.close(hold.at);
        Some(())
    }

    /// Whether all of it fits; then, whether it goes over a limit that does not refuse.
    fn judge(&mut self, cover: &Cover, amounts: &Amounts, now_ms: u64, asks: Asks) -> Result<bool, Denied> {
        if cover.edition != self.edition {
            return Err(Denied::Stale);
        }
        let (now_ms, steady_ms) = self.time.advance(now_ms);
        let (mut refused, mut granted, mut is_over) = (false, true, false);
        for line in &cover.lines {
            let Some(meter) = self.meters.get_mut(line.meter) else { return Err(Denied::Stale) };
            if !meter.is_at(now_ms) {
                let Some(clock) = self.clocks.get_mut(meter.clock) else { return Err(Denied::Stale) };
                meter.advance(clock, now_ms);
            }
            match meter.fits(line, amounts.of(line.unit)) {
                Fit::Yes => {}
                Fit::Over => is_over = true,
                Fit::NotGranted => granted = false,
                Fit::No => refused = true,
            }
        }
        for rate in &cover.rates {
            let amount = amounts.of_rate(rate.unit, asks == Asks::First);
            let level = self.levels.get(rate.level).map(|(_, level)| *level).unwrap_or_default();
            refused |= amount > 0 && !level.admits(&rate.pace, amount, steady_ms);
        }
        if asks == Asks::First {
            refused |= cover.seats.iter().any(|seat| self.is_full(seat));
        }
        if refused {
            return Err(self.explain(cover, amounts, asks).map_or(Denied::Stale, Denied::Refused));
        }
        if cover.seats.iter().any(|seat| self.owners.get(seat.owner).is_none_or(|owner| owner.leaving)) {
            return Err(Denied::NotGranted);
        }
        if !granted {
            self.want(cover, amounts);
            return Err(Denied::NotGranted);
        }
        Ok(is_over)
    }

    fn is_full(&self, seat: &Seat) -> bool {
        let open = self.owners.get(seat.owner).map_or(u64::MAX, |owner| owner.open);
        seat.limit.is_some_and(|limit| open >= limit)
    }

    /// Takes what fits and notes it in the hold.
    fn take(&mut self, at: u32, cover: &Cover, amounts: &Amounts, asks: Asks) {
        let Some(hold) = self.holds.get_mut(at as usize) else { return };
        hold.reserved = hold.reserved.plus(amounts);
        hold.is_raised = asks == Asks::Again;
        for line in &cover.lines {
            let Some(meter) = self.meters.get_mut(line.meter) else { continue };
            let amount = amounts.of(line.unit);
            let start_ms = meter.take(amount);
            let same = |part: &&mut Taken| part.meter == line.meter && part.start_ms == start_ms;
            // A cover has each meter once.
            let known = if hold.is_raised { hold.parts.iter_mut().find(same) } else { None };
            match known {
                Some(part) => part.amount = part.amount.saturating_add(amount),
                None => hold.parts.push(Taken { meter: line.meter, start_ms, amount }),
            }
            if line.hard.is_some_and(|limit| amount > 0 && meter.starts_wanting(amount, limit)) {
                self.queue.push(line.meter);
            }
        }
        for rate in &cover.rates {
            let Some((_, level)) = self.levels.get_mut(rate.level) else { continue };
            let amount = amounts.of_rate(rate.unit, asks == Asks::First);
            level.charge(&rate.pace, amount, self.time.steady_ms());
            match hold.rates.iter_mut().find(|part| part.level == rate.level) {
                Some(part) => part.amount = part.amount.saturating_add(amount),
                None => hold.rates.push(RatePart { level: rate.level, amount }),
            }
        }
    }

    /// Ends all parts of a hold, charging `spent` or nothing.
    fn end(&mut self, at: u32, spent: Option<&Amounts>) {
        let Some(hold) = self.holds.get(at as usize) else { return };
        for (index, part) in hold.parts.iter().enumerate() {
            let Some(meter) = self.meters.get_mut(part.meter) else { continue };
            let charged = match spent.map(|spent| spent.of(meter.unit)) {
                Some(spent) if hold.is_raised => share(&hold.parts, index, spent),
                Some(spent) => spent,
                None => 0,
            };
            meter.end(part.start_ms, part.amount, charged);
            if charged > part.amount && meter.wants_cover() {
                self.queue.push(part.meter);
            }
        }
        let steady_ms = self.time.steady_ms();
        for part in &hold.rates {
            let Some((rate, level)) = self.levels.get_mut(part.level) else { continue };
            let charged = match (spent, rate.unit) {
                (None, _) => 0,
                // Whatever it came to, it was one request.
                (Some(_), Unit::Requests) => part.amount,
                (Some(spent), unit) => spent.of(unit),
            };
            if charged > part.amount {
                level.charge(&rate.pace, charged - part.amount, steady_ms);
            } else if charged < part.amount {
                level.give_back(&rate.pace, part.amount - charged, steady_ms);
            }
        }
        for seat in &hold.seats {
            if let Some(owner) = self.owners.get_mut(*seat) {
                owner.open = owner.open.saturating_sub(1);
                owner.changed = true;
            }
        }
    }

    /// Empties a hold and keeps its memory for the next.
    fn close(&mut self, at: u32) {
        if let Some(hold) = self.holds.get_mut(at as usize) {
            (hold.is_open, hold.is_raised) = (false, false);
            hold.generation = hold.generation.wrapping_add(1);
            hold.reserved = Amounts::default();
            hold.seats.clear();
            hold.parts.clear();
            hold.rates.clear();
            self.ended.push(at);
        }
    }

    fn open_hold(&self, id: HoldId) -> Option<&Hold> {
        let hold = self.holds.get(id.at as usize)?;
        (hold.is_open && hold.generation == id.generation).then_some(hold)
    }

    fn owner(&mut self, subject: &Subject) -> u32 {
        if let Some(owner) = self.by_subject.get(subject) {
            return *owner;
        }
        let owner = self.owners.put(Owner {
            subject: subject.clone(),
            last_seen_ms: self.time.latest_ms(),
            tokens: Usage::default(),
            nano_usd: 0,
            open: 0,
            meters: Vec::new(),
            levels: Vec::new(),
            changed: false,
            leaving: false,
        });
        self.by_subject.insert(subject.clone(), owner);
        owner
    }

    fn known_meter(&self, owner: u32, unit: Unit, window: &Window) -> Option<u32> {
        let mut known = self.owners.get(owner).into_iter().flat_map(|owner| owner.meters.iter().copied());
        known.find(|place| {
            let meter = self.meters.get(*place).filter(|meter| meter.unit == unit);
            meter.and_then(|meter| self.clocks.get(meter.clock)).is_some_and(|clock| clock.window == *window)
        })
    }

    fn meter(&mut self, owner: u32, unit: Unit, window: &Window) -> u32 {
        if let Some(place) = self.known_meter(owner, unit, window) {
            return place;
        }
        let clock = self.clocks.iter().find(|(_, clock)| clock.window == *window).map(|(place, _)| place);
        let clock = clock.unwrap_or_else(|| self.clocks.put(Clock::new(window.clone())));
        let Some(its_clock) = self.clocks.get_mut(clock) else { return u32::MAX };
        its_clock.meters += 1;
        let balance = match self.grants {
            Grants::Needed => Balance::default(),
            Grants::Endless => Balance::without_grants(),
        };
        let place = self.meters.put(Meter::new(owner, unit, (clock, its_clock), balance));
        if let Some(owner) = self.owners.get_mut(owner) {
            owner.meters.push(place);
        }
        place
    }

    fn level(&mut self, owner: u32, rate: &Rate) -> u32 {
        let is_it = |place: &u32| {
            self.levels.get(*place).is_some_and(|(known, _)| {
                known.unit == rate.unit && known.pace.per_ms() == rate.pace.per_ms()
            })
        };
        let known = self.owners.get(owner).and_then(|owner| owner.levels.iter().copied().find(is_it));
        let place = known.unwrap_or_else(|| self.levels.put((*rate, Level::default())));
        if let Some((known, _)) = self.levels.get_mut(place) {
            *known = *rate;
        }
        if let Some(owner) = self.owners.get_mut(owner).filter(|_| known.is_none()) {
            owner.levels.push(place);
        }
        place
    }
}

impl Owner {
    fn spend(&mut self, spent: &Spent) {
        self.tokens = self.tokens.plus(&spent.tokens);
        self.nano_usd = self.nano_usd.saturating_add(spent.amounts.nano_usd);
        self.changed = true;
    }
}

impl Settled {
    /// What `spent` goes beyond what was `reserved`.
    pub const fn beyond(reserved: &Amounts, spent: &Spent) -> Self {
        let spent = &spent.amounts;
        Self {
            overrun: Amounts {
                requests: spent.requests.saturating_sub(reserved.requests),
                tokens: spent.tokens.saturating_sub(reserved.tokens),
                nano_usd: spent.nano_usd.saturating_sub(reserved.nano_usd),
            },
        }
    }
}

impl Spent {
    /// One request that used `tokens`; what it cost is not known.
    pub fn request(tokens: Usage) -> Self {
        let total = tokens.total_input().saturating_add(tokens.output_tokens);
        Self { amounts: Amounts { requests: 1, tokens: total, nano_usd: 0 }, tokens }
    }
}

/// What of `spent` falls on one of `parts`: a meter's parts are filled in the order they were taken, and the last
/// takes what is left.
fn share(parts: &[Taken], index: usize, spent: u64) -> u64 {
    let Some(part) = parts.get(index) else { return spent };
    let of_meter = |other: &&Taken| other.meter == part.meter;
    let earlier = parts.iter().take(index).filter(of_meter);
    let left = earlier.fold(spent, |left, part| left.saturating_sub(part.amount));
    if parts.iter().skip(index + 1).any(|other| other.meter == part.meter) {
        left.min(part.amount)
    } else {
        left
    }
}
