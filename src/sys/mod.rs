//! The only room (beside the ring) with unsafe code: thin, safe faces of what the kernel offers.
//!
//! Nothing here decides anything; it says what the kernel says. Every other room reaches the system through it.

pub mod acl;
pub mod append;
pub mod clock;
pub mod copy;
pub mod dir;
pub mod fanotify;
pub mod handle;
pub mod holes;
pub mod inotify;
pub mod memory;
pub mod mmap;
pub mod mounts;
pub mod nice;
pub mod privilege;
pub mod quiet;
pub mod regular;
mod spare;
pub mod stable;
pub mod tcp;
mod unnamed;
pub mod uring;
pub mod wake;
pub mod xattr;
