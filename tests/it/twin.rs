//! The twin in memory and the real target do the same: the same random operations give the same results and the same trees.

use std::collections::BTreeMap;
use std::hash::{BuildHasher, RandomState};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use ringsync::apply::{Errno, Listed, Target};
use ringsync::delta::code::{StepWriter, put_shape};
use ringsync::delta::{Digester, Shape, Step};
use ringsync::model::attrs::Attrs;
use ringsync::model::meta::{Extent, Kind, Meta, Time};
use ringsync::model::op::{Op, Spot};
use ringsync::model::path::{Name, NameBuf, RelPath, STAGING_NAME};

use crate::compare::attrs;
use crate::fixture::{Mirror, file_meta, meta, mkdir, rel, skipped_without_root, spot, unlink};
use crate::memtarget::{Act, MemTarget, Seen, TOUCHED_SEC};

/// SplitMix64: small, and the same everywhere.
pub struct Rng(u64);

impl Rng {
    /// From a seed; equal seeds give equal sequences.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number.
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    }

    /// A number below `n`.
    pub fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }
}

/// The seed of this run, printed so that a failure can be repeated.
pub fn seed() -> u64 {
    let seed = std::env::var("RINGSYNC_SEED").ok().map(|text| text.parse().expect("RINGSYNC_SEED is a number"));
    let seed = seed.unwrap_or_else(|| RandomState::new().hash_one(0));
    println!("RINGSYNC_SEED={seed}");
    seed
}

/// Few names and little depth, so that operations meet.
fn a_dir(rng: &mut Rng) -> RelPath {
    rel(["", "", "a", "b", "c", "a/a", "a/b", "b/a", "a/b/c", ".ringsync-staging-p0-a", "a/.ringsync-staging-p1-a/a"]
        [rng.below(11) as usize])
}

fn a_name(rng: &mut Rng) -> Name<'static> {
    Name::new([b"a", b"b", b"c", b"d"][rng.below(4) as usize]).unwrap()
}

fn a_spot(rng: &mut Rng) -> Spot {
    if rng.below(12) == 0 {
        return Spot { dir: a_dir(rng), name: NameBuf::parked(rng.below(2), a_name(rng)) };
    }
    Spot { dir: a_dir(rng), name: a_name(rng).to_owned() }
}

/// What every kind of entry can have, as root.
fn some_attrs() -> Vec<Arc<Attrs>> {
    let one = |name: &[u8], value: &[u8]| (name.into(), value.to_vec());
    let all = [vec![one(b"trusted.a", b"1")], vec![one(b"trusted.a", b"2"), one(b"security.b", b"")]];
    all.into_iter().map(|all| Arc::new(Attrs::new(all).unwrap().unwrap())).collect()
}

/// The attributes come before what names them.
fn give(target: &mut dyn Target, meta: Option<&Meta>) {
    let digest = meta.map_or(0, |meta| meta.attrs);
    if let Some(attrs) = some_attrs().iter().find(|attrs| attrs.digest() == digest) {
        target.attrs(attrs);
    }
}

fn a_meta(rng: &mut Rng, kind: Kind) -> Meta {
    let mode = [0o644, 0o755, 0o600, 0o4755, 0o400][rng.below(5) as usize];
    let mtime = Time { sec: rng.below(1000) as i64 - 500, nsec: rng.below(1_000_000_000) as u32 };
    let rdev = if kind.is_device() { libc::makedev(1, 3 + rng.below(2) as u32) } else { 0 };
    let attrs = some_attrs().get(rng.below(6) as usize).map_or(0, |attrs| attrs.digest());
    Meta { kind, mode, uid: rng.below(3) as u32, gid: rng.below(3) as u32, mtime, size: 0, rdev, attrs }
}

