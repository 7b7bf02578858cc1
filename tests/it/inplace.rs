//! `--inplace` and `--preallocate`. In place: files keep their inodes, nothing else is written to, and what does not fit is refused before anything is changed.

use std::fs::{self, OpenOptions, Permissions};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use ringsync::apply::{FsTarget, Root, Target};
use ringsync::delta::code::{StepWriter, put_shape};
use ringsync::delta::{Shape, Signer, Step};
use ringsync::model::attrs::{Attrs, Namespaces};
use ringsync::model::meta::{Extent, Meta};
use ringsync::model::op::Op;
use ringsync::model::options::{Durability, Writing};
use ringsync::sys::dir::Dir;

use crate::fixture::{Mirror, file_meta, spot};
use crate::place::{Place, seed, until};
use crate::program::{As, Mirror as Live, Way};
use crate::rng::Rng;

const BLOCK: u64 = 4096;

fn mirror() -> Mirror {
    writing(Writing { in_place: true, preallocate: false, durability: Durability::None })
}

fn writing(writing: Writing) -> Mirror {
    let mut m = Mirror::new();
    m.target = FsTarget::new(Root::new(Dir::open_root(&m.path).unwrap(), false, (Namespaces::ALL, writing)));
    m
}

fn ino(path: &Path) -> u64 {
    path.symlink_metadata().map_or(0, |meta| meta.ino())
}

#[test]
fn small_files_keep_their_inode() {
    let mut m = mirror();
    m.put("x", b"a first content");
    let first = ino(&m.at("x"));
    for data in [&b"short"[..], b"", &[7; 100_000]] {
        m.put("x", data);
        assert!(fs::read(m.at("x")).unwrap() == data);
        assert_eq!((ino(&m.at("x")), crate::fixture::mtime(&m.at("x"))), (first, crate::fixture::WHEN));
    }
    // With holes, over what is not zero.
    let meta = Meta { size: 90_000, mode: 0o600, ..file_meta(b"") };
    let extents = [Extent { at: 10, len: 2 }, Extent { at: 80_000, len: 3 }];
    m.target.put_sparse(&spot("x"), &meta, &extents, b"abcde").unwrap();
    let mut expected = vec![0; 90_000];
    expected[10..12].copy_from_slice(b"ab");
    expected[80_000..80_003].copy_from_slice(b"cde");
    assert!(fs::read(m.at("x")).unwrap() == expected);
    assert_eq!((ino(&m.at("x")), m.stat("x").mode() & 0o7777), (first, 0o600));
    assert!(m.stat("x").blocks() * 512 < 80_000);
    assert_eq!(m.names(), ["x"]);
}

#[test]
fn nothing_but_a_file_of_one_name_is_written_to() {
    let mut m = mirror();
    m.put("linked", b"old");
    fs::hard_link(m.at("linked"), m.at("other")).unwrap();
    m.put("linked", b"new");
    assert_eq!(fs::read(m.at("other")).unwrap(), b"old", "another name may be another file by now");
    fs::write(m.outer.path().join("outside"), b"old").unwrap();
    symlink(m.outer.path().join("outside"), m.at("link")).unwrap();
    m.put("link", b"new");
    assert_eq!(fs::read(m.outer.path().join("outside")).unwrap(), b"old");
    fs::create_dir(m.at("dir")).unwrap();
    assert_eq!(m.target.put(&spot("dir"), &file_meta(b""), b""), Err(libc::EISDIR));
    nix::unistd::mkfifo(&m.at("fifo"), nix::sys::stat::Mode::from_bits_truncate(0o644)).unwrap();
    m.put("fifo", b"new");
    assert_eq!(fs::read(m.at("fifo")).unwrap(), b"new");
    // A program that runs cannot be written to: it is replaced.
    fs::copy("/bin/sleep", m.at("program")).unwrap();
    fs::set_permissions(m.at("program"), Permissions::from_mode(0o755)).unwrap();
    let mut running = std::process::Command::new(m.at("program")).arg("1000").spawn().unwrap();
    m.put("program", b"new");
    assert_eq!(fs::read(m.at("program")).unwrap(), b"new");
    running.kill().unwrap();
    running.wait().unwrap();
}

