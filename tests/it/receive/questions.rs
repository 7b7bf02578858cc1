//! Questions for digests and for what a directory holds, and read-only sessions: what is answered, and what is refused.

use std::fs::File;

use ringsync::limits::SUMS_WAITING_MAX;
use ringsync::model::meta::Meta;
use ringsync::model::scrub::Part;

use super::*;
use crate::fixture::skipped_without_root;

fn part(name: &str, offset: u64, len: u64) -> Part {
    Part { name: spot(name).name, offset, len }
}

/// A control connection of a read-only session.
fn reading(receiver: &Receiver, module: &str) -> Client {
    let mut client = Client::open(receiver, &Hello::control(module, RelPath::root(), 4).unwrap().read_only());
    client.expect("Welcome");
    client
}

fn failed(errno: i32) -> String {
    format!("Summed {{ id: 7, sums: [Failed({errno})] }}")
}

#[test]
fn digests_are_of_regular_files_beneath_the_root_only() {
    let mut m = Mirror::new();
    m.ok(&mkdir("d"));
    m.put("d/f", b"0123456789");
    m.ok(&Op::Special { at: spot("fifo"), meta: meta(Kind::Fifo, 0o600) });
    m.ok(&Op::Symlink { at: spot("out"), target: (*b"..").into(), meta: meta(Kind::Symlink, 0o777) });
    m.ok(&Op::Symlink { at: spot("alias"), target: (*b"d/f").into(), meta: meta(Kind::Symlink, 0o777) });
    std::fs::write(m.outer.path().join("secret"), "x").unwrap();
    std::fs::create_dir(m.at(".ringsync-staging")).unwrap();
    std::fs::write(m.at(".ringsync-staging/f1"), "x").unwrap();
    let receiver = receiver(&m.path);
    let control = Client::control(&receiver);
    let mut content = Client::content(&receiver, control.token, 0);
    let digest = |bytes: &[u8]| format!("{:?}", blake3::hash(bytes).as_bytes());
    for (offset, len, bytes) in [(0, 10, &b"0123456789"[..]), (2, 3, b"234"), (8, 100, b"89"), (99, 5, b"")] {
        content.say(|p| p.sum(7, &rel("d"), &[part("f", offset, len)]));
        content.expect(&format!("Summed {{ id: 7, sums: [Read {{ size: 10, digest: {} }}] }}", digest(bytes)));
    }
    let dir_is_no_file = [("", "d"), ("", "fifo"), ("", "alias"), ("", "out")];
    for (dir, name) in dir_is_no_file {
        content.say(|p| p.sum(7, &rel(dir), &[part(name, 0, 5)]));
        content.expect(&failed(libc::ESTALE));
    }
    for (dir, name, errno) in [
        ("", "nothing", libc::ENOENT),
        ("nothing", "f", libc::ENOENT),
        ("out", "secret", libc::ENOTDIR),
        ("d/f", "x", libc::ENOTDIR),
        (".ringsync-staging", "f1", libc::EINVAL),
        ("", ".ringsync-staging-0123456789abcdef", libc::EINVAL),
    ] {
        content.say(|p| p.sum(7, &rel(dir), &[part(name, 0, 5)]));
        content.expect(&failed(errno));
    }
    // A device is not opened: to open one may do something.
    if !skipped_without_root("digests_are_of_regular_files_beneath_the_root_only (devices)") {
        m.ok(&Op::Special { at: spot("zero"), meta: Meta { rdev: libc::makedev(1, 5), ..meta(Kind::Char, 0o600) } });
        content.say(|p| p.sum(7, &rel(""), &[part("zero", 0, 5)]));
        content.expect(&failed(libc::ESTALE));
    }
}

#[test]
fn a_look_tells_one_directory_and_nothing_of_ours() {
    let mut m = Mirror::new();
    m.ok(&mkdir("d"));
    m.ok(&mkdir("d/inner"));
    m.put("d/inner/deep", b"x");
    for n in 0..3000 {
        m.put(&format!("d/{n}"), b"x");
    }
    std::fs::write(m.at("d/.ringsync-staging-00ff"), "x").unwrap();
    let receiver = receiver(&m.path);
    let control = Client::control(&receiver);
    let mut content = Client::content(&receiver, control.token, 0);
    content.say(|p| p.look(3, &rel("d")));
    let (mut parts, mut entries) = (0, 0);
    loop {
        let text = content.expect("Looked(LookDone { id: 3, ");
        assert!(!text.contains("staging") && !text.contains("deep"));
        (parts, entries) = (parts + 1, entries + text.matches("Entry {").count());
        if text.contains("last: true") {
            break;
        }
    }
    assert_eq!(entries, 3001);
    assert!(parts > 2, "{parts}");
    for (dir, errno) in [("nothing", libc::ENOENT), ("d/7", libc::ENOTDIR), (".ringsync-staging", libc::EINVAL)] {
        content.say(|p| p.look(4, &rel(dir)));
        content.expect(&format!("Looked(LookDone {{ id: 4, last: true, dir: Err({errno}), entries: [] }})"));
    }
}

#[test]
fn too_many_questions_end_the_session() {
    let mut m = Mirror::new();
    m.put("f", b"x");
    let receiver = receiver(&m.path);
    let control = Client::control(&receiver);
    let mut content = Client::content(&receiver, control.token, 0);
    content.say(|p| {
        (0..=SUMS_WAITING_MAX).for_each(|n| if n % 2 == 0 { p.look(n as u64, &rel("")) } else { p.sum(7, &rel(""), &[part("f", 0, 1)]) })
    });
    content.expect_fatal("too many questions");
}

