//! Comparing what a directory of the mirror holds with what the tree says that it should, and setting the tree right where somebody else changed the
//! mirror, so that the ordinary way repairs it. Part of the planner; the pass that asks is in `scrub`.

use std::collections::HashMap;

use crate::model::meta::{Kind, Meta, Time};
use crate::model::op::Entry;
use crate::model::path::RelPath;
use crate::model::scrub::{Cause, Finding, Item, LookDone};
use crate::plan::planner::Planner;
use crate::plan::scrub::{Asked, Pass, What};
use crate::plan::tree::{NodeId, ROOT, flag};

/// Mode bits that a receiver takes away from files of others when it cannot give them their owner.
const SET_ID: u32 = 0o6000;

/// One difference of a directory's listing.
struct Drift {
    /// The node; `None` where the tree has none.
    node: Option<NodeId>,
    path: RelPath,
    item: Item,
    /// What the mirror has; `None`: nothing, or it is the directory itself.
    there: Option<Entry>,
}

impl Drift {
    /// Whether it is a file that by length and time is what it should be.
    fn is_of_metadata(&self) -> bool {
        self.item.kind == Kind::File && self.item.cause == Cause::Meta && !self.item.time && self.there.is_some()
    }
}

/// Whether a filesystem with coarser times holds `want` as `have`: by 100 ns, microseconds, 10 ms, a second or two.
fn is_cut(want: Time, have: Time) -> bool {
    let cut = |grain: u32| Time { sec: want.sec, nsec: want.nsec - want.nsec % grain };
    [1, 100, 1000, 10_000_000, 1_000_000_000].into_iter().any(|grain| cut(grain) == have) || have == (Time { sec: want.sec & !1, nsec: 0 })
}

/// What entries take, in bytes.
fn memory(entries: &[Entry]) -> usize {
    entries
        .iter()
        .map(|entry| size_of::<Entry>() + entry.name.as_bytes().len() + entry.target.as_ref().map_or(0, |target| target.len()))
        .sum()
}

impl Planner {
    /// An answer, or a part of it, to a look.
    pub fn looked(&mut self, done: LookDone, now: u64) {
        let Some(mut pass) = self.scrub.pass.take() else { return };
        self.take_look(&mut pass, done, now);
        self.forget_cycles(&pass);
        self.scrub.pass = Some(pass);
    }

    fn take_look(&mut self, pass: &mut Pass, done: LookDone, now: u64) {
        let Some(Asked { what: What::Look { entries, .. }, .. }) = pass.asked.get_mut(&done.id) else { return };
        let at = entries.len();
        entries.extend(done.entries.into_iter().filter(|entry| !entry.name.as_name().is_reserved()));
        self.scrub.heard += memory(&entries[at..]);
        if !done.last {
            return;
        }
        let Some(Asked { from, path, what: What::Look { dir, entries } }) = pass.asked.remove(&done.id) else { return };
        self.scrub.heard = self.scrub.heard.saturating_sub(memory(&entries));
        let Some(id) = self.tree.resolve(dir) else { return };
        // One that could not be listed, or not to its end, or is to be listed again after a failure, is not known.
        let unknown = self.tree.has(id, flag::UNKNOWN | flag::PROTECTED | flag::RELIST) || self.wanted_lists.contains(&dir);
        if self.fill.is_some() || unknown || self.tree.path(id).as_ref() != Ok(&path) {
            return self.again(pass, id, now);
        }
        // One that the source does not have is to be deleted: what is in it is nobody's.
        if id != ROOT && self.tree.ident(id).is_none() {
            return;
        }
        let own = match done.dir {
            Ok(own) => own,
            // The look at its parent tells.
            Err(libc::ENOENT | libc::ENOTDIR) if id != ROOT => return,
            Err(errno) => {
                pass.tally.unsure += 1;
                self.tell_trouble(path, "list the mirror's directory", errno);
                return;
            }
        };
        let is_first = !pass.suspects.get(&dir).is_some_and(|suspect| suspect.looked);
        let (drifts, equal) = self.compare(id, &path, &own, entries);
        if is_first {
            self.take_files(pass, id, &equal);
        }
        let (certain, under_way): (Vec<Drift>, Vec<Drift>) = drifts.into_iter().partition(|drift| match drift.node {
            Some(node) => !self.was_touched(from, node),
            None => !self.was_path_touched(from, &drift.path),
        });
        let twice = pass.suspects.get(&dir).is_some_and(|suspect| suspect.differs);
        if !under_way.is_empty() || (!twice && !certain.is_empty()) {
            self.again(pass, id, now);
        }
        if let Some(suspect) = pass.suspects.get_mut(&dir) {
            suspect.differs |= !certain.is_empty();
            suspect.looked = true;
        }
        if twice {
            for drift in certain {
                self.take_drift(pass, (id, &own), drift, now);
            }
        }
    }

