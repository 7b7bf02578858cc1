//! Entries that could not be read or written: how often they were tried, why they fail, when they are tried again. Part of the planner.
//!
//! A trouble is noted under a name in a directory, so that it outlives the node of an entry that could not be deleted.

use std::collections::{BTreeSet, HashSet};

use crate::model::cycle::NodeRef;
use crate::model::meta::Kind;
use crate::model::op::SET_METADATA;
use crate::model::path::{Name, RelPath};
use crate::plan::NodeSet;
use crate::plan::flight::Flight;
use crate::plan::planner::Planner;
use crate::plan::round::Round;
use crate::plan::tree::{NONE, NodeId, ROOT, Tree, flag};

/// What fails where a name of the source cannot be looked at.
pub(super) const LOOK_AT: &str = "look at";
/// What fails where a directory of the source cannot be read.
pub(super) const READ_DIRECTORY: &str = "read the directory";
/// What fails where something was mounted in the source.
pub(super) const FIND_MOUNTED: &str = "find what was mounted";

/// A directory and a name in it; the root has no name.
pub(super) type TroubleKey = (NodeRef, Box<[u8]>);

/// What is noted of one entry.
#[derive(Debug, Clone, Copy)]
pub(super) struct Failing {
    tries: u32,
    errno: i32,
    what: &'static str,
    /// 0: when something changes there.
    next_at: u64,
    /// The first cycle that was made when the last try was known to have failed.
    known_at: u64,
}

/// An entry that could not be read or written, or could at last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trouble {
    /// The entry.
    pub path: RelPath,
    /// What failed.
    pub what: &'static str,
    /// Why; the system's error number.
    pub errno: i32,
    /// Tries so far.
    pub tries: u32,
    /// When it is tried again, on the caller's clock; `None`: when something changes there, or it is healed.
    pub next_at: Option<u64>,
    /// What this is about.
    pub turn: Turn,
}

/// What a report on an entry in trouble is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// It is the first failure, or the first for this cause.
    New,
    /// It failed again for the same cause.
    Again,
    /// It is as it should be.
    Healed,
}

impl Planner {
    /// Entries that could not be read or written and wait for another try.
    pub fn failing(&self) -> usize {
        self.troubles.keys().filter(|(dir, _)| self.tree.resolve(*dir).is_some()).count()
    }

    /// The same, and one if a part of the mirror has to be listed again and that is being put off, since it was in vain so often.
    pub fn unsettled(&self) -> usize {
        self.failing() + usize::from(!self.wanted_lists.is_empty())
    }

    /// What is known of at most `max` of them.
    pub fn failures(&self, max: usize) -> Vec<Trouble> {
        let known = self.troubles.iter().filter_map(|(key, failing)| {
            let path = trouble_path(&self.tree, key)?;
            Some(failing.report(path, Turn::Again))
        });
        known.take(max).collect()
    }

    /// What happened to entries in trouble since the last call.
    pub fn take_reports(&mut self) -> Vec<Trouble> {
        let Self { reports, troubles, tree, .. } = self;
        let told = |(key, mut trouble): (TroubleKey, Trouble)| {
            if let Some(failing) = troubles.get(&key).filter(|failing| trouble.turn != Turn::Healed && failing.what == trouble.what) {
                trouble.next_at = failing.next_at();
            } else if trouble.turn == Turn::Healed && troubles.contains_key(&key) && tree.resolve(key.0).is_some() {
                // It failed again at once.
                return None;
            }
            Some(trouble)
        };
        reports.drain(..).filter_map(told).collect()
    }

