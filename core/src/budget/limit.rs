//! What an owner may use, as people write it and as it is counted with.
//!
//! A spec is the shape of a manifest and may hold anything. [`Limits::check`] makes limits of it that cannot
//! be wrong, or names every faulty field, its value and what it must be instead.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Every, Pace, Window, WindowError};
use crate::amount::{AmountError, Unit};
use crate::duration;

/// Most budgets of one owner, and most rates.
const MOST: usize = 16;

/// Longest name of a budget: it becomes part of response headers.
const MOST_NAME_CHARACTERS: usize = 63;

/// The name of the budget that the short form `maxRequests` makes.
pub const MAX_REQUESTS: &str = "maxRequests";

/// Limits as they are written.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct LimitsSpec {
    /// Short form of a Hard lifetime budget of requests.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_requests: Option<i64>,
    /// Budgets; all must admit a request.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub budgets: Vec<BudgetSpec>,
    /// Rates; all must admit a request.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub rates: Vec<RateSpec>,
    /// Requests at one time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub concurrency: Option<ConcurrencySpec>,
    /// Most output tokens that one request may ask for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_output_tokens: Option<i64>,
    /// Longest body of a request in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_request_bytes: Option<i64>,
}

impl LimitsSpec {
    /// Nothing but a lifetime of so many requests, if given.
    pub fn of_requests(max_requests: Option<u64>) -> Self {
        let max_requests = max_requests.map(|most| i64::try_from(most).unwrap_or(i64::MAX));
        Self { max_requests, ..Self::default() }
    }
}

/// A budget as it is written.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct BudgetSpec {
    /// Unique among its owner's.
    pub name: String,
    /// What it counts.
    pub unit: Unit,
    /// How much, as [`Unit::parse`] reads it.
    pub limit: String,
    /// For how long; for ever when absent.
    #[serde(default)]
    pub window: WindowSpec,
    /// What happens at the limit.
    #[serde(default)]
    pub enforcement: Enforcement,
    /// Admits requests of which nobody can say beforehand how much they use at most. Only where the budget is
    /// Hard and counts tokens or money; others admit them anyway.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub allow_unbounded: bool,
    /// Admits requests to models without a price, and charges nothing for them. Only where the budget is Hard
    /// and counts money; others admit them anyway.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub allow_unpriced: bool,
}

/// A window as it is written: one of the fields, or none for a lifetime.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct WindowSpec {
    /// From one full hour, midnight, Monday or first of the month to the next.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub calendar: Option<CalendarSpec>,
    /// The last so long, as `24h`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rolling: Option<String>,
}

/// A calendar window as it is written.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CalendarSpec {
    /// What is counted from its beginning.
    pub every: Every,
    /// A time zone of the IANA database; UTC when absent.
    #[serde(default = "utc")]
    pub time_zone: String,
}

/// A rate as it is written.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RateSpec {
    /// Requests or tokens.
    pub unit: Unit,
    /// How many in each interval.
    pub limit: i64,
    /// The interval, as `1m`.
    pub per: String,
    /// How many at once; as many as `limit` when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub burst: Option<i64>,
}

/// A limit of concurrency as it is written.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ConcurrencySpec {
    /// Most requests at one time.
    pub limit: i64,
    /// How long a request may wait for its turn, as `30s`; refused at once when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queue: Option<String>,
}

/// What happens at the limit of a budget.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Enforcement {
    /// Requests are refused.
    #[default]
    Hard,
    /// Requests are admitted, and it is reported.
    Soft,
    /// Requests are only counted.
    Shadow,
}

/// What an owner may use. Nothing in it is wrong.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Limits {
    /// Budgets, each name once.
    pub budgets: Vec<Budget>,
    /// Rates, each unit and interval once.
    pub rates: Vec<Rate>,
    /// Requests at one time.
    pub concurrency: Option<Concurrency>,
    /// Most output tokens of one request.
    pub max_output_tokens: Option<u64>,
    /// Longest body of a request in bytes.
    pub max_request_bytes: Option<u64>,
}

/// A budget.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Budget {
    /// What people call it. Use is counted by unit and window, so that a new name refills nothing.
    pub name: Arc<str>,
    /// What it counts.
    pub unit: Unit,
    /// How much; above zero when it comes from a spec.
    pub limit: u64,
    /// For how long.
    pub window: Window,
    /// What happens at the limit.
    pub enforcement: Enforcement,
    /// Which requests it admits although it cannot judge them.
    pub admits: Admits,
}

