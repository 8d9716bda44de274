//! What a token may use in the end: its own limits, completed by the defaults and held to the ceilings of
//! its proxy.
//!
//! A ceiling is compared with what has the same unit and the same window or interval. Where a token has no
//! such thing, or one that does not refuse every request that the ceiling refuses, the ceiling itself is
//! added: nobody goes without it.

use la_core::budget::{Budget, Enforcement, Limits, LimitsSpec, Rate};
use la_core::duration;

use crate::router_proxy::TokenAdmission;
use crate::rules::Broken;

/// A limit above a ceiling.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Above {
    /// The field, as a path in the limits.
    field: String,
    /// What is wrong with it.
    message: String,
}

impl Above {
    /// As a broken rule of the limits that stand at `path`.
    pub(crate) fn at(self, path: &str) -> Broken {
        Broken::new(format!("{path}.{}", self.field), self.message)
    }

    fn new(field: impl Into<String>, value: impl ToString, (ceiling, most): (&str, impl ToString)) -> Self {
        let (value, most) = (value.to_string(), most.to_string());
        let message = format!(
            "is {value:?}: the proxy's tokens.ceilings.{ceiling} allows at most {most:?}; ask for less"
        );
        Self { field: field.into(), message }
    }
}

/// The limits in force for a token that asks for `own`. All three have passed their own rules.
///
/// # Errors
/// Every limit above a ceiling.
pub(crate) fn apply(proxy: &TokenAdmission, own: &LimitsSpec) -> Result<LimitsSpec, Vec<Above>> {
    let own = &with_defaults(own, &proxy.defaults);
    let (mut spec, mut above) = (own.clone(), Vec::new());
    let ceilings = Limits::check(&proxy.ceilings).map_err(broken)?;
    let asked = Limits::check(own).map_err(broken)?;
    for (at, most) in ceilings.budgets.iter().enumerate() {
        let ceiling = budget_field(&proxy.ceilings, at);
        let larger = budgets_above(own, &asked, (&ceiling, most));
        if !larger.is_empty() || asked.budgets.iter().any(|budget| is_as_strict(budget, most)) {
            above.extend(larger);
            continue;
        }
        if let Some(at) = asked.budgets.iter().position(|budget| budget.name == most.name) {
            let field = budget_field(own, at).replace(".limit", ".name");
            let message =
                format!("is {:?}, which a ceiling of the proxy is called; choose another", most.name);
            above.push(Above { field, message });
        }
        add_budget(&mut spec, &proxy.ceilings, at);
    }
    for (nth, (most, written)) in ceilings.rates.iter().zip(&proxy.ceilings.rates).enumerate() {
        match asked.rates.iter().position(|rate| is_same_rate(rate, most)) {
            Some(at) => above.extend(rate_above((at, asked.rates.get(at)), (nth, most))),
            None => spec.rates.push(written.clone()),
        }
    }
    above.extend(concurrency_above(&mut spec, &proxy.ceilings));
    for (name, asked, most) in [
        ("maxOutputTokens", &mut spec.max_output_tokens, proxy.ceilings.max_output_tokens),
        ("maxRequestBytes", &mut spec.max_request_bytes, proxy.ceilings.max_request_bytes),
    ] {
        above.extend(number_above(name, asked, most));
    }
    if above.is_empty() {
        Limits::check(&spec).map_err(broken)?;
        return Ok(spec);
    }
    Err(above)
}

/// Every part of `own`, and of `defaults` the parts that it leaves out.
fn with_defaults(own: &LimitsSpec, defaults: &LimitsSpec) -> LimitsSpec {
    let mut spec = own.clone();
    if own.max_requests.is_none() && own.budgets.is_empty() {
        spec.max_requests = defaults.max_requests;
        spec.budgets.clone_from(&defaults.budgets);
    }
    if own.rates.is_empty() {
        spec.rates.clone_from(&defaults.rates);
    }
    spec.concurrency = spec.concurrency.or_else(|| defaults.concurrency.clone());
    spec.max_output_tokens = spec.max_output_tokens.or(defaults.max_output_tokens);
    spec.max_request_bytes = spec.max_request_bytes.or(defaults.max_request_bytes);
    spec
}

