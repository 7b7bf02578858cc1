//! ringsync: the library behind the live directory mirror.

pub mod apply;
pub mod error;
pub mod limits;
pub mod model;
pub mod receiver;
pub mod stats;
pub mod sys;
pub mod wire;