#[test]
fn questions_are_no_part_of_a_control_connection() {
    let m = Mirror::new();
    let receiver = receiver(&m.path);
    let mut control = Client::control(&receiver);
    control.say(|p| p.look(1, &rel("")));
    control.expect_fatal("not allowed");
}

/// Large ones do not hold up what is to be written.
#[test]
fn files_are_put_while_digests_are_made() {
    let mut m = Mirror::new();
    m.put("small", b"x");
    std::fs::File::create(m.at("large")).unwrap().set_len(1 << 30).unwrap();
    let receiver = receiver(&m.path);
    let mut control = Client::control(&receiver);
    let mut content = Client::content(&receiver, control.token, 0);
    let parts: Vec<Part> = (0..32).map(|n| part("large", n << 25, 1 << 25)).collect();
    content.say(|p| p.sum(7, &rel(""), &parts));
    content.say(|p| {
        p.files_of(1);
        put(p, 0, "new", b"x");
    });
    control.say(|p| {
        p.begin(1);
        p.open();
        p.close(1);
        p.commit();
    });
    control.expect("Ack { cycle: 1 }");
    assert!(
        content.seen.is_empty() && matches!(content.link.wait(Some(Duration::ZERO)).unwrap(), Incoming::TimedOut),
        "the digests came first"
    );
    content.expect("Summed { id: 7");
}

/// What is said, and how.
type Say = (&'static str, fn(&mut Payload));

#[test]
fn a_read_only_session_refuses_every_change() {
    let mut m = Mirror::new();
    m.put("f", b"x");
    let receiver = receiver(&m.path);
    for module in ["m", "ro"] {
        let on_control: [Say; 4] = [
            ("begin", |p| p.begin(1)),
            ("stage", |p| p.message(&Message::Stage { id: 1, offset: 0, data: &[0] })),
            ("drop", |p| p.stage_drop(1)),
            ("a whole cycle", |p| {
                p.begin(1);
                p.op(&unlink("f"));
                p.open();
                p.close(0);
                p.commit();
            }),
        ];
        for (what, say) in on_control {
            let mut control = reading(&receiver, module);
            control.say(|p| p.list(&rel("")));
            control.expect("Listing");
            while !control.next().unwrap().starts_with("ListEnd") {}
            control.say(say);
            let text = control.expect("Fatal");
            assert!(text.contains("module is read only"), "{module}, {what}: {text}");
        }
        let on_content: [Say; 7] = [
            ("files of", |p| p.files_of(1)),
            ("put", |p| {
                p.files_of(1);
                put(p, 0, "new", b"x");
            }),
            ("stage", |p| p.message(&Message::Stage { id: 1, offset: 0, data: &[0] })),
            ("drop", |p| p.stage_drop(1)),
            ("patch", |p| p.patch(1, &spot("f"), b"\x01\x0c\x01\x0c")),
            ("steps", |p| p.steps(1, b"\x00")),
            ("seal", |p| p.seal(1, &[0; 32])),
        ];
        for (what, say) in on_content {
            let control = reading(&receiver, module);
            let mut content = Client::content(&receiver, control.token, 0);
            content.say(|p| p.sum(7, &rel(""), &[part("f", 0, 1)]));
            content.expect("Summed");
            content.say(say);
            let text = content.expect("Fatal");
            assert!(text.contains("module is read only"), "{module}, {what}: {text}");
        }
    }
    assert_eq!(m.names(), ["f"]);
    let missing = Hello::control("m", rel("missing"), 1).unwrap().read_only();
    Client::open(&receiver, &missing).expect("Refused");
    assert_eq!(m.names(), ["f"]);
}

/// Nor does one end a session that writes, or have it end.
#[test]
fn read_only_sessions_go_on_beside_one_that_writes() {
    let m = Mirror::new();
    std::fs::create_dir(m.at("p")).unwrap();
    std::fs::write(m.at("p/.ringsync-staging-p1"), "parked by the one that writes").unwrap();
    let receiver = receiver(&m.path);
    let mut writer = Client::control(&receiver);
    let mut first = reading(&receiver, "m");
    let mut second = reading(&receiver, "m");
    for client in [&mut first, &mut second] {
        client.say(|p| p.list(&rel("")));
        while !client.next().unwrap().starts_with("ListEnd") {}
    }
    assert!(m.at("p/.ringsync-staging-p1").exists(), "it is not the reader's to remove");
    writer.say(Payload::ping);
    writer.expect("Pong");
    let mut other = Client::control(&receiver);
    writer.expect_fatal("another session has taken over");
    for client in [&mut first, &mut second, &mut other] {
        client.say(Payload::ping);
        client.expect("Pong");
    }
}

/// A client that is never short of frames: what they are answered with comes in their order, so the question's answer, which takes many slices, comes before that of the last frame only if
/// it is worked on between them.
#[test]
fn a_question_does_not_wait_until_there_are_no_frames() {
    const SLICES: u64 = 8;
    let m = Mirror::new();
    File::create(m.at("f")).unwrap().set_len(SLICES << 20).unwrap();
    let receiver = receiver(&m.path);
    let control = Client::control(&receiver);
    let mut content = Client::content(&receiver, control.token, 0);
    let frames: Vec<Payload> = (0..50 * SLICES)
        .map(|at| {
            let mut payload = Payload::new();
            payload.stage(1, at << 15, 1 << 15, |bytes| bytes.resize(bytes.len() + (1 << 15), 7));
            payload
        })
        .collect();
    content.say(|p| p.sum(7, &rel(""), &[part("f", 0, SLICES << 20)]));
    frames.into_iter().for_each(|frame| content.frame(frame));
    content.say(Payload::ping);
    assert!(content.next().unwrap().starts_with("Summed"), "it is answered last");
    content.expect("Pong");
}
