//! The words of the command line, as they were typed. No check beyond what a single word can show.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgAction, Args, Parser, Subcommand, ValueEnum};

use crate::config::ControlPlace;
use crate::limits::TIMEOUT_SECONDS_MAX;
use crate::model::options::{Compress, Durability, IoChoice, MaxDelete, WatchChoice};

/// Live one-way directory mirror for Linux
#[derive(Debug, Parser)]
#[command(name = "ringsync", version, propagate_version = true, after_help = EXAMPLES)]
pub(super) struct Cli {
    #[command(subcommand)]
    pub(super) command: Command,
}

const EXAMPLES: &str = "\
Examples:
  ringsync mirror /srv/www /backup/www                   keep a local copy equal
  ringsync serve --module www=/backup/www                receive on this host (loopback)
  ringsync mirror /srv/www ringsync://127.0.0.1/www      send to it

  ringsync status                                        what it does; flush and approve are of this kind

Exit codes: 0 done, 1 usage, 5 the peers cannot agree, 10 socket, 11 file, 12 protocol, 20 ended by a signal, 23 some entries \
could not be mirrored, 25 deletions are held, 30 timeout.";

const MIRROR_EXAMPLES: &str = "\
Examples:
  ringsync mirror /srv/www /backup/www
  ringsync mirror --once --exclude '*.o' --exclude /target/ . ringsync://host/build
  ringsync mirror --include '*/' --include '*.rs' --exclude '*' src host::module/src --port 8730

Filter rules are rsync's: the first match wins, a leading / anchors to SRC, a trailing / means directories only, * stops at a \
slash, ** does not. What is excluded is neither mirrored nor deleted.";

const VERIFY_EXAMPLES: &str = "\
Examples:
  ringsync verify /srv/www /backup/www
  ringsync verify --bwlimit 20M /srv/www ringsync://host/www
  ringsync verify --repair --exclude /tmp/ /srv/www host::www

Each difference is one line on standard output, as rsync's --itemize-changes has it: what would be done (> content goes to DEST, c made \
or changed there, h hard link, . metadata only, *deleting), the kind (f d L D S), and what differs (c content, s size, t time, p \
permissions, o owner, g group; + all of it), then the path. Exit code 0: equal, or made equal; 23: not.";

const SERVE_EXAMPLES: &str = "\
Examples:
  ringsync serve --module www=/backup/www
  ringsync serve --listen 10.0.0.5:8730 --module www=/backup/www --module pub=/srv/pub,ro

There are no users and no host rules yet: whoever reaches an address may use the modules. So the server listens on loopback \
unless it is told otherwise.";

const STATUS_EXAMPLES: &str = "\
Examples:
  ringsync status
  ringsync status /srv/www
  ringsync status --json --control /run/www.sock | jq .receivers[0].lag_seconds

Without SRC and --control it asks the one mirror or server of this user; with several it names them. The lag is the age of the \
oldest change that was noticed and is not acknowledged.

Exit codes: 0 done, 1 which one is not clear, 10 none answers.";

const FLUSH_EXAMPLES: &str = "\
Examples:
  ringsync flush && echo 'all that was written is in the mirror'
  ringsync flush --timeout 30 /srv/www

It marks the queues of the watcher, so that it waits for all that happened before, and for nothing that comes later. Nothing is \
written to SRC. It waits while the mirror is not connected.

Exit codes: 0 done, 1 which mirror is not clear, 10 none answers, 23 done but for entries that fail, 25 done but for deletions \
that are held, 30 the time is over: says how much is left.";

const APPROVE_EXAMPLES: &str = "\
Examples:
  ringsync status     names what is held, and why
  ringsync approve    has it deleted
  ringsync approve /srv/www

What is held is what `ringsync status` shows: deletions after SRC lost all its entries at once, or beyond --max-delete; or the \
whole mirror, where SRC is another directory than it was. Approving begins the count of --max-delete anew.

Exit codes: 0 done, or nothing is held; 1 which mirror is not clear, 10 none answers, or it cannot tell now what is held.";

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Make DEST equal to SRC, and keep it so
    #[command(after_help = MIRROR_EXAMPLES)]
    Mirror(MirrorArgs),
    /// Compare DEST with SRC, contents and all
    #[command(after_help = VERIFY_EXAMPLES)]
    Verify(VerifyArgs),
    /// Receive mirrors: offer directories as modules
    #[command(after_help = SERVE_EXAMPLES)]
    Serve(ServeArgs),
    /// Say what a running mirror or server does
    #[command(after_help = STATUS_EXAMPLES)]
    Status(StatusArgs),
    /// Wait until all that was written to the source before is in the mirror
    #[command(after_help = FLUSH_EXAMPLES)]
    Flush(FlushArgs),
    /// Let deletions go that a running mirror holds
    #[command(after_help = APPROVE_EXAMPLES)]
    Approve(ApproveArgs),
}

