//! Scenes from life under a live mirror: a database, a virtual machine's disk, logs that rotate, a repository at work, mail, editors, a tree with all that one can hold.
//! While they go on, what readers of the mirror see is held against what there ever was; when they rest, the mirror is equal.
//!
//! `RINGSYNC_SCENE_S` is how long each goes on, in seconds.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::place::{number, seed};
use crate::rng::Rng;

mod database;
mod disk;
mod editors;
mod git;
mod log;
mod mail;
mod tree;

/// For how long one scene goes on.
pub fn length() -> Duration {
    Duration::from_secs(number("RINGSYNC_SCENE_S", 3))
}

/// A seed, which is printed, and its numbers.
pub fn numbers() -> (u64, Rng) {
    let seed = seed();
    println!("RINGSYNC_SEED={seed}");
    (seed, Rng::new(seed))
}

/// Has `act` go on, in rounds of about a second, for the length of a scene, and `rest` after each.
pub fn rounds(mut act: impl FnMut(), mut rest: impl FnMut(&str)) {
    let whole = Instant::now();
    let mut round = 0;
    while round == 0 || whole.elapsed() < length() {
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_secs(1) {
            act();
        }
        round += 1;
        rest(&format!("round {round}"));
    }
}

/// Lets some time pass, as people and programs do between two things.
pub fn pause(rng: &mut Rng, percent: usize, most_us: usize) {
    if rng.chance(percent) {
        std::thread::park_timeout(Duration::from_micros(rng.below(most_us) as u64));
    }
}

/// Has `look` look at the mirror again and again while `load` goes on. Returns how often it looked.
///
/// # Panics
/// When a look found something wrong, or `load` panics.
pub fn watched(what: &str, mut look: impl FnMut() -> Result<(), String> + Send, load: impl FnOnce()) -> u64 {
    struct Stop<'a>(&'a AtomicBool);
    impl Drop for Stop<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
    let (over, looks, wrong) = (AtomicBool::new(false), AtomicU64::new(0), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                if let Err(e) = look() {
                    wrong.lock().expect("no holder panics").push(e);
                }
                looks.fetch_add(1, Ordering::Relaxed);
                std::thread::park_timeout(Duration::from_micros(300));
            }
        });
        let _stop = Stop(&over);
        load();
    });
    let wrong = wrong.into_inner().expect("no holder panics");
    let looks = looks.into_inner();
    assert!(wrong.is_empty(), "{what}: {} of {looks} looks saw what never was, such as {:#?}", wrong.len(), &wrong[..wrong.len().min(5)]);
    looks
}
