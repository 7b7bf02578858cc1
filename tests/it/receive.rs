//! Sessions over in-process links: the order that several connections keep, what is refused, and what ends a session.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::time::{Duration, Instant};

use ringsync::error::{Exit, Result};
use ringsync::model::meta::Kind;
use ringsync::model::op::{Op, OpError, Section};
use ringsync::model::options::{Compress, IoChoice};
use ringsync::model::path::RelPath;
use ringsync::receiver::{Module, Receiver, Sockets};
use ringsync::sys::wake::Wake;
use ringsync::wire::{Hello, Incoming, Link, Message, Messages, Payload, Token};

use crate::fixture::{Mirror, file_meta, meta, mkdir, rel, rename, spot, unlink};

mod continued;
mod questions;

/// Far more than any of this takes.
const DEADLINE: Duration = Duration::from_secs(20);

/// One end of a connection, as a client.
pub struct Client {
    link: Link,
    seen: std::collections::VecDeque<String>,
    token: Token,
}

fn receiver(root: &Path) -> Receiver {
    let module = |name: &str, read_only| Module { name: name.into(), root: root.to_path_buf(), read_only };
    Receiver::new(vec![module("m", false), module("ro", true)], Sockets::default())
}

impl Client {
    pub fn open(receiver: &Receiver, hello: &Hello) -> Self {
        Self::over(Link::local(receiver.connect_local().unwrap()), hello)
    }

    fn over(link: Link, hello: &Hello) -> Self {
        let mut client = Self { link, seen: [].into(), token: [0; 16] };
        client.say(|p| p.hello(hello));
        client
    }

    /// A control connection that was welcomed.
    fn control(receiver: &Receiver) -> Self {
        let mut client = Self::open(receiver, &Hello::control("m", RelPath::root(), 4).unwrap());
        client.expect("Welcome");
        client
    }

    /// A content connection that was welcomed.
    pub fn content(receiver: &Receiver, token: Token, index: u16) -> Self {
        let mut client = Self::open(receiver, &Hello::content(token, index));
        client.expect("Welcome");
        client
    }

    pub fn say(&mut self, build: impl FnOnce(&mut Payload)) {
        let mut payload = Payload::new();
        build(&mut payload);
        self.frame(payload);
    }

    /// Sends a payload, if there is something in it.
    pub fn frame(&mut self, payload: Payload) {
        self.offer(payload).unwrap();
    }

    /// The same, where the session may have ended.
    pub fn offer(&mut self, mut payload: Payload) -> Result<()> {
        if payload.is_empty() {
            return Ok(());
        }
        self.link.send(payload.take())?;
        self.link.flush()
    }

    /// What content connections join with.
    pub fn token(&self) -> Token {
        self.token
    }

    /// As [`Client::next`], but `None` also if nothing has come.
    pub fn poll(&mut self) -> Option<String> {
        if self.seen.is_empty()
            && let Incoming::Frame(payload) = self.link.wait(Some(Duration::ZERO)).unwrap()
        {
            self.take(&payload);
        }
        self.seen.pop_front()
    }

    fn take(&mut self, payload: &[u8]) {
        for message in Messages::new(payload) {
            let message = message.unwrap();
            if let Message::Welcome { token, .. } = &message {
                self.token = *token;
            }
            self.seen.push_back(format!("{message:?}"));
        }
    }

