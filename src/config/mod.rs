//! What a run shall do: validated and immutable, wherever it was written.
//!
//! Nothing here knows the command line or starts anything. `dest` and `serve` read single words and are pure; only `place` looks at the filesystem, and
//! only [`Mirror::prepare`] changes it, by making the last component of a local destination. Made by the cli, read by the sender and the receiver.

mod dest;
mod place;
mod scrub;
mod serve;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

pub use dest::Dest;
pub use scrub::{Scrub, parse_duration, parse_rate};
pub use serve::{ModuleConfig, Serve, parse_listen};

use crate::error::{Error, Result};
use crate::limits::THREADS_MAX;
use crate::model::filter::Filter;
use crate::model::options::{Compress, IoChoice, Options, WatchChoice};

/// Where a run offers its control socket.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum ControlPlace {
    /// In the user's own directory, under a name that says what is mirrored where.
    #[default]
    Derived,
    /// Here.
    At(PathBuf),
    /// Nowhere.
    None,
}

/// A live mirror, or one that ends when it is equal (`once`).
#[derive(Debug, Clone)]
pub struct Mirror {
    /// The directory that is mirrored.
    pub source: PathBuf,
    /// Where to; exactly one for now.
    pub dests: Vec<Dest>,
    /// What to carry, and what to do about a difference.
    pub options: Options,
    /// What to leave alone.
    pub filter: Arc<Filter>,
    /// Workers, each with its own content connection: 1 to [`THREADS_MAX`].
    pub threads: usize,
    /// How changes are found.
    pub watch: WatchChoice,
    /// How sockets are driven.
    pub io: IoChoice,
    /// Whether frames are compressed.
    pub compress: Compress,
    /// End as soon as the mirror is equal.
    pub once: bool,
    /// Raise the kernel's watch limits where they are too low.
    pub tune: bool,
    /// Niceness (setpriority(2)), -20 to 19.
    pub nice: i32,
    /// A server that says nothing for so long is given up.
    pub timeout: Option<Duration>,
    /// Show progress of the first sync even where standard error is no terminal.
    pub progress: bool,
    /// Where it can be asked what it does.
    pub control: ControlPlace,
    /// Where failures are noted, beside the log.
    pub failure_log: Option<PathBuf>,
    /// Comparing contents.
    pub scrub: Scrub,
}

impl Mirror {
    /// Checks what needs no look at the filesystem.
    ///
    /// # Errors
    /// [`Error::Usage`] with the reason.
    pub fn check(&self) -> Result<()> {
        if !(1..=THREADS_MAX).contains(&self.threads) {
            return Err(Error::Usage(format!("{} threads: give 1 to {THREADS_MAX}", self.threads)));
        }
        if self.dests.len() != 1 {
            return Err(Error::Usage(format!("{} destinations: exactly one for now; run one mirror for each", self.dests.len())));
        }
        if self.options.delete_excluded && !self.options.delete {
            return Err(Error::Usage("excluded entries cannot be deleted where nothing is deleted".into()));
        }
        Ok(())
    }

    /// Checks the directories, then makes a local destination that is missing (its last component only), unless nothing is to be changed.
    ///
    /// # Errors
    /// [`Error::File`] for a source that is missing or no directory and a destination that is a file or cannot be made; [`Error::Usage`] where source and
    /// destination are one directory or one lies inside the other, under whatever name.
    pub fn prepare(&self) -> Result<()> {
        self.check()?;
        place::check_source(&self.source)?;
        if self.scrub.is_read_only() {
            self.dests.iter().try_for_each(|dest| if let Dest::Local(path) = dest { place::check_dest(path) } else { Ok(()) })?;
        }
        for dest in &self.dests {
            if let Dest::Local(path) = dest {
                place::prepare_local(&self.source, path)?;
            }
        }
        Ok(())
    }
}
