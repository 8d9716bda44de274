//! A model that is obviously right: it keeps every amount ever taken with the period it was taken in, and
//! adds up anew, in wider integers, whatever still counts.

use crate::amount::{Amounts, Unit};
use crate::budget::{Budget, Enforcement, HoldId, Pace, Period, SavedMeter, Window};

/// One amount that was taken. Settling changes it to what was charged, releasing to nothing.
struct Entry {
    start_ms: u64,
    amount: u128,
}

pub(super) struct NaiveMeter {
    pub(super) owner: usize,
    pub(super) unit: Unit,
    pub(super) window: Window,
    entries: Vec<Entry>,
    /// Looked up once per period: calendars are slow.
    period: Period,
}

/// Level in units times interval, at a time.
pub(super) struct NaiveRate {
    pub(super) unit: Unit,
    pub(super) pace: Pace,
    level: i128,
    at_ms: u64,
}

pub(super) struct NaiveHold {
    pub(super) id: HoldId,
    /// Which of the callers has it.
    pub(super) caller: usize,
    /// Meter, entry, and what was reserved with it.
    parts: Vec<(usize, usize, u64)>,
    reserved: Amounts,
}

#[derive(Default)]
pub(super) struct Naive {
    pub(super) meters: Vec<NaiveMeter>,
    /// Budgets of each caller: a meter, a limit, and whether it is Hard.
    pub(super) checks: Vec<Vec<(usize, u64, bool)>>,
    pub(super) rates: Vec<Vec<NaiveRate>>,
    pub(super) seats: Vec<Option<u64>>,
    pub(super) holds: Vec<NaiveHold>,
    pub(super) latest_ms: u64,
    pub(super) steady_ms: u64,
    shown_ms: u64,
}

impl Naive {
    pub(super) fn meter(&mut self, owner: usize, budget: &Budget) -> usize {
        let same = |meter: &NaiveMeter| {
            meter.owner == owner && meter.unit == budget.unit && meter.window == budget.window
        };
        self.meters.iter().position(same).unwrap_or_else(|| {
            let (unit, window) = (budget.unit, budget.window.clone());
            let period = Period { start_ms: 0, end_ms: 0 };
            self.meters.push(NaiveMeter { owner, unit, window, entries: Vec::new(), period });
            self.meters.len() - 1
        })
    }

    pub(super) fn cover(
        &mut self,
        owners: &[(usize, &[Budget])],
        rates: &[(Unit, Pace)],
        seats: Option<u64>,
    ) {
        let mut checks = Vec::new();
        for (owner, budgets) in owners {
            for budget in *budgets {
                let hard = budget.enforcement == Enforcement::Hard;
                checks.push((self.meter(*owner, budget), budget.limit, hard));
            }
        }
        self.checks.push(checks);
        let empty = |(unit, pace): &(Unit, Pace)| NaiveRate { unit: *unit, pace: *pace, level: 0, at_ms: 0 };
        self.rates.push(rates.iter().map(empty).collect());
        self.seats.push(seats);
    }

    pub(super) fn see(&mut self, now_ms: u64) {
        self.latest_ms = self.latest_ms.max(now_ms);
        if now_ms >= self.shown_ms {
            self.steady_ms += now_ms - self.shown_ms;
            self.shown_ms = now_ms;
        } else if self.shown_ms - now_ms >= 1_000 {
            self.shown_ms = now_ms;
        }
    }

    /// What counts on a meter now.
    pub(super) fn taken(&mut self, meter: usize) -> u128 {
        let now_ms = self.latest_ms;
        let meter = &mut self.meters[meter];
        if now_ms >= meter.period.end_ms {
            meter.period = meter.window.period_at(now_ms);
        }
        let counts = |entry: &&Entry| match &meter.window {
            Window::Lifetime => true,
            Window::Calendar { .. } => entry.start_ms == meter.period.start_ms,
            Window::Rolling { length_ms } => {
                // Wholly old: its last millisecond is as old as the window is long.
                let width_ms = length_ms.div_ceil(119);
                entry.start_ms + width_ms - 1 + length_ms >= now_ms
            }
        };
        meter.entries.iter().filter(counts).map(|entry| entry.amount).sum()
    }

    /// Whether a request fits; then, whether it goes over a limit that does not refuse.
    pub(super) fn judge(&mut self, caller: usize, amounts: &Amounts, first: bool) -> Option<bool> {
        let mut over = false;
        for (meter, limit, hard) in self.checks[caller].clone() {
            let amount = amounts.of(self.meters[meter].unit);
            let wanted = self.taken(meter) + u128::from(amount);
            if amount == 0 {
                continue;
            }
            if wanted > u128::from(if hard { limit } else { u64::MAX }) {
                return None;
            }
            over |= !hard && wanted > u128::from(limit);
        }
        for rate in &mut self.rates[caller] {
            rate.drain(self.steady_ms);
            let amount = i128::from(rate.asked(amounts, first));
            let full = i128::from(rate.pace.burst()) * i128::from(rate.pace.per_ms());
            if amount > 0 && rate.level + amount * i128::from(rate.pace.per_ms()) > full {
                return None;
            }
        }
        let open = self.holds.iter().filter(|hold| hold.caller == caller).count() as u64;
        if first && self.seats[caller].is_some_and(|limit| open >= limit) {
            return None;
        }
        Some(over)
    }

