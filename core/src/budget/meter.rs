//! One meter: what one owner has taken of one unit in one window, and how much of it is granted.

use std::collections::VecDeque;

use super::balance::Balance;
use super::cover::Line;
use super::{Period, SavedMeter, Window};
use crate::amount::Unit;
use crate::id::Subject;

/// Fewest and most reservations that one grant covers. A grant costs one durable commit (about 0.3 ms), so
/// 4,096 cover more than any one token can send meanwhile.
const MOST_COVERED: u32 = 4_096;

/// `u64::MAX` is no grant but a balance that needs none.
const MOST_GRANTED: u64 = u64::MAX - 1;

/// No time at all.
const NEVER_MS: u64 = u64::MAX;

/// A grant used up within this time doubles the next one.
const FAST_MS: u64 = 1_000;

/// A grant that lasted this long halves the next one.
const SLOW_MS: u64 = 60_000;

/// What is taken of one unit by one owner in one window.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Meter {
    pub(super) owner: u32,
    pub(super) clock: u32,
    pub(super) unit: Unit,
    /// Waits in the queue for a grant.
    pub(super) queued: bool,
    /// When the latest period began that anything was judged in. It never goes back.
    start_ms: u64,
    /// What it was last advanced to, unless it has changed since.
    advanced_ms: u64,
    /// Of this period; of a rolling window, of all time, nothing ever given back.
    balance: Balance,
    rolled: Option<Box<Rolled>>,
    pace: GrantPace,
}

/// The periods of a rolling window that still count.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Rolled {
    taken: u64,
    /// Beginnings, rising, and what was taken.
    periods: VecDeque<(u64, u64)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct GrantPace {
    /// From when the grant is void.
    until_ms: u64,
    /// It is: what is left of it may not be taken, and counts for nothing.
    is_void: bool,
    granted_at_ms: u64,
    /// The last amount that was asked for.
    amount: u64,
    /// The lowest Hard limit when it was asked about last.
    limit: u64,
    /// Reservations of that amount that the next grant covers.
    covered: u32,
}

/// The period that it is now, for all meters of one window.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Clock {
    pub(super) window: Window,
    period: Period,
    /// [`Window::counts_for_ms`], which is divided for.
    counts_for_ms: u64,
    /// Meters that go by it.
    pub(super) meters: u32,
}

/// A grant to be written down, then given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    pub(super) meter: u32,
    /// Who may spend it.
    pub owner: Subject,
    /// The meter as it is when the grant is made, with the grant. A power cut leaves this, all of the grant
    /// charged.
    pub saved: SavedMeter,
}

/// How an amount fits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fit {
    /// Under every limit.
    Yes,
    /// Over a limit that does not refuse.
    Over,
    /// Under the limits, but the next grant must come first.
    NotGranted,
    /// Over a Hard limit, or beyond counting.
    No,
}

impl Clock {
    pub(super) fn new(window: Window) -> Self {
        let counts_for_ms = window.counts_for_ms();
        Self { window, period: Period { start_ms: 0, end_ms: 0 }, counts_for_ms, meters: 0 }
    }

    /// [`Window::leaves_at`], without the calendar where the period is the present one, and never with a division.
    fn leaves_at(&self, start_ms: u64) -> Option<u64> {
        let end_ms = match self.window {
            Window::Calendar { .. } if start_ms == self.period.start_ms => self.period.end_ms,
            Window::Rolling { .. } => start_ms.saturating_add(self.counts_for_ms),
            _ => return self.window.leaves_at(start_ms),
        };
        Some(end_ms).filter(|end_ms| *end_ms < u64::MAX)
    }

    fn advance(&mut self, now_ms: u64) -> u64 {
        if now_ms >= self.period.end_ms {
            self.period = self.window.period_at(now_ms);
        }
        self.period.start_ms
    }
}