/// Which requests a Hard budget admits although it cannot judge them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Admits {
    /// Those of which nobody can say how much they use at most.
    pub unbounded: bool,
    /// Those to a model without a price.
    pub unpriced: bool,
}

/// A rate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// Requests or tokens.
    pub unit: Unit,
    /// How many, how often.
    pub pace: Pace,
}

/// A limit of requests at one time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Concurrency {
    /// Most requests at one time.
    pub limit: u64,
    /// How long a request may wait for its turn; zero is not at all.
    pub queue: Duration,
}

/// A field that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field} is {value:?}: {remedy}")]
pub struct LimitFault {
    /// Its path under the limits, as `budgets[1].limit`.
    pub field: String,
    /// What it holds.
    pub value: String,
    /// What it must be.
    pub remedy: String,
}

impl Limits {
    /// Makes limits of what was written.
    ///
    /// # Errors
    /// Every fault, in the order of the fields.
    pub fn check(spec: &LimitsSpec) -> Result<Self, Vec<LimitFault>> {
        let mut faults = Faults::default();
        let mut budgets = Vec::new();
        if let Some(limit) = faults.count("maxRequests", spec.max_requests) {
            let (window, enforcement) = (Window::Lifetime, Enforcement::Hard);
            budgets.push(Budget {
                name: MAX_REQUESTS.into(),
                unit: Unit::Requests,
                limit,
                window,
                enforcement,
                admits: Admits::default(),
            });
        }
        faults.budgets(&spec.budgets, &mut budgets);
        let limits = Self {
            budgets,
            rates: faults.rates(&spec.rates),
            concurrency: faults.concurrency(spec.concurrency.as_ref()),
            max_output_tokens: faults.count("maxOutputTokens", spec.max_output_tokens),
            max_request_bytes: faults.count("maxRequestBytes", spec.max_request_bytes),
        };
        if faults.0.is_empty() { Ok(limits) } else { Err(faults.0) }
    }
}

/// Makes the budgets of a pool of what was written.
///
/// # Errors
/// Every fault, in the order of the fields.
pub fn check_budgets(specs: &[BudgetSpec]) -> Result<Vec<Budget>, Vec<LimitFault>> {
    let (mut faults, mut budgets) = (Faults::default(), Vec::new());
    faults.budgets(specs, &mut budgets);
    if faults.0.is_empty() { Ok(budgets) } else { Err(faults.0) }
}

#[derive(Default)]
struct Faults(Vec<LimitFault>);

impl Faults {
    fn add(&mut self, field: impl Into<String>, value: impl ToString, remedy: impl ToString) {
        let (field, value, remedy) = (field.into(), value.to_string(), remedy.to_string());
        self.0.push(LimitFault { field, value, remedy });
    }

    /// A whole number above zero.
    fn count(&mut self, field: &str, value: Option<i64>) -> Option<u64> {
        let value = value?;
        let count = u64::try_from(value).ok().filter(|count| *count > 0);
        if count.is_none() {
            self.add(field, value, "must be a whole number above zero");
        }
        count
    }

    fn budgets(&mut self, specs: &[BudgetSpec], budgets: &mut Vec<Budget>) {
        if specs.len() > MOST {
            self.add("budgets", format!("{} entries", specs.len()), format!("must have at most {MOST}"));
        }
        for (at, spec) in specs.iter().enumerate() {
            self.name(at, &spec.name, budgets);
            let limit = self.limit(at, spec);
            let window = self.window(at, &spec.window);
            let admits = self.admits(at, spec);
            if let (Some(limit), Some(window)) = (limit, window) {
                let (name, enforcement) = (spec.name.as_str().into(), spec.enforcement);
                budgets.push(Budget { name, unit: spec.unit, limit, window, enforcement, admits });
            }
        }
    }

    fn name(&mut self, at: usize, name: &str, others: &[Budget]) {
        let field = || format!("budgets[{at}].name");
        let good = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        if name.is_empty() || name.len() > MOST_NAME_CHARACTERS || !name.chars().all(good) {
            let remedy = format!("must be 1 to {MOST_NAME_CHARACTERS} letters, digits, `-` and `_`");
            self.add(field(), name, remedy);
        } else if others.iter().any(|other| *other.name == *name) {
            self.add(field(), name, "is taken by another budget; names must differ");
        }
    }

