//! What the documents name exists: make targets, files they link to, flags of the programs.

use crate::checkout::{files, read, root};

const DOCUMENTS: [&str; 7] = [
    "README.md",
    "ARCHITECTURE.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "charts/la-router/README.md",
    "deploy/samples/README.md",
    "docs/predecessors.md",
];

/// Every text between `open` and `close` in `text`.
fn between<'a>(text: &'a str, open: &str, close: char) -> Vec<&'a str> {
    text.split(open).skip(1).filter_map(|rest| rest.split(close).next()).collect()
}

#[test]
fn make_targets_in_documents_exist() {
    let makefile = read("Makefile");
    for document in DOCUMENTS {
        for named in between(&read(document), "`make ", '`') {
            for target in named.split(' ').filter(|word| *word != "help") {
                assert!(makefile.contains(&format!("\n{target}:")), "{document} names make {target}");
            }
        }
    }
}

#[test]
fn links_between_documents_lead_somewhere() {
    for document in DOCUMENTS {
        let text = read(document);
        let here = root().join(document);
        for link in between(&text, "](", ')').into_iter().filter(|link| !link.contains("://")) {
            let (path, anchor) = link.split_once('#').unwrap_or((link, ""));
            let target = if path.is_empty() { here.clone() } else { here.parent().unwrap().join(path) };
            assert!(target.exists(), "{document} links to {link}");
            if !anchor.is_empty() {
                let there = std::fs::read_to_string(&target).unwrap();
                assert!(anchors(&there).contains(&anchor.to_owned()), "{document} links to {link}");
            }
        }
    }
}

/// The anchors that a reader of Markdown gives to headings.
fn anchors(text: &str) -> Vec<String> {
    let headings =
        text.lines().filter(|line| line.starts_with('#')).map(|line| line.trim_start_matches('#').trim());
    let kept = |c: &char| c.is_alphanumeric() || [' ', '-'].contains(c);
    headings
        .map(|heading| heading.to_lowercase().chars().filter(kept).collect::<String>().replace(' ', "-"))
        .collect()
}

#[test]
fn flags_in_documents_are_flags_of_the_programs() {
    let sources: String = ["proxy/src/settings", "operator/src"]
        .iter()
        .flat_map(files)
        .map(|path| std::fs::read_to_string(path).unwrap())
        .collect();
    for document in ["README.md", "ARCHITECTURE.md", "CHANGELOG.md"] {
        let text = read(document);
        let commands = text.lines().filter(|line| line.trim_start().starts_with("la-router "));
        let flags = commands
            .flat_map(str::split_whitespace)
            .map(|word| word.trim_matches(|c: char| !c.is_alphanumeric() && c != '-'));
        for flag in flags
            .filter_map(|word| word.strip_prefix("--"))
            .filter(|flag| *flag != "help" && !flag.is_empty())
        {
            let field = format!("pub {}:", flag.replace('-', "_"));
            assert!(sources.contains(&field), "{document} names --{flag}");
        }
    }
}
