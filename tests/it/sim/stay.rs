//! Directories that are renamed to a name where the mirror's directory has to stay, for what it holds is not to be deleted: that becomes the directory that came there.

use ringsync::model::options::MaxDelete;
use ringsync::model::path::{Name, RelPath};

use super::guard::setting;
use super::*;

const WATCHERS: [Watcher; 2] = [Watcher::Fanotify, Watcher::Inotify];

/// The directories `a` and `b`, mirrored, in each of which the mirror has a file more, which the rule excludes.
fn excluded(watcher: Watcher, seed: u64, rule: &[u8]) -> (Sim, u64) {
    let (mut sim, root) = setting(watcher, seed, None);
    let mut filter = Filter::default();
    filter.push_exclude(rule).unwrap();
    sim.filter = Arc::new(filter);
    for dir in [&b"a"[..], b"b"] {
        let at = Spot { dir: RelPath::new(dir).unwrap(), name: Name::new(b"kept").unwrap().to_owned() };
        let meta = Meta { kind: Kind::File, mode: 0o600, uid: 0, gid: 0, mtime: Time { sec: 1, nsec: 0 }, size: 1, rdev: 0, attrs: 0 };
        sim.target.put(&at, &meta, b"k").unwrap();
        sim.stays.insert([dir, b"/kept"].concat());
    }
    sim.planner = Planner::new(Options::mirror(), sim.filter.clone(), seed);
    sim.connect();
    assert!(sim.rest());
    assert_eq!(sim.differences(), [""; 0]);
    (sim, root)
}

fn add(sim: &mut Sim, dir: u64, name: &[u8]) {
    sim.source.create(dir, name, Body::File(Arc::new(name.to_vec())), Kind::File, 0o644).unwrap();
}

/// Neither of two that are exchanged can get out of the way.
#[test]
fn two_directories_that_stay_are_exchanged() {
    for (watcher, seed) in WATCHERS.iter().flat_map(|w| (0..20).map(move |seed| (*w, seed))) {
        for rule in [&b"kept"[..], b"/*/kept"] {
            let (mut sim, root) = excluded(watcher, seed, rule);
            let a = sim.source.entries(root)[&b"a"[..]];
            add(&mut sim, a, b"x");
            assert!(sim.rest());
            sim.source.exchange(root, b"a", root, b"b");
            assert!(sim.rest(), "{watcher:?} {seed}");
            assert_eq!((sim.differences(), sim.planner.failing()), (vec![], 0), "{watcher:?} {seed}");
            add(&mut sim, a, b"y");
            assert!(sim.rest());
            assert_eq!(sim.differences(), [""; 0], "{watcher:?} {seed}");
        }
    }
}

/// The same with something in each of them whose deletion is held.
#[test]
fn two_directories_in_which_something_is_held_are_exchanged() {
    for (watcher, seed) in WATCHERS.iter().flat_map(|w| (0..20).map(move |seed| (*w, seed))) {
        let (mut sim, root) = setting(watcher, seed, Some(MaxDelete::Entries(0)));
        let [a, b] = [&b"a"[..], b"b"].map(|name| sim.source.entries(root)[name]);
        sim.source.remove(a, b"f1");
        sim.source.remove(b, b"f1");
        assert!(sim.rest());
        sim.source.exchange(root, b"a", root, b"b");
        add(&mut sim, a, b"x");
        assert!(sim.rest(), "{watcher:?} {seed}");
        assert!(sim.differences().iter().all(|what| what.ends_with(": extra")), "{watcher:?} {seed}: {:#?}", sim.differences());
        sim.planner.approve();
        assert!(sim.rest());
        assert_eq!((sim.differences(), sim.planner.deletions_held(0)), (vec![], None), "{watcher:?} {seed}");
    }
}

/// One goes to a new name, or to that of one which was removed and stays, and another is made at its own. A rule that looks at paths might say something else of what is in
/// it elsewhere: it is copied.
#[test]
fn a_directory_is_made_where_one_stays() {
    for (watcher, seed) in WATCHERS.iter().flat_map(|w| (0..20).map(move |seed| (*w, seed))) {
        for (rule, name) in [(&b"/*/kept"[..], &b"c"[..]), (b"/*/kept", b"b"), (b"kept", b"b")] {
            let what = format!("{watcher:?} {seed} {} {}", rule.escape_ascii(), name.escape_ascii());
            let (mut sim, root) = excluded(watcher, seed, rule);
            sim.source.remove(root, name);
            sim.source.rename(root, b"a", root, name);
            let new = sim.source.create(root, b"a", Body::Dir(BTreeMap::new()), Kind::Dir, 0o755).unwrap();
            add(&mut sim, new, b"x");
            assert!(sim.rest(), "{what}");
            assert_eq!((sim.differences(), sim.planner.failing()), (vec![], 0), "{what}");
            add(&mut sim, new, b"y");
            assert!(sim.rest());
            assert_eq!(sim.differences(), [""; 0], "{what}");
        }
    }
}
