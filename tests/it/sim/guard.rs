//! Deletions that are held: which, until when, and that everything else goes on meanwhile.

use ringsync::model::options::MaxDelete;
use ringsync::plan::{GuardNews, HoldCause};

use super::*;
use crate::memtarget::Act;

const WATCHERS: [Watcher; 2] = [Watcher::Fanotify, Watcher::Inotify];

pub(super) fn setting(watcher: Watcher, seed: u64, max_delete: Option<MaxDelete>) -> (Sim, u64) {
    let mut sim = Sim::new(seed, watcher);
    *sim.calm.lock().unwrap() = true;
    sim.filter = Arc::default();
    sim.stays = HashSet::new();
    sim.target = MemTarget::new();
    sim.planner = Planner::new(Options { max_delete, ..Options::mirror() }, sim.filter.clone(), seed);
    sim.approves = false;
    let root = sim.source.dirs()[0];
    for name in [b"a", b"b"] {
        let dir = directory(&mut sim, root, name);
        for n in 0..10 {
            file(&mut sim, dir, n);
        }
    }
    sim.connect();
    assert!(sim.rest());
    assert_eq!(sim.differences(), [""; 0]);
    (sim, root)
}

fn directory(sim: &mut Sim, at: u64, name: &[u8]) -> u64 {
    sim.source.create(at, name, Body::Dir(BTreeMap::new()), Kind::Dir, 0o755).unwrap()
}

fn file(sim: &mut Sim, at: u64, number: usize) {
    sim.source.create(at, format!("f{number}").as_bytes(), Body::File(Arc::new(vec![7; number])), Kind::File, 0o644);
}

fn mirrored(sim: &Sim) -> usize {
    sim.target.snapshot().len() - 1
}

#[test]
fn a_root_emptied_at_once_is_held_until_all_is_back() {
    for (watcher, seed) in WATCHERS.iter().flat_map(|w| (0..20).map(move |seed| (*w, seed))) {
        let (mut sim, root) = setting(watcher, seed, None);
        sim.source.remove(root, b"a");
        sim.source.remove(root, b"b");
        assert!(sim.rest());
        let held = sim.planner.deletions_held(10).unwrap_or_else(|| panic!("{watcher:?} {seed}: an emptied root is held"));
        assert_eq!((held.cause, held.count as usize), (HoldCause::Emptied, mirrored(&sim)), "{watcher:?} {seed}");
        assert!(matches!(sim.planner.take_guard_news()[..], [GuardNews::Held(HoldCause::Emptied, _)]), "said once");
        // What is held is not looked at again and again.
        let before = sim.cycles;
        assert!(sim.rest());
        assert_eq!(sim.cycles, before);
        // Somebody begins to restore it: what is not there yet stays held.
        let dir = directory(&mut sim, root, b"a");
        file(&mut sim, dir, 3);
        assert!(sim.rest());
        let held = sim.planner.deletions_held(0).unwrap_or_else(|| panic!("{watcher:?} {seed}: not all is back"));
        assert_eq!(sim.differences().len(), held.count as usize, "{watcher:?} {seed}: {:#?}", sim.differences());
        let all = mirrored(&sim);
        for n in 0..10 {
            file(&mut sim, dir, n);
        }
        let dir = directory(&mut sim, root, b"b");
        for n in 0..9 {
            file(&mut sim, dir, n);
        }
        assert!(sim.rest());
        assert!(mirrored(&sim) >= all.max(21), "{watcher:?} {seed}: {}", mirrored(&sim));
        match sim.planner.deletions_held(10) {
            // The last one, or none where it had been deleted before all was held.
            Some(held) => assert_eq!((held.count, sim.differences()), (1, vec!["b/f9: extra".to_owned()]), "{watcher:?} {seed}"),
            None => assert_eq!(sim.differences(), [""; 0], "{watcher:?} {seed}"),
        }
        sim.planner.approve();
        assert!(sim.rest());
        assert_eq!((sim.differences(), sim.planner.deletions_held(0)), (vec![], None), "{watcher:?} {seed}");
    }
}

#[test]
fn a_root_that_is_empty_at_the_first_look_is_held_until_that_is_approved() {
    for (watcher, seed) in WATCHERS.iter().flat_map(|w| (0..10).map(move |seed| (*w, seed))) {
        let (mut sim, root) = setting(watcher, seed, None);
        sim.source.remove(root, b"a");
        sim.source.remove(root, b"b");
        sim.connect();
        assert!(sim.rest());
        let held = sim.planner.deletions_held(10).expect("an empty root is held");
        assert_eq!((held.cause, held.count, held.paths.len(), mirrored(&sim)), (HoldCause::Emptied, 22, 2, 22));
        // Another session knows of it.
        let hold = sim.planner.hold().unwrap();
        sim.connect();
        sim.planner.resume_hold(hold, 0);
        assert!(sim.rest());
        assert_eq!(mirrored(&sim), 22);
        assert_eq!(sim.planner.approve(), 22);
        assert!(sim.rest());
        assert_eq!((sim.differences(), sim.planner.deletions_held(0)), (vec![], None), "{watcher:?} {seed}");
    }
}

