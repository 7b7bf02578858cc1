//! steady: writes at a fixed rate over a hot set of files, and the lag that the mirror shows meanwhile.

use std::collections::VecDeque;
use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use super::{Done, Load, Rng, Trace};
use crate::interrupt;
use crate::problem::{Doing, Result};

/// Each file opens with the number of the write that made it, little-endian.
const STAMP_BYTES: usize = 8;
const FILE_BYTES: usize = 1024;
const DIRS: u64 = 20;
/// A writer that is behind its schedule catches up; one that is ahead sleeps at least so long.
const SLEEP_MIN: Duration = Duration::from_micros(200);
/// Writes of one file that are remembered. A mirror that is further behind than these shows at least the lag of the oldest.
const REMEMBERED: usize = 4096;

fn path(n: u64) -> PathBuf {
    PathBuf::from(format!("h{:02}/f{n:05}", n % DIRS))
}

pub(super) fn prepare(load: &Load, root: &Path) -> Result<()> {
    for n in 0..DIRS {
        fs::create_dir(root.join(format!("h{n:02}"))).doing(|| "make a directory".into())?;
    }
    (0..load.files()).try_for_each(|n| fs::write(root.join(path(n)), [0; FILE_BYTES])).doing(|| "write the hot set".into())
}

/// The writer's hand on the hot set.
struct Writer {
    rng: Rng,
    content: Vec<u8>,
    files: u64,
}

impl Writer {
    fn new(load: &Load) -> Self {
        Self { rng: load.rng(30), content: vec![0; FILE_BYTES], files: load.files() }
    }

    /// The write with this number, which is not 0. Returns which file it was.
    fn write(&mut self, number: u64, trace: &mut Trace<'_>) -> Result<u64> {
        let n = self.rng.below(self.files as usize) as u64;
        let path = path(n);
        self.rng.fill(&mut self.content);
        self.content[..STAMP_BYTES].copy_from_slice(&number.to_le_bytes());
        let file = OpenOptions::new().write(true).open(trace.at(&path));
        file.and_then(|f| f.write_all_at(&self.content, 0)).doing(|| format!("write {}", path.display()))?;
        trace.note(&path, FILE_BYTES as u64)?;
        Ok(n)
    }
}

pub(super) fn burst(load: &Load, trace: &mut Trace<'_>) -> Result<()> {
    let mut writer = Writer::new(load);
    (1..=load.count(load.rate)).try_for_each(|number| writer.write(number, trace).map(drop))
}

/// The hot set while it is written: who wrote what when.
pub struct Hot {
    start: Instant,
    /// By file: number and time of its last writes, oldest first.
    written: Vec<Mutex<VecDeque<(u64, Duration)>>>,
    files: u64,
}

impl Hot {
    /// At rest: write 0 is what `prepare` made.
    pub fn new(load: &Load) -> Self {
        let written = (0..load.files()).map(|_| Mutex::new(VecDeque::from([(0, Duration::ZERO)]))).collect();
        Self { start: Instant::now(), written, files: load.files() }
    }

    /// Writes at the rate for the time. Returns what was done; the rate was not reached if it took longer.
    ///
    /// # Errors
    /// A problem of the filesystem, or the wish to end.
    pub fn write(&self, load: &Load, root: &Path) -> Result<Done> {
        let mut trace = Trace::new(root);
        let mut writer = Writer::new(load);
        let begin = Instant::now();
        for number in 1..=load.rate * load.seconds {
            let due = Duration::from_nanos(number.saturating_mul(1_000_000_000) / load.rate.max(1));
            let ahead = due.saturating_sub(begin.elapsed());
            if ahead >= SLEEP_MIN {
                interrupt::pause(ahead)?;
            }
            let n = writer.write(number, &mut trace)?;
            let mut known = self.written[n as usize].lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            if known.len() == REMEMBERED {
                known.pop_front();
            }
            known.push_back((number, self.start.elapsed()));
        }
        Ok(trace.done())
    }

    /// How far the mirror at `mirror` lags with one file: the age of the oldest write of it that the mirror does not show. `None` where its file cannot
    /// be read whole just now.
    pub fn lag(&self, mirror: &Path, rng: &mut Rng) -> Option<Duration> {
        let n = rng.below(self.files as usize);
        let content = fs::read(mirror.join(path(n as u64))).ok()?;
        let now = self.start.elapsed();
        let shown = u64::from_le_bytes(content.get(..STAMP_BYTES)?.try_into().ok()?);
        let known = self.written[n].lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let missed = known.iter().find(|(number, _)| *number > shown);
        Some(missed.map_or(Duration::ZERO, |(_, at)| now.saturating_sub(*at)))
    }
}
