//! The log's files: `usage-<n>.jsonl`, and beside each, in `usage-<n>.opening.json`, what the ledger counted
//! when it was begun. Readable by their owner only.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, BufRead as _, BufReader, Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use la_core::budget::SavedBook;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::Bounds;
use super::line::Line;
use crate::data_dir::write_derived;

/// Longest line that is looked for at the end of a file; real ones have some 800 bytes.
const LONGEST_LINE_BYTES: u64 = 1 << 20;

/// How often logs are read anew that change meanwhile.
const TRIES: usize = 8;

/// What the ledger counted when a file was begun.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Opening {
    /// Whether the file before holds everything up to then.
    pub continues: bool,
    /// What the ledger in a Redis is called that several processes' logs tell of; absent where one process has its
    /// own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ledger: Option<String>,
    /// What was counted.
    pub book: SavedBook,
}

/// Where the log ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ends {
    /// The last file.
    pub path: PathBuf,
    /// Its number.
    pub number: u64,
    /// Bytes of its whole lines.
    pub len_bytes: u64,
    /// The number of the last charge that is in the log; of the last before it, where it has none.
    pub entries: Option<u64>,
    /// As [`Opening::ledger`].
    pub ledger: Option<String>,
    /// When the file was begun, in Unix milliseconds; 0 when unknown.
    pub begun_ms: u64,
}

/// The head of an opening.
#[derive(Debug, Deserialize)]
pub(super) struct OpeningHead {
    pub(super) continues: bool,
    pub(super) ledger: Option<String>,
    pub(super) book: BookHead,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct BookHead {
    pub(super) entries: u64,
    at_ms: u64,
}

/// Where the log in `folder` ends; nothing when there is none.
///
/// # Errors
/// When it is there and cannot be read.
pub fn ends(folder: &Path) -> io::Result<Option<Ends>> {
    let Some(number) = numbers(folder)?.last().copied() else { return Ok(None) };
    let path = path(folder, number);
    let (len_bytes, last) = last_line(&path)?;
    // One that cannot be read is none: the log begins anew.
    let head = read_head(folder, number).unwrap_or_default();
    let (entries, begun_ms) = head.as_ref().map(|head| (head.book.entries, head.book.at_ms)).unzip();
    let entries = match last {
        Some(line) => serde_json::from_slice::<Line>(&line).ok().map(|line| line.number),
        None => entries,
    };
    let (ledger, begun_ms) = (head.and_then(|head| head.ledger), begun_ms.unwrap_or(0));
    Ok(Some(Ends { path, number, len_bytes, entries, ledger, begun_ms }))
}

/// Makes the file `number`, and the folder where it is missing.
///
/// # Errors
/// When it is there, or cannot be made.
pub(super) fn make(folder: &Path, number: u64) -> io::Result<PathBuf> {
    DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    let path = path(folder, number);
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
    Ok(path)
}

/// Writes down what the ledger counted when file `number` was begun.
///
/// # Errors
/// When it cannot be written.
pub fn write_opening(folder: &Path, number: u64, opening: &Opening) -> io::Result<()> {
    write_derived(&opening_path(folder, number), &serde_json::to_vec(opening)?)
}

/// What the ledger counted when file `number` was begun, if that is known.
///
/// # Errors
/// When it is there and is no opening.
pub(super) fn read_opening(folder: &Path, number: u64) -> io::Result<Option<Opening>> {
    read_as(folder, number)
}

/// The head of that alone.
///
/// # Errors
/// As [`read_opening`].
pub(super) fn read_head(folder: &Path, number: u64) -> io::Result<Option<OpeningHead>> {
    read_as(folder, number)
}

fn read_as<T: DeserializeOwned>(folder: &Path, number: u64) -> io::Result<Option<T>> {
    let bytes = crate::data_dir::read_optional(&opening_path(folder, number))?;
    bytes.map(|bytes| serde_json::from_slice(&bytes).map_err(io::Error::from)).transpose()
}

/// Removes the oldest files, except the last, until what is left keeps within `bounds` at `now_ms` with room
/// for two files more: the last, and what is written to it before it is closed.
///
/// # Errors
/// When the folder cannot be read or a file not be removed.
pub fn prune(folder: &Path, bounds: Bounds, now_ms: u64) -> io::Result<()> {
    let mut closed = numbers(folder)?;
    closed.pop();
    let mut kept_bytes = bounds.part().max_bytes.saturating_mul(2);
    let mut is_over = false;
    for number in closed.into_iter().rev() {
        let paths = [path(folder, number), opening_path(folder, number)];
        let size = |path: &PathBuf| fs::metadata(path).map_or(0, |meta| meta.len());
        kept_bytes = paths.iter().map(size).fold(kept_bytes, u64::saturating_add);
        is_over |= kept_bytes > bounds.max_bytes || is_older(&paths[0], bounds.max_age_ms(), now_ms);
        if is_over {
            // The lines first: an opening alone says nothing false.
            fs::remove_file(&paths[0])?;
            let _ = fs::remove_file(&paths[1]);
        }
    }
    Ok(())
}

/// The numbers of all files in `folder`, rising.
///
/// # Errors
/// When the folder is there and cannot be read.
pub(super) fn numbers(folder: &Path) -> io::Result<Vec<u64>> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut numbers = Vec::new();
    for entry in entries {
        let name = entry?.file_name();
        let digits = name.to_str().and_then(|name| name.strip_prefix("usage-")?.strip_suffix(".jsonl"));
        numbers.extend(digits.and_then(|digits| digits.parse::<u64>().ok()));
    }
    numbers.sort_unstable();
    Ok(numbers)
}

