//! What a run leaves behind: one JSON line for the host, one for each absent peer, one for each measurement. Written by `run`, read by everything else.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::problem::{Doing, Problem, Result};

/// One line.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum Line {
    /// Where and how. The first line.
    Host(Host),
    /// A peer that was not measured.
    Absent {
        /// Which.
        peer: String,
        /// Why.
        why: String,
    },
    /// A measurement.
    Run(Box<Measured>),
}

/// Where and how a run was made.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Host {
    /// Seconds since 1970 at the start.
    pub started: u64,
    /// Its name.
    pub host: String,
    /// Kernel's release.
    pub kernel: String,
    /// Processors that may be used.
    pub cores: usize,
    /// Filesystem of the source, and of the mirror where that is another.
    pub filesystem: String,
    /// Network between the ends.
    pub network: String,
    /// The command line.
    pub command: String,
    /// Seed of the loads.
    pub seed: u64,
    /// Scale of the loads.
    pub scale: f64,
    /// Peers and their versions.
    pub peers: Vec<(String, String)>,
}

/// One load with one peer, once. What was not measured is absent.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Measured {
    /// Load.
    pub load: String,
    /// Peer; `none` is the load alone.
    pub peer: String,
    /// Which repetition, from 1.
    pub run: u32,
    /// Operations of the load.
    pub ops: u64,
    /// Bytes that it wrote.
    pub bytes: u64,
    /// Entries of the source in the end.
    pub entries: u64,
    /// Seconds that the load took.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub load_s: Option<f64>,
    /// Seconds from the last operation (first, noop: from the start of the peer) until the mirror was changed for the last time before it was found equal.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub equal_s: Option<f64>,
    /// The same until the check had seen it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seen_s: Option<f64>,
    /// Differences left at the deadline.
    pub differences: u64,
    /// Directories left with another time.
    pub dir_times: u64,
    /// Operations a second, from the first one until equal.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ops_per_s: Option<f64>,
    /// Bytes a second, from the first operation until equal.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes_per_s: Option<f64>,
    /// Latency (steady: lag), milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub p50_ms: Option<f64>,
    /// See `p50_ms`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub p99_ms: Option<f64>,
    /// See `p50_ms`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_ms: Option<f64>,
    /// How many.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub samples: Option<u64>,
    /// CPU seconds at the sending end, spawned processes too; where both ends are one process or pipe, of both.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_sender_s: Option<f64>,
    /// CPU seconds at the receiving end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_receiver_s: Option<f64>,
    /// Peak resident memory at the sending end, KiB.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mem_sender_kib: Option<u64>,
    /// Peak resident memory at the receiving end, KiB.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mem_receiver_kib: Option<u64>,
    /// steady: growth of the sender's memory after the first fifth, KiB.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mem_growth_kib: Option<i64>,
    /// Bytes on the wire, both directions, headers too.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wire_bytes: Option<u64>,
    /// idle: times that any thread was woken, sending end; spawned processes count as well.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wakeups_sender: Option<u64>,
    /// idle: receiving end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wakeups_receiver: Option<u64>,
    /// Mentions of an overflow in the sender's log.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub overflows: Option<u64>,
    /// Looks at all metadata.
    pub looks: u32,
    /// CPU seconds of all checks.
    pub check_cpu_s: f64,
    /// CPU seconds of the checks before the last one: what may have disturbed.
    pub disturb_cpu_s: f64,
    /// What else is to be said.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
}

/// All lines of a file.
#[derive(Debug, Default)]
pub struct Records {
    /// The first line's.
    pub host: Option<Host>,
    /// Peer and why.
    pub absent: Vec<(String, String)>,
    /// Measurements, as they were made.
    pub runs: Vec<Measured>,
}

impl Records {
    /// Takes a line in.
    pub fn add(&mut self, line: Line) {
        match line {
            Line::Host(host) => self.host = Some(host),
            Line::Absent { peer, why } => self.absent.push((peer, why)),
            Line::Run(run) => self.runs.push(*run),
        }
    }

    /// Reads a file of JSON lines.
    ///
    /// # Errors
    /// What cannot be read, with the line's number.
    pub fn read(path: &Path) -> Result<Self> {
        let file = File::open(path).doing(|| format!("open {}", path.display()))?;
        let mut all = Self::default();
        for (number, line) in BufReader::new(file).lines().enumerate() {
            let line = line.doing(|| format!("read {}", path.display()))?;
            if !line.trim().is_empty() {
                all.add(serde_json::from_str(&line).doing(|| format!("{}, line {}", path.display(), number + 1))?);
            }
        }
        if all.runs.is_empty() {
            return Err(Problem::Failed(format!("{} holds no measurement", path.display())));
        }
        Ok(all)
    }
}

/// The file that `--json` names: each line is written as it comes, so that an interrupted run leaves what it had.
pub struct Sink {
    file: Option<File>,
}

impl Sink {
    /// Opens it; an old one is replaced.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn open(path: Option<&Path>) -> Result<Self> {
        let file = path.map(|p| File::create(p).doing(|| format!("make {}", p.display()))).transpose()?;
        Ok(Self { file })
    }

    /// Writes a line.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&mut self, line: &Line) -> Result<()> {
        let Some(file) = &mut self.file else { return Ok(()) };
        let mut text = serde_json::to_string(line).doing(|| "make a JSON line".into())?;
        text.push('\n');
        file.write_all(text.as_bytes()).doing(|| "write the JSON lines".into())
    }
}
