//! The log on standard error, as text or JSON, beside the progress bar if there is one.

use std::io::{self, Write};

use indicatif::ProgressBar;
use tracing::Level;

use super::args::{LogArgs, LogFormat};

/// Standard error, with the bar out of the way while a line is written.
struct BesideBar(ProgressBar);

impl Write for BesideBar {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.suspend(|| io::stderr().lock().write(line))
    }

    fn write_all(&mut self, line: &[u8]) -> io::Result<()> {
        self.0.suspend(|| io::stderr().lock().write_all(line))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Starts the log of the process; `bar` may be hidden.
pub(super) fn start(args: &LogArgs, bar: ProgressBar) {
    let level = match args.verbose {
        0 => Level::INFO,
        1 => Level::DEBUG,
        _ => Level::TRACE,
    };
    let log = tracing_subscriber::fmt().with_max_level(level).with_target(args.verbose > 0).with_writer(move || BesideBar(bar.clone()));
    // It fails only where the process has a log already: that one serves.
    let _ = match args.log_format {
        LogFormat::Text => log.try_init(),
        LogFormat::Json => log.json().flatten_event(true).try_init(),
    };
}
