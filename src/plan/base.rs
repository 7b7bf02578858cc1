//! What a file's new content can be made from, in the mirror. Part of the planner.

use crate::model::meta::{Ident, Kind};
use crate::plan::planner::Planner;
use crate::plan::tree::{NodeId, flag};

impl Planner {
    /// Of a small file: which object's content the mirror has, if that is known: not after a failure of the receiver, and not where a file was not sent, since
    /// another one's content may be at its name still, or at a name that was to be linked to it.
    pub(super) fn small_base(&self, node: NodeId) -> Option<Ident> {
        if self.is_troubled(node) || self.tree.has(node, flag::UNKNOWN) { None } else { self.tree.file_ident(node) }
    }

    /// The same of a large file, if it is known for certain; and how long the mirror's file is, for which a signature could be asked.
    pub(super) fn large_base(&self, node: NodeId) -> (Option<Ident>, u64) {
        let base = if self.tree.has(node, flag::UNKNOWN) { None } else { self.tree.file_ident(node) };
        let there = self.tree.meta(node).filter(|meta| meta.kind == Kind::File && !self.is_troubled(node));
        (base, there.map_or(0, |meta| meta.size))
    }
}
