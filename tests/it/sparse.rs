//! Files with holes: they are holes in the mirror too, are neither read nor sent, and what happens to them under a live mirror ends equal.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use ringsync::apply::Target;
use ringsync::delta::code::{StepWriter, put_shape};
use ringsync::delta::{Shape, Signer, Step};
use ringsync::limits::{INLINE_FILE_BYTES_MAX, STAGED_FILES_MAX};
use ringsync::model::meta::{Extent, Meta};
use ringsync::model::op::Op;
use ringsync::sys::holes::{Holes, punch};

use crate::fixture::{Mirror, file_meta, spot};
use crate::mounts::{Fs, Mounted, privately};
use crate::place::{Place, deadline, seed, skipped, until};
use crate::program::{As, Mirror as Live, Way, once};
use crate::rng::Rng;

const MIB: u64 = 1 << 20;
const TIB: u64 = 1 << 40;

/// Bytes that a file takes.
pub fn allocated(path: &Path) -> u64 {
    fs::metadata(path).map_or(0, |meta| meta.blocks() * 512)
}

/// Where pages of data are, and what is in them.
pub type Pages = Vec<(u64, Vec<u8>)>;

/// The length of a file, and its data.
pub fn data(path: &Path) -> Option<(u64, Pages)> {
    let file = File::open(path).ok()?;
    let len = file.metadata().ok()?.len();
    let (mut holes, mut at, mut found) = (Holes::of(&file, len), 0, Vec::new());
    while at < len {
        let hole = holes.hole(&file, at);
        if hole == 0 {
            let mut bytes = vec![0; holes.data(&file, at) as usize];
            file.read_exact_at(&mut bytes, at).ok()?;
            // Filesystems may give more room than was asked for: pages are what counts.
            for (page, bytes) in bytes.chunks(4096).enumerate().filter(|(_, bytes)| bytes.iter().any(|byte| *byte != 0)) {
                found.push((at + 4096 * page as u64, bytes.to_vec()));
            }
            at += bytes.len() as u64;
        } else {
            at += hole;
        }
    }
    Some((len, found))
}

/// A file of a tebibyte with a few pages, made and changed on each filesystem: no more is read and sent than what is there.
#[test]
fn a_tebibyte_of_holes() {
    const NAME: &str = "a_tebibyte_of_holes";
    privately(NAME, || {
        for kind in [Fs::Tmpfs, Fs::Ext4, Fs::Xfs, Fs::Btrfs] {
            let at = tempfile::tempdir_in(crate::place::base()).expect("a temporary directory");
            let mounted = match Mounted::new(kind, at.path()) {
                Ok(mounted) => mounted,
                Err(e) => {
                    skipped(NAME, e);
                    continue;
                }
            };
            let place = Place::within(at.path());
            let (src, dst) = (place.src.join("disk"), place.dst.join("disk"));
            let file = OpenOptions::new().create_new(true).read(true).write(true).open(&src).unwrap();
            file.set_len(TIB + 5).unwrap();
            for at in [0, 3 * MIB, (TIB / 3) & !4095, TIB - 65_536] {
                file.write_all_at(&[7; 65_536], at).unwrap();
            }
            let mirror = Live::start(As::Us, Way::Local, &place, &["-v"]);
            let settle = |what: &str| {
                let began = Instant::now();
                let equal = until(deadline(), || data(&dst).is_some() && data(&dst) == data(&src));
                assert!(equal, "{kind:?}: {what}: {:?} and not {:?}", data(&dst).map(|d| d.1.len()), data(&src).map(|d| d.1.len()));
                let room = (allocated(&src), allocated(&dst));
                assert!(room.1 <= room.0 + 4 * MIB, "{kind:?}: {what}: {room:?} are allocated");
                // To read it would take minutes.
                assert!(began.elapsed() < Duration::from_secs(60), "{kind:?}: {what} took {:?}", began.elapsed());
            };
            settle("the first copy");
            file.write_all_at(&[8; 100], 3 * MIB + 4096).unwrap();
            file.write_all_at(&[9; 100], TIB / 2).unwrap();
            settle("a page in data and one in a hole");
            assert!(until(deadline(), || mirror.stderr().contains("a delta")), "{kind:?}: no delta: {}", mirror.stderr());
            punch(&file, 0, 4 * MIB).unwrap();
            settle("a hole in place of data");
            file.set_len(TIB / 2).unwrap();
            settle("cut");
            drop((mirror, mounted));
        }
    });
}

