//! Nothing is sent where nothing differs: after a reconnect, and after a manifest of a part that was asked for in vain.

use ringsync::limits::INLINE_FILE_BYTES_MAX;
use ringsync::model::op::Section;

use super::*;
use crate::memtarget::Act;

impl Sim {
    /// Goes on until a manifest is asked for, and says of which directory.
    pub(super) fn next_list(&mut self) -> String {
        loop {
            self.step();
            if let Some(dir) = self.sent.iter().find_map(|sent| if let Sent::List(dir) = sent { Some(dir.to_string()) } else { None }) {
                return dir;
            }
        }
    }

    /// Another run over an equal mirror, as far as length and time tell; what it sends that it should not.
    pub(super) fn reconnect(&mut self) -> Option<String> {
        let before = self.cycles;
        self.planner = Planner::new(Options { hard_links: self.links, ..Options::mirror() }, self.filter.clone(), 1);
        self.connect();
        if !self.rest() {
            return Some("does not come to rest after a reconnect".into());
        }
        (self.cycles != before).then(|| format!("{} cycles after a reconnect over an equal mirror", self.cycles - before))
    }
}

/// A directory `d` with the entries `x`, `y` and `e/f`, mirrored; nothing fails.
pub(super) fn mirrored(seed: u64, watcher: Watcher) -> Sim {
    let mut sim = Sim::new(seed, watcher);
    *sim.calm.lock().unwrap() = true;
    let root = sim.source.dirs()[0];
    let directory = |sim: &mut Sim, at, name: &[u8]| sim.source.create(at, name, Body::Dir(BTreeMap::new()), Kind::Dir, 0o755).unwrap();
    let d = directory(&mut sim, root, b"d");
    let e = directory(&mut sim, d, b"e");
    for (at, name) in [(d, b"x"), (d, b"y"), (e, b"f")] {
        sim.source.create(at, name, Body::File(Arc::new(name.to_vec())), Kind::File, 0o644).unwrap();
    }
    // The clock moves on, so that nothing is in doubt.
    sim.source.now_ns += 3 * TICK_NS;
    sim.connect();
    assert!(sim.rest());
    assert_eq!(sim.differences(), [""; 0]);
    sim
}

/// The receiver says that it could not do what it did, and the planner asks for the manifest of the directory: it tells that all is well.
#[test]
fn a_manifest_of_a_part_that_is_equal_is_followed_by_nothing() {
    for (seed, watcher) in (0..20).flat_map(|seed| [(seed, Watcher::Fanotify), (seed, Watcher::Inotify)]) {
        let mut sim = mirrored(seed, watcher);
        let root = sim.source.dirs()[0];
        let d = sim.source.entries(root)[&b"d"[..]];
        sim.source.remove(d, b"x");
        // The receiver's report on the cycle that removes the file: of its operation, which is the first one.
        let mut under = None;
        while sim.acks.is_empty() {
            if let Some(Sent::Cycle(u)) = sim.sent.front() {
                under = Some(u.cycle.clone());
            }
            sim.step();
        }
        assert!(matches!(under.unwrap().post[..], [Op::Unlink { .. }, Op::DirMeta { .. }]), "seed {seed}");
        sim.acks[0].1.push(OpError { section: Section::Post, index: 0, errno: libc::EISDIR });
        assert_eq!(sim.next_list(), "d", "seed {seed}");
        let before = sim.cycles;
        assert!(sim.rest());
        assert_eq!((sim.differences(), sim.cycles - before), (vec![], 0), "seed {seed}, {watcher:?}");
    }
}

/// What was moved, to a directory that was there or to one that was just made, is moved in the mirror, and not sent again.
#[test]
fn what_is_moved_is_not_sent_again() {
    for (seed, watcher) in (0..40).flat_map(|seed| [(seed, Watcher::Fanotify), (seed, Watcher::Inotify)]) {
        let mut sim = mirrored(seed, watcher);
        let root = sim.source.dirs()[0];
        let d = sim.source.entries(root)[&b"d"[..]];
        let e = sim.source.entries(d)[&b"e"[..]];
        let before = sim.puts;
        sim.source.rename(d, b"x", e, b"z");
        let new = sim.source.create(d, b"new", Body::Dir(BTreeMap::new()), Kind::Dir, 0o755).unwrap();
        sim.source.rename(d, b"y", new, b"y");
        assert!(sim.rest());
        assert_eq!((sim.differences(), sim.puts - before), (vec![], 0), "seed {seed}, {watcher:?}");
    }
}

