//! The real target: operations on the mirror's filesystem, through held directories and validated names only.
//!
//! Never resolves a path of a peer by its string, never follows a symbolic link. The receiver has one for each thread.

use std::io;
use std::sync::Arc;

use crate::apply::dirs::{Dirs, Held};
use crate::apply::durable::{self, Temps};
use crate::apply::file::{self, Finish};
use crate::apply::manifest::{self, errno};
use crate::apply::partial::{Found, Key, Partials};
use crate::apply::patch::Patches;
use crate::apply::root::Root;
use crate::apply::sum::{Answer, Sums};
use crate::apply::sweep;
use crate::apply::target::{Errno, Listed, Target, fits, is_at_or_beneath, may_name, may_name_dir};
use crate::limits::LINK_TARGET_BYTES_MAX;
use crate::model::attrs::Attrs;
use crate::model::meta::{Extent, Kind, Meta, Stat};
use crate::model::op::{Op, Spot};
use crate::model::path::{Name, NameBuf, RelPath};
use crate::model::scrub::Part;
use crate::sys::dir::Dir;
use std::os::fd::AsFd;

/// Tries of an operation that permission bits of our own directories stand against: another thread may restore them in between.
const ACCESS_TRIES: usize = 3;

/// Executes operations beneath a [`Root`]; one for each thread.
pub struct FsTarget {
    pub(super) root: Arc<Root>,
    pub(super) dirs: Dirs,
    pub(super) temps: Temps,
    /// Held for the operation at hand, where that has to be known.
    pub(super) used: Vec<Arc<Held>>,
    patches: Patches,
    /// The last that came, for operations whose metadata names them.
    attrs: Option<Arc<Attrs>>,
    sums: Sums,
    partials: Partials,
}

fn fail<T>(errno: Errno) -> io::Result<T> {
    Err(io::Error::from_raw_os_error(errno))
}

fn is_missing(e: &io::Error) -> bool {
    e.raw_os_error() == Some(libc::ENOENT)
}

fn require(condition: bool) -> io::Result<()> {
    if condition { Ok(()) } else { fail(libc::EINVAL) }
}

/// What is at `name`; `None` if nothing is.
fn look(dir: &Dir, name: Name<'_>) -> io::Result<Option<Stat>> {
    match dir.stat_at(name) {
        Ok(stat) => Ok(Some(stat)),
        Err(e) if is_missing(&e) => Ok(None),
        Err(e) => Err(e),
    }
}

/// A way to put a file at a name.
type Put = fn(&Root, &Arc<Held>, &mut Temps, Name<'_>, Finish<'_>, &[u8]) -> io::Result<()>;

impl FsTarget {
    /// A target for one thread.
    pub fn new(root: Arc<Root>) -> Self {
        Self {
            root,
            dirs: Dirs::new(),
            temps: Temps::new(),
            used: Vec::new(),
            patches: Patches::default(),
            attrs: None,
            sums: Sums::default(),
            partials: Partials::default(),
        }
    }

    /// Begins a staged file that is made from what is at `base`; `shapes` are the base's and its own. Why it cannot be is said when it is sealed.
    pub fn patch(&mut self, id: u64, base: &Spot, shapes: &[u8]) {
        let begun = self.writable().and_then(|()| {
            if !may_name(base) {
                return Err(libc::EINVAL);
            }
            self.with_access(&[(&base.dir, None), (&RelPath::root(), None)], |target| {
                let dir = target.held(&base.dir)?;
                target.patches.begin(&target.root, id, &dir.dir, base.name.as_name(), shapes)
            })
        });
        if let Err(errno) = begun {
            self.patches.give_up(&self.root, id, errno);
        }
    }

    /// Steps of a [`FsTarget::patch`].
    pub fn steps(&mut self, id: u64, data: &[u8]) {
        if let Err(e) = self.patches.steps(id, data) {
            self.patches.give_up(&self.root, id, errno(&e));
        }
    }