/// What cannot be deleted is tried again and again.
#[test]
fn another_try_is_no_further_deletion() {
    for (watcher, seed) in WATCHERS.iter().flat_map(|w| (0..10).map(move |seed| (*w, seed))) {
        let (mut sim, root) = setting(watcher, seed, Some(MaxDelete::Entries(12)));
        sim.target.set_fault(Some(Box::new(|act| {
            let fails = matches!(act, Act::Op(Op::Unlink { at }) if at.name.as_bytes() == b"f1");
            fails.then_some(libc::EPERM)
        })));
        sim.source.remove(root, b"b");
        let tries = |sim: &Sim| sim.planner.failures(1).first().map_or(0, |failing| failing.tries);
        for _ in 0..200_000 {
            if tries(&sim) > 3 {
                break;
            }
            sim.step();
        }
        assert!(tries(&sim) > 3, "{watcher:?} {seed}");
        assert_eq!(sim.planner.deletions_held(0), None, "{watcher:?} {seed}: 11 are allowed");
        sim.target.set_fault(None);
        assert!(sim.rest());
        assert_eq!((sim.differences(), sim.planner.deletions_held(0)), (vec![], None), "{watcher:?} {seed}");
    }
}

#[test]
fn too_many_deletions_are_held_and_everything_else_goes_on() {
    for (watcher, seed, most) in WATCHERS
        .iter()
        .flat_map(|w| (0..10).flat_map(move |seed| [MaxDelete::Entries(12), MaxDelete::Percent(55)].map(|most| (*w, seed, most))))
    {
        let what = format!("{watcher:?} {seed} {most:?}");
        let (mut sim, root) = setting(watcher, seed, Some(most));
        sim.source.remove(root, b"a");
        assert!(sim.rest());
        assert_eq!((sim.differences(), sim.planner.deletions_held(0)), (vec![], None), "{what}: 11 are allowed");
        let b = sim.source.entries(root)[&b"b"[..]];
        sim.source.remove(b, b"f1");
        sim.source.remove(b, b"f2");
        sim.source.remove(b, b"f3");
        let c = directory(&mut sim, root, b"c");
        file(&mut sim, c, 1);
        sim.source.rename(root, b"b", c, b"b");
        assert!(sim.rest());
        let held = sim.planner.deletions_held(10).unwrap_or_else(|| panic!("{what}: a third one is too much"));
        assert_eq!(held.cause, HoldCause::MaxDelete, "{what}");
        let differences = sim.differences();
        assert!(differences.len() == held.count as usize && differences.iter().all(|d| d.ends_with(": extra")), "{what}: {differences:?}");
        // Time does not make it better; nor does a new session.
        sim.source.now_ns += 1_000_000_000_000;
        assert!(sim.rest());
        assert_eq!(sim.planner.deletions_held(0).map(|h| h.count), Some(held.count), "{what}");
        sim.planner.approve();
        assert!(sim.rest());
        assert_eq!((sim.differences(), sim.planner.deletions_held(0)), (vec![], None), "{what}");
    }
}

#[test]
fn what_comes_back_ends_it() {
    for (watcher, seed) in WATCHERS.iter().flat_map(|w| (0..20).map(move |seed| (*w, seed))) {
        let (mut sim, root) = setting(watcher, seed, Some(MaxDelete::Entries(3)));
        sim.source.remove(root, b"a");
        assert!(sim.rest());
        let held = sim.planner.deletions_held(10).expect("it is held").count;
        assert!(held > 3);
        let a = directory(&mut sim, root, b"a");
        for n in 0..8 {
            file(&mut sim, a, n);
        }
        assert!(sim.rest());
        assert_eq!((sim.differences(), sim.planner.deletions_held(0)), (vec![], None), "{watcher:?} {seed}");
    }
}

#[test]
fn a_burst_is_over_after_its_time() {
    let (mut sim, root) = setting(Watcher::Fanotify, 1, Some(MaxDelete::Entries(3)));
    let a = sim.source.entries(root)[&b"a"[..]];
    for n in 0..9 {
        sim.source.remove(a, format!("f{n}").as_bytes());
        if n % 3 == 2 {
            assert!(sim.rest());
            assert_eq!((sim.differences(), sim.planner.deletions_held(0)), (vec![], None), "{n}");
            sim.source.now_ns += 61_000_000_000;
        }
    }
}

