//! Where both ends of a peer spend their time: `perf record` beside a measurement, `perf report` as text after it. It disturbs: figures of such a run count for nothing.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::lab::End;
use crate::measure::usage::Root;
use crate::problem::{Doing, Result};

/// Samples a second.
const FREQUENCY: &str = "5000";
/// Symbols below this share are left out.
const LEAST_PERCENT: &str = "0.4";

/// Recorders that run.
pub struct Profile {
    recorders: Vec<(Child, PathBuf, PathBuf)>,
}

impl Profile {
    /// Starts to record the peer's processes; the reports will be `dir/NAME-END.txt`.
    ///
    /// # Errors
    /// `perf` cannot be started, or a file not be made.
    pub fn start(dir: &Path, name: &str, roots: &[Root]) -> Result<Self> {
        fs::create_dir_all(dir).doing(|| format!("make {}", dir.display()))?;
        let mut recorders = Vec::new();
        for (end, pid) in roots {
            let end = if *end == End::Sender { "sender" } else { "receiver" };
            let data = dir.join(format!("{name}-{end}.data"));
            let child = Command::new("perf")
                .args(["record", "-q", "-g", "-F", FREQUENCY, "-p", &pid.to_string(), "-o"])
                .arg(&data)
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .doing(|| "start perf".into())?;
            recorders.push((child, data, dir.join(format!("{name}-{end}.txt"))));
        }
        Ok(Self { recorders })
    }

    /// Stops recording and writes the reports: self cost by symbol, then cost with what was called.
    ///
    /// # Errors
    /// A report cannot be made: `perf` is not permitted, for example.
    pub fn end(self) -> Result<()> {
        for (mut child, data, report) in self.recorders {
            // It ends by itself when the process it records does; then there is nobody to signal.
            let _ = kill(Pid::from_raw(child.id() as i32), Signal::SIGINT);
            child.wait().doing(|| "wait for perf".into())?;
            let out = File::create(&report).doing(|| format!("make {}", report.display()))?;
            for (calls, fields) in [("--no-children", "overhead,sym"), ("--children", "overhead_children,overhead,sym")] {
                let status = Command::new("perf")
                    .args(["report", "--stdio", "-g", "none", "--percent-limit", LEAST_PERCENT, calls, "-F", fields, "-i"])
                    .arg(&data)
                    .stdin(Stdio::null())
                    .stdout(out.try_clone().doing(|| "copy a descriptor".into())?)
                    .stderr(Stdio::null())
                    .status()
                    .doing(|| "start perf".into())?;
                if !status.success() {
                    return Err(crate::problem::Problem::Failed(format!("perf report: {status}; perf may not be permitted here")));
                }
            }
            fs::remove_file(&data).doing(|| format!("remove {}", data.display()))?;
        }
        Ok(())
    }
}
