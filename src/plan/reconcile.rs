//! Comparing what was seen with what the mirror holds: first one entry by a pure table, then all entries of a round together, which finds renames
//! and hard links by identity. It reads the tree and changes nothing.

use std::collections::{HashMap, HashSet};

use crate::limits::RENAME_PROBES_MAX;
use crate::model::attrs::UNKNOWN;
use crate::model::meta::{Ident, Kind, Meta, Stat};
use crate::model::options::Options;
use crate::model::probe::Seen;
use crate::plan::NodeMap;
use crate::plan::guard::Guard;
use crate::plan::halves::Halves;
use crate::plan::round::{Round, Slot};
use crate::plan::tree::{NodeId, ROOT, Tree, flag};

/// What differs between an entry of the source and of the mirror that are of one kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Difference {
    /// Nothing that the options carry.
    None,
    /// Mode, owner, group, time or attributes.
    Meta,
    /// Content, target or device number; metadata goes along.
    Content,
}

/// Compares by size and time (rsync's quick check), target or device number, then by what `options` carry.
pub fn decide(seen: &Meta, seen_target: Option<&[u8]>, mirrored: &Meta, mirrored_target: Option<&[u8]>, options: &Options) -> Difference {
    let content = match seen.kind {
        _ if seen.kind != mirrored.kind => true,
        Kind::File => seen.size != mirrored.size || !options.held.holds(seen.mtime, mirrored.mtime),
        Kind::Symlink => seen_target != mirrored_target,
        Kind::Char | Kind::Block => seen.rdev != mirrored.rdev,
        Kind::Dir | Kind::Fifo | Kind::Socket => false,
    };
    if content {
        return Difference::Content;
    }
    if carried_differs(seen, mirrored, options) { Difference::Meta } else { Difference::None }
}

/// Whether metadata that `options` carry differs. Digests of attributes are of what is carried.
pub fn carried_differs(seen: &Meta, mirrored: &Meta, options: &Options) -> bool {
    (options.perms && seen.kind != Kind::Symlink && seen.mode != mirrored.mode)
        || (options.owner && seen.uid != mirrored.uid)
        || (options.group && seen.gid != mirrored.gid)
        || (options.times && !options.held.holds(seen.mtime, mirrored.mtime))
        || seen.attrs != mirrored.attrs
}

/// What shall become of a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Want {
    /// Nothing: it is left as it is.
    Skip,
    /// Left for a later cycle.
    Defer,
    /// The mirror's object stays, made equal where it differs.
    Stay(Difference),
    /// The object that the mirror has at this node moves here, and is made equal where it differs.
    Move(NodeId, Difference),
    /// A new object.
    New,
    /// Another name of the object that will be at this slot's name or node.
    Link(Base),
    /// Nothing shall be at the name.
    Gone,
}

/// Which name a hard link is made from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Base {
    /// What this slot of the round becomes.
    Slot(usize),
    /// A node that is not part of the round.
    Node(NodeId),
}

/// What was found: a want for every slot, or the nodes that have to be looked at before it can be told.
pub enum Verdict {
    /// One want a slot; and nodes that a later cycle has to look at, with what is known of them.
    Wants(Vec<Want>, Vec<(NodeId, u16)>),
    /// The attributes of what is at these slots are wanted too.
    LookAgain(Vec<usize>),
    /// These have to be looked at in the same round.
    Need(Vec<NodeId>),
}

/// Finds out what shall become of every name of the round.
pub fn wants(tree: &Tree, round: &Round, guard: &Guard, halves: &Halves, options: &Options) -> Verdict {
    let (wants, claims, need, later) = Default::default();
    let mut pass = Pass { tree, round, guard, options, written: written(tree, round, halves), wants, claims, need, later };
    pass.moves();
    pass.stays();
    pass.false_links();
    pass.links();
    let unread: Vec<usize> = (0..pass.wants.len()).filter(|at| pass.lacks_attrs(*at)).collect();
    if !unread.is_empty() {
        return Verdict::LookAgain(unread);
    }
    pass.need.sort_unstable();
    pass.need.dedup();
    let missing: Vec<NodeId> = pass.need.iter().copied().filter(|n| !round.asked.contains(&tree.reference(*n))).collect();
    if missing.is_empty() || round.widened >= RENAME_PROBES_MAX {
        return Verdict::Wants(pass.wants, pass.later);
    }
    Verdict::Need(missing)
}

