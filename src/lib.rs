//! ringsync: the library behind the live directory mirror.

pub mod apply;
pub mod buffer;
pub mod cli;
pub mod config;
pub mod control;
pub mod delta;
pub mod error;
pub mod limits;
pub mod model;
pub mod plan;
pub mod receiver;
pub mod ring;
pub mod sender;
pub mod stats;
pub mod stop;
pub mod sys;
pub mod watch;
pub mod wire;
pub mod work;
