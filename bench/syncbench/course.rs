//! One measurement: one load with one peer, once, from an empty place to an empty place.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use crate::interrupt;
use crate::lab::{End, Lab};
use crate::load::{Done, Hot, Load, Name, Rng, Trace};
use crate::measure::profile::Profile;
use crate::measure::usage::{self, Root, Sampler};
use crate::measure::wait::{Verdict, Wait};
use crate::measure::{latency, percentile};
use crate::peer::{ONE_SHOT_PATIENCE, Peer, Programs, Running};
use crate::problem::{Doing, Problem, Result};
use crate::record::Measured;

/// A live peer that is equal rests so long before the load, so that what it still does is not counted.
const SETTLE: Duration = Duration::from_millis(500);
/// A peer that has missed the file that it is asked for, or its removal, is asked again after this.
const READY_AGAIN: Duration = Duration::from_secs(3);
const READY_FILE: &str = "syncbench-ready";
/// Files of the initial copy that are looked at first.
const MARKS: usize = 16;
const IDLE: Duration = Duration::from_secs(10);
/// Lag is looked at so often during steady.
const LAG_EVERY: Duration = Duration::from_millis(20);

/// What all measurements of a run share.
pub struct Course<'a> {
    /// The place.
    pub lab: &'a Lab,
    /// The programs.
    pub programs: &'a Programs,
    /// So long may a mirror take to become equal.
    pub deadline: Duration,
    /// So long may the files of latency take together.
    pub budget: Duration,
    /// Where profiles go, if any are made.
    pub profile: Option<&'a Path>,
}

/// Whether the load is for the peer.
pub fn fits(load: Name, peer: Peer) -> bool {
    match load {
        Name::First | Name::Noop | Name::Copy => peer != Peer::None,
        Name::Idle => peer.is_live(),
        Name::Latency | Name::Many => peer.is_live(),
        _ => peer == Peer::None || peer.is_live(),
    }
}

