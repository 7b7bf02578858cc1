//! What is refused, with which exit code and reason; and what filters and the delete policy leave out, compared with what rsync does.

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::compare::{Rules, compare};
use crate::mounts::Mounted;
use crate::place::{Place, skipped};
use crate::program::{As, Mirror, Program, Server, Way, once};

/// Starts `mirror SRC DEST`, demands an end with one of these codes, a reason that holds `reason`, and that nothing was written.
fn refused(src: &Path, dest: &str, codes: &[i32], reason: &str) {
    for once in [&["--once"][..], &[]] {
        let mut program = Program::start(As::Us, &[&["mirror"], once, &[src.to_str().unwrap(), dest]].concat());
        let status = program.end();
        let stderr = program.stderr();
        let what = format!("mirror {once:?} {} {dest}", src.display());
        assert!(status.code().is_some_and(|code| codes.contains(&code)), "{what} ended with {status}, not {codes:?}:\n{stderr}");
        assert!(stderr.to_lowercase().contains(reason), "{what}: the reason does not say {reason:?}:\n{stderr}");
    }
}

#[test]
fn directories_that_cannot_be_mirrored_into_each_other() {
    let place = Place::new();
    let text = |path: &Path| path.to_str().unwrap().to_owned();
    let other = place.beside("another name of src");
    symlink(&place.src, &other).unwrap();
    fs::create_dir_all(place.src.join("in/side")).unwrap();
    fs::write(place.src.join("file"), "x").unwrap();
    fs::write(place.dst.join("file"), "x").unwrap();
    let before = (crate::compare::untouched(&place.src), crate::compare::untouched(&place.dst));
    let usage = &[1, 11];
    refused(&place.src, &text(&place.src), usage, "same");
    refused(&place.src, &text(&other), usage, "same");
    refused(&other, &text(&place.src), usage, "same");
    refused(&place.src, &text(&place.src.join("in/side")), usage, "inside");
    refused(&place.src, &text(&place.src.join("in/new")), usage, "inside");
    refused(&place.src, &text(&other.join("in")), usage, "inside");
    refused(&place.src.join("in"), &text(&place.src), usage, "inside");
    refused(&place.beside("missing"), &text(&place.dst), usage, "missing");
    refused(&place.src.join("file"), &text(&place.dst), usage, "file");
    refused(&place.src, &text(&place.dst.join("file")), usage, "file");
    refused(&place.src, &text(&place.dst.join("no/parent")), usage, "parent");
    let after = (crate::compare::untouched(&place.src), crate::compare::untouched(&place.dst));
    assert!(before == after, "what is refused writes nothing");
}

#[test]
fn the_same_directory_under_another_mount() {
    const NAME: &str = "the_same_directory_under_another_mount";
    crate::mounts::privately(NAME, || {
        let place = Place::new();
        fs::create_dir(place.src.join("in")).unwrap();
        for (from, reason) in [(place.src.clone(), "same"), (place.src.join("in"), "inside")] {
            let mounted = match Mounted::bind(&from, &place.dst) {
                Ok(mounted) => mounted,
                Err(e) => return skipped(NAME, e),
            };
            refused(&place.src, place.dst.to_str().unwrap(), &[1, 11], reason);
            drop(mounted);
        }
    });
}

#[test]
fn servers_that_cannot_be_had() {
    let place = Place::new();
    let server = Server::start(As::Us, &place.dst);
    refused(&place.src, &server.url().replace("/m", "/unknown"), &[5], "unknown");
    refused(&place.src, &format!("{}/no/such/directory", server.url()), &[5, 11], "no");
    let text = |code: i32, dest: &str, reason: &str| {
        let mut program = Program::start(As::Us, &["mirror", "--once", place.src.to_str().unwrap(), dest]);
        program.ends_with(code);
        assert!(program.stderr().to_lowercase().contains(reason), "{dest}: {}", program.stderr());
    };
    let closed = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port();
    text(10, &format!("ringsync://127.0.0.1:{closed}/m"), "refused");
    // A stock rsyncd, which speaks first.
    let rsyncd = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = rsyncd.local_addr().unwrap().port();
    let greeting = std::thread::spawn(move || {
        let (mut peer, _) = rsyncd.accept().unwrap();
        peer.write_all(b"@RSYNCD: 31.0 sha512 sha256 sha1 md5 md4\n").unwrap();
        // Until the sender has understood and hung up.
        let _ = peer.read_to_end(&mut Vec::new());
    });
    text(5, &format!("ringsync://127.0.0.1:{port}/m"), "rsync");
    greeting.join().unwrap();
}

