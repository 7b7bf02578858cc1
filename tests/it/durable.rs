//! Durability: what was acknowledged is there after a power failure, whole, and nothing else is.
//!
//! The mirror is on a loop device, and so is a directory inside it that is another filesystem. Their images lie on an XFS of their own and are cloned at random moments while cycles
//! are applied. Each clone is mounted, so that its log is recovered, and looked through.
//!
//! That a clone is what a power failure would leave: the loop driver completes a write of the device when the image's filesystem has completed it, past the cache. A clone keeps all writers
//! of the image out, waits for those under way and shares what is there: it has every completed write, and of those that the device still had queued some. What a drive loses of its own cache is
//! not shown: that a filesystem flushes it is taken on trust. What was acknowledged is known before the clone is begun, what had been sent after it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use ringsync::apply::{FsTarget, Root, Target};
use ringsync::error::Result as Done;
use ringsync::model::meta::{Kind, Meta, Time};
use ringsync::model::op::Op;
use ringsync::model::options::{Durability, Writing};
use ringsync::model::path::RelPath;
use ringsync::receiver::{Module, Receiver, Sockets};
use ringsync::wire::{Hello, Message, Payload};

use crate::content::{judge, whole};
use crate::fixture::{file_meta, meta, mkdir, rel, rename, spot, symlink, unlink};
use crate::mounts::{Fs, Mounted, image_at, mount_direct, mount_image, privately, unmount};
use crate::place::{Place, deadline, number, seed, skipped, until};
use crate::program::{As, Mirror, Way};
use crate::receive::Client;
use crate::rng::Rng;

/// Cycles on their way: below what the protocol allows.
const WINDOW: u64 = 8;
/// The directory that is a mount.
const MOUNT: &str = "m";
const DIRS: [&str; 4] = ["a", "a/b", MOUNT, "m/c"];
/// The number in the time of what was made by an operation.
const EPOCH: i64 = 1_000_000_000;

/// What a name stands for. Numbers are of operations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Absent,
    File { content: u64, len: usize, time: u64 },
    Symlink { target: u64 },
    Dir,
}

/// What is sent and acknowledged, and what each name stands for from which cycle on.
#[derive(Default)]
struct Record {
    sent: AtomicU64,
    acked: AtomicU64,
    failed: AtomicBool,
    over: AtomicBool,
    names: Mutex<BTreeMap<String, Vec<(u64, State)>>>,
}

/// Sends random cycles.
struct Churn<'a> {
    record: &'a Record,
    seed: u64,
    rng: Rng,
    now: BTreeMap<String, State>,
    /// Changes of the cycle at hand.
    changed: BTreeMap<String, State>,
    op: u64,
    stage: u64,
}

fn at_time(mut meta: Meta, op: u64) -> Meta {
    meta.mtime = Time { sec: EPOCH + op as i64, nsec: 0 };
    meta
}

fn sectioned(payload: &mut Payload, ops: &[Op]) {
    ops.iter().for_each(|op| payload.op(op));
}

