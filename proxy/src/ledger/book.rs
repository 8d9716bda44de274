//! The accounts of all subjects in memory: balances, tokens, when last seen. Knows no file and no lock.

use std::collections::{BTreeSet, HashMap};

use la_core::budget::{Balance, Held, Refusal};
use la_core::id::Subject;
use la_core::report::SubjectUsage;
use la_core::usage::Usage;

use super::Use;

/// How long use outlives the token and the last request of a subject: 30 days, in seconds.
pub(super) const REMEMBERED_SECONDS: i64 = 30 * 86_400;

/// Fewest and most requests granted at once. A grant costs one durable commit (about 0.3 ms), so 4,096
/// cover more than any one token can send meanwhile; 64 is what a power cut may cost a quiet token.
const QUANTUM: std::ops::RangeInclusive<u64> = 64..=4096;

/// A grant used up within this many seconds doubles the next one.
const FAST_SECONDS: i64 = 1;

/// A grant that lasted this many seconds halves the next one.
const SLOW_SECONDS: i64 = 60;

/// Where a subject's account is. Stays the same while anything of it is open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Slot(pub(super) u32);

/// Why a reservation was refused.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Refused {
    /// The budget is used up.
    Exhausted { limit: u64, used: Use },
    /// The budget may have something left, but the next grant must come first.
    NotGranted(Slot),
}

/// Whether what is spent must have been granted durably before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Grants {
    Needed,
    Endless,
}

/// All accounts.
#[derive(Debug)]
pub(super) struct Book {
    grants: Grants,
    accounts: Vec<Option<Account>>,
    free: Vec<Slot>,
    slots: HashMap<Subject, Slot>,
}

/// One subject's account.
#[derive(Debug)]
pub(super) struct Account {
    pub(super) subject: Subject,
    pub(super) balance: Balance,
    tokens: Usage,
    /// When it was last used or had a token, in Unix seconds.
    last_seen: i64,
    /// The limit that was asked about last; bounds the next grant.
    limit: Option<u64>,
    quantum: u64,
    granted_at: i64,
    /// The journal segment that names this account's slot; 0 is none.
    pub(super) named_in: u64,
    flags: Flags,
}

#[derive(Debug, Default)]
struct Flags {
    /// Differs from what the last checkpoint wrote.
    changed: bool,
    /// Waits in the queue for a grant.
    wanting: bool,
    /// Is being forgotten; nothing may be reserved until that is decided.
    leaving: bool,
}

/// An account as it is written down.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Row {
    pub(super) subject: Subject,
    pub(super) settled: u64,
    pub(super) open: u64,
    pub(super) granted: u64,
    pub(super) tokens: Usage,
    pub(super) last_seen: i64,
}

/// A grant to be written down, then given.
#[derive(Debug)]
pub(super) struct Grant {
    pub(super) slot: Slot,
    pub(super) subject: Subject,
    pub(super) granted: u64,
}

impl Book {
    pub(super) fn new(grants: Grants) -> Self {
        Self { grants, accounts: Vec::new(), free: Vec::new(), slots: HashMap::new() }
    }

    /// Takes over an account as it was written down, with nothing open.
    pub(super) fn restore(&mut self, row: Row) {
        let slot = self.slot(&row.subject);
        if let Some(account) = self.account_mut(slot) {
            account.balance = Balance::restored(row.settled, 0, row.granted);
            account.tokens = row.tokens;
            account.last_seen = row.last_seen;
        }
    }

