//! One provider told by flags and environment, and the tokens that were issued here.

use std::sync::Arc;

use la_core::budget::LimitsSpec;
use la_core::credential::{Credential, Credentials};
use la_core::snapshot::{Account, CredentialSource, Provider, Route, Snapshot, TokenRecord, credential_key};
use tokio::sync::watch;

use super::{FromManifest, Generations, LoadError, Loaded};
use crate::settings::UpstreamSettings;
use crate::tokens::{LOCAL_PROXY, Origin, TokenStore};

const PROVIDER: &str = "anthropic";
const SETUP_TOKEN_ACCOUNT: &str = "setup-token";
const KEY_ACCOUNT: &str = "api-key";
const IDENTITY_ACCOUNT: &str = "workload-identity";

/// The priority of what is paid by the request, behind subscriptions.
const PAID: u32 = 1;

/// The provider and the tokens.
pub struct Flags {
    upstream: UpstreamSettings,
    tokens: Arc<TokenStore>,
    changes: watch::Receiver<u64>,
}

impl Flags {
    pub fn new(upstream: UpstreamSettings, tokens: Arc<TokenStore>) -> Self {
        let changes = tokens.subscribe();
        Self { upstream, tokens, changes }
    }

    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.clone()
    }

    pub fn fingerprint(&self) -> u64 {
        *self.changes.borrow()
    }

    /// What flags and store say now.
    ///
    /// # Errors
    /// When nothing of it can be served.
    pub fn load(&self) -> Result<Loaded, LoadError> {
        let mut faults = Vec::new();
        let mut snapshot = Snapshot::empty(LOCAL_PROXY);
        snapshot.keys = self.tokens.verifying().to_vec();
        snapshot.tokens = token_records(&self.tokens, &mut faults);
        snapshot.providers = vec![self.provider()];
        snapshot.routes = vec![Route::to(PROVIDER, Vec::new())];
        let (snapshot, left_out) = snapshot.checked().map_err(|fault| LoadError(vec![fault.to_string()]))?;
        faults.extend(left_out.iter().map(ToString::to_string));
        Ok(Loaded {
            snapshot,
            credentials: self.credentials(),
            faults,
            generations: Generations::Ours,
            told: FromManifest::default(),
        })
    }

    fn provider(&self) -> Provider {
        let login = |login: &crate::settings::LoginDirectory| {
            let path = login.path.to_string_lossy().into_owned();
            Account::new(&login.account, CredentialSource::Directory { path })
        };
        let credentials = self.published();
        // What is paid by the request waits for when no subscription can serve.
        let published = credentials.iter().map(|(name, credential)| Account {
            priority: if matches!(credential, Credential::ApiKey { .. }) { PAID } else { 0 },
            ..Account::new(name, CredentialSource::Published)
        });
        let identity = self.upstream.identity.iter().map(|identity| {
            let (federation, token_file) =
                (identity.federation.clone(), identity.token_file.to_string_lossy());
            let token_file = token_file.into_owned();
            Account {
                priority: PAID,
                ..Account::new(IDENTITY_ACCOUNT, CredentialSource::Identity { federation, token_file })
            }
        });
        let accounts = self.upstream.logins.iter().map(login).chain(published).chain(identity);
        Provider::anthropic(PROVIDER, &self.upstream.base_url, accounts.collect())
    }

    fn credentials(&self) -> Credentials {
        let keyed = |(name, credential): (String, Credential)| (credential_key(PROVIDER, &name), credential);
        self.published().into_iter().map(keyed).collect()
    }

    /// Accounts whose credential was told.
    fn published(&self) -> Vec<(String, Credential)> {
        let UpstreamSettings { setup_token, api_key, .. } = &self.upstream;
        let token = setup_token.iter().map(|token| {
            let credential = Credential::OAuth { access_token: token.clone(), expires_at: None };
            (SETUP_TOKEN_ACCOUNT.to_owned(), credential)
        });
        let key = api_key.iter().map(|key| (KEY_ACCOUNT.to_owned(), Credential::ApiKey { key: key.clone() }));
        token.chain(key).collect()
    }
}

/// The tokens that were issued on the command line or over the admin API, as a snapshot has them.
fn token_records(tokens: &TokenStore, faults: &mut Vec<String>) -> Vec<TokenRecord> {
    let mut found = Vec::new();
    for record in tokens.records().into_iter().filter(|record| record.origin == Origin::Issued) {
        match record.subject() {
            Ok(subject) => {
                let limits = Arc::new(LimitsSpec::of_requests(record.max_requests));
                let issued = TokenRecord::new(subject, vec![record.issued_id()], limits);
                found.push(TokenRecord { label: record.label.clone(), ..issued });
            }
            Err(error) => faults.push(format!("token {}: name {error}", record.id)),
        }
    }
    found
}
