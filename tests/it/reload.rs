//! SIGHUP: logs are opened again, rules are read again, and rules that are wrong change nothing.

use std::fs;
use std::path::Path;

use nix::sys::signal::Signal;

use crate::control::{flush, live, mirror, socket, status};
use crate::place::{Place, deadline, until};
use crate::program::{As, Program, Way};

fn text(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

#[test]
fn a_log_is_written_on_where_it_is_opened_again() {
    let place = Place::new();
    let (log, old) = (place.src.with_file_name("log"), place.src.with_file_name("log.1"));
    let mirror = mirror(Way::Local, &place, &["--log-file", log.to_str().unwrap()]);
    live(&socket(&place));
    assert!(text(&log).contains("the mirror is equal") && mirror.stderr().is_empty(), "{}{}", text(&log), mirror.stderr());
    fs::rename(&log, &old).unwrap();
    mirror.program.lock().unwrap().signal(Signal::SIGHUP);
    assert!(until(deadline(), || text(&log).contains("the filter rules are as before")));
    mirror.terminate();
    assert!(text(&log).contains("end of the mirror") && !text(&old).contains("end of the mirror"));

    let server_log = place.src.with_file_name("server");
    let module = format!("m={}", place.dst.display());
    let mut server = Program::start(
        As::Us,
        &["serve", "--no-control", "--listen", "127.0.0.1:0", "--module", &module, "--log-file", server_log.to_str().unwrap()],
    );
    assert!(until(deadline(), || text(&server_log).contains("listening on")));
    fs::remove_file(&server_log).unwrap();
    server.signal(Signal::SIGHUP);
    assert!(until(deadline(), || server_log.exists()));
    server.terminate();
}

#[test]
fn other_rules_are_followed_from_then_on() {
    for way in [Way::Local, Way::Tcp] {
        let place = Place::new();
        let rules = place.src.with_file_name("rules");
        fs::write(&rules, "*.o\n").unwrap();
        for name in ["a.c", "a.o", "a.tmp"] {
            fs::write(place.src.join(name), name).unwrap();
        }
        let mirror = mirror(way, &place, &["--exclude-from", rules.to_str().unwrap()]);
        let socket = socket(&place);
        live(&socket);
        let there = |name: &str| place.dst.join(name).exists();
        assert!(there("a.c") && there("a.tmp") && !there("a.o"));
        let pid = status(&socket)["pid"].clone();
        let hup = || mirror.program.lock().unwrap().signal(Signal::SIGHUP);

        fs::write(&rules, "*.tmp\n").unwrap();
        hup();
        assert!(until(deadline(), || there("a.o")), "{way:?}: what is not excluded any more does not come");
        fs::write(place.src.join("b.o"), "x").unwrap();
        fs::write(place.src.join("b.tmp"), "x").unwrap();
        flush(&socket, &[], 0, "with other rules");
        assert!(there("b.o") && !there("b.tmp"));
        // What was mirrored before and is excluded now stays as it is.
        fs::write(place.src.join("a.tmp"), "changed").unwrap();
        flush(&socket, &[], 0, "of an excluded file");
        assert_eq!(text(&place.dst.join("a.tmp")), "a.tmp");

        fs::write(&rules, "*.c\n- \n").unwrap();
        hup();
        assert!(until(deadline(), || mirror.stderr().contains("the filter rules stay as they are")), "{way:?}");
        fs::write(place.src.join("c.c"), "x").unwrap();
        flush(&socket, &[], 0, "with the rules that stayed");
        assert!(there("c.c"));
        assert_eq!(status(&socket)["pid"], pid);
        mirror.program.lock().unwrap().terminate();
    }
}
