//! What filter and options leave of what was seen. Part of the planner.

use crate::model::cycle::NodeRef;
use crate::model::filter::Decision;
use crate::model::meta::Kind;
use crate::model::path::RelPath;
use crate::model::probe::Seen;
use crate::plan::planner::Planner;
use crate::plan::tree::flag;
use crate::plan::troubles::LOOK_AT;

impl Planner {
    /// Applies filter and options to what was seen, before it is compared.
    pub(super) fn screen(&mut self, now: u64) {
        let Some(mut round) = self.round.take() else { return };
        let mut dir_path: Option<(NodeRef, RelPath)> = None;
        let mut unknown = Vec::new();
        for slot in &mut round.slots {
            let Some(id) = self.tree.resolve(slot.node) else { continue };
            // Told already, or screened already, before the round was widened.
            if slot.seen == Seen::Failed(0) {
                continue;
            }
            if let Seen::Failed(errno) = slot.seen {
                slot.seen = Seen::Failed(0);
                self.trouble(id, LOOK_AT, errno, now);
                let at = self.retry_at(id, now);
                self.dirty.mark_at(&mut self.tree, id, flag::LOOK, at);
                continue;
            }
            // No rule is about what is ours.
            if slot.name.as_name().is_parked() {
                continue;
            }
            if self.misses_mount(id, slot.stat(), now) {
                slot.seen = Seen::Failed(0);
                continue;
            }
            let seen = slot.stat().map(|stat| stat.meta.kind);
            let mirrored = self.tree.kind(id);
            // Something may be left at the name, of a kind that is not known.
            let left = mirrored.is_none() && self.tree.has(id, flag::UNKNOWN);
            let Some(kind) = seen.or(mirrored).or(left.then_some(Kind::File)) else { continue };
            let (mut excluded, mut replaced) = (false, false);
            if !self.filter.is_empty() {
                if dir_path.as_ref().is_none_or(|(dir, _)| *dir != slot.parent) {
                    dir_path = self.tree.resolve(slot.parent).and_then(|p| self.tree.path(p).ok()).map(|p| (slot.parent, p));
                }
                let path = dir_path.as_ref().and_then(|(_, dir)| dir.join(slot.name.as_name()).ok());
                let excludes = |kind| path.as_ref().is_some_and(|p| self.excludes(p.as_bytes(), kind));
                excluded = excludes(kind) || (left && seen.is_none() && excludes(Kind::Dir));
                // A rule on directories hides one that took a mirrored file's place, not the file.
                replaced = excluded && mirrored.is_some_and(|kind| !excludes(kind));
                slot.dirs_stay = kind != Kind::Dir && !excluded && !self.options.delete_excluded && excludes(Kind::Dir);
                if left && excludes(Kind::Dir) != excludes(Kind::File) {
                    unknown.push(slot.parent);
                }
            }
            if replaced || (excluded && self.options.delete_excluded) {
                slot.seen = Seen::Absent;
            } else if excluded || !self.carries(kind) {
                if self.tree.kind(id).is_some() {
                    self.tree.set(id, flag::PROTECTED);
                }
                slot.seen = Seen::Failed(0);
            } else {
                self.tree.clear(id, flag::PROTECTED);
            }
        }
        self.round = Some(round);
        for dir in unknown {
            if let Some(dir) = self.tree.resolve(dir) {
                self.relist(dir);
            }
        }
    }

    pub(super) fn excludes(&self, path: &[u8], kind: Kind) -> bool {
        self.filter.decide(path, kind == Kind::Dir) == Decision::Excluded
    }

    pub(super) fn carries(&self, kind: Kind) -> bool {
        match kind {
            Kind::File | Kind::Dir => true,
            Kind::Symlink => self.options.links,
            Kind::Fifo | Kind::Socket => self.options.specials,
            Kind::Char | Kind::Block => self.options.devices && self.abilities.mknod,
        }
    }
}
