//! The command line: arguments → configuration → run → exit code.
//!
//! What the user typed (`args`) and what it means (`config`) are two types; the way from one to the other is in `mirror` and `serve`. `ask` is the client of
//! their control sockets. The rest is what a
//! process owes its surroundings: log, progress, signals. No mirroring happens here.

mod args;
mod ask;
mod log;
mod mirror;
mod progress;
mod rules;
mod serve;
mod signals;
mod verify;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches};

use crate::error::{Error, Exit};

/// Runs the program with its arguments, the program's name first.
pub fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let parsed =
        args::Cli::command().try_get_matches_from(args).and_then(|matches| args::Cli::from_arg_matches(&matches).map(|cli| (cli, matches)));
    let (cli, matches) = match parsed {
        Ok(parsed) => parsed,
        Err(error) => {
            // If the terminal is gone there is nobody left to tell.
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { Exit::Usage } else { Exit::Ok } as u8);
        }
    };
    // Files and directories of a mirror get exactly the mode they are made with.
    crate::receiver::prepare_process();
    let result = match (&cli.command, matches.subcommand()) {
        (args::Command::Mirror(args), Some((_, matches))) => mirror::run(args, matches),
        (args::Command::Verify(args), Some((_, matches))) => verify::run(args, matches),
        (args::Command::Serve(args), _) => serve::run(args),
        (args::Command::Status(args), _) => ask::status(args),
        (args::Command::Flush(args), _) => ask::flush(args),
        (args::Command::Approve(args), _) => ask::approve(args),
        (args::Command::Mirror(_) | args::Command::Verify(_), None) => Err(Error::Usage("no arguments".into())),
    };
    ExitCode::from(result.unwrap_or_else(|error| report(&error)) as u8)
}

/// Says why the run ended: in the log once there is one.
fn report(error: &Error) -> Exit {
    if tracing::dispatcher::has_been_set() {
        tracing::error!(exit = error.exit() as u8, "{error}");
    } else {
        eprintln!("ringsync: {error}");
    }
    error.exit()
}
