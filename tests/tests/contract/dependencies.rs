//! Purity by the compiler: which crates may reach which, over every feature that our build turns on.

use std::collections::{BTreeMap, BTreeSet};

use cargo_metadata::{DependencyKind, Metadata, MetadataCommand, PackageId};

use crate::checkout::root;

const ASYNC: [&str; 9] =
    ["tokio", "tokio-util", "futures", "futures-util", "hyper", "mio", "async-trait", "axum", "reqwest"];
const KUBE_CLIENT: [&str; 4] = ["kube", "kube-client", "kube-runtime", "kube-lease-manager"];

fn metadata() -> Metadata {
    MetadataCommand::new()
        .manifest_path(root().join("Cargo.toml"))
        .other_options(
            ["--locked", "--offline", "--filter-platform", "x86_64-unknown-linux-gnu"].map(String::from),
        )
        .exec()
        .unwrap()
}

/// Names of all packages that `package` is built from, itself excepted, tests excepted.
fn reach<'a>(metadata: &'a Metadata, package: &str) -> BTreeSet<&'a str> {
    let nodes: BTreeMap<&PackageId, _> =
        metadata.resolve.as_ref().unwrap().nodes.iter().map(|node| (&node.id, node)).collect();
    let name = |id: &PackageId| metadata[id].name.as_str();
    let start = nodes.keys().find(|id| name(id) == package).unwrap_or_else(|| panic!("no package {package}"));
    let mut open = vec![*start];
    let mut found = BTreeSet::new();
    while let Some(id) = open.pop() {
        let built_in = nodes[id].deps.iter().filter(|dependency| {
            dependency.dep_kinds.iter().any(|kind| kind.kind != DependencyKind::Development)
        });
        for dependency in built_in.filter(|dependency| found.insert(&dependency.pkg)) {
            open.push(&dependency.pkg);
        }
    }
    found.into_iter().map(name).collect()
}

#[test]
fn packages_reach_only_what_they_may() {
    let metadata = metadata();
    let cases: [(&str, &[&str], &str); 8] = [
        ("la-core", &ASYNC, "the rules do no I/O"),
        ("la-dialects", &ASYNC, "wire formats do no I/O"),
        ("la-crds", &ASYNC, "compiling kinds into a snapshot is pure"),
        ("la-crds", &KUBE_CLIENT, "of kube, the kinds need kube-core and the derive"),
        ("la-proxy", &KUBE_CLIENT, "a proxy never talks to the Kubernetes API"),
        ("la-proxy", &["la-operator"], "a proxy is no operator"),
        ("la-operator", &["la-proxy", "la-dialects"], "the operator never sees traffic"),
        ("la-core", &["chrono", "time"], "jiff is the calendar here; the rules know no time of their own"),
    ];
    let mut faults = Vec::new();
    for (package, forbidden, why) in cases {
        let reached = reach(&metadata, package);
        faults.extend(
            forbidden
                .iter()
                .filter(|name| reached.contains(**name))
                .map(|name| format!("{package} reaches {name}: {why}")),
        );
    }
    assert!(faults.is_empty(), "{faults:#?}");
}

#[test]
fn check_of_reach_sees_what_is_there() {
    let metadata = metadata();
    assert!(reach(&metadata, "la-proxy").contains("mio"), "tokio's own dependency is not followed");
    assert!(reach(&metadata, "la-operator").contains("kube-client"));
    assert!(!reach(&metadata, "la-core").contains("proptest"), "a dependency of tests is counted");
}

#[test]
fn workspace_has_the_six_packages_and_no_other() {
    let metadata = metadata();
    let names: BTreeSet<_> =
        metadata.workspace_packages().iter().map(|package| package.name.to_string()).collect();
    let wanted =
        ["la-core", "la-crds", "la-dialects", "la-operator", "la-proxy", "la-tests"].map(String::from);
    assert_eq!(names, BTreeSet::from(wanted));
}
