//! A steady load for a long time, with a fault every few seconds that leaves both ends alive: neither grows.

use std::fs;
use std::time::{Duration, Instant};

use super::{Fault, World, proc};
use crate::place::number;
use crate::program::Program;

/// What a process holds.
#[derive(Clone, Copy, Debug, Default)]
struct Held {
    rss_kib: u64,
    fds: usize,
    threads: usize,
}

fn held(program: &Program) -> Held {
    let status = proc(program, "status");
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        line.split_whitespace().next()?.parse().ok()
    };
    let fds = fs::read_dir(format!("/proc/{}/fd", program.pid())).map_or(0, Iterator::count);
    Held { rss_kib: field("VmRSS:").unwrap_or(0), fds, threads: field("Threads:").unwrap_or(0) as usize }
}

/// The middle one.
fn median(mut of: Vec<u64>) -> u64 {
    of.sort_unstable();
    of.get(of.len() / 2).copied().unwrap_or(0)
}

/// Operations as many a second as `RINGSYNC_CHAOS_RATE` says, for `time`.
fn steady(world: &mut World, time: Duration, samples: &mut Vec<[Held; 2]>) {
    let rate: u64 = number("RINGSYNC_CHAOS_RATE", 3000);
    let start = Instant::now();
    let (mut done, mut sampled) = (0, start);
    while start.elapsed() < time {
        let due = start.elapsed().as_micros() as u64 * rate / 1_000_000;
        while done < due {
            world.ops.run(20);
            world.writer.step();
            world.counts.operations += 21;
            done += 21;
        }
        world.look();
        if sampled.elapsed() >= Duration::from_secs(1)
            && let (Some(sender), Some(receiver)) = (&world.sender, &world.receiver)
        {
            sampled = Instant::now();
            samples.push([held(sender), held(receiver)]);
        }
        // Until more is due.
        std::thread::park_timeout(Duration::from_millis(2));
    }
}

/// See the module's comment.
pub fn soak(world: &mut World, time: Duration) {
    const FAULTS: [Fault; 4] = [Fault::StopReceiver, Fault::StopSender, Fault::Cut, Fault::Fill];
    let start = Instant::now();
    let mut samples = Vec::new();
    let mut rests = Vec::new();
    while start.elapsed() < time {
        world.counts.rounds += 1;
        for _ in 0..8 {
            let fault = world.rng.pick(&FAULTS);
            let before = Duration::from_millis(1500 + world.rng.below(2000) as u64);
            steady(world, before, &mut samples);
            world.begin(fault);
            let during = Duration::from_millis(world.rng.below(4000) as u64);
            steady(world, during, &mut samples);
            world.end(fault);
        }
        world.rest("soak");
        let now = [&world.sender, &world.receiver].map(|p| p.as_ref().map_or_else(Held::default, held));
        println!("{:4} s, at rest: sender {:?}, receiver {:?}", start.elapsed().as_secs(), now[0], now[1]);
        rests.push(now);
    }
    for (side, name) in ["sender", "receiver"].into_iter().enumerate() {
        // The first part is for buffers to be made.
        let of =
            |part: usize| median(samples.iter().skip(samples.len() / 4 * part).take(samples.len() / 4).map(|s| s[side].rss_kib).collect());
        let most = samples.iter().map(|s| s[side].rss_kib).max().unwrap_or(0);
        println!("{name}: VmRSS in KiB, medians of the quarters: {} {} {} {}, most {most}", of(0), of(1), of(2), of(3));
        assert!(of(3) <= of(1) + of(1) / 4 + 16 * 1024, "the {name} grows");
        let (first, last) = (rests[0][side], rests[rests.len() - 1][side]);
        assert!(
            last.fds <= first.fds + 8 && last.threads <= first.threads + 2,
            "the {name} keeps descriptors or threads: {first:?}, {last:?}"
        );
    }
}
