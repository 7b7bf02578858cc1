//! A manifest tells length and time. A file that was replaced by another with both alike, or whose change neither shows, is sent nevertheless: what was told of it, and what was in doubt
//! before the manifest was asked for, is not forgotten.

use super::hidden::Hidden;
use super::quiet::mirrored;
use super::*;
use crate::memtarget::Act;
use ringsync::limits::NAMES_WAITING_MAX;
use ringsync::model::event::Hint;
use ringsync::model::probe::Ask;

/// No seed of either watcher leaves a difference, and the case comes up at all.
pub(super) fn each(what: &str, play: impl Fn(u64, Watcher) -> Option<Vec<String>>) {
    each_of(20, what, play);
}

pub(super) fn each_of(seeds: u64, what: &str, play: impl Fn(u64, Watcher) -> Option<Vec<String>>) {
    let mut played = 0;
    for (seed, watcher) in (0..seeds).flat_map(|seed| [(seed, Watcher::Fanotify), (seed, Watcher::Inotify)]) {
        if let Some(differences) = play(seed, watcher) {
            assert_eq!(differences, [""; 0], "{what}, seed {seed}, {watcher:?}");
            played += 1;
        }
    }
    assert!(played > 0, "{what} never happened");
}

/// A mirror at rest long after the last change; the root and `d` as well.
pub(super) fn settled(seed: u64, watcher: Watcher) -> (Sim, u64, u64) {
    let mut sim = mirrored(seed, watcher);
    sim.source.in_order = true;
    let root = sim.source.dirs()[0];
    let d = sim.source.entries(root)[&b"d"[..]];
    sim.source.now_ns += 1000 * TICK_NS;
    assert!(sim.rest());
    sim.source.now_ns += 1000 * TICK_NS;
    (sim, root, d)
}

/// Another file takes the name; it has the length and time of what was there.
fn twin(sim: &mut Sim, root: u64, dir: u64, name: &[u8]) {
    let id = sim.source.entries(dir)[name];
    let time = sim.source.nodes[&id].meta.mtime;
    sim.source.create(root, b"other", Body::File(Arc::new(b"Q".to_vec())), Kind::File, 0o644).unwrap();
    sim.source.change_meta(root, b"other", |meta| meta.mtime = time);
    sim.source.rename(root, b"other", dir, name);
}

/// The file is changed so that neither length nor time show it, and the planner hears of it.
fn change(sim: &mut Sim, dir: u64, name: &[u8], how: Hidden) {
    let id = sim.source.entries(dir)[name];
    if how == Hidden::Mapped {
        sim.source.nodes.get_mut(&id).unwrap().body = Body::File(Arc::new(b"Q".to_vec()));
        sim.source.tell(dir, name, Hint::CLOSED);
    } else {
        let time = sim.source.nodes[&id].meta.mtime;
        sim.source.write(dir, name, b"Q".to_vec(), false);
        sim.source.change_meta(dir, name, |meta| meta.mtime = time);
    }
    sim.hear();
}

/// Goes on, without anything being received, until what `is_sent` asks for is on its way.
pub(super) fn hold_until(sim: &mut Sim, is_sent: impl Fn(&Sim) -> bool) -> bool {
    for _ in 0..5000 {
        if is_sent(sim) {
            return true;
        }
        let held = std::mem::take(&mut sim.sent);
        sim.step();
        let new = std::mem::replace(&mut sim.sent, held);
        sim.sent.extend(new);
    }
    false
}

pub(super) fn is_on_its_way(sim: &Sim, is_it: impl Fn(&Cycle) -> bool) -> bool {
    sim.sent.iter().any(|sent| matches!(sent, Sent::Cycle(under) if is_it(&under.cycle)))
}

fn puts(cycle: &Cycle, name: &[u8]) -> bool {
    cycle.batches.iter().any(|batch| batch.files.iter().any(|file| file.name.as_bytes() == name))
}

/// The connection is lost, and the receiver did nothing of what was on its way.
fn lose(sim: &mut Sim) -> Vec<String> {
    sim.lose_session();
    assert!(sim.planner.suspend(sim.source.now_ns) && sim.planner.resume(ABILITIES));
    assert!(sim.rest());
    sim.differences()
}

/// The removal of `d/y` is acknowledged, and said to have failed, so that the manifest of `d` is asked for.
pub(super) fn deny_removal(sim: &mut Sim, d: u64) {
    sim.source.remove(d, b"y");
    while sim.acks.is_empty() {
        sim.step();
    }
    sim.acks[0].1.push(OpError { section: Section::Post, index: 0, errno: libc::EISDIR });
}

