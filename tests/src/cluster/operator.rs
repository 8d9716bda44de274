//! The real operator binary against a test's API server.

use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::Result;

use super::{ApiServer, Process, la_operator};

/// A running `la-router-operator`. Dropping it kills it.
#[derive(Debug)]
pub struct Operator {
    /// The process, to kill, wait for or read the log of.
    pub process: Process,
}

impl Operator {
    /// Starts `la-router-operator run ARGS` with the operator's kubeconfig.
    ///
    /// # Errors
    /// When the binary is missing or cannot be started.
    pub fn spawn(api: &ApiServer, args: &[&str]) -> Result<Self> {
        Self::spawn_with(api, args, &[])
    }

    /// The same with environment variables, for instance a fault point.
    ///
    /// # Errors
    /// When the binary is missing or cannot be started.
    pub fn spawn_with(api: &ApiServer, args: &[&str], environment: &[(&str, &str)]) -> Result<Self> {
        let mut command = Command::new(la_operator()?);
        command.arg("run").args(args).env("KUBECONFIG", api.operator_kubeconfig());
        command.envs(environment.iter().copied());
        Ok(Self { process: Process::spawn(&mut command, &log(api))? })
    }
}

fn log(api: &ApiServer) -> PathBuf {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    api.directory().join(format!("operator-{}.log", NEXT.fetch_add(1, Ordering::Relaxed)))
}
