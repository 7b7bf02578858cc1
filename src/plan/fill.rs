//! Filling the tree, or a part of it, from the receiver's manifest. Part of the planner.
//!
//! While a manifest is on its way no cycle is emitted, so that what it says is what the mirror holds.

use std::collections::{HashMap, HashSet};

use crate::limits::{LINK_NAMES_MAX, MANIFEST_NAMES_BYTES_MAX};
use crate::model::meta::{Kind, Meta};
use crate::model::op::Entry;
use crate::model::path::{Name, RelPath};
use crate::plan::planner::{Action, Planner};
use crate::plan::tree::{NodeId, ROOT, flag};

/// So many manifests follow one another without a wait.
pub(super) const FILLS_AT_ONCE: u32 = 3;
/// The first wait, doubled with each manifest that follows.
const FILL_WAIT_NS: u64 = 20_000_000;
/// After so long without a manifest the next comes at once again.
const FILLS_FORGOTTEN_NS: u64 = 120_000_000_000;

/// What fails where a directory of the mirror cannot be listed.
const LIST: &str = "list the mirror's directory";

/// A manifest on its way.
#[derive(Debug, Default)]
pub struct Fill {
    /// Node of the directory whose entries come now; `None`: they are of no interest.
    dir: Option<NodeId>,
    /// Directories in it that could not be listed before: what is known outside may be linked to what is in them.
    missed: HashSet<RelPath>,
    /// Its path, as the filter has to be asked: what is parked has the name that it had before.
    path: Vec<u8>,
    /// It is in what is parked.
    parked: bool,
    /// It is in something that is parked and whose name before is not known.
    nameless: bool,
    /// Hard-link groups, the receiver's numbers to ours, and how many names each has so far.
    groups: HashMap<u64, (u32, u32)>,
}

/// Memory of one of a fill's hard-link groups, its share of the table's room included.
const GROUP_BYTES: usize = 48;

impl Fill {
    /// The entries that follow are of this directory; of no interest without `id`.
    fn at(&mut self, dir: &RelPath, id: Option<NodeId>) {
        self.dir = id;
        (self.parked, self.nameless) = (false, false);
        self.path.clear();
        for name in dir.names() {
            self.parked |= name.is_parked();
            self.nameless |= name.is_parked() && name.parked_of().is_none();
            if !self.path.is_empty() {
                self.path.push(b'/');
            }
            self.path.extend_from_slice(name.parked_of().unwrap_or(name).as_bytes());
        }
    }
}

impl Planner {
    /// Asks for the manifest of a directory, soon: its node, or the nearest ancestor that the mirror is sure to have. Until it comes nothing below is
    /// moved, linked to or trusted.
    pub(super) fn relist(&mut self, mut id: NodeId) {
        while id != ROOT && self.tree.has(id, flag::UNKNOWN) {
            id = self.tree.parent(id);
        }
        if !self.wanted_lists.insert(self.tree.reference(id)) {
            return;
        }
        for below in self.tree.subtree_bottom_up(id) {
            if below != id {
                self.tree.set(below, flag::UNKNOWN);
            }
        }
    }

    /// Whether what the mirror has in the directory is still to be told, and that of it which is made anew may have been there.
    pub(super) fn is_unlisted(&self, dir: NodeId) -> bool {
        self.tree.has(dir, flag::RELIST) || self.wanted_lists.contains(&self.tree.reference(dir))
    }

    /// When a wanted manifest may be asked for: at once, but later and later while one follows the other.
    pub(super) fn fill_at(&self) -> Option<u64> {
        let wait = if self.fills_in_row < FILLS_AT_ONCE { 0 } else { FILL_WAIT_NS << (self.fills_in_row - FILLS_AT_ONCE).min(11) };
        (!self.wanted_lists.is_empty()).then_some(self.last_fill + wait)
    }

    /// One more manifest follows those before, unless it is long since the last one.
    fn count_fill(&mut self, now: u64) {
        self.fills_in_row = if now.saturating_sub(self.last_fill) > FILLS_FORGOTTEN_NS { 1 } else { self.fills_in_row + 1 };
        self.last_fill = now;
    }