#[derive(Debug, Args)]
pub(super) struct StatusArgs {
    #[command(flatten)]
    pub(super) whom: WhomArgs,
    /// Print JSON, whose names do not change
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Debug, Args)]
pub(super) struct FlushArgs {
    #[command(flatten)]
    pub(super) whom: WhomArgs,
    /// Give up after so long; 0: never [default: 0]
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    pub(super) timeout: Option<Duration>,
}

#[derive(Debug, Args)]
pub(super) struct ApproveArgs {
    #[command(flatten)]
    pub(super) whom: WhomArgs,
}

#[derive(Debug, Args)]
pub(super) struct WhomArgs {
    /// The mirror of this directory; not needed where only one mirror runs
    #[arg(value_name = "SRC", conflicts_with = "control")]
    pub(super) source: Option<PathBuf>,
    /// The one whose control socket is here
    #[arg(long, value_name = "PATH")]
    pub(super) control: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(super) struct ControlArgs {
    /// Offer the control socket here, not in /run/ringsync or $XDG_RUNTIME_DIR/ringsync
    #[arg(long, value_name = "PATH", conflicts_with = "no_control")]
    pub(super) control: Option<PathBuf>,
    /// Offer no control socket
    #[arg(long)]
    pub(super) no_control: bool,
}

impl ControlArgs {
    /// What the words mean.
    pub(super) fn place(&self) -> ControlPlace {
        match &self.control {
            Some(path) => ControlPlace::At(path.clone()),
            None if self.no_control => ControlPlace::None,
            None => ControlPlace::Derived,
        }
    }
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| "not a number of seconds".to_owned())?;
    Duration::try_from_secs_f64(seconds).map_err(|e| e.to_string())
}

fn max_delete(text: &str) -> Result<MaxDelete, String> {
    let wrong = || "give a number of entries, or a percentage from 0% to 100%".to_owned();
    match text.strip_suffix('%') {
        Some(percent) => percent.parse().ok().filter(|p| *p <= 100).map(MaxDelete::Percent).ok_or_else(wrong),
        None => text.parse().map(MaxDelete::Entries).map_err(|_| wrong()),
    }
}

#[derive(Debug, Args)]
pub(super) struct MirrorArgs {
    /// The directory to mirror
    #[arg(value_name = "SRC")]
    pub(super) source: PathBuf,
    /// Local path, HOST::MODULE[/PATH] or ringsync://HOST[:PORT]/MODULE[/PATH]; exactly one for now
    #[arg(value_name = "DEST", required = true)]
    pub(super) dests: Vec<OsString>,
    /// Workers, each with its own connection [default: the number of cores]
    #[arg(short = 'n', long, value_name = "N")]
    pub(super) threads: Option<usize>,
    /// Make the mirror equal, then exit
    #[arg(long)]
    pub(super) once: bool,
    /// How changes are found
    #[arg(long, value_enum, value_name = "HOW", default_value_t = Watch::Auto)]
    pub(super) watch: Watch,
    /// How sockets are driven
    #[arg(long, value_enum, value_name = "HOW", default_value_t = Io::Auto)]
    pub(super) io: Io,
    /// Compression of what goes over the network; auto leaves it out where the link is faster
    #[arg(long, value_enum, value_name = "HOW", default_value_t = Compression::Auto)]
    pub(super) compress: Compression,
    /// Port of HOST::MODULE [default: 873]
    #[arg(long, value_name = "N")]
    pub(super) port: Option<u16>,
    #[command(flatten)]
    pub(super) filter: FilterArgs,
    /// Hold deletions when more than N entries, or P% of the mirror, are to go in the first look or within a minute
    #[arg(long, value_name = "N|P%", value_parser = max_delete)]
    pub(super) max_delete: Option<MaxDelete>,
    /// Empty DEST when SRC has no entry at all; otherwise that is held, for SRC may be a disk that is not mounted
    #[arg(long)]
    pub(super) allow_empty: bool,
    /// Note entries that fail, and when they are healed, in FILE, as lines of JSON
    #[arg(long, value_name = "FILE")]
    pub(super) failure_log: Option<PathBuf>,
    #[command(flatten)]
    pub(super) control: ControlArgs,
    /// Leave the kernel's watch limits as they are
    #[arg(long)]
    pub(super) no_tune: bool,
    /// Niceness, -20 to 19: whoever works with the files comes first [default: 10; 0 with --once]
    #[arg(long, value_name = "N", allow_hyphen_values = true, value_parser = clap::value_parser!(i32).range(-20..=19))]
    pub(super) nice: Option<i32>,
    /// Give a server up that says nothing for so long, and connect again; 0 leaves that to the kernel, which looks for hosts that are gone (60 s)
    #[arg(long, value_name = "SECONDS", default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=i64::from(TIMEOUT_SECONDS_MAX)))]
    pub(super) timeout: u32,
    /// Report the progress of the first sync even where standard error is no terminal
    #[arg(long)]
    pub(super) progress: bool,
    /// Compare all contents again and again, so long after the last time: 12h, 7d; 0 is never
    #[arg(long, value_name = "DURATION", default_value = "0")]
    pub(super) scrub_interval: String,
    /// Most KiB a second that each side reads for that, or with a suffix: 1.5M, 2G; 0 is no limit
    #[arg(long, value_name = "RATE", default_value = "0")]
    pub(super) bwlimit: String,
    /// What to do about differences that are found so
    #[arg(long, value_enum, value_name = "WHAT", default_value_t = OnDrift::Repair)]
    pub(super) on_drift: OnDrift,
    #[command(flatten)]
    pub(super) log: LogArgs,
}

