//! One cycle while the source is being looked at: which questions are out, and what was seen so far. Filled by the planner, read by reconcile and emit.

use std::collections::{BTreeSet, HashMap};

use crate::model::cycle::{AttrsTable, NodeRef};
use crate::model::meta::{Ident, Kind, Stat};
use crate::model::path::NameBuf;
use crate::model::probe::Seen;
use crate::plan::{NodeMap, NodeSet};

/// A name that was looked at.
#[derive(Debug)]
pub struct Slot {
    /// The node at the name when the round began.
    pub node: NodeRef,
    /// The node of its directory.
    pub parent: NodeRef,
    /// The name.
    pub name: NameBuf,
    /// What was seen.
    pub seen: Seen,
    /// If it is a directory, it has to be listed, with all below it.
    pub deep: bool,
    /// It comes from a listing: events about it may have been lost.
    pub listed: bool,
    /// The filter protects a directory at the name, and nothing else. Nothing moves there: should the mirror have one at the old name, since an operation before failed,
    /// nobody would ever remove it.
    pub dirs_stay: bool,
}

/// A question that is out.
#[derive(Debug)]
pub struct Asked {
    /// The directory.
    pub dir: NodeRef,
    /// The nodes of the names asked for; of a listing those that events told of.
    pub names: Vec<NodeRef>,
    /// Whether all names were asked for.
    pub list: bool,
    /// Whether the listing goes on below.
    pub deep: bool,
}

/// See the module's comment. `slot_of` holds every slot's node at the time of the slot's making. Nodes are handles, since a node may be freed, and its slot
/// be used again, while the questions are out.
#[derive(Debug, Default)]
pub struct Round {
    /// Questions without answer, by number.
    pub open: NodeMap<u64, Asked>,
    /// What was seen.
    pub slots: Vec<Slot>,
    /// Where the slot of a node is.
    pub slot_of: NodeMap<NodeRef, usize>,
    /// Nodes whose name was asked for, answered or not: not those that only a listing tells of.
    pub asked: NodeSet<NodeRef>,
    /// The directories themselves, as seen.
    pub dirs: NodeMap<NodeRef, Stat>,
    /// Those that were listed, to their end.
    pub listed: NodeSet<NodeRef>,
    /// What the digests in all that was seen stand for.
    pub attrs: AttrsTable,
    /// Slots that are being looked at again, for their attributes. What was seen is `Failed(0)` until the answer is there.
    pub looked_again: NodeSet<usize>,
    /// How often the round was widened.
    pub widened: u32,
    /// When the oldest of what is looked at was noticed to be dirty.
    pub oldest: Option<u64>,
}

impl Round {
    /// What was seen at a name that has a slot: of interest only if it was asked for again.
    pub fn see_again(&mut self, at: usize, seen: Seen) {
        if self.looked_again.remove(&at) {
            self.slots[at].seen = seen;
        }
    }

    /// The objects among what was seen that have several names.
    pub fn linked(&self) -> BTreeSet<Ident> {
        self.slots.iter().filter_map(Slot::stat).filter(|s| s.nlink > 1 && s.meta.kind != Kind::Dir).map(|s| s.ident).collect()
    }

    /// The names of one object may have been looked at at different times: what was seen last is what all of them hold.
    pub fn agree(&mut self) {
        let linked = self.linked();
        if linked.is_empty() {
            return;
        }
        let mut newest: HashMap<Ident, Stat> = HashMap::new();
        for stat in self.slots.iter().filter_map(Slot::stat).filter(|s| linked.contains(&s.ident)) {
            // Of two with one time of change, the later one was looked at later.
            newest.entry(stat.ident).and_modify(|known| *known = if stat.ctime >= known.ctime { *stat } else { *known }).or_insert(*stat);
        }
        for slot in &mut self.slots {
            if let Seen::Present { stat, .. } = &mut slot.seen
                && let Some(newer) = newest.get(&stat.ident).filter(|n| n.ctime >= stat.ctime)
            {
                *stat = *newer;
            }
        }
    }
}

impl Slot {
    /// What is at the name.
    pub fn stat(&self) -> Option<&Stat> {
        match &self.seen {
            Seen::Present { stat, .. } => Some(stat),
            _ => None,
        }
    }
}
