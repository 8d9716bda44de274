//! Whether files have changed, found out by looking at their metadata only.
//!
//! Cheap enough for ten looks a second, and the same on every file system; a mounted Secret that is swapped
//! by its `..data` link shows other inodes.

use std::collections::hash_map::DefaultHasher;
use std::fs;
use std::hash::{Hash as _, Hasher as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

/// Collects the state of files into one number.
#[derive(Default)]
pub(crate) struct Fingerprint(DefaultHasher);

impl Fingerprint {
    /// Adds a file or folder, whether it is there or not.
    pub(crate) fn add(&mut self, path: &Path) {
        match fs::metadata(path) {
            Ok(meta) => {
                (meta.dev(), meta.ino(), meta.size()).hash(&mut self.0);
                (meta.mtime(), meta.mtime_nsec(), meta.ctime(), meta.ctime_nsec()).hash(&mut self.0);
            }
            Err(error) => error.raw_os_error().hash(&mut self.0),
        }
    }

    /// Adds every file directly in a folder.
    pub(crate) fn add_folder(&mut self, folder: &Path) {
        self.add(folder);
        let Ok(entries) = fs::read_dir(folder) else { return };
        let mut names: Vec<_> = entries.filter_map(|entry| Some(entry.ok()?.file_name())).collect();
        names.sort();
        for name in names {
            name.hash(&mut self.0);
            self.add(&folder.join(name));
        }
    }

    /// The number; the same for the same state.
    pub(crate) fn value(&self) -> u64 {
        self.0.finish()
    }
}
