//! Tokens of manifests: minted, renewed before they end, revoked when their manifest goes away.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

use la_core::duration;
use la_core::snapshot::IssuedId;
use la_crds::RouterToken;
use la_crds::router_token::{Output, ReclaimPolicy};

use super::outputs;
use super::{NewToken, Origin, Record, StoreError, TokenStore};

/// Keeps the texts and files of RouterTokens.
pub struct Minter {
    store: Arc<TokenStore>,
    tokens_dir: PathBuf,
    /// What agents use as base URL.
    base_url: String,
}

/// What a RouterToken asks for.
#[derive(Debug, Clone)]
pub struct Wanted {
    pub namespace: String,
    pub name: String,
    label: String,
    lifetime_seconds: i64,
    renew_before_seconds: i64,
    suspended: bool,
    retain: bool,
    outputs: Vec<Output>,
    max_requests: Option<u64>,
}

impl Wanted {
    /// Reads a RouterToken whose shape was checked.
    ///
    /// # Errors
    /// When a duration in it cannot be read.
    pub fn of(token: &RouterToken) -> Result<Self, String> {
        let spec = &token.spec;
        let seconds = |text: &str| {
            let found = duration::parse(text).map_err(|e| e.to_string())?;
            i64::try_from(found.as_secs()).map_err(|e| e.to_string())
        };
        let lifetime_seconds = seconds(&spec.duration)?;
        let renew_before_seconds = match (&spec.renew_before, spec.renew_before_percentage) {
            (Some(text), _) => seconds(text)?,
            (None, Some(percent)) => lifetime_seconds.saturating_mul(i64::from(percent)) / 100,
            (None, None) => lifetime_seconds / 3,
        };
        Ok(Self {
            namespace: token.metadata.namespace.clone().unwrap_or_default(),
            name: token.metadata.name.clone().unwrap_or_default(),
            label: spec.label.clone(),
            lifetime_seconds,
            renew_before_seconds,
            suspended: spec.suspend,
            retain: spec.reclaim_policy == ReclaimPolicy::Retain,
            outputs: spec.outputs.clone(),
            max_requests: spec.limits.max_requests.and_then(|most| u64::try_from(most).ok()),
        })
    }

    fn place(&self) -> (String, String) {
        (self.namespace.clone(), self.name.clone())
    }

    fn renewal_at(&self, record: &Record) -> i64 {
        record.expires_at.saturating_sub(self.renew_before_seconds)
    }
}

impl Minter {
    pub fn new(store: Arc<TokenStore>, tokens_dir: PathBuf, base_url: String) -> Self {
        Self { store, tokens_dir, base_url }
    }

    /// The texts minted for one RouterToken.
    pub fn ids(&self, namespace: &str, name: &str) -> Vec<IssuedId> {
        let records = self.store.records();
        let minted = records.iter().filter(|record| is_minted(record));
        minted.filter(|r| r.namespace == namespace && r.name == name).map(Record::issued_id).collect()
    }

    /// Mints and renews what is wanted, and writes its files. Gives what failed, one sentence each.
    pub fn mint(&self, wanted: &[Wanted], now: i64) -> Vec<String> {
        let mut failed = Vec::new();
        for token in wanted.iter().filter(|token| !token.suspended) {
            if let Err(error) = self.mint_one(token, now) {
                failed.push(format!("RouterToken {}/{}: {error}", token.namespace, token.name));
            }
        }
        failed
    }

    /// Revokes what belongs to no RouterToken any more, and removes its files. Gives what failed.
    pub fn revoke_gone(&self, present: &BTreeSet<(String, String)>, now: i64) -> Vec<String> {
        let mut failed = Vec::new();
        for record in self.store.records().iter().filter(|record| is_minted(record) && record.is_live(now)) {
            let is_present = present.contains(&(record.namespace.clone(), record.name.clone()));
            if is_present || !self.store.has_manifest(&record.namespace, &record.name) {
                continue;
            }
            if let Err(error) = self.revoke_one(record, now) {
                failed.push(format!("RouterToken {}/{} is gone: {error}", record.namespace, record.name));
            }
        }
        // What could not be revoked is still this process's to revoke.
        if failed.is_empty()
            && let Err(error) = self.store.note_manifests(present)
        {
            failed.push(error.to_string());
        }
        failed
    }

    /// When the next renewal is due, in Unix seconds.
    pub fn next_due(&self, wanted: &[Wanted], now: i64) -> Option<i64> {
        let records = self.store.records();
        let due = |token: &Wanted| current(&records, token, now).map(|record| token.renewal_at(record));
        wanted.iter().filter(|token| !token.suspended).filter_map(due).min()
    }

    fn mint_one(&self, token: &Wanted, now: i64) -> Result<(), String> {
        let records = self.store.records();
        let fresh = current(&records, token, now).filter(|record| now < token.renewal_at(record));
        let record = match fresh {
            Some(record) => record.clone(),
            None => {
                let minted = self.issue(token, now).map_err(|e| e.to_string())?;
                let name = format!("{}/{}", token.namespace, token.name);
                tracing::info!(token.id = %minted.id, "minted a token for RouterToken {name}");
                minted
            }
        };
        let text = self.store.text(&record).map_err(|e| e.to_string())?;
        let folder = outputs::folder(&self.tokens_dir, &token.namespace, &token.name);
        outputs::write(&folder, &token.outputs, &text, &self.base_url)
            .map_err(|e| format!("{} cannot be written: {e}", folder.display()))
    }

