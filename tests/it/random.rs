//! Random operations under a live mirror: each watcher, both ways, each filesystem, mixed watchers, an ordinary user.
//!
//! `RINGSYNC_OPS` sets the operations of one test and seed, `RINGSYNC_SEEDS` the seeds of one test, `RINGSYNC_SEED` the first seed.

use std::fs;
use std::path::{Path, PathBuf};

use crate::mounts::{Fs, Mounted, privately};
use crate::ops::{Choice, Ops};
use crate::place::{Place, as_user, is_root, number, ops_count, seed, skipped};
use crate::program::{As, Mirror, Way};

fn each_seed(name: &str, mut test: impl FnMut(u64)) {
    let first = seed();
    for seed in first..first + number("RINGSYNC_SEEDS", 1) {
        println!("{name}: RINGSYNC_SEED={seed}");
        test(seed);
    }
}

/// Only where fanotify alone watches can changes be found that were made through a hard link which is gone.
fn choice(who: As, watch: &str) -> Choice {
    let usual = Choice::usual();
    Choice { root: usual.root && who == As::Us, hidden_links: watch == "fanotify", ..usual }
}

/// Runs `act` with the rights of whom the tree belongs to.
fn acting<R>(who: As, act: impl FnOnce() -> R) -> R {
    if who == As::User { as_user(act) } else { act() }
}

/// Bursts of any length, and an equal mirror after each.
fn churn(what: &str, who: As, ops: &mut Ops, mirror: &Mirror) {
    let mut left = ops_count();
    // What was changed before the mirror started is seen by its first look.
    ops.equal();
    while left > 0 {
        let longest = [20, 300, 3000, 3000][ops.rng().below(4)];
        let burst = (1 + ops.rng().below(longest)).min(left);
        left -= burst;
        acting(who, || ops.run(burst));
        if let Err(differences) = mirror.try_settle() {
            let mut report = format!("{what}: the mirror{} is not equal with {left} operations left:\n{differences}", mirror.gone());
            for difference in differences.found.iter().take(5) {
                report += &format!("  what was done to {}:\n{}", difference.path, ops.history(&difference.path));
            }
            panic!("{report}");
        }
        ops.equal();
    }
}

/// The whole of it: a tree grows, the mirror starts over a stale one while it changes, then bursts.
fn run(what: &str, who: As, way: Way, watch: &str, place: &Place, seed: u64) {
    run_with(what, who, way, &["--watch", watch], place, seed);
}

fn run_with(what: &str, who: As, way: Way, args: &[&str], place: &Place, seed: u64) {
    let watch = args[1];
    let mut ops = Ops::new(&place.src, seed, choice(who, watch));
    acting(who, || {
        ops.run(400);
        Ops::new(&place.dst, seed ^ 1, choice(who, watch)).run(200);
    });
    let mirror = Mirror::start(who, way, place, args);
    churn(&format!("{what}, {way:?}, {watch}, RINGSYNC_SEED={seed}"), who, &mut ops, &mirror);
    mirror.terminate();
}

#[test]
fn in_place_tcp() {
    if !is_root() {
        return skipped("in_place_tcp", "a filesystem mark needs root");
    }
    each_seed("in_place_tcp", |seed| {
        run_with("in place", As::Us, Way::Tcp, &["--watch", "fanotify", "--inplace"], &Place::new(), seed);
    });
}

#[test]
fn in_place_as_an_ordinary_user() {
    each_seed("in_place_as_an_ordinary_user", |seed| {
        let place = if is_root() { Place::new().for_user() } else { Place::new() };
        run_with("in place", As::User, Way::Local, &["--watch", "inotify", "--inplace"], &place, seed);
    });
}

#[test]
fn durable_by_cycle_tcp() {
    each_seed("durable_by_cycle_tcp", |seed| {
        run_with("durable", As::Us, Way::Tcp, &["--watch", "inotify", "--durability", "cycle"], &Place::new(), seed);
    });
}

#[test]
fn durable_by_file_in_place_local() {
    each_seed("durable_by_file_in_place_local", |seed| {
        run_with("durable", As::Us, Way::Local, &["--watch", "inotify", "--durability", "file", "--inplace"], &Place::new(), seed);
    });
}

fn plain(name: &str, way: Way, watch: &str) {
    if watch == "fanotify" && !is_root() {
        return skipped(name, "a filesystem mark needs root");
    }
    each_seed(name, |seed| run("random", As::Us, way, watch, &Place::new(), seed));
}

#[test]
fn fanotify_local() {
    plain("fanotify_local", Way::Local, "fanotify");
}

