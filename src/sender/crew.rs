//! The workers as the sender sees them: who has how much to do, and what cannot be handed over yet.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::error::{Error, Result};
use crate::model::probe::Probe;
use crate::ring::{Consumer, Producer, ring};
use crate::sender::Peer;
use crate::sys::wake::Wake;
use crate::wire::{Hello, Token};
use crate::work::worker::{Report, Task, Worker};
use crate::work::{Lanes, Source};

/// Questions or tasks that wait in a worker's ring; what is more waits with the sender.
const RING_SLOTS: usize = 256;
/// How long all workers together may take to connect.
const READY_TIMEOUT: Duration = Duration::from_secs(30);

struct Hand {
    probes: Option<Producer<Probe>>,
    tasks: Option<Producer<Task>>,
    waiting_probes: VecDeque<Probe>,
    waiting_tasks: VecDeque<Task>,
    reports: Consumer<Report>,
    wake: Option<Wake>,
    is_ready: bool,
    thread: Option<JoinHandle<()>>,
    /// What it has to do, in files and questions, a large file for many.
    load: u64,
    /// The same, a large file for one.
    items: u64,
    /// What it has to compare when there is nothing else to do.
    checks: usize,
}

/// All workers of a session. Dropping it ends them, at once if they are still to connect.
pub(super) struct Crew {
    hands: Vec<Hand>,
    /// The connection is lost: nobody waits for the receiver to close.
    abandoned: Arc<AtomicBool>,
}

impl Crew {
    /// Starts `count` workers and waits until each is connected, unless, after a wake-up of `sender`, `over` says that it is of no use any more.
    ///
    /// # Errors
    /// One of them cannot connect.
    pub(super) fn start(
        count: usize,
        source: &Arc<Source>,
        peer: &Arc<Peer>,
        token: Token,
        (sender, over): (&Wake, impl FnMut() -> bool),
    ) -> Result<Self> {
        let mut crew = Self { hands: Vec::new(), abandoned: Arc::default() };
        for index in 0..count {
            let (probes, their_probes) = ring(RING_SLOTS);
            let (tasks, their_tasks) = ring(RING_SLOTS);
            let (their_reports, reports) = ring(RING_SLOTS);
            let worker = Worker {
                index,
                source: Arc::clone(source),
                probes: their_probes,
                tasks: their_tasks,
                reports: their_reports,
                sender: sender.clone(),
                untold: 0,
                taken: 0,
                lanes: Lanes::of_one_in(count),
                abandoned: Arc::clone(&crew.abandoned),
            };
            let peer = Arc::clone(peer);
            let thread = std::thread::Builder::new()
                .name(format!("work-{index}"))
                .spawn(move || worker.run(|| peer.connect(), Hello::content(token, index as u16), peer.patience()))
                .map_err(|e| Error::socket("start a worker", e))?;
            crew.hands.push(Hand {
                probes: Some(probes),
                tasks: Some(tasks),
                waiting_probes: VecDeque::new(),
                waiting_tasks: VecDeque::new(),
                reports,
                wake: None,
                is_ready: false,
                thread: Some(thread),
                load: 0,
                items: 0,
                checks: 0,
            });
        }
        crew.wait_until_ready(sender, over)?;
        Ok(crew)
    }

