//! The one integration hub: every test of the whole lives in a module of it.

mod cli;
mod compare;
mod content;
mod filter;
mod memsource;
mod memtarget;
mod mirror;
mod mounts;
mod ops;
mod place;
mod program;
mod random;
mod refuse;
mod sim;
mod tidy;
mod unfriendly;
mod link;
mod vectors;
mod wire_fuzz;
