//! What proves an account to its vendor, and where it is.

use la_core::oauth::federation;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::schema;

/// What proves an account to its vendor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum AccountCredential {
    /// The login of a Claude subscription, as Claude Code writes it to `.credentials.json`. Subscription
    /// logins are for their owner's own use under the vendor's terms.
    Oauth(FromSecret),
    /// A token made by `claude setup-token`.
    SetupToken(FromSecret),
    /// An API key.
    ApiKey(FromSecret),
    /// A Claude home that la-router reads, and re-reads when it changes. Only where manifests are read from
    /// a folder (`la-router serve --manifests`); a cluster refuses it.
    Directory(FromDirectory),
    /// An identity of the workload's own that the vendor trusts by a federation rule (Workload Identity
    /// Federation). It is exchanged for access tokens that live for minutes to a day; no secret is stored.
    WorkloadIdentity(WorkloadIdentity),
}

/// A credential in a Secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct FromSecret {
    /// The Secret, in this namespace.
    pub secret_ref: SecretRef,
}

/// A Secret and a key in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SecretRef {
    /// The Secret's name.
    #[schemars(length(min = 1, max = 253), regex(pattern = schema::OBJECT_NAME))]
    pub name: String,

    /// The key in it. When left out: the Secret's only key, or for `oauth` the first with a token of
    /// `credentials.json`, `.credentials.json`, `claude-credentials.json`, `auth.json`, `oauth.json`,
    /// `config.json`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253), regex(pattern = schema::SECRET_KEY))]
    pub key: Option<String>,
}

/// A credential in a directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct FromDirectory {
    /// The directory: a Claude home, or where one is mounted.
    #[schemars(length(min = 1, max = 4096))]
    pub path: String,
}

/// An identity of the workload's own, and whom a rule at the vendor makes of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct WorkloadIdentity {
    /// The federation rule, `fdrl_…`.
    #[schemars(length(max = 128), regex(pattern = schema::FEDERATION_RULE_ID))]
    pub federation_rule_id: String,

    /// The organization at the vendor, a UUID.
    #[schemars(length(max = 36), regex(pattern = schema::UUID))]
    pub organization_id: String,

    /// The service account at the vendor, `svac_…`; not one of Kubernetes.
    #[schemars(length(max = 128), regex(pattern = schema::SERVICE_ACCOUNT_ID))]
    pub service_account_id: String,

    /// The workspace at the vendor, `wrkspc_…` or `default`. Needed where the rule is for several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 128), regex(pattern = schema::WORKSPACE_ID))]
    pub workspace_id: Option<String>,

    /// Where the identity's token is from; exactly one.
    pub token_from: IdentityToken,
}

/// Where the token of an identity is from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum IdentityToken {
    /// A ServiceAccount in this namespace. The operator asks for a token of it at every exchange; the chart's
    /// `workloadIdentity.serviceAccounts` allows it to. Only in a cluster.
    ServiceAccount(ServiceAccountToken),
    /// A file that somebody keeps up to date; it is read at every exchange. Only where manifests are read from a
    /// folder (`la-router serve --manifests`); a cluster refuses it.
    File(TokenFile),
}

/// A ServiceAccount and for whom its tokens are.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ServiceAccountToken {
    /// Its name. The subject of its tokens is `system:serviceaccount:NAMESPACE:NAME`. Best one that no pod runs as.
    #[schemars(length(min = 1, max = 253), regex(pattern = schema::OBJECT_NAME))]
    pub name: String,

    /// The audience of its tokens, as the federation rule demands it.
    #[serde(default = "default_audience")]
    #[schemars(length(min = 1, max = 512), regex(pattern = schema::AUDIENCE))]
    pub audience: String,
}

/// A file with an identity token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TokenFile {
    /// Its path.
    #[schemars(length(min = 1, max = 4096))]
    pub path: String,
}

/// Why a cluster refuses the credential form `directory`.
pub(crate) const DIRECTORY_MESSAGE: &str = "credential.directory works only where la-router reads manifests from a folder (--manifests); in a cluster name a Secret with oauth, setupToken or apiKey";

/// Why a cluster refuses an identity token in a file.
pub(crate) const TOKEN_FILE_MESSAGE: &str = "tokenFrom.file works only where la-router reads manifests from a folder (--manifests); in a cluster name a ServiceAccount with tokenFrom.serviceAccount";

/// Why a folder of manifests refuses the token of a ServiceAccount.
pub(crate) const SERVICE_ACCOUNT_MESSAGE: &str = "tokenFrom.serviceAccount works only in a cluster, where the operator asks for its token; here name a file that holds one with tokenFrom.file";

fn default_audience() -> String {
    federation::AUDIENCE_DEFAULT.to_owned()
}

impl AccountCredential {
    /// The Secret that holds it, if one does.
    pub fn secret_ref(&self) -> Option<&SecretRef> {
        match self {
            Self::Oauth(from) | Self::SetupToken(from) | Self::ApiKey(from) => Some(&from.secret_ref),
            Self::Directory(_) | Self::WorkloadIdentity(_) => None,
        }
    }
}

impl WorkloadIdentity {
    /// What the vendor is asked for in its name.
    pub fn federation(&self) -> federation::Federation {
        federation::Federation {
            federation_rule_id: self.federation_rule_id.clone(),
            organization_id: self.organization_id.clone(),
            service_account_id: self.service_account_id.clone(),
            workspace_id: self.workspace_id.clone(),
        }
    }
}
