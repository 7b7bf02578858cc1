//! `syncbench`: puts load on ringsync and on what people use instead, and says how far the mirrors lag. No part of ringsync is linked in: it is measured from outside.

mod args;
mod bench;
mod budget;
mod course;
mod interrupt;
mod lab;
mod load;
mod measure;
mod output;
mod peer;
mod problem;
mod record;
mod summary;
mod warm;

use std::path::Path;
use std::process::ExitCode;

use clap::Parser;
use clap::error::ErrorKind;

use args::{Cli, Command};
use load::Load;
use measure::verify::{Rules, look};
use output::{compare, html, table};
use problem::{Doing, EXIT_DONE, EXIT_UNEQUAL, Problem, Result};
use record::{Measured, Records};

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Whoever asks for help gets it on standard output; a failure to print has nowhere to go.
            let _ = error.print();
            let asked = matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion);
            return ExitCode::from(if asked { EXIT_DONE } else { Problem::Usage(String::new()).exit_code() });
        }
    };
    match interrupt::listen().and_then(|()| run(cli.command)) {
        Ok(code) => ExitCode::from(code),
        Err(problem) => {
            eprintln!("syncbench: {problem}");
            ExitCode::from(problem.exit_code())
        }
    }
}

fn run(command: Command) -> Result<u8> {
    match command {
        Command::Run(args) => bench::run(&args),
        Command::Load { name, dir, args } => only_load(&args.load(name), &dir),
        Command::Verify { src, dst } => verify(&src, &dst),
        Command::Compare { a, b, least } => {
            let (text, code) = compare::render(&Records::read(&a)?, &Records::read(&b)?, least / 100.0);
            println!("{text}");
            Ok(code)
        }
        Command::Budget { budget, run } => {
            let (text, code) = budget::Budget::read(&budget)?.judge(&Records::read(&run)?)?;
            println!("{text}");
            Ok(code)
        }
        Command::Report { run, report } => {
            let records = Records::read(&run)?;
            println!("{}", table::render(&records));
            if let Some(path) = report {
                std::fs::write(&path, html::render(&records)).doing(|| format!("write {}", path.display()))?;
            }
            Ok(EXIT_DONE)
        }
    }
}

fn only_load(load: &Load, dir: &Path) -> Result<u8> {
    let dir = std::fs::canonicalize(dir).doing(|| format!("find {}", dir.display()))?;
    if std::fs::read_dir(&dir).doing(|| format!("list {}", dir.display()))?.next().is_some() {
        return Err(Problem::Usage(format!("{} is not empty", dir.display())));
    }
    load.prepare(&dir)?;
    let done = load.run(&dir)?;
    let measured = Measured {
        load: load.name.text(),
        peer: "none".into(),
        ops: done.ops,
        bytes: done.bytes,
        load_s: Some(done.took.as_secs_f64()),
        ..Measured::default()
    };
    println!("{}", serde_json::to_string(&measured).doing(|| "make JSON".into())?);
    Ok(EXIT_DONE)
}

fn verify(src: &Path, dst: &Path) -> Result<u8> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let found = look(src, dst, Rules { bytes: true, first_only: false, threads });
    for example in &found.examples {
        println!("{example}");
    }
    println!("{} entries, {} differences, {} directories with another time", found.entries, found.differences, found.dir_times);
    Ok(if found.differences + found.dir_times == 0 { EXIT_DONE } else { EXIT_UNEQUAL })
}
