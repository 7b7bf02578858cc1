//! Directories that cannot be entered.

use super::*;

impl MemSource {
    /// Lets a directory be entered no more, or again: a change of its mode.
    pub fn set_shut(&mut self, dir: u64, shut: bool) {
        let done = if shut { self.shut.insert(dir) } else { self.shut.remove(&dir) };
        if done && dir != ROOT {
            self.nodes.get_mut(&dir).unwrap().meta.mode = if shut { 0 } else { 0o755 };
            self.mark_changed(dir);
            let parent = self.nodes[&dir].parent;
            let name = self.entries(parent).iter().find(|(_, id)| **id == dir).map(|(name, _)| name.clone());
            self.tell_object(parent, &name.unwrap(), dir, Hint::ATTRIB);
        }
    }

    /// Everything can be entered again.
    pub fn open_all(&mut self) {
        for dir in self.shut.iter().copied().collect::<Vec<_>>() {
            self.set_shut(dir, false);
        }
    }

    /// Whether the directory, or one above it, cannot be entered.
    pub fn is_shut(&self, mut dir: u64) -> bool {
        while dir != ROOT && !self.shut.contains(&dir) {
            dir = self.nodes[&dir].parent;
        }
        self.shut.contains(&dir)
    }
}
