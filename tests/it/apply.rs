//! The real target: every operation done, repeated, and in the way of something else.

use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink as os_symlink};

use ringsync::apply::{Listed, Target};
use ringsync::model::meta::{Kind, Meta, Time};
use ringsync::model::op::Op;

use crate::fixture::{Mirror, WHEN, file_meta, meta, mkdir, mtime, rel, rename, skipped_without_root, spot, symlink, unlink};

#[test]
fn a_put_file_has_content_mode_and_time_and_leaves_nothing_beside() {
    let mut m = Mirror::new();
    m.put("f", b"one");
    let first = m.stat("f").ino();
    m.put("f", b"two!");
    m.put("f", b"two!");
    assert_eq!(std::fs::read(m.at("f")).unwrap(), b"two!");
    assert_ne!(m.stat("f").ino(), first, "the old file is never written to");
    assert_eq!((m.stat("f").mode() & 0o7777, mtime(&m.at("f"))), (0o644, WHEN));
    m.put("empty", b"");
    assert_eq!(m.names(), ["empty", "f"]);
    let wrong = Meta { size: 9, ..file_meta(b"x") };
    assert_eq!(m.target.put(&spot("f"), &wrong, b"x"), Err(libc::EINVAL));
    assert_eq!(m.target.put(&spot("no/f"), &file_meta(b"x"), b"x"), Err(libc::ENOENT));
    assert_eq!(m.target.put(&spot("f/f"), &file_meta(b"x"), b"x"), Err(libc::ENOTDIR));
}

#[test]
fn a_put_replaces_all_but_a_directory() {
    let mut m = Mirror::new();
    m.ok(&mkdir("d"));
    m.ok(&symlink("l", "d"));
    m.ok(&Op::Special { at: spot("p"), meta: meta(Kind::Fifo, 0o600) });
    for path in ["l", "p"] {
        m.put(path, b"x");
        assert!(m.stat(path).is_file());
    }
    assert_eq!(m.target.put(&spot("d"), &file_meta(b"x"), b"x"), Err(libc::EISDIR));
    assert_eq!(m.names(), ["d", "l", "p"], "the temporary file is gone");
}

#[test]
fn times_before_1970_and_nanoseconds_are_kept() {
    let mut m = Mirror::new();
    for time in [Time { sec: -1, nsec: 1 }, Time { sec: -86_400 * 365, nsec: 999_999_999 }, Time { sec: 0, nsec: 0 }] {
        let want = Meta { mtime: time, ..file_meta(b"x") };
        m.target.put(&spot("f"), &want, b"x").unwrap();
        m.ok(&Op::Symlink { at: spot("l"), target: (*b"f").into(), meta: Meta { mtime: time, ..meta(Kind::Symlink, 0o777) } });
        m.ok(&Op::DirMeta { dir: rel(""), meta: Meta { mtime: time, ..meta(Kind::Dir, 0o755) } });
        for path in ["f", "l", ""] {
            assert_eq!(mtime(&m.at(path)), time, "{path}");
        }
    }
}

#[test]
fn setuid_survives_a_change_of_owner() {
    if skipped_without_root("setuid_survives_a_change_of_owner") {
        return;
    }
    let mut m = Mirror::new();
    let want = Meta { mode: 0o6755, uid: 1234, gid: 4321, ..file_meta(b"x") };
    m.target.put(&spot("f"), &want, b"x").unwrap();
    let check = |m: &Mirror, uid, gid| {
        let stat = m.stat("f");
        assert_eq!((stat.mode() & 0o7777, stat.uid(), stat.gid()), (0o6755, uid, gid));
    };
    check(&m, 1234, 4321);
    m.ok(&Op::SetMeta { at: spot("f"), meta: Meta { uid: 77, gid: 78, ..want } });
    check(&m, 77, 78);
    m.target.stage(1, 0, b"y").unwrap();
    m.ok(&Op::Place { at: spot("f"), meta: want, stage: 1 });
    check(&m, 1234, 4321);
}

