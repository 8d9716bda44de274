//! RouterBudget: does it make sense, whom does it cover, and how much is left? Writes nothing but its status;
//! the budgets reach a proxy with the proxy's snapshot.

use std::sync::Arc;

use jiff::Timestamp;
use kube::runtime::controller::Action;
use kube::runtime::reflector::ObjectRef;
use kube::{Resource as _, ResourceExt as _};
use la_core::id::Subject;
use la_crds::RouterBudget;
use la_crds::compile::Admission;

use self::decide::{Coverage, Observed, decide};
use crate::controllers::status::{self, StatusError};
use crate::proxies::spread;
use crate::shared::{Shared, proxy_of_budget};

mod decide;

/// Says how one RouterBudget is.
pub(crate) async fn reconcile(budget: Arc<RouterBudget>, shared: Arc<Shared>) -> Result<Action, StatusError> {
    if budget.metadata.deletion_timestamp.is_some() {
        return Ok(Action::await_change());
    }
    let decision = decide(&gather(&shared, &budget));
    let written =
        status::write(&shared.client, budget.as_ref(), budget.status.as_ref(), &decision.status).await;
    match written {
        // The newer object is on its way here, and Events are told once the status remembers them.
        Err(error) if error.is_outdated() => return Ok(Action::requeue(status::AFTER_CONFLICT)),
        Err(error) => return Err(error),
        Ok(_) => {}
    }
    let object = budget.object_ref(&());
    if decision.notes.is_empty() {
        shared.events.forget(&object);
    }
    shared.events.publish(decision.notes, &object).await;
    Ok(decision.wake.map_or_else(Action::await_change, Action::requeue))
}

fn gather<'a>(shared: &Shared, budget: &'a RouterBudget) -> Observed<'a> {
    let name = proxy_of_budget(budget);
    let (namespace, own) = (budget.namespace().unwrap_or_default(), budget.name_any());
    let proxy = shared.stores.proxies.get(&ObjectRef::new(&name.name).within(&name.namespace));
    let coverage = proxy.map(|proxy| {
        let admission = Admission::new(&proxy, [budget]);
        let tokens = shared.stores.tokens_of(&name);
        let covered = tokens.iter().filter(|token| {
            let labels = shared.stores.labels_of(&token.namespace().unwrap_or_default());
            token.metadata.deletion_timestamp.is_none()
                && admission.covers((&namespace, &own), token, labels.as_ref())
        });
        Coverage { tokens: covered.count(), faults: admission.faults_of(&namespace, &own).to_vec() }
    });
    let subject = Subject::of_pool(&name.name, &namespace, &own).ok();
    Observed {
        budget,
        now: Timestamp::now(),
        coverage,
        reported: shared.fleet.reports(&name),
        used: subject.and_then(|subject| spread::usage_of(shared, &name, &subject)),
    }
}
