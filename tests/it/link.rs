//! Links of every kind, over loopback and in process: what a session relies on.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use ringsync::error::{Error, Exit};
use ringsync::limits::{DIRECT_BYTES_MIN, FRAME_PAYLOAD_BYTES_MAX, LOCAL_QUEUE_FRAMES_MAX};
use ringsync::model::options::{Compress, IoChoice};
use ringsync::wire::frame::{Framer, RSYNC_ANSWER};
use ringsync::wire::{Incoming, Link, LocalEnd};

use crate::rng::Rng;

const DEADLINE: Duration = Duration::from_secs(30);

/// The ways to drive a socket that this machine allows: containers often block io_uring.
fn sockets() -> Vec<IoChoice> {
    let (_peer, socket) = tcp();
    match Link::tcp(socket, IoChoice::Uring, Compress::None, None) {
        Ok(_) => vec![IoChoice::Uring, IoChoice::Epoll],
        Err(e) => {
            println!("without io_uring: {e}");
            assert_eq!(e.exit(), Exit::Usage);
            vec![IoChoice::Auto, IoChoice::Epoll]
        }
    }
}

/// One end of a link, before it is in its thread.
enum End {
    Local(LocalEnd),
    Tcp(TcpStream, IoChoice, Compress),
}

impl End {
    fn open(self) -> Link {
        match self {
            Self::Local(end) => Link::local(end),
            Self::Tcp(stream, io, compress) => Link::tcp(stream, io, compress, None).unwrap(),
        }
    }
}

fn tcp() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    (client, listener.accept().unwrap().0)
}

/// Two ends of each kind, the kinds of sockets mixed too.
fn pairs() -> Vec<(String, End, End)> {
    let (a, b) = Link::pair().unwrap();
    let mut pairs = vec![("in-process".to_owned(), End::Local(a), End::Local(b))];
    for left in sockets() {
        for (right, compress) in [(IoChoice::Auto, Compress::None), (IoChoice::Epoll, Compress::Lz4), (IoChoice::Auto, Compress::Auto)] {
            let (a, b) = tcp();
            pairs.push((format!("{left:?} {right:?}"), End::Tcp(a, left, compress), End::Tcp(b, right, compress)));
        }
    }
    pairs
}

/// Payload `n` of a stream: its length and bytes follow from `n`.
fn payload(n: u32) -> Vec<u8> {
    let len = match n % 7 {
        0 => 1,
        1 => 100 + n as usize % 900,
        2 | 3 => 4096,
        4 => 65_536 + n as usize,
        5 => 16,
        _ => 200_000,
    };
    let mut bytes: Vec<u8> = (0..len as u32).map(|at| (at.wrapping_mul(n | 1) >> 3) as u8).collect();
    let stamp = n.to_le_bytes();
    bytes.iter_mut().zip(stamp).for_each(|(byte, stamp)| *byte = stamp);
    bytes
}

/// Bytes that do not compress, and differ with `n`.
fn noise(n: u32, len: usize) -> Vec<u8> {
    let mut state = u64::from(n) | 1 << 40;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    (0..len).map(|_| next()).collect()
}

fn frame(link: &mut Link) -> Vec<u8> {
    match link.wait(Some(DEADLINE)).unwrap() {
        Incoming::Frame(payload) => payload,
        other => panic!("no frame but {other:?}"),
    }
}

fn on_wire(payload: &[u8]) -> Vec<u8> {
    let packet = Framer::new(false).frame(payload.to_vec());
    [&packet.head[..], &packet.body].concat()
}

#[test]
fn two_ends_that_both_send_megabytes_before_they_read_do_not_block_each_other() {
    const FRAMES: u32 = 250;
    fn run(end: End) {
        let mut link = end.open();
        for n in 0..FRAMES {
            let mut buffer = link.buffer();
            buffer.extend_from_slice(&payload(n));
            link.send(buffer).unwrap();
        }
        link.flush().unwrap();
        for n in 0..FRAMES {
            let got = frame(&mut link);
            assert!(got == payload(n), "frame {n} differs");
            link.recycle(got);
        }
        link.close(DEADLINE).unwrap();
    }
    for (name, a, b) in pairs() {
        println!("{name}");
        let other = thread::spawn(move || run(b));
        run(a);
        other.join().unwrap();
    }
}

