//! A source in memory: a small filesystem with inode numbers that are used again, a coarse clock, hard links, and a watcher's queue that merges,
//! reorders, doubles and drops events as the kernel may.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::num::NonZeroU32;
use std::sync::Arc;

use ringsync::limits::INLINE_FILE_BYTES_MAX;
use ringsync::model::attrs::{Attrs, UNKNOWN};
use ringsync::model::cycle::{FileTask, Racy};
use ringsync::model::event::{Event, Hint, Key};
use ringsync::model::meta::{Ident, Kind, Meta, Stat, Time};
use ringsync::model::path::{Name, RelPath};
use ringsync::model::probe::{Ask, DirSeen, Probe, ProbeError, Seen};

use crate::rng::Rng;

mod shut;

/// The clock's grain.
pub const TICK_NS: u64 = 4_000_000;
const ROOT: u64 = 1;
/// Where another filesystem is mounted in the source's root.
pub const MOUNT: &[u8] = b"mount";

#[derive(Debug, Clone)]
pub enum Body {
    Dir(BTreeMap<Vec<u8>, u64>),
    File(Arc<Vec<u8>>),
    Symlink(Vec<u8>),
    Special,
}

fn watch_key(watch: u64) -> Vec<u8> {
    [&watch.to_le_bytes()[..], b"w"].concat()
}

fn at(ns: u64) -> Time {
    Time { sec: 1_000_000 + (ns / 1_000_000_000) as i64, nsec: (ns % 1_000_000_000) as u32 }
}

/// An object. Its number in `nodes` is unique for ever; `ino` is used again.
#[derive(Debug, Clone)]
pub struct Node {
    pub meta: Meta,
    pub body: Body,
    pub nlink: u32,
    ino: u64,
    birth_ns: i64,
    pub ctime: Time,
    parent: u64,
    dev: u64,
}

/// Which watcher is played.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Watcher {
    /// Events of every directory, keyed by handle; renames as one event.
    Fanotify,
    /// Events of directories that were covered, keyed by watch; dead keys are told.
    Inotify,
    /// Fanotify, but for a filesystem that is mounted at [`MOUNT`].
    Mixed,
}

#[derive(Debug, Clone)]
struct Queued {
    key: Vec<u8>,
    name: Vec<u8>,
    hint: Hint,
    object: Option<(u64, u64)>,
    rename: Option<NonZeroU32>,
}

pub struct MemSource {
    pub nodes: HashMap<u64, Node>,
    next: u64,
    free_inos: Vec<u64>,
    next_ino: u64,
    pub now_ns: u64,
    watcher: Watcher,
    /// Whether changes of what is there have exact times, and only what is new has coarse ones.
    fine: bool,
    pub watches: HashMap<u64, u64>,
    next_watch: u64,
    /// Objects that were changed since one of their names was looked at.
    pub unseen: RefCell<HashSet<u64>>,
    queue: VecDeque<Queued>,
    queue_max: usize,
    overflowed: bool,
    /// Directories that cannot be entered.
    shut: BTreeSet<u64>,
    /// Whether some names are never looked at, or not always.
    pub hides_names: bool,
    /// Whether the queue keeps the order, as inotify's does.
    pub in_order: bool,
    /// Number of the latest rename.
    renames: NonZeroU32,
    /// All attributes that an object may have.
    pub attrs: Vec<Arc<Attrs>>,
}