    /// Whoever was in trouble, was part of the cycle, which is acknowledged and no longer among those on their way, and is not to be tried again is healed.
    pub(super) fn clear_troubles(&mut self, flight: &Flight) {
        let part: NodeSet<NodeRef> = flight.part().collect();
        let under_way = UnderWay::new(self);
        let is_over = |(key, failing): (&TroubleKey, &Failing)| self.is_over(key, failing, &part, &under_way);
        let over: Vec<TroubleKey> = self.troubles.iter().filter(|trouble| is_over(*trouble)).map(|(key, _)| key.clone()).collect();
        let mut healed = Vec::new();
        for key in over {
            let (Some(failing), Some(dir)) = (self.troubles.remove(&key), self.tree.resolve(key.0)) else { continue };
            healed.extend(node_of(&self.tree, dir, &key.1).map(|id| (id, failing.tries)));
            if let Some(path) = trouble_path(&self.tree, &key) {
                self.reports.push((key, failing.report(path, Turn::Healed)));
            }
        }
        let groups: BTreeSet<u32> = healed.iter().map(|(id, _)| self.tree.group(*id)).collect();
        groups.into_iter().for_each(|group| self.names_wait_no_longer(group));
        for (id, tries) in healed {
            self.debt_healed(id, tries);
            self.wait_no_longer(id);
        }
    }

    /// These are over.
    pub(super) fn heal_all(&mut self, keys: Vec<TroubleKey>) {
        for key in keys {
            if let (Some(failing), Some(path)) = (self.troubles.remove(&key), trouble_path(&self.tree, &key)) {
                self.reports.push((key, failing.report(path, Turn::Healed)));
            }
        }
    }

    /// Whether a trouble ends with a cycle that was about the nodes of `part`. What is looked at, waits for its content or goes with a later cycle has not ended.
    fn is_over(&self, key: &TroubleKey, failing: &Failing, part: &NodeSet<NodeRef>, under_way: &UnderWay<'_>) -> bool {
        let (dir, name) = key;
        let Some(dir_id) = self.tree.resolve(*dir) else { return true };
        let again = flag::UNKNOWN | flag::DIRTY | flag::DELAYED | flag::BUSY;
        let id = node_of(&self.tree, dir_id, name);
        let node = id.map(|id| self.tree.reference(id));
        let was_part = part.contains(dir) || node.is_some_and(|node| part.contains(&node));
        // What waits for no time is not tried for its own sake: what is on its way need not be another try.
        let is_tried = failing.next_at > 0 && (under_way.has(dir, name, node) || node.is_some_and(|node| self.staged.has(node)));
        // It left the tree for a manifest that is on its way: whether it is as it should be is seen after that.
        let is_dropped = id.is_none() && self.fill.is_some();
        was_part && !is_tried && !is_dropped && !id.is_some_and(|id| self.tree.has(id, again))
    }

    /// The directory was listed to its end: what was in trouble there, and neither the source nor the mirror has, is over.
    pub(super) fn heal_vanished(&mut self, dir: NodeRef) {
        let Some(id) = self.tree.resolve(dir).filter(|_| !self.troubles.is_empty()) else { return };
        let names = self.troubles.range((dir, Box::default())..).map(|(key, _)| key).take_while(|key| key.0 == dir);
        let is_gone = |name: &[u8]| !name.is_empty() && self.tree.child(id, name).is_none();
        let mut gone: Vec<TroubleKey> = names.filter(|(_, name)| is_gone(name)).cloned().collect();
        if !gone.is_empty() {
            let under_way = UnderWay::new(self);
            gone.retain(|(dir, name)| !under_way.has(dir, name, None));
            self.heal_all(gone);
        }
    }

    /// The names of a round that are in trouble.
    pub(super) fn tried_again(&self, round: &Round) -> Vec<TroubleKey> {
        if self.troubles.is_empty() {
            return Vec::new();
        }
        let names = round.slots.iter().map(|slot| (slot.parent, Box::from(slot.name.as_bytes())));
        let names = names.filter(|key: &TroubleKey| self.troubles.contains_key(key));
        // A directory's own metadata are seen without its name; what waits for no time is about what is in it, and is over if there is nothing to be done there when the
        // mirror's manifest has told that.
        let is_told = self.wanted_lists.is_empty() && self.fill.is_none();
        let is_timed = |key: &TroubleKey| self.troubles.get(key).is_some_and(|failing| failing.next_at > 0);
        let of_dir = |dir: &NodeRef| {
            let key = self.trouble_key(self.tree.resolve(*dir)?);
            Some(key).filter(|key| is_timed(key) || (is_told && round.listed.contains(dir) && self.troubles.contains_key(key)))
        };
        names.chain(round.dirs.keys().filter_map(of_dir)).collect()
    }

