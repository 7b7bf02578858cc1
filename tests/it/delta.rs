//! Deltas: what is patched is what was meant, for edits of every kind; the work is bounded whatever the content; decoders survive any bytes.
//!
//! `RINGSYNC_SEED` takes back the seed that a failure prints.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use ringsync::delta::code::{STEP_BYTES_MAX, SignatureReader, StepWriter, Steps, put_blocks, put_shape, take_shape};
use ringsync::delta::{Differ, Digest, Outcome, Patcher, Shape, Signature, Signer, Step, Work};
use ringsync::limits::{DELTA_AHEAD_BYTES, DELTA_BARREN_BYTES, DELTA_CHECKS_FREE, DELTA_LITERAL_BYTES_MAX};

use crate::rng::Rng;

const BLOCK: usize = 4096;

fn seed() -> u64 {
    let seed = std::env::var("RINGSYNC_SEED").ok().map(|s| s.parse().expect("RINGSYNC_SEED is a number")).unwrap_or_else(|| {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
        now.as_nanos() as u64 % 1_000_000_007
    });
    println!("RINGSYNC_SEED={seed}");
    seed
}

fn random(rng: &mut Rng, len: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        bytes.extend_from_slice(&rng.next().to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

fn sign_as(bytes: &[u8], shape: Shape) -> Signature {
    let mut signer = Signer::new(shape);
    signer.update(bytes).expect("as long as it is");
    signer.finish().expect("complete")
}

fn sign(bytes: &[u8]) -> Signature {
    sign_as(bytes, Shape::of(bytes.len() as u64).expect("small"))
}

/// A step that owns its literal.
#[derive(Debug, Clone, PartialEq)]
enum Owned {
    Copy { at: u64, from: u64, len: u64 },
    Literal { at: u64, bytes: Vec<u8> },
    Hole { at: u64, len: u64 },
}

impl Owned {
    fn step(&self) -> Step<'_> {
        match self {
            Self::Copy { at, from, len } => Step::Copy { at: *at, from: *from, len: *len },
            Self::Literal { at, bytes } => Step::Literal { at: *at, bytes },
            Self::Hole { at, len } => Step::Hole { at: *at, len: *len },
        }
    }
}

impl From<Step<'_>> for Owned {
    fn from(step: Step<'_>) -> Self {
        match step {
            Step::Copy { at, from, len } => Self::Copy { at, from, len },
            Step::Literal { at, bytes } => Self::Literal { at, bytes: bytes.to_vec() },
            Step::Hole { at, len } => Self::Hole { at, len },
        }
    }
}

/// The delta; the reader asserts that every byte is asked for once and in order.
fn diff(base: &Signature, new: &[u8]) -> (Vec<Owned>, Outcome) {
    diff_sparse(base, new, &[])
}

/// The same of content with holes, of which each is a start and an end: what is not asked for lies in them.
fn diff_sparse(base: &Signature, new: &[u8], holes: &[(u64, u64)]) -> (Vec<Owned>, Outcome) {
    let mut steps = Vec::new();
    let mut asked = 0;
    let read = |at: u64, out: &mut [u8]| {
        assert!(at == asked || holes.iter().any(|(from, to)| *from <= asked && at <= *to), "{asked} to {at} was not asked for");
        asked = at + out.len() as u64;
        out.copy_from_slice(&new[at as usize..][..out.len()]);
        Ok::<_, Infallible>(())
    };
    let emit = |step: Step<'_>| {
        steps.push(step.into());
        Ok(())
    };
    let hole = |at: u64| holes.iter().find(|(from, to)| (*from..*to).contains(&at)).map_or(0, |(_, to)| to - at);
    let Ok(outcome) = Differ::new(base, new.len() as u64).expect("small").run_sparse(read, hole, emit);
    assert!(asked == new.len() as u64 || hole(asked) > 0);
    (steps, outcome)
}

/// What a receiver does: checks the steps, makes the content, takes its digest from what it was shown.
fn patch(base: &[u8], shape: Shape, known: Option<Arc<Signature>>, new: Shape, steps: &[Owned]) -> (Vec<u8>, Digest) {
    let mut patcher = Patcher::new(shape, known, new).expect("the base's signature");
    let mut made = Vec::new();
    for step in steps {
        let part = patcher.step(&step.step()).unwrap_or_else(|flaw| panic!("{flaw} at {}", made.len()));
        match step {
            Owned::Copy { from, len, .. } => made.extend_from_slice(&base[*from as usize..][..*len as usize]),
            Owned::Literal { bytes, .. } => made.extend_from_slice(bytes),
            Owned::Hole { len, .. } => made.resize(made.len() + *len as usize, 0),
        }
        if let Some(part) = part {
            base[part.from as usize..][..part.len as usize].chunks(10_000).for_each(|bytes| patcher.show(bytes).expect("these are owed"));
        }
    }
    (made, patcher.finish().expect("complete"))
}

