//! The journal's files: `journal-<n>.log`, each a header and records, written in the order of `n`.
//!
//! A record is handed to the kernel by one `write` before anything depends on it, and never synced: that
//! survives the death of the process, not the loss of power. What a power cut may lose is covered by
//! grants.

use std::collections::HashMap;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};

use super::record::{self, FRAME_BYTES, Found, MAX_PAYLOAD_BYTES, Record};

const MAGIC: &[u8; 8] = b"la-jrnl\0";
const VERSION: u32 = 4;

/// Their header is the same; their records are not.
const EARLIER_VERSIONS: [u32; 3] = [1, 2, 3];
const HEADER_BYTES: usize = 8 + 4 + 8;

/// The segment that is being written, locked for as long as anything may be written to it.
#[derive(Debug)]
pub(in crate::ledger) struct Segment {
    file: File,
    path: PathBuf,
    number: u64,
    /// What the checksums of its records begin with.
    seed: u32,
    len_bytes: u64,
    /// A write failed: what the file ends with is unknown, and nothing more goes into it.
    failed: bool,
    #[cfg(test)]
    pub(in crate::ledger) full: std::sync::Arc<std::sync::atomic::AtomicBool>,
}

/// How the end of a segment is judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tail {
    /// The kernel has kept all that was written: only the very last record may be incomplete.
    Kept,
    /// Power was lost: from some point on the file may hold anything.
    Lost,
}

/// Why a segment cannot be read.
#[derive(Debug)]
pub(super) enum Unreadable {
    Io(io::Error),
    Version(u32),
    Damaged(String),
}

impl Segment {
    /// Makes the file of segment `number` and sees to it that file and name survive a power cut.
    pub(super) fn create(dir: &Path, number: u64) -> io::Result<Self> {
        let path = path(dir, number);
        let made = OpenOptions::new().append(true).create_new(true).open(&path).and_then(|mut file| {
            file.try_lock()?;
            file.write_all(&header(number))?;
            file.sync_all()?;
            sync_dir(dir)?;
            Ok(file)
        });
        if made.is_err() {
            let _ = std::fs::remove_file(&path);
        }
        Ok(Self::empty(made?, path, number))
    }

    /// The segment `number`, if it is of this format, has no records and never gets any from a ledger that was
    /// closed while requests were open.
    pub(super) fn reopen(dir: &Path, number: u64) -> io::Result<Option<Self>> {
        let path = path(dir, number);
        let file = OpenOptions::new().append(true).open(&path)?;
        match file.try_lock() {
            Ok(()) if std::fs::read(&path)? == header(number) => Ok(Some(Self::empty(file, path, number))),
            Ok(()) | Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }

    fn empty(file: File, path: PathBuf, number: u64) -> Self {
        Self {
            file,
            path,
            number,
            seed: record::seed(number),
            len_bytes: HEADER_BYTES as u64,
            failed: false,
            #[cfg(test)]
            full: std::sync::Arc::default(),
        }
    }

    /// Hands bytes to the kernel. After a failure nothing more is accepted.
    pub(in crate::ledger) fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.failed {
            return Err(io::Error::other("an earlier write failed"));
        }
        let result = self.write(bytes);
        match result {
            Ok(()) => self.len_bytes += bytes.len() as u64,
            Err(_) => self.failed = true,
        }
        result
    }

    pub(in crate::ledger) fn number(&self) -> u64 {
        self.number
    }

    pub(in crate::ledger) fn seed(&self) -> u32 {
        self.seed
    }

    pub(in crate::ledger) fn len_bytes(&self) -> u64 {
        self.len_bytes
    }

    pub(in crate::ledger) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether records can go into it and none has yet.
    pub(super) fn is_fresh(&self) -> bool {
        !self.failed && self.len_bytes == HEADER_BYTES as u64
    }

