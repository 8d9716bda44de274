//! The ledger: who has used how much, and whether one more request fits.
//!
//! [`Ledger::reserve`] gives a [`Reservation`] under everything that covers a request at once, and nothing
//! goes upstream without one; each is settled exactly once, a dropped one as a request that came to all that
//! was reserved. The embedded ledger survives `kill -9` without losing anything; the memory one is for tests.
//! One short lock guards all of it, and on the way of a request no sync and no network happens under it.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::path::Path;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use la_core::amount::Amounts;
use la_core::budget::{
    Book, Budget, Cover, Covering, Denied, Grants, HoldId, Reading, Refused, SavedBook, SavedOwner, Settled,
    Spent, Standing, Used,
};
use la_core::id::Subject;
use la_core::report::SubjectUsage;
use la_core::snapshot::LedgerRecord;
use la_core::usage::Usage;
use prometheus_client::metrics::counter::Counter;

use crate::usage_log::{Facts, Keeping, Told, UsageLog};

mod embedded;
mod redis;
mod state;
mod turns;

#[cfg(test)]
mod conformance;

use embedded::KeeperHandle;
pub use embedded::OpenError;
pub use redis::try_out as try_redis;
pub use redis::{Change, Named, SharedRecords};
use redis::{Held, Remote};
pub use redis::{OnUnavailable, RedisSettings};
use state::{Ending, Refusal, Shared, State, Taken};
pub use turns::{Queue, Turn, Turns};

/// When a grant is late enough to say so. One takes about 0.3 ms, under heavy load some 100 ms.
const LATE_AFTER: Duration = Duration::from_secs(1);

/// How much longer a reservation then waits for it.
const LATE_WAIT: Duration = Duration::from_secs(4);

/// How often the front of a queue asks a ledger that other processes share.
const ASK_AGAIN: Duration = Duration::from_millis(250);

/// All budgets of one process, or of all that share a server. Shared by every thread.
pub struct Ledger {
    place: Place,
    turns: Turns,
}

/// Where use is counted.
enum Place {
    /// In this process, on disk or only in memory.
    Here { shared: Arc<Shared>, keeper: Mutex<Option<KeeperHandle>> },
    /// In a Redis.
    There(Remote),
}

/// What a request asks of the ledger.
#[derive(Debug, Clone, Copy)]
pub struct Demand<'a> {
    /// Whose limits cover it: the caller's first, then every pool's.
    pub covering: &'a [Covering<'a>],
    /// What it takes of them at most.
    pub amounts: Amounts,
    /// What a ledger has found out about `covering`, kept by whoever asks under the same limits again.
    pub known: Option<&'a RefCell<Cover>>,
}

/// What a subject has used, and has open now.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Use {
    /// Requests that are settled.
    pub settled: u64,
    /// Requests that are reserved and not settled.
    pub open: u64,
    /// Tokens of the settled requests.
    pub tokens: Usage,
}

/// Why a reservation was refused. Nothing has changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReserveError {
    /// A limit refused it.
    #[error(transparent)]
    Refused(Box<Refused>),
    /// The ledger cannot answer for a budget now.
    #[error("ledger is not available: {0}")]
    Unavailable(String),
}

/// Why a ledger was not closed cleanly. What was open or unspent may be charged at the next start.
#[derive(Debug, thiserror::Error)]
#[error("ledger was not closed cleanly: {0}")]
pub struct CloseError(String);

/// Why a ledger in a Redis was not opened.
#[derive(Debug, thiserror::Error)]
#[error("ledger in a Redis cannot be started: {0}")]
pub struct OpenRedisError(String);

/// One request that may go upstream.
///
/// Dropping it charges all that it reserved: in doubt it happened.
#[must_use = "a reservation that is dropped is charged"]
pub struct Reservation {
    hold: Option<Hold>,
    reserved: Amounts,
    readings: Vec<Reading>,
    told: Option<Told>,
    is_logged: bool,
}

/// What is open, and where.
enum Hold {
    Here(Arc<Shared>, HoldId),
    There(Held),
}

impl<'a> Demand<'a> {
    /// What nobody will ask under the same limits again.
    pub fn once(covering: &'a [Covering<'a>], amounts: Amounts) -> Self {
        Self { covering, amounts, known: None }
    }
}

