//! Credentials that this process gets by itself. Claude logins in folders are found, and read again when they
//! change; written by [`crate::refresh`] alone. Workload identities are exchanged there and held here.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use la_core::credential::Credential;
use la_core::credential::claude::{FILE_NAMES, LoginError, SearchError, find_login};
use la_core::oauth::LoginFile;
use la_core::oauth::federation::{Assertion, Federation};
use la_core::secret::Secret;
use la_core::snapshot::{Backend, CredentialSource, Snapshot, credential_key};
use tokio::sync::watch;

/// Most bytes of such a file; a real one has about one kilobyte.
const MAX_BYTES: u64 = 1 << 20;

/// How often a file that is no JSON is read again, because another may just be writing it.
pub const TORN_READS: u32 = 3;

/// The pause before each of them.
pub const TORN_PAUSE: Duration = Duration::from_millis(50);

/// Why a folder gives no login. Never shows what is in its files.
#[derive(Debug, thiserror::Error)]
pub enum HomeError {
    #[error("no Claude login in {home}; log in with Claude Code, or give another folder")]
    None { home: PathBuf },
    #[error("{file} cannot be read: {error}")]
    Unreadable { file: PathBuf, error: io::Error },
    #[error("{file} {error}", error = .error)]
    Faulty { file: PathBuf, error: LoginError },
}

/// The login of a folder.
#[derive(Debug)]
pub struct Found {
    pub file: PathBuf,
    pub login: LoginFile,
}

/// A folder that a snapshot names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Folder<'a> {
    pub provider: &'a str,
    pub account: &'a str,
    pub path: &'a Path,
}

/// A workload identity that a snapshot names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity<'a> {
    pub provider: &'a str,
    pub account: &'a str,
    pub federation: &'a Federation,
    pub token_file: &'a Path,
}

/// The logins of all folders of a snapshot, and what its identities were exchanged for.
#[derive(Debug, Default)]
pub struct Logins {
    by_account: BTreeMap<String, Result<Credential, String>>,
    /// Whether a file was no JSON: another may just be writing it.
    pub is_torn: bool,
}

/// What is served beside what is in files.
#[derive(Debug, Default)]
pub struct Homes {
    /// What identities were exchanged for, by the key of their account.
    exchanged: Mutex<HashMap<String, Result<Credential, String>>>,
    /// Logins that were renewed and cannot be written so far, by their folder.
    unstored: Mutex<HashMap<PathBuf, LoginFile>>,
    changes: watch::Sender<u64>,
}

impl HomeError {
    /// Whether another may just be writing the file.
    pub fn is_torn(&self) -> bool {
        matches!(self, Self::Faulty { error: LoginError::NotJson { .. }, .. })
    }
}

/// The files of `home` that may hold a login.
pub fn candidates(home: &Path) -> impl Iterator<Item = PathBuf> {
    FILE_NAMES.iter().map(|name| home.join(name))
}

/// The folders of logins that a snapshot names.
pub fn folders(snapshot: &Snapshot) -> impl Iterator<Item = Folder<'_>> {
    snapshot.providers.iter().flat_map(|provider| {
        let Backend::Anthropic { accounts, .. } = &provider.backend;
        accounts.iter().filter_map(|account| match &account.credential {
            CredentialSource::Directory { path } => {
                Some(Folder { provider: &provider.name, account: &account.name, path: Path::new(path) })
            }
            CredentialSource::Published | CredentialSource::Identity { .. } => None,
        })
    })
}

/// The workload identities that a snapshot names.
pub fn identities(snapshot: &Snapshot) -> impl Iterator<Item = Identity<'_>> {
    snapshot.providers.iter().flat_map(|provider| {
        let Backend::Anthropic { accounts, .. } = &provider.backend;
        accounts.iter().filter_map(|account| match &account.credential {
            CredentialSource::Identity { federation, token_file } => Some(Identity {
                provider: &provider.name,
                account: &account.name,
                federation,
                token_file: Path::new(token_file),
            }),
            CredentialSource::Published | CredentialSource::Directory { .. } => None,
        })
    })
}

