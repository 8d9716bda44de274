//! Where a setting's text comes from: flag, environment, `.lenv`, `.env`, in this order.

use std::collections::BTreeMap;
use std::path::Path;

/// A text and the place it was found in, for messages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    pub text: String,
    /// As a person would look for it: `--port`, `ROUTER_PORT`, `ROUTER_PORT in .lenv`.
    pub place: String,
}

/// The places below the flags. An empty text counts as unset.
#[derive(Debug, Default)]
pub struct Lookup {
    layers: Vec<(&'static str, BTreeMap<String, String>)>,
}

impl Lookup {
    /// The environment of the process over `.lenv` over `.env` in `folder`. Also gives what could not be read.
    pub fn of_process(folder: &Path) -> (Self, Vec<String>) {
        let mut faults = Vec::new();
        let environment = std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .collect();
        let mut layers = vec![("", environment)];
        for (file, separator) in [(".lenv", ':'), (".env", '=')] {
            match std::fs::read_to_string(folder.join(file)) {
                Ok(text) => layers.push((file, read_lines(file, &text, separator, &mut faults))),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => faults.push(format!("{file}: cannot be read: {error}")),
            }
        }
        (Self { layers }, faults)
    }

    /// Of these texts only; for tests.
    #[cfg(test)]
    pub fn of(environment: &[(&str, &str)]) -> Self {
        let layer = environment.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        Self { layers: vec![("", layer)] }
    }

    /// The text of a setting: the flag's, else that of the first place where `name` is set.
    pub fn find(&self, flag: (&str, Option<&str>), name: &str) -> Option<Found> {
        if let (flag, Some(text)) = flag {
            return Some(Found { text: text.to_owned(), place: flag.to_owned() });
        }
        self.named(name)
    }

    /// The text of `name` in the first place where it is set.
    pub fn named(&self, name: &str) -> Option<Found> {
        self.layers.iter().find_map(|(file, layer)| {
            let text = layer.get(name).filter(|text| !text.is_empty())?.clone();
            let place = if file.is_empty() { name.to_owned() } else { format!("{name} in {file}") };
            Some(Found { text, place })
        })
    }

    /// Every name that is set anywhere.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.layers
            .iter()
            .flat_map(|(_, layer)| layer.iter())
            .filter(|(_, v)| !v.is_empty())
            .map(|(k, _)| k.as_str())
    }
}

/// Reads `NAME: value` (`.lenv`) or `NAME=value` (`.env`) lines; `#` starts a comment line.
fn read_lines(file: &str, text: &str, separator: char, faults: &mut Vec<String>) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    for (at, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let line = line.strip_prefix("export ").unwrap_or(line);
        match line.split_once(separator) {
            Some((name, value)) if is_name(name.trim()) => {
                found.insert(name.trim().to_owned(), unquoted(value.trim()).to_owned());
            }
            _ => faults.push(format!("{file}: line {}: is not of the form `NAME{separator} value`", at + 1)),
        }
    }
    found
}

fn is_name(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

fn unquoted(text: &str) -> &str {
    for quote in ['"', '\''] {
        if let Some(inner) = text.strip_prefix(quote).and_then(|rest| rest.strip_suffix(quote)) {
            return inner;
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flag_wins_over_environment_over_lenv_over_env() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join(".lenv"), "# ours\nA_NAME: \"from lenv\"\nB_NAME: b\n").unwrap();
        std::fs::write(folder.path().join(".env"), "A_NAME=from env\nexport C_NAME='c'\n").unwrap();
        let (lookup, faults) = Lookup::of_process(folder.path());
        assert_eq!(faults, Vec::<String>::new());
        let found = |flag, name| lookup.find(("--a", flag), name).map(|f| (f.text, f.place));
        assert_eq!(found(Some("x"), "A_NAME"), Some(("x".to_owned(), "--a".to_owned())));
        assert_eq!(found(None, "A_NAME"), Some(("from lenv".to_owned(), "A_NAME in .lenv".to_owned())));
        assert_eq!(found(None, "C_NAME"), Some(("c".to_owned(), "C_NAME in .env".to_owned())));
        assert_eq!(found(None, "PATH").map(|f| f.1), Some("PATH".to_owned()));
        assert_eq!(found(None, "D_NAME"), None);
    }

    #[test]
    fn line_that_sets_nothing_is_reported_with_its_number() {
        let mut faults = Vec::new();
        read_lines(".lenv", "A: 1\nnonsense\n", ':', &mut faults);
        assert_eq!(faults, [".lenv: line 2: is not of the form `NAME: value`"]);
    }
}
