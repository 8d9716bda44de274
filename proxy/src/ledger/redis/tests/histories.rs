//! Random histories beside the book of `core`, which decides for every other ledger.

use std::collections::BTreeSet;

use la_core::amount::{Amounts, Unit};
use la_core::budget::{Book, Denied, Enforcement, Grants, HoldId};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

use super::*;
use crate::ledger::conformance::{NOON_MS, Party, covering, spent};
use crate::ledger::{Demand, Reservation, ReserveError};

const HISTORIES: u64 = 10;
const OPERATIONS: usize = 50;

const WINDOWS: [&str; 7] = [
    "lifetime",
    "Hour@UTC",
    "Day@Europe/Berlin",
    "Month@America/New_York",
    "rolling/60ms",
    "rolling/1m",
    "rolling/24h",
];

struct Scene {
    dice: StdRng,
    ledger: Arc<Ledger>,
    book: Book,
    parties: [Party; 3],
    open: Vec<(Reservation, HoldId)>,
    now_ms: u64,
}

fn party(dice: &mut StdRng, at: usize) -> Party {
    let mut party = if at == 2 { Party::pool("p") } else { Party::token(["a", "b"][at]) };
    for _ in 0..dice.random_range(0..4) {
        let unit = Unit::ALL[dice.random_range(0..3)];
        let limit =
            if unit == Unit::Requests { dice.random_range(1..30) } else { dice.random_range(1..3_000) };
        let enforcement = [Enforcement::Hard, Enforcement::Hard, Enforcement::Soft, Enforcement::Shadow];
        let enforcement = enforcement[dice.random_range(0..4)];
        party = party.budget(unit, limit, WINDOWS[dice.random_range(0..WINDOWS.len())], enforcement);
    }
    if dice.random_bool(0.3) {
        party = party.rate(Unit::Requests, dice.random_range(1..20), "1s", dice.random_range(1..20));
    }
    if dice.random_bool(0.3) {
        party = party.rate(Unit::Tokens, dice.random_range(1..2_000), "1m", dice.random_range(1..2_000));
    }
    if dice.random_bool(0.3) {
        party = party.concurrency(dice.random_range(1..6));
    }
    party
}

impl Scene {
    fn amounts(&mut self, requests: u64) -> Amounts {
        let tokens = if self.dice.random_bool(0.05) { 1 << 50 } else { self.dice.random_range(0..200) };
        Amounts { requests, tokens, nano_usd: self.dice.random_range(0..200) }
    }

    async fn step(&mut self, shared: &Shared, what: &str) {
        self.now_ms += [0, 0, 1, 30, 700, 20_000, 3_600_000, 86_400_000][self.dice.random_range(0..8)];
        shared.set_clock(self.now_ms);
        // An end by the server's time is one by the time that the book has seen.
        self.book.see(&BTreeSet::new(), self.now_ms);
        match self.dice.random_range(0..10) {
            0..6 => self.reserve(what).await,
            6 => self.raise(what).await,
            _ => self.end().await,
        }
        self.compare(what).await;
    }

    async fn reserve(&mut self, what: &str) {
        let (caller, with_pool, amounts) =
            (self.dice.random_range(0..2), self.dice.random_bool(0.7), self.amounts(1));
        let mut parties = vec![&self.parties[caller]];
        parties.extend(with_pool.then_some(&self.parties[2]));
        let covering = covering(&parties);
        let cover = self.book.cover(&covering);
        let expected = self.book.reserve(&cover, &amounts, self.now_ms);
        let found = self.ledger.reserve(&Demand::once(&covering, amounts), self.now_ms).await;
        match (expected, found) {
            (Ok(admission), Ok(reservation)) => self.open.push((reservation, admission.hold)),
            (Err(Denied::Refused(expected)), Err(ReserveError::Refused(found))) => {
                assert_eq!(*found, expected, "{what}")
            }
            (expected, found) => panic!("{what}: {expected:?}, but {:?}", found.err()),
        }
        assert_eq!(
            self.ledger.standings(&covering, self.now_ms),
            self.book.standings(&cover, self.now_ms),
            "{what}"
        );
    }

    async fn raise(&mut self, what: &str) {
        let amounts = self.amounts(0);
        let Some((reservation, hold)) = self.open.last_mut() else { return };
        let covering = covering(&[&self.parties[0], &self.parties[2]]);
        let cover = self.book.cover(&covering);
        if !matches!(&reservation.hold, Some(crate::ledger::Hold::There(held)) if *held.owners == [self.parties[0].subject.clone(), self.parties[2].subject.clone()])
        {
            return;
        }
        let expected = self.book.raise(*hold, &cover, &amounts, self.now_ms);
        let found = reservation.raise(&Demand::once(&covering, amounts), self.now_ms).await;
        match (expected, found) {
            (Ok(()), Ok(())) => {}
            (Err(Denied::Refused(expected)), Err(ReserveError::Refused(found))) => {
                assert_eq!(*found, expected, "{what}")
            }
            (expected, found) => panic!("{what}: {expected:?}, but {found:?}"),
        }
    }

    async fn end(&mut self) {
        if self.open.is_empty() {
            return;
        }
        let at = self.dice.random_range(0..self.open.len());
        let (reservation, hold) = self.open.swap_remove(at);
        if self.dice.random_bool(0.3) {
            self.book.release(hold);
            reservation.release();
        } else {
            let spent = spent(self.dice.random_range(0..250), self.dice.random_range(0..250));
            assert_eq!(Some(reservation.settle(&spent)), self.book.settle(hold, &spent));
        }
        self.ledger.quiet().await;
    }

    /// A request that takes nothing shows how everything stands.
    async fn compare(&mut self, what: &str) {
        for party in &self.parties {
            let covering = covering(&[party]);
            let cover = self.book.cover(&covering);
            let nothing = Amounts::default();
            let expected = self.book.reserve(&cover, &nothing, self.now_ms).ok();
            let found = self.ledger.reserve(&Demand::once(&covering, nothing), self.now_ms).await.ok();
            assert_eq!(expected.is_some(), found.is_some(), "{what}");
            let (Some(expected), Some(found)) = (expected, found) else { continue };
            let standings = self.ledger.standings(&covering, self.now_ms);
            assert_eq!(standings, self.book.standings(&cover, self.now_ms), "{what}");
            self.book.release(expected.hold);
            found.release();
            self.ledger.quiet().await;
        }
    }
}

#[tokio::test]
async fn shared_ledger_decides_and_stands_as_the_book_does() {
    for number in 0..HISTORIES {
        let shared = Shared::start();
        let mut dice = StdRng::seed_from_u64(number);
        let parties = [0, 1, 2].map(|at| party(&mut dice, at));
        let (ledger, book) = (shared.ledger(), Book::new(Grants::Endless));
        let mut scene = Scene { dice, ledger, book, parties, open: Vec::new(), now_ms: NOON_MS };
        for operation in 0..OPERATIONS {
            scene.step(&shared, &format!("history {number}, operation {operation}")).await;
        }
    }
}
