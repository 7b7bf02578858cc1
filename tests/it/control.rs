//! The control socket of real mirrors and servers: what `status` tells and to whom, in every state; and short words for other tests that ask.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::mirror::watches;
use crate::place::{Place, deadline, until};
use crate::program::{As, Mirror, Program, Server, Way, sender};

/// A socket beside the source, which dies with the place.
pub fn socket(place: &Place) -> PathBuf {
    place.src.parent().expect("a directory above").join("control.sock")
}

/// A mirror whose socket is there.
pub fn mirror(way: Way, place: &Place, args: &[&str]) -> Mirror {
    let socket = socket(place);
    Mirror::start(As::Us, way, place, &[&["--control", socket.to_str().expect("a path of ours")], args].concat())
}

/// Asks whoever listens there, and returns the exit code and what was printed.
pub fn ask(socket: &Path, command: &str, args: &[&str]) -> (i32, String) {
    let mut program = Program::start(As::Us, &[&[command, "--control", socket.to_str().expect("a path of ours")], args].concat());
    let code = program.end().code().expect("it ends by itself");
    (code, program.stdout() + &program.stderr())
}

/// The status of a mirror; `None` if nobody answers.
pub fn try_status(socket: &Path) -> Option<Value> {
    let (code, said) = ask(socket, "status", &["--json"]);
    (code == 0).then(|| serde_json::from_str(&said).unwrap_or_else(|e| panic!("{e}: {said}")))
}

/// The status of a mirror that answers.
pub fn status(socket: &Path) -> Value {
    try_status(socket).expect("it answers")
}

/// Waits until the status is so.
pub fn until_status(socket: &Path, what: &str, mut is_so: impl FnMut(&Value) -> bool) -> Value {
    let mut last = Value::Null;
    let came = until(deadline(), || {
        let Some(now) = try_status(socket) else { return false };
        last = now;
        is_so(&last)
    });
    assert!(came, "the status is never {what}: {last:#}");
    last
}

/// A flush that has to end with this exit code.
pub fn flush(socket: &Path, args: &[&str], code: i32, when: &str) -> String {
    let (ended, said) = ask(socket, "flush", args);
    assert_eq!(ended, code, "flush {when}: {said}");
    said
}

/// Waits until it answers and the mirror is equal.
pub fn live(socket: &Path) {
    until_status(socket, "live", |status| status["state"] == "live");
}

#[test]
fn a_status_tells_what_is_in_use() {
    for (way, watch) in [Way::Local, Way::Tcp].into_iter().flat_map(|way| watches().iter().map(move |watch| (way, *watch))) {
        let place = Place::new();
        fs::create_dir(place.src.join("d")).unwrap();
        fs::write(place.src.join("d/f"), "12345").unwrap();
        let mirror = mirror(way, &place, &["--watch", watch, "-n", "2"]);
        let socket = socket(&place);
        live(&socket);
        assert_eq!(fs::symlink_metadata(&socket).unwrap().permissions().mode() & 0o777, 0o600);
        let status = status(&socket);
        let receiver = &status["receivers"][0];
        assert_eq!((status["kind"].as_str(), status["version"].as_u64()), (Some("mirror"), Some(1)), "{status:#}");
        assert_eq!(status["source"].as_str(), place.src.to_str(), "{status:#}");
        assert_eq!(status["watch"][0]["backend"].as_str(), Some(watch), "{status:#}");
        assert_eq!(status["entries"].as_u64(), Some(2), "{status:#}");
        let links: &[&str] = if way == Way::Local { &["in-process"] } else { &["io_uring", "epoll"] };
        assert!(links.contains(&receiver["link"].as_str().unwrap()), "{status:#}");
        assert_eq!(receiver["cycle_sent"], receiver["cycle_acknowledged"], "{status:#}");
        assert_eq!(receiver["lag_seconds"].as_f64(), Some(0.0), "{status:#}");
        assert_eq!((receiver["files_sent"].as_u64(), receiver["bytes_sent"].as_u64()), (Some(1), Some(5)), "{status:#}");
        assert!(receiver["failures"].as_array().unwrap().is_empty() && receiver["held"].is_null(), "{status:#}");
        let (code, text) = ask(&socket, "status", &[]);
        assert!(code == 0 && text.contains("state     live") && text.contains(watch), "{text}");
        mirror.terminate();
        assert!(!socket.exists(), "the socket outlives its mirror");
        assert_eq!(ask(&socket, "status", &[]).0, 10);
    }
}

#[test]
fn one_socket_has_one_mirror_and_a_dead_one_is_replaced() {
    let (place, other) = (Place::new(), Place::new());
    let path = socket(&place);
    let first = mirror(Way::Local, &place, &[]);
    live(&path);
    let mut second = sender(As::Us, None, &other.src, &other.dst, &["--control", path.to_str().unwrap()]);
    second.ends_with(10);
    assert!(second.stderr().contains("another ringsync answers there"), "{}", second.stderr());
    live(&path);
    {
        let mut program = first.program.lock().unwrap();
        program.signal(Signal::SIGKILL);
        program.end();
    }
    assert!(path.exists());
    let again = mirror(Way::Local, &place, &[]);
    live(&path);
    again.terminate();
}

