//! Large files that change: deltas are made, applied, and refused where they do not fit.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;

use ringsync::apply::Target;
use ringsync::delta::code::{StepWriter, put_shape};
use ringsync::delta::{Digest, Shape, Signature, Signer, Step};
use ringsync::model::meta::Meta;
use ringsync::model::op::Op;

use crate::compare::{Rules, compare};
use crate::content::whole;
use crate::fixture::{Mirror, file_meta, spot};
use crate::place::{Place, seed, until};
use crate::program::{As, Mirror as Live, Way, once};
use crate::rng::Rng;

const BLOCK: usize = 4096;

fn random(rng: &mut Rng, len: usize) -> Vec<u8> {
    (0..len).map(|_| rng.next() as u8).collect()
}

fn sign(bytes: &[u8]) -> Signature {
    let mut signer = Signer::new(Shape::of(bytes.len() as u64).unwrap());
    signer.update(bytes).unwrap();
    signer.finish().unwrap()
}

/// Begins a patch of `base` bytes at `x` to `len`.
fn begin(m: &mut Mirror, id: u64, base: usize, len: usize) {
    let mut shapes = Vec::new();
    put_shape(&mut shapes, Shape::of(base as u64).unwrap());
    put_shape(&mut shapes, Shape::of(len as u64).unwrap());
    m.target.patch(id, &spot("x"), &shapes);
}