/// Patches what is at `x` so that its second block is another and the first three come again at the end; the number of the staged file.
fn patched(m: &mut Mirror, id: u64, base: &[u8]) -> Vec<u8> {
    let new = [&base[..4096], &[9; 4096], &base[8192..], &base[..12_288]].concat();
    let shapes = [base, &new].map(|bytes| Shape::of(bytes.len() as u64).unwrap());
    let mut out = Vec::new();
    shapes.iter().for_each(|shape| put_shape(&mut out, *shape));
    m.target.patch(id, &spot("x"), &out);
    let len = base.len() as u64;
    let mut steps = StepWriter::new(Vec::new(), 0);
    steps.push(&Step::Copy { at: 0, from: 0, len: BLOCK });
    steps.push(&Step::Literal { at: BLOCK, bytes: &[9; 4096] });
    steps.push(&Step::Copy { at: 2 * BLOCK, from: 2 * BLOCK, len: len - 2 * BLOCK });
    steps.push(&Step::Copy { at: len, from: 0, len: 3 * BLOCK });
    m.target.steps(id, &steps.finish());
    let mut signer = Signer::new(shapes[1]);
    signer.update(&new).unwrap();
    assert_eq!(m.target.seal(id, signer.finish().unwrap().digest().0), None);
    new
}

fn worked(m: &mut Mirror) -> Result<(), i32> {
    loop {
        assert!(m.target.has_work());
        if let Some((_, ended)) = m.target.work() {
            return ended;
        }
    }
}

fn place(id: u64, new: &[u8]) -> Op {
    Op::Place { at: spot("x"), meta: file_meta(new), stage: id }
}

#[test]
fn a_patch_takes_room_for_what_changes_only() {
    let mut m = mirror();
    let mut rng = Rng::new(seed());
    let base: Vec<u8> = (0..1000 * BLOCK).map(|_| rng.next() as u8).collect();
    m.put("x", &base[..500_000]);
    fs::write(m.at("x"), &base).unwrap();
    let first = ino(&m.at("x"));
    let new = patched(&mut m, 1, &base);
    assert_eq!(worked(&mut m), Ok(()));
    assert!(fs::read(m.at("x")).unwrap() == base, "nothing is changed before it is placed");
    assert_eq!(m.stat(".ringsync-staging/f1").blocks() * 512, 4 * BLOCK);
    m.ok(&place(1, &new));
    m.target.end_cycle();
    assert!(fs::read(m.at("x")).unwrap() == new);
    assert_eq!((ino(&m.at("x")), m.names()), (first, vec!["x".to_owned()]));

    // Whole, over what is there.
    m.target.stage(2, 0, b"whole").unwrap();
    m.target.stage_hole(2, 5, BLOCK).unwrap();
    m.ok(&place(2, &[&b"whole"[..], &[0; 4096]].concat()));
    m.target.end_cycle();
    assert!(fs::read(m.at("x")).unwrap() == [&b"whole"[..], &[0; 4096]].concat());
    assert_eq!((ino(&m.at("x")), m.names()), (first, vec!["x".to_owned()]));
}

