//! Budgets of every unit and window, over pools, raises and borders, through kills and power cuts.

use la_core::amount::{Amounts, Unit};
use la_core::budget::{Budget, Covering, Enforcement, SavedOwner, Spent};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

use super::*;
use crate::ledger::Demand;

const LIMITS: [(&str, Unit, u64, &str); 5] = [
    ("requests", Unit::Requests, 400, "lifetime"),
    ("tokens", Unit::Tokens, 60_000, "Hour@UTC"),
    ("money", Unit::Usd, 90_000_000, "Day@Europe/Berlin"),
    ("rolling", Unit::Tokens, 50_000, "rolling/10m"),
    ("pool", Unit::Usd, 200_000_000, "rolling/1h"),
];

pub(super) fn budgets() -> Vec<Budget> {
    let budget = |(name, unit, limit, window): (&str, Unit, u64, &str)| {
        let (window, enforcement) = (window.parse().unwrap(), Enforcement::Hard);
        Budget { name: name.into(), unit, limit, window, enforcement, admits: Default::default() }
    };
    LIMITS.map(budget).to_vec()
}

/// Two tokens under one pool, what became of their requests, and a clock.
pub(super) struct Load {
    dice: StdRng,
    budgets: Vec<Budget>,
    callers: [Subject; 2],
    pool: Subject,
    open: Vec<Reservation>,
    /// Whether some requests are reserved without a price and then cost something, over whatever limit.
    may_overrun: bool,
    pub(super) now_ms: u64,
}

impl Load {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            dice: StdRng::seed_from_u64(seed),
            budgets: budgets(),
            callers: [subject("a"), subject("b")],
            pool: subject("pool"),
            open: Vec::new(),
            may_overrun: false,
            now_ms: NOW_MS,
        }
    }

    fn covering(&self, caller: usize) -> [Covering<'_>; 2] {
        let (own, shared) = self.budgets.split_at(4);
        [Covering::pool(&self.callers[caller], own), Covering::pool(&self.pool, shared)]
    }

    /// One request more, or the end of one.
    pub(super) fn step(&mut self, ledger: &Ledger) {
        self.now_ms += self.dice.random_range(0..20_000);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let tokens = self.dice.random_range(1..3_000);
        let amounts = match self.dice.random_range(0..8) {
            0 => Amounts::default(),
            1 if self.may_overrun => Amounts { requests: 1, tokens, nano_usd: 0 },
            _ => Amounts { requests: 1, tokens, nano_usd: tokens * 1_500 },
        };
        let caller = self.dice.random_range(0..2);
        if self.open.len() < 4 && self.dice.random_range(0..3) > 0 {
            let covering = self.covering(caller);
            let demand = Demand::once(&covering, amounts);
            let reserved = runtime.block_on(ledger.reserve(&demand, self.now_ms));
            self.open.extend(reserved.ok());
        } else if !self.open.is_empty() {
            let at = self.dice.random_range(0..self.open.len());
            let mut reservation = self.open.swap_remove(at);
            if self.dice.random_range(0..4) == 0 {
                let more = Amounts { requests: 0, ..amounts };
                let covering = self.covering(caller);
                let demand = Demand::once(&covering, more);
                let _ = runtime.block_on(reservation.raise(&demand, self.now_ms));
            }
            match self.dice.random_range(0..4) {
                0 => reservation.release(),
                1 => drop(reservation),
                _ => {
                    let Amounts { requests, tokens, .. } = *reservation.reserved();
                    let amounts = Amounts { requests, tokens: tokens / 3, nano_usd: tokens * 500 };
                    reservation.settle(&Spent { amounts, ..spent(tokens / 3) });
                }
            }
        }
    }

    /// Some requests in another ledger, which go by the same clock and end there.
    pub(super) fn probe_on(&self, ledger: &Ledger) {
        let mut other = Self { now_ms: self.now_ms, ..Self::new(99) };
        for _ in 0..20 {
            other.step(ledger);
        }
    }

    /// What is taken of every budget, in the order of callers and budgets.
    fn taken(&self, ledger: &Ledger) -> Vec<u64> {
        let standings = (0..2).flat_map(|caller| ledger.standings(&self.covering(caller), self.now_ms));
        standings.map(|standing| standing.used).collect()
    }
}

/// Who has used what, in which periods, what is open counted as charged. Of grants nothing: they are the
/// keeper's, and one may come between two looks.
fn counted(ledger: &Ledger) -> Vec<SavedOwner> {
    let mut owners: Vec<_> = ledger.shared().lock().book.saved().collect();
    for owner in &mut owners {
        owner.last_seen_ms = 0;
        owner.meters.retain(|meter| meter.settled + meter.open > 0);
        owner.meters.sort_by_key(|meter| (meter.unit, meter.window.to_string()));
        for meter in &mut owner.meters {
            (meter.settled, meter.open) = (meter.settled + meter.open, 0);
            (meter.granted, meter.granted_until_ms) = (0, 0);
            meter.periods.retain(|(_, taken)| *taken > 0);
        }
    }
    owners.retain(|owner| !owner.meters.is_empty());
    owners.sort_by(|a, b| a.subject.cmp(&b.subject));
    owners
}