    /// What is certain to differ is told, and repaired. Of a file whose metadata alone does it is told once its content is compared as well, for the metadata is all
    /// that the ordinary way repairs of it.
    fn take_drift(&mut self, pass: &mut Pass, (dir, own): (NodeId, &Meta), drift: Drift, now: u64) {
        let unread = drift.node.filter(|_| drift.is_of_metadata());
        match unread {
            Some(file) => {
                self.scrub.told.insert(self.tree.reference(file), Some(drift.item));
                self.again(pass, file, now);
            }
            None => {
                pass.tally.drift += 1;
                self.scrub.findings.push(Finding { path: drift.path.clone(), item: drift.item });
            }
        }
        if pass.options.repairs {
            let node = self.take_as_is(dir, drift, own).filter(|_| unread.is_none());
            pass.mending.extend(node.map(|node| (self.tree.reference(node), None)));
        }
    }

    /// What differs, and the nodes that do not.
    fn compare(&self, dir: NodeId, path: &RelPath, own: &Meta, entries: Vec<Entry>) -> (Vec<Drift>, Vec<NodeId>) {
        let mut drifts = Vec::new();
        let mut equal = Vec::new();
        if let Some(want) = self.tree.meta(dir).filter(|meta| meta.mtime.sec != i64::MIN) {
            let item = self.held(&want, own);
            if !item.is_empty() {
                drifts.push(Drift { node: Some(dir), path: path.clone(), item, there: None });
            }
        }
        let mut there: HashMap<Box<[u8]>, Entry> = entries.into_iter().map(|entry| (Box::from(entry.name.as_bytes()), entry)).collect();
        for id in self.tree.children(dir) {
            let Some(want) = self.tree.meta(id) else { continue };
            let entry = there.remove(self.tree.name(id));
            // With nothing deleted, what the source does not have is nobody's.
            let kept = (!self.options.delete && self.tree.ident(id).is_none()) || self.is_parked(id);
            if kept || self.tree.has(id, flag::UNKNOWN | flag::PROTECTED | flag::BUSY) {
                continue;
            }
            let item = match &entry {
                // A directory's metadata is compared when it is looked at itself.
                Some(entry) if want.kind == Kind::Dir && entry.meta.kind == Kind::Dir => continue,
                Some(entry) if entry.meta.kind == want.kind => self.entry_item(id, &want, entry),
                _ => {
                    let cause = if want.kind == Kind::File { Cause::Content } else { Cause::Local };
                    Item { missing: true, ..Item::of(cause, want.kind) }
                }
            };
            if item.is_empty() && item.cause == Cause::Meta {
                equal.push(id);
            } else if let Some(name) = self.tree.name_buf(id)
                && let Ok(path) = path.join(name.as_name())
            {
                drifts.push(Drift { node: Some(id), path, item, there: entry });
            }
        }
        let mut extra: Vec<Entry> = there.into_values().filter(|_| self.options.delete).collect();
        extra.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        for entry in extra {
            let Ok(path) = path.join(entry.name.as_name()) else { continue };
            let node = self.tree.child(dir, entry.name.as_bytes());
            let known = |id| self.tree.kind(id).is_some() || self.tree.has(id, flag::UNKNOWN | flag::PROTECTED | flag::BUSY | flag::DIRTY);
            let hidden = self.excludes(path.as_bytes(), entry.meta.kind) && !self.options.delete_excluded;
            if !node.is_some_and(known) && !hidden && self.carries(entry.meta.kind) {
                let item = Item::of(Cause::Extra, entry.meta.kind);
                drifts.push(Drift { node, path, item, there: Some(entry) });
            }
        }
        (drifts, equal)
    }

    /// As [`Planner::itemize`], but for what the mirror's filesystem cannot hold of a time.
    fn held(&self, want: &Meta, have: &Meta) -> Item {
        let item = self.itemize(want, have);
        Item { time: item.time && !is_cut(want.mtime, have.mtime), ..item }
    }

