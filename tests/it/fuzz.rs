//! The fuzz targets without a fuzzer: a bounded number of inputs, made from the document's messages and from noise, so that every run of the tests covers them.
//!
//! `RINGSYNC_FUZZ_S` says how many seconds each target gets instead of one; `RINGSYNC_SEED` repeats a run. tools/fuzz runs them with coverage.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::time::{Duration, Instant};

use crate::place::{number, seed};
use crate::rng::Rng;

#[path = "../fuzz/document.rs"]
pub mod document;
#[path = "../fuzz/mirror.rs"]
mod mirror;
#[path = "../fuzz/targets.rs"]
mod targets;

/// Longest input before it is doubled and joined.
const INPUT_BYTES_MAX: usize = 600;

fn noise(rng: &mut Rng, len: usize) -> Vec<u8> {
    (0..len).map(|_| rng.next() as u8).collect()
}

/// An input: noise, or a few of the document's payloads and frames with changes.
fn input(rng: &mut Rng, seeds: &[Vec<u8>]) -> Vec<u8> {
    let len = rng.below(INPUT_BYTES_MAX);
    if rng.chance(50) {
        // Small numbers are choices; large ones are lengths.
        let small = rng.chance(50);
        let mut bytes = noise(rng, len);
        if small {
            bytes.iter_mut().for_each(|byte| *byte %= 16);
        }
        return bytes;
    }
    let mut bytes: Vec<u8> = (0..1 + rng.below(4)).flat_map(|_| seeds[rng.below(seeds.len())].clone()).collect();
    for _ in 0..rng.below(5) {
        let at = rng.below(bytes.len() + 1);
        match rng.below(4) {
            0 if at < bytes.len() => bytes[at] ^= 1 << rng.below(8),
            1 if at < bytes.len() => bytes[at] = rng.next() as u8,
            2 => bytes.truncate(at),
            _ => {
                let len = rng.below(9);
                let more = noise(rng, len);
                bytes.splice(at..at, more);
            }
        }
    }
    bytes
}

/// Runs a target until its time is over; an input that it does not survive is shown.
fn run(name: &str, target: impl Fn(&[u8])) {
    let seed = seed();
    println!("RINGSYNC_SEED={seed}");
    let mut rng = Rng::new(seed);
    let seeds: Vec<Vec<u8>> = ["payload", "bad-payload", "frame", "bad-frame"]
        .into_iter()
        .flat_map(|kind| document::blocks(kind).into_values().map(|block| block.bytes))
        .collect();
    let end = Instant::now() + Duration::from_secs(number("RINGSYNC_FUZZ_S", 1));
    let mut runs = 0;
    while Instant::now() < end || runs < 100 {
        let bytes = input(&mut rng, &seeds);
        if let Err(why) = catch_unwind(AssertUnwindSafe(|| target(&bytes))) {
            eprintln!("{name} does not survive {bytes:?}");
            resume_unwind(why);
        }
        runs += 1;
    }
    println!("{name}: {runs} runs");
}

#[test]
fn frames() {
    run("frame", targets::frame);
}

#[test]
fn messages() {
    run("message", targets::message);
}

#[test]
fn deltas() {
    run("delta", targets::delta);
}

#[test]
fn manifests() {
    run("manifest", mirror::manifest);
}

#[test]
fn sessions() {
    run("session", targets::session);
}