    /// The next message, as text; `None` at the end of the connection.
    pub fn next(&mut self) -> Option<String> {
        let end = Instant::now() + DEADLINE;
        loop {
            if let Some(text) = self.seen.pop_front() {
                return Some(text);
            }
            let left = end.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "nothing came");
            match self.link.wait(Some(left)).unwrap() {
                Incoming::Frame(payload) => self.take(&payload),
                Incoming::Closed => return None,
                Incoming::Woken | Incoming::TimedOut => {}
            }
        }
    }

    /// The next message, which begins so. Signs of life may come before any other.
    #[track_caller]
    pub fn expect(&mut self, start: &str) -> String {
        let is_it = |text: &String| text != "Pong" || start == "Pong";
        let text = std::iter::from_fn(|| self.next()).find(is_it).unwrap_or_else(|| panic!("the end instead of {start}"));
        assert!(text.starts_with(start), "{text} instead of {start}");
        text
    }

    /// Says why the session ended, and that it did.
    #[track_caller]
    fn expect_fatal(&mut self, part: &str) {
        let text = self.expect("Fatal");
        assert!(text.contains(part), "{text}");
        assert_eq!(self.next(), None);
    }
}

fn put(payload: &mut Payload, index: u32, path: &str, data: &[u8]) {
    payload.put(index, &spot(path), &file_meta(data), data.len(), true).copy_from_slice(data);
}

fn wait_for(what: &str, done: impl Fn() -> bool) {
    let end = Instant::now() + DEADLINE;
    while !done() {
        assert!(Instant::now() < end, "{what}");
        std::thread::yield_now();
    }
}

#[test]
fn a_cycle_goes_through_its_lists_in_order_whatever_comes_first() {
    let m = Mirror::new();
    let receiver = receiver(&m.path);
    let mut control = Client::control(&receiver);
    let mut content: Vec<Client> = (0..3).map(|i| Client::content(&receiver, control.token, i)).collect();
    // FILES arrive before their cycle has begun, and those of the next before the first is open.
    for cycle in [1, 2] {
        for (i, client) in content.iter_mut().enumerate() {
            client.say(|p| {
                p.files_of(cycle);
                for k in 0..10 {
                    put(p, i as u32 * 10 + k, &format!("d{cycle}/{i}-{k}"), b"x");
                }
            });
        }
    }
    control.say(|p| {
        for cycle in [1, 2] {
            let dir = format!("d{cycle}");
            p.begin(cycle);
            p.op(&mkdir(&dir));
            p.open();
            p.close(30);
            // Every file of the cycle is there, and then one goes: POST ran before a file would leave it, and fail to move all of them.
            for i in 0..3 {
                for k in 0..10 {
                    p.op(&Op::Link { from: spot(&format!("{dir}/{i}-{k}")), to: spot(&format!("{dir}/l{i}-{k}")) });
                }
            }
            p.op(&unlink(&format!("{dir}/0-0")));
            p.op(&Op::DirMeta { dir: rel(&dir), meta: meta(Kind::Dir, 0o750) });
            p.commit();
        }
    });
    control.expect("Ack { cycle: 1 }");
    control.expect("Ack { cycle: 2 }");
    for cycle in [1, 2] {
        let names = std::fs::read_dir(m.at(&format!("d{cycle}"))).unwrap().count();
        assert_eq!(names, 59);
        assert_eq!(crate::fixture::mtime(&m.at(&format!("d{cycle}"))), crate::fixture::WHEN);
    }
    // The client goes in good order.
    control.say(Payload::bye);
    assert_eq!(control.next(), None);
    assert_eq!(content[0].next(), None);
    drop(content);
    wait_for("the session is gone", || receiver.sessions() == 0);
}

#[test]
fn files_wait_for_open_and_post_waits_for_files() {
    let m = Mirror::new();
    let receiver = receiver(&m.path);
    let mut control = Client::control(&receiver);
    let mut content = Client::content(&receiver, control.token, 0);
    content.say(|p| {
        p.files_of(1);
        put(p, 0, "f", b"x");
    });
    control.say(|p| {
        p.begin(1);
        p.op(&mkdir("d"));
        p.ping();
    });
    control.expect("Pong");
    assert_eq!(m.names(), ["d"], "PRE is done, FILES are not");
    control.say(|p| {
        p.open();
        p.close(2);
        p.op(&Op::Rmdir { at: spot("d") });
        p.commit();
    });
    wait_for("the file comes after Open", || m.at("f").exists());
    assert!(m.at("d").exists(), "POST waits for the second file");
    content.say(|p| put(p, 1, "g", b"x"));
    control.expect("Ack { cycle: 1 }");
    assert_eq!(m.names(), ["f", "g"]);
}

