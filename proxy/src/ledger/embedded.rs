//! The ledger on disk: grants in a redb file, every reservation in a journal beside it.
//!
//! A `kill -9` loses nothing: records are in the kernel's hands before a reservation is given. A power cut
//! may lose records, never grants: what was granted and is not known to be unspent is charged. Whatever is
//! in doubt is charged, so no crash lets a budget be exceeded.

use std::fs::{self, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;

use ring::rand::{SecureRandom as _, SystemRandom};

use super::state::{Shared, State};
use crate::usage_log::Keeping;
use keeper::Keeper;
use recover::Recovered;
use segment::{Segment, Unreadable};
use store::{Head, Store, Unusable};

mod earlier;
mod keeper;
mod owed;
pub(super) mod record;
mod recover;
pub(super) mod segment;
mod store;

#[cfg(test)]
mod tests;

/// Held locked for as long as a process uses the directory.
const LOCK_FILE: &str = "ledger.lock";

/// When a segment is replaced: about 130,000 requests, replayed in some 15 ms at a start.
const SEGMENT_BYTES: u64 = 4 * 1024 * 1024;

/// Changes with every boot of the machine; the same in all containers.
const BOOT_ID_FILE: &str = "/proc/sys/kernel/random/boot_id";

/// Why a ledger cannot be opened. Nothing was deleted.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has it.
    #[error("{} is locked by another la-router; stop that one, or use another data directory", .file.display())]
    InUse {
        /// The file that is locked.
        file: PathBuf,
    },
    /// The operating system refused.
    #[error(
        "cannot use {} for the ledger: {source}; the data directory must be writable and have space left",
        .path.display()
    )]
    Io {
        /// What was to be read or written.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// A file does not hold what was written to it.
    #[error(
        "{} is damaged: {what}; restore the data directory from a backup, or move ledger.redb and all \
         journal-*.log out of it to start every budget from zero",
        .file.display()
    )]
    Damaged {
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// A file is of a format that this program does not know.
    #[error(
        "{} has format {found}, which this la-router cannot read; if an earlier one wrote it, start and stop \
         that one first, so that it ends in order; if a later one did, use that one",
        .file.display()
    )]
    Format {
        /// The file.
        file: PathBuf,
        /// The format it has.
        found: u64,
    },
}

/// Moments at which the keeper can be watched or made to fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    /// Grants are about to be written down.
    Granting,
    /// Grants are written down and not yet given.
    GrantWritten,
    /// The next segment exists.
    SegmentMade,
    /// Records go to the next segment.
    Switched,
    /// The checkpoint is written down.
    CheckpointWritten,
    /// Segments that the checkpoint contains are gone.
    Swept,
}

/// Called at each [`Step`]; an error is taken as the failure of the step.
type Probe = Arc<dyn Fn(Step) -> io::Result<()> + Send + Sync>;

/// Where the ledger is and what surrounds it.
#[derive(Clone)]
struct Setup {
    dir: PathBuf,
    /// This boot of the machine; empty when unknown, which then counts as another boot.
    boot: String,
    segment_bytes: u64,
    log: Keeping,
    /// What a ledger is called that is made now.
    fresh_id: String,
    probe: Probe,
}

/// The thread that keeps the files.
pub(super) type KeeperHandle = JoinHandle<Result<(), String>>;

/// Opens the ledger in `dir`, or makes one, and starts its keeper.
pub(super) fn open(dir: &Path, log: Keeping, now_ms: u64) -> Result<(Arc<Shared>, KeeperHandle), OpenError> {
    let boot = fs::read_to_string(BOOT_ID_FILE).unwrap_or_default().trim().to_owned();
    let probe: Probe = Arc::new(|_| Ok(()));
    let (dir, segment_bytes, fresh_id) = (dir.to_owned(), SEGMENT_BYTES, random_id());
    open_with(Setup { dir, boot, segment_bytes, log, fresh_id, probe }, now_ms)
}