    /// The end of a [`FsTarget::patch`], with the digest that it has to have. The error, if there is one already; otherwise [`FsTarget::work`] says.
    pub fn seal(&mut self, id: u64, digest: [u8; 32]) -> Option<Errno> {
        self.patches.seal(id, digest)
    }

    /// The staged file `id`, which must be a new one, will have `size` bytes of the content that `key` names. False if nothing is there of it; otherwise
    /// [`FsTarget::found`] says what.
    pub fn resume(&mut self, id: u64, key: &Key, size: u64) -> bool {
        let begun = self.writable().and_then(|()| {
            let mut found = false;
            self.with_access(&[(&RelPath::root(), None)], |target| {
                found = target.partials.begin(&target.root, id, key, size)?;
                Ok(())
            })
            .map(|()| found)
        });
        begun.unwrap_or_else(|errno| {
            tracing::debug!(id, errno, "a part of a file could not be taken up");
            false
        })
    }

    /// Whether [`FsTarget::work`] or [`FsTarget::found`] has something to do.
    pub fn has_work(&self) -> bool {
        self.patches.has_work() || self.partials.has_work()
    }

    /// Does a slice of what [`FsTarget::resume`] asks for; for which of them it came to its end by that, and what is there.
    pub fn found(&mut self) -> Option<(u64, Found)> {
        self.partials.work(&self.root)
    }

    /// Does a slice of what patches ask for; which of them came to its end by that, and how.
    pub fn work(&mut self) -> Option<(u64, Result<(), Errno>)> {
        self.patches.work(&self.root)
    }

    /// What the metadata's digest stands for.
    fn attrs_of(&self, meta: &Meta) -> io::Result<Option<Arc<Attrs>>> {
        if meta.attrs == 0 {
            return Ok(None);
        }
        match self.attrs.as_ref().filter(|attrs| attrs.digest() == meta.attrs && self.root.attrs.carries(attrs)) {
            Some(attrs) => Ok(Some(Arc::clone(attrs))),
            None => fail(libc::EINVAL),
        }
    }

    fn put_by(&mut self, put: Put, at: &Spot, meta: &Meta, data: &[u8]) -> Result<(), Errno> {
        self.writable()?;
        if !may_name(at) || meta.kind != Kind::File || meta.size != data.len() as u64 {
            return Err(libc::EINVAL);
        }
        let done = self.with_access(&[(&at.dir, None)], |target| {
            let dir = target.held(&at.dir)?;
            let attrs = target.attrs_of(meta)?;
            put(&target.root, &dir, &mut target.temps, at.name.as_name(), Finish { meta, attrs: attrs.as_deref() }, data)
        });
        let done = self.content_came(at, done);
        self.noted(done, false)
    }

    /// Takes a question for digests of parts of files in `dir`; false if too many wait already.
    #[must_use]
    pub fn sum(&mut self, id: u64, dir: RelPath, parts: Vec<Part>) -> bool {
        self.sums.sum(id, dir, parts)
    }

    /// Takes a question for what is in `dir`; false if too many wait already.
    #[must_use]
    pub fn look(&mut self, id: u64, dir: RelPath) -> bool {
        self.sums.look(id, dir)
    }

    /// Takes a question for the signature of a file; false if too many wait already.
    #[must_use]
    pub fn sign(&mut self, id: u64, base: Spot) -> bool {
        self.sums.sign(id, base)
    }

    /// Whether [`FsTarget::answer`] has something to do.
    pub fn has_questions(&self) -> bool {
        !self.sums.is_empty()
    }

    /// Does a slice of what the oldest question asks for; calls `each` with what is answered by that.
    pub fn answer(&mut self, each: &mut dyn FnMut(Answer)) {
        self.sums.work(&self.root, each);
    }

    pub(super) fn held(&mut self, path: &RelPath) -> io::Result<Arc<Held>> {
        let held = self.dirs.get(&self.root.dir, &self.root.who, path)?;
        if self.root.is_durable() {
            self.used.push(Arc::clone(&held));
        }
        Ok(held)
    }

