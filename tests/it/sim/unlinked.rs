//! Without hard links each name is a file of its own in the mirror, but still the same object in the source.

use super::*;

fn run_unlinked(seed: u64, watcher: Watcher) -> Vec<String> {
    let mut sim = Sim::new(seed, watcher);
    sim.planner = Planner::new(Options { hard_links: false, ..Options::mirror() }, sim.filter.clone(), seed);
    sim.links = false;
    live(&mut sim, 300)
}

#[test]
fn the_planner_converges_without_hard_links() {
    let first = place::seed();
    let seeds = place::number("RINGSYNC_SIM_SEEDS", 50u64);
    let mut failed = Vec::new();
    for (seed, watcher) in (first..first + seeds).flat_map(|seed| [(seed, Watcher::Fanotify), (seed, Watcher::Inotify)]) {
        let differences = run_unlinked(seed, watcher);
        if !differences.is_empty() {
            println!("RINGSYNC_SEED={seed} RINGSYNC_SIM_SEEDS=1, {watcher:?}: {differences:#?}");
            failed.push(seed);
        }
    }
    assert!(failed.is_empty(), "{} of {seeds} seeds fail: {failed:?}", failed.len());
}
