//! Executes operations on the mirror's filesystem, and lists what the mirror holds.
//!
//! Never decides what to do, never speaks to a peer, never touches anything outside the root it was given: every operation takes a held
//! directory and one validated name. The receiver calls it.

mod access;
mod attrs;
mod dirs;
pub mod durable;
mod file;
pub mod fs;
mod held;
mod inplace;
mod leftovers;
mod manifest;
mod meta;
mod outdated;
pub mod partial;
mod patch;
pub mod root;
mod sign;
mod staging;
mod sum;
mod sweep;
pub mod target;
mod temp;

pub use durable::Touched;
pub use fs::FsTarget;
pub use partial::{Found, Key};
pub use root::Root;
pub use sum::Answer;
pub use target::{Errno, Listed, Target};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::stat::{Mode, umask};

/// Prepares the process for applying: no umask, so that files are made with exactly the permission bits they shall have, and as many descriptors as
/// the hard limit allows. To be called once, before threads start; a target works without it, but slower.
pub fn prepare_process() {
    umask(Mode::empty());
    if let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE)
        && soft < hard
        && let Err(errno) = setrlimit(Resource::RLIMIT_NOFILE, hard, hard)
    {
        tracing::debug!(soft, hard, %errno, "the limit of open files stays");
    }
}