/// What to leave alone.
#[derive(Debug, Args)]
pub(super) struct FilterArgs {
    /// Leave alone what matches RULE
    #[arg(long, value_name = "RULE", allow_hyphen_values = true)]
    pub(super) exclude: Vec<OsString>,
    /// Mirror what matches RULE, whatever later rules say
    #[arg(long, value_name = "RULE", allow_hyphen_values = true)]
    pub(super) include: Vec<OsString>,
    /// Read exclude rules from FILE, one a line; - is standard input
    #[arg(long, value_name = "FILE")]
    pub(super) exclude_from: Vec<PathBuf>,
    /// Read include rules from FILE, one a line; - is standard input
    #[arg(long, value_name = "FILE")]
    pub(super) include_from: Vec<PathBuf>,
    /// Delete excluded entries in DEST too
    #[arg(long, conflicts_with = "no_delete")]
    pub(super) delete_excluded: bool,
    /// Keep in DEST what SRC does not have
    #[arg(long)]
    pub(super) no_delete: bool,
    /// Carry hard links as such; the default
    #[arg(short = 'H', long, overrides_with = "no_hard_links")]
    pub(super) hard_links: bool,
    /// Make each name of a file a file of its own
    #[arg(long, alias = "no-H", overrides_with = "hard_links")]
    pub(super) no_hard_links: bool,
    /// Carry access control lists; the default
    #[arg(short = 'A', long, overrides_with = "no_acls")]
    pub(super) acls: bool,
    /// Leave access control lists alone
    #[arg(long, alias = "no-A", overrides_with = "acls")]
    pub(super) no_acls: bool,
    /// Carry extended attributes and capabilities; the default
    #[arg(short = 'X', long, overrides_with = "no_xattrs")]
    pub(super) xattrs: bool,
    /// Leave extended attributes and capabilities alone
    #[arg(long, alias = "no-X", overrides_with = "xattrs")]
    pub(super) no_xattrs: bool,
    /// Keep the holes of files; the default
    #[arg(short = 'S', long, overrides_with = "no_sparse")]
    pub(super) sparse: bool,
    /// Write the zeros that holes stand for
    #[arg(long, alias = "no-S", overrides_with = "sparse")]
    pub(super) no_sparse: bool,
    /// Write into the files that are there instead of beside them: readers, and a crash, see them half written
    #[arg(long)]
    pub(super) inplace: bool,
    /// Take room for a file before it is written: less scattered, and a full disk is found at once
    #[arg(long)]
    pub(super) preallocate: bool,
    /// What is on stable storage before it counts as mirrored
    #[arg(long, value_enum, value_name = "WHAT", default_value_t = Durable::None)]
    pub(super) durability: Durable,
}

#[derive(Debug, Args)]
pub(super) struct VerifyArgs {
    /// The directory that was mirrored
    #[arg(value_name = "SRC")]
    pub(super) source: PathBuf,
    /// Its mirror: local path, HOST::MODULE[/PATH] or ringsync://HOST[:PORT]/MODULE[/PATH]
    #[arg(value_name = "DEST")]
    pub(super) dest: OsString,
    /// Make what differs equal
    #[arg(long)]
    pub(super) repair: bool,
    /// Most KiB a second that each side reads, or with a suffix: 1.5M, 2G; 0 is no limit
    #[arg(long, value_name = "RATE", default_value = "0")]
    pub(super) bwlimit: String,
    /// Print JSON: an object a line for each difference, and one in the end
    #[arg(long)]
    pub(super) json: bool,
    /// Workers, each with its own connection [default: the number of cores]
    #[arg(short = 'n', long, value_name = "N")]
    pub(super) threads: Option<usize>,
    /// How sockets are driven
    #[arg(long, value_enum, value_name = "HOW", default_value_t = Io::Auto)]
    pub(super) io: Io,
    /// Compression of what goes over the network; auto leaves it out towards this host
    #[arg(long, value_enum, value_name = "HOW", default_value_t = Compression::Auto)]
    pub(super) compress: Compression,
    /// Port of HOST::MODULE [default: 873]
    #[arg(long, value_name = "N")]
    pub(super) port: Option<u16>,
    #[command(flatten)]
    pub(super) filter: FilterArgs,
    /// Niceness, -20 to 19 [default: 0]
    #[arg(long, value_name = "N", allow_hyphen_values = true, value_parser = clap::value_parser!(i32).range(-20..=19))]
    pub(super) nice: Option<i32>,
    /// Report progress even where standard error is no terminal
    #[arg(long)]
    pub(super) progress: bool,
    #[command(flatten)]
    pub(super) log: LogArgs,
}

