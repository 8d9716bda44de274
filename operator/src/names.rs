//! Names that only the operator writes; those that others script against are in [`la_crds::names`].

/// Field manager of every object the operator makes.
pub(crate) const OBJECT_MANAGER: &str = "la-router/operator";

/// Field manager of every status.
pub(crate) const STATUS_MANAGER: &str = "la-router/status";

/// Value of the component label on the Secret of a RouterToken.
pub(crate) const COMPONENT_TOKEN: &str = "token";

/// Value of the component label on everything of a RouterProxy.
pub(crate) const COMPONENT_PROXY: &str = "proxy";

/// Annotation of a minted Secret: the RouterToken it was minted for.
pub(crate) const TOKEN_ANNOTATION: &str = "router.link-assistant.dev/router-token";

/// Annotation of a minted Secret: the id of the key that signed the token in it.
pub(crate) const KEY_ID_ANNOTATION: &str = "router.link-assistant.dev/key-id";

/// Annotation of every object owned by a RouterProxy: SHA-256 of what the operator wanted it to be.
pub(crate) const WANTED_HASH_ANNOTATION: &str = "router.link-assistant.dev/wanted-hash";

/// The Secret that holds the signing keys of `proxy`.
pub(crate) fn signing_secret(proxy: &str) -> String {
    format!("{proxy}-signing-keys")
}

/// Namespace and name of an object.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct ObjectName {
    /// Its namespace.
    pub(crate) namespace: String,
    /// Its name.
    pub(crate) name: String,
}

impl ObjectName {
    /// The object `namespace/name`.
    pub(crate) fn new(namespace: &str, name: &str) -> Self {
        Self { namespace: namespace.to_owned(), name: name.to_owned() }
    }

    /// The name of `object`.
    pub(crate) fn of<K: kube::ResourceExt>(object: &K) -> Self {
        Self { namespace: object.namespace().unwrap_or_default(), name: object.name_any() }
    }
}

impl std::fmt::Display for ObjectName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}
