//! Attributes that are left to whoever reads a file: of small new files, which most of a storm is. Where it turns out that such a file is not new, its name is looked at
//! again. Part of the planner.

use std::collections::BTreeMap;

use crate::model::probe::Seen;
use crate::plan::planner::{Action, Planner};
use crate::plan::round::Round;
use crate::plan::tree::{NodeId, flag};

impl Planner {
    /// Whether what is asked for will most likely be sent whole: nothing of it is in the mirror, and names were written to, not moved there.
    pub(super) fn is_lazy(&self, dir: NodeId, names: &[NodeId], list: bool) -> bool {
        let Some(round) = self.round.as_ref().filter(|_| !self.is_dry()) else { return false };
        let is_new = |id: NodeId| self.tree.kind(id).is_none();
        let written = |id: NodeId| self.tree.has(id, flag::WROTE) && !round.slot_of.contains_key(&self.tree.reference(id));
        if list { self.tree.children(dir).all(is_new) } else { names.iter().all(|id| is_new(*id) && written(*id)) }
    }

    /// Looks at slots again, whose attributes are wanted. One that gets no answer is skipped: it is looked at later then, as any name.
    pub(super) fn look_for_attrs(&mut self, mut round: Round, slots: &[usize], now: u64, actions: &mut Vec<Action>) {
        let mut by_dir: BTreeMap<NodeId, Vec<NodeId>> = BTreeMap::new();
        for at in slots {
            let slot = &mut round.slots[*at];
            slot.seen = Seen::Failed(0);
            if let (Some(dir), Some(id)) = (self.tree.resolve(slot.parent), self.tree.resolve(slot.node)) {
                by_dir.entry(dir).or_default().push(id);
                round.looked_again.insert(*at);
            }
        }
        self.round = Some(round);
        for (dir, names) in by_dir {
            self.ask(dir, &names, None, actions, now);
        }
        self.finish_if_answered(now, actions);
    }
}
