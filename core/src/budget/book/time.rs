//! Time as a book sees it: it never goes back.

/// A clock that is behind by less is read by another thread, and time only stands still.
const JITTER_MS: u64 = 1_000;

/// Two readings of the clock that was passed in.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Time {
    /// The latest that was ever seen, in Unix milliseconds. Windows go by it: none opens again.
    latest_ms: u64,
    /// Milliseconds that have passed. Rates go by it: they go on draining after a clock was set back.
    steady_ms: u64,
    /// What the clock showed at `steady_ms`.
    shown_ms: u64,
}

impl Time {
    /// Takes in what a clock shows; gives the latest and the steady time.
    pub(super) const fn advance(&mut self, now_ms: u64) -> (u64, u64) {
        if now_ms > self.latest_ms {
            self.latest_ms = now_ms;
        }
        if now_ms >= self.shown_ms {
            self.steady_ms = self.steady_ms.saturating_add(now_ms - self.shown_ms);
            self.shown_ms = now_ms;
        } else if self.shown_ms - now_ms >= JITTER_MS {
            self.shown_ms = now_ms;
        }
        (self.latest_ms, self.steady_ms)
    }

    pub(super) const fn latest_ms(&self) -> u64 {
        self.latest_ms
    }

    pub(super) const fn steady_ms(&self) -> u64 {
        self.steady_ms
    }

    /// What the clock shows once `wait_ms` more have passed.
    pub(super) const fn shown_in(&self, wait_ms: u64) -> u64 {
        self.shown_ms.saturating_add(wait_ms)
    }
}
