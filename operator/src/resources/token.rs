//! The Secret of a RouterToken: what is in it, and how an edit by somebody else is told from our own change.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use k8s_openapi::ByteString;
use la_core::secret::Secret;
use la_crds::names::{
    ANNOTATION_CONTENT_HASH, ANNOTATION_TOKEN_ID, KEY_ANTHROPIC_AUTH_TOKEN, KEY_ANTHROPIC_BASE_URL,
    KEY_TOKEN, LABEL_COMPONENT, LABEL_MANAGED_BY, MANAGER,
};
use serde_json::{Value, json};

use super::{Owner, sha256_hex};
use crate::names;

/// Every key the operator may write, in a fixed order.
const OWN_KEYS: [&str; 3] = [KEY_TOKEN, KEY_ANTHROPIC_BASE_URL, KEY_ANTHROPIC_AUTH_TOKEN];

/// What a minted Secret is made of.
pub(crate) struct Minted<'a> {
    /// The RouterToken.
    pub(crate) owner: Owner<'a>,
    /// The Secret's name.
    pub(crate) secret: &'a str,
    /// Whether the Secret outlives its RouterToken.
    pub(crate) retain: bool,
    /// Labels that the user wants on it.
    pub(crate) labels: &'a BTreeMap<String, String>,
    /// Annotations that the user wants on it.
    pub(crate) annotations: &'a BTreeMap<String, String>,
    /// Its content, by key.
    pub(crate) data: BTreeMap<&'static str, Secret>,
    /// The id of the token in it.
    pub(crate) id: &'a str,
    /// The id of the key that signed it.
    pub(crate) key_id: &'a str,
}

impl Minted<'_> {
    /// The Secret to apply.
    pub(crate) fn build(&self) -> Value {
        let mut labels = self.labels.clone();
        labels.insert(LABEL_MANAGED_BY.to_owned(), MANAGER.to_owned());
        labels.insert(LABEL_COMPONENT.to_owned(), names::COMPONENT_TOKEN.to_owned());
        let mut annotations = self.annotations.clone();
        for (key, value) in [
            (names::TOKEN_ANNOTATION, self.owner.name),
            (ANNOTATION_TOKEN_ID, self.id),
            (names::KEY_ID_ANNOTATION, self.key_id),
        ] {
            annotations.insert(key.to_owned(), value.to_owned());
        }
        annotations.insert(ANNOTATION_CONTENT_HASH.to_owned(), self.hash());
        let data: BTreeMap<_, _> = self.data.iter().map(|(k, v)| (*k, STANDARD.encode(v.expose()))).collect();
        let owners = if self.retain { json!([]) } else { json!([self.owner.reference()]) };
        json!({
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {
                "name": self.secret,
                "namespace": self.owner.namespace,
                "labels": labels,
                "annotations": annotations,
                "ownerReferences": owners,
            },
            "type": "Opaque",
            "data": data,
        })
    }

    /// What the data hash of the Secret must be.
    pub(crate) fn hash(&self) -> String {
        hash_of(|key| self.data.get(key).map(|value| value.expose().as_bytes()))
    }
}

/// The hash of those keys of `data` that are ours.
pub(crate) fn data_hash(data: Option<&BTreeMap<String, ByteString>>) -> String {
    hash_of(|key| data.and_then(|data| data.get(key)).map(|value| value.0.as_slice()))
}

/// Keys that other people added to the Secret are theirs and not looked at.
fn hash_of<'a>(value: impl Fn(&'static str) -> Option<&'a [u8]>) -> String {
    let mut bytes = Vec::new();
    for key in OWN_KEYS {
        let Some(value) = value(key) else { continue };
        bytes.extend_from_slice(key.as_bytes());
        bytes.extend_from_slice(&(value.len() as u64).to_be_bytes());
        bytes.extend_from_slice(value);
    }
    sha256_hex(&bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn minted<'a>(
        labels: &'a BTreeMap<String, String>,
        annotations: &'a BTreeMap<String, String>,
        retain: bool,
    ) -> Minted<'a> {
        let owner = Owner { kind: "RouterToken", namespace: "team-a", name: "agent", uid: "uid-1" };
        let data = BTreeMap::from([(KEY_TOKEN, Secret::new("la_sk_text"))]);
        Minted {
            owner,
            secret: "agent-token",
            retain,
            labels,
            annotations,
            data,
            id: "id-1",
            key_id: "key-1",
        }
    }

    #[test]
    fn hash_written_is_the_hash_found() {
        let none = BTreeMap::new();
        let wanted = minted(&none, &none, false).build();
        let found: k8s_openapi::api::core::v1::Secret = serde_json::from_value(wanted).unwrap();
        let written = found.metadata.annotations.as_ref().unwrap()[ANNOTATION_CONTENT_HASH].clone();
        assert_eq!(data_hash(found.data.as_ref()), written);
        let mut edited = found.data.unwrap();
        edited.insert("more".to_owned(), ByteString(b"theirs".to_vec()));
        assert_eq!(data_hash(Some(&edited)), written, "a key of somebody else changed the hash");
        edited.insert(KEY_TOKEN.to_owned(), ByteString(b"forged".to_vec()));
        assert_ne!(data_hash(Some(&edited)), written, "an edit of the token went unseen");
    }

    #[test]
    fn secret_belongs_to_its_token_unless_retained() {
        let none = BTreeMap::new();
        let owned = minted(&none, &none, false).build();
        assert_eq!(owned["metadata"]["ownerReferences"][0]["controller"], true);
        let retained = minted(&none, &none, true).build();
        assert_eq!(retained["metadata"]["ownerReferences"], json!([]));
    }

    #[test]
    fn labels_of_the_user_cannot_replace_ours() {
        let theirs = BTreeMap::from([(LABEL_MANAGED_BY.to_owned(), "someone".to_owned())]);
        let none = BTreeMap::new();
        let wanted = minted(&theirs, &none, false).build();
        assert_eq!(wanted["metadata"]["labels"][LABEL_MANAGED_BY], MANAGER);
    }
}
