//! Live mirrors whose connection is lost and made again: they go on where they were if nothing else can have changed the mirror, and begin with its manifest otherwise. What is equal in
//! the end, what went over the wire, and what it costs to wait.

use std::cell::RefCell;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::compare::{Rules, wait_equal};
use crate::control::{live, mirror, socket, status, until_status};
use crate::mirror::watches;
use crate::place::{Place, deadline, until};
use crate::program::{As, Program, Server, Way};
use crate::proxy::Proxy;

const DIRS: usize = 20;
const FILES: usize = 100;
/// A manifest of all that is much longer, the answers to a reconnect and some changes are much shorter.
const MANIFEST_BYTES_MIN: u64 = 24 * 1024;

/// A mirror of some thousand files behind a proxy.
struct Away {
    place: Place,
    server: Server,
    proxy: Proxy,
    sender: Program,
    socket: PathBuf,
}

impl Away {
    fn start(args: &[&str]) -> Self {
        let place = Place::new();
        for dir in 0..DIRS {
            let dir = place.src.join(format!("d{dir}"));
            fs::create_dir(&dir).unwrap();
            for file in 0..FILES {
                fs::write(dir.join(format!("file {file}")), format!("{file}")).unwrap();
            }
        }
        let server = Server::start(As::Us, &place.dst);
        let proxy = Proxy::start(server.port(), u64::MAX);
        let socket = socket(&place);
        let (at, url) = (socket.to_str().unwrap(), proxy.url());
        let ends = [place.src.to_str().unwrap(), url.as_str()];
        let sender = Program::start(As::Us, &[&["mirror", "--control", at], args, &ends].concat());
        let away = Self { place, server, proxy, sender, socket };
        live(&away.socket);
        away
    }

    /// The connection is lost and does not come back before [`Away::back`].
    fn lose(&self) {
        self.proxy.refuse(true);
        self.proxy.cut();
        until_status(&self.socket, "reconnecting", |status| status["state"] == "reconnecting");
    }

    fn back(&mut self) -> Value {
        self.proxy.refuse(false);
        self.settle();
        status(&self.socket)
    }

    fn settle(&mut self) {
        let sender = RefCell::new(&mut self.sender);
        let equal = wait_equal(&self.place.src, &self.place.dst, &Rules::full(), deadline(), || sender.borrow_mut().runs());
        equal.unwrap_or_else(|differences| panic!("not equal:\n{differences}\n{}", self.sender.stderr()));
        live(&self.socket);
    }

    /// Some of everything changes.
    fn change(&self, salt: &str) {
        let at = |path: &str| self.place.src.join(path);
        fs::write(at("d1/file 1"), format!("changed {salt}")).unwrap();
        fs::write(at(&format!("d2/new {salt}")), salt).unwrap();
        fs::remove_file(at("d3/file 3")).unwrap();
        fs::rename(at("d4"), at("renamed")).unwrap();
        fs::write(at("renamed/file 4"), salt).unwrap();
        fs::create_dir_all(at("made/below")).unwrap();
        fs::write(at("made/below/file"), salt).unwrap();
        fs::remove_dir_all(at("d5")).unwrap();
        fs::hard_link(at("d6/file 1"), at("d7/linked")).unwrap();
        fs::set_permissions(at("d6/file 2"), Permissions::from_mode(0o600)).unwrap();
    }

    /// How often it was gone on with, and that nothing was taken for a failure.
    fn resumed(&self, status: &Value) -> u64 {
        let receiver = &status["receivers"][0];
        assert!(receiver["reconnects"].as_u64() >= Some(1), "{status:#}");
        assert_eq!(receiver["failing"].as_u64(), Some(0), "{status:#}");
        assert!(!self.sender.stderr().contains("it is tried again"), "{}", self.sender.stderr());
        receiver["resumed"].as_u64().unwrap()
    }

    fn end(mut self) {
        self.sender.terminate();
        assert!(!self.place.dst.join(".ringsync-staging").exists());
    }
}