    /// Starts the fill that covers all wanted ones.
    pub(super) fn start_fill(&mut self, now: u64, actions: &mut Vec<Action>) {
        self.wanted_lists.retain(|node| self.tree.resolve(*node).is_some());
        let (next, is_again) = self.guard.parked.take_wanted(&mut self.wanted_lists);
        if !is_again {
            self.count_fill(now);
        }
        let mut top = None;
        for wanted in next {
            let Some(id) = self.tree.resolve(wanted) else { continue };
            top = Some(match top {
                None => id,
                Some(other) => self.common_ancestor(other, id),
            });
        }
        let Some(top) = top else { return };
        // The manifest of a part does not tell which of its hard links are known outside of it.
        let (top, path) = match self.tree.path(top) {
            Ok(path) if !self.is_linked_outside(top) => (top, path),
            _ => (ROOT, RelPath::root()),
        };
        let tree = &self.tree;
        self.wanted_lists.retain(|node| tree.resolve(*node).is_some_and(|id| !tree.is_within(id, top)));
        let missed = self.take_unlisted(top);
        self.forget_unmounted(top, now);
        self.keep_doubts(top, false);
        self.drop_below(top);
        // What is parked is not looked for in the source.
        match self.parked_above(top) {
            Some(parked) => self.dirty.mark(&mut self.tree, parked, flag::LOOK),
            None => self.dirty.mark(&mut self.tree, top, flag::SCAN | flag::DEEP),
        }
        self.owe(top);
        self.fill = Some(Fill { missed, ..Fill::default() });
        actions.push(Action::List(path));
    }

    /// The directories below `top` that the manifest of it will tell for the first time; none if it is of the whole mirror.
    fn take_unlisted(&mut self, top: NodeId) -> HashSet<RelPath> {
        let Self { unlisted, tree, .. } = self;
        let mut paths = HashSet::new();
        unlisted.retain(|node| {
            let Some(id) = tree.resolve(*node) else { return false };
            let within = tree.is_within(id, top);
            paths.extend(tree.path(id).ok().filter(|_| within && top != ROOT));
            !within
        });
        paths
    }

    fn is_linked_outside(&self, top: NodeId) -> bool {
        let mut inside: HashMap<u32, usize> = HashMap::new();
        for id in self.tree.subtree_bottom_up(top) {
            *inside.entry(self.tree.group(id)).or_default() += 1;
        }
        inside.remove(&0);
        inside.iter().any(|(group, count)| self.tree.of_group(*group).count() != *count)
    }

    fn common_ancestor(&self, a: NodeId, b: NodeId) -> NodeId {
        let mut at = a;
        while !self.tree.is_within(b, at) {
            at = self.tree.parent(at);
        }
        at
    }

    /// Forgets all nodes below `id`.
    pub(super) fn drop_below(&mut self, id: NodeId) {
        for below in self.tree.subtree_bottom_up(id) {
            if below != id {
                self.drop_key(below);
                self.tree.remove(below);
            }
        }
    }

    /// The entries that follow are of this directory, whose own metadata is `meta`.
    pub fn listing(&mut self, dir: &RelPath, meta: &Meta) {
        if self.fill.is_none() {
            return;
        }
        let mut at = Some(ROOT);
        for name in dir.names() {
            at = at.and_then(|id| self.tree.child(id, name.as_bytes())).filter(|id| !self.tree.has(*id, flag::PROTECTED));
        }
        if let Some(at) = at {
            self.tree.clear(at, flag::RELIST);
            if dir.names().any(Name::is_parked) {
                // Nothing in it is looked at, which would show that this is no trouble any more.
                self.heal_from(at, LIST);
            }
        }
        let at = at.filter(|id| self.tree.kind(*id) == Some(Kind::Dir));
        if let Some(at) = at {
            self.tree.set_meta(at, meta);
        }
        if let Some(fill) = &mut self.fill {
            fill.at(dir, at);
        }
    }

