//! Loads of many small files: storm, deep, rename, delete, replace; and the trees that others start from.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::{Load, Rng, Size, Trace};
use crate::problem::{Doing, Result};

const STORM_DIRS: u64 = 100;

fn dir(n: u64) -> PathBuf {
    PathBuf::from(format!("d{n:05}"))
}

fn file(d: u64, f: u64) -> PathBuf {
    PathBuf::from(format!("d{d:05}/f{f:05}"))
}

fn content(rng: &mut Rng, size: Size, buffer: &mut Vec<u8>) {
    let len = match size {
        Size::Fixed(len) => len,
        Size::Below(end) => rng.below(end),
    };
    buffer.resize(len, 0);
    rng.fill(buffer);
}

/// `dirs` directories with `each` files.
pub(super) fn tree(load: &Load, root: &Path, dirs: u64, each: u64, size: Size) -> Result<()> {
    let (mut rng, mut buffer) = (load.rng(1), Vec::new());
    let mut hand = Trace::new(root);
    for d in 0..dirs {
        hand.mkdir(&dir(d))?;
        for f in 0..each {
            content(&mut rng, size, &mut buffer);
            hand.write(&file(d, f), &buffer)?;
        }
    }
    Ok(())
}

/// Sets all times beneath `root`, and its own, to a whole second: GNU tar's usual format carries no parts of it.
pub(super) fn whole_seconds(root: &Path) -> Result<()> {
    let when = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
    let problem = |path: &Path| format!("set the time of {}", path.display());
    for entry in fs::read_dir(root).doing(|| problem(root))? {
        let path = entry.doing(|| problem(root))?.path();
        if path.is_dir() {
            whole_seconds(&path)?;
        } else {
            File::options().write(true).open(&path).and_then(|f| f.set_modified(when)).doing(|| problem(&path))?;
        }
    }
    File::open(root).and_then(|d| d.set_modified(when)).doing(|| problem(root))
}

/// The empty directories of storm.
pub(super) fn directories(load: &Load, root: &Path) -> Result<()> {
    (0..STORM_DIRS.min(load.count(10_000))).try_for_each(|d| fs::create_dir(root.join(dir(d)))).doing(|| "make directories".into())
}

pub(super) fn storm(load: &Load, trace: &mut Trace<'_>) -> Result<()> {
    let (mut rng, mut buffer) = (load.rng(2), Vec::new());
    let files = load.count(10_000);
    let dirs = STORM_DIRS.min(files);
    for n in 0..files {
        content(&mut rng, Size::Fixed(4096), &mut buffer);
        trace.write(&file(n % dirs, n / dirs), &buffer)?;
    }
    Ok(())
}

pub(super) fn deep(load: &Load, trace: &mut Trace<'_>) -> Result<()> {
    const DEPTH: u64 = 12;
    let (mut rng, mut buffer) = (load.rng(3), Vec::new());
    for chain in 0..load.count(200) {
        let mut path = PathBuf::from(format!("chain{chain:04}"));
        trace.mkdir(&path)?;
        for level in 0..DEPTH {
            path.push(format!("level{level:02}"));
            trace.mkdir(&path)?;
            content(&mut rng, Size::Below(2048), &mut buffer);
            trace.write(&path.join("at-once"), &buffer)?;
        }
    }
    Ok(())
}

pub(super) fn rename(load: &Load, trace: &mut Trace<'_>) -> Result<()> {
    (0..load.count(100)).try_for_each(|d| trace.rename(&dir(d), Path::new(&format!("moved{d:05}"))))
}

pub(super) fn delete(load: &Load, trace: &mut Trace<'_>) -> Result<()> {
    for d in 0..load.count(100) {
        (0..100).try_for_each(|f| trace.unlink(&file(d, f)))?;
        trace.rmdir(&dir(d))?;
    }
    Ok(())
}

pub(super) fn replace(load: &Load, trace: &mut Trace<'_>) -> Result<()> {
    let (mut rng, mut buffer) = (load.rng(4), Vec::new());
    let dirs = load.count(10);
    for _ in 0..load.count(2_000) {
        let path = file(rng.below(dirs as usize) as u64, rng.below(50) as u64);
        let new = path.with_extension("new");
        content(&mut rng, Size::Fixed(8192), &mut buffer);
        trace.write(&new, &buffer)?;
        trace.rename(&new, &path)?;
    }
    Ok(())
}
