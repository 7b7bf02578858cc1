//! The two kinds of connections: what each does with a message that is in order.
//!
//! Never applies anything that the wire's checker did not pass. Each runs in its own thread, with its own target.

use crate::apply::{Answer, Errno, Found, FsTarget, Key, Listed, Target};
use crate::error::{Error, Result};
use crate::limits::{BORDERS_MAX, DURABLE_FAILURES_MAX, DURABLE_FILES_MAX, FILES_STALL_MAX};
use crate::model::meta::{Extent, Meta};
use crate::model::op::{Op, OpError, Section, Spot};
use crate::model::path::RelPath;
use crate::receiver::durable::{Applied, not_durable};
use crate::receiver::session::{Say, Session, Stop};
use crate::wire::session::{ContentServer, ControlServer};
use crate::wire::{Incoming, Link, Message, Messages, Payload};
use std::sync::Arc;
use std::time::Duration;

/// Said to a client that would change a read-only module.
const READ_ONLY: &str = "module is read only";
/// A slice of a delta or of a question is done after so many frames at the latest, so that a sender that is never short of content does not keep it waiting. About as much work.
const FRAMES_BETWEEN_SLICES: usize = 16;

/// What both kinds of connections hold.
pub(super) struct Conn<'a> {
    pub(super) link: &'a mut Link,
    pub(super) session: &'a Session,
    target: FsTarget,
    out: Payload,
    /// Frames taken since the last slice of something else.
    frames: usize,
    /// Files applied since they were last counted, and those of them that failed.
    files: usize,
    failures: Vec<OpError>,
    /// Those of them that wait for their names, in the target's order.
    nameless: Vec<u32>,
    /// Whether acknowledgements are this connection's.
    is_control: bool,
    /// The cycle that `files` belong to is known to be open until they are counted.
    entered: bool,
}

impl<'a> Conn<'a> {
    pub(super) fn new(link: &'a mut Link, session: &'a Session, out: Payload) -> Self {
        let target = FsTarget::new(Arc::clone(&session.root));
        Self {
            link,
            session,
            target,
            out,
            frames: 0,
            files: 0,
            failures: Vec::new(),
            nameless: Vec::new(),
            is_control: false,
            entered: false,
        }
    }

    /// Sends what has gathered.
    fn send(&mut self) -> Result<()> {
        send(self.link, &mut self.out)
    }

    /// The next payload; `None` at the end of the stream.
    fn next(&mut self) -> std::result::Result<Option<Vec<u8>>, Stop> {
        self.send()?;
        loop {
            // With something else to do, this is a look.
            let has_work = self.target.has_work() || self.target.has_questions();
            if has_work && self.frames >= FRAMES_BETWEEN_SLICES {
                self.slice()?;
            }
            match self.link.wait(has_work.then_some(Duration::ZERO))? {
                Incoming::Frame(payload) => {
                    self.frames += 1;
                    return Ok(Some(payload));
                }
                Incoming::Woken => {
                    self.session.check_alive()?;
                    self.acks()?;
                    self.send()?;
                }
                Incoming::TimedOut => self.slice()?,
                Incoming::Closed => return Ok(None),
            }
        }
    }

    /// Does a slice of what is not done at once: a delta, a look at what an earlier session left, a question.
    fn slice(&mut self) -> Result<()> {
        self.frames = 0;
        if !self.target.has_work() {
            self.answer()?;
        } else if let Some((id, ended)) = self.target.work() {
            self.sealed(id, ended.err());
            self.send()?;
        }
        if let Some((id, found)) = self.target.found() {
            self.out.resumed(id, &found.shape, &found.digest);
            self.send()?;
        }
        Ok(())
    }

    /// Does a slice of a question, and sends what is answered by that.
    fn answer(&mut self) -> Result<()> {
        let Self { link, target, out, .. } = self;
        let mut sent = Ok(());
        target.answer(&mut |answer| {
            match answer {
                Answer::Summed { id, sums } => out.summed(id, &sums),
                Answer::Signed { id, last, shape, blocks } => out.signed(id, last, &shape, &blocks),
                Answer::Looked(part) => out.looked(part.id, part.last, &part.dir, &part.entries),
            }
            if sent.is_ok() {
                sent = send(link, out);
            }
        });
        sent.and_then(|()| self.link.flush())
    }

    fn sealed(&mut self, id: u64, failed: Option<Errno>) {
        if let Some(errno) = failed {
            tracing::debug!(id, errno, "a delta could not be applied");
        }
        self.out.sealed(id, failed.unwrap_or(0));
    }