#[test]
fn new_entries_have_their_own_group_in_a_setgid_directory() {
    if skipped_without_root("new_entries_have_their_own_group_in_a_setgid_directory") {
        return;
    }
    let mut m = Mirror::new();
    m.ok(&mkdir("d"));
    m.ok(&Op::DirMeta { dir: rel("d"), meta: Meta { gid: 555, ..meta(Kind::Dir, 0o2775) } });
    m.put("d/a", b"x");
    m.put("d/b", b"x");
    m.ok(&mkdir("d/sub"));
    m.ok(&Op::DirMeta { dir: rel("d/sub"), meta: meta(Kind::Dir, 0o755) });
    for (path, mode) in [("d/a", 0o644), ("d/b", 0o644), ("d/sub", 0o755)] {
        assert_eq!((m.stat(path).gid(), m.stat(path).mode() & 0o7777), (0, mode), "{path}");
    }
}

#[test]
fn new_files_have_their_own_mode_where_a_directory_has_a_default_acl() {
    let mut m = Mirror::new();
    m.ok(&mkdir("d"));
    let set = std::process::Command::new("setfacl").args(["-d", "-m", "u::rwx,g::---,o::---"]).arg(m.at("d")).status();
    if !set.is_ok_and(|status| status.success()) {
        eprintln!("new_files_have_their_own_mode_where_a_directory_has_a_default_acl: skipped, no setfacl or no such lists here");
        return;
    }
    std::fs::write(m.at("d/by-another"), b"x").unwrap();
    assert_eq!(m.stat("d/by-another").mode() & 0o777, 0o600, "the list is at work");
    m.put("d/a", b"x");
    m.put("d/b", b"x");
    for path in ["d/a", "d/b"] {
        assert_eq!(m.stat(path).mode() & 0o7777, 0o644);
    }
}

#[test]
fn directories_are_made_once_and_only_where_nothing_else_is() {
    let mut m = Mirror::new();
    m.ok(&mkdir("d"));
    m.ok(&mkdir("d/e"));
    m.put("d/e/f", b"x");
    m.ok(&mkdir("d"));
    assert_eq!(m.names(), ["d", "d/e", "d/e/f"]);
    m.fails(&mkdir("d/e/f"), libc::EEXIST);
    m.ok(&symlink("l", "d"));
    m.fails(&mkdir("l"), libc::EEXIST);
    m.fails(&mkdir("no/d"), libc::ENOENT);
    m.fails(&mkdir("d/e/f/g"), libc::ENOTDIR);
    m.fails(&mkdir("l/g"), libc::ENOTDIR);
    m.fails(&Op::Mkdir { at: spot("x"), meta: meta(Kind::File, 0o755) }, libc::EINVAL);
}

#[test]
fn directory_metadata_is_set_last_and_exactly() {
    let mut m = Mirror::new();
    m.ok(&mkdir("d"));
    m.put("d/f", b"x");
    let set = Op::DirMeta { dir: rel("d"), meta: meta(Kind::Dir, 0o1711) };
    m.ok(&set);
    m.ok(&set);
    assert_eq!((m.stat("d").mode() & 0o7777, mtime(&m.at("d"))), (0o1711, WHEN));
    m.fails(&Op::DirMeta { dir: rel("d/f"), meta: meta(Kind::Dir, 0o755) }, libc::ENOTDIR);
    m.fails(&Op::DirMeta { dir: rel("no"), meta: meta(Kind::Dir, 0o755) }, libc::ENOENT);
}

#[test]
fn symbolic_links_are_made_kept_and_replaced() {
    let mut m = Mirror::new();
    m.ok(&symlink("l", "no/where"));
    let ino = m.stat("l").ino();
    m.ok(&symlink("l", "no/where"));
    assert_eq!(m.stat("l").ino(), ino, "what is the same is kept");
    m.ok(&symlink("l", "else"));
    assert_eq!(std::fs::read_link(m.at("l")).unwrap().to_str(), Some("else"));
    assert_eq!(mtime(&m.at("l")), WHEN);
    m.put("f", b"x");
    m.ok(&symlink("f", "else"));
    m.ok(&mkdir("d"));
    m.fails(&symlink("d", "else"), libc::EISDIR);
    m.fails(&symlink("no/l", "else"), libc::ENOENT);
    for target in ["", "a\0b", &"x".repeat(4096)] {
        m.fails(&symlink("bad", target), libc::EINVAL);
    }
    assert_eq!(m.names(), ["d", "f", "l"]);
}

