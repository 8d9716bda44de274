//! Which account a session is on.
//!
//! A session stays on its account because prompt caches are per account. It leaves for one request when the
//! account fails in passing, and for good when it fails again or has nothing left. Requests of one session run
//! at the same time, so every change names the binding that its request was sent by: of many that saw the same
//! one fail, the first moves the session, and the others find it moved.
//!
//! Replicas that tell each other where sessions are [hear](Bindings::follow) of every one: how they would place a
//! session depends on which accounts rested and how full they were at that moment, so no rule says afterwards where
//! it is. An escape is not told: the session stays.

use std::collections::HashMap;
use std::hash::Hasher as _;

use siphasher::sip128::{Hasher128 as _, SipHasher13};

use super::{AccountId, family};
use crate::id::Subject;

/// Most sessions that are remembered, unless it is set.
pub const DEFAULT_CAPACITY: usize = 65_536;

/// How long a session that is not used is remembered, in seconds, unless it is set: five minutes above the
/// longest life of a prompt cache.
pub const DEFAULT_TTL_SECONDS: u32 = 3_900;

/// How often other replicas hear of a session that is in use, while they would remember it unused.
const NOTICES_WHILE_REMEMBERED: i64 = 4;

/// One session of one token, at one provider, with models of one family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionKey(u128);

impl SessionKey {
    /// The key of a session. Sessions of two tokens never share one, whatever they call themselves.
    pub fn of(token: &Subject, provider: &str, model: &str, session: &str) -> Self {
        let mut hasher = SipHasher13::new();
        for text in [token.as_str(), provider, family(model), session] {
            hasher.write(&(text.len() as u64).to_le_bytes());
            hasher.write(text.as_bytes());
        }
        Self(hasher.finish128().as_u128())
    }

    /// The key with these bits.
    pub fn from_bits(bits: u128) -> Self {
        Self(bits)
    }

    /// Its 128 bits, which look random.
    pub fn bits(self) -> u128 {
        self.0
    }
}

/// That a session is on an account: what a request is sent by, and what it reports about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Binding {
    /// The account.
    pub account: AccountId,
    /// Changes whenever the session moves or escapes.
    version: u64,
}

/// Where a session is, for other replicas.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Notice {
    /// The account that they know it on, if they know it.
    pub from: Option<AccountId>,
    /// The account that it is on.
    pub to: AccountId,
}

/// What was counted since the process began.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Requests that were served by the account of their session.
    pub hits: u64,
    /// Requests that went elsewhere while their session stayed.
    pub escapes: u64,
    /// Sessions that moved.
    pub rebinds: u64,
}

/// Sessions and their accounts: bounded, the least recently used leave first.
#[derive(Debug)]
pub struct Bindings {
    capacity: usize,
    ttl_seconds: i64,
    places: HashMap<SessionKey, u32>,
    entries: Vec<Entry>,
    /// The entry that was used last, and the one whose use is longest ago.
    newest: u32,
    oldest: u32,
    /// The first of the entries that hold nothing.
    vacant: u32,
    versions: u64,
    counts: Counts,
}

#[derive(Debug)]
struct Entry {
    key: SessionKey,
    binding: Binding,
    has_escaped: bool,
    used_at: i64,
    /// What other replicas were told last, or told us, and when.
    told: Option<(AccountId, i64)>,
    /// The neighbours by time of use.
    newer: u32,
    older: u32,
}

/// No entry.
const NONE: u32 = u32::MAX;

impl Default for Bindings {
    fn default() -> Self {
        Self::new(DEFAULT_CAPACITY, DEFAULT_TTL_SECONDS)
    }
}

impl Bindings {
    /// Remembers at most `capacity` sessions (at least 1, at most 2^32 - 2), each until it was not used for
    /// `ttl_seconds`; 0 remembers none.
    pub fn new(capacity: usize, ttl_seconds: u32) -> Self {
        Self {
            capacity: capacity.clamp(1, NONE as usize - 1),
            ttl_seconds: ttl_seconds.into(),
            places: HashMap::new(),
            entries: Vec::new(),
            newest: NONE,
            oldest: NONE,
            vacant: NONE,
            versions: 0,
            counts: Counts::default(),
        }
    }