impl Meter {
    pub(super) fn new(owner: u32, unit: Unit, clock: (u32, &Clock), balance: Balance) -> Self {
        let (clock, window) = (clock.0, &clock.1.window);
        let rolled = matches!(window, Window::Rolling { .. }).then(Box::default);
        let covered = fewest_covered(unit);
        let pace = GrantPace {
            until_ms: u64::MAX,
            is_void: false,
            granted_at_ms: 0,
            amount: 1,
            limit: u64::MAX,
            covered,
        };
        Self { owner, clock, unit, queued: false, start_ms: 0, advanced_ms: NEVER_MS, balance, rolled, pace }
    }

    pub(super) fn restore(&mut self, saved: &SavedMeter) {
        (self.start_ms, self.advanced_ms) = (saved.start_ms, NEVER_MS);
        let granted = if self.balance.is_endless() { u64::MAX } else { saved.granted };
        self.balance = Balance::restored(saved.settled, saved.open, granted);
        self.pace.until_ms = saved.granted_until_ms;
        if let Some(rolled) = &mut self.rolled {
            rolled.periods = saved.periods.iter().copied().collect();
            rolled.taken = rolled.periods.iter().fold(0, |sum, (_, taken)| sum.saturating_add(*taken));
        }
    }

    pub(super) fn saved(&self, window: &Window) -> SavedMeter {
        SavedMeter {
            unit: self.unit,
            window: window.clone(),
            start_ms: self.start_ms,
            settled: self.balance.settled(),
            open: self.balance.open(),
            granted: if self.pace.is_void { self.balance.taken() } else { self.balance.granted() },
            granted_until_ms: self.pace.until_ms,
            periods: self.rolled.iter().flat_map(|rolled| rolled.periods.iter().copied()).collect(),
        }
    }

    /// Whether it is as [`Meter::advance`] leaves it: at many requests a millisecond it mostly is.
    pub(super) const fn is_at(&self, now_ms: u64) -> bool {
        self.advanced_ms == now_ms
    }

    /// Lets go of what is over. Nothing comes back when a clock does.
    pub(super) fn advance(&mut self, clock: &mut Clock, now_ms: u64) {
        self.advanced_ms = now_ms;
        self.begin(clock.advance(now_ms));
        if let Some(rolled) = &mut self.rolled {
            rolled.drop_old(clock.counts_for_ms, now_ms);
        }
        self.pace.is_void = now_ms >= self.pace.until_ms;
    }

    /// Goes on to the period that begins at `start_ms`, unless it is in a later one.
    pub(super) fn begin(&mut self, start_ms: u64) {
        if start_ms > self.start_ms {
            self.start_ms = start_ms;
            if self.rolled.is_none() {
                self.balance = self.balance.next_period();
            }
        }
    }

    /// Whether what was taken in the period that began at `start_ms` may still count.
    pub(super) const fn counts(&self, start_ms: u64) -> bool {
        self.rolled.is_some() || start_ms == self.start_ms
    }

    pub(super) const fn start_ms(&self) -> u64 {
        self.start_ms
    }

    /// What counts now: settled and open.
    pub(super) fn taken(&self) -> u64 {
        self.rolled.as_ref().map_or_else(|| self.balance.taken(), |rolled| rolled.taken)
    }

    pub(super) const fn open(&self) -> u64 {
        self.balance.open()
    }

    pub(super) fn fits(&self, line: &Line, amount: u64) -> Fit {
        if amount == 0 {
            return Fit::Yes;
        }
        let wanted = self.taken().checked_add(amount).filter(|wanted| line.hard.is_none_or(|h| *wanted <= h));
        let (Some(wanted), Some(ever)) = (wanted, self.balance.taken().checked_add(amount)) else {
            return Fit::No;
        };
        if line.hard.is_some() && (self.pace.is_void || ever > self.balance.granted()) {
            return Fit::NotGranted;
        }
        if line.soft.is_some_and(|soft| wanted > soft) { Fit::Over } else { Fit::Yes }
    }

