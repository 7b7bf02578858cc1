//! The tree as the generator made it: nodes, their paths, what can be picked and which names are free.
//!
//! Only these look at the real one: [`Ops::known`], [`Ops::changed`], [`Ops::made`], [`Ops::may_go`].

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::{DEPTH_MAX, Kind, Node, Ops};

impl Ops {
    pub(super) fn attach(&mut self, parent: usize, name: Vec<u8>, kind: Kind) -> usize {
        let new = Node { parent, name, kind, children: Vec::new(), size: 0, at: self.live.len(), pinned: false };
        let node = match self.free.pop() {
            Some(node) => {
                self.nodes[node] = new;
                node
            }
            None => {
                self.nodes.push(new);
                self.nodes.len() - 1
            }
        };
        self.live.push(node);
        self.nodes[parent].children.push(node);
        node
    }

    /// Forgets `node` and all beneath it.
    pub(super) fn detach(&mut self, node: usize) {
        self.leave_parent(node);
        let mut todo = vec![node];
        while let Some(node) = todo.pop() {
            todo.append(&mut self.nodes[node].children);
            let at = self.nodes[node].at;
            self.live.swap_remove(at);
            if let Some(moved) = self.live.get(at) {
                self.nodes[*moved].at = at;
            }
            self.bytes -= self.nodes[node].size;
            self.free.push(node);
        }
    }

    pub(super) fn leave_parent(&mut self, node: usize) {
        let parent = self.nodes[node].parent;
        self.nodes[parent].children.retain(|child| *child != node);
    }

    pub(super) fn move_to(&mut self, node: usize, parent: usize, name: Vec<u8>) {
        self.leave_parent(node);
        self.nodes[node].parent = parent;
        self.nodes[node].name = name;
        self.nodes[parent].children.push(node);
    }

    pub(super) fn path(&self, node: usize) -> PathBuf {
        let mut names = Vec::new();
        let mut node = node;
        while node != 0 {
            names.push(&self.nodes[node].name);
            node = self.nodes[node].parent;
        }
        let mut path = self.root.clone();
        path.extend(names.iter().rev().map(|name| Path::new(OsStr::from_bytes(name))));
        path
    }

    pub(super) fn path_in(&self, dir: usize, name: &[u8]) -> PathBuf {
        self.path(dir).join(OsString::from_vec(name.to_vec()))
    }

    pub(super) fn depth(&self, mut node: usize) -> usize {
        let mut depth = 0;
        while node != 0 {
            node = self.nodes[node].parent;
            depth += 1;
        }
        depth
    }

    /// Levels beneath `node`, itself included.
    pub(super) fn height(&self, node: usize) -> usize {
        let (mut height, mut level) = (0, vec![node]);
        while !level.is_empty() {
            height += 1;
            level = level.iter().flat_map(|node| self.nodes[*node].children.iter().copied()).collect();
        }
        height
    }

    pub(super) fn is_within(&self, mut node: usize, top: usize) -> bool {
        while node != top && node != 0 {
            node = self.nodes[node].parent;
        }
        node == top
    }

    pub(super) fn known(&mut self, node: usize) -> io::Result<()> {
        let size = fs::symlink_metadata(self.path(node))?.len();
        self.bytes = self.bytes - self.nodes[node].size + size;
        self.nodes[node].size = size;
        Ok(())
    }

    /// The object at `node` was changed.
    pub(super) fn changed(&mut self, node: usize) -> io::Result<()> {
        if !self.choice.hidden_links {
            let there = fs::symlink_metadata(self.path(node))?;
            self.touched.insert((there.dev(), there.ino()));
        }
        self.known(node)
    }

    /// The object at `node` is new.
    pub(super) fn made(&mut self, node: usize) -> io::Result<()> {
        if !self.choice.hidden_links {
            // It may have the number of one that is gone.
            let there = fs::symlink_metadata(self.path(node))?;
            self.touched.remove(&(there.dev(), there.ino()));
        }
        self.known(node)
    }

    /// Whether `node` and all beneath it may go, by [`Choice::hidden_links`](super::Choice::hidden_links).
    pub(super) fn may_go(&self, node: usize) -> bool {
        let mut todo = vec![node];
        while let Some(node) = todo.pop().filter(|_| !self.touched.is_empty()) {
            todo.extend(&self.nodes[node].children);
            // What cannot be looked at was not changed by us.
            let hides = |there: fs::Metadata| there.nlink() > 1 && self.touched.contains(&(there.dev(), there.ino()));
            if self.nodes[node].kind != Kind::Dir && fs::symlink_metadata(self.path(node)).is_ok_and(hides) {
                return false;
            }
        }
        true
    }

    pub(super) fn any(&mut self, suits: impl Fn(&Node) -> bool) -> Option<usize> {
        if self.live.is_empty() {
            return None;
        }
        (0..12).map(|_| self.live[self.rng.below(self.live.len())]).find(|node| suits(&self.nodes[*node]))
    }

    pub(super) fn file(&mut self) -> Option<usize> {
        self.any(|node| node.kind == Kind::File)
    }

    pub(super) fn movable(&mut self) -> Option<usize> {
        self.any(|node| !node.pinned)
    }

    /// A directory that can take one more level.
    pub(super) fn dir(&mut self) -> usize {
        if self.rng.chance(10) {
            return 0;
        }
        self.any(|node| node.kind == Kind::Dir).filter(|node| self.depth(*node) < DEPTH_MAX).unwrap_or(0)
    }

    /// A name that is free in `dir`. Most are from a small stock, so that a name soon comes again for another object.
    pub(super) fn name(&mut self, dir: usize) -> Vec<u8> {
        loop {
            let name = self.some_name();
            if self.nodes[dir].children.iter().all(|child| self.nodes[*child].name != name) {
                return name;
            }
        }
    }

    pub(super) fn some_name(&mut self) -> Vec<u8> {
        let number = self.rng.next();
        match self.rng.below(40) {
            0 => [b"new\nline " as &[u8], number.to_string().as_bytes()].concat(),
            1 => [b"\xff\xfe not utf-8 \x80" as &[u8], number.to_string().as_bytes()].concat(),
            2 => format!("naïve – 日本語 {}", number % 50).into_bytes(),
            3 => {
                let mut name = number.to_string().into_bytes();
                name.resize(255, b'n');
                name
            }
            4 => {
                // Any bytes that a name may hold.
                let len = 1 + self.rng.below(24);
                let mut name: Vec<u8> = (0..len).map(|_| (self.rng.next() % 255 + 1) as u8).collect();
                name.iter_mut().filter(|b| **b == b'/').for_each(|b| *b = b'|');
                [&b"b"[..], &name].concat()
            }
            5 => format!(".hidden {}~", number % 20).into_bytes(),
            6 => format!("-{} *?[a]\\", number % 20).into_bytes(),
            7..=14 => format!("{number:016x}").into_bytes(),
            _ => format!("n{}", number % 60).into_bytes(),
        }
    }
}
