//! The ledger in a Redis or Valkey that several replicas share.
//!
//! Every step is one atomic script over the keys of all owners that cover a request, by the server's clock. A
//! hold lasts as long as its process renews it; one that expires stays charged as reserved and leaves the
//! requests that are open. Settlements wait in memory until the server has acknowledged them. All keys of a
//! proxy share one hash tag, so they are in one slot of a cluster. What a fail-over can lose is in
//! ARCHITECTURE.md.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use la_core::amount::Amounts;
use la_core::budget::{Covering, Refused, SavedBook, Spent, Standing, Used};
use la_core::id::Subject;
use prometheus_client::metrics::counter::Counter;
use tokio::sync::{Notify, oneshot, watch};

use super::state::Ending;
use super::{Demand, ReserveError};
use crate::clock;
use crate::redis_link::{self, ANSWER_WITHIN, Clock, Fault, RedisUrl, Scripts};
use crate::upstream::endpoint::Place;
use crate::usage_log::{self, Keeping};
use charges::LogPlace;
use demand::{Asks, Seat, Told};
pub(super) use held::Held;
use mirror::Mirror;

mod charges;
mod courier;
mod demand;
mod held;
mod mirror;
mod records;

#[cfg(test)]
pub(super) mod tests;

pub use records::{Change, Named, SharedRecords};

/// How long a hold lasts that nobody renews, in milliseconds.
const LEASE_MS: u64 = 60_000;

/// Most settlements that wait for the server. Then nothing is reserved, so none is ever dropped.
const MOST_WAITING: usize = 65_536;

/// A connection that runs the ledger's scripts.
type Link = redis_link::Link<Script>;

/// What can be asked of the server in one step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Script {
    Reserve,
    Finish,
    Renew,
    Look,
    Log,
    Book,
    Records,
}

/// How long everything that is counted may take to be told.
const READ_WITHIN: Duration = Duration::from_secs(10);

/// What happens to requests while the server cannot be asked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum OnUnavailable {
    /// They are refused.
    #[default]
    Deny,
    /// They are admitted and counted nowhere.
    Allow,
}

/// Where the ledger is, and what happens without it.
#[derive(Debug)]
pub struct RedisSettings {
    pub url: RedisUrl,
    pub on_unavailable: OnUnavailable,
}

/// The ledger of one process.
pub(super) struct Remote {
    shared: Arc<Shared>,
    courier: Mutex<Option<JoinHandle<Result<(), String>>>>,
}

/// What requests share with the courier.
struct Shared {
    settings: RedisSettings,
    time: Time,
    /// Names this process in its holds.
    process: String,
    /// What all keys of its proxy begin with, once an owner is known.
    tag: OnceLock<String>,
    last_hold: AtomicU64,
    link: watch::Sender<Option<Arc<Link>>>,
    /// What to connect to: where the URL says, or where a cluster has the keys.
    place: Mutex<Arc<Place>>,
    trouble: Mutex<Option<Trouble>>,
    mirror: Mutex<Mirror>,
    /// What the server's clock shows beyond ours, in milliseconds.
    ahead_ms: AtomicI64,
    /// Holds to be renewed.
    open: Mutex<HashMap<u64, Arc<[Subject]>>>,
    /// Ends that the server does not know of yet, but for those that are on their way.
    waiting: Mutex<VecDeque<Ended>>,
    ends: watch::Sender<Ends>,
    work: Notify,
    /// Somebody waits for what the courier gathers.
    hurry: Notify,
    /// Subjects that a snapshot names.
    keep: Mutex<BTreeSet<Subject>>,
    /// They are others than those that were read last.
    keeps_others: AtomicBool,
    ending: Mutex<Option<Ending>>,
    /// Where the usage log is, if one is kept.
    log: Option<LogPlace>,
    log_trouble: Mutex<Option<String>>,
    /// Who waits for everything that is counted.
    readers: Mutex<Vec<oneshot::Sender<SavedBook>>>,
    /// What is to be done for shared records.
    errands: records::Errands,
    /// Requests that were admitted and counted nowhere.
    unrecorded: Counter,
    said_unrecorded: AtomicBool,
}

