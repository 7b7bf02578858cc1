//! The words of the command line, as they were typed. No check beyond what a single word can show.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{ArgAction, Args, Parser, Subcommand, ValueEnum};

use crate::model::options::{Compress, IoChoice, WatchChoice};

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

Exit codes: 0 done, 1 usage, 5 the peers cannot agree, 10 socket, 11 file, 12 protocol, 20 ended by a signal, 23 some entries \
could not be mirrored, 30 timeout.";

const MIRROR_EXAMPLES: &str = "\
Examples:
  ringsync mirror /srv/www /backup/www
  ringsync mirror --once --exclude '*.o' --exclude /target/ . ringsync://host/build
  ringsync mirror --include '*/' --include '*.rs' --exclude '*' src host::module/src --port 8730

Filter rules are rsync's: the first match wins, a leading / anchors to SRC, a trailing / means directories only, * stops at a \
slash, ** does not. What is excluded is neither mirrored nor deleted.";

const SERVE_EXAMPLES: &str = "\
Examples:
  ringsync serve --module www=/backup/www
  ringsync serve --listen 10.0.0.5:8730 --module www=/backup/www --module pub=/srv/pub,ro

There are no users and no host rules yet: whoever reaches an address may use the modules. So the server listens on loopback \
unless it is told otherwise.";

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Make DEST equal to SRC, and keep it so
    #[command(after_help = MIRROR_EXAMPLES)]
    Mirror(MirrorArgs),
    /// Receive mirrors: offer directories as modules
    #[command(after_help = SERVE_EXAMPLES)]
    Serve(ServeArgs),
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
    /// Keep the holes of files [default]
    #[arg(short = 'S', long, overrides_with = "no_sparse")]
    pub(super) sparse: bool,
    /// Write the zeros that holes stand for
    #[arg(long, overrides_with = "sparse")]
    pub(super) no_sparse: bool,
    /// Write into the files that are there instead of beside them: readers, and a crash, see them half written
    #[arg(long)]
    pub(super) inplace: bool,
    /// Take room for a file before it is written: less scattered, and a full disk is found at once
    #[arg(long)]
    pub(super) preallocate: bool,
    /// Leave the kernel's watch limits as they are
    #[arg(long)]
    pub(super) no_tune: bool,
    /// Niceness, -20 to 19: whoever works with the files comes first [default: 10; 0 with --once]
    #[arg(long, value_name = "N", allow_hyphen_values = true, value_parser = clap::value_parser!(i32).range(-20..=19))]
    pub(super) nice: Option<i32>,
    /// Report the progress of the first sync even where standard error is no terminal
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
    #[command(flatten)]
    pub(super) log: LogArgs,
}

#[derive(Debug, Args)]
pub(super) struct LogArgs {
    /// Say more; twice: everything
    #[arg(short, long, action = ArgAction::Count)]
    pub(super) verbose: u8,
    /// Form of the log on standard error
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