impl Ledger {
    /// Opens the ledger in `dir`, or makes one, and the usage log beside it. `now` is in Unix seconds.
    ///
    /// # Errors
    /// When another process holds it, or a file cannot be read, is broken, or cannot be written.
    pub fn open_embedded(dir: &Path, log: Keeping, now: i64) -> Result<Arc<Self>, OpenError> {
        let (shared, keeper) = embedded::open(dir, log, milliseconds(now))?;
        Ok(Arc::new(Self::here(shared, Some(keeper))))
    }

    /// The ledger in a Redis, which is connected to from now on, and the usage log of this process in a data folder.
    /// `unrecorded` counts what is admitted without it.
    ///
    /// # Errors
    /// When the machine does not let it start. That the server cannot be used is the ledger's
    /// [`Ledger::health`].
    pub fn open_redis(
        settings: RedisSettings,
        log: (&Path, Keeping),
        unrecorded: Counter,
    ) -> Result<Arc<Self>, OpenRedisError> {
        let remote = Remote::open(settings, log, unrecorded).map_err(OpenRedisError)?;
        Ok(Arc::new(Self { place: Place::There(remote), turns: Turns::default() }))
    }

    /// A ledger that forgets everything with the process.
    pub fn memory() -> Arc<Self> {
        let state = State::new(Book::new(Grants::Endless), None, u64::MAX);
        Arc::new(Self::here(Arc::new(Shared::new(state)), None))
    }

    /// Records that all processes share which count in the same place, where there is one.
    pub fn shared_records(&self) -> Option<SharedRecords> {
        match &self.place {
            Place::Here { .. } => None,
            Place::There(remote) => Some(remote.records()),
        }
    }

    /// How long a request that waits for others to end asks again at the latest: those of other processes end
    /// unheard.
    pub fn asks_again_after(&self) -> Option<Duration> {
        matches!(self.place, Place::There(_)).then_some(ASK_AGAIN)
    }

    /// Where requests wait for others of their owner in this process to end.
    pub fn turns(&self) -> &Turns {
        &self.turns
    }

    fn here(shared: Arc<Shared>, keeper: Option<KeeperHandle>) -> Self {
        let place = Place::Here { shared, keeper: Mutex::new(keeper) };
        Self { place, turns: Turns::default() }
    }