    /// One entry of the mirror.
    pub fn entry(&mut self, entry: &Entry) {
        let Some(fill) = &mut self.fill else { return };
        let Some(dir) = fill.dir else { return };
        let name = entry.name.as_name();
        if name.is_reserved() && !name.is_parked() {
            return;
        }
        let id = self.tree.child_or_insert(dir, entry.name.as_name());
        self.tree.set_meta(id, &entry.meta);
        if let Some(target) = &entry.target {
            self.tree.set_target(id, target);
        }
        if entry.is_border() {
            self.tree.set_border(id);
        }
        if name.is_parked() && !fill.parked {
            self.parked_told(id, &entry.name);
        }
        let Some(fill) = &mut self.fill else { return };
        let group = match entry.link_group {
            0 => 0,
            // Nothing is linked to what is to be deleted.
            _ if fill.parked || name.is_parked() || entry.meta.kind == Kind::Dir => 0,
            theirs => {
                let (group, names) = fill.groups.entry(theirs).or_insert_with(|| {
                    self.next_group += 1;
                    (self.next_group, 0)
                });
                *names = names.saturating_add(1);
                if *names > LINK_NAMES_MAX { 0 } else { *group }
            }
        };
        self.tree.set_group(id, group);
        if !self.filter.is_empty() && !self.options.delete_excluded {
            let was = name.is_parked().then(|| name.parked_of());
            let len = fill.path.len();
            if len > 0 {
                fill.path.push(b'/');
            }
            fill.path.extend_from_slice(was.flatten().unwrap_or(name).as_bytes());
            let nameless = fill.nameless || (was == Some(None) && entry.meta.kind != Kind::Dir);
            let path = self.fill.as_ref().map_or(&[][..], |fill| &fill.path);
            if nameless || self.excludes(path, entry.meta.kind) {
                self.tree.set(id, flag::PROTECTED);
            }
            if let Some(fill) = &mut self.fill {
                fill.path.truncate(len);
            }
        }
    }

    /// A directory of the mirror could not be listed, or not to its end.
    pub fn list_error(&mut self, dir: &RelPath, errno: i32, now: u64) {
        let mut at = ROOT;
        for name in dir.names() {
            match self.tree.child(at, name.as_bytes()) {
                // What is in it is of no interest.
                Some(id) if self.tree.has(id, flag::PROTECTED) => return,
                Some(id) => at = id,
                None => break,
            }
        }
        if let Some(fill) = &mut self.fill {
            fill.missed.remove(dir);
        }
        if self.is_parked(at) && matches!(errno, libc::ENOENT | libc::ENOTDIR | libc::ELOOP) {
            // It is gone: the directory that it is in tells.
            return self.relist(self.tree.parent(at));
        }
        self.unlisted.insert(self.tree.reference(at));
        self.trouble(at, LIST, errno, now);
        let time = self.retry_at(at, now);
        self.dirty.mark_at(&mut self.tree, at, flag::RELIST, time);
    }

    /// Whether the manifest that is on its way, and the answer to a look, keep to their share of memory, `bytes_max`: a receiver that tells of entries without end is
    /// stopped.
    pub fn manifest_fits(&self, bytes_max: u64) -> bool {
        if self.scrub.heard as u64 > bytes_max {
            return false;
        }
        let Some(fill) = &self.fill else { return true };
        let bytes = self.tree.memory() + fill.groups.len() * GROUP_BYTES;
        bytes as u64 <= bytes_max && self.tree.names.held() <= MANIFEST_NAMES_BYTES_MAX
    }

    /// The manifest is complete.
    pub fn list_end(&mut self) {
        if self.fill.take().is_some_and(|fill| !fill.missed.is_empty() && !fill.groups.is_empty()) {
            self.relist(ROOT);
        }
        self.behind = true;
        self.parked_all_told();
        self.guard_filled();
        self.place_strays();
        self.distrust_told();
    }
}
