//! Turning the wants of a round into a cycle. Each operation is executed against the tree as it is emitted, so that every path is right at
//! the moment its operation will run. Part of the planner.

use std::sync::Arc;

use crate::limits::INLINE_FILE_BYTES_MAX;
use crate::model::attrs::UNKNOWN;
use crate::model::cycle::{Cycle, FileBatch, FileTask, NodeRef};
use crate::model::meta::{Ident, Kind, Meta, Stat};
use crate::model::op::{Op, Spot};
use crate::model::path::{NameBuf, RelPath};
use crate::model::probe::Seen;
use crate::plan::aftermath::Failures;
use crate::plan::flight::Flight;
use crate::plan::planner::{Action, Planner};
use crate::plan::reconcile::{Base, Difference, Want, carried_differs};
use crate::plan::round::{Round, Slot};
use crate::plan::tree::{NodeId, Tree, flag};
use crate::plan::{NodeMap, NodeSet};

/// Files whose reading goes to one worker at once.
const BATCH_FILES_MAX: usize = 64;
/// Bytes whose reading goes to one worker at once.
const BATCH_BYTES_MAX: u64 = 1 << 20;

/// What has to wait for something that is on its way is looked at again after so long.
const DEFER_NS: u64 = 1_000_000;

/// One cycle being built.
pub(super) struct Emit<'p> {
    pub(super) planner: &'p mut Planner,
    pub(super) round: Round,
    pub(super) wants: Vec<Want>,
    pub(super) state: Vec<State>,
    /// Which unfinished move takes the object of a node.
    pub(super) claims: NodeMap<NodeId, usize>,
    pub(super) cycle: Cycle,
    pub(super) pre: Vec<(NodeRef, NodeRef)>,
    pub(super) files: Vec<(NodeRef, u32)>,
    pub(super) post: Vec<NodeRef>,
    /// Hard-link groups of objects that lose a name to a new object.
    pub(super) replaced: Vec<u32>,
    /// Directories whose entries the cycle changes, and directories whose metadata differs.
    pub(super) touched: NodeSet<NodeId>,
    /// What is parked, or could not be because of a mount point in it, to be deleted.
    pub(super) trash: Vec<NodeRef>,
    /// Directories that stay because of a mount point in them.
    pub(super) above_borders: NodeSet<NodeId>,
    pub(super) batches: NodeMap<NodeId, usize>,
    /// Large files whose staging begins with it.
    pub(super) new_stages: NodeSet<u64>,
    /// Names to be looked at from a time on: their node went elsewhere after something new happened at the name, or they have to wait.
    pub(super) look_again: Vec<(NodeRef, NameBuf, u64)>,
    pub(super) dir_path: Option<(NodeId, RelPath)>,
    pub(super) now: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    Open,
    Visiting,
    Done,
    /// A new object was made for it in this cycle.
    Made,
}

impl Planner {
    /// Builds the cycle of a round, sends it off if there is anything to do, and leaves the tree as it will be after it.
    pub(super) fn emit(&mut self, round: Round, wants: Vec<Want>, now: u64, actions: &mut Vec<Action>) {
        self.tell_differences(&round, &wants);
        self.note_beyond(&round);
        let claims = wants.iter().enumerate().filter_map(|(at, w)| if let Want::Move(source, _) = w { Some((*source, at)) } else { None });
        let mut emit = Emit {
            state: vec![State::Open; wants.len()],
            claims: claims.collect(),
            round,
            wants,
            cycle: Cycle::default(),
            pre: Vec::new(),
            files: Vec::new(),
            post: Vec::new(),
            replaced: Vec::new(),
            touched: NodeSet::default(),
            trash: Vec::new(),
            above_borders: NodeSet::default(),
            batches: NodeMap::default(),
            new_stages: NodeSet::default(),
            look_again: Vec::new(),
            dir_path: None,
            now,
            planner: self,
        };
        emit.run(actions);
        let Emit { mut cycle, pre, files, post, replaced, round: Round { oldest, .. }, .. } = emit;
        self.drop_unwanted_stages(actions);
        if pre.is_empty() && files.is_empty() && post.is_empty() {
            return;
        }
        if self.is_dry() {
            self.pretend(&cycle);
            return;
        }
        cycle.number = self.next_cycle;
        self.next_cycle += 1;
        for batch in &mut cycle.batches {
            batch.cycle = cycle.number;
            self.busy += batch.files.len();
        }
        let cycle = Arc::new(cycle);
        self.scrub.sent(&cycle);
        self.flights.push_back(Flight { cycle: cycle.clone(), pre, files, post, replaced, failures: Failures::default(), oldest });
        actions.push(Action::Cycle(cycle));
    }
}

