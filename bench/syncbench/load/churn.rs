//! churn: a random mix of operations on a tree that is remembered in memory, so that what is done depends on the seed alone.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use super::{Load, Rng, Trace};
use crate::problem::{Doing, Result};

const DIRS: u64 = 50;
const FILES: u64 = 2_000;
const OPS: u64 = 20_000;
const FILE_BYTES_MAX: usize = 8192;
/// Directories beyond these are not made: a random walk of moves would nest them without end.
const DEPTH_MAX: usize = 12;

struct Entry {
    dir: usize,
    name: String,
    is_link: bool,
}

/// What the source holds. Directory 0 is the root; a directory's slot is `None` once it is deleted.
struct Model {
    dirs: Vec<Option<(usize, String)>>,
    live: Vec<usize>,
    files: Vec<Entry>,
    next: u64,
}

impl Model {
    /// The tree that churn starts from: known without looking.
    fn new(load: &Load) -> Self {
        let mut model = Self { dirs: vec![Some((0, String::new()))], live: vec![0], files: Vec::new(), next: 0 };
        let mut rng = load.rng(20);
        for _ in 0..DIRS {
            let parent = model.live[rng.below(model.live.len())];
            let name = model.name('d');
            model.add_dir(if model.depth(parent) < 4 { parent } else { 0 }, name);
        }
        for _ in 0..load.count(FILES) {
            let dir = model.live[rng.below(model.live.len())];
            let name = model.name('f');
            model.files.push(Entry { dir, name, is_link: false });
        }
        model
    }

    fn name(&mut self, prefix: char) -> String {
        self.next += 1;
        format!("{prefix}{:06}", self.next)
    }

    fn add_dir(&mut self, parent: usize, name: String) -> usize {
        self.dirs.push(Some((parent, name)));
        self.live.push(self.dirs.len() - 1);
        self.dirs.len() - 1
    }

    fn chain(&self, mut dir: usize) -> Vec<usize> {
        let mut chain = vec![dir];
        while dir != 0 {
            dir = self.dirs[dir].as_ref().map_or(0, |(parent, _)| *parent);
            chain.push(dir);
        }
        chain
    }

    fn depth(&self, dir: usize) -> usize {
        self.chain(dir).len()
    }

    fn dir_path(&self, dir: usize) -> PathBuf {
        self.chain(dir).iter().rev().filter_map(|d| self.dirs[*d].as_ref()).map(|(_, name)| name).collect()
    }

    fn path(&self, file: usize) -> PathBuf {
        self.dir_path(self.files[file].dir).join(&self.files[file].name)
    }

    fn any_dir(&self, rng: &mut Rng) -> usize {
        self.live[rng.below(self.live.len())]
    }

    /// A file that is no symbolic link.
    fn any_file(&self, rng: &mut Rng) -> Option<usize> {
        let from = rng.below(self.files.len());
        (0..self.files.len()).map(|n| (from + n) % self.files.len()).find(|n| !self.files[*n].is_link)
    }

    /// Deepest last, `dir` first.
    fn beneath(&self, dir: usize) -> Vec<usize> {
        let mut found = vec![dir];
        let mut at = 0;
        while at < found.len() {
            let parent = found[at];
            found.extend(self.live.iter().copied().filter(|d| *d != 0 && self.dirs[*d].as_ref().is_some_and(|(p, _)| *p == parent)));
            at += 1;
        }
        found
    }
}

fn bytes(rng: &mut Rng, buffer: &mut Vec<u8>) {
    buffer.resize(rng.below(FILE_BYTES_MAX), 0);
    rng.fill(buffer);
}

pub(super) fn prepare(load: &Load, root: &Path) -> Result<()> {
    let model = Model::new(load);
    let mut hand = Trace::new(root);
    for dir in &model.live[1..] {
        hand.mkdir(&model.dir_path(*dir))?;
    }
    let (mut rng, mut buffer) = (load.rng(21), Vec::new());
    for file in 0..model.files.len() {
        bytes(&mut rng, &mut buffer);
        hand.write(&model.path(file), &buffer)?;
    }
    Ok(())
}