/// Something was written and renamed before, or written and removed: that says nothing of what is renamed later.
#[test]
fn what_is_renamed_after_something_was_written_is_not_sent_again() {
    let new = |sim: &mut Sim, d: u64, text: &[u8]| sim.source.create(d, b"tmp", Body::File(Arc::new(text.to_vec())), Kind::File, 0o644);
    let saves = |sim: &mut Sim, d: u64| {
        new(sim, d, b"saved");
        sim.source.rename(d, b"tmp", d, b"y");
    };
    let removes = |sim: &mut Sim, d: u64| {
        new(sim, d, b"first");
        sim.source.remove(d, b"tmp");
        assert!(sim.rest());
        new(sim, d, b"second");
    };
    let rotates = |sim: &mut Sim, d: u64| {
        for text in [b"one", b"two"] {
            sim.source.write(d, b"x", text.to_vec(), true);
            sim.source.rename(d, b"x.1", d, b"x.2");
            sim.source.rename(d, b"x", d, b"x.1");
            sim.source.create(d, b"x", Body::File(Arc::new(b"new".to_vec())), Kind::File, 0o644);
            assert!(sim.rest());
        }
    };
    type Before<'a> = &'a dyn Fn(&mut Sim, u64);
    let befores: [(Before, &[u8]); 3] = [(&saves, b"x"), (&removes, b"tmp"), (&rotates, b"x")];
    for ((before, name), watcher) in befores.into_iter().flat_map(|before| [(before, Watcher::Fanotify), (before, Watcher::Inotify)]) {
        let mut sent = 0;
        for seed in 0..100 {
            let mut sim = mirrored(seed, watcher);
            sim.source.in_order = watcher == Watcher::Inotify;
            let d = sim.source.entries(sim.source.dirs()[0])[&b"d"[..]];
            let e = sim.source.entries(d)[&b"e"[..]];
            before(&mut sim, d);
            sim.source.now_ns += 1000 * TICK_NS;
            assert!(sim.rest());
            let puts = sim.puts;
            sim.source.rename(d, name, e, b"z");
            assert!(sim.rest());
            assert_eq!(sim.differences(), [""; 0], "seed {seed}, {watcher:?}, {name:?}");
            sent += sim.puts - puts;
        }
        // What was read within the grain of the clock that it was made in may be another file by now.
        assert!(sent < 15, "{sent} of 100 sent again, {watcher:?}, {name:?}");
    }
}

/// A log that is being written takes the place of an older one, which goes on to another name: the older one is moved, with either watcher.
#[test]
fn what_makes_place_for_a_file_that_was_written_is_not_sent_again() {
    let sent = [Watcher::Fanotify, Watcher::Inotify].map(|watcher| {
        let mut sent = 0;
        for seed in 0..100 {
            let mut sim = mirrored(seed, watcher);
            sim.source.in_order = watcher == Watcher::Inotify;
            let d = sim.source.entries(sim.source.dirs()[0])[&b"d"[..]];
            sim.source.now_ns += 1000 * TICK_NS;
            assert!(sim.rest());
            let puts = sim.puts;
            sim.source.write(d, b"x", b"line".to_vec(), false);
            sim.source.rename(d, b"y", d, b"y.1");
            sim.source.rename(d, b"x", d, b"y");
            sim.source.create(d, b"x", Body::File(Arc::new(b"new".to_vec())), Kind::File, 0o644);
            assert!(sim.rest());
            assert_eq!(sim.differences(), [""; 0], "seed {seed}, {watcher:?}");
            sent += sim.puts - puts;
        }
        sent
    });
    assert!(sent[1] <= sent[0] + 20, "{sent:?}");
}

/// An editor links a file to its backup's name and renames the new text over it: the source has a file at the name at every moment, and so has the mirror, however long the
/// new text is on its way.
#[test]
fn a_file_whose_backup_is_linked_and_then_replaced_is_there_all_the_time() {
    for (seed, watcher) in (0..40).flat_map(|seed| [(seed, Watcher::Fanotify), (seed, Watcher::Inotify)]) {
        for len in [100, INLINE_FILE_BYTES_MAX + 1] {
            let mut sim = mirrored(seed, watcher);
            let d = sim.source.entries(sim.source.dirs()[0])[&b"d"[..]];
            let (old, text) = (sim.source.entries(d)[&b"x"[..]], Arc::new(vec![b'n'; len]));
            // The new text may be mirrored under its first name before it is in its place.
            sim.source.create(d, b"new", Body::File(text), Kind::File, 0o644).unwrap();
            (0..seed).for_each(|_| sim.step());
            sim.source.link(d, b"x~", old);
            sim.source.rename(d, b"new", d, b"x");
            let told = format!("seed {seed}, {watcher:?}, {len} bytes");
            let is = |sim: &Sim, name: &[u8], len: usize| sim.target.snapshot().get(name).is_some_and(|seen| seen.content.len() == len);
            for steps in 0.. {
                assert!(steps < 400_000, "{told}: it never comes");
                let moves = |op: &Op| matches!(op, Op::Move { from, .. } | Op::Park { from, .. } if from.name.as_name().as_bytes() == b"x");
                let away = sim.sent.iter().any(|sent| matches!(sent, Sent::Cycle(under) if under.cycle.pre.iter().any(moves)));
                assert!(!away && sim.target.snapshot().contains_key(&b"d/x"[..]), "{told}: it is not there");
                if is(&sim, b"d/x", len) && is(&sim, b"d/x~", 1) {
                    break;
                }
                sim.step();
            }
            assert!(sim.rest());
            assert_eq!(sim.differences(), [""; 0], "{told}");
        }
    }
}

