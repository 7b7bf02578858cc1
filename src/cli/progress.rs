//! Progress of the first sync, or of a verification: a bar on a terminal, lines in the log where it was asked for. Ends with the first sync, so that an idle mirror wakes nobody.

use std::io::IsTerminal;
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use indicatif::{HumanBytes, HumanDuration, ProgressBar, ProgressStyle};

use super::args::LogFormat;
use crate::error::{Error, Result};
use crate::stats::Stats;

/// Often enough to look alive.
const BAR_PERIOD: Duration = Duration::from_millis(100);
/// Seldom enough for a log.
const LINE_PERIOD: Duration = Duration::from_secs(2);

/// The bar of a run: hidden where there is no terminal, or where a line of it would stand between lines of JSON.
pub(super) fn bar(format: LogFormat) -> ProgressBar {
    if !std::io::stderr().is_terminal() || format == LogFormat::Json {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new(0);
    if let Ok(style) = ProgressStyle::with_template("{msg}  {bytes}/{total_bytes}  {binary_bytes_per_sec}  {eta} left") {
        bar.set_style(style);
    }
    bar
}

/// Files and bytes: done, and all.
pub(super) struct Tally {
    files: u64,
    all_files: u64,
    bytes: u64,
    all_bytes: u64,
}

/// Which of the counters are shown.
pub(super) type View = fn(&Stats) -> Tally;

/// What is sent.
pub(super) fn sent(stats: &Stats) -> Tally {
    Tally {
        files: stats.files_sent.get(),
        all_files: stats.files_found.get(),
        bytes: stats.bytes_sent.get(),
        all_bytes: stats.bytes_found.get(),
    }
}

/// What is compared.
pub(super) fn compared(stats: &Stats) -> Tally {
    Tally {
        files: stats.compared_files.get(),
        all_files: stats.compare_files.get(),
        bytes: stats.compared_bytes.get(),
        all_bytes: stats.compare_bytes.get(),
    }
}

/// The thread that shows it. Dropping it ends it.
pub(super) struct Progress {
    /// Never sent through: that it is dropped is the message.
    end: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Progress {
    /// Shows the progress on `bar`, or if that is hidden and `forced`, in the log.
    pub(super) fn start(bar: ProgressBar, forced: bool, stats: Arc<Stats>, view: View) -> Result<Self> {
        let on_bar = !bar.is_hidden();
        if !on_bar && !forced {
            return Ok(Self { end: None, thread: None });
        }
        let (end, ended) = mpsc::channel();
        let run = move || {
            let start = Instant::now();
            let period = if on_bar { BAR_PERIOD } else { LINE_PERIOD };
            while ended.recv_timeout(period) == Err(RecvTimeoutError::Timeout) && stats.synced.get() == 0 {
                if on_bar {
                    let tally = view(&stats);
                    bar.set_length(tally.all_bytes);
                    bar.set_position(tally.bytes);
                    bar.set_message(files(&stats, &tally));
                    bar.tick();
                } else {
                    tracing::info!("{}", line(&stats, &view(&stats), start.elapsed()));
                }
            }
            bar.finish_and_clear();
        };
        let thread = std::thread::Builder::new().name("progress".into()).spawn(run).map_err(|e| Error::file("start a thread", e))?;
        Ok(Self { end: Some(end), thread: Some(thread) })
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.end = None;
        if let Some(thread) = self.thread.take() {
            // A panic there has been reported, and concerns nobody here.
            let _ = thread.join();
        }
    }
}

fn files(stats: &Stats, tally: &Tally) -> String {
    match tally.all_files {
        0 => format!("{} entries looked at", stats.probed.get()),
        found => format!("{} of {found} files", tally.files),
    }
}

fn line(stats: &Stats, tally: &Tally, elapsed: Duration) -> String {
    let (sent, found) = (tally.bytes, tally.all_bytes);
    let rate = sent as f64 / elapsed.as_secs_f64().max(0.001);
    let (so_far, rate_shown) = (format!("{}, {} of {}", files(stats, tally), HumanBytes(sent), HumanBytes(found)), HumanBytes(rate as u64));
    let left = found.saturating_sub(sent) as f64 / rate;
    match Duration::try_from_secs_f64(left) {
        Ok(left) => format!("{so_far}, {rate_shown}/s, {} left", HumanDuration(left)),
        Err(_) => format!("{so_far}, {rate_shown}/s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_files_bytes_rate_and_time_left() {
        let stats = Stats::default();
        stats.probed.add(7);
        assert_eq!(line(&stats, &sent(&stats), Duration::ZERO), "7 entries looked at, 0 B of 0 B, 0 B/s");
        stats.files_found.add(10);
        stats.files_sent.add(5);
        stats.bytes_found.add(3 << 20);
        stats.bytes_sent.add(1 << 20);
        assert_eq!(
            line(&stats, &sent(&stats), Duration::from_secs(10)),
            "5 of 10 files, 1.00 MiB of 3.00 MiB, 102.40 KiB/s, 20 seconds left"
        );
    }

    #[test]
    fn it_ends_with_its_handle() {
        let stats = Arc::new(Stats::default());
        let progress = Progress::start(ProgressBar::hidden(), true, stats, sent).unwrap();
        drop(progress);
    }
}
