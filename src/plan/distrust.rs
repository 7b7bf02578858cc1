//! What a manifest cannot tell: it compares length and time, and a file that was written or replaced may have those of what the mirror holds. What was in doubt when the nodes were
//! dropped for a manifest, and what is told of directories that have no node until they are listed again, is sent whole, whatever the manifest says. Part of the planner.
//!
//! Invariant: a file of which the mirror may hold something else of equal length and time has a node with one of [`DOUBTS`], or its path is in `paths`, or below one in `dirs`, until the
//! manifest has come.

use std::collections::{BTreeMap, BTreeSet};

use crate::limits::NAMES_WAITING_MAX;
use crate::model::cycle::NodeRef;
use crate::model::event::{Hint, Key};
use crate::model::meta::Kind;
use crate::model::path::Name;
use crate::model::probe::Seen;
use crate::plan::planner::{Action, Planner};
use crate::plan::tree::{NodeId, ROOT, Tree, flag};

/// With any of these the content may be another than length and time say.
const DOUBTS: u16 = flag::WROTE | flag::CAME | flag::BUSY;
/// With any of these a change that no event told of, since that was lost, may hide.
const BLIND: u16 = flag::RACY | flag::REUSE;
/// What is in such a directory is in no tree yet.
const UNTOLD: u16 = flag::RELIST | flag::PROTECTED;

/// So often, at most, it is seen whether directories without node are still to be met.
const STRAYS_EVERY_NS: u64 = 100_000_000;

/// Where a directory is in the mirror that events tell of.
#[derive(Debug)]
enum Place {
    /// By path: its node is dropped, and no manifest has told of it since.
    Path(Vec<u8>),
    /// The node that the manifest made; its own key is not known yet.
    Node(NodeRef),
}

/// See the module's comment.
#[derive(Debug, Default)]
pub struct Distrust {
    /// Paths that are not trusted, whatever the manifest that is wanted says.
    paths: BTreeSet<Vec<u8>>,
    /// Directories no file below which is trusted: they may be others, or what events told of in them was too much to be remembered.
    dirs: BTreeSet<Vec<u8>>,
    /// Those of both that the last manifest did not tell of, until the next.
    untold: (BTreeSet<Vec<u8>>, BTreeSet<Vec<u8>>),
    /// Paths that are not trusted if an event is lost before the source has been looked at.
    blind: BTreeSet<Vec<u8>>,
    /// Watched directories that have no node, or none that is known to be theirs, until they are listed.
    strays: BTreeMap<Box<[u8]>, Place>,
    /// Whether some of them can be forgotten is looked at then.
    strays_at: u64,
}

fn below(dir: &[u8], name: &[u8]) -> Vec<u8> {
    if dir.is_empty() { name.to_vec() } else { [dir, b"/", name].concat() }
}

impl Distrust {
    /// The paths are not trusted.
    pub(super) fn extend(&mut self, paths: impl IntoIterator<Item = Vec<u8>>) {
        self.paths.extend(paths);
    }

    /// Nor is anything below these.
    pub(super) fn extend_dirs(&mut self, dirs: impl IntoIterator<Item = Vec<u8>>) {
        self.dirs.extend(dirs);
    }

    /// The directory with this key is listed, or no event will carry the key any more.
    pub(super) fn found(&mut self, key: &[u8]) {
        self.strays.remove(key);
    }

    /// What is called so in the directory at the path is not trusted.
    fn told(&mut self, dir: &[u8], name: &[u8], hint: Hint) {
        if self.paths.len() + self.dirs.len() + self.untold.0.len() + self.untold.1.len() >= NAMES_WAITING_MAX {
            self.dirs.insert(dir.to_vec());
        } else if hint.has(Hint::DIR) {
            self.dirs.insert(below(dir, name));
        } else {
            self.paths.insert(below(dir, name));
        }
    }
}

/// Whether the file may have changed where no event tells: its directory makes none, or is to be listed since some were lost.
fn is_unseen(tree: &Tree, id: NodeId) -> bool {
    tree.has(id, BLIND) && id != ROOT && tree.has(tree.parent(id), flag::SCAN | flag::UNWATCHED)
}

/// Whether what the event tells of may have another content.
fn is_doubt(hint: Hint) -> bool {
    hint.has(Hint::WRITTEN | Hint::CLOSED | Hint::APPEARED)
}