/// One file may take longer than a client is patient.
#[test]
fn a_server_that_waits_for_files_says_that_it_lives() {
    let m = Mirror::new();
    let receiver = receiver(&m.path);
    let mut control = Client::control(&receiver);
    let mut content = Client::content(&receiver, control.token, 0);
    control.say(|p| {
        p.begin(1);
        p.open();
        p.close(1);
        p.commit();
    });
    control.expect("Pong");
    control.expect("Pong");
    content.say(|p| {
        p.files_of(1);
        put(p, 0, "f", b"x");
    });
    control.expect("Ack { cycle: 1 }");
}

#[test]
fn failures_are_named_by_list_and_index_before_the_ack() {
    let m = Mirror::new();
    let receiver = receiver(&m.path);
    let mut control = Client::control(&receiver);
    let mut content = Client::content(&receiver, control.token, 0);
    content.say(|p| {
        p.files_of(9);
        put(p, 4, "no/f", b"x");
        put(p, 5, "f", b"x");
        p.ping();
    });
    control.say(|p| {
        p.begin(9);
        p.op(&mkdir("d"));
        p.op(&rename("no", "d/no"));
        p.open();
        p.close(2);
        p.op(&unlink("d"));
        p.op(&Op::Rmdir { at: spot("d") });
        p.commit();
        p.begin(10);
        p.open();
        p.close(0);
        p.commit();
    });
    let failed = |section, index, errno| format!("{:?}", Message::Failed(OpError { section, index, errno }));
    let mut all = [control.next().unwrap(), control.next().unwrap(), control.next().unwrap()];
    all.sort();
    let mut want = [failed(Section::Pre, 1, libc::ENOENT), failed(Section::Files, 4, libc::ENOENT), failed(Section::Post, 0, libc::EISDIR)];
    want.sort();
    assert_eq!(all, want);
    control.expect("Ack { cycle: 9 }");
    control.expect("Ack { cycle: 10 }");
    content.expect("Pong");
}

#[test]
fn a_manifest_comes_between_cycles() {
    let m = Mirror::new();
    std::fs::create_dir(m.at("d")).unwrap();
    for i in 0..5000 {
        std::fs::write(m.at(&format!("d/a-long-enough-name-to-need-several-frames-{i:05}")), b"").unwrap();
    }
    let receiver = receiver(&m.path);
    let mut control = Client::control(&receiver);
    control.say(|p| p.list(&rel("")));
    control.expect("Listing { dir: , meta: Meta { kind: Dir, ");
    let (mut entries, mut listings) = (0, 1);
    loop {
        match control.next().unwrap() {
            text if text.starts_with("Entry") => entries += 1,
            text if text.starts_with("Listing") => listings += 1,
            text => {
                assert_eq!(text, "ListEnd");
                break;
            }
        }
    }
    assert_eq!((entries, listings), (5001, 2));
    control.say(|p| p.list(&rel("no")));
    control.expect("ListError { dir: no, errno: 2 }");
    control.expect("ListEnd");
}

#[test]
fn a_broken_content_connection_ends_the_session_and_removes_what_it_staged() {
    let m = Mirror::new();
    let receiver = receiver(&m.path);
    let mut control = Client::control(&receiver);
    let mut content: Vec<Client> = (0..2).map(|i| Client::content(&receiver, control.token, i)).collect();
    content[0].say(|p| {
        p.message(&Message::Stage { id: 1, offset: 0, data: b"x" });
        p.ping();
    });
    content[0].expect("Pong");
    assert!(m.at(".ringsync-staging/f1").exists());
    // One waits for a cycle, the control connection for files: both must come free.
    content[1].say(|p| {
        p.files_of(2);
        put(p, 0, "f", b"x");
    });
    control.say(|p| {
        p.begin(1);
        p.open();
        p.close(1);
    });
    drop(content.remove(0));
    control.expect_fatal("another connection of the session failed");
    content[0].expect_fatal("another connection of the session failed");
    wait_for("the session is gone", || receiver.sessions() == 0);
    assert!(m.names().is_empty());
    let mut late = Client::open(&receiver, &Hello::content(control.token, 3));
    late.expect("Refused");
}