    /// After the round: those of them are healed for which nothing was to be done.
    pub(super) fn heal_settled(&mut self, tried: Vec<TroubleKey>) {
        if tried.is_empty() {
            return;
        }
        let part: NodeSet<NodeRef> = self.flights.iter().flat_map(Flight::part).collect();
        for key in tried {
            let Some(dir) = self.tree.resolve(key.0).filter(|_| !part.contains(&key.0)) else { continue };
            let id = node_of(&self.tree, dir, &key.1);
            let waits = id.is_some_and(|id| {
                let node = self.tree.reference(id);
                self.tree.has(id, flag::UNKNOWN | flag::DIRTY | flag::DELAYED | flag::BUSY)
                    || part.contains(&node)
                    || self.staged.has(node)
                    || self.is_held(node)
            });
            if !waits && let Some(failing) = self.troubles.remove(&key) {
                if let Some(id) = id {
                    self.debt_healed(id, failing.tries);
                }
                if let Some(path) = trouble_path(&self.tree, &key) {
                    self.reports.push((key, failing.report(path, Turn::Healed)));
                }
            }
        }
    }

    /// Nothing is under way: of what was to be tried again at some time, that is over which nobody waits for any more. It was tried for another reason, and went
    /// well while something else kept it from being told.
    pub(super) fn heal_unwaited(&mut self) {
        if !self.wanted_lists.is_empty() {
            return;
        }
        let waits = |(dir, name): &TroubleKey| {
            let id = self.tree.resolve(*dir).and_then(|dir| node_of(&self.tree, dir, name));
            id.is_some_and(|id| self.tree.has(id, flag::UNKNOWN | flag::DELAYED) || self.guard.keeps(&self.tree, id))
        };
        let timed = self.troubles.iter().filter(|(_, failing)| failing.next_at > 0).map(|(key, _)| key);
        let over = timed.filter(|key| !waits(key)).cloned().collect();
        self.heal_all(over);
    }

    /// The directory has been read: if that was its trouble, it is healed.
    pub(super) fn heal_read(&mut self, id: NodeId) {
        self.heal_from(id, READ_DIRECTORY);
    }

    /// If that was the node's trouble, it is healed.
    pub(super) fn heal_from(&mut self, id: NodeId, what: &str) {
        if self.trouble_of(id) == Some(what) {
            self.heal(id);
        }
    }

    /// When what fails at the node is tried again.
    pub(super) fn next_try(&self, id: NodeId) -> Option<u64> {
        self.troubles.get(&self.trouble_key(id)).and_then(Failing::next_at)
    }