impl Churn<'_> {
    fn number(&mut self) -> u64 {
        self.op += 1;
        self.op
    }

    /// A name that this cycle has not touched.
    fn free_name(&mut self) -> Option<String> {
        let dirs: Vec<&str> =
            DIRS.iter().copied().chain(["a/gone", "m/gone"]).filter(|dir| self.now.get(*dir) == Some(&State::Dir)).collect();
        let name = format!("{}/{}", self.rng.pick(&dirs), self.rng.below(12));
        (!self.changed.contains_key(&name)).then_some(name)
    }

    fn state(&self, name: &str) -> State {
        self.now.get(name).copied().unwrap_or(State::Absent)
    }

    fn change(&mut self, name: &str, state: State) {
        self.changed.insert(name.to_owned(), state);
    }

    /// One cycle: PRE, FILES and POST. An error if the session has ended.
    fn cycle(&mut self, cycle: u64, content: &mut [Client], control: &mut Client) -> Done<()> {
        let (mut pre, mut post) = (Vec::new(), Vec::new());
        let mut files: Vec<Payload> = (0..3).map(|_| Payload::new()).collect();
        files[1].files_of(cycle);
        files[2].files_of(cycle);
        // Sent once the cycle is open: a connection takes so many frames of one that is not.
        let (mut inline, mut held, mut index) = (Vec::new(), [Vec::new(), Vec::new()], 0);
        for gone in ["a/gone", "m/gone"] {
            // A directory that comes and goes with all that is in it.
            if self.state(gone) == State::Absent && self.rng.chance(30) {
                pre.push(mkdir(gone));
                post.push(Op::DirMeta { dir: rel(gone), meta: meta(Kind::Dir, 0o755) });
                self.now.insert(gone.to_owned(), State::Dir);
                self.change(gone, State::Dir);
            } else if self.state(gone) == State::Dir && self.rng.chance(10) && !self.changed.contains_key(gone) {
                for name in self.now.range(format!("{gone}/")..format!("{gone}0")).map(|(name, _)| name.clone()).collect::<Vec<_>>() {
                    if self.state(&name) != State::Absent {
                        post.push(unlink(&name));
                        self.change(&name, State::Absent);
                    }
                }
                post.push(Op::Rmdir { at: spot(gone) });
                self.change(gone, State::Absent);
                self.now.insert(gone.to_owned(), State::Absent);
            }
        }
        let count = if self.rng.chance(30) { 1 } else { 1 + self.rng.below(60) };
        for _ in 0..count {
            let Some(name) = self.free_name() else { continue };
            let op = self.number();
            let there = self.state(&name);
            let way = self.rng.below(3);
            match (self.rng.below(20), there) {
                (0, State::Absent) => {
                    pre.push(match symlink(&name, &format!("{op}")) {
                        Op::Symlink { at, target, meta } => Op::Symlink { at, target, meta: at_time(meta, op) },
                        other => other,
                    });
                    self.change(&name, State::Symlink { target: op });
                }
                (1..=3, State::File { .. } | State::Symlink { .. }) => {
                    post.push(unlink(&name));
                    self.change(&name, State::Absent);
                }
                (4..=5, State::File { .. }) => {
                    if let Some(to) = self.free_name().filter(|to| *to != name && is_mounted(to) == is_mounted(&name)) {
                        pre.push(rename(&name, &to));
                        self.change(&name, State::Absent);
                        self.change(&to, there);
                    }
                }
                (6..=8, State::File { content, len, .. }) => {
                    files[way].file(index, &Op::SetMeta { at: spot(&name), meta: at_time(file_meta(&vec![0; len]), op) });
                    index += 1;
                    self.change(&name, State::File { content, len, time: op });
                }
                (9, _) => {
                    // A large one, staged in two pieces, and more of the kernel's memory than it writes at once.
                    let data = whole(self.seed, op, 600_000 + self.rng.below(2_000_000));
                    self.stage += 1;
                    for (n, piece) in data.chunks(500_000).enumerate() {
                        let mut frame = Payload::new();
                        frame.message(&Message::Stage { id: self.stage, offset: n as u64 * 500_000, data: piece });
                        if way == 0 { control.offer(frame)? } else { held[way - 1].push(frame) }
                    }
                    files[way].file(index, &Op::Place { at: spot(&name), meta: at_time(file_meta(&data), op), stage: self.stage });
                    index += 1;
                    self.change(&name, State::File { content: op, len: data.len(), time: op });
                }
                _ => {
                    let len = 32 + self.rng.pick(&[0, 10, 5000, 30_000, 120_000]) + self.rng.below(4096);
                    let data = whole(self.seed, op, len);
                    // The hint may be wrong.
                    let new = (there == State::Absent) != self.rng.chance(10);
                    files[way].put(index, &spot(&name), &at_time(file_meta(&data), op), len, new).copy_from_slice(&data);
                    index += 1;
                    self.change(&name, State::File { content: op, len, time: op });
                    if files[way].is_full() {
                        let frame = std::mem::replace(&mut files[way], Payload::new());
                        if way == 0 { inline.push(frame) } else { held[way - 1].push(frame) }
                    }
                }
            }
        }
        let changed = std::mem::take(&mut self.changed);
        {
            let mut names = self.record.names.lock().unwrap();
            for (name, state) in &changed {
                names.entry(name.clone()).or_default().push((cycle, *state));
            }
        }
        self.now.extend(changed);
        self.record.sent.store(cycle, Ordering::SeqCst);
        let (mut begin, mut end) = (Payload::new(), Payload::new());
        begin.begin(cycle);
        sectioned(&mut begin, &pre);
        begin.open();
        end.close(index);
        sectioned(&mut end, &post);
        end.commit();
        control.offer(begin)?;
        for ((client, held), last) in content.iter_mut().zip(held).zip(files.drain(1..)) {
            held.into_iter().chain([last]).try_for_each(|frame| client.offer(frame))?;
        }
        inline.into_iter().chain(files).chain([end]).try_for_each(|frame| control.offer(frame))
    }

    /// Takes what has come; `false` when something failed, or the session ended.
    fn hear(&mut self, control: &mut Client, wait: bool) -> bool {
        while let Some(text) = if wait { control.next() } else { control.poll() } {
            if let Some(rest) = text.strip_prefix("Ack { cycle: ") {
                self.record.acked.store(rest.trim_end_matches(" }").parse().unwrap(), Ordering::SeqCst);
            } else {
                eprintln!("churn: {text}");
                self.record.failed.store(true, Ordering::SeqCst);
                return false;
            }
            if wait {
                return true;
            }
        }
        !wait
    }
}

