//! A request that is held at the server: asked for, raised, and ended once.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use la_core::amount::Amounts;
use la_core::budget::{Covering, Spent};
use la_core::id::Subject;

use super::demand::{self, Ask, Asks, Outcome, Seat, Told};
use super::{Demand, Ended, ReserveError, Script, Shared, Stop, difference, lock};
use crate::clock;
use crate::redis_link::{ANSWER_WITHIN, Fault};
use crate::usage_log;

/// A request that may be held at the server. Dropped, it never went upstream.
pub(in crate::ledger) struct Held {
    pub(super) shared: Arc<Shared>,
    pub(super) hold: u64,
    pub(super) owners: Arc<[Subject]>,
    pub(super) is_sent: bool,
    /// Others may wait for its place among the requests that are open.
    pub(super) has_seat: bool,
}

impl Held {
    /// Takes more.
    pub(in crate::ledger) async fn raise(
        &mut self,
        more: &Demand<'_>,
        now_ms: u64,
    ) -> Result<(), ReserveError> {
        self.ask(Asks::Again, more, now_ms).await.map_err(ReserveError::from)
    }

    /// Ends it, as `spent` or as a request that never went upstream.
    /// `reserved` is what it held, and `told` what the usage log is to say of it.
    pub(in crate::ledger) fn end(
        mut self,
        spent: Option<&Spent>,
        reserved: &Amounts,
        told: Option<usage_log::Told>,
    ) {
        self.finish(spent, reserved, told);
    }

    fn finish(&mut self, spent: Option<&Spent>, reserved: &Amounts, told: Option<usage_log::Told>) {
        if !std::mem::take(&mut self.is_sent) {
            return;
        }
        lock(&self.shared.open).remove(&self.hold);
        lock(&self.shared.mirror).doubt(&self.owners);
        let (owners, spent, reserved) = (Arc::clone(&self.owners), spent.copied(), *reserved);
        let ended = Ended { hold: self.hold, owners, spent, reserved, told, at_ms: clock::monotonic_ms() };
        self.shared.ends.send_modify(|ends| ends.all += 1);
        lock(&self.shared.waiting).push_back(ended);
        self.shared.work.notify_one();
        if self.has_seat {
            self.shared.hurry.notify_one();
        }
    }

    /// Notes whose it may be from now on, before anything is asked. The caller stays the first.
    fn belong_to(&mut self, covering: &[Covering<'_>]) {
        covering.first().into_iter().for_each(|covering| self.shared.learn(covering.owner));
        let is_new = |covering: &&Covering<'_>| !self.owners.contains(covering.owner);
        let new: Vec<_> = covering.iter().filter(is_new).map(|covering| covering.owner.clone()).collect();
        if new.is_empty() {
            return;
        }
        self.owners = self.owners.iter().cloned().chain(new).collect();
        if let Some(owners) = lock(&self.shared.open).get_mut(&self.hold) {
            *owners = Arc::clone(&self.owners);
        }
    }

    pub(super) async fn ask(&mut self, asks: Asks, demand: &Demand<'_>, now_ms: u64) -> Result<(), Stop> {
        let seats = demand::seats(demand.covering).map_err(Stop::Beyond)?;
        self.belong_to(demand.covering);
        self.has_seat |= demand.covering.iter().any(|covering| covering.concurrency.is_some());
        let shared = Arc::clone(&self.shared);
        let asking = async {
            let ended = *shared.ends.borrow();
            let mut told = self.answer(asks, &seats, demand, now_ms).await?;
            if told.outcome == Outcome::Refused && ended.unknown() > 0 {
                // What refused may have ended here, and the server not have known.
                shared.told_of(ended).await;
                told = self.answer(asks, &seats, demand, now_ms).await?;
            }
            shared.ahead_ms.store(difference(told.now_ms, now_ms), Ordering::Relaxed);
            shared.hear(&seats, &told);
            match told.outcome {
                Outcome::Admitted => Ok(()),
                Outcome::Refused => Err(Shared::explain(&seats, &told, demand, asks)),
                Outcome::Unknown | Outcome::Ended => {
                    Err(Stop::Unavailable("the request has expired at the server".to_owned()))
                }
            }
        };
        match tokio::time::timeout(ANSWER_WITHIN, asking).await {
            Ok(asked) => asked,
            Err(_) => {
                let late = || format!("the server has not answered for {} s", ANSWER_WITHIN.as_secs());
                Err(Stop::Unavailable(shared.trouble().unwrap_or_else(late)))
            }
        }
    }

    /// Asks until there is an answer. A first question that was lost is asked again: its hold is taken once.
    async fn answer(
        &mut self,
        asks: Asks,
        seats: &[Seat<'_>],
        demand: &Demand<'_>,
        now_ms: u64,
    ) -> Result<Told, Stop> {
        let keys: Vec<_> = demand.covering.iter().flat_map(|covering| demand::keys(covering.owner)).collect();
        let name = self.shared.name(self.hold);
        let mut server_ms = self.shared.server_ms(now_ms);
        loop {
            let link = self.shared.linked().await?;
            let ask =
                Ask { hold: &name, asks, lease_ms: self.shared.time.lease_ms, amounts: &demand.amounts };
            let arguments = demand::arguments(&ask, seats, server_ms);
            self.is_sent = true;
            match link.run(Script::Reserve, &keys, &arguments).await {
                Ok(value) => match Told::read(&value, seats) {
                    Some(told) if told.outcome == Outcome::Unknown => server_ms = told.now_ms,
                    Some(told) => return Ok(told),
                    None => return Err(Stop::Unavailable("the server's answer cannot be read".to_owned())),
                },
                Err(fault) => {
                    self.shared.fail(&link, &fault);
                    if asks == Asks::Again || matches!(fault, Fault::Refused(_)) {
                        return Err(Stop::Unavailable(fault.to_string()));
                    }
                }
            }
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.finish(None, &Amounts::default(), None);
    }
}