fn an_op(rng: &mut Rng) -> Op {
    let special = [Kind::Fifo, Kind::Socket, Kind::Char][rng.below(3) as usize];
    match rng.below(22) {
        0..4 => Op::Mkdir { at: a_spot(rng), meta: a_meta(rng, Kind::Dir) },
        4..8 => Op::Move { from: a_spot(rng), to: a_spot(rng) },
        8 => Op::Park { from: a_spot(rng), id: rng.below(2) },
        9..11 => {
            let target = [&b"a"[..], b"b/c", b"../.."][rng.below(3) as usize];
            Op::Symlink { at: a_spot(rng), target: target.into(), meta: a_meta(rng, Kind::Symlink) }
        }
        11 => Op::Special { at: a_spot(rng), meta: a_meta(rng, special) },
        12..14 => {
            let kind = [Kind::File, Kind::Symlink, special][rng.below(3) as usize];
            Op::SetMeta { at: a_spot(rng), meta: a_meta(rng, kind) }
        }
        14 => Op::Place { at: a_spot(rng), meta: Meta { size: 4, ..a_meta(rng, Kind::File) }, stage: rng.below(3) },
        15..17 => Op::Link { from: a_spot(rng), to: a_spot(rng) },
        17..19 => Op::Unlink { at: a_spot(rng) },
        19 => Op::Rmdir { at: a_spot(rng) },
        _ => Op::DirMeta { dir: a_dir(rng), meta: Meta { mode: 0o755, ..a_meta(rng, Kind::Dir) } },
    }
}

fn digest(attrs: BTreeMap<String, Vec<u8>>) -> u64 {
    let all = attrs.into_iter().map(|(name, value)| (name.into_bytes().into(), value));
    Attrs::new(all.collect()).unwrap().map_or(0, |attrs| attrs.digest())
}

/// What is on the disk, as the twin says it: link groups numbered by first appearance are compared as partitions.
fn read(root: &Path) -> BTreeMap<Vec<u8>, Seen> {
    let mut all = BTreeMap::new();
    let mut todo = vec![root.to_path_buf()];
    while let Some(path) = todo.pop() {
        let stat = path.symlink_metadata().unwrap();
        let kind = Kind::from_mode(stat.mode()).unwrap();
        let content = match kind {
            Kind::File => std::fs::read(&path).unwrap(),
            Kind::Symlink => std::fs::read_link(&path).unwrap().as_os_str().as_bytes().to_vec(),
            _ => Vec::new(),
        };
        if kind == Kind::Dir {
            let entries = std::fs::read_dir(&path).unwrap().map(|entry| entry.unwrap());
            let is_told = |name: &[u8]| !name.starts_with(STAGING_NAME) || Name::new(name).unwrap().is_parked();
            todo.extend(entries.filter(|e| is_told(e.file_name().as_bytes())).map(|e| e.path()));
        }
        let meta = Meta {
            kind,
            mode: stat.mode() & 0o7777,
            uid: stat.uid(),
            gid: stat.gid(),
            mtime: Time { sec: stat.mtime(), nsec: stat.mtime_nsec() as u32 },
            size: content.len() as u64,
            rdev: if kind.is_device() { stat.rdev() } else { 0 },
            attrs: digest(attrs::read(&path, true).unwrap()),
        };
        let link_group = if kind != Kind::Dir && stat.nlink() > 1 { stat.ino() } else { 0 };
        let path = path.strip_prefix(root).unwrap().as_os_str().as_bytes().to_vec();
        all.insert(path, Seen { meta, content, link_group, volume: 0 });
    }
    all
}

