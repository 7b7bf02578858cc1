//! Random operations on a real directory, from a seed: what users, editors, compilers and package managers do to a tree, and worse.
//!
//! It knows the tree as it made it, so nobody else may write there. It keeps the tree bounded, runs at full speed and never waits.

use std::collections::{HashSet, VecDeque};
use std::ffi::{OsStr, OsString};
use std::fmt::Write as _;
use std::fs::{self, OpenOptions, Permissions};
use std::io::{self, Seek, SeekFrom, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, lchown, symlink};
use std::path::{Path, PathBuf};

use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
use nix::sys::stat::{Mode, SFlag, UtimensatFlags, makedev, mknod, utimensat};
use nix::sys::time::TimeSpec;
use ringsync::model::path::{RelPath, Shown};

use crate::content::whole;
use crate::rng::Rng;

mod attrs;
mod known;
mod tests;

/// Operations that are remembered for the report of a failure.
const LOG_MAX: usize = 20_000;
/// With names of 255 bytes at each level a path stays below `PATH_MAX`.
const DEPTH_MAX: usize = 12;

/// What may be done, and how large the tree gets.
#[derive(Clone)]
pub struct Choice {
    /// Entries.
    pub entries_max: usize,
    /// Bytes of all files together, about.
    pub bytes_max: u64,
    /// As root: any owner, any mode, device nodes. Otherwise modes that leave the owner his rights.
    pub root: bool,
    /// Whether hard links are made.
    pub hard_links: bool,
    /// Whether a name may go whose object has others and was changed since the last [`Ops::equal`]. inotify tells a change under the name that it was made
    /// through, and nothing else: when that name is gone before anyone looked at it, nobody can know which other names the object has, and the mirror of those
    /// stays as it was. fanotify tells the object, too.
    pub hidden_links: bool,
}