    /// What fails at the node.
    pub(super) fn trouble_of(&self, id: NodeId) -> Option<&'static str> {
        self.troubles.get(&self.trouble_key(id)).map(|failing| failing.what)
    }

    /// What the node's trouble was is over, and what waits in it for another try has waited long enough.
    pub(super) fn heal(&mut self, id: NodeId) {
        if self.troubles.is_empty() {
            return;
        }
        let key = self.trouble_key(id);
        let Some(failing) = self.troubles.remove(&key) else { return };
        self.debt_healed(id, failing.tries);
        self.wait_no_longer(id);
        self.names_wait_no_longer(self.tree.group(id));
        if let Ok(path) = self.tree.path(id) {
            self.reports.push((key, failing.report(path, Turn::Healed)));
        }
    }

    /// What waits at the node and in it because of its trouble is looked at now.
    fn wait_no_longer(&mut self, id: NodeId) {
        let waiting: Vec<NodeId> = self.tree.children(id).chain([id]).filter(|at| self.tree.has(*at, flag::DELAYED)).collect();
        for at in waiting {
            if !self.is_troubled(at) {
                self.dirty.mark(&mut self.tree, at, 0);
                self.owe(at);
            }
        }
    }

    /// The names of a hard-link group that share a trouble which is over wait no longer.
    fn names_wait_no_longer(&mut self, group: u32) {
        let names: Vec<NodeId> = if group == 0 { Vec::new() } else { self.tree.of_group(group).collect() };
        for id in names {
            if self.tree.has(id, flag::DELAYED) && self.is_troubled(id) {
                self.dirty.mark(&mut self.tree, id, 0);
                self.owe(id);
            }
        }
    }

    /// Under what troubles of a node are noted.
    pub(super) fn trouble_key(&self, id: NodeId) -> TroubleKey {
        let parent = self.tree.parent(id);
        (self.tree.reference(if parent == NONE { id } else { parent }), self.tree.name(id).into())
    }

    /// Whether something of the source cannot be looked at, which may be for what was mounted there; who may not look at it has never seen it.
    pub(super) fn is_source_in_trouble(&self) -> bool {
        let is_doubtful = |errno| !matches!(errno, libc::EACCES | libc::EPERM);
        self.troubles.values().any(|failing| matches!(failing.what, LOOK_AT | READ_DIRECTORY | FIND_MOUNTED) && is_doubtful(failing.errno))
    }

    /// Whether the node is in trouble.
    pub(super) fn is_troubled(&self, id: NodeId) -> bool {
        !self.troubles.is_empty() && self.troubles.contains_key(&self.trouble_key(id))
    }

    /// Tells of something that failed and is not tried again by itself.
    pub(super) fn tell_trouble(&mut self, path: RelPath, what: &'static str, errno: i32) {
        let key = (self.tree.reference(ROOT), Box::default());
        self.reports.push((key, Trouble { path, what, errno, tries: 1, next_at: None, turn: Turn::New }));
    }

    /// Whether the node, or the directory that it is in, has failed more than once; or it is listed from time to time only.
    pub(super) fn is_excused(&self, id: NodeId) -> bool {
        let again = |id: NodeId| id != NONE && self.troubles.get(&self.trouble_key(id)).is_some_and(|failing| failing.tries > 1);
        let is_polled = || !self.is_troubled(id) && self.waits_for_cause(id) && self.tree.has(id, flag::UNWATCHED);
        // Where only a directory's own metadata fail nothing in it waits for that.
        let is_own = |dir: NodeId| self.troubles.get(&self.trouble_key(dir)).is_some_and(|failing| failing.what == SET_METADATA);
        let dir = self.tree.parent(id);
        again(id) || (again(dir) && !is_own(dir)) || is_polled()
    }

    /// Notes that the node is in trouble and returns the number of tries so far. What was on its way already when a failure became known was no other try, and neither is what
    /// comes of a look that something else asked for before it is time: what failed first is what is told of a try.
    pub(super) fn trouble(&mut self, id: NodeId, what: &'static str, errno: i32, now: u64) -> u32 {
        let key = self.trouble_key(id);
        let entry = self.troubles.entry(key.clone()).or_insert(Failing { tries: 0, errno, what, next_at: 0, known_at: 0 });
        let is_first = entry.tries == 0;
        if is_first || (now >= entry.next_at && self.judged.is_none_or(|cycle| cycle >= entry.known_at)) {
            let turn = if is_first || entry.errno != errno { Turn::New } else { Turn::Again };
            *entry = Failing { tries: entry.tries.saturating_add(1), errno, what, next_at: 0, known_at: self.next_cycle };
            let entry = *entry;
            if let Ok(path) = self.tree.path(id) {
                self.reports.push((key, entry.report(path, turn)));
            }
        }
        let tries = self.troubles.get(&self.trouble_key(id)).map_or(1, |failing| failing.tries);
        // What was in the way of the first try may have passed: whoever waits for it waits for the second.
        if tries == 1 {
            self.owe(id);
        } else if what == SET_METADATA && self.tree.kind(id) == Some(Kind::Dir) {
            self.forgive_own(id);
        } else {
            self.forgive(id);
        }
        tries
    }

    /// Notes that the node is in the trouble of `of`, another name of its object, and has been tried as often. With a try counted for each, names that change one after the other
    /// would soon be tried no more.
    pub(super) fn share_trouble(&mut self, id: NodeId, of: NodeId, (what, errno): (&'static str, i32), now: u64) {
        let tries = self.troubles.get(&self.trouble_key(of)).map_or(1, |failing| failing.tries);
        let known_at = self.next_cycle;
        match self.troubles.get_mut(&self.trouble_key(id)) {
            Some(failing) if failing.errno == errno => *failing = Failing { tries: failing.tries.max(tries), known_at, ..*failing },
            _ => {
                self.trouble(id, what, errno, now);
                if let Some(failing) = self.troubles.get_mut(&self.trouble_key(id)) {
                    failing.tries = tries;
                }
            }
        }
        if tries > 1 {
            self.forgive(id);
        }
    }

    /// When the node is tried again: after 1, 2, 4 … 64 seconds, or when that is known already.
    pub(super) fn retry_at(&mut self, id: NodeId, now: u64) -> u64 {
        let tries = self.troubles.get(&self.trouble_key(id)).map_or(1, |failing| failing.tries);
        self.retry_after(id, 1_000_000_000 << (tries.max(1) - 1).min(6), now)
    }

    /// When the node is tried again: after `wait`, or when that is known already.
    pub(super) fn retry_after(&mut self, id: NodeId, wait: u64, now: u64) -> u64 {
        match self.troubles.get(&self.trouble_key(id)) {
            Some(failing) if failing.next_at > now => failing.next_at,
            _ => self.tried_at(id, now + wait),
        }
    }

    /// Notes when the node is tried again, and returns that.
    pub(super) fn tried_at(&mut self, id: NodeId, at: u64) -> u64 {
        let key = self.trouble_key(id);
        if let Some(failing) = self.troubles.get_mut(&key) {
            failing.next_at = at;
        }
        at
    }
}