#[test]
fn a_read_only_module_is_not_written() {
    let place = Place::new();
    fs::write(place.src.join("f"), "x").unwrap();
    fs::write(place.dst.join("kept"), "x").unwrap();
    let before = crate::compare::untouched(&place.dst);
    let mut server = Server::start_with(As::Us, &place.dst, ",ro");
    refused(&place.src, &server.url(), &[5, 12, 23], "read only");
    assert!(before == crate::compare::untouched(&place.dst), "a read-only module was written");
    assert!(server.program().runs());
}

#[test]
fn wrong_command_lines() {
    let place = Place::new();
    let (src, dst) = (place.src.to_str().unwrap(), place.dst.to_str().unwrap());
    for args in [
        &["mirror"][..],
        &["mirror", src],
        &["mirror", "--no-such-option", src, dst],
        &["mirror", "--watch", "guess", src, dst],
        &["mirror", "-n", "0", src, dst],
        &["mirror", src, "ringsync://127.0.0.1:99999/m"],
        &["serve", "--listen", "nowhere", "--module", "m=/"],
        &["serve", "--listen", "127.0.0.1:0", "--module", "no-path"],
    ] {
        let mut program = Program::start(As::Us, args);
        program.ends_with(1);
        assert!(!program.stderr().is_empty(), "{args:?}: no reason");
    }
}

/// A tree that has something for each rule.
fn tree(root: &Path, what: &str) {
    for path in [
        "a.o",
        "a.c",
        "build/x",
        "build/y.o",
        "src/build/z",
        "src/deep/b.o",
        "src/deep/keep.o",
        "logs/today.log",
        "logs/old/1.log",
        "cache/c",
    ] {
        let path = root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, what).unwrap();
    }
}

/// The rule sets: options that rsync and ringsync share.
const RULES: &[&[&str]] = &[
    &["--exclude=*.o"],
    &["--exclude=/build/"],
    &["--exclude=build/"],
    &["--exclude=build"],
    &["--include=keep.o", "--exclude=*.o"],
    &["--include=/src/***", "--exclude=*"],
    &["--include=*/", "--include=*.log", "--exclude=*"],
    &["--exclude=/logs/**/1.log", "--exclude=src/*/b.?"],
    &["--exclude=*.o", "--delete-excluded"],
    &["--exclude=/src/deep", "--delete-excluded"],
    &["--no-delete"],
    &["--no-delete", "--exclude=logs"],
];

/// Source: one tree. Both destinations: another, with entries that are excluded, extra, or both.
fn filter_places() -> (Place, PathBuf) {
    let place = Place::new();
    tree(&place.src, "of the source");
    let reference = place.beside("reference");
    fs::create_dir(&reference).unwrap();
    for root in [&place.dst, &reference] {
        for path in ["extra.o", "extra.c", "build/extra", "src/deep/extra.o", "src/deep/a.o", "gone/a.o", "gone/x", "logs/extra.log"] {
            let path = root.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "of the mirror").unwrap();
        }
    }
    (place, reference)
}

fn rsync(place: &Place, reference: &Path, rules: &[&str]) -> bool {
    let mut command = Command::new("rsync");
    command.args(["-aH", "--checksum"]);
    if !rules.contains(&"--no-delete") {
        command.arg("--delete");
    }
    command.args(rules.iter().filter(|rule| **rule != "--no-delete"));
    let mut src = place.src.clone().into_os_string();
    src.push("/");
    command.arg(src).arg(reference).status().is_ok_and(|status| status.success() || status.code() == Some(23))
}