    pub(super) fn reserve(&mut self, id: HoldId, caller: usize, amounts: &Amounts) {
        self.holds.push(NaiveHold { id, caller, parts: Vec::new(), reserved: Amounts::default() });
        self.take(self.holds.len() - 1, amounts, true);
    }

    pub(super) fn take(&mut self, hold: usize, amounts: &Amounts, first: bool) {
        let caller = self.holds[hold].caller;
        let mut meters: Vec<usize> = self.checks[caller].iter().map(|(meter, ..)| *meter).collect();
        meters.sort_unstable();
        meters.dedup();
        for at in meters {
            let meter = &mut self.meters[at];
            let start_ms = meter.window.period_at(self.latest_ms).start_ms;
            let amount = amounts.of(meter.unit);
            meter.entries.push(Entry { start_ms, amount: u128::from(amount) });
            self.holds[hold].parts.push((at, meter.entries.len() - 1, amount));
        }
        for rate in &mut self.rates[caller] {
            rate.drain(self.steady_ms);
            rate.level += i128::from(rate.asked(amounts, first)) * i128::from(rate.pace.per_ms());
        }
        let hold = &mut self.holds[hold];
        hold.reserved = hold.reserved.plus(amounts);
    }

    /// Ends a hold as `spent` or as nothing; gives what was spent beyond it.
    pub(super) fn end(&mut self, at: usize, spent: Option<&Amounts>) -> Amounts {
        let hold = self.holds.swap_remove(at);
        let mut left: Vec<u64> =
            self.meters.iter().map(|meter| spent.map_or(0, |spent| spent.of(meter.unit))).collect();
        for (index, (meter, entry, amount)) in hold.parts.iter().enumerate() {
            let is_last = !hold.parts[index + 1..].iter().any(|(other, ..)| other == meter);
            let charged = if is_last { left[*meter] } else { left[*meter].min(*amount) };
            left[*meter] -= charged;
            self.meters[*meter].entries[*entry].amount = u128::from(charged);
        }
        for rate in &mut self.rates[hold.caller] {
            rate.drain(self.steady_ms);
            let reserved = rate.asked(&hold.reserved, true);
            let charged = match (spent, rate.unit) {
                (None, _) => 0,
                (Some(_), Unit::Requests) => reserved,
                (Some(spent), unit) => spent.of(unit),
            };
            let change = i128::from(charged) - i128::from(reserved);
            rate.level = (rate.level + change * i128::from(rate.pace.per_ms())).max(0);
        }
        let over = |unit| spent.map_or(0, |s| s.of(unit).saturating_sub(hold.reserved.of(unit)));
        Amounts { requests: over(Unit::Requests), tokens: over(Unit::Tokens), nano_usd: over(Unit::Usd) }
    }

    /// Takes over what a meter says after a power cut.
    pub(super) fn adopt(&mut self, meter: usize, saved: &SavedMeter) {
        let entry = |(start_ms, taken): (u64, u64)| Entry { start_ms, amount: u128::from(taken) };
        let whole = (saved.start_ms, saved.settled + saved.open);
        self.meters[meter].entries = match saved.window {
            Window::Rolling { .. } => saved.periods.iter().copied().map(entry).collect(),
            Window::Lifetime | Window::Calendar { .. } => vec![entry(whole)],
        };
    }

    /// The three times, and how every rate stands.
    pub(super) fn time(&self) -> ([u64; 3], Vec<(i128, u64)>) {
        let rates = self.rates.iter().flatten().map(|rate| (rate.level, rate.at_ms)).collect();
        ([self.latest_ms, self.steady_ms, self.shown_ms], rates)
    }

    pub(super) fn go_back(&mut self, (time, rates): ([u64; 3], Vec<(i128, u64)>)) {
        [self.latest_ms, self.steady_ms, self.shown_ms] = time;
        for (rate, (level, at_ms)) in self.rates.iter_mut().flatten().zip(rates) {
            (rate.level, rate.at_ms) = (level, at_ms);
        }
        let later = |meter: &&mut NaiveMeter| meter.period.start_ms > time[0];
        let never = Period { start_ms: 0, end_ms: 0 };
        self.meters.iter_mut().filter(later).for_each(|meter| meter.period = never);
    }

    /// Nobody has the holds any more; what they took stays taken. Time, rates and open requests begin anew.
    pub(super) fn restart(&mut self) {
        self.holds.clear();
        (self.latest_ms, self.steady_ms, self.shown_ms) = (0, 0, 0);
        self.rates.iter_mut().flatten().for_each(|rate| (rate.level, rate.at_ms) = (0, 0));
    }
}

impl NaiveRate {
    /// A request is one, also one that is free.
    fn asked(&self, amounts: &Amounts, first: bool) -> u64 {
        match (self.unit, first, amounts.requests) {
            (Unit::Requests, true, 0) => 1,
            _ => amounts.of(self.unit),
        }
    }

    fn drain(&mut self, steady_ms: u64) {
        let drained = i128::from(steady_ms - self.at_ms) * i128::from(self.pace.limit());
        self.level = (self.level - drained).max(0);
        self.at_ms = steady_ms;
    }
}

impl NaiveHold {
    pub(super) fn reserved(&self) -> Amounts {
        self.reserved
    }
}
