//! The repository as these tests see it: its files, and its chart rendered by the real Helm.

use std::path::{Path, PathBuf};
use std::process::Command;

use la_tests::cluster::component;
use serde::Deserialize as _;
use serde_json::Value;

pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

pub(crate) fn read(path: impl AsRef<Path>) -> String {
    let path = root().join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Every file below `directory` that the project wrote, sorted.
pub(crate) fn files(directory: impl AsRef<Path>) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut open = vec![root().join(directory)];
    while let Some(at) = open.pop() {
        for entry in std::fs::read_dir(&at).unwrap_or_else(|error| panic!("{}: {error}", at.display())) {
            let path = entry.unwrap().path();
            let foreign = ["target", ".git", "node_modules"].iter().any(|name| path.ends_with(name));
            match path.is_dir() {
                true if foreign => {}
                true => open.push(path),
                false => found.push(path),
            }
        }
    }
    found.sort();
    found
}

pub(crate) fn helm() -> Command {
    Command::new(component("helm", "helm").unwrap())
}

/// What Helm makes of the chart with `options`, or what it says against it.
pub(crate) fn render(options: &[&str]) -> Result<Vec<Value>, String> {
    let output = helm()
        .args(["template", "odd", "charts/la-router", "--namespace", "la-system", "--kube-version", "1.33.0"])
        .args(options)
        .current_dir(root())
        .output()
        .unwrap();
    match output.status.success() {
        true => Ok(documents(&String::from_utf8(output.stdout).unwrap())),
        false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
    }
}

/// The objects of a YAML stream.
pub(crate) fn documents(text: &str) -> Vec<Value> {
    serde_yaml::Deserializer::from_str(text)
        .map(|document| Value::deserialize(document).unwrap())
        .filter(|object| !object.is_null())
        .collect()
}

pub(crate) fn of_kind<'a>(objects: &'a [Value], kind: &str) -> Vec<&'a Value> {
    objects.iter().filter(|object| object["kind"] == kind).collect()
}

/// `Kind/name`, for messages.
pub(crate) fn called(object: &Value) -> String {
    format!("{}/{}", text(&object["kind"]), text(&object["metadata"]["name"]))
}

pub(crate) fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// What Pod Security `restricted` would say against a pod's spec.
pub(crate) fn against_restricted(pod: &Value) -> Vec<String> {
    let mut faults = Vec::new();
    let ours = &pod["securityContext"];
    for container in ["containers", "initContainers"].iter().flat_map(|list| pod[list].as_array()).flatten() {
        let context = &container["securityContext"];
        let either = |field: &str| if context[field].is_null() { &ours[field] } else { &context[field] };
        let checks = [
            ("may escalate", context["allowPrivilegeEscalation"] == false),
            ("keeps capabilities", context["capabilities"]["drop"][0] == "ALL"),
            ("may run as root", either("runAsNonRoot") == true),
            ("has no seccomp profile", either("seccompProfile")["type"] == "RuntimeDefault"),
        ];
        let wrong = checks.iter().filter(|(_, good)| !good);
        faults.extend(wrong.map(|(fault, _)| format!("container {} {fault}", text(&container["name"]))));
    }
    for field in ["hostNetwork", "hostPID", "hostIPC"].iter().filter(|field| pod[**field] == true) {
        faults.push(format!("pod has {field}"));
    }
    for volume in
        pod["volumes"].as_array().into_iter().flatten().filter(|volume| volume["hostPath"].is_object())
    {
        faults.push(format!("volume {} is a host path", text(&volume["name"])));
    }
    faults
}
