//! One session: the planner's thread, from the connection to its end.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::config;
use crate::control::status::State;
use crate::error::{Error, Result};
use crate::limits::MANIFEST_MEMORY_SHARE;
use crate::model::cycle::{Cycle, FileDone, Read};
use crate::model::op::Op;
use crate::model::path::RelPath;
use crate::model::probe::{Ask, Probe};
use crate::plan::{Action, Planner};
use crate::sender::attend::Flushing;
use crate::sender::attrs;
use crate::sender::catch_up::CatchUp;
use crate::sender::control::Desk;
use crate::sender::crew::{self, Crew};
use crate::sender::eyes::{Eyes, Watched};
use crate::sender::feeder::{Feeder, files_done, is_small};
use crate::sender::memory::{self, Memory};
use crate::sender::outbox::Outbox;
use crate::sender::pulse::{Beat, Pulse};
use crate::sender::root::SourceRoot;
use crate::sender::scrub::{Hearer, Pump};
use crate::sender::{Outcome, Peer};
use crate::stats::Stats;
use crate::stop::Stop;
use crate::sys::memory::memory_bytes;
use crate::wire::session::{ControlClient, Welcomed, fatal};
use crate::wire::{Hello, Incoming, Link, Message, Messages, Payload, Token};
use crate::work::link::{closed, flush, greet};
use crate::work::rate::Rate;
use crate::work::worker::{Report, Task};
use crate::work::{Carried, Signatures, Source, probe};

/// So few names are looked at by the planner's thread itself.
const INLINE_NAMES_MAX: usize = 16;
/// The source's name is looked at so often, when there is anything to be done at all.
const SOURCE_LOOK_NS: u64 = 1_000_000_000;
/// So many frames of the receiver are taken in a row before events, reports and the end of the run are looked at.
const FRAMES_AT_ONCE: usize = 64;
/// So many reports of workers in a row.
const REPORTS_AT_ONCE: usize = 4096;
/// How long the control connection may take to say why another broke.
const CAUSE_PATIENCE: Duration = Duration::from_secs(1);

/// How a session ended, other than by an error.
pub(super) enum End {
    /// The run is over.
    Done(Outcome),
    /// The source's name does not name it any more.
    SourceLost,
    /// Other filter rules are to be used from now on.
    NewRules,
}

/// Why a session is to end.
enum Over {
    Done { interrupted: bool },
    SourceLost,
    NewRules,
}

/// See the module's comment.
pub(super) struct Session<'a> {
    pub(super) config: &'a config::Mirror,
    stop: &'a Stop,
    pub(super) stats: &'a Arc<Stats>,
    pub(super) root: &'a SourceRoot,
    pub(super) planner: Planner,
    pub(super) link: Link,
    pub(super) checker: ControlClient,
    pub(super) payload: Payload,
    pub(super) outbox: Outbox,
    pub(super) crew: Crew,
    /// Of the session, for the next one.
    pub(super) token: Token,
    source: Arc<Source>,
    pub(super) eyes: Option<Eyes>,
    pub(super) epoch: Instant,
    pub(super) source_lost: bool,
    /// When the source's name was looked at last.
    source_seen: u64,
    /// What is mounted is noted, and what of it is missing known to the planner.
    pub(super) mounts_noted: bool,
    pub(super) synced: bool,
    pub(super) catch_up: CatchUp,
    pub(super) desk: &'a Desk,
    pub(super) flushing: Flushing,
    pub(super) pump: Pump<'a>,
    /// Only with a timeout, and a receiver elsewhere.
    pulse: Option<Pulse>,
    /// Memory that a manifest may make the tree take.
    manifest_bytes_max: u64,
}