impl Course<'_> {
    /// Measures. What a peer does wrong is in the result; the place is not cleared.
    ///
    /// # Errors
    /// What hinders the measurement itself, or the wish to end.
    pub fn run(&self, load: &Load, peer: Peer) -> Result<Measured> {
        let (src, dst) = (self.lab.src(), self.lab.dst());
        load.prepare(&src)?;
        if matches!(load.name, Name::Noop | Name::Many) {
            copy(&src, &dst)?;
        }
        let mut out = match load.name {
            _ if peer == Peer::None => self.alone(load, &src)?,
            Name::First | Name::Noop | Name::Copy => self.start_up(load, peer, &src, &dst)?,
            _ => self.live(load, peer, &src, &dst)?,
        };
        out.load = load.name.text();
        out.peer = peer.text();
        Ok(out)
    }

    fn alone(&self, load: &Load, src: &Path) -> Result<Measured> {
        let done = if load.name == Name::Steady { Hot::new(load).write(load, src)? } else { load.run(src)? };
        Ok(Measured { ops: done.ops, bytes: done.bytes, load_s: Some(done.took.as_secs_f64()), ..Measured::default() })
    }

    fn profile(&self, load: &Load, peer: Peer, running: &Running) -> Result<Option<Profile>> {
        let name = format!("{}-{}", load.name.text(), peer.text());
        self.profile.map(|dir| Profile::start(dir, &name, &running.roots())).transpose()
    }

    /// first and noop: time counts from the start of the sender.
    fn start_up(&self, load: &Load, peer: Peer, src: &Path, dst: &Path) -> Result<Measured> {
        let mut out = Measured::default();
        let mut marks = if load.name == Name::First { some_files(src)? } else { Vec::new() };
        if load.name == Name::Noop && peer.is_live() {
            // One file is changed, so that it shows when the peer has got through.
            fs::write(src.join(READY_FILE), "changed").doing(|| "change a file".into())?;
            marks.push(READY_FILE.into());
        }
        let prepared = peer.prepare(self.lab, self.programs)?;
        let children = children_cpu_s();
        let (since, begin) = (SystemTime::now(), Instant::now());
        let mut running = prepared.start()?;
        let meter = Meter::start(self.lab, &running, self.profile(load, peer, &running)?);
        if !peer.is_live() {
            // The copy is over when the program has ended.
            running.processes[0].await_end(ONE_SHOT_PATIENCE)?;
            let took = begin.elapsed().as_secs_f64();
            meter.read(self.lab, &mut out)?;
            out.cpu_sender_s = Some(children_cpu_s() - children);
            let wait = Wait { src, dst, since, deadline: Duration::ZERO, marks: &[], bytes: true };
            self.judge(&mut out, wait.run(|| None)?);
            out.equal_s = out.equal_s.and(Some(took));
            return Ok(out);
        }
        let wait = Wait { src, dst, since, deadline: self.deadline, marks: &marks, bytes: true };
        let verdict = wait.run(|| running.trouble())?;
        meter.read(self.lab, &mut out)?;
        self.judge(&mut out, verdict);
        Ok(out)
    }

    fn live(&self, load: &Load, peer: Peer, src: &Path, dst: &Path) -> Result<Measured> {
        let mut running = peer.start(self.lab, self.programs)?;
        let mut out = Measured::default();
        if !self.make_ready(&mut running, src, dst, &mut out)? {
            return Ok(out);
        }
        interrupt::pause(SETTLE)?;
        let meter = Meter::start(self.lab, &running, self.profile(load, peer, &running)?);
        if self.profile.is_some() {
            // The recorders need a while to begin.
            interrupt::pause(SETTLE)?;
        }
        let done = match load.name {
            Name::Latency | Name::Many => self.latency(load, src, dst, &mut out)?,
            Name::Steady => self.steady(load, src, dst, &mut out)?,
            Name::Idle => {
                idle(&running.roots(), &mut out)?;
                Trace::new(src).done()
            }
            _ => load.run(src)?,
        };
        out.ops = done.ops;
        out.bytes = done.bytes;
        let wait = Wait { src, dst, since: done.ended, deadline: self.deadline, marks: &done.marks, bytes: true };
        let verdict = wait.run(|| running.trouble())?;
        meter.read(self.lab, &mut out)?;
        if load.name != Name::Steady {
            out.mem_growth_kib = None;
        }
        out.overflows = Some(running.processes[0].mentions("overflow"));
        self.judge(&mut out, verdict);
        if done.ops > 0 && !matches!(load.name, Name::Latency | Name::Many) {
            let took = done.took.as_secs_f64();
            out.load_s = Some(took);
            let total = out.equal_s.map(|equal| took + equal);
            out.ops_per_s = total.map(|t| done.ops as f64 / t);
            out.bytes_per_s = total.map(|t| done.bytes as f64 / t);
        } else {
            out.equal_s = None;
        }
        Ok(out)
    }

    /// Has the peer mirror a file and its removal, until everything is equal: then it watches. Whether it came so far.
    fn make_ready(&self, running: &mut Running, src: &Path, dst: &Path, out: &mut Measured) -> Result<bool> {
        let (ours, theirs) = (src.join(READY_FILE), dst.join(READY_FILE));
        let until = Instant::now() + self.deadline;
        let mut times = 0;
        // Whether something comes true in a while, or why there is no use in waiting.
        let comes = |running: &mut Running, done: &dyn Fn() -> bool| -> Result<std::result::Result<bool, String>> {
            let again = Instant::now() + READY_AGAIN;
            loop {
                interrupt::check()?;
                if done() {
                    return Ok(Ok(true));
                }
                let late = (Instant::now() > until).then(|| "it does not follow".to_owned());
                if let Some(why) = running.trouble().or(late) {
                    return Ok(Err(why));
                }
                if Instant::now() > again {
                    return Ok(Ok(false));
                }
                std::thread::sleep(Duration::from_millis(5));
            }
        };
        loop {
            times += 1;
            let text = format!("ready? {times}");
            fs::write(&ours, &text).doing(|| "write into the source".into())?;
            let came = comes(running, &|| fs::read(&theirs).is_ok_and(|t| t == text.as_bytes()))?;
            fs::remove_file(&ours).doing(|| "clean the source".into())?;
            let went = if came == Ok(true) { comes(running, &|| !theirs.exists())? } else { came };
            match went {
                Ok(true) => break,
                Ok(false) => {}
                Err(why) => {
                    out.notes.push(format!("never ready: {why}"));
                    out.differences = 1;
                    return Ok(false);
                }
            }
        }
        let wait = Wait { src, dst, since: SystemTime::now(), deadline: self.deadline, marks: &[READY_FILE.into()], bytes: true };
        let verdict = wait.run(|| running.trouble())?;
        if verdict.equal_s.is_none() {
            out.notes.push("never ready: not equal before the load".into());
            self.judge(out, verdict);
            return Ok(false);
        }
        Ok(true)
    }

    fn latency(&self, load: &Load, src: &Path, dst: &Path, out: &mut Measured) -> Result<Done> {
        let mut trace = Trace::new(src);
        let found = latency::measure(load, &mut trace, src, dst, self.budget, self.deadline)?;
        let mut ms: Vec<f64> = found.seconds.iter().map(|s| s * 1e3).collect();
        percentiles(&mut ms, out);
        if found.lost {
            out.notes.push("a file did not arrive in time".into());
        }
        Ok(trace.done())
    }

    fn steady(&self, load: &Load, src: &Path, dst: &Path, out: &mut Measured) -> Result<Done> {
        let hot = Hot::new(load);
        let over = AtomicBool::new(false);
        let (done, mut lags) = std::thread::scope(|scope| {
            let sampler = scope.spawn(|| {
                let (mut lags, mut rng) = (Vec::new(), Rng::new(load.seed));
                while !over.load(Ordering::Relaxed) {
                    lags.extend(hot.lag(dst, &mut rng).map(|lag| lag.as_secs_f64() * 1e3));
                    std::thread::sleep(LAG_EVERY);
                }
                lags
            });
            let done = hot.write(load, src);
            over.store(true, Ordering::Relaxed);
            (done, sampler.join().unwrap_or_default())
        });
        percentiles(&mut lags, out);
        let done = done?;
        if done.took.as_secs_f64() > load.seconds as f64 * 1.05 {
            out.notes.push(format!("the rate was not reached: {:.0} writes a second", done.ops as f64 / done.took.as_secs_f64()));
        }
        Ok(done)
    }

    fn judge(&self, out: &mut Measured, verdict: Verdict) {
        out.entries = verdict.entries;
        out.equal_s = verdict.equal_s;
        out.seen_s = verdict.seen_s;
        out.differences = verdict.differences;
        out.dir_times = verdict.dir_times;
        out.looks = verdict.looks;
        out.check_cpu_s = verdict.check_cpu_s;
        out.disturb_cpu_s = verdict.disturb_cpu_s;
        out.notes.extend(verdict.notes);
    }
}

