//! What each command does.

use std::io::{self, Write as _};
use std::path::Path;

use clap::CommandFactory as _;

use crate::app::{self, Failure};
use crate::settings::{Command, CommandLine, ForwardSettings, Lookup, ServeArgs, ServeSettings};
use crate::{forward, logs};

mod beside;
mod doctor;
mod quickstart;
mod tokens;

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
        Some(Command::Quickstart(args)) => quickstart::run(&args, &lookup),
        Some(Command::Tokens(args)) => tokens::run(args.command, &lookup),
        Some(Command::Doctor(args)) => doctor::run(&args, &lookup),
        Some(Command::Completions { shell }) => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut CommandLine::command(), "la-router", &mut script);
            say(&String::from_utf8_lossy(&script))
        }
        Some(Command::Forward(args)) => {
            let settings = ForwardSettings::read(&args, &lookup).map_err(Failure::Configuration)?;
            logs::start(&settings.logging);
            forward::run(&settings)
        }
    }
}

fn serve(args: &ServeArgs, lookup: &Lookup) -> Result<(), Failure> {
    let settings = ServeSettings::read(args, lookup).map_err(Failure::Configuration)?;
    logs::start(&settings.logging);
    app::serve(settings)
}

/// Writes to standard output, whose reader may be gone.
fn say(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Failure::Runtime(format!("standard output cannot be written: {error}")))
        }
        _ => Ok(()),
    }
}
