//! What is mounted in the source, for the session that comes next: one that begins without something of it holds deletions. Part of the session.

use crate::sender::session::Session;

impl Session<'_> {
    /// Takes what the watcher has heard of mounts.
    pub(super) fn note_mounts(&mut self, now: u64) {
        let Some(eyes) = &mut self.eyes else { return };
        let news = eyes.mount_news(self.stats);
        if news.unmounted {
            self.planner.unmounted(now);
        }
        if news.any {
            self.desk.add_mounts(self.root.mounts());
            self.mounts_noted = false;
        }
    }

    /// All has been looked at: what is missing is known to the planner, and what was excluded with it is of no interest.
    pub(super) fn settle_mounts(&mut self) {
        if !std::mem::replace(&mut self.mounts_noted, true) {
            self.desk.set_mounts(self.root.mounts());
        }
    }
}
