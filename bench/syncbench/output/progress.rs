//! Progress on standard error: a bar where that is a terminal, and a line for each measurement.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::record::Measured;
use crate::summary::{Unit, show};

/// See the module's comment.
pub struct Progress {
    bar: ProgressBar,
}

impl Progress {
    /// Of so many measurements.
    pub fn new(total: u64) -> Self {
        let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr_with_hz(4));
        if let Ok(style) = ProgressStyle::with_template("{bar:24} {pos}/{len} {elapsed} {msg}") {
            bar.set_style(style);
        }
        Self { bar }
    }

    /// A measurement begins.
    pub fn begin(&self, load: &str, peer: &str, run: u32, runs: u32) {
        self.bar.set_message(format!("{load} with {peer}, {run} of {runs}"));
    }

    /// A measurement is left out.
    pub fn step(&self) {
        self.bar.inc(1);
    }

    /// A measurement ended.
    pub fn end(&self, m: &Measured) {
        let result = match (m.differences, m.equal_s, m.p50_ms, m.wakeups_sender) {
            (1.., ..) => format!("NOT EQUAL: {} differences: {}", m.differences, m.notes.first().map_or("", String::as_str)),
            (_, _, Some(p50), _) => format!("p50 {}, p99 {}", show(p50, Unit::Millis), show(m.p99_ms.unwrap_or(p50), Unit::Millis)),
            (_, Some(equal), ..) => format!("equal after {}", show(equal, Unit::Seconds)),
            (_, _, _, Some(n)) => format!("{n} + {} wake-ups", m.wakeups_receiver.unwrap_or(0)),
            _ => m.load_s.map_or_else(String::new, |s| format!("the load alone takes {}", show(s, Unit::Seconds))),
        };
        let line = format!("{:<9} {:<21} {result}", m.load, m.peer);
        if self.bar.is_hidden() {
            eprintln!("{line}");
        } else {
            self.bar.println(line);
        }
        self.bar.inc(1);
    }

    /// All measurements ended.
    pub fn finish(&self) {
        self.bar.finish_and_clear();
    }
}
