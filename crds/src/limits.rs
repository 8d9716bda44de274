//! Limits, budgets and thresholds, which several kinds share: their schemas, and how a budget stands.
//!
//! What limits are is said once, in [`la_core::budget`]; here is only how the API server judges them. It knows
//! no time zones, so one that does not exist is found when a kind is compiled.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use la_core::amount::Unit;
use la_core::budget::LimitsSpec;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::schema::{DURATION, DURATION_MAX};

/// Most budgets of one owner, and most rates.
const MOST: usize = 16;

/// Most thresholds of one owner.
pub(crate) const MOST_THRESHOLDS: usize = 8;

/// The name of a budget, as it stands in response headers.
pub(crate) const BUDGET_NAME: &str = "^[-_A-Za-z0-9]+$";

/// An amount: a whole number, or dollars with up to nine digits after the point.
pub(crate) const AMOUNT: &str = "^[0-9]{1,18}([.][0-9]{1,9})?$";

/// A name in the IANA database of time zones.
pub(crate) const TIME_ZONE: &str = "^[A-Za-z][-+_/A-Za-z0-9]*$";

pub(crate) const THRESHOLDS_MESSAGE: &str = "must name each percentage once";

/// How a budget stands, as the proxy last reported.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BudgetStatus {
    /// Its name.
    pub name: String,
    /// What it counts.
    #[schemars(with = "String")]
    pub unit: Unit,
    /// What is settled and open in the window.
    pub used: String,
    /// The limit.
    pub limit: String,
    /// When the window ends, or the oldest part of a rolling one leaves; absent for a lifetime, and while
    /// nothing is used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resets_at: Option<Time>,
    /// The highest percentage of the limit of which an Event was published in this window.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub threshold: Option<i32>,
    /// Until when no Event says that percentage or a lower one again; absent for a lifetime.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub threshold_until: Option<Time>,
}

/// Whether limits limit nothing.
pub(crate) fn is_empty(limits: &LimitsSpec) -> bool {
    *limits == LimitsSpec::default()
}

/// Limits of a token.
pub(crate) fn limits(_: &mut SchemaGenerator) -> Schema {
    limits_with(&json!([{
        "rule": "!has(self.maxRequests) || !has(self.budgets) || self.budgets.all(one, one.name != 'maxRequests')",
        "message": "a budget called maxRequests is taken by the short form; names must differ",
        "fieldPath": ".budgets",
    }]))
}

/// Limits that no token of a proxy may exceed.
pub(crate) fn ceilings(_: &mut SchemaGenerator) -> Schema {
    limits_with(&json!([{
        "rule": "!has(self.budgets) || self.budgets.all(one, one.enforcement == 'Hard' && one.name != 'maxRequests')",
        "message": "a ceiling must be Hard, and called otherwise than maxRequests",
        "fieldPath": ".budgets",
    }]))
}

/// 1 to 16 budgets, each name once.
pub(crate) fn budgets(_: &mut SchemaGenerator) -> Schema {
    let mut budgets = budget_list();
    if let Some(fields) = budgets.as_object_mut() {
        fields.insert("minItems".to_owned(), 1.into());
        fields.insert("description".to_owned(), "The budgets, 1 to 16; all must admit a request.".into());
    }
    Schema::try_from(budgets).unwrap_or_default()
}

/// At most 8 percentages.
pub(crate) fn thresholds(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array",
        "maxItems": MOST_THRESHOLDS,
        "items": { "type": "integer", "format": "int32", "minimum": 1, "maximum": 100 },
        "x-kubernetes-validations": [{
            "rule": "self.all(one, self.exists_one(other, other == one))",
            "message": THRESHOLDS_MESSAGE,
        }],
    })
}

fn limits_with(rules: &Value) -> Schema {
    let count =
        |about: &str| json!({ "type": "integer", "format": "int64", "minimum": 1, "description": about });
    json_schema!({
        "type": "object",
        "properties": {
            "maxRequests": count(
                "Most requests in the whole life of the token, renewals included: short for a Hard budget of \
                 requests without a window. To stop a token use `suspend`."),
            "budgets": budget_list(),
            "rates": rate_list(),
            "concurrency": {
                "type": "object",
                "description": "Requests at one time.",
                "required": ["limit"],
                "properties": {
                    "limit": count("Most requests at one time."),
                    "queue": duration("How long a request may wait for its turn, such as `30s`; refused at once when left out."),
                },
            },
            "maxOutputTokens": count("Most output tokens that one request may ask for."),
            "maxRequestBytes": count("Longest body of a request, in bytes."),
        },
        "x-kubernetes-validations": rules,
    })
}

fn budget_list() -> Value {
    json!({
        "type": "array",
        "description": "Budgets, at most 16; all must admit a request.",
        "maxItems": MOST,
        "x-kubernetes-list-type": "map",
        "x-kubernetes-list-map-keys": ["name"],
        "items": budget(),
    })
}

