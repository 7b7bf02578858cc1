//! The guard over deletions: those that are doubtful are held, everything else goes on. Part of the planner.
//!
//! Held are all deletions of a round that leaves nothing in a root that had more than one entry below it, unless as much was deleted shortly before (that is
//! somebody at work, entry by entry), and all from the moment on when more are wanted than `max_delete` allows. What is held stays in the tree and in the mirror; nothing below it is looked at. It is let go by [`Planner::approve`], or when the
//! cause ends: the root has an entry again; so much of what was to go is back that the limit is kept.
//!
//! Invariant: a node is in `held` only while `cause` is some; no node in it is below another.

use std::collections::{HashMap, HashSet, VecDeque};

use crate::limits::{DELETE_BURST_NS, EMPTIED_ENTRIES_MIN};
use crate::model::cycle::NodeRef;
use crate::model::meta::Kind;
use crate::model::options::MaxDelete;
use crate::model::path::RelPath;
use crate::model::probe::Seen;
use crate::plan::planner::Planner;
use crate::plan::reconcile::{Base, Want};
use crate::plan::round::Round;
use crate::plan::tree::{NONE, NodeId, ROOT, flag};

/// Why deletions are held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HoldCause {
    /// The source's root had entries and has none now.
    Emptied,
    /// More entries are to be deleted than `max_delete` allows.
    MaxDelete,
}

/// What outlives a session: that deletions are held, and how many went before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hold {
    /// Why.
    pub cause: HoldCause,
    /// Entries that were deleted in the burst before it was held.
    passed: u64,
}

/// Held deletions, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// Why.
    pub cause: HoldCause,
    /// When it began, on the caller's clock.
    pub since: u64,
    /// Entries that are not deleted.
    pub count: u64,
    /// Some of them; of a directory only itself.
    pub paths: Vec<RelPath>,
}

/// What changed with the guard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GuardNews {
    /// From now on deletions are held; so many entries so far.
    Held(HoldCause, u64),
    /// The cause is over: they are looked at again.
    Released(HoldCause),
}

#[derive(Debug, Default)]
pub(super) struct Guard {
    cause: Option<HoldCause>,
    since: u64,
    /// Nodes that are held, and how many entries each stands for.
    held: HashMap<NodeRef, u64>,
    /// Nodes that were approved and may go.
    allowed: HashSet<NodeRef>,
    /// Deletions of the burst: when and how many (at least).
    passed: VecDeque<(u64, u64)>,
    /// Entries of the mirror when the burst began.
    base: u64,
    /// The first look is over: bursts are counted by time.
    settled: bool,
    news: Vec<GuardNews>,
}

/// What of a round would be deleted.
struct Doomed {
    /// Slots, the node that would go, its entries.
    tops: Vec<(usize, NodeId, u64)>,
    /// Slots whose deletion is part of another's.
    inner: Vec<usize>,
}

impl Planner {
    /// Lets all deletions go that are held now, and begins to count anew; returns how many entries that are.
    pub fn approve(&mut self) -> u64 {
        let count = self.guard.count();
        let held: Vec<NodeRef> = self.guard.held.drain().map(|(node, _)| node).collect();
        for node in held {
            if let Some(id) = self.tree.resolve(node) {
                self.guard.allowed.insert(node);
                self.dirty.mark(&mut self.tree, id, flag::LOOK);
            }
        }
        self.guard.cause = None;
        self.guard.passed.clear();
        self.guard.base = self.tree.len() as u64 - 1;
        count
    }

    /// What is held, with at most `max` paths.
    pub fn deletions_held(&self, max: usize) -> Option<Held> {
        let cause = self.guard.cause?;
        let mut paths: Vec<RelPath> =
            self.guard.held.keys().filter_map(|node| self.tree.path(self.tree.resolve(*node)?).ok()).take(max).collect();
        paths.sort_unstable();
        Some(Held { cause, since: self.guard.since, count: self.guard.count(), paths })
    }

    /// Whether the node's deletion is held.
    pub(super) fn is_held(&self, node: NodeRef) -> bool {
        self.guard.held.contains_key(&node)
    }

    /// What of it a next session has to know.
    pub fn hold(&self) -> Option<Hold> {
        self.guard.cause.map(|cause| Hold { cause, passed: self.guard.passed() })
    }

    /// Deletions were held when the last session ended: they are until the cause is seen to be over.
    pub fn resume_hold(&mut self, hold: Hold, now: u64) {
        self.guard.cause = Some(hold.cause);
        self.guard.since = now;
        self.guard.passed = [(now, hold.passed)].into();
    }

    /// What changed since the last call.
    pub fn take_guard_news(&mut self) -> Vec<GuardNews> {
        std::mem::take(&mut self.guard.news)
    }

    /// The manifest of a session's start is complete: so much the mirror holds.
    pub(super) fn guard_filled(&mut self) {
        if !self.guard.settled && self.guard.passed.is_empty() {
            self.guard.base = self.tree.len() as u64 - 1;
        }
    }

