//! How fast signatures and deltas are, in memory on one core: `cargo bench --bench delta`. What came out is in `perf/delta.md`.

use std::convert::Infallible;
use std::time::Instant;

use ringsync::delta::{Differ, Digester, Shape, Signature, Signer, Work};

const LEN: usize = 256 << 20;
const PIECE: usize = 256 << 10;
const BLOCK: usize = 4096;

/// The best of five, since whatever disturbs makes it slower.
fn best<T>(what: &str, bytes: usize, mut act: impl FnMut() -> T) -> T {
    let mut run = || {
        let start = Instant::now();
        let result = act();
        (start.elapsed(), result)
    };
    let (mut least, result) = run();
    for _ in 0..4 {
        least = least.min(run().0);
    }
    println!("{what:32} {:.2} GB/s  {:.3} s", bytes as f64 / least.as_secs_f64() / 1e9, least.as_secs_f64());
    result
}

/// Random bytes (xorshift).
fn fill(bytes: &mut [u8], state: &mut u64) {
    for out in bytes.chunks_mut(8) {
        *state ^= *state << 13;
        *state ^= *state >> 7;
        *state ^= *state << 17;
        out.copy_from_slice(&state.to_le_bytes()[..out.len()]);
    }
}

fn sign(bytes: &[u8], shape: Shape) -> Signature {
    let mut signer = Signer::new(shape);
    bytes.chunks(PIECE).for_each(|piece| signer.update(piece).expect("as long as it is"));
    signer.finish().expect("complete")
}

fn diff(base: &Signature, new: &[u8]) -> Work {
    let read = |at: u64, out: &mut [u8]| {
        out.copy_from_slice(&new[at as usize..][..out.len()]);
        Ok::<_, Infallible>(())
    };
    let Ok(outcome) = Differ::new(base, new.len() as u64).expect("small").run(read, |_| Ok(()));
    outcome.work
}

fn main() {
    let shape = Shape::of(LEN as u64).expect("small");
    let mut state = 1;
    let mut base = vec![0; LEN];
    fill(&mut base, &mut state);

    let basis = best("signature", LEN, || sign(&base, shape));
    best("digest only", LEN, || {
        let mut digester = Digester::new(shape);
        base.chunks(PIECE).for_each(|piece| digester.update(piece).expect("as long as it is"));
        digester.finish().expect("complete")
    });
    let delta = |what, new: &[u8]| println!("    {:?}", best(what, new.len(), || diff(&basis, new)));
    delta("unchanged", &base);

    let mut new = base.clone();
    for _ in 0..LEN / 100 / BLOCK {
        let mut place = [0; 8];
        fill(&mut place, &mut state);
        let at = usize::from_le_bytes(place) % (LEN / BLOCK) * BLOCK;
        fill(&mut new[at..][..BLOCK], &mut state);
    }
    delta("1 % in pieces of 4 KiB", &new);
    delta("100 bytes at the front", &[&[1; 100], &base[..]].concat());
    delta("halves exchanged, odd place", &[&base[LEN / 2 + 77..], &base[..LEN / 2 + 77]].concat());
    fill(&mut new, &mut state);
    delta("other content", &new);
    delta("other content, 16 MiB", &new[..16 << 20]);
    new.fill(0);
    delta("zeros", &new);
}
