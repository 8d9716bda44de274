//! What a RouterProxy and its RouterBudgets demand of tokens that are issued beside its RouterTokens.
//!
//! An issued token is judged as the RouterToken that it would be: called by its id, in the namespace of its proxy,
//! without labels, asking for nothing but its own limit.

use std::collections::BTreeMap;

use la_core::budget::LimitsSpec;
use la_crds::compile::{Admission, Labels, ObjectFault};
use la_crds::conditions::reason;
use la_crds::names::API_VERSION;
use la_crds::{RouterBudget, RouterProxy, RouterToken};
use serde_json::{Value, json};

use super::Record;

/// Who decides which tokens may be issued, as it was read last.
#[derive(Debug, Clone)]
pub struct IssueRules {
    pub proxy: RouterProxy,
    pub budgets: Vec<RouterBudget>,
    /// Labels of namespaces, by name.
    pub namespaces: BTreeMap<String, Labels>,
}

impl IssueRules {
    /// Whether a fault says only that a RouterBudget covers no token so far, and it would cover one that is issued.
    pub fn excuse(&self, fault: &ObjectFault) -> bool {
        let meta = &self.proxy.metadata;
        let namespace = meta.namespace.as_deref().unwrap_or_default();
        let proxy = format!("{namespace}/{}", meta.name.as_deref().unwrap_or_default());
        let would_cover = |token: &RouterToken| {
            let pool = (fault.namespace.as_str(), fault.name.as_str());
            Admission::new(&self.proxy, &self.budgets).covers(pool, token, self.namespaces.get(namespace))
        };
        fault.reason == reason::COVERS_NOTHING
            && router_token(&proxy, (namespace, "issued"), json!({})).is_ok_and(|token| would_cover(&token))
    }

    /// The limits in force for a token, its own and those that its proxy has for it.
    ///
    /// # Errors
    /// Everything for which it would not be served, by field.
    pub(super) fn judge(&self, record: &Record) -> Result<LimitsSpec, Vec<String>> {
        let token = record.as_router_token().map_err(|error| vec![error])?;
        let admission = Admission::new(&self.proxy, &self.budgets);
        let admitted = admission.judge(&token, self.namespaces.get(&record.namespace));
        let said = |fault: &ObjectFault| {
            let field = fault.field.strip_prefix("spec.").unwrap_or(&fault.field);
            format!("{field}: {}", fault.message)
        };
        admitted.map(|admitted| admitted.limits).map_err(|faults| faults.iter().map(said).collect())
    }
}

impl Record {
    /// The RouterToken that an issued token would be.
    ///
    /// # Errors
    /// When it could be none.
    pub fn as_router_token(&self) -> Result<RouterToken, String> {
        let limits = LimitsSpec::of_requests(self.max_requests);
        router_token(
            &self.proxy,
            (&self.namespace, &self.name),
            json!({ "label": self.label, "limits": limits }),
        )
    }
}

fn router_token(
    proxy: &str,
    (namespace, name): (&str, &str),
    mut spec: Value,
) -> Result<RouterToken, String> {
    let (proxy_namespace, proxy_name) = proxy.split_once('/').unwrap_or(("", proxy));
    spec["proxyRef"] = json!({ "namespace": proxy_namespace, "name": proxy_name });
    spec["secretName"] = json!(name);
    let metadata = json!({ "namespace": namespace, "name": name });
    let token =
        json!({ "apiVersion": API_VERSION, "kind": "RouterToken", "metadata": metadata, "spec": spec });
    serde_json::from_value(token).map_err(|error| error.to_string())
}
