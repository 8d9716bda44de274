//! Random histories of a book beside a model that is obviously right.

use std::sync::OnceLock;

use super::naive::Naive;
use crate::amount::{Amounts, Unit};
use crate::budget::*;
use crate::id::Subject;

const OPERATIONS: u64 = 200;

/// Moments around which histories begin: daylight saving begins and ends, a leap day, a year's end.
const BEGINNINGS_MS: [u64; 4] = [1_774_742_400_000, 1_792_886_400_000, 1_709_164_800_000, 1_798_761_600_000];

/// SplitMix64: small, and every history can be run again from its number.
struct Dice(u64);

impl Dice {
    fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, end: u64) -> u64 {
        self.roll() % end
    }

    fn amount(&mut self) -> u64 {
        match self.below(16) {
            0 => 0,
            1 => 1_000_000_000_000 + self.below(5),
            2..6 => self.below(4),
            _ => self.below(200),
        }
    }
}

/// Names the history that failed.
struct Named(u64);

impl Drop for Named {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("history {} failed", self.0);
        }
    }
}

struct Scene {
    dice: Dice,
    grants: Grants,
    book: Book,
    model: Naive,
    owners: [Subject; 3],
    limits: [Limits; 3],
    covers: Vec<Cover>,
    /// What a power cut leaves, but for grants it is as of the last checkpoint.
    durable: Vec<SavedOwner>,
    ended: Vec<HoldId>,
    now_ms: u64,
    /// Something was charged beyond its reservation.
    overran: bool,
}

fn windows() -> &'static [Window] {
    static WINDOWS: OnceLock<Vec<Window>> = OnceLock::new();
    WINDOWS.get_or_init(|| {
        [
            "lifetime",
            "Hour@UTC",
            "Day@Europe/Berlin",
            "Week@UTC",
            "Month@America/New_York",
            "rolling/60ms",
            "rolling/1m",
            "rolling/24h",
        ]
        .iter()
        .map(|text| text.parse().unwrap())
        .collect()
    })
}

fn subjects() -> &'static [Subject; 3] {
    static SUBJECTS: OnceLock<[Subject; 3]> = OnceLock::new();
    SUBJECTS.get_or_init(|| ["a", "b", "pool"].map(|name| Subject::of("proxy", "agents", name).unwrap()))
}

fn budget(dice: &mut Dice, name: &str) -> Budget {
    let window = windows()[dice.below(windows().len() as u64) as usize].clone();
    let unit = Unit::ALL[dice.below(3) as usize];
    let limit = if unit == Unit::Requests { 1 + dice.below(40) } else { 1 + dice.below(3_000) };
    let enforcement = match dice.below(8) {
        0 => Enforcement::Soft,
        1 => Enforcement::Shadow,
        _ => Enforcement::Hard,
    };
    Budget { name: name.into(), unit, limit, window, enforcement, admits: Admits::default() }
}

fn limits(dice: &mut Dice) -> Limits {
    let budgets = ["1", "2", "3"][..dice.below(4) as usize].iter().map(|name| budget(dice, name)).collect();
    let mut rates = Vec::new();
    for (unit, most) in [(Unit::Requests, 20), (Unit::Tokens, 2_000)] {
        if dice.below(4) == 0 {
            let pace = Pace::new(
                1 + dice.below(most),
                [7, 1_000, 60_000][dice.below(3) as usize],
                1 + dice.below(most),
            );
            rates.push(Rate { unit, pace: pace.unwrap() });
        }
    }
    let queue = std::time::Duration::ZERO;
    let concurrency = (dice.below(4) == 0).then(|| Concurrency { limit: 1 + dice.below(6), queue });
    Limits { budgets, rates, concurrency, ..Limits::default() }
}

impl Scene {
    fn new(history: u64) -> Self {
        let mut dice = Dice(history);
        let grants = if dice.below(4) == 0 { Grants::Endless } else { Grants::Needed };
        let limits = [limits(&mut dice), limits(&mut dice), limits(&mut dice)];
        let now_ms = BEGINNINGS_MS[dice.below(4) as usize] + dice.below(2 * 86_400_000);
        let owners = subjects().clone();
        let (book, model) = (Book::new(grants), Naive::default());
        let (covers, durable, ended) = (Vec::new(), Vec::new(), Vec::new());
        let mut scene = Self {
            dice,
            grants,
            book,
            model,
            owners,
            limits,
            covers,
            durable,
            ended,
            now_ms,
            overran: false,
        };
        for caller in 0..2 {
            let own = &scene.limits[caller];
            let rates: Vec<_> = own.rates.iter().map(|rate| (rate.unit, rate.pace)).collect();
            let owners = [(caller, own.budgets.as_slice()), (2, scene.limits[2].budgets.as_slice())];
            scene.model.cover(&owners, &rates, own.concurrency.map(|concurrency| concurrency.limit));
        }
        scene.cover();
        scene
    }

    fn cover(&mut self) {
        let pool = Covering::pool(&self.owners[2], &self.limits[2].budgets);
        let own = |caller: usize| Covering::of(&self.owners[caller], &self.limits[caller]);
        self.covers = [own(0), own(1)].map(|own| self.book.cover(&[own, pool])).to_vec();
    }