#[test]
fn what_has_another_name_too_is_replaced_and_not_changed() {
    let mut m = Mirror::new();
    m.ok(&symlink("a", "t"));
    m.ok(&Op::Link { from: spot("a"), to: spot("b") });
    let later = Meta { mtime: Time { sec: 5, nsec: 0 }, ..meta(Kind::Symlink, 0o777) };
    m.ok(&Op::Symlink { at: spot("b"), target: (*b"t").into(), meta: later });
    assert_eq!((mtime(&m.at("a")), mtime(&m.at("b"))), (WHEN, later.mtime));
}

#[test]
fn special_files_are_made_kept_and_replaced() {
    if skipped_without_root("special_files_are_made_kept_and_replaced") {
        return;
    }
    let mut m = Mirror::new();
    let special = |path: &str, kind, rdev| Op::Special { at: spot(path), meta: Meta { rdev, uid: 9, ..meta(kind, 0o620) } };
    let null = libc::makedev(1, 3);
    for (path, kind, rdev) in [("p", Kind::Fifo, 0), ("s", Kind::Socket, 0), ("c", Kind::Char, null), ("b", Kind::Block, null)] {
        m.ok(&special(path, kind, rdev));
        let ino = m.stat(path).ino();
        m.ok(&special(path, kind, rdev));
        let stat = m.stat(path);
        assert_eq!((stat.ino(), stat.rdev(), stat.uid(), stat.mode() & 0o7777), (ino, rdev, 9, 0o620), "{path}");
    }
    m.ok(&special("p", Kind::Socket, 0));
    assert!(m.stat("p").file_type().is_socket());
    m.ok(&special("c", Kind::Char, libc::makedev(1, 5)));
    assert_eq!(m.stat("c").rdev(), libc::makedev(1, 5));
    m.ok(&mkdir("d"));
    m.fails(&special("d", Kind::Fifo, 0), libc::EISDIR);
    m.fails(&special("f", Kind::File, 0), libc::EINVAL);
    assert_eq!(m.names(), ["b", "c", "d", "p", "s"]);
}

#[test]
fn set_meta_changes_what_it_expects_and_nothing_else() {
    let mut m = Mirror::new();
    m.put("f", b"x");
    m.ok(&mkdir("d"));
    let set = |path: &str, kind| Op::SetMeta { at: spot(path), meta: Meta { mtime: Time { sec: 7, nsec: 7 }, ..meta(kind, 0o4711) } };
    m.ok(&set("f", Kind::File));
    m.ok(&set("f", Kind::File));
    assert_eq!((m.stat("f").mode() & 0o7777, mtime(&m.at("f"))), (0o4711, Time { sec: 7, nsec: 7 }));
    m.fails(&set("f", Kind::Symlink), libc::ESTALE);
    m.fails(&set("d", Kind::File), libc::EISDIR);
    m.fails(&set("d", Kind::Dir), libc::EINVAL);
    m.fails(&set("no", Kind::File), libc::ENOENT);
    m.fails(&set("no/f", Kind::File), libc::ENOENT);
}

/// Cycles that were on their way when a content failed to come must not make the old one look like it, nor carry it elsewhere.
#[test]
fn an_old_content_does_not_get_the_metadata_of_one_that_failed() {
    let mut m = Mirror::new();
    let set = |path| Op::SetMeta { at: spot(path), meta: Meta { mtime: Time { sec: 9, nsec: 9 }, ..file_meta(b"new") } };
    m.put("f", b"old");
    m.target.stage(1, 1, b"ew").unwrap();
    m.fails(&Op::Place { at: spot("f"), meta: file_meta(b"new"), stage: 1 }, libc::ENODATA);
    m.target.end_cycle();
    m.fails(&rename("f", "g"), libc::ENODATA);
    m.fails(&Op::Link { from: spot("f"), to: spot("g") }, libc::ENODATA);
    m.fails(&set("f"), libc::ENODATA);
    assert_eq!((mtime(&m.at("f")), m.at("g").exists()), (WHEN, false));
    m.put("f", b"new");
    m.ok(&rename("f", "g"));
    m.ok(&set("g"));
    m.target.stage(1, 0, b"n").unwrap();
    m.ok(&Op::Place { at: spot("g"), meta: file_meta(b"new"), stage: 1 });
    m.ok(&set("g"));
}