#[test]
fn what_changed_meanwhile_is_sent_without_a_manifest() {
    for watch in watches() {
        let mut away = Away::start(&["--watch", watch]);
        let manifest = away.proxy.told();
        assert_eq!(status(&away.socket)["receivers"][0]["resumed"].as_u64(), Some(0));
        let before = away.proxy.told();
        away.lose();
        away.change("once");
        let now = away.back();
        assert_eq!(away.resumed(&now), 1, "{watch}: {}", away.sender.stderr());
        let told = away.proxy.told() - before;
        assert!(told < MANIFEST_BYTES_MIN, "{watch}: {told} bytes were said by the receiver, {manifest} at the start");
        // And it goes on to be watched.
        fs::write(away.place.src.join("d8/file 8"), "afterwards").unwrap();
        away.settle();
        away.end();
    }
}

/// Attempts that gave up while the server was stopped are at its door when it goes on: they are nobody's, and stand in nobody's way.
#[test]
fn a_server_that_was_stopped_through_several_attempts_is_gone_on_with() {
    let mut away = Away::start(&["--timeout", "1"]);
    away.server.program().signal(Signal::SIGSTOP);
    away.change("stopped");
    until_status(&away.socket, "several attempts", |status| status["receivers"][0]["reconnects"].as_u64() >= Some(4));
    away.server.program().signal(Signal::SIGCONT);
    let now = away.back();
    assert_eq!(away.resumed(&now), 1, "{}", away.sender.stderr());
    away.end();
}

/// A receiver that was started anew knows nothing, and another writer may have done anything: so does a sender that was promised nothing ask for the manifest.
#[test]
fn a_receiver_that_was_killed_is_asked_for_its_manifest() {
    let mut away = Away::start(&[]);
    away.proxy.refuse(true);
    away.server.kill_and_restart();
    until_status(&away.socket, "reconnecting", |status| status["state"] == "reconnecting");
    fs::write(away.place.dst.join("d1/file 1"), "drift").unwrap();
    away.change("killed");
    let now = away.back();
    assert_eq!(away.resumed(&now), 0, "{}", away.sender.stderr());
    away.end();
}

/// The manifest that a new receiver tells has nothing of it: what the watcher heard before and meanwhile is known still.
#[test]
fn changes_that_neither_length_nor_time_show_are_sent_to_a_receiver_that_was_killed() {
    for watch in watches() {
        let mut away = Away::start(&["--watch", watch]);
        let hide = |away: &Away, path: &str, by_rename: bool| {
            let path = away.place.src.join(path);
            let (time, content) = (fs::metadata(&path).unwrap().modified().unwrap(), fs::read_to_string(&path).unwrap());
            let target = if by_rename { away.place.beside("twin") } else { path.clone() };
            fs::write(&target, "x".repeat(content.len())).unwrap();
            fs::File::open(&target).unwrap().set_modified(time).unwrap();
            if by_rename {
                fs::rename(&target, &path).unwrap();
            }
        };
        away.proxy.refuse(true);
        hide(&away, "d1/file 1", false);
        away.server.kill_and_restart();
        hide(&away, "d2/file 2", true);
        until_status(&away.socket, "reconnecting", |status| status["state"] == "reconnecting");
        hide(&away, "d3/file 3", false);
        hide(&away, "d4/file 4", true);
        let now = away.back();
        assert_eq!(away.resumed(&now), 0, "{}", away.sender.stderr());
        away.end();
    }
}

#[test]
fn a_mirror_that_another_session_wrote_to_is_listed() {
    for below in ["", "/d9"] {
        let mut away = Away::start(&[]);
        away.lose();
        let other = Place::new();
        fs::write(other.src.join("other"), "other").unwrap();
        let url = format!("{}{below}", away.server.url());
        Program::start(As::Us, &["mirror", "--once", other.src.to_str().unwrap(), &url]).ends_with(0);
        assert!(!away.place.dst.join(format!("d9{}", if below.is_empty() { "" } else { "/file 1" })).exists());
        let now = away.back();
        assert_eq!(away.resumed(&now), 0, "{}", away.sender.stderr());
        away.end();
    }
}

#[test]
fn another_directory_at_the_mirrors_name_is_filled() {
    let mut away = Away::start(&[]);
    away.lose();
    fs::remove_dir_all(&away.place.dst).unwrap();
    fs::create_dir(&away.place.dst).unwrap();
    let now = away.back();
    assert_eq!(away.resumed(&now), 0, "{}", away.sender.stderr());
    away.end();
}

