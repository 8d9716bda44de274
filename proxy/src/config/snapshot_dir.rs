//! The snapshot that an operator writes: two files in a folder, usually a mounted Secret.

use std::io;
use std::path::{Path, PathBuf};

use la_core::credential::Credentials;
use la_core::snapshot::{CREDENTIALS_FILE, CredentialSource, SNAPSHOT_FILE, Snapshot};
use serde::de::DeserializeOwned;

use super::fingerprint::Fingerprint;
use super::{FromManifest, Generations, LoadError, Loaded};

/// Where the kubelet keeps the files of one version of a mounted Secret.
const VERSION_LINK: &str = "..data";

/// The folder.
#[derive(Debug)]
pub struct SnapshotDir {
    dir: PathBuf,
}

impl SnapshotDir {
    pub fn new(dir: PathBuf) -> Self {
        Self { dir }
    }

    pub fn fingerprint(&self) -> u64 {
        let mut print = Fingerprint::default();
        print.add(&self.dir.join(SNAPSHOT_FILE));
        print.add(&self.dir.join(CREDENTIALS_FILE));
        print.value()
    }

    /// Reads both files from one version of the folder.
    ///
    /// # Errors
    /// When one is missing or is not what it should be; never shows what is in them.
    pub fn load(&self) -> Result<Loaded, LoadError> {
        let version = std::fs::canonicalize(self.dir.join(VERSION_LINK)).unwrap_or_else(|_| self.dir.clone());
        let snapshot: Snapshot = read(&version.join(SNAPSHOT_FILE))?;
        let credentials: Credentials = read(&version.join(CREDENTIALS_FILE))?;
        let (mut snapshot, faults) =
            snapshot.checked().map_err(|fault| LoadError(vec![fault.to_string()]))?;
        let mut faults: Vec<String> = faults.iter().map(ToString::to_string).collect();
        leave_out_files(&mut snapshot, &mut faults);
        Ok(Loaded {
            snapshot,
            credentials,
            faults,
            generations: Generations::Theirs,
            told: FromManifest::default(),
        })
    }
}

/// An operator never tells a pod to read its own file system; a snapshot that does is not the operator's.
fn leave_out_files(snapshot: &mut Snapshot, faults: &mut Vec<String>) {
    for provider in &mut snapshot.providers {
        let la_core::snapshot::Backend::Anthropic { accounts, .. } = &mut provider.backend;
        accounts.retain(|account| {
            let published = matches!(account.credential, CredentialSource::Published);
            if !published {
                let (provider, account) = (&provider.name, &account.name);
                faults.push(format!(
                    "provider {provider}: account {account}: its credential is not read from files in a cluster"
                ));
            }
            published
        });
    }
}

fn read<T: DeserializeOwned>(path: &Path) -> Result<T, LoadError> {
    let fail = |message: String| LoadError(vec![format!("{}: {message}", path.display())]);
    let bytes = std::fs::read(path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => fail("is not there yet".to_owned()),
        _ => fail(format!("cannot be read: {error}")),
    })?;
    // The parser's message may quote a value, and the value may be a credential.
    serde_json::from_slice(&bytes)
        .map_err(|e| fail(format!("is not readable (line {}, column {})", e.line(), e.column())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_files_are_read_from_the_version_that_the_link_names() {
        let folder = tempfile::tempdir().unwrap();
        let version = folder.path().join("..2026");
        std::fs::create_dir(&version).unwrap();
        std::os::unix::fs::symlink("..2026", folder.path().join(VERSION_LINK)).unwrap();
        let snapshot = serde_json::to_vec(&Snapshot::empty("platform/gateway")).unwrap();
        std::fs::write(version.join(SNAPSHOT_FILE), snapshot).unwrap();
        std::fs::write(version.join(CREDENTIALS_FILE), "{}").unwrap();
        let loaded = SnapshotDir::new(folder.path().to_owned()).load().unwrap();
        assert_eq!(loaded.snapshot.proxy, "platform/gateway");
    }

    #[test]
    fn unreadable_credentials_are_named_and_not_shown() {
        let folder = tempfile::tempdir().unwrap();
        let snapshot = serde_json::to_vec(&Snapshot::empty("platform/gateway")).unwrap();
        std::fs::write(folder.path().join(SNAPSHOT_FILE), snapshot).unwrap();
        std::fs::write(folder.path().join(CREDENTIALS_FILE), r#"{"a/b":"sk-ant-canary"}"#).unwrap();
        let error = SnapshotDir::new(folder.path().to_owned()).load().unwrap_err();
        assert!(error.0[0].contains(CREDENTIALS_FILE) && !error.0[0].contains("canary"), "{error:?}");
    }
}
