//! What each command does.

use std::io::{self, Write as _};
use std::path::Path;

use clap::CommandFactory as _;

use crate::app::{self, Failure};
use crate::settings::{
    Command, CommandLine, CredentialsCommand, ForwardSettings, Lookup, ServeArgs, ServeSettings,
};
use crate::{forward, logs};

mod accounts;
mod beside;
mod credentials;
mod doctor;
mod imported;
mod ledger;
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
        Some(Command::Ledger(args)) => ledger::run(args.command, &lookup),
        Some(Command::Accounts(args)) => accounts::run(args.command, &lookup),
        Some(Command::Credentials(args)) => match args.command {
            CredentialsCommand::Sync(args) => credentials::sync(&args, &lookup),
        },
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

/// Unix milliseconds, to the second.
fn time(milliseconds: i64) -> String {
    let timestamp = jiff::Timestamp::from_millisecond(milliseconds);
    timestamp.map_or_else(|_| "?".to_owned(), |timestamp| format!("{timestamp:.0}"))
}

/// Columns that line up, under their heads.
fn table<const N: usize>(head: [&str; N], rows: Vec<[String; N]>) -> String {
    let rows: Vec<_> = std::iter::once(head.map(str::to_owned)).chain(rows).collect();
    let mut widths = [0; N];
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = cell.chars().count().max(*width);
        }
    }
    let mut text = String::new();
    for row in &rows {
        let cells: Vec<String> =
            row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        text.push_str(cells.join("  ").trim_end());
        text.push('\n');
    }
    text
}
