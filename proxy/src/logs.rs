//! Structured logs: JSON for machines, plain lines for a person at a terminal. On standard error, so that
//! what a command prints stays usable.

use std::io::{self, IsTerminal as _};
use std::str::FromStr as _;

use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{Layer as _, fmt};

use crate::settings::Logging;

/// Starts logging. A second start changes nothing.
pub fn start(logging: &Logging) {
    // Settings have refused a filter that cannot be read.
    let filter =
        Targets::from_str(&logging.filter).unwrap_or_else(|_| Targets::new().with_default(LevelFilter::INFO));
    let layer = if io::stderr().is_terminal() {
        fmt::layer().with_writer(io::stderr).with_target(false).with_filter(filter).boxed()
    } else {
        fmt::layer().json().flatten_event(true).with_writer(io::stderr).with_filter(filter).boxed()
    };
    let _ = tracing_subscriber::registry().with(layer).try_init();
}
