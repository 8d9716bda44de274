//! What to say of one RouterBudget. Pure.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use la_core::report::SubjectUsage;
use la_crds::RouterBudget;
use la_crds::compile::ObjectFault;
use la_crds::conditions::{self, Wanted, kind, reason};
use la_crds::router_budget::RouterBudgetStatus;

use crate::controllers::budgets;
use crate::controllers::status::{USAGE_PERIOD_SECONDS, wait_until};
use crate::events::Note;

/// What is known of one RouterBudget.
#[derive(Debug, Clone)]
pub(crate) struct Observed<'a> {
    /// The object.
    pub(crate) budget: &'a RouterBudget,
    /// Now.
    pub(crate) now: Timestamp,
    /// Whom it covers; absent when its proxy does not exist.
    pub(crate) coverage: Option<Coverage>,
    /// Whether any pod of the proxy reports.
    pub(crate) reported: bool,
    /// What was used of it, as the pods report.
    pub(crate) used: Option<SubjectUsage>,
}

/// Whom a RouterBudget covers.
#[derive(Debug, Clone, Default)]
pub(crate) struct Coverage {
    /// How many tokens.
    pub(crate) tokens: usize,
    /// What is wrong with it.
    pub(crate) faults: Vec<ObjectFault>,
}

/// What to say, and when to look again.
#[derive(Debug, Clone)]
pub(crate) struct Decision {
    /// The status as it should be.
    pub(crate) status: RouterBudgetStatus,
    /// Events.
    pub(crate) notes: Vec<Note>,
    /// When to look again at the latest.
    pub(crate) wake: Option<Duration>,
}

/// Decides what to say.
pub(crate) fn decide(seen: &Observed<'_>) -> Decision {
    let mut status = seen.budget.status.clone().unwrap_or_default();
    let generation = seen.budget.metadata.generation;
    status.observed_generation = generation;
    let tokens = seen.coverage.as_ref().map(|coverage| coverage.tokens);
    status.tokens = tokens.map(|tokens| i64::try_from(tokens).unwrap_or(i64::MAX));
    let accepted = accepted(seen);
    let ready = ready(&accepted, tokens.unwrap_or(0));
    let mut notes: Vec<_> = [&accepted, &ready]
        .into_iter()
        .find(|wanted| wanted.holds == conditions::Holds::False)
        .map(|wanted| Note::warning(wanted.reason, "Cover", wanted.message.clone()))
        .into_iter()
        .collect();
    for wanted in [accepted, ready].into_iter().chain(exhausted(seen)) {
        conditions::set(&mut status.conditions, wanted, generation, seen.now);
    }
    let (due, wake) = count_use(seen, &mut status);
    notes.extend(due);
    Decision { status, notes, wake }
}

fn accepted(seen: &Observed<'_>) -> Wanted {
    let Some(coverage) = &seen.coverage else {
        let (name, namespace) = (&seen.budget.spec.proxy_ref.name, seen.budget.proxy_namespace());
        let message = format!("RouterProxy {namespace}/{name} does not exist");
        return Wanted::new(kind::ACCEPTED, false, reason::PROXY_NOT_FOUND, message);
    };
    let Some(first) = coverage.faults.first() else {
        return Wanted::new(kind::ACCEPTED, true, reason::ACCEPTED, "the spec makes sense");
    };
    let all: Vec<_> =
        coverage.faults.iter().map(|fault| format!("{}: {}", fault.field, fault.message)).collect();
    let message = format!("{}; the tokens that it covers are refused meanwhile", all.join("; "));
    Wanted::new(kind::ACCEPTED, false, first.reason, message)
}

fn ready(accepted: &Wanted, tokens: usize) -> Wanted {
    if accepted.holds == conditions::Holds::False {
        return Wanted { kind: kind::READY, ..accepted.clone() };
    }
    if tokens == 0 {
        let message =
            "spec.appliesTo covers no token of the proxy; choose namespaces and labels that some token has";
        return Wanted::new(kind::READY, false, reason::COVERS_NOTHING, message);
    }
    Wanted::new(kind::READY, true, reason::COVERING, format!("{tokens} tokens share it"))
}

/// Nothing while no pod reports: what was said stays.
fn exhausted(seen: &Observed<'_>) -> Option<Wanted> {
    let spent = seen.used.as_ref().map(budgets::exhausted).unwrap_or_default();
    seen.reported.then(|| budgets::condition(&spent))
}

/// Writes down how the budgets stand, now and then, and at once when that is worth an Event.
fn count_use(seen: &Observed<'_>, status: &mut RouterBudgetStatus) -> (Vec<Note>, Option<Duration>) {
    let Some(used) = &seen.used else { return (Vec::new(), None) };
    let rolling = budgets::rolling(&seen.budget.spec.budgets);
    let (stand, notes) = budgets::stand(&status.budgets, &used.budgets, &rolling, seen.now);
    if stand == status.budgets {
        return (notes, None);
    }
    let before = status.observed_at.as_ref().map_or(0, |at| at.0.as_second());
    let due = before.saturating_add(USAGE_PERIOD_SECONDS);
    if notes.is_empty() && due > seen.now.as_second() {
        let due = Timestamp::from_second(due).unwrap_or(seen.now);
        return (notes, Some(wait_until(due, seen.now)));
    }
    status.budgets = stand;
    status.observed_at = Some(Time(Timestamp::from_second(seen.now.as_second()).unwrap_or(seen.now)));
    (notes, None)
}