#[test]
fn kill_after_any_request_leaves_every_budget_as_it_was() {
    for seed in 0..rounds(40) {
        let (dir, pauses) = (tempfile::tempdir().unwrap(), Arc::new(Pauses::default()));
        let ledger =
            open(Setup { segment_bytes: 2_000, probe: pauses.probe(), ..setup(dir.path()) }).unwrap();
        let mut load = Load { may_overrun: true, ..Load::new(seed) };
        for round in 0..300 {
            load.step(&ledger);
            if round % 10 != 0 {
                continue;
            }
            let after = recovered(&setup(pauses.image(dir.path()).path()), load.now_ms);
            assert_eq!(load.taken(&after), load.taken(&ledger), "seed {seed}, round {round}");
            assert_eq!(counted(&after), counted(&ledger), "seed {seed}, round {round}");
        }
    }
}

/// The longest a journal was, and what was taken of every budget then.
type Moment = (Vec<(std::path::PathBuf, u64)>, Vec<u64>, u64);

#[test]
fn power_cut_at_any_write_boundary_gives_nothing_away_and_takes_no_more_than_the_limit() {
    let (dir, pauses) = (tempfile::tempdir().unwrap(), Arc::new(Pauses::default()));
    let ledger = open(Setup { probe: pauses.probe(), ..setup(dir.path()) }).unwrap();
    let mut load = Load::new(7);
    let mut moments: Vec<(tempfile::TempDir, Moment)> = Vec::new();
    for _ in 0..rounds(600) {
        load.step(&ledger);
        let files = pauses.image(dir.path());
        let lengths = journals(files.path())
            .into_iter()
            .map(|path| (path.clone(), std::fs::metadata(path).unwrap().len()))
            .collect();
        moments.push((files, (lengths, load.taken(&ledger), load.now_ms)));
    }
    load.open.clear();
    for (round, (files, (lengths, truth, now_ms))) in moments.into_iter().enumerate() {
        // Of the journal, nothing, some or all of what was never synced is there.
        for kept_of_eight in [0, 3, 8] {
            let cut = image(files.path());
            for (path, len_bytes) in &lengths {
                let file = cut.path().join(path.file_name().unwrap());
                let file = std::fs::OpenOptions::new().write(true).open(file).unwrap();
                file.set_len(20 + (len_bytes - 20) * kept_of_eight / 8).unwrap();
            }
            let after = recovered(&after_power_cut(cut.path()), now_ms);
            load.now_ms = now_ms;
            let counted = load.taken(&after);
            for (at, (counted, truth)) in counted.iter().zip(&truth).enumerate() {
                let (name, _, limit, _) = LIMITS[at % 5];
                let what = format!("round {round}, {kept_of_eight}/8 kept, {name}: {counted} for {truth}");
                assert!(counted >= truth, "{what}: given away");
                assert!(*counted <= limit, "{what}: more than the limit");
            }
        }
    }
}

#[test]
fn memory_and_embedded_ledgers_agree_on_everything() {
    let dir = tempfile::tempdir().unwrap();
    let (embedded, memory) = (open(setup(dir.path())).unwrap(), Ledger::memory());
    for seed in 20..24 {
        let (mut one, mut other) = (Load::new(seed), Load::new(seed));
        for load in [&mut one, &mut other] {
            load.callers = ["a", "b"].map(|name| subject(&format!("{name}-{seed}")));
            load.pool = subject(&format!("pool-{seed}"));
        }
        for round in 0..400 {
            one.step(&embedded);
            other.step(&memory);
            assert_eq!(one.taken(&embedded), other.taken(&memory), "seed {seed}, round {round}");
        }
    }
}

#[test]
fn refusal_of_a_pool_names_it_and_takes_nothing() {
    let ledger = Ledger::memory();
    let load = Load::new(0);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let amounts = Amounts { requests: 1, tokens: 1, nano_usd: 80_000_000 };
    let mut held = Vec::new();
    for caller in [0, 1] {
        let covering = load.covering(caller);
        let demand = Demand::once(&covering, amounts);
        held.push(runtime.block_on(ledger.reserve(&demand, NOW_MS)).unwrap());
    }
    let third = subject("c");
    let covering =
        [Covering::pool(&third, &load.budgets[..4]), Covering::pool(&load.pool, &load.budgets[4..])];
    let refused = runtime.block_on(ledger.reserve(&Demand::once(&covering, amounts), NOW_MS));
    let Err(ReserveError::Refused(why)) = refused else { panic!("admitted") };
    assert_eq!((&*why.name, &why.owner, why.used, why.limit), ("pool", &load.pool, 160_000_000, 200_000_000));
    assert_eq!(why.retry_at_ms, why.resets_at_ms);
    assert_eq!(ledger.usage(&third), Some(Use::default()));
    assert!(ledger.exhausted(&covering, NOW_MS).is_none());
}

#[test]
fn ended_request_cannot_be_raised() {
    let ledger = Ledger::memory();
    let load = Load::new(0);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let covering = load.covering(0);
    let demand = Demand::once(&covering, Amounts::of_requests(1));
    let mut reservation = runtime.block_on(ledger.reserve(&demand, NOW_MS)).unwrap();
    let too_much = Amounts { requests: 0, tokens: 60_001, nano_usd: 0 };
    let refused = runtime.block_on(reservation.raise(&Demand::once(&covering, too_much), NOW_MS));
    assert!(matches!(refused, Err(ReserveError::Refused(_))));
    assert_eq!(reservation.reserved(), &Amounts::of_requests(1));
    let settled = reservation.settle(&Spent { amounts: too_much, ..Spent::default() });
    assert_eq!(settled.overrun.tokens, 60_001, "charged and marked");
    assert_eq!(load.taken(&ledger)[..2], [0, 60_001]);
}
