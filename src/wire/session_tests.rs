//! Tests of the states of a session.

use crate::error::Exit;
use crate::model::attrs::Attrs;
use crate::model::meta::{Kind, Meta, Time};
use crate::model::op::{Abilities, Op, OpError};
use crate::model::op::{Entry, Section, Spot};
use crate::model::path::Name;
use crate::model::path::RelPath;
use crate::wire::message::{Hello, Message};
use crate::wire::session::*;
use crate::wire::{VERSION_MAX, VERSION_MIN};

fn meta(kind: Kind) -> Meta {
    Meta { kind, mode: 0o644, uid: 0, gid: 0, mtime: Time::default(), size: 0, rdev: 0, attrs: 0 }
}

fn spot() -> Spot {
    Spot { dir: RelPath::root(), name: Name::new(b"a").unwrap().to_owned() }
}

/// One of each message that a client can send after its Hello, with what of it matters to the rules.
fn client_messages() -> Vec<Message<'static>> {
    let file = |op| Message::File { index: 0, op };
    vec![
        Message::List { dir: RelPath::root() },
        Message::Begin { cycle: 1 },
        Message::Op(Op::Mkdir { at: spot(), meta: meta(Kind::Dir) }),
        Message::Op(Op::Unlink { at: spot() }),
        Message::Op(Op::Rmdir { at: spot() }),
        Message::Open,
        file(Op::SetMeta { at: spot(), meta: meta(Kind::File) }),
        file(Op::Unlink { at: spot() }),
        Message::Put { index: 1, at: spot(), meta: meta(Kind::File), data: b"", new: false },
        Message::Close { files: 2 },
        Message::Commit,
        Message::FilesOf { cycle: 1 },
        Message::Stage { id: 1, offset: 0, data: b"" },
        Message::StageDrop { id: 1 },
        Message::Ping,
        Message::Bye,
        Message::Pong,
        Message::Skip,
    ]
}

/// Those of patches.
fn patches() -> [Message<'static>; 4] {
    [
        Message::Resume { id: 1, key: [0; 16], size: 9 },
        Message::Patch { id: 1, base: spot(), shapes: b"" },
        Message::Steps { id: 1, data: b"" },
        Message::Seal { id: 1, digest: [0; 32] },
    ]
}

#[test]
fn attributes_stand_before_operations() {
    let attrs = Attrs::new(vec![((*b"user.a").into(), Vec::new())]).unwrap().unwrap();
    let attrs = Message::Attrs(std::sync::Arc::new(attrs));
    ContentServer::new().check(&attrs).unwrap();
    let mut server = ControlServer::new();
    assert!(server.check(&attrs).is_err());
    for lead in [Message::Begin { cycle: 1 }, Message::Open, Message::Close { files: 0 }] {
        server.check(&lead).unwrap();
        server.check(&attrs).unwrap();
    }
    assert!(ControlClient::new().check(&attrs).is_err() && ContentClient::new().check(&attrs).is_err());
}

#[test]
fn patches_go_over_content_connections_and_are_answered_once() {
    for message in patches() {
        ContentServer::new().check(&message).unwrap();
        assert!(ControlServer::new().check(&message).is_err());
    }
    let mut client = ContentClient::new();
    let sealed = Message::Sealed { id: 1, errno: 0 };
    assert!(client.check(&sealed).is_err());
    let resumed = Message::Resumed { id: 1, shape: b"", digest: [0; 32] };
    assert!(client.check(&resumed).is_err());
    client.sent_resume();
    client.check(&resumed).unwrap();
    assert!(client.check(&resumed).is_err());
    client.sent_seal();
    client.check(&sealed).unwrap();
    assert!(client.check(&sealed).is_err());
}

/// Indexes into `client_messages` of what may stand in a state that `lead` leads to.
fn allowed(lead: &[usize]) -> Vec<usize> {
    let all = client_messages();
    (0..all.len())
        .filter(|next| {
            let mut server = ControlServer::new();
            lead.iter().for_each(|at| server.check(&all[*at]).unwrap());
            server.check(&all[*next]).is_ok()
        })
        .collect()
}