/// The login of a Claude home: that of the first file that has one.
///
/// # Errors
/// When no file has one, or one that comes before it cannot be read or understood.
pub fn find_home(home: &Path) -> Result<Found, HomeError> {
    let (mut last, mut unreadable) = (None, None);
    let found = find_login(|name| {
        if unreadable.is_some() {
            return None;
        }
        let file = home.join(name);
        match read(&file) {
            Ok(text) => {
                last = Some(text.clone());
                Some(text)
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => {
                unreadable = Some(HomeError::Unreadable { file, error });
                None
            }
        }
    });
    match (unreadable, found) {
        (_, Ok((name, _))) => {
            let file = home.join(name);
            // The search ends with the file that has the login.
            match LoginFile::read(last.unwrap_or_default()) {
                Ok(login) => Ok(Found { file, login }),
                Err(error) => Err(HomeError::Faulty { file, error }),
            }
        }
        (Some(error), Err(_)) => Err(error),
        (None, Err(SearchError::Faulty { name, error })) => {
            Err(HomeError::Faulty { file: home.join(name), error })
        }
        (None, Err(SearchError::NoToken { .. } | SearchError::NoFile)) => {
            Err(HomeError::None { home: home.to_owned() })
        }
    }
}

/// The same for whoever may wait: a file that another is writing is read again.
///
/// # Errors
/// As [`find_home`].
pub fn find_home_patiently(home: &Path) -> Result<Found, HomeError> {
    let mut found = find_home(home);
    for _ in 0..TORN_READS {
        if !found.as_ref().is_err_and(HomeError::is_torn) {
            break;
        }
        std::thread::sleep(TORN_PAUSE);
        found = find_home(home);
    }
    found
}

fn read(file: &Path) -> io::Result<Secret> {
    let size = std::fs::metadata(file)?.len();
    if size > MAX_BYTES {
        return Err(io::Error::other(format!("has {size} bytes, a credential has less than {MAX_BYTES}")));
    }
    std::fs::read_to_string(file).map(Secret::new)
}

/// The identity token in a file. Never shows what is in it.
///
/// # Errors
/// One sentence that names the file.
pub fn read_assertion(file: &Path) -> Result<Assertion, String> {
    let place = file.display();
    let text = read(file).map_err(|error| format!("identity token {place} cannot be read: {error}"))?;
    Assertion::read(text.expose()).map_err(|error| format!("identity token {place} {error}"))
}

impl Homes {
    /// Serves `login` as that of a folder whose file cannot be written.
    pub fn hold(&self, home: &Path, login: LoginFile) {
        self.with(|unstored| unstored.insert(home.to_owned(), login));
        self.poke();
    }

    /// Serves what is in the folder's file.
    pub fn release(&self, home: &Path) {
        self.with(|unstored| unstored.remove(home));
        self.poke();
    }

    /// Serves what the identity of an account was exchanged for, or says why there is nothing.
    pub fn set_exchanged(&self, key: &str, credential: Result<Credential, String>) {
        self.exchanged.lock().unwrap_or_else(PoisonError::into_inner).insert(key.to_owned(), credential);
        self.poke();
    }

    /// Serves nothing any more that the identity of an account was exchanged for.
    pub fn forget_exchanged(&self, key: &str) {
        self.exchanged.lock().unwrap_or_else(PoisonError::into_inner).remove(key);
        self.poke();
    }

    /// Sees a new number when a login is worth a look at once.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// How often anything has changed.
    pub fn changes(&self) -> u64 {
        *self.changes.borrow()
    }

    /// Reads every folder of a snapshot, and gives what its identities were exchanged for. The second account with one login gets none: renewed by both, it
    /// would be lost to both.
    pub fn read(&self, snapshot: &Snapshot) -> Logins {
        let mut logins = Logins::default();
        let mut seen: Vec<(String, LoginFile)> = Vec::new();
        for folder in folders(snapshot) {
            let key = folder.key();
            let unstored = self.with(|unstored| unstored.get(folder.path).cloned());
            let login = match unstored.map_or_else(|| find_home(folder.path).map(|found| found.login), Ok) {
                Err(error) => {
                    logins.is_torn |= error.is_torn();
                    Err(error.to_string())
                }
                Ok(login) => match seen.iter().find(|(_, other)| other.is_same_login(&login)) {
                    Some((other, _)) => Err(format!(
                        "{} holds the same login as account {other}; log in anew for one of them",
                        folder.path.display()
                    )),
                    None => {
                        let credential = login.credential();
                        seen.push((key.clone(), login));
                        Ok(credential)
                    }
                },
            };
            logins.by_account.insert(key, login);
        }
        let exchanged = self.exchanged.lock().unwrap_or_else(PoisonError::into_inner);
        for identity in identities(snapshot) {
            let key = identity.key();
            let unknown = || Err("its identity has not been exchanged yet".to_owned());
            let credential = exchanged.get(&key).cloned().unwrap_or_else(unknown);
            logins.by_account.insert(key, credential);
        }
        logins
    }

    fn poke(&self) {
        self.changes.send_modify(|number| *number = number.wrapping_add(1));
    }

    fn with<T>(&self, act: impl FnOnce(&mut HashMap<PathBuf, LoginFile>) -> T) -> T {
        act(&mut self.unstored.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Logins {
    /// The credential of an account, by its key, or why there is none.
    ///
    /// # Errors
    /// One sentence.
    pub fn of(&self, key: &str) -> Result<Credential, String> {
        let unread = || Err("its credential was not read".to_owned());
        self.by_account.get(key).cloned().unwrap_or_else(unread)
    }
}

impl Folder<'_> {
    /// What its account is called among all.
    pub fn key(&self) -> String {
        credential_key(self.provider, self.account)
    }
}

impl Identity<'_> {
    /// What its account is called among all.
    pub fn key(&self) -> String {
        credential_key(self.provider, self.account)
    }
}

#[cfg(test)]
mod tests {
    use la_core::snapshot::{Account, Provider};

    use super::*;

    #[test]
    fn first_file_with_a_token_gives_the_login() {
        let home = tempfile::tempdir().unwrap();
        std::fs::write(home.path().join("credentials.json"), r#"{"mcpOAuth":{}}"#).unwrap();
        std::fs::write(home.path().join("auth.json"), r#"{"accessToken":"sk-ant-oat01-second"}"#).unwrap();
        let login = r#"{"claudeAiOauth":{"accessToken":"sk-ant-oat01-first","expiresAt":1790000000000}}"#;
        std::fs::write(home.path().join(".credentials.json"), login).unwrap();
        let Found { file, login } = find_home(home.path()).unwrap();
        assert_eq!(file, home.path().join(".credentials.json"));
        assert_eq!(
            (login.access_token().expose(), login.expires_at()),
            ("sk-ant-oat01-first", Some(1_790_000_000))
        );
    }

    #[test]
    fn faulty_or_unreadable_file_ends_the_search_and_is_named() {
        let home = tempfile::tempdir().unwrap();
        assert!(matches!(find_home(home.path()), Err(HomeError::None { .. })));
        std::fs::write(home.path().join("auth.json"), r#"{"accessToken":"sk-ant-oat01-second"}"#).unwrap();
        std::fs::write(home.path().join("credentials.json"), "canary").unwrap();
        let error = find_home_patiently(home.path()).unwrap_err();
        assert!(error.is_torn());
        let error = error.to_string();
        assert!(error.contains("credentials.json") && !error.contains("canary"), "{error}");
        std::fs::remove_file(home.path().join("credentials.json")).unwrap();
        std::fs::create_dir(home.path().join("credentials.json")).unwrap();
        assert!(matches!(find_home(home.path()), Err(HomeError::Unreadable { .. })));
    }

    fn snapshot(homes: &[&Path]) -> Snapshot {
        let account = |(at, path): (usize, &&Path)| {
            Account::new(&format!("a{at}"), CredentialSource::Directory { path: path.display().to_string() })
        };
        let accounts = homes.iter().enumerate().map(account).collect();
        let provider = Provider::anthropic("vendor", "http://127.0.0.1:9", accounts);
        Snapshot { providers: vec![provider], ..Snapshot::empty("local/local") }
    }

    fn home(access: &str, refresh: &str) -> tempfile::TempDir {
        let home = tempfile::tempdir().unwrap();
        let text = format!(r#"{{"accessToken":"sk-ant-oat01-{access}","refreshToken":"{refresh}"}}"#);
        std::fs::write(home.path().join(".credentials.json"), text).unwrap();
        home
    }

    #[test]
    fn second_account_with_one_login_gets_none_and_is_named() {
        let (one, two, three) = (home("1", "r1"), home("2", "r2"), home("3", "r1"));
        let snapshot = snapshot(&[one.path(), two.path(), three.path(), two.path()]);
        let logins = Homes::default().read(&snapshot);
        let said: Vec<_> = folders(&snapshot).map(|folder| logins.of(&folder.key()).err()).collect();
        let [None, None, Some(third), Some(fourth)] = said.as_slice() else { panic!("{said:?}") };
        assert!(third.contains("the same login as account vendor/a0"), "{third}");
        assert!(fourth.contains("the same login as account vendor/a1"), "{fourth}");
    }

    #[test]
    fn login_that_cannot_be_written_is_served_until_it_is() {
        let (home, homes) = (home("1", "r1"), Homes::default());
        let snapshot = snapshot(&[home.path()]);
        let served = || {
            let logins = homes.read(&snapshot);
            let Ok(Credential::OAuth { access_token, .. }) = logins.of("vendor/a0") else { panic!() };
            access_token.expose().to_owned()
        };
        let changes = homes.changes();
        assert_eq!(served(), "sk-ant-oat01-1");
        let held = LoginFile::read(Secret::new(r#"{"accessToken":"sk-ant-oat01-held"}"#)).unwrap();
        homes.hold(home.path(), held);
        assert_eq!(served(), "sk-ant-oat01-held");
        homes.release(home.path());
        assert_eq!(served(), "sk-ant-oat01-1");
        assert_eq!(homes.changes(), changes + 2);
    }
}