#[test]
fn messages_out_of_their_place_end_the_session() {
    type Say = fn(&mut Payload);
    let control: [(&str, Say); 5] = [
        ("commit", |p| p.commit()),
        ("operation", |p| p.op(&mkdir("d"))),
        ("list in a cycle", |p| {
            p.begin(1);
            p.list(&rel(""));
        }),
        ("rmdir in PRE", |p| {
            p.begin(1);
            p.op(&Op::Rmdir { at: spot("d") });
        }),
        ("a server's", |p| p.ack(1)),
    ];
    for (what, say) in control {
        let m = Mirror::new();
        let receiver = receiver(&m.path);
        let mut client = Client::control(&receiver);
        client.say(say);
        client.expect_fatal(&format!("code: {}", Exit::Protocol as u8));
        assert!(m.names().is_empty(), "{what}");
    }
    let content: [(&str, Say); 3] = [
        ("a file before its cycle", |p| put(p, 0, "f", b"x")),
        ("an operation", |p| p.op(&mkdir("d"))),
        ("a deletion among files", |p| {
            p.files_of(1);
            p.message(&Message::Op(unlink("f")));
        }),
    ];
    for (what, say) in content {
        let m = Mirror::new();
        let receiver = receiver(&m.path);
        let mut control = Client::control(&receiver);
        let mut client = Client::content(&receiver, control.token, 0);
        client.say(say);
        client.expect_fatal(&format!("code: {}", Exit::Protocol as u8));
        control.expect_fatal("another connection of the session failed");
        assert!(m.names().is_empty(), "{what}");
    }
}

#[test]
fn more_or_later_files_than_announced_end_the_session() {
    let m = Mirror::new();
    let receiver = receiver(&m.path);
    let mut control = Client::control(&receiver);
    let mut content = Client::content(&receiver, control.token, 0);
    control.say(|p| {
        p.begin(1);
        p.open();
        p.close(1);
        p.commit();
    });
    content.say(|p| {
        p.files_of(1);
        put(p, 0, "f", b"x");
    });
    control.expect("Ack");
    content.say(|p| put(p, 1, "late", b"x"));
    content.expect_fatal("a cycle that is complete");
    control.expect_fatal("another connection");
    assert_eq!(m.names(), ["f"]);
}

#[test]
fn who_may_not_come_in_is_told_why() {
    let m = Mirror::new();
    std::fs::write(m.at("file"), b"x").unwrap();
    let receiver = receiver(&m.path);
    let refused = |hello: &Hello, part: &str| {
        let mut client = Client::open(&receiver, hello);
        let text = client.expect("Refused");
        assert!(text.contains(part), "{text}");
        assert_eq!(client.next(), None);
    };
    let control = |module: &str, path: &str| Hello::control(module, rel(path), 1).unwrap();
    refused(&control("x", ""), "Unknown module 'x'");
    refused(&control("m", "no/such"), "No such file");
    refused(&control("m", "file"), "Not a directory");
    refused(&control("m", ".ringsync-staging"), "keeps for itself");
    refused(&Hello::content([7; 16], 0), "does not exist");
    let mut first = Client::control(&receiver);
    let mut content = Client::content(&receiver, first.token, 0);
    refused(&Hello::content(first.token, 0), "exists already");
    refused(&Hello::content(first.token, 4), "more content connections");
    content.say(Payload::ping);
    content.expect("Pong");
    first.say(Payload::ping);
    first.expect("Pong");
    let mut stranger = Client { link: Link::local(receiver.connect_local().unwrap()), seen: [].into(), token: [0; 16] };
    stranger.say(Payload::ping);
    stranger.expect("Refused");
}

