//! Comparing the content of files with what the mirror holds: this side digests while the receiver does, part by part, when there is nothing else to do.
//!
//! Never decides what a difference means. Memory is that of one read.

use std::fs::File;
use std::os::fd::AsFd;
use std::time::Instant;

use crate::buffer::PageBuffer;
use crate::delta::PartDigest;
use crate::limits::{SUM_BYTES_MAX, SUM_FILES_MAX, SUM_READ_BYTES, SUM_SLICE_BYTES};
use crate::model::meta::{Kind, Stat};
use crate::model::path::RelPath;
use crate::model::probe::ProbeError;
use crate::model::scrub::{Part, PartSum, SumDone, SumFile, SumTask, Summed};
use crate::sys::dir::{Dir, stat_fd};
use crate::sys::quiet::Quiet;
use crate::work::Source;
use crate::work::probe::{errno, open_dir};
use crate::work::rate::Rate;

/// How a question is sent.
pub(super) trait Asking {
    /// Why it cannot be.
    type Error;

    /// Asks the receiver.
    fn ask(&mut self, id: u64, dir: &RelPath, parts: &[Part]) -> Result<(), Self::Error>;
}

/// One task under way. It goes in turns, each with one question to the receiver: of several files there is one turn, of one file a turn for each part.
struct Job {
    task: SumTask,
    /// What was found of each file; `None`: nothing against it so far.
    found: Vec<Option<Summed>>,
    turn: Option<Turn>,
    /// The directory in the source.
    dir: Option<Dir>,
    /// The file that is being read; one of several parts stays open between the turns.
    open: Option<(Quiet, Stat)>,
    /// Where the next part of the only file begins.
    offset: u64,
}

/// Invariant: part `i` is of file `i` of the task; `ours` holds the digests of the first parts, and once all are there `digest` is `None`.
struct Turn {
    parts: Vec<Part>,
    /// From when on it may be begun.
    granted: Instant,
    /// Number of the question, once it is asked.
    asked: Option<u64>,
    /// The part that is being read.
    digest: Option<PartDigest>,
    /// `None`: there is something against the file.
    ours: Vec<Option<[u8; 32]>>,
    theirs: Option<Vec<PartSum>>,
}

/// What happened in a step.
pub(super) enum Step {
    /// Something was done.
    Busy,
    /// Nothing can be done before this time, or before an answer or another task comes.
    Wait(Option<Instant>),
}

/// The tasks of one worker.
#[derive(Default)]
pub(super) struct Sums {
    jobs: Vec<Job>,
    buffer: PageBuffer,
    next: u64,
    done: Vec<SumDone>,
}

impl Sums {
    /// Takes a task.
    pub(super) fn add(&mut self, task: SumTask) {
        let found = vec![None; task.files.len()];
        self.jobs.push(Job { task, found, turn: None, dir: None, open: None, offset: 0 });
    }

    /// Tasks that have come to their end.
    pub(super) fn take_done(&mut self) -> Vec<SumDone> {
        std::mem::take(&mut self.done)
    }

    /// The receiver's answer; false if nothing of the kind was asked.
    pub(super) fn answer(&mut self, id: u64, sums: Vec<PartSum>) -> bool {
        let turn = self.jobs.iter_mut().filter_map(|job| job.turn.as_mut()).find(|turn| turn.asked == Some(id));
        let Some(turn) = turn.filter(|turn| turn.theirs.is_none() && turn.parts.len() == sums.len()) else { return false };
        turn.theirs = Some(sums);
        self.settle();
        true
    }

    /// Compares what both sides have said, and takes out what is done.
    fn settle(&mut self) {
        let done = &mut self.done;
        self.jobs.retain_mut(|job| {
            let is_done = job.compare();
            if is_done {
                let files = job.found.iter().map(|found| found.unwrap_or(Summed::Equal)).collect();
                done.push(SumDone { id: job.task.id, files });
            }
            !is_done
        });
    }

