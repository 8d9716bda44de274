//! What each command does.

use std::path::Path;

use crate::app::{self, Failure};
use crate::logs;
use crate::settings::{Command, CommandLine, Lookup, ServeArgs, ServeSettings};

/// Runs the command of a command line.
///
/// # Errors
/// Why it failed, with all there is to tell.
pub fn run(line: CommandLine) -> Result<(), Failure> {
    let (lookup, faults) = Lookup::of_process(Path::new("."));
    if !faults.is_empty() {
        return Err(Failure::Configuration(faults));
    }
    match line.command {
        None => serve(&line.serve, &lookup),
        Some(Command::Serve(args)) => serve(&args, &lookup),
        Some(_) => Err(Failure::Configuration(vec!["not yet".to_owned()])),
    }
}

fn serve(args: &ServeArgs, lookup: &Lookup) -> Result<(), Failure> {
    let settings = ServeSettings::read(args, lookup).map_err(Failure::Configuration)?;
    logs::start(&settings.logging);
    app::serve(settings)
}