/// A directory is made beside it, so that it takes a manifest to know what was done.
#[test]
fn a_twin_whose_cycle_was_lost_is_sent() {
    each("a twin and a directory", |seed, watcher| {
        let (mut sim, root, d) = settled(seed, watcher);
        twin(&mut sim, root, d, b"x");
        sim.source.create(d, b"new", Body::Dir(BTreeMap::new()), Kind::Dir, 0o755).unwrap();
        let both = |sim: &Sim| {
            let is_made = is_on_its_way(sim, |cycle| cycle.pre.iter().any(|op| matches!(op, Op::Mkdir { .. })));
            is_made && is_on_its_way(sim, |cycle| puts(cycle, b"x"))
        };
        (hold_until(&mut sim, both) && sim.planner.can_suspend()).then(|| lose(&mut sim))
    });
}

/// The directory moves on with a later cycle that is lost as well, or the receiver does that one and not what was in the first.
#[test]
fn a_twin_that_was_not_written_in_a_directory_that_moves_is_sent() {
    for is_done in [false, true] {
        each("a twin in a directory that moves", |seed, watcher| {
            let (mut sim, root, d) = settled(seed, watcher);
            twin(&mut sim, root, d, b"x");
            if !hold_until(&mut sim, |sim| is_on_its_way(sim, |cycle| puts(cycle, b"x"))) {
                return None;
            }
            sim.source.rename(root, b"d", root, b"g");
            let moves = |op: &Op| matches!(op, Op::Move { to, .. } if to.name.as_bytes() == b"g");
            let is_ready = hold_until(&mut sim, |sim| is_on_its_way(sim, |cycle| cycle.pre.iter().any(moves)));
            if !is_ready || !sim.planner.can_suspend() {
                return None;
            }
            if is_done {
                let mut left = 1;
                sim.target.set_fault(Some(Box::new(move |act| {
                    let fails = left > 0 && matches!(act, Act::Put(spot) if spot.name.as_bytes() == b"x");
                    left -= i32::from(fails);
                    fails.then_some(libc::ENOSPC)
                })));
                while !sim.sent.is_empty() {
                    let now = sim.source.now_ns;
                    sim.read_file(now);
                    sim.receive();
                }
            }
            Some(lose(&mut sim))
        });
    }
}

/// Its write fails, before or after something else in the directory does that makes the planner ask for the manifest, and the acknowledgement comes before that is asked for, or later.
#[test]
fn a_twin_that_could_not_be_written_is_sent_after_a_manifest() {
    for (is_first, together) in [(true, true), (true, false), (false, true), (false, false)] {
        each(&format!("a failed write, told first: {is_first}, acknowledged at once: {together}"), |seed, watcher| {
            let (mut sim, root, d) = settled(seed, watcher);
            twin(&mut sim, root, d, b"x");
            sim.source.remove(d, b"y");
            let (mut puts, mut unlinks) = (1, 1);
            sim.target.set_fault(Some(Box::new(move |act| {
                let fault = match act {
                    Act::Put(spot) if spot.name.as_bytes() == b"x" => (&mut puts, libc::ENOSPC),
                    Act::Op(Op::Unlink { at }) if at.name.as_bytes() == b"y" => (&mut unlinks, libc::EISDIR),
                    _ => return None,
                };
                (*fault.0 > 0).then(|| {
                    *fault.0 -= 1;
                    fault.1
                })
            })));
            for _ in 0..3000 {
                step_unacknowledged(&mut sim);
            }
            let (cycle, mut errors) = sim.acks.pop_front().filter(|(_, errors)| errors.len() == 2)?;
            errors.sort_by_key(|error| (error.section == Section::Files) != is_first);
            let now = sim.source.now_ns;
            errors.into_iter().for_each(|error| sim.planner.failed(cycle, error, now).unwrap());
            sim.acks.push_front((cycle, Vec::new()));
            if !together {
                let asks = hold_list(&mut sim);
                assert!(asks, "seed {seed}, {watcher:?}");
            }
            assert!(sim.rest());
            Some(sim.differences())
        });
    }
}

pub(super) fn step_unacknowledged(sim: &mut Sim) {
    let held = std::mem::take(&mut sim.acks);
    sim.step();
    let new = std::mem::replace(&mut sim.acks, held);
    sim.acks.extend(new);
}

/// Goes on without acknowledgements until a manifest is asked for.
fn hold_list(sim: &mut Sim) -> bool {
    for _ in 0..5000 {
        if sim.planner.is_filling() {
            return true;
        }
        step_unacknowledged(sim);
    }
    false
}

