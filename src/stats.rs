//! Counters that the stages raise and that progress lines, closing messages and `status` read. Relaxed atomics: each is a tally on its own.

use std::sync::atomic::{AtomicU64, Ordering};

/// One tally.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `n`.
    pub fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    /// Replaces the value: for gauges.
    pub fn set(&self, n: u64) {
        self.0.store(n, Ordering::Relaxed);
    }

    /// The value now.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// The counters of one mirror.
#[derive(Debug, Default)]
pub struct Stats {
    /// Events read from the kernel.
    pub events: Counter,
    /// Overflows of a kernel queue.
    pub overflows: Counter,
    /// Times that something was mounted or unmounted in the source.
    pub mounts: Counter,
    /// Times that something was unmounted in the source.
    pub unmounts: Counter,
    /// Entries of the source looked at.
    pub probed: Counter,
    /// Files whose content has to be sent, found so far (gauge of the whole: `files_sent` runs after it).
    pub files_found: Counter,
    /// Their bytes.
    pub bytes_found: Counter,
    /// Files whose content was sent.
    pub files_sent: Counter,
    /// Their bytes.
    pub bytes_sent: Counter,
    /// Other operations sent (renames, links, deletions, metadata).
    pub ops_sent: Counter,
    /// Entries deleted in the mirror.
    pub deleted: Counter,
    /// Cycles acknowledged.
    pub cycles: Counter,
    /// Operations or reads that failed and will be tried again.
    pub failures: Counter,
    /// Entries that wait for another try now (gauge).
    pub failing: Counter,
    /// Dirty entries now (gauge).
    pub dirty: Counter,
    /// Bytes handed to sockets, frames and all.
    pub wire_bytes: Counter,
    /// Connections made again after a loss.
    pub reconnects: Counter,
    /// Sessions that went on with what was known of the mirror.
    pub resumed: Counter,
    /// Files whose content is to be compared by the scrub or verification that is under way (gauge).
    pub compare_files: Counter,
    /// Their bytes.
    pub compare_bytes: Counter,
    /// Those that have been (gauge).
    pub compared_files: Counter,
    /// Their bytes.
    pub compared_bytes: Counter,
    /// Differences that scrubs or a verification found.
    pub differences: Counter,
    /// Those found by a scrub that were repaired.
    pub repaired: Counter,
    /// Files that could not be compared.
    pub unsure: Counter,
    /// 1 once the mirror has been equal to the source for the first time in this session.
    pub synced: Counter,
}
