//! The highest snapshot ever served from a data folder, so that an older one that comes back is refused.

use std::io;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::data_dir::{DataDir, read_optional, write_whole};

const FILE: &str = "generation";

/// Remembers the highest `(epoch, generation)`.
#[derive(Debug)]
pub struct Highest {
    path: PathBuf,
    seen: Option<Order>,
}

/// Why a snapshot is not taken, or its place not remembered.
#[derive(Debug, thiserror::Error)]
pub enum GenerationError {
    #[error("snapshot {found} is older than {seen}, which was served before; it is refused")]
    Older { found: Order, seen: Order },
    #[error("{path} cannot be {what}: {error}")]
    Io { path: PathBuf, what: &'static str, error: io::Error },
    #[error("{path} is damaged; restore it, or remove it to accept any snapshot")]
    Damaged { path: PathBuf },
}

/// The place of a snapshot among all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Order {
    epoch: u64,
    generation: u64,
}

impl std::fmt::Display for Order {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} of epoch {}", self.generation, self.epoch)
    }
}

impl Highest {
    /// What the data folder remembers; nothing at first.
    ///
    /// # Errors
    /// When the file is there and cannot be used.
    pub fn open(data_dir: &DataDir) -> Result<Self, GenerationError> {
        let path = data_dir.file(FILE);
        let bytes = read_optional(&path).map_err(|error| GenerationError::Io {
            path: path.clone(),
            what: "read",
            error,
        })?;
        let seen = bytes.map(|bytes| serde_json::from_slice(&bytes)).transpose();
        let seen = seen.map_err(|_| GenerationError::Damaged { path: path.clone() })?;
        Ok(Self { path, seen })
    }

    /// Takes a snapshot's place, and remembers it before the snapshot is served.
    ///
    /// # Errors
    /// When it is lower than the highest, or cannot be remembered.
    pub fn accept(&mut self, (epoch, generation): (u64, u64)) -> Result<(), GenerationError> {
        let found = Order { epoch, generation };
        match self.seen {
            Some(seen) if found < seen => return Err(GenerationError::Older { found, seen }),
            Some(seen) if found == seen => return Ok(()),
            _ => {}
        }
        let io = |error| GenerationError::Io { path: self.path.clone(), what: "written", error };
        let text = serde_json::to_vec(&found).map_err(|e| io(io::Error::other(e)))?;
        // Until the end of the process it is remembered anyway.
        self.seen = Some(found);
        write_whole(&self.path, &text).map_err(io)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn older_snapshot_is_refused_after_a_restart_too() {
        let folder = tempfile::tempdir().unwrap();
        let data_dir = DataDir::open(folder.path()).unwrap();
        let mut highest = Highest::open(&data_dir).unwrap();
        for order in [(0, 3), (0, 3), (0, 7), (1, 1)] {
            highest.accept(order).unwrap();
        }
        let mut highest = Highest::open(&data_dir).unwrap();
        for order in [(0, 9), (1, 0)] {
            assert!(matches!(highest.accept(order), Err(GenerationError::Older { .. })), "{order:?}");
        }
        highest.accept((1, 1)).unwrap();
    }
}
