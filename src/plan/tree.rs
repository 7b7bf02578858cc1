//! The planner's memory of what the mirror holds, and which object of the source each name last was.
//!
//! An arena of nodes found by (parent, name), by the key of a watched directory, by the identity of the source's object and by the mirror's
//! hard-link group. No path is stored: a renamed directory is one re-parented node. It does no I/O and decides nothing; the planner
//! is its only user.
//!
//! Invariant ([`Tree::check`]): every live node but the root is in its parent's list of children and in the table of names; a node is in the table
//! of identities exactly if its identity is known, and in the table of groups exactly if its group is not 0.

use std::collections::HashMap;
use std::hash::BuildHasher;

use foldhash::fast::FixedState;
use hashbrown::HashTable;

use crate::limits::BORDERS_MAX;
use crate::model::cycle::NodeRef;
use crate::model::event::Key;
use crate::model::meta::{Kind, Meta, Time};
use crate::model::path::{Name, NameBuf, PathError, RelPath};
use crate::plan::names::Names;
use crate::plan::owners::Owners;

/// Slot of a node. [`NONE`] is no node.
pub type NodeId = u32;
/// No node.
pub const NONE: NodeId = u32::MAX;
/// The root.
pub const ROOT: NodeId = 0;

/// Marks of a node.
pub mod flag {
    /// In the queue of nodes to be taken into a cycle; with `DELAYED`: in the one of those that go on beside the rest.
    pub const QUEUED: u16 = 1;
    /// Without `QUEUED`: waits for its time in the list of delayed nodes.
    pub const DELAYED: u16 = 1 << 1;
    /// The name has to be looked at in its parent.
    pub const LOOK: u16 = 1 << 2;
    /// The directory's own metadata has to be looked at.
    pub const OWN: u16 = 1 << 3;
    /// The directory has to be listed.
    pub const SCAN: u16 = 1 << 4;
    /// With `SCAN`: and all directories below it.
    pub const DEEP: u16 = 1 << 5;
    /// Its content is with a worker: it is in no cycle until the report is back.
    pub const BUSY: u16 = 1 << 6;
    /// What the mirror holds at the name is not known: whatever comes next is sent whole.
    pub const UNKNOWN: u16 = 1 << 7;
    /// Read so shortly after it was changed that its times may not show a further change.
    pub const RACY: u16 = 1 << 8;
    /// Read so shortly after it was changed that its times may not tell it from a new file with its inode number.
    pub const REUSE: u16 = 1 << 14;
    /// It was written, as an event says, since its content was last compared or read.
    pub const WROTE: u16 = 1 << 9;
    /// Something appeared at its name, as an event says, or was not seen to get there, since its content was last compared or read.
    pub const CAME: u16 = 1 << 15;
    /// The filter excludes it: the mirror keeps what it has.
    pub const PROTECTED: u16 = 1 << 10;
    /// The directory makes no events and is listed again from time to time.
    pub const UNWATCHED: u16 = 1 << 11;
    /// Slot in use.
    pub const LIVE: u16 = 1 << 12;
    /// The mirror's directory has to be listed.
    pub const RELIST: u16 = 1 << 13;
    /// All reasons to be queued.
    pub const DIRTY: u16 = LOOK | OWN | SCAN | RELIST;
}

/// Permission bits.
const MODE_BITS: u16 = 0o7777;
/// Above them, in the same field: the mirror's object has attributes.
pub(super) const HAS_ATTRS: u16 = 1 << 15;
/// And: it is one of several names.
pub(super) const HAS_GROUP: u16 = 1 << 14;

