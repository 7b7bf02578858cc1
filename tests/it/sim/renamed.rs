//! Files that are written through a name that is another one when it is looked at. Length and time say nothing: the time is set back.

use super::quiet::mirrored;
use super::*;

/// Writes other content of the same length through a name, and sets the time back.
fn write(sim: &mut Sim, dir: u64, name: &[u8]) {
    let file = sim.source.entries(dir)[name];
    let time = sim.source.nodes[&file].meta.mtime;
    sim.source.write(dir, name, b"X".to_vec(), false);
    sim.source.change_meta(dir, name, |meta| meta.mtime = time);
}

/// Plays it on the file `d/x` of a mirrored source with the directory `d/e`, and compares when it rests.
fn check(play: impl Fn(&mut Sim, u64, u64)) {
    for (seed, watcher) in (0..100).flat_map(|seed| [(seed, Watcher::Fanotify), (seed, Watcher::Inotify)]) {
        let mut sim = mirrored(seed, watcher);
        sim.source.in_order = watcher == Watcher::Inotify;
        let d = sim.source.entries(sim.source.dirs()[0])[&b"d"[..]];
        let e = sim.source.entries(d)[&b"e"[..]];
        play(&mut sim, d, e);
        assert!(sim.rest());
        assert_eq!(sim.differences(), [""; 0], "seed {seed}, {watcher:?}");
    }
}

#[test]
fn a_name_that_nobody_saw_is_written_through_and_renamed() {
    check(|sim, d, e| {
        let x = sim.source.entries(d)[&b"x"[..]];
        sim.source.link(d, b"link", x);
        write(sim, d, b"link");
        sim.source.rename(d, b"link", e, b"there");
        sim.source.rename(e, b"there", e, b"z");
    });
}

#[test]
fn a_file_goes_over_a_name_that_nobody_saw() {
    check(|sim, d, e| {
        sim.source.rename(d, b"x", d, b"new");
        write(sim, d, b"new");
        sim.source.rename(d, b"new", e, b"z");
    });
}

#[test]
fn what_was_written_is_gone_from_its_name_and_another_is_there() {
    check(|sim, d, e| {
        sim.source.rename(d, b"x", d, b"new");
        write(sim, d, b"new");
        sim.source.rename(d, b"new", e, b"z");
        sim.source.rename(d, b"y", d, b"new");
    });
}

/// A file gets another name, or another name beside its own, is written through it, and that is exchanged for a file that is known.
#[test]
fn what_was_written_through_a_new_name_is_exchanged() {
    check(|sim, d, e| {
        let x = sim.source.entries(d)[&b"x"[..]];
        sim.source.link(d, b"link", x);
        write(sim, d, b"link");
        sim.source.exchange(d, b"link", e, b"f");
    });
    check(|sim, d, e| {
        sim.source.rename(d, b"x", d, b"new");
        write(sim, d, b"new");
        sim.source.exchange(d, b"new", e, b"f");
    });
    check(|sim, d, e| {
        let x = sim.source.entries(d)[&b"x"[..]];
        sim.source.link(d, b"link", x);
        write(sim, d, b"link");
        sim.source.rename(d, b"link", e, b"f");
        sim.source.exchange(e, b"f", d, b"y");
    });
}

/// Nobody watches the directory yet, and nobody tells that something came there.
#[test]
fn what_was_written_through_a_new_name_goes_into_a_new_directory() {
    check(|sim, d, _| {
        sim.source.rename(d, b"x", d, b"tmp");
        write(sim, d, b"tmp");
        let new = sim.source.create(d, b"new", Body::Dir(BTreeMap::new()), Kind::Dir, 0o755).unwrap();
        sim.source.rename(d, b"tmp", new, b"x");
    });
    check(|sim, d, _| {
        let x = sim.source.entries(d)[&b"x"[..]];
        sim.source.link(d, b"link", x);
        write(sim, d, b"link");
        let new = sim.source.create(d, b"new", Body::Dir(BTreeMap::new()), Kind::Dir, 0o755).unwrap();
        sim.source.rename(d, b"link", new, b"x");
    });
}
