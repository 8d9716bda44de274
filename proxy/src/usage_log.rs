//! The usage log: one JSON line for every request that was charged, in `usage/usage-<n>.jsonl` of the data
//! folder.
//!
//! A line has the number of its charge in the ledger, and is handed to the kernel after the ledger's own
//! record and in the same turn, never synced; what a `kill -9` keeps from it is written at the next start. A
//! log that cannot be written refuses nothing: its trouble is told, and the numbers show which lines it
//! lacks. Beside each file stands what the ledger counted when the file was begun, so that the files that
//! are left are enough to count again, whatever was removed before.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

mod files;
mod line;
mod recount;
mod reprice;

pub use files::{Ends, Opening, ends, prune, write_opening};
pub use line::{Charge, Facts, Late, Told, amounts};
pub use recount::{Difference, Recount, recount};
pub use reprice::{Replayed, replay};

/// Least that [`Bounds::max_bytes`] may be.
pub const FEWEST_BYTES: u64 = 1 << 20;

/// Least that [`Bounds::max_age`] may be.
pub const SHORTEST_AGE: Duration = Duration::from_secs(3_600);

/// Most bytes that wait while nothing can be written; what comes on top is lost, and counted.
const MOST_WAITING_BYTES: usize = 1 << 20;

/// The whole log is kept in so many files, so that the oldest part can go.
const PARTS: u64 = 8;

/// How long after a failed change of files the next is tried, in milliseconds.
const RETRY_MS: u64 = 10_000;

/// What is to become of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keeping {
    /// Nothing is written.
    Off,
    /// Only what a killed process owes to a log that is there.
    Owed,
    /// Every charge is written.
    On(Bounds),
}

/// How much of it is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Most bytes of all files together.
    pub max_bytes: u64,
    /// How long a line is kept.
    pub max_age: Duration,
}

/// The file that lines go to, and those that wait for it.
#[derive(Debug)]
pub struct UsageLog {
    file: File,
    path: PathBuf,
    number: u64,
    len_bytes: u64,
    bounds: Bounds,
    waiting: Vec<u8>,
    waiting_lines: u64,
    lost_lines: u64,
    trouble: Option<String>,
    begun_ms: u64,
    not_before_ms: u64,
    /// Whether its lines no longer lead up to what the ledger counts.
    is_broken_off: bool,
}

impl Default for Bounds {
    /// 256 MiB, about 350,000 requests, and 30 days.
    fn default() -> Self {
        Self { max_bytes: 256 << 20, max_age: Duration::from_secs(30 * 86_400) }
    }
}

/// The folder of the log in a data folder.
pub fn folder(data_dir: &Path) -> PathBuf {
    data_dir.join("usage")
}

impl UsageLog {
    /// Goes on where a log ends.
    ///
    /// # Errors
    /// When it cannot be opened, or what follows its lines not be cut off.
    pub fn go_on(ends: &Ends, bounds: Bounds) -> io::Result<Self> {
        let file = File::options().write(true).open(&ends.path)?;
        if file.metadata()?.len() > ends.len_bytes {
            file.set_len(ends.len_bytes)?;
        }
        Ok(Self {
            file,
            path: ends.path.clone(),
            number: ends.number,
            len_bytes: ends.len_bytes,
            bounds,
            waiting: Vec::new(),
            waiting_lines: 0,
            lost_lines: 0,
            trouble: None,
            begun_ms: ends.begun_ms,
            not_before_ms: 0,
            is_broken_off: false,
        })
    }

    /// Adds a line, to be written by [`UsageLog::write_down`].
    pub fn push(&mut self, charge: &Charge<'_>, told: Option<&Told>) {
        if self.waiting.len() > MOST_WAITING_BYTES {
            self.lost_lines += self.waiting_lines;
            (self.waiting_lines, self.waiting) = (0, Vec::new());
        }
        charge.write(told, &mut self.waiting);
        self.waiting_lines += 1;
    }

