//! What workers report on files, and what follows. Part of the planner.

use crate::model::cycle::{FileDone, Racy, Read, StageDone};
use crate::model::meta::Time;
use crate::plan::planner::Planner;
use crate::plan::staged::Staged;
use crate::plan::tree::{NodeId, flag};
use crate::plan::unread::STALE_NS;

/// A file that changed while it was read is read again after so long, doubled with each try.
const CHANGED_NS: u64 = 5_000_000;
/// So many reads that were spoilt by a change make the next one count, changed or not: a file that never rests is still mirrored, and stays dirty.
const CHANGED_TRIES_MAX: u32 = 6;

/// A file that changed while it was read.
#[derive(Debug, Default)]
pub(super) struct Restless {
    /// How often.
    tries: u32,
    /// When the last sending of it began that counted whatever happened; of large ones only.
    began: u64,
    /// It is not sent again before.
    rests_until: u64,
}

impl Planner {
    /// The report on a file of a cycle.
    pub fn file_done(&mut self, done: &FileDone, now: u64) {
        self.busy = self.busy.saturating_sub(1);
        let gone = self.tree.resolve(done.node).is_none();
        // What is known of the content is lost with its node: names that were linked to it cannot be told.
        let untold = gone && !matches!(done.read, Read::Sent { racy: Racy::No, changed: false, .. });
        if (untold || !matches!(done.read, Read::Sent { .. }))
            && let Some(flight) = self.flights.iter_mut().find(|f| f.cycle.number == done.cycle)
        {
            flight.failures.unsent.insert(done.node);
        }
        let Some(id) = self.tree.resolve(done.node) else { return };
        self.tree.clear(id, flag::BUSY);
        let again_at = match done.read {
            Read::Sent { meta, ctime, racy, changed } => {
                self.tree.update_meta(id, &meta);
                self.debt_sent(id);
                self.sent(id, ctime, racy, changed, now);
                None
            }
            Read::Gone => Some(now + STALE_NS),
            Read::Changed => Some(self.changed_at(id, now)),
            Read::Failed(errno) => {
                self.trouble(id, "read", errno, now);
                let at = self.retry_at(id, now);
                self.fails_with_names(id, "read", errno, (at, now));
                None
            }
        };
        if let Some(at) = again_at {
            self.not_sent(id, at);
            self.dirty.mark_at(&mut self.tree, id, flag::LOOK, at);
        }
        if self.tree.has(id, flag::DIRTY) && !self.tree.has(id, flag::DELAYED) {
            self.dirty.mark(&mut self.tree, id, 0);
        }
    }

    /// What the mirror holds at the node is as before, and the tree has the new: whatever comes next is sent whole, and so are names that were
    /// linked to it on that assumption, at the time when it is tried again. Returns those.
    pub(super) fn not_sent(&mut self, id: NodeId, at: u64) -> Vec<NodeId> {
        let group = self.tree.group(id);
        self.tree.set_group(id, 0);
        self.tree.doubt(id);
        let others: Vec<NodeId> = if group == 0 { Vec::new() } else { self.tree.of_group(group).collect() };
        for other in &others {
            self.tree.set_group(*other, 0);
            self.tree.doubt(*other);
            self.dirty.mark_at(&mut self.tree, *other, flag::LOOK, at);
            self.owe(*other);
        }
        others
    }

    /// The node is in trouble until it is tried again at `at`, and so are the names that were linked to it: nobody waits for them either.
    pub(super) fn fails_with_names(&mut self, id: NodeId, what: &'static str, errno: i32, (at, now): (u64, u64)) {
        for other in self.not_sent(id, at) {
            self.share_trouble(other, id, (what, errno), now);
            self.tried_at(other, at);
        }
        self.dirty.mark_at(&mut self.tree, id, flag::LOOK, at);
    }

    pub(super) fn sent(&mut self, id: NodeId, ctime: Time, racy: Racy, changed: bool, now: u64) {
        if self.tree.knows_ctime(id) {
            // It was not closed, by a writer, while it was with the worker.
            self.tree.set_ctime(id, ctime);
        }
        self.tree.clear(id, flag::RACY | flag::REUSE);
        match racy {
            Racy::No => {}
            Racy::Reuse => self.tree.set(id, flag::REUSE),
            Racy::Yes => self.tree.set(id, flag::RACY),
        }
        // Names that were linked to it while it was on its way hold the same, and as doubtful.
        for other in self.tree.of_group(self.tree.group(id)).filter(|other| *other != id).collect::<Vec<_>>() {
            let closed = !self.tree.knows_ctime(other);
            self.tree.copy_doubts(other, id);
            if closed {
                self.tree.forget_ctime(other);
            }
        }
        if self.tree.has_borders() {
            self.look_at_copies(id, ctime);
        }
        if changed {
            let at = self.changed_at(id, now);
            self.dirty.mark_at(&mut self.tree, id, flag::LOOK, at);
        } else {
            self.restless.remove(&self.tree.reference(id));
        }
    }

    /// When a file that changed while it was read is read again.
    fn changed_at(&mut self, id: NodeId, now: u64) -> u64 {
        let tries = &mut self.restless.entry(self.tree.reference(id)).or_default().tries;
        *tries += 1;
        now + (CHANGED_NS << (*tries).min(8))
    }

    /// Whether the node's content changed so often under the reader's eyes that the next read counts.
    pub(super) fn insist(&self, id: NodeId) -> bool {
        self.restless.get(&self.tree.reference(id)).is_some_and(|restless| restless.tries >= CHANGED_TRIES_MAX)
    }

    /// When a large file that never rests may be sent again, if that is later than now; otherwise it is sent now.
    pub(super) fn rests_until(&mut self, id: NodeId, now: u64) -> Option<u64> {
        let restless = self.restless.get_mut(&self.tree.reference(id))?;
        if restless.rests_until > now {
            return Some(restless.rests_until);
        }
        restless.began = now;
        None
    }

    /// The report on a large file.
    pub fn stage_done(&mut self, done: &StageDone, now: u64) {
        self.busy = self.busy.saturating_sub(1);
        let ident = self.staged.of_stage(done.stage);
        let staged = ident.and_then(|ident| self.staged.get(&ident));
        let waiting: Vec<NodeId> = staged.into_iter().flat_map(Staged::waiting).filter_map(|n| self.tree.resolve(*n)).collect();
        match done.read {
            Read::Sent { .. } if !waiting.is_empty() => self.staged.completed(done),
            read => {
                if let Read::Sent { .. } = read {
                    // All names that waited for it are gone: no cycle follows that would drop it.
                    self.drops.push((done.worker, done.stage));
                }
                if let Some(ident) = ident {
                    self.staged.remove(&ident);
                }
            }
        }
        for id in waiting {
            if let Read::Sent { changed: true, .. } = done.read
                && let Some(restless) = self.restless.get_mut(&self.tree.reference(id))
            {
                restless.rests_until = now.saturating_add(now.saturating_sub(restless.began));
            }
            match done.read {
                Read::Sent { .. } => self.dirty.mark(&mut self.tree, id, flag::LOOK),
                Read::Gone => self.dirty.mark_at(&mut self.tree, id, flag::LOOK, now + STALE_NS),
                Read::Changed => {
                    let at = self.changed_at(id, now);
                    self.dirty.mark_at(&mut self.tree, id, flag::LOOK, at);
                }
                Read::Failed(errno) => {
                    self.trouble(id, "read", errno, now);
                    let at = self.retry_at(id, now);
                    self.dirty.mark_at(&mut self.tree, id, flag::LOOK, at);
                }
            }
        }
    }
}