impl Planner {
    /// The nodes below `top` are about to be dropped for a manifest, and `top` itself if `is_all`: what is in doubt is kept by path.
    pub(super) fn keep_doubts(&mut self, top: NodeId, is_all: bool) {
        let Self { tree, distrust, .. } = self;
        let path_of = |id| tree.path(id).ok().map(|path| path.as_bytes().to_vec());
        for place in distrust.strays.values_mut() {
            if let Place::Node(node) = place
                && let Some(path) = tree.resolve(*node).filter(|id| tree.is_within(*id, top)).and_then(path_of)
            {
                *place = Place::Path(path);
            }
        }
        for id in tree.subtree_bottom_up(top) {
            let is_dir = tree.kind(id) == Some(Kind::Dir);
            let is_doubtful = tree.has(id, if is_dir { flag::CAME } else { DOUBTS }) || (!is_dir && is_unseen(tree, id));
            let is_blind = !is_dir && tree.has(id, BLIND);
            if !(is_doubtful || is_blind || tree.key(id).is_some()) {
                continue;
            }
            let Some(path) = path_of(id) else { continue };
            if let Some(key) = tree.key(id).filter(|_| id != top || is_all) {
                distrust.strays.insert(key.0.clone(), Place::Path(path.clone()));
            }
            if is_doubtful {
                let doubtful = if is_dir { &mut distrust.dirs } else { &mut distrust.paths };
                doubtful.insert(path);
            } else if is_blind {
                distrust.blind.insert(path);
            }
        }
    }

    /// What was seen at the name is another object than the mirror's, or may be, in a directory that `came`. No event tells of what came with its directory, and which object the mirror's is
    /// is forgotten with a manifest that is wanted before there is a cycle of it.
    pub(super) fn doubt_another(&mut self, id: NodeId, seen: &Seen, came: bool) {
        let Seen::Present { stat, .. } = seen else { return };
        if self.tree.kind(id).is_some() && self.tree.ident(id).map_or(came, |known| known != stat.ident) {
            self.tree.set(id, flag::CAME);
        }
    }

    /// Events were lost: what they could have told of may have changed.
    pub(super) fn distrust_blind(&mut self) {
        // A directory is told from a file when it is looked for: a file has nothing below.
        let mut blind = std::mem::take(&mut self.distrust.blind);
        self.distrust.dirs.append(&mut blind);
        self.distrust_told();
    }

    /// An event of a directory without a node, or with none that is known to be its own.
    pub(super) fn stray_told(&mut self, key: &[u8], name: &[u8], hint: Hint) {
        if self.distrust.strays.is_empty() {
            return;
        }
        if hint.has(Hint::KEY_DEAD) {
            self.distrust.found(key);
        }
        if !is_doubt(hint) || Name::new(name).is_ok_and(Name::is_reserved) || name.is_empty() {
            return;
        }
        let dir = match self.distrust.strays.get(key) {
            Some(Place::Path(path)) => path.clone(),
            Some(Place::Node(node)) => match self.tree.resolve(*node).and_then(|id| self.tree.path(id).ok()) {
                Some(path) => path.as_bytes().to_vec(),
                None => return,
            },
            None => return,
        };
        self.distrust.told(&dir, name, hint);
        self.distrust_told();
    }

    /// An event of a directory whose manifest is wanted.
    pub(super) fn unlisted_told(&mut self, dir: NodeId, name: Name<'_>, hint: Hint) {
        if !is_doubt(hint) || !self.awaits_manifest(dir) {
            return;
        }
        match self.tree.child(dir, name.as_bytes()) {
            Some(id) => {
                self.tree.doubt(id);
            }
            None => {
                if let Ok(dir) = self.tree.path(dir) {
                    self.distrust.told(dir.as_bytes(), name.as_bytes(), hint);
                }
            }
        }
    }

    fn awaits_manifest(&self, mut dir: NodeId) -> bool {
        while dir != ROOT && !self.wanted_lists.contains(&self.tree.reference(dir)) {
            dir = self.tree.parent(dir);
        }
        self.wanted_lists.contains(&self.tree.reference(dir))
    }

