//! The file of a login, as a store that several processes share.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use la_core::oauth::LoginFile;
use rustix::fs::{FlockOperation, flock};
use rustix::process::geteuid;

use crate::credentials::{Found, HomeError, TORN_PAUSE, TORN_READS, find_home};
use crate::data_dir::write_whole_for;

/// A folder of a login, and the right to renew it while that is held.
pub(crate) struct Store {
    home: PathBuf,
    /// The folder itself, locked: no file of ours stays behind in it.
    claim: Option<File>,
}

/// Why a folder is not claimed.
#[derive(Debug)]
pub(crate) enum NotClaimed {
    /// Another process renews it.
    Busy,
    /// It cannot be locked.
    Failed(io::Error),
}

impl Store {
    pub(crate) fn new(home: PathBuf) -> Self {
        Self { home, claim: None }
    }

    /// Takes the sole right to renew, among the processes on this machine.
    pub(crate) fn claim(&mut self) -> Result<(), NotClaimed> {
        if self.claim.is_some() {
            return Ok(());
        }
        let folder = File::open(&self.home).map_err(NotClaimed::Failed)?;
        match flock(&folder, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {
                self.claim = Some(folder);
                Ok(())
            }
            Err(rustix::io::Errno::WOULDBLOCK) => Err(NotClaimed::Busy),
            Err(error) => Err(NotClaimed::Failed(error.into())),
        }
    }

    /// Lets others renew.
    pub(crate) fn release(&mut self) {
        self.claim = None;
    }

    /// The login and its file; one that another seems to be writing is read again.
    pub(crate) async fn read(&self) -> Result<Found, HomeError> {
        let mut found = find_home(&self.home);
        for _ in 0..TORN_READS {
            if !found.as_ref().is_err_and(HomeError::is_torn) {
                break;
            }
            tokio::time::sleep(TORN_PAUSE).await;
            found = find_home(&self.home);
        }
        found
    }
}

/// Replaces a login file whole: readers see the old one or the new one, also after a power cut. It is private
/// from then on, and belongs to whom it did.
pub(crate) fn write(file: &Path, login: &LoginFile) -> io::Result<()> {
    // Through a link, to what it leads to.
    let file = fs::canonicalize(file).unwrap_or_else(|_| file.to_owned());
    let owner = fs::metadata(&file).ok().map(|meta| (meta.uid(), meta.gid()));
    let owner = owner.filter(|(user, _)| *user != geteuid().as_raw());
    write_whole_for(&file, login.text().expose().as_bytes(), owner)
}