    /// Hands every line to the kernel in one write. `now_ms` is in Unix milliseconds. Says whether another
    /// file is due.
    pub fn write_down(&mut self, now_ms: u64) -> bool {
        if self.waiting.is_empty() {
            return false;
        }
        // At its place, so that what a failed write left there is written over.
        match self.file.write_all_at(&self.waiting, self.len_bytes) {
            Ok(()) => {
                self.len_bytes += self.waiting.len() as u64;
                (self.waiting_lines, self.begun_ms) =
                    (0, if self.begun_ms == 0 { now_ms } else { self.begun_ms });
                self.waiting.clear();
                if self.trouble.take().is_some() {
                    tracing::info!("usage log can be written again; {} lines were lost", self.lost_lines);
                }
            }
            Err(error) => self.fail(&error),
        }
        self.is_due(now_ms)
    }

    /// What keeps it from being written, and what it lacks; nothing when it is whole.
    pub fn trouble(&self) -> Option<String> {
        let lost = format!("{} lines are lost", self.lost_lines);
        match &self.trouble {
            Some(trouble) => Some(format!("usage log: {trouble}; {lost}")),
            None => (self.lost_lines > 0).then(|| format!("usage log: {lost}")),
        }
    }

    /// Whether it is time for another file.
    pub fn is_due(&self, now_ms: u64) -> bool {
        let part = self.bounds.part();
        let is_old = self.begun_ms > 0 && now_ms.saturating_sub(self.begun_ms) >= part.max_age_ms();
        let is_large = self.len_bytes >= part.max_bytes;
        let is_full = self.len_bytes > 0 && (is_old || is_large);
        (is_full || self.is_broken_off) && now_ms >= self.not_before_ms
    }

    /// Notes that the ledger counts what no line tells of, so that another file begins with all of it.
    pub fn break_off(&mut self) {
        self.is_broken_off = true;
    }

    /// Whether another file cannot go on where this one ends.
    pub fn is_broken_off(&self) -> bool {
        self.is_broken_off
    }

    /// The number of its file.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// How much of the log is kept.
    pub fn bounds(&self) -> Bounds {
        self.bounds
    }

    /// Goes on in another file; gives the one before.
    pub fn turn(&mut self, next: Self) -> File {
        let before = std::mem::replace(&mut self.file, next.file);
        (self.path, self.number, self.len_bytes) = (next.path, next.number, next.len_bytes);
        (self.begun_ms, self.not_before_ms, self.is_broken_off) = (0, 0, false);
        before
    }

    /// Notes that another file could not be begun.
    pub fn put_off(&mut self, now_ms: u64) {
        self.not_before_ms = now_ms.saturating_add(RETRY_MS);
    }

    fn fail(&mut self, error: &io::Error) {
        let why = format!("cannot write {}: {error}", self.path.display());
        if self.trouble.is_none() {
            tracing::error!("usage log: {why}; requests are served and counted all the same");
        }
        self.trouble = Some(why);
    }
}

impl Bounds {
    /// The same, and at most a quarter of the file system of `folder`: what shares it with the ledger must not
    /// be what stops it.
    ///
    /// # Errors
    /// When the file system cannot be asked.
    pub fn within(self, folder: &Path) -> io::Result<Self> {
        let system = rustix::fs::statvfs(folder)?;
        let quarter = system.f_blocks.saturating_mul(system.f_frsize) / 4;
        Ok(Self { max_bytes: self.max_bytes.min(quarter), ..self })
    }

    /// Those of one file.
    fn part(&self) -> Self {
        Self { max_bytes: self.max_bytes / PARTS, max_age: self.max_age / PARTS as u32 }
    }

    fn max_age_ms(&self) -> u64 {
        u64::try_from(self.max_age.as_millis()).unwrap_or(u64::MAX)
    }
}

/// Begins file `number` in `folder`.
///
/// # Errors
/// When it is there, or cannot be made.
pub fn begin(folder: &Path, number: u64, bounds: Bounds) -> io::Result<UsageLog> {
    let path = files::make(folder, number)?;
    UsageLog::go_on(&Ends { path, number, len_bytes: 0, entries: None, ledger: None, begun_ms: 0 }, bounds)
}
