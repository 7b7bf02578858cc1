//! The one integration hub: every test of the whole lives in a module of it.

mod link;
mod vectors;
mod wire_fuzz;
