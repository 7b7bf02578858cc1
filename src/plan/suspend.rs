//! Between two connections: the receiver lives on, and so does what is known of its mirror. Part of the planner.
//!
//! What the receiver did of the cycles that it has not acknowledged, and what failed, is not known. It did a part of it: all that any of them may have touched is *in doubt*, whatever it
//! was, and is looked at and sent whole. As long as no directory was made, moved or removed by them, every path of theirs is one of the tree, and that takes no manifest. Else it takes that of the
//! directories in which that was done: wherever the mirror has such a directory, it is below one of them.
//! Events go on marking nodes meanwhile, so that what changes costs memory by the node and not by the event; nothing is asked for.
//!
//! Invariant: while `suspended` there is no round, no cycle on its way and nothing with a worker, and every name at which the mirror may hold something else than the tree says is
//! `UNKNOWN` and marked `LOOK`, or below a directory whose manifest is wanted; every directory whose metadata may be another has no known time and is marked `OWN`.

use std::collections::HashSet;

use crate::model::cycle::Cycle;
use crate::model::meta::Kind;
use crate::model::op::{Abilities, Op, Spot};
use crate::model::path::{Name, RelPath};
use crate::plan::debt::Debt;
use crate::plan::planner::Planner;
use crate::plan::scrub::Scrub;
use crate::plan::tree::{NodeId, ROOT, flag};

/// Directories and what is called so in them.
type Names<'a> = Vec<(&'a RelPath, Name<'a>)>;

fn at(spot: &Spot) -> (&RelPath, Name<'_>) {
    (&spot.dir, spot.name.as_name())
}

/// The names that a cycle may have changed, in the order of its operations. Apart from them those where a directory was made or removed, or anything was parked, and those between which
/// something was moved.
fn names(cycle: &Cycle) -> (Names<'_>, Names<'_>, Names<'_>) {
    let (mut plain, mut dirs, mut moved) = (Vec::new(), Vec::new(), Vec::new());
    for op in cycle.pre.iter().chain(cycle.metas.iter().map(|(_, op)| op)).chain(&cycle.post) {
        match op {
            Op::Mkdir { at: spot, .. } | Op::Rmdir { at: spot } | Op::Park { from: spot, .. } => dirs.push(at(spot)),
            Op::Move { from, to } => moved.extend([at(from), at(to)]),
            Op::Link { from, to } => plain.extend([at(from), at(to)]),
            Op::Symlink { at: spot, .. }
            | Op::Special { at: spot, .. }
            | Op::SetMeta { at: spot, .. }
            | Op::Place { at: spot, .. }
            | Op::Unlink { at: spot } => plain.push(at(spot)),
            Op::DirMeta { .. } => {}
        }
    }
    plain.extend(cycle.batches.iter().flat_map(|batch| batch.files.iter().map(move |task| (&batch.dir, task.name.as_name()))));
    plain.extend(cycle.places.iter().map(|place| at(&place.at)));
    (plain, dirs, moved)
}

/// The names to which something was moved that something else was moved away from: what was there may be there still.
fn taken_over<'a>(cycles: impl Iterator<Item = &'a Cycle> + Clone) -> Vec<Vec<u8>> {
    let path = |spot: &Spot| spot.dir.join(spot.name.as_name()).map(|path| path.as_bytes().to_vec()).unwrap_or_default();
    let moves = cycles.flat_map(|cycle| &cycle.pre);
    let left: HashSet<Vec<u8>> = moves
        .clone()
        .filter_map(|op| if let Op::Move { from, .. } | Op::Park { from, .. } = op { Some(path(from)) } else { None })
        .collect();
    moves.filter_map(|op| if let Op::Move { to, .. } = op { Some(path(to)) } else { None }).filter(|to| left.contains(to)).collect()
}

impl Planner {
    /// Whether what is known of the mirror outlives the connection, if that is lost now.
    pub fn can_suspend(&self) -> bool {
        self.online && self.fill.is_none() && self.wanted_lists.is_empty() && self.scrub.verify.is_none()
    }

    /// Whether all that the cycles on their way may have changed can be told without a manifest.
    pub fn is_traceable(&self) -> bool {
        self.flights.iter().all(|flight| self.is_cycle_traceable(&flight.cycle))
    }

