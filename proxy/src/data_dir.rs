//! The folder of keys, tokens and ledger: one process holds it at a time, and files in it change whole.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, fchown};
use std::path::{Path, PathBuf};

use rustix::fs::FlockOperation;

const LOCK_FILE: &str = "lock";

/// Whom a file belongs to: user and group.
pub type Owner = (u32, u32);

/// The folder, held until this is dropped.
#[derive(Debug)]
pub struct DataDir {
    path: PathBuf,
    _lock: File,
}

/// Why the folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DataDirError {
    #[error("data folder {path} cannot be written: {error}; give another with --data-dir (DATA_DIR)")]
    NotWritable { path: PathBuf, error: io::Error },
    #[error("data folder {path} is in use by another la-router")]
    InUse { path: PathBuf },
}

impl DataDir {
    /// Makes the folder where it is missing, and takes it for this process.
    ///
    /// # Errors
    /// When it cannot be written, or another process holds it.
    pub fn open(path: &Path) -> Result<Self, DataDirError> {
        let not_writable = |error| DataDirError::NotWritable { path: path.to_owned(), error };
        DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(not_writable)?;
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(path.join(LOCK_FILE))
            .map_err(not_writable)?;
        rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive)
            .map_err(|_| DataDirError::InUse { path: path.to_owned() })?;
        Ok(Self { path: path.to_owned(), _lock: lock })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A file in it.
    pub fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }
}

/// Replaces a file whole, readable by its owner only: readers see the old bytes or the new ones, also after
/// a power cut.
///
/// # Errors
/// When a step of writing fails; the old file is then still there.
pub fn write_whole(path: &Path, bytes: &[u8]) -> io::Result<()> {
    write_whole_for(path, bytes, None)
}

/// The same for a file that may belong to another user, and shall go on to.
///
/// # Errors
/// When a step of writing fails; the old file is then still there.
pub fn write_whole_for(path: &Path, bytes: &[u8], owner: Option<Owner>) -> io::Result<()> {
    replace(path, |draft| {
        let (uid, gid) = owner.unzip();
        if owner.is_some() {
            fchown(&*draft, uid, gid)?;
        }
        draft.write_all(bytes)?;
        draft.sync_all()
    })?;
    File::open(path.parent().unwrap_or(Path::new(".")))?.sync_all()
}

/// The same for what can be made again: readers see the old bytes or the new ones, but a power cut may
/// leave neither.
///
/// # Errors
/// When a step of writing fails; the old file is then still there.
pub fn write_derived(path: &Path, bytes: &[u8]) -> io::Result<()> {
    replace(path, |draft| draft.write_all(bytes))
}

fn replace(path: &Path, write: impl FnOnce(&mut File) -> io::Result<()>) -> io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let draft = folder.join(format!(".{name}.{}.draft", std::process::id()));
    let mut private = OpenOptions::new();
    private.create(true).truncate(true).write(true).mode(0o600);
    let written = private.open(&draft).and_then(|mut file| write(&mut file));
    let written = written.and_then(|()| fs::rename(&draft, path));
    if written.is_err() {
        // What counts is the first error; a draft that stays behind is overwritten the next time.
        let _ = fs::remove_file(&draft);
    }
    written
}

/// Reads a file that may be missing.
///
/// # Errors
/// When it is there and cannot be read.
pub fn read_optional(path: &Path) -> io::Result<Option<Vec<u8>>> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn folder_is_held_by_one_at_a_time() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a/b");
        let held = DataDir::open(&path).unwrap();
        assert!(matches!(DataDir::open(&path), Err(DataDirError::InUse { .. })));
        drop(held);
        DataDir::open(&path).unwrap();
    }

    #[test]
    fn file_is_replaced_whole_and_private() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.json");
        write_whole(&path, b"one").unwrap();
        write_whole(&path, b"two").unwrap();
        assert_eq!(read_optional(&path).unwrap().unwrap(), b"two");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn folder_that_cannot_be_made_is_named_with_the_remedy() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("file"), "").unwrap();
        let error = DataDir::open(&folder.path().join("file/data")).unwrap_err();
        assert!(error.to_string().contains("--data-dir"), "{error}");
    }
}