#[test]
fn a_slow_reader_holds_its_sender_up_and_loses_nothing() {
    const FRAMES: u32 = 100;
    for (name, a, b) in pairs() {
        println!("{name}");
        let (tell, told) = mpsc::channel();
        let sender = thread::spawn(move || {
            let mut link = a.open();
            for n in 0..FRAMES {
                link.send(noise(n, 200_000)).unwrap();
                tell.send(n).unwrap();
            }
            link.flush().unwrap();
            link.close(DEADLINE).unwrap();
        });
        let mut link = b.open();
        // Reads nothing until the sender stands still: it has to before all is sent.
        let mut sent = told.recv_timeout(DEADLINE).unwrap();
        while let Ok(n) = told.recv_timeout(Duration::from_millis(200)) {
            sent = n;
        }
        assert!(sent < FRAMES - 1, "{name}: a queue without a limit");
        for n in 0..FRAMES {
            assert!(frame(&mut link) == noise(n, 200_000), "{name}: frame {n} differs");
        }
        assert!(matches!(link.wait(Some(DEADLINE)).unwrap(), Incoming::Closed));
        drop(link);
        sender.join().unwrap();
    }
}

#[test]
fn a_wake_up_from_another_thread_ends_a_wait_and_is_not_lost_among_frames() {
    const ROUNDS: u32 = 2000;
    for (name, a, b) in pairs() {
        println!("{name}");
        let mut link = a.open();
        let wake = link.wake();
        let (tell, told) = mpsc::channel();
        let waker = thread::spawn(move || {
            let mut link = b.open();
            for n in 0..ROUNDS {
                if n % 3 == 0 {
                    link.send(vec![7; 100]).unwrap();
                    link.flush().unwrap();
                }
                wake.wake();
                // The next only after this one was seen: a lost one would be missed.
                told.recv_timeout(DEADLINE).unwrap();
            }
            drop(link);
        });
        let mut frames = 0;
        let mut wakes = 0;
        while wakes < ROUNDS {
            match link.wait(Some(DEADLINE)).unwrap() {
                Incoming::Woken => {
                    wakes += 1;
                    tell.send(()).unwrap();
                }
                Incoming::Frame(_) => frames += 1,
                other => panic!("{name}: {other:?} after {wakes} wake-ups"),
            }
        }
        while let Incoming::Frame(_) = link.wait(Some(DEADLINE)).unwrap() {
            frames += 1;
        }
        assert_eq!(frames, ROUNDS.div_ceil(3));
        waker.join().unwrap();
    }
}

#[test]
fn a_wake_up_does_not_end_a_send_that_blocks_and_is_seen_after_it() {
    for (name, a, b) in pairs() {
        println!("{name}");
        let mut link = a.open();
        link.wake().wake();
        let reader = thread::spawn(move || {
            let mut link = b.open();
            (0..LOCAL_QUEUE_FRAMES_MAX * 2).for_each(|_| drop(frame(&mut link)));
        });
        for _ in 0..LOCAL_QUEUE_FRAMES_MAX * 2 {
            link.send(vec![1; 100_000]).unwrap();
        }
        link.flush().unwrap();
        assert!(matches!(link.wait(Some(DEADLINE)).unwrap(), Incoming::Woken), "{name}");
        reader.join().unwrap();
    }
}

#[test]
fn a_wait_without_events_ends_with_its_timeout_and_a_look_at_once() {
    for (name, a, b) in pairs() {
        let mut link = a.open();
        let _other = b.open();
        let start = Instant::now();
        assert!(matches!(link.wait(Some(Duration::ZERO)).unwrap(), Incoming::TimedOut));
        assert!(matches!(link.wait(Some(Duration::from_millis(30))).unwrap(), Incoming::TimedOut));
        let took = start.elapsed();
        assert!(took >= Duration::from_millis(30), "{name}: {took:?}");
        assert!(took < DEADLINE, "{name}: {took:?}");
    }
}

