//! What the API server was asked to write, by whom, from its audit log.

use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::Path;

use anyhow::{Context as _, Result};
use serde_json::Value;

/// Requests that write, once each, without bodies.
pub(super) const POLICY: &str = "\
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived, ResponseStarted]
rules:
- level: Metadata
  verbs: [create, update, patch, delete, deletecollection]
";

/// One attempt to write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Write {
    /// `create`, `update`, `patch`, `delete` or `deletecollection`.
    pub verb: String,
    /// The plural, with the subresource if there is one: `pods/status`.
    pub resource: String,
    /// Empty for cluster-wide objects.
    pub namespace: String,
    /// Empty where the server makes the name.
    pub name: String,
    /// The HTTP status of the answer.
    pub status: u64,
}

pub(super) fn writes(log: &Path, mark: u64, user: &str) -> Result<Vec<Write>> {
    let mut file = std::fs::File::open(log).with_context(|| format!("reading {}", log.display()))?;
    file.seek(SeekFrom::Start(mark))?;
    let mut text = String::new();
    file.read_to_string(&mut text)?;
    let events = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    Ok(events.filter(|event| text_at(event, "/user/username") == user).map(|event| of(&event)).collect())
}

fn of(event: &Value) -> Write {
    let subresource = text_at(event, "/objectRef/subresource");
    let resource = text_at(event, "/objectRef/resource");
    Write {
        verb: text_at(event, "/verb"),
        resource: if subresource.is_empty() { resource } else { format!("{resource}/{subresource}") },
        namespace: text_at(event, "/objectRef/namespace"),
        name: text_at(event, "/objectRef/name"),
        status: event.pointer("/responseStatus/code").and_then(Value::as_u64).unwrap_or_default(),
    }
}

fn text_at(value: &Value, pointer: &str) -> String {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned()
}
