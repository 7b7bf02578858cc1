//! `ringsync serve`: what was typed → [`config::Serve`] → run.

use indicatif::ProgressBar;

use super::args::{ServeArgs, timeout};
use super::{log, signals};
use crate::config::{self, ModuleConfig, parse_listen};
use crate::error::{Exit, Result};
use crate::limits::NICE_DEFAULT;
use crate::receiver;
use crate::stop::Stop;

/// What is listened on unless told otherwise: loopback, since nobody is asked who they are.
const LISTEN_DEFAULT: &str = ":8730";

/// Runs the command.
pub(super) fn run(args: &ServeArgs) -> Result<Exit> {
    let config = config(args)?;
    let log = log::start(&args.log, ProgressBar::hidden())?;
    // Before anything is said that somebody may wait for to send one.
    let stop = Stop::new();
    signals::listen(&stop, move || log.reopen())?;
    config.prepare()?;
    for address in config.exposed() {
        tracing::warn!("listening on {address}: there is no authentication yet, whoever reaches it may use the modules");
    }
    if config.exposed().next().is_none() {
        tracing::info!("listening on loopback only; --listen ADDR:PORT opens it to others");
    }
    receiver::run(&config, &stop)?;
    Ok(if stop.is_stopped() { Exit::Signal } else { Exit::Ok })
}

/// What the words mean.
fn config(args: &ServeArgs) -> Result<config::Serve> {
    let default = LISTEN_DEFAULT.to_owned();
    let listen = if args.listen.is_empty() { std::slice::from_ref(&default) } else { &args.listen };
    let config = config::Serve {
        listen: listen.iter().map(|text| parse_listen(text)).collect::<Result<_>>()?,
        modules: args.modules.iter().map(|text| ModuleConfig::parse(text)).collect::<Result<_>>()?,
        io: args.io.into(),
        nice: args.nice.unwrap_or(NICE_DEFAULT),
        timeout: timeout(args.timeout),
        control: args.control.place(),
    };
    config.check()?;
    Ok(config)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::args::{Cli, Command};
    use clap::Parser;

    fn parse(words: &str) -> Result<config::Serve> {
        match Cli::try_parse_from(words.split(' ')).unwrap().command {
            Command::Serve(args) => config(&args),
            _ => panic!("not a server"),
        }
    }

    #[test]
    fn loopback_unless_told_otherwise() {
        let plain = parse("ringsync serve --module a=/x").unwrap();
        assert_eq!(plain.listen, ["127.0.0.1:8730".parse().unwrap()]);
        assert_eq!(plain.exposed().count(), 0);
        let open = parse("ringsync serve --listen 0.0.0.0:1 --listen :2 --module a=/x --module b=/y,ro").unwrap();
        assert_eq!(open.listen.len(), 2);
        assert_eq!(open.exposed().count(), 1);
        assert!(!open.modules[0].read_only && open.modules[1].read_only);
        assert!(parse("ringsync serve --module a=/x --module a=/y").is_err());
    }
}
