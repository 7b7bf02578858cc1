//! Extended attributes, access control lists and capabilities, end to end: on real trees, judged by rsync; live; where an end cannot hold them.

use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt, symlink};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use ringsync::apply::{FsTarget, Root, Target};
use ringsync::model::attrs::{Attrs, Namespaces};
use ringsync::model::meta::{Kind, Meta};
use ringsync::model::op::Op;
use ringsync::model::options::Writing;
use ringsync::sys::dir::Dir;
use rustix::fs::{XattrFlags, getxattr, lgetxattr, llistxattr, lremovexattr, lsetxattr};

use crate::compare::{Rules, compare, untouched};
use crate::fixture::{Mirror as Fixture, file_meta, meta, mkdir, rel, spot};
use crate::mounts::{Fs, Mounted, privately};
use crate::place::{Place, as_user, deadline, is_root, skipped, until};
use crate::program::{As, Mirror, Program, Server, Way, once, sender};

/// Runs a tool that has to succeed; what it writes.
fn tool(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).output().unwrap_or_else(|e| panic!("{program}: {e}"));
    assert!(output.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn set(path: &Path, name: &str, value: &[u8]) {
    lsetxattr(path, name, value, XattrFlags::empty()).unwrap_or_else(|e| panic!("{name} of {}: {e}", path.display()));
}

fn get(path: &Path, name: &str) -> Option<Vec<u8>> {
    let mut value = vec![0; 65_536];
    lgetxattr(path, name, &mut value).ok().map(|len| value[..len].to_vec())
}

/// Whether a tree there can have `user.*` and access control lists.
pub fn can_have(test: &str, path: &Path) -> bool {
    let mut none = [0; 0];
    let lacks = |name| getxattr(path, name, &mut none[..]) == Err(rustix::io::Errno::NOTSUP);
    let lacking = ["user.x", "system.posix_acl_access"].into_iter().any(lacks);
    if lacking {
        skipped(test, "the filesystem has no attributes");
    }
    !lacking
}

/// A tree with all that an ordinary user can have.
pub fn grow(root: &Path) {
    let at = |name: &str| root.join(name);
    fs::create_dir_all(at("d/inherits")).unwrap();
    for (name, size) in [("plain", 10), ("small", 3000), ("mapped", 300_000), ("staged", 2_000_000), ("read only", 5), ("d/inner", 7)] {
        fs::write(at(name), crate::content::whole(1, size as u64, size)).unwrap();
        if name != "plain" {
            set(&at(name), "user.name", name.as_bytes());
            set(&at(name), "user.empty", b"");
        }
    }
    set(&at("small"), "user.large", &[7; 3000]);
    set(&at("d"), "user.of a directory\n\u{e9}", b"\0\xff");
    set(root, "user.root", b"x");
    fs::hard_link(at("small"), at("d/another name")).unwrap();
    symlink("small", at("link")).unwrap();
    tool("mkfifo", &["-m", "640", text(&at("fifo"))]);
    tool("setfacl", &["-m", "u:7:rw,g:8:-,m:rw", text(&at("mapped")), text(&at("fifo")), text(&at("staged"))]);
    tool("setfacl", &["-m", "u:7:rwx,o:-", text(&at("d"))]);
    tool("setfacl", &["-d", "-m", "u:7:rwx,g::-,o:r", text(&at("d/inherits"))]);
    fs::create_dir(at("d/inherits/below")).unwrap();
    fs::write(at("d/inherits/file"), "what it inherits").unwrap();
    // One that has none though its directory would give it some.
    fs::write(at("d/inherits/bare"), "x").unwrap();
    tool("setfacl", &["-b", text(&at("d/inherits/bare"))]);
    tool("chmod", &["444", text(&at("read only"))]);
}

/// And what only root can.
pub fn grow_as_root(root: &Path) {
    let at = |name: &str| root.join(name);
    set(&at("small"), "trusted.t", b"t");
    set(&at("d"), "trusted.t", b"d");
    set(&at("link"), "trusted.of a link", b"l");
    set(&at("fifo"), "trusted.t", b"f");
    tool("setcap", &["cap_net_raw+ep", text(&at("plain"))]);
    tool("setcap", &["cap_net_bind_service=p", text(&at("staged"))]);
    tool("chown", &["12:34", text(&at("mapped")), text(&at("d")), text(&at("read only"))]);
    fs::write(at("setuid"), "x").unwrap();
    tool("chmod", &["6755", text(&at("setuid"))]);
    tool("setfacl", &["-m", "u:7:rx", text(&at("setuid"))]);
    set(&at("setuid"), "user.x", b"x");
}

/// What rsync would change.
pub fn by_rsync(place: &Place) -> String {
    let (src, dst) = (format!("{}/", text(&place.src)), format!("{}/", text(&place.dst)));
    tool("rsync", &["-aHAXSn", "--checksum", "--delete", "--itemize-changes", &src, &dst])
}

fn a_tree(name: &str, who: As, rules: &Rules) {
    for way in [Way::Local, Way::Tcp] {
        let place = if who == As::User && is_root() { Place::new().for_user() } else { Place::new() };
        if !can_have(name, &place.src) {
            return;
        }
        if who == As::User {
            // The tools would act as root: by their numbers' owner only.
            as_user(|| fs::create_dir(place.src.join("d")).unwrap());
        }
        grow(&place.src);
        if who == As::Us && is_root() {
            grow_as_root(&place.src);
        } else if is_root() {
            tool("chown", &["-Rh", "65534:65534", text(&place.src)]);
        }
        once(who, way, &place, &[], 0);
        let differences = compare(&place.src, &place.dst, rules);
        assert!(differences.is_empty(), "{way:?}:\n{differences}");
        assert_eq!(by_rsync(&place), "", "{way:?}");
        let before = untouched(&place.dst);
        let said = once(who, way, &place, &["-v"], 0);
        assert!(before == untouched(&place.dst), "{way:?}: a second run wrote:\n{said}");
        // What only the mirror has goes; what is damaged is mended, and no content is sent for it.
        set(&place.dst.join("plain"), "user.extra", b"x");
        set(&place.dst.join("d/inner"), "user.name", b"damaged");
        set(&place.dst.join("read only"), "user.name", b"damaged");
        tool("setfacl", &["-m", "u:9:rwx", text(&place.dst.join("d"))]);
        tool("setfacl", &["-b", text(&place.dst.join("mapped"))]);
        tool("setfacl", &["-k", text(&place.dst.join("d/inherits"))]);
        lremovexattr(place.dst.join("staged"), "user.empty").unwrap();
        let inodes =
            |names: &[&str]| names.iter().map(|name| fs::symlink_metadata(place.dst.join(name)).unwrap().ino()).collect::<Vec<_>>();
        let names = ["plain", "d/inner", "read only", "mapped", "staged"];
        let before = inodes(&names);
        once(who, way, &place, &[], 0);
        assert_eq!(by_rsync(&place), "", "{way:?}, after a repair");
        assert_eq!(before, inodes(&names), "{way:?}: files were replaced for their attributes");
    }
}

#[test]
fn a_tree_of_roots_is_equal_by_rsync() {
    const NAME: &str = "a_tree_of_roots_is_equal_by_rsync";
    if !is_root() {
        return skipped(NAME, "needs root");
    }
    a_tree(NAME, As::Us, &Rules::full());
}

#[test]
fn a_tree_of_an_ordinary_user_is_equal_by_rsync() {
    a_tree("a_tree_of_an_ordinary_user_is_equal_by_rsync", As::User, &Rules::without_owners());
}

/// One change after the other, each seen by its event.
#[test]
fn attributes_follow_live_without_content() {
    const NAME: &str = "attributes_follow_live_without_content";
    let watches: &[&str] = if is_root() { &["fanotify", "inotify"] } else { &["inotify"] };
    for watch in watches {
        let place = Place::new();
        if !can_have(NAME, &place.src) {
            return;
        }
        let (file, dir) = (place.src.join("file"), place.src.join("dir"));
        fs::write(&file, "content").unwrap();
        fs::write(place.src.join("large"), vec![1; 1_000_000]).unwrap();
        fs::create_dir(&dir).unwrap();
        let mirror = Mirror::start(As::Us, Way::Local, &place, &["--watch", watch]);
        mirror.settle("at first");
        let inode = |name: &str| fs::metadata(place.dst.join(name)).unwrap().ino();
        let before = [inode("file"), inode("large")];
        let step = |what: &str| mirror.settle(&format!("{watch}: {what}"));
        set(&file, "user.a", b"1");
        step("set");
        set(&file, "user.a", b"2");
        set(&place.src.join("large"), "user.a", &[3; 2000]);
        step("changed");
        tool("setfacl", &["-m", "u:7:rwx", text(&file)]);
        step("a list");
        tool("chmod", &["600", text(&file)]);
        step("chmod, which changes the list's mask");
        lremovexattr(&file, "user.a").unwrap();
        tool("setfacl", &["-b", text(&file)]);
        step("all gone");
        assert!(get(&place.dst.join("file"), "user.a").is_none());
        tool("setfacl", &["-d", "-m", "u:7:rwx", text(&dir)]);
        set(&dir, "user.d", b"d");
        set(&place.src, "user.root", b"r");
        step("of directories");
        fs::write(dir.join("heir"), "x").unwrap();
        fs::create_dir(dir.join("below")).unwrap();
        fs::write(dir.join("below/heir"), "x").unwrap();
        symlink("x", dir.join("link")).unwrap();
        step("what inherits");
        fs::write(dir.join("bare"), "x").unwrap();
        tool("setfacl", &["-b", text(&dir.join("bare"))]);
        step("what does not");
        assert_eq!(before, [inode("file"), inode("large")], "{watch}: files were replaced for their attributes");
        fs::OpenOptions::new().write(true).open(place.src.join("large")).unwrap().write_all_at(b"in place", 500_000).unwrap();
        step("a delta of a file that has some");
        fs::rename(&file, dir.join("moved")).unwrap();
        set(&dir.join("moved"), "user.m", b"m");
        step("set after a rename");
        if is_root() {
            tool("setcap", &["cap_net_raw+ep", text(&dir.join("moved"))]);
            set(&dir.join("link"), "trusted.l", b"l");
            step("a capability");
            tool("chown", &["3:4", text(&dir.join("moved"))]);
            step("chown, which takes the capability away");
            assert!(get(&place.dst.join("dir/moved"), "security.capability").is_none());
        }
        mirror.terminate();
    }
}

/// An ordinary user's receiver cannot set everything: that is said, left out on both ends, and nothing differs for ever.
#[test]
fn what_the_receiver_cannot_set_is_left_out() {
    const NAME: &str = "what_the_receiver_cannot_set_is_left_out";
    if !is_root() {
        return skipped(NAME, "needs root on one end");
    }
    let place = Place::new();
    if !can_have(NAME, &place.src) {
        return;
    }
    nix::unistd::chown(&place.dst, Some(nix::unistd::Uid::from_raw(crate::place::USER)), None).unwrap();
    grow(&place.src);
    grow_as_root(&place.src);
    let server = Server::start(As::User, &place.dst);
    let run = |args: &[&str]| {
        let mut program = sender(As::Us, Some(&server), &place.src, &place.dst, &[&["--once"], args].concat());
        program.ends_with(0);
        program.stderr()
    };
    let said = run(&[]);
    assert_eq!(said.matches("cannot set these attributes").count(), 1, "{said}");
    assert!(said.contains("capabilities, trusted.*, security.*"), "{said}");
    let mut rules = Rules::without_owners();
    // A file that has another owner than it should have keeps no rights of that owner.
    rules.skip = vec![ringsync::model::path::RelPath::new(b"setuid").unwrap()];
    let differences = compare(&place.src, &place.dst, &rules);
    assert!(differences.is_empty(), "{differences}");
    let before = untouched(&place.dst);
    let again = run(&["-v"]);
    let changed: Vec<_> =
        untouched(&place.dst).into_iter().filter(|(path, seen)| before.get(path) != Some(seen)).map(|(path, _)| path.to_string()).collect();
    assert!(changed.iter().all(|path| path == "setuid"), "a second run wrote {changed:?}:\n{again}");
}

#[test]
fn what_is_not_wanted_is_left_alone() {
    const NAME: &str = "what_is_not_wanted_is_left_alone";
    for (option, kept, carried) in
        [("--no-xattrs", "user.mirror", "system.posix_acl_access"), ("--no-acls", "system.posix_acl_access", "user.mirror")]
    {
        let place = Place::new();
        if !can_have(NAME, &place.src) {
            return;
        }
        for (root, id) in [(&place.src, "7"), (&place.dst, "8")] {
            fs::create_dir(root.join("d")).unwrap();
            tool("setfacl", &["-m", &format!("u:{id}:rwx"), text(&root.join("d"))]);
            set(&root.join("d"), "user.mirror", id.as_bytes());
        }
        let before = get(&place.dst.join("d"), kept);
        once(As::Us, Way::Local, &place, &[option], 0);
        let read = |root: &Path, name| get(&root.join("d"), name);
        assert_eq!(read(&place.dst, kept), before, "{option}");
        assert_eq!(read(&place.dst, carried), read(&place.src, carried), "{option}");
    }
}

/// Each name is a file of its own in the mirror, and all follow what is written through one of them.
#[test]
fn hard_links_that_are_not_wanted_are_copies() {
    let watches: &[&str] = if is_root() { &["fanotify", "inotify"] } else { &["inotify"] };
    for watch in watches {
        let place = Place::new();
        let at = |root: &Path, name: &str| root.join(name);
        fs::write(at(&place.src, "a"), "one").unwrap();
        fs::hard_link(at(&place.src, "a"), at(&place.src, "b")).unwrap();
        let mirror = Mirror::start(As::Us, Way::Local, &place, &["--no-hard-links", "--watch", watch]);
        let is = |content: &[u8]| {
            let equal = || ["a", "b", "c"].iter().all(|name| fs::read(at(&place.dst, name)).is_ok_and(|there| there == content));
            assert!(until(deadline(), equal), "{watch}: {}", mirror.stderr());
            let inodes: HashSet<u64> = ["a", "b", "c"].iter().map(|name| fs::metadata(at(&place.dst, name)).unwrap().ino()).collect();
            assert_eq!(inodes.len(), 3, "{watch}");
        };
        fs::hard_link(at(&place.src, "b"), at(&place.src, "c")).unwrap();
        is(b"one");
        fs::write(at(&place.src, "b"), "another").unwrap();
        is(b"another");
    }
}

/// Between two filesystems of which one has none.
#[test]
fn a_filesystem_without_attributes() {
    const NAME: &str = "a_filesystem_without_attributes";
    privately(NAME, || {
        let place = Place::new();
        if !can_have(NAME, &place.src) {
            return;
        }
        for bare in [&place.dst, &place.src] {
            let mounted = match Mounted::new(Fs::Ramfs, bare) {
                Ok(mounted) => mounted,
                Err(e) => return skipped(NAME, e),
            };
            if *bare == place.dst {
                grow(&place.src);
            } else {
                fs::write(place.src.join("f"), "x").unwrap();
                fs::write(place.dst.join("f"), "x").unwrap();
                fs::create_dir(place.src.join("d")).unwrap();
                fs::create_dir(place.dst.join("d")).unwrap();
                set(&place.dst.join("f"), "user.x", b"x");
                set(&place.dst.join("d"), "user.x", b"x");
            }
            once(As::Us, Way::Local, &place, &[], 0);
            let before = untouched(&place.dst);
            let rules = Rules { attrs: false, ..Rules::full() };
            let differences = compare(&place.src, &place.dst, &rules);
            // The bits of an access control list's mask are the mode's group bits where there is no list.
            assert!(differences.is_empty(), "{differences}");
            once(As::Us, Way::Local, &place, &[], 0);
            assert!(before == untouched(&place.dst), "a second run wrote");
            assert_eq!([get(&place.dst.join("f"), "user.x"), get(&place.dst.join("d"), "user.x")], [None, None]);
            drop(mounted);
        }
    });
}

/// XFS lists access control lists a second time, under names of its own among `trusted.*`.
#[test]
fn lists_on_xfs_are_equal_to_those_elsewhere() {
    const NAME: &str = "lists_on_xfs_are_equal_to_those_elsewhere";
    privately(NAME, || {
        for at_source in [false, true] {
            let place = Place::new();
            let (xfs, other) = if at_source { (&place.src, &place.dst) } else { (&place.dst, &place.src) };
            let _mounted = match Mounted::new(Fs::Xfs, xfs).and_then(|xfs| Ok((xfs, Mounted::new(Fs::Tmpfs, other)?))) {
                Ok(mounted) => mounted,
                Err(e) => return skipped(NAME, e),
            };
            grow(&place.src);
            grow_as_root(&place.src);
            once(As::Us, Way::Local, &place, &[], 0);
            let before = untouched(&place.dst);
            let said = once(As::Us, Way::Local, &place, &["-v"], 0);
            assert!(before == untouched(&place.dst), "a second run wrote:\n{said}");
            let mut verify = Program::start(As::Us, &["verify", text(&place.src), text(&place.dst)]);
            verify.ends_with(0);
            assert_eq!(verify.stdout(), "");
            // What goes from the source goes from the mirror.
            tool("setfacl", &["-R", "-b", text(&place.src)]);
            once(As::Us, Way::Local, &place, &[], 0);
            assert_eq!(tool("getfacl", &["-R", "-s", "-p", text(&place.dst)]), "");
        }
    });
}

/// Attributes beyond what can be carried: the file is reported, and the rest goes on.
#[test]
fn more_than_can_be_carried_is_reported() {
    const NAME: &str = "more_than_can_be_carried_is_reported";
    let place = Place::new();
    if !can_have(NAME, &place.src) {
        return;
    }
    fs::write(place.src.join("greedy"), "x").unwrap();
    fs::write(place.src.join("modest"), "x").unwrap();
    for n in 0..4 {
        if let Err(e) = lsetxattr(place.src.join("greedy"), format!("user.{n}"), &[n; 65_536], XattrFlags::empty()) {
            return skipped(NAME, e);
        }
    }
    set(&place.src.join("modest"), "user.most", &[1; 65_536]);
    let said = once(As::Us, Way::Tcp, &place, &[], 23);
    assert!(said.contains("greedy") && !place.dst.join("greedy").exists(), "{said}");
    assert_eq!(get(&place.dst.join("modest"), "user.most"), Some(vec![1; 65_536]));
    let mut names = [0; 64];
    assert_eq!(llistxattr(place.dst.join("modest"), &mut names[..]), Ok("user.most".len() + 1));
}

/// What a peer says of attributes is held against what came, and against what the session carries.
#[test]
fn attributes_that_did_not_come_are_refused() {
    let mut m = Fixture::new();
    if !can_have("attributes_that_did_not_come_are_refused", &m.path) {
        return;
    }
    let of = |name: &[u8], value: &[u8]| Arc::new(Attrs::new(vec![(name.into(), value.to_vec())]).unwrap().unwrap());
    let (one, two) = (of(b"user.x", b"1"), of(b"user.x", b"2"));
    let with = |attrs: &Attrs| Meta { attrs: attrs.digest(), ..file_meta(b"x") };
    assert_eq!(m.target.put(&spot("f"), &with(&one), b"x"), Err(libc::EINVAL));
    m.target.attrs(&one);
    assert_eq!(m.target.put(&spot("f"), &with(&two), b"x"), Err(libc::EINVAL));
    assert_eq!(m.names(), [""; 0], "nothing was made");
    m.target.put(&spot("f"), &with(&one), b"x").unwrap();
    // They hold for all that follow, over the end of a frame.
    m.target.end_frame();
    m.target.put(&spot("g"), &with(&one), b"x").unwrap();
    assert_eq!([get(&m.at("f"), "user.x"), get(&m.at("g"), "user.x")], [Some(b"1".to_vec()), Some(b"1".to_vec())]);
    assert!(m.list().iter().all(|(_, entry)| entry.meta.attrs == one.digest()));
    m.target.attrs(&two);
    m.ok(&Op::SetMeta { at: spot("f"), meta: with(&two) });
    m.ok(&Op::SetMeta { at: spot("g"), meta: file_meta(b"x") });
    assert_eq!([get(&m.at("f"), "user.x"), get(&m.at("g"), "user.x")], [Some(b"2".to_vec()), None]);
    // Without root's rights `trusted.*` is no part of a session; nor is anything that nobody wants.
    let carrying = |namespaces| FsTarget::new(Root::new(Dir::open_root(&m.path).unwrap(), false, (namespaces, Writing::default())));
    for (namespaces, attrs) in [(Namespaces::NONE, &one), (Namespaces::ACL, &one), (Namespaces::USER, &of(b"trusted.x", b""))] {
        let mut target = carrying(namespaces);
        target.attrs(attrs);
        assert_eq!(target.op(&Op::SetMeta { at: spot("f"), meta: with(attrs) }), Err(libc::EINVAL), "{namespaces:?}");
    }
    carrying(Namespaces::NONE).op(&Op::SetMeta { at: spot("f"), meta: file_meta(b"x") }).unwrap();
    assert_eq!(get(&m.at("f"), "user.x"), Some(b"2".to_vec()), "it is not touched");
}

/// A directory's default list gives new entries one: those that shall have none do not keep it.
#[test]
fn what_the_mirror_inherits_is_taken_away() {
    let mut m = Fixture::new();
    if !can_have("what_the_mirror_inherits_is_taken_away", &m.path) {
        return;
    }
    tool("setfacl", &["-d", "-m", "u:7:rwx", text(&m.path)]);
    m.put("file", b"x");
    m.target.stage(1, 0, b"x").unwrap();
    m.ok(&Op::Place { at: spot("placed"), meta: file_meta(b"x"), stage: 1 });
    m.ok(&Op::Special { at: spot("fifo"), meta: meta(Kind::Fifo, 0o644) });
    m.ok(&mkdir("dir"));
    assert!(get(&m.at("dir"), "system.posix_acl_default").is_some(), "the kernel does what is tested against");
    m.ok(&Op::DirMeta { dir: rel("dir"), meta: meta(Kind::Dir, 0o755) });
    for name in ["file", "placed", "fifo", "dir"] {
        assert_eq!([get(&m.at(name), "system.posix_acl_access"), get(&m.at(name), "system.posix_acl_default")], [None, None], "{name}");
        assert_eq!(m.stat(name).mode() & 0o777, if name == "dir" { 0o755 } else { 0o644 }, "{name}");
    }
}
