//! The rules of CONTRIBUTING.md that neither rustc nor clippy checks.

use std::path::{Path, PathBuf};

use crate::checkout::{files, root};

const SOURCES: [&str; 6] = ["core", "dialects", "crds", "proxy", "operator", "tests"];
const MOST_LINES: usize = 600;

/// Every Rust file of the crates, by its path in the repository.
pub(crate) fn sources() -> Vec<(PathBuf, String)> {
    let rust =
        SOURCES.iter().flat_map(files).filter(|path| path.extension().is_some_and(|ending| ending == "rs"));
    rust.map(|path| (shown(&path), std::fs::read_to_string(&path).unwrap())).collect()
}

fn shown(path: &Path) -> PathBuf {
    path.strip_prefix(root()).unwrap().to_owned()
}

/// Asserts that no source file is against a rule; a `rule` gives what is wrong with one.
fn holds(rule: impl Fn(&Path, &str) -> Vec<String>) {
    let faults: Vec<String> = sources()
        .iter()
        .flat_map(|(path, text)| {
            rule(path, text).into_iter().map(move |fault| format!("{}: {fault}", path.display()))
        })
        .collect();
    assert!(faults.is_empty(), "{faults:#?}");
}

#[test]
fn no_file_is_longer_than_a_reader_can_hold() {
    holds(|_, text| {
        let lines = text.lines().count();
        if lines < MOST_LINES {
            Vec::new()
        } else {
            vec![format!("has {lines} lines, {MOST_LINES} are too many")]
        }
    });
}

#[test]
fn no_module_is_named_for_nothing() {
    let banned = ["util", "utils", "common", "helper", "helpers", "manager", "data", "misc"];
    holds(|path, _| {
        let parts = path.iter().map(|part| part.to_string_lossy().trim_end_matches(".rs").to_owned());
        parts
            .filter(|part| banned.contains(&part.as_str()))
            .map(|part| format!("{part} names nothing"))
            .collect()
    });
}

#[test]
fn every_file_begins_with_what_it_owns() {
    holds(|path, text| {
        if path.ends_with("tests.rs") {
            return Vec::new();
        }
        let said = text.lines().find(|line| !line.starts_with("#!") && !line.is_empty());
        if said.is_some_and(|line| line.starts_with("//!")) {
            Vec::new()
        } else {
            vec!["has no module doc".into()]
        }
    });
}

#[test]
fn names_of_tests_are_statements() {
    let forbidden = concat!("fn ", "test_");
    holds(|_, text| {
        let numbered = text.lines().zip(1..);
        numbered.filter(|(line, _)| line.contains(forbidden)).map(|(_, at)| format!("line {at}")).collect()
    });
}

#[test]
fn nothing_names_a_place_on_one_machine() {
    let places = [concat!("/ro", "ot/"), concat!("/wo", "rk/")];
    let written = ["charts", "deploy", ".ci", ".github"].iter().flat_map(files);
    let single = [
        "Makefile",
        "README.md",
        "ARCHITECTURE.md",
        "CONTRIBUTING.md",
        "Dockerfile.proxy",
        "Dockerfile.operator",
    ];
    let mut texts: Vec<(PathBuf, String)> = written
        .chain(single.iter().map(|name| root().join(name)))
        .map(|path| (shown(&path), std::fs::read_to_string(&path).unwrap()))
        .collect();
    texts.extend(sources());
    let faults: Vec<String> = texts
        .iter()
        .flat_map(|(path, text)| text.lines().zip(1..).map(move |(line, at)| (path, line, at)))
        .filter(|(_, line, _)| places.iter().any(|place| line.contains(place)))
        .map(|(path, line, at)| format!("{}:{at}: {}", path.display(), line.trim()))
        .collect();
    assert!(faults.is_empty(), "{faults:#?}");
}
