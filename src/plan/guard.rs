//! The guard over deletions: those that are doubtful are held, everything else goes on. Part of the planner.
//!
//! Held are all deletions of a round that leaves nothing in a root that had more than one entry below it, unless as much was deleted shortly before (that is
//! somebody at work, entry by entry), and all from the moment on when more are wanted than `max_delete` allows. What is held stays in the tree and in the mirror; nothing below it is looked at. It is let go by [`Planner::approve`], or when the
//! cause ends: what was to go is back, or none of it was to go after all; for `max_delete`, so much of it that the limit is kept. A root that merely has an entry again ends nothing: it may be
//! the first that is being restored, from the mirror perhaps.
//!
//! Invariant: a node is in `held` only while `cause` is some; no node in it is below another.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet, VecDeque};

use crate::limits::{DELETE_BURST_NS, EMPTIED_ENTRIES_MIN};
use crate::model::cycle::NodeRef;
use crate::model::meta::Kind;
use crate::model::options::MaxDelete;
use crate::model::path::RelPath;
use crate::model::probe::Seen;
use crate::plan::emptied::Burst;
use crate::plan::parked::Parked;
use crate::plan::planner::Planner;
use crate::plan::reconcile::{Base, Want};
use crate::plan::round::{Round, Slot};
use crate::plan::tree::{NONE, NodeId, ROOT, Tree, flag};
use crate::plan::{NodeMap, NodeSet};

/// Deletions are counted by slices of time, so that few numbers are kept however many they are.
const SLICE_NS: u64 = DELETE_BURST_NS / 128;

/// Why deletions are held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HoldCause {
    /// The source's root had entries and lost all of them.
    Emptied,
    /// More entries are to be deleted than `max_delete` allows.
    MaxDelete,
    /// The source, or something that was mounted in it, was missing.
    Unmounted,
}

/// What outlives a session: that deletions are held, and how many went before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hold {
    /// Why.
    pub cause: HoldCause,
    /// Entries that were deleted in the burst before it was held.
    passed: u64,
}

impl Hold {
    /// After the source was missing.
    pub fn unmounted() -> Self {
        Self { cause: HoldCause::Unmounted, passed: 0 }
    }
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

/// What is held, and what it takes to judge.
#[derive(Debug, Default)]
pub struct Guard {
    cause: Option<HoldCause>,
    since: u64,
    /// Nodes that are held, and how many entries each stands for.
    held: NodeMap<NodeRef, u64>,
    /// Directories at which something was mounted: left alone as what is held.
    pub(super) unmounted: NodeSet<NodeRef>,
    /// Something that was held is there again as another directory, which may be in the making: the end is seen when all rests.
    made_anew: bool,
    /// One of them was to be looked into, at itself or below, and was not: made up for if they turn out to be there.
    missed: bool,
    /// Nodes that were approved and may go.
    pub(super) allowed: NodeSet<NodeRef>,
    /// Deletions of the burst: until when (the end of a slice of time) and how many.
    passed: VecDeque<(u64, u64)>,
    /// What went from the root just now.
    pub(super) burst: Burst,
    /// What is parked, and stays.
    pub(super) parked: Parked,
    /// Entries of the mirror when the burst began.
    base: u64,
    /// The first look is over: bursts are counted by time.
    pub(super) settled: bool,
    /// A manifest took the place of what was known, and not all has been looked at since: what was a mount is not known.
    pub(super) unsure: bool,
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
    /// Lets all deletions go that are held now, and begins to count anew; if there are none, what is missing with a mount. Returns how many entries that are.
    pub fn approve(&mut self) -> u64 {
        let count = if self.guard.held.is_empty() { self.approve_unmounted() } else { self.guard.count() };
        let cause = self.guard.cause.take();
        for node in self.let_go() {
            self.guard.allowed.insert(node);
        }
        if cause.is_some() {
            self.guard.passed.clear();
            self.guard.base = self.mirrored();
        }
        if cause == Some(HoldCause::Emptied) && count > 0 {
            self.guard.parked.approve_emptied();
        }
        self.guard.made_anew = false;
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
        let cause = match self.guard.cause {
            None | Some(HoldCause::MaxDelete) if self.misses_mounts() => Some(HoldCause::Unmounted),
            cause => cause,
        };
        cause.map(|cause| Hold { cause, passed: self.guard.passed() })
    }