    fn issue(&self, token: &Wanted, now: i64) -> Result<Record, StoreError> {
        let origin = Origin::Manifest { duration_seconds: token.lifetime_seconds, retain: token.retain };
        let new = NewToken {
            place: Some(token.place()),
            label: token.label.clone(),
            lifetime_seconds: token.lifetime_seconds,
            max_requests: token.max_requests,
            origin,
        };
        self.store.issue(new, now)
    }

    fn revoke_one(&self, record: &Record, now: i64) -> Result<(), String> {
        self.store.revoke(record.id.as_str(), now).map_err(|e| e.to_string())?;
        let name = format!("{}/{}", record.namespace, record.name);
        tracing::info!(token.id = %record.id, "revoked the token of RouterToken {name}, whose manifest is gone");
        let folder = outputs::folder(&self.tokens_dir, &record.namespace, &record.name);
        if matches!(record.origin, Origin::Manifest { retain: true, .. }) {
            return Ok(());
        }
        outputs::remove(&folder).map_err(|e| format!("{} cannot be removed: {e}", folder.display()))
    }
}

fn is_minted(record: &Record) -> bool {
    matches!(record.origin, Origin::Manifest { .. })
}

/// The newest text that works and has the life that is asked for.
fn current<'a>(records: &'a [Record], token: &Wanted, now: i64) -> Option<&'a Record> {
    let ours =
        records.iter().filter(|r| r.namespace == token.namespace && r.name == token.name && r.is_live(now));
    let alike = ours.filter(|record| {
        matches!(record.origin, Origin::Manifest { duration_seconds, .. } if duration_seconds == token.lifetime_seconds)
    });
    alike.max_by(|a, b| (a.expires_at, &a.id).cmp(&(b.expires_at, &b.id)))
}

#[cfg(test)]
mod tests {
    use super::super::Signing;
    use super::*;
    use crate::data_dir::DataDir;

    const NOW: i64 = 1_790_000_000;

    struct Setup {
        _held: DataDir,
        folder: tempfile::TempDir,
        minter: Minter,
    }

    fn setup() -> Setup {
        let folder = tempfile::tempdir().unwrap();
        let data_dir = DataDir::open(folder.path()).unwrap();
        let store = TokenStore::open(&data_dir, Signing::open(&data_dir, None).unwrap()).unwrap();
        let minter =
            Minter::new(Arc::new(store), folder.path().join("tokens"), "http://127.0.0.1:8080".to_owned());
        Setup { _held: data_dir, folder, minter }
    }

    fn wanted(outputs: &[Output]) -> Wanted {
        Wanted {
            namespace: "team-a".to_owned(),
            name: "agent".to_owned(),
            label: String::new(),
            lifetime_seconds: 3_600,
            renew_before_seconds: 1_200,
            suspended: false,
            retain: false,
            outputs: outputs.to_vec(),
            max_requests: None,
        }
    }

    #[test]
    fn token_is_minted_once_and_renewed_before_its_end() {
        let setup = setup();
        let (minter, token) = (&setup.minter, wanted(&[Output::Token, Output::AnthropicEnv]));
        assert_eq!(minter.mint(std::slice::from_ref(&token), NOW), Vec::<String>::new());
        assert_eq!(minter.mint(std::slice::from_ref(&token), NOW + 2_399), Vec::<String>::new());
        assert_eq!(minter.ids("team-a", "agent").len(), 1);
        assert_eq!(minter.next_due(std::slice::from_ref(&token), NOW), Some(NOW + 2_400));
        let folder = setup.folder.path().join("tokens/team-a/agent");
        let first = std::fs::read_to_string(folder.join("token")).unwrap();
        minter.mint(std::slice::from_ref(&token), NOW + 2_400);
        assert_eq!(minter.ids("team-a", "agent").len(), 2, "the old text lives to its own end");
        let second = std::fs::read_to_string(folder.join("token")).unwrap();
        assert!(first.starts_with("la_sk_") && second.starts_with("la_sk_") && first != second);
        assert_eq!(std::fs::read_to_string(folder.join("ANTHROPIC_AUTH_TOKEN")).unwrap(), second);
        assert_eq!(
            std::fs::read_to_string(folder.join("ANTHROPIC_BASE_URL")).unwrap(),
            "http://127.0.0.1:8080"
        );
        minter.mint(&[wanted(&[Output::Token])], NOW + 2_400);
        assert!(!folder.join("ANTHROPIC_AUTH_TOKEN").exists(), "an output that is no longer wanted goes");
    }

    #[test]
    fn token_whose_manifest_is_gone_is_revoked_and_its_files_removed() {
        let setup = setup();
        let token = wanted(&[Output::Token]);
        setup.minter.mint(std::slice::from_ref(&token), NOW);
        assert_eq!(setup.minter.revoke_gone(&BTreeSet::from([token.place()]), NOW), Vec::<String>::new());
        assert!(!setup.minter.ids("team-a", "agent")[0].revoked);
        setup.minter.revoke_gone(&BTreeSet::new(), NOW);
        assert!(setup.minter.ids("team-a", "agent")[0].revoked);
        assert!(!setup.folder.path().join("tokens/team-a/agent").exists());
        setup.minter.mint(&[token], NOW + 1);
        let ids = setup.minter.ids("team-a", "agent");
        assert_eq!((ids.len(), ids[1].revoked), (2, false), "a manifest that comes back gets a new text");
    }
}
