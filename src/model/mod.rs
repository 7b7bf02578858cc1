//! Plain values that every room speaks: names and paths, metadata, attributes, events, probes, operations, cycles, options, filter rules.
//!
//! Nothing here does I/O, knows a thread or holds a descriptor.

pub mod attrs;
pub mod cycle;
pub mod event;
pub mod filter;
mod glob;
pub mod meta;
pub mod mounts;
pub mod op;
pub mod options;
pub mod path;
pub mod probe;
pub mod scrub;
pub mod times;
