//! How many requests an account serves now, and how many it may.

use std::sync::atomic::{AtomicU64, Ordering};

/// What this process holds where it counts alone.
const ALONE: u32 = u32::MAX;

/// Requests in flight, and, where replicas count together, how many places the server knows this process to hold:
/// never more are in flight than it holds, but for those that were when it began to count together.
pub(super) struct Places(AtomicU64);

/// What came of taking a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Taken {
    Yes,
    /// The process holds no more; the server may have some.
    Ask,
    No,
}

/// Places at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Count {
    /// Those that are in use.
    pub(crate) used: u32,
    /// Those that this process holds; nothing where it counts alone.
    pub(crate) held: Option<u32>,
}

impl Default for Places {
    fn default() -> Self {
        Self(AtomicU64::new(joined(ALONE, 0)))
    }
}

impl Places {
    /// Takes one of at most `most`.
    pub(super) fn take(&self, most: Option<u32>) -> Taken {
        let most = most.unwrap_or(u32::MAX);
        let next = |word| {
            let (held, used) = parts(word);
            // Who has no limit holds nothing at the server either.
            let limit = if most == u32::MAX { most } else { most.min(held) };
            (used < limit).then(|| joined(held, used.saturating_add(1)))
        };
        match self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next) {
            Ok(_) => Taken::Yes,
            Err(word) if parts(word).1 < most => Taken::Ask,
            Err(_) => Taken::No,
        }
    }

    /// Gives one back. Says whether the server may be told of it.
    pub(super) fn give_back(&self) -> bool {
        let before = self.change(|held, used| (held, used.saturating_sub(1)));
        before.held.is_some()
    }

    pub(super) fn count(&self) -> Count {
        count(self.0.load(Ordering::Relaxed))
    }

    /// Holds no more than `wanted` from now on, but as many as are in use. Gives how many that are.
    pub(super) fn lower(&self, wanted: u32) -> u32 {
        let lowered = |held: u32, used: u32| if held == ALONE { used } else { held.min(wanted).max(used) };
        let Count { used, held } = self.change(|held, used| match held {
            ALONE => (ALONE, used),
            held => (lowered(held, used), used),
        });
        lowered(held.unwrap_or(ALONE), used)
    }

    /// The server knows this process to hold so many; nothing, for a process that counts alone.
    pub(super) fn hold(&self, held: Option<u32>) {
        self.change(|_, used| (held.map_or(ALONE, |held| held.min(ALONE - 1)), used));
    }

    fn change(&self, change: impl Fn(u32, u32) -> (u32, u32)) -> Count {
        let next = |word| {
            let (held, used) = parts(word);
            let (held, used) = change(held, used);
            Some(joined(held, used))
        };
        // It always has a next one.
        let before = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next);
        count(before.unwrap_or_else(|word| word))
    }
}

fn count(word: u64) -> Count {
    let (held, used) = parts(word);
    Count { used, held: (held != ALONE).then_some(held) }
}

fn joined(held: u32, used: u32) -> u64 {
    u64::from(held) << 32 | u64::from(used)
}

fn parts(word: u64) -> (u32, u32) {
    ((word >> 32) as u32, word as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn process_that_counts_alone_takes_as_many_as_it_may() {
        let places = Places::default();
        assert_eq!([(); 3].map(|()| places.take(Some(2))), [Taken::Yes, Taken::Yes, Taken::No]);
        assert_eq!(places.count(), Count { used: 2, held: None });
        assert!(!places.give_back(), "nobody is to be told");
        assert_eq!(places.take(Some(2)), Taken::Yes);
    }

    #[test]
    fn process_that_counts_with_others_asks_for_what_it_does_not_hold() {
        let places = Places::default();
        places.hold(Some(1));
        assert_eq!([(); 2].map(|()| places.take(Some(3))), [Taken::Yes, Taken::Ask]);
        places.hold(Some(2));
        assert_eq!(places.take(Some(3)), Taken::Yes);
        assert_eq!(places.take(Some(2)), Taken::No, "more than it may, it need not ask for");
        assert_eq!(places.take(None), Taken::Yes, "no limit is no limit");
    }

    #[test]
    fn place_that_is_not_used_is_not_used_once_it_is_given_up() {
        let places = Places::default();
        places.hold(Some(3));
        assert_eq!(places.take(Some(3)), Taken::Yes);
        assert_eq!(places.lower(2), 2);
        assert_eq!(places.lower(0), 1, "what is in use is held");
        assert_eq!(places.take(Some(3)), Taken::Ask);
        assert!(places.give_back());
        places.hold(None);
        assert_eq!((places.lower(5), places.count().held), (0, None), "alone it holds what it uses");
    }
}
