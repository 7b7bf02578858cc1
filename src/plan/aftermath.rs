//! What else is not as the tree says once operations of a cycle failed: later operations, already on their way, moved or linked what was not there,
//! or something else. Part of the planner; it runs only when something failed.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use crate::model::cycle::{Cycle, NodeRef};
use crate::model::meta::Kind;
use crate::model::op::{Op, Section, Spot};
use crate::model::path::{Name, NameBuf, RelPath};
use crate::plan::NodeSet;
use crate::plan::planner::Planner;
use crate::plan::tree::{NodeId, ROOT, flag};

/// What of a cycle is known to have failed so far.
#[derive(Debug, Default)]
pub struct Failures {
    /// Operations that the receiver reported.
    pub ops: HashSet<(Section, u32)>,
    /// Nodes of files that were not sent.
    pub unsent: NodeSet<NodeRef>,
    /// Deletions of POST in directories that had left the tree, by index, and why they failed.
    pub undeleted: BTreeMap<u32, i32>,
    /// Those of POST whose entries are in the tree again as they are.
    pub back: BTreeSet<u32>,
}

impl Failures {
    pub(super) fn is_empty(&self) -> bool {
        self.ops.is_empty() && self.unsent.is_empty()
    }
}

/// Paths of the mirror that do not hold what the tree says.
#[derive(Debug, Default)]
struct Taint(BTreeSet<Vec<u8>>);

fn full(at: &Spot) -> Vec<u8> {
    below(at.dir.as_bytes(), at.name.as_bytes())
}

fn below(dir: &[u8], name: &[u8]) -> Vec<u8> {
    if dir.is_empty() { name.to_vec() } else { [dir, b"/", name].concat() }
}

impl Taint {
    fn add(&mut self, at: &Spot) {
        self.0.insert(full(at));
    }

    /// Whether the path or a directory above it is tainted.
    fn covers(&self, path: &[u8]) -> bool {
        let ends = path.iter().enumerate().filter(|(_, b)| **b == b'/').map(|(at, _)| at).chain([path.len()]);
        ends.into_iter().any(|end| self.0.contains(&path[..end]))
    }

    /// Takes out the path and all beneath it; returns what was beneath, relative to it.
    fn take(&mut self, path: &[u8]) -> Vec<Vec<u8>> {
        self.0.remove(path);
        let start = below(path, b"");
        let found: Vec<Vec<u8>> = self.0.range(start.clone()..).take_while(|p| p.starts_with(&start)).cloned().collect();
        found
            .into_iter()
            .map(|p| {
                self.0.remove(&p);
                p[start.len()..].to_vec()
            })
            .collect()
    }

    fn moved(&mut self, from: &[u8], to: &[u8]) {
        let whole = self.covers(from);
        let inner = self.take(from);
        self.take(to);
        if whole {
            self.0.insert(to.to_vec());
        }
        self.0.extend(inner.iter().map(|name| below(to, name)));
    }

    fn linked(&mut self, from: &Spot, to: &Spot) {
        let whole = self.covers(&full(from));
        self.replaced(to);
        if whole {
            self.add(to);
        }
    }

    fn replaced(&mut self, at: &Spot) {
        self.0.remove(&full(at));
    }

    fn failed(&mut self, op: &Op) {
        match op {
            Op::Move { from, to } => {
                self.add(from);
                self.add(to);
            }
            Op::Park { from, id } => {
                self.add(from);
                self.0.insert(parked(from, *id));
            }
            Op::Link { to: at, .. }
            | Op::Mkdir { at, .. }
            | Op::Symlink { at, .. }
            | Op::Special { at, .. }
            | Op::SetMeta { at, .. }
            | Op::Place { at, .. }
            | Op::Unlink { at }
            | Op::Rmdir { at } => self.add(at),
            Op::DirMeta { .. } => {}
        }
    }

    fn done(&mut self, op: &Op) {
        match op {
            Op::Move { from, to } => self.moved(&full(from), &full(to)),
            Op::Park { from, id } => self.moved(&full(from), &parked(from, *id)),
            Op::Link { from, to } => self.linked(from, to),
            Op::Symlink { at, .. } | Op::Special { at, .. } | Op::Place { at, .. } | Op::Unlink { at } | Op::Rmdir { at } => {
                self.replaced(at)
            }
            Op::Mkdir { .. } | Op::SetMeta { .. } | Op::DirMeta { .. } => {}
        }
    }
}

/// What follows from failures. `forged` are paths of `taint` whose files were given another one's metadata: a manifest would tell them from that one no more.
#[derive(Debug, Default)]
struct Aftermath {
    taint: Taint,
    forged: Taint,
}

impl Aftermath {
    fn failed(&mut self, op: &Op) {
        self.taint.failed(op);
    }

    fn done(&mut self, op: &Op) {
        if let Op::SetMeta { at, .. } = op
            && self.taint.covers(&full(at))
        {
            self.forged.add(at);
        }
        self.taint.done(op);
        self.forged.done(op);
    }

    fn replaced(&mut self, at: &Spot) {
        self.taint.replaced(at);
        self.forged.replaced(at);
    }