/// Nobody has to name a socket: by the source, or not at all where there is one.
#[test]
fn mirrors_are_found_in_the_users_directory() {
    let (run, one, two) = (Place::new().for_user(), Place::new().for_user(), Place::new().for_user());
    let runtime = run.src.to_str().unwrap();
    let who = if crate::place::is_root() { As::User } else { As::Us };
    let ask = |args: &[&str]| {
        let mut program = Program::start_in(who, &[("XDG_RUNTIME_DIR", runtime)], args);
        (program.end().code().unwrap(), program.stdout() + &program.stderr())
    };
    let start = |place: &Place| {
        let (src, dst) = (place.src.to_str().unwrap(), place.dst.to_str().unwrap());
        Program::start_in(who, &[("XDG_RUNTIME_DIR", runtime)], &["mirror", src, dst])
    };
    let (code, said) = ask(&["status"]);
    assert!(code == 10 && said.contains("no mirror is running"), "{code} {said}");
    let mut first = start(&one);
    assert!(until(deadline(), || ask(&["status"]).0 == 0));
    assert_eq!(ask(&["flush"]).0, 0);
    // The same mirror once more has the same socket.
    let mut twice = start(&one);
    twice.ends_with(10);
    let mut second = start(&two);
    assert!(until(deadline(), || ask(&["status", two.src.to_str().unwrap()]).0 == 0));
    let (code, said) = ask(&["status"]);
    assert!(code == 1 && said.contains(one.src.to_str().unwrap()) && said.contains(two.src.to_str().unwrap()), "{code} {said}");
    let (code, said) = ask(&["status", one.src.to_str().unwrap()]);
    assert!(code == 0 && said.contains(one.src.to_str().unwrap()), "{code} {said}");
    assert_eq!(ask(&["flush", two.src.to_str().unwrap()]).0, 0);
    second.signal(Signal::SIGKILL);
    second.end();
    // What is left of a dead one confuses nobody.
    assert_eq!(ask(&["status"]).0, 0);
    first.terminate();
    assert_eq!(ask(&["approve"]).0, 10);
}

#[test]
fn a_lost_receiver_is_told_and_flush_waits_for_it() {
    let place = Place::new();
    let mut server = Server::start(As::Us, &place.dst);
    let socket = socket(&place);
    let mut mirror = sender(As::Us, Some(&server), &place.src, &place.dst, &["--control", socket.to_str().unwrap()]);
    live(&socket);
    server.program().signal(Signal::SIGSTOP);
    fs::write(place.src.join("f"), "late").unwrap();
    let behind = until_status(&socket, "behind", |status| status["receivers"][0]["lag_seconds"].as_f64() > Some(0.05));
    assert_eq!(behind["state"], "live", "{behind:#}");
    assert!(flush(&socket, &["--timeout", "0.1"], 30, "while the receiver is stopped").contains("are left"));
    let mut waiting = Program::start(As::Us, &["flush", "--control", socket.to_str().unwrap()]);
    server.kill_and_restart();
    waiting.ends_with(0);
    assert_eq!(fs::read(place.dst.join("f")).unwrap(), b"late");
    let after = until_status(&socket, "live again", |status| status["state"] == "live");
    assert!(after["receivers"][0]["reconnects"].as_u64() > Some(0), "{after:#}");
    assert_eq!(after["receivers"][0]["lag_seconds"].as_f64(), Some(0.0), "{after:#}");

    server.program().signal(Signal::SIGKILL);
    let lost = until_status(&socket, "lost", |status| status["state"] == "reconnecting");
    assert_eq!(lost["receivers"][0]["link"], "", "{lost:#}");
    let later = until_status(&socket, "further behind", |status| status["receivers"][0]["lag_seconds"].as_f64() > Some(0.2));
    assert!(later["reason"].as_str().is_some_and(|reason| !reason.is_empty()), "{later:#}");
    assert_eq!(ask(&socket, "approve", &[]).0, 10);
    mirror.terminate();
}

#[test]
fn a_server_tells_who_mirrors_into_it() {
    let place = Place::new();
    let path = socket(&place);
    let module = format!("m={}", place.dst.display());
    let mut server =
        Program::start(As::Us, &["serve", "--listen", "127.0.0.1:0", "--module", &module, "--control", path.to_str().unwrap()]);
    let alone = until_status(&path, "there", |status| status["kind"] == "serve");
    assert_eq!((alone["modules"][0]["name"].as_str(), alone["sessions"].as_array().map(Vec::len)), (Some("m"), Some(0)), "{alone:#}");
    let url = format!("ringsync://{}/m", alone["listen"][0].as_str().unwrap());
    let mut mirror = Program::start(As::Us, &["mirror", "--no-control", "-n", "3", place.src.to_str().unwrap(), &url]);
    let busy = until_status(&path, "in use", |status| status["sessions"][0]["connections"] == 4);
    assert_eq!(busy["sessions"][0]["module"], "m", "{busy:#}");
    assert_eq!(ask(&path, "flush", &[]).0, 10);
    assert!(ask(&path, "status", &[]).1.contains("session   m, 4 connections"));
    mirror.terminate();
    until_status(&path, "alone again", |status| status["sessions"].as_array().map(Vec::len) == Some(0));
    server.terminate();
}
