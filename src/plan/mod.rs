//! plan
pub mod names;
pub mod tree;