/// The objects of which events say that they were written through a name of this round, and whether that was closed since. It may be a name that nobody knew to be
/// theirs: one more of several, or one that they were renamed to.
fn written(tree: &Tree, round: &Round, halves: &Halves) -> HashMap<Ident, bool> {
    let files = || {
        round.slots.iter().filter_map(|slot| match &slot.seen {
            Seen::Present { stat, .. } if stat.meta.kind == Kind::File => Some((slot, stat)),
            _ => None,
        })
    };
    let several = files().any(|(_, stat)| stat.nlink > 1);
    let mut written = HashMap::new();
    for (slot, stat) in files().filter(|_| several || halves.used) {
        // Where the mirror has a directory that cannot go nothing is ever taken care of.
        let is_wrote = |node: &NodeId| tree.has(*node, flag::WROTE) && tree.kind(*node) != Some(Kind::Dir);
        let wrote = tree.resolve(slot.node).filter(|node| several && is_wrote(node));
        let came = halves.came_written(tree, slot);
        if came || wrote.is_some() {
            *written.entry(stat.ident).or_default() |= came || wrote.is_some_and(|node| !tree.knows_ctime(node));
        }
    }
    written
}

struct Pass<'a> {
    tree: &'a Tree,
    round: &'a Round,
    guard: &'a Guard,
    options: &'a Options,
    written: HashMap<Ident, bool>,
    wants: Vec<Want>,
    /// Which slot takes the object of a node.
    claims: NodeMap<NodeId, usize>,
    need: Vec<NodeId>,
    /// Nodes that must be looked at even if this round cannot be widened any more, and what else to mark them with.
    later: Vec<(NodeId, u16)>,
}

impl<'a> Pass<'a> {
    fn present(&self, slot: usize) -> Option<(&'a Slot, &'a Stat)> {
        let slot = &self.round.slots[slot];
        match &slot.seen {
            Seen::Present { stat, .. } => Some((slot, stat)),
            _ => None,
        }
    }

    /// Whether attributes that were not looked at would be compared, or set: those of a file that is sent are read with it.
    fn lacks_attrs(&self, slot: usize) -> bool {
        let unread = |stat: &Stat| stat.meta.attrs == UNKNOWN;
        matches!(self.wants[slot], Want::Stay(d) | Want::Move(_, d) if d < Difference::Content)
            && self.present(slot).is_some_and(|(_, stat)| unread(stat))
    }

    /// The mirror's filesystem that the slot's name is on, by its top.
    fn volume(&self, slot: usize) -> NodeId {
        self.tree.resolve(self.round.slots[slot].parent).map_or(ROOT, |dir| self.tree.volume(dir))
    }

    /// Whether the mirror's object at `source` can be given another name in `volume`.
    fn is_within_reach(&self, source: NodeId, volume: NodeId) -> bool {
        !self.tree.is_border(source) && self.tree.volume(self.tree.parent(source)) == volume
    }

    fn slot_of(&self, node: NodeId) -> Option<usize> {
        self.round.slot_of.get(&self.tree.reference(node)).copied()
    }

    fn difference(&self, node: NodeId, slot: &Slot) -> Difference {
        let Seen::Present { stat, target, .. } = &slot.seen else { return Difference::None };
        let Some(mirrored) = self.tree.meta(node).filter(|_| !self.tree.has(node, flag::UNKNOWN)) else {
            return Difference::Content;
        };
        if stat.meta.kind == Kind::File && self.is_doubtful(node, slot, stat) {
            return Difference::Content;
        }
        decide(&stat.meta, target.as_deref(), &mirrored, self.tree.target(node), self.options)
    }