/// What holds last by.
#[derive(Debug, Clone, Copy)]
struct Time {
    clock: Clock,
    /// How long one lasts that nobody renews.
    lease_ms: u64,
}

/// Why the server cannot be asked, and since when by the monotonic clock.
#[derive(Debug, Clone)]
struct Trouble {
    why: String,
    since_ms: u64,
}

/// How many holds have ended so far, and of how many of them the server knows.
#[derive(Debug, Clone, Copy, Default)]
struct Ends {
    all: u64,
    acknowledged: u64,
}

/// The end of a hold.
struct Ended {
    hold: u64,
    owners: Arc<[Subject]>,
    /// Absent when it never went upstream.
    spent: Option<Spent>,
    /// What it had reserved.
    reserved: Amounts,
    /// What the usage log is to say of it.
    told: Option<usage_log::Told>,
    at_ms: u64,
}

/// Why a question has no answer.
enum Stop {
    Refused(Refused),
    Unavailable(String),
    /// What cannot be counted exactly is refused, whatever happens without a server.
    Beyond(String),
}

/// Whether a server can keep a ledger now.
///
/// # Errors
/// One sentence that says why not.
pub fn try_out(settings: &RedisSettings) -> Result<(), String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| format!("no runtime: {error}"))?;
    let opening = Link::open(&settings.url, &settings.url.place, Clock::Server);
    runtime.block_on(opening).map(drop).map_err(|fault| fault.to_string())
}