#[derive(Debug, Args)]
pub(super) struct ServeArgs {
    /// Where to listen; without a host on loopback [default: 127.0.0.1:8730]
    #[arg(long, value_name = "ADDR:PORT")]
    pub(super) listen: Vec<String>,
    /// A directory to offer, and its name; ",ro" refuses changes
    #[arg(long = "module", value_name = "NAME=PATH[,ro]", required = true)]
    pub(super) modules: Vec<OsString>,
    /// How sockets are driven
    #[arg(long, value_enum, value_name = "HOW", default_value_t = Io::Auto)]
    pub(super) io: Io,
    /// Niceness, -20 to 19: whoever works with the files comes first [default: 10]
    #[arg(long, value_name = "N", allow_hyphen_values = true, value_parser = clap::value_parser!(i32).range(-20..=19))]
    pub(super) nice: Option<i32>,
    /// Give a client up whose host answers nothing for so long; 0 is 60
    #[arg(long, value_name = "SECONDS", default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=i64::from(TIMEOUT_SECONDS_MAX)))]
    pub(super) timeout: u32,
    #[command(flatten)]
    pub(super) control: ControlArgs,
    #[command(flatten)]
    pub(super) log: LogArgs,
}

/// A timeout in seconds; 0 is none.
pub(super) fn timeout(seconds: u32) -> Option<Duration> {
    (seconds > 0).then(|| Duration::from_secs(seconds.into()))
}

#[derive(Debug, Args)]
pub(super) struct LogArgs {
    /// Say more; twice: everything
    #[arg(short, long, action = ArgAction::Count)]
    pub(super) verbose: u8,
    /// Write the log to FILE, at its end, not to standard error; SIGHUP opens it again
    #[arg(long, value_name = "FILE")]
    pub(super) log_file: Option<PathBuf>,
    /// Form of the log
    #[arg(long, value_enum, value_name = "FORM", default_value_t = LogFormat::Text)]
    pub(super) log_format: LogFormat,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum LogFormat {
    /// lines for people
    Text,
    /// one JSON object a line
    Json,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum OnDrift {
    /// make the mirror equal
    Repair,
    /// only say so
    Report,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(super) enum Watch {
    /// fanotify where it can serve, inotify elsewhere
    Auto,
    /// fanotify only
    Fanotify,
    /// inotify only
    Inotify,
}

impl From<Watch> for WatchChoice {
    fn from(typed: Watch) -> Self {
        match typed {
            Watch::Auto => Self::Auto,
            Watch::Fanotify => Self::Fanotify,
            Watch::Inotify => Self::Inotify,
        }
    }
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(super) enum Io {
    /// io_uring, or epoll where it is blocked
    Auto,
    /// io_uring only
    Uring,
    /// epoll only
    Epoll,
}

impl From<Io> for IoChoice {
    fn from(typed: Io) -> Self {
        match typed {
            Io::Auto => Self::Auto,
            Io::Uring => Self::Uring,
            Io::Epoll => Self::Epoll,
        }
    }
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(super) enum Durable {
    /// nothing: the kernel writes when it likes
    None,
    /// all of it, by one call for many changes
    Cycle,
    /// all of it, by a call for each file and directory
    File,
}

impl From<Durable> for Durability {
    fn from(typed: Durable) -> Self {
        match typed {
            Durable::None => Self::None,
            Durable::Cycle => Self::Cycle,
            Durable::File => Self::File,
        }
    }
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(super) enum Compression {
    /// lz4 where it saves time: not towards this host
    Auto,
    /// lz4 for all that shrinks
    Lz4,
    /// none at all
    None,
}

impl From<Compression> for Compress {
    fn from(typed: Compression) -> Self {
        match typed {
            Compression::Auto => Self::Auto,
            Compression::Lz4 => Self::Lz4,
            Compression::None => Self::None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_words_are_consistent() {
        Cli::command().debug_assert();
    }
}
