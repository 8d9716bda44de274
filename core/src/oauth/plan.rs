//! When a login is due, and how long to wait after an attempt that decided nothing.

use super::{Fingerprint, digest};

/// What share of an access token's life is left when it is renewed, in thousandths, before jitter.
const LEFT_LEAST: i64 = 200;

/// How much more it is at most.
const LEFT_SPREAD: i64 = 100;

/// The life of an access token of which only the end is known: the vendor's usual 8 h.
const LIFETIME_USUAL_MS: i64 = 28_800_000;

/// First wait after an attempt that decided nothing (the official SDK's), and the longest.
const BACKOFF_MS: (i64, i64) = (5_000, 300_000);

/// First wait when the endpoint asks for patience and does not say how much.
const RATE_LIMITED_MS: i64 = 60_000;

/// A token that is refused in its first minute was hardly worth asking for; after two such in a row, the next
/// is asked for only when so much time and more has passed.
const YOUNG_MS: i64 = 60_000;

/// How the renewals of one login are spread in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Plan {
    /// Whether to renew at all, or only to follow what others store.
    pub renews: bool,
    /// How long before its end an access token is renewed at the latest, in milliseconds.
    pub before_ms: i64,
    /// Sets apart logins that were made together.
    pub jitter: Jitter,
    /// Whether a new access token is used although it could not be stored yet.
    pub serves_unstored: bool,
}

/// A share of the spread, the same for the same account at every start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Jitter(u8);

/// Access tokens that the vendor has refused: each is a reason for one post, however many requests say so.
#[derive(Debug, Default)]
pub(super) struct Demands {
    /// The last token of which it was said.
    last: Option<Fingerprint>,
    /// Tokens in a row that were refused while young.
    young: u32,
}

impl Demands {
    /// How long to wait, in milliseconds, before `token` is replaced because the vendor refuses it; nothing when it
    /// is not the `current` one, which is `age_ms` old where that is known, or was said before.
    pub(super) fn take(
        &mut self,
        token: Fingerprint,
        current: Option<Fingerprint>,
        age_ms: Option<i64>,
    ) -> Option<i64> {
        if current != Some(token) || self.last == Some(token) {
            return None;
        }
        self.last = Some(token);
        self.young = if age_ms.is_some_and(|age| age < YOUNG_MS) { self.young.saturating_add(1) } else { 0 };
        let doublings = self.young.checked_sub(2);
        Some(doublings.map_or(0, |doublings| YOUNG_MS.saturating_mul(1 << doublings.min(6))))
    }
}

impl Jitter {
    /// The jitter of an account.
    pub fn of(provider: &str, account: &str) -> Self {
        let [first, ..] = digest(&format!("{provider}/{account}"));
        Self(first)
    }
}

impl Plan {
    /// 5 minutes before its end at the latest.
    pub const BEFORE_DEFAULT_MS: i64 = 300_000;

    /// When to renew an access token that ends at `expires_at_ms` and lives `lifetime_ms`, if that is known:
    /// with 20 to 30 % of its life left, and [`Plan::before_ms`] before its end at the latest; but not in the
    /// first half of its life, so that a short one is not renewed again and again.
    pub fn due_ms(&self, expires_at_ms: i64, lifetime_ms: Option<i64>) -> i64 {
        let lifetime_ms = lifetime_ms.unwrap_or(LIFETIME_USUAL_MS).max(0);
        let left = LEFT_LEAST + LEFT_SPREAD * i64::from(self.jitter.0) / i64::from(u8::MAX);
        let margin_ms = (lifetime_ms.saturating_mul(left) / 1_000).max(self.before_ms).min(lifetime_ms / 2);
        expires_at_ms.saturating_sub(margin_ms)
    }
}

/// How long to wait after the `attempts`-th attempt in a row that decided nothing (from 1).
pub(super) fn backoff_ms(attempts: u32, is_rate_limited: bool) -> i64 {
    let (first, longest) = BACKOFF_MS;
    let first = if is_rate_limited { RATE_LIMITED_MS } else { first };
    first.saturating_mul(1 << attempts.saturating_sub(1).min(16)).min(longest)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR_MS: i64 = 3_600_000;

    fn plan(jitter: u8) -> Plan {
        let (renews, before_ms) = (true, Plan::BEFORE_DEFAULT_MS);
        Plan { renews, before_ms, jitter: Jitter(jitter), serves_unstored: true }
    }

    #[test]
    fn due_with_a_fifth_to_three_tenths_left_but_never_late_nor_twice_at_once() {
        let end = 100 * HOUR_MS;
        for (sentence, jitter, lifetime, left) in [
            ("a fifth of 8 h", 0, Some(8 * HOUR_MS), 8 * HOUR_MS / 5),
            ("three tenths of 8 h", 255, Some(8 * HOUR_MS), 8 * HOUR_MS * 3 / 10),
            ("an unknown life is the usual one", 0, None, 8 * HOUR_MS / 5),
            ("5 min before the end of 20 min", 0, Some(HOUR_MS / 3), 300_000),
            ("half of a life of 10 s", 255, Some(10_000), 5_000),
            ("at the end of no life", 0, Some(0), 0),
        ] {
            assert_eq!(end - plan(jitter).due_ms(end, lifetime), left, "{sentence}");
        }
    }

    #[test]
    fn jitter_of_an_account_is_always_the_same() {
        assert_eq!(Jitter::of("claude", "a"), Jitter::of("claude", "a"));
        assert_ne!(Jitter::of("claude", "a"), Jitter::of("claude", "b"));
    }

    #[test]
    fn waits_double_up_to_five_minutes() {
        let waits: Vec<i64> = [1, 2, 3, 7, 99].map(|n| backoff_ms(n, false) / 1_000).to_vec();
        assert_eq!(waits, [5, 10, 20, 300, 300]);
        assert_eq!([1, 2, 9].map(|n| backoff_ms(n, true) / 1_000), [60, 120, 300]);
    }
}
