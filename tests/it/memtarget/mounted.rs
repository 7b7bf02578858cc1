//! What is mounted in the in-memory mirror.

use std::collections::HashSet;

use ringsync::model::path::{Name, RelPath};

use super::{Body, MemTarget, ROOT};

impl MemTarget {
    /// The directories that cannot go: where something is mounted, and what is above.
    pub fn above_mounts(&self) -> HashSet<Vec<u8>> {
        let mut stuck = HashSet::new();
        let mut todo = vec![(RelPath::root(), ROOT)];
        while let Some((path, ino)) = todo.pop() {
            for (name, below) in self.entries(ino).iter().filter(|(_, below)| self.is_dir(**below)) {
                let Ok(path) = path.join(Name::new(name).unwrap()) else { continue };
                if self.is_top(ino, *below) {
                    let bytes = path.as_bytes();
                    let ends = bytes.iter().enumerate().filter(|(_, b)| **b == b'/').map(|(at, _)| at).chain([bytes.len()]);
                    stuck.extend(ends.map(|end| bytes[..end].to_vec()));
                }
                todo.push((path, *below));
            }
        }
        stuck
    }

    /// Whether the directory `ino` in `dir` is an empty filesystem that is mounted there, or there is nothing else in it than such.
    pub(super) fn is_above_mounts(&self, dir: u64, ino: u64) -> bool {
        let Body::Dir(entries) = &self.nodes[&ino].body else { return false };
        let is_top = self.is_top(dir, ino);
        entries.is_empty() == is_top && entries.values().all(|below| self.is_above_mounts(ino, *below))
    }
}
