//! Whether a value has the shape that a structural schema asks for; every fault at once.
//!
//! Knows the part of JSON Schema that our definitions use, and nothing of CEL: see [`crate::rules`]. The
//! shapes of our kinds are read from `generated/shapes.json`: making their schemas anew at every start
//! took longer than all else that a start reads.

use std::collections::BTreeMap;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use regex_lite::Regex;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::rules::Broken;
use crate::schema;

const SHAPES: &str = include_str!("../../generated/shapes.json");

/// A structural schema, as far as it is looked at here. An empty one allows nothing.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Shape {
    r#type: Option<String>,
    format: Option<String>,
    nullable: Option<bool>,
    properties: Option<BTreeMap<String, Self>>,
    required: Option<Vec<String>>,
    one_of: Option<Vec<Self>>,
    additional_properties: Option<Box<Self>>,
    max_properties: Option<i64>,
    items: Option<Box<Self>>,
    min_items: Option<i64>,
    max_items: Option<i64>,
    #[serde(rename = "x-kubernetes-list-type")]
    list_type: Option<String>,
    #[serde(rename = "x-kubernetes-list-map-keys")]
    list_map_keys: Option<Vec<String>>,
    r#enum: Option<Vec<Value>>,
    pattern: Option<String>,
    min_length: Option<i64>,
    max_length: Option<i64>,
    minimum: Option<f64>,
    maximum: Option<f64>,
    #[serde(rename = "x-kubernetes-int-or-string")]
    int_or_string: Option<bool>,
}

/// The shapes of the specs of our kinds.
#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Shapes {
    pub(super) router_budget: Shape,
    pub(super) router_proxy: Shape,
    pub(super) router_token: Shape,
    pub(super) upstream_provider: Shape,
}

impl Shapes {
    /// Those that were generated.
    pub(super) fn read() -> Self {
        serde_json::from_str(SHAPES).unwrap_or_default()
    }

    /// What is to be in `generated/shapes.json`.
    pub(crate) fn generate(definitions: &[CustomResourceDefinition]) -> serde_json::Result<String> {
        let mut shapes = Map::new();
        for definition in definitions {
            let schema = definition.spec.versions.first().and_then(|version| version.schema.as_ref());
            let root = schema.and_then(|schema| schema.open_api_v3_schema.as_ref());
            let spec = root.and_then(|root| root.properties.as_ref()).and_then(|fields| fields.get("spec"));
            let shape: Shape = serde_json::from_value(serde_json::to_value(spec)?)?;
            shapes.insert(definition.spec.names.kind.clone(), without_nulls(serde_json::to_value(shape)?));
        }
        serde_json::to_string(&shapes).map(|text| text + "\n")
    }
}

fn without_nulls(value: Value) -> Value {
    match value {
        Value::Object(fields) => {
            let given = fields.into_iter().filter(|(_, value)| !value.is_null());
            given.map(|(key, value)| (key, without_nulls(value))).collect()
        }
        Value::Array(items) => items.into_iter().map(without_nulls).collect(),
        other => other,
    }
}

impl Shape {
    /// The schema written as JSON; one that cannot be read allows nothing.
    pub(super) fn of(schema: Value) -> Self {
        serde_json::from_value(schema).unwrap_or_default()
    }

    /// What is wrong with `value`, which stands at `path`.
    pub(super) fn faults(&self, path: &str, value: &Value) -> Vec<Broken> {
        let mut walk = Walk { faults: Vec::new() };
        walk.value(path, value, self);
        walk.faults
    }
}

struct Walk {
    faults: Vec<Broken>,
}

impl Walk {
    fn fault(&mut self, path: &str, message: impl Into<String>) {
        self.faults.push(Broken { field: path.to_owned(), message: message.into() });
    }

    fn value(&mut self, path: &str, value: &Value, schema: &Shape) {
        if value.is_null() {
            if schema.nullable != Some(true) {
                self.fault(path, "is empty; give it a value or leave it out");
            }
            return;
        }
        if schema.int_or_string == Some(true) {
            match value {
                Value::String(text) => self.text(path, text, schema),
                Value::Number(number) if number.is_i64() => {}
                other => self.wrong_type(path, "a text or a whole number", other),
            }
            return;
        }
        match (schema.r#type.as_deref().unwrap_or_default(), value) {
            ("object", Value::Object(fields)) => self.object(path, fields, schema),
            ("array", Value::Array(items)) => self.array(path, items, schema),
            ("string", Value::String(text)) => self.text(path, text, schema),
            ("boolean", Value::Bool(_)) => {}
            ("integer", Value::Number(number)) if number.is_i64() => {
                self.number(path, number.as_i64(), schema)
            }
            (wanted, other) => self.wrong_type(path, named(wanted), other),
        }
    }

    fn wrong_type(&mut self, path: &str, wanted: &str, found: &Value) {
        let found = match found {
            Value::Null => "nothing",
            Value::Bool(_) => "true or false",
            Value::Number(number) if number.is_i64() => "a whole number",
            Value::Number(_) => "a number that is not whole or too large",
            Value::String(_) => "a text",
            Value::Array(_) => "a list",
            Value::Object(_) => "a mapping",
        };
        let hint = if wanted == "a text" { "; put it in quotes" } else { "" };
        self.fault(path, format!("must be {wanted}, is {found}{hint}"));
    }

