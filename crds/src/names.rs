//! The names that hold the product together: group, labels, annotations, and objects made from others.
//!
//! People script against these; change one only with a migration note.

/// The API group of all kinds.
pub const GROUP: &str = "router.link-assistant.dev";

/// The API version of all kinds.
pub const VERSION: &str = "v1alpha1";

/// Group and version, as `apiVersion` has them.
pub const API_VERSION: &str = "router.link-assistant.dev/v1alpha1";

/// The label that every object we make carries, with the value [`MANAGER`].
pub const LABEL_MANAGED_BY: &str = "app.kubernetes.io/managed-by";

/// The label that names the program an object belongs to, with the value [`MANAGER`].
pub const LABEL_NAME: &str = "app.kubernetes.io/name";

/// The label that says what an object is for: `proxy` or `token`.
pub const LABEL_COMPONENT: &str = "app.kubernetes.io/component";

/// The label that names the RouterProxy an object was made for.
pub const LABEL_PROXY: &str = "router.link-assistant.dev/proxy";

/// The value of [`LABEL_MANAGED_BY`] and [`LABEL_NAME`].
pub const MANAGER: &str = "la-router";

/// On a minted Secret: the id (`jti`) of the token text in it. Never the text.
pub const ANNOTATION_TOKEN_ID: &str = "router.link-assistant.dev/token-id";

/// On a minted Secret: a digest of what we wrote, so that an edit is noticed.
pub const ANNOTATION_CONTENT_HASH: &str = "router.link-assistant.dev/content-hash";

/// On a Secret of somebody else: its owner's consent (`"true"`) that a RouterToken with `adopt: true` takes it.
pub const ANNOTATION_ADOPT: &str = "router.link-assistant.dev/adopt";

/// On a proxy pod: the generation of the snapshot it should load. A change makes the kubelet sync at once.
pub const ANNOTATION_GENERATION: &str = "router.link-assistant.dev/generation";

/// On a RouterProxy: the id of an embedded ledger that its owner accepts in place of one that was lost. It starts
/// from the use last reported.
pub const ANNOTATION_ACCEPT_LEDGER: &str = "router.link-assistant.dev/accept-ledger";

/// Keys of `secretTemplate` may not start with any of these: they are ours or the cluster's.
pub const RESERVED_METADATA_PREFIXES: [&str; 4] = [
    "router.link-assistant.dev/",
    "app.kubernetes.io/managed-by",
    "kubernetes.io/",
    "kubectl.kubernetes.io/",
];

/// The Lease, in the operator's namespace, that the leader holds.
pub const LEADER_LEASE: &str = "la-router-operator";

/// Longest name of a RouterProxy: a StatefulSet's name and its pods' revision label must fit 63 characters.
pub const PROXY_NAME_MAX_CHARACTERS: usize = 52;

/// In a minted Secret: the token's text (output `Token`).
pub const KEY_TOKEN: &str = "token";

/// In a minted Secret: where to send requests (output `AnthropicEnv`).
pub const KEY_ANTHROPIC_BASE_URL: &str = "ANTHROPIC_BASE_URL";

/// In a minted Secret: the token's text again, under the name agents read (output `AnthropicEnv`).
pub const KEY_ANTHROPIC_AUTH_TOKEN: &str = "ANTHROPIC_AUTH_TOKEN";

/// The StatefulSet of a RouterProxy.
pub fn stateful_set(proxy: &str) -> String {
    proxy.to_owned()
}

/// The Service that clients reach a RouterProxy by.
pub fn service(proxy: &str) -> String {
    proxy.to_owned()
}

/// The ServiceAccount, without rights, of the pods of a RouterProxy.
pub fn service_account(proxy: &str) -> String {
    proxy.to_owned()
}

/// The Secret with the snapshot and the credentials of a RouterProxy.
pub fn snapshot_secret(proxy: &str) -> String {
    format!("{proxy}-snapshot")
}

/// The base URL of a RouterProxy inside its cluster, without a slash at its end.
pub fn service_url(proxy: &str, namespace: &str) -> String {
    format!("http://{}.{namespace}.svc:8080", service(proxy))
}