/// 80 bytes beside the name.
#[derive(Debug, Clone)]
pub(super) struct Node {
    pub(super) parent: NodeId,
    pub(super) first_child: NodeId,
    pub(super) next: NodeId,
    pub(super) prev: NodeId,
    pub(super) name_at: u32,
    pub(super) generation: u32,
    pub(super) name_len: u8,
    /// A [`Kind`], or 0: the mirror holds nothing here.
    pub(super) kind: u8,
    pub(super) flags: u16,
    /// [`MODE_BITS`], and [`HAS_ATTRS`] and [`HAS_GROUP`] if the node is in the table of attributes or of groups.
    pub(super) mode: u16,
    /// Index + 1 into `devices`; 0: identity not known.
    pub(super) dev: u16,
    /// Owner and group, a number of `owners`.
    owner: u32,
    pub(super) mtime_nsec: u32,
    /// Digest of the source's time of change when the content was read or found equal.
    pub(super) ctime: u32,
    pub(super) mtime_sec: i64,
    /// Length of a file, device number of a device, place of a link's target among the names.
    pub(super) size: u64,
    pub(super) ino: u64,
    pub(super) birth_ns: i64,
}

const EMPTY: Node = Node {
    parent: NONE,
    first_child: NONE,
    next: NONE,
    prev: NONE,
    name_at: 0,
    generation: 0,
    name_len: 0,
    kind: 0,
    flags: 0,
    mode: 0,
    dev: 0,
    owner: 0,
    mtime_nsec: 0,
    ctime: 0,
    mtime_sec: 0,
    size: 0,
    ino: 0,
    birth_ns: 0,
};

/// The tree. See the module's comment.
#[derive(Debug)]
pub struct Tree {
    pub(super) nodes: Vec<Node>,
    pub(super) free: Vec<NodeId>,
    pub(super) names: Names,
    pub(super) devices: Vec<u64>,
    pub(super) hasher: FixedState,
    pub(super) by_name: HashTable<NodeId>,
    pub(super) by_ident: HashTable<NodeId>,
    pub(super) by_group: HashTable<NodeId>,
    pub(super) by_key: HashMap<Key, NodeId, FixedState>,
    pub(super) keys: HashMap<NodeId, Key, FixedState>,
    /// Groups of the few that have several names.
    pub(super) groups: HashMap<NodeId, u32, FixedState>,
    pub(super) owners: Owners,
    /// Digests of the attributes of the few that have some.
    pub(super) attrs: HashMap<NodeId, u64, FixedState>,
    /// Directories of the mirror that are the top of another filesystem or mount: none, or very few.
    borders: Vec<NodeId>,
}

impl Tree {
    /// A tree of the root alone, a directory of unknown metadata. `seed` is the hash tables': random in earnest, so that nobody can choose names that
    /// collide; fixed where a run has to repeat itself.
    pub fn new(seed: u64) -> Self {
        let mut root = EMPTY;
        root.kind = Kind::Dir as u8;
        root.flags = flag::LIVE;
        Self {
            nodes: vec![root],
            free: Vec::new(),
            names: Names::default(),
            devices: Vec::new(),
            hasher: FixedState::with_seed(seed),
            by_name: HashTable::new(),
            by_ident: HashTable::new(),
            by_group: HashTable::new(),
            by_key: HashMap::with_hasher(FixedState::with_seed(seed)),
            keys: HashMap::with_hasher(FixedState::with_seed(seed)),
            groups: HashMap::with_hasher(FixedState::with_seed(seed)),
            owners: Owners::new(seed),
            attrs: HashMap::with_hasher(FixedState::with_seed(seed)),
            borders: Vec::new(),
        }
    }

    /// Number of live nodes, the root included.
    pub fn len(&self) -> usize {
        self.nodes.len() - self.free.len()
    }

    /// Whether only the root is left.
    pub fn is_empty(&self) -> bool {
        self.len() == 1
    }

    /// Number of slots, in use or not: all nodes are below it.
    pub fn slots(&self) -> usize {
        self.nodes.len()
    }

    pub(super) fn node(&self, id: NodeId) -> &Node {
        &self.nodes[id as usize]
    }