/// The trees that both made: names, types and contents; times of directories that only one of the two had to touch may differ.
fn same_as_rsync(place: &Place, reference: &Path, when: &str) {
    let differences = compare(reference, &place.dst, &Rules { most: 1000, ..Rules::full() });
    let found: Vec<_> = differences.found.iter().filter(|d| !(d.what.starts_with("mtime") && d.what.ends_with("Dir"))).collect();
    let found: Vec<_> =
        found.iter().filter(|d| !(d.what.starts_with("mtime") && place.src.join(d.path.to_string()).symlink_metadata().is_err())).collect();
    assert!(found.is_empty(), "{when}: rsync's result against ours: {found:#?}");
}

#[test]
fn filters_leave_what_rsync_leaves() {
    if Command::new("rsync").arg("--version").output().is_err() {
        return skipped("filters_leave_what_rsync_leaves", "rsync is not installed");
    }
    for rules in RULES {
        for way in [Way::Local, Way::Tcp] {
            let (place, reference) = filter_places();
            assert!(rsync(&place, &reference, rules), "rsync {rules:?}");
            let stderr = once(As::Us, way, &place, rules, 0);
            same_as_rsync(&place, &reference, &format!("{rules:?}, {way:?}\n{stderr}"));
        }
    }
}

#[test]
fn filters_hold_for_live_changes() {
    for watch in crate::mirror::watches() {
        let place = Place::new();
        tree(&place.src, "first");
        fs::create_dir(place.dst.join("build")).unwrap();
        fs::write(place.dst.join("build/mine"), "x").unwrap();
        fs::write(place.dst.join("mine.o"), "x").unwrap();
        let args = ["--exclude=*.o", "--exclude=/build/", "--watch", watch];
        let excluded: [&[u8]; 9] =
            [b"a.o", b"mine.o", b"build", b"src/deep/b.o", b"src/deep/keep.o", b"new/x.o", b"new/now.o", b"was.o", b"moved/deep/b.o"];
        let more: [&[u8]; 2] = [b"moved/deep/keep.o", b"build-included/y.o"];
        let mirror = Mirror::start(As::Us, Way::Local, &place, &args).skipping(excluded).skipping(more);
        mirror.settle("filtered");
        fs::write(place.src.join("build/later"), "x").unwrap();
        fs::create_dir(place.src.join("new")).unwrap();
        fs::write(place.src.join("new/x.o"), "x").unwrap();
        fs::write(place.src.join("new/x.c"), "x").unwrap();
        mirror.settle("new entries");
        // Renames over the border of the filter: what becomes excluded goes, as if it was deleted in the source; what becomes included comes.
        fs::rename(place.src.join("new/x.c"), place.src.join("new/now.o")).unwrap();
        fs::rename(place.src.join("a.o"), place.src.join("a.included")).unwrap();
        fs::rename(place.src.join("src"), place.src.join("moved")).unwrap();
        fs::rename(place.src.join("build"), place.src.join("build-included")).unwrap();
        mirror.settle("renames over the border");
        for (path, there) in [("build/mine", true), ("mine.o", true), ("new/x.o", false), ("new/now.o", false), ("moved/deep/b.o", false)] {
            assert_eq!(place.dst.join(path).exists(), there, "{watch}: {path}");
        }
        mirror.terminate();
    }
}

#[test]
fn without_delete_nothing_is_deleted_live() {
    let place = Place::new();
    tree(&place.src, "first");
    let mirror = Mirror::start(As::Us, Way::Local, &place, &["--no-delete"]);
    mirror.settle("at the start");
    fs::remove_file(place.src.join("a.c")).unwrap();
    fs::remove_dir_all(place.src.join("logs")).unwrap();
    fs::write(place.src.join("later"), "x").unwrap();
    let mirror = mirror.skipping([&b"a.c"[..], b"logs"]);
    mirror.settle("after deletions in the source");
    assert!(place.dst.join("a.c").exists() && place.dst.join("logs/old/1.log").exists());
    mirror.terminate();
}
