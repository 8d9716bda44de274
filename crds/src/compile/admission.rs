//! Which RouterTokens a proxy serves, with which limits, and which RouterBudgets cover them.
//!
//! Fails closed: a token with limits that cannot be judged, or covered by a RouterBudget that is faulty, is
//! refused instead of served without them.

use std::collections::{BTreeMap, BTreeSet};

use la_core::budget::LimitsSpec;
use la_core::id::Subject;
use la_core::snapshot::PoolRecord;

use super::{ObjectFault, Place, admits};
use crate::conditions::reason;
use crate::router_proxy::NamespacesFrom;
use crate::selector::LabelSelector;
use crate::{RouterBudget, RouterProxy, RouterToken, ceilings, rules};

/// Labels of an object.
pub type Labels = BTreeMap<String, String>;

/// A proxy as the judge of its tokens.
#[derive(Debug, Clone)]
pub struct Admission<'a> {
    proxy: &'a RouterProxy,
    place: Place,
    /// What is wrong with the limits that the proxy gives its tokens.
    unjudgeable: Option<String>,
    pools: Vec<Pool<'a>>,
}

/// What a token is served with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Admitted {
    /// Whom its budgets count on.
    pub subject: Subject,
    /// Its limits, completed by defaults and ceilings of the proxy.
    pub limits: LimitsSpec,
    /// The pools that cover it.
    pub pools: Vec<Subject>,
}

/// A RouterBudget of the proxy.
#[derive(Debug, Clone)]
struct Pool<'a> {
    place: Place,
    budget: &'a RouterBudget,
    subject: Option<Subject>,
    faults: Vec<ObjectFault>,
}

impl<'a> Admission<'a> {
    /// `budgets` that name another proxy are not considered.
    pub fn new(proxy: &'a RouterProxy, budgets: impl IntoIterator<Item = &'a RouterBudget>) -> Self {
        let place = Place::of("RouterProxy", &proxy.metadata);
        let broken = rules::token_limits(&proxy.spec.tokens).into_iter().next();
        let unjudgeable = broken.map(|broken| format!("{}: {}", broken.field, broken.message));
        let own = budgets.into_iter().filter(|budget| {
            budget.spec.proxy_ref.name == place.name && budget.proxy_namespace() == place.namespace
        });
        let mut pools: Vec<_> = own.map(|budget| Pool::new(budget, &place)).collect();
        pools.sort_by(|a, b| a.subject.cmp(&b.subject));
        Self { proxy, place, unjudgeable, pools }
    }

    /// What `token` is served with. `labels` are those of its namespace, if they are known: where they matter
    /// and are not, it is not admitted, and covered by every pool that it could be covered by.
    ///
    /// # Errors
    /// Everything for which it is refused.
    pub fn judge(&self, token: &RouterToken, labels: Option<&Labels>) -> Result<Admitted, Vec<ObjectFault>> {
        let place = Place::of("RouterToken", &token.metadata);
        let subject = Subject::of(&self.place.name, &place.namespace, &place.name)
            .map_err(|error| vec![place.fault("metadata.name", reason::INVALID_FIELD, error.to_string())])?;
        let mut faults: Vec<_> =
            rules::router_token(&token.spec).into_iter().map(|broken| place.broken(broken)).collect();
        let limits = match self.limits(&place, token) {
            // What breaks a rule is told already.
            _ if !faults.is_empty() => LimitsSpec::default(),
            Ok(limits) => limits,
            Err(found) => {
                faults.extend(found);
                LimitsSpec::default()
            }
        };
        if !self.admits_namespace(&place.namespace, labels) {
            let message = format!(
                "RouterProxy {}/{} does not admit tokens of namespace {}; see its tokens.allowedNamespaces",
                self.place.namespace, self.place.name, place.namespace
            );
            faults.insert(0, place.fault("spec.proxyRef", reason::NAMESPACE_NOT_ADMITTED, message));
        }
        let mut pools = Vec::new();
        for pool in self.pools.iter().filter(|pool| pool.covers(&self.place, token, labels)) {
            match (&pool.subject, pool.faults.first()) {
                (Some(subject), None) => pools.push(subject.clone()),
                (_, first) => faults.push(place.fault("metadata", reason::BUDGET_FAULTY, pool.told(first))),
            }
        }
        if faults.is_empty() { Ok(Admitted { subject, limits, pools }) } else { Err(faults) }
    }

    /// What is wrong with the RouterBudget `namespace/name`.
    pub fn faults_of(&self, namespace: &str, name: &str) -> &[ObjectFault] {
        let pool = self.pools.iter().find(|p| p.place.namespace == namespace && p.place.name == name);
        pool.map(|pool| pool.faults.as_slice()).unwrap_or_default()
    }

    /// What is wrong with any RouterBudget.
    pub(super) fn faults(&self) -> impl Iterator<Item = &ObjectFault> {
        self.pools.iter().flat_map(|pool| &pool.faults)
    }

