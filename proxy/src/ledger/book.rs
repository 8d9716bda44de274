//! The accounts of all subjects in memory: balances, tokens, last use. Knows no file and no lock.

use std::collections::HashMap;

use la_core::budget::{Balance, Held, Refusal};
use la_core::id::Subject;
use la_core::report::SubjectUsage;
use la_core::usage::Usage;

use super::Use;

/// Where a subject's account is. Stays the same while anything of it is open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Slot(u32);

/// Why a reservation was refused.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Refused {
    /// The budget is used up.
    Exhausted { limit: u64, used: Use },
    /// The budget may have something left, but a grant must come first.
    NotGranted,
}

/// All accounts.
#[derive(Debug, Default)]
pub(super) struct Book {
    accounts: Vec<Account>,
    slots: HashMap<Subject, Slot>,
}

#[derive(Debug)]
struct Account {
    subject: Subject,
    balance: Balance,
    tokens: Usage,
    last_used: i64,
}

impl Book {
    pub(super) fn is_exhausted(&self, subject: &Subject, limit: Option<u64>) -> Option<Use> {
        match self.account(subject) {
            Some(account) => account.balance.is_exhausted(limit).then(|| account.usage()),
            None => (limit == Some(0)).then(Use::default),
        }
    }

    pub(super) fn reserve(
        &mut self,
        subject: &Subject,
        limit: Option<u64>,
        now: i64,
    ) -> Result<(Slot, Held), Refused> {
        let slot = self.slot(subject);
        let Some(account) = self.accounts.get_mut(slot.0 as usize) else { return Err(Refused::NotGranted) };
        match account.balance.reserve(1, limit) {
            Ok(held) => {
                account.last_used = account.last_used.max(now);
                Ok((slot, held))
            }
            Err(Refusal::OverLimit { limit }) => Err(Refused::Exhausted { limit, used: account.usage() }),
            Err(Refusal::OverGrant { .. }) => Err(Refused::NotGranted),
        }
    }

    pub(super) fn settle(&mut self, slot: Slot, held: Held, tokens: &Usage) {
        if let Some(account) = self.accounts.get_mut(slot.0 as usize) {
            account.balance.settle(held);
            account.tokens = account.tokens.plus(tokens);
        }
    }

    pub(super) fn release(&mut self, slot: Slot, held: Held) {
        if let Some(account) = self.accounts.get_mut(slot.0 as usize) {
            account.balance.release(held);
        }
    }

    pub(super) fn usage(&self, subject: &Subject) -> Option<Use> {
        self.account(subject).map(Account::usage)
    }

    pub(super) fn usage_all(&self) -> Vec<SubjectUsage> {
        let mut all: Vec<_> = self.accounts.iter().map(Account::report).collect();
        all.sort_by(|a, b| a.subject.cmp(&b.subject));
        all
    }

    fn account(&self, subject: &Subject) -> Option<&Account> {
        self.slots.get(subject).and_then(|slot| self.accounts.get(slot.0 as usize))
    }

    fn slot(&mut self, subject: &Subject) -> Slot {
        if let Some(slot) = self.slots.get(subject) {
            return *slot;
        }
        let slot = Slot(u32::try_from(self.accounts.len()).unwrap_or(u32::MAX));
        let balance = Balance::without_grants();
        self.accounts.push(Account {
            subject: subject.clone(),
            balance,
            tokens: Usage::default(),
            last_used: 0,
        });
        self.slots.insert(subject.clone(), slot);
        slot
    }
}

impl Account {
    fn usage(&self) -> Use {
        Use { settled: self.balance.settled(), open: self.balance.open(), tokens: self.tokens }
    }

    fn report(&self) -> SubjectUsage {
        let Use { settled, open, tokens } = self.usage();
        SubjectUsage { subject: self.subject.clone(), requests: settled, open, tokens }
    }
}