fn is_mounted(name: &str) -> bool {
    name.starts_with("m/")
}

/// A receiver and the cycles that it is sent, until the record says that it is over or something fails.
fn churn(root: &Path, durability: Durability, seed: u64, record: &Record) {
    let module = Module { name: "m".into(), root: root.to_path_buf(), read_only: false };
    let receiver = Receiver::new(vec![module], Sockets::default());
    let writing = Writing { durability, ..Writing::default() };
    let mut control = Client::open(&receiver, &Hello::control("m", RelPath::root(), 2).unwrap().with_writing(writing));
    control.expect("Welcome");
    let mut content: Vec<Client> = (0..2).map(|i| Client::content(&receiver, control.token(), i)).collect();
    let mut churn = Churn { record, seed, rng: Rng::new(seed), now: BTreeMap::new(), changed: BTreeMap::new(), op: 0, stage: 0 };
    churn.now.extend(DIRS.map(|dir| (dir.to_owned(), State::Dir)));
    for cycle in 1.. {
        if record.over.load(Ordering::SeqCst) {
            break;
        }
        if churn.cycle(cycle, &mut content, &mut control).is_err() {
            // Why is said behind what was acknowledged.
            while churn.hear(&mut control, true) {}
            record.failed.store(true, Ordering::SeqCst);
        }
        if !churn.hear(&mut control, false) {
            break;
        }
        while cycle - record.acked.load(Ordering::SeqCst) >= WINDOW {
            if !churn.hear(&mut control, true) {
                break;
            }
        }
        if record.failed.load(Ordering::SeqCst) {
            break;
        }
    }
    while !record.failed.load(Ordering::SeqCst) && record.acked.load(Ordering::SeqCst) < record.sent.load(Ordering::SeqCst) {
        if !churn.hear(&mut control, true) {
            break;
        }
    }
    drop((control, content));
    assert!(receiver.shutdown(deadline()), "the receiver does not end");
}