    /// Takes an amount that fits, and says in which period.
    pub(super) fn take(&mut self, amount: u64) -> u64 {
        self.balance.take(amount);
        if let Some(rolled) = &mut self.rolled {
            rolled.take(self.start_ms, amount);
        }
        self.start_ms
    }

    /// Ends what was `held` since the period that began at `start_ms`, as `charged`.
    pub(super) fn end(&mut self, start_ms: u64, held: u64, charged: u64) {
        if let Some(rolled) = &mut self.rolled {
            rolled.change(start_ms, held, charged);
            // Gives nothing back to the grant: what is taken again would be taken in a later period.
            self.balance.end(held, charged.max(held));
        } else if start_ms == self.start_ms {
            self.balance.end(held, charged);
        }
    }

    /// When the period ends or the oldest part of a rolling window leaves.
    pub(super) fn resets_at_ms(&self, clock: &Clock) -> Option<u64> {
        let oldest = self.rolled.as_ref().and_then(|rolled| rolled.periods.front());
        let start_ms = oldest.map_or(self.start_ms, |(start_ms, _)| *start_ms);
        clock.leaves_at(start_ms)
    }

    /// When `amount` fits under `limit` if nothing else is taken; nothing is never.
    pub(super) fn room_at_ms(&self, window: &Window, amount: u64, limit: u64) -> Option<u64> {
        let room = limit.checked_sub(amount)?;
        let Some(rolled) = &self.rolled else { return window.leaves_at(self.start_ms) };
        let mut left = rolled.taken;
        let last_to_leave = rolled.periods.iter().find(|(_, taken)| {
            left = left.saturating_sub(*taken);
            left <= room
        });
        window.leaves_at(last_to_leave?.0)
    }

    /// Notes what a grant is to be measured by. True when one is needed and nobody has asked yet.
    pub(super) fn starts_wanting(&mut self, amount: u64, limit: u64) -> bool {
        (self.pace.amount, self.pace.limit) = (amount, limit);
        let wants = !self.queued && self.wanted_grant().is_some();
        self.queued |= wants;
        wants
    }

    /// As [`Meter::starts_wanting`], after more was charged than was held: the grant must cover it too.
    pub(super) fn wants_cover(&mut self) -> bool {
        let is_short = self.balance.taken() > self.balance.granted() && self.pace.granted_at_ms > 0;
        let wants = is_short && !self.queued;
        self.queued |= wants;
        wants
    }

    /// The grant to be written down next. Nobody asks for another until that is decided.
    pub(super) fn next_grant(&mut self, window: &Window, now_ms: u64) -> Option<SavedMeter> {
        let lasted_ms = now_ms.saturating_sub(self.pace.granted_at_ms);
        if lasted_ms <= FAST_MS {
            self.pace.covered = self.pace.covered.saturating_mul(2).min(MOST_COVERED);
        } else if lasted_ms >= SLOW_MS {
            self.pace.covered = (self.pace.covered / 2).max(fewest_covered(self.unit));
        }
        self.pace.granted_at_ms = now_ms;
        let granted = self.wanted_grant();
        self.queued = granted.is_some();
        let granted_until_ms = match window {
            Window::Rolling { length_ms } => now_ms.saturating_add(*length_ms),
            Window::Lifetime | Window::Calendar { .. } => u64::MAX,
        };
        Some(SavedMeter { granted: granted?, granted_until_ms, ..self.saved(window) })
    }

    /// Gives a grant that is durable; one of a period that is over is void.
    pub(super) fn grant(&mut self, grant: &SavedMeter) {
        (self.queued, self.advanced_ms) = (false, NEVER_MS);
        if self.rolled.is_some() || grant.start_ms == self.start_ms {
            if self.pace.is_void {
                self.balance.grant_anew(grant.granted);
            } else {
                self.balance.grant(grant.granted);
            }
            (self.pace.until_ms, self.pace.is_void) = (grant.granted_until_ms, false);
        }
    }