    /// Whether all names that the cycle may have changed are names of files in directories that have not moved since.
    fn is_cycle_traceable(&self, cycle: &Cycle) -> bool {
        let (plain, dirs, moved) = names(cycle);
        // A directory that moved is at its new name, or was moved on or removed by a later cycle, which shows there.
        dirs.is_empty()
            && plain.iter().chain(&moved).all(|(dir, name)| self.is_file_of(dir, *name))
            && cycle.post.iter().all(|op| !matches!(op, Op::DirMeta { dir, .. } if self.dir_at(dir).is_none()))
    }

    /// Whether the directory is one of the tree, and the name not one of a directory in it, nor reserved: what is parked is found by no look at the source.
    fn is_file_of(&self, dir: &RelPath, name: Name<'_>) -> bool {
        let is_dir = |id: NodeId| self.tree.kind(id) == Some(Kind::Dir);
        let dir = self.dir_at(dir).filter(|dir| is_dir(*dir));
        !name.is_reserved() && dir.is_some_and(|dir| !self.tree.child(dir, name.as_bytes()).is_some_and(is_dir))
    }

    /// Asks for the manifest of a directory, or of the nearest one above it that is in the tree.
    fn relist_at(&mut self, path: &RelPath) {
        let mut at = ROOT;
        for name in path.names() {
            match self.tree.child(at, name.as_bytes()) {
                Some(id) if self.tree.kind(id) == Some(Kind::Dir) => at = id,
                _ => break,
            }
        }
        self.relist(at);
    }

    fn dir_at(&self, path: &RelPath) -> Option<NodeId> {
        if path.is_root() { Some(ROOT) } else { self.find(path.as_bytes()) }
    }

    /// The connection is lost, and the receiver may still be there. What is known is kept for [`Planner::resume`]; false, and nothing has changed, if that cannot be: then the next
    /// session begins with [`Planner::connected`].
    pub fn suspend(&mut self, now: u64) -> bool {
        if !self.can_suspend() {
            return false;
        }
        self.online = false;
        self.suspended = true;
        // Whoever waits for a flush begins it anew, and so does a pass.
        self.debt = Debt::default();
        self.tell_pending();
        let findings = std::mem::take(&mut self.scrub.findings);
        self.scrub = Scrub::default();
        self.scrub.findings = findings;
        self.doubt_flights();
        self.give_up_round(now);
        self.give_up_staged();
        self.forget_unknown_keys();
        true
    }

    /// Whether it waits for a connection with what it knows.
    pub fn is_suspended(&self) -> bool {
        self.suspended
    }

    /// There is a connection again, to the receiver that was lost, and nobody else has changed the mirror since. False if what it can do is not what it could: then the session
    /// begins with [`Planner::connected`].
    pub fn resume(&mut self, abilities: Abilities) -> bool {
        let may = self.may_resume(abilities);
        if may {
            self.suspended = false;
            self.online = true;
            self.distrust_told();
        }
        may
    }

    /// Whether [`Planner::resume`] can be done.
    pub fn may_resume(&self, abilities: Abilities) -> bool {
        self.suspended && abilities == self.abilities
    }

    /// While there is no connection: what was delayed joins what waits, so that its number is bounded as that is.
    pub(super) fn pass_time(&mut self, now: u64) {
        if self.suspended {
            self.dirty.advance(&mut self.tree, now);
            self.note_age(now);
        }
    }

    /// Whatever the cycles on their way may have done, or not.
    pub(super) fn doubt_flights(&mut self) {
        let are_traceable = self.is_traceable();
        let flights = std::mem::take(&mut self.flights);
        self.busy = 0;
        for flight in &flights {
            for (node, _) in &flight.files {
                if let Some(id) = self.tree.resolve(*node) {
                    self.tree.clear(id, flag::BUSY);
                    // Its directory may be elsewhere by now.
                    self.doubt(id);
                }
            }
        }
        if !are_traceable {
            self.distrust.extend_dirs(taken_over(flights.iter().map(|flight| &*flight.cycle)));
        }
        for flight in &flights {
            self.doubt_cycle(&flight.cycle, are_traceable);
            // Other names of what was changed, or was to be replaced by something new and may not have been.
            for group in flight.replaced.iter().chain(flight.files.iter().map(|(_, group)| group)).filter(|group| **group != 0) {
                let other = self.tree.of_group(*group).next();
                if let Some(id) = other {
                    self.doubt(id);
                }
            }
        }
    }