    fn wait_until_ready(&mut self, sender: &Wake, mut over: impl FnMut() -> bool) -> Result<()> {
        let deadline = Instant::now() + READY_TIMEOUT;
        loop {
            for hand in &mut self.hands {
                while let Some(report) = hand.reports.pop() {
                    match report {
                        Report::Dialled(wake) => hand.wake = Some(wake),
                        Report::Ready => hand.is_ready = true,
                        Report::Ended(why) => return Err(why.unwrap_or_else(unexpected_end)),
                        _ => {}
                    }
                }
            }
            if self.hands.iter().all(|h| h.is_ready) {
                return Ok(());
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if over() {
                return Err(unexpected_end());
            }
            if left.is_zero() {
                return Err(Error::Timeout(READY_TIMEOUT.as_secs()));
            }
            sender.wait(Some(left));
        }
    }

    /// Ends them as fast as they can: the receiver does not answer.
    pub(super) fn abandon(self) {
        self.abandoned.store(true, Ordering::Release);
    }

    /// Number of workers.
    pub(super) fn len(&self) -> usize {
        self.hands.len()
    }

    /// What all together have to do, in files and questions.
    pub(super) fn items(&self) -> u64 {
        self.hands.iter().map(|hand| hand.items).sum()
    }

    fn idlest(&self) -> usize {
        (0..self.hands.len()).min_by_key(|at| self.hands[*at].load).unwrap_or(0)
    }

    /// Gives a question to whoever has least to do.
    pub(super) fn ask(&mut self, probe: Probe) {
        let at = self.idlest();
        let hand = &mut self.hands[at];
        hand.load += 1;
        hand.items += 1;
        hand.waiting_probes.push_back(probe);
        hand.push();
    }

    /// Gives a task to whoever has least to do.
    pub(super) fn give(&mut self, task: Task) {
        let at = self.idlest();
        self.give_to(at, task);
    }

    /// Gives a task to one worker.
    pub(super) fn give_to(&mut self, at: usize, task: Task) {
        let Some(hand) = self.hands.get_mut(at) else { return };
        let (load, items) = weight(&task);
        hand.load += load;
        hand.items += items;
        hand.waiting_tasks.push_back(task);
        hand.push();
    }

    /// Gives something to be compared to whoever has least of that.
    pub(super) fn check(&mut self, task: Task) {
        let least = (0..self.hands.len()).min_by_key(|at| (self.hands[*at].checks, self.hands[*at].load)).unwrap_or(0);
        if let Some(hand) = self.hands.get_mut(least) {
            hand.checks += 1;
        }
        self.give_to(least, task);
    }

    /// Hands over what could not be before, and takes the next report.
    pub(super) fn report(&mut self) -> Option<Report> {
        for hand in &mut self.hands {
            if let Some(report) = hand.reports.pop() {
                let (load, items) = match &report {
                    Report::Files { done, .. } => (done.len() as u64, done.len() as u64),
                    Report::Probed(_) | Report::Ops { .. } => (1, 1),
                    Report::Staged(_) => (STAGE_LOAD, 1),
                    Report::Dialled(_) | Report::Ready | Report::Ended(_) | Report::Summed(_) | Report::Looked(_) => (0, 0),
                };
                hand.load = hand.load.saturating_sub(load);
                hand.items = hand.items.saturating_sub(items);
                let answered = matches!(&report, Report::Summed(_)) || matches!(&report, Report::Looked(part) if part.last);
                hand.checks -= usize::from(answered && hand.checks > 0);
                hand.push();
                return Some(report);
            }
            // It may have made room without a report.
            hand.push();
        }
        None
    }
}

/// A large file counts as so many small ones.
const STAGE_LOAD: u64 = 64;

/// What a task is for who has it, with a large file as many, and as one.
fn weight(task: &Task) -> (u64, u64) {
    match task {
        Task::Files(batch) => (batch.files.len() as u64, batch.files.len() as u64),
        Task::Ops { .. } => (1, 1),
        Task::Stage(_) => (STAGE_LOAD, 1),
        Task::DropStage(_) | Task::Sum(_) | Task::Look(_) => (0, 0),
    }
}

/// The error of a worker that ended without one.
pub(super) fn unexpected_end() -> Error {
    Error::socket("a worker ended", std::io::ErrorKind::ConnectionAborted.into())
}

impl Hand {
    fn push(&mut self) {
        let mut news = move_over(&mut self.waiting_probes, self.probes.as_mut());
        news |= move_over(&mut self.waiting_tasks, self.tasks.as_mut());
        if news && let Some(wake) = &self.wake {
            wake.wake();
        }
    }
}

/// Moves what fits from a queue into a ring; whether anything was moved.
fn move_over<T>(from: &mut VecDeque<T>, to: Option<&mut Producer<T>>) -> bool {
    let Some(to) = to else { return false };
    let before = from.len();
    while let Some(value) = from.pop_front() {
        if let Err(back) = to.push(value) {
            from.push_front(back);
            break;
        }
    }
    from.len() != before
}

impl Drop for Crew {
    fn drop(&mut self) {
        for hand in &mut self.hands {
            hand.probes = None;
            hand.tasks = None;
            if let Some(wake) = &hand.wake {
                wake.wake();
            }
        }
        for hand in &mut self.hands {
            // A worker that waits for room in its report ring must find it.
            while hand.thread.as_ref().is_some_and(|t| !t.is_finished()) && hand.reports.pop().is_some() {}
            if let Some(thread) = hand.thread.take() {
                drop(std::mem::replace(&mut hand.reports, ring(1).1));
                // A panic of the thread has been printed where it happened.
                let _ = thread.join();
            }
        }
    }
}
