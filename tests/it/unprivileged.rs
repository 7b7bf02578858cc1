//! The real target as an ordinary user: what the system refuses is borne where it can be, and our own permission bits do not keep us out.
//!
//! The tests start themselves again as user 65534; without root they are skipped.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::process::Command;

use ringsync::apply::{FsTarget, Listed, Root, Target};
use ringsync::model::attrs::Namespaces;
use ringsync::model::meta::{Kind, Meta};
use ringsync::model::op::{Abilities, Op};
use ringsync::model::options::{Durability, Writing};
use ringsync::sys::dir::Dir;

use crate::fixture::{Mirror, file_meta, meta, mkdir, rel, rename, skipped_without_root, spot, symlink, unlink};

const NOBODY: u32 = 65534;
const CHILD: &str = "RINGSYNC_TEST_AS_NOBODY";

/// Runs `body` in a process of user [`NOBODY`]; `test` is the name of the calling test.
fn as_nobody(test: &str, body: impl FnOnce()) {
    if std::env::var_os(CHILD).is_some() {
        assert_eq!(nix::unistd::geteuid().as_raw(), NOBODY);
        return body();
    }
    if skipped_without_root(test) {
        return;
    }
    // The build directory may be closed to others: a copy is not.
    let dir = tempfile::tempdir().unwrap();
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let program = dir.path().join("it");
    std::fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
    let name = format!("unprivileged::{test}");
    let mut command = Command::new(&program);
    // Root's supplementary groups are dropped by the standard library when the user changes.
    command.args(["--exact", &name, "--nocapture"]).env(CHILD, "1").current_dir("/").uid(NOBODY).gid(NOBODY);
    let output = command.output().unwrap();
    let text = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
}

#[test]
fn owners_that_cannot_be_set_are_no_error_and_lend_no_rights() {
    as_nobody("owners_that_cannot_be_set_are_no_error_and_lend_no_rights", || {
        let mut m = Mirror::new();
        let root = Root::open(&m.path, false).unwrap();
        assert_eq!(root.abilities(), Abilities { chown: false, mknod: false, ..root.abilities() });
        let want = Meta { mode: 0o6755, uid: 0, gid: 0, ..file_meta(b"x") };
        for _ in 0..2 {
            m.target.put(&spot("f"), &want, b"x").unwrap();
            m.ok(&Op::SetMeta { at: spot("f"), meta: want });
            let stat = m.stat("f");
            assert_eq!((stat.uid(), stat.gid(), stat.mode() & 0o7777), (NOBODY, NOBODY, 0o755), "nobody's setuid is not root's");
        }
        m.target.put(&spot("mine"), &Meta { mode: 0o6755, ..file_meta(b"x") }, b"x").unwrap();
        assert_eq!(m.stat("mine").mode() & 0o7777, 0o6755);
        m.ok(&Op::Symlink { at: spot("l"), target: (*b"t").into(), meta: Meta { uid: 0, ..meta(Kind::Symlink, 0o777) } });
        m.ok(&mkdir("d"));
        m.ok(&Op::DirMeta { dir: rel("d"), meta: Meta { uid: 0, gid: 0, ..meta(Kind::Dir, 0o750) } });
        assert_eq!(m.stat("d").mode() & 0o7777, 0o750);
        m.ok(&Op::Special { at: spot("p"), meta: Meta { uid: 0, ..meta(Kind::Fifo, 0o600) } });
        m.fails(&Op::Special { at: spot("c"), meta: Meta { rdev: libc::makedev(1, 3), ..meta(Kind::Char, 0o600) } }, libc::EPERM);
    });
}

