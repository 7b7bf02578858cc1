//! How things are measured: trees compared, the moment of equality, the cost of processes, latency. Nothing here starts a peer or makes a load.

pub mod latency;
pub mod profile;
pub mod usage;
pub mod verify;
pub mod wait;

/// The value below which `percent` of the sorted values lie (nearest rank); `None` of nothing.
pub fn percentile(sorted: &[f64], percent: f64) -> Option<f64> {
    let rank = (percent / 100.0 * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.max(1) - 1).or(sorted.last()).copied()
}