#[test]
fn a_waiting_link_sleeps() {
    for (name, a, b) in pairs() {
        let (tell, told) = mpsc::channel();
        let sleeper = thread::spawn(move || {
            let mut link = a.open();
            // What is waited for after a large frame is waited for in a way of its own.
            assert_eq!(frame(&mut link).len(), 200_000);
            tell.send((nix::unistd::gettid(), link.wake())).unwrap();
            assert!(matches!(link.wait(None).unwrap(), Incoming::Woken));
        });
        let mut clock = b.open();
        clock.send(noise(1, 200_000)).unwrap();
        clock.flush().unwrap();
        let (tid, wake) = told.recv_timeout(DEADLINE).unwrap();
        let switches = || -> u64 {
            let status = std::fs::read_to_string(format!("/proc/self/task/{tid}/status")).unwrap();
            let of = |key: &str| status.lines().find_map(|l| l.strip_prefix(key)).unwrap().trim().parse::<u64>().unwrap();
            of("voluntary_ctxt_switches:") + of("nonvoluntary_ctxt_switches:")
        };
        // The first span is for it to fall asleep.
        assert!(matches!(clock.wait(Some(Duration::from_millis(100))).unwrap(), Incoming::TimedOut));
        let before = switches();
        assert!(matches!(clock.wait(Some(Duration::from_millis(200))).unwrap(), Incoming::TimedOut));
        assert_eq!(switches(), before, "{name}: an idle link ran");
        wake.wake();
        sleeper.join().unwrap();
    }
}

#[test]
fn a_link_that_is_blocked_and_has_no_room_for_what_comes_sleeps() {
    for io in sockets() {
        let (mut peer, socket) = tcp();
        let (tell, told) = mpsc::channel();
        let blocked = thread::spawn(move || {
            let mut link = Link::tcp(socket, io, Compress::None, None).unwrap().with_inbox(1);
            tell.send(nix::unistd::gettid()).unwrap();
            for _ in 0..100 {
                drop(frame(&mut link));
            }
            while link.send(noise(1, 200_000)).is_ok() {}
        });
        let tid = told.recv_timeout(DEADLINE).unwrap();
        // More than it takes, so that some of it waits in the socket in the end.
        peer.set_nonblocking(true).unwrap();
        let large = on_wire(&noise(2, 300_000)).repeat(500);
        let (mut sent, mut quiet) = (0, 0);
        while quiet < 20 && sent < large.len() {
            match peer.write(&large[sent..]) {
                Ok(n) => (sent, quiet) = (sent + n, 0),
                Err(_) => quiet += 1,
            }
            thread::sleep(Duration::from_millis(5));
        }
        assert!(sent < large.len(), "{io:?}: all of it was taken");
        let ran = || -> u64 {
            let stat = std::fs::read_to_string(format!("/proc/self/task/{tid}/schedstat")).unwrap();
            stat.split(' ').next().unwrap().parse().unwrap()
        };
        let before = ran();
        thread::sleep(Duration::from_millis(300));
        let ran = Duration::from_nanos(ran() - before);
        assert!(ran < Duration::from_millis(30), "{io:?}: it ran for {ran:?} of 300 ms");
        drop(peer);
        blocked.join().unwrap();
    }
}

#[test]
fn the_end_of_a_link_is_told_after_all_that_was_sent() {
    for (name, a, b) in pairs() {
        let mut link = a.open();
        let other = thread::spawn(move || {
            let mut link = b.open();
            (0..10).for_each(|n| link.send(payload(n)).unwrap());
            link.close(DEADLINE).unwrap();
        });
        (0..10).for_each(|n| assert!(frame(&mut link) == payload(n), "{name}"));
        for _ in 0..2 {
            assert!(matches!(link.wait(Some(DEADLINE)).unwrap(), Incoming::Closed), "{name}");
        }
        drop(link);
        other.join().unwrap();
    }
}