/// Two names become one new object, and the one that carries its content is gone before that is read: the other is not linked to what the mirror has there.
#[test]
fn a_name_is_not_linked_to_what_was_there_before() {
    let mut skipped = 0;
    for (seed, watcher) in (0..200).flat_map(|seed| [(seed, Watcher::Fanotify), (seed, Watcher::Inotify)]) {
        let mut sim = mirrored(seed, watcher);
        let d = sim.source.entries(sim.source.dirs()[0])[&b"d"[..]];
        let old = sim.target.snapshot();
        let new = sim.source.create(d, b"new", Body::File(Arc::new(b"new".to_vec())), Kind::File, 0o644).unwrap();
        for name in [b"x", b"y"] {
            sim.source.remove(d, name);
            sim.source.link(d, name, new);
        }
        sim.source.remove(d, b"new");
        let gone = (seed % 40) as usize;
        for steps in 0..2000 {
            if steps == gone {
                sim.source.remove(d, if seed % 2 == 0 { b"x" } else { b"y" });
            }
            sim.step();
            let now = sim.target.snapshot();
            for (name, other) in [(&b"d/x"[..], &b"d/y"[..]), (b"d/y", b"d/x")] {
                let wrong = now.get(name).is_some_and(|seen| seen.content == old[other].content);
                assert!(!wrong, "seed {seed}, {watcher:?}: a name has what another one had");
            }
        }
        skipped += sim.skipped;
        assert!(sim.rest());
        assert_eq!(sim.differences(), [""; 0], "seed {seed}, {watcher:?}");
    }
    assert!(skipped > 0, "it never came to that");
}

/// A directory that could not be listed at first may hold further names of objects that are known outside: what is no hard link any more is found.
#[test]
fn hard_links_into_a_directory_that_was_listed_later_are_known() {
    for (seed, watcher) in (0..20).flat_map(|seed| [(seed, Watcher::Fanotify), (seed, Watcher::Inotify)]) {
        let mut sim = mirrored(seed, watcher);
        let d = sim.source.entries(sim.source.dirs()[0])[&b"d"[..]];
        let (e, x) = (sim.source.entries(d)[&b"e"[..]], sim.source.entries(d)[&b"x"[..]]);
        sim.source.link(e, b"g", x);
        assert!(sim.rest());
        assert_eq!(sim.differences(), [""; 0], "seed {seed}, {watcher:?}");
        let time = sim.source.nodes[&x].meta.mtime;
        sim.lose_session();
        sim.source.remove(e, b"g");
        sim.source.create(e, b"g", Body::File(Arc::new(b"x".to_vec())), Kind::File, 0o644).unwrap();
        sim.source.change_meta(e, b"g", |meta| meta.mtime = time);
        sim.source.change_meta(d, b"x", |meta| meta.mode = 0o600);
        let mut left = 1;
        sim.target.set_fault(Some(Box::new(move |act| {
            let fails = left > 0 && matches!(act, Act::List(dir) if dir.as_bytes() == b"d/e");
            left -= i32::from(fails);
            fails.then_some(libc::EIO)
        })));
        // What the source has there is not known either: it would be sent whole, and be an object of its own.
        sim.source.set_shut(e, true);
        sim.connect();
        while sim.next_list() != "d/e" {
            sim.step();
        }
        assert!(sim.rest());
        assert_eq!(sim.differences(), [""; 0], "seed {seed}, {watcher:?}");
    }
}

/// A file is gone before it is read, and a directory has its name: what the mirror has there is a file or nothing, and no manifest is asked for.
#[test]
fn a_directory_at_the_name_of_a_file_that_was_not_sent_asks_for_no_manifest() {
    let mut unsent = 0;
    for (seed, watcher) in (0..100).flat_map(|seed| [(seed, Watcher::Fanotify), (seed, Watcher::Inotify)]) {
        let mut sim = mirrored(seed, watcher);
        let d = sim.source.entries(sim.source.dirs()[0])[&b"d"[..]];
        let before = sim.lists;
        sim.source.write(d, b"x", b"other".to_vec(), true);
        sim.source.create(d, b"new", Body::File(Arc::new(b"new".to_vec())), Kind::File, 0o644);
        while !sim.sent.iter().any(|sent| matches!(sent, Sent::Cycle(under) if !under.batches.is_empty())) {
            sim.step();
        }
        for name in [&b"x"[..], b"new"] {
            sim.source.remove(d, name);
            let dir = sim.source.create(d, name, Body::Dir(BTreeMap::new()), Kind::Dir, 0o755).unwrap();
            sim.source.create(dir, b"in", Body::File(Arc::new(b"in".to_vec())), Kind::File, 0o644);
        }
        let puts = sim.puts;
        assert!(sim.rest());
        assert_eq!((sim.differences(), sim.lists - before), (vec![], 0), "seed {seed}, {watcher:?}");
        unsent += usize::from(sim.puts - puts == 2);
    }
    assert!(unsent > 150, "{unsent} of 200");
}