/// It was heard, and not looked at, when the manifest is asked for.
#[test]
fn a_change_that_was_heard_before_a_manifest_is_sent() {
    for how in [Hidden::Mapped, Hidden::SetBack] {
        each(&format!("{how:?}, heard before a manifest"), |seed, watcher| {
            let (mut sim, _, d) = settled(seed, watcher);
            deny_removal(&mut sim, d);
            change(&mut sim, d, b"x", how);
            let now = sim.source.now_ns;
            sim.acknowledge(now);
            assert!(sim.rest());
            Some(sim.differences())
        });
    }
}

/// It is heard while the manifest is wanted and not asked for, while it is on its way, or after it came and before the directory that it is in is listed.
#[test]
fn a_change_that_is_heard_during_a_manifest_is_sent() {
    for (how, when) in [Hidden::Mapped, Hidden::SetBack].into_iter().flat_map(|how| (0..3).map(move |when| (how, when))) {
        each(&format!("{how:?}, heard during a manifest, {when}"), |seed, watcher| {
            let (mut sim, _, d) = settled(seed, watcher);
            let e = sim.source.entries(d)[&b"e"[..]];
            deny_removal(&mut sim, d);
            if when == 0 {
                let (cycle, errors) = sim.acks.pop_front()?;
                let now = sim.source.now_ns;
                errors.into_iter().for_each(|error| sim.planner.failed(cycle, error, now).unwrap());
                sim.acks.push_front((cycle, Vec::new()));
            } else {
                sim.next_list();
                assert!(sim.planner.is_filling());
            }
            if when == 2 {
                while sim.planner.is_filling() {
                    sim.receive();
                }
            }
            change(&mut sim, e, b"f", how);
            assert!(sim.rest());
            Some(sim.differences())
        });
    }
}

/// The session begins anew, with a manifest of all. What was on its way is lost.
pub(super) fn begin_anew(sim: &mut Sim) {
    let mut actions = Vec::new();
    sim.planner.connected(ABILITIES, sim.source.now_ns, &mut actions);
    sim.act(actions);
}

/// A change is heard, or a twin is on its way, when the connection is lost and cannot be gone on with, or other rules come; or it is heard before there is a connection again, while the
/// manifest is on its way, or after that. With a second loss before the manifest has come it is still known.
#[test]
fn a_session_that_begins_anew_forgets_no_change() {
    for (how, when, twice) in
        [Hidden::Mapped, Hidden::SetBack].into_iter().flat_map(|how| (0..4).flat_map(move |when| [(how, when, false), (how, when, true)]))
    {
        each(&format!("{how:?}, at {when}, lost twice: {twice}"), |seed, watcher| {
            let (mut sim, root, d) = settled(seed, watcher);
            let e = sim.source.entries(d)[&b"e"[..]];
            let heard = |sim: &mut Sim, at| {
                if when == at {
                    change(sim, e, b"f", how);
                }
            };
            twin(&mut sim, root, d, b"x");
            if !hold_until(&mut sim, |sim| is_on_its_way(sim, |cycle| puts(cycle, b"x"))) {
                return None;
            }
            heard(&mut sim, 0);
            sim.lose_session();
            match seed % 3 {
                0 => sim.planner.disconnected(),
                1 => sim.planner.set_filter(sim.filter.clone()),
                // It is to be gone on with, and then that cannot be.
                _ => assert!(sim.planner.suspend(sim.source.now_ns)),
            }
            heard(&mut sim, 1);
            begin_anew(&mut sim);
            heard(&mut sim, 2);
            if twice {
                sim.lose_session();
                begin_anew(&mut sim);
            }
            while sim.planner.is_filling() {
                sim.receive();
            }
            heard(&mut sim, 3);
            assert!(sim.rest());
            Some(sim.differences())
        });
    }
}

/// Nothing tells of a directory that went out of sight while there was no connection: it is watched no longer than until the source has been looked at.
#[test]
fn a_directory_that_is_not_met_again_is_not_watched_any_more() {
    each("a directory that is gone", |seed, _| {
        let (mut sim, _, d) = settled(seed, Watcher::Inotify);
        let watches = sim.source.watches.len();
        sim.planner.disconnected();
        sim.source.move_out(d, b"e");
        sim.hear();
        begin_anew(&mut sim);
        assert!(sim.rest());
        sim.source.now_ns += 1_000_000_000;
        assert!(sim.rest());
        assert_eq!(sim.source.watches.len(), watches - 1, "seed {seed}");
        Some(sim.differences())
    });
}

