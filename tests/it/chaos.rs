//! Chaos: random operations under a live mirror over a network while either side is killed, stopped, cut off, flooded or out of disk; then rest, and an
//! equal mirror. All the while readers of the mirror find whole files only.
//!
//! `RINGSYNC_CHAOS_ROUNDS` sets the rounds, `RINGSYNC_SEED` the seed; `RINGSYNC_CHAOS_SOAK_S` makes it a soak of so many seconds instead: a steady load,
//! faults that leave both ends alive, and memory and descriptors that stay flat.

use std::cell::RefCell;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::fcntl::{FallocateFlags, Flock, FlockArg, fallocate};
use nix::sys::signal::Signal;
use nix::sys::statvfs::statvfs;

use crate::compare::{Rules, wait_equal};
use crate::mounts::{Fs, Mounted, privately};
use crate::ops::{Choice, Ops};
use crate::place::{Place, deadline, number, seed, skipped, until};
use crate::program::{As, Program};
use crate::rng::Rng;
use net::{Net, RECEIVER};
use whole::{Readers, Writer};

mod dead_peer;
mod net;
mod overflow;
mod soak;
mod whole;

/// Rounds in the gate: about 40 s.
const ROUNDS: usize = 8;
/// The receiver's disk: more than the source ever holds, with what is on its way.
const DISK: &str = "192m";
/// A rest that takes longer is told with the sender's reasons.
const SLOW: Duration = Duration::from_secs(6);
/// `max_queued_events` for a sender that shall lose some.
const TINY_QUEUE: &str = "48";
const LIMITS: [&str; 2] = ["/proc/sys/fs/fanotify/max_queued_events", "/proc/sys/fs/inotify/max_queued_events"];

/// What happens to the two hosts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Fault {
    KillReceiver,
    KillSender,
    StopReceiver,
    StopSender,
    /// The link loses everything.
    Cut,
    /// The receiver's disk is full.
    Fill,
    /// The receiver's disk cannot be written to.
    ReadOnly,
    /// The sender's queue is tiny, and it is stopped for a while.
    Overflow,
}

const FAULTS: [Fault; 8] = [
    Fault::KillReceiver,
    Fault::KillSender,
    Fault::StopReceiver,
    Fault::StopSender,
    Fault::Cut,
    Fault::Fill,
    Fault::ReadOnly,
    Fault::Overflow,
];

#[derive(Default)]
struct Counts {
    rounds: usize,
    operations: usize,
    kills: usize,
    stops: usize,
    cuts: usize,
    fills: usize,
    read_only: usize,
    /// As the killed and living senders told.
    overflows: u64,
    reconnects: usize,
    /// Of these, how often the mirror was gone on with.
    resumes: usize,
    timeouts: usize,
    /// Senders that ended because their first connection failed, as they should.
    unreachable: usize,
    slowest: Duration,
}

/// The kernel's limits for new queues while this lives; others start programs meanwhile, so it lives no longer than it takes a sender to make its own.
struct TinyQueues {
    old: Vec<(&'static str, String)>,
    _lock: Flock<File>,
}

impl TinyQueues {
    fn set() -> Self {
        let path = std::env::temp_dir().join("ringsync-it-limits.lock");
        let file = File::options().create(true).truncate(false).write(true).open(path).expect("a lock file");
        let lock = Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, e)| e).expect("flock");
        let old = LIMITS.iter().filter_map(|path| Some((*path, fs::read_to_string(path).ok()?))).collect();
        let tiny = Self { old, _lock: lock };
        for path in LIMITS {
            // Where it cannot be set, nothing overflows.
            let _ = fs::write(path, TINY_QUEUE);
        }
        tiny
    }
}

impl Drop for TinyQueues {
    fn drop(&mut self) {
        for (path, old) in &self.old {
            // A mirror that somebody else starts may have raised it meanwhile.
            if fs::read_to_string(path).is_ok_and(|now| now.trim() == TINY_QUEUE) {
                let _ = fs::write(path, old);
            }
        }
    }
}

/// Both hosts and what is done to them. A stopped program is one that runs.
struct World {
    // Dropped in this order: programs end, then the disk goes, then the directories.
    sender: Option<Program>,
    receiver: Option<Program>,
    readers: Option<Readers>,
    mounted: Mounted,
    place: Place,
    net: Net,
    disk: PathBuf,
    seed: u64,
    rng: Rng,
    ops: Ops,
    writer: Writer,
    counts: Counts,
    /// The ends of what programs wrote that were killed, for the report of a failure.
    logs: Vec<String>,
}

