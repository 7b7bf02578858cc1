//! The log, as text or JSON: on standard error, beside the progress bar if there is one, or in a file that can be opened again.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use indicatif::ProgressBar;
use tracing::Level;

use super::args::{LogArgs, LogFormat};
use crate::error::{Error, Result};

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

/// The file of a log, shared by whoever writes a line.
#[derive(Clone)]
struct Shared(Arc<Mutex<File>>);

impl Write for Shared {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).write(line)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Opens a log's file again, if it has one: another file may be at its path by now.
pub(super) struct Reopen(Option<(PathBuf, Shared)>);

impl Reopen {
    /// See the type. The old file is written on if that fails.
    pub(super) fn reopen(&self) {
        let Some((path, shared)) = &self.0 else { return };
        match open(path) {
            Ok(file) => *shared.0.lock().unwrap_or_else(PoisonError::into_inner) = file,
            Err(e) => tracing::error!("log {}: {e}; the old file is written on", path.display()),
        }
    }
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).mode(0o600).open(path)
}

/// Starts the log of the process; `bar` may be hidden.
///
/// # Errors
/// The log's file cannot be written.
pub(super) fn start(args: &LogArgs, bar: ProgressBar) -> Result<Reopen> {
    let level = match args.verbose {
        0 => Level::INFO,
        1 => Level::DEBUG,
        _ => Level::TRACE,
    };
    // Where nobody reads the log (a closed pipe) there is nobody to be told of that either: it would be written there, which panics.
    let log = tracing_subscriber::fmt().with_max_level(level).with_target(args.verbose > 0).log_internal_errors(false);
    // Starting one fails only where the process has a log already: that one serves.
    let Some(path) = &args.log_file else {
        let log = log.with_writer(move || BesideBar(bar.clone()));
        let _ = match args.log_format {
            LogFormat::Text => log.try_init(),
            LogFormat::Json => log.json().flatten_event(true).try_init(),
        };
        return Ok(Reopen(None));
    };
    let file = open(path).map_err(|e| Error::file(format!("log {}", path.display()), e))?;
    let shared = Shared(Arc::new(Mutex::new(file)));
    let writer = shared.clone();
    let log = log.with_ansi(false).with_writer(move || writer.clone());
    let _ = match args.log_format {
        LogFormat::Text => log.try_init(),
        LogFormat::Json => log.json().flatten_event(true).try_init(),
    };
    Ok(Reopen(Some((path.clone(), shared))))
}