fn percentiles(ms: &mut [f64], out: &mut Measured) {
    ms.sort_by(f64::total_cmp);
    out.samples = Some(ms.len() as u64);
    out.p50_ms = percentile(ms, 50.0);
    out.p99_ms = percentile(ms, 99.0);
    out.max_ms = ms.last().copied();
}

/// Counts wake-ups while nothing happens.
fn idle(roots: &[Root], out: &mut Measured) -> Result<()> {
    let both = |f: &dyn Fn(End) -> u64| (f(End::Sender), f(End::Receiver));
    let count = |end| usage::wakeups(roots, end);
    let (known_s, known_r) = (usage::processes(roots, End::Sender), usage::processes(roots, End::Receiver));
    let before = both(&count);
    interrupt::pause(IDLE)?;
    let after = both(&count);
    // Processes that are new were spawned: a wake-up each, beside their own.
    let new_s = usage::processes(roots, End::Sender).difference(&known_s).count() as u64;
    let new_r = usage::processes(roots, End::Receiver).difference(&known_r).count() as u64;
    out.wakeups_sender = Some(after.0.saturating_sub(before.0) + new_s);
    out.wakeups_receiver = Some(after.1.saturating_sub(before.1) + new_r);
    Ok(())
}

/// CPU seconds of the children that have ended.
fn children_cpu_s() -> f64 {
    use nix::sys::resource::{UsageWho, getrusage};
    let seconds = |t: nix::sys::time::TimeVal| t.tv_sec() as f64 + t.tv_usec() as f64 / 1e6;
    getrusage(UsageWho::RUSAGE_CHILDREN).map_or(0.0, |u| seconds(u.user_time()) + seconds(u.system_time()))
}

