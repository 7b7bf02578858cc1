//! A mirror in memory that changes by itself: bits that flip, and what a local user does to it. And what a scrub asks of it.

use super::*;
use crate::rng::Rng;

impl MemTarget {
    fn at(&self, path: &[u8]) -> Option<(u64, u64)> {
        let path = RelPath::new(path).ok()?;
        let (dir, name) = path.split()?;
        let dir = self.resolve(&dir).ok()?;
        Some((dir, self.lookup(dir, name)?))
    }

    /// Content and length of the regular file there.
    pub fn content(&self, path: &RelPath) -> Option<&[u8]> {
        match &self.nodes[&self.at(path.as_bytes())?.1].body {
            Body::File(bytes) => Some(bytes),
            _ => None,
        }
    }

    /// What the directory holds, and not below.
    pub fn look(&self, dir: &RelPath) -> Result<(Meta, Vec<Entry>), Errno> {
        let ino = self.resolve(dir)?;
        let entries = self.entries(ino).iter().filter(|(name, _)| !name.starts_with(STAGING_NAME)).map(|(name, child)| {
            let node = &self.nodes[child];
            let target = if let Body::Symlink(target) = &node.body { Some(target.clone()) } else { None };
            let link_group = if self.is_dir(*child) { self.is_top(ino, *child).into() } else { u64::from(node.nlink > 1) * child };
            Entry { name: Name::new(name).unwrap().to_owned(), meta: node.meta, target, link_group }
        });
        Ok((self.nodes[&ino].meta, entries.collect()))
    }

    /// Something happens to an entry, or a new one appears, as no operation would have it; whether it did.
    pub fn spoil(&mut self, rng: &mut Rng, keep: &dyn Fn(&[u8]) -> bool) -> bool {
        let all: Vec<(Vec<u8>, Kind)> = self
            .snapshot()
            .into_iter()
            .filter(|(path, _)| !path.is_empty() && !keep(path))
            .map(|(path, seen)| (path, seen.meta.kind))
            .collect();
        if all.is_empty() {
            return false;
        }
        let (path, kind) = all[rng.below(all.len())].clone();
        let Some((dir, ino)) = self.at(&path) else { return false };
        let name: Box<[u8]> = path.rsplit(|b| *b == b'/').next().unwrap().into();
        let other = Time { sec: 77_000 + rng.below(1000) as i64, nsec: 0 };
        match rng.below(8) {
            0..=2 => match &mut self.nodes.get_mut(&ino).unwrap().body {
                // Length and times stay.
                Body::File(bytes) if !bytes.is_empty() => {
                    let at = rng.below(bytes.len());
                    bytes[at] ^= 0x55;
                }
                Body::Symlink(target) => *target = (*b"spoilt").into(),
                _ => return false,
            },
            3 => {
                let node = self.nodes.get_mut(&ino).unwrap();
                match kind {
                    Kind::Symlink => node.meta.uid ^= 1,
                    _ => node.meta.mode ^= 0o111,
                }
                // What it may hide.
                if let Body::File(bytes) = &mut node.body
                    && !bytes.is_empty()
                    && rng.chance(50)
                {
                    bytes[0] ^= 0x55;
                }
            }
            4 => self.nodes.get_mut(&ino).unwrap().meta.mtime = other,
            5 if !self.is_dir(ino) || self.entries(ino).is_empty() => self.detach(dir, &name),
            6 => {
                let meta = Meta { kind: Kind::File, mode: 0o640, uid: 0, gid: 0, mtime: other, size: 3, rdev: 0, attrs: 0 };
                let made = self.create(meta, Body::File(b"new".to_vec()));
                let name = if rng.chance(50) && !self.is_dir(ino) { name } else { (*b"stranger").into() };
                self.attach(dir, &name, made);
            }
            7 => {
                let meta = Meta { kind: Kind::Dir, mode: 0o700, uid: 0, gid: 0, mtime: other, size: 0, rdev: 0, attrs: 0 };
                let made = self.create(meta, Body::Dir(BTreeMap::new()));
                self.attach(dir, if self.is_dir(ino) { b"strange dir" } else { &name }, made);
                let inner = self.create(Meta { kind: Kind::File, size: 1, ..meta }, Body::File(b"i".to_vec()));
                self.attach(made, b"inner", inner);
            }
            _ => return false,
        }
        true
    }
}