#[test]
fn what_a_peer_said_before_it_closed_is_heard_even_by_a_link_that_was_sending() {
    for (name, a, b) in pairs() {
        println!("{name}");
        let other = thread::spawn(move || {
            let mut link = b.open();
            drop(frame(&mut link));
            link.send(b"the disk is full".to_vec()).unwrap();
            // In good order, against a client that goes on sending: what it sends is dropped until it has seen the end.
            let _ = link.close(Duration::from_millis(500));
        });
        let mut link = a.open();
        let error = loop {
            if let Err(e) = link.send(vec![1; 60_000]).and_then(|()| link.flush()) {
                break e;
            }
        };
        assert!(error.is_retryable(), "{name}: {error}");
        assert_eq!(frame(&mut link), b"the disk is full", "{name}");
        other.join().unwrap();
    }
}

#[test]
fn frames_are_found_in_a_stream_that_comes_byte_by_byte() {
    for io in sockets() {
        let (mut peer, socket) = tcp();
        peer.set_nodelay(true).unwrap();
        let writer = thread::spawn(move || {
            for byte in [on_wire(b"one"), on_wire(&payload(1)), on_wire(b"three")].concat() {
                peer.write_all(&[byte]).unwrap();
            }
        });
        let mut link = Link::tcp(socket, io, Compress::None, None).unwrap();
        assert_eq!(frame(&mut link), b"one");
        assert_eq!(frame(&mut link), payload(1));
        assert_eq!(frame(&mut link), b"three");
        assert!(matches!(link.wait(Some(DEADLINE)).unwrap(), Incoming::Closed));
        writer.join().unwrap();
    }
}

#[test]
fn frames_of_every_size_are_found_however_they_come() {
    /// Length of frame `n`: now many small ones, now large ones, now both.
    fn len(rng: &mut Rng, n: u32) -> usize {
        let large = [0, 100, 50][n as usize / 20 % 3];
        1 + if rng.chance(large) { DIRECT_BYTES_MIN - 2 + rng.below(FRAME_PAYLOAD_BYTES_MAX - DIRECT_BYTES_MIN) } else { rng.below(9000) }
    }
    const FRAMES: u32 = 120;
    for (io, seed) in sockets().into_iter().zip(1..) {
        let (mut peer, socket) = tcp();
        let mut answers = peer.try_clone().unwrap();
        let writer = thread::spawn(move || {
            let mut rng = Rng::new(seed);
            let stream: Vec<u8> = (0..FRAMES).flat_map(|n| on_wire(&noise(n, len(&mut rng, n)))).collect();
            let mut rest = &stream[..];
            while !rest.is_empty() {
                let most = [17, 3000, 70_000, 400_000][rng.below(4)];
                let (piece, behind) = rest.split_at((1 + rng.below(most)).min(rest.len()));
                peer.write_all(piece).unwrap();
                if rng.chance(10) {
                    thread::sleep(Duration::from_millis(1));
                }
                rest = behind;
            }
        });
        let listener = thread::spawn(move || {
            let mut bytes = Vec::new();
            answers.read_to_end(&mut bytes).unwrap();
            bytes
        });
        let mut rng = Rng::new(seed);
        let mut link = Link::tcp(socket, io, Compress::None, None).unwrap();
        for n in 0..FRAMES {
            let got = frame(&mut link);
            assert!(got == noise(n, len(&mut rng, n)), "{io:?}, seed {seed}: frame {n} differs");
            link.recycle(got);
            link.send(noise(n, 5000)).unwrap();
        }
        writer.join().unwrap();
        link.flush().unwrap();
        drop(link);
        let answers = listener.join().unwrap();
        assert!(
            answers == (0..FRAMES).flat_map(|n| on_wire(&noise(n, 5000))).collect::<Vec<_>>(),
            "{io:?}: what it sent meanwhile differs"
        );
    }
}