/// The manifest lacks the directory that it is in, and it is heard before the next one tells it.
#[test]
fn a_change_in_what_a_manifest_lacks_is_sent() {
    for (how, is_lost) in [Hidden::Mapped, Hidden::SetBack].into_iter().flat_map(|how| [(how, false), (how, true)]) {
        each(&format!("{how:?}, not in the manifest, the connection lost: {is_lost}"), |seed, watcher| {
            let (mut sim, _, d) = settled(seed, watcher);
            let e = sim.source.entries(d)[&b"e"[..]];
            let left = Arc::new(Mutex::new(1));
            let fails = left.clone();
            sim.target.set_fault(Some(Box::new(move |act| {
                let it = matches!(act, Act::List(dir) if dir.as_bytes() == b"d/e");
                (it && *fails.lock().unwrap() > 0).then_some(libc::EACCES)
            })));
            deny_removal(&mut sim, d);
            sim.next_list();
            while sim.planner.is_filling() {
                sim.receive();
            }
            change(&mut sim, e, b"f", how);
            if is_lost && sim.planner.can_suspend() {
                sim.lose_session();
                assert!(sim.planner.suspend(sim.source.now_ns) && sim.planner.resume(ABILITIES));
            }
            *left.lock().unwrap() = 0;
            // The next manifest is due before the source's directory is listed.
            sim.source.now_ns += 60_000_000_000;
            assert!(sim.rest());
            Some(sim.differences())
        });
    }
}

/// So many temporary files come and go while there is no connection that not each can be remembered.
#[test]
fn a_change_among_too_many_to_be_remembered_is_sent() {
    for watcher in [Watcher::Fanotify, Watcher::Inotify] {
        let (mut sim, _, d) = settled(1, watcher);
        let e = sim.source.entries(d)[&b"e"[..]];
        sim.planner.disconnected();
        let (key, now) = (sim.source.key(e).unwrap(), sim.source.now_ns);
        for n in 0..NAMES_WAITING_MAX + 10 {
            let name = format!("temporary {n}");
            let event = Event::At { key: &key, name: name.as_bytes(), hint: Hint::APPEARED, object: None, rename: None };
            sim.planner.event(event, now);
        }
        change(&mut sim, e, b"f", Hidden::SetBack);
        begin_anew(&mut sim);
        assert!(sim.rest());
        assert_eq!(sim.differences(), [""; 0], "{watcher:?}");
    }
}

/// The source's root cannot be read for a while when the session begins anew: what is below it goes on being watched.
#[test]
fn a_change_below_what_cannot_be_read_is_sent() {
    each("a directory that cannot be read", |seed, watcher| {
        let (mut sim, root, d) = settled(seed, watcher);
        let e = sim.source.entries(d)[&b"e"[..]];
        sim.planner.disconnected();
        sim.source.set_shut(root, true);
        begin_anew(&mut sim);
        for _ in 0..3000 {
            sim.step();
        }
        change(&mut sim, e, b"f", Hidden::SetBack);
        assert!(sim.rest());
        Some(sim.differences())
    });
}

/// `d/e` and `other` with a file `f` of equal length and time, exchanged by [`swap`].
fn twin_directories(seed: u64, watcher: Watcher) -> (Sim, u64, u64) {
    let (mut sim, root, d) = settled(seed, watcher);
    let e = sim.source.entries(d)[&b"e"[..]];
    let time = sim.source.nodes[&sim.source.entries(e)[&b"f"[..]]].meta.mtime;
    let other = sim.source.create(root, b"other", Body::Dir(BTreeMap::new()), Kind::Dir, 0o755).unwrap();
    sim.source.create(other, b"f", Body::File(Arc::new(b"Q".to_vec())), Kind::File, 0o644).unwrap();
    sim.source.change_meta(other, b"f", |meta| meta.mtime = time);
    sim.source.now_ns += 1000 * TICK_NS;
    assert!(sim.rest());
    sim.source.now_ns += 1000 * TICK_NS;
    assert_eq!(sim.differences(), [""; 0]);
    (sim, root, d)
}

fn swap(sim: &mut Sim, root: u64, d: u64) {
    sim.source.exchange(d, b"e", root, b"other");
    sim.hear();
}

/// Two directories are exchanged, as releases are, whose files only identity tells apart: heard before the connection is lost, before there is one again, and while the manifest is on its way.
#[test]
fn directories_that_are_exchanged_are_sent_by_a_session_that_begins_anew() {
    for when in 0..3 {
        each(&format!("an exchange, at {when}"), |seed, watcher| {
            let (mut sim, root, d) = twin_directories(seed, watcher);
            for at in 0..3 {
                match at {
                    0 => {}
                    1 => {
                        sim.lose_session();
                        sim.planner.disconnected();
                    }
                    _ => begin_anew(&mut sim),
                }
                if at == when {
                    swap(&mut sim, root, d);
                }
            }
            assert!(sim.rest());
            Some(sim.differences())
        });
    }
}

