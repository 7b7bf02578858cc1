//! A worker's loop: questions first, then files, then pieces of large files, all into its own content connection.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::delta::{Outcome, Signature};
use crate::error::{Error, Result};
use crate::model::cycle::{AttrsTable, FileBatch, FileDone, Read, StageDone, StageTask};
use crate::model::op::{Op, Spot};
use crate::model::path::RelPath;
use crate::model::probe::{Probe, Probed};
use crate::model::scrub::{LookDone, LookTask, Part, SumDone, SumTask};
use crate::ring::{Consumer, Producer};
use crate::sys::wake::Wake;
use crate::wire::session::{ContentClient, fatal};
use crate::wire::{Hello, Incoming, Link, Message, Messages, Payload};
use crate::work::base::{self, Bases};
use crate::work::lanes::Lanes;
use crate::work::later::{self, Unsigned};
use crate::work::link::{closed, flush, greet, send};
use crate::work::patch::{Halt, Way};
use crate::work::resume::Checked;
use crate::work::stage::Job;
use crate::work::sum::{Asking, Step, Sums};
use crate::work::{Source, files, probe};

/// How long a closing connection is waited for.
const LINGER: Duration = Duration::from_secs(5);
/// So many answers may wait for the sender without its being woken, while more questions are at hand.
const ANSWERS_UNTOLD_MAX: u32 = 16;

/// What a worker is to do.
#[derive(Debug)]
pub enum Task {
    /// Read and send files.
    Files(FileBatch),
    /// Send operations of FILES.
    Ops {
        /// Their cycle.
        cycle: u64,
        /// Index and operation.
        ops: Vec<(u32, Op)>,
        /// What the digests in their metadata stand for.
        attrs: AttrsTable,
    },
    /// Read and send a large file.
    Stage(StageTask),
    /// Tell the receiver to drop a staged file.
    DropStage(u64),
    /// Compare content with the mirror's, when there is nothing else to do.
    Sum(SumTask),
    /// Ask what the mirror has in a directory.
    Look(LookTask),
}

/// What a worker did.
#[derive(Debug)]
pub enum Report {
    /// It has a connection; this wakes it.
    Dialled(Wake),
    /// It is a part of the session.
    Ready,
    /// The answer to a question.
    Probed(Probed),
    /// The end of a [`Task::Files`].
    Files {
        /// The cycle.
        cycle: u64,
        /// What became of each.
        done: Vec<FileDone>,
    },
    /// The end of a [`Task::Ops`].
    Ops {
        /// The cycle.
        cycle: u64,
        /// How many were sent.
        sent: u32,
    },
    /// The end of a [`Task::Stage`].
    Staged(StageDone),
    /// The end of a [`Task::Sum`].
    Summed(SumDone),
    /// An answer, or a part of it, to a [`Task::Look`].
    Looked(LookDone),
    /// It has ended, for this reason if there is one.
    Ended(Option<Error>),
}

/// A worker's ends of what it shares with the sender.
pub struct Worker {
    /// Its number.
    pub index: usize,
    /// The source.
    pub source: Arc<Source>,
    /// Questions. When this ring closes, the worker ends after the files it was given; large ones that are not complete are left.
    pub probes: Consumer<Probe>,
    /// Tasks.
    pub tasks: Consumer<Task>,
    /// Reports.
    pub reports: Producer<Report>,
    /// Wakes the sender.
    pub sender: Wake,
    /// Answers that it was not woken for.
    pub untold: u32,
    /// Tasks taken since there were none.
    pub taken: usize,
    /// Large files that are to begin.
    pub lanes: Lanes,
    /// Set before the rings close where the connection is lost: it is closed at once.
    pub abandoned: Arc<AtomicBool>,
}

impl Worker {
    /// Runs until the rings close or the connection breaks.
    ///
    /// `patience` is how long the receiver may take to answer the Hello.
    pub fn run(mut self, connect: impl FnOnce() -> Result<Link>, hello: Hello, patience: Duration) {
        let result = connect().and_then(|link| self.serve(link, &hello, patience));
        self.report(Report::Ended(result.err()));
    }

