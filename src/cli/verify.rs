//! `ringsync verify`: what was typed → [`config::Mirror`] that only compares → run → differences on standard output, a summary on standard error.

use std::io::{self, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::ArgMatches;
use indicatif::{HumanBytes, ProgressBar};

use super::args::VerifyArgs;
use super::progress::{self, Progress};
use super::{log, mirror, rules, signals};
use crate::config::{self, ControlPlace, Dest};
use crate::error::{Exit, Result};
use crate::model::options::WatchChoice;
use crate::model::scrub::Finding;
use crate::sender::{self, Outcome};
use crate::stats::Stats;
use crate::stop::Stop;

/// Runs the command.
pub(super) fn run(args: &VerifyArgs, matches: &ArgMatches) -> Result<Exit> {
    let config = config(args, matches)?;
    let bar = progress::bar(args.log.log_format);
    let log = log::start(&args.log, bar.clone())?;
    config.prepare()?;
    let stop = Stop::new();
    signals::listen(&stop, move || log.reopen())?;
    let stats = Arc::new(Stats::default());
    let began = Instant::now();
    let progress = Progress::start(bar.clone(), config.progress, stats.clone(), progress::compared)?;
    let outcome = sender::verify(&config, &stop, stats.clone(), &|finding| print(&bar, &line(finding, args.json)));
    drop(progress);
    Ok(conclude(args, outcome?, &stats, began.elapsed()))
}

/// What the words mean.
fn config(args: &VerifyArgs, matches: &ArgMatches) -> Result<config::Mirror> {
    let config = config::Mirror {
        source: args.source.clone(),
        dests: vec![Dest::parse(&args.dest, args.port)?],
        options: rules::options(&args.filter),
        filter: Arc::new(rules::filter(matches)?),
        threads: args.threads.unwrap_or_else(mirror::threads),
        watch: WatchChoice::Auto,
        io: args.io.into(),
        compress: args.compress.into(),
        once: true,
        tune: false,
        nice: args.nice.unwrap_or(0),
        timeout: None,
        progress: args.progress,
        control: ControlPlace::None,
        failure_log: None,
        scrub: config::Scrub { verify: true, repair: args.repair, interval: None, bytes_per_sec: config::parse_rate(&args.bwlimit)? },
    };
    config.check()?;
    Ok(config)
}

/// Writes a line to standard output, with the bar out of the way. If nobody reads it any more, the exit code still tells.
fn print(bar: &ProgressBar, line: &str) {
    bar.suspend(|| {
        let _ = writeln!(io::stdout().lock(), "{line}");
    });
}

fn line(finding: &Finding, json: bool) -> String {
    let Finding { path, item } = finding;
    if !json {
        return format!("{item} {path}");
    }
    // Of what JSON would have escaped, a path as it is shown has only these two left.
    let path = path.to_string().replace('\\', "\\\\").replace('"', "\\\"");
    format!("{{\"change\":\"{}\",\"path\":\"{path}\"}}", item.to_string().trim_end())
}

/// Says what was compared and what differs; the exit code.
fn conclude(args: &VerifyArgs, outcome: Outcome, stats: &Stats, took: Duration) -> Exit {
    let (files, bytes) = (stats.compared_files.get(), stats.compared_bytes.get());
    let (differences, unsure) = (stats.differences.get(), stats.unsure.get());
    // What is held was not repaired either.
    let failing = outcome.failing + outcome.held;
    let settled = differences == 0 || (args.repair && failing == 0 && stats.unsure.get() == 0);
    let equal = settled && failing == 0 && unsure == 0 && !outcome.interrupted;
    let seconds = took.as_secs_f64();
    if args.json {
        let (repair, interrupted) = (args.repair, outcome.interrupted);
        print(
            &ProgressBar::hidden(),
            &format!(
                "{{\"files\":{files},\"bytes\":{bytes},\"differences\":{differences},\"unread\":{},\"repair\":{repair},\"interrupted\":{interrupted},\"equal\":{equal},\"seconds\":{seconds:.3}}}",
                failing + unsure
            ),
        );
    }
    let verdict = match (equal, differences) {
        _ if outcome.interrupted => "ended by a signal: not all was compared",
        (true, 0) => "the mirror is equal to the source",
        (true, _) => "the mirror was made equal to the source",
        (false, 0) => "not all could be compared: the messages above say why",
        (false, _) => "the mirror differs from the source",
    };
    tracing::info!(files, bytes, differences, failing, unsure, "{verdict}; {} in {seconds:.1} s", HumanBytes(bytes));
    match (outcome.interrupted, equal) {
        (true, _) => Exit::Signal,
        (false, true) => Exit::Ok,
        (false, false) => Exit::Partial,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::args::{Cli, Command};
    use crate::model::meta::Kind;
    use crate::model::path::RelPath;
    use crate::model::scrub::{Cause, Item};
    use clap::{CommandFactory, FromArgMatches};

    fn parse(words: &str) -> (VerifyArgs, Result<config::Mirror>) {
        let matches = Cli::command().try_get_matches_from(words.split(' ')).unwrap();
        let Command::Verify(args) = Cli::from_arg_matches(&matches).unwrap().command else { panic!("not a verification") };
        let config = config(&args, matches.subcommand().unwrap().1);
        (args, config)
    }

    #[test]
    fn words_become_a_configuration() {
        let plain = parse("ringsync verify a b").1.unwrap();
        assert!(plain.once && !plain.tune && plain.scrub.is_read_only() && plain.scrub.bytes_per_sec == 0);
        let full = parse("ringsync verify --repair --bwlimit 20m --no-delete --exclude x -n 3 a h::m/p").1.unwrap();
        assert!(!full.scrub.is_read_only() && full.scrub.verify && !full.options.delete && !full.filter.is_empty());
        assert_eq!((full.scrub.bytes_per_sec, full.threads), (20 << 20, 3));
        assert!(parse("ringsync verify --bwlimit x a b").1.is_err());
    }

    #[test]
    fn a_difference_is_a_line() {
        let item = Item { content: true, ..Item::of(Cause::Content, Kind::File) };
        let finding = Finding { path: RelPath::new(b"a \"b\"\n\\").unwrap(), item };
        assert_eq!(line(&finding, false), ">fc........ a \"b\"\\012\\134");
        assert_eq!(line(&finding, true), "{\"change\":\">fc........\",\"path\":\"a \\\"b\\\"\\\\012\\\\134\"}");
    }

    #[test]
    fn the_exit_code_tells_whether_all_is_equal() {
        let exit = |words: &str, differences, failing, interrupted| {
            let stats = Stats::default();
            stats.differences.add(differences);
            conclude(&parse(words).0, Outcome { failing, interrupted, ..Outcome::default() }, &stats, Duration::ZERO)
        };
        let (plain, repair) = ("ringsync verify a b", "ringsync verify --repair a b");
        assert_eq!(
            [exit(plain, 0, 0, false), exit(plain, 1, 0, false), exit(plain, 0, 1, false)],
            [Exit::Ok, Exit::Partial, Exit::Partial]
        );
        assert_eq!(
            [exit(repair, 3, 0, false), exit(repair, 3, 1, false), exit(plain, 0, 0, true)],
            [Exit::Ok, Exit::Partial, Exit::Signal]
        );
    }
}