    /// Does a slice of what is to be done.
    ///
    /// # Errors
    /// Of `asking`.
    pub(super) fn step<A: Asking>(&mut self, source: &Source, asking: &mut A) -> Result<Step, A::Error> {
        if self.jobs.is_empty() {
            return Ok(Step::Wait(None));
        }
        let now = Instant::now();
        let mut wait: Option<Instant> = None;
        for job in &mut self.jobs {
            job.plan(&source.rate, now);
            let Job { turn: Some(turn), task, .. } = job else { continue };
            if turn.asked.is_some() {
                if turn.ours.len() < turn.parts.len() {
                    job.read(source, self.buffer.piece(SUM_READ_BYTES));
                    self.settle();
                    return Ok(Step::Busy);
                }
            } else if turn.granted <= now {
                self.next += 1;
                turn.asked = Some(self.next);
                asking.ask(self.next, &task.dir, &turn.parts)?;
                return Ok(Step::Busy);
            } else {
                wait = Some(wait.map_or(turn.granted, |wait| wait.min(turn.granted)));
            }
        }
        Ok(Step::Wait(wait))
    }
}

impl Job {
    /// Plans the next turn if none is under way.
    fn plan(&mut self, rate: &Rate, now: Instant) {
        if self.turn.is_some() {
            return;
        }
        let Self { task, offset, .. } = self;
        let most = if task.files.len() == 1 { rate.part_bytes() } else { SUM_BYTES_MAX };
        let part = |file: &SumFile| Part { name: file.name.clone(), offset: *offset, len: file.size.saturating_sub(*offset).min(most) };
        let parts: Vec<Part> = task.files.iter().map(part).collect();
        let granted = rate.grant(parts.iter().map(|part| part.len).sum(), now);
        self.turn = Some(Turn { parts, granted, asked: None, digest: None, ours: Vec::new(), theirs: None });
    }

    /// Reads a slice of the turn's parts.
    fn read(&mut self, source: &Source, buffer: &mut [u8]) {
        let Some(turn) = &mut self.turn else { return };
        let mut budget = SUM_SLICE_BYTES;
        while budget > 0
            && let Some(part) = turn.parts.get(turn.ours.len())
        {
            let at = turn.ours.len();
            let file = &self.task.files[at];
            if self.open.is_none() && self.found[at].is_none() {
                match begin(source, &self.task, &mut self.dir, file) {
                    Ok(opened) => self.open = Some(opened),
                    Err(found) => self.found[at] = Some(found),
                }
            }
            let Some((reader, before)) = &mut self.open else {
                turn.ours.push(None);
                continue;
            };
            let digest = turn.digest.get_or_insert_with(|| PartDigest::new(part.offset, part.len));
            match digest.go_on(buffer, &mut budget, |buffer, at| reader.read_at(buffer, at)) {
                Ok(false) => return,
                Ok(true) => turn.ours.push(Some(digest.finish())),
                Err(e) => {
                    self.found[at] = Some(Summed::Failed(errno(&e)));
                    turn.ours.push(None);
                }
            }
            turn.digest = None;
            // To open a file is work too.
            budget = budget.saturating_sub(SUM_SLICE_BYTES / SUM_FILES_MAX as u64);
            if part.offset + part.len >= file.size || self.found[at].is_some() {
                if !is_as_before(reader.file(), before) {
                    self.found[at] = Some(Summed::Changed);
                }
                self.open = None;
            }
        }
    }

    /// If both sides of the turn are known, compares them. True when no turn is left to be done.
    fn compare(&mut self) -> bool {
        let Some(Turn { parts, ours, theirs: Some(theirs), .. }) = &self.turn else { return false };
        if ours.len() < parts.len() {
            return false;
        }
        for (at, ((file, ours), theirs)) in self.task.files.iter().zip(ours).zip(theirs).enumerate() {
            let (Some(ours), None) = (ours, self.found[at]) else { continue };
            let found = match theirs {
                PartSum::Read { size, digest } if *size == file.size && digest == ours => continue,
                PartSum::Read { .. } => Summed::Differs,
                PartSum::Failed(libc::ENOENT | libc::ENOTDIR | libc::ESTALE | libc::ELOOP) => Summed::Missing,
                PartSum::Failed(errno) => Summed::Failed(*errno),
            };
            // One that is not read to its end has to have rested until now.
            let rested = self.open.as_ref().is_none_or(|(reader, before)| is_as_before(reader.file(), before));
            self.found[at] = Some(if rested { found } else { Summed::Changed });
        }
        self.offset = parts.first().map_or(u64::MAX, |part| part.offset + part.len);
        self.turn = None;
        match &self.task.files[..] {
            [only] => self.found[0].is_some() || self.offset >= only.size,
            _ => true,
        }
    }
}

/// Whether the source's file is what it was, as far as its times tell.
fn is_as_before(file: &File, before: &Stat) -> bool {
    let times = |stat: &Stat| (stat.ctime, stat.meta.size, stat.meta.mtime);
    stat_fd(file.as_fd()).is_ok_and(|now| times(&now) == times(before))
}

