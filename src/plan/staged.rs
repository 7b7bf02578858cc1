//! Large files on their way to the mirror. Part of the planner.

use crate::model::cycle::{NodeRef, Read};
use crate::model::meta::{Stat, Time};

/// A file in staging, or on its way there.
#[derive(Debug)]
pub(super) struct Staged {
    /// Number.
    pub stage: u64,
    /// Who waits for it.
    pub waiting: Vec<NodeRef>,
    /// Once it is complete: the worker and its report.
    pub ready: Option<(usize, Read)>,
    /// Its time of change when that began.
    pub ctime: Time,
    /// It was looked at again, for something new, while it was on its way.
    pub disturbed: bool,
    /// When the change was noticed that it carries.
    pub since: u64,
}

impl Staged {
    /// Whether it is complete and is what was seen.
    pub(super) fn fits(&self, stat: &Stat) -> bool {
        matches!(self.ready, Some((_, Read::Sent { meta, changed, .. })) if changed || (meta.size == stat.meta.size && meta.mtime == stat.meta.mtime))
    }
}