/// Something else takes the place of a directory: that deletes all that is in it.
#[test]
fn a_directory_that_is_replaced_counts_with_all_it_holds() {
    for watcher in WATCHERS {
        let (mut sim, root) = setting(watcher, 5, Some(MaxDelete::Entries(5)));
        sim.source.remove(root, b"a");
        sim.source.create(root, b"a", Body::Symlink(b"elsewhere".to_vec()), Kind::Symlink, 0o777);
        assert!(sim.rest());
        assert_eq!(mirrored(&sim), 22, "{watcher:?}");
        sim.planner.approve();
        assert!(sim.rest());
        assert_eq!(sim.differences(), [""; 0], "{watcher:?}");
    }
}

/// A rename is no deletion, however much is renamed.
#[test]
fn renames_are_not_held() {
    for watcher in WATCHERS {
        let (mut sim, root) = setting(watcher, 6, Some(MaxDelete::Entries(0)));
        sim.source.rename(root, b"a", root, b"z");
        assert!(sim.rest());
        assert_eq!((sim.differences(), sim.planner.deletions_held(0)), (vec![], None), "{watcher:?}");
    }
}

/// What takes the place of a directory by being renamed deletes what was in it, and stays where it is if that is held.
#[test]
fn a_directory_that_another_is_renamed_over_counts_with_all_it_holds() {
    for (watcher, name) in WATCHERS.iter().flat_map(|w| [&b"b"[..], b"f"].map(|name| (*w, name))) {
        let what = format!("{watcher:?} {}", name.escape_ascii());
        let (mut sim, root) = setting(watcher, 7, Some(MaxDelete::Entries(5)));
        sim.source.create(root, b"f", Body::File(Arc::new(vec![1; 9])), Kind::File, 0o644);
        assert!(sim.rest());
        let before = mirrored(&sim);
        // One moment: nothing is looked at between.
        sim.source.remove(root, b"a");
        sim.source.rename(root, name, root, b"a");
        assert!(sim.rest());
        let held = sim.planner.deletions_held(10).unwrap_or_else(|| panic!("{what}: eleven are too many"));
        assert_eq!((mirrored(&sim), held.cause), (before, HoldCause::MaxDelete), "{what}");
        sim.planner.approve();
        assert!(sim.rest());
        assert_eq!((sim.differences(), sim.planner.deletions_held(0)), (vec![], None), "{what}");
    }
}

/// Two names of one object that are held are not looked at for each other's sake again and again.
#[test]
fn held_hard_links_come_to_rest() {
    for watcher in WATCHERS {
        let (mut sim, root) = setting(watcher, 8, Some(MaxDelete::Entries(0)));
        sim.source.create(root, b"x", Body::File(Arc::new(vec![1; 9])), Kind::File, 0o644);
        let id = sim.source.entries(root)[&b"x"[..]];
        for name in [&b"y"[..], b"z"] {
            sim.source.link(root, name, id);
        }
        assert!(sim.rest());
        for name in [&b"x"[..], b"y"] {
            sim.source.remove(root, name);
            assert!(sim.rest(), "{watcher:?}");
        }
        sim.source.change_meta(root, b"z", |meta| meta.mode = 0o600);
        assert!(sim.rest(), "{watcher:?}");
        assert_eq!(sim.planner.deletions_held(0).map(|held| held.count), Some(2), "{watcher:?}");
        sim.planner.approve();
        assert!(sim.rest());
        assert_eq!((sim.differences(), sim.planner.deletions_held(0)), (vec![], None), "{watcher:?}");
    }
}

/// A file that is held is overwritten by what comes to its name, and that is followed.
#[test]
fn what_comes_to_a_held_name_is_followed() {
    for watcher in WATCHERS {
        let (mut sim, root) = setting(watcher, 9, Some(MaxDelete::Entries(0)));
        let a = sim.source.entries(root)[&b"a"[..]];
        sim.source.remove(a, b"f1");
        assert!(sim.rest());
        assert_eq!(sim.planner.deletions_held(0).map(|held| held.count), Some(1), "{watcher:?}");
        let dir = directory(&mut sim, a, b"f1");
        file(&mut sim, dir, 3);
        assert!(sim.rest());
        assert_eq!((sim.differences(), sim.planner.deletions_held(0)), (vec![], None), "{watcher:?}");
        file(&mut sim, dir, 4);
        assert!(sim.rest());
        assert_eq!(sim.differences(), [""; 0], "{watcher:?}");
    }
}