    /// Whatever the cycle may have done, or not. With `are_traceable` all cycles on their way are.
    fn doubt_cycle(&mut self, cycle: &Cycle, are_traceable: bool) {
        let (plain, dirs, moved) = names(cycle);
        let (moved_files, moved) = if are_traceable { (moved, Vec::new()) } else { (Vec::new(), moved) };
        for (dir, name) in plain.into_iter().chain(moved_files) {
            match self.dir_at(dir).filter(|_| self.is_file_of(dir, name)) {
                Some(dir) => {
                    // What was removed, or moved away, may be there still.
                    let id = self.tree.child_or_insert(dir, name);
                    self.doubt(id);
                    self.doubt_dir(dir);
                }
                None => {
                    self.relist_at(dir);
                    self.distrust.extend(dir.join(name).map(|path| path.as_bytes().to_vec()));
                }
            }
        }
        if !are_traceable {
            // What was to be replaced may be there still, and a hard link of what is known elsewhere, which a manifest of the directory does not tell.
            let replaced =
                cycle.pre.iter().filter_map(|op| if let Op::Move { to, .. } = op { to.dir.join(to.name.as_name()).ok() } else { None });
            self.distrust.extend(replaced.map(|path| path.as_bytes().to_vec()));
        }
        for (dir, _) in dirs.into_iter().chain(moved) {
            self.relist_at(dir);
            if let Some(dir) = self.dir_at(dir) {
                self.doubt_dir(dir);
            }
        }
        for op in &cycle.post {
            if let Op::DirMeta { dir, .. } = op {
                match self.dir_at(dir) {
                    Some(dir) => self.doubt_dir(dir),
                    None => self.relist_at(dir),
                }
            }
        }
    }

    /// What the mirror holds at the name, and at all names that are one object with it, is not known.
    fn doubt(&mut self, id: NodeId) {
        let group = self.tree.group(id);
        let names: Vec<NodeId> = if group == 0 { vec![id] } else { self.tree.of_group(group).collect() };
        for name in names {
            self.tree.set_group(name, 0);
            self.tree.doubt(name);
            self.dirty.mark(&mut self.tree, name, flag::LOOK);
        }
    }

    /// The metadata of the mirror's directory are not known.
    fn doubt_dir(&mut self, dir: NodeId) {
        self.tree.doubt_meta(dir);
        self.dirty.mark(&mut self.tree, dir, flag::OWN);
    }

    /// What a round was to look at, or had looked at, is looked at by another.
    pub(super) fn give_up_round(&mut self, now: u64) {
        let Some(round) = self.round.take() else { return };
        let deep = |deep: bool| if deep { flag::DEEP } else { 0 };
        for asked in round.open.values() {
            if let Some(dir) = self.tree.resolve(asked.dir) {
                let why = if asked.list { flag::SCAN | deep(asked.deep) } else { flag::OWN };
                self.dirty.mark(&mut self.tree, dir, why);
            }
            for node in &asked.names {
                if let Some(id) = self.tree.resolve(*node) {
                    self.dirty.mark(&mut self.tree, id, flag::LOOK);
                }
            }
        }
        for slot in &round.slots {
            let Some(parent) = self.tree.resolve(slot.parent) else { continue };
            if slot.listed {
                self.dirty.mark(&mut self.tree, parent, flag::SCAN | deep(slot.deep));
            } else {
                let id = self.tree.child_or_insert(parent, slot.name.as_name());
                self.dirty.mark(&mut self.tree, id, flag::LOOK);
            }
        }
        // By now the name may be gone that led to a changed object, which is known under others.
        for ident in round.linked() {
            let names: Vec<NodeId> = self.tree.of_ident(&ident).collect();
            for name in names {
                self.dirty.mark(&mut self.tree, name, flag::LOOK);
            }
        }
        for dir in round.dirs.keys() {
            if let Some(dir) = self.tree.resolve(*dir) {
                self.dirty.mark(&mut self.tree, dir, flag::OWN);
            }
        }
        // Which of the names turned out to be of an object that was told of meanwhile would have been known at the end of the round.
        let seen = self.has_told().then(|| round.slots.iter().map(|slot| (slot.parent, slot.name.clone())).collect());
        self.look_at_told(seen, now);
    }

    /// What is in staging goes with the session.
    fn give_up_staged(&mut self) {
        self.drops.clear();
        for node in self.staged.give_up() {
            if let Some(id) = self.tree.resolve(node) {
                self.dirty.mark(&mut self.tree, id, flag::LOOK);
            }
        }
    }
}
