//! How budgets stand: what a status says of them, the condition, and Events at thresholds. Pure, and shared
//! by RouterToken and RouterBudget.
//!
//! An Event is due once per threshold and window. What was told is remembered in the status, until the
//! window has ended, so that neither a restart nor a falling number tells it again.

use std::collections::HashMap;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use la_core::budget::{BudgetSpec, Enforcement};
use la_core::duration;
use la_core::id::Subject;
use la_core::report::{BudgetUse, SubjectUsage};
use la_crds::conditions::{Wanted, kind, reason};
use la_crds::limits::BudgetStatus;

use crate::events::Note;

/// Lengths of rolling windows, by the name of the budget.
pub(crate) type Rolling = HashMap<String, Duration>;

/// The lengths of the rolling windows of `budgets`.
pub(crate) fn rolling<'a>(budgets: impl IntoIterator<Item = &'a BudgetSpec>) -> Rolling {
    let length = |budget: &BudgetSpec| duration::parse(budget.window.rolling.as_deref()?).ok();
    let of = |budget: &'a BudgetSpec| Some((budget.name.clone(), length(budget)?));
    budgets.into_iter().filter_map(of).collect()
}

/// How the budgets of one owner stand at `now`, and the Events that are due. `before` is what its status says.
pub(crate) fn stand(
    before: &[BudgetStatus],
    budgets: &[BudgetUse],
    rolling: &Rolling,
    now: Timestamp,
) -> (Vec<BudgetStatus>, Vec<Note>) {
    let mut notes = Vec::new();
    let mut statuses = Vec::new();
    for budget in budgets {
        let told = before.iter().find(|status| is_told(status, budget, now));
        let told = told.and_then(|status| Some((status.threshold?, status.threshold_until.clone())));
        let reached = i32::from(reached(budget).unwrap_or(0));
        let mut status = status(budget);
        if reached > told.as_ref().map_or(0, |(threshold, _)| *threshold) {
            notes.push(note(budget, reached));
            status.threshold = Some(reached);
            status.threshold_until = match rolling.get(&budget.name) {
                Some(length) => now.saturating_add(*length).ok().map(whole_second),
                None => resets_at(budget),
            };
        } else if let Some((threshold, until)) = told {
            (status.threshold, status.threshold_until) = (Some(threshold), until);
        }
        statuses.push(status);
    }
    (statuses, notes)
}

/// Names of the Hard budgets of `usage` that have nothing left, each with its owner if that is a pool.
pub(crate) fn exhausted(usage: &SubjectUsage) -> Vec<String> {
    let owner =
        pool_name(&usage.subject).map(|(namespace, name)| format!(" of RouterBudget {namespace}/{name}"));
    let owner = owner.unwrap_or_default();
    let spent = usage.budgets.iter().filter(|budget| is_exhausted(budget));
    spent.map(|budget| format!("{}{owner}", budget.name)).collect()
}

/// The condition that follows.
pub(crate) fn condition(exhausted: &[String]) -> Wanted {
    if exhausted.is_empty() {
        let message = "every Hard budget has something left";
        return Wanted::new(kind::BUDGET_EXHAUSTED, false, reason::WITHIN_BUDGET, message);
    }
    let message = format!("nothing is left of {}", exhausted.join(", "));
    Wanted::new(kind::BUDGET_EXHAUSTED, true, reason::BUDGET_EXHAUSTED, message)
}

/// Namespace and name of the RouterBudget whose subject this is; nothing for a token's.
pub(crate) fn pool_name(subject: &Subject) -> Option<(&str, &str)> {
    subject.pool()?.split_once('/')
}

fn is_exhausted(budget: &BudgetUse) -> bool {
    budget.enforcement == Enforcement::Hard && budget.used >= budget.limit
}

/// The highest percentage to tell of. That nothing is left of a Hard budget is always told.
fn reached(budget: &BudgetUse) -> Option<u8> {
    if is_exhausted(budget) { Some(100) } else { budget.threshold }
}

/// Whether what was told of this budget still holds: the same limit, in a window that has not ended.
fn is_told(status: &BudgetStatus, budget: &BudgetUse, now: Timestamp) -> bool {
    status.name == budget.name
        && status.unit == budget.unit
        && status.limit == budget.unit.text(budget.limit)
        && status.threshold_until.as_ref().is_none_or(|until| now < until.0)
}

fn status(budget: &BudgetUse) -> BudgetStatus {
    BudgetStatus {
        name: budget.name.clone(),
        unit: budget.unit,
        used: budget.unit.text(budget.used),
        limit: budget.unit.text(budget.limit),
        // Windows end for idle tokens too, and that is not worth a write.
        resets_at: resets_at(budget).filter(|_| budget.used > 0),
        threshold: None,
        threshold_until: None,
    }
}

fn resets_at(budget: &BudgetUse) -> Option<Time> {
    let at_ms = i64::try_from(budget.resets_at_ms?).ok()?;
    Timestamp::from_millisecond(at_ms).ok().map(whole_second)
}

/// Statuses have whole seconds.
fn whole_second(at: Timestamp) -> Time {
    Time(Timestamp::from_second(at.as_second()).unwrap_or(at))
}

fn note(budget: &BudgetUse, reached: i32) -> Note {
    let BudgetUse { name, unit, used, limit, .. } = budget;
    let stands = format!("{} of {} {unit} are used", unit.text(*used), unit.text(*limit));
    if is_exhausted(budget) {
        let until = resets_at(budget).map(|at| format!(" until {}", at.0)).unwrap_or_default();
        let message = format!("budget {name} has nothing left{until}: {stands}");
        return Note::warning(reason::BUDGET_EXHAUSTED, "Count", message);
    }
    Note::normal(reason::BUDGET_THRESHOLD, "Count", format!("budget {name} has reached {reached}%: {stands}"))
}