    /// The Hard budget of `covering` that has nothing left, if any. Reserves nothing. Of a ledger in a Redis only
    /// what was told this moment: else nothing, and [`Ledger::reserve`] decides.
    pub fn exhausted(&self, covering: &[Covering<'_>], now_ms: u64) -> Option<Refused> {
        match &self.place {
            Place::Here { shared, .. } => shared.with(|state| state.exhausted(covering, now_ms)),
            Place::There(remote) => remote.exhausted(covering, now_ms),
        }
    }

    /// How every budget of `covering` stands, in its order. Of a ledger in a Redis as it was told last: by the
    /// reservation when there was one, else some seconds ago.
    pub fn standings(&self, covering: &[Covering<'_>], now_ms: u64) -> Vec<Standing> {
        match &self.place {
            Place::Here { shared, .. } => shared.with(|state| state.standings(covering, now_ms)),
            Place::There(remote) => remote.standings(covering, now_ms),
        }
    }

    /// How the budgets of one owner stand, used or not.
    pub fn standings_of(&self, owner: &Subject, budgets: &[Budget], now_ms: u64) -> Vec<Standing> {
        match &self.place {
            Place::Here { shared, .. } => {
                shared.with(|state| state.book.standings_of(owner, budgets, now_ms))
            }
            Place::There(remote) => remote.standings(&[Covering::pool(owner, budgets)], now_ms),
        }
    }

    /// Takes what a request demands out of all that covers it, or nothing. `now_ms` is in Unix milliseconds.
    ///
    /// # Errors
    /// When a limit refuses it, or the ledger cannot answer for it.
    pub async fn reserve(&self, demand: &Demand<'_>, now_ms: u64) -> Result<Reservation, ReserveError> {
        let shared = match &self.place {
            Place::Here { shared, .. } => shared,
            Place::There(remote) => {
                // Boxed, so that no other ledger's requests carry it.
                let hold = Box::pin(remote.reserve(demand, now_ms)).await?.map(Hold::There);
                let standings = remote.standings(demand.covering, now_ms);
                let (reserved, readings) = (demand.amounts, standings.iter().map(Reading::from).collect());
                let is_logged = remote.is_logged() && hold.is_some();
                return Ok(Reservation { hold, reserved, readings, told: None, is_logged });
            }
        };
        let job = |state: &mut State| state.reserve(demand, now_ms);
        let taken = match shared.with(job) {
            // Boxed: it is rare, and the future of every request would carry it.
            Err(Refusal::Denied(Denied::NotGranted)) => Box::pin(when_granted(shared, job)).await?,
            other => other.map_err(ReserveError::from)?,
        };
        let Taken { hold, losses, readings, is_logged } = taken;
        Unwritten { shared, hold: Some(hold), losses }.written_down().await?;
        let hold = Some(Hold::Here(Arc::clone(shared), hold));
        Ok(Reservation { hold, reserved: demand.amounts, readings, told: None, is_logged })
    }

    /// Writes down what [`Reservation::settle_soon`] has left. For whoever is about to wait.
    pub fn write_down(&self) {
        if let Place::Here { shared, .. } = &self.place {
            // A failure is the ledger's trouble from now on, and refuses the next reservation.
            let _ = shared.with(State::write_down);
        }
    }

    /// What `subject` has used, if it was ever used.
    pub fn usage(&self, subject: &Subject) -> Option<Use> {
        let used = match &self.place {
            Place::Here { shared, .. } => shared.lock().book.used(subject)?,
            Place::There(remote) => remote.used(subject)?,
        };
        Some(Use { settled: used.requests, open: used.open, tokens: used.tokens })
    }

    /// What every subject has used, in the order of subjects.
    pub fn usage_all(&self) -> Vec<SubjectUsage> {
        let mut all: Vec<_> = match &self.place {
            Place::Here { shared, .. } => {
                let state = shared.lock();
                state.book.used_by_all().map(|(subject, used)| (subject.clone(), used)).collect()
            }
            Place::There(remote) => remote.used_by_all(),
        };
        all.sort_by(|(a, _), (b, _)| a.cmp(b));
        let told = |(subject, used): (Subject, Used)| SubjectUsage {
            subject,
            requests: used.requests,
            open: used.open,
            tokens: used.tokens,
            nano_usd: used.nano_usd,
            budgets: Vec::new(),
        };
        all.into_iter().map(told).collect()
    }

    /// Everything as it is now, once the usage log has been told of it. Nothing when it is counted elsewhere.
    pub fn saved(&self) -> Option<SavedBook> {
        self.write_down();
        self.here_only().map(|shared| shared.lock().saved())
    }

    /// Everything as it is now, also what is counted elsewhere, once this process's usage log has been told of it.
    ///
    /// # Errors
    /// Why the server that counts cannot be asked.
    pub async fn counted(&self) -> Result<SavedBook, String> {
        match &self.place {
            Place::Here { .. } => Ok(self.saved().unwrap_or_default()),
            Place::There(remote) => remote.book().await,
        }
    }

    /// Raises counts to those of `owners`, for whom nothing is open, and lowers none. The usage log begins anew,
    /// because no line tells of it. `now` is in Unix seconds. Of no effect on a Redis.
    pub fn raise_to(&self, owners: &[SavedOwner], now: i64) {
        if let Some(shared) = self.here_only() {
            shared.with(|state| state.raise_to(owners, milliseconds(now)));
        }
    }

    /// Takes in which ledger is to count for the proxy. Another one refuses everything from now on; this one counts
    /// at least the floors, on disk before anything is reserved. Of no effect where use is in no files of ours.
    pub fn expect(&self, record: Option<&LedgerRecord>, now: i64) {
        if let Some(shared) = self.here_only() {
            shared.with(|state| state.expect(record, milliseconds(now)));
        }
    }

    /// Whether it is not the ledger that is to count, so that what it counts is not the proxy's use.
    pub fn is_stranger(&self) -> bool {
        self.here_only().is_some_and(|shared| shared.lock().stranger.is_some())
    }

    /// What it is called for as long as its files last. Another name is another ledger: its volume was lost.
    pub fn id(&self) -> Option<String> {
        let id = self.here_only()?.lock().id.clone();
        (!id.is_empty()).then_some(id)
    }

    /// What keeps the usage log from being written, or what it lacks.
    pub fn log_trouble(&self) -> Option<String> {
        match &self.place {
            Place::Here { shared, .. } => shared.lock().log.as_ref().and_then(UsageLog::trouble),
            Place::There(remote) => remote.log_trouble(),
        }
    }

    fn here_only(&self) -> Option<&Arc<Shared>> {
        match &self.place {
            Place::Here { shared, .. } => Some(shared),
            Place::There(_) => None,
        }
    }

    /// Says which subjects have a token or are pools now. Others are forgotten 30 days after their last use.
    pub fn retain(&self, subjects: &BTreeSet<Subject>, now: i64) {
        match &self.place {
            Place::Here { shared, .. } => shared.with(|state| state.retain(subjects, milliseconds(now))),
            Place::There(remote) => remote.retain(subjects, milliseconds(now)),
        }
    }

    /// Why limits cannot be kept to here, if they cannot: no request under them is admitted.
    pub fn objection(&self, covering: &[Covering<'_>]) -> Option<String> {
        match &self.place {
            Place::Here { .. } => None,
            Place::There(_) => redis::objection(covering),
        }
    }

    /// Whether requests can be admitted.
    ///
    /// # Errors
    /// One sentence that says why not.
    pub fn health(&self) -> Result<(), String> {
        match &self.place {
            Place::Here { shared, .. } => {
                let state = shared.lock();
                state.standing().and_then(|()| if state.stalled { Err(stalled()) } else { Ok(()) })
            }
            Place::There(remote) if remote.on_unavailable() == OnUnavailable::Allow => Ok(()),
            Place::There(remote) => remote.health(),
        }
    }

    /// Why requests are admitted and counted nowhere now, if they are.
    pub fn unrecorded(&self) -> Option<String> {
        match &self.place {
            Place::There(remote) if remote.on_unavailable() == OnUnavailable::Allow => remote.health().err(),
            _ => None,
        }
    }

    /// Writes everything down and ends the ledger. What is open stays charged. Closing twice is one close.
    ///
    /// # Errors
    /// When it could not be written; nothing that was settled is lost by that.
    pub fn close(&self) -> Result<(), CloseError> {
        self.end(Ending::Closed).map_err(CloseError)
    }

    fn end(&self, ending: Ending) -> Result<(), String> {
        let (shared, keeper) = match &self.place {
            Place::Here { shared, keeper } => (shared, keeper),
            Place::There(remote) => return remote.end(ending),
        };
        shared.with(|state| state.end_with(ending));
        let keeper = keeper.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(keeper) = keeper else { return Ok(()) };
        keeper.join().unwrap_or_else(|_| Err("its thread panicked".to_owned()))
    }
}

/// Does a job that lacks a grant once it is given.
async fn when_granted<T>(
    shared: &Shared,
    job: impl Fn(&mut State) -> Result<T, Refusal>,
) -> Result<T, ReserveError> {
    let mut granted = pin!(async {
        loop {
            // Listens before it looks, so that no grant passes unnoticed in between.
            let mut progress = pin!(shared.progress.notified());
            progress.as_mut().enable();
            match shared.with(&job) {
                Err(Refusal::Denied(Denied::NotGranted)) => progress.await,
                other => return other.map_err(ReserveError::from),
            }
        }
    });
    if let Ok(done) = tokio::time::timeout(LATE_AFTER, granted.as_mut()).await {
        return done;
    }
    shared.with(|state| state.stalled = true);
    let late = tokio::time::timeout(LATE_WAIT, granted).await;
    late.unwrap_or_else(|_| Err(ReserveError::Unavailable(stalled())))
}

impl From<Refusal> for ReserveError {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Denied(Denied::Refused(refused)) => Self::Refused(Box::new(refused)),
            Refusal::Denied(Denied::NotGranted) => Self::Unavailable(stalled()),
            Refusal::Denied(Denied::Stale) => Self::Unavailable("the request has ended".to_owned()),
            Refusal::Unavailable(why) => Self::Unavailable(why),
        }
    }
}

/// Unix seconds as milliseconds; before 1970 is 1970.
fn milliseconds(seconds: i64) -> u64 {
    u64::try_from(seconds).unwrap_or_default().saturating_mul(1_000)
}

fn stalled() -> String {
    format!("the disk has not answered for more than {} s", LATE_AFTER.as_secs())
}

impl Drop for Ledger {
    /// Without a close the files stay as a crash would leave them.
    fn drop(&mut self) {
        let _ = self.end(Ending::Abandoned);
    }
}

/// A reservation that nothing may follow from yet. Dropped, it never was.
struct Unwritten<'a> {
    shared: &'a Arc<Shared>,
    hold: Option<HoldId>,
    losses: u64,
}