/// What rsync says of the difference of two trees.
fn rsync(place: &Place) -> Option<String> {
    let (src, dst) = (format!("{}/", place.src.display()), format!("{}/", place.dst.display()));
    let output = Command::new("rsync").args(["-aHSn", "--checksum", "--delete", "--itemize-changes", &src, &dst]).output().ok()?;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Some(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Writes, punches, growth and cuts, as of a virtual machine's disk.
fn change(rng: &mut Rng, file: &File, len: &mut u64) {
    const PAGE: u64 = 4096;
    let at = rng.below((*len / PAGE) as usize) as u64 * PAGE;
    let longest = if rng.chance(10) { 400 } else { 8 };
    let some = PAGE * (1 + rng.below(longest) as u64).min((*len - at).div_ceil(PAGE)).max(1);
    match rng.below(20) {
        0 => {
            *len = (*len + some * 10).min(80 * MIB);
            file.set_len(*len).unwrap();
        }
        1 => {
            *len = (*len - *len / 50).max(20 * MIB);
            file.set_len(*len).unwrap();
        }
        2..9 => punch(file, at, some).unwrap(),
        _ => {
            let byte = 1 + rng.below(255) as u8;
            file.write_all_at(&vec![byte; some as usize], at).unwrap();
            *len = (*len).max(at + some);
        }
    }
}

fn a_disk_at_work(way: Way) {
    let first = seed();
    println!("RINGSYNC_SEED={first}");
    let mut rng = Rng::new(first);
    let place = Place::new();
    let (src, dst) = (place.src.join("disk"), place.dst.join("disk"));
    let file = OpenOptions::new().create_new(true).read(true).write(true).open(&src).unwrap();
    let mut len = 40 * MIB;
    file.set_len(len).unwrap();
    let mirror = Live::start(As::Us, way, &place, &["-v"]);
    for round in 0..12 {
        for _ in 0..1 + rng.below(60) {
            change(&mut rng, &file, &mut len);
        }
        if rng.chance(50) {
            mirror.settle(&format!("RINGSYNC_SEED={first}, round {round}"));
            let room = (allocated(&src), allocated(&dst));
            assert!(room.0.abs_diff(room.1) <= 64 * 1024, "RINGSYNC_SEED={first}, round {round}: {room:?} are allocated");
        }
    }
    mirror.settle("the end");
    // It may be equal while what was read before the last change is still on its way to be thrown away.
    assert!(until(deadline(), || rsync(&place).is_none_or(|found| found.is_empty())), "RINGSYNC_SEED={first}: {:?}", rsync(&place));
    mirror.terminate();
}

#[test]
fn a_disk_at_work_local() {
    a_disk_at_work(Way::Local);
}

#[test]
fn a_disk_at_work_tcp() {
    a_disk_at_work(Way::Tcp);
}

#[test]
fn small_files_have_holes_too() {
    let place = Place::new();
    let make = |name: &str, len: u64, at: &[u64]| {
        let file = File::create(place.src.join(name)).unwrap();
        file.set_len(len).unwrap();
        at.iter().for_each(|at| file.write_all_at(b"some data", *at).unwrap());
    };
    make("nothing", 300_001, &[]);
    make("front", 500_000, &[0]);
    make("back", 500_000, &[499_991]);
    make("between", 400_000, &[0, 8192, 200_000]);
    make("dense", 9, &[0]);
    // More pieces than a message has.
    make("comb", 520_000, &(0..63).map(|n| n * 8192).collect::<Vec<_>>());
    let room = || ["nothing", "front", "back", "between", "comb"].map(|name| allocated(&place.src.join(name)));
    let before = room();
    for way in [Way::Local, Way::Tcp] {
        once(As::Us, way, &place, &[], 0);
        for name in ["nothing", "front", "back", "between", "dense", "comb"] {
            let (src, dst) = (place.src.join(name), place.dst.join(name));
            assert!(fs::read(&src).unwrap() == fs::read(&dst).unwrap(), "{name}, {way:?}");
            assert_eq!(allocated(&src), allocated(&dst), "{name}, {way:?}");
            fs::remove_file(&dst).unwrap();
        }
        assert!(before[0] == 0 && before[1] < 100_000);
        once(As::Us, way, &place, &["--no-sparse"], 0);
        assert_eq!(room(), before, "{way:?}: the source was filled by looking at it");
        assert!(allocated(&place.dst.join("nothing")) >= 300_001, "{way:?}");
        assert_eq!(rsync(&place).unwrap_or_default(), "");
        fs::remove_dir_all(&place.dst).unwrap();
        fs::create_dir(&place.dst).unwrap();
    }
}

#[test]
fn what_a_peer_says_of_holes_is_checked() {
    let mut m = Mirror::new();
    let extent = |at, len| Extent { at, len };
    let meta = Meta { size: 100_000, ..file_meta(b"") };
    for (extents, data) in [
        (vec![extent(99_999, 2)], &b"ab"[..]),
        (vec![extent(5, 1), extent(5, 1)], b"ab"),
        (vec![extent(5, 0)], b""),
        (vec![extent(5, 2)], b"a"),
        (vec![extent(5, 1)], b"ab"),
        (vec![extent(u64::MAX, 2)], b"ab"),
    ] {
        assert_eq!(m.target.put_sparse(&spot("x"), &meta, &extents, data), Err(libc::EINVAL), "{extents:?}");
    }
    assert_eq!(m.target.put_sparse(&spot("x"), &meta, &[extent(5, 1), extent(99_999, 1)], b"ab"), Ok(()));
    let content = fs::read(m.at("x")).unwrap();
    assert_eq!((content.len(), content[5], content[99_999], content.iter().filter(|byte| **byte != 0).count()), (100_000, b'a', b'b', 2));

    // A hole alone, one behind data, one where data already is (the sum is wrong then), one beyond any file.
    m.target.stage_hole(1, 0, TIB).unwrap();
    m.ok(&Op::Place { at: spot("y"), meta: Meta { size: TIB, ..meta }, stage: 1 });
    assert_eq!((m.stat("y").len(), m.stat("y").blocks()), (TIB, 0));
    m.target.stage(2, 0, b"data").unwrap();
    m.target.stage_hole(2, 4, 96).unwrap();
    m.ok(&Op::Place { at: spot("y"), meta: Meta { size: 100, ..meta }, stage: 2 });
    assert_eq!(m.stat("y").len(), 100);
    m.target.stage_hole(3, 0, 10).unwrap();
    m.target.stage_hole(3, 0, 10).unwrap();
    m.fails(&Op::Place { at: spot("y"), meta: Meta { size: 10, ..meta }, stage: 3 }, libc::ENODATA);
    assert_eq!(m.target.stage_hole(4, u64::MAX, 2), Err(libc::EFBIG));
    m.fails(&Op::Place { at: spot("y"), meta: Meta { size: 2, ..meta }, stage: 4 }, libc::EFBIG);
    [2, 3, 4].iter().for_each(|id| m.target.drop_stage(*id));
    m.target.end_cycle();
    assert_eq!(m.names(), ["x", "y"]);
}

/// A patch keeps the base's holes where it copies, and makes those that it is told, from other places of the base too.
#[test]
fn a_patch_keeps_and_makes_holes() {
    let mut m = Mirror::new();
    const BLOCK: u64 = 4096;
    let base = File::create(m.at("x")).unwrap();
    base.set_len(64 * BLOCK).unwrap();
    base.write_all_at(&[1; 8 * BLOCK as usize], 0).unwrap();
    base.write_all_at(&[2; 8 * BLOCK as usize], 56 * BLOCK).unwrap();
    let shape = Shape::of(64 * BLOCK).unwrap();
    let mut shapes = Vec::new();
    put_shape(&mut shapes, shape);
    put_shape(&mut shapes, shape);
    m.target.patch(1, &spot("x"), &shapes);
    let mut steps = StepWriter::new(Vec::new(), 0);
    steps.push(&Step::Hole { at: 0, len: 4 * BLOCK });
    steps.push(&Step::Copy { at: 4 * BLOCK, from: 4 * BLOCK, len: 30 * BLOCK });
    steps.push(&Step::Copy { at: 34 * BLOCK, from: 30 * BLOCK, len: 29 * BLOCK });
    steps.push(&Step::Hole { at: 63 * BLOCK, len: BLOCK });
    m.target.steps(1, &steps.finish());
    let mut new = vec![0; 64 * BLOCK as usize];
    new[4 * 4096..8 * 4096].fill(1);
    new[60 * 4096..63 * 4096].fill(2);
    let mut signer = Signer::new(shape);
    signer.update(&new).unwrap();
    assert_eq!(m.target.seal(1, signer.finish().unwrap().digest().0), None);
    let ended = loop {
        assert!(m.target.has_work());
        if let Some(ended) = m.target.work() {
            break ended;
        }
    };
    assert_eq!(ended, (1, Ok(())));
    m.ok(&Op::Place { at: spot("x"), meta: Meta { size: 64 * BLOCK, ..file_meta(b"") }, stage: 1 });
    assert!(fs::read(m.at("x")).unwrap() == new);
    assert_eq!(m.stat("x").blocks() * 512, 7 * BLOCK);
}

/// More large files in one directory than a receiver takes into staging at a time, and than a worker's ring of tasks holds. They are nearly all hole, to be quick.
#[test]
fn thousands_of_large_files_at_once() {
    let files = STAGED_FILES_MAX + 1000;
    for way in [Way::Local, Way::Tcp] {
        let place = Place::new();
        for at in 0..files {
            let file = File::create(place.src.join(at.to_string())).unwrap();
            file.write_all_at(at.to_string().as_bytes(), 0).unwrap();
            file.set_len(INLINE_FILE_BYTES_MAX as u64 + 1).unwrap();
        }
        let live = Live::start(As::Us, way, &place, &["-n", "1"]);
        live.settle("thousands of large files");
        live.terminate();
    }
}
