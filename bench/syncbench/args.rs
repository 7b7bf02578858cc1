//! The command line, as it was typed.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

use crate::lab::Shape;
use crate::load::{Load, Name};
use crate::peer::Peer;

/// Puts load on ringsync and its peers, and says how far their mirrors lag
///
/// A load changes a source directory; a peer mirrors it to another one; syncbench measures the time from the load's last operation until the mirror is equal, compared in
/// full, and what it cost. perf/README.md has the method.
#[derive(Debug, Parser)]
#[command(name = "syncbench", version, propagate_version = true, after_help = EXAMPLES)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

const EXAMPLES: &str = "\
Examples:
  syncbench run storm churn --runs 3                  two loads, every peer that is installed
  syncbench run --peers ringsync,lsyncd --json a.json --report a.html
  syncbench run latency --shape rate=100mbit          over a slow link (root)
  syncbench compare a.json b.json                     what moved beyond noise

Exit codes: 0 done, 1 usage, 2 something is worse or a goal is missed (compare, budget), 11 something that the run depends on failed, \
20 ended by a signal, 23 trees are not equal.";

const RUN_HELP: &str = "\
Without LOADS all are run, except those that need an option (untar, checkout), take long or much memory (steady, many, copy) or are for measuring compression (logs, noise). Without --peers all peers are.

Each load is run --runs times, with every peer in turn. Directories are made under --dir (and --mirror-dir) and removed in the end. As root the \
ends talk in a network namespace of their own, whose counters give the bytes on the wire.

A peer that does not become equal within --deadline is reported with the number of differences.";

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Measure loads with peers
    #[command(after_help = RUN_HELP)]
    Run(Box<RunArgs>),
    /// Only make a load in an empty directory, and print its figures as JSON
    Load {
        /// The load
        name: Name,
        /// An empty directory
        dir: PathBuf,
        #[command(flatten)]
        args: LoadArgs,
    },
    /// Compare two trees in full: names, kinds, sizes, modes, owners, times, targets, bytes
    Verify {
        /// The source
        src: PathBuf,
        /// The mirror
        dst: PathBuf,
    },
    /// Say what moved between two runs beyond their noise
    ///
    /// A figure moved when the ranges of its runs do not overlap and the medians differ by more than --least and more than the metric's floor. Exit code 2 when one became worse.
    Compare {
        /// JSON lines of the run before
        a: PathBuf,
        /// JSON lines of the run after
        b: PathBuf,
        /// The least change that counts, in percent
        #[arg(long, value_name = "PERCENT", default_value_t = 5.0)]
        least: f64,
    },
    /// Hold a run against the goals of perf/budget.toml
    Budget {
        /// The goals
        budget: PathBuf,
        /// JSON lines of the run
        run: PathBuf,
    },
    /// Make the table and the HTML report of a run again
    Report {
        /// JSON lines of the run
        run: PathBuf,
        /// The report
        #[arg(long, value_name = "FILE")]
        report: Option<PathBuf>,
    },
}

#[derive(Debug, Args)]
pub struct LoadArgs {
    /// Factor of all counts, and of the size of large files
    #[arg(long, default_value_t = 1.0, value_parser = positive)]
    pub scale: f64,
    /// Seed: the same one makes the same operations and bytes
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// steady: writes a second
    #[arg(long, value_name = "N", default_value_t = 20_000, value_parser = clap::value_parser!(u64).range(1..))]
    pub rate: u64,
    /// steady: how long
    #[arg(long, value_name = "N", default_value_t = 60)]
    pub seconds: u64,
    /// untar: the archive
    #[arg(long, value_name = "FILE")]
    pub archive: Option<PathBuf>,
    /// checkout: the repository, whose HEAD is checked out
    #[arg(long, value_name = "DIR")]
    pub repo: Option<PathBuf>,
}

