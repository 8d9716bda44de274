//! Stage 5: one request is taken out of the caller's budget before anything goes upstream.

use la_core::amount::Amounts;
use la_core::budget::Spent;
use la_core::usage::Usage;

use crate::clock;
use crate::ledger::{Demand, Ledger, Reservation, ReserveError};
use crate::refuse::Refusal;
use crate::surface::Operation;
use crate::usage_log::Facts;

use super::authenticate::Caller;

/// A request that may go upstream. Dropped before it was sent, it costs nothing; dropped after, it is
/// charged.
pub(super) struct Admitted {
    reservation: Option<Reservation>,
    sent: bool,
}

/// Reserves what the operation costs. Counting tokens and listing models cost nothing.
pub(super) async fn request(
    ledger: &Ledger,
    operation: Operation,
    caller: &Caller,
) -> Result<Admitted, Refusal> {
    if operation != Operation::Messages {
        return Ok(Admitted { reservation: None, sent: false });
    }
    let demand = Demand { covering: &caller.token.covering(), amounts: Amounts::of_requests(1) };
    match ledger.reserve(&demand, clock::unix_milliseconds()).await {
        Ok(reservation) => Ok(Admitted { reservation: Some(reservation), sent: false }),
        Err(ReserveError::Refused(why)) => Err(Refusal::Exhausted { used: why.used, limit: why.limit }),
        Err(ReserveError::Unavailable(message)) => {
            tracing::warn!("ledger cannot admit a request: {message}");
            Err(Refusal::Ledger)
        }
    }
}

impl Admitted {
    /// Notes whether the vendor may have received the request.
    pub(super) fn set_sent(&mut self, sent: bool) {
        self.sent = sent;
    }

    /// What the usage log is to say of it when it is charged.
    pub(super) fn describe(&mut self, facts: &Facts<'_>) {
        if let Some(reservation) = &mut self.reservation {
            reservation.describe(facts);
        }
    }

    /// Settles it, to be written down before this thread waits. A second call does nothing.
    pub(super) fn settle(&mut self, tokens: Usage) {
        if let Some(reservation) = self.reservation.take() {
            reservation.settle_soon(&Spent::request(tokens));
        }
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        match self.reservation.take() {
            // What it used is not known: it is charged as it was reserved.
            Some(reservation) if self.sent => drop(reservation),
            Some(reservation) => reservation.release(),
            None => {}
        }
    }
}
