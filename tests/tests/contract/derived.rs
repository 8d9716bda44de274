//! Nothing that is generated has drifted from what it is generated from.

use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

use crate::checkout::{helm, root};

#[test]
fn chart_and_plain_manifests_are_what_make_chart_writes() {
    let fresh = TempDir::new().unwrap();
    let output = Command::new(root().join("charts/generate.sh"))
        .arg(helm().get_program())
        .arg(fresh.path())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    for place in ["charts/la-router/templates/crds", "deploy/install.yaml"] {
        same(&root().join(place), &fresh.path().join(place));
    }
}

fn same(committed: &Path, generated: &Path) {
    if generated.is_dir() {
        let names = |directory: &Path| {
            let mut names: Vec<_> =
                std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name()).collect();
            names.sort();
            names
        };
        assert_eq!(names(committed), names(generated), "{}: run `make chart`", committed.display());
        names(generated).iter().for_each(|name| same(&committed.join(name), &generated.join(name)));
    } else {
        let read = |path: &Path| {
            std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
        };
        assert!(read(committed) == read(generated), "{} has drifted: run `make chart`", committed.display());
    }
}