#[cfg(test)]
mod tests {
    use la_core::amount::Unit;
    use la_core::budget::Enforcement;
    use la_core::id::Subject;
    use la_core::report::BudgetUse;
    use la_core::usage::Usage;
    use serde_json::json;

    use super::*;

    const NOW: i64 = 1_000_000;

    fn budget() -> RouterBudget {
        serde_json::from_value(json!({
            "apiVersion": "router.link-assistant.dev/v1alpha1", "kind": "RouterBudget",
            "metadata": { "name": "team", "namespace": "team-a", "generation": 2 },
            "spec": { "proxyRef": { "name": "gateway" },
                "budgets": [{ "name": "all", "unit": "USD", "limit": "10" }], "thresholds": [80] },
        }))
        .unwrap()
    }

    fn used(dollars: u64) -> Option<SubjectUsage> {
        let budget = BudgetUse {
            name: "all".to_owned(),
            unit: Unit::Usd,
            enforcement: Enforcement::Hard,
            used: dollars * 1_000_000_000,
            limit: 10_000_000_000,
            resets_at_ms: None,
            threshold: (dollars >= 8).then_some(80),
        };
        let subject = Subject::of_pool("gateway", "team-a", "team").unwrap();
        let tokens = Usage::default();
        Some(SubjectUsage { subject, requests: 1, open: 0, tokens, nano_usd: 0, budgets: vec![budget] })
    }

    fn look(budget: &RouterBudget) -> Observed<'_> {
        Observed {
            budget,
            now: Timestamp::from_second(NOW).unwrap(),
            coverage: Some(Coverage { tokens: 3, faults: Vec::new() }),
            reported: true,
            used: None,
        }
    }

    fn fault() -> ObjectFault {
        ObjectFault {
            kind: "RouterBudget",
            namespace: "team-a".to_owned(),
            name: "team".to_owned(),
            field: "spec.appliesTo.namespaceSelector".to_owned(),
            reason: reason::INVALID_FIELD,
            message: "remove it".to_owned(),
        }
    }

    #[test]
    fn conditions_follow_from_what_is_there() {
        let budget = budget();
        let good = look(&budget);
        let covering = |tokens, faults| Some(Coverage { tokens, faults });
        let (accepted, shared, within) = ("True Accepted", "True Covering", "False WithinBudget");
        let cases = [
            ("it covers tokens", good.clone(), [accepted, shared, within], ""),
            (
                "it covers nothing",
                Observed { coverage: covering(0, vec![]), ..good.clone() },
                [accepted, "False CoversNothing", within],
                "CoversNothing",
            ),
            (
                "its proxy does not exist",
                Observed { coverage: None, reported: false, ..good.clone() },
                ["False ProxyNotFound", "False ProxyNotFound", ""],
                "ProxyNotFound",
            ),
            (
                "it is faulty",
                Observed { coverage: covering(3, vec![fault()]), ..good.clone() },
                ["False InvalidField", "False InvalidField", within],
                "InvalidField",
            ),
            (
                "it has reached a threshold",
                Observed { used: used(9), ..good.clone() },
                [accepted, shared, within],
                "BudgetThreshold",
            ),
            (
                "nothing is left of it",
                Observed { used: used(10), ..good },
                [accepted, shared, "True BudgetExhausted"],
                "BudgetExhausted",
            ),
        ];
        for (sentence, seen, expected, event) in cases {
            let decision = decide(&seen);
            let said = [kind::ACCEPTED, kind::READY, kind::BUDGET_EXHAUSTED].map(|kind| {
                let found = conditions::find(&decision.status.conditions, kind);
                found.map(|found| format!("{} {}", found.status, found.reason)).unwrap_or_default()
            });
            assert_eq!(said, expected, "{sentence}");
            let events: Vec<_> = decision.notes.iter().map(|note| note.reason).collect();
            assert_eq!(events.join(" "), event, "{sentence}");
        }
    }

    #[test]
    fn use_is_written_now_and_then_but_a_threshold_at_once() {
        let mut budget = budget();
        budget.status = Some(decide(&Observed { used: used(1), ..look(&budget) }).status);
        let soon = decide(&Observed { used: used(2), ..look(&budget) });
        assert_eq!(soon.status.budgets[0].used, "1", "written again at once");
        assert!(soon.wake.unwrap() <= Duration::from_secs(11), "nobody would write it later");
        let told = decide(&Observed { used: used(8), ..look(&budget) });
        assert_eq!((told.status.budgets[0].used.as_str(), told.notes.len()), ("8", 1));
        budget.status = Some(told.status);
        let again = decide(&Observed { used: used(8), ..look(&budget) });
        assert_eq!((Some(&again.status), again.notes.len()), (budget.status.as_ref(), 0));
        let silent = decide(&Observed { reported: false, used: None, ..look(&budget) });
        assert_eq!(Some(&silent.status), budget.status.as_ref(), "what was said stays");
    }
}