fn compare(mem: &MemTarget, root: &Path, started: i64, context: &str) {
    let mut twin = mem.snapshot_with_parked();
    let mut real = read(root);
    assert_eq!(twin.keys().collect::<Vec<_>>(), real.keys().collect::<Vec<_>>(), "names after {context}");
    for tree in [&mut twin, &mut real] {
        // Numbered by the first path that is seen.
        let mut first: BTreeMap<u64, u64> = BTreeMap::new();
        for seen in tree.values_mut().filter(|seen| seen.link_group != 0) {
            let next = first.len() as u64 + 1;
            seen.link_group = *first.entry(seen.link_group).or_insert(next);
        }
    }
    for (path, twin) in &mut twin {
        let real = &real[path];
        if twin.meta.kind == Kind::Dir && twin.meta.mtime.sec >= TOUCHED_SEC {
            assert!(real.meta.mtime.sec >= started, "{:?} was touched, after {context}", String::from_utf8_lossy(path));
            twin.meta.mtime = real.meta.mtime;
        }
        assert_eq!(twin, real, "{:?} after {context}", String::from_utf8_lossy(path));
    }
}

/// A delta that appends what `new` has beyond `base`, and the digest of `new`.
fn appended(base: &[u8], new: &[u8]) -> (Vec<u8>, [u8; 32]) {
    let (from, to) = (Shape::of(base.len() as u64).unwrap(), Shape::of(new.len() as u64).unwrap());
    let mut delta = Vec::new();
    put_shape(&mut delta, from);
    put_shape(&mut delta, to);
    let mut steps = StepWriter::new(delta, 0);
    if !base.is_empty() {
        steps.push(&Step::Copy { at: 0, from: 0, len: base.len() as u64 });
    }
    steps.push(&Step::Literal { at: base.len() as u64, bytes: &new[base.len()..] });
    let mut digester = Digester::new(to);
    digester.update(new).unwrap();
    (steps.finish(), digester.finish().unwrap().0)
}

fn run(seed: u64, steps: usize) -> usize {
    let mut rng = Rng::new(seed);
    let mut m = Mirror::new();
    let mut mem = MemTarget::new();
    let started = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() as i64 - 1;
    for target in [&mut m.target as &mut dyn Target, &mut mem] {
        target.op(&Op::DirMeta { dir: rel(""), meta: meta(Kind::Dir, 0o755) }).unwrap();
    }
    let mut done = 0;
    for step in 0..steps {
        let (results, what): ([Result<(), Errno>; 2], String) = match rng.below(20) {
            0 => {
                let (id, offset) = (rng.below(3), [0, 2][rng.below(2) as usize]);
                let data = [&b"ab"[..], b"abcd"][rng.below(2) as usize];
                ([m.target.stage(id, offset, data), mem.stage(id, offset, data)], format!("stage {id} at {offset}"))
            }
            1 if rng.below(2) == 0 => {
                let (id, offset) = (rng.below(3), [0, 2][rng.below(2) as usize]);
                ([m.target.stage_hole(id, offset, 2), mem.stage_hole(id, offset, 2)], format!("hole of {id} at {offset}"))
            }
            3 => {
                let (at, meta) = (a_spot(&mut rng), Meta { size: 4 + rng.below(3), ..a_meta(&mut rng, Kind::File) });
                give(&mut m.target, Some(&meta));
                let extents = [Extent { at: 1, len: 1 }, Extent { at: 3, len: 2 }];
                let results = [m.target.put_sparse(&at, &meta, &extents, b"abc"), mem.put_sparse(&at, &meta, &extents, b"abc")];
                (results, format!("put with holes {at:?}"))
            }
            1 if rng.below(2) == 0 => {
                let at = a_spot(&mut rng);
                // Of what a Put below may have left there, with a letter behind it.
                let base = vec![b'x'; rng.below(5) as usize];
                let new = [&base[..], b"y"].concat();
                let meta = Meta { size: new.len() as u64, ..a_meta(&mut rng, Kind::File) };
                give(&mut m.target, Some(&meta));
                let (delta, digest) = appended(&base, &new);
                let results = [m.target.put_patch(&at, &meta, &digest, &delta), mem.put_patch(&at, &meta, &digest, &delta)];
                (results, format!("patch of {at:?}"))
            }
            1 => {
                let id = rng.below(3);
                m.target.drop_stage(id);
                mem.drop_stage(id);
                ([Ok(()); 2], format!("drop of {id}"))
            }
            2 => {
                m.target.end_frame();
                m.target.end_cycle();
                mem.end_cycle();
                assert_eq!(m.at(".ringsync-staging").exists(), mem.has_staging(), "seed {seed}, step {step}");
                ([Ok(()); 2], "end of a cycle".into())
            }
            4..7 => {
                let (at, data) = (a_spot(&mut rng), vec![b'x'; rng.below(5) as usize]);
                let meta = Meta { size: data.len() as u64, ..a_meta(&mut rng, Kind::File) };
                give(&mut m.target, Some(&meta));
                ([m.target.put(&at, &meta, &data), mem.put(&at, &meta, &data)], format!("put {at:?}"))
            }
            _ => {
                let op = an_op(&mut rng);
                give(&mut m.target, op.meta());
                ([m.target.op(&op), mem.op(&op)], format!("{op:?}"))
            }
        };
        let context = format!("step {step} of seed {seed}: {what}");
        assert_eq!(results[0], results[1], "real and twin differ at {context}");
        done += usize::from(results[0].is_ok());
        mem.check();
        compare(&mem, &m.path, started, &context);
    }
    done
}