    /// Everything has been looked at and is acknowledged.
    pub(super) fn guard_rests(&mut self) {
        self.guard.settled = true;
        self.guard.allowed.clear();
        let Some(cause) = self.guard.cause else { return };
        let Self { guard, tree, .. } = self;
        guard.held.retain(|node, _| tree.resolve(*node).is_some());
        let ended = match cause {
            HoldCause::Emptied => guard.held.is_empty(),
            HoldCause::MaxDelete => guard.held.is_empty() || !self.is_beyond(self.guard.count()),
        };
        if ended {
            self.release();
        }
    }

    /// Whether a dirty node is not to be looked at: what is below a held name. The name itself is, but not as the directory that it was.
    pub(super) fn is_left_alone(&mut self, id: NodeId) -> bool {
        if self.guard.held.is_empty() {
            return false;
        }
        if self.guard.held.contains_key(&self.tree.reference(id)) {
            self.tree.clear(id, flag::OWN | flag::SCAN | flag::DEEP);
            return !self.tree.has(id, flag::LOOK);
        }
        let mut at = self.tree.parent(id);
        while at != NONE {
            if self.guard.held.contains_key(&self.tree.reference(at)) {
                self.tree.clear(id, flag::DIRTY | flag::DEEP);
                return true;
            }
            at = self.tree.parent(at);
        }
        false
    }

    /// Judges the deletions of a round that has been reconciled: those that are held are taken out of `wants`.
    pub(super) fn guard_round(&mut self, round: &Round, wants: &mut [Want], now: u64) {
        if self.guard.cause.is_some() {
            self.look_for_its_end(round, wants);
        }
        if !self.options.delete || self.is_dry() {
            return;
        }
        let gone = round.slots.iter().zip(wants.iter()).filter(|(_, want)| **want == Want::Gone);
        let (mut names, mut of_root) = (0, false);
        for (slot, _) in gone {
            names += 1;
            of_root |= slot.parent.id == ROOT;
        }
        if self.options.max_delete.is_none() && self.guard.cause.is_none() && !of_root {
            self.guard.pass(names, self.tree.len() as u64 - 1, now);
            return;
        }
        let doomed = self.doomed(round, wants);
        let allowed = |id: NodeId| self.guard.allowed.contains(&self.tree.reference(id));
        let tops: Vec<(usize, NodeId, u64)> = doomed.tops.into_iter().filter(|(_, id, _)| !allowed(*id)).collect();
        let count: u64 = tops.iter().map(|(.., entries)| entries).sum();
        if count == 0 {
            return;
        }
        let entries = self.tree.len() as u64 - 1;
        self.guard.slide(now, entries);
        let cause = if self.guard.cause.is_some() {
            self.guard.cause
        } else if !self.options.allow_empty && count >= EMPTIED_ENTRIES_MIN && count > self.guard.passed() && self.is_emptied(round) {
            Some(HoldCause::Emptied)
        } else {
            self.is_beyond(count).then_some(HoldCause::MaxDelete)
        };
        match cause {
            None => self.guard.pass(count, entries, now),
            Some(cause) => self.hold_back(cause, &tops, &doomed.inner, wants, now),
        }
    }

    fn hold_back(&mut self, cause: HoldCause, tops: &[(usize, NodeId, u64)], inner: &[usize], wants: &mut [Want], now: u64) {
        let is_news = self.guard.cause.is_none();
        if is_news {
            self.guard.cause = Some(cause);
            self.guard.since = now;
        }
        for (at, id, entries) in tops {
            wants[*at] = Want::Skip;
            let below: Vec<NodeRef> = self.guard.held.keys().copied().collect();
            for node in below {
                if self.tree.resolve(node).is_some_and(|other| other != *id && self.tree.is_within(other, *id)) {
                    self.guard.held.remove(&node);
                }
            }
            self.guard.held.insert(self.tree.reference(*id), *entries);
        }
        for at in inner {
            wants[*at] = Want::Skip;
        }
        for at in tops.iter().map(|(at, ..)| *at) {
            // Who was to be linked to what does not come: one of them takes its part.
            let mut heir = None;
            for (other, want) in wants.iter_mut().enumerate() {
                if *want == Want::Link(Base::Slot(at)) {
                    *want = heir.map_or(Want::New, |first| Want::Link(Base::Slot(first)));
                    heir = heir.or(Some(other));
                }
            }
        }
        if is_news {
            let count = self.guard.count();
            self.guard.news.push(GuardNews::Held(cause, count));
        }
    }

    /// Takes out of what is held what is there again, or moves elsewhere; and ends it if the root has an entry.
    fn look_for_its_end(&mut self, round: &Round, wants: &[Want]) {
        let mut back = Vec::new();
        let mut inhabited = false;
        for (slot, want) in round.slots.iter().zip(wants) {
            if let Want::Move(source, _) = want {
                back.push(self.tree.reference(*source));
            }
            let Seen::Present { stat, .. } = &slot.seen else { continue };
            inhabited |= slot.parent.id == ROOT;
            if self.tree.resolve(slot.node).is_some_and(|id| self.tree.kind(id) == Some(stat.meta.kind)) {
                back.push(slot.node);
            }
        }
        for node in back {
            // What happened below was not looked at.
            if self.guard.held.remove(&node).is_some()
                && let Some(id) = self.tree.resolve(node).filter(|id| self.tree.kind(*id) == Some(Kind::Dir))
            {
                self.dirty.mark(&mut self.tree, id, flag::SCAN | flag::DEEP);
            }
        }
        if inhabited && self.guard.cause == Some(HoldCause::Emptied) {
            self.release();
        }
    }