/// What a name stands for in a copy.
fn found(path: &Path, seed: u64) -> Result<State, String> {
    let stat = match path.symlink_metadata() {
        Err(e) if matches!(e.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory) => return Ok(State::Absent),
        other => other.map_err(|e| e.to_string())?,
    };
    if stat.is_dir() {
        return Ok(State::Dir);
    }
    if stat.is_symlink() {
        let target = fs::read_link(path).map_err(|e| e.to_string())?;
        return target
            .to_str()
            .and_then(|t| t.parse().ok())
            .map(|target| State::Symlink { target })
            .ok_or_else(|| "another target".to_owned());
    }
    let bytes = fs::read(path).map_err(|e| e.to_string())?;
    judge(&bytes)?;
    let part = |at: usize| bytes.get(at..at + 8).map(|b| u64::from_le_bytes(b.try_into().unwrap()));
    match (part(0), part(8)) {
        (Some(by), Some(content)) if by == seed => {
            Ok(State::File { content, len: bytes.len(), time: (stat.mtime() - EPOCH).cast_unsigned() })
        }
        _ => Err(format!("{} bytes, not of a whole file", bytes.len())),
    }
}

/// What is wrong with a copy in which `acked` cycles have to be there, and no more than `sent` can.
fn violations(copy: &Path, seed: u64, record: &Record, acked: u64, sent: u64) -> Vec<String> {
    let names = record.names.lock().unwrap().clone();
    let mut wrong = Vec::new();
    for (name, changes) in &names {
        let from = changes.partition_point(|(cycle, _)| *cycle <= acked);
        let until = changes.partition_point(|(cycle, _)| *cycle <= sent);
        let before = from.checked_sub(1).map_or(State::Absent, |at| changes[at].1);
        match found(&copy.join(name), seed) {
            Ok(state) if state == before || changes[from..until].iter().any(|(_, later)| *later == state) => {}
            Ok(state) => wrong.push(format!("{name}: {state:?} where {before:?} was acknowledged; later {:?}", &changes[from..until])),
            Err(why) => wrong.push(format!("{name}: {why}; {before:?} was acknowledged")),
        }
    }
    // A session that begins takes what is reserved away, and nothing else is there that was never sent.
    let known: BTreeSet<&str> = names.keys().map(String::as_str).chain(DIRS).collect();
    if let Err(errno) = FsTarget::new(Root::open(copy, false).unwrap()).list(&RelPath::root(), &mut |_| {}) {
        wrong.push(format!("cannot be listed: {errno}"));
    }
    let mut todo = vec![copy.to_path_buf()];
    while let Some(dir) = todo.pop() {
        for entry in fs::read_dir(&dir).unwrap() {
            let path = entry.unwrap().path();
            let name = path.strip_prefix(copy).unwrap().to_str().unwrap();
            if !known.contains(name) && name.rsplit('/').next() != Some("lost+found") {
                wrong.push(format!("{name} was never sent, or is left of an earlier session"));
            }
            if path.is_dir() && !path.is_symlink() {
                todo.push(path);
            }
        }
    }
    wrong
}

#[derive(Default, Debug)]
struct Tally {
    copies: u64,
    acked: u64,
    violations: Vec<String>,
}

