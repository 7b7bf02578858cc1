//! `ringsync mirror`: what was typed → [`config::Mirror`] → run → what it says in the end.

use std::sync::Arc;

use clap::ArgMatches;

use super::args::{MirrorArgs, OnDrift, timeout};
use super::progress::{self, Progress};
use super::{log, rules, signals};
use crate::config::{self, Dest};
use crate::error::{Exit, Result};
use crate::limits::{NICE_DEFAULT, THREADS_MAX};
use crate::model::filter::Filter;
use crate::model::options::Options;
use crate::sender::{self, Controls, Outcome};
use crate::stats::Stats;
use crate::stop::Stop;

/// Runs the command.
pub(super) fn run(args: &MirrorArgs, matches: &ArgMatches) -> Result<Exit> {
    let config = config(args, matches)?;
    let bar = progress::bar(args.log.log_format);
    let log = log::start(&args.log, bar.clone())?;
    config.prepare()?;
    let stop = Stop::new();
    let controls = Controls::new();
    let reload = Reload { log, controls: controls.clone(), matches: matches.clone(), filter: config.filter.clone() };
    let reload = std::sync::Mutex::new(reload);
    signals::listen(&stop, move || reload.lock().unwrap_or_else(std::sync::PoisonError::into_inner).reload())?;
    let stats = Arc::new(Stats::default());
    let progress = Progress::start(bar, config.progress, stats.clone(), progress::sent)?;
    let outcome = sender::run(&config, &stop, stats.clone(), &controls);
    drop(progress);
    Ok(conclude(outcome?, &stats))
}

/// What the words mean.
fn config(args: &MirrorArgs, matches: &ArgMatches) -> Result<config::Mirror> {
    let config = config::Mirror {
        source: args.source.clone(),
        dests: args.dests.iter().map(|dest| Dest::parse(dest, args.port)).collect::<Result<_>>()?,
        options: Options { max_delete: args.max_delete, allow_empty: args.allow_empty, ..rules::options(&args.filter) },
        filter: Arc::new(rules::filter(matches)?),
        threads: args.threads.unwrap_or_else(threads),
        watch: args.watch.into(),
        io: args.io.into(),
        compress: args.compress.into(),
        once: args.once,
        tune: !args.no_tune,
        nice: args.nice.unwrap_or(if args.once { 0 } else { NICE_DEFAULT }),
        timeout: timeout(args.timeout),
        progress: args.progress,
        control: args.control.place(),
        failure_log: args.failure_log.clone(),
        scrub: config::Scrub {
            verify: false,
            repair: args.on_drift == OnDrift::Repair,
            interval: config::parse_duration(&args.scrub_interval)?,
            bytes_per_sec: config::parse_rate(&args.bwlimit)?,
        },
    };
    config.check()?;
    Ok(config)
}

/// What SIGHUP asks for.
struct Reload {
    log: log::Reopen,
    controls: Controls,
    matches: ArgMatches,
    /// The rules in use.
    filter: Arc<Filter>,
}

impl Reload {
    /// Opens logs again and reads files of rules again; rules that are wrong change nothing.
    fn reload(&mut self) {
        self.log.reopen();
        self.controls.reopen();
        if rules::come_from_standard_input(&self.matches) {
            tracing::warn!("rules that came from standard input cannot be read again: they stay as they are");
            return;
        }
        match rules::filter(&self.matches) {
            Ok(filter) if filter == *self.filter => tracing::info!("logs are open again; the filter rules are as before"),
            Ok(filter) => {
                self.filter = Arc::new(filter);
                tracing::info!("the filter rules are others now: everything is looked at again");
                self.controls.set_filter(self.filter.clone());
            }
            Err(e) => tracing::error!("the filter rules stay as they are: {e}"),
        }
    }
}

/// Workers, unless told otherwise.
pub(super) fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from).min(THREADS_MAX)
}

