//! The one place where the command line calls those who do the work.

use std::sync::Arc;

use crate::config;
use crate::error::{Error, Result};
use crate::stats::Stats;
use crate::stop::Stop;

/// How a mirror ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Outcome {
    pub(super) failing: u64,
    pub(super) dirty: u64,
    pub(super) interrupted: bool,
}

/// Mirrors until it is equal (`once`) or `stop`.
pub(super) fn mirror(config: &config::Mirror, _stop: &Stop, _stats: Arc<Stats>) -> Result<Outcome> {
    Err(Error::Handshake(format!("no engine to mirror {} with", config.source.display())))
}

/// Serves until `stop`.
pub(super) fn serve(config: &config::Serve, _stop: &Stop) -> Result<()> {
    Err(Error::Handshake(format!("no engine to serve {} modules with", config.modules.len())))
}
