//! The tables of what predecessors did: every row that must be there is, once, and every test that they name
//! exists.

use std::collections::BTreeMap;
use std::path::PathBuf;

use crate::checkout::read;
use crate::conventions::sources;

/// The rows that concern accounts: a letter, the first number and the last.
const ROWS: [(char, u32, u32); 8] = [
    ('L', 27, 37),
    ('W', 2, 2),
    ('W', 18, 18),
    ('W', 24, 25),
    ('C', 2, 30),
    ('W', 41, 50),
    ('H', 1, 11),
    ('W', 60, 65),
];

/// One row: its id, and what its last cell says.
struct Row {
    id: String,
    shown_by: String,
}

fn rows() -> Vec<Row> {
    let text = read("docs/predecessors.md");
    let is_head = |line: &&str| line.starts_with("| Row |") || line.starts_with("|---");
    let lines = text.lines().filter(|line| line.starts_with('|') && !is_head(line));
    let row = |line: &str| {
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        let [id, _, _, shown_by] = cells[..] else { panic!("not four cells: {line}") };
        Row { id: id.to_owned(), shown_by: shown_by.to_owned() }
    };
    lines.map(row).collect()
}

/// The tests that a cell names, as the end of a file's path and a function.
fn named(shown_by: &str) -> Vec<(&str, &str)> {
    let quoted = shown_by.split('`').skip(1).step_by(2);
    quoted.map(|test| test.rsplit_once("::").unwrap_or_else(|| panic!("{test} is no test"))).collect()
}

/// Whether a file has a test of this name, and not just a function.
fn has_test(text: &str, name: &str) -> bool {
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    let declared = format!("fn {name}(");
    let is_declared = |(at, line): (usize, &&str)| {
        let mut above = lines[..at].iter().rev().take_while(|line| !line.is_empty() && **line != "}");
        line.contains(&declared) && above.any(|line| line.contains("test]") || line.contains("test("))
    };
    lines.iter().enumerate().any(is_declared)
}

/// What is wrong with the name of a test; nothing if it is one.
fn fault(sources: &[(PathBuf, String)], (file, test): (&str, &str)) -> Option<String> {
    let found: Vec<_> = sources.iter().filter(|(path, _)| path.ends_with(file)).collect();
    match &found[..] {
        [(_, text)] if has_test(text, test) => None,
        [(path, _)] => Some(format!("{} has no test {test}", path.display())),
        found => Some(format!("{file} is the end of {} paths", found.len())),
    }
}

#[test]
fn every_row_about_accounts_is_there_once() {
    let mut found: BTreeMap<String, u32> = BTreeMap::new();
    rows().into_iter().for_each(|row| *found.entry(row.id).or_default() += 1);
    let ids = |&(letter, first, last): &(char, u32, u32)| {
        (first..=last).map(move |number| (format!("{letter}{number:02}"), 1))
    };
    let wanted: BTreeMap<String, u32> = ROWS.iter().flat_map(ids).collect();
    assert_eq!(found, wanted);
}

#[test]
fn every_test_that_a_row_names_exists() {
    let (sources, rows) = (sources(), rows());
    let faults: Vec<String> = rows
        .iter()
        .flat_map(|row| named(&row.shown_by).into_iter().map(move |test| (&row.id, test)))
        .filter_map(|(id, test)| fault(&sources, test).map(|fault| format!("{id}: {fault}")))
        .collect();
    assert!(faults.is_empty(), "{faults:#?}");
}

#[test]
fn every_row_names_a_test() {
    for Row { id, shown_by } in rows() {
        assert!(!named(&shown_by).is_empty(), "{id}: {shown_by}");
    }
}

#[test]
fn missing_tests_and_paths_of_two_files_are_seen() {
    let file = |path: &str, text: &str| (PathBuf::from(path), text.to_owned());
    let text =
        "#[test]\nfn a() {\n}\n\nfn b() {}\n\n#[tokio::test(x)]\n#[expect(\n  y\n)]\nasync fn c() {}\n";
    let sources = [file("p/src/x.rs", text), file("q/src/x.rs", "")];
    assert_eq!(fault(&sources, ("p/src/x.rs", "a")), None);
    assert_eq!(fault(&sources, ("p/src/x.rs", "c")), None);
    for (wrong, said) in [
        (("p/src/x.rs", "b"), "p/src/x.rs has no test b"),
        (("src/x.rs", "a"), "src/x.rs is the end of 2 paths"),
        (("/x.rs", "a"), "/x.rs is the end of 0 paths"),
        (("c/x.rs", "a"), "c/x.rs is the end of 0 paths"),
    ] {
        assert_eq!(fault(&sources, wrong).as_deref(), Some(said));
    }
}