/// Makes the control connection and asks for a session.
pub(super) fn connect(
    config: &config::Mirror,
    (stop, desk): (&Stop, &Desk),
    peer: &Arc<Peer>,
    (module, path): (&str, &RelPath),
    (memory, stats): (&mut Option<Memory>, &Stats),
) -> Result<(Link, Welcomed)> {
    let mut link = match memory {
        Some(memory) => memory::connect(memory, peer, (stop, desk), stats)?,
        None => peer.connect()?,
    };
    desk.slot().wake_by(link.wake());
    let mut payload = Payload::over(link.buffer());
    let wanted = attrs::wanted(&config.options);
    let hello = Hello::control(module, path.clone(), config.threads as u16)?.carrying(wanted).with_writing(config.options.writing);
    let hello = match memory {
        Some(memory) => {
            memory.eyes.bell.wake_by(link.wake());
            memory.token().into_iter().fold(hello, Hello::continuing)
        }
        None => hello,
    };
    payload.hello(&if config.scrub.is_read_only() { hello.read_only() } else { hello });
    flush(&mut link, &mut payload)?;
    let mut welcome = greet(&mut link, peer.patience(), || {
        memory::listen(memory, stats);
        stop.is_stopped()
    })?;
    attrs::tell(wanted, welcome.abilities);
    welcome.abilities.attrs = welcome.abilities.attrs.and(wanted);
    match memory {
        Some(memory) if welcome.continued && memory.fits(welcome.abilities) => memory.token = welcome.token,
        Some(memory) => {
            tracing::info!("the mirror may be another than it was: its manifest is asked for");
            memory.planner.disconnected();
        }
        None => {}
    }
    Ok((link, welcome))
}

