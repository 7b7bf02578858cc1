//! A directory that comes with what is in it, of which no event tells.

use ringsync::model::probe::Ask;

use super::distrust::{begin_anew, deny_removal, each, each_of, settled, step_unacknowledged};
use super::*;

/// Another directory comes from out of sight to where `d/e` was, with a file `f` of equal length and time: nothing is told of that.
fn replace(sim: &mut Sim, root: u64, d: u64) {
    let e = sim.source.entries(d)[&b"e"[..]];
    let time = sim.source.nodes[&sim.source.entries(e)[&b"f"[..]]].meta.mtime;
    sim.hear();
    let other = sim.source.create(root, b"other", Body::Dir(BTreeMap::new()), Kind::Dir, 0o755).unwrap();
    sim.source.create(other, b"f", Body::File(Arc::new(b"Q".to_vec())), Kind::File, 0o644).unwrap();
    sim.source.change_meta(other, b"f", |meta| meta.mtime = time);
    while sim.source.has_events() {
        sim.source.read_events(&mut Rng::new(1), |_| {});
    }
    sim.source.move_out(d, b"e");
    sim.source.rename(root, b"other", d, b"e");
    sim.hear();
}

fn lists_e(sim: &Sim) -> Option<usize> {
    sim.probes.iter().position(|probe| matches!(probe.ask, Ask::List) && probe.dir.as_bytes() == b"d/e")
}

/// It is being listed when a manifest is wanted, and what is in it is seen after that, or before and no cycle is made of it.
#[test]
fn a_directory_that_comes_while_a_manifest_is_wanted_is_sent() {
    for is_seen in [false, true] {
        each_of(60, &format!("a directory that comes, seen first: {is_seen}"), |seed, watcher| {
            let (mut sim, root, d) = settled(seed, watcher);
            deny_removal(&mut sim, d);
            sim.source.create(d, b"new", Body::Dir(BTreeMap::new()), Kind::Dir, 0o755).unwrap();
            replace(&mut sim, root, d);
            for _ in 0..500 {
                if lists_e(&sim).is_some() {
                    break;
                }
                step_unacknowledged(&mut sim);
            }
            let at = lists_e(&sim)?;
            let now = sim.source.now_ns;
            if is_seen {
                let probe = sim.probes.swap_remove(at);
                let (outcome, mut actions) = (sim.source.answer(&probe), Vec::new());
                sim.planner.probed(Probed { id: probe.id, outcome }, now, &mut actions);
                sim.act(actions);
                // The round waits for the other one.
                sim.probes.first()?;
            }
            sim.acknowledge(now);
            assert!(sim.rest());
            Some(sim.differences())
        });
    }
}

/// Only the manifest tells what the mirror has in the one that was there.
#[test]
fn a_directory_that_comes_before_the_one_that_was_there_is_listed_is_sent() {
    each("a directory that comes after a manifest", |seed, watcher| {
        let (mut sim, root, d) = settled(seed, watcher);
        sim.lose_session();
        begin_anew(&mut sim);
        for _ in 0..5000 {
            if lists_e(&sim).is_some() {
                break;
            }
            sim.step();
        }
        lists_e(&sim)?;
        replace(&mut sim, root, d);
        assert!(sim.rest());
        Some(sim.differences())
    });
}