#[cfg(test)]
mod tests {
    use la_core::amount::Unit;

    use super::*;

    const HOUR: i64 = 3_600;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    /// `used` of 10 requests, in a window that ends at `ends`, with thresholds at 50 and 80.
    fn hourly(used: u64, ends: i64) -> BudgetUse {
        let threshold = [80_u8, 50].into_iter().find(|percent| used * 10 >= u64::from(*percent));
        BudgetUse {
            name: "hour".to_owned(),
            unit: Unit::Requests,
            enforcement: Enforcement::Hard,
            used,
            limit: 10,
            resets_at_ms: u64::try_from(ends * 1_000).ok(),
            threshold,
        }
    }

    /// What is told at each step, given what the status before it says.
    fn told(steps: &[(i64, BudgetUse)], rolling: &Rolling) -> Vec<Vec<String>> {
        let mut before = Vec::new();
        let mut all = Vec::new();
        for (second, budget) in steps {
            let (after, notes) = stand(&before, std::slice::from_ref(budget), rolling, at(*second));
            before = after;
            all.push(notes.into_iter().map(|note| format!("{}: {}", note.reason, note.message)).collect());
        }
        all
    }

    #[test]
    fn threshold_is_told_once_per_calendar_window() {
        let steps = [
            (0, hourly(4, HOUR)),
            (10, hourly(5, HOUR)),
            (20, hourly(4, HOUR)),
            (30, hourly(6, HOUR)),
            (40, hourly(9, HOUR)),
            (50, hourly(10, HOUR)),
            (60, hourly(10, HOUR)),
            (HOUR + 5, hourly(5, 2 * HOUR)),
        ];
        let expected = [
            vec![],
            vec!["BudgetThreshold: budget hour has reached 50%: 5 of 10 Requests are used"],
            vec![],
            vec![],
            vec!["BudgetThreshold: budget hour has reached 80%: 9 of 10 Requests are used"],
            vec![
                "BudgetExhausted: budget hour has nothing left until 1970-01-01T01:00:00Z: 10 of 10 Requests are used",
            ],
            vec![],
            vec!["BudgetThreshold: budget hour has reached 50%: 5 of 10 Requests are used"],
        ];
        assert_eq!(told(&steps, &Rolling::new()), expected);
    }

    #[test]
    fn threshold_of_a_rolling_window_is_told_again_only_after_its_length() {
        let spec: BudgetSpec = serde_json::from_value(serde_json::json!({
            "name": "hour", "unit": "Requests", "limit": "10", "window": { "rolling": "1h" } }))
        .unwrap();
        let rolling = rolling([&spec]);
        let steps = [
            (0, hourly(5, 100)),
            (200, hourly(4, 300)),
            (400, hourly(5, 500)),
            (HOUR - 1, hourly(5, HOUR + 50)),
            (HOUR, hourly(5, HOUR + 50)),
        ];
        let counts: Vec<_> = told(&steps, &rolling).iter().map(Vec::len).collect();
        assert_eq!(counts, [1, 0, 0, 0, 1]);
    }

    #[test]
    fn threshold_of_a_lifetime_is_told_once_unless_the_limit_changes() {
        let lifetime = |used, limit| BudgetUse { resets_at_ms: None, limit, ..hourly(used, 0) };
        let steps = [(0, lifetime(5, 10)), (9 * HOUR, lifetime(6, 10)), (10 * HOUR, lifetime(6, 11))];
        let counts: Vec<_> = told(&steps, &Rolling::new()).iter().map(Vec::len).collect();
        assert_eq!(counts, [1, 0, 1]);
    }

    #[test]
    fn only_a_hard_budget_is_exhausted() {
        let soft = BudgetUse { enforcement: Enforcement::Soft, threshold: Some(100), ..hourly(12, HOUR) };
        let said = told(&[(0, soft.clone())], &Rolling::new());
        assert_eq!(said, [["BudgetThreshold: budget hour has reached 100%: 12 of 10 Requests are used"]]);
        let usage = |subject, budgets| SubjectUsage {
            subject,
            requests: 1,
            open: 0,
            tokens: la_core::usage::Usage::default(),
            nano_usd: 0,
            budgets,
        };
        let token = usage(Subject::of("gateway", "team-a", "agent").unwrap(), vec![soft, hourly(9, HOUR)]);
        assert!(exhausted(&token).is_empty());
        assert_eq!(condition(&exhausted(&token)).holds.as_str(), "False");
        let pool = usage(Subject::of_pool("gateway", "team-a", "team").unwrap(), vec![hourly(10, HOUR)]);
        let condition = condition(&exhausted(&pool));
        assert_eq!(condition.message, "nothing is left of hour of RouterBudget team-a/team");
    }

    #[test]
    fn budget_of_which_nothing_is_used_has_nothing_to_reset() {
        let (statuses, notes) = stand(&[], &[hourly(0, HOUR)], &Rolling::new(), at(0));
        assert_eq!((statuses[0].resets_at.clone(), notes.len()), (None, 0));
        let (statuses, _) = stand(&[], &[hourly(1, HOUR)], &Rolling::new(), at(0));
        assert_eq!(statuses[0].resets_at, Some(Time(at(HOUR))));
    }
}
