//! From a Secret and the reference to it to a credential.

use std::collections::BTreeMap;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use la_core::credential::{Credential, claude};
use la_core::oauth::LoginFile;
use la_core::secret::Secret as Hidden;

use crate::conditions::reason;
use crate::upstream_provider::{AccountCredential, SecretRef};

/// Why there is no credential.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Unresolved {
    /// The field, from the account on: `credential.oauth.secretRef.name`.
    pub(super) field: &'static str,
    /// One of [`reason`].
    pub(super) reason: &'static str,
    /// What is wrong.
    pub(super) message: String,
}

/// Reads the credential of an account from the Secrets of `namespace`; nothing when it is in none.
pub(super) fn resolve(
    credential: &AccountCredential,
    namespace: &str,
    secrets: &BTreeMap<(String, String), Secret>,
) -> Option<Result<Credential, Unresolved>> {
    let (fields, from, parse): (Fields, _, Parse) = match credential {
        AccountCredential::Oauth(from) => {
            (OAUTH, from, |text| claude::login(text).map_err(|e| e.to_string()))
        }
        AccountCredential::SetupToken(from) => {
            (SETUP_TOKEN, from, |text| claude::setup_token(text).map_err(|e| e.to_string()))
        }
        AccountCredential::ApiKey(from) => {
            (API_KEY, from, |text| claude::api_key(text).map_err(|e| e.to_string()))
        }
        AccountCredential::Directory(_) | AccountCredential::WorkloadIdentity(_) => return None,
    };
    let reference = &from.secret_ref;
    let found = secrets.get(&(namespace.to_owned(), reference.name.clone()));
    Some(match found {
        None => Err(Unresolved {
            field: fields.name,
            reason: reason::SECRET_NOT_FOUND,
            message: format!("Secret {namespace}/{} does not exist", reference.name),
        }),
        Some(secret) => read(&Source { fields, reference, parse }, secret),
    })
}

type Parse = fn(&str) -> Result<Credential, String>;

/// Paths of the fields of one form of credential.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Fields {
    name: &'static str,
    key: &'static str,
}

const OAUTH: Fields =
    Fields { name: "credential.oauth.secretRef.name", key: "credential.oauth.secretRef.key" };
const SETUP_TOKEN: Fields =
    Fields { name: "credential.setupToken.secretRef.name", key: "credential.setupToken.secretRef.key" };
const API_KEY: Fields =
    Fields { name: "credential.apiKey.secretRef.name", key: "credential.apiKey.secretRef.key" };

struct Source<'a> {
    fields: Fields,
    reference: &'a SecretRef,
    parse: Parse,
}

/// The login that `reference` names in `secret`, whole, and the key that it is under.
///
/// # Errors
/// Why there is none, without any part of it.
pub fn login_in(secret: &Secret, reference: &SecretRef) -> Result<(String, LoginFile), String> {
    let parse: Parse = |text| claude::login(text).map_err(|e| e.to_string());
    let source = Source { fields: OAUTH, reference, parse };
    let (key, text) = source.find(secret).map_err(|why| why.message)?;
    let login = LoginFile::read(text).map_err(|error| format!("key {key:?} {error}"))?;
    Ok((key.to_owned(), login))
}

fn read(source: &Source<'_>, secret: &Secret) -> Result<Credential, Unresolved> {
    let (key, text) = source.find(secret)?;
    (source.parse)(text.expose()).map_err(|message| source.malformed(key, &message))
}

impl Source<'_> {
    /// The key that is meant, and what it holds.
    fn find<'s>(&self, secret: &'s Secret) -> Result<(&'s str, Hidden), Unresolved> {
        let none = const { &BTreeMap::new() };
        let data = secret.data.as_ref().unwrap_or(none);
        let key = match (&self.reference.key, data.len()) {
            (Some(key), _) => key.as_str(),
            (None, 1) => data.keys().next().ok_or_else(|| self.key_missing(data))?,
            (None, _) if self.fields == OAUTH => self.search(data)?,
            (None, _) => return Err(self.key_missing(data)),
        };
        let (key, bytes) = data.get_key_value(key).ok_or_else(|| self.key_missing(data))?;
        let text = std::str::from_utf8(&bytes.0).map_err(|_| self.malformed(key, "is not UTF-8"))?;
        Ok((key, Hidden::new(text)))
    }

    fn search(&self, data: &BTreeMap<String, ByteString>) -> Result<&'static str, Unresolved> {
        let read = |name: &'static str| {
            // What is not UTF-8 is no JSON either; the search reports it under its name.
            data.get(name).map(|bytes| Hidden::new(String::from_utf8_lossy(&bytes.0)))
        };
        claude::find_login(read).map(|(name, _)| name).map_err(|error| match error {
            claude::SearchError::NoFile => self.key_missing(data),
            other => Unresolved {
                field: self.fields.name,
                reason: reason::CREDENTIAL_MALFORMED,
                message: format!("Secret {}: {other}", self.reference.name),
            },
        })
    }

    fn key_missing(&self, data: &BTreeMap<String, ByteString>) -> Unresolved {
        let name = &self.reference.name;
        let known: Vec<_> = data.keys().take(8).map(|key| format!("{key:?}")).collect();
        let message = match (&self.reference.key, known.is_empty()) {
            (_, true) => format!("Secret {name} has no keys"),
            (Some(key), false) => format!("Secret {name} has no key {key:?}, it has {}", known.join(", ")),
            (None, false) => format!("Secret {name} has several keys, say which: {}", known.join(", ")),
        };
        let field = if self.reference.key.is_some() { self.fields.key } else { self.fields.name };
        Unresolved { field, reason: reason::SECRET_KEY_NOT_FOUND, message }
    }

    fn malformed(&self, key: &str, message: &str) -> Unresolved {
        let message = format!("key {key:?} of Secret {} {message}", self.reference.name);
        Unresolved { field: self.fields.name, reason: reason::CREDENTIAL_MALFORMED, message }
    }
}
