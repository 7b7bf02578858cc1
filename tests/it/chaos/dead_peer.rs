//! Hosts that vanish without a word, and peers that are there and say nothing: found within the timeout, on both sides.

use std::fs;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use super::net::{Net, RECEIVER};
use crate::compare::{Rules, wait_equal};
use crate::mounts::privately;
use crate::place::{Place, deadline, skipped, until};
use crate::program::{As, Program, Server, sender};

/// Far longer than the timeouts here, for a machine that is busy, and far shorter than the usual 60 s.
const SOON: Duration = Duration::from_secs(25);

fn says(program: &Program, text: &str) -> bool {
    let start = Instant::now();
    until(SOON, || program.stderr().contains(text)) && start.elapsed() < SOON
}

fn equal(place: &Place, when: &str) {
    if let Err(differences) = wait_equal(&place.src, &place.dst, &Rules::full(), deadline(), || true) {
        panic!("{when}:\n{differences}");
    }
}

#[test]
fn a_host_that_vanished_is_noticed_by_both_sides() {
    const NAME: &str = "a_host_that_vanished_is_noticed_by_both_sides";
    privately(NAME, || {
        let net = match Net::enter() {
            Ok(net) => net,
            Err(e) => return skipped(NAME, e),
        };
        let place = Place::new();
        fs::write(place.src.join("a"), "a").unwrap();
        let (listen, module) = (format!("{RECEIVER}:8730"), format!("m={}", place.dst.display()));
        let mut server = net.far(|| Program::start(As::Us, &["serve", "--listen", &listen, "--timeout", "2", "--module", &module]));
        assert!(says(&server, "listening on"), "{}", server.stderr());
        let url = format!("ringsync://{RECEIVER}/m");
        let mut mirror = Program::start(As::Us, &["mirror", "--timeout", "2", place.src.to_str().unwrap(), &url]);
        equal(&place, "at first");

        // At rest, when nobody has anything to send.
        net.cut();
        assert!(says(&mirror, "connecting again"), "the sender does not notice:\n{}", mirror.stderr());
        assert!(says(&server, "a connection ended"), "the receiver does not notice:\n{}", server.stderr());
        fs::write(place.src.join("b"), "b").unwrap();
        net.mend();
        equal(&place, "after the host was away");

        // With a file on its way.
        let before = mirror.stderr().matches("connecting again").count();
        net.cut();
        fs::write(place.src.join("c"), vec![7; 3_000_000]).unwrap();
        assert!(until(SOON, || mirror.stderr().matches("connecting again").count() > before), "{}", mirror.stderr());
        net.mend();
        equal(&place, "after the host was away again");

        // A sender that is asked to end while the host is away ends.
        net.cut();
        mirror.terminate();
        net.mend();
        server.terminate();
    });
}

#[test]
fn a_receiver_that_is_stopped_is_given_up_and_taken_back() {
    let place = Place::new();
    fs::write(place.src.join("a"), "a").unwrap();
    let mut server = Server::start(As::Us, &place.dst);
    let mut mirror = sender(As::Us, Some(&server), &place.src, &place.dst, &["--timeout", "2"]);
    equal(&place, "at first");
    server.program().signal(Signal::SIGSTOP);
    assert!(says(&mirror, "io timeout after 2 seconds"), "{}", mirror.stderr());
    // It connects to a kernel that accepts for a program that does not answer, again and again, but not all the time.
    assert!(until(SOON, || mirror.stderr().matches("connecting again").count() >= 3), "{}", mirror.stderr());
    assert!(mirror.stderr().matches("connecting again").count() < 10, "{}", mirror.stderr());
    fs::write(place.src.join("b"), "b").unwrap();
    server.program().signal(Signal::SIGCONT);
    equal(&place, "after the receiver was stopped");
    mirror.terminate();

    // A single run says so by its exit code.
    server.program().signal(Signal::SIGSTOP);
    let mut mirror = sender(As::Us, Some(&server), &place.src, &place.dst, &["--once", "--timeout", "2"]);
    mirror.ends_with(30);
    // So does one that is asked to end while it waits, without a timeout.
    let mut mirror = sender(As::Us, Some(&server), &place.src, &place.dst, &[]);
    assert!(until(SOON, || fs::read_dir(format!("/proc/{}/fd", mirror.pid())).is_ok_and(|fds| {
        fds.filter_map(|fd| fs::read_link(fd.ok()?.path()).ok()).any(|to| to.to_string_lossy().starts_with("socket:"))
    })));
    mirror.terminate();
    server.program().signal(Signal::SIGCONT);
}
