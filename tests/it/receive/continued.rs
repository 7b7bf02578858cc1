//! Sessions that go on from one that was lost: when the server says that the mirror is as it was left.

use ringsync::model::options::Writing;

use super::*;

fn hello() -> Hello {
    Hello::control("m", RelPath::root(), 4).unwrap()
}

/// Opens a control connection with this Hello, and says whether it goes on from the session that was named.
fn open(receiver: &Receiver, hello: &Hello) -> (Client, bool) {
    let mut client = Client::open(receiver, hello);
    let continued = client.expect("Welcome").contains("continued: true");
    (client, continued)
}

#[test]
fn only_who_wrote_last_goes_on() {
    let m = Mirror::new();
    let receiver = receiver(&m.path);
    let (first, continued) = open(&receiver, &hello());
    assert!(!continued);
    // The lost session need not have been noticed yet. Who only reads is in nobody's way.
    let (reader, continued) = open(&receiver, &hello().read_only().continuing(first.token));
    assert!(!continued);
    let (second, continued) = open(&receiver, &hello().continuing(first.token));
    assert!(continued);
    let mut content = Client::open(&receiver, &Hello::content(second.token, 0));
    assert!(content.expect("Welcome").contains("continued: false"));
    let (stranger, continued) = open(&receiver, &hello().continuing(reader.token));
    assert!(!continued);
    let (_, continued) = open(&receiver, &hello().continuing(second.token));
    assert!(!continued, "another session was between");
    let (third, continued) = open(&receiver, &hello().continuing(stranger.token));
    assert!(!continued, "another session was between");
    let in_place = Writing { in_place: true, ..Writing::default() };
    let (fourth, continued) = open(&receiver, &hello().with_writing(in_place).continuing(third.token));
    assert!(!continued, "another way of writing");
    let (_, continued) = open(&receiver, &hello().with_writing(in_place).continuing(fourth.token));
    assert!(continued);
}

/// The object counts, not the name; and the process, which alone knows who wrote.
#[test]
fn another_directory_or_another_receiver_is_not_gone_on_with() {
    let m = Mirror::new();
    let at = m.path.join("d");
    std::fs::create_dir(&at).unwrap();
    let first = receiver(&at);
    let (client, _) = open(&first, &hello());
    let (lost, continued) = open(&receiver(&at), &hello().continuing(client.token));
    assert!(!continued);
    std::fs::rename(&at, m.path.join("old")).unwrap();
    std::fs::create_dir(&at).unwrap();
    let (_, continued) = open(&first, &hello().continuing(client.token));
    assert!(!continued);
    drop(lost);
}
