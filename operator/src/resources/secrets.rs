//! The two Secrets of a RouterProxy: what its pods mount, and the keys that only the operator holds.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use k8s_openapi::api::core::v1::Secret as KubeSecret;
use la_core::credential::Credentials;
use la_core::secret::Secret;
use la_core::snapshot::{CREDENTIALS_FILE, SNAPSHOT_FILE, Snapshot};
use la_core::token::SigningKey;
use la_crds::names::snapshot_secret;
use serde_json::{Value, json};

use super::Owner;
use super::proxy::labels;
use crate::keys::Keys;
use crate::names;

/// Most bytes of snapshot and credentials together. The API server takes objects up to 1 MiB, of which
/// base64 is not a part but the names and managed fields are.
pub(crate) const MAX_SNAPSHOT_BYTES: usize = 1_000_000;

const TOKEN_SEED: &str = "token.key";
const ADMIN_SEED: &str = "admin.key";

/// Why a snapshot was not written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SnapshotError {
    /// It would not fit into a Secret.
    #[error(
        "snapshot has {bytes} bytes, a Secret holds {MAX_SNAPSHOT_BYTES}; spread the tokens over several proxies"
    )]
    TooLarge {
        /// Its size.
        bytes: usize,
    },
    /// It cannot be written as JSON.
    #[error("snapshot cannot be written as JSON")]
    Json(#[from] serde_json::Error),
}

/// The Secret that pods mount. `resource_version`: the one it replaces, so that a replica that lost the
/// lease cannot put an older snapshot back.
pub(crate) fn snapshot(
    owner: &Owner<'_>,
    snapshot: &Snapshot,
    credentials: &Credentials,
    resource_version: Option<&str>,
) -> Result<Value, SnapshotError> {
    let snapshot = serde_json::to_vec(snapshot)?;
    let credentials = serde_json::to_vec(credentials)?;
    let bytes = snapshot.len() + credentials.len();
    if bytes > MAX_SNAPSHOT_BYTES {
        return Err(SnapshotError::TooLarge { bytes });
    }
    let mut secret = json!({
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {
            "name": snapshot_secret(owner.name),
            "namespace": owner.namespace,
            "labels": labels(owner.name),
            "ownerReferences": [owner.reference()],
        },
        "type": "Opaque",
        "data": { SNAPSHOT_FILE: STANDARD.encode(snapshot), CREDENTIALS_FILE: STANDARD.encode(credentials) },
    });
    if let (Some(version), Some(metadata)) =
        (resource_version, secret.get_mut("metadata").and_then(Value::as_object_mut))
    {
        metadata.insert("resourceVersion".to_owned(), version.into());
    }
    Ok(secret)
}

/// What a snapshot Secret holds, if it can be read.
pub(crate) fn read_snapshot(secret: &KubeSecret) -> Option<(Snapshot, Credentials)> {
    let data = secret.data.as_ref()?;
    let snapshot = serde_json::from_slice(&data.get(SNAPSHOT_FILE)?.0).ok()?;
    let credentials = serde_json::from_slice(&data.get(CREDENTIALS_FILE)?.0).ok()?;
    Some((snapshot, credentials))
}

/// The Secret that keeps `keys`, for ever the same.
pub(crate) fn signing(owner: &Owner<'_>, keys: &Keys) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {
            "name": names::signing_secret(owner.name),
            "namespace": owner.namespace,
            "labels": labels(owner.name),
            "ownerReferences": [owner.reference()],
        },
        "type": "Opaque",
        "immutable": true,
        "data": { TOKEN_SEED: STANDARD.encode(seed(&keys.token)), ADMIN_SEED: STANDARD.encode(seed(&keys.admin)) },
    })
}

/// The keys in a signing Secret, if they can be used.
pub(crate) fn read_signing(secret: &KubeSecret) -> Option<Keys> {
    let data = secret.data.as_ref()?;
    let key = |name: &str| {
        let seed = String::from_utf8(data.get(name)?.0.clone()).ok()?;
        Some(SigningKey::Ed25519 { seed: Secret::new(seed) })
    };
    Keys::new(key(TOKEN_SEED)?, key(ADMIN_SEED)?).ok()
}

fn seed(key: &SigningKey) -> &str {
    match key {
        SigningKey::Ed25519 { seed } => seed.expose(),
        // The operator makes Ed25519 keys only; an empty seed is refused when it is read back.
        SigningKey::Hs256 { .. } => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWNER: Owner<'_> =
        Owner { kind: "RouterProxy", namespace: "platform", name: "gateway", uid: "uid-1" };

    #[test]
    fn keys_and_snapshot_are_read_back_as_written() {
        let keys = Keys::new(SigningKey::from_seed([1; 32]), SigningKey::from_seed([2; 32])).unwrap();
        let secret: KubeSecret = serde_json::from_value(signing(&OWNER, &keys)).unwrap();
        assert_eq!(read_signing(&secret), Some(keys));
        let empty = Snapshot::empty("platform/gateway");
        let wanted = snapshot(&OWNER, &empty, &Credentials::new(), Some("7")).unwrap();
        assert_eq!(wanted["metadata"]["resourceVersion"], "7");
        let secret: KubeSecret = serde_json::from_value(wanted).unwrap();
        assert_eq!(read_snapshot(&secret), Some((empty, Credentials::new())));
    }

    #[test]
    fn damaged_signing_secret_gives_no_keys() {
        let keys = Keys::new(SigningKey::from_seed([1; 32]), SigningKey::from_seed([2; 32])).unwrap();
        let mut wanted = signing(&OWNER, &keys);
        wanted["data"][ADMIN_SEED] = "AAAA".into();
        assert_eq!(read_signing(&serde_json::from_value(wanted).unwrap()), None);
    }
}