/// What the checks of limits say of more budgets than there can be, or of limits that came past their rules.
fn broken(faults: Vec<la_core::budget::LimitFault>) -> Vec<Above> {
    let told = |fault: la_core::budget::LimitFault| Above {
        message: format!("is {:?} together with the proxy's tokens.ceilings: {}", fault.value, fault.remedy),
        field: fault.field,
    };
    faults.into_iter().map(told).collect()
}

/// Where the budget at `at` of the checked limits is written: the short form comes first.
fn budget_field(spec: &LimitsSpec, at: usize) -> String {
    match (spec.max_requests, at) {
        (Some(_), 0) => "maxRequests".to_owned(),
        (Some(_), at) => format!("budgets[{}].limit", at.saturating_sub(1)),
        (None, at) => format!("budgets[{at}].limit"),
    }
}

fn budgets_above(own: &LimitsSpec, asked: &Limits, (ceiling, most): (&str, &Budget)) -> Vec<Above> {
    let budgets = asked.budgets.iter().enumerate();
    let larger = budgets.filter(|(_, budget)| is_same_budget(budget, most) && budget.limit > most.limit);
    let text = |budget: &Budget| budget.unit.text(budget.limit);
    larger
        .map(|(at, budget)| Above::new(budget_field(own, at), text(budget), (ceiling, text(most))))
        .collect()
}

fn is_same_budget(budget: &Budget, most: &Budget) -> bool {
    budget.unit == most.unit && budget.window == most.window
}

/// Whether `budget` refuses every request that the ceiling `most` refuses.
fn is_as_strict(budget: &Budget, most: &Budget) -> bool {
    is_same_budget(budget, most)
        && budget.enforcement == Enforcement::Hard
        && budget.limit <= most.limit
        && (most.admits.unbounded || !budget.admits.unbounded)
        && (most.admits.unpriced || !budget.admits.unpriced)
}

fn add_budget(spec: &mut LimitsSpec, ceilings: &LimitsSpec, at: usize) {
    match (ceilings.max_requests, at) {
        (Some(most), 0) => spec.max_requests = Some(most),
        (short, at) => {
            let written = ceilings.budgets.get(at.saturating_sub(usize::from(short.is_some())));
            spec.budgets.extend(written.cloned());
        }
    }
}

fn is_same_rate(rate: &Rate, most: &Rate) -> bool {
    rate.unit == most.unit && rate.pace.per_ms() == most.pace.per_ms()
}

fn rate_above((at, rate): (usize, Option<&Rate>), (nth, most): (usize, &Rate)) -> Vec<Above> {
    let Some(rate) = rate else { return Vec::new() };
    let parts =
        [("limit", rate.pace.limit(), most.pace.limit()), ("burst", rate.pace.burst(), most.pace.burst())];
    let larger = parts.into_iter().filter(|(_, asked, most)| asked > most);
    larger
        .map(|(name, asked, most)| {
            let ceiling = format!("rates[{nth}].{name}");
            Above::new(format!("rates[{at}].{name}"), asked, (&ceiling, most))
        })
        .collect()
}

fn concurrency_above(spec: &mut LimitsSpec, ceilings: &LimitsSpec) -> Vec<Above> {
    let Some(most) = &ceilings.concurrency else { return Vec::new() };
    let Some(asked) = &spec.concurrency else {
        spec.concurrency = Some(most.clone());
        return Vec::new();
    };
    let mut above = Vec::new();
    if asked.limit > most.limit {
        above.push(Above::new("concurrency.limit", asked.limit, ("concurrency.limit", most.limit)));
    }
    let length = |text: &String| duration::parse(text).unwrap_or_default();
    if let (Some(queue), Some(longest)) = (&asked.queue, &most.queue)
        && length(queue) > length(longest)
    {
        above.push(Above::new("concurrency.queue", queue, ("concurrency.queue", longest)));
    }
    above
}

