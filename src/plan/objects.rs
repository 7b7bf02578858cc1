//! Which objects the nodes of a tree are: the mirror's hard links and attributes, the source's identities and times of change, the keys of watched directories.
//!
//! The other half of [`Tree`]; the tables are its fields.

use std::hash::BuildHasher;

use crate::model::event::Key;
use crate::model::meta::{Ident, Kind, Time};
use crate::plan::tree::{HAS_ATTRS, HAS_GROUP, Node, NodeId, Tree, flag};

impl Tree {
    /// Memory of the nodes, their names and the tables to find them, in bytes; of the few keys of directories only the nodes' share.
    pub fn memory(&self) -> usize {
        let tables = [&self.by_name, &self.by_ident, &self.by_group];
        self.nodes.capacity() * size_of::<Node>()
            + self.names.held()
            + self.free.capacity() * size_of::<NodeId>()
            + self.owners.memory()
            + self.groups.capacity() * size_of::<(NodeId, u32)>()
            + tables.iter().map(|table| table.allocation_size()).sum::<usize>()
    }

    /// The mirror's hard-link group; 0 where the object has one name.
    pub fn group(&self, id: NodeId) -> u32 {
        if self.node(id).mode & HAS_GROUP == 0 { 0 } else { self.groups.get(&id).copied().unwrap_or_default() }
    }

    /// Records the mirror's hard-link group.
    pub fn set_group(&mut self, id: NodeId, group: u32) {
        let old = self.group(id);
        if old == group {
            return;
        }
        let Self { by_group, groups, nodes, hasher, .. } = self;
        if old != 0
            && let Ok(found) = by_group.find_entry(hasher.hash_one(old), |other| *other == id)
        {
            found.remove();
        }
        if group == 0 {
            nodes[id as usize].mode &= !HAS_GROUP;
            groups.remove(&id);
        } else {
            nodes[id as usize].mode |= HAS_GROUP;
            groups.insert(id, group);
            by_group.insert_unique(hasher.hash_one(group), id, |other| hasher.hash_one(groups.get(other).copied().unwrap_or_default()));
        }
    }

    /// A number for a name in a directory, which is almost never another's.
    pub fn digest_of_name(&self, dir: NodeId, name: &[u8]) -> u64 {
        self.hasher.hash_one((self.reference(dir), name))
    }