#[test]
fn a_control_connection_allows_in_each_state_what_belongs_there() {
    let any = [12, 13, 14];
    let with = |own: &[usize]| {
        let mut all = [own, &any].concat();
        all.sort_unstable();
        all
    };
    assert_eq!(allowed(&[]), with(&[0, 1, 15]));
    assert_eq!(allowed(&[1]), with(&[2, 3, 5]));
    assert_eq!(allowed(&[1, 5]), with(&[6, 8, 9]));
    assert_eq!(allowed(&[1, 5, 6, 8]), with(&[6, 8, 9]));
    assert_eq!(allowed(&[1, 5, 9]), with(&[3, 4, 10, 17]));
    // Cycle 1 once more is not the next one.
    assert_eq!(allowed(&[1, 5, 9, 10]), with(&[0, 15]));
    assert!(allowed(&[15]).is_empty());
    let mut server = ControlServer::new();
    for message in [Message::Begin { cycle: 7 }, Message::Open, client_messages()[6].clone()] {
        server.check(&message).unwrap();
    }
    assert!(server.check(&Message::Close { files: 0 }).is_err(), "fewer than were sent");
    assert!(server.check(&Message::Close { files: OPS_MAX + 1 }).is_err());
    assert!(server.check(&Message::Put { index: OPS_MAX, at: spot(), meta: meta(Kind::File), data: b"", new: false }).is_err());
}

#[test]
fn a_content_connection_needs_a_cycle_for_files_and_knows_no_order_of_operations() {
    let all = client_messages();
    let mut server = ContentServer::new();
    let ok: Vec<usize> = (0..all.len() - 3).filter(|at| server.check(&all[*at]).is_ok()).collect();
    assert_eq!(ok, [11, 12, 13, 14]);
    assert!(server.check(&all[6]).is_ok() && server.check(&all[8]).is_ok());
    assert!(server.check(&Message::FilesOf { cycle: 0 }).is_err());
    assert!(server.check(&Message::Bye).is_ok() && server.has_ended());
    assert!(server.check(&Message::Ping).is_err());
}

#[test]
fn a_server_answers_only_what_it_was_asked() {
    let name = Name::new(b"x").unwrap().to_owned();
    let entry = Message::Entry(Entry { name, meta: meta(Kind::File), target: None, link_group: 0 });
    let failed = Message::Failed(OpError { section: Section::Pre, index: 0, errno: 2 });
    let mut client = ControlClient::new();
    let listing = Message::Listing { dir: RelPath::root(), meta: meta(Kind::Dir) };
    for early in [&entry, &failed, &listing, &Message::ListEnd, &Message::Ack { cycle: 1 }, &Message::Ping] {
        assert!(client.check(early).is_err(), "{early:?}");
    }
    client.sent_list();
    assert!(client.check(&entry).is_err(), "no directory yet");
    for message in [&listing, &entry, &entry, &Message::ListError { dir: RelPath::root(), errno: 13 }, &Message::ListEnd] {
        client.check(message).unwrap();
    }
    assert!(client.check(&listing).is_err(), "the list is complete");
    client.sent_begin(5);
    client.sent_begin(6);
    assert!(client.check(&Message::Ack { cycle: 6 }).is_err());
    client.check(&failed).unwrap();
    client.check(&Message::Ack { cycle: 5 }).unwrap();
    assert_eq!((client.oldest(), client.in_flight()), (Some(6), 1));
    client.check(&Message::Pong).unwrap();
    client.check(&Message::Fatal { code: 11, text: "full" }).unwrap();
}

#[test]
fn the_highest_common_version_is_spoken_or_the_reason_is_said() {
    let hello = |min, max| {
        let mut hello = Hello::control("www", RelPath::root(), 4).unwrap();
        (hello.version_min, hello.version_max) = (min, max);
        Message::Hello(hello)
    };
    assert_eq!(greet(hello(VERSION_MIN, 900)).unwrap().0, VERSION_MAX);
    let refusal = greet(hello(VERSION_MAX + 1, 900)).unwrap_err();
    assert_eq!(refusal.code, Exit::Handshake);
    assert!(refusal.text.contains("update"));
    assert!(greet(Message::Ping).is_err());
    assert!(greet(Message::Hello(Hello::content([0; 16], 256))).is_err());
    let error = welcomed(&Message::Refused { code: 5, text: "Unknown module 'x'" }).unwrap_err();
    assert_eq!((error.exit(), error.to_string().as_str()), (Exit::Handshake, "Unknown module 'x'"));
    let busy = welcomed(&Message::Refused { code: 10, text: "max connections (2) reached -- try again later" }).unwrap_err();
    assert!(busy.is_retryable() && busy.exit() == Exit::Socket);
    assert!(welcomed(&Message::Welcome { version: 9, token: [0; 16], abilities: Abilities::default(), continued: false }).is_err());
    assert!(Hello::control("a\n", RelPath::root(), 1).is_err());
}