    /// Whether events say that content may have changed though size and time are equal: the time was set back, or the change was within the clock's grain.
    /// What was written through one name of an object was written to all; what appeared at a name says something of that name only. A listing is made
    /// where events may have been lost: it counts as any event for what could hide from it, within the clock's grain; not for times set back. What appeared where
    /// only a manifest tells what the mirror has may be another file than that, for it does not tell of which object it is.
    fn is_doubtful(&self, node: NodeId, slot: &Slot, stat: &Stat) -> bool {
        let has = |flags| self.tree.has(node, flags);
        let of_name = |flags| self.tree.resolve(slot.node).is_some_and(|n| self.tree.has(n, flags));
        let others = || self.tree.of_ident(&stat.ident).filter(|n| !self.is_past(*n));
        let names = || self.tree.resolve(slot.node).into_iter().chain(others());
        let in_round = self.written.get(&stat.ident).copied();
        let wrote = || has(flag::WROTE) || in_round.is_some() || names().any(|n| self.tree.has(n, flag::WROTE));
        // A write sets the time before it stores the bytes: what was read between has the right time and the wrong content, and a close by the writer tells.
        let closed = || in_round == Some(true) || names().any(|n| self.tree.has(n, flag::WROTE) && !self.tree.knows_ctime(n));
        let came = || has(flag::CAME) || of_name(flag::CAME);
        // What was written through a name of which nobody knew that it is the object's may be older than when its content was last found equal.
        let stranger = || of_name(flag::WROTE) && self.tree.resolve(slot.node).is_some_and(|n| self.tree.ident(n) != Some(stat.ident));
        (!self.tree.has_ctime(node, stat.ctime) && wrote())
            || closed()
            || stranger()
            || (has(flag::RACY) && (came() || wrote()))
            || ((has(flag::REUSE) || self.tree.ident(node).is_none()) && came())
            || (slot.listed && has(flag::RACY | flag::REUSE))
    }

    /// Whether the node is there for its deletion is held only: what was written through it was told to the object's other names when it went.
    fn is_past(&self, node: NodeId) -> bool {
        let is_back = || self.slot_of(node).is_some_and(|at| self.present(at).is_some());
        self.guard.keeps(self.tree, node) && !is_back()
    }

    /// Whether the node's name was looked at in this round and holds something else, or nothing, now; `None` if it was not looked at.
    fn left(&self, node: NodeId, ident: &Ident) -> Option<bool> {
        let slot = &self.round.slots[self.slot_of(node)?];
        match &slot.seen {
            Seen::Absent => Some(true),
            Seen::Present { stat, .. } => Some(stat.ident != *ident),
            Seen::Failed(_) => None,
        }
    }

    /// First pass: what is decided by one name alone, and moves.
    fn moves(&mut self) {
        for at in 0..self.round.slots.len() {
            let slot = &self.round.slots[at];
            let want = match (&slot.seen, self.tree.resolve(slot.node)) {
                (_, None) | (Seen::Failed(_), _) => Want::Skip,
                (Seen::Absent, _) => Want::Gone,
                (Seen::Present { stat, .. }, Some(node)) => self.arrival(at, node, stat),
            };
            self.wants.push(want);
            if let Some(node) = self.tree.resolve(slot.node) {
                self.other_names(node);
            }
        }
    }

    /// What was written through a name that is gone since is told of that name only: the object's other names have to be looked at.
    fn other_names(&mut self, node: NodeId) {
        let Some(ident) = self.tree.ident(node).filter(|ident| self.left(node, ident) == Some(true)) else { return };
        // A name whose deletion is held has been gone before: nothing was written through it since, or two of them would be looked at for each other for ever.
        if self.guard.keeps(self.tree, node) {
            return;
        }
        let is_other = |o: &NodeId| *o != node && self.slot_of(*o).is_none() && !self.guard.keeps(self.tree, *o);
        let others: Vec<NodeId> = self.tree.of_ident(&ident).filter(is_other).collect();
        let wrote = if self.tree.has(node, flag::WROTE) { flag::WROTE } else { 0 };
        self.later.extend(others.into_iter().filter(|o| self.tree.kind(*o) != Some(Kind::Dir)).map(|o| (o, wrote)));
    }