    /// The manifest is there: directories without node are found by what it told from now on, wherever they move.
    pub(super) fn place_strays(&mut self) {
        let mut strays = std::mem::take(&mut self.distrust.strays);
        for place in strays.values_mut() {
            if let Place::Path(path) = place
                && let (id, []) = self.nearest(path)
            {
                *place = Place::Node(self.tree.reference(id));
            }
        }
        self.distrust.strays = strays;
        let Distrust { paths, dirs, untold, .. } = &mut self.distrust;
        paths.append(&mut untold.0);
        dirs.append(&mut untold.1);
    }

    /// What is not trusted is sent whole, unless a manifest is still to tell what the mirror holds.
    pub(super) fn distrust_told(&mut self) {
        if !self.online || self.fill.is_some() || !self.wanted_lists.is_empty() {
            return;
        }
        for path in std::mem::take(&mut self.distrust.paths) {
            match self.nearest(&path) {
                // The manifest did not tell, and is asked for again; or it is excluded, until other rules come.
                (at, []) if self.tree.has(at, flag::PROTECTED) => drop(self.distrust.untold.0.insert(path)),
                (above, [_, ..]) if self.tree.has(above, UNTOLD) => drop(self.distrust.untold.0.insert(path)),
                (id, []) => self.distrust_node(id),
                (dir, name) => self.look_at_new(dir, name),
            }
        }
        for path in std::mem::take(&mut self.distrust.dirs) {
            match self.nearest(&path) {
                (dir, []) if self.tree.has(dir, flag::PROTECTED) => drop(self.distrust.untold.1.insert(path)),
                (above, [_, ..]) if self.tree.has(above, UNTOLD) => drop(self.distrust.untold.1.insert(path)),
                (dir, []) => self.tree.subtree_bottom_up(dir).into_iter().for_each(|id| self.distrust_node(id)),
                _ => {}
            }
        }
    }

    /// The mirror has nothing at the name. What was written through it was written to the object's other names, which the mirror may have.
    fn look_at_new(&mut self, dir: NodeId, name: &[u8]) {
        if self.tree.kind(dir) == Some(Kind::Dir)
            && let Ok(name) = Name::new(name)
            && !name.is_reserved()
        {
            let id = self.tree.child_or_insert(dir, name);
            self.dirty.mark(&mut self.tree, id, flag::LOOK | flag::WROTE);
        }
    }

    fn distrust_node(&mut self, id: NodeId) {
        let is_reserved = Name::new(self.tree.name(id)).is_ok_and(Name::is_reserved);
        if self.tree.kind(id).is_none_or(|kind| kind == Kind::Dir) || is_reserved {
            return;
        }
        if self.tree.has(id, flag::PROTECTED) {
            // It is kept as it is: other rules find the doubt.
            self.tree.set(id, flag::CAME);
        } else {
            self.not_sent(id, 0);
            self.dirty.mark(&mut self.tree, id, flag::LOOK | flag::WROTE);
        }
    }

    /// The node at the path, or the last one above it, and what is left of the path.
    fn nearest<'a>(&self, path: &'a [u8]) -> (NodeId, &'a [u8]) {
        let (mut at, mut rest) = (ROOT, path);
        while !rest.is_empty() {
            let name = rest.split(|byte| *byte == b'/').next().unwrap_or_default();
            let Some(id) = self.tree.child(at, name) else { break };
            at = id;
            rest = rest.get(name.len() + 1..).unwrap_or_default();
        }
        (at, rest)
    }

    /// Once the whole source has been looked at: directories that were not met are not there any more. One that cannot be listed yet may hold them.
    pub(super) fn forget_strays(&mut self, now: u64, actions: &mut Vec<Action>) {
        let Distrust { strays, blind, .. } = &self.distrust;
        if (strays.is_empty() && blind.is_empty())
            || now < self.distrust.strays_at
            || !self.dirty.is_empty()
            || !self.wanted_lists.is_empty()
        {
            return;
        }
        self.distrust.strays_at = now + STRAYS_EVERY_NS;
        let is_dir = |id| self.tree.kind(id) == Some(Kind::Dir);
        let is_ahead = |id| is_dir(id) && self.tree.has(id, flag::SCAN | flag::LOOK) && !self.tree.has(id, flag::UNWATCHED);
        if !self.dirty.delayed(&self.tree).any(is_ahead) {
            self.distrust.blind.clear();
            let strays = std::mem::take(&mut self.distrust.strays).into_keys();
            actions.extend(strays.filter(|key| self.tree.of_key(key).is_none()).map(|key| Action::Forget(Key(key))));
        }
    }
}
