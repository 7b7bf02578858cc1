//! The one integration hub: every test of the whole lives in a module of it.

mod apply;
mod cli;
mod compare;
mod confine;
mod content;
mod filter;
mod link;
mod memsource;
mod memtarget;
mod mirror;
mod mounts;
mod ops;
mod place;
mod program;
mod random;
mod receive;
mod refuse;
mod sim;
mod tidy;
mod twin;
mod unfriendly;
mod unprivileged;
mod vectors;
mod wire_fuzz;
mod fixture;