impl Choice {
    /// 1500 entries and 48 MiB, with the rights that the tests have.
    pub fn usual() -> Self {
        Self {
            entries_max: 1500,
            bytes_max: 48 << 20,
            root: crate::place::is_root(),
            hard_links: true,
            hidden_links: crate::place::is_root(),
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    Dir,
    File,
    Other,
}

struct Node {
    parent: usize,
    name: Vec<u8>,
    kind: Kind,
    children: Vec<usize>,
    size: u64,
    /// Where it stands in `live`.
    at: usize,
    /// A mount point: never moved or removed.
    pinned: bool,
}

/// The generator. Invariant: `nodes[0]` is the root; `live` holds each other node that exists once; each of them is among its parent's children.
pub struct Ops {
    root: PathBuf,
    seed: u64,
    rng: Rng,
    choice: Choice,
    nodes: Vec<Node>,
    free: Vec<usize>,
    live: Vec<usize>,
    bytes: u64,
    count: u64,
    log: VecDeque<String>,
    /// Device and inode number of objects that were changed since the mirror was equal; only kept where names of such must not go.
    touched: HashSet<(u64, u64)>,
}

impl Ops {
    /// On the empty directory `root`.
    pub fn new(root: &Path, seed: u64, choice: Choice) -> Self {
        let top = Node { parent: 0, name: Vec::new(), kind: Kind::Dir, children: Vec::new(), size: 0, at: usize::MAX, pinned: true };
        Self {
            root: root.to_owned(),
            seed,
            rng: Rng::new(seed),
            choice,
            nodes: vec![top],
            free: Vec::new(),
            live: Vec::new(),
            bytes: 0,
            count: 0,
            log: VecDeque::new(),
            touched: HashSet::new(),
        }
    }

    /// Takes in the directory `name` in the root, which exists and stays: a mount point.
    pub fn pin(&mut self, name: &str) {
        let node = self.attach(0, name.as_bytes().to_vec(), Kind::Dir);
        self.nodes[node].pinned = true;
    }

    /// Runs `count` operations.
    pub fn run(&mut self, count: usize) {
        for _ in 0..count {
            self.step();
        }
    }

    /// The mirror is equal: whatever was changed has been looked at.
    pub fn equal(&mut self) {
        self.touched.clear();
    }

    /// A number from the same stream: for the lengths of bursts, so that the seed decides them too.
    pub fn rng(&mut self) -> &mut Rng {
        &mut self.rng
    }

    /// The last operations on `path` and on its directory, for the report of a failure: by name, and by the inode numbers that are there now.
    pub fn history(&self, path: &RelPath) -> String {
        let (dir, name) = path.split().map_or((RelPath::root(), Vec::new()), |(dir, name)| (dir, name.as_bytes().to_vec()));
        let name = Shown(&name).to_string();
        let mut wanted = vec![format!("/{name}\""), format!("\"{name}\"")];
        for place in [path.as_bytes(), RelPath::as_bytes(&dir)] {
            if let Ok(there) = fs::symlink_metadata(self.root.join(OsStr::from_bytes(place))) {
                wanted.push(format!("[{} x", there.ino()));
            }
        }
        let lines: Vec<_> = self.log.iter().filter(|line| wanted.iter().any(|text| line.contains(text))).collect();
        lines[lines.len().saturating_sub(24)..].iter().fold(String::new(), |mut all, line| {
            let _ = writeln!(all, "    {line}");
            all
        })
    }

    /// One operation.
    ///
    /// # Panics
    /// When the system refuses what has to work: the seed and the operation are said.
    pub fn step(&mut self) {
        self.count += 1;
        let full = self.live.len() >= self.choice.entries_max || self.bytes >= self.choice.bytes_max;
        let dice = if full { 90 } else { self.rng.below(100) };
        let result = match dice {
            0..=13 => self.create(),
            14..=20 => self.rewrite(),
            21..=26 => self.append(),
            27..=29 => self.truncate(),
            30..=34 => self.replace_whole(),
            35..=45 => self.rename_free(),
            46..=51 => self.rename_over(),
            52..=55 => self.exchange(),
            56..=57 => self.rotate(),
            58..=62 => self.replace_kind(),
            63..=66 => self.hard_link(),
            67..=69 => self.chmod(),
            70 | 71 => self.attribute(),
            72 | 73 => self.chown(),
            74..=77 => self.utimes(),
            78..=82 => self.mkdir(),
            83..=85 => self.chain(),
            86..=88 => self.other(),
            89 => self.write_while_renamed(),
            90..=93 if full => self.remove_tree(),
            90..=97 => self.remove_one(),
            _ => self.remove_tree(),
        };
        if let Err(e) = result {
            // What crosses a mount is refused by the system, and so no operation.
            let crossed = e.raw_os_error() == Some(libc::EXDEV);
            assert!(crossed, "seed {}: operation {} ({}): {e}", self.seed, self.count, self.log.back().map_or("", String::as_str));
        }
    }

    fn say(&mut self, what: &str, paths: &[&Path]) {
        if self.log.len() == LOG_MAX {
            self.log.pop_front();
        }
        let mut line = format!("{} {what}", self.count);
        for path in paths {
            let shown = path.strip_prefix(&self.root).unwrap_or(path);
            let _ = write!(line, " \"{}\"", Shown(shown.as_os_str().as_bytes()));
            if let Ok(there) = fs::symlink_metadata(path) {
                let _ = write!(line, " [{} x{}]", there.ino(), there.nlink());
            }
        }
        self.log.push_back(line);
    }

    fn size(&mut self) -> usize {
        match self.rng.below(1000) {
            0..=4 => 200 * 1024 + self.rng.below(1800 * 1024),
            5..=39 => self.rng.below(200 * 1024),
            40..=119 => 0,
            120..=179 => self.rng.below(32),
            _ => self.rng.below(6000),
        }
    }

    fn content(&mut self) -> Vec<u8> {
        let size = self.size();
        whole(self.seed, self.count, size)
    }

    // The operations. Each says what it does, does it, and then knows it.

    fn create(&mut self) -> io::Result<()> {
        let dir = self.dir();
        let name = self.name(dir);
        self.create_as(dir, name)
    }

    fn create_as(&mut self, dir: usize, name: Vec<u8>) -> io::Result<()> {
        let path = self.path_in(dir, &name);
        self.say("create", &[&path]);
        let content = self.content();
        OpenOptions::new().write(true).create_new(true).open(path)?.write_all(&content)?;
        let node = self.attach(dir, name, Kind::File);
        self.made(node)
    }

    fn rewrite(&mut self) -> io::Result<()> {
        let Some(node) = self.file() else { return self.create() };
        let path = self.path(node);
        let file = OpenOptions::new().write(true).open(&path)?;
        let size = self.nodes[node].size as usize;
        if size > 64 && self.rng.chance(40) {
            // In place, in the middle: the size stays.
            self.say("patch", &[&path]);
            let at = self.rng.below(size - 32);
            let len = (1 + self.rng.below(4096)).min(size - at);
            let patch = whole(self.seed, self.count, len);
            file.write_all_at(&patch, at as u64)?;
        } else {
            self.say("rewrite", &[&path]);
            let content = self.content();
            file.set_len(0)?;
            file.write_all_at(&content, 0)?;
        }
        self.changed(node)
    }

    fn append(&mut self) -> io::Result<()> {
        let Some(node) = self.file().filter(|node| self.nodes[*node].size < 3 << 20) else { return self.create() };
        let path = self.path(node);
        self.say("append", &[&path]);
        let len = 1 + self.rng.below(3000);
        let more = whole(self.seed, self.count, len);
        OpenOptions::new().append(true).open(path)?.write_all(&more)?;
        self.changed(node)
    }

    fn truncate(&mut self) -> io::Result<()> {
        let Some(node) = self.file() else { return self.create() };
        let path = self.path(node);
        self.say("truncate", &[&path]);
        let mut file = OpenOptions::new().write(true).open(path)?;
        let size = self.nodes[node].size as usize;
        if self.rng.chance(70) {
            file.set_len(self.rng.below(size + 1) as u64)?;
        } else {
            // A hole, and perhaps something behind it.
            let end = size + self.rng.below(20_000);
            file.set_len(end as u64)?;
            if self.rng.chance(50) {
                file.seek(SeekFrom::Start(end as u64))?;
                file.write_all(b"behind the hole")?;
            }
        }
        self.changed(node)
    }

    /// As editors and package managers do: written beside, then renamed over.
    fn replace_whole(&mut self) -> io::Result<()> {
        let Some(node) = self.file().filter(|node| self.may_go(*node)) else { return self.create() };
        let dir = self.nodes[node].parent;
        let name = self.name(dir);
        let (temp, path) = (self.path_in(dir, &name), self.path(node));
        self.say("write and rename over", &[&temp, &path]);
        let content = self.content();
        OpenOptions::new().write(true).create_new(true).open(&temp)?.write_all(&content)?;
        if self.choice.root && self.rng.chance(30) {
            fs::set_permissions(&temp, Permissions::from_mode(0o640))?;
        }
        fs::rename(temp, path)?;
        self.made(node)
    }

    fn rename_free(&mut self) -> io::Result<()> {
        let Some(node) = self.movable() else { return self.create() };
        let dir = if self.rng.chance(50) { self.nodes[node].parent } else { self.dir() };
        if self.is_within(dir, node) || self.depth(dir) + self.height(node) > DEPTH_MAX {
            return self.create();
        }
        let name = self.name(dir);
        let (from, to) = (self.path(node), self.path_in(dir, &name));
        self.say("rename", &[&from, &to]);
        fs::rename(from, to)?;
        self.move_to(node, dir, name);
        Ok(())
    }

    fn rename_over(&mut self) -> io::Result<()> {
        let (Some(node), Some(over)) = (self.movable(), self.movable()) else { return self.create() };
        let dir = self.nodes[over].parent;
        let both_dirs = self.nodes[node].kind == Kind::Dir && self.nodes[over].kind == Kind::Dir;
        let neither = self.nodes[node].kind != Kind::Dir && self.nodes[over].kind != Kind::Dir;
        let fits = both_dirs && self.nodes[over].children.is_empty() || neither;
        if node == over || !fits || !self.may_go(over) || self.is_within(over, node) || self.depth(dir) + self.height(node) > DEPTH_MAX {
            return self.rename_free();
        }
        let (from, to) = (self.path(node), self.path(over));
        self.say("rename over", &[&from, &to]);
        let (a, b) = (fs::symlink_metadata(&from)?, fs::symlink_metadata(&to)?);
        fs::rename(from, to)?;
        // Two names of one object: the system does nothing.
        if (a.dev(), a.ino()) != (b.dev(), b.ino()) {
            let name = std::mem::take(&mut self.nodes[over].name);
            self.detach(over);
            self.move_to(node, dir, name);
        }
        Ok(())
    }

    fn exchange(&mut self) -> io::Result<()> {
        let (Some(a), Some(b)) = (self.movable(), self.movable()) else { return self.create() };
        let (up_a, up_b) = (self.nodes[a].parent, self.nodes[b].parent);
        let deep = self.depth(up_b) + self.height(a) > DEPTH_MAX || self.depth(up_a) + self.height(b) > DEPTH_MAX;
        if deep || self.is_within(a, b) || self.is_within(b, a) {
            return self.rename_free();
        }
        let (from, to) = (self.path(a), self.path(b));
        self.say("exchange", &[&from, &to]);
        match renameat2(AT_FDCWD, &from, AT_FDCWD, &to, RenameFlags::RENAME_EXCHANGE) {
            // Not every filesystem can.
            Err(nix::errno::Errno::EINVAL) => return Ok(()),
            other => other?,
        }
        let (name_a, name_b) = (self.nodes[a].name.clone(), self.nodes[b].name.clone());
        self.move_to(a, up_b, name_b);
        self.move_to(b, up_a, name_a);
        Ok(())
    }

    /// Three names, or two, in a ring, through a temporary one, as a log rotation does.
    fn rotate(&mut self) -> io::Result<()> {
        let Some(a) = self.movable() else { return self.create() };
        let dir = self.nodes[a].parent;
        let ring: Vec<usize> = self.nodes[dir].children.iter().copied().filter(|n| !self.nodes[*n].pinned).take(3).collect();
        if ring.len() < 2 {
            return self.rename_free();
        }
        let temp = self.name(dir);
        let temp = self.path_in(dir, &temp);
        let paths: Vec<PathBuf> = ring.iter().map(|node| self.path(*node)).collect();
        self.say("rotate", &paths.iter().map(PathBuf::as_path).collect::<Vec<_>>());
        let last = paths.len() - 1;
        fs::rename(&paths[last], &temp)?;
        for n in (0..last).rev() {
            fs::rename(&paths[n], &paths[n + 1])?;
        }
        fs::rename(temp, &paths[0])?;
        let names: Vec<_> = ring.iter().map(|node| self.nodes[*node].name.clone()).collect();
        for (n, node) in ring.iter().enumerate() {
            self.nodes[*node].name.clone_from(&names[(n + 1) % names.len()]);
        }
        Ok(())
    }

    /// The same name for another kind of thing, at once.
    fn replace_kind(&mut self) -> io::Result<()> {
        let Some(node) = self.movable().filter(|node| self.may_go(*node)) else { return self.create() };
        let (dir, name, kind) = (self.nodes[node].parent, self.nodes[node].name.clone(), self.nodes[node].kind);
        self.remove(node)?;
        match (kind, self.rng.below(3)) {
            (Kind::Dir, 0) | (Kind::Other, _) => self.create_as(dir, name),
            (Kind::Dir, _) | (Kind::File, 0) => self.other_as(dir, name),
            (Kind::File, _) => {
                let node = self.mkdir_as(dir, name)?;
                if self.depth(node) < DEPTH_MAX {
                    let name = self.name(node);
                    self.create_as(node, name)?;
                }
                Ok(())
            }
        }
    }

    fn hard_link(&mut self) -> io::Result<()> {
        if !self.choice.hard_links {
            return self.create();
        }
        let Some(node) = self.any(|node| node.kind != Kind::Dir) else { return self.create() };
        let dir = self.dir();
        let name = self.name(dir);
        let (from, to) = (self.path(node), self.path_in(dir, &name));
        self.say("link", &[&from, &to]);
        match fs::hard_link(&from, &to) {
            // Of what has another owner an ordinary user may make none.
            Err(e) if e.raw_os_error() == Some(libc::EPERM) && !self.choice.root => return Ok(()),
            other => other?,
        }
        let kind = self.nodes[node].kind;
        let new = self.attach(dir, name, kind);
        self.known(new)
    }

    fn chmod(&mut self) -> io::Result<()> {
        const ANY: &[u32] = &[0o644, 0o600, 0o755, 0o700, 0o777, 0o4755, 0o2755, 0o6711, 0o1777, 0o444, 0o111, 0o000];
        let Some(node) = self.any(|node| node.kind != Kind::Other) else { return self.create() };
        let mode = match (self.choice.root, self.nodes[node].kind) {
            (true, _) => self.rng.pick(ANY),
            (false, Kind::Dir) => self.rng.pick(&[0o755, 0o700, 0o777, 0o1777, 0o750]),
            (false, _) => self.rng.pick(&[0o644, 0o600, 0o755, 0o666, 0o4755, 0o640]),
        };
        let path = self.path(node);
        self.say(&format!("chmod {mode:o}"), &[&path]);
        fs::set_permissions(path, Permissions::from_mode(mode))?;
        self.changed(node)
    }

    fn chown(&mut self) -> io::Result<()> {
        if !self.choice.root {
            return self.chmod();
        }
        let Some(node) = self.any(|_| true) else { return self.create() };
        let path = self.path(node);
        let (uid, gid) = (self.rng.pick(&[0, 1, 1000, 65_534, 3_000_000_000]), self.rng.pick(&[0, 5, 1000, 65_534]));
        self.say(&format!("chown {uid}:{gid}"), &[&path]);
        lchown(path, Some(uid), Some(gid))?;
        self.changed(node)
    }

    fn utimes(&mut self) -> io::Result<()> {
        let Some(node) = self.any(|_| true) else { return self.create() };
        let path = self.path(node);
        // 1915 to 2200: what every filesystem can keep.
        let time = TimeSpec::new(self.rng.below(9_000_000_000) as i64 - 1_700_000_000, self.rng.below(1_000_000_000) as i64);
        self.say(&format!("utimes {}.{:09}", time.tv_sec(), time.tv_nsec()), &[&path]);
        utimensat(AT_FDCWD, &path, &time, &time, UtimensatFlags::NoFollowSymlink)?;
        self.changed(node)
    }

    fn mkdir(&mut self) -> io::Result<()> {
        let dir = self.dir();
        let name = self.name(dir);
        self.mkdir_as(dir, name).map(drop)
    }

    fn mkdir_as(&mut self, dir: usize, name: Vec<u8>) -> io::Result<usize> {
        let path = self.path_in(dir, &name);
        self.say("mkdir", &[&path]);
        fs::create_dir(path)?;
        Ok(self.attach(dir, name, Kind::Dir))
    }

    /// `mkdir -p a/b/c/d` and files on every level, faster than a watch can be set.
    fn chain(&mut self) -> io::Result<()> {
        let mut dir = self.dir();
        for _ in 0..2 + self.rng.below(4) {
            if self.depth(dir) >= DEPTH_MAX - 1 {
                break;
            }
            let name = self.name(dir);
            dir = self.mkdir_as(dir, name)?;
            for _ in 0..self.rng.below(3) {
                let name = self.name(dir);
                self.create_as(dir, name)?;
            }
        }
        Ok(())
    }

    fn other(&mut self) -> io::Result<()> {
        let dir = self.dir();
        let name = self.name(dir);
        self.other_as(dir, name)
    }

    /// A symbolic link, FIFO, socket or device.
    fn other_as(&mut self, dir: usize, name: Vec<u8>) -> io::Result<()> {
        let path = self.path_in(dir, &name);
        self.say("link or special", &[&path]);
        let mode = Mode::from_bits_truncate(0o640);
        match self.rng.below(if self.choice.root { 12 } else { 10 }) {
            0 => mknod(&path, SFlag::S_IFIFO, mode, 0)?,
            1 => mknod(&path, SFlag::S_IFSOCK, mode, 0)?,
            10 => mknod(&path, SFlag::S_IFCHR, mode, makedev(1, 3 + self.rng.next() % 6))?,
            11 => mknod(&path, SFlag::S_IFBLK, mode, makedev(7, 200))?,
            2 => symlink(OsString::from_vec(vec![b't'; 1 + self.rng.below(1000)]), &path)?,
            3 => symlink(OsString::from_vec(b"not \xff utf-8\n".to_vec()), &path)?,
            _ => symlink(self.rng.pick(&["..", "/etc/passwd", "n1", "n2/n3", "/nowhere", "."]), &path)?,
        }
        let node = self.attach(dir, name, Kind::Other);
        self.made(node)
    }

    /// The name changes while the file is open and being written.
    fn write_while_renamed(&mut self) -> io::Result<()> {
        let Some(node) = self.file() else { return self.create() };
        let dir = self.nodes[node].parent;
        let name = self.name(dir);
        let (from, to) = (self.path(node), self.path_in(dir, &name));
        self.say("write while renamed", &[&from, &to]);
        let content = self.content();
        let mut file = OpenOptions::new().write(true).open(&from)?;
        let half = content.len() / 2;
        file.write_all(&content[..half])?;
        fs::rename(from, to)?;
        self.move_to(node, dir, name);
        file.write_all(&content[half..])?;
        self.changed(node)
    }

    fn remove_one(&mut self) -> io::Result<()> {
        match self.any(|node| !node.pinned && node.children.is_empty()) {
            Some(node) if self.may_go(node) => self.remove(node),
            Some(_) => self.rename_free(),
            None => self.create(),
        }
    }

    fn remove_tree(&mut self) -> io::Result<()> {
        let small = self.live.len() < self.choice.entries_max / 4;
        match self.any(|node| !node.pinned && node.kind == Kind::Dir && (!small || node.children.len() < 4)) {
            Some(node) if self.may_go(node) => self.remove(node),
            Some(_) | None => self.remove_one(),
        }
    }

    fn remove(&mut self, node: usize) -> io::Result<()> {
        let path = self.path(node);
        if self.nodes[node].kind == Kind::Dir {
            self.say("rm -rf", &[&path]);
            fs::remove_dir_all(path)?;
        } else {
            self.say("unlink", &[&path]);
            fs::remove_file(path)?;
        }
        self.detach(node);
        Ok(())
    }
}