    pub(super) fn is_exhausted(&self, subject: &Subject, limit: Option<u64>) -> Option<Use> {
        match self.find(subject) {
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
        if limit == Some(0) && !self.slots.contains_key(subject) {
            return Err(Refused::Exhausted { limit: 0, used: Use::default() });
        }
        let slot = self.slot(subject);
        let Some(account) = self.account_mut(slot) else { return Err(Refused::NotGranted(slot)) };
        if account.flags.leaving {
            return Err(Refused::NotGranted(slot));
        }
        account.limit = limit;
        match account.balance.reserve(1, limit) {
            Ok(held) => {
                account.last_seen = account.last_seen.max(now);
                account.flags.changed = true;
                Ok((slot, held))
            }
            Err(Refusal::OverLimit { limit }) => Err(Refused::Exhausted { limit, used: account.usage() }),
            Err(Refusal::OverGrant { .. }) => Err(Refused::NotGranted(slot)),
        }
    }

    pub(super) fn settle(&mut self, slot: Slot, held: Held, tokens: &Usage) {
        if let Some(account) = self.account_mut(slot) {
            account.balance.settle(held);
            account.tokens = account.tokens.plus(tokens);
            account.flags.changed = true;
        }
    }

    pub(super) fn release(&mut self, slot: Slot, held: Held) {
        if let Some(account) = self.account_mut(slot) {
            account.balance.release(held);
            account.flags.changed = true;
        }
    }

    pub(super) fn account_mut(&mut self, slot: Slot) -> Option<&mut Account> {
        self.accounts.get_mut(slot.0 as usize).and_then(Option::as_mut)
    }

    pub(super) fn usage(&self, subject: &Subject) -> Option<Use> {
        self.find(subject).map(Account::usage)
    }

    pub(super) fn usage_all(&self) -> Vec<SubjectUsage> {
        let mut all: Vec<_> = self.accounts.iter().flatten().map(Account::report).collect();
        all.sort_by(|a, b| a.subject.cmp(&b.subject));
        all
    }

    /// Whether the account has just come to need its next grant and is not in the queue; puts it there.
    pub(super) fn starts_wanting(&mut self, slot: Slot) -> bool {
        let Some(account) = self.account_mut(slot) else { return false };
        if account.flags.wanting || account.balance.next_grant(account.quantum, account.limit).is_none() {
            return false;
        }
        account.flags.wanting = true;
        true
    }

    /// What the accounts in `queue` should be granted. They want nothing more until that is decided.
    pub(super) fn next_grants(&mut self, queue: &[Slot], now: i64) -> Vec<Grant> {
        queue.iter().filter_map(|slot| self.account_mut(*slot)?.next_grant(*slot, now)).collect()
    }

    /// Gives grants that have been written down.
    pub(super) fn grant(&mut self, grants: &[Grant]) {
        for grant in grants {
            if let Some(account) = self.account_mut(grant.slot) {
                account.balance.grant(grant.granted);
                account.flags.wanting = false;
            }
        }
    }

    /// Lets the accounts want grants again that could not be written down.
    pub(super) fn deny(&mut self, grants: &[Grant]) {
        for grant in grants {
            if let Some(account) = self.account_mut(grant.slot) {
                account.flags.wanting = false;
            }
        }
    }

    /// Notes that these subjects have, or had until now, a token.
    pub(super) fn see(&mut self, subjects: &BTreeSet<Subject>, now: i64) {
        for subject in subjects {
            let slot = self.slots.get(subject).copied();
            if let Some(account) = slot.and_then(|slot| self.account_mut(slot)) {
                account.last_seen = account.last_seen.max(now);
                account.flags.changed = true;
            }
        }
    }

    /// Accounts that differ from what was written last, or all; from now on they count as written.
    pub(super) fn rows(&mut self, all: bool) -> Vec<Row> {
        let due = |account: &&mut Account| !account.flags.leaving && (all || account.flags.changed);
        self.accounts.iter_mut().flatten().filter(due).map(Account::written).collect()
    }

    /// Marks the accounts that may be forgotten, so that nothing of them can be reserved, and names them.
    pub(super) fn leave(&mut self, keep: &BTreeSet<Subject>, now: i64) -> Vec<Subject> {
        let leaving = self.accounts.iter_mut().flatten().filter(|account| account.may_leave(keep, now));
        leaving
            .map(|account| {
                account.flags.leaving = true;
                account.subject.clone()
            })
            .collect()
    }

    /// Whether any account may be forgotten.
    pub(super) fn may_leave(&self, keep: &BTreeSet<Subject>, now: i64) -> bool {
        self.accounts.iter().flatten().any(|account| account.may_leave(keep, now))
    }

    /// Forgets the accounts that were marked.
    pub(super) fn forget_leaving(&mut self) {
        for (at, place) in self.accounts.iter_mut().enumerate() {
            if let Some(account) = place.take_if(|account| account.flags.leaving) {
                self.slots.remove(&account.subject);
                self.free.extend(u32::try_from(at).ok().map(Slot));
            }
        }
    }

    /// Keeps the accounts that were marked.
    pub(super) fn keep_leaving(&mut self) {
        for account in self.accounts.iter_mut().flatten() {
            account.flags.leaving = false;
        }
    }

    fn find(&self, subject: &Subject) -> Option<&Account> {
        self.slots.get(subject).and_then(|slot| self.accounts.get(slot.0 as usize)?.as_ref())
    }

    /// The subject's slot; a new account when it has none.
    fn slot(&mut self, subject: &Subject) -> Slot {
        if let Some(slot) = self.slots.get(subject) {
            return *slot;
        }
        let account = Some(Account::new(subject.clone(), self.grants));
        let reused = self.free.pop().and_then(|slot| Some((slot, self.accounts.get_mut(slot.0 as usize)?)));
        let slot = if let Some((slot, place)) = reused {
            *place = account;
            slot
        } else {
            self.accounts.push(account);
            Slot(u32::try_from(self.accounts.len() - 1).unwrap_or(u32::MAX))
        };
        self.slots.insert(subject.clone(), slot);
        slot
    }
}

impl Account {
    fn new(subject: Subject, grants: Grants) -> Self {
        let balance = match grants {
            Grants::Needed => Balance::default(),
            Grants::Endless => Balance::without_grants(),
        };
        Self {
            subject,
            balance,
            tokens: Usage::default(),
            last_seen: 0,
            limit: None,
            quantum: *QUANTUM.start(),
            granted_at: 0,
            named_in: 0,
            flags: Flags::default(),
        }
    }

