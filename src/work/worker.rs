//! A worker's loop: questions first, then files, then pieces of large files, all into its own content connection.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use crate::error::{Error, Result};
use crate::model::cycle::{FileBatch, FileDone, Read, StageDone, StageTask};
use crate::model::op::Op;
use crate::model::probe::{Probe, Probed};
use crate::ring::{Consumer, Producer};
use crate::sys::wake::Wake;
use crate::wire::session::{ContentClient, fatal, welcomed};
use crate::wire::{Hello, Incoming, Link, Message, Messages, Payload};
use crate::work::stage::Job;
use crate::work::{Source, files, probe};

/// How long a closing connection is waited for.
const LINGER: Duration = Duration::from_secs(5);

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
    },
    /// Read and send a large file.
    Stage(StageTask),
    /// Tell the receiver to drop a staged file.
    DropStage(u64),
}

/// What a worker did.
#[derive(Debug)]
pub enum Report {
    /// It is connected; this wakes it.
    Ready(Wake),
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
}

impl Worker {
    /// Runs until the rings close or the connection breaks.
    pub fn run(mut self, connect: impl FnOnce() -> Result<Link>, hello: Hello) {
        let result = connect().and_then(|link| self.serve(link, &hello));
        self.report(Report::Ended(result.err()));
    }

    fn report(&mut self, mut report: Report) {
        while let Err(back) = self.reports.push(report) {
            if self.reports.is_closed() {
                return;
            }
            // The sender drains this ring in every turn: it is behind for a moment only.
            report = back;
            self.sender.wake();
            std::thread::yield_now();
        }
        self.sender.wake();
    }

    fn serve(&mut self, mut link: Link, hello: &Hello) -> Result<()> {
        let mut payload = Payload::over(link.buffer());
        payload.hello(hello);
        flush(&mut link, &mut payload)?;
        greet(&mut link)?;
        self.report(Report::Ready(link.wake()));
        let mut checker = ContentClient::new();
        let mut jobs: VecDeque<Job> = VecDeque::new();
        let mut cycle = None;
        loop {
            if self.turn(&mut link, &mut payload, &mut jobs, &mut cycle)? {
                continue;
            }
            flush(&mut link, &mut payload)?;
            if self.probes.is_closed() && self.tasks.is_empty() {
                payload.bye();
                flush(&mut link, &mut payload)?;
                return link.close(LINGER);
            }
            match link.wait(None)? {
                Incoming::Frame(frame) => {
                    check(&mut checker, &frame)?;
                    link.recycle(frame);
                }
                Incoming::Woken | Incoming::TimedOut => {}
                Incoming::Closed => return Err(closed()),
            }
        }
    }

    /// Does one thing; false if there is nothing to do.
    fn turn(&mut self, link: &mut Link, payload: &mut Payload, jobs: &mut VecDeque<Job>, cycle: &mut Option<u64>) -> Result<bool> {
        if let Some(question) = self.probes.pop() {
            let answer = probe::probe(&self.source, &question);
            self.report(Report::Probed(answer));
            return Ok(true);
        }
        match self.tasks.pop() {
            Some(Task::Files(batch)) => {
                enter(payload, cycle, batch.cycle);
                let done = files::pack(&self.source, &batch, payload, |payload| send(link, payload))?;
                self.report(Report::Files { cycle: batch.cycle, done });
            }
            Some(Task::Ops { cycle: number, ops }) => {
                enter(payload, cycle, number);
                for (index, op) in &ops {
                    payload.file(*index, op);
                    if payload.is_full() {
                        send(link, payload)?;
                    }
                }
                self.report(Report::Ops { cycle: number, sent: ops.len() as u32 });
            }
            Some(Task::Stage(task)) => match Job::start(&self.source, &task) {
                Ok(job) => jobs.push_back(job),
                Err(read) => self.staged(&task, read),
            },
            Some(Task::DropStage(stage)) => payload.stage_drop(stage),
            None => return self.piece(link, payload, jobs),
        }
        if payload.is_full() {
            send(link, payload)?;
        }
        Ok(true)
    }

    /// One piece of the next large file.
    fn piece(&mut self, link: &mut Link, payload: &mut Payload, jobs: &mut VecDeque<Job>) -> Result<bool> {
        if self.probes.is_closed() {
            // The session ends, and what it staged goes with it.
            return Ok(false);
        }
        let Some(mut job) = jobs.pop_front() else { return Ok(false) };
        let ended = job.step(payload);
        match ended {
            None => jobs.push_back(job),
            Some(read) => {
                if !matches!(read, Read::Sent { .. }) {
                    payload.stage_drop(job.task.stage);
                }
                self.staged(&job.task, read);
            }
        }
        if payload.is_full() {
            send(link, payload)?;
        }
        Ok(true)
    }

    fn staged(&mut self, task: &StageTask, read: Read) {
        self.report(Report::Staged(StageDone { stage: task.stage, node: task.node, worker: self.index, read }));
    }
}

/// Names the cycle of the files that follow, where it is another than before.
fn enter(payload: &mut Payload, last: &mut Option<u64>, cycle: u64) {
    if *last != Some(cycle) {
        payload.files_of(cycle);
        *last = Some(cycle);
    }
}

/// Sends what is in the payload, if anything.
///
/// # Errors
/// Of the link.
pub fn send(link: &mut Link, payload: &mut Payload) -> Result<()> {
    if payload.is_empty() {
        return Ok(());
    }
    let buffer = link.buffer();
    link.send(payload.replace(buffer))
}

/// Sends what is in the payload and all that the link has queued.
///
/// # Errors
/// Of the link.
pub fn flush(link: &mut Link, payload: &mut Payload) -> Result<()> {
    send(link, payload)?;
    link.flush()
}

/// Waits for the server's first message.
///
/// # Errors
/// Refused, or not our protocol, or the link's.
pub fn greet(link: &mut Link) -> Result<crate::wire::session::Welcomed> {
    loop {
        match link.wait(None)? {
            Incoming::Frame(frame) => {
                let first = Messages::new(&frame).next().ok_or_else(|| Error::Protocol("an empty first frame".into()))??;
                let welcome = welcomed(&first)?;
                drop(first);
                link.recycle(frame);
                return Ok(welcome);
            }
            Incoming::Woken | Incoming::TimedOut => {}
            Incoming::Closed => return Err(closed()),
        }
    }
}

fn check(checker: &mut ContentClient, frame: &[u8]) -> Result<()> {
    for message in Messages::new(frame) {
        let message = message?;
        checker.check(&message)?;
        if let Message::Fatal { code, text } = message {
            return Err(fatal(code, text));
        }
    }
    Ok(())
}

/// The receiver has closed the connection.
pub fn closed() -> Error {
    Error::socket("the receiver closed the connection", std::io::ErrorKind::ConnectionReset.into())
}
