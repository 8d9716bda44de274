//! What the operator wants objects to be, built without I/O from the kinds that people write.
//!
//! Objects are plain JSON because they are sent by server-side apply: only the fields named here are owned,
//! and [`is_as_wanted`] compares only those.

pub(crate) mod proxy;
pub(crate) mod secrets;
pub(crate) mod token;

use ring::digest;
use serde_json::{Value, json};

use crate::names;

/// Who owns an object: the owner reference and the labels that follow from it.
#[derive(Debug, Clone)]
pub(crate) struct Owner<'a> {
    /// `RouterToken` or `RouterProxy`.
    pub(crate) kind: &'static str,
    /// Namespace of owner and object.
    pub(crate) namespace: &'a str,
    /// Its name.
    pub(crate) name: &'a str,
    /// Its UID.
    pub(crate) uid: &'a str,
}

impl Owner<'_> {
    /// The one controlling owner reference.
    pub(crate) fn reference(&self) -> Value {
        json!({
            "apiVersion": "router.link-assistant.dev/v1alpha1", "kind": self.kind,
            "name": self.name, "uid": self.uid, "controller": true, "blockOwnerDeletion": true,
        })
    }
}

/// `object` with the hash of what was wanted as an annotation, so that fields dropped by a newer operator
/// are seen as a difference too.
pub(crate) fn sealed(mut object: Value) -> Value {
    let hash = sha256_hex(object.to_string().as_bytes());
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        let annotations = metadata.entry("annotations").or_insert_with(|| json!({}));
        if let Some(annotations) = annotations.as_object_mut() {
            annotations.insert(names::WANTED_HASH_ANNOTATION.to_owned(), hash.into());
        }
    }
    object
}

/// Whether every field of `wanted` is in `found` with that value. Lists must have the same length; what the
/// API server added to their items is not looked at.
pub(crate) fn is_as_wanted(wanted: &Value, found: &Value) -> bool {
    match (wanted, found) {
        (Value::Object(wanted), Value::Object(found)) => wanted
            .iter()
            .all(|(key, value)| found.get(key).map_or(value.is_null(), |found| is_as_wanted(value, found))),
        (Value::Array(wanted), Value::Array(found)) => {
            wanted.len() == found.len() && wanted.iter().zip(found).all(|(w, f)| is_as_wanted(w, f))
        }
        _ => wanted == found,
    }
}

/// SHA-256 in hexadecimal.
pub(crate) fn sha256_hex(bytes: &[u8]) -> String {
    digest::digest(&digest::SHA256, bytes).as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_wanted_fields_are_compared() {
        let wanted = json!({"a": {"b": 1}, "list": [{"x": 1}]});
        let cases = [
            ("the same", json!({"a": {"b": 1}, "list": [{"x": 1}]}), true),
            (
                "defaults added by the API server",
                json!({"a": {"b": 1, "c": 2}, "list": [{"x": 1, "y": 2}]}),
                true,
            ),
            ("another value", json!({"a": {"b": 2}, "list": [{"x": 1}]}), false),
            ("a missing field", json!({"a": {}, "list": [{"x": 1}]}), false),
            ("a longer list", json!({"a": {"b": 1}, "list": [{"x": 1}, {"x": 2}]}), false),
        ];
        for (sentence, found, same) in cases {
            assert_eq!(is_as_wanted(&wanted, &found), same, "{sentence}");
        }
    }

    #[test]
    fn sealed_object_differs_when_a_field_is_dropped() {
        let before = sealed(json!({"metadata": {}, "spec": {"a": 1, "b": 2}}));
        let after = sealed(json!({"metadata": {}, "spec": {"a": 1}}));
        assert!(!is_as_wanted(&after, &before));
    }
}