    fn note(&mut self, section: Section, index: u32, done: std::result::Result<(), Errno>) {
        if let Err(errno) = done {
            tracing::debug!(?section, index, errno, "an operation failed");
            self.failures.push(OpError { section, index, errno });
        }
    }

    /// A file is applied, but perhaps for its name.
    fn applied(&mut self, index: u32, done: std::result::Result<(), Errno>) {
        self.files += 1;
        self.note(Section::Files, index, done);
        let waiting = self.target.waiting();
        if waiting > self.nameless.len() {
            self.nameless.push(index);
            if waiting >= DURABLE_FILES_MAX {
                self.settle();
            }
        }
    }

    /// Gives names to the files that wait for them.
    fn settle(&mut self) {
        if self.nameless.is_empty() {
            return;
        }
        let indices = std::mem::take(&mut self.nameless);
        for (index, done) in indices.into_iter().zip(self.target.settle()) {
            self.note(Section::Files, index, done);
        }
    }

    /// Acknowledges cycles that have become durable.
    fn acks(&mut self) -> Result<()> {
        let Some(syncer) = self.session.syncer.as_ref().filter(|_| self.is_control) else { return Ok(()) };
        for mut applied in syncer.take_done() {
            self.ack(applied.cycle, &mut applied.failures)?;
        }
        Ok(())
    }

    fn ack(&mut self, cycle: u64, failures: &mut Vec<OpError>) -> Result<()> {
        for failure in failures.drain(..) {
            self.out.failed(&failure);
            if self.out.is_full() {
                self.send()?;
            }
        }
        self.out.ack(cycle);
        Ok(())
    }

    /// Acknowledges a cycle, at once or when it is durable.
    fn applied_all(&mut self, cycle: u64, failures: &mut Vec<OpError>) -> std::result::Result<(), Stop> {
        let Some(syncer) = &self.session.syncer else { return Ok(self.ack(cycle, failures)?) };
        let many = failures.len() > DURABLE_FAILURES_MAX;
        syncer.push(Applied { cycle, failures: std::mem::take(failures), touched: self.session.root.take_touched() })?;
        while many && syncer.is_behind() {
            self.send()?;
            self.link.flush()?;
            self.session.wait_acks()?;
            self.acks()?;
        }
        Ok(())
    }

    fn file(&mut self, index: u32, op: &Op) {
        let done = self.target.op(op);
        self.applied(index, done);
    }

    fn put(&mut self, index: u32, at: &Spot, meta: &Meta, data: &[u8], new: bool) {
        let done = if new { self.target.put_new(at, meta, data) } else { self.target.put(at, meta, data) };
        self.applied(index, done);
    }

    fn put_sparse(&mut self, index: u32, at: &Spot, meta: &Meta, extents: &[Extent], data: &[u8]) {
        let done = self.target.put_sparse(at, meta, extents, data);
        self.applied(index, done);
    }

    fn put_patch(&mut self, index: u32, at: &Spot, meta: &Meta, digest: &[u8; 32], delta: &[u8]) {
        let done = self.target.put_patch(at, meta, digest, delta);
        self.applied(index, done);
    }

    /// A piece of a staged file. Why it failed is said by the operation that would put the file into place.
    fn stage(&mut self, id: u64, offset: u64, data: &[u8]) -> Result<()> {
        if let Err(errno) = self.target.stage(id, offset, data) {
            tracing::debug!(id, offset, errno, "a piece of a file could not be staged");
        }
        Ok(())
    }

    /// What is there of a large file is read when there is nothing else to do; if that is nothing it is said at once.
    fn resume(&mut self, id: u64, key: &Key, size: u64) {
        if !self.target.resume(id, key, size) {
            let Found { shape, digest } = Found::nothing();
            self.out.resumed(id, &shape, &digest);
        }
    }

    /// A hole in place of a piece.
    fn hole(&mut self, id: u64, offset: u64, len: u64) -> Result<()> {
        if let Err(errno) = self.target.stage_hole(id, offset, len) {
            tracing::debug!(id, offset, errno, "a hole of a file could not be staged");
        }
        Ok(())
    }

    /// Whatever may change the mirror, or what another session has in staging, is refused where nothing may be changed.
    fn refuse_read_only(&self, message: &Message<'_>) -> Result<()> {
        if !self.session.root.is_read_only() {
            return Ok(());
        }
        match message {
            Message::List { .. } | Message::Sum { .. } | Message::Look { .. } | Message::Sign { .. } | Message::Ping | Message::Bye => {
                Ok(())
            }
            _ => Err(Error::Usage(READ_ONLY.into())),
        }
    }