impl Emit<'_> {
    pub(super) fn run(&mut self, actions: &mut Vec<Action>) {
        for at in 0..self.wants.len() {
            match self.wants[at] {
                Want::Move(..) => self.place(at),
                Want::Defer => self.defer(at),
                _ => {}
            }
        }
        // All of PRE first: every path of FILES and POST is one after it.
        for at in 0..self.wants.len() {
            self.prepare(at);
        }
        for at in 0..self.wants.len() {
            self.build(at, actions);
        }
        self.link_all();
        self.delete_all(actions);
        self.directories();
        self.drop_empty_names();
        for (parent, name, at) in std::mem::take(&mut self.look_again) {
            if let Some(parent) = self.planner.tree.resolve(parent) {
                let id = self.tree().child_or_insert(parent, name.as_name());
                self.planner.dirty.mark_at(&mut self.planner.tree, id, flag::LOOK, at);
                self.planner.owe_after(id);
            }
        }
    }

    /// The node leaves its name. An event that came since the name was looked at is about the name, not about what was there.
    pub(super) fn leaves(&mut self, id: NodeId) {
        let tree = &self.planner.tree;
        if tree.has(id, flag::LOOK)
            && let Some(name) = tree.name_buf(id)
        {
            self.look_again.push((tree.reference(tree.parent(id)), name, self.now));
        }
    }

    /// Names that were looked at, hold nothing in the mirror and wait for nothing are forgotten.
    pub(super) fn drop_empty_names(&mut self) {
        for slot in &self.round.slots {
            if let Some(id) = self.planner.tree.resolve(slot.node)
                && self.planner.tree.is_blank(id)
                && !self.planner.is_troubled(id)
                && !self.planner.staged.has(slot.node)
            {
                self.planner.tree.remove(id);
            }
        }
    }

    /// Whether two entries of one kind differ in metadata that is carried, for what has no content or has been found to have the same.
    pub(super) fn meta_differs(&self, seen: &Meta, mirrored: &Meta) -> bool {
        carried_differs(seen, mirrored, &self.planner.options)
    }

    pub(super) fn tree(&mut self) -> &mut Tree {
        &mut self.planner.tree
    }

    /// What was seen at a slot, copied out, and the node of its directory; `None` if either is gone or the directory cannot be written to now.
    pub(super) fn present(&self, at: usize) -> Option<(NodeId, Stat)> {
        let slot = &self.round.slots[at];
        let parent = self.parent(slot)?;
        match &slot.seen {
            Seen::Present { stat, .. } => Some((parent, *stat)),
            _ => None,
        }
    }

    pub(super) fn parent(&self, slot: &Slot) -> Option<NodeId> {
        let tree = &self.planner.tree;
        tree.resolve(slot.parent).filter(|p| tree.kind(*p) == Some(Kind::Dir) && !tree.has(*p, flag::UNKNOWN))
    }

    pub(super) fn at_name(&self, parent: NodeId, at: usize) -> Option<NodeId> {
        self.planner.tree.child(parent, self.round.slots[at].name.as_bytes())
    }

    /// Leaves the name of a slot for later. The name, not the node that is there now: that may move away in this cycle.
    pub(super) fn defer(&mut self, at: usize) {
        let slot = &self.round.slots[at];
        self.look_again.push((slot.parent, slot.name.clone(), self.now + DEFER_NS));
    }

    pub(super) fn dir_path(&mut self, dir: NodeId) -> Option<RelPath> {
        if let Some((of, path)) = &self.dir_path
            && *of == dir
        {
            return Some(path.clone());
        }
        let path = self.planner.tree.path(dir).ok()?;
        self.dir_path = Some((dir, path.clone()));
        Some(path)
    }

    pub(super) fn spot(&mut self, id: NodeId) -> Option<Spot> {
        let parent = self.planner.tree.parent(id);
        let name = self.planner.tree.name_buf(id)?;
        Some(Spot { dir: self.dir_path(parent)?, name })
    }

    /// The spot of a slot; a path that is too long for any operation is reported.
    pub(super) fn slot_spot(&mut self, parent: NodeId, at: usize) -> Option<Spot> {
        let name = self.round.slots[at].name.clone();
        let spot = self.dir_path(parent).filter(|dir| dir.join(name.as_name()).is_ok()).map(|dir| Spot { dir, name });
        if spot.is_none() {
            self.planner.trouble(parent, "carry an entry of the directory", libc::ENAMETOOLONG, self.now);
        }
        spot
    }

    pub(super) fn push_pre(&mut self, op: Op, parent: NodeId) {
        self.push_pre_from(op, parent, parent);
    }

    pub(super) fn push_pre_from(&mut self, op: Op, parent: NodeId, old_parent: NodeId) {
        self.touched.extend([parent, old_parent]);
        self.pre.push((self.planner.tree.reference(parent), self.planner.tree.reference(old_parent)));
        self.cycle.pre.push(op);
        self.dir_path = None;
    }

    pub(super) fn push_post(&mut self, op: Op, parent: NodeId) {
        if !matches!(op, Op::DirMeta { .. }) {
            self.touched.insert(parent);
        }
        self.post.push(self.planner.tree.reference(parent));
        self.cycle.post.push(op);
    }

    pub(super) fn next_id(&mut self) -> u64 {
        self.planner.next_id += 1;
        self.planner.next_id
    }

    // What is made or changed at its name.

    /// The node at the slot's name that stays there, if it is of the kind that was seen, and how it differs.
    fn staying(&self, parent: NodeId, at: usize, stat: &Stat) -> Option<(NodeId, Difference)> {
        let (Want::Stay(difference) | Want::Move(_, difference)) = self.wants[at] else { return None };
        let node = self.at_name(parent, at).filter(|n| self.planner.tree.kind(*n) == Some(stat.meta.kind))?;
        (difference < Difference::Content || stat.meta.kind == Kind::Dir).then_some((node, difference))
    }

    /// Makes the slot's name ready for what comes, and makes what PRE makes.
    fn prepare(&mut self, at: usize) {
        let Some((parent, stat)) = self.present(at) else { return };
        let linked = matches!(self.wants[at], Want::Link(_));
        let made = matches!(self.wants[at], Want::New | Want::Stay(_) | Want::Move(..)) && self.staying(parent, at, &stat).is_none();
        let ready = if linked {
            self.vacate(parent, at, false)
        } else if made && stat.meta.kind != Kind::File {
            self.make(parent, at, &stat);
            true
        } else if made && (self.can_come(&stat) || self.at_name(parent, at).is_some_and(|id| self.planner.tree.holds_border(id))) {
            self.vacate(parent, at, false)
        } else {
            true
        };
        if !ready {
            self.wants[at] = Want::Skip;
            self.rebase(at);
        }
    }

    /// The slot that others were to be linked to has no place: one of them takes its part.
    fn rebase(&mut self, lost: usize) {
        let mut heir = None;
        for at in 0..self.wants.len() {
            if self.wants[at] == Want::Link(Base::Slot(lost)) {
                self.wants[at] = heir.map_or(Want::New, |first| Want::Link(Base::Slot(first)));
                heir = heir.or(Some(at));
            }
        }
        if let Some(at) = heir.filter(|at| *at < lost) {
            self.prepare(at);
        }
    }

    pub(super) fn build(&mut self, at: usize, actions: &mut Vec<Action>) {
        let Some((parent, stat)) = self.present(at) else { return };
        match (self.wants[at], self.staying(parent, at, &stat)) {
            (Want::Skip | Want::Defer | Want::Gone | Want::Link(_), _) => {}
            (_, Some((node, Difference::None))) => self.keep(node, at, &stat),
            (_, Some((node, _))) => self.set_meta(node, at, &stat),
            (_, None) if stat.meta.kind == Kind::File => self.make_file(parent, at, &stat, actions),
            // Made already.
            (_, None) => {}
        }
    }

    /// The object is as it should be; which object of the source it is may be news.
    pub(super) fn keep(&mut self, node: NodeId, at: usize, stat: &Stat) {
        if stat.meta.kind == Kind::Dir {
            self.scan_if_new(node, at, stat);
        } else {
            self.planner.heard(node, stat);
            self.keep_time(node, &stat.meta);
        }
        self.tree().set_ident(node, &stat.ident);
    }

    /// Where a time is another in the mirror only because it cannot be held there, the tree has the source's: by it the file is known when its content is compared.
    fn keep_time(&mut self, node: NodeId, seen: &Meta) {
        let Planner { tree, options, .. } = &mut *self.planner;
        if let Some(have) = tree.meta(node).filter(|have| have.mtime != seen.mtime && options.held.holds(seen.mtime, have.mtime)) {
            tree.update_meta(node, &Meta { mtime: seen.mtime, ..have });
        }
    }

    /// A directory that is another than before, or was never listed, or is part of a deep listing, has to be listed.
    pub(super) fn scan_if_new(&mut self, node: NodeId, at: usize, stat: &Stat) {
        let slot = &self.round.slots[at];
        let Seen::Present { key, .. } = &slot.seen else { return };
        let deep = if slot.deep { flag::DEEP } else { 0 };
        let tree = &self.planner.tree;
        let known = tree.key(node).is_some() || tree.has(node, flag::UNWATCHED);
        let same = tree.ident(node) == Some(stat.ident) && known && (key.is_none() || tree.key(node) == key.as_ref());
        if !same || slot.deep {
            self.planner.dirty.mark(&mut self.planner.tree, node, flag::SCAN | deep);
        } else if !tree.has(node, flag::SCAN | flag::LOOK) {
            self.tree().clear(node, flag::CAME);
        }
    }

    pub(super) fn set_meta(&mut self, node: NodeId, at: usize, stat: &Stat) {
        self.keep(node, at, stat);
        if stat.meta.kind == Kind::Dir {
            self.touched.insert(node);
            let reference = self.planner.tree.reference(node);
            self.round.dirs.entry(reference).or_insert(*stat);
            return;
        }
        self.push_meta(node, &stat.meta);
    }

    /// What the digest of the metadata stands for goes along with the cycle.
    pub(super) fn take_attrs(&mut self, meta: &Meta) {
        if meta.attrs != 0
            && let Some(attrs) = self.round.attrs.get(&meta.attrs)
        {
            self.cycle.attrs.entry(meta.attrs).or_insert_with(|| attrs.clone());
        }
    }

    pub(super) fn push_meta(&mut self, node: NodeId, meta: &Meta) {
        let Some(spot) = self.spot(node) else { return };
        let index = self.file_index(node);
        self.take_attrs(meta);
        self.cycle.metas.push((index, Op::SetMeta { at: spot, meta: *meta }));
        self.tree().update_meta(node, meta);
    }

    pub(super) fn file_index(&mut self, node: NodeId) -> u32 {
        self.files.push((self.planner.tree.reference(node), self.planner.tree.group(node)));
        (self.files.len() - 1) as u32
    }

    /// Notes in the tree that the mirror has what was seen at the slot.
    pub(super) fn record(&mut self, node: NodeId, at: usize, meta: &Meta) {
        let Emit { planner, round, .. } = self;
        planner.tree.set_meta(node, meta);
        if let Seen::Present { target: Some(target), .. } = &round.slots[at].seen {
            planner.tree.set_target(node, target);
        }
    }

    pub(super) fn make(&mut self, parent: NodeId, at: usize, stat: &Stat) {
        let directory = stat.meta.kind == Kind::Dir;
        if !self.vacate(parent, at, directory) {
            return;
        }
        let Some(spot) = self.slot_spot(parent, at) else { return };
        let node = self.tree().child_or_insert(parent, spot.name.as_name());
        self.inherit_debt(at, node);
        // Perhaps the mirror has the directory already, and something in it: that is found out wherever the directory goes meanwhile.
        let unlisted = directory && (self.planner.tree.has(node, flag::UNKNOWN) || self.planner.is_unlisted(parent));
        let relist = if unlisted { flag::RELIST } else { 0 };
        if !directory {
            self.take_attrs(&stat.meta);
        }
        let op = match (&self.round.slots[at].seen, stat.meta.kind) {
            (_, Kind::Dir) => Op::Mkdir { at: spot, meta: without_attrs(&stat.meta) },
            (Seen::Present { target: Some(target), .. }, Kind::Symlink) => {
                Op::Symlink { at: spot, target: target.clone(), meta: stat.meta }
            }
            _ => Op::Special { at: spot, meta: stat.meta },
        };
        self.push_pre(op, parent);
        self.made(node, stat);
        self.record(node, at, &stat.meta);
        self.state[at] = State::Made;
        if directory {
            self.tree().take_key(node);
            let deep = if self.round.slots[at].deep { flag::DEEP } else { 0 };
            self.planner.dirty.mark(&mut self.planner.tree, node, flag::SCAN | deep | relist);
            self.touched.insert(node);
            let reference = self.planner.tree.reference(node);
            self.round.dirs.insert(reference, *stat);
        }
    }

    pub(super) fn made(&mut self, node: NodeId, stat: &Stat) {
        let group = self.planner.tree.group(node);
        if group != 0 {
            self.replaced.push(group);
        }
        let tree = self.tree();
        tree.set_group(node, 0);
        tree.clear(node, flag::UNKNOWN | flag::RACY | flag::REUSE | flag::PROTECTED);
        tree.set_ident(node, &stat.ident);
        self.planner.heard(node, stat);
    }

    pub(super) fn make_file(&mut self, parent: NodeId, at: usize, stat: &Stat, actions: &mut Vec<Action>) {
        if stat.meta.size > INLINE_FILE_BYTES_MAX as u64 && !self.planner.is_dry() {
            self.place_staged(parent, at, stat, actions);
            return;
        }
        let Some(spot) = self.slot_spot(parent, at) else { return };
        let Some(expect) = self.planner.tree.ident(parent) else {
            // Which directory of the source it is in is not known until that one is looked at.
            self.defer(at);
            return;
        };
        let node = self.tree().child_or_insert(parent, spot.name.as_name());
        self.inherit_debt(at, node);
        let insist = self.planner.insist(node);
        let new = self.tree().kind(node).is_none();
        let base = self.planner.small_base(node);
        self.touched.insert(parent);
        self.made(node, stat);
        // Attributes that were not looked at are told by the report.
        self.record(node, at, &if stat.meta.attrs == UNKNOWN { Meta { attrs: 0, ..stat.meta } } else { stat.meta });
        self.state[at] = State::Made;
        self.tree().set(node, flag::BUSY);
        let index = self.file_index(node);
        let node = self.planner.tree.reference(node);
        let attrs = self.round.attrs.get(&stat.meta.attrs).cloned();
        let task = FileTask { index, node, name: spot.name, stat: *stat, attrs, new, insist, base };
        self.add_to_batch(parent, spot.dir, expect, task);
    }

    /// Whether the file's content goes to the mirror in this cycle.
    fn can_come(&self, stat: &Stat) -> bool {
        stat.meta.size <= INLINE_FILE_BYTES_MAX as u64
            || self.planner.is_dry()
            || self.planner.staged.get(&stat.ident).is_some_and(|s| s.fits(stat))
    }

    pub(super) fn add_to_batch(&mut self, parent: NodeId, dir: RelPath, expect: Ident, task: FileTask) {
        let fits = |batch: &FileBatch| {
            batch.files.len() < BATCH_FILES_MAX
                && batch.files.iter().map(|f| f.stat.meta.size).sum::<u64>() + task.stat.meta.size <= BATCH_BYTES_MAX
        };
        match self.batches.get(&parent).copied().filter(|at| fits(&self.cycle.batches[*at])) {
            Some(at) => self.cycle.batches[at].files.push(task),
            None => {
                self.batches.insert(parent, self.cycle.batches.len());
                self.cycle.batches.push(FileBatch { cycle: 0, dir, expect, files: vec![task] });
            }
        }
    }

    /// Sets the metadata of the directories that the cycle touched or that differ, deepest first.
    pub(super) fn directories(&mut self) {
        for (dir, stat) in &self.round.dirs {
            let tree = &self.planner.tree;
            let Some(dir) = tree.resolve(*dir) else { continue };
            if !self.touched.contains(&dir) && tree.kind(dir) == Some(Kind::Dir) {
                let differs = tree.meta(dir).is_none_or(|m| self.meta_differs(&stat.meta, &m));
                if differs {
                    self.touched.insert(dir);
                }
            }
        }
        let tree = &self.planner.tree;
        let mut dirs: Vec<(u32, NodeId)> = self.touched.iter().filter(|d| tree.is_live(**d)).map(|d| (tree.depth(*d), *d)).collect();
        dirs.sort_unstable_by(|a, b| b.cmp(a));
        for (_, dir) in dirs {
            // In what is parked nothing is as in the source.
            if self.planner.tree.kind(dir) != Some(Kind::Dir) || self.planner.parked_above(dir).is_some() {
                continue;
            }
            let Some(stat) = self.round.dirs.get(&self.planner.tree.reference(dir)).copied() else {
                // Touched without having been looked at: a later cycle sets its time.
                self.tree().doubt_meta(dir);
                self.planner.dirty.mark(&mut self.planner.tree, dir, flag::OWN);
                self.planner.owe_own(dir);
                continue;
            };
            let Ok(path) = self.planner.tree.path(dir) else { continue };
            self.tree().set_meta(dir, &stat.meta);
            self.take_attrs(&stat.meta);
            self.push_post(Op::DirMeta { dir: path, meta: stat.meta }, dir);
        }
    }
}

/// What a directory is made with. Its attributes come with the rest of its metadata, when its entries are there; until then nobody gets in by the group's bits,
/// which may be the mask of an access control list.
fn without_attrs(meta: &Meta) -> Meta {
    if meta.attrs == 0 { *meta } else { Meta { attrs: 0, mode: meta.mode & 0o7700, ..*meta } }
}
