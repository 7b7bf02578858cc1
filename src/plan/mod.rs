//! The planner: events, probe answers, reports and acknowledgements in; probes, cycles and manifest requests out.
//!
//! Pure: it does no I/O, starts no thread and reads no clock (time is a parameter), which is why the simulation can run it through years of
//! bad luck. [`planner::Planner`] is its face; the sender is its only user.

pub mod aftermath;
mod base;
mod beyond;
mod borders;
mod debt;
mod deletions;
pub mod dirty;
mod distrust;
mod drift;
pub mod emit;
mod emptied;
pub mod fill;
pub mod flight;
mod guard;
pub mod halves;
mod keys;
mod lag;
mod lazy;
mod links;
mod moves;
pub mod names;
mod objects;
mod owners;
mod parked;
pub mod planner;
pub mod reconcile;
mod reports;
pub mod round;
mod screen;
pub mod scrub;
mod staged;
mod suspend;
mod sweep;
mod told;
pub mod tree;
#[cfg(test)]
mod tree_tests;
mod troubles;
mod undeleted;
mod unmounted;
mod unread;
mod verify;

pub use guard::{Guard, GuardNews, Held, Hold, HoldCause};
pub use planner::{Action, Planner};
pub use troubles::{Trouble, Turn};

/// A map by what the planner numbers itself: nobody can choose such keys, so a quick hash with a fixed seed serves; and its order is
/// the same in each run, so that a seed of the simulation plays the same again.
type NodeMap<K, V> = std::collections::HashMap<K, V, foldhash::fast::FixedState>;
/// As [`NodeMap`].
type NodeSet<K> = std::collections::HashSet<K, foldhash::fast::FixedState>;