    /// Says what was applied. Held directories are let go first: POST may follow at once.
    fn count(&mut self) -> std::result::Result<(), Stop> {
        self.settle();
        self.target.end_frame();
        self.entered = false;
        self.session.count(std::mem::take(&mut self.files), &mut self.failures)
    }

    /// Serves a control connection; `first` is what came in one payload with the Hello.
    pub(super) fn control(mut self, first: Messages<'_>) -> std::result::Result<(), Stop> {
        self.is_control = true;
        let mut control = Control { rules: ControlServer::new(), section: Section::Pre, index: 0, failures: Vec::new() };
        self.control_frame(&mut control, first)?;
        while let Some(payload) = self.next()? {
            self.control_frame(&mut control, Messages::new(&payload))?;
            self.link.recycle(payload);
        }
        if control.rules.has_ended() { Ok(()) } else { Err(lost()) }
    }

    fn control_frame(&mut self, control: &mut Control, messages: Messages<'_>) -> std::result::Result<(), Stop> {
        self.session.check_alive()?;
        for message in messages {
            let message = message?;
            control.rules.check(&message)?;
            self.refuse_read_only(&message)?;
            if !matches!(message, Message::Ping | Message::Bye) {
                self.session.is_asked();
            }
            self.control_message(control, message)?;
            if self.out.is_full() {
                self.send()?;
            }
        }
        // Only FILES count; operations of PRE and POST are noted in `control`.
        self.count()
    }

    fn control_message(&mut self, control: &mut Control, message: Message<'_>) -> std::result::Result<(), Stop> {
        let cycle = control.rules.cycle().unwrap_or_default();
        match message {
            Message::List { dir } => self.list(&dir)?,
            Message::Begin { .. } => {
                control.index = 0;
                control.section = Section::Pre;
            }
            Message::Op(op) => {
                if let Err(errno) = self.ordered(&op, control.section) {
                    tracing::debug!(what = op.verb(), errno, "an operation failed");
                    control.failures.push(OpError { section: control.section, index: control.index, errno });
                }
                control.index += 1;
            }
            Message::Skip => control.index += 1,
            Message::Open => {
                self.target.end_frame();
                self.session.open(cycle);
            }
            Message::File { index, op } => self.file(index, &op),
            Message::Put { index, at, meta, data, new } => self.put(index, &at, &meta, data, new),
            Message::PutSparse { index, at, meta, extents, data } => self.put_sparse(index, &at, &meta, &extents, data),
            Message::PutPatch { index, at, meta, digest, delta } => self.put_patch(index, &at, &meta, &digest, delta),
            Message::Close { files } => {
                self.count()?;
                // What is due must not wait for files that the client may hold back until it has come.
                self.send()?;
                self.link.flush()?;
                let session = self.session;
                session.close(files as usize, &mut control.failures, FILES_STALL_MAX, |what| {
                    match what {
                        Say::Acks => self.acks()?,
                        Say::Alive => self.out.pong(),
                    }
                    self.send()?;
                    Ok(self.link.flush()?)
                })?;
                control.index = 0;
                control.section = Section::Post;
            }
            Message::Commit => {
                self.target.end_cycle();
                self.session.check_place()?;
                self.applied_all(cycle, &mut control.failures)?;
            }
            Message::Attrs(attrs) => self.target.attrs(&attrs),
            Message::Stage { id, offset, data } => self.stage(id, offset, data)?,
            Message::Hole { id, offset, len } => self.hole(id, offset, len)?,
            Message::StageDrop { id } => self.target.drop_stage(id),
            Message::Ping => self.out.pong(),
            Message::Bye => self.session.end(None),
            // The checker passes nothing else.
            _ => return Err(crate::wire::WireError::Order("not allowed on a control connection").into()),
        }
        Ok(())
    }

    fn ordered(&mut self, op: &Op, section: Section) -> std::result::Result<(), i32> {
        match (self.target.op(op), op) {
            // The old name is to be taken by another file: readers of it miss it for a moment.
            (Err(libc::EPERM | libc::EMLINK | libc::EOPNOTSUPP | libc::ENOSYS), Op::Link { from, to }) if section == Section::Pre => {
                self.target.op(&Op::Move { from: from.clone(), to: to.clone() })
            }
            (done, _) => done,
        }
    }