impl MemSource {
    pub fn new(watcher: Watcher, queue_max: usize, fine: bool) -> Self {
        let meta = Meta { kind: Kind::Dir, mode: 0o755, uid: 0, gid: 0, mtime: Time { sec: 1, nsec: 0 }, size: 0, rdev: 0, attrs: 0 };
        let root = Node { meta, body: Body::Dir(BTreeMap::new()), nlink: 1, ino: 2, birth_ns: 1, ctime: meta.mtime, parent: ROOT, dev: 1 };
        let mut source = Self {
            nodes: HashMap::from([(ROOT, root)]),
            next: ROOT,
            free_inos: Vec::new(),
            next_ino: 2,
            now_ns: TICK_NS,
            watcher,
            fine,
            watches: HashMap::new(),
            next_watch: 0,
            unseen: RefCell::default(),
            queue: VecDeque::new(),
            queue_max,
            overflowed: false,
            shut: BTreeSet::new(),
            hides_names: false,
            in_order: false,
            renames: NonZeroU32::MIN,
            attrs: (0..4u8).filter_map(|n| Attrs::new(vec![((*b"user.n").into(), vec![n])]).unwrap()).map(Arc::new).collect(),
        };
        if watcher == Watcher::Mixed {
            let mount = source.create(ROOT, MOUNT, Body::Dir(BTreeMap::new()), Kind::Dir, 0o755).unwrap();
            source.nodes.get_mut(&mount).unwrap().dev = 2;
            source.queue.clear();
        }
        source
    }

    /// Whether fanotify watches the directory.
    fn by_handle(&self, dir: u64) -> bool {
        match self.watcher {
            Watcher::Fanotify => true,
            Watcher::Inotify => false,
            Watcher::Mixed => self.nodes[&dir].dev == 1,
        }
    }

    fn dev(&self, id: u64) -> u64 {
        self.nodes[&id].dev
    }

    fn is_mount(&self, id: u64) -> bool {
        let node = &self.nodes[&id];
        node.meta.kind == Kind::Dir && node.dev != self.dev(node.parent)
    }

    fn time(&self) -> Time {
        at(self.now_ns / TICK_NS * TICK_NS)
    }

    /// The digest of a file's attributes as its reader tells them.
    pub fn attrs_read(&self, stat: &Stat, task: &FileTask) -> u64 {
        let looked = task.stat.meta.attrs != UNKNOWN;
        if self.fine && looked && stat.ctime == task.stat.ctime {
            task.attrs.as_ref().map_or(0, |attrs| attrs.digest())
        } else {
            stat.meta.attrs
        }
    }

    /// Whether a change right after a reading now would show.
    pub fn racy(&self, stat: &Stat) -> Racy {
        match (stat.ctime >= self.time(), self.fine) {
            (false, _) => Racy::No,
            (true, true) => Racy::Reuse,
            (true, false) => Racy::Yes,
        }
    }

    pub fn entries(&self, dir: u64) -> &BTreeMap<Vec<u8>, u64> {
        match &self.nodes[&dir].body {
            Body::Dir(entries) => entries,
            other => panic!("not a directory: {other:?}"),
        }
    }

    fn entries_mut(&mut self, dir: u64) -> &mut BTreeMap<Vec<u8>, u64> {
        match &mut self.nodes.get_mut(&dir).unwrap().body {
            Body::Dir(entries) => entries,
            other => panic!("not a directory: {other:?}"),
        }
    }

    fn kind(&self, id: u64) -> Kind {
        self.nodes[&id].meta.kind
    }

    pub fn stat(&self, id: u64) -> Stat {
        let node = &self.nodes[&id];
        let size = match &node.body {
            Body::File(bytes) => bytes.len() as u64,
            Body::Symlink(target) => target.len() as u64,
            _ => 0,
        };
        let ident = Ident { dev: node.dev, ino: node.ino, birth_ns: node.birth_ns };
        Stat { meta: Meta { size, ..node.meta }, ident, nlink: node.nlink, ctime: node.ctime }
    }

    // Events.

    pub fn key(&self, dir: u64) -> Option<Vec<u8>> {
        if self.by_handle(dir) { Some(dir.to_le_bytes().to_vec()) } else { self.watches.get(&dir).map(|w| watch_key(*w)) }
    }

    pub fn tell(&mut self, dir: u64, name: &[u8], hint: Hint) {
        let Some(key) = self.key(dir) else { return };
        let hint = hint | if self.entries_kind(dir, name) == Some(Kind::Dir) { Hint::DIR } else { Hint::default() };
        let object = self.object(dir, name, hint);
        let one = |a: Option<(u64, u64)>, b: Option<(u64, u64)>| a.is_none() || b.is_none() || a == b;
        let by_handle = self.by_handle(dir);
        let same = |q: &Queued| q.key == key && q.name == name && one(q.object, object);
        if let Some(older) = self.queue.iter_mut().find(|q| same(q) && by_handle) {
            older.hint |= hint;
            older.object = older.object.or(object);
        } else if self.queue.len() >= self.queue_max {
            self.overflowed = true;
        } else {
            let rename = (hint.has(Hint::MOVED) && !by_handle).then_some(self.renames);
            self.queue.push_back(Queued { key, name: name.to_vec(), hint, object, rename });
        }
    }