impl Unwritten<'_> {
    /// Waits until it is written down. Whatever else is ready on this thread goes first, so that what it
    /// reserves and settles is written with it: one write for many requests.
    async fn written_down(mut self) -> Result<(), ReserveError> {
        tokio::task::yield_now().await;
        self.shared.with(|state| state.write_through(self.losses)).map_err(ReserveError::Unavailable)?;
        self.hold = None;
        Ok(())
    }
}

impl Drop for Unwritten<'_> {
    fn drop(&mut self) {
        if let Some(hold) = self.hold.take() {
            end_here(self.shared, hold, None, None);
        }
    }
}

impl Reservation {
    /// Takes more before an attempt that may be billed besides an earlier one, under all that covers it then.
    ///
    /// # Errors
    /// As [`Ledger::reserve`]; there must be no such attempt.
    pub async fn raise(&mut self, more: &Demand<'_>, now_ms: u64) -> Result<(), ReserveError> {
        match &mut self.hold {
            Some(Hold::Here(shared, hold)) => {
                let (shared, hold) = (&**shared, *hold);
                let job = |state: &mut State| state.raise(hold, more, now_ms);
                match shared.with(job) {
                    Err(Refusal::Denied(Denied::NotGranted)) => Box::pin(when_granted(shared, job)).await?,
                    other => other.map_err(ReserveError::from)?,
                }
            }
            Some(Hold::There(held)) => Box::pin(held.raise(more, now_ms)).await?,
            None => return Ok(()),
        }
        self.reserved = self.reserved.plus(&more.amounts);
        Ok(())
    }