    fn report(&mut self, mut report: Report) {
        let is_answer = matches!(report, Report::Probed(_));
        while let Err(back) = self.reports.push(report) {
            if self.reports.is_closed() {
                return;
            }
            // The sender drains this ring in every turn: it is behind for a moment only.
            report = back;
            self.sender.wake();
            std::thread::yield_now();
        }
        // It can do little before the last of several answers: it is woken for that, and now and then.
        self.untold += 1;
        if !is_answer || self.probes.is_empty() || self.untold >= ANSWERS_UNTOLD_MAX {
            self.untold = 0;
            self.sender.wake();
        }
    }

    /// The next task.
    fn take_task(&mut self) -> Option<Task> {
        let task = self.tasks.pop()?;
        self.taken += 1;
        if self.tasks.is_empty() {
            // The ring may have been full, with more behind it, and not every task brings a report soon.
            if self.taken >= self.tasks.capacity() {
                self.sender.wake();
            }
            self.taken = 0;
        }
        Some(task)
    }

    fn serve(&mut self, mut link: Link, hello: &Hello, patience: Duration) -> Result<()> {
        self.report(Report::Dialled(link.wake()));
        let mut payload = Payload::over(link.buffer());
        payload.hello(hello);
        flush(&mut link, &mut payload)?;
        greet(&mut link, patience, || self.probes.is_closed())?;
        self.report(Report::Ready);
        let mut desk = Desk {
            link,
            payload,
            jobs: VecDeque::new(),
            unsigned: None,
            cycle: None,
            checker: ContentClient::new(),
            sealing: HashMap::new(),
            sums: Sums::default(),
            looks: Vec::new(),
            asking: HashMap::new(),
            bases: Bases::default(),
        };
        loop {
            if self.small(&mut desk)? || self.piece(&mut desk)? {
                self.hear(&mut desk)?;
                continue;
            }
            let step = self.sum(&mut desk)?;
            desk.flush()?;
            if self.probes.is_closed() && self.tasks.is_empty() {
                desk.payload.bye();
                desk.flush()?;
                let linger = if self.abandoned.load(Ordering::Acquire) { Duration::ZERO } else { LINGER };
                return desk.link.close(linger);
            }
            // With sums or a signature to be made, this is a look.
            let signing = desk.sign(&self.source);
            let timeout = match step {
                Step::Wait(until) if !signing => until.map(|until| until.saturating_duration_since(Instant::now())),
                Step::Wait(_) | Step::Busy => Some(Duration::ZERO),
            };
            match desk.link.wait(timeout)? {
                Incoming::Frame(frame) => {
                    self.answers(&mut desk, &frame)?;
                    desk.link.recycle(frame);
                }
                Incoming::Woken | Incoming::TimedOut => {}
                Incoming::Closed => return Err(closed()),
            }
        }
    }

    /// Takes answers that have come, while there is something else to do: files wait for them, and so may the receiver, for their being taken.
    fn hear(&mut self, desk: &mut Desk) -> Result<()> {
        while desk.has_asked() {
            match desk.link.wait(Some(Duration::ZERO))? {
                Incoming::Frame(frame) => {
                    self.answers(desk, &frame)?;
                    desk.link.recycle(frame);
                }
                // What it was woken for is looked for next.
                Incoming::Woken | Incoming::TimedOut => break,
                Incoming::Closed => return Err(closed()),
            }
        }
        Ok(())
    }

