//! Where `tests/components/install.sh` has put the real components.

use std::path::PathBuf;

use anyhow::{Context as _, Result, ensure};

const INSTALL: &str = include_str!("../../components/install.sh");

/// The path of `file` in the component `name`, in the version that install.sh pins.
///
/// # Errors
/// When it is not installed; the message says how to install it.
pub fn component(name: &str, file: &str) -> Result<PathBuf> {
    let path = cache()?.join("components").join(directory(name)).join(file);
    ensure!(path.exists(), "{} is missing: run `tests/components/install.sh {name}`", path.display());
    Ok(path)
}

/// `NAME-VERSION`; the clients carry their versions in lock files and have none in their name.
fn directory(name: &str) -> String {
    let variable = format!("{}=", name.to_uppercase());
    match INSTALL.lines().find_map(|line| line.strip_prefix(&variable)) {
        Some(version) => format!("{name}-{version}"),
        None => name.to_owned(),
    }
}

/// The `la-router` of this build, or the one that `LA_ROUTER_BIN` names.
///
/// # Errors
/// When it is missing; the message says how to build it.
pub fn la_router() -> Result<PathBuf> {
    binary("LA_ROUTER_BIN", "la-router", "la-proxy")
}

/// The `la-router-operator` of this build, or the one that `LA_OPERATOR_BIN` names.
///
/// # Errors
/// When it is missing; the message says how to build it.
pub fn la_operator() -> Result<PathBuf> {
    binary("LA_OPERATOR_BIN", "la-router-operator", "la-operator")
}

#[expect(clippy::disallowed_methods, reason = "tests take the binaries that make, or a person, points to")]
fn binary(variable: &str, name: &str, package: &str) -> Result<PathBuf> {
    let path = match std::env::var_os(variable) {
        Some(path) => PathBuf::from(path),
        None => profile_directory()?.join(name),
    };
    ensure!(path.exists(), "{} is missing: run `cargo build -p {package}` or set {variable}", path.display());
    Ok(path)
}

/// `target/debug` of the running test, which lies in `target/debug/deps`.
fn profile_directory() -> Result<PathBuf> {
    let test = std::env::current_exe()?;
    let directory = test
        .ancestors()
        .find(|dir| dir.join("deps").is_dir())
        .context("no target directory above the test")?;
    Ok(directory.to_owned())
}

#[expect(
    clippy::disallowed_methods,
    reason = "the cache is where install.sh, told by the same variables, has put it"
)]
fn cache() -> Result<PathBuf> {
    match std::env::var_os("LA_ROUTER_CACHE") {
        Some(cache) => Ok(cache.into()),
        None => {
            Ok(PathBuf::from(std::env::var_os("HOME").context("HOME is not set")?).join(".cache/la-router"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn component_directories_carry_the_pinned_version() {
        assert!(directory("kube").starts_with("kube-1."), "{}", directory("kube"));
        assert_eq!(directory("node-clients"), "node-clients");
    }
}
