//! What the fuzz targets do; each program beside this file hands one of them its input.

pub mod document;
pub mod mirror;
pub mod targets;