    /// Runs `act`, and again after loosening the permissions of our own directories on the way to `paths` if they stand against it.
    fn with_access(
        &mut self,
        paths: &[(&RelPath, Option<Name<'_>>)],
        mut act: impl FnMut(&mut Self) -> io::Result<()>,
    ) -> Result<(), Errno> {
        let mut done = act(self);
        for _ in 1..ACCESS_TRIES {
            let Err(e) = &done else { break };
            if e.raw_os_error() != Some(libc::EACCES) || self.root.who.any_access() {
                break;
            }
            let root = Arc::clone(&self.root);
            let mut loosened = false;
            for (path, entry) in paths {
                loosened |= root.loosened.loosen(&root.dir, &root.who, path, *entry).unwrap_or(false);
            }
            if !loosened {
                break;
            }
            done = act(self);
        }
        done.map_err(|e| errno(&e))
    }

    fn run(&mut self, op: &Op) -> io::Result<()> {
        match op {
            Op::Move { from, to } => {
                require(may_name(from) && may_name(to))?;
                self.move_entry(from, to)
            }
            Op::Park { from, id } => {
                require(may_name(from))?;
                let dir = self.held(&from.dir)?;
                self.dirs.forget(from);
                dir.dir.rename_new(from.name.as_name(), &dir.dir, NameBuf::parked(*id, from.name.as_name()).as_name())
            }
            Op::Mkdir { at, meta } => {
                require(may_name(at) && meta.kind == Kind::Dir)?;
                self.mkdir(at, meta)
            }
            Op::Symlink { at, target, meta } => {
                require(may_name(at) && meta.kind == Kind::Symlink)?;
                require((1..=LINK_TARGET_BYTES_MAX).contains(&target.len()) && !target.contains(&0))?;
                let same = |dir: &Dir, name: Name<'_>, _: &Meta| dir.read_link(name).is_ok_and(|there| there == *target);
                self.make(at, meta, same, |dir, name| dir.symlink(target, name))
            }
            Op::Special { at, meta } => {
                require(may_name(at) && !matches!(meta.kind, Kind::File | Kind::Dir | Kind::Symlink))?;
                let rdev = if meta.kind.is_device() { meta.rdev } else { 0 };
                self.make(at, meta, |_, _, there| there.rdev == rdev, |dir, name| dir.mknod(name, meta.kind, meta.mode & 0o700, rdev))
            }
            Op::SetMeta { at, meta } => {
                require(may_name(at) && meta.kind != Kind::Dir)?;
                let dir = self.held(&at.dir)?;
                let Stat { ident, meta: have, .. } = dir.dir.stat_at(at.name.as_name())?;
                self.root.outdated.check(&ident)?;
                match have.kind {
                    Kind::Dir => fail(libc::EISDIR),
                    kind if kind != meta.kind => fail(libc::ESTALE),
                    _ => {
                        let attrs = self.attrs_of(meta)?;
                        self.root.who.settle_at(&dir.dir, at.name.as_name(), &have, meta, &self.root.attrs.of(attrs.as_deref()))
                    }
                }
            }
            Op::Place { at, meta, stage } => {
                require(may_name(at) && meta.kind == Kind::File)?;
                // What is staged is looked at first: a place for an incomplete file need not be looked for.
                self.root.staging.complete(&self.root, *stage, meta.size)?;
                let dir = self.held(&at.dir)?;
                let attrs = self.attrs_of(meta)?;
                let finish = Finish { meta, attrs: attrs.as_deref() };
                let overlay = self.patches.overlay(*stage);
                file::place(&self.root, &dir, &mut self.temps, at.name.as_name(), finish, (*stage, overlay))?;
                self.patches.drop_patch(*stage);
                Ok(())
            }
            Op::Link { from, to } => {
                require(may_name(from) && may_name(to))?;
                self.link(from, to)
            }
            Op::Unlink { at } => {
                require(may_name(at))?;
                self.remove(at, Dir::unlink)
            }
            Op::Rmdir { at } => {
                require(may_name(at))?;
                self.rmdir(at)
            }
            Op::DirMeta { dir, meta } => {
                require(may_name_dir(dir) && meta.kind == Kind::Dir)?;
                self.dir_meta(dir, meta)
            }
        }
    }

    fn move_entry(&mut self, from: &Spot, to: &Spot) -> io::Result<()> {
        let from_dir = self.held(&from.dir)?;
        let to_dir = self.held(&to.dir)?;
        let (from_dir, to_dir) = (&from_dir.dir, &to_dir.dir);
        let (name, new_name) = (from.name.as_name(), to.name.as_name());
        if from == to {
            return from_dir.stat_at(name).map(drop);
        }
        require(!is_at_or_beneath(&to.dir, from))?;
        self.root.outdated.check_at(from_dir, name)?;
        match from_dir.rename_new(name, to_dir, new_name) {
            Err(e) if e.raw_os_error() == Some(libc::EEXIST) => {}
            done => {
                self.dirs.forget(from);
                return done;
            }
        }
        let have = from_dir.stat_at(name)?;
        if let Some(there) = look(to_dir, new_name)? {
            match (have.meta.kind == Kind::Dir, there.meta.kind == Kind::Dir) {
                (true, true) => return fail(libc::EEXIST),
                (false, true) => return fail(libc::EISDIR),
                (true, false) => to_dir.unlink(new_name)?,
                // A rename between two names of one object does nothing.
                (false, false) if have.ident == there.ident && have.nlink > 1 => return from_dir.unlink(name),
                (false, false) => {}
            }
        }
        self.dirs.forget(from);
        from_dir.rename(name, to_dir, new_name)
    }

    fn mkdir(&mut self, at: &Spot, meta: &Meta) -> io::Result<()> {
        let dir = self.held(&at.dir)?;
        let name = at.name.as_name();
        // Ours to work in; the final metadata follows when the entries are there.
        match dir.dir.mkdir(name, meta.mode & 0o777 | 0o700) {
            Err(e) if e.raw_os_error() == Some(libc::EEXIST) => match look(&dir.dir, name)? {
                Some(there) if there.meta.kind == Kind::Dir => Ok(()),
                _ => Err(e),
            },
            other => other,
        }
    }

    /// Makes a symbolic link or special file and sets its metadata. What is `same` already is kept if it has no other name: one that has is another
    /// name's object, which must not change with it.
    fn make(
        &mut self,
        at: &Spot,
        meta: &Meta,
        same: impl FnOnce(&Dir, Name<'_>, &Meta) -> bool,
        create: impl Fn(&Dir, Name<'_>) -> io::Result<()>,
    ) -> io::Result<()> {
        let held = self.held(&at.dir)?;
        let (dir, name) = (&held.dir, at.name.as_name());
        let root = Arc::clone(&self.root);
        let attrs = self.attrs_of(meta)?;
        let new = root.attrs.of_new(attrs.as_deref(), held.inherits && meta.kind != Kind::Symlink);
        match create(dir, name) {
            Err(e) if e.raw_os_error() == Some(libc::EEXIST) => {}
            done => {
                done?;
                let have = dir.stat_at(name)?.meta;
                return root.who.settle_at(dir, name, &have, meta, &new);
            }
        }
        if let Some(there) = look(dir, name)? {
            let have = there.meta;
            if have.kind == Kind::Dir {
                return fail(libc::EISDIR);
            }
            if have.kind == meta.kind && there.nlink == 1 && same(dir, name, &have) {
                return root.who.settle_at(dir, name, &have, meta, &root.attrs.of(attrs.as_deref()));
            }
        }
        let (temp, ()) = self.temps.names.with_free(|temp| create(dir, temp))?;
        let temp = temp.name();
        let done = dir
            .stat_at(temp)
            .and_then(|made| root.who.settle_at(dir, temp, &made.meta, meta, &new))
            .and_then(|()| dir.rename(temp, dir, name));
        if done.is_err() {
            root.discard(dir, temp);
        }
        done
    }

    fn link(&mut self, from: &Spot, to: &Spot) -> io::Result<()> {
        let from_dir = self.held(&from.dir)?;
        let to_dir = self.held(&to.dir)?;
        let (from_dir, to_dir) = (&from_dir.dir, &to_dir.dir);
        let (name, new_name) = (from.name.as_name(), to.name.as_name());
        self.root.outdated.check_at(from_dir, name)?;
        match from_dir.link(name, to_dir, new_name) {
            Err(e) if e.raw_os_error() == Some(libc::EEXIST) => {}
            done => return done,
        }
        let have = from_dir.stat_at(name)?;
        if have.meta.kind == Kind::Dir {
            return fail(libc::EPERM);
        }
        match look(to_dir, new_name)? {
            Some(there) if there.ident == have.ident => return Ok(()),
            Some(there) if there.meta.kind == Kind::Dir => return fail(libc::EISDIR),
            _ => {}
        }
        let (temp, ()) = self.temps.names.with_free(|temp| from_dir.link(name, to_dir, temp))?;
        let done = to_dir.rename(temp.name(), to_dir, new_name);
        // A rename does nothing if somebody made the same link meanwhile: the temporary name would stay.
        self.root.discard(to_dir, temp.name());
        done
    }

    /// Removes the entry by `call`; nothing there, nor the directory that would hold it, is success.
    fn remove(&mut self, at: &Spot, call: impl FnOnce(&Dir, Name<'_>) -> io::Result<()>) -> io::Result<()> {
        let removed = self.held(&at.dir).and_then(|held| call(&held.dir, at.name.as_name()));
        match removed {
            Err(e) if is_missing(&e) => Ok(()),
            other => other,
        }
    }

    fn rmdir(&mut self, at: &Spot) -> io::Result<()> {
        self.dirs.forget(at);
        let root = Arc::clone(&self.root);
        self.remove(at, |dir, name| match dir.rmdir(name) {
            Err(e) if matches!(e.raw_os_error(), Some(libc::ENOTEMPTY | libc::EEXIST)) => {
                // Perhaps only what an operation of ours could not clean up is in it.
                let inner = dir.open_dir(name)?;
                let mut leftovers = Vec::new();
                let mut others = false;
                inner.list(|name| {
                    // What is parked is told by a manifest.
                    if name.is_reserved() && !name.is_parked() {
                        leftovers.push(name.to_owned());
                    } else {
                        others = true;
                    }
                })?;
                if others || leftovers.is_empty() {
                    return Err(io::Error::from_raw_os_error(libc::ENOTEMPTY));
                }
                let cleared = sweep::clear(&inner, &root, &leftovers);
                dir.rmdir(name).or_else(|e| cleared.and(Err(e)))
            }
            other => other,
        })
    }

    fn dir_meta(&mut self, path: &RelPath, meta: &Meta) -> io::Result<()> {
        let held = self.held(path)?;
        let attrs = self.attrs_of(meta)?;
        let set = || {
            let have = held.dir.stat()?;
            self.root.loosened.forget(have.ident);
            self.root.who.settle_fd(held.dir.as_fd(), &have.meta, meta, &self.root.attrs.of(attrs.as_deref()))
        };
        let done = if path.is_root() { self.root.staging.still(set) } else { set() };
        self.dirs.forget_dir(path);
        done
    }

    fn writable(&self) -> Result<(), Errno> {
        if self.root.read_only { Err(libc::EROFS) } else { Ok(()) }
    }
}

impl Target for FsTarget {
    fn op(&mut self, op: &Op) -> Result<(), Errno> {
        self.writable()?;
        let root = RelPath::root();
        let paths = match op {
            // A directory that gets another parent is written to itself.
            Op::Move { from, to } => [(&from.dir, Some(from.name.as_name())), (&to.dir, None)],
            Op::Link { from, to } => [(&from.dir, None), (&to.dir, None)],
            Op::Place { at, .. } => [(&at.dir, None), (&root, None)],
            Op::Park { from: at, .. }
            | Op::Mkdir { at, .. }
            | Op::Symlink { at, .. }
            | Op::Special { at, .. }
            | Op::SetMeta { at, .. }
            | Op::Unlink { at } => [(&at.dir, None); 2],
            // What of ours is left in it is listed.
            Op::Rmdir { at } => [(&at.dir, Some(at.name.as_name())); 2],
            Op::DirMeta { dir, .. } => [(dir, None); 2],
        };
        let mut done = self.with_access(&paths, |target| target.run(op));
        if let Op::Place { at, .. } = op {
            done = self.content_came(at, done);
        }
        self.noted(done, !durable::is_of_dirs(op))
    }

    fn put(&mut self, at: &Spot, meta: &Meta, data: &[u8]) -> Result<(), Errno> {
        self.put_by(file::put, at, meta, data)
    }

    fn put_new(&mut self, at: &Spot, meta: &Meta, data: &[u8]) -> Result<(), Errno> {
        self.put_by(file::put_new, at, meta, data)
    }

    fn attrs(&mut self, attrs: &Arc<Attrs>) {
        self.attrs = Some(Arc::clone(attrs));
    }

    fn put_sparse(&mut self, at: &Spot, meta: &Meta, extents: &[Extent], data: &[u8]) -> Result<(), Errno> {
        self.writable()?;
        if !may_name(at) || !fits(meta, extents, data) {
            return Err(libc::EINVAL);
        }
        let done = self.with_access(&[(&at.dir, None)], |target| {
            let dir = target.held(&at.dir)?;
            let attrs = target.attrs_of(meta)?;
            let finish = Finish { meta, attrs: attrs.as_deref() };
            file::put_sparse(&target.root, &dir, &mut target.temps, at.name.as_name(), finish, (extents, data))
        });
        let done = self.content_came(at, done);
        self.noted(done, false)
    }

    fn put_patch(&mut self, at: &Spot, meta: &Meta, digest: &[u8; 32], delta: &[u8]) -> Result<(), Errno> {
        self.writable()?;
        if !may_name(at) {
            return Err(libc::EINVAL);
        }
        let mut content = Vec::new();
        let done = self.with_access(&[(&at.dir, None)], |target| {
            let dir = target.held(&at.dir)?;
            content = file::patched(&dir, at.name.as_name(), meta.size, digest, delta)?;
            Ok(())
        });
        // A base that cannot be read is of no use: the file may be replaced nevertheless.
        let done = done.map_err(|errno| if errno == libc::EACCES { libc::ESTALE } else { errno });
        self.content_came(at, done)?;
        self.put(at, meta, &content)
    }

    fn stage_hole(&mut self, id: u64, offset: u64, len: u64) -> Result<(), Errno> {
        self.writable()?;
        self.with_access(&[(&RelPath::root(), None)], |target| target.root.staging.hole(&target.root, id, offset, len))
    }

    fn stage(&mut self, id: u64, offset: u64, data: &[u8]) -> Result<(), Errno> {
        self.writable()?;
        self.with_access(&[(&RelPath::root(), None)], |target| target.root.staging.write(&target.root, id, offset, data))
    }

    fn drop_stage(&mut self, id: u64) {
        self.patches.drop_patch(id);
        self.partials.drop_reading(id);
        self.root.staging.drop_file(&self.root, id);
        if id == 0 {
            self.root.staging.forget_partials(&self.root);
        }
    }

    fn list(&mut self, dir: &RelPath, each: &mut dyn FnMut(Listed)) -> Result<(), Errno> {
        if !may_name_dir(dir) {
            return Err(libc::EINVAL);
        }
        manifest::list(&self.root, dir, each).map_err(|e| errno(&e))
    }

    fn end_frame(&mut self) {
        self.used.clear();
        self.dirs.clear();
    }

    fn end_cycle(&mut self) {
        self.dirs.clear();
        self.root.leftovers.retry(&self.root);
        self.root.outdated.end_cycle();
        self.root.staging.remove_if_empty(&self.root);
        self.root.loosened.restore_all();
    }
}
