//! A process of a peer, in a process group of its own, stopped with all of its group when it is dropped.

use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill, killpg};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use super::{End, net};
use crate::interrupt;
use crate::problem::{Doing, Problem, Result};

/// So long a group may take to end when asked.
const END_PATIENCE: Duration = Duration::from_secs(3);
/// So long a server may take until it listens.
const LISTEN_PATIENCE: Duration = Duration::from_secs(10);

/// See the module's comment. Invariant: until `stop`, the group `child.id()` is ours, since its leader is not reaped before the group is killed.
pub struct Process {
    child: Child,
    /// At which end it runs.
    pub end: End,
    name: String,
    log: PathBuf,
    status: Option<ExitStatus>,
}

impl Process {
    /// Starts it, with its output in the file `log`.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(mut command: Command, end: End, name: &str, log: &Path) -> Result<Self> {
        let out = File::options().create(true).append(true).open(log).doing(|| format!("make {}", log.display()))?;
        let err = out.try_clone().doing(|| "duplicate a descriptor".into())?;
        command.stdin(Stdio::null()).stdout(out).stderr(err).process_group(0).current_dir("/").env_remove("RUST_LOG");
        let child = command.spawn().doing(|| format!("start {name}"))?;
        Ok(Self { child, end, name: name.into(), log: log.into(), status: None })
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// How it ended, if it did.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        if self.status.is_none() {
            self.status = self.child.try_wait().ok().flatten();
        }
        self.status
    }

    /// Name, how it ended and the last lines it wrote, if it ended.
    pub fn epitaph(&mut self) -> Option<String> {
        let status = self.ended()?;
        Some(format!("{} ended ({status}): {}", self.name, self.last_words()))
    }

    fn last_words(&self) -> String {
        let text = String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()).into_owned();
        let lines: Vec<&str> = text.lines().filter(|l| !l.trim().is_empty()).collect();
        lines[lines.len().saturating_sub(3)..].join(" | ")
    }

    /// How often it wrote `word`, in any case.
    pub fn mentions(&self, word: &str) -> u64 {
        let text = String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()).to_lowercase();
        text.matches(word).count() as u64
    }

    /// Waits until something listens at the port.
    ///
    /// # Errors
    /// When it ended, or does not in time.
    pub fn await_listener(&mut self, port: u16) -> Result<()> {
        let until = Instant::now() + LISTEN_PATIENCE;
        while !net::listens(self.pid(), port) {
            interrupt::check()?;
            if let Some(epitaph) = self.epitaph() {
                return Err(Problem::Failed(epitaph));
            }
            if Instant::now() > until {
                return Err(Problem::Failed(format!("{} does not listen at port {port}: {}", self.name, self.last_words())));
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        Ok(())
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// When it failed, or takes longer than `patience`.
    pub fn await_end(&mut self, patience: Duration) -> Result<()> {
        let until = Instant::now() + patience;
        loop {
            interrupt::check()?;
            match self.ended() {
                Some(status) if status.success() => return Ok(()),
                Some(status) => return Err(Problem::Failed(format!("{} failed ({status}): {}", self.name, self.last_words()))),
                None if Instant::now() > until => {
                    return Err(Problem::Failed(format!("{} did not end in {} s", self.name, patience.as_secs())));
                }
                None => std::thread::sleep(Duration::from_micros(500)),
            }
        }
    }

    /// Asks the group to end, then makes it.
    pub fn stop(&mut self) {
        let group = Pid::from_raw(self.child.id().cast_signed());
        let _ = killpg(group, Signal::SIGTERM);
        let until = Instant::now() + END_PATIENCE;
        while Instant::now() < until && !gone(group) {
            let _ = self.ended();
            std::thread::sleep(Duration::from_millis(2));
        }
        let _ = killpg(group, Signal::SIGKILL);
        if self.status.is_none() {
            self.status = self.child.wait().ok();
        }
        while !gone(group) && Instant::now() < until + END_PATIENCE {
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Reaps what of the group is ours by now; whether nothing of it is left.
fn gone(group: Pid) -> bool {
    while let Ok(status) = waitpid(Pid::from_raw(-group.as_raw()), Some(WaitPidFlag::WNOHANG)) {
        if status == WaitStatus::StillAlive {
            break;
        }
    }
    killpg(group, None) == Err(Errno::ESRCH)
}

/// From now on processes whose parents end become children of this one, so that none escapes.
///
/// # Errors
/// When the system refuses.
pub fn adopt_orphans() -> Result<()> {
    nix::sys::prctl::set_child_subreaper(true).doing(|| "become the parent of orphans".into())
}

/// Kills and reaps every child that is left. To be called when no [`Process`] is: all that remain are orphans of peers.
pub fn kill_orphans() {
    let children = fs::read_to_string(format!("/proc/self/task/{}/children", nix::unistd::gettid())).unwrap_or_default();
    for pid in children.split_whitespace().filter_map(|p| p.parse().ok()).map(Pid::from_raw) {
        let _ = kill(pid, Signal::SIGKILL);
        let _ = waitpid(pid, None);
    }
}
