//! One object of a manifest: its identity, its faults, and the way to a typed one.

use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

use super::shape::Shape;
use super::{DEFAULT_NAMESPACE, Identity, ManifestFault};
use crate::rules::Broken;
use crate::schema;

/// One object, and what was found wrong with it.
pub(super) struct Object<'a> {
    file: &'a str,
    number: usize,
    fields: Map<String, Value>,
    faults: Vec<Broken>,
}

impl<'a> Object<'a> {
    /// The document `number` (from 1) of `file`.
    pub(super) fn new(file: &'a str, number: usize, value: Value) -> Self {
        match value {
            Value::Object(fields) => Self { file, number, fields, faults: Vec::new() },
            _ => Self { file, number, fields: Map::new(), faults: Vec::new() },
        }
    }

    pub(super) fn file(&self) -> &str {
        self.file
    }

    pub(super) fn api_version(&self) -> &str {
        self.fields.get("apiVersion").and_then(Value::as_str).unwrap_or_default()
    }

    pub(super) fn kind(&self) -> &str {
        self.fields.get("kind").and_then(Value::as_str).unwrap_or_default()
    }

    pub(super) fn name(&self) -> &str {
        self.metadata("name").and_then(Value::as_str).unwrap_or_default()
    }

    fn namespace(&self) -> &str {
        match self.kind() {
            "Namespace" => "",
            _ => self.metadata("namespace").and_then(Value::as_str).unwrap_or(DEFAULT_NAMESPACE),
        }
    }

    fn metadata(&self, field: &str) -> Option<&Value> {
        self.fields.get("metadata")?.get(field)
    }

    pub(super) fn field(&self, name: &str) -> Option<&Value> {
        self.fields.get(name)
    }

    pub(super) fn identity(&self) -> Identity {
        (self.kind().to_owned(), self.namespace().to_owned(), self.name().to_owned())
    }

    pub(super) fn fault(&mut self, field: impl Into<String>, message: impl Into<String>) {
        self.faults.push(Broken { field: field.into(), message: message.into() });
    }

    pub(super) fn is_faultless(&self) -> bool {
        self.faults.is_empty()
    }

    /// The faults, each with file and object.
    pub(super) fn into_faults(self) -> Vec<ManifestFault> {
        let (kind, namespace, name) = self.identity();
        let object = match (kind.as_str(), name.as_str()) {
            ("", _) => format!("document {}", self.number),
            (_, "") => format!("{kind} in document {}", self.number),
            ("Namespace", _) => format!("{kind} {name}"),
            _ => format!("{kind} {namespace}/{name}"),
        };
        let file = self.file.to_owned();
        let located = |broken: Broken| ManifestFault {
            file: file.clone(),
            object: object.clone(),
            field: broken.field,
            message: broken.message,
        };
        self.faults.into_iter().map(located).collect()
    }

    /// Refuses fields beside `known` and those every object has, and checks the metadata.
    pub(super) fn check_frame(&mut self, known: &[&str]) {
        let unknown: Vec<_> = self
            .fields
            .keys()
            .filter(|key| !["apiVersion", "kind", "metadata"].contains(&key.as_str()))
            .filter(|key| !known.contains(&key.as_str()))
            .cloned()
            .collect();
        for key in unknown {
            let message = match key.as_str() {
                "status" => "is written by la-router, not read from a file; remove it".to_owned(),
                _ => format!("is not a field here; known are {}", [&["metadata"], known].concat().join(", ")),
            };
            self.fault(key, message);
        }
        let shape = Shape::of(metadata_schema(self.kind() == "Namespace"));
        let none = Value::Object(Map::new());
        let found = shape.faults("metadata", self.fields.get("metadata").unwrap_or(&none));
        self.faults.extend(found);
    }

    /// The typed object, held against the shape of its `spec` and against `rules`.
    pub(super) fn typed<T>(&mut self, shape: &Shape, rules: impl FnOnce(&T) -> Vec<Broken>) -> Option<T>
    where
        T: DeserializeOwned,
    {
        self.check_frame(&["spec"]);
        let none = Value::Object(Map::new());
        let spec = self.fields.get("spec").unwrap_or(&none).clone();
        let found = shape.faults("spec", &spec);
        self.faults.extend(found);
        let mut metadata = self.fields.get("metadata").cloned().unwrap_or(none);
        if let Some(metadata) = metadata.as_object_mut() {
            metadata.insert("namespace".to_owned(), self.namespace().into());
        }
        match serde_json::from_value::<T>(json!({ "metadata": metadata, "spec": spec })) {
            Ok(object) => {
                let unsaid: Vec<_> =
                    rules(&object).into_iter().filter(|broken| self.is_unsaid(broken)).collect();
                self.faults.extend(unsaid);
                Some(object)
            }
            // The schema should have said so; better a clumsy message than a missing one.
            Err(error) if self.is_faultless() => {
                self.fault("spec", error.to_string());
                None
            }
            Err(_) => None,
        }
    }

    /// Whether nothing was said of this field, what it is in, or what is in it.
    fn is_unsaid(&self, broken: &Broken) -> bool {
        let related = |a: &str, b: &str| a.starts_with(b) || b.starts_with(a);
        !self.faults.iter().any(|said| related(&said.field, &broken.field))
    }
}

/// What may be in the metadata of a manifest: what a person writes, not what the API server adds.
fn metadata_schema(without_namespace: bool) -> Value {
    let mut properties = json!({
        "name": { "type": "string", "minLength": 1, "maxLength": 253, "pattern": schema::OBJECT_NAME },
        "labels": { "type": "object", "additionalProperties": { "type": "string" } },
        "annotations": { "type": "object", "additionalProperties": { "type": "string" } },
    });
    if !without_namespace && let Some(properties) = properties.as_object_mut() {
        let namespace =
            json!({ "type": "string", "minLength": 1, "maxLength": 63, "pattern": schema::LABEL_NAME });
        properties.insert("namespace".to_owned(), namespace);
    }
    json!({ "type": "object", "required": ["name"], "properties": properties })
}
