//! Loads of large files: append to logs, rewrite pieces, insert at the front.

use std::fs::{self, File, OpenOptions};
use std::io::{BufWriter, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::{Load, Trace, small};
use crate::interrupt;
use crate::problem::{Doing, Result};

const LOGS: u64 = 50;
const LOG_BYTES: u64 = 200 << 10;
const LINES: u64 = 20_000;
const LINE_BYTES: usize = 512;
const NEW_FILES: u64 = 16;
const NEW_BYTES: u64 = 4 << 20;
const LARGE_BYTES: u64 = 256 << 20;
const PIECE_BYTES: u64 = 4096;
const LARGE: &str = "large.bin";

fn log(n: u64) -> PathBuf {
    PathBuf::from(format!("app{n:02}.log"))
}

/// A line of text of [`LINE_BYTES`], as logs have them: it compresses well.
fn line(number: u64, salt: u64) -> Vec<u8> {
    let mut line = format!("2026-01-01T00:00:00.{number:09}Z INFO request {salt:016x} served from cache, status 200").into_bytes();
    line.resize(LINE_BYTES - 1, b'.');
    line.push(b'\n');
    line
}

/// Writes `bytes` of random content.
fn random_file(load: &Load, path: &Path, bytes: u64) -> Result<()> {
    let mut rng = load.rng(10);
    let mut buffer = vec![0; 1 << 20];
    let mut out = File::create(path).doing(|| format!("make {}", path.display()))?;
    let mut left = bytes;
    while left > 0 {
        interrupt::check()?;
        let part = &mut buffer[..left.min(1 << 20) as usize];
        rng.fill(part);
        out.write_all(part).doing(|| format!("write {}", path.display()))?;
        left -= part.len() as u64;
    }
    Ok(())
}

fn large_bytes(load: &Load) -> u64 {
    load.count(LARGE_BYTES / PIECE_BYTES) * PIECE_BYTES
}

pub(super) fn prepare_logs(load: &Load, root: &Path) -> Result<()> {
    for n in 0..LOGS {
        let mut out = File::create(root.join(log(n))).map(BufWriter::new).doing(|| "make a log".into())?;
        for number in 0..LOG_BYTES / LINE_BYTES as u64 {
            out.write_all(&line(number, n ^ load.seed)).doing(|| "write a log".into())?;
        }
        out.flush().doing(|| "write a log".into())?;
    }
    Ok(())
}

pub(super) fn append(load: &Load, trace: &mut Trace<'_>) -> Result<()> {
    let mut rng = load.rng(11);
    let mut logs = Vec::new();
    for n in 0..LOGS {
        let path = log(n);
        let file = OpenOptions::new().append(true).open(trace.at(&path)).doing(|| format!("open {}", path.display()))?;
        logs.push((path, file));
    }
    for number in 0..load.count(LINES) {
        let salt = rng.next();
        let at = rng.below(logs.len());
        let (path, file) = &mut logs[at];
        file.write_all(&line(number, salt)).doing(|| format!("append to {}", path.display()))?;
        trace.note(path, LINE_BYTES as u64)?;
    }
    Ok(())
}

/// New files of [`NEW_BYTES`] each, in pieces that `fill` makes.
fn new_files(load: &Load, trace: &mut Trace<'_>, mut fill: impl FnMut(&mut Vec<u8>)) -> Result<()> {
    let mut piece = Vec::new();
    for n in 0..load.count(NEW_FILES) {
        let path = PathBuf::from(format!("new{n:02}"));
        let mut out = File::create(trace.at(&path)).doing(|| "make a file".into())?;
        let mut left = NEW_BYTES as usize;
        while left > 0 {
            piece.clear();
            fill(&mut piece);
            piece.truncate(left);
            left -= piece.len();
            out.write_all(&piece).doing(|| "write a file".into())?;
        }
        trace.note(&path, NEW_BYTES)?;
    }
    Ok(())
}

pub(super) fn logs(load: &Load, trace: &mut Trace<'_>) -> Result<()> {
    let mut rng = load.rng(14);
    let mut number = 0u64;
    new_files(load, trace, |piece| {
        for _ in 0..1000 {
            number += 1 + rng.below(900_000) as u64;
            let (id, path, took) = (rng.next(), ["/", "/index.html", "/api/v1/items", "/static/app.js"][rng.below(4)], rng.below(100_000));
            let (status, bytes) = ([200, 200, 200, 304, 404][rng.below(5)], rng.below(100_000));
            let line = format!(
                "2026-01-01T00:{:02}:{:02}.{:06}Z INFO http request id={id:016x} method=GET path={path} status={status} bytes={bytes} took_us={took}\n",
                number / 60_000_000 % 60,
                number / 1_000_000 % 60,
                number % 1_000_000
            );
            piece.extend_from_slice(line.as_bytes());
        }
    })
}

pub(super) fn noise(load: &Load, trace: &mut Trace<'_>) -> Result<()> {
    let mut rng = load.rng(15);
    new_files(load, trace, |piece| {
        piece.resize(1 << 20, 0);
        rng.fill(piece);
    })
}

pub(super) fn prepare_large(load: &Load, root: &Path) -> Result<()> {
    random_file(load, &root.join(LARGE), large_bytes(load))
}

/// One file of 4 GiB, of a whole second: GNU tar's usual format carries no parts of it.
pub(super) fn prepare_copy(load: &Load, root: &Path) -> Result<()> {
    random_file(load, &root.join(LARGE), load.count(4 << 30))?;
    small::whole_seconds(root)
}

pub(super) fn rewrite(load: &Load, trace: &mut Trace<'_>) -> Result<()> {
    let mut rng = load.rng(12);
    let path = Path::new(LARGE);
    let pieces = large_bytes(load) / PIECE_BYTES;
    let file = OpenOptions::new().write(true).open(trace.at(path)).doing(|| format!("open {LARGE}"))?;
    let mut piece = vec![0; PIECE_BYTES as usize];
    for _ in 0..(pieces / 100).max(1) {
        rng.fill(&mut piece);
        let at = rng.below(pieces as usize) as u64 * PIECE_BYTES;
        file.write_all_at(&piece, at).doing(|| format!("write {LARGE}"))?;
        trace.note(path, PIECE_BYTES)?;
    }
    Ok(())
}

pub(super) fn insert(load: &Load, trace: &mut Trace<'_>) -> Result<()> {
    let (old, new) = (Path::new(LARGE), Path::new("large.new"));
    let mut front = [0; 100];
    load.rng(13).fill(&mut front);
    let mut out = File::create(trace.at(new)).doing(|| "make the new file".into())?;
    let mut from = File::open(trace.at(old)).doing(|| format!("open {LARGE}"))?;
    let copied = out.write_all(&front).and_then(|()| std::io::copy(&mut from, &mut out)).doing(|| "copy the large file".into())?;
    drop(out);
    trace.note(new, copied + front.len() as u64)?;
    fs::rename(trace.at(new), trace.at(old)).doing(|| "rename over the large file".into())?;
    trace.note(old, 0)
}
