//! Puts the program together: reads the command line, runs one command, and turns its end into an exit
//! code: 0 for good, 1 for an error at run time, 2 for a fault in the configuration.

use std::io::Write as _;
use std::process::ExitCode;

use clap::Parser as _;
use la_proxy::app::Failure;
use la_proxy::cli;
use la_proxy::settings::CommandLine;

fn main() -> ExitCode {
    match cli::run(CommandLine::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            let (code, sentences) = match failure {
                Failure::Runtime(sentence) => (1, vec![sentence]),
                Failure::Configuration(faults) => (2, faults),
            };
            for sentence in sentences {
                // With standard error closed there is nobody left to tell.
                let _ = writeln!(std::io::stderr(), "la-router: {sentence}");
            }
            ExitCode::from(code)
        }
    }
}
