//! A mirror on a temporary directory, and short words for what the tests of the receiving end say often.
//!
//! Never looks at the mirror through the code under test: it uses the standard library.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use ringsync::apply::{Errno, FsTarget, Listed, Root, Target, prepare_process};
use ringsync::model::meta::{Kind, Meta, Time};
use ringsync::model::op::{Entry, Op, Spot};
use ringsync::model::path::{Name, RelPath};
use tempfile::TempDir;

/// A time that no clock gives.
pub const WHEN: Time = Time { sec: 1_000_000_000, nsec: 123_456_789 };

/// A mirror, and one target on it.
pub struct Mirror {
    /// Holds the root, and lies beside it for tests of confinement.
    pub outer: TempDir,
    /// The root's path.
    pub path: PathBuf,
    /// On the root.
    pub target: FsTarget,
}

impl Mirror {
    /// An empty mirror, on tmpfs where there is one.
    pub fn new() -> Self {
        prepare_process();
        let outer = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
        let path = outer.path().join("root");
        std::fs::create_dir(&path).unwrap();
        let target = FsTarget::new(Root::open(&path, false).unwrap());
        Self { outer, path, target }
    }

    /// A target of a new session.
    pub fn reopen(&mut self) {
        self.target = FsTarget::new(Root::open(&self.path, false).unwrap());
    }

    /// The path of an entry.
    pub fn at(&self, path: &str) -> PathBuf {
        self.path.join(path)
    }

    /// Metadata of an entry, not of what it points to.
    pub fn stat(&self, path: &str) -> Metadata {
        self.at(path).symlink_metadata().unwrap_or_else(|e| panic!("{path}: {e}"))
    }

    /// Executes an operation that must succeed.
    pub fn ok(&mut self, op: &Op) {
        assert_eq!(self.target.op(op), Ok(()), "{op:?}");
    }

    /// Executes an operation that must fail so.
    pub fn fails(&mut self, op: &Op, errno: Errno) {
        assert_eq!(self.target.op(op), Err(errno), "{op:?}");
    }

    /// Puts a file with mode 0644 that must succeed.
    pub fn put(&mut self, path: &str, data: &[u8]) {
        assert_eq!(self.target.put(&spot(path), &file_meta(data), data), Ok(()), "{path}");
    }

    /// Every name beneath the root, reserved ones too.
    pub fn names(&self) -> Vec<String> {
        let mut names = Vec::new();
        let mut todo = vec![self.path.clone()];
        while let Some(dir) = todo.pop() {
            for entry in std::fs::read_dir(&dir).unwrap() {
                let entry = entry.unwrap();
                names.push(entry.path().strip_prefix(&self.path).unwrap().to_str().unwrap().to_owned());
                if entry.file_type().unwrap().is_dir() {
                    todo.push(entry.path());
                }
            }
        }
        names.sort();
        names
    }

    /// All that a listing of the whole mirror reports.
    pub fn list(&mut self) -> Vec<(RelPath, Entry)> {
        let (mut all, mut dir) = (Vec::new(), RelPath::root());
        let listed = self.target.list(&RelPath::root(), &mut |listed| match listed {
            Listed::Dir { dir: path, .. } => dir = path,
            Listed::Entry(entry) => all.push((dir.clone(), entry)),
            Listed::Failed { dir, errno } => panic!("{dir}: {errno}"),
        });
        assert_eq!(listed, Ok(()));
        all
    }
}

/// The path as a validated one.
pub fn rel(path: &str) -> RelPath {
    RelPath::new(path.as_bytes()).unwrap()
}

/// The entry at a path.
pub fn spot(path: &str) -> Spot {
    let path = rel(path);
    let (dir, name) = path.split().unwrap();
    Spot { dir, name: Name::new(name.as_bytes()).unwrap().to_owned() }
}

/// Metadata that the process can set, with the time [`WHEN`].
pub fn meta(kind: Kind, mode: u32) -> Meta {
    let (uid, gid) = (nix::unistd::geteuid().as_raw(), nix::unistd::getegid().as_raw());
    Meta { kind, mode, uid, gid, mtime: WHEN, size: 0, rdev: 0, attrs: 0 }
}

/// Metadata of a file with this content.
pub fn file_meta(data: &[u8]) -> Meta {
    Meta { size: data.len() as u64, ..meta(Kind::File, 0o644) }
}

/// A directory.
pub fn mkdir(path: &str) -> Op {
    Op::Mkdir { at: spot(path), meta: meta(Kind::Dir, 0o755) }
}

/// A symbolic link.
pub fn symlink(path: &str, target: &str) -> Op {
    Op::Symlink { at: spot(path), target: target.as_bytes().into(), meta: meta(Kind::Symlink, 0o777) }
}

/// A rename.
pub fn rename(from: &str, to: &str) -> Op {
    Op::Move { from: spot(from), to: spot(to) }
}

/// A deletion.
pub fn unlink(path: &str) -> Op {
    Op::Unlink { at: spot(path) }
}

/// The modification time.
pub fn mtime(path: &Path) -> Time {
    let meta = path.symlink_metadata().unwrap();
    Time { sec: meta.mtime(), nsec: meta.mtime_nsec() as u32 }
}

/// Whether tests of what only root can do have to be left out.
pub fn skipped_without_root(test: &str) -> bool {
    let skipped = !nix::unistd::geteuid().is_root();
    if skipped {
        eprintln!("{test}: skipped, not root");
    }
    skipped
}
