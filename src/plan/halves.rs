//! Renames of which a watcher tells both names but not the object. Part of the planner.
//!
//! What was written through a name that is renamed before anyone looks at it was written to an object that may be known under other names, and that
//! nothing ties to the old name any more: the new one is what it was written to.

use std::num::NonZeroU32;

use crate::limits::{HALF_OPEN_NS, HALVES_APART_MAX, WRITTEN_NAMES_GONE_MAX};
use crate::model::event::Hint;
use crate::model::meta::Kind;
use crate::model::probe::Seen;
use crate::plan::planner::Planner;
use crate::plan::round::{Round, Slot};
use crate::plan::tree::{NodeId, Tree, flag};

/// What is known of names that were written. One that is forgotten for another, or taken for another, costs a file's content, or what the module's comment says.
pub struct Halves {
    /// The latest renames away from names that were written.
    open: [Option<Half>; HALVES_APART_MAX],
    next: usize,
    /// Digests of names, each at a place of its own: seen to hold nothing or something else, and the event that told why was not there yet; 0: none.
    gone: Vec<u64>,
    /// The same of names of which an event has told that something went or appeared, since what they hold was taken care of.
    told: Vec<u64>,
    /// The same of names to which something that was written has been renamed. What the mirror has at such a name may be something else, of which this says nothing.
    came: Vec<u64>,
    /// There is a watcher that does not tell objects.
    pub(super) used: bool,
}

#[derive(Clone, Copy)]
struct Half {
    rename: NonZeroU32,
    /// When it was told.
    at: u64,
    /// The other name was told too.
    met: bool,
}

impl Default for Halves {
    fn default() -> Self {
        Self {
            open: Default::default(),
            next: 0,
            gone: vec![0; WRITTEN_NAMES_GONE_MAX],
            told: vec![0; WRITTEN_NAMES_GONE_MAX],
            came: vec![0; WRITTEN_NAMES_GONE_MAX],
            used: false,
        }
    }
}

fn place(digest: u64) -> usize {
    digest as usize % WRITTEN_NAMES_GONE_MAX
}

fn has(table: &[u64], digest: u64) -> bool {
    table[place(digest)] == digest
}

/// Takes the digest out of the table; whether it was there.
fn take(table: &mut [u64], digest: u64) -> bool {
    let there = has(table, digest);
    if there {
        table[place(digest)] = 0;
    }
    there
}

fn put(table: &mut [u64], digest: u64) {
    table[place(digest)] = digest;
}

/// The digest that stands for it that something appeared at the name.
fn appeared(digest: u64) -> u64 {
    digest ^ (1 << 63)
}

impl Halves {
    /// Whether what is at the name now was written before it came there, or may have been: it came to a directory that nobody watched yet.
    pub(super) fn came_written(&self, tree: &Tree, slot: &Slot) -> bool {
        if !self.used {
            return false;
        }
        let is_new = || tree.resolve(slot.node).is_some_and(|node| tree.ident(node) != slot.stat().map(|stat| stat.ident));
        (slot.listed && self.is_open() && is_new())
            || tree.resolve(slot.parent).is_some_and(|dir| has(&self.came, tree.digest_of_name(dir, slot.name.as_name().as_bytes())))
    }

    /// Whether something that was written was renamed, and nobody has told to what name.
    fn is_open(&self) -> bool {
        self.open.iter().flatten().any(|half| !half.met)
    }

    /// Nobody will tell any more to what name something was renamed so long ago.
    pub(super) fn give_up(&mut self, now: u64) {
        for half in &mut self.open {
            *half = half.filter(|half| now.saturating_sub(half.at) < HALF_OPEN_NS);
        }
    }
}

impl Planner {
    /// After an event of a name was taken: whether it is the end of one that was written, or the half of a rename. What was written to the old name counts as
    /// written to the new one. An exchange is told as two renames, the second of which takes away what the first one brought: that says nothing of what is there.
    pub(super) fn half_told(&mut self, (dir, node): (NodeId, NodeId), hint: Hint, rename: Option<NonZeroU32>, now: u64) {
        let Halves { open, next, gone, told, came, used } = &mut self.halves;
        if !*used || !hint.has(Hint::WENT | Hint::APPEARED) || hint.has(Hint::DIR) {
            return;
        }
        let digest = self.tree.digest_of_name(dir, self.tree.name(node));
        put(told, if hint.has(Hint::APPEARED) { appeared(digest) } else { digest });
        let wrote = take(gone, digest) | has(came, digest) | self.tree.has(node, flag::WROTE);
        if hint.has(Hint::APPEARED) {
            take(came, digest);
            if let Some(half) = open.iter_mut().flatten().find(|half| Some(half.rename) == rename) {
                half.met = true;
                put(came, digest);
            }
        } else if let Some(rename) = rename.filter(|_| wrote) {
            open[*next] = Some(Half { rename, at: now, met: false });
            *next = (*next + 1) % HALVES_APART_MAX;
        }
    }

    /// What events said of the name is taken care of.
    pub(super) fn name_heard(&mut self, node: NodeId) {
        if self.halves.used {
            let digest = self.tree.digest_of_name(self.tree.parent(node), self.tree.name(node));
            let Halves { told, came, .. } = &mut self.halves;
            take(told, digest);
            take(told, appeared(digest));
            take(came, digest);
        }
    }

    /// Remembers the names of a round that were written and do not hold what they held, if no event has told why: it is still to come, and may be a rename.
    pub(super) fn note_gone(&mut self, round: &Round) {
        if !self.halves.used {
            return;
        }
        for slot in &round.slots {
            let (Some(dir), Some(node)) = (self.tree.resolve(slot.parent), self.tree.resolve(slot.node)) else { continue };
            let digest = self.tree.digest_of_name(dir, slot.name.as_name().as_bytes());
            let (went, came) = (has(&self.halves.told, digest), has(&self.halves.told, appeared(digest)));
            let wrote = self.tree.has(node, flag::WROTE) || has(&self.halves.came, digest);
            if wrote && self.is_unexplained(node, &slot.seen, went, came) {
                put(&mut self.halves.gone, digest);
            }
        }
    }

    /// Whether something else is seen at a name, or nothing, than events make believe: the latest of them told that something went, or that it came.
    fn is_unexplained(&self, node: NodeId, seen: &Seen, went: bool, came: bool) -> bool {
        match seen {
            Seen::Absent => !went,
            Seen::Present { stat, .. } if stat.meta.kind == Kind::File && self.tree.ident(node) == Some(stat.ident) => false,
            // What is known already came here by a rename, which need not be the one that was told.
            Seen::Present { stat, .. } => !came || self.tree.of_ident(&stat.ident).next().is_some(),
            Seen::Failed(_) => false,
        }
    }
}