    /// Takes what the receiver says.
    fn answers(&mut self, desk: &mut Desk, frame: &[u8]) -> Result<()> {
        for message in Messages::new(frame) {
            let message = message?;
            desk.checker.check(&message)?;
            match message {
                Message::Fatal { code, text } => return Err(fatal(code, text)),
                Message::Sealed { id, errno } => self.sealed(desk, id, errno),
                Message::Summed { id, sums } => {
                    if !desk.sums.answer(id, sums) {
                        return Err(Error::Protocol("digests that were not asked for".into()));
                    }
                    self.summed(desk);
                }
                Message::Looked(part) => {
                    let at = desk.looks.iter().position(|id| *id == part.id);
                    let at = at.ok_or_else(|| Error::Protocol("entries that were not asked for".into()))?;
                    if part.last {
                        desk.looks.swap_remove(at);
                    }
                    self.report(Report::Looked(part));
                }
                Message::Resumed { id, shape, digest } => {
                    // It may have been given up meanwhile.
                    if let Some(mut job) = desk.asking.remove(&id) {
                        job.check(shape, digest).map_err(|flaw| Error::Protocol(flaw.to_string()))?;
                        desk.resumed(job);
                    }
                }
                Message::Signed { id, last, shape, blocks } => {
                    let Desk { bases, payload, checker, .. } = desk;
                    let done =
                        bases.answer((id, last, shape, blocks), payload, checker).map_err(|flaw| Error::Protocol(flaw.to_string()))?;
                    desk.jobs.extend(done);
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// The receiver has made a file from its delta, or could not.
    fn sealed(&mut self, desk: &mut Desk, id: u64, errno: i32) {
        let Some((task, read, signature)) = desk.sealing.remove(&id) else { return };
        if errno == 0 {
            self.source.signatures.insert(task.ident, signature);
            self.staged(&task, read);
        } else {
            tracing::debug!(id, errno, "the mirror does not have what the delta is from: the file is sent whole");
            self.start(desk, &task, true);
        }
    }

    fn start(&mut self, desk: &mut Desk, task: &StageTask, whole: bool) {
        match Job::start(&self.source, task, whole) {
            Ok(job) if job.base.is_none() => desk.ask(job, self.source.preallocate),
            Ok(job) => desk.jobs.push_back(job),
            Err(read) => self.staged(task, read),
        }
    }

    /// Does one thing, but for large files; false if there is nothing to do.
    fn small(&mut self, desk: &mut Desk) -> Result<bool> {
        if let Some(question) = self.probes.pop() {
            let answer = probe::probe(&self.source, &question);
            self.report(Report::Probed(answer));
            return Ok(true);
        }
        let Some(task) = self.take_task() else { return Ok(false) };
        match task {
            Task::Files(batch) => {
                desk.enter(batch.cycle);
                let Desk { link, payload, .. } = desk;
                let done = files::pack(&self.source, &batch, payload, |payload| send(link, payload))?;
                self.report(Report::Files { cycle: batch.cycle, done });
            }
            Task::Ops { cycle: number, ops, attrs } => {
                desk.enter(number);
                for (index, op) in &ops {
                    desk.payload.attrs_of(op, &attrs);
                    desk.payload.file(*index, op);
                    desk.send_full()?;
                }
                self.report(Report::Ops { cycle: number, sent: ops.len() as u32 });
            }
            Task::Stage(task) => self.lanes.add(task),
            Task::DropStage(stage) => desk.payload.stage_drop(stage),
            Task::Sum(task) => desk.sums.add(task),
            Task::Look(LookTask { id, dir }) => {
                desk.payload.look(id, &dir);
                desk.checker.sent_look();
                desk.looks.push(id);
            }
        }
        desk.send_full()?;
        Ok(true)
    }

    /// One piece of the next large file, or the delta of it.
    fn piece(&mut self, desk: &mut Desk) -> Result<bool> {
        if self.probes.is_closed() {
            // The session ends, and what it staged goes with it.
            return Ok(false);
        }
        if let Some(task) = self.lanes.begin() {
            self.start(desk, &task, false);
            desk.send_full()?;
            return Ok(true);
        }
        let Some(mut job) = desk.jobs.pop_front() else { return Ok(false) };
        if let Some(base) = job.base.take() {
            self.delta(desk, &job, &base)?;
            return Ok(true);
        }
        if job.check.is_some() {
            // What was reported as sent is on its way first: cycles wait for it, and to compare may take long.
            desk.flush()?;
            match job.compare() {
                Checked::Going | Checked::Equal => desk.jobs.push_back(job),
                Checked::Other => {
                    desk.payload.stage_drop(job.task.stage);
                    desk.ask(job, self.source.preallocate);
                }
                Checked::Read(read) => self.read(desk, &job.task, read),
            }
            desk.send_full()?;
            return Ok(true);
        }
        let ended = job.step(&self.source, &mut desk.payload);
        match ended {
            None => desk.jobs.push_back(job),
            Some(read) => {
                self.read(desk, &job.task, read);
                if job.sign_later && matches!(read, Read::Sent { .. }) {
                    desk.unsigned = Some(Unsigned::new(job, &self.source));
                }
            }
        }
        desk.send_full()?;
        Ok(true)
    }

    /// A slice of what is to be compared.
    fn sum(&mut self, desk: &mut Desk) -> Result<Step> {
        if self.probes.is_closed() {
            return Ok(Step::Wait(None));
        }
        let Desk { link, payload, checker, sums, .. } = desk;
        let step = sums.step(&self.source, &mut Question { link, payload, checker })?;
        self.summed(desk);
        Ok(step)
    }

    fn summed(&mut self, desk: &mut Desk) {
        for done in desk.sums.take_done() {
            self.report(Report::Summed(done));
        }
    }

    fn delta(&mut self, desk: &mut Desk, job: &Job, base: &Signature) -> Result<()> {
        let mut between = Between { worker: self, desk, stage: job.task.stage };
        let made = job.delta(base, &mut between);
        match made {
            Ok(Some((read @ Read::Sent { .. }, Outcome { signature, work }))) => {
                tracing::debug!(matched = work.copied, literal = work.literal, "a delta");
                desk.payload.seal(job.task.stage, &signature.digest().0);
                desk.checker.sent_seal();
                desk.sealing.insert(job.task.stage, (job.task.clone(), read, Arc::new(signature)));
                desk.flush()
            }
            Ok(Some((read, _))) | Err(Halt::Read(read)) => {
                self.read(desk, &job.task, read);
                Ok(())
            }
            Ok(None) => {
                self.start(desk, &job.task, true);
                Ok(())
            }
            // The session ends, and what it staged goes with it.
            Err(Halt::Way(Ended::Session)) => Ok(()),
            Err(Halt::Way(Ended::Broken(e))) => Err(e),
        }
    }

    /// A large file has been read, or cannot be.
    fn read(&mut self, desk: &mut Desk, task: &StageTask, read: Read) {
        if !matches!(read, Read::Sent { .. }) {
            desk.payload.stage_drop(task.stage);
        }
        self.staged(task, read);
    }

    fn staged(&mut self, task: &StageTask, read: Read) {
        self.lanes.ended(task);
        self.report(Report::Staged(StageDone { stage: task.stage, node: task.node, worker: self.index, read }));
    }
}

/// What a worker has before it.
struct Desk {
    link: Link,
    payload: Payload,
    jobs: VecDeque<Job>,
    /// What was sent and is to be signed.
    unsigned: Option<Unsigned>,
    cycle: Option<u64>,
    checker: ContentClient,
    /// Deltas that the receiver has not answered.
    sealing: HashMap<u64, (StageTask, Read, Arc<Signature>)>,
    /// Files of which it is not known yet what the receiver has.
    asking: HashMap<u64, Job>,
    /// Files whose base's signature is asked for.
    bases: Bases,
    sums: Sums,
    /// Looks that the receiver has not answered to the end.
    looks: Vec<u64>,
}

/// Sends a question for digests.
struct Question<'a> {
    link: &'a mut Link,
    payload: &'a mut Payload,
    checker: &'a mut ContentClient,
}

impl Asking for Question<'_> {
    type Error = Error;

    fn ask(&mut self, id: u64, dir: &RelPath, parts: &[Part]) -> Result<()> {
        self.payload.sum(id, dir, parts);
        self.checker.sent_sum();
        // At once: the receiver reads while we do.
        flush(self.link, self.payload)
    }
}

impl Desk {
    /// Asks what the mirror has of the file already, where that may save something, before it is sent. Twice at the most: what it has may be something else.
    /// With `always` its length at least is told.
    fn ask(&mut self, mut job: Job, always: bool) {
        let key = job.key().filter(|_| !self.is_local());
        match key.or(always.then_some([0; 16])) {
            Some(key) if job.asked < 2 => {
                job.asked += 1;
                self.payload.resume(job.task.stage, &key, job.before.meta.size);
                self.checker.sent_resume();
                self.asking.insert(job.task.stage, job);
            }
            _ => self.resumed(job),
        }
    }

    /// It is known what an earlier session left of a file: if that is nothing, what the mirror has in its place may serve.
    fn resumed(&mut self, mut job: Job) {
        if job.check.is_some() || !base::is_worth(&job) || self.is_local() {
            job.sign_later = self.jobs.is_empty() && self.unsigned.is_none() && !self.is_local() && later::is_apt(&job);
            self.jobs.push_back(job);
            return;
        }
        if job.asked > 0 {
            // A delta is another staged file.
            self.payload.stage_drop(job.task.stage);
        }
        self.bases.add(job, &mut self.payload, &mut self.checker);
    }

    /// Whether answers are to come that somebody waits for.
    fn has_asked(&self) -> bool {
        !(self.sealing.is_empty() && self.asking.is_empty() && self.bases.is_empty() && self.looks.is_empty())
    }

    /// Whether the receiver is in this process: it is asked for nothing.
    fn is_local(&self) -> bool {
        matches!(self.link, Link::Local(_))
    }

    /// Signs on; false if there is nothing to sign.
    fn sign(&mut self, source: &Source) -> bool {
        let Some(unsigned) = &mut self.unsigned else { return false };
        if unsigned.step(source) {
            self.unsigned = None;
        }
        true
    }

    /// Names the cycle of the files that follow, where it is another than before.
    fn enter(&mut self, cycle: u64) {
        if self.cycle != Some(cycle) {
            self.payload.files_of(cycle);
            self.cycle = Some(cycle);
        }
    }

    fn send_full(&mut self) -> Result<()> {
        if self.payload.is_full() { send(&mut self.link, &mut self.payload) } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<()> {
        flush(&mut self.link, &mut self.payload)
    }
}

/// What a worker does between the pieces of a delta.
struct Between<'a> {
    worker: &'a mut Worker,
    desk: &'a mut Desk,
    stage: u64,
}

/// Why a delta is not finished.
enum Ended {
    Session,
    Broken(Error),
}

impl Way for Between<'_> {
    type Error = Ended;

    fn head(&mut self, base: &Spot, shapes: &[u8]) -> std::result::Result<(), Ended> {
        self.desk.payload.patch(self.stage, base, shapes);
        self.desk.send_full().map_err(Ended::Broken)
    }

    fn steps(&mut self, batch: &[u8]) -> std::result::Result<(), Ended> {
        self.desk.payload.steps(self.stage, batch);
        // At once: the receiver has to do with it.
        self.desk.flush().map_err(Ended::Broken)
    }

    fn between(&mut self) -> std::result::Result<(), Ended> {
        let mut busy = false;
        while self.worker.small(self.desk).map_err(Ended::Broken)? {
            busy = true;
        }
        if self.worker.probes.is_closed() {
            return Err(Ended::Session);
        }
        if busy {
            self.desk.flush().map_err(Ended::Broken)?;
        }
        self.worker.hear(self.desk).map_err(Ended::Broken)
    }
}