#[test]
fn a_peer_that_breaks_off_or_breaks_the_protocol_is_an_error_of_its_kind() {
    let mut corrupted = on_wire(&payload(3));
    corrupted[500] ^= 1;
    let mut huge = on_wire(b"x");
    huge[8..12].copy_from_slice(&(FRAME_PAYLOAD_BYTES_MAX as u32 + 1).to_le_bytes());
    let wrong = |e: &Error| matches!(e, Error::Protocol(_));
    let lost = |e: &Error| matches!(e, Error::Socket { source, .. } if source.kind() == std::io::ErrorKind::UnexpectedEof);
    let other = |e: &Error| matches!(e, Error::Handshake(_));
    type Check<'a> = &'a dyn Fn(&Error) -> bool;
    let large = on_wire(&noise(1, 500_000));
    let mut flipped = large.clone();
    flipped[400_000] ^= 1;
    let cases: [(Vec<u8>, Check<'_>); 9] = [
        ([&large[..], &flipped].concat(), &wrong),
        ([&large[..], &large[..300_000]].concat(), &lost),
        ([&large[..], &large[..7]].concat(), &lost),
        (corrupted, &wrong),
        (huge, &wrong),
        (on_wire(&payload(2))[..100].to_vec(), &lost),
        (on_wire(b"x")[..7].to_vec(), &lost),
        (b"GET / HTTP/1.0\r\n\r\n".to_vec(), &other),
        (b"@RSYNCD: 31.0 sha512 sha256 sha1 md5 md4\n".to_vec(), &other),
    ];
    for io in sockets() {
        for (bytes, check) in &cases {
            let (mut peer, socket) = tcp();
            peer.write_all(&on_wire(b"fine")[..if check(&Error::Handshake(String::new())) { 0 } else { 20 }]).unwrap();
            let mut link = Link::tcp(socket, io, Compress::None, None).unwrap();
            let (mut writer, bytes_written) = (peer.try_clone().unwrap(), bytes.clone());
            let writer = thread::spawn(move || {
                writer.write_all(&bytes_written).unwrap();
                writer.shutdown(std::net::Shutdown::Write).unwrap();
            });
            let error = loop {
                match link.wait(Some(DEADLINE)) {
                    Ok(Incoming::Frame(payload)) => assert!(payload == b"fine" || payload == noise(1, 500_000)),
                    Ok(other) => panic!("{io:?}: {other:?}"),
                    Err(e) => break e,
                }
            };
            assert!(check(&error), "{io:?}: {error}");
            assert!(link.wait(Some(DEADLINE)).is_err(), "an error is final");
            writer.join().unwrap();
            drop(link);
            if bytes.starts_with(b"@") {
                let mut answer = Vec::new();
                peer.set_read_timeout(Some(DEADLINE)).unwrap();
                peer.read_to_end(&mut answer).unwrap();
                assert_eq!(answer, RSYNC_ANSWER);
            }
        }
    }
}

#[test]
fn a_link_that_may_choose_is_driven_by_the_best_there_is() {
    let best = if sockets().contains(&IoChoice::Uring) { "io_uring" } else { "epoll" };
    for (io, name) in [(IoChoice::Auto, best), (IoChoice::Epoll, "epoll")] {
        let (_peer, socket) = tcp();
        assert_eq!(Link::tcp(socket, io, Compress::None, None).unwrap().describe(), name);
    }
}

#[test]
fn many_links_come_and_go_with_traffic_in_flight() {
    for round in 0..50u8 {
        for io in sockets() {
            let (peer, socket) = tcp();
            let mut link = Link::tcp(socket, io, Compress::None, None).unwrap();
            let mut peer = Link::tcp(peer, IoChoice::Auto, Compress::None, None).unwrap();
            // More than the socket's buffers take: a send is with the kernel when the link is dropped.
            for _ in 0..30 {
                link.send(vec![round; 60_000]).unwrap();
            }
            peer.send(vec![round; 60_000]).unwrap();
            if round % 2 == 0 {
                drop(peer);
            } else {
                assert!(matches!(peer.wait(Some(DEADLINE)), Ok(Incoming::Frame(_))));
            }
            drop(link);
        }
    }
}