/// Says what was done and what was left; the exit code.
fn conclude(outcome: Outcome, stats: &Stats) -> Exit {
    tracing::info!(
        files = stats.files_sent.get(),
        bytes = stats.bytes_sent.get(),
        operations = stats.ops_sent.get(),
        deleted = stats.deleted.get(),
        failures = stats.failures.get(),
        "end of the mirror"
    );
    let Outcome { failing, left, held, interrupted, is_away } = outcome;
    if failing > 0 {
        tracing::warn!(failing, "{failing} entries could not be mirrored: the messages above say why");
    }
    if held > 0 {
        tracing::warn!(held, "{held} entries were not deleted: the messages above say why");
    }
    if interrupted {
        if is_away {
            tracing::warn!("there was no receiver: what changed since it was lost is not mirrored");
        }
        tracing::info!(left, "ended by a signal: {left} entries were left to look at");
        Exit::Signal
    } else if failing > 0 {
        Exit::Partial
    } else if held > 0 {
        Exit::MaxDelete
    } else {
        Exit::Ok
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::args::{Cli, Command};
    use crate::error::Error;
    use crate::model::options::{Compress, IoChoice, Options, WatchChoice};
    use clap::{CommandFactory, FromArgMatches};

    fn parse(words: &str) -> Result<config::Mirror> {
        let matches = Cli::command().try_get_matches_from(words.split(' ')).unwrap();
        let Command::Mirror(args) = Cli::from_arg_matches(&matches).unwrap().command else { panic!("not a mirror") };
        config(&args, matches.subcommand().unwrap().1)
    }

    #[test]
    fn words_become_a_configuration() {
        let plain = parse("ringsync mirror a b").unwrap();
        assert_eq!((plain.source.to_str(), &plain.dests[..]), (Some("a"), &[Dest::Local("b".into())][..]));
        assert_eq!(plain.options, Options::mirror());
        assert_eq!([plain.nice, parse("ringsync mirror --once a b").unwrap().nice], [NICE_DEFAULT, 0]);
        assert_eq!(parse("ringsync mirror --nice -5 a b").unwrap().nice, -5);
        assert_eq!((plain.timeout, parse("ringsync mirror --timeout 0 a b").unwrap().timeout), (None, None));
        assert_eq!(parse("ringsync mirror --timeout 30 a b").unwrap().timeout, Some(std::time::Duration::from_secs(30)));
        assert!(plain.tune && !plain.once && !plain.progress && plain.filter.is_empty() && plain.threads > 0);

        let full = parse(
            "ringsync mirror -n 3 --watch inotify --io epoll --compress none --once --no-delete --no-tune --progress --exclude x --port 9 a h::m/p",
        )
        .unwrap();
        assert_eq!(full.dests[0].to_string(), "ringsync://h:9/m/p");
        assert_eq!((full.threads, full.watch, full.io, full.compress), (3, WatchChoice::Inotify, IoChoice::Epoll, Compress::None));
        assert!(!full.tune && full.once && full.progress && !full.filter.is_empty() && !full.options.delete);
        let carried = |words: &str| {
            let Options { hard_links, acls, xattrs, .. } = parse(&format!("ringsync mirror {words} a b")).unwrap().options;
            [hard_links, acls, xattrs]
        };
        assert_eq!([carried("-HAX"), carried("--xattrs --acls --hard-links")], [[true; 3]; 2]);
        assert_eq!([carried("--no-xattrs --no-acls --no-hard-links"), carried("-HAX --no-H --no-A --no-X")], [[false; 3]; 2]);
        assert_eq!(carried("--no-xattrs --no-acls -X"), [true, false, true]);
        assert!(parse("ringsync mirror --delete-excluded a b").unwrap().options.delete_excluded);
        assert_eq!(plain.scrub, config::Scrub::default());
        let scrub = parse("ringsync mirror --scrub-interval 7d --bwlimit 1M --on-drift report a b").unwrap().scrub;
        assert_eq!((scrub.interval.unwrap().as_secs(), scrub.bytes_per_sec, scrub.repair, scrub.verify), (604_800, 1 << 20, false, false));
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for words in ["ringsync mirror -n 0 a b", "ringsync mirror -n 9999 a b", "ringsync mirror a b c", "ringsync mirror a host:b"] {
            assert!(matches!(parse(words), Err(Error::Usage(_))), "{words}");
        }
    }

    #[test]
    fn the_exit_code_tells_the_outcome() {
        let stats = Stats::default();
        let exit = |failing, interrupted| conclude(Outcome { failing, interrupted, ..Outcome::default() }, &stats);
        assert_eq!(conclude(Outcome { held: 1, ..Outcome::default() }, &stats), Exit::MaxDelete);
        assert_eq!([exit(0, false), exit(1, false), exit(0, true), exit(1, true)], [Exit::Ok, Exit::Partial, Exit::Signal, Exit::Signal]);
    }
}