    /// Deletions were held when the last session ended: they are until the cause is seen to be over.
    pub fn resume_hold(&mut self, hold: Hold, now: u64) {
        self.guard.cause = Some(hold.cause);
        self.guard.since = now;
        self.guard.passed = [(now + DELETE_BURST_NS, hold.passed)].into();
    }

    /// What changed since the last call.
    pub fn take_guard_news(&mut self) -> Vec<GuardNews> {
        std::mem::take(&mut self.guard.news)
    }

    /// The manifest of a session's start is complete: so much the mirror holds.
    pub(super) fn guard_filled(&mut self) {
        if !self.guard.settled && self.guard.passed.is_empty() {
            self.guard.base = self.mirrored();
        }
    }

    /// Everything has been looked at and is acknowledged.
    pub(super) fn guard_rests(&mut self) {
        self.guard.settled = true;
        self.guard.unsure = false;
        self.guard.allowed.clear();
        self.let_parked_go();
        let Some(cause) = self.guard.cause else { return };
        let Self { guard, tree, .. } = self;
        guard.held.retain(|node, _| tree.resolve(*node).is_some());
        if cause == HoldCause::Emptied && self.guard.held.is_empty() && self.misses_parked() {
            // Held by the session before as well.
            self.hold_missed();
            return;
        }
        let guard = &self.guard;
        let ended = match cause {
            // What was parked does not come back under that name.
            HoldCause::Emptied => guard.held.keys().all(|node| self.is_parked(node.id)) && (guard.held.is_empty() || !self.has_nothing()),
            // What cannot be looked at may be what is missing.
            HoldCause::Unmounted => guard.held.is_empty() && !self.is_source_in_trouble(),
            HoldCause::MaxDelete => guard.held.is_empty() || !self.is_beyond(self.count_anew()),
        };
        if ended {
            self.release();
        }
    }

    /// Whether a dirty node is not to be looked at: what is below a held name, or in what is parked. The name itself is, but not as the directory that it was.
    pub(super) fn is_left_alone(&mut self, id: NodeId) -> bool {
        if let Some(top) = self.parked_above(id) {
            return self.is_parked_left_alone(id, top);
        }
        if self.guard.held.is_empty() && self.guard.unmounted.is_empty() {
            return false;
        }
        let mut at = id;
        while at != NONE && !self.guard.leaves_alone(self.tree.reference(at)) {
            at = self.tree.parent(at);
        }
        if at == NONE {
            return false;
        }
        if at == id {
            self.guard.missed |= self.tree.has(id, flag::OWN | flag::SCAN);
            self.tree.clear(id, flag::OWN | flag::SCAN | flag::DEEP);
            return !self.tree.has(id, flag::LOOK);
        }
        self.guard.missed = true;
        self.tree.clear(id, flag::DIRTY | flag::DEEP);
        true
    }

