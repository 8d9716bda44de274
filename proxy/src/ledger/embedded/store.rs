//! The durable half: a redb file with the grants, and the totals of the last checkpoint.
//!
//! Every commit is synced before it returns. After a failed one the file's handle is never used again:
//! [`Store::replace`] writes a new file from memory and renames it into place, because the kernel forgets
//! a failed sync and a second one on the same file would lie.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use la_core::id::Subject;
use la_core::usage::Usage;
use redb::{Database, DatabaseError, ReadableDatabase as _, ReadableTable as _, TableDefinition};

use super::segment::sync_dir;
use crate::ledger::book::{Grant, Row};

/// The file's name.
pub(super) const FILE: &str = "ledger.redb";

/// The name under which a replacement is written.
const NEW_FILE: &str = "ledger.redb.new";

const FORMAT: u64 = 1;

/// Page cache in bytes. All accounts are in memory anyway; this only serves commits.
const CACHE_BYTES: usize = 256 * 1024;

/// Settled, open, last seen; then input, cache-write, cache-read and output tokens.
type Totals = (u64, u64, i64, u64, u64, u64, u64);

const GRANTS: TableDefinition<'_, &str, u64> = TableDefinition::new("grants");
const TOTALS: TableDefinition<'_, &str, Totals> = TableDefinition::new("totals");
const HEAD: TableDefinition<'_, &str, u64> = TableDefinition::new("head");
const BOOT: TableDefinition<'_, &str, &str> = TableDefinition::new("boot");

/// The open file.
pub(super) struct Store {
    database: Database,
}

/// What a checkpoint says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Head {
    /// The first journal segment that is not contained in the totals.
    pub(super) segment: u64,
    /// Whether the process ended in order after this checkpoint.
    pub(super) clean: bool,
    /// Which boot of the machine wrote it.
    pub(super) boot: String,
}

/// Why the file cannot be opened.
#[derive(Debug)]
pub(super) enum Unusable {
    InUse,
    Io(io::Error),
    Format(u64),
    Damaged(String),
}

impl Store {
    /// Opens the file in `dir` and reads all of it, every checksum verified.
    pub(super) fn open(dir: &Path) -> Result<(Self, Head, Vec<Row>), Unusable> {
        let path = dir.join(FILE);
        if fs::metadata(&path).map_err(Unusable::Io)?.len() == 0 {
            return Err(Unusable::Damaged("it is empty".to_owned()));
        }
        let mut builder = Database::builder();
        let database = builder.set_cache_size(CACHE_BYTES).set_check_integrity_on_open(true).open(&path)?;
        let store = Self { database };
        let (head, rows) = store.read()?;
        Ok((store, head, rows))
    }

    /// Writes a new file with all rows and renames it into place. On an error the old file is as it was.
    pub(super) fn replace(dir: &Path, head: &Head, rows: &[Row]) -> Result<Self, redb::Error> {
        let new = dir.join(NEW_FILE);
        // Emptied through a fresh file: whatever an earlier attempt left may have failed to sync.
        match fs::remove_file(&new) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
            _ => {}
        }
        let store = Self { database: Database::builder().set_cache_size(CACHE_BYTES).create(&new)? };
        store.checkpoint(head, rows, &[])?;
        fs::rename(&new, dir.join(FILE))?;
        sync_dir(dir)?;
        Ok(store)
    }

    /// Writes grants down.
    pub(super) fn grant(&self, grants: &[Grant]) -> Result<(), redb::Error> {
        let write = self.database.begin_write()?;
        {
            let mut table = write.open_table(GRANTS)?;
            for grant in grants {
                table.insert(grant.subject.as_str(), grant.granted)?;
            }
        }
        Ok(write.commit()?)
    }

    /// Writes a checkpoint down: rows that changed, subjects to forget, and from which segment to replay.
    pub(super) fn checkpoint(
        &self,
        head: &Head,
        rows: &[Row],
        forget: &[Subject],
    ) -> Result<(), redb::Error> {
        let write = self.database.begin_write()?;
        {
            let mut grants = write.open_table(GRANTS)?;
            let mut totals = write.open_table(TOTALS)?;
            for subject in forget {
                grants.remove(subject.as_str())?;
                totals.remove(subject.as_str())?;
            }
            for row in rows {
                grants.insert(row.subject.as_str(), row.granted)?;
                totals.insert(row.subject.as_str(), totals_of(row))?;
            }
            let mut numbers = write.open_table(HEAD)?;
            numbers.insert("format", FORMAT)?;
            numbers.insert("segment", head.segment)?;
            numbers.insert("clean", u64::from(head.clean))?;
            write.open_table(BOOT)?.insert("boot", head.boot.as_str())?;
        }
        Ok(write.commit()?)
    }

    fn read(&self) -> Result<(Head, Vec<Row>), Unusable> {
        let read = self.database.begin_read().map_err(unusable)?;
        let numbers = read.open_table(HEAD).map_err(unusable)?;
        let number = |name: &str| -> Result<u64, Unusable> {
            let found = numbers.get(name).map_err(unusable)?;
            found.map(|found| found.value()).ok_or_else(|| Unusable::Damaged(format!("it has no {name}")))
        };
        match number("format")? {
            FORMAT => {}
            other => return Err(Unusable::Format(other)),
        }
        let boot = read.open_table(BOOT).map_err(unusable)?.get("boot").map_err(unusable)?;
        let boot = boot.map(|boot| boot.value().to_owned()).unwrap_or_default();
        let head = Head { segment: number("segment")?, clean: number("clean")? == 1, boot };

        let grants = read.open_table(GRANTS).map_err(unusable)?;
        let totals = read.open_table(TOTALS).map_err(unusable)?;
        let mut rows = Vec::new();
        for grant in grants.iter().map_err(unusable)? {
            let (subject, granted) = grant.map_err(unusable)?;
            let subject = subject.value().to_owned();
            let found = totals.get(subject.as_str()).map_err(unusable)?.map(|found| found.value());
            rows.push(row(subject, granted.value(), found.unwrap_or_default())?);
        }
        Ok((head, rows))
    }
}

/// The path of the file in `dir`.
pub(super) fn path(dir: &Path) -> PathBuf {
    dir.join(FILE)
}

fn totals_of(row: &Row) -> Totals {
    let tokens = &row.tokens;
    let (write, read) = (tokens.cache_write_tokens, tokens.cache_read_tokens);
    (row.settled, row.open, row.last_seen, tokens.input_tokens, write, read, tokens.output_tokens)
}

fn row(subject: String, granted: u64, totals: Totals) -> Result<Row, Unusable> {
    let (settled, open, last_seen, input_tokens, cache_write_tokens, cache_read_tokens, output_tokens) =
        totals;
    let subject = Subject::try_from(subject).map_err(|e| Unusable::Damaged(format!("a subject {e}")))?;
    let tokens = Usage { input_tokens, cache_write_tokens, cache_read_tokens, output_tokens };
    Ok(Row { subject, settled, open, granted, tokens, last_seen })
}

impl From<DatabaseError> for Unusable {
    fn from(error: DatabaseError) -> Self {
        match error {
            DatabaseError::DatabaseAlreadyOpen => Self::InUse,
            DatabaseError::UpgradeRequired(version) => Self::Format(version.into()),
            other => unusable(other),
        }
    }
}

/// What redb could not read is damaged, unless the operating system said otherwise.
fn unusable(error: impl Into<redb::Error>) -> Unusable {
    match error.into() {
        redb::Error::Io(error)
            if !matches!(error.kind(), io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof) =>
        {
            Unusable::Io(error)
        }
        other => Unusable::Damaged(other.to_string()),
    }
}