#[test]
fn the_twin_does_what_the_real_target_does() {
    if skipped_without_root("the_twin_does_what_the_real_target_does") {
        return;
    }
    let mut seeds = Rng::new(seed());
    let done: usize = (0..20).map(|_| run(seeds.next(), 400)).sum();
    assert!(done * 4 > 20 * 400, "only {done} of {} did anything: the test tests little", 20 * 400);
}

/// The comparison must see a difference, or the test above proves nothing.
#[test]
#[should_panic(expected = "after a change that only one has seen")]
fn a_blinded_twin_is_found_out() {
    let mut m = Mirror::new();
    let mut mem = MemTarget::new();
    for target in [&mut m.target as &mut dyn Target, &mut mem] {
        target.put(&spot("f"), &file_meta(b"x"), b"x").unwrap();
    }
    mem.put(&spot("f"), &file_meta(b"y"), b"y").unwrap();
    compare(&mem, &m.path, 0, "a change that only one has seen");
}

#[test]
fn faults_come_when_they_are_asked_for_and_change_nothing() {
    let mut mem = MemTarget::new();
    mem.op(&mkdir("d")).unwrap();
    mem.put(&spot("d/f"), &file_meta(b"x"), b"x").unwrap();
    let before = mem.snapshot();
    mem.set_fault(Some(Box::new(|act| match act {
        Act::Op(Op::Unlink { .. }) => Some(libc::EIO),
        Act::Put(at) if at.dir.is_root() => Some(libc::ENOSPC),
        Act::Stage(1) => Some(libc::EDQUOT),
        Act::List(dir) if !dir.is_root() => Some(libc::EACCES),
        _ => None,
    })));
    assert_eq!(mem.op(&unlink("d/f")), Err(libc::EIO));
    assert_eq!(mem.put(&spot("g"), &file_meta(b"x"), b"x"), Err(libc::ENOSPC));
    assert_eq!(mem.stage(1, 0, b"x"), Err(libc::EDQUOT));
    let mut failed = Vec::new();
    mem.list(&rel(""), &mut |listed| {
        if let Listed::Failed { dir, errno } = listed {
            failed.push((dir, errno));
        }
    })
    .unwrap();
    assert_eq!(failed, [(rel("d"), libc::EACCES)]);
    assert_eq!(mem.snapshot(), before);
    mem.set_fault(None);
    assert_eq!(mem.op(&Op::Place { at: spot("g"), meta: Meta { size: 1, ..file_meta(b"x") }, stage: 1 }), Err(libc::EDQUOT));
    mem.op(&unlink("d/f")).unwrap();
    mem.end_session();
    assert!(!mem.has_staging());
}