    fn list(&mut self, dir: &RelPath) -> std::result::Result<(), Stop> {
        let (link, out) = (&mut *self.link, &mut self.out);
        let mut sent = Ok(());
        // What is told is taken for granted from here on: the filesystems that it is on, if it has to be durable.
        let durable = self.session.syncer.is_some();
        let (mut tops, mut present) = (Vec::from_iter(durable.then(|| dir.clone())), RelPath::root());
        let listed = self.target.list(dir, &mut |listed| {
            // With the connection gone there is nothing left to do but to come to the end.
            if sent.is_err() {
                return;
            }
            match listed {
                Listed::Dir { dir, meta } => {
                    out.listing(&dir, &meta);
                    present = dir;
                }
                Listed::Entry(entry) => {
                    if durable && entry.is_border() && tops.len() < BORDERS_MAX {
                        tops.extend(present.join(entry.name.as_name()));
                    }
                    out.entry(&entry);
                }
                Listed::Failed { dir, errno } => out.list_error(&dir, errno),
            }
            if out.is_full() {
                sent = send(link, out);
            }
        });
        sent?;
        if durable && let Err(e) = self.target.sync_seen(&tops) {
            self.session.end_in_doubt(not_durable(&e));
            return self.session.check_alive();
        }
        if let Err(errno) = listed {
            self.out.list_error(dir, errno);
        }
        self.out.list_end();
        Ok(())
    }

    /// Serves a content connection; `first` is what came in one payload with the Hello.
    pub(super) fn content(mut self, first: Messages<'_>) -> std::result::Result<(), Stop> {
        let mut rules = ContentServer::new();
        self.content_frame(&mut rules, first)?;
        while let Some(payload) = self.next()? {
            self.content_frame(&mut rules, Messages::new(&payload))?;
            self.link.recycle(payload);
        }
        if rules.has_ended() { Ok(()) } else { Err(lost()) }
    }

    fn content_frame(&mut self, rules: &mut ContentServer, messages: Messages<'_>) -> std::result::Result<(), Stop> {
        for message in messages {
            let message = message?;
            rules.check(&message)?;
            self.refuse_read_only(&message)?;
            match message {
                Message::FilesOf { .. } => self.count()?,
                Message::File { index, op } => {
                    self.enter(rules)?;
                    self.file(index, &op);
                }
                Message::Put { index, at, meta, data, new } => {
                    self.enter(rules)?;
                    self.put(index, &at, &meta, data, new);
                }
                Message::PutSparse { index, at, meta, extents, data } => {
                    self.enter(rules)?;
                    self.put_sparse(index, &at, &meta, &extents, data);
                }
                Message::PutPatch { index, at, meta, digest, delta } => {
                    self.enter(rules)?;
                    self.put_patch(index, &at, &meta, &digest, delta);
                }
                Message::Attrs(attrs) => self.target.attrs(&attrs),
                Message::Stage { id, offset, data } => self.stage(id, offset, data)?,
                Message::Hole { id, offset, len } => self.hole(id, offset, len)?,
                Message::StageDrop { id } => self.target.drop_stage(id),
                Message::Patch { id, base, shapes } => self.target.patch(id, &base, shapes),
                Message::Steps { id, data } => self.target.steps(id, data),
                Message::Seal { id, digest } => {
                    if let Some(errno) = self.target.seal(id, digest) {
                        self.sealed(id, Some(errno));
                    }
                }
                Message::Sum { id, dir, parts } => asked(self.target.sum(id, dir, parts))?,
                Message::Look { id, dir } => asked(self.target.look(id, dir))?,
                Message::Sign { id, base } => asked(self.target.sign(id, base))?,
                Message::Resume { id, key, size } => self.resume(id, &key, size),
                Message::Ping => self.out.pong(),
                // `Bye` was noted by the checker.
                _ => {}
            }
        }
        self.count()
    }

    fn enter(&mut self, rules: &ContentServer) -> std::result::Result<(), Stop> {
        if !self.entered {
            // The checker passes no file without a cycle.
            self.session.wait_open(rules.cycle().unwrap_or_default())?;
            self.entered = true;
        }
        Ok(())
    }
}

/// What is only a control connection's. Invariant: `index` operations of `section` were executed in this cycle.
struct Control {
    rules: ControlServer,
    section: Section,
    index: u32,
    failures: Vec<OpError>,
}

fn send(link: &mut Link, out: &mut Payload) -> Result<()> {
    if out.is_empty() {
        return Ok(());
    }
    let payload = out.replace(link.buffer());
    link.send(payload)
}

fn asked(taken: bool) -> std::result::Result<(), crate::wire::WireError> {
    if taken { Ok(()) } else { Err(crate::wire::WireError::Order("too many questions without an answer")) }
}

fn lost() -> Stop {
    let source = std::io::ErrorKind::UnexpectedEof.into();
    Stop::Failed(Error::socket("a connection of the session was closed", source))
}