/// A file of each of some directories of the source, relative to it.
fn some_files(src: &Path) -> Result<Vec<PathBuf>> {
    let names = |dir: &Path| -> Result<Vec<OsString>> {
        let entries = fs::read_dir(dir).doing(|| format!("list {}", dir.display()))?;
        let mut names: Vec<_> = entries.flatten().map(|e| e.file_name()).collect();
        names.sort();
        Ok(names)
    };
    let dirs = names(src)?;
    let mut marks = Vec::new();
    for dir in dirs.iter().step_by(dirs.len().div_ceil(MARKS).max(1)) {
        marks.extend(names(&src.join(dir))?.pop().map(|file| Path::new(dir).join(file)));
    }
    Ok(marks)
}

/// Makes the mirror equal, before a noop.
fn copy(src: &Path, dst: &Path) -> Result<()> {
    let output = Command::new("cp").args(["-a", "-T"]).args([src, dst]).output().doing(|| "start cp".into())?;
    if output.status.success() { Ok(()) } else { Err(Problem::Failed(format!("cp -a: {}", String::from_utf8_lossy(&output.stderr)))) }
}

/// What the peer's processes have cost since the start of the meter.
struct Meter {
    roots: Vec<Root>,
    cpu: (f64, f64),
    wire: Option<u64>,
    sampler: Sampler,
    profile: Option<Profile>,
}

impl Meter {
    fn start(lab: &Lab, running: &Running, profile: Option<Profile>) -> Self {
        let roots = running.roots();
        let cpu = (usage::cpu_s(&roots, End::Sender), usage::cpu_s(&roots, End::Receiver));
        Self { cpu, wire: wire(lab, &roots), sampler: Sampler::start(roots.clone()), roots, profile }
    }

    fn read(self, lab: &Lab, out: &mut Measured) -> Result<()> {
        if let Some(profile) = self.profile {
            profile.end()?;
        }
        let has_receiver = self.roots.iter().any(|(end, _)| *end == End::Receiver);
        let (sender, receiver) = self.sampler.end();
        out.cpu_sender_s = Some((usage::cpu_s(&self.roots, End::Sender) - self.cpu.0).max(0.0));
        out.cpu_receiver_s = has_receiver.then(|| (usage::cpu_s(&self.roots, End::Receiver) - self.cpu.1).max(0.0));
        out.mem_sender_kib = Some(sender.peak_kib);
        out.mem_receiver_kib = has_receiver.then_some(receiver.peak_kib);
        out.mem_growth_kib = Some(sender.growth_kib());
        out.wire_bytes = wire(lab, &self.roots).zip(self.wire).map(|(now, then)| now.saturating_sub(then));
        Ok(())
    }
}

fn wire(lab: &Lab, roots: &[Root]) -> Option<u64> {
    let (_, pid) = roots.iter().find(|(end, _)| *end == End::Receiver)?;
    lab.net.bytes(*pid)
}
