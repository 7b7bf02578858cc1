//! Deletions that failed below a directory that was to be deleted too. Its nodes left the tree with the cycle: what is left comes back as far as that is known, and is
//! tried again under the name of the topmost one. Part of the planner.

use crate::model::cycle::Cycle;
use crate::model::meta::{Kind, Meta, Time};
use crate::model::op::{Op, RMDIR, Spot, UNLINK};
use crate::model::path::{NameBuf, RelPath};
use crate::model::probe::Seen;
use crate::plan::flight::is_structural;
use crate::plan::planner::Planner;
use crate::plan::tree::{NodeId, flag};

/// What is told where a directory could not be deleted for what is in it.
const DELETE_DIRECTORY: &str = "delete the directory";
/// What is told where something could not be deleted that something else has taken the place of.
pub(super) const DELETE_REPLACED: &str = "delete what was replaced";

/// A directory of which only that is known.
const SOME_DIR: Meta = Meta { kind: Kind::Dir, mode: 0, uid: 0, gid: 0, mtime: Time { sec: 0, nsec: 0 }, size: 0, rdev: 0, attrs: 0 };

/// What is to be deleted, and whether it is a directory.
fn deleted(op: &Op) -> Option<(&Spot, bool)> {
    match op {
        Op::Unlink { at } => Some((at, false)),
        Op::Rmdir { at } => Some((at, true)),
        _ => None,
    }
}

fn is_below(spot: &Spot, top: &RelPath) -> bool {
    spot.dir.as_bytes().strip_prefix(top.as_bytes()).is_some_and(|rest| rest.is_empty() || rest[0] == b'/')
}

impl Planner {
    /// An operation of POST failed, whose directory may have left the tree, or be what could not be emptied. Returns whether that is all there is to it.
    pub(super) fn deletion_failed(&mut self, cycle: &Cycle, index: u32, errno: i32, now: u64) -> bool {
        let Some((spot, is_dir)) = deleted(&cycle.post[index as usize]) else { return false };
        let Some(flight) = self.flights.iter_mut().find(|flight| flight.cycle.number == cycle.number) else { return false };
        let Some(parent) = flight.post.get(index as usize).and_then(|parent| self.tree.resolve(*parent)) else {
            flight.failures.undeleted.insert(index, errno);
            return true;
        };
        if spot.name.as_name().is_parked() && self.is_unlisted(parent) {
            // Perhaps it could not even be parked: the manifest tells what is there.
            return true;
        }
        let flight = self.flights.iter().find(|flight| flight.cycle.number == cycle.number);
        let undeleted = flight.map(|flight| &flight.failures.undeleted).filter(|_| is_dir);
        let (Some(undeleted), Ok(top)) = (undeleted, spot.dir.join(spot.name.as_name())) else { return false };
        let below = |index: &u32| deleted(&cycle.post[*index as usize]).is_some_and(|(spot, _)| is_below(spot, &top));
        let left: Vec<(u32, i32)> = undeleted.iter().filter(|(index, _)| below(index)).map(|(at, e)| (*at, *e)).collect();
        // It is empty, as far as is known, and cannot be removed itself.
        let is_own = left.is_empty() && errno != libc::EBUSY && !is_structural(errno) && !self.is_border(parent, spot);
        let cause = left.iter().map(|(_, errno)| *errno).find(|errno| !is_structural(*errno)).or(is_own.then_some(errno));
        let Some(cause) = cause else { return false };
        // Else something there is not what it was thought to be: the listing tells.
        let is_known = |errno: i32| errno == libc::ENOTEMPTY || !is_structural(errno);
        if !self.is_free(parent, spot) || !is_known(errno) || !left.iter().all(|(_, errno)| is_known(*errno)) {
            return false;
        }
        self.come_back(cycle, (parent, spot), &left);
        let id = self.dir_comes_back(parent, &spot.name);
        let what = match &cycle.post[index as usize] {
            _ if spot.name.as_name().is_parked() => DELETE_REPLACED,
            op if is_own => op.verb(),
            _ => DELETE_DIRECTORY,
        };
        self.trouble(id, what, cause, now);
        let at = self.retry_at(id, now);
        self.dirty.mark_at(&mut self.tree, id, flag::LOOK, at);
        if let Some(flight) = self.flights.iter_mut().find(|flight| flight.cycle.number == cycle.number) {
            flight.failures.back.extend(left.iter().map(|(index, _)| *index).chain([index]));
        }
        true
    }

    /// Whether the node is in trouble since it could not be deleted.
    pub(super) fn fails_to_go(&self, id: NodeId) -> bool {
        self.trouble_of(id).is_some_and(|what| matches!(what, UNLINK | RMDIR | DELETE_DIRECTORY | DELETE_REPLACED))
    }

    /// Whether nothing else is at the name by now, as far as is known.
    fn is_free(&self, parent: NodeId, spot: &Spot) -> bool {
        let is_free = self.tree.child(parent, spot.name.as_bytes()).is_none_or(|id| self.tree.kind(id).is_none());
        is_free && !self.tree.has(parent, flag::UNKNOWN)
    }

    /// What was not deleted below `spot` is in the tree again.
    fn come_back(&mut self, cycle: &Cycle, (parent, spot): (NodeId, &Spot), left: &[(u32, i32)]) {
        for (index, _) in left {
            let Some((at, is_dir)) = deleted(&cycle.post[*index as usize]) else { continue };
            let mut dir = parent;
            for name in at.dir.names().skip(spot.dir.names().count()) {
                dir = self.dir_comes_back(dir, &name.to_owned());
            }
            if is_dir {
                self.dir_comes_back(dir, &at.name);
            } else {
                let id = self.tree.child_or_insert(dir, at.name.as_name());
                self.tree.doubt(id);
            }
        }
    }

    /// It is of no object in the source, and has metadata that is nobody's.
    fn dir_comes_back(&mut self, parent: NodeId, name: &NameBuf) -> NodeId {
        let id = self.tree.child_or_insert(parent, name.as_name());
        if self.tree.kind(id).is_none() {
            self.tree.set_meta(id, &SOME_DIR);
            self.tree.doubt_meta(id);
            self.tree.clear(id, flag::UNKNOWN);
        }
        id
    }
}

/// What a look at the source says of a name: of what is parked in the mirror, and could not be deleted, that it is not there; of other names of ours nothing.
pub(super) fn as_seen(name: NameBuf, seen: Seen, is_listing: bool) -> Option<(NameBuf, Seen)> {
    match name.as_name() {
        plain if !plain.is_reserved() => Some((name, seen)),
        ours if !is_listing && ours.is_parked() => Some((name, Seen::Absent)),
        _ => None,
    }
}