    fn object(&mut self, path: &str, fields: &Map<String, Value>, schema: &Shape) {
        let none = BTreeMap::new();
        let known = schema.properties.as_ref().unwrap_or(&none);
        for (key, value) in fields {
            let path = format!("{path}.{key}");
            match (known.get(key), &schema.additional_properties) {
                (Some(field), _) => self.value(&path, value, field),
                (None, Some(entry)) => self.value(&path, value, entry),
                (None, _) => {
                    let names: Vec<_> = known.keys().map(String::as_str).collect();
                    self.fault(&path, format!("is not a field here; known are {}", names.join(", ")));
                }
            }
        }
        for name in schema.required.iter().flatten().filter(|name| !fields.contains_key(*name)) {
            self.fault(&format!("{path}.{name}"), "is missing");
        }
        if schema.max_properties.is_some_and(|most| exceeds(fields.len(), most)) {
            self.fault(
                path,
                format!("has {} entries, at most {} are allowed", fields.len(), shown(schema.max_properties)),
            );
        }
        self.union(path, fields, schema);
    }

    /// Of the members of a union exactly one must be there.
    fn union(&mut self, path: &str, fields: &Map<String, Value>, schema: &Shape) {
        let branches = schema.one_of.iter().flatten();
        let members: Vec<_> = branches.flat_map(|branch| branch.required.iter().flatten()).collect();
        let given = members.iter().filter(|member| fields.contains_key(**member)).count();
        if members.is_empty() || given == 1 {
            return;
        }
        let names: Vec<_> = members.iter().map(|member| member.as_str()).collect();
        self.fault(path, format!("must have exactly one of {}", names.join(", ")));
    }

    fn array(&mut self, path: &str, items: &[Value], schema: &Shape) {
        let (least, most) = (schema.min_items.unwrap_or(0), schema.max_items);
        if exceeds_at_least(items.len(), least) || most.is_some_and(|most| exceeds(items.len(), most)) {
            let bounds = most.map_or_else(|| format!("at least {least}"), |most| bounds(least, most));
            self.fault(path, format!("must have {bounds} entries, has {}", items.len()));
        }
        let Some(entry) = &schema.items else { return };
        for (at, item) in items.iter().enumerate() {
            self.value(&format!("{path}[{at}]"), item, entry);
        }
        self.repeated(path, items, schema);
    }

    /// Keys of maps must differ.
    fn repeated(&mut self, path: &str, items: &[Value], schema: &Shape) {
        let keys = schema.list_map_keys.as_deref().unwrap_or_default();
        let identity = |item: &Value| match schema.list_type.as_deref() {
            Some("map") => keys.iter().map(|key| item.get(key).cloned()).collect::<Option<Vec<_>>>(),
            _ => None,
        };
        let identities: Vec<_> = items.iter().map(identity).collect();
        for (at, found) in identities.iter().enumerate() {
            let earlier = identities.iter().take(at);
            if found.is_some() && earlier.into_iter().any(|other| other == found) {
                self.fault(&format!("{path}[{at}]"), "is there twice");
            }
        }
    }

    fn text(&mut self, path: &str, text: &str, schema: &Shape) {
        let characters = text.chars().count();
        let least = schema.min_length.unwrap_or(0);
        if exceeds_at_least(characters, least)
            || schema.max_length.is_some_and(|most| exceeds(characters, most))
        {
            let bounds =
                schema.max_length.map_or_else(|| format!("at least {least}"), |most| bounds(least, most));
            self.fault(path, format!("must have {bounds} characters, has {characters}"));
            return;
        }
        let choices: Vec<_> = schema.r#enum.iter().flatten().filter_map(Value::as_str).collect();
        if !choices.is_empty() && !choices.contains(&text) {
            self.fault(path, format!("{text:?} must be one of {}", choices.join(", ")));
        }
        if let Some(pattern) = &schema.pattern
            && !Regex::new(pattern).is_ok_and(|regex| regex.is_match(text))
        {
            self.fault(path, schema::explain(pattern));
        }
    }

    fn number(&mut self, path: &str, number: Option<i64>, schema: &Shape) {
        let Some(number) = number else { return };
        let too_small = schema.minimum.is_some_and(|least| to_float(number) < least);
        let too_large = schema.maximum.is_some_and(|most| to_float(number) > most);
        let too_wide = schema.format.as_deref() == Some("int32") && i32::try_from(number).is_err();
        if too_small || too_large || too_wide {
            let message = match (schema.minimum, schema.maximum) {
                (Some(least), Some(most)) => format!("must be {least} to {most}, is {number}"),
                (Some(least), None) if too_small => format!("must be at least {least}, is {number}"),
                _ => format!("{number} is too large"),
            };
            self.fault(path, message);
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "bounds are small; a number beyond 2^53 is beyond them all")]
fn to_float(number: i64) -> f64 {
    number as f64
}

fn exceeds(found: usize, most: i64) -> bool {
    i64::try_from(found).is_ok_and(|found| found > most)
}

fn exceeds_at_least(found: usize, least: i64) -> bool {
    i64::try_from(found).is_ok_and(|found| found < least)
}

fn bounds(least: i64, most: i64) -> String {
    match (least, most) {
        (0, most) => format!("at most {most}"),
        (least, most) if least == most => format!("exactly {least}"),
        (least, most) => format!("{least} to {most}"),
    }
}

fn shown(bound: Option<i64>) -> String {
    bound.map(|bound| bound.to_string()).unwrap_or_default()
}

fn named(type_name: &str) -> &'static str {
    match type_name {
        "object" => "a mapping",
        "array" => "a list",
        "string" => "a text",
        "boolean" => "true or false",
        "integer" => "a whole number",
        _ => "left out",
    }
}