/// Why limits cannot be counted exactly, if they cannot.
pub(super) fn objection(covering: &[Covering<'_>]) -> Option<String> {
    demand::seats(covering).err()
}

impl Scripts for Script {
    const ALL: &'static [Self] =
        &[Self::Reserve, Self::Finish, Self::Renew, Self::Look, Self::Log, Self::Book, Self::Records];

    fn place(self) -> usize {
        self as usize
    }

    fn text(self) -> String {
        let body = match self {
            Self::Reserve => include_str!("redis/scripts/reserve.lua"),
            Self::Finish => include_str!("redis/scripts/finish.lua"),
            Self::Renew => include_str!("redis/scripts/renew.lua"),
            Self::Look => include_str!("redis/scripts/look.lua"),
            Self::Log => include_str!("redis/scripts/log.lua"),
            Self::Book => include_str!("redis/scripts/book.lua"),
            Self::Records => include_str!("redis/scripts/records.lua"),
        };
        [include_str!("redis/scripts/owner.lua"), body].join("\n")
    }
}

impl Remote {
    /// Starts a courier, which connects. Until it has, nothing is reserved.
    ///
    /// # Errors
    /// When the machine has no randomness or no thread to give.
    pub(super) fn open(
        settings: RedisSettings,
        log: (&Path, Keeping),
        unrecorded: Counter,
    ) -> Result<Self, String> {
        Self::open_with(settings, log, unrecorded, Time { clock: Clock::Server, lease_ms: LEASE_MS })
    }

    fn open_with(
        settings: RedisSettings,
        (data_dir, keeping): (&Path, Keeping),
        unrecorded: Counter,
        time: Time,
    ) -> Result<Self, String> {
        let log = match keeping {
            Keeping::On(bounds) => Some(LogPlace { data_dir: data_dir.to_owned(), bounds }),
            Keeping::Off | Keeping::Owed => None,
        };
        let connecting = Trouble { why: "is being connected to".to_owned(), since_ms: clock::monotonic_ms() };
        let place = Mutex::new(Arc::clone(&settings.url.place));
        let shared = Arc::new(Shared {
            settings,
            place,
            time,
            process: redis_link::process_name()?,
            tag: OnceLock::new(),
            last_hold: AtomicU64::new(0),
            link: watch::Sender::new(None),
            trouble: Mutex::new(Some(connecting)),
            mirror: Mutex::new(Mirror::new()),
            ahead_ms: AtomicI64::new(0),
            open: Mutex::default(),
            waiting: Mutex::default(),
            ends: watch::Sender::new(Ends::default()),
            work: Notify::new(),
            hurry: Notify::new(),
            keep: Mutex::default(),
            keeps_others: AtomicBool::new(false),
            ending: Mutex::default(),
            log,
            log_trouble: Mutex::default(),
            readers: Mutex::default(),
            errands: records::Errands::default(),
            unrecorded,
            said_unrecorded: AtomicBool::new(false),
        });
        let courier = courier::start(&shared)?;
        Ok(Self { shared, courier: Mutex::new(Some(courier)) })
    }

    /// Reserves; nothing held where requests are admitted without a server.
    pub(super) async fn reserve(
        &self,
        demand: &Demand<'_>,
        now_ms: u64,
    ) -> Result<Option<Held>, ReserveError> {
        let hold = self.shared.last_hold.fetch_add(1, Ordering::Relaxed).wrapping_add(1);
        let shared = Arc::clone(&self.shared);
        let mut held = Held { shared, hold, owners: Arc::new([]), is_sent: false, has_seat: false };
        let asked = held.ask(Asks::First, demand, now_ms).await;
        match asked {
            Ok(()) => {
                lock(&self.shared.open).insert(hold, Arc::clone(&held.owners));
                Ok(Some(held))
            }
            Err(Stop::Unavailable(_)) if self.shared.settings.on_unavailable == OnUnavailable::Allow => {
                self.shared.admit_unrecorded();
                Ok(None)
            }
            Err(stop) => {
                // What the server has refused it does not hold.
                held.is_sent &= matches!(stop, Stop::Unavailable(_));
                Err(stop.into())
            }
        }
    }

    pub(super) fn exhausted(&self, covering: &[Covering<'_>], now_ms: u64) -> Option<Refused> {
        let server_ms = self.shared.server_ms(now_ms);
        lock(&self.shared.mirror).exhausted(covering, server_ms, clock::monotonic_ms())
    }

    pub(super) fn standings(&self, covering: &[Covering<'_>], now_ms: u64) -> Vec<Standing> {
        let server_ms = self.shared.server_ms(now_ms);
        lock(&self.shared.mirror).standings(covering, server_ms)
    }

    pub(super) fn used(&self, subject: &Subject) -> Option<Used> {
        lock(&self.shared.mirror).used(subject)
    }

    pub(super) fn used_by_all(&self) -> Vec<(Subject, Used)> {
        lock(&self.shared.mirror).used_by_all().map(|(subject, used)| (subject.clone(), used)).collect()
    }

    /// Has the server keep these, and reads how they stand.
    pub(super) fn retain(&self, subjects: &BTreeSet<Subject>, now_ms: u64) {
        subjects.first().into_iter().for_each(|subject| self.shared.learn(subject));
        lock(&self.shared.mirror).retain(subjects, self.shared.server_ms(now_ms));
        let before = std::mem::replace(&mut *lock(&self.shared.keep), subjects.clone());
        self.shared.keeps_others.fetch_or(before != *subjects, Ordering::Relaxed);
    }

    /// Whether requests are judged, or why not although they are admitted.
    pub(super) fn health(&self) -> Result<(), String> {
        if lock(&self.shared.ending).is_some() {
            return Err("it is closed".to_owned());
        }
        let waiting = self.shared.ends.borrow().unknown();
        if waiting >= MOST_WAITING {
            return Err(format!("{waiting} settlements wait for the server"));
        }
        lock(&self.shared.trouble).as_ref().map_or(Ok(()), |trouble| Err(trouble.why.clone()))
    }

    /// Records that are shared by all processes of the proxy.
    pub(super) fn records(&self) -> SharedRecords {
        SharedRecords::new(Arc::clone(&self.shared))
    }

    /// Whether a usage log tells of its requests.
    pub(super) fn is_logged(&self) -> bool {
        self.shared.log.is_some()
    }

    /// What keeps the usage log from being written, or what it lacks.
    pub(super) fn log_trouble(&self) -> Option<String> {
        lock(&self.shared.log_trouble).clone()
    }

    /// Everything that the server counts of this proxy, once the log has the lines of what ended here.
    ///
    /// # Errors
    /// Why the server cannot be asked.
    pub(super) async fn book(&self) -> Result<SavedBook, String> {
        let (reader, read) = oneshot::channel();
        lock(&self.shared.readers).push(reader);
        self.shared.work.notify_one();
        match tokio::time::timeout(READ_WITHIN, read).await {
            Ok(Ok(book)) => Ok(book),
            _ => Err(self
                .shared
                .trouble()
                .unwrap_or_else(|| "the server does not tell what it counts".to_owned())),
        }
    }

    pub(super) fn on_unavailable(&self) -> OnUnavailable {
        self.shared.settings.on_unavailable
    }

    /// Ends the courier; when closed, once everything is acknowledged or the time is over.
    pub(super) fn end(&self, ending: Ending) -> Result<(), String> {
        lock(&self.shared.ending).get_or_insert(ending);
        self.shared.work.notify_one();
        let Some(courier) = lock(&self.courier).take() else { return Ok(()) };
        courier.join().unwrap_or_else(|_| Err("its thread panicked".to_owned()))
    }
}

impl Shared {
    fn name(&self, hold: u64) -> String {
        format!("{}-{hold}", self.process)
    }

    /// Notes whose keys are used here: a process serves one proxy.
    fn learn(&self, owner: &Subject) {
        self.tag.get_or_init(|| demand::tag(owner));
    }

    /// The hash of what usage logs are to tell, once the proxy is known.
    fn log_key(&self) -> Option<String> {
        self.tag.get().map(|tag| format!("{tag}:log"))
    }

    /// The hash of shared records, once the proxy is known.
    fn records_key(&self) -> Option<String> {
        self.tag.get().map(|tag| format!("{tag}:tokens"))
    }

    /// What the hashes of all owners are called.
    fn owners_pattern(&self) -> Option<String> {
        self.tag.get().map(|tag| format!("{tag}{}*", demand::USE))
    }

    fn server_ms(&self, now_ms: u64) -> u64 {
        now_ms.saturating_add_signed(self.ahead_ms.load(Ordering::Relaxed))
    }

    fn trouble(&self) -> Option<String> {
        lock(&self.trouble).as_ref().map(|trouble| trouble.why.clone())
    }

    /// Why the server has not been there for so long, if so.
    fn trouble_for(&self, for_ms: u64) -> Option<String> {
        let for_long = |trouble: &&Trouble| clock::monotonic_ms().saturating_sub(trouble.since_ms) >= for_ms;
        lock(&self.trouble).as_ref().filter(for_long).map(|trouble| trouble.why.clone())
    }

    /// The connection; waits for it while it has only just been lost.
    async fn linked(&self) -> Result<Arc<Link>, Stop> {
        if lock(&self.ending).is_some() {
            return Err(Stop::Unavailable("it is closed".to_owned()));
        }
        let waiting = self.ends.borrow().unknown();
        if waiting >= MOST_WAITING {
            return Err(Stop::Unavailable(format!("{waiting} settlements wait for the server")));
        }
        if let Some(link) = self.link.borrow().clone() {
            return Ok(link);
        }
        if let Some(why) = self.trouble_for(u64::try_from(ANSWER_WITHIN.as_millis()).unwrap_or(u64::MAX)) {
            return Err(Stop::Unavailable(why));
        }
        let mut links = self.link.subscribe();
        let linked = links.wait_for(Option::is_some).await;
        let link = linked.ok().and_then(|link| link.clone());
        link.ok_or_else(|| Stop::Unavailable("it is closed".to_owned()))
    }

    /// Waits until the server knows of the requests that had `ended` here, and has it told at once.
    async fn told_of(&self, ended: Ends) {
        self.hurry.notify_one();
        let known = |ends: &Ends| ends.acknowledged >= ended.all;
        // It fails only with the ledger's end, of which the next question tells.
        let _ = self.ends.subscribe().wait_for(known).await;
    }

    /// Takes a connection out of use that has failed.
    fn fail(&self, link: &Arc<Link>, fault: &Fault) {
        let failed = self.link.send_if_modified(|current| {
            let is_it = current.as_ref().is_some_and(|current| Arc::ptr_eq(current, link));
            is_it && current.take().is_some()
        });
        if failed {
            self.worry(fault);
            self.work.notify_one();
        }
    }

    /// Notes, and says once, why the server cannot be asked.
    fn worry(&self, fault: &Fault) {
        *lock(&self.place) = self.settings.url.place_after(fault);
        let (why, since_ms) = (fault.to_string(), clock::monotonic_ms());
        let mut trouble = lock(&self.trouble);
        let known = trouble.as_ref().filter(|known| known.why == why);
        if known.is_none() {
            tracing::warn!("ledger in {} cannot be used: {why}", self.settings.url);
            let since_ms = trouble.as_ref().map_or(since_ms, |earlier| earlier.since_ms);
            *trouble = Some(Trouble { why, since_ms });
        }
    }

    fn admit_unrecorded(&self) {
        self.unrecorded.inc();
        if !self.said_unrecorded.swap(true, Ordering::Relaxed) {
            let why = self.trouble().unwrap_or_default();
            tracing::warn!("requests are admitted and counted nowhere until the ledger can be used: {why}");
        }
    }

    fn hear(&self, seats: &[Seat<'_>], told: &Told) {
        hear(&mut lock(&self.mirror), seats, told);
    }

    /// Of all limits that refuse, the one that stands longest.
    fn explain(seats: &[Seat<'_>], told: &Told, demand: &Demand<'_>, asks: Asks) -> Stop {
        // As it was then: meanwhile others may have told the mirror that there is room.
        let mut then = Mirror::new();
        hear(&mut then, seats, told);
        let budget = then.refused(demand.covering, &demand.amounts, told.now_ms);
        let pace = told.refused_by_pace(seats, &demand.amounts, asks);
        let refused = budget.into_iter().chain(pace).max_by_key(Refused::stands_until);
        let most = demand::MOST;
        refused.map_or_else(
            || Stop::Beyond(format!("use would go beyond {most}, which is never counted")),
            Stop::Refused,
        )
    }
}

impl Ends {
    fn unknown(&self) -> usize {
        usize::try_from(self.all.saturating_sub(self.acknowledged)).unwrap_or(usize::MAX)
    }
}

impl From<Stop> for ReserveError {
    fn from(stop: Stop) -> Self {
        match stop {
            Stop::Refused(refused) => Self::Refused(Box::new(refused)),
            Stop::Unavailable(why) | Stop::Beyond(why) => Self::Unavailable(why),
        }
    }
}

fn hear(mirror: &mut Mirror, seats: &[Seat<'_>], told: &Told) {
    let clock_ms = clock::monotonic_ms();
    for (seat, owner) in seats.iter().zip(&told.owners) {
        mirror.hear(seat.owner, told.moment, &owner.meters, clock_ms);
    }
}

/// How far `there` is ahead of `here`.
fn difference(there: u64, here: u64) -> i64 {
    i64::try_from(i128::from(there) - i128::from(here)).unwrap_or_default()
}

/// A thread that panicked under a lock leaves values that are each still valid.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
