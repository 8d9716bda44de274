//! What is served: the snapshot in the form that requests use, and where it comes from.

pub mod feed;
pub(crate) mod fingerprint;
mod flags;
pub mod generation;
pub mod live;
mod manifests;
mod snapshot_dir;

use std::time::Duration;

use la_core::credential::Credentials;
use la_core::snapshot::Snapshot;
use tokio::sync::watch;

pub use flags::Flags;
pub use manifests::ManifestFolder;
pub use snapshot_dir::SnapshotDir;

/// Where the configuration comes from.
pub enum Source {
    /// An operator.
    SnapshotDir(SnapshotDir),
    /// A person, in files.
    Manifests(ManifestFolder),
    /// Flags and environment.
    Flags(Flags),
}

/// What a source holds now.
#[derive(Debug)]
pub struct Loaded {
    pub snapshot: Snapshot,
    pub credentials: Credentials,
    /// Objects that were left out, one sentence each.
    pub faults: Vec<String>,
    pub generations: Generations,
    pub told: FromManifest,
}

/// What a RouterProxy says of the process that serves it, where flags do not.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct FromManifest {
    pub drain: Option<Duration>,
    pub request_log: Option<bool>,
}

/// Who counts the generations of a source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Generations {
    /// Whoever writes the source; a lower one is refused.
    Theirs,
    /// This process.
    Ours,
}

/// Why a source as a whole cannot be used, one sentence each.
#[derive(Debug)]
pub struct LoadError(pub Vec<String>);

impl Source {
    fn fingerprint(&self) -> u64 {
        match self {
            Self::SnapshotDir(source) => source.fingerprint(),
            Self::Manifests(source) => source.fingerprint(),
            Self::Flags(source) => source.fingerprint(),
        }
    }

    fn load(&mut self, now: i64) -> Result<Loaded, LoadError> {
        match self {
            Self::SnapshotDir(source) => source.load(),
            Self::Manifests(source) => source.load(now),
            Self::Flags(source) => source.load(),
        }
    }

    /// What it would give, without minting anything.
    ///
    /// # Errors
    /// Every fault.
    pub fn preview(&mut self, now: i64) -> Result<Loaded, LoadError> {
        match self {
            Self::Manifests(source) => source.preview(),
            Self::SnapshotDir(_) | Self::Flags(_) => self.load(now),
        }
    }

    /// What it says and this process does not do.
    pub fn ignored(&self) -> Option<&str> {
        match self {
            Self::Manifests(source) => source.ignored(),
            Self::SnapshotDir(_) | Self::Flags(_) => None,
        }
    }

    /// Whether time alone is a reason to load.
    fn is_due(&self, now: i64) -> bool {
        matches!(self, Self::Manifests(source) if source.is_due(now))
    }

    /// Whether people write it file by file, so that a change is taken only when it has settled.
    fn is_written_in_steps(&self) -> bool {
        matches!(self, Self::Manifests(_))
    }

    /// Changes that are worth a look at once.
    fn changes(&self) -> Option<watch::Receiver<u64>> {
        match self {
            Self::SnapshotDir(_) => None,
            Self::Manifests(source) => Some(source.changes()),
            Self::Flags(source) => Some(source.changes()),
        }
    }
}
