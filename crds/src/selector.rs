//! Label selectors, with bounds that Kubernetes' own type does not have.
#![expect(unreachable_pub, reason = "the derived schema repeats each `pub struct` inside a function")]

use std::collections::BTreeMap;

use kube_derive::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::schema;

/// A label selector. All its parts must match; an empty one matches everything.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LabelSelector {
    /// Labels and the values they must have. At most 32.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "schema::labels")]
    pub match_labels: BTreeMap<String, String>,

    /// Further demands on labels. At most 32.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    pub match_expressions: Vec<Requirement>,
}

/// One demand on a label.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    crates(kube_core = "::kube_core"),
    validation = Rule::new("(self.operator in ['In', 'NotIn']) == (has(self.values) && self.values.size() > 0)")
        .message("In and NotIn need values; Exists and DoesNotExist take none")
)]
pub struct Requirement {
    /// The label.
    #[schemars(length(min = 1, max = 317), regex(pattern = schema::METADATA_KEY))]
    pub key: String,

    /// What is demanded of it.
    pub operator: SelectorOperator,

    /// The values of `In` and `NotIn`. At most 64.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(max = 63)))]
    pub values: Vec<String>,
}

/// What is demanded of a label.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum SelectorOperator {
    /// It is there, with one of the values.
    In,
    /// It is not there, or has none of the values.
    NotIn,
    /// It is there.
    Exists,
    /// It is not there.
    DoesNotExist,
}

impl LabelSelector {
    /// Whether `labels` satisfy every part.
    pub fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        self.match_labels.iter().all(|(key, value)| labels.get(key) == Some(value))
            && self.match_expressions.iter().all(|demand| demand.matches(labels))
    }
}

impl Requirement {
    fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        let found = labels.get(&self.key);
        let listed = found.is_some_and(|value| self.values.contains(value));
        match self.operator {
            SelectorOperator::In => listed,
            SelectorOperator::NotIn => !listed,
            SelectorOperator::Exists => found.is_some(),
            SelectorOperator::DoesNotExist => found.is_none(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn selector_matches_as_kubernetes_documents_it() {
        use SelectorOperator::{DoesNotExist, Exists, In, NotIn};
        let labels: BTreeMap<_, _> = [("team".to_owned(), "a".to_owned())].into();
        let demand = |key: &str, operator, values: &[&str]| LabelSelector {
            match_labels: BTreeMap::new(),
            match_expressions: vec![Requirement {
                key: key.to_owned(),
                operator,
                values: values.iter().map(|v| (*v).to_owned()).collect(),
            }],
        };
        let label = |value: &str| LabelSelector {
            match_labels: [("team".to_owned(), value.to_owned())].into(),
            match_expressions: Vec::new(),
        };
        let cases = [
            ("empty selector matches everything", LabelSelector::default(), true),
            ("equal label", label("a"), true),
            ("other value", label("b"), false),
            ("In with the value", demand("team", In, &["b", "a"]), true),
            ("In without the value", demand("team", In, &["b"]), false),
            ("In on a missing label", demand("tier", In, &["b"]), false),
            ("NotIn with the value", demand("team", NotIn, &["a"]), false),
            ("NotIn on a missing label", demand("tier", NotIn, &["a"]), true),
            ("Exists", demand("team", Exists, &[]), true),
            ("Exists on a missing label", demand("tier", Exists, &[]), false),
            ("DoesNotExist", demand("team", DoesNotExist, &[]), false),
            ("DoesNotExist on a missing label", demand("tier", DoesNotExist, &[]), true),
        ];
        for (what, selector, expected) in cases {
            assert_eq!(selector.matches(&labels), expected, "{what}");
        }
    }
}