#[test]
fn a_patch_of_another_base_changes_nothing() {
    let mut m = mirror();
    let base = vec![5; 100 * BLOCK as usize];
    m.put("x", &base);
    // Other content of the same length: the digest shows it.
    let mut other = base.clone();
    other[50_000] = 6;
    fs::write(m.at("x"), &other).unwrap();
    patched(&mut m, 1, &base);
    assert_eq!(worked(&mut m), Err(libc::ESTALE));
    // Written to, replaced, or given a name, between the digest and the placing.
    for change in [
        (|m: &Mirror| OpenOptions::new().write(true).open(m.at("x")).unwrap().write_all_at(b"y", 0).unwrap()) as fn(&Mirror),
        |m| {
            fs::copy(m.at("x"), m.at("y")).unwrap();
            fs::rename(m.at("y"), m.at("x")).unwrap();
        },
        |m| fs::hard_link(m.at("x"), m.at("y")).unwrap(),
        |m| fs::remove_file(m.at("x")).unwrap(),
    ] {
        m.put("x", &base);
        let new = patched(&mut m, 2, &base);
        assert_eq!(worked(&mut m), Ok(()));
        change(&m);
        let before = fs::read(m.at("x")).ok();
        m.fails(&place(2, &new), libc::ESTALE);
        assert!(fs::read(m.at("x")).ok() == before);
        m.target.drop_stage(2);
        m.target.end_cycle();
        let _ = fs::remove_file(m.at("y"));
    }
    assert!(!m.at(".ringsync-staging").exists());
}

fn live(way: Way) {
    let first = seed();
    println!("RINGSYNC_SEED={first}");
    let mut rng = Rng::new(first);
    let place = Place::new();
    let (small, large) = (place.src.join("small"), place.src.join("large"));
    let content = |rng: &mut Rng, len: usize| (0..len).map(|_| rng.next() as u8).collect::<Vec<_>>();
    fs::write(&small, content(&mut rng, 10_000)).unwrap();
    fs::write(&large, content(&mut rng, 3_000_000)).unwrap();
    let mirror = Live::start(As::Us, way, &place, &["-v", "--inplace", "-n", "1"]);
    mirror.settle("the first sync");
    let inos = || ["small", "large"].map(|name| ino(&place.dst.join(name)));
    let before = inos();
    fs::write(&small, content(&mut rng, 7000)).unwrap();
    OpenOptions::new().write(true).open(&large).unwrap().write_all_at(b"a page", 8192).unwrap();
    mirror.settle("a page");
    assert_eq!(inos(), before);
    assert!(until(crate::place::deadline(), || mirror.stderr().contains("a delta")), "no delta was made: {}", mirror.stderr());
    // A new object of the source takes the old name: the mirror's object stays.
    let saved = place.src.join("saving");
    fs::write(&saved, [&b"saved"[..], &fs::read(&large).unwrap()].concat()).unwrap();
    fs::rename(&saved, &large).unwrap();
    mirror.settle("an editor's save");
    // A base that is not there: it comes whole, in place.
    let before = inos();
    fs::write(place.dst.join("large"), content(&mut rng, 3_000_005)).unwrap();
    OpenOptions::new().write(true).open(&large).unwrap().write_all_at(b"another", 8192).unwrap();
    mirror.settle("a base that is not there");
    assert_eq!(inos(), before);
    // Hard links stay links.
    fs::hard_link(&large, place.src.join("second")).unwrap();
    mirror.settle("a second name");
    OpenOptions::new().write(true).open(place.src.join("second")).unwrap().write_all_at(b"both", 100).unwrap();
    mirror.settle("both names");
    fs::remove_file(&large).unwrap();
    fs::write(&large, content(&mut rng, 2_000_000)).unwrap();
    mirror.settle("one of them is another file");
    mirror.terminate();
}

#[test]
fn a_live_mirror_keeps_inodes_local() {
    live(Way::Local);
}

#[test]
fn a_live_mirror_keeps_inodes_tcp() {
    live(Way::Tcp);
}

