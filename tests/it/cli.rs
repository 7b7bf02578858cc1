//! The program's front door: exit codes, messages and guard rails, before anything is mirrored.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Output, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::place::{deadline, until};

fn ringsync(dir: &Path, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_ringsync")).current_dir(dir).args(args).output().expect("run ringsync")
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn help_and_version_are_no_errors() {
    let here = Path::new(".");
    for args in [
        &["--help"][..],
        &["--version"],
        &["mirror", "--help"],
        &["serve", "--help"],
        &["status", "--help"],
        &["flush", "--help"],
        &["approve", "--help"],
        &["mirror", "--version"],
    ] {
        let output = ringsync(here, args);
        assert_eq!(output.status.code(), Some(0), "{args:?}");
        assert!(output.stderr.is_empty() && !output.stdout.is_empty(), "{args:?}");
    }
}

#[test]
fn what_is_refused_has_its_exit_code_and_reason() {
    let tmp = tempfile::tempdir().unwrap();
    fs::create_dir_all(tmp.path().join("src/sub")).unwrap();
    fs::write(tmp.path().join("file"), b"").unwrap();
    for (code, part, args) in [
        (1, "Usage", &[][..]),
        (1, "Usage", &["mirror"]),
        (1, "--nonsense", &["mirror", "--nonsense", "src", "dst"]),
        (1, "invalid value", &["mirror", "--watch", "magic", "src", "dst"]),
        (1, "cannot be used with", &["mirror", "--no-delete", "--delete-excluded", "src", "dst"]),
        (1, "exactly one", &["mirror", "src", "dst", "dst2"]),
        (1, "host::MODULE", &["mirror", "src", "host:path"]),
        (1, "comes later", &["mirror", "src", "rsync://host/module"]),
        (1, "filter rule", &["mirror", "--exclude", "", "src", "dst"]),
        (1, "percentage", &["mirror", "--max-delete", "101%", "src", "dst"]),
        (1, "percentage", &["mirror", "--max-delete=-1", "src", "dst"]),
        (1, "cannot be used with", &["mirror", "--control", "c", "--no-control", "src", "dst"]),
        (1, "seconds", &["flush", "--timeout", "soon"]),
        (10, "control socket nowhere", &["status", "--control", "nowhere"]),
        (10, "something else is at its path", &["mirror", "--control", "file", "src", "dst3"]),
        (11, "rules", &["mirror", "--exclude-from", "nowhere", "src", "dst"]),
        (11, "source missing", &["mirror", "missing", "dst"]),
        (11, "Not a directory", &["mirror", "file", "dst"]),
        (11, "Not a directory", &["mirror", "src", "file"]),
        (11, "make a first", &["mirror", "src", "a/b"]),
        (1, "inside source", &["mirror", "src", "src/sub"]),
        (1, "inside source", &["mirror", "src", "src/new"]),
        (1, "inside destination", &["mirror", "src/sub", "src"]),
        (1, "same directory", &["mirror", "src", "src/sub/.."]),
        (1, "--module", &["serve"]),
        (1, "NAME=PATH", &["serve", "--module", "src"]),
        (1, "cannot listen", &["serve", "--listen", "nobody:1", "--module", "m=src"]),
        (11, "module m", &["serve", "--module", "m=missing"]),
    ] {
        let output = ringsync(tmp.path(), args);
        assert_eq!(output.status.code(), Some(code), "{args:?}: {}", stderr(&output));
        assert!(stderr(&output).contains(part), "{args:?}: {}", stderr(&output));
    }
    assert!(!tmp.path().join("dst").exists() && !tmp.path().join("src/new").exists(), "a refused run must not make its destination");
}

#[test]
fn the_log_can_be_json() {
    let output = ringsync(Path::new("."), &["mirror", "--log-format", "json", "/nowhere/at/all", "/tmp"]);
    let text = stderr(&output);
    assert!(text.starts_with('{') && text.contains("\"exit\":11") && text.contains("\"level\":\"ERROR\""), "{text}");
}

/// Symbolic links are seen through by identity; a bind mount needs the table of mounts.
#[test]
fn a_bind_mount_is_seen_through() {
    let tmp = tempfile::tempdir().unwrap();
    for dir in ["src/sub/deep", "bound", "other", "dst/there", "src/here"] {
        fs::create_dir_all(tmp.path().join(dir)).unwrap();
    }
    // Each in a mount namespace of its own, so that nothing is left behind.
    for (mounts, source, dest, part) in [
        ("mount --bind src bound", "src", "bound", "same directory"),
        ("mount --bind src/sub bound", "src", "bound/deep", "inside source"),
        ("mount --bind src/sub bound", "src", "bound/new", "inside source"),
        ("mount --bind src/sub bound", "src", "bound", "inside source"),
        ("mount --bind src bound", "bound/sub", "src", "inside destination"),
        ("mount -t tmpfs none other && mkdir other/d && mount --bind other src/here", "src", "other/d", "inside source"),
        ("mount --bind other src/here && mount --bind other dst/there", "src", "dst", "a mount brings the same directory"),
    ] {
        let script = format!("{mounts} && exec {} mirror --once {source} {dest}", env!("CARGO_BIN_EXE_ringsync"));
        let output = Command::new("unshare").current_dir(tmp.path()).args(["-rm", "sh", "-c", &script]).output().expect("run unshare");
        if stderr(&output).contains("unshare:") {
            println!("not tried, this host allows no mount namespace: {}", stderr(&output));
            return;
        }
        assert_eq!(output.status.code(), Some(1), "{mounts}: {}", stderr(&output));
        assert!(stderr(&output).contains(part), "{mounts}: {}", stderr(&output));
    }
    assert!(!tmp.path().join("src/sub/new").exists());
}

/// Whoever reads the log may go: what is to be said then is lost, and nothing else.
#[test]
fn a_server_whose_log_nobody_reads_any_more_ends_when_it_is_told_to() {
    let tmp = tempfile::tempdir().unwrap();
    let module = format!("m={}", tmp.path().display());
    let mut server = Command::new(env!("CARGO_BIN_EXE_ringsync"))
        .args(["serve", "--no-control", "--listen", "127.0.0.1:0", "--module", &module])
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut first = String::new();
    BufReader::new(server.stderr.take().unwrap()).read_line(&mut first).unwrap();
    kill(Pid::from_raw(server.id() as i32), Signal::SIGTERM).unwrap();
    until(deadline(), || server.try_wait().unwrap().is_some());
    let _ = server.kill();
    assert_eq!(server.wait().unwrap().code(), Some(20), "after: {first}");
}