/// Strong hashes beside those of the new content's blocks: two guesses a block of the base's length, an eight of them in vain after each run, and the suspicions.
fn assert_bounded(work: &Work, base: Shape, new: u64) {
    let blocks = new.div_ceil(base.block());
    assert!(work.hashes <= 5 * blocks + DELTA_CHECKS_FREE + 16, "{blocks} blocks: {work:?}");
    assert!(work.checks <= blocks + 2 * work.hits + DELTA_CHECKS_FREE, "{blocks} blocks: {work:?}");
    assert!(work.searched <= new, "{blocks} blocks: {work:?}");
}

/// Everything that has to hold for any pair of contents.
fn check(base: &[u8], basis: &Signature, new: &[u8]) -> (Vec<Owned>, Outcome) {
    check_sparse(base, basis, new, &[])
}

/// Whether the second of two steps copies what is behind that which the first one copies.
fn goes_on(pair: &[Owned]) -> bool {
    matches!(pair, [Owned::Copy { from, len, .. }, Owned::Copy { from: next, .. }] if from + len == *next)
}

fn check_sparse(base: &[u8], basis: &Signature, new: &[u8], holes: &[(u64, u64)]) -> (Vec<Owned>, Outcome) {
    let (steps, outcome) = diff_sparse(basis, new, holes);
    let shape = outcome.signature.shape();
    assert!(outcome.signature == sign_as(new, shape), "the new signature is not the content's");

    // Over the wire and back.
    let mut writer = StepWriter::new(Vec::new(), 0);
    steps.iter().for_each(|step| writer.push(&step.step()));
    let out = writer.finish();
    let back: Vec<Owned> = Steps::new(&out).expect("a head").map(|step| step.expect("a step").into()).collect();
    assert!(back == steps, "steps differ after coding");
    let literal: u64 = outcome.work.literal;
    assert!(out.len() as u64 <= literal + (STEP_BYTES_MAX * (steps.len() + 1)) as u64);

    let known = Some(Arc::new(basis.clone()));
    for known in [None, known] {
        let (made, digest) = patch(base, basis.shape(), known, shape, &steps);
        assert!(made == new, "patched content differs");
        assert_eq!(digest, outcome.signature.digest());
    }
    assert_eq!(outcome.work.copied + literal + outcome.work.holes, new.len() as u64);
    let short = |step: &Owned| step.step().len() < DELTA_AHEAD_BYTES;
    assert!(
        !steps.windows(2).any(|pair| goes_on(pair) && short(&pair[0])),
        "copies that continue each other are one, unless they are long"
    );
    assert_bounded(&outcome.work, basis.shape(), new.len() as u64);
    (steps, outcome)
}

/// Content of one of several kinds.
fn content(rng: &mut Rng, len: usize) -> Vec<u8> {
    match rng.below(6) {
        0 => vec![0; len],
        1 => vec![rng.next() as u8; len],
        // A period that divides blocks, and one that does not.
        2 => random(rng, 64).into_iter().cycle().take(len).collect(),
        3 => random(rng, 1000).into_iter().cycle().take(len).collect(),
        // Sparse: mostly zeros.
        4 => {
            let mut bytes = vec![0; len];
            for _ in 0..len / 20_000 {
                let (at, piece) = (rng.below(len), rng.below(3000));
                let piece = random(rng, piece.min(len - at));
                bytes[at..][..piece.len()].copy_from_slice(&piece);
            }
            bytes
        }
        _ => random(rng, len),
    }
}

fn length(rng: &mut Rng) -> usize {
    let border = rng.below(12) * BLOCK;
    match rng.below(5) {
        0 => rng.below(3),
        1 => border,
        2 => border + 1,
        3 => border.saturating_sub(1),
        _ => rng.below(400_000),
    }
}