    /// The nodes of a hard-link group of the mirror.
    pub fn of_group(&self, group: u32) -> impl Iterator<Item = NodeId> + '_ {
        self.by_group.iter_hash(self.hasher.hash_one(group)).copied().filter(move |id| self.group(*id) == group)
    }

    /// Notes the source's time of change at the moment when the content was read, or found equal.
    pub fn set_ctime(&mut self, id: NodeId, ctime: Time) {
        self.node_mut(id).ctime = digest(ctime);
    }

    /// Notes that the source's time of change tells nothing: it is none that a file can have, until the next [`Tree::set_ctime`].
    pub fn forget_ctime(&mut self, id: NodeId) {
        self.node_mut(id).ctime = 0;
    }

    /// Whether a time of change is noted.
    pub fn knows_ctime(&self, id: NodeId) -> bool {
        self.node(id).ctime != 0
    }

    /// Whether the source's time of change is the one noted.
    pub fn has_ctime(&self, id: NodeId, ctime: Time) -> bool {
        self.node(id).ctime == digest(ctime)
    }

    /// What the mirror holds at the name is not known, and no manifest tells it from what it should be.
    pub fn doubt(&mut self, id: NodeId) {
        self.set(id, flag::UNKNOWN | flag::CAME);
    }

    /// Gives a node the noted time and the doubts of another name of its object.
    pub fn copy_doubts(&mut self, id: NodeId, from: NodeId) {
        let (ctime, doubts) = (self.node(from).ctime, self.node(from).flags & (flag::RACY | flag::REUSE));
        let node = self.node_mut(id);
        node.ctime = ctime;
        node.flags = node.flags & !(flag::RACY | flag::REUSE) | doubts;
    }

    // Attributes of the mirror's object: a table beside the nodes, since almost none has any.

    /// Digest of the attributes; 0 where there are none.
    pub fn attrs(&self, id: NodeId) -> u64 {
        if self.node(id).mode & HAS_ATTRS == 0 { 0 } else { self.attrs.get(&id).copied().unwrap_or_default() }
    }

    /// Records the digest of the attributes.
    pub(super) fn set_attrs(&mut self, id: NodeId, digest: u64) {
        let node = self.node_mut(id);
        if digest != 0 {
            node.mode |= HAS_ATTRS;
            self.attrs.insert(id, digest);
        } else if node.mode & HAS_ATTRS != 0 {
            node.mode &= !HAS_ATTRS;
            self.attrs.remove(&id);
        }
    }

    // Which object of the source a name last was.

    /// The identity, where it is known.
    pub fn ident(&self, id: NodeId) -> Option<Ident> {
        let node = self.node(id);
        let dev = *self.devices.get(usize::from(node.dev.checked_sub(1)?))?;
        Some(Ident { dev, ino: node.ino, birth_ns: node.birth_ns })
    }

    /// Which object of the source the content was read from, that the mirror has in a file here; if it is known, and for certain if the node is not `UNKNOWN`.
    pub fn file_ident(&self, id: NodeId) -> Option<Ident> {
        if self.kind(id) == Some(Kind::File) { self.ident(id) } else { None }
    }

    /// Records the identity.
    pub fn set_ident(&mut self, id: NodeId, ident: &Ident) {
        if self.ident(id).as_ref() == Some(ident) {
            return;
        }
        self.clear_ident(id);
        let Some(dev) = self.device(ident.dev) else { return };
        let Self { by_ident, nodes, hasher, .. } = self;
        let node = &mut nodes[id as usize];
        node.dev = dev;
        node.ino = ident.ino;
        node.birth_ns = ident.birth_ns;
        by_ident.insert_unique(Self::hash_ident(hasher, dev, ident.ino), id, |other| {
            let other = &nodes[*other as usize];
            Self::hash_ident(hasher, other.dev, other.ino)
        });
    }

    /// Number of a device among those known; `None` once 65,535 are (further objects then have no identity, and are copied instead of moved).
    fn device(&mut self, dev: u64) -> Option<u16> {
        let at = self.devices.iter().rposition(|d| *d == dev).unwrap_or_else(|| {
            self.devices.push(dev);
            self.devices.len() - 1
        });
        u16::try_from(at + 1).ok()
    }

    /// Forgets the identity.
    pub fn clear_ident(&mut self, id: NodeId) {
        let Node { dev, ino, .. } = *self.node(id);
        if dev == 0 {
            return;
        }
        if let Ok(found) = self.by_ident.find_entry(Self::hash_ident(&self.hasher, dev, ino), |other| *other == id) {
            found.remove();
        }
        self.node_mut(id).dev = 0;
    }

    /// The nodes that were last seen to be this object.
    pub fn of_ident(&self, ident: &Ident) -> impl Iterator<Item = NodeId> + '_ {
        let ident = *ident;
        let dev = self.devices.iter().rposition(|d| *d == ident.dev).map_or(0, |at| (at + 1) as u16);
        let hash = Self::hash_ident(&self.hasher, dev, ident.ino);
        self.by_ident.iter_hash(hash).copied().filter(move |id| self.ident(*id) == Some(ident))
    }

    /// The nodes that were last seen to be an object with this device and inode number, whenever it was made.
    pub fn of_inode(&self, dev: u64, ino: u64) -> impl Iterator<Item = NodeId> + '_ {
        let dev = self.devices.iter().rposition(|d| *d == dev).map_or(0, |at| (at + 1) as u16);
        let hash = Self::hash_ident(&self.hasher, dev, ino);
        let is_it = move |id: &NodeId| dev != 0 && (self.node(*id).dev, self.node(*id).ino) == (dev, ino);
        self.by_ident.iter_hash(hash).copied().filter(is_it)
    }

    // Keys of watched directories.

    /// The directory whose events carry this key.
    pub fn of_key(&self, key: &[u8]) -> Option<NodeId> {
        self.by_key.get(key).copied()
    }

    /// The key of a directory.
    pub fn key(&self, id: NodeId) -> Option<&Key> {
        self.keys.get(&id)
    }

    /// The directories that have a key, in no order.
    pub fn keyed(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.keys.keys().copied()
    }

    /// Records the key of a directory; another directory that had it loses it.
    pub fn set_key(&mut self, id: NodeId, key: Key) {
        self.take_key(id);
        if let Some(other) = self.by_key.insert(key.clone(), id) {
            self.keys.remove(&other);
        }
        self.keys.insert(id, key);
    }

    /// Forgets the key of a directory and returns it.
    pub fn take_key(&mut self, id: NodeId) -> Option<Key> {
        let key = self.keys.remove(&id)?;
        self.by_key.remove(&key);
        Some(key)
    }
}

/// A time in 32 bits, never 0: two times of one file that differ have one digest once in four billion.
fn digest(time: Time) -> u32 {
    let mixed = (time.sec as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ u64::from(time.nsec).wrapping_mul(0xc2b2_ae3d_27d4_eb4f);
    (mixed >> 32) as u32 | 1
}

impl std::borrow::Borrow<[u8]> for Key {
    fn borrow(&self) -> &[u8] {
        &self.0
    }
}
