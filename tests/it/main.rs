//! The one integration hub: every test of the whole lives in a module of it.

mod compare;
mod content;
mod ops;
mod place;
