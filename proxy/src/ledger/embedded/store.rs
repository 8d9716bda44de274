//! The durable half: a redb file with everybody as of the last checkpoint, and the grants since.
//!
//! Every commit is synced before it returns. After a failed one the file's handle is never used again:
//! [`Store::replace`] writes a new file from memory and renames it into place, because the kernel forgets
//! a failed sync and a second one on the same file would lie.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use la_core::budget::{Grant, SavedMeter, SavedOwner};
use la_core::id::Subject;
use redb::{Database, DatabaseError, ReadableDatabase as _, ReadableTable as _, TableDefinition};

use super::earlier;
use super::segment::sync_dir;

/// The file's name.
pub(super) const FILE: &str = "ledger.redb";

/// The name under which a replacement is written.
const NEW_FILE: &str = "ledger.redb.new";

const FORMAT: u64 = 2;

/// See [`earlier`].
const EARLIER_FORMAT: u64 = 1;

/// Page cache in bytes. All accounts are in memory anyway; this only serves commits.
const CACHE_BYTES: usize = 256 * 1024;

/// Owners by subject, as JSON.
const OWNERS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("owners");

/// Meters as they were when they were last granted, as JSON, by subject and [`meter_name`]. One that is here
/// was granted after its owner was written.
const GRANTS: TableDefinition<'_, (&str, &str), &[u8]> = TableDefinition::new("meters granted");

const HEAD: TableDefinition<'_, &str, u64> = TableDefinition::new("head");
const TEXTS: TableDefinition<'_, &str, &str> = TableDefinition::new("boot");

/// The open file.
pub(super) struct Store {
    database: Database,
}

/// What a checkpoint says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Head {
    /// The first journal segment that is not contained in the totals.
    pub(super) segment: u64,
    /// Requests that were charged before it.
    pub(super) entries: u64,
    /// Whether the process ended in order after this checkpoint.
    pub(super) clean: bool,
    /// Which boot of the machine wrote it.
    pub(super) boot: String,
    /// What this ledger is called, for as long as its files last; empty where nothing was called so yet.
    pub(super) id: String,
}

/// What the file holds.
#[derive(Debug, Clone, Default)]
pub(super) struct Kept {
    /// Everybody as of the checkpoint that wrote them last.
    pub(super) owners: Vec<SavedOwner>,
    /// Meters that were granted since.
    pub(super) grants: Vec<(Subject, SavedMeter)>,
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
    /// Opens the file in `dir` and reads all of it, every checksum verified. No store means that it is of an
    /// earlier format and must be written anew.
    pub(super) fn open(dir: &Path) -> Result<(Option<Self>, Head, Kept), Unusable> {
        let path = dir.join(FILE);
        if fs::metadata(&path).map_err(Unusable::Io)?.len() == 0 {
            return Err(Unusable::Damaged("it is empty".to_owned()));
        }
        let mut builder = Database::builder();
        let database = builder.set_cache_size(CACHE_BYTES).set_check_integrity_on_open(true).open(&path)?;
        let store = Self { database };
        let (format, head, kept) = store.read()?;
        Ok(((format == FORMAT).then_some(store), head, kept))
    }

