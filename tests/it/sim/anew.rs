//! A session that begins anew sends what is in doubt and nothing else: not what rests, nor what is excluded or kept.

use super::quiet::mirrored;
use super::*;

fn both(seeds: u64) -> impl Iterator<Item = (u64, Watcher)> {
    (0..seeds).flat_map(|seed| [(seed, Watcher::Fanotify), (seed, Watcher::Inotify)])
}

fn rest_long(sim: &mut Sim) {
    sim.source.now_ns += 1000 * TICK_NS;
    assert!(sim.rest());
    sim.source.now_ns += 1000 * TICK_NS;
}

fn begin_anew(sim: &mut Sim) {
    sim.lose_session();
    let mut actions = Vec::new();
    sim.planner.connected(ABILITIES, sim.source.now_ns, &mut actions);
    sim.act(actions);
}

/// Files that were made while the mirror was live rest, and a manifest is asked for: of a part, or of all by a receiver that was started anew.
#[test]
fn files_that_rest_are_not_sent_again() {
    for (seed, watcher) in both(20) {
        for is_anew in [false, true] {
            let mut sim = mirrored(seed, watcher);
            let d = sim.source.entries(sim.source.dirs()[0])[&b"d"[..]];
            for n in 0..40 {
                sim.source.create(d, format!("n{n}").as_bytes(), Body::File(Arc::new(vec![n; 9])), Kind::File, 0o644).unwrap();
                for _ in 0..40 {
                    sim.step();
                }
            }
            assert!(sim.rest());
            rest_long(&mut sim);
            let (puts, lists) = (sim.puts, sim.lists);
            if is_anew {
                begin_anew(&mut sim);
            } else {
                sim.source.remove(d, b"y");
                while sim.acks.is_empty() {
                    sim.step();
                }
                sim.acks[0].1.push(OpError { section: Section::Post, index: 0, errno: libc::EISDIR });
            }
            assert!(sim.rest());
            assert_eq!((sim.puts - puts, sim.lists - lists), (0, 1), "seed {seed}, {watcher:?}, anew: {is_anew}");
        }
    }
}

/// Other rules exclude `d`, in which something changes before they come, before there is a session with them, or in that.
#[test]
fn what_other_rules_exclude_is_not_sent() {
    for (seed, watcher) in both(20) {
        for when in 0..3 {
            let mut sim = mirrored(seed, watcher);
            sim.source.in_order = true;
            let d = sim.source.entries(sim.source.dirs()[0])[&b"d"[..]];
            rest_long(&mut sim);
            let mut filter = Filter::default();
            filter.push_exclude(b"d/").unwrap();
            let filter = Arc::new(filter);
            let write = |sim: &mut Sim, at: usize| {
                if at == when {
                    sim.source.write(d, b"x", b"changed".to_vec(), false);
                    sim.source.create(d, b"new", Body::File(Arc::new(b"new".to_vec())), Kind::File, 0o644);
                    sim.hear();
                }
            };
            write(&mut sim, 0);
            sim.lose_session();
            sim.filter = filter.clone();
            sim.planner.set_filter(filter);
            write(&mut sim, 1);
            begin_anew(&mut sim);
            while sim.planner.is_filling() {
                sim.receive();
            }
            write(&mut sim, 2);
            assert!(sim.rest());
            let there = sim.target.snapshot();
            assert!(!there.contains_key(&b"d/new"[..]) && there[&b"d/x"[..]].content == b"x", "seed {seed}, {watcher:?}, at {when}");
        }
    }
}

/// Nothing is deleted, and a file is written, or not, before its directory is removed: in a live mirror, without a connection, and while the manifest is on its way.
#[test]
fn a_removed_directory_that_is_kept_comes_to_rest() {
    for (seed, watcher) in both(10) {
        for (when, writes) in (0..3).flat_map(|when| [(when, false), (when, true)]) {
            let mut sim = mirrored(seed, watcher);
            sim.source.in_order = true;
            let d = sim.source.entries(sim.source.dirs()[0])[&b"d"[..]];
            let e = sim.source.entries(d)[&b"e"[..]];
            sim.planner = Planner::new(Options { delete: false, ..Options::mirror() }, sim.filter.clone(), seed);
            begin_anew(&mut sim);
            assert!(sim.rest());
            rest_long(&mut sim);
            let remove = |sim: &mut Sim, at: usize| {
                if at == when {
                    if writes {
                        sim.source.write(e, b"f", b"Q".to_vec(), false);
                        sim.hear();
                    }
                    sim.source.remove(e, b"f");
                    sim.hear();
                    sim.source.remove(d, b"e");
                    sim.hear();
                }
            };
            remove(&mut sim, 0);
            if when > 0 {
                sim.lose_session();
                sim.planner.disconnected();
                remove(&mut sim, 1);
                begin_anew(&mut sim);
                remove(&mut sim, 2);
            }
            assert!(sim.rest(), "seed {seed}, {watcher:?}, at {when}, written before: {writes}");
            assert!(sim.target.snapshot().contains_key(&b"d/e/f"[..]));
            sim.planner.owe_all();
            sim.pay();
        }
    }
}

/// A file is changed so that only the event tells, is excluded by other rules, itself or with its directory, and taken back.
#[test]
fn what_is_excluded_for_a_while_is_sent_when_it_is_not_any_more() {
    for (seed, watcher) in both(10) {
        for rule in [&b"x"[..], b"d/"] {
            let mut sim = mirrored(seed, watcher);
            sim.source.in_order = true;
            let d = sim.source.entries(sim.source.dirs()[0])[&b"d"[..]];
            rest_long(&mut sim);
            let time = sim.source.nodes[&sim.source.entries(d)[&b"x"[..]]].meta.mtime;
            sim.source.write(d, b"x", b"Q".to_vec(), false);
            sim.source.change_meta(d, b"x", |meta| meta.mtime = time);
            sim.hear();
            let mut excluded = Filter::default();
            excluded.push_exclude(rule).unwrap();
            for filter in [excluded, Filter::default()] {
                let filter = Arc::new(filter);
                sim.lose_session();
                sim.filter = filter.clone();
                sim.planner.set_filter(filter);
                begin_anew(&mut sim);
                assert!(sim.rest());
                rest_long(&mut sim);
            }
            assert_eq!(sim.differences(), [""; 0], "seed {seed}, {watcher:?}, {}", String::from_utf8_lossy(rule));
        }
    }
}