    /// What of `want`'s metadata, as far as it is carried, the mirror's `have` is not.
    pub(super) fn itemize(&self, want: &Meta, have: &Meta) -> Item {
        let Planner { options, abilities, .. } = self;
        let bits = if abilities.chown { 0o7777 } else { 0o7777 & !SET_ID };
        Item {
            size: want.kind == Kind::File && want.size != have.size,
            time: options.times && !options.held.holds(want.mtime, have.mtime),
            perms: options.perms && want.kind != Kind::Symlink && (want.mode ^ have.mode) & bits != 0,
            owner: options.owner && want.uid != have.uid,
            group: options.group && want.gid != have.gid,
            attrs: want.attrs != have.attrs,
            ..Item::of(Cause::Meta, want.kind)
        }
    }

    fn entry_item(&self, id: NodeId, want: &Meta, entry: &Entry) -> Item {
        let mut item = self.held(want, &entry.meta);
        item.content = match want.kind {
            // A target that is not known is no difference.
            Kind::Symlink => entry.target.as_deref().is_some_and(|target| self.tree.target(id) != Some(target)),
            Kind::Char | Kind::Block => want.rdev != entry.meta.rdev,
            Kind::File => item.size,
            _ => false,
        };
        let group = self.tree.group(id);
        let parted = self.options.hard_links && entry.link_group == 0 && group != 0 && self.tree.of_group(group).nth(1).is_some();
        item.cause = match want.kind {
            Kind::File if item.size => Cause::Content,
            _ if parted => Cause::Link,
            _ if item.content => Cause::Local,
            _ => Cause::Meta,
        };
        item
    }

    /// The mirror has not what it had at the node, nor what was below.
    fn is_another(&mut self, id: NodeId) {
        if self.tree.group(id) != 0 {
            // Nor can its other names be taken for what they were: this one would be linked to one that is to be linked to this one.
            self.not_sent(id, 0);
            self.tree.clear(id, flag::UNKNOWN | flag::CAME);
        }
        if self.tree.kind(id) == Some(Kind::Dir) {
            // Something in it may be.
            self.owe(id);
        }
        self.drop_below(id);
        self.drop_key(id);
        self.tree.set_absent(id);
    }

    /// The tree is told what the mirror really has, and the name is looked at: the ordinary way makes it what it should be. The node it is about.
    fn take_as_is(&mut self, dir: NodeId, drift: Drift, own: &Meta) -> Option<NodeId> {
        let Some(entry) = drift.there else {
            let id = drift.node?;
            if id == dir {
                self.tree.set_meta(dir, own);
                self.dirty.mark(&mut self.tree, dir, if dir == ROOT { flag::OWN } else { flag::LOOK });
            } else {
                self.is_another(id);
                self.dirty.mark(&mut self.tree, id, flag::LOOK);
            }
            return Some(id);
        };
        let id = self.tree.child_or_insert(dir, entry.name.as_name());
        let kind = self.tree.kind(id);
        if drift.item.cause == Cause::Link || kind != Some(entry.meta.kind) {
            self.is_another(id);
        }
        self.tree.set_meta(id, &entry.meta);
        if let Some(target) = &entry.target {
            self.tree.set_target(id, target);
        }
        if entry.is_border() {
            self.tree.set_border(id);
        }
        if self.tree.group(id) != 0 {
            self.tree.update_meta(id, &entry.meta);
        }
        if entry.meta.kind == Kind::Dir {
            // What is in it is not known.
            self.relist(id);
        } else if (kind == Some(entry.meta.kind) && drift.item.cause != Cause::Meta) || (drift.item.time && entry.meta.kind == Kind::File) {
            // Neither the base of a delta, nor what other names are linked to, nor to be linked to them.
            self.not_sent(id, 0);
        }
        self.dirty.mark(&mut self.tree, id, flag::LOOK);
        Some(id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_that_the_filesystem_cuts_is_no_drift() {
        let at = |sec, nsec| Time { sec, nsec };
        for (have, expected) in [
            (at(1001, 123_456_789), true),
            (at(1001, 123_456_700), true),
            (at(1001, 123_456_000), true),
            (at(1001, 120_000_000), true),
            (at(1001, 0), true),
            (at(1000, 0), true),
            (at(1001, 123_456_788), false),
            (at(1002, 0), false),
            (at(999, 0), false),
        ] {
            assert_eq!(is_cut(at(1001, 123_456_789), have), expected, "{have:?}");
        }
    }
}
