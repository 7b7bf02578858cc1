//! Files that describe themselves, changed all the time, and readers of their mirror that find whole contents only, never an older one than before.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::content::{judge, whole};
use crate::rng::Rng;

/// Files, some of each size.
const FILES: usize = 48;
/// Content of at most a page changes in one step, also in place.
const PAGE: usize = 4096;

fn name(file: usize) -> String {
    format!("d{}/f{file}", file % 5)
}

/// Changes the files, each change with a higher number than the last.
pub struct Writer {
    root: PathBuf,
    seed: u64,
    rng: Rng,
    number: u64,
}

impl Writer {
    /// Of files in the directory `root`, which is made.
    pub fn new(root: PathBuf, seed: u64) -> Self {
        for dir in 0..5 {
            fs::create_dir_all(root.join(format!("d{dir}"))).expect("mkdir");
        }
        Self { root, seed, rng: Rng::new(seed ^ 0x0077_401e), number: 0 }
    }

    /// Changes one of them.
    pub fn step(&mut self) {
        self.number += 1;
        let file = self.rng.below(FILES);
        let path = self.root.join(name(file));
        // Each file keeps about its size, so that large ones are sent as deltas, too.
        let size = match file % 8 {
            0 => 32 + self.rng.below(200),
            1..=4 => 32 + self.rng.below(PAGE - 32),
            5 => self.rng.below(60_000),
            6 => 200_000 + self.rng.below(200_000),
            _ => 600_000 + self.rng.below(300_000),
        };
        // The large ones less often.
        if size > 100_000 && self.rng.chance(80) {
            return;
        }
        let content = whole(self.seed, self.number, size);
        if size <= PAGE && self.rng.chance(40) {
            // Readers may see it empty, or not at all.
            if self.rng.chance(20) {
                let _ = fs::remove_file(&path);
            }
            let mut file = OpenOptions::new().create(true).write(true).truncate(true).open(&path).expect("open");
            file.write_all(&content).expect("write");
        } else {
            let temp = path.with_extension("new");
            File::create(&temp).and_then(|mut file| file.write_all(&content)).expect("write");
            fs::rename(&temp, &path).expect("rename");
        }
    }
}

/// Threads that read the mirror's files until dropped.
pub struct Readers {
    shared: Arc<(AtomicBool, AtomicU64)>,
    threads: Vec<JoinHandle<()>>,
}

impl Readers {
    /// Of the files in the directory `root`, which may come later.
    pub fn start(root: &Path, seed: u64) -> Self {
        let shared = Arc::new((AtomicBool::new(false), AtomicU64::new(0)));
        let threads = (0..2)
            .map(|n| {
                let (shared, root) = (Arc::clone(&shared), root.to_owned());
                std::thread::spawn(move || read(&root, Rng::new(seed ^ n), &shared))
            })
            .collect();
        Self { shared, threads }
    }

    /// Reads that found a file, so far.
    pub fn count(&self) -> u64 {
        self.shared.1.load(Ordering::Relaxed)
    }

    /// Ends them; whatever one of them found wrong ends the test.
    pub fn end(mut self) -> u64 {
        self.shared.0.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            if let Err(panic) = thread.join() {
                std::panic::resume_unwind(panic);
            }
        }
        self.count()
    }

    /// Whether one of them has found something wrong.
    pub fn failed(&self) -> bool {
        self.threads.iter().any(JoinHandle::is_finished)
    }
}

impl Drop for Readers {
    fn drop(&mut self) {
        self.shared.0.store(true, Ordering::Relaxed);
    }
}

fn read(root: &Path, mut rng: Rng, (over, count): &(AtomicBool, AtomicU64)) {
    let mut latest = [0; FILES];
    while !over.load(Ordering::Relaxed) {
        // Readers are guests: they take little of the processor.
        std::thread::park_timeout(Duration::from_micros(300));
        let file = rng.below(FILES);
        let bytes = match fs::read(root.join(name(file))) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => continue,
            Err(e) => panic!("{}: {e}", name(file)),
        };
        if let Err(why) = judge(&bytes) {
            panic!("a reader of the mirror saw a part of {} ({} bytes): {why}", name(file), bytes.len());
        }
        if let Some(number) = bytes.get(8..16).and_then(|b| b.try_into().ok()).map(u64::from_le_bytes).filter(|_| bytes.len() >= 32) {
            assert!(number >= latest[file], "{}: content {number} came after {}", name(file), latest[file]);
            latest[file] = number;
        }
        count.fetch_add(1, Ordering::Relaxed);
    }
}
