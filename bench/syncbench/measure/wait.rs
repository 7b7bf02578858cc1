//! Waits until a mirror is equal to its source, which is at rest by then, and finds out when it became so. What it does meanwhile is as little as serves.
//!
//! 1. A few marks (paths that the load changed) are compared by metadata every 5 ms.
//! 2. Once they agree, all metadata is. If it does not, the next look comes after eight times what this one took.
//! 3. Once it does, the bytes are compared too.
//!
//! The looks say *that* the mirror is equal. *When* it became so is said by the mirror itself: the newest time of change (ctime) of its entries and directories, which the
//! kernel sets and nobody can set back, plus one tick of the clock that the kernel takes it from, since it may be behind by that. So neither the pace of the looks nor their
//! cost is in the figure, and it errs on the late side.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use nix::sys::resource::{UsageWho, getrusage};
use nix::time::{ClockId, clock_getres};

use super::verify::{Look, Rules, look};
use crate::interrupt;
use crate::problem::Result;

const MARKS_EVERY: Duration = Duration::from_millis(5);
const LOOK_PAUSE_FACTOR: u32 = 8;
const LOOK_PAUSE_MAX: Duration = Duration::from_secs(1);
/// A mirror that differs in nothing but times of directories is taken for equal, and the number told, if it stays so for this long.
const DIR_TIMES_PATIENCE: Duration = Duration::from_secs(3);

/// What was found.
#[derive(Debug, Default)]
pub struct Verdict {
    /// Seconds from `since` until the mirror was changed for the last time before it was equal; `None`: it never was.
    pub equal_s: Option<f64>,
    /// Seconds from `since` until the look that found it so had ended, bytes compared.
    pub seen_s: Option<f64>,
    /// Differences that are left, without times of directories.
    pub differences: u64,
    /// Directories whose time differs in the end.
    pub dir_times: u64,
    /// Some differences in words; or why the waiting ended early.
    pub notes: Vec<String>,
    /// Entries of the source.
    pub entries: u64,
    /// Looks at all metadata.
    pub looks: u32,
    /// CPU seconds of the checks that could have disturbed: all before the last one.
    pub disturb_cpu_s: f64,
    /// CPU seconds of all checks.
    pub check_cpu_s: f64,
}

/// What is waited for.
pub struct Wait<'a> {
    /// The source; at rest.
    pub src: &'a Path,
    /// The mirror.
    pub dst: &'a Path,
    /// From when time counts.
    pub since: SystemTime,
    /// So long.
    pub deadline: Duration,
    /// What is looked at first, relative to both.
    pub marks: &'a [PathBuf],
    /// Compares the bytes too, in the end.
    pub bytes: bool,
}

/// CPU seconds of this process.
pub fn own_cpu_s() -> f64 {
    let seconds = |t: nix::sys::time::TimeVal| t.tv_sec() as f64 + t.tv_usec() as f64 / 1e6;
    getrusage(UsageWho::RUSAGE_SELF).map_or(0.0, |u| seconds(u.user_time()) + seconds(u.system_time()))
}

/// The tick of the clock that times of change are taken from.
pub fn tick() -> Duration {
    clock_getres(ClockId::CLOCK_REALTIME_COARSE).map_or(Duration::from_millis(10), Duration::from)
}

fn agree(a: &Metadata, b: &Metadata) -> bool {
    a.mode() == b.mode() && (a.is_dir() || (a.len() == b.len() && (a.mtime(), a.mtime_nsec()) == (b.mtime(), b.mtime_nsec())))
}

impl Wait<'_> {
    /// Waits. `troubled` is asked now and then; a text from it ends the waiting.
    ///
    /// # Errors
    /// The wish to end.
    pub fn run(&self, mut troubled: impl FnMut() -> Option<String>) -> Result<Verdict> {
        let (start, cpu) = (Instant::now(), own_cpu_s());
        let wanted: Vec<_> = self.marks.iter().map(|m| (self.dst.join(m), self.src.join(m).symlink_metadata().ok())).collect();
        let marks_agree = || {
            wanted.iter().rev().all(|(path, wanted)| match (wanted, path.symlink_metadata()) {
                (Some(a), Ok(b)) => agree(a, &b),
                (None, Err(_)) => true,
                _ => false,
            })
        };
        let mut verdict = Verdict::default();
        let mut next_look = start;
        let mut nearly: Option<(Instant, f64)> = None;
        loop {
            interrupt::check()?;
            let now = Instant::now();
            let last = now.duration_since(start) >= self.deadline;
            if last || (now >= next_look && marks_agree()) {
                verdict.disturb_cpu_s = own_cpu_s() - cpu;
                verdict.looks += 1;
                let seen = self.look(false, !last);
                let waited = nearly.is_some_and(|(at, _)| at.elapsed() >= DIR_TIMES_PATIENCE);
                if seen.differences == 0 {
                    let (_, at) = *nearly.get_or_insert((now, self.equal_at(&seen)));
                    if seen.dir_times == 0 || waited || last {
                        let all = if self.bytes { self.look(true, false) } else { seen };
                        // What is equal may be sent once more, when its writer closes it: a directory has another time meanwhile.
                        let settled = all.dir_times == 0 || waited || last;
                        if all.differences == 0 && settled {
                            verdict.equal_s = Some(if all.dir_times == 0 { self.equal_at(&all) } else { at });
                            verdict.seen_s = Some(self.since.elapsed().unwrap_or_default().as_secs_f64());
                            return Ok(self.settle(verdict, all, cpu));
                        }
                        // The bytes differ though size and time are equal.
                        nearly = nearly.filter(|_| all.differences == 0);
                        if last {
                            return Ok(self.settle(verdict, all, cpu));
                        }
                    }
                } else if last {
                    return Ok(self.settle(verdict, seen, cpu));
                } else {
                    nearly = None;
                }
                next_look = Instant::now() + (now.elapsed() * LOOK_PAUSE_FACTOR).clamp(MARKS_EVERY, LOOK_PAUSE_MAX);
            }
            if let Some(why) = troubled() {
                let mut verdict = self.settle(verdict, self.look(self.bytes, false), cpu);
                verdict.notes.insert(0, why);
                return Ok(verdict);
            }
            std::thread::sleep(MARKS_EVERY);
        }
    }

    fn look(&self, bytes: bool, first_only: bool) -> Look {
        let threads = std::thread::available_parallelism().map_or(1, |n| n.get().min(4));
        look(self.src, self.dst, Rules { bytes, first_only, threads })
    }

    /// Seconds from `since` until the newest change that the look saw, at the latest.
    fn equal_at(&self, look: &Look) -> f64 {
        let now = SystemTime::now();
        let at = look.newest.map_or(now, |t| t + tick()).min(now);
        at.duration_since(self.since).unwrap_or_default().as_secs_f64()
    }

    fn settle(&self, mut verdict: Verdict, look: Look, cpu: f64) -> Verdict {
        verdict.differences = look.differences;
        verdict.dir_times = look.dir_times;
        verdict.entries = look.entries;
        verdict.notes.extend(look.examples);
        verdict.check_cpu_s = own_cpu_s() - cpu;
        verdict
    }
}
