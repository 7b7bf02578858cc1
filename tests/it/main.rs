//! The one integration hub: every test of the whole lives in a module of it.

mod compare;
mod content;
mod mirror;
mod mounts;
mod ops;
mod place;
mod program;
mod random;
mod real;
mod refuse;
mod unfriendly;
