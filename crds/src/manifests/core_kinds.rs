//! Secrets and Namespaces of core Kubernetes, as far as manifests need them.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::{Value, json};

use super::object::Object;
use super::shape::Shape;

/// Most bytes of all values of a Secret together, as the API server has it.
const SECRET_MAX_BYTES: usize = 1024 * 1024;

/// A Secret, its `stringData` merged into its `data` as the API server does.
pub(super) fn secret(object: &mut Object<'_>) -> Option<Secret> {
    object.check_frame(&["type", "data", "stringData"]);
    let texts = json!({ "type": "object", "additionalProperties": { "type": "string" } });
    let mut data = BTreeMap::new();
    for (field, decode) in [("data", from_base64 as Decode), ("stringData", as_it_is)] {
        let Some(values) = object.field(field).filter(|values| !values.is_null()).cloned() else { continue };
        for broken in Shape::of(texts.clone()).faults(field, &values) {
            object.fault(broken.field, broken.message);
        }
        for (key, value) in values.as_object().into_iter().flatten() {
            match value.as_str().map(decode) {
                Some(Some(bytes)) => drop(data.insert(key.clone(), ByteString(bytes))),
                Some(None) => {
                    object.fault(format!("{field}.{key}"), "is not base64; plain text goes under stringData")
                }
                None => {}
            }
        }
    }
    check_keys(object, &data);
    let type_ = match object.field("type") {
        None => None,
        Some(Value::String(type_)) => Some(type_.clone()),
        Some(_) => {
            object.fault("type", "must be a text");
            None
        }
    };
    let (_, namespace, name) = object.identity();
    let metadata = ObjectMeta { namespace: Some(namespace), name: Some(name), ..ObjectMeta::default() };
    Some(Secret { metadata, data: Some(data), type_, ..Secret::default() })
}

/// The labels of a Namespace.
pub(super) fn namespace(object: &mut Object<'_>) -> Option<BTreeMap<String, String>> {
    object.check_frame(&[]);
    let labels = object.field("metadata").and_then(|metadata| metadata.get("labels"));
    let entries = labels.and_then(Value::as_object).into_iter().flatten();
    Some(entries.filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned()))).collect())
}

type Decode = fn(&str) -> Option<Vec<u8>>;

fn from_base64(text: &str) -> Option<Vec<u8>> {
    let unbroken: String = text.chars().filter(|c| !matches!(c, '\r' | '\n')).collect();
    STANDARD.decode(unbroken).ok()
}

#[expect(clippy::unnecessary_wraps, reason = "has the signature of the other way to decode")]
fn as_it_is(text: &str) -> Option<Vec<u8>> {
    Some(text.as_bytes().to_vec())
}

fn check_keys(object: &mut Object<'_>, data: &BTreeMap<String, ByteString>) {
    let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    for key in data.keys() {
        if key.is_empty() || key.len() > 253 || !key.chars().all(good) {
            object.fault("data", format!("key {key:?} must have 1 to 253 letters, digits, `-`, `_` or `.`"));
        }
    }
    let size_bytes: usize = data.values().map(|value| value.0.len()).sum();
    if size_bytes > SECRET_MAX_BYTES {
        object.fault("data", format!("has {size_bytes} bytes, at most {SECRET_MAX_BYTES} are allowed"));
    }
}