/// Changes `bytes` in one of the ways that programs do.
fn edit(rng: &mut Rng, bytes: &mut Vec<u8>) {
    let at = rng.below(bytes.len() + 1);
    let room = bytes.len() - at;
    let piece = [1, 100, BLOCK, 3 * BLOCK, 50_000][rng.below(5)];
    let piece = 1 + rng.below(piece);
    match rng.below(8) {
        0 => {
            let new = random(rng, piece.min(room));
            bytes[at..][..new.len()].copy_from_slice(&new);
        }
        1 => drop(bytes.splice(at..at, random(rng, piece))),
        2 => drop(bytes.drain(at..at + piece.min(room))),
        3 => bytes.truncate(at),
        4 => bytes.extend(random(rng, piece)),
        // A move, of blocks or of anything.
        5 | 6 => {
            let moved: Vec<u8> = bytes.drain(at..at + piece.min(room)).collect();
            let mut to = rng.below(bytes.len() + 1);
            if rng.chance(50) {
                to = to / BLOCK * BLOCK;
            }
            bytes.splice(to..to, moved);
        }
        _ => bytes[at..][..piece.min(room)].fill(0),
    }
}

#[test]
fn patching_gives_what_was_meant() {
    let seed = seed();
    for case in 0..300 {
        let mut rng = Rng::new(seed ^ case << 32);
        println!("case {case}");
        let len = length(&mut rng);
        let base = content(&mut rng, len);
        let mut new = base.clone();
        for _ in 0..rng.below(6) {
            edit(&mut rng, &mut new);
        }
        if rng.chance(10) {
            let len = length(&mut rng);
            new = content(&mut rng, len);
        }
        check(&base, &sign(&base), &new);
        // A base whose blocks are longer than what the new content gets.
        let long = BLOCK << (1 + rng.below(5));
        check(&base, &sign_as(&base, Shape::new(base.len() as u64, long as u64).expect("small")), &new);
    }
}

#[test]
fn small_and_even_content() {
    let sizes = [0, 1, 2, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK - 1, 2 * BLOCK, 2 * BLOCK + 1, 9 * BLOCK];
    for from in sizes {
        for to in sizes {
            for fill in [0u8, 7] {
                let (base, new) = (vec![0; from], vec![fill; to]);
                let (_, outcome) = check(&base, &sign(&base), &new);
                if fill == 0 && from >= BLOCK {
                    assert!(outcome.work.literal < BLOCK as u64, "{from} to {to} zeros: {:?}", outcome.work);
                }
            }
        }
    }
}

#[test]
fn the_usual_edits_are_cheap() {
    const MIB: usize = 1 << 20;
    let mut rng = Rng::new(seed());
    let base = random(&mut rng, 16 * MIB + 1234);
    let basis = sign(&base);
    let literal = |new: &[u8], searched: u64| {
        let (steps, outcome) = check(&base, &basis, new);
        assert!(outcome.work.searched <= searched, "{:?}", outcome.work);
        // Long copies are several steps.
        (outcome.work.literal, steps.len() - steps.windows(2).filter(|pair| goes_on(pair)).count())
    };
    let block = BLOCK as u64;

    assert_eq!(literal(&base, 0), (0, 1), "unchanged");

    let mut new = base.clone();
    new[5 * MIB..][..BLOCK].copy_from_slice(&random(&mut rng, BLOCK));
    assert_eq!(literal(&new, block), (block, 3), "one block in place");
    let mut new = base.clone();
    new[5 * MIB + 99..][..BLOCK].copy_from_slice(&random(&mut rng, BLOCK));
    assert_eq!(literal(&new, 2 * block), (2 * block, 3), "across two blocks");

    let more = random(&mut rng, 1000);
    assert_eq!(literal(&[&base[..], &more].concat(), 1000), (1000, 2), "append");
    assert!(literal(&base[..7 * MIB + 5], block).0 < block, "truncation");

    let front = random(&mut rng, 100);
    assert_eq!(literal(&[&front, &base[..]].concat(), 100), (100, 2), "insertion at the front");
    let (made, _) = literal(&[&base[..9 * MIB + 77], &front, &base[9 * MIB + 77..]].concat(), 2 * block);
    assert!(made <= 2 * block + 100, "insertion in the middle: {made}");
    let (made, _) = literal(&[&base[..9 * MIB + 77], &base[9 * MIB + 999..]].concat(), 2 * block);
    assert!(made <= 2 * block, "deletion in the middle: {made}");
    // Neither the offset nor the end helps between the two.
    let (made, _) = literal(&[&front, &base[..9 * MIB + 77], &front[..33], &base[9 * MIB + 77..]].concat(), 2 * block);
    assert!(made <= 4 * block + 133, "two insertions: {made}");
    let (made, _) = literal(&[&base[9 * MIB + 77..], &base[..9 * MIB + 77]].concat(), 4 * block);
    assert!(made <= 3 * block, "halves exchanged: {made}");
}