    fn arrival(&mut self, at: usize, node: NodeId, stat: &Stat) -> Want {
        let slot = &self.round.slots[at];
        let same_kind = self.tree.kind(node) == Some(stat.meta.kind);
        if self.tree.has(node, flag::UNKNOWN) {
            return Want::New;
        }
        let ident = self.tree.ident(node);
        if same_kind && (ident.is_none() || ident == Some(stat.ident)) {
            return Want::Stay(self.difference(node, slot));
        }
        if !self.options.delete || slot.dirs_stay {
            return Want::New;
        }
        let volume = self.volume(at);
        for source in self.tree.of_ident(&stat.ident) {
            let fits = source != node
                && source != ROOT
                && self.tree.kind(source) == Some(stat.meta.kind)
                && !self.claims.contains_key(&source)
                && !self.guard.keeps_above(self.tree, source);
            if !fits || self.tree.has(source, flag::UNKNOWN | flag::BUSY) || !self.is_within_reach(source, volume) {
                continue;
            }
            match self.left(source, &stat.ident) {
                // Content read within the clock's grain cannot be trusted to be this object's: an inode number may have been used again.
                Some(true) if !self.tree.has(source, flag::RACY | flag::REUSE) => {
                    let difference = self.difference(source, slot);
                    // A file that is not whole in the mirror must not show up under its new name before its content does.
                    if stat.meta.kind == Kind::Dir || difference < Difference::Content {
                        self.claims.insert(source, at);
                        return Want::Move(source, difference);
                    }
                }
                Some(_) => {}
                None => self.need.push(source),
            }
        }
        Want::New
    }

    /// Second pass: an object of the same kind that nobody takes away is changed in place.
    fn stays(&mut self) {
        for at in 0..self.wants.len() {
            if self.wants[at] != Want::New {
                continue;
            }
            let Some((slot, stat)) = self.present(at) else { continue };
            let Some(node) = self.tree.resolve(slot.node) else { continue };
            let stays =
                self.tree.kind(node) == Some(stat.meta.kind) && !self.claims.contains_key(&node) && !self.tree.has(node, flag::UNKNOWN);
            if stays {
                // Another object than the mirror's: for a directory only its metadata is compared here, its entries when it is listed.
                let same = stat.meta.kind == Kind::Dir;
                self.wants[at] = Want::Stay(if same { self.difference(node, slot) } else { Difference::Content });
            }
        }
    }

    /// Third pass: names that are one object in the mirror but not in the source are made anew.
    fn false_links(&mut self) {
        let mut broken = HashSet::new();
        for at in 0..self.wants.len() {
            let (Some((slot, stat)), Want::Stay(difference)) = (self.present(at), self.wants[at]) else { continue };
            let Some(node) = self.tree.resolve(slot.node).filter(|n| self.tree.group(*n) != 0) else { continue };
            if difference != Difference::Content
                && self.tree.of_group(self.tree.group(node)).any(|o| self.is_false_link(node, stat, o, &broken))
            {
                broken.insert(node);
                self.wants[at] = Want::Stay(Difference::Content);
            }
        }
    }

    fn is_false_link(&self, node: NodeId, stat: &Stat, other: NodeId, broken: &HashSet<NodeId>) -> bool {
        if other == node || broken.contains(&other) {
            return false;
        }
        let Some(at) = self.slot_of(other) else {
            return self.tree.ident(other).is_some_and(|ident| ident != stat.ident);
        };
        match (&self.round.slots[at].seen, self.wants[at]) {
            (Seen::Present { stat: seen, .. }, Want::Stay(Difference::None | Difference::Meta)) => seen.ident != stat.ident,
            _ => false,
        }
    }

    /// Fourth pass: names of one object in the source become names of one object in the mirror, of one in each of its filesystems, or copies where links are not carried.
    fn links(&mut self) {
        // A name that was looked at before the object got its second one is part of the set as well.
        let several = |at: &usize| self.present(*at).filter(|(_, stat)| stat.nlink > 1 && stat.meta.kind != Kind::Dir);
        let linked: HashSet<Ident> = (0..self.wants.len()).filter_map(|at| several(&at)).map(|(_, stat)| stat.ident).collect();
        if linked.is_empty() {
            return;
        }
        let mut sets: HashMap<(Ident, NodeId), Vec<usize>> = HashMap::new();
        let mut order = Vec::new();
        for at in 0..self.wants.len() {
            let Some((_, stat)) = self.present(at) else { continue };
            if linked.contains(&stat.ident) && matches!(self.wants[at], Want::Stay(_) | Want::Move(..) | Want::New) {
                let key = (stat.ident, self.volume(at));
                let set = sets.entry(key).or_default();
                if set.is_empty() {
                    order.push(key);
                }
                set.push(at);
            }
        }
        for key in order {
            if let Some(set) = sets.get(&key) {
                self.link_set(&key.0, key.1, set);
            }
        }
    }