    /// The records of the pools that are in `covering`, and a fault for each other one.
    pub(super) fn records(&self, covering: &BTreeSet<&Subject>) -> (Vec<PoolRecord>, Vec<ObjectFault>) {
        let (mut records, mut idle) = (Vec::new(), Vec::new());
        for pool in self.pools.iter().filter(|pool| pool.faults.is_empty()) {
            let Some(subject) = &pool.subject else { continue };
            if covering.contains(subject) {
                let spec = &pool.budget.spec;
                let (budgets, thresholds) = (spec.budgets.clone(), spec.thresholds.clone());
                records.push(PoolRecord { subject: subject.clone(), budgets, thresholds });
            } else {
                let message =
                    "covers no token of the proxy; choose namespaces and labels that some token has";
                idle.push(pool.place.fault("spec.appliesTo", reason::COVERS_NOTHING, message));
            }
        }
        (records, idle)
    }

    /// Whether the RouterBudget `namespace/name` covers `token`.
    pub fn covers(
        &self,
        (namespace, name): (&str, &str),
        token: &RouterToken,
        labels: Option<&Labels>,
    ) -> bool {
        let pool = self.pools.iter().find(|p| p.place.namespace == namespace && p.place.name == name);
        pool.is_some_and(|pool| pool.covers(&self.place, token, labels))
    }

    fn limits(&self, place: &Place, token: &RouterToken) -> Result<LimitsSpec, Vec<ObjectFault>> {
        if let Some(why) = &self.unjudgeable {
            let Place { namespace, name, .. } = &self.place;
            let message = format!("limits cannot be judged: RouterProxy {namespace}/{name}: {why}");
            return Err(vec![place.fault("spec.proxyRef", reason::INVALID_FIELD, message)]);
        }
        let above = |above: ceilings::Above| {
            let broken = above.at("spec.limits");
            place.fault(broken.field, reason::ABOVE_CEILING, broken.message)
        };
        ceilings::apply(&self.proxy.spec.tokens, &token.spec.limits)
            .map_err(|found| found.into_iter().map(above).collect())
    }

    /// A namespace whose labels are not known is admitted only where they do not matter.
    fn admits_namespace(&self, namespace: &str, labels: Option<&Labels>) -> bool {
        match labels {
            Some(labels) => admits(self.proxy, namespace, labels),
            None => {
                let by_label = self.proxy.spec.tokens.allowed_namespaces.from == NamespacesFrom::Selector;
                !by_label && admits(self.proxy, namespace, &Labels::new())
            }
        }
    }
}

impl<'a> Pool<'a> {
    fn new(budget: &'a RouterBudget, proxy: &Place) -> Self {
        let place = Place::of("RouterBudget", &budget.metadata);
        let mut faults: Vec<_> =
            rules::router_budget(&budget.spec).into_iter().map(|broken| place.broken(broken)).collect();
        if place.namespace != proxy.namespace && budget.spec.applies_to.namespace_selector.is_some() {
            let message = format!(
                "only a RouterBudget in namespace {} of its proxy may select namespaces; remove it, and this one covers namespace {}",
                proxy.namespace, place.namespace
            );
            faults.push(place.fault("spec.appliesTo.namespaceSelector", reason::INVALID_FIELD, message));
        }
        let subject = Subject::of_pool(&proxy.name, &place.namespace, &place.name);
        if let Err(error) = &subject {
            faults.push(place.fault("metadata.name", reason::INVALID_FIELD, error.to_string()));
        }
        Self { place, budget, subject: subject.ok(), faults }
    }

    fn covers(&self, proxy: &Place, token: &RouterToken, labels: Option<&Labels>) -> bool {
        let applies = &self.budget.spec.applies_to;
        let own = token.metadata.namespace.as_deref() == Some(self.place.namespace.as_str());
        let namespace = match &applies.namespace_selector {
            Some(selector) if self.place.namespace == proxy.namespace => {
                labels.is_none_or(|labels| selects(selector, labels))
            }
            _ => own,
        };
        let none = Labels::new();
        let token_labels = token.metadata.labels.as_ref().unwrap_or(&none);
        namespace && applies.token_selector.as_ref().is_none_or(|selector| selects(selector, token_labels))
    }

    fn told(&self, fault: Option<&ObjectFault>) -> String {
        let Place { namespace, name, .. } = &self.place;
        let why = fault.map(|fault| format!(": {}: {}", fault.field, fault.message)).unwrap_or_default();
        format!("RouterBudget {namespace}/{name} covers this token and is faulty{why}")
    }
}

/// A selector that makes no sense selects everything, and with it refuses it.
fn selects(selector: &LabelSelector, labels: &Labels) -> bool {
    rules::selector("", selector).is_some() || selector.matches(labels)
}