    fn release(&mut self) {
        let held: Vec<NodeRef> = self.guard.held.drain().map(|(node, _)| node).collect();
        for node in held {
            if let Some(id) = self.tree.resolve(node) {
                self.dirty.mark(&mut self.tree, id, flag::LOOK);
            }
        }
        if let Some(cause) = self.guard.cause.take() {
            self.guard.news.push(GuardNews::Released(cause));
        }
    }

    /// Whether the round leaves nothing in the root that the source has there, or may have.
    fn is_emptied(&self, round: &Round) -> bool {
        let absent = |id: NodeId| {
            let at = round.slot_of.get(&self.tree.reference(id));
            at.is_some_and(|at| round.slots[*at].seen == Seen::Absent)
        };
        let counts = |id: &NodeId| self.tree.kind(*id).is_some();
        self.tree.children(ROOT).filter(counts).all(|id| absent(id) && !self.tree.has(id, flag::PROTECTED))
            && !round.slots.iter().any(|slot| slot.parent.id == ROOT && slot.seen != Seen::Absent)
    }

    /// Whether `count` more deletions than those of the burst so far are too many.
    fn is_beyond(&self, count: u64) -> bool {
        let all = self.guard.passed().saturating_add(count);
        match self.options.max_delete {
            None => false,
            Some(MaxDelete::Entries(most)) => all > most,
            Some(MaxDelete::Percent(percent)) => all > self.guard.base.saturating_mul(u64::from(percent)) / 100,
        }
    }

    /// What the wants would delete: entries that are gone, and directories that something else takes the place of.
    fn doomed(&self, round: &Round, wants: &[Want]) -> Doomed {
        let tree = &self.tree;
        let moved: HashSet<NodeId> =
            wants.iter().filter_map(|w| if let Want::Move(source, _) = w { Some(*source) } else { None }).collect();
        let mut going: HashMap<NodeId, usize> = HashMap::new();
        for (at, (slot, want)) in round.slots.iter().zip(wants).enumerate() {
            let Some(id) = tree.resolve(slot.node).filter(|id| !moved.contains(id)) else { continue };
            let replaced = match &slot.seen {
                Seen::Present { stat, .. } => tree.kind(id) == Some(Kind::Dir) && stat.meta.kind != Kind::Dir && *want != Want::Skip,
                _ => false,
            };
            if replaced || *want == Want::Gone {
                going.insert(id, at);
            }
        }
        let mut doomed = Doomed { tops: Vec::new(), inner: Vec::new() };
        for (id, at) in &going {
            let above = std::iter::successors(Some(tree.parent(*id)), |at| (*at != NONE).then(|| tree.parent(*at)));
            if above.take_while(|at| *at != NONE).any(|at| going.contains_key(&at)) {
                doomed.inner.push(*at);
                continue;
            }
            match self.entries(*id, &moved) {
                0 => {}
                entries => doomed.tops.push((*at, *id, entries)),
            }
        }
        doomed
    }

    /// Entries of the mirror at the node and below that would be deleted.
    fn entries(&self, id: NodeId, moved: &HashSet<NodeId>) -> u64 {
        let mut count = 0;
        let mut todo = vec![id];
        while let Some(id) = todo.pop() {
            if !moved.contains(&id) && !self.tree.has(id, flag::PROTECTED) {
                // A mount point stays, with what is above it.
                count += u64::from(self.tree.kind(id).is_some() && !self.tree.holds_border(id));
                todo.extend(self.tree.children(id));
            }
        }
        count
    }
}

impl Guard {
    fn count(&self) -> u64 {
        self.held.values().sum()
    }

    fn passed(&self) -> u64 {
        self.passed.iter().map(|(_, count)| count).sum()
    }

    /// Whether [`Planner::guard_rests`] has anything to do.
    pub(super) fn is_concerned(&self) -> bool {
        !self.settled || self.cause.is_some() || !self.allowed.is_empty()
    }

    /// Notes deletions that are made.
    fn pass(&mut self, count: u64, entries: u64, now: u64) {
        if count > 0 {
            self.slide(now, entries);
            self.passed.push_back((now, count));
        }
    }

    /// Forgets deletions that belong to no burst any more, now that the mirror holds `entries`.
    fn slide(&mut self, now: u64, entries: u64) {
        while self.settled && self.passed.front().is_some_and(|(at, _)| at + DELETE_BURST_NS < now) {
            self.passed.pop_front();
        }
        if self.passed.is_empty() && self.settled {
            self.base = entries;
        }
        // Bounds the memory: what came close together is one.
        if self.passed.len() >= 1024
            && let (Some((_, newest)), Some(before)) = (self.passed.pop_back(), self.passed.back_mut())
        {
            before.1 += newest;
        }
    }
}