    pub(super) fn node_mut(&mut self, id: NodeId) -> &mut Node {
        &mut self.nodes[id as usize]
    }

    /// A handle that goes stale when the node is freed.
    pub fn reference(&self, id: NodeId) -> NodeRef {
        NodeRef { id, generation: self.node(id).generation }
    }

    /// The node of a handle, if it still lives.
    pub fn resolve(&self, node: NodeRef) -> Option<NodeId> {
        let found = self.nodes.get(node.id as usize)?;
        (found.generation == node.generation && found.flags & flag::LIVE != 0).then_some(node.id)
    }

    /// Whether the slot is in use.
    pub fn is_live(&self, id: NodeId) -> bool {
        self.nodes.get(id as usize).is_some_and(|n| n.flags & flag::LIVE != 0)
    }

    /// The parent; [`NONE`] for the root.
    pub fn parent(&self, id: NodeId) -> NodeId {
        self.node(id).parent
    }

    /// The name; empty for the root.
    pub fn name(&self, id: NodeId) -> &[u8] {
        let node = self.node(id);
        self.names.get(node.name_at, u32::from(node.name_len))
    }

    /// The name as a value of its own; `None` for the root.
    pub fn name_buf(&self, id: NodeId) -> Option<NameBuf> {
        Name::new(self.name(id)).ok().map(Name::to_owned)
    }

    /// What the mirror holds; `None` if nothing.
    pub fn kind(&self, id: NodeId) -> Option<Kind> {
        Kind::from_u8(self.node(id).kind)
    }

    /// Whether any of `flags` is set.
    pub fn has(&self, id: NodeId, flags: u16) -> bool {
        self.node(id).flags & flags != 0
    }

    /// Sets `flags`.
    pub fn set(&mut self, id: NodeId, flags: u16) {
        self.node_mut(id).flags |= flags;
    }

    /// Clears `flags`.
    pub fn clear(&mut self, id: NodeId, flags: u16) {
        self.node_mut(id).flags &= !flags;
    }

    fn hash_name(hasher: &FixedState, parent: NodeId, name: &[u8]) -> u64 {
        hasher.hash_one((parent, name))
    }

    pub(super) fn hash_ident(hasher: &FixedState, dev: u16, ino: u64) -> u64 {
        hasher.hash_one((dev, ino))
    }

    /// The child of `parent` with this name.
    pub fn child(&self, parent: NodeId, name: &[u8]) -> Option<NodeId> {
        let hash = Self::hash_name(&self.hasher, parent, name);
        self.by_name.find(hash, |id| self.node(*id).parent == parent && self.name(*id) == name).copied()
    }

    /// As [`Tree::child`]; those next to `near` are tried first: names that are listed come in the order in which they were made, or in its reverse, more
    /// often than not, and what is next to each other is so in memory too.
    fn child_beside(&self, parent: NodeId, name: &[u8], near: NodeId) -> Option<NodeId> {
        let beside = self.nodes.get(near as usize).map_or([NONE; 2], |node| [node.prev, node.next]);
        let fits = |id: &NodeId| *id != NONE && self.parent(*id) == parent && self.name(*id) == name;
        beside.into_iter().find(fits).or_else(|| self.child(parent, name))
    }

    /// The child of `parent` with this name; made, holding nothing, where there is none.
    pub fn child_or_insert(&mut self, parent: NodeId, name: Name<'_>) -> NodeId {
        self.child_or_insert_beside(parent, name, NONE)
    }

    /// As [`Tree::child_or_insert`]; quicker if it is next to `near` in the order of listing.
    pub fn child_or_insert_beside(&mut self, parent: NodeId, name: Name<'_>, near: NodeId) -> NodeId {
        if let Some(id) = self.child_beside(parent, name.as_bytes(), near) {
            return id;
        }
        let id = self.free.pop().unwrap_or_else(|| {
            self.nodes.push(EMPTY);
            (self.nodes.len() - 1) as NodeId
        });
        let generation = self.node(id).generation;
        *self.node_mut(id) = Node { generation, flags: flag::LIVE, ..EMPTY };
        self.attach(id, parent, name);
        id
    }

