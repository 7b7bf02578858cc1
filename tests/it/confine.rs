//! Nothing outside the root is touched, whatever a peer names and whatever a local user swaps in meanwhile.

use std::os::unix::fs::{MetadataExt, symlink as os_symlink};

use ringsync::apply::Target;
use ringsync::model::meta::{Kind, Meta};
use ringsync::model::op::Op;

use crate::fixture::{Mirror, file_meta, meta, mkdir, rel, rename, spot, unlink};

/// A mirror beside a directory `outside` with a file in it, and a fingerprint of that.
fn mirror() -> (Mirror, impl Fn() -> Vec<String>) {
    let m = Mirror::new();
    let outside = m.outer.path().join("outside");
    std::fs::create_dir(&outside).unwrap();
    std::fs::write(outside.join("f"), b"secret").unwrap();
    let print = move || {
        let mut lines = vec![line(&outside)];
        for entry in std::fs::read_dir(&outside).unwrap() {
            let path = entry.unwrap().path();
            lines.push(format!("{} {:?}", line(&path), std::fs::read(&path)));
        }
        lines.sort();
        lines
    };
    (m, print)
}

fn line(path: &std::path::Path) -> String {
    let stat = path.symlink_metadata().unwrap();
    format!("{path:?} {:o} {} {} {} {}", stat.mode(), stat.uid(), stat.mtime_nsec(), stat.ctime(), stat.ctime_nsec())
}

/// One of each operation on `d/f` and beneath `d`.
fn all_ops() -> Vec<Op> {
    let file = meta(Kind::File, 0o4777);
    vec![
        mkdir("d/new"),
        Op::Symlink { at: spot("d/f"), target: (*b"x").into(), meta: meta(Kind::Symlink, 0o777) },
        Op::Special { at: spot("d/f"), meta: meta(Kind::Fifo, 0o666) },
        Op::SetMeta { at: spot("d/f"), meta: file },
        Op::Place { at: spot("d/f"), meta: Meta { size: 1, ..file }, stage: 1 },
        rename("d/f", "g"),
        rename("inside", "d/f"),
        Op::Park { from: spot("d/f"), id: 1 },
        Op::Link { from: spot("d/f"), to: spot("g") },
        Op::Link { from: spot("inside"), to: spot("d/g") },
        unlink("d/f"),
        Op::Rmdir { at: spot("d/f") },
        Op::DirMeta { dir: rel("d"), meta: meta(Kind::Dir, 0o777) },
    ]
}

#[test]
fn a_parent_swapped_for_a_symlink_is_not_followed() {
    let (mut m, outside) = mirror();
    m.put("inside", b"x");
    m.target.stage(1, 0, b"x").unwrap();
    os_symlink("../outside", m.at("d")).unwrap();
    os_symlink("d", m.at("e")).unwrap();
    let before = outside();
    for op in all_ops() {
        m.fails(&op, libc::ENOTDIR);
    }
    for path in ["d/f", "e/f", "d/x/f"] {
        assert_eq!(m.target.put(&spot(path), &file_meta(b"x"), b"x"), Err(libc::ENOTDIR), "{path}");
    }
    assert_eq!(m.target.list(&rel("d"), &mut |_| panic!("nothing to report")), Err(libc::ENOTDIR));
    assert_eq!(m.list().len(), 3, "links are listed as links");
    assert_eq!(outside(), before);
}

