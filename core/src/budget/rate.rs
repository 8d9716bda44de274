//! Rates: how much of something per interval, and how much at once.
//!
//! The generic cell rate algorithm in its leaky-bucket form, in integers: a level that every unit raises by
//! the interval and every millisecond lowers by the limit. Over any stretch of time, what is charged less
//! what is given back is at most the burst plus the limit's share of that time.

/// A rate: `limit` units in `per_ms` milliseconds, `burst` of them at once. All above zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace {
    limit: u64,
    per_ms: u64,
    burst: u64,
}

/// How full a rate is. Lives as long as the process: a restart begins anew.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Level {
    /// Units times the interval.
    level: u64,
    /// When that was so, in milliseconds of a clock that never steps back.
    at_ms: u64,
}

impl Pace {
    /// Nothing when a part is zero, or they are so large that levels would overflow.
    pub fn new(limit: u64, per_ms: u64, burst: u64) -> Option<Self> {
        let sound = limit > 0 && per_ms > 0 && burst > 0 && burst.checked_mul(per_ms).is_some();
        sound.then_some(Self { limit, per_ms, burst })
    }

    /// Units per interval.
    pub const fn limit(&self) -> u64 {
        self.limit
    }

    /// The interval in milliseconds.
    pub const fn per_ms(&self) -> u64 {
        self.per_ms
    }

    /// Most units at once.
    pub const fn burst(&self) -> u64 {
        self.burst
    }

    const fn full(&self) -> u64 {
        self.burst.saturating_mul(self.per_ms)
    }
}

impl Level {
    /// A level that is kept elsewhere: units times the interval, and when it was so.
    pub const fn of(level: u64, at_ms: u64) -> Self {
        Self { level, at_ms }
    }

    /// Units that are still on it, rounded up.
    pub const fn units(&self, pace: &Pace, at_ms: u64) -> u64 {
        self.level_at(pace, at_ms).div_ceil(pace.per_ms)
    }

    /// Whether `units` more fit now.
    pub fn admits(&self, pace: &Pace, units: u64, at_ms: u64) -> bool {
        let more = units.checked_mul(pace.per_ms);
        more.and_then(|more| more.checked_add(self.level_at(pace, at_ms)))
            .is_some_and(|level| level <= pace.full())
    }

    /// How long until `units` more fit; nothing when they never do.
    pub fn wait_ms(&self, pace: &Pace, units: u64, at_ms: u64) -> Option<u64> {
        let more = units.checked_mul(pace.per_ms).filter(|more| *more <= pace.full())?;
        let room = pace.full() - more;
        Some(self.level_at(pace, at_ms).saturating_sub(room).div_ceil(pace.limit))
    }

    /// Puts `units` on it, whether they fit or not.
    pub(super) const fn charge(&mut self, pace: &Pace, units: u64, at_ms: u64) {
        self.level = self.level_at(pace, at_ms).saturating_add(units.saturating_mul(pace.per_ms));
        self.at_ms = at_ms;
    }

    /// Takes `units` off it again.
    pub(super) const fn give_back(&mut self, pace: &Pace, units: u64, at_ms: u64) {
        self.level = self.level_at(pace, at_ms).saturating_sub(units.saturating_mul(pace.per_ms));
        self.at_ms = at_ms;
    }

    const fn level_at(&self, pace: &Pace, at_ms: u64) -> u64 {
        let elapsed_ms = at_ms.saturating_sub(self.at_ms);
        self.level.saturating_sub(elapsed_ms.saturating_mul(pace.limit))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn burst_is_admitted_at_once_and_then_the_limit_per_interval() {
        let pace = Pace::new(60, 60_000, 5).unwrap();
        let mut level = Level::default();
        for _ in 0..5 {
            assert!(level.admits(&pace, 1, 1_000));
            level.charge(&pace, 1, 1_000);
        }
        assert!(!level.admits(&pace, 1, 1_000));
        assert_eq!(level.wait_ms(&pace, 1, 1_000), Some(1_000));
        assert_eq!(level.wait_ms(&pace, 3, 1_000), Some(3_000));
        assert_eq!(level.wait_ms(&pace, 6, 1_000), None, "more than the burst never fits");
        assert!(!level.admits(&pace, 1, 1_999));
        assert!(level.admits(&pace, 1, 2_000));
        assert!(!level.admits(&pace, 2, 2_000));
        assert!(level.admits(&pace, 5, 6_000), "all of it has drained");
        assert!(!level.admits(&pace, 6, 600_000), "and it does not save up");
    }

    #[test]
    fn waiting_as_long_as_said_is_enough_and_not_a_millisecond_too_long() {
        for (limit, per_ms, burst) in
            [(7, 1_000, 3), (1, 86_400_000, 1), (1_000_000, 60_000, 200_000), (3, 7, 1_000)]
        {
            let pace = Pace::new(limit, per_ms, burst).unwrap();
            let mut level = Level::default();
            level.charge(&pace, burst, 0);
            for units in [1, burst / 2, burst] {
                let wait_ms = level.wait_ms(&pace, units, 0).unwrap();
                assert!(level.admits(&pace, units, wait_ms), "{pace:?}");
                assert!(wait_ms == 0 || !level.admits(&pace, units, wait_ms - 1), "{pace:?}");
            }
        }
    }

    #[test]
    fn what_is_given_back_can_be_used_again() {
        let pace = Pace::new(100, 1_000, 100).unwrap();
        let mut level = Level::default();
        level.charge(&pace, 100, 0);
        level.give_back(&pace, 60, 0);
        assert_eq!(level.units(&pace, 0), 40);
        assert!(level.admits(&pace, 60, 0) && !level.admits(&pace, 61, 0));
        level.give_back(&pace, u64::MAX, 0);
        assert_eq!(level.units(&pace, 0), 0, "never below nothing");
    }

    #[test]
    fn rate_of_nothing_or_beyond_counting_is_none() {
        for (limit, per_ms, burst) in [(0, 1, 1), (1, 0, 1), (1, 1, 0), (1, u64::MAX, 2)] {
            assert_eq!(Pace::new(limit, per_ms, burst), None);
        }
    }
}