#[test]
fn a_new_session_of_a_directory_ends_the_older_one() {
    let m = Mirror::new();
    let receiver = receiver(&m.path);
    let mut older = Client::control(&receiver);
    let mut content = Client::content(&receiver, older.token, 0);
    content.say(|p| {
        p.message(&Message::Stage { id: 1, offset: 0, data: b"x" });
        p.ping();
    });
    content.expect("Pong");
    let mut newer = Client::control(&receiver);
    older.expect_fatal("taken over");
    content.expect_fatal("taken over");
    newer.say(|p| p.list(&rel("")));
    newer.expect("Listing");
    newer.expect("ListEnd");
    assert!(m.names().is_empty());
    assert_eq!(receiver.sessions(), 1);
}

#[test]
fn a_read_only_module_is_listed_and_not_changed() {
    let m = Mirror::new();
    let receiver = receiver(&m.path);
    let mut client = Client::open(&receiver, &Hello::control("ro", RelPath::root(), 1).unwrap());
    client.expect("Welcome");
    client.say(|p| p.list(&rel("")));
    client.expect("Listing");
    client.expect("ListEnd");
    client.say(|p| p.begin(1));
    client.expect_fatal("module is read only");
}

#[test]
fn a_receiver_that_shuts_down_leaves_nothing_behind() {
    let m = Mirror::new();
    let receiver = receiver(&m.path);
    let mut control = Client::control(&receiver);
    control.say(|p| {
        p.message(&Message::Stage { id: 1, offset: 0, data: b"x" });
        p.ping();
    });
    control.expect("Pong");
    assert!(receiver.shutdown(DEADLINE));
    assert!(m.names().is_empty());
    control.expect_fatal("shutting down");
}

#[test]
fn a_listener_serves_sessions_strangers_and_silent_ones_until_it_is_stopped() {
    let m = Mirror::new();
    let receiver = receiver(&m.path);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let stop = Wake::new().unwrap();
    let accepting = std::thread::spawn({
        let (receiver, stop) = (receiver.clone(), stop.clone());
        move || receiver.listen(&[listener], &stop)
    });
    let connect =
        |hello: &Hello| Client::over(Link::tcp(TcpStream::connect(address).unwrap(), IoChoice::Auto, Compress::Lz4, None).unwrap(), hello);
    let silent = TcpStream::connect(address).unwrap();
    let mut stranger = TcpStream::connect(address).unwrap();
    stranger.write_all(b"GET / HTTP/1.1\r\nHost: example.org\r\n\r\n").unwrap();
    stranger.set_read_timeout(Some(DEADLINE)).unwrap();
    let mut answer = Vec::new();
    // Closed with or without an answer, by an end or by a reset, but closed.
    if let Err(e) = stranger.read_to_end(&mut answer) {
        assert_eq!(e.kind(), std::io::ErrorKind::ConnectionReset);
    }

    let mut control = connect(&Hello::control("m", RelPath::root(), 1).unwrap());
    control.expect("Welcome");
    let mut content = connect(&Hello::content(control.token, 0));
    content.expect("Welcome");
    control.say(|p| {
        p.begin(1);
        p.op(&mkdir("d"));
        p.open();
        p.close(1);
        p.commit();
    });
    content.say(|p| {
        p.files_of(1);
        put(p, 0, "d/f", &[b'x'; 300_000]);
    });
    control.expect("Ack { cycle: 1 }");
    assert_eq!(m.stat("d/f").len(), 300_000);
    drop(content);
    control.expect_fatal("another connection");
    stop.wake();
    accepting.join().unwrap().unwrap();
    // A program that another test is starting may hold the socket for a moment, between fork and exec.
    assert!(crate::place::until(crate::place::deadline(), || TcpStream::connect(address).is_err()), "nobody listens any more");
    drop(silent);
}