    /// Follows a cycle.
    fn follow(&mut self, cycle: &Cycle, failures: &Failures) {
        let failed = |section, index: usize| failures.ops.contains(&(section, index as u32));
        let mut step = |section, index: usize, op: &Op| if failed(section, index) { self.failed(op) } else { self.done(op) };
        for (index, op) in cycle.pre.iter().enumerate() {
            step(Section::Pre, index, op);
        }
        for (index, op) in &cycle.metas {
            step(Section::Files, *index as usize, op);
        }
        for batch in &cycle.batches {
            for task in &batch.files {
                let at = Spot { dir: batch.dir.clone(), name: task.name.clone() };
                let lost = failed(Section::Files, task.index as usize) || failures.unsent.contains(&task.node);
                if lost { self.taint.add(&at) } else { self.replaced(&at) }
            }
        }
        for place in &cycle.places {
            if failed(Section::Files, place.index as usize) { self.taint.add(&place.at) } else { self.replaced(&place.at) }
        }
        for (index, op) in cycle.post.iter().enumerate().filter(|(index, _)| !failures.back.contains(&(*index as u32))) {
            if failed(Section::Post, index) { self.failed(op) } else { self.done(op) }
        }
    }
}

fn parked(from: &Spot, id: u64) -> Vec<u8> {
    below(from.dir.as_bytes(), NameBuf::parked(id, from.name.as_name()).as_bytes())
}

impl Planner {
    /// The oldest cycle on its way is about to be taken for applied: what failed of it is followed through it and all later ones.
    pub(super) fn follow_failures(&mut self) {
        let Some(flight) = self.flights.front().filter(|f| !f.failures.is_empty()) else { return };
        // A name that kept its old object, and was taken for the new one, may have lent that one's metadata to the old one's other names.
        let groups = flight.replaced.clone();
        for group in groups {
            for id in self.tree.of_group(group).collect::<Vec<_>>() {
                self.not_sent(id, 0);
                self.dirty.mark(&mut self.tree, id, flag::LOOK);
                self.owe(id);
            }
        }
        let mut after = Aftermath::default();
        for flight in &self.flights {
            after.follow(&flight.cycle, &flight.failures);
        }
        self.distrust.extend(after.forged.0);
        for path in after.taint.0 {
            let Some(id) = self.find(&path) else {
                // Its node was dropped for the manifest that is on its way, if one is.
                self.distrust.extend([path]);
                continue;
            };
            // A mount point that could not be removed is there as before.
            if self.tree.is_border(id) {
                continue;
            }
            if self.tree.has(id, flag::UNKNOWN) {
                if self.tree.kind(id) != Some(Kind::Dir) {
                    self.tree.doubt(id);
                }
                continue;
            }
            if self.tree.kind(id) == Some(Kind::Dir) {
                self.relist(self.tree.parent(id));
            } else {
                self.not_sent(id, 0);
                self.dirty.mark(&mut self.tree, id, flag::LOOK);
                self.owe(id);
            }
        }
        self.distrust_told();
    }

    /// The node at a path.
    pub(super) fn find(&self, path: &[u8]) -> Option<NodeId> {
        RelPath::new(path).ok()?.names().try_fold(ROOT, |at, name: Name<'_>| self.tree.child(at, name.as_bytes())).filter(|id| *id != ROOT)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::meta::{Meta, Time};

    fn spot(path: &str) -> Spot {
        let (dir, name) = RelPath::new(path.as_bytes()).unwrap().split().map(|(d, n)| (d, n.to_owned())).unwrap();
        Spot { dir, name }
    }

    fn tainted(taint: &Taint) -> Vec<String> {
        taint.0.iter().map(|p| String::from_utf8_lossy(p).into_owned()).collect()
    }

    #[test]
    fn metadata_that_reached_another_file_is_followed() {
        let meta = Meta { kind: Kind::File, mode: 0, uid: 0, gid: 0, mtime: Time::default(), size: 0, rdev: 0, attrs: 0 };
        let mut after = Aftermath::default();
        after.failed(&Op::Move { from: spot("a"), to: spot("b") });
        for path in ["b", "c"] {
            after.done(&Op::SetMeta { at: spot(path), meta });
        }
        assert_eq!(tainted(&after.forged), ["b"]);
        after.done(&Op::Move { from: spot("b"), to: spot("d") });
        after.done(&Op::Link { from: spot("d"), to: spot("e") });
        assert_eq!(tainted(&after.forged), ["d", "e"]);
        after.replaced(&spot("d"));
        assert_eq!(tainted(&after.forged), ["e"]);
    }

    #[test]
    fn what_failed_is_followed_through_renames_and_links() {
        let mut taint = Taint::default();
        taint.failed(&Op::Link { from: spot("x"), to: spot("a/b/f") });
        taint.done(&Op::Link { from: spot("a/b/f"), to: spot("g") });
        taint.done(&Op::Link { from: spot("x"), to: spot("h") });
        assert_eq!(tainted(&taint), ["a/b/f", "g"]);
        taint.done(&Op::Move { from: spot("a"), to: spot("c") });
        assert_eq!(tainted(&taint), ["c/b/f", "g"]);
        taint.done(&Op::Unlink { at: spot("g") });
        taint.done(&Op::Park { from: spot("c/b"), id: 3 });
        assert_eq!(tainted(&taint), ["c/.ringsync-staging-p3-b/f"]);
        taint.failed(&Op::Move { from: spot("p"), to: spot("q") });
        taint.done(&Op::Move { from: spot("q/inner"), to: spot("r") });
        assert_eq!(tainted(&taint), ["c/.ringsync-staging-p3-b/f", "p", "q", "r"]);
    }
}