    /// Judges the deletions of a round that has been reconciled: those that are held are taken out of `wants`.
    pub(super) fn guard_round(&mut self, round: &Round, wants: &mut [Want], now: u64) {
        if self.guard.cause.is_some() {
            self.look_for_its_end(round, wants);
        }
        let judges = self.options.delete && !self.is_dry();
        if judges {
            self.await_burst(round, wants, now);
        }
        self.keep_parked(round, wants);
        if !judges {
            return;
        }
        let is_gone = |slot: &Slot, want: &Want| *want == Want::Gone && !slot.name.as_name().is_parked();
        let gone = round.slots.iter().zip(wants.iter()).filter(|(slot, want)| is_gone(slot, want));
        let (mut names, mut of_root) = (0, false);
        for (slot, _) in gone {
            names += u64::from(!self.was_passed(slot.node));
            of_root |= slot.parent.id == ROOT;
        }
        if self.options.max_delete.is_none() && self.guard.cause.is_none() && !of_root {
            self.guard.pass(names, self.mirrored(), now);
            return;
        }
        let doomed = self.doomed(round, wants);
        let count: u64 = doomed.tops.iter().map(|(.., entries)| entries).sum();
        if count == 0 {
            return;
        }
        let is_anew = |(_, id, _): &&(usize, NodeId, u64)| !self.was_passed(self.tree.reference(*id));
        let count_anew = doomed.tops.iter().filter(is_anew).map(|(.., entries)| entries).sum();
        let entries = self.mirrored();
        self.guard.slide(now, entries);
        let cause = if self.guard.cause.is_some() {
            self.guard.cause
        } else if !self.options.allow_empty
            && count + self.entries_missed() >= EMPTIED_ENTRIES_MIN
            && count > self.guard.passed()
            && self.is_emptied(round)
        {
            Some(HoldCause::Emptied)
        } else {
            self.is_beyond(count_anew).then_some(HoldCause::MaxDelete)
        };
        match cause {
            None => self.guard.pass(count_anew, entries, now),
            Some(cause) => {
                let is_news = self.guard.cause.is_none() || (cause == HoldCause::Unmounted && self.guard.held.is_empty());
                self.guard.doubt(cause, now);
                self.keep_parked(round, wants);
                let (mut next, mut tops) = (doomed, Vec::new());
                while !next.tops.is_empty() {
                    self.hold_back(&next, wants);
                    tops.extend(next.tops.into_iter().map(|(_, id, _)| id));
                    // What was to take the place of something that is held does not move: it would be deleted where it is.
                    next = self.doomed(round, wants);
                }
                let moved = moved(wants);
                for id in tops {
                    let entries = self.entries(id, &moved);
                    if let Some(count) = self.guard.held.get_mut(&self.tree.reference(id)) {
                        *count = entries;
                    }
                }
                if is_news {
                    if cause == HoldCause::Emptied {
                        self.hold_missed();
                    }
                    self.guard.tell_held();
                }
            }
        }
    }

    /// Whether the node's deletion was made, and failed: another try is no further deletion.
    fn was_passed(&self, node: NodeRef) -> bool {
        !self.troubles.is_empty() && self.tree.resolve(node).is_some_and(|id| self.fails_to_go(id))
    }

    /// Entries that are held, but for those whose deletion was made before, and failed.
    fn count_anew(&self) -> u64 {
        self.guard.held.iter().filter(|(node, _)| !self.was_passed(**node)).map(|(_, entries)| entries).sum()
    }

    /// Holds what is doomed: none of it is wanted to go any more.
    fn hold_back(&mut self, doomed: &Doomed, wants: &mut [Want]) {
        let Self { guard, tree, .. } = self;
        let dirs: NodeSet<NodeId> = doomed.tops.iter().map(|(_, id, _)| *id).filter(|id| tree.kind(*id) == Some(Kind::Dir)).collect();
        if !dirs.is_empty() {
            guard.held.retain(|node, _| tree.resolve(*node).is_none_or(|id| !above(tree, id).any(|at| dirs.contains(&at))));
        }
        guard.held.extend(doomed.tops.iter().map(|(_, id, entries)| (tree.reference(*id), *entries)));
        // What would have come in the place of something that is held.
        let mut lost = HashSet::new();
        for at in doomed.tops.iter().map(|(at, ..)| at).chain(&doomed.inner) {
            if std::mem::replace(&mut wants[*at], Want::Skip) != Want::Gone {
                lost.insert(*at);
            }
        }
        if lost.is_empty() {
            return;
        }
        // Who was to be linked to it: one of them takes its part.
        let mut heirs: HashMap<usize, usize> = HashMap::new();
        for (at, want) in wants.iter_mut().enumerate() {
            if let Want::Link(Base::Slot(base)) = *want
                && lost.contains(&base)
            {
                *want = match heirs.entry(base) {
                    Entry::Occupied(heir) => Want::Link(Base::Slot(*heir.get())),
                    Entry::Vacant(free) => {
                        free.insert(at);
                        Want::New
                    }
                };
            }
        }
    }

