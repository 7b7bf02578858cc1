//! The one integration hub: every test of the whole lives in a module of it.

mod apply;
mod confine;
mod link;
mod memtarget;
mod mirror;
mod receive;
mod twin;
mod unprivileged;
mod vectors;
mod wire_fuzz;