pub(super) fn run(load: &Load, trace: &mut Trace<'_>) -> Result<()> {
    let mut model = Model::new(load);
    let (mut rng, mut buffer) = (load.rng(22), Vec::new());
    for _ in 0..load.count(OPS) {
        step(&mut model, &mut rng, &mut buffer, trace)?;
    }
    Ok(())
}

/// One operation, of one or a few system calls.
fn step(model: &mut Model, rng: &mut Rng, buffer: &mut Vec<u8>, trace: &mut Trace<'_>) -> Result<()> {
    let (dice, file, dir) = (rng.below(100), model.any_file(rng), model.any_dir(rng));
    match (dice, file) {
        (0..15, Some(file)) => {
            bytes(rng, buffer);
            trace.write(&model.path(file), buffer)
        }
        (15..25, Some(file)) => {
            bytes(rng, buffer);
            buffer.truncate(512);
            trace.append(&model.path(file), buffer)
        }
        (25..37, Some(file)) => {
            let from = model.path(file);
            let name = model.name('f');
            model.files[file] = Entry { dir, name, is_link: false };
            trace.rename(&from, &model.path(file))
        }
        (37..42, Some(file)) => {
            // Over another one.
            let over = rng.below(model.files.len());
            if over == file {
                return Ok(());
            }
            trace.rename(&model.path(file), &model.path(over))?;
            model.files[over].is_link = false;
            model.files.swap_remove(file);
            Ok(())
        }
        (42..56, Some(file)) => {
            trace.unlink(&model.path(file))?;
            model.files.swap_remove(file);
            Ok(())
        }
        (56..61, Some(file)) => {
            let (path, mode) = (model.path(file), [0o600, 0o640, 0o644, 0o755][rng.below(4)]);
            fs::set_permissions(trace.at(&path), Permissions::from_mode(mode)).doing(|| format!("chmod {}", path.display()))?;
            trace.note(&path, 0)
        }
        (61..64, Some(file)) => {
            let target = model.files[file].name.clone();
            let name = model.name('l');
            let path = model.dir_path(dir).join(&name);
            symlink(&target, trace.at(&path)).doing(|| format!("link {}", path.display()))?;
            model.files.push(Entry { dir, name, is_link: true });
            trace.note(&path, 0)
        }
        (64..67, _) => rename_dir(model, rng, dir, trace),
        (67..72, _) if model.depth(dir) < DEPTH_MAX => {
            let name = model.name('d');
            let new = model.add_dir(dir, name);
            trace.mkdir(&model.dir_path(new))
        }
        (72, _) => remove_tree(model, dir, trace),
        _ => {
            bytes(rng, buffer);
            let name = model.name('f');
            model.files.push(Entry { dir, name, is_link: false });
            trace.write(&model.path(model.files.len() - 1), buffer)
        }
    }
}

fn rename_dir(model: &mut Model, rng: &mut Rng, dir: usize, trace: &mut Trace<'_>) -> Result<()> {
    let to = model.any_dir(rng);
    if dir == 0 || model.chain(to).contains(&dir) || model.depth(to) >= DEPTH_MAX {
        return Ok(());
    }
    let from = model.dir_path(dir);
    let name = model.name('d');
    model.dirs[dir] = Some((to, name));
    trace.rename(&from, &model.dir_path(dir))
}

fn remove_tree(model: &mut Model, dir: usize, trace: &mut Trace<'_>) -> Result<()> {
    let doomed = model.beneath(dir);
    // The larger part of the tree stays.
    if dir == 0 || doomed.len() > 5 {
        return Ok(());
    }
    let (gone, kept): (Vec<_>, Vec<_>) = std::mem::take(&mut model.files).into_iter().partition(|f| doomed.contains(&f.dir));
    model.files = kept;
    for file in &gone {
        trace.unlink(&model.dir_path(file.dir).join(&file.name))?;
    }
    for dir in doomed.iter().rev() {
        trace.rmdir(&model.dir_path(*dir))?;
    }
    for dir in doomed {
        model.dirs[dir] = None;
        model.live.retain(|d| *d != dir);
    }
    Ok(())
}
