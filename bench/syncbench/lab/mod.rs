//! Where a run takes place: its directories, its network and its processes; all of them gone when it is dropped. It measures nothing.

mod net;
mod process;

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

pub use net::{Net, Shape};
pub use process::{Process, adopt_orphans, kill_orphans};

use crate::problem::{Doing, Result};

/// The two ends of a mirror.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// Where the source is.
    Sender,
    /// Where the mirror is.
    Receiver,
}

/// The place of a run.
pub struct Lab {
    /// The network between the ends.
    pub net: Net,
    near: PathBuf,
    far: PathBuf,
}

impl Lab {
    /// Makes directories under `dir` and `mirror_dir` (which may be the same), and the network.
    ///
    /// # Errors
    /// What could not be made; what had been made is removed.
    pub fn new(dir: &Path, mirror_dir: &Path, shape: Option<Shape>) -> Result<Self> {
        let name = format!("syncbench-{}", std::process::id());
        let (near, far) = (dir.join(&name), mirror_dir.join(format!("{name}-mirror")));
        let mut lab = Self { net: Net::none(), near, far };
        for dir in [&lab.near, &lab.far] {
            fs::create_dir(dir).doing(|| format!("make {}", dir.display()))?;
        }
        for dir in [&mut lab.near, &mut lab.far] {
            *dir = fs::canonicalize(&*dir).doing(|| format!("resolve {}", dir.display()))?;
        }
        lab.net = Net::make(shape)?;
        lab.clear()?;
        Ok(lab)
    }

    /// The source.
    pub fn src(&self) -> PathBuf {
        self.near.join("src")
    }

    /// The mirror.
    pub fn dst(&self) -> PathBuf {
        self.far.join("dst")
    }

    /// A place for configurations and logs of peers.
    pub fn file(&self, name: &str) -> PathBuf {
        self.near.join("peer").join(name)
    }

    /// Empties source, mirror and what peers left.
    ///
    /// # Errors
    /// A problem of the filesystem.
    pub fn clear(&self) -> Result<()> {
        for dir in [self.src(), self.dst(), self.near.join("peer")] {
            remove(&dir)?;
            fs::create_dir(&dir).doing(|| format!("make {}", dir.display()))?;
        }
        Ok(())
    }

    /// A command that runs at this end.
    pub fn command(&self, end: End, program: impl AsRef<OsStr>) -> Command {
        self.net.command(end, program.as_ref())
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        for dir in [&self.near, &self.far] {
            if let Err(problem) = remove(dir) {
                eprintln!("syncbench: {problem}");
            }
        }
    }
}

/// Removes a tree, if it is there. A peer that has just been killed may still have had an entry on its way, so it is tried again.
fn remove(dir: &Path) -> Result<()> {
    let mut tries = 0;
    loop {
        match fs::remove_dir_all(dir) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            Err(_) if tries < 5 => tries += 1,
            other => return other.doing(|| format!("remove {}", dir.display())),
        }
    }
}
