//! What is settled, open and granted in one window, as plain sums.

/// What a meter has taken, and how much may be taken by what is written down durably.
///
/// A ledger raises the grant ahead of use, so that a reservation itself needs no durable write.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Balance {
    settled: u64,
    open: u64,
    granted: u64,
}

impl Balance {
    /// A balance as it was written down. A grant below what is taken is raised to it.
    pub(super) const fn restored(settled: u64, open: u64, granted: u64) -> Self {
        let taken = settled.saturating_add(open);
        let granted = if granted < taken { taken } else { granted };
        Self { settled, open: taken.saturating_sub(settled), granted }
    }

    /// A balance that never waits for a grant.
    pub(super) const fn without_grants() -> Self {
        Self { settled: 0, open: 0, granted: u64::MAX }
    }

    /// Whether it never waits for a grant.
    pub(super) const fn is_endless(&self) -> bool {
        self.granted == u64::MAX
    }

    pub(super) const fn settled(&self) -> u64 {
        self.settled
    }

    pub(super) const fn open(&self) -> u64 {
        self.open
    }

    pub(super) const fn granted(&self) -> u64 {
        self.granted
    }

    /// Settled and open.
    pub(super) const fn taken(&self) -> u64 {
        self.settled.saturating_add(self.open)
    }

    pub(super) const fn unspent_grant(&self) -> u64 {
        self.granted.saturating_sub(self.taken())
    }

    /// Takes an amount that is known to fit.
    pub(super) const fn take(&mut self, amount: u64) {
        self.open = self.open.saturating_add(amount);
    }

    /// Ends what was `held` as `charged`.
    pub(super) const fn end(&mut self, held: u64, charged: u64) {
        self.open = self.open.saturating_sub(held);
        self.settled = self.settled.saturating_add(charged);
    }

    /// Raises the grant. It never falls.
    pub(super) const fn grant(&mut self, granted: u64) {
        if granted > self.granted {
            self.granted = granted;
        }
    }

    /// Sets a grant after one that is void; never below what is taken.
    pub(super) const fn grant_anew(&mut self, granted: u64) {
        self.granted = if granted < self.taken() { self.taken() } else { granted };
    }

    /// The balance of the next period: nothing is taken, and the grant has died.
    pub(super) const fn next_period(&self) -> Self {
        if self.is_endless() { Self::without_grants() } else { Self { settled: 0, open: 0, granted: 0 } }
    }

    /// The balance after a crash that lost nothing that was written: what was open is charged.
    pub(super) const fn after_crash(self) -> Self {
        Self { settled: self.taken(), open: 0, granted: self.granted }
    }

    /// The balance after a crash that may have lost everything but the grant: all of it is charged.
    pub(super) const fn after_power_cut(self) -> Self {
        let settled = if self.granted > self.taken() { self.granted } else { self.taken() };
        Self { settled, open: 0, granted: settled }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn restored_balance_never_has_less_granted_than_taken() {
        assert_eq!(Balance::restored(7, 0, 3).granted(), 7);
        assert_eq!(Balance::restored(7, 2, 3).granted(), 9);
        assert_eq!(Balance::restored(3, 1, 7).unspent_grant(), 3);
        assert_eq!(Balance::restored(u64::MAX, 1, 0).open(), 0);
    }

    #[test]
    fn crash_charges_what_was_open_and_a_power_cut_all_that_was_granted() {
        let balance = Balance::restored(3, 2, 10);
        assert_eq!(balance.after_crash(), Balance::restored(5, 0, 10));
        assert_eq!(balance.after_power_cut(), Balance::restored(10, 0, 10));
        let beyond = Balance { settled: 12, open: 0, granted: 10 };
        assert_eq!(beyond.after_power_cut().settled(), 12, "what was spent beyond the grant stays spent");
    }

    #[test]
    fn grant_never_falls_below_what_is_taken() {
        let mut balance = Balance::restored(3, 2, 10);
        balance.grant(7);
        assert_eq!(balance.granted(), 10);
        balance.grant_anew(7);
        assert_eq!(balance.granted(), 7);
        balance.grant_anew(1);
        assert_eq!(balance.granted(), 5);
    }
}