impl Failing {
    fn next_at(&self) -> Option<u64> {
        (self.next_at > 0).then_some(self.next_at)
    }

    fn report(&self, path: RelPath, turn: Turn) -> Trouble {
        let next_at = self.next_at().filter(|_| turn != Turn::Healed);
        Trouble { path, what: self.what, errno: self.errno, tries: self.tries, next_at, turn }
    }
}

/// What may be about to end a trouble, or to fail once more: the nodes that are being looked at and those of cycles on their way, and the names of the cycles'
/// ordered operations, whose nodes may be gone.
struct UnderWay<'a> {
    nodes: NodeSet<NodeRef>,
    names: HashSet<(NodeRef, &'a [u8])>,
}

impl<'a> UnderWay<'a> {
    fn new(planner: &'a Planner) -> Self {
        let flights = || planner.flights.iter();
        let round = planner.round.iter();
        let looked_at = round.flat_map(|round| round.asked.iter().copied().chain(round.slots.iter().map(|slot| slot.node)));
        let nodes = flights().flat_map(|flight| flight.files.iter().map(|(node, _)| *node)).chain(looked_at).collect();
        Self { nodes, names: flights().flat_map(Flight::names).collect() }
    }

    fn has(&self, dir: &NodeRef, name: &'a [u8], node: Option<NodeRef>) -> bool {
        self.names.contains(&(*dir, name)) || node.is_some_and(|node| self.nodes.contains(&node) || self.names.contains(&(node, b"")))
    }
}

/// The node that a trouble is of, if there is one.
fn node_of(tree: &Tree, dir: NodeId, name: &[u8]) -> Option<NodeId> {
    if name.is_empty() { Some(dir) } else { tree.child(dir, name) }
}

/// The path that a trouble is noted under; `None` if its directory is gone.
fn trouble_path(tree: &Tree, (dir, name): &TroubleKey) -> Option<RelPath> {
    let dir = tree.path(tree.resolve(*dir)?).ok()?;
    if name.is_empty() { Some(dir) } else { dir.join(Name::new(name).ok()?).ok() }
}