    fn link_set(&mut self, ident: &Ident, volume: NodeId, set: &[usize]) {
        let (outside, elsewhere): (Vec<NodeId>, Vec<NodeId>) = self
            .tree
            .of_ident(ident)
            .filter(|n| {
                self.slot_of(*n).is_none() && self.tree.kind(*n).is_some_and(|k| k != Kind::Dir) && !self.guard.keeps(self.tree, *n)
            })
            .partition(|n| self.options.hard_links && self.is_within_reach(*n, volume));
        if !elsewhere.is_empty() {
            self.copies(ident, set, &elsewhere);
        }
        if !self.options.hard_links {
            return;
        }
        let busy = |n: &NodeId| self.tree.has(*n, flag::BUSY);
        if outside.iter().any(busy) {
            // What was changed through the names of the set is told of those only, and they may be gone by then.
            let wrote = self.wrote(set);
            self.later.extend(outside.into_iter().filter(busy).map(|n| (n, wrote)));
            set.iter().for_each(|at| self.wants[*at] = Want::Defer);
            return;
        }
        // Names read within the clock's grain may name another object by now: they have to be looked at.
        self.need.extend(outside.iter().filter(|n| self.tree.has(**n, flag::RACY | flag::REUSE)));
        let in_order = |want: Want| matches!(want, Want::Stay(d) | Want::Move(_, d) if d < Difference::Content);
        // A name that only a manifest tells of may hold what the object was before it was written through another: where that is known, it counts, unless they are one in
        // the mirror.
        let is_known = |node: &NodeId| self.tree.ident(*node) == Some(*ident);
        let known = set.iter().filter_map(|at| self.mirrored(*at)).filter(is_known).chain(outside.iter().copied());
        let known: HashSet<u32> = known.map(|node| self.tree.group(node)).collect();
        let is_proven =
            |node: NodeId| is_known(&node) || known.is_empty() || (self.tree.group(node) != 0 && known.contains(&self.tree.group(node)));
        let equal = set.iter().copied().find(|at| in_order(self.wants[*at]) && self.mirrored(*at).is_none_or(is_proven));
        let first = &self.round.slots[set[0]];
        let good_outside = outside.iter().copied().find(|n| self.difference(*n, first) < Difference::Content);
        let base = match (equal, good_outside) {
            (Some(at), _) => Base::Slot(at),
            (None, Some(node)) => Base::Node(node),
            (None, None) => {
                // The content goes to one name, and the other names follow it: they have to be known.
                Base::Slot(set.iter().copied().find(|at| !in_order(self.wants[*at])).unwrap_or(set[0]))
            }
        };
        let base_group = match base {
            Base::Node(node) => self.tree.group(node),
            Base::Slot(at) if in_order(self.wants[at]) => self.mirrored(at).map_or(0, |n| self.tree.group(n)),
            Base::Slot(_) => 0,
        };
        for at in set.iter().copied().filter(|at| base != Base::Slot(*at)) {
            let linked = in_order(self.wants[at]) && base_group != 0 && self.mirrored(at).is_some_and(|n| self.tree.group(n) == base_group);
            if !linked {
                if let Want::Move(source, _) = self.wants[at] {
                    self.claims.remove(&source);
                }
                self.wants[at] = Want::Link(base);
            }
        }
        // Names outside the round that are no name of the base's object in the mirror have to follow as well.
        for node in outside {
            if base != Base::Node(node) && (base_group == 0 || self.tree.group(node) != base_group) {
                self.need.push(node);
                self.later.push((node, 0));
            }
        }
    }

