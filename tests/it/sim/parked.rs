//! What is parked between cycles: it goes when nobody misses it, and not before.

use ringsync::model::path::Name;
use ringsync::plan::HoldCause;

use super::quiet::mirrored;
use super::*;
use crate::memtarget::Act;

fn spot(dir: &[u8], name: &[u8]) -> Spot {
    Spot { dir: RelPath::new(dir).unwrap(), name: Name::new(name).unwrap().to_owned() }
}

/// How many parked entries the mirror tells of.
fn parked(sim: &mut Sim) -> usize {
    let mut count = 0;
    let mut see = |listed| count += usize::from(matches!(listed, Listed::Entry(entry) if entry.name.as_name().is_parked()));
    sim.target.list(&RelPath::root(), &mut see).unwrap();
    count
}

/// Lets time pass, but not so much that everything is tried again.
fn go_on(sim: &mut Sim, steps: usize) {
    for _ in 0..steps {
        sim.step();
        if let Some(at) = sim.planner.next_at().filter(|_| sim.planner.is_idle()) {
            sim.source.now_ns = sim.source.now_ns.max(at.min(sim.source.now_ns + 1_000_000_000));
        }
    }
}

/// An earlier session left it in a directory that the first manifest could not list, and nothing can be written.
#[test]
fn what_an_earlier_session_left_is_known_by_no_manifest() {
    for seed in 0..20 {
        let mut sim = mirrored(seed, Watcher::Fanotify);
        for (name, id) in [(b"e", 900), (b"y", 901)] {
            sim.target.op(&Op::Park { from: spot(b"d", name), id }).unwrap();
        }
        let mut lists = 0;
        sim.target.set_fault(Some(Box::new(move |act| match act {
            Act::Op(Op::Mkdir { .. }) | Act::Put(_) => Some(libc::ENOSPC),
            Act::List(dir) if dir.as_bytes() == b"d" => {
                lists += 1;
                (lists == 1).then_some(libc::EIO)
            }
            _ => None,
        })));
        sim.planner = Planner::new(Options::mirror(), sim.filter.clone(), 1);
        sim.connect();
        go_on(&mut sim, 3000);
        assert!(sim.planner.failing() > 0, "seed {seed}");
        assert_eq!(parked(&mut sim), 2, "seed {seed}: while something fails");
        sim.target.set_fault(None);
        assert!(sim.rest());
        assert_eq!((sim.differences(), parked(&mut sim)), (vec![], 0), "seed {seed}");
    }
}

/// An exchange failed, and the source is emptied before its manifest comes: what goes from the root waits to be judged, and so does what is parked.
#[test]
fn what_is_parked_stays_with_what_is_held() {
    let mut held = 0;
    for seed in 0..20 {
        let (mut sim, root) = guard::setting(Watcher::Fanotify, seed, None);
        let mut moves = 0;
        sim.target.set_fault(Some(Box::new(move |act| match act {
            Act::Op(Op::Move { .. }) => {
                moves += 1;
                (moves <= 2).then_some(libc::EPERM)
            }
            _ => None,
        })));
        sim.source.exchange(root, b"a", root, b"b");
        sim.next_list();
        let before = parked(&mut sim);
        sim.source.remove(root, b"a");
        sim.source.remove(root, b"b");
        assert!(sim.rest());
        if sim.planner.deletions_held(0).is_some_and(|held| held.cause == HoldCause::Emptied) {
            held += 1;
            assert_eq!(parked(&mut sim), before, "seed {seed}");
        }
        sim.planner.approve();
        assert!(sim.rest());
        assert_eq!((sim.differences(), parked(&mut sim)), (vec![], 0), "seed {seed}");
    }
    assert!(held > 10, "{held} of 20");
}

/// What cannot be listed is tried after 1, 2, 4 seconds.
#[test]
fn a_parked_directory_that_cannot_be_listed_waits_with_back_off() {
    for seed in 0..4 {
        let mut sim = mirrored(seed, Watcher::Fanotify);
        sim.target.op(&Op::Park { from: spot(b"d", b"e"), id: 900 }).unwrap();
        let lists = Arc::new(Mutex::new(0));
        let counted = lists.clone();
        sim.target.set_fault(Some(Box::new(move |act| match act {
            Act::List(dir) if dir.as_bytes().starts_with(b"d/.") => {
                *counted.lock().unwrap() += 1;
                Some(libc::EIO)
            }
            _ => None,
        })));
        sim.planner = Planner::new(Options::mirror(), sim.filter.clone(), 1);
        sim.connect();
        let end = sim.source.now_ns + 120_000_000_000;
        while sim.source.now_ns < end {
            go_on(&mut sim, 1);
        }
        let lists = *lists.lock().unwrap();
        assert!((5..9).contains(&lists), "seed {seed}: {lists} times in two minutes");
    }
}