#[test]
fn a_symlink_at_the_name_never_leads_to_its_target() {
    let (mut m, outside) = mirror();
    let before = outside();
    let swap = |m: &Mirror| {
        let _ = std::fs::remove_file(m.at("f"));
        os_symlink("../outside/f", m.at("f")).unwrap();
    };
    swap(&m);
    m.fails(&Op::SetMeta { at: spot("f"), meta: meta(Kind::File, 0o4777) }, libc::ESTALE);
    m.ok(&Op::SetMeta { at: spot("f"), meta: meta(Kind::Symlink, 0o777) });
    m.put("f", b"mine");
    swap(&m);
    m.target.stage(1, 0, b"x").unwrap();
    m.ok(&Op::Place { at: spot("f"), meta: file_meta(b"x"), stage: 1 });
    swap(&m);
    m.ok(&unlink("f"));
    swap(&m);
    m.ok(&Op::Link { from: spot("f"), to: spot("g") });
    assert!(m.stat("g").is_symlink(), "the link itself is linked");
    m.ok(&Op::Special { at: spot("f"), meta: meta(Kind::Fifo, 0o666) });
    assert_eq!(outside(), before);
}

#[test]
fn a_directory_moved_outside_between_frames_is_noticed() {
    let (mut m, outside) = mirror();
    m.ok(&mkdir("d"));
    m.put("d/1", b"x");
    m.target.end_frame();
    std::fs::rename(m.at("d"), m.outer.path().join("taken")).unwrap();
    let before = outside();
    assert_eq!(m.target.put(&spot("d/2"), &file_meta(b"x"), b"x"), Err(libc::ENOENT));
    assert!(!m.outer.path().join("taken/2").exists());
    assert_eq!(outside(), before);
}

#[test]
fn a_staging_directory_swapped_for_a_symlink_is_replaced() {
    let (mut m, outside) = mirror();
    let before = outside();
    m.target.stage(1, 0, b"x").unwrap();
    std::fs::rename(m.at(".ringsync-staging"), m.outer.path().join("taken")).unwrap();
    os_symlink("../outside", m.at(".ringsync-staging")).unwrap();
    assert!(m.target.op(&Op::Place { at: spot("f"), meta: file_meta(b"x"), stage: 1 }).is_err());
    m.target.stage(2, 0, b"y").unwrap();
    m.ok(&Op::Place { at: spot("f"), meta: file_meta(b"y"), stage: 2 });
    assert!(m.stat(".ringsync-staging").is_dir());
    m.target.drop_stage(1);
    assert_eq!(outside(), before);
}

#[test]
fn leftovers_are_removed_without_following_links() {
    let (mut m, outside) = mirror();
    os_symlink("../outside", m.at(".ringsync-staging")).unwrap();
    os_symlink("../outside", m.at(".ringsync-staging-00")).unwrap();
    let before = outside();
    m.reopen();
    assert!(m.list().is_empty());
    assert!(m.names().is_empty());
    assert_eq!(outside(), before);
}

#[test]
fn reserved_names_are_refused_in_every_operation() {
    let mut m = Mirror::new();
    m.put("a", b"x");
    m.target.stage(1, 0, b"x").unwrap();
    let file = file_meta(b"x");
    for path in [
        ".ringsync-staging",
        ".ringsync-staging/f1",
        ".ringsync-staging-1",
        ".ringsync-staging-1/x",
        "d/.ringsync-staging-p1/.ringsync-staging",
    ] {
        for op in [
            mkdir(path),
            unlink(path),
            rename(path, "b"),
            rename("a", path),
            Op::Park { from: spot(path), id: 5 },
            Op::Link { from: spot("a"), to: spot(path) },
            Op::Link { from: spot(path), to: spot("b") },
            Op::Rmdir { at: spot(path) },
            Op::SetMeta { at: spot(path), meta: file },
            Op::Place { at: spot(path), meta: file, stage: 1 },
            Op::Symlink { at: spot(path), target: (*b"x").into(), meta: meta(Kind::Symlink, 0o777) },
            Op::Special { at: spot(path), meta: meta(Kind::Fifo, 0o600) },
        ] {
            m.fails(&op, libc::EINVAL);
        }
        assert_eq!(m.target.put(&spot(path), &file, b"x"), Err(libc::EINVAL));
        assert!(m.target.list(&rel(path), &mut |_| panic!("nothing to report")).is_err(), "{path}");
    }
}