    /// What it holds.
    pub fn reserved(&self) -> &Amounts {
        &self.reserved
    }

    /// How every budget that covers it read with it when it was admitted, in their order. Gives it once.
    pub fn take_readings(&mut self) -> Vec<Reading> {
        std::mem::take(&mut self.readings)
    }

    /// Whether a usage log tells of it, and wants it described.
    pub fn is_logged(&self) -> bool {
        self.is_logged
    }

    /// What the usage log is to say of it when it is charged.
    pub fn describe(&mut self, facts: &Facts<'_>) {
        self.told = Some(facts.told());
    }

    /// Ends it as a request that happened. Says what went beyond the reservation.
    pub fn settle(mut self, spent: &Spent) -> Settled {
        self.end(Some(spent))
    }

    /// Like [`Reservation::settle`], but written down with the next reservation or by
    /// [`Ledger::write_down`], which the caller sees to. A crash before that charges the request as reserved.
    pub fn settle_soon(mut self, spent: &Spent) -> Settled {
        match self.hold.take() {
            Some(Hold::Here(shared, hold)) => {
                shared.with(|state| state.end(hold, Some(spent), self.told.as_ref()))
            }
            there => {
                self.hold = there;
                self.end(Some(spent))
            }
        }
    }

    /// Ends the reservation as a request that never went upstream.
    pub fn release(mut self) {
        self.end(None);
    }

    fn end(&mut self, spent: Option<&Spent>) -> Settled {
        match self.hold.take() {
            Some(Hold::Here(shared, hold)) => end_here(&shared, hold, spent, self.told.as_ref()),
            Some(Hold::There(held)) => {
                held.end(spent, &self.reserved, self.told.take());
                spent.map_or_else(Settled::default, |spent| Settled::beyond(&self.reserved, spent))
            }
            None => Settled::default(),
        }
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        let spent = Spent { amounts: self.reserved, tokens: Usage::default() };
        self.end(Some(&spent));
    }
}

fn end_here(shared: &Shared, hold: HoldId, spent: Option<&Spent>, told: Option<&Told>) -> Settled {
    shared.with(|state| {
        let settled = state.end(hold, spent, told);
        // A failure is the ledger's trouble from now on; memory knows of the end, and writes it later.
        let _ = state.write_down();
        settled
    })
}