#[test]
fn fanotify_tcp() {
    plain("fanotify_tcp", Way::Tcp, "fanotify");
}

#[test]
fn inotify_local() {
    plain("inotify_local", Way::Local, "inotify");
}

#[test]
fn inotify_tcp() {
    plain("inotify_tcp", Way::Tcp, "inotify");
}

#[test]
fn as_an_ordinary_user_local() {
    user("as_an_ordinary_user_local", Way::Local);
}

#[test]
fn as_an_ordinary_user_tcp() {
    user("as_an_ordinary_user_tcp", Way::Tcp);
}

fn user(name: &str, way: Way) {
    each_seed(name, |seed| {
        let place = if is_root() { Place::new().for_user() } else { Place::new() };
        run("as an ordinary user", As::User, way, "auto", &place, seed);
    });
}

/// Source and mirror on one mounted filesystem.
fn on(name: &'static str, fs: Fs, watch: &'static str) {
    privately(name, || {
        let at = tempfile::tempdir_in(crate::place::base()).expect("a temporary directory");
        let mounted = match Mounted::new(fs, at.path()) {
            Ok(mounted) => mounted,
            Err(e) => return skipped(name, e),
        };
        each_seed(name, |seed| {
            let place = Place::within(at.path());
            run(&format!("{fs:?}"), As::Us, Way::Local, watch, &place, seed);
        });
        drop(mounted);
    });
}

#[test]
fn on_tmpfs() {
    on("on_tmpfs", Fs::Tmpfs, "fanotify");
}

#[test]
fn on_ext4() {
    on("on_ext4", Fs::Ext4, "fanotify");
}

#[test]
fn on_xfs() {
    on("on_xfs", Fs::Xfs, "fanotify");
}

#[test]
fn on_btrfs() {
    on("on_btrfs", Fs::Btrfs, "fanotify");
}

#[test]
fn on_a_btrfs_subvolume() {
    on("on_a_btrfs_subvolume", Fs::BtrfsSubvolume, "auto");
}

#[test]
fn on_overlay() {
    on("on_overlay", Fs::Overlay, "auto");
}

#[test]
fn on_overlay_with_handles() {
    on("on_overlay_with_handles", Fs::OverlayIndexed, "auto");
}

/// Other filesystems inside the source: what fanotify cannot serve is watched by inotify, beside it.
#[test]
fn mixed_watchers_under_one_source() {
    const NAME: &str = "mixed_watchers_under_one_source";
    privately(NAME, || {
        each_seed(NAME, |seed| {
            let place = Place::new();
            let mut ops = Ops::new(&place.src, seed, choice(As::Us, "auto"));
            let mut mounted = Vec::new();
            for (name, fs) in [("tmpfs", Fs::Tmpfs), ("overlay", Fs::Overlay), ("subvolume", Fs::BtrfsSubvolume)] {
                let at: PathBuf = place.src.join(name);
                fs::create_dir(&at).expect("mkdir");
                match Mounted::new(fs, &at) {
                    Ok(new) => mounted.push(new),
                    Err(e) => skipped(&format!("{NAME}: {name}"), e),
                }
                ops.pin(name);
            }
            ops.run(500);
            let mirror = Mirror::start(As::Us, Way::Local, &place, &["--watch", "auto"]);
            churn(&format!("mixed, RINGSYNC_SEED={seed}"), As::Us, &mut ops, &mirror);
            mirror.terminate();
        });
    });
}

/// A filesystem inside the mirror: what is moved there, or staged, cannot be renamed over the border.
#[test]
fn a_mount_inside_the_mirror() {
    const NAME: &str = "a_mount_inside_the_mirror";
    privately(NAME, || {
        each_seed(NAME, |seed| {
            let place = Place::new();
            // In the source one filesystem: renames that the mirror cannot do as such. Hard links over the border are copies there, which is not what
            // the comparison asks for.
            let mut ops = Ops::new(&place.src, seed, Choice { hard_links: false, ..choice(As::Us, "auto") });
            let of = |root: &Path| root.join("other");
            fs::create_dir(of(&place.src)).expect("mkdir");
            fs::create_dir(of(&place.dst)).expect("mkdir");
            ops.pin("other");
            let mounted = match Mounted::new(Fs::Tmpfs, &of(&place.dst)) {
                Ok(mounted) => mounted,
                Err(e) => return skipped(NAME, e),
            };
            let mirror = Mirror::start(As::Us, Way::Local, &place, &[]);
            churn(&format!("a mount inside the mirror, RINGSYNC_SEED={seed}"), As::Us, &mut ops, &mirror);
            mirror.terminate();
            drop(mounted);
        });
    });
}