    fn usage(&self) -> Use {
        Use { settled: self.balance.settled(), open: self.balance.open(), tokens: self.tokens }
    }

    fn report(&self) -> SubjectUsage {
        let Use { settled, open, tokens } = self.usage();
        SubjectUsage { subject: self.subject.clone(), requests: settled, open, tokens }
    }

    fn next_grant(&mut self, slot: Slot, now: i64) -> Option<Grant> {
        let lasted = now.saturating_sub(self.granted_at);
        if lasted <= FAST_SECONDS {
            self.quantum = self.quantum.saturating_mul(2).min(*QUANTUM.end());
        } else if lasted >= SLOW_SECONDS {
            self.quantum = (self.quantum / 2).max(*QUANTUM.start());
        }
        self.granted_at = now;
        let granted = self.balance.next_grant(self.quantum, self.limit);
        self.flags.wanting = granted.is_some();
        let granted = granted?;
        Some(Grant { slot, subject: self.subject.clone(), granted })
    }

    fn written(&mut self) -> Row {
        self.flags.changed = false;
        Row {
            subject: self.subject.clone(),
            settled: self.balance.settled(),
            open: self.balance.open(),
            granted: self.balance.granted(),
            tokens: self.tokens,
            last_seen: self.last_seen,
        }
    }

    fn may_leave(&self, keep: &BTreeSet<Subject>, now: i64) -> bool {
        let forgettable = now.saturating_sub(self.last_seen) >= REMEMBERED_SECONDS;
        forgettable && self.balance.open() == 0 && !keep.contains(&self.subject)
    }
}