#[test]
fn room_is_taken_before_it_is_filled_and_holes_are_given_back() {
    let mut m = writing(Writing { in_place: false, preallocate: true, durability: Durability::None });
    let room = |m: &Mirror, name: &str| m.stat(name).blocks() * 512;
    assert!(!m.target.resume(1, &[0; 16], 100 * BLOCK));
    assert_eq!((room(&m, ".ringsync-staging/f1"), m.stat(".ringsync-staging/f1").len()), (100 * BLOCK, 0));
    m.target.stage(1, 0, &[1; 4096]).unwrap();
    m.target.stage_hole(1, BLOCK, 98 * BLOCK).unwrap();
    m.target.stage(1, 99 * BLOCK, &[1; 4096]).unwrap();
    m.ok(&Op::Place { at: spot("x"), meta: Meta { size: 100 * BLOCK, ..file_meta(b"") }, stage: 1 });
    assert_eq!(room(&m, "x"), 2 * BLOCK);
    let base = fs::read(m.at("x")).unwrap();
    let new = patched(&mut m, 2, &base);
    assert_eq!(worked(&mut m), Ok(()));
    m.ok(&place(2, &new));
    assert!(fs::read(m.at("x")).unwrap() == new);
    assert_eq!(room(&m, "x"), 4 * BLOCK, "the base's holes are holes");
    m.put("y", &[3; 5000]);
    assert_eq!(fs::read(m.at("y")).unwrap(), [3; 5000]);
    m.target.end_cycle();
    assert_eq!(m.names(), ["x", "y"]);
}

/// Where there is no room, that is known before anything is written.
#[test]
fn a_file_that_has_no_room_is_refused_at_once() {
    const NAME: &str = "a_file_that_has_no_room_is_refused_at_once";
    crate::mounts::privately(NAME, || {
        let at = tempfile::tempdir_in(crate::place::base()).expect("a temporary directory");
        let mounted = crate::mounts::Mounted::new(crate::mounts::Fs::Tmpfs, at.path()).expect("a tmpfs");
        mounted.resize("1m");
        let how = Writing { in_place: false, preallocate: true, durability: Durability::None };
        let mut target = FsTarget::new(Root::new(Dir::open_root(at.path()).unwrap(), false, (Namespaces::NONE, how)));
        assert!(!target.resume(1, &[0; 16], 2 << 20));
        assert_eq!(target.stage(1, 0, b"piece"), Err(libc::ENOSPC));
        target.drop_stage(1);
        assert_eq!(target.put(&spot("x"), &Meta { size: 2 << 20, ..file_meta(b"") }, &vec![0; 2 << 20]), Err(libc::ENOSPC));
        assert_eq!(fs::read_dir(at.path()).unwrap().count(), 0);
        drop(mounted);
    });
}

#[test]
fn a_live_mirror_preallocates() {
    for way in [Way::Local, Way::Tcp] {
        let place = Place::new();
        fs::write(place.src.join("small"), [1; 10_000]).unwrap();
        fs::write(place.src.join("large"), vec![2; 10_000_000]).unwrap();
        let mirror = Live::start(As::Us, way, &place, &["--preallocate"]);
        mirror.settle("the first sync");
        OpenOptions::new().append(true).open(place.src.join("large")).unwrap().write_all_at(&[3; 9000], 10_000_000).unwrap();
        mirror.settle("grown");
        mirror.terminate();
    }
}

/// What is written in place, and what has holes, has its attributes too, and no others.
#[test]
fn attributes_come_with_it() {
    let mut m = mirror();
    let attrs = std::sync::Arc::new(Attrs::new(vec![((*b"user.a").into(), b"1".to_vec())]).unwrap().unwrap());
    let names = |m: &Mirror, name: &str| {
        let listed = m.at(name);
        let output = std::process::Command::new("getfattr").arg("--absolute-names").arg(&listed).output();
        output.ok().map(|output| String::from_utf8_lossy(&output.stdout).contains("user.a"))
    };
    m.put("x", b"none");
    m.target.attrs(&attrs);
    let with = |size| Meta { size, attrs: attrs.digest(), ..file_meta(b"") };
    m.target.put(&spot("x"), &with(3), b"one").unwrap();
    m.target.put_sparse(&spot("y"), &with(90_000), &[Extent { at: 5, len: 1 }], b"y").unwrap();
    let Some(has) = names(&m, "x") else { return crate::place::skipped("attributes_come_with_it", "getfattr is not installed") };
    assert!(has && names(&m, "y") == Some(true));
    m.put("x", b"none");
    m.target.put_sparse(&spot("y"), &Meta { attrs: 0, ..with(9) }, &[], b"").unwrap();
    assert!(names(&m, "x") == Some(false) && names(&m, "y") == Some(false));
}