    /// Takes out of what is held what is there again, or moves elsewhere; the end, if that was all and nothing of it is another directory than before.
    fn look_for_its_end(&mut self, round: &Round, wants: &[Want]) {
        if self.guard.held.is_empty() {
            return;
        }
        let mut back = Vec::new();
        for (slot, want) in round.slots.iter().zip(wants) {
            if let Want::Move(source, _) = want {
                back.push((self.tree.reference(*source), false));
            }
            let (Seen::Present { stat, .. }, Some(id)) = (&slot.seen, self.tree.resolve(slot.node)) else { continue };
            // What takes the place of a directory deletes what is in it; anything else is overwritten.
            let is_dir = self.tree.kind(id) == Some(Kind::Dir);
            if !is_dir || (matches!(want, Want::Stay(_)) && stat.meta.kind == Kind::Dir) {
                back.push((slot.node, is_dir && self.tree.ident(id) != Some(stat.ident)));
            }
        }
        let mut any = false;
        for (node, is_another) in back {
            if self.guard.held.remove(&node).is_none() {
                continue;
            }
            any = true;
            self.guard.made_anew |= is_another;
            // What happened below was not looked at.
            if let Some(id) = self.tree.resolve(node).filter(|id| self.tree.kind(*id) == Some(Kind::Dir)) {
                self.dirty.mark(&mut self.tree, id, flag::SCAN | flag::DEEP);
            }
        }
        if any && self.guard.held.is_empty() && !self.guard.made_anew {
            self.release();
        }
    }

    /// Has all that is held looked at again; what of it is there.
    fn let_go(&mut self) -> Vec<NodeRef> {
        let held: Vec<NodeRef> = self.guard.held.drain().map(|(node, _)| node).filter(|node| self.tree.resolve(*node).is_some()).collect();
        let missed = std::mem::take(&mut self.guard.missed);
        self.let_parked_go();
        for node in &held {
            let into = if missed && self.tree.kind(node.id) == Some(Kind::Dir) { flag::SCAN | flag::DEEP } else { 0 };
            self.dirty.mark(&mut self.tree, node.id, flag::LOOK | into);
        }
        held
    }

    fn release(&mut self) {
        let cause = self.guard.cause.take();
        self.let_go();
        self.guard.made_anew = false;
        if let Some(cause) = cause {
            self.guard.news.push(GuardNews::Released(cause));
        }
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

    /// What the wants would delete that was not approved: entries that are gone, and directories that something else takes the place of.
    fn doomed(&self, round: &Round, wants: &[Want]) -> Doomed {
        let tree = &self.tree;
        let moved = moved(wants);
        let mut going: NodeMap<NodeId, usize> = NodeMap::default();
        for (at, (slot, want)) in round.slots.iter().zip(wants).enumerate() {
            let Some(id) = tree.resolve(slot.node).filter(|id| !moved.contains(id)) else { continue };
            let is_going = match want {
                // What was replaced was judged when that was done; but it may be what was to move.
                Want::Gone => !slot.name.as_name().is_parked() || self.guard.cause == Some(HoldCause::MaxDelete),
                // A file is replaced by what is renamed over it; a directory is emptied first.
                Want::New | Want::Move(..) | Want::Link(_) => tree.kind(id) == Some(Kind::Dir),
                Want::Stay(_) => {
                    tree.kind(id) == Some(Kind::Dir) && matches!(&slot.seen, Seen::Present { stat, .. } if stat.meta.kind != Kind::Dir)
                }
                Want::Skip | Want::Defer => false,
            };
            if is_going {
                going.insert(id, at);
            }
        }
        let mut doomed = Doomed { tops: Vec::new(), inner: Vec::new() };
        for (id, at) in &going {
            if self.guard.keeps_above(tree, *id) || above(tree, *id).any(|at| going.contains_key(&at)) {
                doomed.inner.push(*at);
                continue;
            }
            match self.entries(*id, &moved) {
                _ if self.guard.allowed.contains(&tree.reference(*id)) => {}
                0 => {}
                entries => doomed.tops.push((*at, *id, entries)),
            }
        }
        doomed
    }

    /// Entries of the mirror at the node and below that would be deleted.
    pub(super) fn entries(&self, id: NodeId, moved: &NodeSet<NodeId>) -> u64 {
        let mut count = 0;
        let mut todo = vec![id];
        while let Some(id) = todo.pop() {
            if !moved.contains(&id) && !self.tree.has(id, flag::PROTECTED) {
                // A mount point stays, with what is above it.
                count += u64::from(self.tree.kind(id).is_some() && !self.tree.holds_border(id));
                todo.extend(self.tree.children(id).filter(|child| !self.is_told_parked(*child)));
            }
        }
        count
    }
}

impl Guard {
    /// Whether the node stays in the mirror although its deletion is wanted: it is held, or below one that is.
    pub(super) fn keeps(&self, tree: &Tree, id: NodeId) -> bool {
        !self.held.is_empty() && (self.held.contains_key(&tree.reference(id)) || self.keeps_above(tree, id))
    }