impl World {
    fn new(seed: u64) -> Result<Self, String> {
        let net = Net::enter()?;
        let place = Place::new();
        let disk = place.beside("disk");
        fs::create_dir(&disk).map_err(|e| e.to_string())?;
        let mounted = Mounted::new(Fs::Tmpfs, &disk)?;
        mounted.resize(DISK);
        let tree = place.src.join("tree");
        for dir in [&tree, &disk.join("dst")] {
            fs::create_dir(dir).map_err(|e| e.to_string())?;
        }
        // Both watchers are used, and inotify does not tell what was written through a name that is gone.
        let choice = Choice { bytes_max: 32 << 20, hidden_links: false, ..Choice::usual() };
        let ops = Ops::new(&tree, seed, choice);
        let writer = Writer::new(place.src.join("whole"), seed);
        let readers = Some(Readers::start(&disk.join("dst/whole"), seed));
        let rng = Rng::new(seed ^ 0xc4a0_5000);
        let (counts, logs) = Default::default();
        Ok(Self { net, place, disk, mounted, seed, rng, ops, writer, readers, sender: None, receiver: None, counts, logs })
    }

    fn dst(&self) -> PathBuf {
        self.disk.join("dst")
    }

    /// Starts the receiver, if there is none.
    fn receive(&mut self) {
        if self.receiver.is_some() {
            return;
        }
        let module = format!("m={}", self.dst().display());
        let listen = format!("{RECEIVER}:8730");
        let mut program = self.net.far(|| Program::start(As::Us, &["serve", "--listen", &listen, "--timeout", "3", "--module", &module]));
        let listens = until(deadline(), || program.stderr().contains("INFO listening on") || !program.runs());
        assert!(listens && program.runs(), "the receiver does not listen:\n{}", program.stderr());
        self.receiver = Some(program);
    }

    /// Starts the sender, if there is none.
    fn send(&mut self, tiny: bool) {
        if self.sender.is_some() {
            return;
        }
        let watch = self.rng.pick(&["fanotify", "inotify", "auto"]);
        let io = self.rng.pick(&["auto", "auto", "epoll"]);
        let threads = self.rng.pick(&["1", "2", "4"]);
        let url = format!("ringsync://{RECEIVER}/m");
        let src = self.place.src.to_str().expect("a path of ours").to_owned();
        let limits = tiny.then(TinyQueues::set);
        let args = ["mirror", "--watch", watch, "--io", io, "-n", threads, "--no-tune", "--timeout", "2", &src, &url];
        let mut program = Program::start(As::Us, &args);
        if limits.is_some() {
            // It may not reach the receiver now.
            until(Duration::from_secs(3), || program.stderr().contains("watching by") || !program.runs());
        }
        drop(limits);
        self.sender = Some(program);
    }

    /// Notes what an ended program told.
    fn note(&mut self, who: &str, program: Program) {
        let log = program.stderr();
        assert!(!log.contains("panicked at"), "RINGSYNC_SEED={}: the {who} panicked:\n{log}", self.seed);
        if who == "sender" {
            self.counts.overflows += overflows(&log);
            self.counts.reconnects += log.matches("connecting again").count();
            self.counts.resumes += log.matches("it is gone on with").count();
            self.counts.timeouts += log.matches("io timeout").count();
        }
        self.logs.push(format!("--- an earlier {who}:\n{}", end(&log, 3000)));
        if self.logs.len() > 4 {
            self.logs.remove(0);
        }
    }

    fn kill(&mut self, fault: Fault) {
        let (who, program) = match fault {
            Fault::KillReceiver => ("receiver", self.receiver.take()),
            _ => ("sender", self.sender.take()),
        };
        if let Some(mut program) = program {
            if program.runs() {
                program.signal(Signal::SIGKILL);
            }
            program.end();
            self.note(who, program);
        }
    }

    fn signal(&mut self, fault: Fault, signal: Signal) {
        let program = if fault == Fault::StopReceiver { &mut self.receiver } else { &mut self.sender };
        if let Some(program) = program
            && program.runs()
        {
            program.signal(signal);
        }
    }

