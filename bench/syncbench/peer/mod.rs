//! The peers: programs that mirror or copy, ringsync among them. Each is started in its turn on the run's directories, and stopped when its handle is dropped.
//!
//! They are given the options with which they do the same work: everything carried, deletions too.

mod live;
mod oneshot;
mod ringsync;
mod rsyncd;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use clap::ValueEnum;

use crate::lab::{Lab, Process};
use crate::measure::usage::Root;
use crate::problem::Result;

/// The name of a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, ValueEnum)]
pub enum Peer {
    /// No mirror: what the load costs alone (always measured)
    #[value(skip)]
    None,
    /// ringsync over TCP, fanotify and io_uring where it can
    Ringsync,
    /// ringsync over TCP, inotify
    RingsyncInotify,
    /// ringsync over TCP, epoll
    RingsyncEpoll,
    /// ringsync over TCP, inotify and epoll
    RingsyncInotifyEpoll,
    /// ringsync in one process
    RingsyncLocal,
    /// ringsync --once over TCP (first and noop only)
    RingsyncOnce,
    /// inotifywait, and a whole-tree rsync to an rsyncd once it is quiet for 0.1 s
    Loop,
    /// lsyncd, to an rsyncd, delay 1 s
    Lsyncd,
    /// sersync2, to an rsyncd (--sersync PATH)
    Sersync,
    /// rsync -a --delete to an rsyncd (first and noop only)
    RsyncA,
    /// rsync -az --delete to an rsyncd (first and noop only)
    RsyncAz,
    /// tar | tar through a pipe (first and noop only)
    Tar,
    /// cp -a (first and noop only)
    Cp,
}

/// Programs that are named on the command line.
#[derive(Debug, Clone)]
pub struct Programs {
    /// ringsync.
    pub ringsync: PathBuf,
    /// sersync2, if any.
    pub sersync: Option<PathBuf>,
    /// Further options of ringsync mirror.
    pub with: Vec<String>,
}

/// A peer's processes.
pub struct Running {
    /// Stopped in this order.
    pub processes: Vec<Process>,
}

impl Running {
    /// What is measured.
    pub fn roots(&self) -> Vec<Root> {
        self.processes.iter().map(|p| (p.end, p.pid())).collect()
    }

    /// The last words of a process that ended.
    pub fn trouble(&mut self) -> Option<String> {
        self.processes.iter_mut().find_map(Process::epitaph)
    }
}

impl Peer {
    /// As it is typed and reported.
    pub fn text(self) -> String {
        self.to_possible_value().map_or_else(|| "none".into(), |v| v.get_name().to_owned())
    }

    /// Whether it stays and follows changes; others copy once and end.
    pub fn is_live(self) -> bool {
        !matches!(self, Self::None | Self::RingsyncOnce | Self::RsyncA | Self::RsyncAz | Self::Tar | Self::Cp)
    }

    /// Whether it is this project's.
    pub fn is_ours(self) -> bool {
        matches!(
            self,
            Self::Ringsync
                | Self::RingsyncInotify
                | Self::RingsyncEpoll
                | Self::RingsyncInotifyEpoll
                | Self::RingsyncLocal
                | Self::RingsyncOnce
        )
    }

    /// Why it cannot be measured here.
    pub fn absent(self, programs: &Programs) -> Option<String> {
        let lacks = |tools: &[&str]| {
            let missing: Vec<&str> = tools.iter().copied().filter(|t| !installed(t)).collect();
            (!missing.is_empty()).then(|| format!("not installed: {}", missing.join(", ")))
        };
        match self {
            Self::None => None,
            Self::Loop => lacks(&["bash", "inotifywait", "rsync"]),
            Self::Lsyncd => lacks(&["lsyncd", "rsync"]),
            Self::Sersync => match &programs.sersync {
                None => Some("no --sersync PATH given".into()),
                Some(path) if !path.is_file() => Some(format!("{} is no file", path.display())),
                Some(_) => lacks(&["rsync"]),
            },
            Self::RsyncA | Self::RsyncAz => lacks(&["rsync"]),
            Self::Tar => lacks(&["bash", "tar"]),
            Self::Cp => lacks(&["cp"]),
            _ if self.is_ours() && !programs.ringsync.is_file() => {
                Some(format!("{} is no file: build it, or name it by --ringsync", programs.ringsync.display()))
            }
            Self::Ringsync | Self::RingsyncEpoll if !nix::unistd::geteuid().is_root() => Some("fanotify needs root".into()),
            _ => None,
        }
    }

    /// Its version in its own words, for reports.
    pub fn version(self, programs: &Programs) -> Option<String> {
        let (program, argument) = match self {
            Self::None => return None,
            Self::Loop => (PathBuf::from("inotifywait"), "--help"),
            Self::Lsyncd => (PathBuf::from("lsyncd"), "--version"),
            Self::Sersync => return programs.sersync.as_ref().map(|p| p.display().to_string()),
            Self::RsyncA | Self::RsyncAz => (PathBuf::from("rsync"), "--version"),
            Self::Tar => (PathBuf::from("tar"), "--version"),
            Self::Cp => (PathBuf::from("cp"), "--version"),
            _ => (programs.ringsync.clone(), "--version"),
        };
        let output = Command::new(program).arg(argument).stdin(Stdio::null()).output().ok()?;
        Some(String::from_utf8_lossy(&output.stdout).lines().next()?.trim().to_owned())
    }

    /// Starts what has to be there before it (a receiver), then it. A one-shot peer is given too, and ends by itself: it is the first process.
    ///
    /// # Errors
    /// What could not be started.
    pub fn start(self, lab: &Lab, programs: &Programs) -> Result<Running> {
        self.prepare(lab, programs)?.start()
    }

    /// Starts the receiver, and says what is to be started then: so that time counts from there.
    ///
    /// # Errors
    /// What could not be started.
    pub fn prepare<'a>(self, lab: &'a Lab, programs: &Programs) -> Result<Prepared<'a>> {
        match self {
            Self::None => Ok(Prepared { lab, receiver: None, command: None, name: String::new() }),
            Self::Loop => live::watch_loop(lab),
            Self::Lsyncd => live::lsyncd(lab),
            Self::Sersync => live::sersync(lab, programs.sersync.as_deref().unwrap_or(Path::new("sersync2"))),
            Self::RsyncA => oneshot::rsync(lab, "-a"),
            Self::RsyncAz => oneshot::rsync(lab, "-az"),
            Self::Tar => Ok(oneshot::tar(lab)),
            Self::Cp => Ok(oneshot::cp(lab)),
            _ => ringsync::prepare(self, lab, &programs.ringsync, &programs.with),
        }
    }
}

/// A peer whose receiver runs.
pub struct Prepared<'a> {
    lab: &'a Lab,
    receiver: Option<Process>,
    command: Option<Command>,
    name: String,
}

impl Prepared<'_> {
    /// Starts the sender.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(self) -> Result<Running> {
        let mut processes = Vec::new();
        if let Some(command) = self.command {
            let log = self.lab.file("sender.log");
            processes.push(Process::start(command, crate::lab::End::Sender, &self.name, &log)?);
        }
        processes.extend(self.receiver);
        Ok(Running { processes })
    }
}

/// Whether the shell would find it.
pub fn installed(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|dir| dir.join(program).is_file())
}

/// How long a one-shot copy may take.
pub const ONE_SHOT_PATIENCE: Duration = Duration::from_secs(600);