    /// The account that a session is on.
    pub fn bound(&self, key: SessionKey, now: i64) -> Option<Binding> {
        let entry = self.entry(*self.places.get(&key)?)?;
        self.is_live(entry, now).then_some(entry.binding)
    }

    /// Puts a new session on an account, unless a request at the same time was first. Call it before the
    /// request is sent, so that the next one of the session finds it. Gives where the session is.
    pub fn place(&mut self, key: SessionKey, account: AccountId, now: i64) -> Binding {
        self.expire(now);
        if let Some(at) = self.places.get(&key).copied() {
            self.touch(at, now);
            if let Some(entry) = self.entry(at) {
                return entry.binding;
            }
        }
        let binding = self.next_binding(account);
        self.insert(key, binding, now);
        binding
    }

    /// The account of the session served a request that was sent by `seen`: it stays for longer.
    pub fn keep(&mut self, key: SessionKey, seen: Binding, now: i64) {
        self.expire(now);
        let Some(at) = self.places.get(&key).copied() else { return };
        let Some(entry) = self.entry_mut(at).filter(|entry| entry.binding.account == seen.account) else {
            return;
        };
        // A request from before an escape does not say that the account is well after it.
        if entry.binding == seen {
            entry.has_escaped = false;
        }
        self.touch(at, now);
        self.counts.hits += 1;
    }

    /// The account failed a request, sent by `seen`, in a way that passes, and the request goes to `to`. The
    /// session stays the first time, and moves there the second time in a row. Gives where it is now.
    pub fn escape(&mut self, key: SessionKey, seen: Binding, to: AccountId, now: i64) -> Option<Binding> {
        self.expire(now);
        let at = self.places.get(&key).copied()?;
        let entry = self.entry(at)?;
        let (current, has_escaped) = (entry.binding, entry.has_escaped);
        if current.account != seen.account {
            return Some(current);
        }
        if has_escaped && current == seen {
            return Some(self.move_to(at, to, now));
        }
        self.counts.escapes += 1;
        if current != seen {
            return Some(current);
        }
        let binding = self.next_binding(seen.account);
        self.set(at, binding, true, now);
        Some(binding)
    }

    /// The account that a request was sent by, `seen`, is of no more use to the session, which moves to `to`.
    /// Gives where it is now: elsewhere if another request was first.
    pub fn rebind(&mut self, key: SessionKey, seen: Binding, to: AccountId, now: i64) -> Binding {
        self.expire(now);
        match self.places.get(&key).copied() {
            None => self.place(key, to, now),
            Some(at) => match self.entry(at).map(|entry| entry.binding) {
                Some(current) if current.account != seen.account => current,
                _ => self.move_to(at, to, now),
            },
        }
    }

    /// What other replicas are to hear of a session, if they are: that it is on another account than they know,
    /// or, four times while it is remembered, that it is in use. It counts as told from then on.
    pub fn notice(&mut self, key: SessionKey, now: i64) -> Option<Notice> {
        let due_after = self.ttl_seconds / NOTICES_WHILE_REMEMBERED;
        let at = self.places.get(&key).copied()?;
        let entry = self.entry_mut(at)?;
        let to = entry.binding.account;
        let is_known = |(account, at): (AccountId, i64)| account == to && now.saturating_sub(at) < due_after;
        if entry.told.is_some_and(is_known) {
            return None;
        }
        let from = entry.told.replace((to, now)).map(|(account, _)| account);
        Some(Notice { from, to })
    }

    /// Another replica has the session on this account, and so has this one from now on. Says whether it moved.
    pub fn follow(&mut self, key: SessionKey, account: AccountId, now: i64) -> bool {
        self.expire(now);
        let known = self.places.get(&key).copied();
        let before = known.and_then(|at| self.entry(at)).map(|entry| entry.binding.account);
        match known {
            Some(at) if before == Some(account) => self.touch(at, now),
            Some(at) => {
                let binding = self.next_binding(account);
                self.set(at, binding, false, now);
            }
            None => {
                let binding = self.next_binding(account);
                self.insert(key, binding, now);
            }
        }
        if let Some(entry) = self.places.get(&key).copied().and_then(|at| self.entry_mut(at)) {
            entry.told = Some((account, now));
        }
        before.is_some_and(|before| before != account)
    }

