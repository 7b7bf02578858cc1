//! A strict mirror in memory that does what `FsTarget` does as root on a filesystem of its own, or several, with faults on demand.
//! It never touches a disk. The simulation of the planner runs on it, and a random comparison with `FsTarget` keeps it honest.

mod mounted;
mod outdated;
mod staged;

use std::collections::{BTreeMap, HashMap};

use ringsync::apply::target::{is_at_or_beneath, may_name, may_name_dir};
use ringsync::apply::{Errno, Listed, Target};
use ringsync::limits::LINK_TARGET_BYTES_MAX;
use ringsync::model::meta::{Extent, Kind, Meta, Time};
use ringsync::model::op::{Entry, Op, Spot};
use ringsync::model::path::{Name, NameBuf, RelPath, STAGING_NAME};

mod spoil;

use staged::Staged;

const ROOT: u64 = 1;
/// Modification times of directories whose entries changed start here, one second apart: no test sets such a time.
pub const TOUCHED_SEC: i64 = 1 << 40;

/// What is about to be done, for the fault hook.
#[derive(Debug, Clone, Copy)]
pub enum Act<'a> {
    /// [`Target::op`].
    Op(&'a Op),
    /// [`Target::put`].
    Put(&'a Spot),
    /// [`Target::stage`] of this id.
    Stage(u64),
    /// Reading this directory in [`Target::list`].
    List(&'a RelPath),
}

/// Says with which error number to fail instead of acting.
pub type Fault = Box<dyn FnMut(Act<'_>) -> Option<Errno> + Send>;

#[derive(Debug, Clone, PartialEq, Eq)]
enum Body {
    Dir(BTreeMap<Box<[u8]>, u64>),
    File(Vec<u8>),
    Symlink(Box<[u8]>),
    Special,
}

#[derive(Debug, Clone)]
struct Node {
    meta: Meta,
    body: Body,
    nlink: u32,
    /// The filesystem that it is on: 0, or the number of the directory where that is mounted.
    volume: u64,
}

/// What a snapshot says of one entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// Metadata.
    pub meta: Meta,
    /// Content of a file, target of a symbolic link, otherwise empty.
    pub content: Vec<u8>,
    /// Equal and not 0 for hard links of one object.
    pub link_group: u64,
    /// The filesystem that it is on; 0 for the root's.
    pub volume: u64,
}

/// The mirror. Invariant: every node is reachable from the root, and `nlink` counts its names.
pub struct MemTarget {
    nodes: HashMap<u64, Node>,
    next: u64,
    staged: HashMap<u64, Staged>,
    clock: i64,
    cycle: u64,
    /// Objects whose new content failed to come: the error, and the cycle.
    outdated: HashMap<u64, (Errno, u64)>,
    fault: Option<Fault>,
}

impl Default for MemTarget {
    fn default() -> Self {
        Self::new()
    }
}

impl MemTarget {
    /// An empty mirror; its root is `0755 root:root`.
    pub fn new() -> Self {
        let meta = Meta { kind: Kind::Dir, mode: 0o755, uid: 0, gid: 0, mtime: Time::default(), size: 0, rdev: 0, attrs: 0 };
        let root = Node { meta, body: Body::Dir(BTreeMap::new()), nlink: 1, volume: 0 };
        Self {
            nodes: HashMap::from([(ROOT, root)]),
            next: ROOT + 1,
            staged: HashMap::new(),
            clock: TOUCHED_SEC,
            cycle: 0,
            outdated: HashMap::new(),
            fault: None,
        }
    }

    /// Sets or clears the hook that makes operations fail.
    pub fn set_fault(&mut self, fault: Option<Fault>) {
        self.fault = fault;
    }

    /// The end of a session: staged files go.
    pub fn end_session(&mut self) {
        self.staged.clear();
        self.outdated.clear();
        self.remove_empty_staging();
    }

    /// Everything in the mirror by path; the root has the empty path. Reserved names are left out.
    pub fn snapshot(&self) -> BTreeMap<Vec<u8>, Seen> {
        self.tree(|name| !name.starts_with(STAGING_NAME))
    }

    /// What is there, with what is parked.
    pub fn snapshot_with_parked(&self) -> BTreeMap<Vec<u8>, Seen> {
        self.tree(is_told)
    }

    fn tree(&self, is_shown: impl Fn(&[u8]) -> bool) -> BTreeMap<Vec<u8>, Seen> {
        let mut all = BTreeMap::new();
        let mut todo = vec![(Vec::new(), ROOT)];
        while let Some((path, ino)) = todo.pop() {
            let node = &self.nodes[&ino];
            if let Body::Dir(entries) = &node.body {
                for (name, child) in entries.iter().filter(|(name, _)| is_shown(name)) {
                    let mut below = path.clone();
                    if !below.is_empty() {
                        below.push(b'/');
                    }
                    below.extend_from_slice(name);
                    todo.push((below, *child));
                }
            }
            let content = match &node.body {
                Body::File(bytes) => bytes.clone(),
                Body::Symlink(target) => target.to_vec(),
                Body::Dir(_) | Body::Special => Vec::new(),
            };
            let link_group = if node.nlink > 1 { ino } else { 0 };
            all.insert(path, Seen { meta: node.meta, content, link_group, volume: node.volume });
        }
        all
    }

    /// Mounts a filesystem at an empty directory.
    pub fn mount(&mut self, at: &RelPath) {
        let ino = self.resolve(at).unwrap();
        assert!(self.entries(ino).is_empty());
        self.nodes.get_mut(&ino).unwrap().volume = ino;
    }

    /// Makes all one filesystem, with what it has.
    pub fn merge(&mut self) {
        self.nodes.values_mut().for_each(|node| node.volume = 0);
    }

    /// Whether the directory `ino` in `dir` is where a filesystem is mounted.
    fn is_top(&self, dir: u64, ino: u64) -> bool {
        self.is_dir(ino) && self.nodes[&ino].volume != self.nodes[&dir].volume
    }

    /// Whether the staging directory is there.
    pub fn has_staging(&self) -> bool {
        self.entries(ROOT).contains_key(STAGING_NAME)
    }

    /// Whether anything reserved is there.
    pub fn has_leftovers(&self) -> bool {
        let is_left = |dir: u64, name: &[u8], ino: u64| name.starts_with(STAGING_NAME) && !self.is_above_mounts(dir, ino);
        let leaves = |dir, body: &Body| matches!(body, Body::Dir(entries) if entries.iter().any(|(name, ino)| is_left(dir, name, *ino)));
        self.nodes.iter().any(|(dir, node)| leaves(*dir, &node.body))
    }

    /// Asserts the invariant.
    pub fn check(&self) {
        let mut names: HashMap<u64, u32> = HashMap::from([(ROOT, 1)]);
        let mut todo = vec![ROOT];
        while let Some(ino) = todo.pop() {
            if let Body::Dir(entries) = &self.nodes[&ino].body {
                for child in entries.values() {
                    let count = names.entry(*child).or_default();
                    *count += 1;
                    if *count == 1 {
                        todo.push(*child);
                    }
                }
            }
        }
        assert_eq!(names.len(), self.nodes.len(), "a node is lost or missing");
        for (ino, node) in &self.nodes {
            assert_eq!(names.get(ino), Some(&node.nlink), "names of {ino}: {node:?}");
        }
    }

    fn entries(&self, dir: u64) -> &BTreeMap<Box<[u8]>, u64> {
        match &self.nodes[&dir].body {
            Body::Dir(entries) => entries,
            other => panic!("not a directory: {other:?}"),
        }
    }

    fn entries_mut(&mut self, dir: u64) -> &mut BTreeMap<Box<[u8]>, u64> {
        match &mut self.nodes.get_mut(&dir).unwrap().body {
            Body::Dir(entries) => entries,
            other => panic!("not a directory: {other:?}"),
        }
    }

    fn faulty(&mut self, act: Act<'_>) -> Result<(), Errno> {
        self.fault.as_mut().and_then(|fault| fault(act)).map_or(Ok(()), Err)
    }

    fn resolve(&self, dir: &RelPath) -> Result<u64, Errno> {
        let mut at = ROOT;
        for name in dir.names() {
            at = self.lookup(at, name).ok_or(libc::ENOENT)?;
            match self.nodes[&at].body {
                Body::Dir(_) => {}
                _ => return Err(libc::ENOTDIR),
            }
        }
        Ok(at)
    }

    fn lookup(&self, dir: u64, name: Name<'_>) -> Option<u64> {
        self.entries(dir).get(name.as_bytes()).copied()
    }

    fn is_dir(&self, ino: u64) -> bool {
        matches!(self.nodes[&ino].body, Body::Dir(_))
    }

    fn touch(&mut self, dir: u64) {
        self.clock += 1;
        self.nodes.get_mut(&dir).unwrap().meta.mtime = Time { sec: self.clock, nsec: 0 };
    }

    fn create(&mut self, meta: Meta, body: Body) -> u64 {
        self.next += 1;
        self.nodes.insert(self.next, Node { meta, body, nlink: 0, volume: 0 });
        self.next
    }

    /// Sets the name, dropping what was there; the directory is touched.
    fn attach(&mut self, dir: u64, name: &[u8], ino: u64) {
        let volume = self.nodes[&dir].volume;
        let node = self.nodes.get_mut(&ino).unwrap();
        (node.nlink, node.volume) = (node.nlink + 1, volume);
        let old = self.entries_mut(dir).insert(name.into(), ino);
        self.touch(dir);
        if let Some(old) = old {
            self.release(old);
        }
    }

    fn detach(&mut self, dir: u64, name: &[u8]) {
        let ino = self.entries_mut(dir).remove(name).unwrap();
        self.touch(dir);
        self.release(ino);
    }

    fn release(&mut self, ino: u64) {
        let node = self.nodes.get_mut(&ino).unwrap();
        node.nlink -= 1;
        if node.nlink == 0 {
            let node = self.nodes.remove(&ino).unwrap();
            if let Body::Dir(entries) = node.body {
                entries.into_values().for_each(|child| self.release(child));
            }
        }
    }

    fn within(&self, a: u64, b: u64) -> Result<(), Errno> {
        if self.nodes[&a].volume == self.nodes[&b].volume { Ok(()) } else { Err(libc::EXDEV) }
    }

    fn idle(&self, dir: u64, ino: u64) -> Result<(), Errno> {
        if self.is_top(dir, ino) { Err(libc::EBUSY) } else { Ok(()) }
    }

    fn move_entry(&mut self, from: &Spot, to: &Spot) -> Result<(), Errno> {
        let (from_dir, to_dir) = (self.resolve(&from.dir)?, self.resolve(&to.dir)?);
        let ino = self.lookup(from_dir, from.name.as_name()).ok_or(libc::ENOENT)?;
        if from == to {
            return Ok(());
        }
        if is_at_or_beneath(&to.dir, from) {
            return Err(libc::EINVAL);
        }
        self.current(ino)?;
        self.within(from_dir, to_dir)?;
        if let Some(there) = self.lookup(to_dir, to.name.as_name()) {
            match (self.is_dir(ino), self.is_dir(there)) {
                (true, true) => return Err(libc::EEXIST),
                (false, true) => return Err(libc::EISDIR),
                _ if ino == there => {
                    self.detach(from_dir, from.name.as_bytes());
                    return Ok(());
                }
                _ => {}
            }
        }
        self.idle(from_dir, ino)?;
        self.attach(to_dir, to.name.as_bytes(), ino);
        self.detach(from_dir, from.name.as_bytes());
        Ok(())
    }

    fn park(&mut self, from: &Spot, id: u64) -> Result<(), Errno> {
        let dir = self.resolve(&from.dir)?;
        let ino = self.lookup(dir, from.name.as_name()).ok_or(libc::ENOENT)?;
        let name = NameBuf::parked(id, from.name.as_name());
        if self.entries(dir).contains_key(name.as_bytes()) {
            return Err(libc::EEXIST);
        }
        self.idle(dir, ino)?;
        self.attach(dir, name.as_bytes(), ino);
        self.detach(dir, from.name.as_bytes());
        Ok(())
    }

    /// A symbolic link or special file: what is the same already and has no other name is only given its metadata.
    fn make(&mut self, at: &Spot, meta: Meta, body: Body) -> Result<(), Errno> {
        let dir = self.resolve(&at.dir)?;
        if let Some(there) = self.lookup(dir, at.name.as_name()) {
            let node = self.nodes.get_mut(&there).unwrap();
            if matches!(node.body, Body::Dir(_)) {
                return Err(libc::EISDIR);
            }
            let same = node.body == body && node.meta.kind == meta.kind && node.meta.rdev == meta.rdev;
            if same && node.nlink == 1 {
                node.meta = meta;
                return Ok(());
            }
        }
        let ino = self.create(meta, body);
        self.attach(dir, at.name.as_bytes(), ino);
        Ok(())
    }

    fn set_meta(&mut self, at: &Spot, meta: &Meta) -> Result<(), Errno> {
        let dir = self.resolve(&at.dir)?;
        let ino = self.lookup(dir, at.name.as_name()).ok_or(libc::ENOENT)?;
        self.current(ino)?;
        let node = self.nodes.get_mut(&ino).unwrap();
        if node.meta.kind == Kind::Dir {
            return Err(libc::EISDIR);
        }
        if node.meta.kind != meta.kind {
            return Err(libc::ESTALE);
        }
        if meta.kind != Kind::Symlink {
            node.meta.mode = meta.mode;
        }
        (node.meta.uid, node.meta.gid, node.meta.mtime, node.meta.attrs) = (meta.uid, meta.gid, meta.mtime, meta.attrs);
        Ok(())
    }

    fn link(&mut self, from: &Spot, to: &Spot) -> Result<(), Errno> {
        let (from_dir, to_dir) = (self.resolve(&from.dir)?, self.resolve(&to.dir)?);
        let ino = self.lookup(from_dir, from.name.as_name()).ok_or(libc::ENOENT)?;
        self.current(ino)?;
        if self.is_dir(ino) {
            return Err(libc::EPERM);
        }
        self.within(from_dir, to_dir)?;
        match self.lookup(to_dir, to.name.as_name()) {
            Some(there) if there == ino => Ok(()),
            Some(there) if self.is_dir(there) => Err(libc::EISDIR),
            _ => {
                self.attach(to_dir, to.name.as_bytes(), ino);
                Ok(())
            }
        }
    }

    /// Unlink or rmdir: nothing there, nor the directory that would hold it, is success.
    fn remove(&mut self, at: &Spot, want_dir: bool) -> Result<(), Errno> {
        let dir = match self.resolve(&at.dir) {
            Err(libc::ENOENT) => return Ok(()),
            other => other?,
        };
        let Some(ino) = self.lookup(dir, at.name.as_name()) else { return Ok(()) };
        if want_dir {
            self.idle(dir, ino)?;
        }
        match (&self.nodes[&ino].body, want_dir) {
            (Body::Dir(_), false) => return Err(libc::EISDIR),
            // Reserved names alone are in nobody's way, but for what is parked.
            (Body::Dir(entries), true) if entries.keys().any(|name| is_told(name)) => return Err(libc::ENOTEMPTY),
            (Body::Dir(_), true) | (_, false) => {}
            (_, true) => return Err(libc::ENOTDIR),
        }
        self.detach(dir, at.name.as_bytes());
        Ok(())
    }
}

/// Whether a manifest tells of it: what is parked, and what is not reserved.
fn is_told(name: &[u8]) -> bool {
    !name.starts_with(STAGING_NAME) || Name::new(name).is_ok_and(Name::is_parked)
}

fn allowed(at: &Spot) -> Result<(), Errno> {
    if may_name(at) { Ok(()) } else { Err(libc::EINVAL) }
}

fn require(condition: bool) -> Result<(), Errno> {
    if condition { Ok(()) } else { Err(libc::EINVAL) }
}

impl MemTarget {
    fn run(&mut self, op: &Op) -> Result<(), Errno> {
        match op {
            Op::Move { from, to } => {
                allowed(from)?;
                allowed(to)?;
                self.move_entry(from, to)
            }
            Op::Park { from, id } => {
                allowed(from)?;
                self.park(from, *id)
            }
            Op::Mkdir { at, meta } => {
                allowed(at)?;
                require(meta.kind == Kind::Dir)?;
                let dir = self.resolve(&at.dir)?;
                match self.lookup(dir, at.name.as_name()) {
                    Some(there) if self.is_dir(there) => Ok(()),
                    Some(_) => Err(libc::EEXIST),
                    None => {
                        self.clock += 1;
                        let mtime = Time { sec: self.clock, nsec: 0 };
                        let mode = meta.mode & 0o777 | 0o700;
                        let made = Meta { kind: Kind::Dir, mode, uid: 0, gid: 0, mtime, size: 0, rdev: 0, attrs: 0 };
                        let ino = self.create(made, Body::Dir(BTreeMap::new()));
                        self.attach(dir, at.name.as_bytes(), ino);
                        Ok(())
                    }
                }
            }
            Op::Symlink { at, target, meta } => {
                allowed(at)?;
                require(meta.kind == Kind::Symlink && !target.contains(&0) && (1..=LINK_TARGET_BYTES_MAX).contains(&target.len()))?;
                let meta = Meta { mode: 0o777, size: target.len() as u64, rdev: 0, ..*meta };
                self.make(at, meta, Body::Symlink(target.clone()))
            }
            Op::Special { at, meta } => {
                allowed(at)?;
                require(!matches!(meta.kind, Kind::File | Kind::Dir | Kind::Symlink))?;
                let rdev = if meta.kind.is_device() { meta.rdev } else { 0 };
                self.make(at, Meta { size: 0, rdev, ..*meta }, Body::Special)
            }
            Op::SetMeta { at, meta } => {
                allowed(at)?;
                require(meta.kind != Kind::Dir)?;
                self.set_meta(at, meta)
            }
            Op::Place { at, meta, stage } => {
                allowed(at)?;
                require(meta.kind == Kind::File)?;
                self.place(at, meta, *stage)
            }
            Op::Link { from, to } => {
                allowed(from)?;
                allowed(to)?;
                self.link(from, to)
            }
            Op::Unlink { at } => {
                allowed(at)?;
                self.remove(at, false)
            }
            Op::Rmdir { at } => {
                allowed(at)?;
                self.remove(at, true)
            }
            Op::DirMeta { dir, meta } => {
                require(may_name_dir(dir) && meta.kind == Kind::Dir)?;
                let ino = self.resolve(dir)?;
                let node = &mut self.nodes.get_mut(&ino).unwrap().meta;
                (node.mode, node.uid, node.gid, node.mtime, node.attrs) = (meta.mode, meta.uid, meta.gid, meta.mtime, meta.attrs);
                Ok(())
            }
        }
    }
}

impl Target for MemTarget {
    fn op(&mut self, op: &Op) -> Result<(), Errno> {
        let done = self.faulty(Act::Op(op)).and_then(|()| self.run(op));
        if let Op::Place { at, .. } = op { self.content_came(at, done) } else { done }
    }

    fn put(&mut self, at: &Spot, meta: &Meta, data: &[u8]) -> Result<(), Errno> {
        allowed(at)?;
        require(meta.kind == Kind::File && meta.size == data.len() as u64)?;
        let faulty = self.faulty(Act::Put(at));
        self.content_came(at, faulty)?;
        let dir = self.resolve(&at.dir)?;
        if self.lookup(dir, at.name.as_name()).is_some_and(|there| self.is_dir(there)) {
            // The temporary file was made and removed again.
            self.touch(dir);
            return self.content_came(at, Err(libc::EISDIR));
        }
        let ino = self.create(*meta, Body::File(data.to_vec()));
        self.attach(dir, at.name.as_bytes(), ino);
        Ok(())
    }

    fn attrs(&mut self, _: &std::sync::Arc<ringsync::model::attrs::Attrs>) {}

    fn put_sparse(&mut self, at: &Spot, meta: &Meta, extents: &[Extent], data: &[u8]) -> Result<(), Errno> {
        self.put_filled(at, meta, extents, data)
    }

    fn put_patch(&mut self, at: &Spot, meta: &Meta, digest: &[u8; 32], delta: &[u8]) -> Result<(), Errno> {
        allowed(at)?;
        match self.patched(at, meta, digest, delta) {
            Ok(made) => self.put(at, meta, &made),
            Err(errno) => self.content_came(at, Err(errno)),
        }
    }

    fn stage_hole(&mut self, id: u64, offset: u64, len: u64) -> Result<(), Errno> {
        self.piece(id, offset, len, None)
    }

    fn stage(&mut self, id: u64, offset: u64, data: &[u8]) -> Result<(), Errno> {
        self.piece(id, offset, data.len() as u64, Some(data))
    }

    fn drop_stage(&mut self, id: u64) {
        if self.staged.remove(&id).is_some() {
            self.remove_empty_staging();
        }
    }

    fn list(&mut self, dir: &RelPath, each: &mut dyn FnMut(Listed)) -> Result<(), Errno> {
        require(may_name_dir(dir))?;
        self.faulty(Act::List(dir))?;
        let mut todo = vec![(dir.clone(), self.resolve(dir)?)];
        while let Some((path, ino)) = todo.pop() {
            if path != *dir
                && let Err(errno) = self.faulty(Act::List(&path))
            {
                each(Listed::Failed { dir: path, errno });
                continue;
            }
            each(Listed::Dir { dir: path.clone(), meta: self.nodes[&ino].meta });
            for (name, child) in self.entries(ino).iter().filter(|(name, _)| is_told(name)) {
                let node = &self.nodes[child];
                let name = Name::new(name).unwrap();
                let target = if let Body::Symlink(target) = &node.body { Some(target.clone()) } else { None };
                let link_group = if self.is_dir(*child) { self.is_top(ino, *child).into() } else { u64::from(node.nlink > 1) * child };
                each(Listed::Entry(Entry { name: name.to_owned(), meta: node.meta, target, link_group }));
                if self.is_dir(*child) {
                    match path.join(name) {
                        Ok(below) => todo.push((below, *child)),
                        Err(_) => each(Listed::Failed { dir: path.clone(), errno: libc::ENAMETOOLONG }),
                    }
                }
            }
        }
        Ok(())
    }

    fn end_frame(&mut self) {}

    fn end_cycle(&mut self) {
        self.forget_outdated();
        self.remove_empty_staging();
    }
}