#[test]
fn directories_whose_exchange_was_lost_are_sent() {
    for anew in [false, true] {
        each(&format!("an exchange on its way, anew: {anew}"), |seed, watcher| {
            let (mut sim, root, d) = twin_directories(seed, watcher);
            swap(&mut sim, root, d);
            let moves = |cycle: &Cycle| cycle.pre.iter().any(|op| matches!(op, Op::Move { .. }));
            if !hold_until(&mut sim, |sim| is_on_its_way(sim, moves)) || !sim.planner.can_suspend() {
                return None;
            }
            if !anew {
                return Some(lose(&mut sim));
            }
            sim.lose_session();
            begin_anew(&mut sim);
            assert!(sim.rest());
            Some(sim.differences())
        });
    }
}

/// One manifest follows the other, and each waits longer: directories below are not listed meanwhile.
#[test]
fn a_change_while_manifests_wait_is_sent() {
    each_of(60, "manifests that wait", |seed, watcher| {
        let (mut sim, _, d) = settled(seed, watcher);
        let mut deep = sim.source.entries(d)[&b"e"[..]];
        for _ in 0..6 {
            deep = sim.source.create(deep, b"s", Body::Dir(BTreeMap::new()), Kind::Dir, 0o755).unwrap();
        }
        sim.source.create(deep, b"f", Body::File(Arc::new(b"f".to_vec())), Kind::File, 0o644).unwrap();
        sim.source.now_ns += 1000 * TICK_NS;
        assert!(sim.rest());
        sim.source.now_ns += 1000 * TICK_NS;
        let mut left = 8;
        sim.target.set_fault(Some(Box::new(move |act| {
            let fails = left > 0 && matches!(act, Act::Op(Op::Unlink { at }) if at.name.as_bytes() == b"y");
            left -= i32::from(fails);
            fails.then_some(libc::EISDIR)
        })));
        sim.source.remove(d, b"y");
        for _ in 0..sim.rng.below(4000) {
            sim.step();
        }
        change(&mut sim, deep, b"f", Hidden::SetBack);
        assert!(sim.rest());
        Some(sim.differences())
    });
}

/// The directory above was listed, and is renamed before the one in it is.
#[test]
fn a_change_in_a_directory_that_moves_before_it_is_listed_is_sent() {
    each_of(100, "a directory that moves", |seed, watcher| {
        let (mut sim, root, d) = settled(seed, watcher);
        let e = sim.source.entries(d)[&b"e"[..]];
        sim.lose_session();
        begin_anew(&mut sim);
        let lists_e = |sim: &Sim| sim.probes.iter().any(|probe| matches!(probe.ask, Ask::List) && probe.dir.as_bytes() == b"d/e");
        for _ in 0..5000 {
            if lists_e(&sim) {
                break;
            }
            sim.step();
        }
        if !lists_e(&sim) {
            return None;
        }
        sim.source.rename(root, b"d", root, b"g");
        for _ in 0..sim.rng.below(80) {
            sim.step();
        }
        change(&mut sim, e, b"f", Hidden::SetBack);
        assert!(sim.rest());
        Some(sim.differences())
    });
}

/// A second name is made, and the file is changed through that: the manifest tells of the first only, and that it is equal.
#[test]
fn a_change_through_a_new_hard_link_is_sent() {
    for (how, when) in [Hidden::Mapped, Hidden::SetBack].into_iter().flat_map(|how| (0..4).map(move |when| (how, when))) {
        each(&format!("{how:?} through a new hard link, at {when}"), |seed, watcher| {
            let (mut sim, _, d) = settled(seed, watcher);
            let x = sim.source.entries(d)[&b"x"[..]];
            let write = |sim: &mut Sim, at| {
                if at == when {
                    sim.source.link(d, b"z", x);
                    if seed % 2 == 0 {
                        sim.hear();
                    }
                    change(sim, d, b"z", how);
                }
            };
            write(&mut sim, 0);
            sim.lose_session();
            sim.planner.disconnected();
            write(&mut sim, 1);
            begin_anew(&mut sim);
            write(&mut sim, 2);
            while sim.planner.is_filling() {
                sim.receive();
            }
            write(&mut sim, 3);
            assert!(sim.rest());
            Some(sim.differences())
        });
    }
}
