//! What a manifest cannot tell: it compares length and time, and a file that was written or replaced may have those of what the mirror holds. What was in doubt when the nodes were
//! dropped for a manifest, and what is told of directories that have no node until they are listed again, is sent whole, whatever the manifest says. Part of the planner.
//!
//! Invariant: a file of which the mirror may hold something else of equal length and time has a node with one of [`DOUBTS`], or its path is in `distrusted` until the manifest has come.

use std::collections::{BTreeMap, BTreeSet};

use crate::limits::NAMES_WAITING_MAX;
use crate::model::event::{Hint, Key};
use crate::model::meta::Kind;
use crate::model::path::Name;
use crate::plan::planner::{Action, Planner};
use crate::plan::tree::{NodeId, ROOT, flag};

/// With any of these the content may be another than length and time say.
const DOUBTS: u16 = flag::WROTE | flag::CAME | flag::RACY | flag::REUSE | flag::BUSY;

/// So often, at most, it is seen whether directories without node are still to be met.
const STRAYS_EVERY_NS: u64 = 100_000_000;

/// See the module's comment.
#[derive(Debug, Default)]
pub struct Distrust {
    /// Paths that are not trusted, whatever the manifest that is wanted says.
    paths: BTreeSet<Vec<u8>>,
    /// Directories no file of which is trusted: what events told of in them was too much to be remembered.
    dirs: BTreeSet<Vec<u8>>,
    /// Watched directories that have no node, or none that is known to be theirs, until they are listed: where they are in the mirror.
    strays: BTreeMap<Box<[u8]>, Vec<u8>>,
    /// Whether some of them can be forgotten is looked at then.
    strays_at: u64,
}

impl Distrust {
    /// The paths are not trusted.
    pub(super) fn extend(&mut self, paths: impl IntoIterator<Item = Vec<u8>>) {
        self.paths.extend(paths);
    }

    /// The directory with this key is listed, or no event will carry the key any more.
    pub(super) fn found(&mut self, key: &[u8]) {
        self.strays.remove(key);
    }
}

/// Whether what the event tells of may have another content.
fn is_doubt(hint: Hint) -> bool {
    hint.has(Hint::WRITTEN | Hint::CLOSED | Hint::APPEARED)
}

impl Planner {
    /// The nodes below `top` are about to be dropped for a manifest, and `top` itself if `is_all`: what is in doubt is kept by path.
    pub(super) fn keep_doubts(&mut self, top: NodeId, is_all: bool) {
        let Self { tree, distrust, .. } = self;
        for id in tree.subtree_bottom_up(top) {
            let is_doubtful = tree.kind(id) != Some(Kind::Dir) && tree.has(id, DOUBTS);
            if !(is_doubtful || tree.key(id).is_some()) {
                continue;
            }
            let Ok(path) = tree.path(id) else { continue };
            let path = path.as_bytes().to_vec();
            if is_doubtful {
                distrust.paths.insert(path);
            } else if let Some(key) = tree.key(id).filter(|_| id != top || is_all) {
                distrust.strays.insert(key.0.clone(), path);
            }
        }
    }

    /// An event of a directory without a node, or with none that is known to be its own.
    pub(super) fn stray_told(&mut self, key: &[u8], name: &[u8], hint: Hint) {
        if self.distrust.strays.is_empty() {
            return;
        }
        if hint.has(Hint::KEY_DEAD) {
            self.distrust.found(key);
        } else if is_doubt(hint)
            && !name.is_empty()
            && let Some(path) = self.distrust.strays.get(key)
        {
            if self.distrust.paths.len() < NAMES_WAITING_MAX {
                let path = if path.is_empty() { name.to_vec() } else { [path, &b"/"[..], name].concat() };
                self.distrust.paths.insert(path);
            } else if !self.distrust.dirs.contains(path) {
                self.distrust.dirs.insert(path.clone());
            }
            self.distrust_told();
        }
    }

    /// An event of a directory whose manifest is wanted.
    pub(super) fn unlisted_told(&mut self, dir: NodeId, name: Name<'_>, hint: Hint) {
        if is_doubt(hint) && self.awaits_manifest(dir) {
            let id = self.tree.child_or_insert(dir, name);
            self.tree.doubt(id);
        }
    }

    fn awaits_manifest(&self, mut dir: NodeId) -> bool {
        while dir != ROOT && !self.wanted_lists.contains(&self.tree.reference(dir)) {
            dir = self.tree.parent(dir);
        }
        self.wanted_lists.contains(&self.tree.reference(dir))
    }

    /// What is not trusted is sent whole, unless a manifest is still to tell what the mirror holds.
    pub(super) fn distrust_told(&mut self) {
        if !self.online || self.fill.is_some() || !self.wanted_lists.is_empty() {
            return;
        }
        for path in std::mem::take(&mut self.distrust.paths) {
            let (at, is_there) = self.nearest(&path);
            if is_there {
                self.distrust_node(at);
            } else if self.tree.has(at, flag::RELIST) {
                // The manifest did not tell: it is asked for again.
                self.distrust.paths.insert(path);
            }
        }
        for path in std::mem::take(&mut self.distrust.dirs) {
            let (dir, is_there) = self.nearest(&path);
            if is_there {
                self.tree.children(dir).collect::<Vec<_>>().into_iter().for_each(|id| self.distrust_node(id));
            } else if self.tree.has(dir, flag::RELIST) {
                self.distrust.dirs.insert(path);
            }
        }
    }

    fn distrust_node(&mut self, id: NodeId) {
        if self.tree.kind(id).is_some_and(|kind| kind != Kind::Dir) {
            self.not_sent(id, 0);
            self.dirty.mark(&mut self.tree, id, flag::LOOK | flag::WROTE);
        }
    }

    /// The node at the path, or the last one above it, and whether it is the first.
    fn nearest(&self, path: &[u8]) -> (NodeId, bool) {
        let mut at = ROOT;
        for name in path.split(|byte| *byte == b'/').filter(|name| !name.is_empty()) {
            match self.tree.child(at, name) {
                Some(id) => at = id,
                None => return (at, false),
            }
        }
        (at, true)
    }

    /// Once the whole source has been looked at: directories that were not met are not there any more. One that cannot be listed yet may hold them.
    pub(super) fn forget_strays(&mut self, now: u64, actions: &mut Vec<Action>) {
        if self.distrust.strays.is_empty() || now < self.distrust.strays_at || !self.dirty.is_empty() {
            return;
        }
        self.distrust.strays_at = now + STRAYS_EVERY_NS;
        let is_looked_at = |id| !self.tree.has(id, flag::SCAN) || self.tree.has(id, flag::UNWATCHED);
        if self.dirty.delayed(&self.tree).all(is_looked_at) {
            let strays = std::mem::take(&mut self.distrust.strays).into_keys();
            actions.extend(strays.filter(|key| self.tree.of_key(key).is_none()).map(|key| Action::Forget(Key(key))));
        }
    }
}