#[test]
fn a_staged_file_is_placed_when_it_is_complete() {
    let mut m = Mirror::new();
    m.ok(&Op::DirMeta { dir: rel(""), meta: meta(Kind::Dir, 0o755) });
    let place = |path: &str, size| Op::Place { at: spot(path), meta: Meta { size, ..meta(Kind::File, 0o640) }, stage: 3 };
    m.fails(&place("f", 6), libc::ENOENT);
    m.target.stage(3, 3, b"def").unwrap();
    assert_eq!(mtime(&m.path), WHEN, "staging comes without a trace");
    m.fails(&place("f", 6), libc::ENODATA);
    m.target.stage(3, 0, b"abc").unwrap();
    m.fails(&place("f", 5), libc::ENODATA);
    m.ok(&mkdir("d"));
    m.fails(&place("d", 6), libc::EISDIR);
    m.fails(&place("no/f", 6), libc::ENOENT);
    m.ok(&place("d/f", 6));
    assert_eq!(std::fs::read(m.at("d/f")).unwrap(), b"abcdef");
    assert_eq!((m.stat("d/f").mode() & 0o7777, mtime(&m.at("d/f"))), (0o640, WHEN));
    m.ok(&Op::DirMeta { dir: rel(""), meta: meta(Kind::Dir, 0o755) });
    m.target.end_cycle();
    assert_eq!(mtime(&m.path), WHEN, "staging goes without a trace");
    assert_eq!(m.names(), ["d", "d/f"]);
    assert_eq!(m.target.stage(9, u64::MAX, b"x"), Err(libc::EFBIG));
    assert_eq!(m.target.stage(9, 0, b"x"), Err(libc::EFBIG), "the first failure is what counts");
}

#[test]
fn staged_files_go_when_they_are_dropped_or_the_session_ends() {
    let mut m = Mirror::new();
    m.target.stage(1, 0, b"x").unwrap();
    m.target.end_cycle();
    assert_eq!(m.names(), [".ringsync-staging", ".ringsync-staging/f1"], "cycles come and go while a file is staged");
    m.target.drop_stage(1);
    m.target.drop_stage(1);
    assert!(m.names().is_empty(), "no cycle need follow");
    let root = ringsync::apply::Root::open(&m.path, false).unwrap();
    let mut target = ringsync::apply::FsTarget::new(root.clone());
    target.stage(2, 0, b"x").unwrap();
    root.end_session(false);
    assert!(m.names().is_empty());
}

#[test]
fn moves_replace_files_and_never_directories() {
    let mut m = Mirror::new();
    m.put("a", b"a");
    m.put("b", b"b");
    m.ok(&mkdir("d"));
    m.ok(&mkdir("e"));
    m.put("d/x", b"x");
    m.ok(&rename("a", "b"));
    m.fails(&rename("a", "b"), libc::ENOENT);
    m.ok(&rename("b", "b"));
    assert_eq!(std::fs::read(m.at("b")).unwrap(), b"a");
    m.fails(&rename("b", "d"), libc::EISDIR);
    m.fails(&rename("d", "e"), libc::EEXIST);
    m.fails(&rename("d", "d/y/z"), libc::ENOENT);
    m.fails(&rename("d", "d/y"), libc::EINVAL);
    m.fails(&rename("b", "no/b"), libc::ENOENT);
    m.ok(&rename("d", "b"));
    assert_eq!(m.names(), ["b", "b/x", "e"]);
}

#[test]
fn a_move_between_names_of_one_object_leaves_one() {
    let mut m = Mirror::new();
    m.put("a", b"x");
    m.ok(&Op::Link { from: spot("a"), to: spot("b") });
    m.ok(&rename("a", "b"));
    assert_eq!(m.names(), ["b"]);
}

