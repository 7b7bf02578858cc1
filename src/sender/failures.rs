//! The failure log: a line of JSON for each try of an entry that fails, and one when it is healed. It decides nothing, and a log that cannot be written is
//! said once and does not end the mirror.

use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;

use crate::error::{Error, Result};
use crate::limits::FAILURE_LINES_PER_SECOND_MAX;
use crate::plan::{Trouble, Turn};

/// See the module's comment.
pub(super) struct FailureLog {
    path: PathBuf,
    file: BufWriter<File>,
    /// The second that lines are counted in, how many it has, and how many were left out of it.
    second: u64,
    lines: u64,
    left_out: u64,
    told: bool,
}

#[derive(Serialize)]
struct Line<'a> {
    time: f64,
    event: &'a str,
    path: &'a str,
    operation: &'a str,
    errno: i32,
    cause: &'a str,
    tries: u32,
    next_try_seconds: Option<f64>,
}

fn open(path: &Path) -> io::Result<BufWriter<File>> {
    OpenOptions::new().append(true).create(true).mode(0o600).open(path).map(BufWriter::new)
}

impl FailureLog {
    /// Opens it at its end.
    ///
    /// # Errors
    /// `File`: it cannot be written.
    pub(super) fn open(path: &Path) -> Result<Self> {
        let file = open(path).map_err(|e| Error::file(format!("failure log {}", path.display()), e))?;
        Ok(Self { path: path.to_owned(), file, second: 0, lines: 0, left_out: 0, told: false })
    }

    /// Opens it again: another file may be at its path by now.
    pub(super) fn reopen(&mut self) {
        match open(&self.path) {
            Ok(file) => (self.file, self.told) = (file, false),
            Err(e) => tracing::error!("failure log {}: {e}; the old file is written on", self.path.display()),
        }
    }

    /// Notes what happened; `now` is on the clock of the troubles.
    pub(super) fn note(&mut self, troubles: &[Trouble], now: u64) {
        if troubles.is_empty() {
            return;
        }
        let written = troubles.iter().try_for_each(|trouble| self.line(trouble, now)).and_then(|()| self.file.flush());
        if let Err(e) = written
            && !std::mem::replace(&mut self.told, true)
        {
            tracing::error!("failure log {}: {e}", self.path.display());
        }
    }

    fn line(&mut self, trouble: &Trouble, now: u64) -> io::Result<()> {
        let time = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        if time.as_secs() != self.second {
            self.tell_left_out()?;
            (self.second, self.lines) = (time.as_secs(), 0);
        }
        if self.lines >= FAILURE_LINES_PER_SECOND_MAX {
            self.left_out += 1;
            return Ok(());
        }
        self.lines += 1;
        let line = Line {
            time: time.as_secs_f64(),
            event: match trouble.turn {
                Turn::New | Turn::Again => "failed",
                Turn::Healed => "healed",
            },
            path: &trouble.path.to_string(),
            operation: trouble.what,
            errno: trouble.errno,
            cause: &cause(trouble.errno),
            tries: trouble.tries,
            next_try_seconds: trouble.next_at.map(|at| at.saturating_sub(now) as f64 / 1e9),
        };
        serde_json::to_writer(&mut self.file, &line)?;
        self.file.write_all(b"\n")
    }

    fn tell_left_out(&mut self) -> io::Result<()> {
        match std::mem::take(&mut self.left_out) {
            0 => Ok(()),
            count => writeln!(self.file, "{{\"time\":{},\"event\":\"left_out\",\"lines\":{count}}}", self.second),
        }
    }
}

impl Drop for FailureLog {
    fn drop(&mut self) {
        // There is nobody left to tell.
        let _ = self.tell_left_out().and_then(|()| self.file.flush());
    }
}

/// An error number in words, without the number.
pub(super) fn cause(errno: i32) -> String {
    nix::errno::Errno::from_raw(errno).desc().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::path::RelPath;

    #[test]
    fn lines_are_json_and_bounded() {
        let tmp = tempfile::tempdir().unwrap();
        let path = tmp.path().join("log");
        let mut log = FailureLog::open(&path).unwrap();
        let odd = RelPath::new(b"a/\"b\n\xff").unwrap();
        let trouble = Trouble { path: odd, what: "write", errno: libc::ENOSPC, tries: 2, next_at: Some(3_500_000_000), turn: Turn::New };
        log.note(std::slice::from_ref(&trouble), 1_000_000_000);
        log.note(&[Trouble { turn: Turn::Healed, next_at: None, ..trouble.clone() }], 0);
        let text = std::fs::read_to_string(&path).unwrap();
        let lines: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!((lines[0]["event"].as_str(), lines[1]["event"].as_str()), (Some("failed"), Some("healed")));
        assert_eq!((lines[0]["path"].as_str(), lines[0]["next_try_seconds"].as_f64()), (Some("a/\"b\\012\\377"), Some(2.5)));
        assert_eq!((lines[0]["cause"].as_str(), lines[0]["tries"].as_u64()), (Some("No space left on device"), Some(2)));

        std::fs::rename(&path, tmp.path().join("old")).unwrap();
        log.reopen();
        for _ in 0..20 {
            log.note(&vec![trouble.clone(); 200], 0);
        }
        drop(log);
        let text = std::fs::read_to_string(&path).unwrap();
        let seconds: std::collections::HashSet<u64> =
            text.lines().map(|l| serde_json::from_str::<serde_json::Value>(l).unwrap()["time"].as_f64().unwrap() as u64).collect();
        assert!(text.lines().count() as u64 <= seconds.len() as u64 * (FAILURE_LINES_PER_SECOND_MAX + 1));
        let left_out: u64 =
            text.lines().map(|l| serde_json::from_str::<serde_json::Value>(l).unwrap()).filter_map(|l| l["lines"].as_u64()).sum();
        let said = text.lines().filter(|l| l.contains("failed")).count() as u64;
        assert_eq!(said + left_out, 4000);
    }
}
