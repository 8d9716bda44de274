//! The records of all tokens, in one file that changes whole.

use std::collections::BTreeSet;
use std::io;
use std::path::PathBuf;
use std::sync::mpsc::sync_channel;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use la_core::budget::LimitsSpec;
use la_core::id::{IdError, TokenId};
use la_core::secret::Secret;
use la_core::token::{KeyError, VerifyingKey};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::key::random;
use super::{IssueRules, KeyFileError, LOCAL_PROXY, Origin, Record, Signing, agreement};
use crate::clock;
use crate::data_dir::{DataDir, read_optional, write_whole};
use crate::ledger::{Change, Named, SharedRecords};

const STORE_FILE: &str = "tokens.json";
const STORE_VERSION: u32 = 1;

/// How long a start waits for what other processes know of tokens.
const JOINED_WITHIN: Duration = Duration::from_secs(3);

/// Most records kept; the file is rewritten whole on every change.
const MAX_RECORDS: usize = 100_000;

/// The records, and the key that turns one into a text.
#[derive(Debug)]
pub struct TokenStore {
    path: PathBuf,
    signing: Signing,
    book: Mutex<Book>,
    changes: watch::Sender<u64>,
    /// Where records are that other processes have too, once this one has joined them.
    shared: OnceLock<SharedRecords>,
    /// What is demanded of tokens that are issued, where manifests say it.
    rules: Mutex<Option<Arc<IssueRules>>>,
}

/// What a new token is to be.
#[derive(Debug, Clone)]
pub struct NewToken {
    /// Namespace and name of its RouterToken; without them it gets one of its own.
    pub place: Option<(String, String)>,
    pub label: String,
    pub lifetime_seconds: i64,
    pub max_requests: Option<u64>,
    pub origin: Origin,
}