/// The places of one run.
struct Lab {
    place: Place,
    kinds: [(Fs, &'static str); 2],
    _store: Mounted,
}

impl Lab {
    /// # Errors
    /// Why this machine cannot.
    fn new(kinds: [(Fs, &'static str); 2]) -> Result<Self, String> {
        let place = Place::new();
        for dir in ["store", "check"] {
            fs::create_dir(place.beside(dir)).unwrap();
        }
        // Images can be cloned here.
        let store = Mounted::new(Fs::Xfs, &place.beside("store"))?;
        for (n, at) in [place.dst.clone(), place.dst.join(MOUNT)].iter().enumerate() {
            fs::create_dir_all(at).unwrap();
            let image = place.beside(&format!("store/{n}"));
            image_at(kinds[n].0, &image)?;
            mount_direct(kinds[n].1, &image, at)?;
        }
        for dir in DIRS {
            fs::create_dir_all(place.dst.join(dir)).unwrap();
        }
        nix::unistd::sync();
        Ok(Self { place, kinds, _store: store })
    }

    fn clone_images(&self) {
        for n in 0..2 {
            let (image, copy) = (self.place.beside(&format!("store/{n}")), self.place.beside(&format!("store/copy-{n}")));
            let done = Command::new("cp").arg("--reflink=always").args([image, copy]).status();
            assert!(done.is_ok_and(|status| status.success()), "an image cannot be cloned");
        }
    }

    /// Looks through the clones, and removes them.
    fn check(&self, seed: u64, record: &Record, acked: u64, sent: u64) -> Vec<String> {
        let check = self.place.beside("check");
        for (n, at) in [check.clone(), check.join(MOUNT)].iter().enumerate() {
            let kind = self.kinds[n].1;
            let options = if kind == "xfs" { "loop,nouuid" } else { "loop" };
            mount_image(kind, options, &self.place.beside(&format!("store/copy-{n}")), at).expect("a copy is mounted");
        }
        let wrong = violations(&check, seed, record, acked, sent);
        for at in [check.join(MOUNT), check] {
            unmount(&at);
        }
        (0..2).for_each(|n| fs::remove_file(self.place.beside(&format!("store/copy-{n}"))).unwrap());
        wrong
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        unmount(&self.place.dst.join(MOUNT));
        unmount(&self.place.dst);
    }
}

/// Copies for so long, or until there is something wrong.
fn run(lab: &Lab, durability: Durability, time: Duration, seed: u64) -> Tally {
    let record = Record::default();
    let mut tally = Tally::default();
    std::thread::scope(|scope| {
        let churning = scope.spawn(|| churn(&lab.place.dst, durability, seed, &record));
        let mut rng = Rng::new(seed ^ 7);
        let end = Instant::now() + time;
        while Instant::now() < end && tally.violations.is_empty() && !churning.is_finished() {
            let (cycle, look) = (record.acked.load(Ordering::SeqCst) + rng.below(6) as u64, rng.below(3000));
            until(deadline(), || record.acked.load(Ordering::SeqCst) >= cycle || churning.is_finished());
            // At some moment between two acknowledgements.
            (0..look).for_each(|_| std::hint::spin_loop());
            let acked = record.acked.load(Ordering::SeqCst);
            lab.clone_images();
            let sent = record.sent.load(Ordering::SeqCst);
            tally.violations = lab.check(seed, &record, acked, sent);
            tally.copies += 1;
            tally.acked = acked;
        }
        record.over.store(true, Ordering::SeqCst);
    });
    assert!(!record.failed.load(Ordering::SeqCst), "an operation failed, or the session ended");
    tally
}

fn prove(name: &'static str, kinds: [(Fs, &'static str); 2], durability: Durability) {
    privately(name, || {
        let seed = seed();
        eprintln!("{name}: RINGSYNC_SEED={seed}");
        let lab = match Lab::new(kinds) {
            Ok(lab) => lab,
            Err(e) => return skipped(name, e),
        };
        let time = Duration::from_secs_f64(number("RINGSYNC_DURABLE_S", 3.0));
        let Tally { copies, acked, violations } = run(&lab, durability, time, seed);
        println!("{name}: {copies} copies, {acked} acknowledged cycles, {} violations", violations.len());
        if durability == Durability::None {
            assert!(!violations.is_empty(), "{copies} copies of a mirror that writes nothing out had all of it");
        } else {
            assert!(violations.is_empty() && copies > 0, "RINGSYNC_SEED={seed}, copy {copies}: {violations:#?}");
        }
    });
}

const EXT4: (Fs, &str) = (Fs::Ext4, "ext4");
const XFS: (Fs, &str) = (Fs::Xfs, "xfs");

#[test]
fn by_cycle_ext4_with_xfs_inside() {
    prove("by_cycle_ext4_with_xfs_inside", [EXT4, XFS], Durability::Cycle);
}

#[test]
fn by_cycle_xfs_with_ext4_inside() {
    prove("by_cycle_xfs_with_ext4_inside", [XFS, EXT4], Durability::Cycle);
}

#[test]
fn by_file_ext4_with_xfs_inside() {
    prove("by_file_ext4_with_xfs_inside", [EXT4, XFS], Durability::File);
}

#[test]
fn by_file_xfs_with_ext4_inside() {
    prove("by_file_xfs_with_ext4_inside", [XFS, EXT4], Durability::File);
}

/// The canary: without durability a copy lacks what was acknowledged.
#[test]
fn without_durability_a_copy_lacks_something() {
    prove("without_durability_a_copy_lacks_something", [EXT4, XFS], Durability::None);
}

/// The images' disk is full: what the filesystems believe to have room for cannot be written. Whatever is acknowledged without a failure is there all the same.
#[test]
fn what_cannot_be_written_is_not_acknowledged() {
    const NAME: &str = "what_cannot_be_written_is_not_acknowledged";
    privately(NAME, || {
        let seed = seed();
        eprintln!("{NAME}: RINGSYNC_SEED={seed}");
        for (kinds, durability) in [([EXT4, XFS], Durability::Cycle), ([XFS, EXT4], Durability::File)] {
            let lab = match Lab::new(kinds) {
                Ok(lab) => lab,
                Err(e) => return skipped(NAME, e),
            };
            let record = Record::default();
            std::thread::scope(|scope| {
                let churning = scope.spawn(|| churn(&lab.place.dst, durability, seed, &record));
                let begun = until(deadline(), || record.acked.load(Ordering::SeqCst) >= 5 || churning.is_finished());
                let filler = lab.place.beside("store/filler");
                let mut file = fs::File::create(&filler).unwrap();
                // Until there is no room; the filesystem keeps some for itself.
                for len in [1 << 20, 4096] {
                    while std::io::Write::write_all(&mut file, &vec![1; len]).is_ok() {}
                }
                let ended = until(deadline(), || record.failed.load(Ordering::SeqCst) || churning.is_finished());
                record.over.store(true, Ordering::SeqCst);
                assert!(begun && ended && record.failed.load(Ordering::SeqCst), "nothing fails on a full disk");
                drop(file);
                fs::remove_file(filler).unwrap();
            });
            let (acked, sent) = (record.acked.load(Ordering::SeqCst), record.sent.load(Ordering::SeqCst));
            lab.clone_images();
            let wrong = lab.check(seed, &record, acked, sent);
            println!("{NAME}: {acked} of {sent} cycles acknowledged before the first failure, {} violations", wrong.len());
            assert!(wrong.is_empty(), "RINGSYNC_SEED={seed}: {wrong:#?}");
        }
    });
}

/// The thread that writes cycles out exists where it is asked for, and nowhere else.
#[test]
fn a_live_mirror_has_a_thread_for_it_only_where_it_is_asked_for() {
    for (durability, threads) in [("none", 0), ("cycle", 1), ("file", 1)] {
        let place = Place::new();
        fs::write(place.src.join("before"), whole(1, 1, 5000)).unwrap();
        let mirror = Mirror::start(As::Us, Way::Local, &place, &["--durability", durability]);
        mirror.settle(durability);
        let tasks = format!("/proc/{}/task", mirror.program.lock().unwrap().pid());
        let names = || fs::read_dir(&tasks).unwrap().flatten().filter_map(|task| fs::read_to_string(task.path().join("comm")).ok());
        // A thread gets its name when it runs.
        let are_there = || names().filter(|name| name.trim() == "sync").count() == threads;
        assert!(until(deadline(), are_there), "{durability}: {:?}", names().collect::<Vec<_>>());
        fs::create_dir(place.src.join("d")).unwrap();
        fs::write(place.src.join("d/large"), whole(1, 2, 3 << 20)).unwrap();
        mirror.settle(durability);
        mirror.terminate();
    }
}