    fn step(&mut self) {
        match self.dice.below(32) {
            0..11 => self.reserve(),
            11..13 => self.raise(),
            13..20 => self.settle(),
            20..23 => self.release(),
            23..25 => self.end_again(),
            25..28 => self.now_ms += self.dice.below(2_000),
            28 => self.now_ms += self.dice.below(3 * 86_400_000),
            29 => self.now_ms -= self.dice.below(2 * 3_600_000),
            30 => self.durable = self.book.save(true),
            _ => self.restart(),
        }
        let caller = self.dice.below(2) as usize;
        self.agree(caller);
    }

    fn reserve(&mut self) {
        let caller = self.dice.below(2) as usize;
        let amounts = match self.dice.below(16) {
            0 => Amounts::default(),
            many => Amounts {
                requests: 1 + u64::from(many == 1),
                tokens: self.dice.amount(),
                nano_usd: self.dice.amount(),
            },
        };
        self.model.see(self.now_ms);
        let expected = self.model.judge(caller, &amounts, true);
        let outcome = self.granted(|book, cover, now_ms| book.reserve(cover, &amounts, now_ms), caller);
        match outcome {
            Ok(admission) => {
                assert_eq!(Some(admission.is_over), expected, "admitted {amounts:?}");
                self.model.reserve(admission.hold, caller, &amounts);
            }
            Err(refused) => {
                assert_eq!(expected, None, "{refused}");
                self.retry_helps_when_it_says(caller, &amounts, &refused, true);
            }
        }
    }

    fn raise(&mut self) {
        let Some(at) = self.some_hold() else { return };
        let (id, caller) = (self.model.holds[at].id, self.model.holds[at].caller);
        let more = Amounts { requests: 0, tokens: self.dice.amount(), nano_usd: self.dice.amount() };
        self.model.see(self.now_ms);
        let expected = self.model.judge(caller, &more, false);
        match self.granted(|book, cover, now_ms| book.raise(id, cover, &more, now_ms), caller) {
            Ok(()) => {
                assert!(expected.is_some(), "raised by {more:?}");
                self.model.take(at, &more, false);
            }
            Err(refused) => {
                assert_eq!(expected, None, "{refused}");
                self.retry_helps_when_it_says(caller, &more, &refused, false);
            }
        }
    }

    /// Does something with the book; writes grants down and gives them for as long as it lacks any.
    fn granted<T>(
        &mut self,
        job: impl Fn(&mut Book, &Cover, u64) -> Result<T, Denied>,
        caller: usize,
    ) -> Result<T, Refused> {
        for _ in 0..3 {
            match job(&mut self.book, &self.covers[caller], self.now_ms) {
                Ok(done) => return Ok(done),
                Err(Denied::Refused(refused)) => return Err(refused),
                Err(Denied::Stale) => panic!("nobody was forgotten"),
                Err(Denied::NotGranted) => {}
            }
            assert_eq!(self.grants, Grants::Needed);
            let grants = self.book.next_grants();
            for grant in &grants {
                let known = self.durable.iter().position(|owner| owner.subject == grant.owner);
                let at = known.unwrap_or_else(|| {
                    self.durable.push(SavedOwner::new(grant.owner.clone()));
                    self.durable.len() - 1
                });
                self.durable[at].put(grant.saved.clone());
            }
            if self.dice.below(8) == 0 {
                self.book.deny(&grants);
            } else {
                self.book.grant(&grants);
            }
        }
        // Denied three times running: once more, in peace.
        self.dice.0 ^= 1;
        self.granted(job, caller)
    }

    fn settle(&mut self) {
        let Some(at) = self.some_hold() else { return };
        let reserved = self.model.holds[at].reserved();
        let beyond = self.dice.below(24) == 0;
        let mut part = |whole: u64| {
            let most = if beyond { whole * 2 + 5 } else { whole };
            if self.dice.below(4) == 0 { most } else { self.dice.below(most + 1) }
        };
        let amounts = Amounts {
            requests: part(reserved.requests),
            tokens: part(reserved.tokens),
            nano_usd: part(reserved.nano_usd),
        };
        let id = self.model.holds[at].id;
        let settled = self.book.settle(id, &Spent { amounts, ..Spent::default() }).unwrap();
        self.ended.push(id);
        assert_eq!(settled.overrun, self.model.end(at, Some(&amounts)));
        if settled.overrun != Amounts::default() {
            self.overran = true;
            // Not covered by any grant: durable once it is written down.
            self.durable = self.book.save(true);
        }
    }

    fn release(&mut self) {
        let Some(at) = self.some_hold() else { return };
        let id = self.model.holds[at].id;
        assert_eq!(self.book.release(id), Some(()));
        self.ended.push(id);
        self.model.end(at, None);
    }