/// Who asks, or has it end, is told of what waits.
#[test]
fn what_changes_meanwhile_is_told() {
    let mut away = Away::start(&[]);
    away.lose();
    for n in 0..50 {
        fs::write(away.place.src.join(format!("new {n}")), "").unwrap();
    }
    until_status(&away.socket, "what waits", |status| status["state"] == "reconnecting" && status["dirty"].as_u64() >= Some(50));
    away.sender.terminate();
    let said = away.sender.stderr();
    assert!(said.contains("there was no receiver") && !said.contains(": 0 entries"), "{said}");
}

/// Nobody has lost a connection: what is written goes to a directory that is not the mirror any more.
#[test]
fn a_mirror_that_is_moved_away_or_removed_is_filled_where_it_should_be() {
    for way in [Way::Local, Way::Tcp] {
        let place = Place::new();
        fs::create_dir(place.src.join("d")).unwrap();
        fs::write(place.src.join("d/f"), "f").unwrap();
        let mirror = mirror(way, &place, &[]);
        let socket = socket(&place);
        live(&socket);
        fs::rename(&place.dst, place.beside("aside")).unwrap();
        fs::create_dir(&place.dst).unwrap();
        fs::write(place.src.join("new"), "new").unwrap();
        mirror.settle("in another directory");

        fs::remove_dir_all(&place.dst).unwrap();
        fs::write(place.src.join("newer"), "newer").unwrap();
        // It is tried again and again.
        until_status(&socket, "reconnecting", |status| {
            status["state"] == "reconnecting" && status["receivers"][0]["reconnects"].as_u64() >= Some(4)
        });
        fs::create_dir(&place.dst).unwrap();
        mirror.settle("in a new directory");
        live(&socket);
        mirror.terminate();
    }
}

/// The connection breaks again and again under a writer: no cycle is lost, nothing reserved is left, and what was in doubt is no failure.
#[test]
fn cuts_under_load_lose_nothing() {
    let mut away = Away::start(&["-n", "2"]);
    for round in 0..12 {
        for file in 0..300 {
            let dir = away.place.src.join(format!("d{}", file % DIRS));
            let path = dir.join(format!("load {}", file % 150));
            match (file + round) % 5 {
                0 => drop(fs::remove_file(path)),
                1 => drop(fs::rename(path, dir.join("moved"))),
                2 => drop(fs::hard_link(dir.join("file 7"), path)),
                _ => fs::write(path, format!("{round} {file}")).unwrap(),
            }
            if file == 40 * round % 300 {
                away.proxy.cut();
            }
        }
    }
    away.settle();
    // One that hits a manifest on its way is followed by a manifest; none is now.
    away.lose();
    fs::write(away.place.src.join("d1/last"), "last").unwrap();
    let now = away.back();
    assert!(away.resumed(&now) >= 1, "{now:#}\n{}", away.sender.stderr());
    away.end();
}

/// Who waits for a receiver that is away burns nothing, though its watcher lives (by inotify: the other would hear of all other tests); and events are taken in meanwhile, for the kernel's queue does not overflow.
#[test]
fn to_wait_costs_next_to_nothing() {
    let mut away = Away::start(&["--watch", "inotify"]);
    away.lose();
    let ticks = |away: &Away| {
        let stat = fs::read_to_string(format!("/proc/{}/stat", away.sender.pid())).unwrap();
        let fields: Vec<i64> = stat.rsplit(')').next().unwrap().split_whitespace().filter_map(|field| field.parse().ok()).collect();
        // State is no number, so user time is the 11th of what is left, and system time follows.
        fields[10] + fields[11]
    };
    let (before, refused) = (ticks(&away), away.proxy.refused());
    assert!(until(deadline(), || away.proxy.refused() >= refused + 4));
    let used = ticks(&away) - before;
    assert!(used <= 10, "{used} ticks while nothing happened");
    for round in 0..400 {
        for file in 0..FILES {
            fs::write(away.place.src.join(format!("d1/file {file}")), format!("{round} {file}")).unwrap();
        }
    }
    let now = away.back();
    assert_eq!(away.resumed(&now), 1, "{}", away.sender.stderr());
    assert_eq!(now["overflows"].as_u64(), Some(0), "{now:#}");
    let sent = now["receivers"][0]["files_sent"].as_u64().unwrap();
    assert!(sent < (DIRS * FILES + 3 * FILES) as u64, "{sent} files were sent");
    away.end();
}