    /// One `write`: a record reaches the kernel whole, or the segment ends with it.
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        #[cfg(test)]
        if self.full.load(std::sync::atomic::Ordering::Relaxed) {
            let _ = self.file.write(&bytes[..bytes.len() / 2]);
            return Err(io::Error::from(io::ErrorKind::StorageFull));
        }
        loop {
            match self.file.write(bytes) {
                Ok(written) if written == bytes.len() => return Ok(()),
                Ok(_) => return Err(io::Error::from(io::ErrorKind::StorageFull)),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}

/// Where segment `number` is.
pub(super) fn path(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("journal-{number}.log"))
}

/// The numbers of all segments in `dir`, rising.
pub(super) fn numbers(dir: &Path) -> io::Result<Vec<u64>> {
    let mut numbers = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let name = entry?.file_name();
        let digits = name.to_str().and_then(|name| name.strip_prefix("journal-")?.strip_suffix(".log"));
        numbers.extend(digits.and_then(|digits| digits.parse::<u64>().ok()));
    }
    numbers.sort_unstable();
    Ok(numbers)
}

/// Whether segment `number` was being made when the process died: nothing was ever to be written to it. Its
/// header is synced before anything is.
pub(super) fn is_unmade(dir: &Path, number: u64, tail: Tail) -> io::Result<bool> {
    let mut head = Vec::new();
    File::open(path(dir, number))?.take(HEADER_BYTES as u64).read_to_end(&mut head)?;
    let is_damaged = || matches!(check_header(&head, number), Err(Unreadable::Damaged(_)));
    Ok(head.len() < HEADER_BYTES || (tail == Tail::Lost && is_damaged()))
}

/// Reads segment `number` and calls `each` with its records in order.
pub(super) fn read(
    dir: &Path,
    number: u64,
    tail: Tail,
    mut each: impl FnMut(Record),
) -> Result<(), Unreadable> {
    let bytes = std::fs::read(path(dir, number)).map_err(Unreadable::Io)?;
    let mut at = check_header(&bytes, number)?;
    let (seed, mut periods) = (record::seed(number), HashMap::<u32, u64>::new());
    while let Some(rest) = bytes.get(at..).filter(|rest| !rest.is_empty()) {
        match record::read(seed, rest, |place| periods.get(&place).copied().unwrap_or_default()) {
            Found::Record(record, len) => {
                if let Record::Period { place, start_ms } = record {
                    periods.insert(place, start_ms);
                }
                each(record);
                at += len;
            }
            Found::Nothing if tail == Tail::Lost || is_torn(seed, rest) => break,
            Found::Nothing => return Err(Unreadable::Damaged(format!("no sound record at byte {at}"))),
        }
    }
    Ok(())
}

/// Makes names in a directory survive a power cut.
pub(super) fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

/// Whether `rest` is one record that was being written when the process died: short, and nothing after it.
fn is_torn(seed: u32, rest: &[u8]) -> bool {
    let short = rest.len() < FRAME_BYTES + MAX_PAYLOAD_BYTES;
    let is_sound = |bytes: &[u8]| record::read(seed, bytes, |_| u64::MAX) != Found::Nothing;
    let follows = |from: usize| rest.get(from..).is_some_and(is_sound);
    short && !(1..rest.len()).any(follows)
}

fn header(number: u64) -> [u8; HEADER_BYTES] {
    let mut header = [0; HEADER_BYTES];
    let parts = MAGIC.iter().copied().chain(VERSION.to_le_bytes()).chain(number.to_le_bytes());
    header.iter_mut().zip(parts).for_each(|(place, byte)| *place = byte);
    header
}

fn check_header(bytes: &[u8], number: u64) -> Result<usize, Unreadable> {
    let damaged = || Unreadable::Damaged("its header is not one of this journal".to_owned());
    let (magic, rest) = bytes.split_first_chunk::<8>().ok_or_else(damaged)?;
    let (version, rest) = rest.split_first_chunk::<4>().ok_or_else(damaged)?;
    let (found, _) = rest.split_first_chunk::<8>().ok_or_else(damaged)?;
    if magic != MAGIC || u64::from_le_bytes(*found) != number {
        return Err(damaged());
    }
    match u32::from_le_bytes(*version) {
        VERSION => Ok(HEADER_BYTES),
        version if EARLIER_VERSIONS.contains(&version) && bytes.len() == HEADER_BYTES => Ok(HEADER_BYTES),
        version => Err(Unreadable::Version(version)),
    }
}