fn number_above(name: &str, asked: &mut Option<i64>, most: Option<i64>) -> Option<Above> {
    let most = most?;
    match asked {
        None => {
            *asked = Some(most);
            None
        }
        Some(asked) => (*asked > most).then(|| Above::new(name, *asked, (name, most))),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn admission(defaults: Value, ceilings: Value) -> TokenAdmission {
        serde_json::from_value(json!({ "defaults": defaults, "ceilings": ceilings })).unwrap()
    }

    fn budget(name: &str, unit: &str, limit: &str, more: Value) -> Value {
        let mut budget = json!({ "name": name, "unit": unit, "limit": limit });
        budget.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        budget
    }

    fn daily() -> Value {
        json!({ "window": { "calendar": { "every": "Day" } } })
    }

    fn in_force(proxy: &TokenAdmission, own: Value) -> Result<LimitsSpec, Vec<String>> {
        let own: LimitsSpec = serde_json::from_value(own).unwrap();
        let said = |above: Above| {
            let broken = above.at("spec.limits");
            format!("{}: {}", broken.field, broken.message)
        };
        apply(proxy, &own).map_err(|above| above.into_iter().map(said).collect())
    }

    #[test]
    fn token_gets_the_defaults_of_every_part_it_leaves_out() {
        let defaults = json!({
            "maxRequests": 9, "budgets": [budget("month", "USD", "5", json!({}))],
            "rates": [{ "unit": "Requests", "limit": 5, "per": "1m" }],
            "concurrency": { "limit": 3 }, "maxOutputTokens": 100, "maxRequestBytes": 1000,
        });
        let proxy = admission(defaults.clone(), json!({}));
        let all: LimitsSpec = serde_json::from_value(defaults).unwrap();
        assert_eq!(in_force(&proxy, json!({})), Ok(all.clone()));
        let budgets = in_force(&proxy, json!({ "maxRequests": 50 })).unwrap();
        assert_eq!(
            (budgets.max_requests, budgets.budgets.len()),
            (Some(50), 0),
            "one budget of its own is all"
        );
        assert_eq!((budgets.rates, budgets.concurrency), (all.rates.clone(), all.concurrency.clone()));
        let own = json!({ "rates": [{ "unit": "Tokens", "limit": 1, "per": "1s" }], "maxOutputTokens": 7 });
        let own = in_force(&proxy, own).unwrap();
        assert_eq!((own.rates.len(), own.max_output_tokens, own.max_request_bytes), (1, Some(7), Some(1000)));
        assert_eq!(own.budgets, all.budgets);
    }

    #[test]
    fn limit_above_a_ceiling_is_refused_by_field_value_and_ceiling() {
        let ceilings = json!({
            "maxRequests": 100, "budgets": [budget("day", "USD", "5", daily())],
            "rates": [{ "unit": "Requests", "limit": 5, "per": "1m", "burst": 10 }],
            "concurrency": { "limit": 3, "queue": "10s" }, "maxOutputTokens": 100, "maxRequestBytes": 1000,
        });
        let proxy = admission(json!({}), ceilings);
        let own = json!({
            "maxRequests": 101, "budgets": [budget("mine", "USD", "5.01", daily())],
            "rates": [{ "unit": "Requests", "limit": 6, "per": "60s", "burst": 11 }],
            "concurrency": { "limit": 4, "queue": "11s" }, "maxOutputTokens": 101, "maxRequestBytes": 1001,
        });
        let said = in_force(&proxy, own).unwrap_err();
        let expected = [
            ("maxRequests", "101", "maxRequests", "100"),
            ("budgets[0].limit", "5.01", "budgets[0].limit", "5"),
            ("rates[0].limit", "6", "rates[0].limit", "5"),
            ("rates[0].burst", "11", "rates[0].burst", "10"),
            ("concurrency.limit", "4", "concurrency.limit", "3"),
            ("concurrency.queue", "11s", "concurrency.queue", "10s"),
            ("maxOutputTokens", "101", "maxOutputTokens", "100"),
            ("maxRequestBytes", "1001", "maxRequestBytes", "1000"),
        ];
        let expected = expected.map(|(field, value, ceiling, most)| {
            format!("spec.limits.{field}: is {value:?}: the proxy's tokens.ceilings.{ceiling} allows at most {most:?}; ask for less")
        });
        assert!(expected.iter().all(|line| said.contains(line)), "{said:#?}");
        assert!(said.iter().all(|line| expected.contains(line)), "{said:#?}");
    }

    #[test]
    fn field_is_named_where_it_is_written_though_a_ceiling_was_added_before_it() {
        let ceilings = json!({ "maxRequests": 100, "budgets": [budget("cap", "USD", "5", daily())] });
        let own = json!({ "budgets": [budget("mine", "USD", "6", daily())] });
        assert_eq!(
            in_force(&admission(json!({}), ceilings), own).unwrap_err(),
            [
                "spec.limits.budgets[0].limit: is \"6\": the proxy's tokens.ceilings.budgets[0].limit allows at most \"5\"; ask for less"
            ]
        );
    }

    #[test]
    fn nobody_goes_without_a_ceiling() {
        let ceiling = budget("cap", "USD", "5", daily());
        let proxy = admission(json!({}), json!({ "maxRequests": 100, "budgets": [ceiling] }));
        let cases = [
            ("a token without limits", json!({}), vec!["cap"], Some(100)),
            (
                "a budget of another window",
                json!({ "budgets": [budget("mine", "USD", "900", json!({}))] }),
                vec!["mine", "cap"],
                Some(100),
            ),
            (
                "a Hard budget below it",
                json!({ "maxRequests": 1, "budgets": [budget("mine", "USD", "4", daily())] }),
                vec!["mine"],
                Some(1),
            ),
            (
                "a Soft budget below it",
                json!({ "budgets": [{ "name": "mine", "unit": "USD", "limit": "4", "enforcement": "Soft",
                    "window": { "calendar": { "every": "Day" } } }] }),
                vec!["mine", "cap"],
                Some(100),
            ),
            (
                "a budget that admits what the ceiling refuses",
                json!({ "budgets": [{ "name": "mine", "unit": "USD", "limit": "4", "allowUnpriced": true,
                    "window": { "calendar": { "every": "Day" } } }] }),
                vec!["mine", "cap"],
                Some(100),
            ),
        ];
        for (sentence, own, names, max_requests) in cases {
            let limits = in_force(&proxy, own).unwrap();
            let found: Vec<_> = limits.budgets.iter().map(|budget| budget.name.as_str()).collect();
            assert_eq!((found, limits.max_requests), (names, max_requests), "{sentence}");
        }
    }

    #[test]
    fn name_of_a_ceiling_cannot_be_taken_for_another_budget() {
        let proxy = admission(json!({}), json!({ "budgets": [budget("cap", "USD", "5", daily())] }));
        let own = json!({ "budgets": [budget("other", "Tokens", "1", json!({})), budget("cap", "Tokens", "5", daily())] });
        assert_eq!(
            in_force(&proxy, own).unwrap_err(),
            [
                "spec.limits.budgets[1].name: is \"cap\", which a ceiling of the proxy is called; choose another"
            ]
        );
    }

    #[test]
    fn more_budgets_than_can_be_are_refused_with_the_ceilings_counted() {
        let proxy = admission(json!({}), json!({ "budgets": [budget("cap", "USD", "5", daily())] }));
        let many: Vec<_> = (0..16).map(|n| budget(&format!("b{n}"), "Tokens", "1", json!({}))).collect();
        let said = in_force(&proxy, json!({ "budgets": many })).unwrap_err();
        assert_eq!(said.len(), 1);
        assert!(said[0].starts_with("spec.limits.budgets: is \"17 entries\" together with"), "{said:?}");
    }
}