/// Opens a file of the source if it is what it should be.
fn begin(source: &Source, task: &SumTask, dir: &mut Option<Dir>, file: &SumFile) -> Result<(Quiet, Stat), Summed> {
    let held = match dir {
        Some(held) => held,
        None => {
            let (opened, _) = open_dir(source, &task.dir, task.expect).map_err(|why| match why {
                ProbeError::Stale => Summed::Changed,
                ProbeError::Failed(errno) => Summed::Failed(errno),
            })?;
            dir.insert(opened)
        }
    };
    let opened = held.open_read(file.name.as_name()).map_err(|e| match e.raw_os_error() {
        Some(libc::ENOENT | libc::ELOOP | libc::ENXIO | libc::ENODEV | libc::EISDIR | libc::ESTALE) => Summed::Changed,
        _ => Summed::Failed(errno(&e)),
    })?;
    let before = stat_fd(opened.as_fd()).map_err(|e| Summed::Failed(errno(&e)))?;
    let same = before.meta.kind == Kind::File
        && file.ident.is_none_or(|ident| ident == before.ident)
        && (before.meta.size, before.meta.mtime) == (file.size, file.mtime);
    if !same {
        return Err(Summed::Changed);
    }
    Ok((Quiet::new(opened), before))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::attrs::Namespaces;
    use crate::model::cycle::NodeRef;
    use crate::model::event::Key;
    use crate::model::path::Name;
    use crate::work::{Carried, Cover, Signatures};
    use std::convert::Infallible;
    use std::os::unix::fs::FileExt;

    struct Nobody;
    impl Cover for Nobody {
        fn cover(&self, _: &Dir, _: &Stat) -> std::io::Result<(Option<Key>, bool)> {
            Ok((None, false))
        }
        fn key_at(&self, _: &Dir, _: Name<'_>, _: &Stat) -> Option<Key> {
            None
        }
    }

    /// Questions that were asked.
    #[derive(Default)]
    struct Asked(Vec<(u64, Vec<Part>)>);
    impl Asking for Asked {
        type Error = Infallible;
        fn ask(&mut self, id: u64, _: &RelPath, parts: &[Part]) -> Result<(), Infallible> {
            self.0.push((id, parts.to_vec()));
            Ok(())
        }
    }

    struct Bench {
        _tmp: tempfile::TempDir,
        path: std::path::PathBuf,
        source: Source,
        sums: Sums,
        asked: Asked,
    }

    impl Bench {
        fn new(bytes_per_sec: u64, files: &[(&str, &[u8])]) -> Self {
            let tmp = tempfile::tempdir().unwrap();
            let path = tmp.path().to_owned();
            for (name, bytes) in files {
                std::fs::write(path.join(name), bytes).unwrap();
            }
            let root = Dir::open_root(&path).unwrap();
            let (signatures, carried, rate) = (Signatures::new(false), Carried::new(Namespaces::NONE), Rate::new(bytes_per_sec));
            let source =
                Source { root, cover: Box::new(Nobody), signatures, carried, rate, sparse: true, small_deltas: false, preallocate: false };
            let file = |(name, _): &(&str, &[u8])| {
                let name = Name::new(name.as_bytes()).unwrap().to_owned();
                let stat = source.root.stat_at(name.as_name()).unwrap();
                let node = NodeRef { id: 0, generation: 0 };
                SumFile { node, name, ident: Some(stat.ident), size: stat.meta.size, mtime: stat.meta.mtime }
            };
            let files = files.iter().map(file).collect();
            let mut sums = Sums::default();
            sums.add(SumTask { id: 7, dir: RelPath::root(), expect: None, files });
            Self { _tmp: tmp, path, source, sums, asked: Asked::default() }
        }

        fn step(&mut self) -> bool {
            matches!(self.sums.step(&self.source, &mut self.asked).unwrap(), Step::Busy)
        }

        /// Answers as a mirror with these contents would, until all is done.
        fn mirror(&mut self, content: &dyn Fn(&str) -> Option<Vec<u8>>) -> Vec<Summed> {
            loop {
                while self.step() {}
                for (id, parts) in std::mem::take(&mut self.asked.0) {
                    let sum = |part: &Part| match content(std::str::from_utf8(part.name.as_bytes()).unwrap()) {
                        None => PartSum::Failed(libc::ENOENT),
                        Some(bytes) => {
                            let (start, end) = (part.offset as usize, (part.offset + part.len) as usize);
                            let digest = *blake3::hash(&bytes[start.min(bytes.len())..end.min(bytes.len())]).as_bytes();
                            PartSum::Read { size: bytes.len() as u64, digest }
                        }
                    };
                    assert!(self.sums.answer(id, parts.iter().map(sum).collect()));
                }
                if let Some(done) = self.sums.take_done().pop() {
                    assert_eq!(done.id, 7);
                    return done.files;
                }
            }
        }
    }

    #[test]
    fn several_files_are_one_question() {
        let mut bench = Bench::new(0, &[("a", b"same"), ("b", b"other"), ("c", b"gone"), ("d", b"long"), ("e", b"")]);
        let found = bench.mirror(&|name| {
            Some(match name {
                "a" => b"same".to_vec(),
                "b" => b"0ther".to_vec(),
                "d" => b"longer".to_vec(),
                "e" => Vec::new(),
                _ => return None,
            })
        });
        assert_eq!(found, [Summed::Equal, Summed::Differs, Summed::Missing, Summed::Differs, Summed::Equal]);
    }

    #[test]
    fn a_large_file_goes_in_parts_and_ends_with_the_first_that_differs() {
        let bytes: Vec<u8> = (0..300_000u32).map(|n| (n % 251) as u8).collect();
        let mut equal = Bench::new(1 << 30, &[("f", &bytes)]);
        assert_eq!(equal.mirror(&|_| Some(bytes.clone())), [Summed::Equal]);
        let mut spoilt = bytes.clone();
        spoilt[70_000] ^= 1;
        // Parts of 64 KiB: the second differs.
        let mut slow = Bench::new(100, &[("f", &bytes)]);
        slow.source.rate = Rate::new(1 << 18);
        assert_eq!(slow.mirror(&|_| Some(spoilt.clone())), [Summed::Differs]);
        assert_eq!(slow.sums.next, 2);
    }

    #[test]
    fn a_source_that_changes_says_nothing_of_the_mirror() {
        let bytes = vec![1; 200_000];
        let mut bench = Bench::new(0, &[("f", &bytes), ("g", b"x"), ("h", b"y")]);
        std::fs::write(bench.path.join("g"), "longer").unwrap();
        std::fs::remove_file(bench.path.join("h")).unwrap();
        // Begun to be read, and then written to.
        assert!(bench.step());
        let job = &mut bench.sums.jobs[0];
        job.open = begin(&bench.source, &job.task, &mut job.dir, &job.task.files[0]).ok();
        std::fs::File::options().write(true).open(bench.path.join("f")).unwrap().write_all_at(b"22", 5).unwrap();
        let found = bench.mirror(&|_| Some(vec![1; 200_000]));
        assert_eq!(found, [Summed::Changed; 3]);
    }

    #[test]
    fn answers_that_were_not_asked_for_are_refused() {
        let mut bench = Bench::new(0, &[("a", b"x"), ("b", b"y")]);
        let sum = PartSum::Failed(libc::EIO);
        assert!(!bench.sums.answer(1, vec![sum; 2]), "before it was asked");
        assert!(bench.step());
        let (id, parts) = bench.asked.0[0].clone();
        assert_eq!(parts.len(), 2);
        assert!(!bench.sums.answer(id + 1, vec![sum; 2]), "of another question");
        assert!(!bench.sums.answer(id, vec![sum; 1]), "too few");
        assert!(!bench.sums.answer(id, vec![sum; 3]), "too many");
        assert!(bench.sums.answer(id, vec![sum; 2]));
        assert!(!bench.sums.answer(id, vec![sum; 2]), "twice");
        while bench.step() {}
        assert_eq!(bench.sums.take_done()[0].files, [Summed::Failed(libc::EIO); 2]);
    }

    #[test]
    fn what_the_rate_does_not_allow_waits() {
        let mut bench = Bench::new(1000, &[("a", &[7; 5000])]);
        let Job { task, .. } = &bench.sums.jobs[0];
        let again = SumTask { id: 8, ..task.clone() };
        bench.sums.add(again);
        while bench.step() {}
        assert_eq!(bench.asked.0.len(), 1, "the second one waits five seconds");
        let Step::Wait(Some(until)) = bench.sums.step(&bench.source, &mut bench.asked).unwrap() else { panic!("nothing to wait for") };
        assert!(until > Instant::now());
    }
}