/// Random content makes the search sparser, and what was moved is found all the same.
#[test]
fn a_long_search_in_vain_gets_sparse_and_not_blind() {
    let mut rng = Rng::new(seed());
    let base = random(&mut rng, 1 << 20);
    let strange = random(&mut rng, 5 * DELTA_BARREN_BYTES as usize);
    // The shift is found by the search alone.
    let new = [&strange, &base[100_000..], &strange[..9999]].concat();
    let (_, outcome) = check(&base, &sign(&base), &new);
    let work = outcome.work;
    assert!(work.searched < 3 * DELTA_BARREN_BYTES, "{work:?}");
    assert!(work.copied > (base.len() - 100_000 - 10 * BLOCK) as u64, "{work:?}");
}

/// A block whose rolling hash is that of any other with the same `kind`, though they differ: the words that Thue and Morse found make every polynomial modulo
/// 2^64 collide.
fn colliding(kind: u64, inverted: [bool; 2]) -> Vec<u8> {
    let mut rng = Rng::new(kind);
    let (zero, one) = (rng.next() as u8, rng.next() as u8);
    inverted
        .iter()
        .flat_map(|inverted| (0..2048u32).map(move |at| if (at.count_ones() % 2 == 0) == *inverted { zero } else { one }))
        .collect()
}

#[test]
fn equal_rolling_hashes_cost_a_bounded_number_of_strong_ones() {
    let colliding_pair = [colliding(1, [true, true]), colliding(1, [false, true])];
    let signed = colliding_pair.each_ref().map(|block| sign(block).blocks()[0]);
    assert!(signed[0].weak == signed[1].weak && signed[0].strong != signed[1].strong, "the attack does not work");

    // The base has one of each kind, the new content only the others, at odd places.
    for kinds in [1, 64] {
        let base: Vec<u8> = (0..kinds).flat_map(|kind| colliding(kind, [true, true])).collect();
        let mut new = Vec::new();
        for number in 0..2000 {
            new.extend(colliding(number % kinds, [false, true]));
            new.push(number as u8);
        }
        let (_, outcome) = check(&base, &sign(&base), &new);
        assert!(outcome.work.checks > DELTA_CHECKS_FREE, "the attack did not reach the search: {:?}", outcome.work);
    }

    // Long repeats with small differences: every position is like a block.
    let base = vec![0; 300 * BLOCK];
    let mut new = vec![0; 300 * BLOCK + 17];
    new.iter_mut().step_by(BLOCK - 1).for_each(|byte| *byte = 1);
    check(&base, &sign(&base), &new);
}

#[test]
fn signatures_come_back_in_pieces() {
    let mut rng = Rng::new(seed());
    for len in [0, 1, BLOCK, 100 * BLOCK + 1] {
        let signature = sign(&random(&mut rng, len));
        let mut out = Vec::new();
        put_shape(&mut out, signature.shape());
        let mut reader = SignatureReader::new(take_shape(&mut &out[..]).expect("a shape"));
        for blocks in signature.blocks().chunks(7) {
            let mut out = Vec::new();
            put_blocks(&mut out, blocks);
            reader.take(&out).expect("blocks");
        }
        assert_eq!(reader.finish(), Ok(signature));
    }
}