    fn begin(&mut self, fault: Fault) {
        match fault {
            Fault::KillReceiver | Fault::KillSender => {
                self.counts.kills += 1;
                self.kill(fault);
            }
            Fault::StopReceiver | Fault::StopSender => {
                self.counts.stops += 1;
                self.signal(fault, Signal::SIGSTOP);
            }
            Fault::Cut => {
                self.counts.cuts += 1;
                self.net.cut();
            }
            Fault::ReadOnly => {
                // Not while a file is open for writing.
                self.counts.read_only += usize::from(self.mounted.remount("ro").is_ok());
            }
            Fault::Fill => {
                self.counts.fills += 1;
                let free = statvfs(&self.disk).map_or(0, |s| s.blocks_available() * s.fragment_size());
                let left = self.rng.pick(&[0, 4096, 200_000]);
                // A receiver that writes may take the room first, and the disk may be read-only.
                if let Ok(filler) = File::create(self.disk.join("filler")) {
                    let _ = fallocate(&filler, FallocateFlags::empty(), 0, free.saturating_sub(left).max(1) as i64);
                }
            }
            Fault::Overflow => {
                self.counts.kills += 1;
                self.kill(fault);
                self.send(true);
                self.signal(fault, Signal::SIGSTOP);
            }
        }
    }

    fn end(&mut self, fault: Fault) {
        match fault {
            Fault::KillReceiver => self.receive(),
            Fault::KillSender => self.send(false),
            Fault::StopReceiver | Fault::StopSender | Fault::Overflow => self.signal(fault, Signal::SIGCONT),
            Fault::Cut => self.net.mend(),
            Fault::ReadOnly => self.mounted.remount("rw").expect("a writable disk"),
            Fault::Fill => drop(fs::remove_file(self.disk.join("filler"))),
        }
    }

    /// Operations for so long, and now and then a pause.
    fn load(&mut self, time: Duration) {
        let end = Instant::now() + time;
        loop {
            let count = 1 + self.rng.below(60);
            self.ops.run(count);
            let more = self.rng.below(8);
            (0..more).for_each(|_| self.writer.step());
            self.counts.operations += count + more;
            self.look();
            if Instant::now() >= end {
                return;
            }
            if self.rng.chance(60) {
                std::thread::park_timeout(Duration::from_millis(self.rng.below(15) as u64));
            }
        }
    }

    /// Whether all that should runs; a sender whose first connection failed is started again, as a service manager would.
    fn look(&mut self) {
        assert!(!self.readers.as_ref().is_some_and(Readers::failed), "RINGSYNC_SEED={}: a reader found something wrong", self.seed);
        if let Some(program) = &mut self.receiver {
            assert!(program.runs(), "RINGSYNC_SEED={}: the receiver has ended by itself:\n{}", self.seed, program.stderr());
        }
        if let Some(program) = &mut self.sender
            && !program.runs()
            && let Some(mut program) = self.sender.take()
        {
            let (status, log) = (program.end(), program.stderr());
            let unreachable = matches!(status.code(), Some(10 | 30)) && !log.contains("connecting again");
            assert!(unreachable, "RINGSYNC_SEED={}: the sender has ended by itself ({status}):\n{log}", self.seed);
            self.counts.unreachable += 1;
            self.note("sender", program);
            self.send(false);
        }
    }

    /// Everything runs, the source rests, and the mirror becomes equal.
    fn rest(&mut self, what: &str) {
        self.end(Fault::ReadOnly);
        for fault in FAULTS {
            self.end(fault);
        }
        let start = Instant::now();
        let found = loop {
            self.look();
            let dst = self.dst();
            let sender = RefCell::new(self.sender.as_mut().expect("it was started"));
            match wait_equal(&self.place.src, &dst, &Rules::full(), deadline(), || sender.borrow_mut().runs()) {
                Ok(_) => break None,
                Err(_) if !sender.borrow_mut().runs() && start.elapsed() < deadline() => {}
                Err(differences) => break Some(differences),
            }
        };
        self.ops.equal();
        if let Some(differences) = found {
            let mut report = format!("RINGSYNC_SEED={}: {what}: the mirror is not equal:\n{differences}", self.seed);
            for difference in differences.found.iter().take(5) {
                if let Some(path) = difference.path.as_bytes().strip_prefix(b"tree/") {
                    let path = ringsync::model::path::RelPath::new(path).expect("a path");
                    report += &format!("  what was done to {}:\n{}", difference.path, self.ops.history(&path));
                }
            }
            panic!("{report}{}", self.logs.concat());
        }
        self.counts.slowest = self.counts.slowest.max(start.elapsed());
        if start.elapsed() > SLOW
            && let Some(sender) = &self.sender
        {
            println!(
                "{what}: equal only after {:.1} s; the sender wrote last:\n{}",
                start.elapsed().as_secs_f64(),
                end(&sender.stderr(), 2500)
            );
        }
    }