#[test]
fn a_path_means_what_is_there_after_a_move_in_the_same_frame() {
    let mut m = Mirror::new();
    m.ok(&mkdir("a"));
    m.ok(&mkdir("a/in"));
    m.put("a/in/1", b"x");
    m.ok(&rename("a", "b"));
    m.ok(&mkdir("a"));
    m.ok(&mkdir("a/in"));
    m.put("a/in/2", b"x");
    m.put("b/in/3", b"x");
    m.ok(&Op::Park { from: spot("b"), id: 1 });
    assert_eq!(m.target.put(&spot("b/in/4"), &file_meta(b"x"), b"x"), Err(libc::ENOENT));
    m.put(".ringsync-staging-p1-b/in/5", b"x");
    m.ok(&rename(".ringsync-staging-p1-b", "c"));
    m.target.end_cycle();
    assert_eq!(m.names(), ["a", "a/in", "a/in/2", "c", "c/in", "c/in/1", "c/in/3", "c/in/5"]);
}

#[test]
fn two_directories_change_places_through_a_park() {
    let mut m = Mirror::new();
    m.ok(&mkdir("a"));
    m.ok(&mkdir("b"));
    m.put("a/1", b"x");
    m.ok(&Op::DirMeta { dir: rel(""), meta: meta(Kind::Dir, 0o755) });
    m.fails(&Op::Park { from: spot("no"), id: 7 }, libc::ENOENT);
    m.ok(&Op::Park { from: spot("a"), id: 7 });
    m.ok(&mkdir("a"));
    m.fails(&Op::Park { from: spot("a"), id: 7 }, libc::EEXIST);
    m.ok(&Op::Rmdir { at: spot("a") });
    m.ok(&rename("b", "a"));
    m.ok(&rename(".ringsync-staging-p7-a", "b"));
    m.ok(&Op::Park { from: spot("a"), id: 8 });
    m.ok(&Op::Rmdir { at: spot(".ringsync-staging-p8-a") });
    m.target.end_cycle();
    assert_eq!(m.names(), ["b", "b/1"]);
}

#[test]
fn links_replace_files_and_are_kept_when_they_are_there() {
    let mut m = Mirror::new();
    let link = |from: &str, to: &str| Op::Link { from: spot(from), to: spot(to) };
    m.put("a", b"a");
    m.put("b", b"b");
    m.ok(&link("a", "c"));
    m.ok(&link("a", "b"));
    m.ok(&link("a", "b"));
    m.ok(&link("a", "a"));
    assert_eq!(m.names(), ["a", "b", "c"], "no temporary name stays");
    assert_eq!(m.stat("a").nlink(), 3);
    m.ok(&mkdir("d"));
    m.fails(&link("a", "d"), libc::EISDIR);
    m.fails(&link("d", "e"), libc::EPERM);
    m.fails(&link("no", "e"), libc::ENOENT);
    m.fails(&link("a", "no/e"), libc::ENOENT);
    let groups: Vec<u64> = m.list().iter().map(|(_, entry)| entry.link_group).collect();
    assert_eq!(groups.iter().filter(|group| **group == m.stat("a").ino()).count(), 3, "{groups:?}");
    assert_eq!(groups.iter().filter(|group| **group == 0).count(), 1);
}

#[test]
fn removing_what_is_gone_succeeds() {
    let mut m = Mirror::new();
    m.put("f", b"x");
    m.ok(&mkdir("d"));
    m.put("d/f", b"x");
    let rmdir = |path: &str| Op::Rmdir { at: spot(path) };
    m.fails(&unlink("d"), libc::EISDIR);
    m.fails(&rmdir("f"), libc::ENOTDIR);
    m.fails(&rmdir("d"), libc::ENOTEMPTY);
    m.fails(&unlink("f/x"), libc::ENOTDIR);
    for _ in 0..2 {
        m.ok(&unlink("f"));
        m.ok(&unlink("d/f"));
        m.ok(&rmdir("d"));
        m.ok(&unlink("d/f"));
        m.ok(&rmdir("d/e"));
    }
    assert!(m.names().is_empty());
}

#[test]
fn a_directory_with_nothing_but_our_leftovers_can_be_removed() {
    let mut m = Mirror::new();
    m.ok(&mkdir("d"));
    std::fs::write(m.at("d/.ringsync-staging-0123456789abcdef"), b"x").unwrap();
    m.ok(&Op::Rmdir { at: spot("d") });
    assert!(m.names().is_empty());
}