    /// The object's names on other filesystems of the mirror, or all where links are not carried, are copies, which do not change with it: they are looked at when it
    /// does. A name of which nobody knew that it is the object's may be found equal, because the mirror had it before, after a change that was told of this name only:
    /// copies that are otherwise were looked at too early.
    fn copies(&mut self, ident: &Ident, set: &[usize], elsewhere: &[NodeId]) {
        let same = |at: &usize| matches!(self.wants[*at], Want::Stay(Difference::None) | Want::Move(_, Difference::None));
        let is_known = |at: &usize| self.mirrored(*at).is_some_and(|node| self.tree.ident(node) == Some(*ident));
        // Where links are not carried only what differs from what was seen is looked at: names that fail or wait would be looked at for each other without end.
        let changed = self.options.hard_links && !set.iter().all(same);
        let witness = set.iter().copied().find(|at| !self.options.hard_links || !is_known(at));
        let is_behind = |node: &NodeId| witness.is_some_and(|at| self.difference(*node, &self.round.slots[at]) != Difference::None);
        let stale: Vec<NodeId> = elsewhere.iter().copied().filter(|node| changed || is_behind(node)).collect();
        let wrote = self.wrote(set);
        self.later.extend(stale.into_iter().map(|node| (node, wrote)));
    }

    /// What to mark the object's other names with: whether it was written through one of these.
    fn wrote(&self, set: &[usize]) -> u16 {
        let mut nodes = set.iter().filter_map(|at| self.tree.resolve(self.round.slots[*at].node));
        if nodes.any(|n| self.tree.has(n, flag::WROTE)) { flag::WROTE } else { 0 }
    }

    /// The node whose object of the mirror the slot keeps.
    fn mirrored(&self, at: usize) -> Option<NodeId> {
        match self.wants[at] {
            Want::Stay(_) => self.tree.resolve(self.round.slots[at].node),
            Want::Move(source, _) => Some(source),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::meta::Time;
    use crate::model::times::Times;

    fn meta(kind: Kind) -> Meta {
        Meta { kind, mode: 0o644, uid: 1, gid: 2, mtime: Time { sec: 3, nsec: 4 }, size: 5, rdev: 6, attrs: 7 }
    }

    #[test]
    fn the_table_of_differences() {
        let on = Options::mirror();
        let off = Options { perms: false, owner: false, group: false, times: false, ..on.clone() };
        let base = meta(Kind::File);
        for (seen, with, without) in [
            (base, Difference::None, Difference::None),
            (Meta { mode: 0o600, ..base }, Difference::Meta, Difference::None),
            (Meta { uid: 9, ..base }, Difference::Meta, Difference::None),
            (Meta { gid: 9, ..base }, Difference::Meta, Difference::None),
            (Meta { attrs: 9, ..base }, Difference::Meta, Difference::Meta),
            (Meta { attrs: 0, ..base }, Difference::Meta, Difference::Meta),
            (Meta { size: 9, ..base }, Difference::Content, Difference::Content),
            (Meta { mtime: Time { sec: 3, nsec: 5 }, ..base }, Difference::Content, Difference::Content),
            (Meta { kind: Kind::Fifo, ..base }, Difference::Content, Difference::Content),
        ] {
            assert_eq!(decide(&seen, None, &base, None, &on), with, "{seen:?}");
            assert_eq!(decide(&seen, None, &base, None, &off), without, "{seen:?}");
        }
        // Seconds only are told by a manifest; what was sent is known whole.
        let coarse = Options { held: Times::new(1_000_000_000, 0, 100).unwrap(), ..on.clone() };
        for (seen, mirrored, expected) in
            [((3, 4), (3, 0), Difference::None), ((3, 5), (3, 4), Difference::Content), ((900, 4), (100, 0), Difference::None)]
        {
            let at = |(sec, nsec)| Meta { mtime: Time { sec, nsec }, ..base };
            assert_eq!(decide(&at(seen), None, &at(mirrored), None, &coarse), expected, "{seen:?}");
        }
        let link = meta(Kind::Symlink);
        assert_eq!(decide(&link, Some(b"a"), &link, Some(b"b"), &on), Difference::Content);
        assert_eq!(decide(&Meta { mode: 0o777, ..link }, Some(b"a"), &link, Some(b"a"), &on), Difference::None);
        assert_eq!(decide(&Meta { mtime: Time::default(), ..link }, Some(b"a"), &link, Some(b"a"), &on), Difference::Meta);
        let device = meta(Kind::Char);
        assert_eq!(decide(&Meta { rdev: 7, ..device }, None, &device, None, &on), Difference::Content);
    }
}
