//! `la-router-operator`: reads the command line, sets up the log, and hands over.

use std::io::Write as _;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Parser as _;
use la_operator::args::{Cli, Command, RunArgs};
use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    let ended = match Cli::parse().command {
        Command::Run(args) => run(*args),
        Command::Crds => crds(),
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Standard error is gone when this fails, and nobody is left to tell.
            let _ = writeln!(std::io::stderr(), "la-router-operator: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: RunArgs) -> anyhow::Result<()> {
    let filter =
        EnvFilter::try_new(&args.log).with_context(|| format!("--log {:?} cannot be read", args.log))?;
    tracing_subscriber::fmt().with_env_filter(filter).json().with_writer(std::io::stderr).init();
    // Fails only when a provider is installed already, which is as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("no runtime")?;
    runtime.block_on(la_operator::app::run(args)).map_err(anyhow::Error::from)
}

fn crds() -> anyhow::Result<()> {
    let yaml = la_crds::all_crds_yaml().context("definitions cannot be written as YAML")?;
    std::io::stdout().write_all(yaml.as_bytes()).context("standard output cannot be written")
}
