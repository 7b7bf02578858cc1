//! The one integration hub: every test of the whole lives in a module of it.

mod compare;
mod content;
mod filter;
mod memsource;
mod memtarget;
mod ops;
mod place;
mod sim;
mod cli;
mod filter;
mod tidy;
mod mirror;
mod mounts;
mod ops;
mod place;
mod program;
mod random;
mod refuse;
mod unfriendly;