    fn limit(&mut self, at: usize, spec: &BudgetSpec) -> Option<u64> {
        let fault: String = match spec.unit.parse(&spec.limit) {
            Ok(0) => "must be above zero; suspend the token to stop it".to_owned(),
            Ok(limit) => return Some(limit),
            Err(AmountError::NotANumber(_)) if spec.limit.starts_with('-') => {
                "must be above zero and have no sign".to_owned()
            }
            Err(error) => error.to_string(),
        };
        self.add(format!("budgets[{at}].limit"), &spec.limit, fault);
        None
    }

    fn window(&mut self, at: usize, spec: &WindowSpec) -> Option<Window> {
        let window = match (&spec.calendar, &spec.rolling) {
            (Some(calendar), Some(rolling)) => {
                let value = format!("calendar {} and rolling {rolling}", calendar.every.name());
                self.add(format!("budgets[{at}].window"), value, "must have one form; remove the other");
                return None;
            }
            (None, None) => Ok(Window::Lifetime),
            (Some(CalendarSpec { every, time_zone }), None) => time_zone
                .parse()
                .map(|zone| Window::Calendar { every: *every, zone })
                .map_err(|error| ("calendar.timeZone", time_zone, error)),
            (None, Some(rolling)) => duration::parse(rolling)
                .map_err(|_| WindowError::Empty)
                .and_then(Window::rolling)
                .map_err(|error| ("rolling", rolling, error)),
        };
        window.map_err(|(field, value, e)| self.add(format!("budgets[{at}].window.{field}"), value, e)).ok()
    }

    fn admits(&mut self, at: usize, spec: &BudgetSpec) -> Admits {
        let is_hard = spec.enforcement == Enforcement::Hard;
        let remedy = "has no effect here; remove it, or make the budget Hard and count";
        if spec.allow_unbounded && !(is_hard && spec.unit != Unit::Requests) {
            self.add(format!("budgets[{at}].allowUnbounded"), true, format!("{remedy} Tokens or USD"));
        }
        if spec.allow_unpriced && !(is_hard && spec.unit == Unit::Usd) {
            self.add(format!("budgets[{at}].allowUnpriced"), true, format!("{remedy} USD"));
        }
        Admits { unbounded: spec.allow_unbounded, unpriced: spec.allow_unpriced }
    }

    fn rates(&mut self, specs: &[RateSpec]) -> Vec<Rate> {
        if specs.len() > MOST {
            self.add("rates", format!("{} entries", specs.len()), format!("must have at most {MOST}"));
        }
        let mut rates: Vec<Rate> = Vec::new();
        for (at, spec) in specs.iter().enumerate() {
            let field = |name: &str| format!("rates[{at}].{name}");
            if spec.unit == Unit::Usd {
                self.add(field("unit"), spec.unit, "must be Requests or Tokens; use a budget for money");
            }
            let limit = self.count(&field("limit"), Some(spec.limit));
            let burst = spec.burst.map_or(limit, |burst| self.count(&field("burst"), Some(burst)));
            let per = duration::parse(&spec.per).ok().filter(|per| !per.is_zero());
            if per.is_none() {
                self.add(field("per"), &spec.per, "must be a duration of at least 1ms such as 1m");
            }
            let (Some(limit), Some(burst), Some(per)) = (limit, burst, per) else { continue };
            let per_ms = u64::try_from(per.as_millis()).unwrap_or(u64::MAX);
            if rates.iter().any(|rate| rate.unit == spec.unit && rate.pace.per_ms() == per_ms) {
                self.add(field("per"), &spec.per, "is the interval of another rate of this unit; keep one");
            }
            match Pace::new(limit, per_ms, burst) {
                Some(pace) => rates.push(Rate { unit: spec.unit, pace }),
                None => {
                    self.add(field("burst"), burst, "is too large for this interval; make either smaller")
                }
            }
        }
        rates
    }

    fn concurrency(&mut self, spec: Option<&ConcurrencySpec>) -> Option<Concurrency> {
        let spec = spec?;
        let limit = self.count("concurrency.limit", Some(spec.limit));
        let queue = duration::parse(spec.queue.as_deref().unwrap_or("0s"));
        if let Err(error) = &queue {
            self.add("concurrency.queue", &error.text, "must be a duration such as 30s");
        }
        Some(Concurrency { limit: limit?, queue: queue.ok()? })
    }
}

fn utc() -> String {
    "UTC".to_owned()
}

#[cfg(test)]
mod tests;