    fn end_again(&mut self) {
        if self.ended.is_empty() {
            return;
        }
        let id = self.ended[self.dice.below(self.ended.len() as u64) as usize];
        let amounts = Amounts { requests: 1, tokens: 100, nano_usd: 100 };
        assert_eq!(self.book.settle(id, &Spent { amounts, ..Spent::default() }), None);
        assert_eq!(self.book.release(id), None);
        assert_eq!(self.book.raise(id, &self.covers[0], &amounts, self.now_ms), Err(Denied::Stale));
    }

    /// The process dies, or the power fails; then the clock shows at least what it showed last.
    fn restart(&mut self) {
        self.model.see(self.now_ms);
        self.now_ms = self.model.latest_ms + self.dice.below(2) * self.dice.below(86_400_000);
        let power_cut = self.grants == Grants::Needed && self.dice.below(2) == 0;
        let rows = if power_cut { self.durable.clone() } else { self.book.save(true) };
        self.book = Book::new(self.grants);
        rows.iter().for_each(|row| self.book.restore(row));
        if power_cut {
            self.book.charge_grants(self.now_ms)
        } else {
            self.book.charge_open()
        }
        self.ended.clear();
        self.cover();
        self.model.restart();
        self.model.see(self.now_ms);
        if power_cut {
            self.adopt();
        }
        self.durable = self.book.save(true);
    }

    /// After a power cut what is Hard counts at least the truth, and no more than its limit.
    fn adopt(&mut self) {
        let used: Vec<Vec<u64>> = (0..2)
            .map(|caller| {
                self.book.standings(&self.covers[caller], self.now_ms).iter().map(|s| s.used).collect()
            })
            .collect();
        for (caller, check) in (0..2).flat_map(|caller| (0..used[caller].len()).map(move |at| (caller, at))) {
            let (meter, limit, hard) = self.model.checks[caller][check];
            let (counted, truth) = (u128::from(used[caller][check]), self.model.taken(meter));
            assert!(!hard || counted >= truth, "{counted} counted of {truth}");
            assert!(!hard || self.overran || counted <= u128::from(limit), "{counted} of {limit}");
        }
        for owner in self.book.save(true) {
            let place = self.owners.iter().position(|subject| *subject == owner.subject).unwrap();
            for saved in &owner.meters {
                let same = |m: &super::naive::NaiveMeter| {
                    m.owner == place && m.unit == saved.unit && m.window == saved.window
                };
                // The meter of all requests is there whether a budget looks at it or not.
                if let Some(meter) = self.model.meters.iter().position(same) {
                    self.model.adopt(meter, saved);
                }
            }
        }
    }

    fn some_hold(&mut self) -> Option<usize> {
        let count = self.model.holds.len() as u64;
        (count > 0).then(|| self.dice.below(count) as usize)
    }

    /// Book and model count the same, and nothing is over a Hard limit.
    fn agree(&mut self, caller: usize) {
        self.model.see(self.now_ms);
        let standings = self.book.standings(&self.covers[caller], self.now_ms);
        assert_eq!(standings.len(), self.model.checks[caller].len());
        for (at, standing) in standings.iter().enumerate() {
            let (meter, limit, hard) = self.model.checks[caller][at];
            let taken = self.model.taken(meter);
            assert_eq!(u128::from(standing.used), taken, "{standing:?}");
            assert!(!hard || self.overran || taken <= u128::from(limit), "{standing:?}");
        }
        let its = self.model.holds.iter().filter(|hold| hold.caller == caller);
        let open: u64 = its.map(|hold| hold.reserved().requests).sum();
        assert_eq!(self.book.used(&self.owners[caller]).unwrap().open, open);
    }

    /// A refused request fits at the time that the refusal names, and not a millisecond before.
    fn retry_helps_when_it_says(&mut self, caller: usize, amounts: &Amounts, refused: &Refused, first: bool) {
        let Some(retry_at_ms) = refused.retry_at_ms else { return };
        assert_ne!(refused.by, RefusedBy::Concurrency);
        if self.now_ms != self.model.latest_ms || self.model.seats[caller].is_some() {
            return;
        }
        let now = self.model.time();
        for (at_ms, fits) in [(retry_at_ms - 1, false), (retry_at_ms, true)] {
            self.model.see(at_ms);
            assert_eq!(self.model.judge(caller, amounts, first).is_some(), fits, "at {at_ms}: {refused:?}");
        }
        self.model.go_back(now);
    }
}

/// 10^5 histories; 10^6 when `LA_PROOF` is 1. Only tests read the environment here.
#[expect(clippy::disallowed_methods, reason = "a test chooses its number of rounds by the environment")]
fn histories() -> u64 {
    if std::env::var("LA_PROOF").is_ok_and(|proof| proof == "1") { 1_000_000 } else { 100_000 }
}

fn run(history: u64) {
    let _named = Named(history);
    let mut scene = Scene::new(history);
    for _ in 0..scene.dice.below(OPERATIONS + 1) {
        scene.step();
    }
    (0..2).for_each(|caller| scene.agree(caller));
}

#[test]
fn no_history_goes_over_a_limit_or_differs_from_the_naive_model() {
    let halves = [0, 1].map(|half| {
        std::thread::spawn(move || (0..histories()).filter(|history| history % 2 == half).for_each(run))
    });
    for half in halves {
        half.join().unwrap();
    }
}