    /// Whether a directory above the node is held.
    pub(super) fn keeps_above(&self, tree: &Tree, id: NodeId) -> bool {
        !self.held.is_empty() && above(tree, id).any(|at| self.held.contains_key(&tree.reference(at)))
    }

    /// Whether something at the node or below is held, or missing with a mount.
    pub(super) fn is_in(&self, tree: &Tree, id: NodeId) -> bool {
        let is_any = !self.held.is_empty() || !self.unmounted.is_empty();
        is_any && tree.subtree_bottom_up(id).into_iter().any(|below| self.leaves_alone(tree.reference(below)))
    }

    fn leaves_alone(&self, node: NodeRef) -> bool {
        self.held.contains_key(&node) || self.unmounted.contains(&node)
    }

    /// Holds deletions from now on, if none are held for a reason that ends as late.
    pub(super) fn doubt(&mut self, cause: HoldCause, now: u64) {
        if self.cause.is_none() {
            self.since = now;
        }
        if matches!(self.cause, None | Some(HoldCause::MaxDelete)) {
            self.cause = Some(cause);
        }
    }

    pub(super) fn hold(&mut self, nodes: &[(NodeRef, u64)]) {
        self.held.extend(nodes.iter().copied());
    }

    pub(super) fn tell_held(&mut self) {
        if let Some(cause) = self.cause {
            let count = self.count();
            self.news.push(GuardNews::Held(cause, count));
        }
    }

    pub(super) fn cause(&self) -> Option<HoldCause> {
        self.cause
    }

    fn count(&self) -> u64 {
        self.held.values().sum()
    }

    fn passed(&self) -> u64 {
        self.passed.iter().map(|(_, count)| count).sum()
    }

    /// Whether [`Planner::guard_rests`] has anything to do.
    pub(super) fn is_concerned(&self) -> bool {
        !self.settled || self.unsure || self.cause.is_some() || !self.allowed.is_empty() || !self.parked.kept.is_empty()
    }

    /// Notes deletions that are made.
    fn pass(&mut self, count: u64, entries: u64, now: u64) {
        if count == 0 {
            return;
        }
        self.slide(now, entries);
        // They count until the slice in which they were made is out of reach: a little longer, never shorter. The first look is one slice.
        let until = now - now % SLICE_NS + SLICE_NS + DELETE_BURST_NS;
        match self.passed.back_mut() {
            Some(last) if last.0 == until || !self.settled => *last = (until, last.1 + count),
            _ => self.passed.push_back((until, count)),
        }
    }

    /// Forgets deletions that belong to no burst any more, now that the mirror holds `entries`.
    fn slide(&mut self, now: u64, entries: u64) {
        while self.settled && self.passed.front().is_some_and(|(until, _)| *until < now) {
            self.passed.pop_front();
        }
        if self.passed.is_empty() && self.settled {
            self.base = entries;
        }
    }
}

/// The directories above a node.
fn above(tree: &Tree, id: NodeId) -> impl Iterator<Item = NodeId> + '_ {
    std::iter::successors(Some(id), |at| Some(tree.parent(*at)).filter(|at| *at != NONE)).skip(1)
}

/// The nodes whose objects of the mirror move.
pub(super) fn moved(wants: &[Want]) -> NodeSet<NodeId> {
    wants.iter().filter_map(|want| if let Want::Move(source, _) = want { Some(*source) } else { None }).collect()
}