    pub(super) const fn balance(&self) -> &Balance {
        &self.balance
    }

    /// See [`super::Book::restore_grant`].
    pub(super) fn restore_grant(&mut self, saved: &SavedMeter, records_are_whole: bool) {
        if saved.start_ms < self.start_ms && self.rolled.is_none() {
            return;
        }
        self.advanced_ms = NEVER_MS;
        if records_are_whole {
            self.begin(saved.start_ms);
            self.balance.grant_anew(saved.granted);
            self.pace.until_ms = saved.granted_until_ms;
        } else if saved.start_ms > self.start_ms || saved.granted >= self.balance.taken() {
            self.restore(saved);
        }
    }

    /// Charges what was open when the process died; nobody holds it any more.
    pub(super) const fn charge_open(&mut self) {
        self.balance = self.balance.after_crash();
    }

    /// Charges all that was granted: what was taken of it may not have been kept. It was taken at the latest
    /// when the grant became void, or now.
    /// True when that changed anything.
    pub(super) fn charge_grant(&mut self, window: &Window, now_ms: u64) -> bool {
        let before = self.balance;
        let unspent = before.unspent_grant();
        self.balance = self.balance.after_power_cut();
        if let Some(rolled) = self.rolled.as_mut().filter(|_| unspent > 0) {
            let latest_ms = now_ms.min(self.pace.until_ms.saturating_sub(1));
            rolled.take(window.period_at(latest_ms).start_ms.max(self.start_ms), unspent);
        }
        self.balance != before
    }

    /// The grant to ask for, once this amount does not fit any more or half of the last grant is used.
    fn wanted_grant(&self) -> Option<u64> {
        let GrantPace { amount, limit, covered, is_void, .. } = self.pace;
        let (quantum, unspent) = (amount.saturating_mul(u64::from(covered)), self.balance.unspent_grant());
        if !is_void && unspent >= amount && unspent > quantum / 2 {
            return None;
        }
        // In a rolling window the balance has counted for ever; only what still counts is under the limit.
        let room = limit.saturating_sub(self.taken());
        let granted = self.balance.taken().saturating_add(quantum.min(room)).min(MOST_GRANTED);
        (is_void || granted > self.balance.granted()).then_some(granted)
    }
}

impl Rolled {
    fn drop_old(&mut self, counts_for_ms: u64, now_ms: u64) {
        while let Some((_, taken)) =
            self.periods.pop_front_if(|(start_ms, _)| start_ms.saturating_add(counts_for_ms) <= now_ms)
        {
            self.taken = self.taken.saturating_sub(taken);
        }
    }

    fn take(&mut self, start_ms: u64, amount: u64) {
        self.taken = self.taken.saturating_add(amount);
        match self.periods.back_mut() {
            Some((last_ms, taken)) if *last_ms >= start_ms => *taken = taken.saturating_add(amount),
            _ => self.periods.push_back((start_ms, amount)),
        }
    }

    /// A period that has left changes nothing any more.
    fn change(&mut self, start_ms: u64, held: u64, charged: u64) {
        let period = match self.periods.back() {
            // Most requests end in the period in which they began.
            Some((last_ms, _)) if *last_ms == start_ms => self.periods.back_mut(),
            _ => {
                let found = self.periods.binary_search_by_key(&start_ms, |(start_ms, _)| *start_ms);
                found.ok().and_then(|at| self.periods.get_mut(at))
            }
        };
        if let Some((_, taken)) = period {
            let after = taken.saturating_sub(held).saturating_add(charged);
            self.taken = self.taken.saturating_sub(*taken).saturating_add(after);
            *taken = after;
        }
    }
}

/// 64 requests are what a power cut may cost a quiet token; of what is dearer, four reservations.
const fn fewest_covered(unit: Unit) -> u32 {
    match unit {
        Unit::Requests => 64,
        Unit::Tokens | Unit::Usd => 4,
    }
}
