use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use la_core::amount::Amounts;
use la_core::budget::{Covering, Limits, LimitsSpec, Spent};
use la_core::id::Subject;
use la_core::usage::Usage;

use super::{OpenError, Probe, SEGMENT_BYTES, Setup, Step};
use crate::ledger::state::{Shared, State};
use crate::ledger::{Demand, Ledger, Place, Reservation, ReserveError, Use};
use crate::usage_log::{Bounds, Keeping};

mod budgets;
mod crashes;
mod faults;
mod files;
mod log;
mod pace;
mod threads;

const NOW: i64 = 1_800_000_000;
const NOW_MS: u64 = 1_800_000_000_000;
const DAY: i64 = 86_400;

/// Files are as old as the machine's clock says, which is behind these times.
const BOUNDS: Bounds = Bounds { max_bytes: 1 << 30, max_age: Duration::from_secs(10 * 365 * 86_400) };

fn setup(dir: &Path) -> Setup {
    let boot = "boot-1".to_owned();
    let log = Keeping::On(BOUNDS);
    let (fresh_id, probe): (_, Probe) = ("fresh".to_owned(), Arc::new(|_| Ok(())));
    Setup { dir: dir.to_owned(), boot, segment_bytes: SEGMENT_BYTES, log, fresh_id, probe }
}

fn after_power_cut(dir: &Path) -> Setup {
    Setup { boot: "boot-2".to_owned(), ..setup(dir) }
}

fn open(setup: Setup) -> Result<Arc<Ledger>, OpenError> {
    let (shared, keeper) = super::open_with(setup, NOW_MS)?;
    Ok(Arc::new(Ledger::here(shared, Some(keeper))))
}

impl Ledger {
    fn shared(&self) -> &Shared {
        match &self.place {
            Place::Here { shared, .. } => shared,
            Place::There(_) => panic!("not in this process"),
        }
    }
}

fn subject(name: &str) -> Subject {
    Subject::of("proxy", "agents", name).unwrap()
}

fn reserve(ledger: &Ledger, name: &str, limit: Option<u64>) -> Result<Reservation, ReserveError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    runtime.block_on(reserve_request(ledger, &subject(name), limit, NOW))
}

async fn reserve_request(
    ledger: &Ledger,
    subject: &Subject,
    limit: Option<u64>,
    now: i64,
) -> Result<Reservation, ReserveError> {
    let limits = Limits::check(&LimitsSpec::of_requests(limit)).unwrap();
    let covering = [Covering::of(subject, &limits)];
    let demand = Demand::once(&covering, Amounts::of_requests(1));
    ledger.reserve(&demand, u64::try_from(now).unwrap() * 1_000).await
}

fn spend(ledger: &Ledger, name: &str, count: u64) {
    for _ in 0..count {
        reserve(ledger, name, None).unwrap().settle(&spent(1));
    }
}

fn tokens(output_tokens: u64) -> Usage {
    Usage { output_tokens, ..Usage::default() }
}

fn used(ledger: &Ledger, name: &str) -> (u64, u64) {
    ledger.usage(&subject(name)).map_or((0, 0), |used| (used.settled, used.open))
}

fn spent(output_tokens: u64) -> Spent {
    Spent::request(tokens(output_tokens))
}

fn granted(ledger: &Ledger, name: &str) -> u64 {
    let state = ledger.shared().lock();
    state.book.saved().find(|owner| owner.subject == subject(name)).map_or(0, |owner| owner.meters[0].granted)
}

/// What a start makes of files at `now_ms`, without a keeper.
fn recovered(setup: &Setup, now_ms: u64) -> Ledger {
    let (_store, head, kept) = super::store::Store::open(&setup.dir).ok().unwrap();
    let book = super::recover::recover(setup, &head, &kept, now_ms).unwrap().book;
    let shared = Arc::new(Shared::new(State::new(book, None, u64::MAX)));
    Ledger::here(shared, None)
}

/// Whether the keeper is between two jobs.
#[derive(Default)]
struct Pauses {
    /// How often each kind of job began and ended.
    steps: Mutex<[u64; 4]>,
}

impl Pauses {
    fn probe(self: &Arc<Self>) -> Probe {
        let pauses = Arc::clone(self);
        Arc::new(move |step| {
            let mut steps = pauses.steps.lock().unwrap();
            match step {
                Step::Granting => steps[0] += 1,
                Step::GrantWritten => steps[1] += 1,
                Step::SegmentMade => steps[2] += 1,
                Step::Swept => steps[3] += 1,
                Step::Switched | Step::CheckpointWritten => {}
            }
            Ok(())
        })
    }

    /// A copy of the files that no job of the keeper has changed meanwhile.
    fn image(&self, dir: &Path) -> tempfile::TempDir {
        loop {
            let before = *self.steps.lock().unwrap();
            if before[0] == before[1] && before[2] == before[3] {
                let image = image(dir);
                if *self.steps.lock().unwrap() == before {
                    return image;
                }
            }
            std::thread::yield_now();
        }
    }
}

/// `full` rounds when `LA_PROOF` is 1, else a tenth.
#[expect(clippy::disallowed_methods, reason = "a test chooses its number of rounds by the environment")]
fn rounds(full: u64) -> u64 {
    if std::env::var("LA_PROOF").is_ok_and(|proof| proof == "1") { full } else { full.div_ceil(10) }
}

/// A copy of the files as they are now. The checkpoint comes first: the journal only grows meanwhile.
fn image(dir: &Path) -> tempfile::TempDir {
    let image = tempfile::tempdir().unwrap();
    let log = crate::usage_log::folder(dir);
    if log.exists() {
        let copy = crate::usage_log::folder(image.path());
        std::fs::create_dir(&copy).unwrap();
        // Before the journal, of which it never knows more.
        for entry in std::fs::read_dir(log).unwrap().map(Result::unwrap) {
            let _ = std::fs::copy(entry.path(), copy.join(entry.file_name()));
        }
    }
    let mut names: Vec<_> = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort_by_key(|name| !name.to_string_lossy().contains("redb"));
    for name in names {
        // A segment may be swept meanwhile: whoever cares looks at a pause.
        let _ = std::fs::copy(dir.join(&name), image.path().join(&name));
    }
    image
}

fn journals(dir: &Path) -> Vec<std::path::PathBuf> {
    super::segment::numbers(dir)
        .unwrap()
        .into_iter()
        .map(|number| super::segment::path(dir, number))
        .collect()
}
