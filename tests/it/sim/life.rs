//! The source lives: one change by chance.

use super::*;

impl Sim {
    pub(super) fn change(&mut self) {
        let mut dirs = self.source.dirs();
        if let Some(within) = self.confined {
            dirs.retain(|dir| self.source.is_within(*dir, within));
        }
        let dir = self.rng.pick(&dirs);
        let other = self.rng.pick(&dirs);
        let name = format!("{}", self.rng.below(9)).into_bytes();
        let there: Vec<Vec<u8>> = self.source.entries(dir).keys().cloned().collect();
        let entry = if there.is_empty() { name.clone() } else { there[self.rng.below(there.len())].clone() };
        let kind = self.source.entries(dir).get(&entry).map(|id| self.source.nodes[id].meta.kind);
        match self.rng.below(18) {
            0..=3 => {
                let bytes = self.bytes();
                self.source.create(dir, &name, Body::File(Arc::new(bytes)), Kind::File, 0o644);
            }
            4 if dirs.len() < 30 => {
                let mut at = dir;
                for depth in 0..=self.rng.below(3) {
                    let name = if depth == 0 { name.clone() } else { b"deep".to_vec() };
                    match self.source.create(at, &name, Body::Dir(BTreeMap::new()), Kind::Dir, 0o755) {
                        Some(id) => at = id,
                        None => break,
                    }
                }
            }
            5 => {
                let target = format!("to{}", self.rng.below(5)).into_bytes();
                self.source.create(dir, &name, Body::Symlink(target), Kind::Symlink, 0o777);
            }
            6 => {
                let kind = self.rng.pick(&[Kind::Fifo, Kind::Socket, Kind::Char]);
                self.source.create(dir, &name, Body::Special, kind, 0o600);
            }
            7 | 8 if kind == Some(Kind::File) => {
                let bytes = self.bytes();
                let open = self.rng.chance(30);
                self.source.write(dir, &entry, bytes, open);
            }
            9 if kind.is_some() => {
                let (mode, uid) = (self.rng.pick(&[0o600, 0o755, 0o4711, 0o444]), self.rng.below(3) as u32);
                let symlink = kind == Some(Kind::Symlink);
                self.source.change_meta(dir, &entry, |m| {
                    m.uid = uid;
                    m.mode = if symlink { m.mode } else { mode };
                });
            }
            10 if kind.is_some() => {
                self.times_set += 1;
                let sec = if self.play == Play::Times { self.rng.below(4) as i64 } else { self.times_set };
                self.source.change_meta(dir, &entry, |m| m.mtime = Time { sec, nsec: 5 });
            }
            11 => {
                if let Some(id) = self.source.entries(dir).get(&entry).copied() {
                    self.source.link(other, &name, id);
                }
            }
            12 => self.source.remove(dir, &entry),
            13 | 14 => self.source.rename(dir, &entry, other, &name),
            15 => {
                let theirs: Vec<Vec<u8>> = self.source.entries(other).keys().cloned().collect();
                if !theirs.is_empty() {
                    let with = theirs[self.rng.below(theirs.len())].clone();
                    self.source.exchange(dir, &entry, other, &with);
                }
            }
            16 if kind.is_some() => {
                let none_too = self.rng.below(self.source.attrs.len() + 2);
                let attrs = self.source.attrs.get(none_too).map_or(0, |attrs| attrs.digest());
                self.source.change_meta(dir, &entry, |m| m.attrs = attrs);
            }
            17 if self.shuts => {
                let shut = self.rng.chance(30);
                self.source.set_shut(dir, shut);
            }
            _ => {}
        }
    }

    /// Failures of the oldest cycle are told, and that it is done: together, or one by one.
    pub(super) fn acknowledge(&mut self, now: u64) {
        let Some((cycle, mut errors)) = self.acks.pop_front() else { return };
        if !errors.is_empty() && self.rng.chance(50) {
            // The rest, and the acknowledgement, are still on their way.
            self.planner.failed(cycle, errors.remove(0), now).unwrap();
            self.acks.push_front((cycle, errors));
            return;
        }
        for error in errors {
            self.planner.failed(cycle, error, now).unwrap();
        }
        self.planner.acked(cycle).unwrap();
    }

    fn bytes(&mut self) -> Vec<u8> {
        let len = if self.rng.below(200) == 0 { INLINE_FILE_BYTES_MAX + 1 } else { self.rng.pick(&[0, 1, 7, 7, 7, 100]) };
        let fill = if self.play == Play::Plain { (self.source.now_ns / TICK_NS) as u8 } else { self.rng.next() as u8 };
        vec![fill; len]
    }
}