#[test]
fn the_first_listing_removes_leftovers_and_every_one_tells_what_is_parked() {
    let mut m = Mirror::new();
    m.ok(&mkdir("d"));
    m.put("d/f", b"x");
    for at in [m.at(".ringsync-staging-p4"), m.at("d/.ringsync-staging-p5-e")] {
        let deep = at.join("a/b/c");
        std::fs::create_dir_all(&deep).unwrap();
        std::fs::write(deep.join("f"), b"x").unwrap();
        std::fs::write(at.join("f"), b"x").unwrap();
    }
    os_symlink(m.at("d"), m.at(".ringsync-staging-p6-l")).unwrap();
    std::fs::create_dir(m.at(".ringsync-staging")).unwrap();
    std::fs::write(m.at(".ringsync-staging/f7"), b"x").unwrap();
    std::fs::write(m.at("d/.ringsync-staging-00"), b"x").unwrap();
    for dir in ["d", ""] {
        m.ok(&Op::DirMeta { dir: rel(dir), meta: meta(Kind::Dir, 0o755) });
    }
    let ours = |told: &&String| told.contains(".ringsync-staging-p");
    m.reopen();
    for _ in 0..2 {
        let told: Vec<String> = m.list().iter().map(|(dir, entry)| format!("{dir}/{:?}", entry.name)).collect();
        assert_eq!((told.len(), told.iter().filter(ours).count(), m.names().len()), (15, 13, 15), "{told:?}");
    }
    assert_eq!((mtime(&m.path), mtime(&m.at("d"))), (WHEN, WHEN), "nothing shows that others were there");
    m.target.stage(1, 0, b"x").unwrap();
    std::fs::write(m.at("d/.ringsync-staging-00"), b"x").unwrap();
    assert_eq!((m.list().len(), m.names().len()), (15, 18), "others may be in use");
}

#[test]
fn a_listing_says_all_that_a_mirror_carries() {
    let mut m = Mirror::new();
    m.ok(&mkdir("d"));
    m.ok(&symlink("d/l", "t"));
    m.put("d/f", b"four");
    m.ok(&Op::DirMeta { dir: rel("d"), meta: meta(Kind::Dir, 0o700) });
    let listed = m.list();
    let find = |path: &str| {
        let at = spot(path);
        &listed.iter().find(|(dir, entry)| *dir == at.dir && entry.name == at.name).unwrap().1
    };
    assert_eq!(find("d").meta, meta(Kind::Dir, 0o700));
    assert_eq!(find("d/f").meta, file_meta(b"four"));
    assert_eq!(find("d/l").target.as_deref(), Some(&b"t"[..]));
    let mut below = Vec::new();
    m.target.list(&rel("d"), &mut |listed| below.push(listed)).unwrap();
    assert!(matches!(&below[0], Listed::Dir { dir, meta: its } if *dir == rel("d") && *its == meta(Kind::Dir, 0o700)));
    assert_eq!(below.len(), 3, "the directory and two entries");
    assert_eq!(m.target.list(&rel("no"), &mut |_| panic!("nothing to report")), Err(libc::ENOENT));
    assert_eq!(m.target.list(&rel("d/f"), &mut |_| panic!("nothing to report")), Err(libc::ENOTDIR));
}

#[test]
fn a_read_only_mirror_is_listed_and_left_alone() {
    let mut m = Mirror::new();
    m.put("f", b"x");
    std::fs::write(m.at(".ringsync-staging-0"), b"x").unwrap();
    std::fs::write(m.at(".ringsync-staging-p0"), b"x").unwrap();
    m.target = ringsync::apply::FsTarget::new(ringsync::apply::Root::open(&m.path, true).unwrap());
    assert_eq!(m.list().len(), 1);
    m.fails(&unlink("f"), libc::EROFS);
    assert_eq!(m.target.put(&spot("f"), &file_meta(b"y"), b"y"), Err(libc::EROFS));
    assert_eq!(m.target.stage(1, 0, b"y"), Err(libc::EROFS));
    assert_eq!(m.names().len(), 3);
}

#[test]
fn files_without_permissions_for_their_owner_are_written_too() {
    let mut m = Mirror::new();
    let want = Meta { mode: 0, ..file_meta(b"x") };
    m.target.put(&spot("f"), &want, b"x").unwrap();
    assert_eq!(m.stat("f").permissions().mode() & 0o7777, 0);
}