fn open_with(setup: Setup, now_ms: u64) -> Result<(Arc<Shared>, KeeperHandle), OpenError> {
    let dir = setup.dir.as_path();
    fs::create_dir_all(dir).map_err(io_at(dir))?;
    let lock = lock(dir)?;
    let (store, recovered) = load(&setup, now_ms)?;
    // Before the checkpoint: until then the journal can say again what the log lacks.
    let log = owed::settled(&setup, &recovered, now_ms)?;
    let Recovered { mut book, id, entries, last_segment, is_durable, .. } = recovered;

    // The next segment is there before the checkpoint that refers to it, and the old segments go after it.
    let segment = next_segment(dir, last_segment, is_durable && store.is_some())?;
    let number = segment.number();
    let id = if id.is_empty() { setup.fresh_id.clone() } else { id };
    let head = Head { segment: number, entries, clean: false, boot: setup.boot.clone(), id: id.clone() };
    let store = match store {
        Some(store) => store.checkpoint(&head, &book.save(false), &[]).map(|()| store),
        None => Store::replace(dir, &head, &book.save(true)),
    };
    let store =
        store.map_err(|error| OpenError::Io { path: store::path(dir), source: io::Error::other(error) })?;
    sweep(dir, number);

    let mut state = State::new(book, Some(segment), setup.segment_bytes);
    (state.log, state.entries, state.id) = (log, entries, id);
    let shared = Arc::new(Shared::new(state));
    let path = setup.dir.clone();
    let keeper = Keeper::new(Arc::clone(&shared), setup, store, lock);
    let thread = std::thread::Builder::new().name("la-ledger".to_owned()).spawn(move || keeper.run());
    Ok((shared, thread.map_err(io_at(&path))?))
}

/// Reads what is there. No store means that there is no ledger yet, or one that must be written anew.
fn load(setup: &Setup, now_ms: u64) -> Result<(Option<Store>, Recovered), OpenError> {
    let dir = setup.dir.as_path();
    let file = store::path(dir);
    match Store::open(dir) {
        Ok((store, head, kept)) => Ok((store, recover::recover(setup, &head, &kept, now_ms)?)),
        Err(Unusable::Io(error)) if error.kind() == io::ErrorKind::NotFound => {
            Ok((None, recover::nothing_there(dir)?))
        }
        Err(Unusable::Io(source)) => Err(OpenError::Io { path: file, source }),
        Err(Unusable::InUse) => Err(OpenError::InUse { file }),
        Err(Unusable::Format(found)) => Err(OpenError::Format { file, found }),
        Err(Unusable::Damaged(what)) => Err(OpenError::Damaged { file, what }),
    }
}

/// The segment to go on with: the last one where it is durable and has nothing in it, as after an end in
/// order; else a new one.
fn next_segment(dir: &Path, last: u64, is_durable: bool) -> Result<Segment, OpenError> {
    if is_durable
        && let Some(segment) = Segment::reopen(dir, last).map_err(io_at(&segment::path(dir, last)))?
    {
        return Ok(segment);
    }
    let number = last.saturating_add(1);
    Segment::create(dir, number).map_err(io_at(&segment::path(dir, number)))
}

/// 16 random bytes in hexadecimal. Should randomness fail, the ledger is nameless until the next start.
fn random_id() -> String {
    let mut bytes = [0; 16];
    match SystemRandom::new().fill(&mut bytes) {
        Ok(()) => bytes.iter().map(|byte| format!("{byte:02x}")).collect(),
        Err(_) => String::new(),
    }
}

fn lock(dir: &Path) -> Result<fs::File, OpenError> {
    let path = dir.join(LOCK_FILE);
    let file = fs::OpenOptions::new().write(true).create(true).truncate(false).open(&path);
    let file = file.map_err(io_at(&path))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(OpenError::InUse { file: path }),
        Err(TryLockError::Error(source)) => Err(OpenError::Io { path, source }),
    }
}

/// Deletes the segments that the checkpoint contains. One that stays is swept next time.
fn sweep(dir: &Path, first_needed: u64) {
    for number in segment::numbers(dir).unwrap_or_default() {
        if number < first_needed {
            let _ = fs::remove_file(segment::path(dir, number));
        }
    }
}

fn io_at(path: &Path) -> impl FnOnce(io::Error) -> OpenError {
    let path = path.to_owned();
    move |source| OpenError::Io { path, source }
}

fn unreadable(file: PathBuf, why: Unreadable) -> OpenError {
    match why {
        Unreadable::Io(source) => OpenError::Io { path: file, source },
        Unreadable::Version(found) => OpenError::Format { file, found: found.into() },
        Unreadable::Damaged(what) => OpenError::Damaged { file, what },
    }
}
