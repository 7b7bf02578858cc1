//! The kernel's limits for watchers: raises them where it may, says what to set where it may not.
//!
//! It never lowers one. Called once before a watcher starts, since queues take their length when they are made; not called under `--no-tune`.

use std::fs;
use std::path::Path;

use crate::limits::{
    TUNE_EVENT_BYTES, TUNE_EVENTS_MEMORY_SHARE, TUNE_EVENTS_WANTED, TUNE_MARKS_WANTED, TUNE_WATCH_BYTES, TUNE_WATCHES_MEMORY_SHARE,
    TUNE_WATCHES_WANTED,
};
use crate::sys::memory::memory_bytes;

/// A limit that was lower than wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Its name, as `sysctl` has it.
    pub name: &'static str,
    /// Its value before.
    pub old: u64,
    /// The value wanted.
    pub wanted: u64,
    /// Whether it has that value now.
    pub done: bool,
}

/// Raises what is lower than wanted, as far as memory allows and the process may, and logs each change, or the line that an
/// administrator has to run. `dirs` is how many directories are expected, where that is known. Returns what was too low.
pub fn raise(dirs: Option<u64>) -> Vec<Change> {
    raise_under(Path::new("/proc/sys"), dirs, memory_bytes())
}

/// What each limit should be at least on a machine with so much memory.
fn wanted(dirs: Option<u64>, memory_bytes: u64) -> [(&'static str, u64); 4] {
    let watches = TUNE_WATCHES_WANTED.max(dirs.unwrap_or(0).saturating_mul(2));
    let watches = watches.min(memory_bytes / TUNE_WATCHES_MEMORY_SHARE / TUNE_WATCH_BYTES).min(i32::MAX as u64);
    let events = TUNE_EVENTS_WANTED.min(memory_bytes / TUNE_EVENTS_MEMORY_SHARE / TUNE_EVENT_BYTES);
    [
        ("fs.fanotify.max_queued_events", events),
        ("fs.fanotify.max_user_marks", TUNE_MARKS_WANTED),
        ("fs.inotify.max_queued_events", events),
        ("fs.inotify.max_user_watches", watches),
    ]
}

fn raise_under(root: &Path, dirs: Option<u64>, memory_bytes: u64) -> Vec<Change> {
    let mut changes = Vec::new();
    for (name, wanted) in wanted(dirs, memory_bytes) {
        let path = root.join(name.replace('.', "/"));
        // An older kernel does not have them all.
        let Some(old) = fs::read_to_string(&path).ok().and_then(|text| text.trim().parse::<u64>().ok()) else { continue };
        if old >= wanted {
            continue;
        }
        let done = fs::write(&path, wanted.to_string()).is_ok();
        if done {
            tracing::info!("{name} raised from {old} to {wanted}");
        } else {
            tracing::info!("{name} is {old}; better: sysctl {name}={wanted}");
        }
        changes.push(Change { name, old, wanted, done });
    }
    changes
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    fn tree(values: &[(&str, &str)]) -> tempfile::TempDir {
        let tmp = tempfile::tempdir().unwrap();
        for (name, value) in values {
            let path = tmp.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, value).unwrap();
        }
        tmp
    }

    #[test]
    fn raises_what_is_too_low_and_nothing_else() {
        let tmp = tree(&[
            ("fs/fanotify/max_queued_events", "16384\n"),
            ("fs/fanotify/max_user_marks", "205099\n"),
            ("fs/inotify/max_queued_events", "99999999\n"),
            ("fs/inotify/max_user_watches", "8192\n"),
        ]);
        let changes = raise_under(tmp.path(), None, 64 * GIB);
        assert_eq!(
            changes,
            [
                Change { name: "fs.fanotify.max_queued_events", old: 16384, wanted: TUNE_EVENTS_WANTED, done: true },
                Change { name: "fs.inotify.max_user_watches", old: 8192, wanted: TUNE_WATCHES_WANTED, done: true },
            ]
        );
        assert_eq!(fs::read_to_string(tmp.path().join("fs/inotify/max_user_watches")).unwrap(), TUNE_WATCHES_WANTED.to_string());
        assert_eq!(fs::read_to_string(tmp.path().join("fs/inotify/max_queued_events")).unwrap(), "99999999\n");
        assert_eq!(raise_under(tmp.path(), None, 64 * GIB), []);
    }

    #[test]
    fn memory_bounds_what_is_wanted_and_missing_limits_are_passed_over() {
        let tmp = tree(&[("fs/inotify/max_user_watches", "8192\n"), ("fs/inotify/max_queued_events", "no number")]);
        let changes = raise_under(tmp.path(), Some(u64::MAX), GIB);
        assert_eq!(changes, [Change { name: "fs.inotify.max_user_watches", old: 8192, wanted: 262_144, done: true }]);
        assert_eq!(raise_under(tmp.path(), None, 0), []);
    }

    #[test]
    fn more_directories_want_more_watches() {
        assert_eq!(wanted(Some(3_000_000), 64 * GIB)[3], ("fs.inotify.max_user_watches", 6_000_000));
    }
}