    /// What a change of content or metadata tells of the object itself, which is at the name.
    fn object(&self, dir: u64, name: &[u8], hint: Hint) -> Option<(u64, u64)> {
        if !self.by_handle(dir) || hint.has(Hint::DIR) || !hint.has(Hint::WRITTEN | Hint::CLOSED | Hint::ATTRIB) {
            return None;
        }
        let ident = self.stat(*self.nodes.get(&dir).and_then(|_| self.entries(dir).get(name))?).ident;
        Some((ident.dev, ident.ino))
    }

    fn entries_kind(&self, dir: u64, name: &[u8]) -> Option<Kind> {
        self.nodes.get(&dir)?;
        self.entries(dir).get(name).map(|id| self.kind(*id))
    }

    /// Hands out events: some or all, now and then one twice, neighbours swapped where no name is in both.
    pub fn read_events(&mut self, rng: &mut Rng, mut each: impl FnMut(Event<'_>)) {
        let count = if rng.chance(50) { self.queue.len() } else { rng.below(self.queue.len() + 1) };
        let mut batch: Vec<Queued> = self.queue.drain(..count).collect();
        for at in 1..batch.len() {
            let dead = batch[at].hint.has(Hint::KEY_DEAD) || batch[at - 1].hint.has(Hint::KEY_DEAD);
            if !dead && !self.in_order && batch[at].name != batch[at - 1].name && rng.chance(20) {
                batch.swap(at, at - 1);
            }
        }
        for event in &batch {
            let times = if rng.chance(5) && !event.hint.has(Hint::KEY_DEAD) { 2 } else { 1 };
            for _ in 0..times {
                each(Event::At { key: &event.key, name: &event.name, hint: event.hint, object: event.object, rename: event.rename });
            }
        }
        if self.overflowed && self.queue.is_empty() {
            self.overflowed = false;
            each(Event::Overflow);
        }
    }

    pub fn has_events(&self) -> bool {
        self.overflowed || !self.queue.is_empty()
    }

    /// A change of the object itself, told under the name it was made through.
    fn tell_object(&mut self, dir: u64, name: &[u8], id: u64, hint: Hint) {
        // What is on another filesystem than its parent directory is told by its own watch only.
        if self.kind(id) == Kind::Dir && (self.by_handle(id) || self.is_mount(id)) {
            self.tell(id, b"", hint);
        } else {
            self.tell(dir, name, hint);
        }
    }

    // Changes.

    fn touch(&mut self, id: u64) {
        let time = self.change_time();
        let node = self.nodes.get_mut(&id).unwrap();
        node.meta.mtime = time;
        node.ctime = time;
    }

    /// The time of a change of an object that was there before.
    fn change_time(&self) -> Time {
        if self.fine { at(self.now_ns) } else { self.time() }
    }

    fn mark_changed(&mut self, id: u64) {
        self.nodes.get_mut(&id).unwrap().ctime = self.change_time();
    }

    pub fn create(&mut self, dir: u64, name: &[u8], body: Body, kind: Kind, mode: u32) -> Option<u64> {
        if self.entries(dir).contains_key(name) {
            return None;
        }
        self.next += 1;
        let ino = self.free_inos.pop().unwrap_or_else(|| {
            self.next_ino += 1;
            self.next_ino
        });
        let time = self.time();
        let rdev = if kind.is_device() { 0x103 } else { 0 };
        let meta = Meta { kind, mode, uid: 0, gid: 0, mtime: time, size: 0, rdev, attrs: 0 };
        self.nodes
            .insert(self.next, Node { meta, body, nlink: 1, ino, birth_ns: time.as_nanos(), ctime: time, parent: dir, dev: self.dev(dir) });
        let id = self.next;
        self.entries_mut(dir).insert(name.to_vec(), id);
        self.touch(dir);
        let hint = if kind == Kind::File { Hint::APPEARED | Hint::WRITTEN | Hint::CLOSED } else { Hint::APPEARED };
        self.tell(dir, name, hint);
        Some(id)
    }

    pub fn write(&mut self, dir: u64, name: &[u8], bytes: Vec<u8>, keep_open: bool) {
        let id = self.entries(dir)[name];
        self.unseen.get_mut().insert(id);
        let node = self.nodes.get_mut(&id).unwrap();
        node.body = Body::File(Arc::new(bytes));
        self.touch(id);
        self.tell(dir, name, if keep_open { Hint::WRITTEN } else { Hint::WRITTEN | Hint::CLOSED });
        self.tell_others(dir, id);
    }

    pub fn change_meta(&mut self, dir: u64, name: &[u8], change: impl FnOnce(&mut Meta)) {
        let id = self.entries(dir)[name];
        self.unseen.get_mut().insert(id);
        change(&mut self.nodes.get_mut(&id).unwrap().meta);
        self.mark_changed(id);
        self.tell_object(dir, name, id, Hint::ATTRIB);
        self.tell_others(dir, id);
    }

    pub fn link(&mut self, dir: u64, name: &[u8], id: u64) {
        if self.entries(dir).contains_key(name) || self.kind(id) == Kind::Dir || self.dev(dir) != self.dev(id) {
            return;
        }
        self.nodes.get_mut(&id).unwrap().nlink += 1;
        self.mark_changed(id);
        self.entries_mut(dir).insert(name.to_vec(), id);
        self.touch(dir);
        self.tell(dir, name, Hint::APPEARED);
    }

    /// What inotify cannot see is not played: a change through one hard link that is gone before anyone looked at it is told of the others too.
    fn tell_survivors(&mut self, id: u64) {
        if self.unseen.borrow().contains(&id) {
            self.tell_names(id);
        }
    }

    /// Nor is a change through a hard link at a name that is not looked at, or not watched yet.
    fn tell_others(&mut self, dir: u64, id: u64) {
        if (self.hides_names || self.key(dir).is_none()) && self.nodes[&id].nlink > 1 && self.kind(id) != Kind::Dir {
            self.tell_names(id);
        }
    }

    fn tell_names(&mut self, id: u64) {
        for dir in self.dirs() {
            if self.by_handle(dir) {
                continue;
            }
            let names: Vec<_> = self.entries(dir).iter().filter(|(_, there)| **there == id).map(|(n, _)| n.clone()).collect();
            for name in names {
                self.tell(dir, &name, Hint::WRITTEN | Hint::ATTRIB);
            }
        }
    }

    /// Ends the watch with this key, as `inotify_rm_watch` does: its last event says so.
    pub fn unwatch(&mut self, key: &[u8]) {
        let dir = self.watches.iter().find(|(_, watch)| watch_key(**watch) == key).map(|(dir, _)| *dir);
        if let Some(watch) = dir.and_then(|dir| self.watches.remove(&dir)) {
            self.tell_dead(watch);
        }
    }

    fn tell_dead(&mut self, watch: u64) {
        if self.queue.len() >= self.queue_max {
            self.overflowed = true;
        } else {
            self.queue.push_back(Queued { key: watch_key(watch), name: Vec::new(), hint: Hint::KEY_DEAD, object: None, rename: None });
        }
    }

    fn forget(&mut self, id: u64) {
        let node = self.nodes.get_mut(&id).unwrap();
        node.nlink -= 1;
        if node.nlink > 0 {
            self.mark_changed(id);
            self.tell_survivors(id);
            return;
        }
        let node = self.nodes.remove(&id).unwrap();
        self.shut.remove(&id);
        self.free_inos.push(node.ino);
        if let Some(watch) = self.watches.remove(&id) {
            self.tell_dead(watch);
        }
    }

    /// Removes a name with all below it, from the leaves up, as rm does.
    pub fn remove(&mut self, dir: u64, name: &[u8]) {
        let Some(id) = self.entries(dir).get(name).copied().filter(|id| !self.is_mount(*id)) else { return };
        if self.kind(id) == Kind::Dir {
            for below in self.entries(id).keys().cloned().collect::<Vec<_>>() {
                self.remove(id, &below);
            }
        }
        self.entries_mut(dir).remove(name);
        self.touch(dir);
        self.tell(dir, name, Hint::WENT);
        self.forget(id);
    }

    /// The directory goes out of the source, with whoever watches it.
    pub fn move_out(&mut self, dir: u64, name: &[u8]) {
        self.entries_mut(dir).remove(name);
        self.touch(dir);
        self.tell(dir, name, Hint::WENT | Hint::MOVED);
    }

    pub fn is_within(&self, mut id: u64, ancestor: u64) -> bool {
        while id != ROOT {
            if id == ancestor {
                return true;
            }
            id = self.nodes[&id].parent;
        }
        ancestor == ROOT
    }

    pub fn rename(&mut self, from: u64, name: &[u8], to: u64, new_name: &[u8]) {
        let Some(id) = self.entries(from).get(name).copied() else { return };
        if self.is_within(to, id) || self.is_mount(id) || self.dev(id) != self.dev(to) {
            return;
        }
        if let Some(there) = self.entries(to).get(new_name).copied() {
            let fits = match (self.kind(id) == Kind::Dir, self.kind(there) == Kind::Dir) {
                (true, true) => self.entries(there).is_empty(),
                (false, false) => true,
                _ => false,
            };
            if !fits || there == id || self.is_mount(there) {
                return;
            }
            self.entries_mut(to).remove(new_name);
            self.forget(there);
        }
        self.entries_mut(from).remove(name);
        self.entries_mut(to).insert(new_name.to_vec(), id);
        self.touch(from);
        self.touch(to);
        if self.kind(id) == Kind::Dir {
            self.nodes.get_mut(&id).unwrap().parent = to;
        }
        // A rename is a change of the object, too: every filesystem that counts sets its ctime.
        self.mark_changed(id);
        self.renames = self.renames.saturating_add(1);
        self.tell(from, name, Hint::WENT | Hint::MOVED);
        self.tell(to, new_name, Hint::APPEARED | Hint::MOVED);
    }

    pub fn exchange(&mut self, a: u64, a_name: &[u8], b: u64, b_name: &[u8]) {
        let (Some(x), Some(y)) = (self.entries(a).get(a_name).copied(), self.entries(b).get(b_name).copied()) else { return };
        let stuck = self.is_mount(x) || self.is_mount(y) || self.dev(x) != self.dev(y);
        if self.is_within(a, y) || self.is_within(b, x) || x == y || stuck {
            return;
        }
        self.entries_mut(a).insert(a_name.to_vec(), y);
        self.entries_mut(b).insert(b_name.to_vec(), x);
        self.touch(a);
        self.touch(b);
        for (id, dir) in [(x, b), (y, a)] {
            if self.kind(id) == Kind::Dir {
                self.nodes.get_mut(&id).unwrap().parent = dir;
            }
            self.mark_changed(id);
        }
        self.renames = self.renames.saturating_add(1);
        if self.by_handle(a) && self.by_handle(b) {
            self.tell(a, a_name, Hint::APPEARED | Hint::WENT | Hint::MOVED);
            self.tell(b, b_name, Hint::APPEARED | Hint::WENT | Hint::MOVED);
        } else {
            self.tell(a, a_name, Hint::WENT | Hint::MOVED);
            self.tell(b, b_name, Hint::APPEARED | Hint::MOVED);
            self.renames = self.renames.saturating_add(1);
            self.tell(b, b_name, Hint::WENT | Hint::MOVED);
            self.tell(a, a_name, Hint::APPEARED | Hint::MOVED);
        }
    }

    // Looking.

    pub fn dirs(&self) -> Vec<u64> {
        let mut all = vec![ROOT];
        let mut at = 0;
        while at < all.len() {
            let here = all[at];
            all.extend(self.entries(here).values().copied().filter(|id| self.kind(*id) == Kind::Dir));
            at += 1;
        }
        all
    }

    fn resolve(&self, path: &RelPath) -> Option<u64> {
        let mut at = ROOT;
        for name in path.names() {
            let Body::Dir(entries) = &self.nodes[&at].body else { return None };
            at = *entries.get(name.as_bytes())?;
        }
        matches!(self.nodes[&at].body, Body::Dir(_)).then_some(at)
    }

    /// The object at a name in the directory that has to be at the path, for a reader.
    pub fn open(&self, dir: &RelPath, expect: &Ident, name: &[u8]) -> Option<u64> {
        let dir = self.resolve(dir).filter(|d| self.stat(*d).ident == *expect && !self.is_shut(*d))?;
        self.entries(dir).get(name).copied()
    }

    pub fn answer(&mut self, probe: &Probe) -> Result<DirSeen, ProbeError> {
        let dir = self.resolve(&probe.dir).ok_or(ProbeError::Stale)?;
        if self.is_shut(dir) {
            return Err(ProbeError::Failed(libc::EACCES));
        }
        let stat = self.stat(dir);
        if probe.expect.is_some_and(|e| e != stat.ident) {
            return Err(ProbeError::Stale);
        }
        let names: Vec<Vec<u8>> = match &probe.ask {
            Ask::Names(names) => names.iter().map(|n| n.as_bytes().to_vec()).collect(),
            Ask::List => self.entries(dir).keys().cloned().collect(),
        };
        let mut key = None;
        if probe.ask == Ask::List {
            if !self.by_handle(dir) && !self.watches.contains_key(&dir) {
                self.next_watch += 1;
                self.watches.insert(dir, self.next_watch);
            }
            key = self.key(dir).map(|k| Key(k.into()));
        }
        let names: Vec<_> = names.iter().map(|n| (Name::new(n).unwrap().to_owned(), self.look(dir, n, probe.lazy))).collect();
        let digest = |seen: &Seen| if let Seen::Present { stat, .. } = seen { stat.meta.attrs } else { 0 };
        let seen: HashSet<u64> = names.iter().map(|(_, seen)| digest(seen)).chain([stat.meta.attrs]).collect();
        let attrs = self.attrs.iter().filter(|attrs| seen.contains(&attrs.digest())).cloned().collect();
        Ok(DirSeen { stat, key, unwatched: false, names, attrs, list_error: None })
    }

    fn look(&self, dir: u64, name: &[u8], lazy: bool) -> Seen {
        let Some(id) = self.entries(dir).get(name).copied() else { return Seen::Absent };
        self.unseen.borrow_mut().remove(&id);
        let target = match &self.nodes[&id].body {
            Body::Symlink(target) => Some(target.clone().into()),
            _ => None,
        };
        let key = (self.kind(id) == Kind::Dir && self.by_handle(id)).then(|| Key(id.to_le_bytes().to_vec().into()));
        let mut stat = self.stat(id);
        if lazy && stat.meta.kind == Kind::File && stat.nlink == 1 && stat.meta.size <= INLINE_FILE_BYTES_MAX as u64 {
            stat.meta.attrs = UNKNOWN;
        }
        Seen::Present { stat, target, key }
    }

    /// Everything by path; the root has the empty path.
    pub fn snapshot(&self) -> BTreeMap<Vec<u8>, (Meta, Vec<u8>, u64)> {
        let mut all = BTreeMap::new();
        let mut todo = vec![(Vec::new(), ROOT)];
        while let Some((path, id)) = todo.pop() {
            let node = &self.nodes[&id];
            let content = match &node.body {
                Body::Dir(entries) => {
                    for (name, child) in entries {
                        let mut below: Vec<u8> = path.clone();
                        if !below.is_empty() {
                            below.push(b'/');
                        }
                        below.extend_from_slice(name);
                        todo.push((below, *child));
                    }
                    Vec::new()
                }
                Body::File(bytes) => bytes.to_vec(),
                Body::Symlink(target) => target.clone(),
                Body::Special => Vec::new(),
            };
            all.insert(path, (self.stat(id).meta, content, if node.nlink > 1 { id } else { 0 }));
        }
        all
    }
}