/// Why the store cannot do what it was asked for. Nothing has changed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("token store {path} cannot be {what}: {error}")]
    Io { path: PathBuf, what: &'static str, error: io::Error },
    #[error(
        "token store {path} is damaged: {reason}; restore it, or move it away, which ends every token issued so far"
    )]
    Damaged { path: PathBuf, reason: String },
    #[error("token store is full with {MAX_RECORDS} records")]
    Full,
    #[error("there is no token {0}")]
    Unknown(String),
    #[error(transparent)]
    Key(#[from] KeyFileError),
    #[error("name of the token {0}")]
    Name(#[from] IdError),
    #[error(transparent)]
    Sign(#[from] KeyError),
    #[error("{}", .0.join("; "))]
    NotAdmitted(Vec<String>),
    #[error("tokens are shared through a Redis, which does not answer for them: {0}")]
    Shared(String),
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Book {
    version: u32,
    /// `namespace/name` of the proxy that new tokens are for.
    proxy: String,
    tokens: Vec<Record>,
    /// `namespace/name` of each RouterToken whose manifest is or was here, once records are shared: with those of
    /// others this process has nothing to do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    manifests: Option<BTreeSet<String>>,
}

impl TokenStore {
    /// Opens the store of a data folder. A missing file is an empty store.
    ///
    /// # Errors
    /// When the file is there and cannot be used; it is then left as it is.
    pub fn open(data_dir: &DataDir, signing: Signing) -> Result<Self, StoreError> {
        let path = data_dir.file(STORE_FILE);
        let bytes = read_optional(&path).map_err(|error| StoreError::Io {
            path: path.clone(),
            what: "read",
            error,
        })?;
        let book = match bytes {
            None => Book {
                version: STORE_VERSION,
                proxy: LOCAL_PROXY.to_owned(),
                tokens: Vec::new(),
                manifests: None,
            },
            Some(bytes) => {
                read_book(&bytes).map_err(|reason| StoreError::Damaged { path: path.clone(), reason })?
            }
        };
        Ok(Self {
            path,
            signing,
            book: Mutex::new(book),
            changes: watch::Sender::new(0),
            shared: OnceLock::new(),
            rules: Mutex::default(),
        })
    }

    /// Every key whose tokens are believed.
    pub fn verifying(&self) -> &[VerifyingKey] {
        self.signing.verifying()
    }

    /// Sees a new number after every change.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Issues new tokens for the proxy `namespace/name` from now on. Older ones keep theirs.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn serve_as(&self, proxy: &str) -> Result<(), StoreError> {
        if self.lock().proxy == proxy {
            return Ok(());
        }
        self.change(|book| {
            book.proxy = proxy.to_owned();
            Ok(())
        })
    }

    /// Issues tokens by these rules from now on.
    pub fn issue_by(&self, rules: IssueRules) {
        *self.rules.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(rules));
    }

    /// Most requests in the whole life of a token, by its own limit or its proxy's.
    pub fn max_requests(&self, record: &Record) -> Option<u64> {
        let judged = self.judge(record).ok().flatten();
        judged.map_or(record.max_requests, |limits| {
            limits.max_requests.and_then(|most| u64::try_from(most).ok())
        })
    }

    /// The limits in force for an issued token, where manifests say them.
    fn judge(&self, record: &Record) -> Result<Option<LimitsSpec>, StoreError> {
        let rules = self.rules.lock().unwrap_or_else(PoisonError::into_inner).clone();
        rules.map(|rules| rules.judge(record)).transpose().map_err(StoreError::NotAdmitted)
    }

    /// Shares the records of the proxy that is served with all processes that serve it, from now on. Waits until
    /// theirs are known, or the server has not told them for some seconds: what is in the file is served until it
    /// does. Again is nothing.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn join(self: &Arc<Self>, shared: &SharedRecords) -> Result<(), StoreError> {
        if self.shared.get().is_some() {
            return Ok(());
        }
        self.change(|book| {
            let minted = book.tokens.iter().filter(|record| record.origin != Origin::Issued);
            let here = minted.map(|record| format!("{}/{}", record.namespace, record.name)).collect();
            book.manifests.get_or_insert(here);
            Ok(())
        })?;
        self.shared.get_or_init(|| shared.clone());
        let (sender, heard) = sync_channel(1);
        let (store, proxy) = (Arc::downgrade(self), self.lock().proxy.clone());
        let hears = move |all: Vec<Named>| {
            let changes = store.upgrade().map(|store| store.take_in(&all)).unwrap_or_default();
            // Who does not wait any more finds it all the same.
            let _ = sender.try_send(());
            changes
        };
        shared.follow(proxy.rsplit('/').next().unwrap_or_default(), Box::new(hears));
        let _ = heard.recv_timeout(JOINED_WITHIN);
        Ok(())
    }

    /// Whether the manifest of the RouterToken `namespace/name` is or was here, and not only at other processes.
    pub fn has_manifest(&self, namespace: &str, name: &str) -> bool {
        let book = self.lock();
        book.manifests.as_ref().is_none_or(|here| here.contains(&format!("{namespace}/{name}")))
    }

    /// Notes of which RouterTokens, by namespace and name, the manifests are here now.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn note_manifests(&self, present: &BTreeSet<(String, String)>) -> Result<(), StoreError> {
        self.change(|book| {
            if let Some(here) = &mut book.manifests {
                *here = present.iter().map(|(namespace, name)| format!("{namespace}/{name}")).collect();
            }
            Ok(())
        })
    }

    /// Takes in what all processes know. Gives what they do not know yet.
    fn take_in(&self, all: &[Named]) -> Vec<Change> {
        let mut wanted = Vec::new();
        let taken = self.change(|book| {
            wanted = agreement::take_in(&mut book.tokens, &book.proxy, all, clock::unix_seconds());
            Ok(())
        });
        if let Err(error) = taken {
            tracing::error!("what other processes know of tokens is not served: {error}");
        }
        wanted
    }

    /// Records of the proxy that is served, in the order of their issue.
    pub fn records(&self) -> Vec<Record> {
        let book = self.lock();
        book.tokens.iter().filter(|record| record.proxy == book.proxy).cloned().collect()
    }

    /// Records that were issued for another proxy and are not served.
    pub fn foreign(&self) -> usize {
        let book = self.lock();
        book.tokens.iter().filter(|record| record.proxy != book.proxy).count()
    }

    /// The record called `id`.
    ///
    /// # Errors
    /// When there is none.
    pub fn record(&self, id: &str) -> Result<Record, StoreError> {
        let found = self.records().into_iter().find(|record| record.id.as_str() == id);
        found.ok_or_else(|| StoreError::Unknown(id.to_owned()))
    }

    /// The text of a record.
    ///
    /// # Errors
    /// When a name in it is not printable ASCII.
    pub fn text(&self, record: &Record) -> Result<Secret, StoreError> {
        Ok(self.signing.mint(&record.claims()?)?)
    }

    /// Issues a token at `now` (Unix seconds).
    ///
    /// # Errors
    /// When the proxy does not admit it, or the store is full or cannot be written.
    pub fn issue(&self, new: NewToken, now: i64) -> Result<Record, StoreError> {
        let shared = self.shared.get();
        if let (Some(shared), Some(place)) = (shared, &new.place) {
            return self.mint_together(shared, place, &new, now);
        }
        let proxy = self.lock().proxy.clone();
        let record = new_record(&proxy, TokenId::from_random(random()?), new, now)?;
        if record.origin == Origin::Issued {
            self.judge(&record)?;
        }
        match shared {
            Some(shared) => self.keep(agreement::create(shared, &record)?, now),
            None => self.keep(record, now),
        }
    }

    /// Mints the first text of a RouterToken that no process has minted yet, or takes what another mints meanwhile.
    fn mint_together(
        &self,
        shared: &SharedRecords,
        (namespace, name): &(String, String),
        new: &NewToken,
        now: i64,
    ) -> Result<Record, StoreError> {
        let known: BTreeSet<TokenId> = self.records().into_iter().map(|record| record.id).collect();
        let proxy = self.lock().proxy.clone();
        let ids = (1..=MAX_RECORDS as u64).map(|epoch| agreement::id_of(&proxy, (namespace, name), epoch));
        for id in ids.filter(|id| !known.contains(id)) {
            let wanted = new_record(&proxy, id, new.clone(), now)?;
            let record = self.keep(agreement::create(shared, &wanted)?, now)?;
            if record.is_live(now) && record.origin == new.origin {
                return Ok(record);
            }
        }
        Err(StoreError::Full)
    }

    fn keep(&self, record: Record, now: i64) -> Result<Record, StoreError> {
        self.change(|book| {
            // It may have come from the other processes already.
            book.tokens.retain(|known| known.id != record.id && !known.is_forgotten(now));
            if book.tokens.len() >= MAX_RECORDS {
                return Err(StoreError::Full);
            }
            book.tokens.push(record.clone());
            Ok(record)
        })
    }

    /// Refuses a token from `now` on. Again is no error.
    ///
    /// # Errors
    /// When there is none, or the file cannot be written.
    pub fn revoke(&self, id: &str, now: i64) -> Result<Record, StoreError> {
        self.edit(id, |record| record.revoked_at = record.revoked_at.or(Some(now)))
    }

    /// Lets a token end at `now`, unless it has ended before.
    ///
    /// # Errors
    /// When there is none, or the file cannot be written.
    pub fn expire(&self, id: &str, now: i64) -> Result<Record, StoreError> {
        self.edit(id, |record| record.expires_at = record.expires_at.min(now))
    }

    fn edit(&self, id: &str, edit: impl Fn(&mut Record)) -> Result<Record, StoreError> {
        let agreed = match self.shared.get() {
            None => None,
            Some(shared) => {
                let mut record = self.record(id)?;
                edit(&mut record);
                Some(agreement::agree(shared, &record)?)
            }
        };
        self.change(|book| {
            let proxy = book.proxy.clone();
            let found =
                book.tokens.iter_mut().find(|record| record.id.as_str() == id && record.proxy == proxy);
            let record = found.ok_or_else(|| StoreError::Unknown(id.to_owned()))?;
            match agreed {
                Some(agreed) => *record = agreement::merged(&agreed, record),
                None => edit(record),
            }
            Ok(record.clone())
        })
    }

    /// Changes a copy, writes it if it differs, and only then believes it.
    fn change<T>(&self, change: impl FnOnce(&mut Book) -> Result<T, StoreError>) -> Result<T, StoreError> {
        let mut book = self.lock();
        let mut next = book.clone();
        let result = change(&mut next)?;
        if next == *book {
            return Ok(result);
        }
        let io = |error| StoreError::Io { path: self.path.clone(), what: "written", error };
        let text = serde_json::to_vec_pretty(&next).map_err(|e| io(io::Error::other(e)))?;
        write_whole(&self.path, &text).map_err(io)?;
        *book = next;
        drop(book);
        self.changes.send_modify(|number| *number = number.wrapping_add(1));
        Ok(result)
    }

    fn lock(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn new_record(proxy: &str, id: TokenId, new: NewToken, now: i64) -> Result<Record, StoreError> {
    let local = || (proxy.split('/').next().unwrap_or_default().to_owned(), id.to_string());
    let (namespace, name) = new.place.unwrap_or_else(local);
    let record = Record {
        proxy: proxy.to_owned(),
        namespace,
        name,
        label: new.label,
        issued_at: now,
        expires_at: now.saturating_add(new.lifetime_seconds),
        revoked_at: None,
        max_requests: new.max_requests,
        origin: new.origin,
        id,
    };
    record.subject()?;
    Ok(record)
}

fn read_book(bytes: &[u8]) -> Result<Book, String> {
    let book: Book = serde_json::from_slice(bytes).map_err(|e| e.to_string())?;
    if book.version == STORE_VERSION {
        Ok(book)
    } else {
        Err(format!("its version is {}, this la-router reads {STORE_VERSION} only", book.version))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_790_000_000;

    fn new(label: &str) -> NewToken {
        NewToken {
            place: None,
            label: label.to_owned(),
            lifetime_seconds: 3_600,
            max_requests: Some(2),
            origin: Origin::Issued,
        }
    }

    fn open(folder: &std::path::Path) -> (DataDir, TokenStore) {
        let data_dir = DataDir::open(folder).unwrap();
        let signing = Signing::open(&data_dir, None).unwrap();
        let store = TokenStore::open(&data_dir, signing).unwrap();
        (data_dir, store)
    }

    #[test]
    fn text_of_a_token_follows_from_key_and_record_after_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let (held, store) = open(folder.path());
        let record = store.issue(new("a"), NOW).unwrap();
        let text = store.text(&record).unwrap();
        let audience = la_core::snapshot::audience_of(LOCAL_PROXY);
        let parsed = la_core::token::parse(text.expose()).unwrap();
        assert!(parsed.verify(store.verifying(), &audience, NOW).is_ok());
        drop((held, store));
        let (_held, store) = open(folder.path());
        assert_eq!(store.text(&store.record(record.id.as_str()).unwrap()).unwrap(), text);
        let file = std::fs::read_to_string(folder.path().join(STORE_FILE)).unwrap();
        assert!(!file.contains("la_sk_"), "a token's text was stored");
    }

    #[test]
    fn revoked_and_expired_tokens_stay_so() {
        let folder = tempfile::tempdir().unwrap();
        let (_held, store) = open(folder.path());
        let (a, b) = (store.issue(new("a"), NOW).unwrap(), store.issue(new("b"), NOW).unwrap());
        store.revoke(a.id.as_str(), NOW + 1).unwrap();
        assert_eq!(store.revoke(a.id.as_str(), NOW + 9).unwrap().revoked_at, Some(NOW + 1));
        assert_eq!(store.expire(b.id.as_str(), NOW).unwrap().expires_at, NOW);
        let ids: Vec<_> = store.records().iter().map(Record::issued_id).collect();
        assert!(ids.iter().all(|id| id.revoked && id.not_before < id.not_after), "{ids:?}");
        assert!(matches!(store.revoke("nobody", NOW), Err(StoreError::Unknown(_))));
    }

    #[test]
    fn damaged_store_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join(STORE_FILE), "{\"version\":1").unwrap();
        let data_dir = DataDir::open(folder.path()).unwrap();
        let signing = Signing::open(&data_dir, None).unwrap();
        let error = TokenStore::open(&data_dir, signing).unwrap_err();
        assert!(matches!(error, StoreError::Damaged { .. }), "{error}");
        assert_eq!(std::fs::read_to_string(folder.path().join(STORE_FILE)).unwrap(), "{\"version\":1");
    }

    #[test]
    fn tokens_of_another_proxy_are_not_served() {
        let folder = tempfile::tempdir().unwrap();
        let (_held, store) = open(folder.path());
        store.issue(new("a"), NOW).unwrap();
        store.serve_as("platform/gateway").unwrap();
        assert_eq!((store.records().len(), store.foreign()), (0, 1));
        let record = store.issue(new("b"), NOW).unwrap();
        assert_eq!(record.subject().unwrap().as_str(), format!("gateway/platform/{}", record.id));
    }
}