    /// Writes a new file with all rows and renames it into place. On an error the old file is as it was.
    pub(super) fn replace(dir: &Path, head: &Head, rows: &[SavedOwner]) -> Result<Self, redb::Error> {
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
                let name = meter_name(&grant.saved);
                table.insert((grant.owner.as_str(), name.as_str()), json(&grant.saved)?.as_slice())?;
            }
        }
        Ok(write.commit()?)
    }

    /// Writes a checkpoint down: owners that changed, subjects to forget, and from which segment to replay.
    pub(super) fn checkpoint(
        &self,
        head: &Head,
        rows: &[SavedOwner],
        forget: &[Subject],
    ) -> Result<(), redb::Error> {
        let write = self.database.begin_write()?;
        {
            let mut grants = write.open_table(GRANTS)?;
            let mut owners = write.open_table(OWNERS)?;
            for subject in forget.iter().chain(rows.iter().map(|row| &row.subject)) {
                // Their grants are in the rows, or go with them.
                grants.retain_in(all_of(subject), |_, _| false)?;
            }
            for subject in forget {
                owners.remove(subject.as_str())?;
            }
            for row in rows {
                owners.insert(row.subject.as_str(), json(row)?.as_slice())?;
            }
            let mut numbers = write.open_table(HEAD)?;
            numbers.insert("format", FORMAT)?;
            numbers.insert("segment", head.segment)?;
            numbers.insert("entries", head.entries)?;
            numbers.insert("clean", u64::from(head.clean))?;
            let mut texts = write.open_table(TEXTS)?;
            texts.insert("boot", head.boot.as_str())?;
            texts.insert("id", head.id.as_str())?;
        }
        Ok(write.commit()?)
    }

    fn read(&self) -> Result<(u64, Head, Kept), Unusable> {
        let read = self.database.begin_read().map_err(unusable)?;
        let numbers = read.open_table(HEAD).map_err(unusable)?;
        let number = |name: &str| -> Result<u64, Unusable> {
            let found = numbers.get(name).map_err(unusable)?;
            found.map(|found| found.value()).ok_or_else(|| Unusable::Damaged(format!("it has no {name}")))
        };
        let (format, clean) = (number("format")?, number("clean")? == 1);
        if format != FORMAT && (format, clean) != (EARLIER_FORMAT, true) {
            return Err(Unusable::Format(format));
        }
        let texts = read.open_table(TEXTS).map_err(unusable)?;
        let text = |name: &str| -> Result<String, Unusable> {
            let found = texts.get(name).map_err(unusable)?;
            Ok(found.map(|found| found.value().to_owned()).unwrap_or_default())
        };
        let entries = if format == EARLIER_FORMAT { 0 } else { number("entries")? };
        let (segment, boot, id) = (number("segment")?, text("boot")?, text("id")?);
        let head = Head { segment, entries, clean, boot, id };
        if format == EARLIER_FORMAT {
            return Ok((format, head, Kept { owners: earlier::owners(&read)?, grants: Vec::new() }));
        }
        let owners = read.open_table(OWNERS).map_err(unusable)?;
        let mut kept = Kept::default();
        for owner in owners.iter().map_err(unusable)? {
            kept.owners.push(parsed(owner.map_err(unusable)?.1.value())?);
        }
        let grants = read.open_table(GRANTS).map_err(unusable)?;
        for grant in grants.iter().map_err(unusable)? {
            let (key, saved) = grant.map_err(unusable)?;
            let subject = Subject::try_from(key.value().0.to_owned());
            let subject = subject.map_err(|e| Unusable::Damaged(format!("a subject {e}")))?;
            kept.grants.push((subject, parsed(saved.value())?));
        }
        Ok((format, head, kept))
    }
}

/// The path of the file in `dir`.
pub(super) fn path(dir: &Path) -> PathBuf {
    dir.join(FILE)
}

/// What a meter is called among its owner's.
fn meter_name(meter: &SavedMeter) -> String {
    format!("{} {}", meter.unit, meter.window)
}

/// The keys of all of an owner's grants: names of meters are letters and come before this.
fn all_of(subject: &Subject) -> std::ops::Range<(&str, &str)> {
    (subject.as_str(), "")..(subject.as_str(), "~")
}

fn json(value: &impl serde::Serialize) -> Result<Vec<u8>, redb::Error> {
    serde_json::to_vec(value).map_err(|error| redb::Error::Io(error.into()))
}

fn parsed<T: serde::de::DeserializeOwned>(bytes: &[u8]) -> Result<T, Unusable> {
    serde_json::from_slice(bytes).map_err(|error| Unusable::Damaged(format!("a row of it: {error}")))
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
pub(super) fn unusable(error: impl Into<redb::Error>) -> Unusable {
    match error.into() {
        redb::Error::Io(error)
            if !matches!(error.kind(), io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof) =>
        {
            Unusable::Io(error)
        }
        other => Unusable::Damaged(other.to_string()),
    }
}