/// What `read` makes of all files. A router may remove the oldest between their listing and their opening: then
/// everything is read anew, so that none before a missing one counts.
///
/// # Errors
/// Those of `read`.
pub(super) fn read_whole<T>(read: impl Fn() -> io::Result<T>) -> io::Result<T> {
    for _ in 1..TRIES {
        match read() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            whole => return whole,
        }
    }
    read()
}

/// The lines of file `number`, each with the place where it stands.
///
/// # Errors
/// When it cannot be read.
pub(super) fn lines(
    folder: &Path,
    number: u64,
) -> io::Result<impl Iterator<Item = io::Result<(String, String)>>> {
    let path = path(folder, number);
    let named = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
    let lines = BufReader::new(File::open(&path).map_err(named)?).lines().enumerate();
    Ok(lines.map(move |(at, line)| Ok((format!("{} line {}", path.display(), at + 1), line?))))
}

/// Where file `number` is.
pub(super) fn path(folder: &Path, number: u64) -> PathBuf {
    folder.join(format!("usage-{number}.jsonl"))
}

fn opening_path(folder: &Path, number: u64) -> PathBuf {
    folder.join(format!("usage-{number}.opening.json"))
}

fn is_older(path: &Path, age_ms: u64, now_ms: u64) -> bool {
    let changed = fs::metadata(path).and_then(|meta| meta.modified()).ok();
    let changed = changed.and_then(|changed| changed.duration_since(UNIX_EPOCH).ok());
    let changed_ms =
        changed.map_or(u64::MAX, |changed| u64::try_from(changed.as_millis()).unwrap_or(u64::MAX));
    now_ms.saturating_sub(changed_ms) > age_ms
}

/// Bytes up to the end of the last whole line, and that line.
fn last_line(path: &Path) -> io::Result<(u64, Option<Vec<u8>>)> {
    let mut file = File::open(path)?;
    let len_bytes = file.metadata()?.len();
    let from = len_bytes.saturating_sub(2 * LONGEST_LINE_BYTES);
    file.seek(SeekFrom::Start(from))?;
    let mut tail = Vec::new();
    file.read_to_end(&mut tail)?;
    let is_end = |byte: &u8| *byte == b'\n';
    let Some(end) = tail.iter().rposition(is_end) else { return Ok((from, None)) };
    let before = tail.get(..end).unwrap_or_default();
    let begin = before.iter().rposition(is_end).map_or(0, |at| at + 1);
    Ok((from + end as u64 + 1, before.get(begin..).map(<[u8]>::to_vec)))
}
