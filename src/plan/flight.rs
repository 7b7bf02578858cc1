//! Cycles that were sent and are not acknowledged, and what to do about operations that failed. Part of the planner.

use std::collections::HashSet;
use std::sync::Arc;

use crate::model::cycle::{Cycle, NodeRef};
use crate::model::op::{Op, OpError, Section, Spot};
use crate::model::path::{NameBuf, RelPath};
use crate::plan::aftermath::Failures;
use crate::plan::planner::Planner;
use crate::plan::tree::{NONE, NodeId, ROOT, flag};
use crate::plan::undeleted::DELETE_REPLACED;

/// An operation that fails for lack of what should be there is tried once more soon: the cause may have been a file that vanished on its way.
const RETRY_SOON_NS: u64 = 10_000_000;

/// A cycle on its way, with the nodes that its operations are about.
#[derive(Debug)]
pub struct Flight {
    /// The operations.
    pub cycle: Arc<Cycle>,
    /// Directory of each PRE operation's new name, and of its old one (the same where there is one only).
    pub pre: Vec<(NodeRef, NodeRef)>,
    /// Node of each FILES operation, and its hard-link group at that time.
    pub files: Vec<(NodeRef, u32)>,
    /// Directory of each POST operation's (new) name.
    pub post: Vec<NodeRef>,
    /// Hard-link groups of objects that lost a name to a new object.
    pub replaced: Vec<u32>,
    /// What of it failed.
    pub failures: Failures,
    /// When the oldest change in it was noticed.
    pub oldest: Option<u64>,
}

impl Flight {
    /// The nodes that the cycle is about, and the directories of its ordered operations.
    pub(super) fn part(&self) -> impl Iterator<Item = NodeRef> + '_ {
        self.files.iter().map(|(node, _)| *node).chain(self.pre.iter().map(|(new, _)| *new)).chain(self.post.iter().copied())
    }

    /// The names that its ordered operations are about, each with its directory; of a directory's own metadata the directory, without a name.
    pub(super) fn names(&self) -> impl Iterator<Item = (NodeRef, &[u8])> + '_ {
        let name = |op| spot(op).map_or(&[][..], |spot: &Spot| spot.name.as_bytes());
        let pre = self.cycle.pre.iter().zip(&self.pre).map(move |(op, (dir, _))| (*dir, name(op)));
        pre.chain(self.cycle.post.iter().zip(&self.post).map(move |(op, dir)| (*dir, name(op))))
    }
}

impl Flight {
    /// How much the receiver has to do with it, in operations; deletions cost it next to nothing.
    pub fn weight(&self) -> usize {
        let deletions = self.cycle.post.iter().filter(|op| matches!(op, Op::Unlink { .. } | Op::Rmdir { .. })).count();
        self.pre.len() + self.files.len() + self.post.len() - deletions
    }
}

/// The name that an operation is about: the new one where there are two.
fn spot(op: &Op) -> Option<&Spot> {
    match op {
        Op::Move { to, .. } | Op::Link { to, .. } => Some(to),
        Op::Park { from, .. } => Some(from),
        Op::Mkdir { at, .. }
        | Op::Symlink { at, .. }
        | Op::Special { at, .. }
        | Op::SetMeta { at, .. }
        | Op::Place { at, .. }
        | Op::Unlink { at }
        | Op::Rmdir { at } => Some(at),
        Op::DirMeta { .. } => None,
    }
}

/// After so many manifests in a row that directories were gone for, all is listed.
const GONE_FILLS_MAX: u32 = 2;

/// Whether an error says that the mirror does not look as the tree says.
pub(super) fn is_structural(errno: i32) -> bool {
    matches!(
        errno,
        libc::ENOENT | libc::ENOTDIR | libc::EISDIR | libc::EEXIST | libc::ENOTEMPTY | libc::ELOOP | libc::EINVAL | libc::ESTALE
    )
}

impl Planner {
    /// An operation of a cycle failed. Reports come before the cycle's acknowledgement.
    ///
    /// # Errors
    /// A text if no such operation is on its way: the peer broke the protocol.
    pub fn failed(&mut self, cycle: u64, error: OpError, now: u64) -> Result<(), String> {
        self.judged = Some(cycle);
        let noted = self.note_failure(cycle, error, now);
        self.judged = None;
        noted
    }