fn steps(m: &mut Mirror, id: u64, steps: &[Step<'_>]) {
    let mut writer = StepWriter::new(Vec::new(), steps[0].at());
    steps.iter().for_each(|step| writer.push(step));
    m.target.steps(id, &writer.finish());
}

/// Seals it and works until it is answered.
fn seal(m: &mut Mirror, id: u64, digest: Digest) -> i32 {
    if let Some(errno) = m.target.seal(id, digest.0) {
        return errno;
    }
    loop {
        assert!(m.target.has_work(), "it is never answered");
        if let Some((ended, result)) = m.target.work() {
            assert_eq!(ended, id);
            return result.err().unwrap_or(0);
        }
    }
}

#[test]
fn a_patch_is_placed_once_its_digest_is_right() {
    let mut rng = Rng::new(seed());
    let mut m = Mirror::new();
    let base = random(&mut rng, 10 * BLOCK + 5);
    m.put("x", &base);
    let new = [b"front", &base[2 * BLOCK..], &base[..BLOCK]].concat();
    let delta = [
        Step::Literal { at: 0, bytes: b"front" },
        Step::Copy { at: 5, from: 2 * BLOCK as u64, len: (base.len() - 2 * BLOCK) as u64 },
        Step::Copy { at: (new.len() - BLOCK) as u64, from: 0, len: BLOCK as u64 },
    ];
    begin(&mut m, 1, base.len(), new.len());
    steps(&mut m, 1, &delta);
    assert_eq!(seal(&mut m, 1, sign(&new).digest()), 0);
    assert!(!m.target.has_work());
    m.ok(&Op::Place { at: spot("x"), meta: Meta { size: new.len() as u64, ..file_meta(b"") }, stage: 1 });
    assert!(fs::read(m.at("x")).unwrap() == new);

    // The base is another one by now, of another length, and then of the same.
    begin(&mut m, 2, base.len(), new.len());
    steps(&mut m, 2, &delta);
    assert_eq!(seal(&mut m, 2, sign(&new).digest()), libc::ESTALE);
    m.put("x", &random(&mut rng, base.len()));
    begin(&mut m, 3, base.len(), new.len());
    steps(&mut m, 3, &delta);
    assert_eq!(seal(&mut m, 3, sign(&new).digest()), libc::ESTALE);
    m.target.end_cycle();
    assert_eq!(m.names(), ["x"], "what was staged is gone");
}

#[test]
fn a_hostile_patch_is_refused_and_leaves_nothing() {
    let mut m = Mirror::new();
    let base = vec![7; 3 * BLOCK];
    m.put("x", &base);
    let digest = sign(&base).digest();
    let copy = |at: u64, from: u64, len: u64| Step::Copy { at, from, len };
    let block = BLOCK as u64;
    for (id, step) in
        [copy(0, 1, block), copy(0, 0, 4 * block), copy(0, 2 * block, 2 * block), copy(0, 0, 5), copy(block, 0, block)].iter().enumerate()
    {
        begin(&mut m, id as u64, base.len(), base.len());
        steps(&mut m, id as u64, &[*step]);
        assert_eq!(seal(&mut m, id as u64, digest), libc::EPROTO, "{step:?}");
    }
    // Too few steps, steps of nothing, a base outside, shapes that are none.
    begin(&mut m, 10, base.len(), base.len());
    steps(&mut m, 10, &[copy(0, 0, block)]);
    assert_eq!(seal(&mut m, 10, digest), libc::EPROTO);
    assert!(!m.target.has_work(), "nothing is done for what is refused");
    m.target.drop_stage(10);
    steps(&mut m, 11, &[copy(0, 0, block)]);
    assert_eq!(seal(&mut m, 11, digest), libc::EPROTO);
    m.target.patch(12, &spot(".ringsync-staging/f1"), b"");
    assert_eq!(seal(&mut m, 12, digest), libc::EINVAL);
    m.target.patch(13, &spot("x"), b"\xff\xff");
    assert_eq!(seal(&mut m, 13, digest), libc::EPROTO);
    m.target.end_cycle();
    assert_eq!(m.names(), ["x"]);
}

fn edit(rng: &mut Rng, path: &Path) {
    let len = fs::metadata(path).unwrap().len();
    let file = OpenOptions::new().read(true).write(true).open(path).unwrap();
    match rng.below(5) {
        0 => (0..20).for_each(|_| file.write_all_at(&random(rng, BLOCK), rng.below(len as usize) as u64).unwrap()),
        1 => file.write_all_at(&random(rng, 100_000), len).unwrap(),
        2 => file.set_len(len - (len / 10)).unwrap(),
        3 => {
            let content = fs::read(path).unwrap();
            let at = rng.below(content.len());
            fs::write(path, [&content[..at], &random(rng, 77), &content[at..]].concat()).unwrap();
        }
        _ => {
            let (content, temp) = (fs::read(path).unwrap(), path.with_extension("saving"));
            fs::write(&temp, [&b"saved"[..], &content].concat()).unwrap();
            fs::rename(&temp, path).unwrap();
        }
    }
}

fn files_that_change(way: Way, len: usize) {
    let first = seed();
    let mut rng = Rng::new(first);
    let place = Place::new();
    let path = place.src.join("large");
    fs::write(&path, random(&mut rng, len)).unwrap();
    let mirror = Live::start(As::Us, way, &place, &["-v", "-n", "1"]);
    mirror.settle("the first sync");
    for round in 0..12 {
        edit(&mut rng, &path);
        if rng.chance(50) {
            mirror.settle(&format!("RINGSYNC_SEED={first}, round {round}"));
        }
    }
    mirror.settle("the end");
    // A page is a delta for certain.
    OpenOptions::new().write(true).open(&path).unwrap().write_all_at(b"a page", 8192).unwrap();
    mirror.settle("a page");
    let told = until(crate::place::deadline(), || mirror.stderr().contains("delta matched="));
    assert!(told, "no delta was made: {}", mirror.stderr());
    // The mirror is changed behind its back: the next delta does not fit, and the file comes whole.
    fs::write(place.dst.join("large"), random(&mut rng, fs::metadata(&path).unwrap().len() as usize)).unwrap();
    OpenOptions::new().write(true).open(&path).unwrap().write_all_at(b"another", 8192).unwrap();
    mirror.settle("a base that is not there");
    mirror.terminate();
}

#[test]
fn large_files_that_change_local() {
    files_that_change(Way::Local, 3_000_000);
}

#[test]
fn large_files_that_change_tcp() {
    files_that_change(Way::Tcp, 3_000_000);
}

/// So small that they would fit into one message, until some grow.
#[test]
fn small_files_that_change_tcp() {
    files_that_change(Way::Tcp, 60_000);
}

/// A file that takes long to be signed is signed when the mirror has it: from then on what changes is a delta, without the mirror's being asked.
#[test]
fn a_very_large_file_is_signed_when_it_has_been_sent() {
    let (seed, place) = (seed(), Place::new());
    let path = place.src.join("large");
    fs::write(&path, whole(1, seed, 70_000_000)).unwrap();
    // A hole is signed as what it stands for.
    OpenOptions::new().write(true).open(&path).unwrap().set_len(80_000_000).unwrap();
    let mirror = Live::start(As::Us, Way::Tcp, &place, &["-v", "-n", "1"]);
    let signed = |times| {
        let told =
            until(crate::place::deadline(), || mirror.stderr().matches("a file that was sent is signed bytes=80000000").count() == times);
        assert!(told, "RINGSYNC_SEED={seed}: not signed {times} times: {}", mirror.stderr());
    };
    mirror.settle("the first sync");
    signed(1);
    let write = |bytes: &[u8], at| OpenOptions::new().write(true).open(&path).unwrap().write_all_at(bytes, at).unwrap();
    write(b"a page", 3 * BLOCK as u64);
    mirror.settle("a page");
    let delta = format!(" literal={BLOCK}\n");
    assert!(mirror.stderr().contains(&delta), "RINGSYNC_SEED={seed}: no delta of a page: {}", mirror.stderr());
    assert!(!mirror.stderr().contains("is asked for a signature"), "RINGSYNC_SEED={seed}: {}", mirror.stderr());
    // The mirror has something else: the file comes whole, and is signed once more.
    fs::write(place.dst.join("large"), b"something else").unwrap();
    write(b"another", 0);
    mirror.settle("a base that is not there");
    signed(2);
    // Changes while it is signed leave it without a signature.
    for round in 0..5 {
        write(&[round; 100], 70_000_000);
        mirror.settle(&format!("change {round}"));
    }
    mirror.terminate();
}

/// A sender that knows nothing of what the mirror holds asks for its signature: what changed while nobody looked is sent, and not the rest.
#[test]
fn what_changed_while_nobody_looked_is_sent_as_a_delta() {
    let (seed, place) = (seed(), Place::new());
    let mut rng = Rng::new(seed);
    let (pages, front) = (place.src.join("pages"), place.src.join("front"));
    // More blocks than fit into one part of the answer, and fewer.
    for (path, len) in [(&pages, 250_000_000), (&front, 700_001)] {
        fs::write(path, whole(1, seed, len)).unwrap();
    }
    once(As::Us, Way::Tcp, &place, &[], 0);
    let file = OpenOptions::new().write(true).open(&pages).unwrap();
    for page in [1, 20_000, 60_000] {
        file.write_all_at(&random(&mut rng, BLOCK), page * BLOCK as u64).unwrap();
    }
    fs::write(&front, [&b"front"[..], &fs::read(&front).unwrap()].concat()).unwrap();
    let said = once(As::Us, Way::Tcp, &place, &["-v"], 0);
    for delta in [format!("a delta matched={} literal={}", 250_000_000 - 3 * BLOCK, 3 * BLOCK), "a delta matched=700001 literal=5".into()] {
        assert!(said.contains(&delta), "RINGSYNC_SEED={seed}: no {delta}:\n{said}");
    }
    let differences = compare(&place.src, &place.dst, &Rules::full());
    assert!(differences.is_empty(), "RINGSYNC_SEED={seed}: {differences}");
    // What has nothing in common with it comes whole all the same.
    fs::write(&front, random(&mut rng, 900_000)).unwrap();
    once(As::Us, Way::Tcp, &place, &[], 0);
    let differences = compare(&place.src, &place.dst, &Rules::full());
    assert!(differences.is_empty(), "RINGSYNC_SEED={seed}: {differences}");
}
