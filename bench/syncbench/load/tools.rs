//! Loads that real programs make: tar unpacks an archive, git checks out a commit.

use std::ffi::OsStr;
use std::path::Path;
use std::process::{Command, Stdio};

use super::{Load, Trace};
use crate::problem::{Doing, Problem, Result};

fn must(command: &mut Command) -> Result<()> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command.stdin(Stdio::null()).output().doing(|| format!("start {name}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(Problem::Failed(format!("{name} failed ({}): {}", output.status, String::from_utf8_lossy(&output.stderr).trim())))
}

/// Counts what the program made: the files and their bytes.
fn count(trace: &mut Trace<'_>, dir: &Path) -> Result<()> {
    for entry in std::fs::read_dir(trace.at(dir)).doing(|| format!("list {}", dir.display()))? {
        let entry = entry.doing(|| format!("list {}", dir.display()))?;
        let meta = entry.metadata().doing(|| format!("look at {}", entry.path().display()))?;
        let path = dir.join(entry.file_name());
        trace.note(&path, if meta.is_file() { meta.len() } else { 0 })?;
        if meta.is_dir() {
            count(trace, &path)?;
        }
    }
    Ok(())
}

pub(super) fn untar(load: &Load, trace: &mut Trace<'_>) -> Result<()> {
    let archive = load.archive.as_ref().ok_or_else(|| Problem::Usage("untar needs --archive FILE".into()))?;
    must(Command::new("tar").arg("-xf").arg(archive).arg("-C").arg(trace.root))?;
    trace.pause_clock();
    count(trace, Path::new(""))
}

pub(super) fn checkout(load: &Load, trace: &mut Trace<'_>) -> Result<()> {
    let repo = load.repo.as_ref().ok_or_else(|| Problem::Usage("checkout needs --repo DIR".into()))?;
    // The index belongs to the load, and lies outside of the source.
    let index = trace.root.with_extension("index");
    let git = |args: &[&OsStr]| must(Command::new("git").env("GIT_INDEX_FILE", &index).arg("-C").arg(repo).args(args));
    let tree = format!("--work-tree={}", trace.root.display());
    let done = git(&["read-tree", "HEAD"].map(OsStr::new))
        .and_then(|()| git(&[tree.as_str(), "checkout-index", "--all", "--force"].map(OsStr::new)));
    trace.pause_clock();
    let _ = std::fs::remove_file(&index);
    done?;
    count(trace, Path::new(""))
}
