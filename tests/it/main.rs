//! The one integration hub: every test of the whole lives in a module of it.

mod filter;
mod memtarget;
mod compare;
mod content;
mod ops;
mod place;