    /// Where every session is, for others who have lost all that they were told.
    pub fn notices(&self, now: i64) -> impl Iterator<Item = (SessionKey, Notice)> {
        let entries = self.places.values().filter_map(|at| self.entry(*at));
        let live = entries.filter(move |entry| self.is_live(entry, now));
        live.map(|entry| (entry.key, Notice { from: None, to: entry.binding.account }))
    }

    /// Forgets every session of an account, and says how many there were.
    pub fn clear_account(&mut self, account: AccountId) -> usize {
        let mut cleared = 0;
        let mut at = self.oldest;
        while let Some(entry) = self.entry(at) {
            let newer = entry.newer;
            if entry.binding.account == account {
                self.remove(at);
                cleared += 1;
            }
            at = newer;
        }
        cleared
    }

    /// What was counted.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// Sessions that are remembered, those included whose time is over and that nothing has removed yet.
    pub fn len(&self) -> usize {
        self.places.len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    fn is_live(&self, entry: &Entry, now: i64) -> bool {
        now.saturating_sub(entry.used_at) < self.ttl_seconds
    }

    /// Removes what was not used for too long: the oldest, as long as it was not.
    fn expire(&mut self, now: i64) {
        while let Some(entry) = self.entry(self.oldest)
            && !self.is_live(entry, now)
        {
            self.remove(self.oldest);
        }
    }

    fn move_to(&mut self, at: u32, to: AccountId, now: i64) -> Binding {
        let binding = self.next_binding(to);
        self.set(at, binding, false, now);
        self.counts.rebinds += 1;
        binding
    }

    fn next_binding(&mut self, account: AccountId) -> Binding {
        self.versions += 1;
        Binding { account, version: self.versions }
    }

    fn set(&mut self, at: u32, binding: Binding, has_escaped: bool, now: i64) {
        if let Some(entry) = self.entry_mut(at) {
            entry.binding = binding;
            entry.has_escaped = has_escaped;
        }
        self.touch(at, now);
    }

    fn insert(&mut self, key: SessionKey, binding: Binding, now: i64) {
        if self.places.len() >= self.capacity {
            self.remove(self.oldest);
        }
        let entry =
            Entry { key, binding, has_escaped: false, used_at: now, told: None, newer: NONE, older: NONE };
        let at = self.vacant;
        let at = match self.entry_mut(at) {
            Some(slot) => {
                let next_vacant = std::mem::replace(slot, entry).newer;
                self.vacant = next_vacant;
                at
            }
            None => {
                self.entries.push(entry);
                (self.entries.len() - 1) as u32
            }
        };
        self.places.insert(key, at);
        self.link(at);
    }

    fn remove(&mut self, at: u32) {
        self.unlink(at);
        let vacant = self.vacant;
        let Some(entry) = self.entry_mut(at) else { return };
        entry.newer = vacant;
        let key = entry.key;
        self.vacant = at;
        self.places.remove(&key);
    }

    /// Makes an entry the newest.
    fn touch(&mut self, at: u32, now: i64) {
        self.unlink(at);
        self.link(at);
        if let Some(entry) = self.entry_mut(at) {
            entry.used_at = now.max(entry.used_at);
        }
    }

    fn link(&mut self, at: u32) {
        let older = std::mem::replace(&mut self.newest, at);
        if let Some(entry) = self.entry_mut(at) {
            (entry.newer, entry.older) = (NONE, older);
        }
        match self.entry_mut(older) {
            Some(entry) => entry.newer = at,
            None => self.oldest = at,
        }
    }

    fn unlink(&mut self, at: u32) {
        let Some((newer, older)) = self.entry(at).map(|entry| (entry.newer, entry.older)) else { return };
        match self.entry_mut(newer) {
            Some(entry) => entry.older = older,
            None => self.newest = older,
        }
        match self.entry_mut(older) {
            Some(entry) => entry.newer = newer,
            None => self.oldest = newer,
        }
    }

    fn entry(&self, at: u32) -> Option<&Entry> {
        self.entries.get(at as usize)
    }

    fn entry_mut(&mut self, at: u32) -> Option<&mut Entry> {
        self.entries.get_mut(at as usize)
    }
}

#[cfg(test)]
mod tests;