#[test]
fn our_own_closed_directories_are_written_and_closed_again() {
    as_nobody("our_own_closed_directories_are_written_and_closed_again", || {
        let mut m = Mirror::new();
        let close = |m: &Mirror, path: &str, mode| std::fs::set_permissions(m.at(path), std::fs::Permissions::from_mode(mode)).unwrap();
        let modes = |m: &Mirror| (m.stat("a").mode() & 0o7777, m.stat("").mode() & 0o7777);
        m.ok(&mkdir("a"));
        m.ok(&mkdir("a/b"));
        m.put("a/b/old", b"x");
        m.put("a/plain", b"x");
        close(&m, "a/b", 0);
        close(&m, "a", 0o555);
        close(&m, "", 0o555);
        m.put("a/b/new", b"x");
        m.ok(&unlink("a/b/old"));
        m.ok(&mkdir("a/b/c"));
        m.ok(&symlink("a/l", "t"));
        m.ok(&rename("a/plain", "a/b/plain"));
        m.ok(&Op::Link { from: spot("a/b/new"), to: spot("a/link") });
        m.target.stage(1, 0, b"x").unwrap();
        m.ok(&Op::Place { at: spot("a/b/big"), meta: file_meta(b"x"), stage: 1 });
        m.target.end_cycle();
        assert_eq!(modes(&m), (0o555, 0o555));
        assert_eq!(m.stat("a").nlink(), 3);
        let mut seen = Vec::new();
        m.target.end_frame();
        for (dir, entry) in m.list() {
            seen.push(format!("{dir}/{}:{:o}", String::from_utf8_lossy(entry.name.as_bytes()), entry.meta.mode));
        }
        seen.sort();
        assert_eq!(
            seen,
            ["./a:555", "a/b/big:644", "a/b/c:755", "a/b/new:644", "a/b/plain:644", "a/b:0", "a/l:777", "a/link:644"],
            "closed directories are listed, with the permissions that they have"
        );
        m.target
            .list(&rel("a/b"), &mut |listed| {
                if let Listed::Dir { dir, meta } = listed {
                    seen.push(format!("{dir}: {:o}", meta.mode));
                }
            })
            .unwrap();
        assert_eq!(seen[8..], ["a/b: 0", "a/b/c: 755"]);
        assert_eq!(modes(&m), (0o555, 0o555));

        // A closed directory is moved to another parent: it is written to itself.
        m.ok(&mkdir("z"));
        m.ok(&Op::Park { from: spot("a/b"), id: 1 });
        m.ok(&rename("a/.ringsync-staging-p1-b", "z/b"));
        m.ok(&Op::DirMeta { dir: rel("z"), meta: meta(Kind::Dir, 0o500) });
        m.target.end_cycle();
        assert_eq!((m.stat("z").mode() & 0o7777, modes(&m)), (0o500, (0o555, 0o555)));
        close(&m, "", 0o700);
        close(&m, "z", 0o700);
        assert_eq!(m.stat("z/b").mode() & 0o7777, 0);
        close(&m, "z/b", 0o700);
        close(&m, "a", 0o700);
    });
}

/// Its first try gave it its mode: the second has to open it nevertheless.
#[test]
fn a_large_read_only_file_is_placed_in_a_closed_directory() {
    as_nobody("a_large_read_only_file_is_placed_in_a_closed_directory", || {
        let mut m = Mirror::new();
        m.ok(&mkdir("d"));
        std::fs::set_permissions(m.at("d"), std::fs::Permissions::from_mode(0o555)).unwrap();
        m.target.stage(1, 0, b"x").unwrap();
        m.ok(&Op::Place { at: spot("d/f"), meta: Meta { mode: 0o444, ..file_meta(b"x") }, stage: 1 });
        m.target.end_cycle();
        assert_eq!((m.stat("d/f").mode() & 0o7777, m.stat("d").mode() & 0o7777), (0o444, 0o555));
        assert_eq!(m.names().len(), 2, "{:?}", m.names());
    });
}

/// A base that its owner may not read is none: the file is to be sent whole, and that at once.
#[test]
fn a_small_delta_on_a_file_that_cannot_be_read_asks_for_all_of_it() {
    as_nobody("a_small_delta_on_a_file_that_cannot_be_read_asks_for_all_of_it", || {
        let mut m = Mirror::new();
        let closed = Meta { mode: 0o200, ..file_meta(b"x") };
        m.target.put(&spot("f"), &closed, b"x").unwrap();
        assert_eq!(m.target.put_patch(&spot("f"), &closed, &[0; 32], b""), Err(libc::ESTALE));
        assert_eq!(m.target.put(&spot("f"), &closed, b"y"), Ok(()));
    });
}

