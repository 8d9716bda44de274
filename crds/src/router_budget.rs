//! RouterBudget: budgets that many tokens share.
#![expect(unreachable_pub, reason = "the derived schema repeats each `pub struct` inside a function")]
#![expect(clippy::duplicated_attributes, reason = "every printed column says its own type")]

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube_derive::{CustomResource, KubeSchema};
use la_core::budget::BudgetSpec;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::limits::{self, BudgetStatus};
use crate::router_token::ProxyRef;
use crate::selector::LabelSelector;

/// Budgets that many tokens share: a request is admitted only if its own limits and every RouterBudget that
/// covers its token admit it.
///
/// In the namespace of its proxy it selects tokens by namespace and label; anywhere else it covers tokens of
/// its own namespace only. While it is faulty, the tokens that it would cover are refused.
#[derive(CustomResource, KubeSchema, Debug, Clone, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "router.link-assistant.dev",
    version = "v1alpha1",
    kind = "RouterBudget",
    namespaced,
    doc = "Budgets that many tokens share.",
    status = "RouterBudgetStatus",
    derive = "PartialEq",
    shortname = "rbudget",
    category = "la-router",
    selectable = ".spec.proxyRef.name",
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Ready")].status"#
    ),
    printcolumn(name = "Proxy", type_ = "string", json_path = ".spec.proxyRef.name"),
    printcolumn(
        name = "Tokens",
        type_ = "integer",
        json_path = ".status.tokens",
        description = "Tokens that share it"
    ),
    printcolumn(
        name = "Exhausted",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="BudgetExhausted")].status"#
    ),
    printcolumn(
        name = "Reason",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Ready")].reason"#,
        priority = 1
    ),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    crates(kube_core = "::kube_core")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(crates(kube_core = "::kube_core"))]
pub struct RouterBudgetSpec {
    /// The RouterProxy whose tokens share the budgets. Cannot be changed: use is counted there.
    #[x_kube(validation = Rule::new("self == oldSelf").message("proxyRef cannot be changed; delete the RouterBudget and create another"))]
    pub proxy_ref: ProxyRef,

    /// Which tokens share the budgets; all of this namespace when left out.
    #[serde(default, skip_serializing_if = "AppliesTo::is_empty")]
    pub applies_to: AppliesTo,

    /// The budgets, 1 to 16; all must admit a request.
    #[schemars(schema_with = "limits::budgets")]
    pub budgets: Vec<BudgetSpec>,

    /// At which percentages of a budget an Event says so, once per window: 1 to 100, at most 8. That a Hard
    /// budget has nothing left is always said.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "limits::thresholds")]
    pub thresholds: Vec<u8>,
}

/// Which tokens share budgets. Both parts must match.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AppliesTo {
    /// Labels of the namespaces, only in the namespace of the proxy; an empty selector matches every
    /// namespace. This namespace only when left out. Select by namespace what tenants must keep to: they
    /// choose the labels of their tokens themselves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace_selector: Option<LabelSelector>,

    /// Labels of the RouterTokens; every token when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_selector: Option<LabelSelector>,
}

/// What the operator says of a RouterBudget.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(crates(kube_core = "::kube_core"))]
pub struct RouterBudgetStatus {
    /// The generation of the spec that this status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,

    /// `Accepted`: the spec makes sense and its proxy exists. `Ready`: it is accepted and covers tokens.
    /// `BudgetExhausted`: a Hard budget has nothing left.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".to_owned()]))]
    pub conditions: Vec<Condition>,

    /// How many tokens it covers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokens: Option<i64>,

    /// When the proxy reported `budgets`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_at: Option<Time>,

    /// How the budgets stand.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".to_owned()]))]
    pub budgets: Vec<BudgetStatus>,
}

impl AppliesTo {
    /// Whether it selects nothing in particular.
    pub fn is_empty(&self) -> bool {
        self.namespace_selector.is_none() && self.token_selector.is_none()
    }
}

impl RouterBudget {
    /// The namespace of the proxy this budget is for.
    pub fn proxy_namespace(&self) -> &str {
        let own = self.metadata.namespace.as_deref().unwrap_or_default();
        self.spec.proxy_ref.namespace.as_deref().unwrap_or(own)
    }
}
