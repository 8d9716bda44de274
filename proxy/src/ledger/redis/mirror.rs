//! What this process was last told of every owner, in a book of its own, so that what is only reported needs no
//! trip to the server. Nothing is admitted by it.

use std::collections::{BTreeSet, HashMap};

use la_core::amount::Amounts;
use la_core::budget::{Book, Cover, Covering, Grants, Refused, SavedMeter, SavedOwner, Standing, Used};
use la_core::id::Subject;
use la_core::usage::Usage;

use super::demand::Counted;
use crate::ledger::state::REMEMBERED_MS;

/// How long a refusal may be told again without asking, in milliseconds: others may settle meanwhile.
const FRESH_MS: u64 = 250;

pub(super) struct Mirror {
    book: Book,
    cover: Cover,
    heard: HashMap<Subject, Heard>,
}

/// The last news of an owner.
#[derive(Debug, Clone, Copy, Default)]
struct Heard {
    /// The server's, by which a late answer is known.
    moment: u64,
    /// Until when it is fresh, by this process's monotonic clock.
    fresh_until_ms: u64,
}

impl Mirror {
    pub(super) fn new() -> Self {
        Self { book: Book::new(Grants::Endless), cover: Cover::default(), heard: HashMap::new() }
    }

    /// Takes in how some meters of an owner stood at `moment`, unless it knows better.
    pub(super) fn hear(&mut self, owner: &Subject, moment: u64, meters: &[SavedMeter], clock_ms: u64) {
        let used = self.book.used(owner).unwrap_or_default();
        self.put(owner, moment, (used.tokens, used.nano_usd), meters.to_vec());
        if let Some(heard) = self.heard.get_mut(owner) {
            heard.fresh_until_ms = clock_ms.saturating_add(FRESH_MS);
        }
    }

    /// Takes in all that is counted of an owner.
    pub(super) fn look(&mut self, owner: &Subject, counted: Counted) {
        self.put(owner, counted.moment, (counted.tokens, counted.nano_usd), counted.meters);
    }

    /// Notes that what was heard of these is about to change.
    pub(super) fn doubt(&mut self, owners: &[Subject]) {
        for owner in owners {
            if let Some(heard) = self.heard.get_mut(owner) {
                heard.fresh_until_ms = 0;
            }
        }
    }

    /// As [`Book::exhausted`], where the caller was heard of just now.
    pub(super) fn exhausted(
        &mut self,
        covering: &[Covering<'_>],
        now_ms: u64,
        clock_ms: u64,
    ) -> Option<Refused> {
        let fresh = |covering: &Covering<'_>| {
            self.heard.get(covering.owner).is_some_and(|heard| clock_ms < heard.fresh_until_ms)
        };
        if !covering.iter().all(fresh) {
            return None;
        }
        self.book.cover_again(&mut self.cover, covering);
        self.book.exhausted(&self.cover, now_ms)
    }

    pub(super) fn refused(
        &mut self,
        covering: &[Covering<'_>],
        amounts: &Amounts,
        now_ms: u64,
    ) -> Option<Refused> {
        self.book.cover_again(&mut self.cover, covering);
        self.book.refused_by_budgets(&self.cover, amounts, now_ms)
    }

    pub(super) fn standings(&mut self, covering: &[Covering<'_>], now_ms: u64) -> Vec<Standing> {
        self.book.cover_again(&mut self.cover, covering);
        self.book.standings(&self.cover, now_ms)
    }

    pub(super) fn used(&self, owner: &Subject) -> Option<Used> {
        self.heard.get(owner)?;
        self.book.used(owner)
    }

    pub(super) fn used_by_all(&self) -> impl Iterator<Item = (&Subject, Used)> {
        self.book.used_by_all().filter(|(owner, _)| self.heard.contains_key(*owner))
    }

    /// Forgets whom the server forgets too.
    pub(super) fn retain(&mut self, keep: &BTreeSet<Subject>, now_ms: u64) {
        self.book.see(keep, now_ms);
        for subject in self.book.leave(keep, REMEMBERED_MS) {
            self.heard.remove(&subject);
        }
        self.book.forget_leaving();
    }

    fn put(&mut self, owner: &Subject, moment: u64, totals: (Usage, u64), meters: Vec<SavedMeter>) {
        let heard = self.heard.entry(owner.clone()).or_default();
        if moment < heard.moment {
            return;
        }
        heard.moment = moment;
        let (tokens, nano_usd) = totals;
        let last_seen_ms = self.book.latest_ms();
        self.book.restore(&SavedOwner { subject: owner.clone(), last_seen_ms, tokens, nano_usd, meters });
    }
}
