//! Tests of the tree.

use crate::model::event::Key;
use crate::model::meta::{Ident, Kind, Meta, Time};
use crate::model::path::Name;
use crate::plan::tree::{ROOT, Tree};

fn name(text: &str) -> Name<'_> {
    Name::new(text.as_bytes()).unwrap()
}

fn ident(ino: u64) -> Ident {
    Ident { dev: 7, ino, birth_ns: 1 }
}

#[test]
fn a_renamed_directory_keeps_what_is_below() {
    let mut tree = Tree::new(1);
    let a = tree.child_or_insert(ROOT, name("a"));
    let b = tree.child_or_insert(a, name("b"));
    let c = tree.child_or_insert(b, name("c"));
    tree.reparent(b, ROOT, name("x"));
    assert_eq!(tree.path(c).unwrap().as_bytes(), b"x/c");
    assert!(tree.child(a, b"b").is_none());
    tree.check();
    let stale = tree.reference(c);
    tree.remove(c);
    assert_eq!(tree.resolve(stale), None);
    let again = tree.child_or_insert(ROOT, name("c"));
    assert_eq!(again, c, "slots are used again");
    assert_eq!(tree.resolve(stale), None);
    tree.check();
}

#[test]
fn identities_groups_and_keys_are_found() {
    let mut tree = Tree::new(1);
    let ids: Vec<_> = (0..200).map(|i| tree.child_or_insert(ROOT, name(&format!("f{i}")))).collect();
    for (i, id) in ids.iter().enumerate() {
        tree.set_ident(*id, &ident(i as u64 / 2));
        tree.set_group(*id, 1 + i as u32 / 4);
        tree.set_key(*id, Key(vec![i as u8].into()));
    }
    tree.check();
    assert_eq!(tree.of_ident(&ident(3)).count(), 2);
    assert_eq!(tree.of_ident(&Ident { birth_ns: 2, ..ident(3) }).count(), 0);
    assert_eq!((tree.of_inode(7, 3).count(), tree.of_inode(7, 1000).count(), tree.of_inode(8, 3).count()), (2, 0, 0));
    assert_eq!(tree.of_group(2).count(), 4);
    assert_eq!(tree.of_key(&[9]), Some(ids[9]));
    for id in ids {
        tree.remove(id);
    }
    tree.check();
    assert!(tree.is_empty());
}

#[test]
fn names_are_compacted_and_targets_survive() {
    let mut tree = Tree::new(1);
    let link = tree.child_or_insert(ROOT, name("link"));
    let meta = Meta { kind: Kind::Symlink, mode: 0o777, uid: 0, gid: 0, mtime: Time::default(), size: 0, rdev: 0, attrs: 0 };
    tree.set_meta(link, &meta);
    tree.set_target(link, b"somewhere/else");
    let long = "n".repeat(250);
    for i in 0..40_000 {
        let id = tree.child_or_insert(ROOT, name(&format!("{i}{}", &long[..240])));
        tree.remove(id);
    }
    assert!(tree.names.held() < 4 << 20, "{} bytes of names", tree.names.held());
    assert_eq!(tree.target(link), Some(&b"somewhere/else"[..]));
    assert_eq!(tree.name(link), b"link");
    tree.check();
}