    fn attach(&mut self, id: NodeId, parent: NodeId, name: Name<'_>) {
        let name_at = self.names.add(name.as_bytes());
        let next = self.node(parent).first_child;
        let node = self.node_mut(id);
        node.parent = parent;
        node.name_at = name_at;
        node.name_len = name.as_bytes().len() as u8;
        node.next = next;
        node.prev = NONE;
        if next != NONE {
            self.node_mut(next).prev = id;
        }
        self.node_mut(parent).first_child = id;
        let Self { by_name, nodes, names, hasher, .. } = self;
        let hash = Self::hash_name(hasher, parent, name.as_bytes());
        by_name.insert_unique(hash, id, |other| {
            let other = &nodes[*other as usize];
            Self::hash_name(hasher, other.parent, names.get(other.name_at, u32::from(other.name_len)))
        });
    }

    fn detach(&mut self, id: NodeId) {
        let hash = Self::hash_name(&self.hasher, self.parent(id), self.name(id));
        if let Ok(found) = self.by_name.find_entry(hash, |other| *other == id) {
            found.remove();
        }
        let Node { parent, next, prev, name_len, .. } = *self.node(id);
        self.names.release(u32::from(name_len));
        if prev == NONE {
            self.node_mut(parent).first_child = next;
        } else {
            self.node_mut(prev).next = next;
        }
        if next != NONE {
            self.node_mut(next).prev = prev;
        }
    }

    /// Gives the node another place. The place must be free, and must not be below the node.
    pub fn reparent(&mut self, id: NodeId, parent: NodeId, name: Name<'_>) {
        debug_assert!(self.child(parent, name.as_bytes()).is_none() && !self.is_within(parent, id));
        self.detach(id);
        self.attach(id, parent, name);
    }

    /// Frees the node, which has no children.
    pub fn remove(&mut self, id: NodeId) {
        debug_assert!(id != ROOT && self.node(id).first_child == NONE);
        self.forget_object(id);
        self.take_key(id);
        self.detach(id);
        let node = self.node_mut(id);
        node.generation = node.generation.wrapping_add(1);
        node.flags = 0;
        self.free.push(id);
        self.compact_names();
    }