    fn note_failure(&mut self, cycle: u64, error: OpError, now: u64) -> Result<(), String> {
        let Some(at) = self.flights.iter().position(|f| f.cycle.number == cycle) else {
            return Err(format!("an error was reported for cycle {cycle}, which is not on its way"));
        };
        let flight = &mut self.flights[at];
        if !flight.failures.ops.insert((error.section, error.index)) {
            return Err(format!("an error was reported twice for one operation of cycle {cycle}"));
        }
        let flight = &*flight;
        let shared = flight.cycle.clone();
        let index = error.index as usize;
        let unknown = || format!("an error was reported for operation {index} of cycle {cycle}, which has none");
        match error.section {
            Section::Pre => {
                let (parent, old_parent) = *flight.pre.get(index).ok_or_else(unknown)?;
                self.ordered_failed(&shared.pre[index], parent, error.errno, now);
                if let Some(old_parent) = self.tree.resolve(old_parent).filter(|_| old_parent != parent) {
                    self.relist(old_parent);
                }
            }
            Section::Post => {
                let parent = *flight.post.get(index).ok_or_else(unknown)?;
                if !self.deletion_failed(&shared, error.index, error.errno, now) {
                    self.ordered_failed(&shared.post[index], parent, error.errno, now);
                }
            }
            Section::Files => {
                let (node, group) = *flight.files.get(index).ok_or_else(unknown)?;
                if let Some(place) = shared.places.iter().find(|p| p.index == error.index) {
                    // It will be read anew.
                    self.drops.push((place.worker, place.stage));
                }
                if let Some(id) = self.tree.resolve(node) {
                    self.retry(id, "write", error.errno, now);
                }
                // The name may be another object's by now, or gone; the other names are not.
                let other = if group == 0 { None } else { self.tree.of_group(group).next() };
                if let Some(other) = other {
                    self.retry(other, "write", error.errno, now);
                }
            }
        }
        Ok(())
    }

    fn ordered_failed(&mut self, op: &Op, parent: NodeRef, errno: i32, now: u64) {
        let Some(parent) = self.tree.resolve(parent) else { return };
        let Some(spot) = spot(op) else {
            // The directory's own metadata: `parent` is the directory.
            self.trouble(parent, op.verb(), errno, now);
            self.tree.doubt_meta(parent);
            let at = self.retry_at(parent, now);
            self.dirty.mark_at(&mut self.tree, parent, flag::OWN, at);
            let is_gone = matches!(errno, libc::ENOENT | libc::ENOTDIR | libc::ELOOP);
            if is_gone && parent != ROOT && !self.tree.has(parent, flag::UNKNOWN) {
                // Somebody removed it, and a manifest of what is in it would not say so; nor that of what is above, if that is gone as well.
                self.relist(if self.fills_in_row >= GONE_FILLS_MAX { ROOT } else { self.tree.parent(parent) });
            }
            return;
        };
        match op {
            Op::Mkdir { .. } if !is_structural(errno) => {
                let Some(id) = self.tree.child(parent, spot.name.as_bytes()) else { return };
                // Nothing below it can be there: it is listed again once it is made.
                self.drop_below(id);
                self.retry(id, op.verb(), errno, now);
            }
            // It was on its way when the directory that it is in could not be made: that waits, and is listed when it is there.
            Op::Mkdir { .. } if errno == libc::ENOENT && self.tree.has(parent, flag::UNKNOWN) && self.is_troubled(parent) => {}
            Op::Move { .. } | Op::Park { .. } | Op::Mkdir { .. } => {
                if let Op::Move { to, .. } = op {
                    // What it was to replace is there still, and may be a hard link of what is known elsewhere, which a manifest of this directory does not tell.
                    // The directory may be elsewhere by now.
                    let now = self.tree.path(parent).and_then(|dir| dir.join(to.name.as_name()));
                    let then = to.dir.join(to.name.as_name());
                    self.distrust.extend_dirs([then, now].into_iter().flatten().map(|path| path.as_bytes().to_vec()));
                }
                self.trouble(parent, op.verb(), errno, now);
                self.relist(parent);
                // That may have been wanted before this was made there: nothing of it is known for certain either.
                let made = self.tree.child(parent, spot.name.as_bytes()).map(|id| self.tree.subtree_bottom_up(id));
                made.into_iter().flatten().for_each(|id| self.tree.set(id, flag::UNKNOWN));
            }
            // A mount point that is known to be one waits already; what could not be listed may be in it.
            Op::Rmdir { .. } if !is_structural(errno) && self.is_border(parent, spot) => {
                if let Some(id) =
                    self.tree.child(parent, spot.name.as_bytes()).filter(|id| self.unlisted.contains(&self.tree.reference(*id)))
                {
                    self.relist(id);
                }
            }
            Op::Rmdir { .. } if errno == libc::EBUSY => self.relist(parent),
            // What is to be deleted is not what it was thought to be.
            Op::Unlink { .. } | Op::Rmdir { .. } if is_structural(errno) => self.relist(parent),
            Op::Link { from, .. } if errno == libc::ENOENT && self.is_in_doubt(from) => {
                // What was to get another name is not there itself: that says nothing of the new name's directory.
                let id = self.tree.child_or_insert(parent, spot.name.as_name());
                let tries = self.trouble(id, op.verb(), errno, now);
                let at = if tries == 1 { self.retry_after(id, RETRY_SOON_NS, now) } else { self.retry_at(id, now) };
                self.fails_with_names(id, op.verb(), errno, (at, now));
            }
            Op::Link { .. } if errno == libc::EXDEV => {
                // Something was mounted in the mirror since it was listed.
                let id = self.tree.child_or_insert(parent, spot.name.as_name());
                self.trouble(id, op.verb(), errno, now);
                self.relist(ROOT);
            }
            _ => {
                let id = self.tree.child_or_insert(parent, spot.name.as_name());
                self.retry(id, if self.is_parked(id) { DELETE_REPLACED } else { op.verb() }, errno, now);
            }
        }
    }

