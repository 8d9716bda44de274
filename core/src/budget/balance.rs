//! What one budget has spent, holds and may spend, without a window and without storage.

/// What a budget has spent, holds, and may spend.
///
/// `granted` is a mark that only rises: how much may ever have been spent by what is written down
/// durably. A ledger raises it ahead of use, so that a reservation itself needs no durable write.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Balance {
    settled: u64,
    open: u64,
    granted: u64,
}

/// An amount taken out of a [`Balance`] and not yet settled.
///
/// It cannot be copied and is consumed by [`Balance::settle`] or [`Balance::release`]: a reservation
/// ends once by construction. One that is dropped stays open, which never lets the budget be exceeded.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "a hold that is dropped stays open for ever"]
pub struct Held {
    amount: u64,
}

/// Why a reservation was refused. The balance is as it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The budget does not have that much left.
    #[error("budget of {limit} is used up")]
    OverLimit {
        /// The limit that was asked about.
        limit: u64,
    },
    /// The budget may have that much left, but it has not been granted yet.
    #[error("grant of {granted} is used up")]
    OverGrant {
        /// How much has been granted in all.
        granted: u64,
    },
}

impl Balance {
    /// A balance as it was written down. A grant below what is taken is raised to it.
    ///
    /// Nobody has the holds of what was open: see [`Balance::after_crash`].
    pub const fn restored(settled: u64, open: u64, granted: u64) -> Self {
        let taken = settled.saturating_add(open);
        let granted = if granted < taken { taken } else { granted };
        Self { settled, open: taken.saturating_sub(settled), granted }
    }

    /// A balance that never waits for a grant.
    pub const fn without_grants() -> Self {
        Self { settled: 0, open: 0, granted: u64::MAX }
    }

    /// What has been spent for good.
    pub const fn settled(&self) -> u64 {
        self.settled
    }

    /// What is reserved now.
    pub const fn open(&self) -> u64 {
        self.open
    }

    /// How much may be spent before the next grant, ever.
    pub const fn granted(&self) -> u64 {
        self.granted
    }

    /// Spent and reserved together; at most `granted`.
    pub const fn taken(&self) -> u64 {
        self.settled.saturating_add(self.open)
    }

    /// What is left of the grant.
    pub const fn unspent_grant(&self) -> u64 {
        self.granted.saturating_sub(self.taken())
    }

    /// Whether nothing is left under `limit`.
    pub const fn is_exhausted(&self, limit: Option<u64>) -> bool {
        matches!(limit, Some(limit) if self.taken() >= limit)
    }

    /// Takes `amount` out of the budget, all or nothing.
    ///
    /// # Errors
    /// Which bound it would cross; the balance is then unchanged. The limit is judged before the grant.
    pub fn reserve(&mut self, amount: u64, limit: Option<u64>) -> Result<Held, Refusal> {
        let wanted = self.taken().checked_add(amount);
        if let Some(limit) = limit
            && wanted.is_none_or(|wanted| wanted > limit)
        {
            return Err(Refusal::OverLimit { limit });
        }
        if wanted.is_none_or(|wanted| wanted > self.granted) {
            return Err(Refusal::OverGrant { granted: self.granted });
        }
        self.open = self.open.saturating_add(amount);
        Ok(Held { amount })
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

    /// Whether it never waits for a grant.
    pub(super) const fn is_endless(&self) -> bool {
        self.granted == u64::MAX
    }

    /// The balance of the next period: nothing is taken, and the grant has died.
    pub(super) const fn next_period(&self) -> Self {
        if self.is_endless() { Self::without_grants() } else { Self { settled: 0, open: 0, granted: 0 } }
    }

    /// Sets a grant after one that has died; never below what is taken.
    pub(super) const fn grant_anew(&mut self, granted: u64) {
        self.granted = if granted < self.taken() { self.taken() } else { granted };
    }

    /// Turns a hold into spending.
    pub fn settle(&mut self, held: Held) {
        let amount = self.close(held);
        self.settled = self.settled.saturating_add(amount);
    }

    /// Gives a hold back, unspent.
    pub fn release(&mut self, held: Held) {
        self.close(held);
    }

    /// Raises the grant to `granted`. It never falls.
    pub const fn grant(&mut self, granted: u64) {
        if granted > self.granted {
            self.granted = granted;
        }
    }

    /// The grant to ask for next, once at most half a `quantum` is left; never above the limit.
    pub fn next_grant(&self, quantum: u64, limit: Option<u64>) -> Option<u64> {
        if self.unspent_grant() > quantum / 2 {
            return None;
        }
        let wanted = self.taken().saturating_add(quantum).min(limit.unwrap_or(u64::MAX));
        (wanted > self.granted).then_some(wanted)
    }

    /// The balance after a crash that lost nothing that was written: what was open is charged.
    #[must_use]
    pub const fn after_crash(self) -> Self {
        Self { settled: self.taken(), open: 0, granted: self.granted }
    }

    /// The balance after a crash that may have lost everything but the grant: all of it is charged.
    #[must_use]
    pub const fn after_power_cut(self) -> Self {
        let settled = if self.granted > self.taken() { self.granted } else { self.taken() };
        Self { settled, open: 0, granted: settled }
    }

    /// Takes a hold out of what is open. A hold of another balance can take no more than is open here.
    fn close(&mut self, held: Held) -> u64 {
        let amount = held.amount.min(self.open);
        self.open = self.open.saturating_sub(amount);
        amount
    }
}

#[cfg(test)]
mod tests;