#[test]
fn leftovers_in_closed_directories_are_removed() {
    as_nobody("leftovers_in_closed_directories_are_removed", || {
        let mut m = Mirror::new();
        std::fs::create_dir_all(m.at(".ringsync-staging-00/a/b")).unwrap();
        std::fs::write(m.at(".ringsync-staging-00/a/b/f"), b"x").unwrap();
        for path in [".ringsync-staging-00/a/b", ".ringsync-staging-00/a", ".ringsync-staging-00"] {
            std::fs::set_permissions(m.at(path), std::fs::Permissions::from_mode(0o500)).unwrap();
        }
        m.reopen();
        assert!(m.list().is_empty());
        assert!(m.names().is_empty());
    });
}

/// What was left by a session that was killed, where even we are kept out: in the root, below it, and in a directory that goes.
#[test]
fn leftovers_beneath_closed_directories_are_removed() {
    as_nobody("leftovers_beneath_closed_directories_are_removed", || {
        const TEMP: &str = ".ringsync-staging-0123456789abcdef";
        let mut m = Mirror::new();
        let close = |m: &Mirror, path: &str, mode| std::fs::set_permissions(m.at(path), std::fs::Permissions::from_mode(mode)).unwrap();
        std::fs::create_dir_all(m.at(".ringsync-staging")).unwrap();
        std::fs::write(m.at(".ringsync-staging/f1"), b"x").unwrap();
        std::fs::create_dir_all(m.at("a")).unwrap();
        std::fs::write(m.at("a").join(TEMP), b"x").unwrap();
        for path in ["a", ""] {
            close(&m, path, 0o555);
        }
        m.reopen();
        assert_eq!(m.list().len(), 1);
        assert_eq!(m.names(), ["a"]);
        assert_eq!((m.stat("a").mode() & 0o7777, m.stat("").mode() & 0o7777), (0o555, 0o555));
        for mode in [0o555, 0] {
            close(&m, "a", 0o755);
            std::fs::write(m.at("a").join(TEMP), b"x").unwrap();
            close(&m, "a", mode);
            m.ok(&Op::Rmdir { at: spot("a") });
            m.ok(&mkdir("a"));
        }
        m.target.end_cycle();
        close(&m, "", 0o755);
    });
}

/// More of them than are loosened at one time: what waits for its name gets it, or goes, nevertheless.
#[test]
fn many_closed_directories_get_files_by_durable_cycles() {
    as_nobody("many_closed_directories_get_files_by_durable_cycles", || {
        let m = Mirror::new();
        let dirs: Vec<String> = (0..100).map(|n| format!("d{n}")).collect();
        for dir in &dirs {
            std::fs::create_dir(m.at(dir)).unwrap();
            std::fs::write(m.at(dir).join("f"), b"old").unwrap();
            std::fs::set_permissions(m.at(dir), std::fs::Permissions::from_mode(0o555)).unwrap();
        }
        let writing = Writing { durability: Durability::Cycle, ..Writing::default() };
        let root = Root::new(Dir::open_root(&m.path).unwrap(), false, (Namespaces::ALL, writing));
        for (content, settle) in [(b"new", true), (b"not", false)] {
            let mut target = FsTarget::new(root.clone());
            let names = ["f", "new"].map(|name| dirs.iter().map(move |dir| spot(&format!("{dir}/{name}"))));
            for at in names.into_iter().flatten() {
                assert_eq!(target.put(&at, &file_meta(content), content), Ok(()), "{at:?}");
            }
            if settle {
                assert!(target.settle().into_iter().all(|done| done == Ok(())));
            }
            target.end_cycle();
        }
        root.end_session(false);
        assert_eq!(m.names().len(), 3 * dirs.len(), "{:?}", m.names());
        for dir in &dirs {
            assert_eq!(m.stat(dir).mode() & 0o7777, 0o555, "{dir}");
            for name in ["f", "new"] {
                assert_eq!(std::fs::read(m.at(dir).join(name)).unwrap(), b"new", "{dir}/{name}");
            }
            std::fs::set_permissions(m.at(dir), std::fs::Permissions::from_mode(0o755)).unwrap();
        }
    });
}