    fn is_in_doubt(&self, at: &Spot) -> bool {
        let node = at.dir.join(at.name.as_name()).ok().and_then(|path| self.find(path.as_bytes()));
        node.is_none_or(|id| self.tree.has(id, flag::UNKNOWN))
    }

    /// The mirror's state at the node is not known any more: tried again, soon at first, then with back-off.
    fn retry(&mut self, id: NodeId, what: &'static str, errno: i32, now: u64) {
        let parent = self.tree.parent(id);
        if parent != NONE && self.tree.has(parent, flag::UNKNOWN) {
            return;
        }
        let tries = self.trouble(id, what, errno, now);
        let soon = tries == 1 && is_structural(errno);
        let at = if soon { self.retry_after(id, RETRY_SOON_NS, now) } else { self.retry_at(id, now) };
        self.fails_with_names(id, what, errno, (at, now));
        if is_structural(errno) && tries >= 2 && parent != NONE {
            self.relist(parent);
        }
    }

    /// All files of a cycle are reported: which operations of POST must not be done, by index. A name that was to be linked to a file that was not sent would get
    /// whatever the mirror has at that file's name. That neither is as the tree says was noted with the report.
    pub fn unfit(&mut self, cycle: &Cycle) -> Vec<u32> {
        let flight = self.flights.iter_mut().find(|f| f.cycle.number == cycle.number && !f.failures.unsent.is_empty());
        let Some(flight) = flight else { return Vec::new() };
        let unsent = &flight.failures.unsent;
        let files = cycle.batches.iter().flat_map(|batch| batch.files.iter().map(move |task| (&batch.dir, task)));
        let mut lost: HashSet<(&RelPath, &NameBuf)> =
            files.filter(|(_, task)| unsent.contains(&task.node)).map(|(dir, task)| (dir, &task.name)).collect();
        let mut unfit = Vec::new();
        for (index, op) in cycle.post.iter().enumerate() {
            if let Op::Link { from, to } = op
                && lost.contains(&(&from.dir, &from.name))
            {
                lost.insert((&to.dir, &to.name));
                unfit.push(index as u32);
            }
        }
        flight.failures.ops.extend(unfit.iter().map(|index| (Section::Post, *index)));
        unfit
    }

    /// A cycle and all before it are applied.
    ///
    /// # Errors
    /// A text if it is not the oldest on its way: the peer broke the protocol.
    pub fn acked(&mut self, cycle: u64) -> Result<(), String> {
        match self.flights.front() {
            Some(flight) if flight.cycle.number == cycle => {}
            _ => return Err(format!("cycle {cycle} was acknowledged out of turn")),
        }
        self.follow_failures();
        self.find_unmounted();
        let Some(flight) = self.flights.pop_front() else { return Ok(()) };
        if flight.failures.is_empty() {
            self.guard.parked.done(&flight.cycle);
        }
        if !self.troubles.is_empty() {
            self.clear_troubles(&flight);
        }
        Ok(())
    }
}