fn budget() -> Value {
    let switch = |about: &str| json!({ "type": "boolean", "description": about });
    json!({
        "type": "object",
        "required": ["name", "unit", "limit"],
        "properties": {
            "name": {
                "type": "string", "minLength": 1, "maxLength": 63, "pattern": BUDGET_NAME,
                "description": "What people call it; in response headers and statuses. Use is counted by unit and window, so that a new name refills nothing.",
            },
            "unit": {
                "type": "string", "enum": ["Requests", "Tokens", "USD"],
                "description": "What it counts: `Requests`, `Tokens` of all kinds as the vendor reports them, or `USD`.",
            },
            "limit": {
                "type": "string", "maxLength": 32, "pattern": AMOUNT,
                "description": "How much: a whole number above zero, or dollars such as `12.50`. A text, so that nothing is rounded.",
            },
            "window": window(),
            "enforcement": {
                "type": "string", "enum": ["Hard", "Soft", "Shadow"], "default": "Hard",
                "description": "What happens at the limit. `Hard`: requests are refused. `Soft`: they are admitted, and it is reported. `Shadow`: they are only counted.",
            },
            "allowUnbounded": switch("Admits requests of which nobody can say beforehand how much they use at most. Only for a Hard budget of Tokens or USD."),
            "allowUnpriced": switch("Admits requests to models without a price, and charges nothing for them. Only for a Hard budget of USD."),
        },
        "x-kubernetes-validations": [
            { "rule": "self.limit.matches('[1-9]')", "fieldPath": ".limit",
              "message": "must be above zero; suspend the token to stop it" },
            { "rule": "self.unit == 'USD' || self.limit.matches('^[0-9]+([.]0+)?$')", "fieldPath": ".limit",
              "message": "must be a whole number" },
            { "rule": "self.unit != 'USD' || double(self.limit) <= 18446744073.0", "fieldPath": ".limit",
              "message": "must be at most 18446744073" },
            { "rule": "!has(self.allowUnbounded) || !self.allowUnbounded || (self.enforcement == 'Hard' && self.unit != 'Requests')",
              "message": "has no effect here; remove it, or make the budget Hard and count Tokens or USD",
              "fieldPath": ".allowUnbounded" },
            { "rule": "!has(self.allowUnpriced) || !self.allowUnpriced || (self.enforcement == 'Hard' && self.unit == 'USD')",
              "message": "has no effect here; remove it, or make the budget Hard and count USD",
              "fieldPath": ".allowUnpriced" },
        ],
    })
}

fn window() -> Value {
    json!({
        "type": "object",
        "default": {},
        "description": "For how long it counts: `calendar` or `rolling`; for ever when left out.",
        "properties": {
            "calendar": {
                "type": "object",
                "description": "From one full hour, midnight, Monday or first of the month to the next.",
                "required": ["every"],
                "properties": {
                    "every": {
                        "type": "string", "enum": ["Hour", "Day", "Week", "Month"],
                        "description": "What is counted from its beginning.",
                    },
                    "timeZone": {
                        "type": "string", "minLength": 1, "maxLength": 64, "pattern": TIME_ZONE, "default": "UTC",
                        "description": "A time zone of the IANA database, such as `Europe/Berlin`.",
                    },
                },
            },
            "rolling": span("The last so long, such as `24h`.", "must be a duration of at least 1ms such as 24h or 90m"),
        },
        "x-kubernetes-validations": [
            { "rule": "!(has(self.calendar) && has(self.rolling))", "message": "must have one form; remove the other" },
        ],
    })
}

fn rate_list() -> Value {
    json!({
        "type": "array",
        "description": "Rates, at most 16; all must admit a request.",
        "maxItems": MOST,
        "x-kubernetes-list-type": "map",
        "x-kubernetes-list-map-keys": ["unit", "per"],
        "items": {
            "type": "object",
            "required": ["unit", "limit", "per"],
            "properties": {
                "unit": {
                    "type": "string", "enum": ["Requests", "Tokens"],
                    "description": "What it counts.",
                },
                "limit": { "type": "integer", "format": "int64", "minimum": 1,
                    "description": "How many in each interval." },
                "per": span("The interval, such as `1m`.", "must be a duration of at least 1ms such as 1m"),
                "burst": { "type": "integer", "format": "int64", "minimum": 1,
                    "description": "How many at once; as many as `limit` when left out." },
            },
        },
    })
}

fn duration(about: &str) -> Value {
    json!({
        "type": "string", "maxLength": DURATION_MAX, "pattern": DURATION, "description": about,
        "x-kubernetes-validations": [{ "rule": "duration(self) >= duration('0s')", "message": "must be a duration such as 30s" }],
    })
}

/// A duration that is not nothing.
fn span(about: &str, message: &str) -> Value {
    json!({
        "type": "string", "maxLength": DURATION_MAX, "pattern": DURATION, "description": about,
        "x-kubernetes-validations": [{ "rule": "duration(self) >= duration('1ms')", "message": message }],
    })
}