    /// Up to three faults that overlap, with operations before, between and after.
    fn round(&mut self) {
        self.counts.rounds += 1;
        let mut going = Vec::new();
        let mut told = Vec::new();
        for _ in 0..1 + self.rng.below(3) {
            let fault = self.rng.pick(&FAULTS);
            told.push(fault);
            let before = Duration::from_millis(self.rng.below(300) as u64);
            self.load(before);
            self.begin(fault);
            going.push(fault);
            // Long enough for a timeout in some cases.
            let most = if matches!(fault, Fault::Cut | Fault::StopReceiver) { 4500 } else { 1200 };
            let during = Duration::from_millis(self.rng.below(most) as u64);
            self.load(during);
            if self.rng.chance(50) {
                let fault = going.swap_remove(self.rng.below(going.len()));
                self.end(fault);
            }
        }
        while let Some(fault) = going.pop() {
            self.end(fault);
            let after = Duration::from_millis(self.rng.below(300) as u64);
            self.load(after);
        }
        let start = Instant::now();
        let what = format!("round {}, {told:?}", self.counts.rounds);
        self.rest(&what);
        println!("{what}: equal after {:.1} s", start.elapsed().as_secs_f64());
    }

    /// The end of it all, and what it came to.
    fn finish(mut self) {
        if let Some(mut program) = self.sender.take() {
            program.terminate();
            self.note("sender", program);
        }
        if let Some(mut program) = self.receiver.take() {
            program.terminate();
            self.note("receiver", program);
        }
        let reads = self.readers.take().map_or(0, Readers::end);
        let Counts {
            rounds,
            operations,
            kills,
            stops,
            cuts,
            fills,
            read_only,
            overflows,
            reconnects,
            resumes,
            timeouts,
            unreachable,
            slowest,
        } = self.counts;
        println!(
            "chaos, RINGSYNC_SEED={}: {rounds} rounds, {operations} operations, {kills} kills, {stops} stops, {cuts} cuts, \
             {fills} full and {read_only} read-only disks, at least {overflows} overflows, {reconnects} reconnects, {resumes} of them gone on with, {timeouts} timeouts, {unreachable} starts without a receiver, {reads} whole files read, \
             slowest {:.1} s, 0 differences",
            self.seed,
            slowest.as_secs_f64()
        );
        assert!(reads > 0, "no reader found a file");
    }
}

/// The last characters of a log.
fn end(log: &str, chars: usize) -> &str {
    &log[log.char_indices().rev().nth(chars).map_or(0, |(at, _)| at)..]
}

/// The largest number of overflows that a sender told.
fn overflows(log: &str) -> u64 {
    let told = log.split("overflows=").skip(1);
    told.filter_map(|rest| rest.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()).max().unwrap_or(0)
}

#[test]
fn whatever_happens_the_mirror_becomes_equal() {
    const NAME: &str = "whatever_happens_the_mirror_becomes_equal";
    privately(NAME, || {
        let seed = seed();
        println!("{NAME}: RINGSYNC_SEED={seed}");
        let mut world = match World::new(seed) {
            Ok(world) => world,
            Err(e) => return skipped(NAME, e),
        };
        world.ops.run(600);
        (0..200).for_each(|_| world.writer.step());
        world.receive();
        world.send(false);
        world.rest("the first copy");
        match number("RINGSYNC_CHAOS_SOAK_S", 0) {
            0 => {
                for _ in 0..number("RINGSYNC_CHAOS_ROUNDS", ROUNDS) {
                    world.round();
                }
            }
            seconds => soak::soak(&mut world, Duration::from_secs(seconds)),
        }
        world.finish();
    });
}

/// A file of /proc/PID, as text.
fn proc(program: &Program, file: &str) -> String {
    fs::read_to_string(Path::new("/proc").join(program.pid().to_string()).join(file)).unwrap_or_default()
}