impl<'a> Session<'a> {
    /// Starts workers over a new connection, and goes on with what is in memory; without that, starts a watcher and asks for the manifest.
    pub(super) fn start(
        config: &'a config::Mirror,
        (stop, desk): (&'a Stop, &'a Desk),
        stats: &'a Arc<Stats>,
        peer: &Arc<Peer>,
        ((mut link, welcome), memory): ((Link, Welcomed), &mut Option<Memory>),
        root: &'a SourceRoot,
        hearer: Hearer<'a>,
    ) -> Result<Self> {
        let payload = Payload::over(link.buffer());
        let wake = link.wake();
        desk.slot().wake_by(wake.clone());
        let is_new = memory.is_none() && !config.once;
        let eyes = if is_new { Some(Eyes::open(config, &wake, stats, peer.is_local())?) } else { None };
        let coverer = eyes.as_ref().or(memory.as_ref().map(|memory| &memory.eyes)).map(|eyes| eyes.watch.coverer());
        let rate = Rate::new(config.scrub.bytes_per_sec);
        let pump = Pump::new(&config.scrub, hearer, config.threads, rate.part_bytes());
        let source = Arc::new(Source {
            root: root.dir()?,
            cover: Box::new(Watched(coverer)),
            signatures: Signatures::new(!config.once),
            carried: Carried::new(welcome.abilities.attrs),
            rate,
            sparse: config.options.sparse,
            small_deltas: !config.once && !matches!(link, Link::Local(_)),
            preallocate: config.options.writing.preallocate,
        });
        let over = || {
            memory::listen(memory, stats);
            stop.is_stopped()
        };
        let crew = Crew::start(config.threads, &source, peer, welcome.token, (&wake, over))?;
        tracing::debug!("connected: {}, {} workers", link.describe(), crew.len());
        let seed = std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), 0);
        memory::settle_mounts(memory, welcome.abilities, stats);
        desk.compare_mounts(root.mounts());
        let (waiting, hold) = desk.arrive();
        let (planner, eyes, epoch) = match memory.take() {
            Some(Memory { planner, eyes, epoch, .. }) => (planner, Some(eyes), epoch),
            None => (Planner::new(config.options.clone(), Arc::clone(&config.filter), seed), eyes, Instant::now()),
        };
        let mut session = Self {
            config,
            stop,
            stats,
            root,
            planner,
            token: welcome.token,
            link,
            checker: ControlClient::new(),
            payload,
            outbox: Outbox::default(),
            crew,
            source,
            eyes,
            epoch,
            source_lost: false,
            source_seen: 0,
            mounts_noted: false,
            synced: false,
            catch_up: CatchUp::default(),
            desk,
            flushing: Flushing::of(waiting),
            pump,
            pulse: config.timeout.filter(|_| !peer.is_local()).map(|limit| Pulse::new(limit, stats.wire_bytes.get(), Instant::now())),
            manifest_bytes_max: memory_bytes() / MANIFEST_MEMORY_SHARE,
        };
        if session.planner.resume(welcome.abilities) {
            stats.resumed.add(1);
            tracing::info!(dirty = session.planner.dirty(), "the mirror is as it was left: it is gone on with");
            return Ok(session);
        }
        let (now, mut actions) = (session.now(), Vec::new());
        session.planner.connected(welcome.abilities, now, &mut actions);
        if let Some(hold) = hold {
            session.planner.resume_hold(hold, now);
        }
        if config.scrub.verify {
            session.planner.verify(config.scrub.repair);
        }
        session.act(actions)?;
        Ok(session)
    }

    pub(super) fn now(&self) -> u64 {
        self.epoch.elapsed().as_nanos() as u64
    }

    /// Runs until the mirror is equal (once), the run is asked to end, or the connection breaks; then `memory` gets what the next session may go on with.
    pub(super) fn run(mut self, memory: &mut Option<Memory>) -> Result<End> {
        match self.follow() {
            Ok(Over::SourceLost) => {
                self.desk.set_lost(true);
                self.part(State::Held, &format!("{}; it goes on when it is back, or when another one is approved", self.root.lost()));
                // What it does not have when it is back may still be missing with it.
                self.desk.hold_missing();
                Ok(End::SourceLost)
            }
            Ok(Over::NewRules) => {
                self.part(State::Syncing, "the filter rules are others now");
                let (outcome, kept) = self.finish(false);
                *memory = kept;
                outcome.map(|_| End::NewRules)
            }
            Ok(Over::Done { interrupted }) => {
                self.part(State::Stopping, "");
                self.finish(interrupted).0.map(End::Done)
            }
            Err(e) => {
                self.part(State::Reconnecting, &e.to_string());
                *memory = self.keep(&e);
                Err(e)
            }
        }
    }

    fn follow(&mut self) -> Result<Over> {
        loop {
            self.take_events();
            self.take_reports()?;
            if self.desk.is_asked() {
                self.attend();
                if self.desk.has_filter() {
                    return Ok(Over::NewRules);
                }
            }
            if self.now() - self.source_seen >= SOURCE_LOOK_NS {
                self.look_for_source();
            }
            if self.source_lost {
                return Ok(Over::SourceLost);
            }
            if self.stop.is_stopped() {
                return Ok(Over::Done { interrupted: true });
            }
            let mut actions = Vec::new();
            self.planner.next(self.now(), &mut actions);
            self.stats.dirty.set(self.planner.dirty() as u64);
            let busy = !actions.is_empty();
            self.act(actions)?;
            self.send()?;
            self.report_troubles();
            self.tell_guard();
            let busy = (self.flushing.is_on() && self.flush_on()) || busy;
            let idle = !busy && self.planner.is_idle() && self.outbox.is_empty();
            if idle {
                self.settle_mounts();
                self.at_rest()?;
                if !self.planner.is_idle() {
                    continue;
                }
                if self.config.once && self.pump.verified() != Some(false) {
                    return Ok(Over::Done { interrupted: false });
                }
            }
            if !idle {
                self.keep_up()?;
            }
            self.scrub(idle);
            if idle && self.pump.verified() == Some(true) {
                continue;
            }
            let timeout = if busy { Some(Duration::ZERO) } else { self.time_left() };
            self.wait(timeout)?;
            self.feel_pulse()?;
        }
    }

    fn time_left(&self) -> Option<Duration> {
        let next = self.planner.next_at().into_iter().chain(self.pump.at()).min();
        let next = next.map(|at| Duration::from_nanos(at.saturating_sub(self.now())));
        let pulse = self.pulse.as_ref().map(|pulse| pulse.due().saturating_duration_since(Instant::now()));
        next.into_iter().chain(pulse).min()
    }

    /// Asks the receiver whether it lives, when it is time.
    ///
    /// # Errors
    /// `Timeout`: it does not.
    fn feel_pulse(&mut self) -> Result<()> {
        let Some(pulse) = &mut self.pulse else { return Ok(()) };
        match pulse.beat(self.stats.wire_bytes.get(), Instant::now()) {
            Beat::None => Ok(()),
            Beat::Ask => {
                self.payload.ping();
                self.checker.sent_ping();
                flush(&mut self.link, &mut self.payload)
            }
            Beat::Dead => {
                // What came while this thread was busy, or stopped, counts; a wake-up may hide it once.
                self.wait(Some(Duration::ZERO))?;
                self.wait(Some(Duration::ZERO))?;
                match &self.pulse {
                    Some(pulse) if pulse.due() <= Instant::now() => Err(Error::Timeout(pulse.limit().as_secs())),
                    _ => Ok(()),
                }
            }
        }
    }

    fn take_events(&mut self) {
        let now = self.now();
        if let Some(eyes) = &mut self.eyes {
            for batch in eyes.batches.by_ref() {
                batch.for_each(|event| self.planner.event(event, now));
                if let Some(cookies) = self.flushing.cookies() {
                    cookies.look(&batch);
                }
            }
            eyes.tell_overflows(self.stats.overflows.get());
        }
        self.note_mounts(now);
    }

    pub(super) fn take_reports(&mut self) -> Result<()> {
        for _ in 0..REPORTS_AT_ONCE {
            let Some(report) = self.crew.report() else { return Ok(()) };
            let now = self.now();
            match report {
                Report::Probed(answer) => {
                    self.probed(&answer.outcome);
                    let mut actions = Vec::new();
                    self.planner.probed(answer, now, &mut actions);
                    self.act(actions)?;
                }
                Report::Files { cycle, done } => {
                    let sent = self.files_done(&done);
                    self.outbox.reported(cycle, sent);
                }
                Report::Ops { cycle, sent } => {
                    self.stats.files_sent.add(u64::from(sent));
                    self.outbox.reported(cycle, sent);
                }
                Report::Staged(done) => {
                    if let Read::Sent { meta, .. } = done.read {
                        self.stats.bytes_sent.add(meta.size);
                    }
                    self.planner.stage_done(&done, now);
                }
                Report::Summed(done) => {
                    self.pump.answered();
                    self.planner.summed(&done, now);
                }
                Report::Looked(part) => {
                    if part.last {
                        self.pump.answered();
                    }
                    self.planner.looked(part, now);
                    self.check_memory()?;
                }
                Report::Dialled(_) | Report::Ready => {}
                Report::Ended(why) => return Err(self.cause(why.unwrap_or_else(crew::unexpected_end))),
            }
        }
        // There may be more.
        self.link.wake().wake();
        Ok(())
    }

    /// What a receiver tells has to stay within its share of memory.
    fn check_memory(&self) -> Result<()> {
        if self.planner.manifest_fits(self.manifest_bytes_max) {
            Ok(())
        } else {
            Err(Error::Protocol("what the receiver says that the mirror holds is too large for the memory of this host".into()))
        }
    }

    /// Why the session ended, when a worker's connection broke: the receiver says on the control connection what it was, if it was not that.
    fn cause(&mut self, of_worker: Error) -> Error {
        let deadline = Instant::now() + CAUSE_PATIENCE;
        while let Some(left) = deadline.checked_duration_since(Instant::now()) {
            match self.wait(Some(left)) {
                Ok(()) => {}
                Err(of_control) if of_control.is_retryable() => break,
                Err(of_control) => return of_control,
            }
        }
        of_worker
    }

    fn probed(&self, outcome: &std::result::Result<crate::model::probe::DirSeen, crate::model::probe::ProbeError>) {
        if let Ok(seen) = outcome {
            self.stats.probed.add(1 + seen.names.len() as u64);
        }
    }

    /// Tells the planner what became of files, and says how many were sent.
    fn files_done(&mut self, done: &[FileDone]) -> u32 {
        let now = self.now();
        files_done(&mut self.planner, self.stats, done, now)
    }

    /// Does what the planner wants, and what it wants in turn.
    fn act(&mut self, actions: Vec<Action>) -> Result<()> {
        let mut queue = VecDeque::from(actions);
        let names = |action: &Action| match action {
            Action::Probe(Probe { ask: Ask::Names(names), .. }) => 1 + names.len(),
            _ => 0,
        };
        let mut few = queue.iter().map(names).sum::<usize>() <= INLINE_NAMES_MAX;
        while let Some(action) = queue.pop_front() {
            match action {
                Action::Probe(question) if few && matches!(question.ask, Ask::Names(_)) => {
                    let answer = probe::probe(&self.source, &question);
                    self.probed(&answer.outcome);
                    let mut more = Vec::new();
                    self.planner.probed(answer, self.now(), &mut more);
                    few = more.iter().map(names).sum::<usize>() <= INLINE_NAMES_MAX;
                    queue.extend(more);
                }
                Action::Probe(question) => self.crew.ask(question),
                Action::Cycle(cycle) => self.cycle(cycle),
                Action::Stage(task) => {
                    self.stats.files_found.add(1);
                    self.stats.bytes_found.add(task.size);
                    self.crew.give(Task::Stage(task));
                }
                Action::DropStage { worker, stage } => self.crew.give_to(worker, Task::DropStage(stage)),
                Action::List(dir) => self.outbox.list(dir),
                Action::Forget(key) => {
                    if let Some(eyes) = &self.eyes {
                        eyes.watch.coverer().forget(&key);
                    }
                }
            }
        }
        Ok(())
    }

    fn cycle(&mut self, cycle: Arc<Cycle>) {
        let deletes = |op: &&Op| matches!(op, Op::Unlink { .. } | Op::Rmdir { .. });
        let deleted = cycle.post.iter().filter(deletes).count();
        if deleted > 0 && !self.root.is_there() {
            self.source_lost = true;
            return;
        }
        self.stats.deleted.add(deleted as u64);
        self.stats.ops_sent.add((cycle.pre.len() + cycle.metas.len() + cycle.post.len()) as u64);
        let mut outstanding = 0;
        for batch in &cycle.batches {
            self.stats.files_found.add(batch.files.len() as u64);
            self.stats.bytes_found.add(batch.files.iter().map(|f| f.stat.meta.size).sum());
        }
        if !is_small(&cycle) {
            for batch in &cycle.batches {
                self.crew.give(Task::Files(batch.clone()));
            }
            outstanding += cycle.batches.len();
        }
        for worker in 0..self.crew.len() {
            let ops: Vec<_> = cycle
                .places
                .iter()
                .filter(|p| p.worker == worker)
                .map(|p| (p.index, Op::Place { at: p.at.clone(), meta: p.meta, stage: p.stage }))
                .collect();
            if !ops.is_empty() {
                outstanding += 1;
                self.crew.give_to(worker, Task::Ops { cycle: cycle.number, ops, attrs: cycle.attrs.clone() });
            }
        }
        self.outbox.cycle(cycle, outstanding);
    }

    /// Sends what can be sent now.
    pub(super) fn send(&mut self) -> Result<()> {
        if self.outbox.is_empty() {
            return Ok(());
        }
        let mut feeder = Feeder { source: &self.source, planner: &mut self.planner, stats: self.stats, epoch: self.epoch };
        self.outbox.send(&mut self.link, &mut self.payload, &mut self.checker, &mut feeder)?;
        self.link.flush()
    }

    /// Waits for something to happen, and takes what the receiver says.
    pub(super) fn wait(&mut self, timeout: Option<Duration>) -> Result<()> {
        let mut timeout = timeout;
        for _ in 0..FRAMES_AT_ONCE {
            match self.link.wait(timeout)? {
                Incoming::Frame(frame) => {
                    let taken = self.take_frame(&frame);
                    self.link.recycle(frame);
                    taken?;
                    timeout = Some(Duration::ZERO);
                }
                Incoming::Woken | Incoming::TimedOut => return Ok(()),
                Incoming::Closed => return Err(closed()),
            }
        }
        Ok(())
    }

    fn take_frame(&mut self, frame: &[u8]) -> Result<()> {
        if let Some(pulse) = &mut self.pulse {
            pulse.heard(Instant::now());
        }
        for message in Messages::new(frame) {
            let message = message?;
            let oldest = self.checker.oldest();
            self.checker.check(&message)?;
            let now = self.now();
            match message {
                Message::Listing { dir, meta } => self.planner.listing(&dir, &meta),
                Message::Entry(entry) => self.planner.entry(&entry),
                Message::ListError { dir, errno } => self.planner.list_error(&dir, errno, now),
                Message::ListEnd => self.planner.list_end(),
                Message::Failed(error) => {
                    self.stats.failures.add(1);
                    self.planner.failed(oldest.unwrap_or(0), error, now).map_err(Error::Protocol)?;
                }
                Message::Ack { cycle } => {
                    self.stats.cycles.add(1);
                    self.planner.acked(cycle).map_err(Error::Protocol)?;
                }
                Message::Fatal { code, text } => return Err(fatal(code, text)),
                _ => {}
            }
        }
        self.check_memory()
    }

    /// Looks whether the source's name still names it.
    pub(super) fn look_for_source(&mut self) {
        self.source_seen = self.now();
        self.source_lost |= self.root.is_replaced();
    }
}
