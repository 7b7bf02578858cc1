//! Executes operations on the mirror's filesystem, and lists what the mirror holds.
//!
//! Never decides what to do, never speaks to a peer, never touches anything outside the root it was given: every operation takes a held
//! directory and one validated name. The receiver calls it.

pub mod target;

pub use target::{Errno, Listed, Target};
