use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use la_core::id::Subject;
use la_core::usage::Usage;

use super::{OpenError, Probe, SEGMENT_BYTES, Setup, Step};
use crate::ledger::{Ledger, Reservation, ReserveError, Use};

mod crashes;
mod faults;
mod files;
mod pace;
mod threads;

const NOW: i64 = 1_800_000_000;
const DAY: i64 = 86_400;

fn setup(dir: &Path) -> Setup {
    let boot = "boot-1".to_owned();
    Setup { dir: dir.to_owned(), boot, segment_bytes: SEGMENT_BYTES, probe: Arc::new(|_| Ok(())) }
}

fn after_power_cut(dir: &Path) -> Setup {
    Setup { boot: "boot-2".to_owned(), ..setup(dir) }
}

fn open(setup: Setup) -> Result<Arc<Ledger>, OpenError> {
    let (shared, keeper) = super::open_with(setup, NOW)?;
    Ok(Arc::new(Ledger { shared, keeper: Mutex::new(Some(keeper)) }))
}

fn subject(name: &str) -> Subject {
    Subject::of("proxy", "agents", name).unwrap()
}

fn reserve(ledger: &Ledger, name: &str, limit: Option<u64>) -> Result<Reservation, ReserveError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    runtime.block_on(ledger.reserve(&subject(name), limit, NOW))
}

fn spend(ledger: &Ledger, name: &str, count: u64) {
    for _ in 0..count {
        reserve(ledger, name, None).unwrap().settle(tokens(1));
    }
}

fn tokens(output_tokens: u64) -> Usage {
    Usage { output_tokens, ..Usage::default() }
}

fn used(ledger: &Ledger, name: &str) -> (u64, u64) {
    ledger.usage(&subject(name)).map_or((0, 0), |used| (used.settled, used.open))
}

fn granted(ledger: &Ledger, name: &str) -> u64 {
    let grants = ledger.shared.lock().book.rows(true);
    grants.into_iter().find(|row| row.subject == subject(name)).map_or(0, |row| row.granted)
}

/// A copy of the files as they are now. The checkpoint comes first: the journal only grows meanwhile.
fn image(dir: &Path) -> tempfile::TempDir {
    let image = tempfile::tempdir().unwrap();
    let mut names: Vec<_> = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort_by_key(|name| !name.to_string_lossy().contains("redb"));
    for name in names {
        std::fs::copy(dir.join(&name), image.path().join(&name)).unwrap();
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
