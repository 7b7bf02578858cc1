//! Keys that events carry and no directory of the tree has, or not for certain. Part of the planner.

use crate::limits::UNKNOWN_KEYS_MAX;
use crate::model::event::Key;
use crate::plan::planner::Planner;
use crate::plan::tree::NodeId;

impl Planner {
    /// An event of a directory that is not known, while directories are being listed, may be of one of them: it is listed again.
    pub(super) fn unknown_key(&mut self, key: &[u8]) {
        let listing = self.round.as_ref().is_some_and(|r| r.open.values().any(|a| a.list));
        if key.is_empty() || !listing || self.unknown_keys_lost || self.unknown_keys.contains(key) {
            return;
        }
        if self.unknown_keys.len() >= UNKNOWN_KEYS_MAX {
            self.unknown_keys_lost = true;
        } else {
            self.unknown_keys.insert(key.into());
        }
    }

    /// The node is not the directory of its key: a listing of where that is now may be out, and what happened there since was taken for the node's.
    pub(super) fn drop_key(&mut self, id: NodeId) -> Option<Key> {
        let key = self.tree.take_key(id)?;
        self.unknown_key(&key.0);
        Some(key)
    }

    /// No listing is out that could bring the directory of one.
    pub(super) fn forget_unknown_keys(&mut self) {
        self.unknown_keys.clear();
        self.unknown_keys_lost = false;
    }
}