/// Any bytes, and valid ones with something changed: a flaw or steps, which the patcher takes or refuses; never more content than was announced.
#[test]
fn decoders_survive_any_bytes() {
    let seed = seed();
    let mut rng = Rng::new(seed);
    let base = random(&mut rng, 20 * BLOCK + 5);
    let basis = Arc::new(sign(&base));
    let mut new = base.clone();
    for _ in 0..4 {
        edit(&mut rng, &mut new);
    }
    let (steps, _) = diff(&basis, &new);
    let mut writer = StepWriter::new(Vec::new(), 0);
    steps.iter().for_each(|step| writer.push(&step.step()));
    let valid = writer.finish();
    let (mut refused, mut finished) = (0, 0);
    for _ in 0..20_000 {
        let mut bytes = if rng.chance(50) {
            let len = rng.below(64);
            random(&mut rng, len)
        } else {
            let mut bytes = valid.clone();
            for _ in 0..1 + rng.below(3) {
                let at = rng.below(bytes.len().min(40));
                bytes[at] = rng.next() as u8;
            }
            bytes.truncate(if rng.chance(20) { rng.below(bytes.len()) } else { bytes.len() });
            bytes
        };
        if rng.chance(50) && !bytes.is_empty() {
            bytes[0] = 0;
        }
        let known = rng.chance(50).then(|| Arc::clone(&basis));
        let shape = if rng.chance(50) { Shape::of(new.len() as u64) } else { Shape::of(rng.next() >> rng.below(64)) };
        let Some(shape) = shape else { continue };
        let mut patcher = Patcher::new(basis.shape(), known, shape).expect("the base's signature");
        let mut ok = true;
        for step in Steps::new(&bytes).into_iter().flatten() {
            let Ok(part) = step.and_then(|step| patcher.step(&step)) else {
                ok = false;
                break;
            };
            if let Some(part) = part {
                patcher.show(&base[part.from as usize..][..part.len as usize]).expect("these are owed");
            }
            assert!(patcher.at() <= shape.len());
        }
        if ok && patcher.finish().is_ok() {
            finished += 1
        } else {
            refused += 1
        }

        let mut rest = &bytes[..];
        if let Ok(shape) = take_shape(&mut rest) {
            let mut reader = SignatureReader::new(shape);
            let taken = reader.take(rest);
            assert_eq!(taken.and_then(|()| reader.finish()).is_ok(), rest.len() == shape.blocks() * 22);
        }
    }
    println!("{refused} refused, {finished} taken to the end");
    assert!(refused > 0 && finished > 0);
}

/// Holes are passed over, whatever stands in the base and around them.
#[test]
fn holes_are_not_read() {
    let mut rng = Rng::new(seed());
    let mut passed = 0;
    for _ in 0..200 {
        let len = length(&mut rng);
        let mut base = content(&mut rng, len);
        let mut new = base.clone();
        for _ in 0..rng.below(4) {
            edit(&mut rng, &mut new);
        }
        let (mut holes, mut from) = (Vec::new(), 0);
        while from < new.len() {
            let start = from + rng.below(8 * BLOCK);
            let longest = if rng.chance(10) { 600 * BLOCK } else { 6 * BLOCK };
            let end = (start + 1 + rng.below(longest)).min(new.len());
            if start < end {
                new[start..end].fill(0);
                holes.push((start as u64, end as u64));
                if rng.chance(50) && end <= base.len() {
                    base[start..end].fill(0);
                }
            }
            from = end.max(start) + 1;
        }
        let basis = sign(&base);
        let (_, outcome) = check_sparse(&base, &basis, &new, &holes);
        passed += outcome.work.holes;
        check(&base, &basis, &new);
    }
    assert!(passed > 0);
    // All of it: nothing is read, and a hole as long as this is one step even where the base has zeros already.
    let zeros = vec![0; 300 * BLOCK + 7];
    let (steps, outcome) = check_sparse(&zeros, &sign(&zeros), &zeros, &[(0, zeros.len() as u64)]);
    assert_eq!(steps, [Owned::Hole { at: 0, len: zeros.len() as u64 }]);
    assert_eq!(outcome.work.literal, 0);
}

/// The canary: one wrong byte in a delta must show in the digest.
#[test]
fn a_wrong_byte_is_found() {
    let mut rng = Rng::new(seed());
    let base = random(&mut rng, 10 * BLOCK);
    let new = [&base[..5 * BLOCK], b"something", &base[5 * BLOCK..]].concat();
    let (mut steps, outcome) = diff(&sign(&base), &new);
    for step in &mut steps {
        if let Owned::Literal { bytes, .. } = step {
            bytes[0] ^= 1;
        }
    }
    let (made, digest) = patch(&base, sign(&base).shape(), None, outcome.signature.shape(), &steps);
    assert!(made != new);
    assert_ne!(digest, outcome.signature.digest());
}

#[test]
fn literals_are_as_long_as_they_may_be() {
    let mut rng = Rng::new(seed());
    let new = random(&mut rng, 3 * DELTA_LITERAL_BYTES_MAX + 5);
    let (steps, _) = check(&[], &sign(&[]), &new);
    assert_eq!(steps.len(), 4);
}

/// Errors of the reader and of whoever takes the steps come through.
#[test]
fn errors_end_it() {
    let basis = sign(&[1; 50_000]);
    let differ = Differ::new(&basis, 60_000).expect("small");
    assert_eq!(differ.run(|_, _| Err("read"), |_| Ok(())).map(|_| ()), Err("read"));
    assert_eq!(differ.run(|_, _| Ok(()), |_| Err("emit")).map(|_| ()), Err("emit"));
}