impl LoadArgs {
    /// The load of this name.
    pub fn load(&self, name: Name) -> Load {
        let (archive, repo) = (self.archive.clone(), self.repo.clone());
        Load { name, scale: self.scale, seed: self.seed, archive, repo, rate: self.rate, seconds: self.seconds }
    }
}

#[derive(Debug, Args)]
pub struct RunArgs {
    /// What to run
    #[arg(value_name = "LOADS")]
    names: Vec<Name>,
    #[command(flatten)]
    pub load: LoadArgs,
    /// How often: figures are medians
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    pub runs: u32,
    /// Which peers
    #[arg(long, value_name = "PEERS", value_delimiter = ',')]
    peers: Vec<Peer>,
    /// ringsync to be measured [default: the one beside syncbench]
    #[arg(long, value_name = "PATH")]
    pub ringsync: Option<PathBuf>,
    /// A further option of ringsync mirror, as --with=--compress=none; may be repeated
    #[arg(long, value_name = "OPTION", allow_hyphen_values = true)]
    pub with: Vec<String>,
    /// sersync2 to be measured
    #[arg(long, value_name = "PATH")]
    pub sersync: Option<PathBuf>,
    /// Seconds that a mirror may take to become equal
    #[arg(long, value_name = "SECONDS", default_value_t = 60.0, value_parser = positive)]
    deadline: f64,
    /// Seconds for the files of latency together: a slow peer writes fewer
    #[arg(long, value_name = "SECONDS", default_value_t = 15.0, value_parser = positive)]
    budget: f64,
    /// A peer is not asked again for a load that it failed so often
    #[arg(long, value_name = "N", default_value_t = 2)]
    pub give_up: u32,
    /// Where the source is made
    #[arg(long, value_name = "DIR", default_value = "/dev/shm")]
    pub dir: PathBuf,
    /// Where the mirror is made [default: as --dir]
    #[arg(long, value_name = "DIR")]
    pub mirror_dir: Option<PathBuf>,
    /// Network between the ends, as rate=100mbit,delay=20ms; delay is one way. Needs root; a delay needs the kernel's netem
    #[arg(long, value_name = "SHAPE")]
    pub shape: Option<Shape>,
    /// Touch so many MiB of free memory, and keep them from going back to the host of a virtual machine
    #[arg(long, value_name = "MIB", default_value_t = 0)]
    pub warm: u32,
    /// Write every measurement as a JSON line
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Record both ends with perf and write reports there. It disturbs: such figures count for nothing
    #[arg(long, value_name = "DIR")]
    pub profile: Option<PathBuf>,

    /// Write an HTML report with charts; it needs no network
    #[arg(long, value_name = "FILE")]
    pub report: Option<PathBuf>,
}

impl RunArgs {
    /// The loads, in their own order.
    pub fn loads(&self) -> Vec<Name> {
        let all = <Name as clap::ValueEnum>::value_variants();
        let wanted = |name: &&Name| {
            if self.names.is_empty() {
                !matches!(name, Name::Untar | Name::Checkout | Name::Steady | Name::Many | Name::Copy | Name::Logs | Name::Noise)
            } else {
                self.names.contains(name)
            }
        };
        all.iter().filter(wanted).copied().collect()
    }

    /// The peers, in their own order.
    pub fn peers(&self) -> Vec<Peer> {
        let all = <Peer as clap::ValueEnum>::value_variants();
        all.iter().filter(|p| **p != Peer::None && (self.peers.is_empty() || self.peers.contains(p))).copied().collect()
    }

    /// See the option.
    pub fn deadline(&self) -> Duration {
        Duration::from_secs_f64(self.deadline)
    }

    /// See the option.
    pub fn budget(&self) -> Duration {
        Duration::from_secs_f64(self.budget)
    }
}

fn positive(text: &str) -> Result<f64, String> {
    text.parse().ok().filter(|n: &f64| *n > 0.0 && *n < 1e6).ok_or_else(|| "not a number above 0".into())
}