    /// The children, in no order.
    pub fn children(&self, id: NodeId) -> impl Iterator<Item = NodeId> + '_ {
        let some = |id: NodeId| (id != NONE).then_some(id);
        std::iter::successors(some(self.node(id).first_child), move |at| some(self.node(*at).next))
    }

    /// Whether the node holds nothing, has nothing below it and waits for nothing.
    pub fn is_blank(&self, id: NodeId) -> bool {
        let node = self.node(id);
        node.kind == 0 && node.flags == flag::LIVE && node.first_child == NONE
    }

    /// Whether the node has children.
    pub fn has_children(&self, id: NodeId) -> bool {
        self.node(id).first_child != NONE
    }

    /// The nodes below `id` and `id` itself, each after all that is below it.
    pub fn subtree_bottom_up(&self, id: NodeId) -> Vec<NodeId> {
        let mut order = vec![id];
        let mut at = 0;
        while at < order.len() {
            let node = order[at];
            order.extend(self.children(node));
            at += 1;
        }
        order.reverse();
        order
    }

    /// Whether `id` is `ancestor` or below it.
    pub fn is_within(&self, mut id: NodeId, ancestor: NodeId) -> bool {
        while id != NONE {
            if id == ancestor {
                return true;
            }
            id = self.parent(id);
        }
        false
    }

    /// Number of ancestors.
    pub fn depth(&self, mut id: NodeId) -> u32 {
        let mut depth = 0;
        while self.parent(id) != NONE {
            id = self.parent(id);
            depth += 1;
        }
        depth
    }

    /// The path from the root.
    ///
    /// # Errors
    /// [`PathError::TooLong`].
    pub fn path(&self, id: NodeId) -> Result<RelPath, PathError> {
        let mut parts = Vec::new();
        let mut at = id;
        while at != ROOT {
            parts.push(at);
            at = self.parent(at);
        }
        let mut bytes = Vec::new();
        for part in parts.iter().rev() {
            if !bytes.is_empty() {
                bytes.push(b'/');
            }
            bytes.extend_from_slice(self.name(*part));
        }
        RelPath::new(&bytes)
    }

    // What the mirror holds.

    /// Metadata of what the mirror holds. Only where [`Tree::kind`] is some.
    pub fn meta(&self, id: NodeId) -> Option<Meta> {
        let node = self.node(id);
        let kind = Kind::from_u8(node.kind)?;
        let (uid, gid) = self.owners.get(node.owner);
        Some(Meta {
            kind,
            mode: u32::from(node.mode & MODE_BITS),
            uid,
            gid,
            mtime: Time { sec: node.mtime_sec, nsec: node.mtime_nsec },
            size: if kind == Kind::File { node.size } else { 0 },
            rdev: if kind.is_device() { node.size } else { 0 },
            attrs: self.attrs(id),
        })
    }

    /// Records what the mirror holds. A link's target is set by [`Tree::set_target`] afterwards.
    pub fn set_meta(&mut self, id: NodeId, meta: &Meta) {
        self.drop_target(id);
        let owner = self.owners.number((meta.uid, meta.gid));
        let node = self.node_mut(id);
        node.kind = meta.kind as u8;
        node.mode = node.mode & !MODE_BITS | meta.mode as u16 & MODE_BITS;
        node.owner = owner;
        node.mtime_sec = meta.mtime.sec;
        node.mtime_nsec = meta.mtime.nsec;
        node.size = match meta.kind {
            Kind::File => meta.size,
            Kind::Char | Kind::Block => meta.rdev,
            _ => 0,
        };
        self.set_attrs(id, meta.attrs);
    }

    /// Records that the mirror's metadata is not known: it differs from whatever is seen, and is set again.
    pub fn doubt_meta(&mut self, id: NodeId) {
        self.node_mut(id).mtime_sec = i64::MIN;
    }

    /// Records new metadata of an object that stays what it is, at all names that it has in the mirror.
    pub fn update_meta(&mut self, id: NodeId, meta: &Meta) {
        let names: Vec<NodeId> = match self.group(id) {
            0 => vec![id],
            group => self.of_group(group).collect(),
        };
        let owner = self.owners.number((meta.uid, meta.gid));
        for name in names {
            self.set_attrs(name, meta.attrs);
            let node = self.node_mut(name);
            node.mode = node.mode & !MODE_BITS | meta.mode as u16 & MODE_BITS;
            node.owner = owner;
            node.mtime_sec = meta.mtime.sec;
            node.mtime_nsec = meta.mtime.nsec;
            if meta.kind == Kind::File {
                node.size = meta.size;
            }
        }
    }

    /// Records that the mirror holds nothing at this name.
    pub fn set_absent(&mut self, id: NodeId) {
        self.forget_object(id);
        self.node_mut(id).kind = 0;
    }

    /// What the mirror's link points to.
    pub fn target(&self, id: NodeId) -> Option<&[u8]> {
        let node = self.node(id);
        (node.kind == Kind::Symlink as u8).then(|| self.names.get((node.size >> 16) as u32, (node.size & 0xffff) as u32))
    }

    /// Records what the mirror's link points to. Only for a node whose kind is a link.
    pub fn set_target(&mut self, id: NodeId, target: &[u8]) {
        self.drop_target(id);
        debug_assert!(target.len() <= 0xffff);
        let at = self.names.add(target);
        self.node_mut(id).size = u64::from(at) << 16 | target.len() as u64;
        self.compact_names();
    }

    fn drop_target(&mut self, id: NodeId) {
        let node = self.node(id);
        if node.kind == Kind::Symlink as u8 {
            let len = (node.size & 0xffff) as u32;
            self.node_mut(id).size = 0;
            self.names.release(len);
        }
    }

    fn forget_object(&mut self, id: NodeId) {
        self.drop_target(id);
        self.clear_ident(id);
        self.set_group(id, 0);
        self.set_attrs(id, 0);
        self.borders.retain(|border| *border != id);
    }

    /// Records that the mirror's directory is the top of another filesystem or mount than its parent's; not beyond [`BORDERS_MAX`].
    pub fn set_border(&mut self, id: NodeId) {
        if self.borders.len() < BORDERS_MAX && !self.borders.contains(&id) {
            self.borders.push(id);
        }
    }

    /// Whether the mirror's directory is the top of another filesystem or mount: it can neither be renamed nor removed.
    pub fn is_border(&self, id: NodeId) -> bool {
        self.borders.contains(&id)
    }

    /// Whether there is any.
    pub fn has_borders(&self) -> bool {
        !self.borders.is_empty()
    }

    /// Whether there is such a directory at `id` or below.
    pub fn holds_border(&self, id: NodeId) -> bool {
        self.borders.iter().any(|border| self.is_within(*border, id))
    }

    /// The top of the filesystem of the mirror's directory `dir`: [`ROOT`] or a border. What differs in it can be neither renamed nor linked to.
    pub fn volume(&self, dir: NodeId) -> NodeId {
        if self.borders.is_empty() {
            return ROOT;
        }
        let mut at = dir;
        while at != ROOT && !self.borders.contains(&at) {
            at = self.parent(at);
        }
        at
    }

    fn compact_names(&mut self) {
        if !self.names.wants_compaction() {
            return;
        }
        let mut fresh = Names::default();
        for at in 0..self.nodes.len() {
            let node = &self.nodes[at];
            if node.flags & flag::LIVE == 0 {
                continue;
            }
            let name_at = fresh.add(self.names.get(node.name_at, u32::from(node.name_len)));
            let target = self.target(at as NodeId).map(|t| u64::from(fresh.add(t)) << 16 | t.len() as u64);
            let node = &mut self.nodes[at];
            node.name_at = name_at;
            node.size = target.unwrap_or(node.size);
        }
        self.names = fresh;
    }

    /// Panics if the invariant in the module's comment does not hold. For tests: it visits every node.
    pub fn check(&self) {
        let mut seen = 0;
        for id in self.subtree_bottom_up(ROOT) {
            seen += 1;
            assert!(self.is_live(id));
            assert_eq!(self.of_ident_of(id), self.ident(id).is_some(), "identity table");
            assert_eq!(self.of_group(self.group(id)).any(|n| n == id), self.group(id) != 0, "group table");
            if id != ROOT {
                assert_eq!(self.child(self.parent(id), self.name(id)), Some(id), "name table");
            }
            if let Some(key) = self.key(id) {
                assert_eq!(self.of_key(&key.0), Some(id), "key table");
            }
        }
        assert_eq!(seen, self.len());
        assert_eq!(self.by_name.len(), self.len() - 1);
        assert_eq!(self.by_key.len(), self.keys.len());
        let with_attrs = |n: &&Node| n.flags & flag::LIVE != 0 && n.mode & HAS_ATTRS != 0;
        assert_eq!(self.nodes.iter().filter(with_attrs).count(), self.attrs.len());
        assert_eq!(self.by_group.len(), self.groups.len());
    }

    fn of_ident_of(&self, id: NodeId) -> bool {
        self.ident(id).is_some_and(|ident| self.of_ident(&ident).any(|n| n == id))
    }
}
