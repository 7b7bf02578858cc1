//! What the processes of a peer cost, read from /proc: CPU, memory, wake-ups; children that a peer spawns are counted with it.

use std::collections::HashSet;
use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use nix::unistd::{SysconfVar, sysconf};

use crate::lab::End;

/// Memory is looked at so often. One look at a process is about 20 µs.
const SAMPLE_EVERY: Duration = Duration::from_millis(20);
/// Memory is flat or not after the first fifth of the time.
const WARM_UP_PARTS: usize = 5;

/// A root process of a peer, and the end at which it is.
pub type Root = (End, u32);

/// The process and all its live descendants.
fn tree(root: u32) -> Vec<u32> {
    let mut all = vec![root];
    let mut at = 0;
    while at < all.len() {
        let pid = all[at];
        // Peers that spawn do it from their main thread.
        if let Ok(text) = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")) {
            all.extend(text.split_whitespace().filter_map(|p| p.parse::<u32>().ok()));
        }
        at += 1;
    }
    all
}

fn of_end(roots: &[Root], end: End) -> impl Iterator<Item = u32> + '_ {
    roots.iter().filter(move |(at, _)| *at == end).flat_map(|(_, pid)| tree(*pid))
}

/// CPU seconds so far at one end: live processes, and the children that they have reaped. The grain is a tick of 10 ms.
pub fn cpu_s(roots: &[Root], end: End) -> f64 {
    let ticks: u64 = of_end(roots, end).filter_map(cpu_ticks).sum();
    ticks as f64 / sysconf(SysconfVar::CLK_TCK).ok().flatten().unwrap_or(100) as f64
}

fn cpu_ticks(pid: u32) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name, in parentheses, may hold anything. utime, stime, cutime and cstime are the fields 14 to 17.
    let (_, rest) = text.rsplit_once(')')?;
    Some(rest.split_whitespace().skip(11).take(4).filter_map(|f| f.parse::<u64>().ok()).sum())
}

fn status_field(text: &str, field: &str) -> Option<u64> {
    text.lines().find_map(|l| l.strip_prefix(field)?.strip_prefix(':'))?.split_whitespace().next()?.parse().ok()
}

/// How often any thread at this end has gone to sleep by itself, and so was woken.
pub fn wakeups(roots: &[Root], end: End) -> u64 {
    let threads = of_end(roots, end).filter_map(|pid| fs::read_dir(format!("/proc/{pid}/task")).ok()).flatten().flatten();
    threads.filter_map(|t| status_field(&fs::read_to_string(t.path().join("status")).ok()?, "voluntary_ctxt_switches")).sum()
}

/// Processes at this end, by id.
pub fn processes(roots: &[Root], end: End) -> HashSet<u32> {
    of_end(roots, end).collect()
}

/// Highest resident memory at one end, KiB.
#[derive(Debug, Default, Clone)]
pub struct Memory {
    /// The larger one of the sampled sum over all processes and the kernel's own high-water mark of the root processes.
    pub peak_kib: u64,
    /// Every sample.
    samples: Vec<u64>,
}

impl Memory {
    fn sample(&mut self, roots: &[Root], end: End) {
        let field = |pid: u32, field| status_field(&fs::read_to_string(format!("/proc/{pid}/status")).ok()?, field);
        let sum = of_end(roots, end).filter_map(|pid| field(pid, "VmRSS")).sum();
        let marks = roots.iter().filter(|(at, _)| *at == end).filter_map(|(_, pid)| field(*pid, "VmHWM")).sum();
        self.samples.push(sum);
        self.peak_kib = self.peak_kib.max(sum).max(marks);
    }

    /// Growth from the highest of the second fifth of the time to the highest of the last, KiB.
    pub fn growth_kib(&self) -> i64 {
        let part = self.samples.len() / WARM_UP_PARTS;
        let highest = |from: usize| self.samples[from..from + part].iter().copied().max().unwrap_or(0).cast_signed();
        highest(self.samples.len() - part) - highest(part.min(self.samples.len() - part))
    }
}

/// A thread that looks at memory.
pub struct Sampler {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<(Memory, Memory)>,
}

impl Sampler {
    /// Starts it.
    pub fn start(roots: Vec<Root>) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let told = stop.clone();
        let thread = std::thread::spawn(move || {
            let (mut sender, mut receiver) = (Memory::default(), Memory::default());
            loop {
                sender.sample(&roots, End::Sender);
                receiver.sample(&roots, End::Receiver);
                if told.load(Ordering::Relaxed) {
                    return (sender, receiver);
                }
                std::thread::sleep(SAMPLE_EVERY);
            }
        });
        Self { stop, thread }
    }

    /// Ends it: sender's and receiver's memory.
    pub fn end(self) -> (Memory, Memory) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap_or_default()
    }
}
