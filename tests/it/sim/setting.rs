//! What a simulated run starts from and what it is to come to: filter rules, and a mirror that holds something already.

use std::collections::{BTreeMap, HashMap, HashSet};

use ringsync::apply::Target;
use ringsync::model::filter::{Decision, Filter};
use ringsync::model::meta::{Kind, Meta, Time};
use ringsync::model::op::{Op, Spot};
use ringsync::model::path::{Name, RelPath};

use crate::memtarget::MemTarget;
use crate::rng::Rng;

/// Path → metadata, content, hard-link group (0: one name).
pub type Snapshot = BTreeMap<Vec<u8>, (Meta, Vec<u8>, u64)>;

/// Rules on names alone: whether an entry is excluded does not change when a directory above it is renamed.
pub fn filter(rng: &mut Rng) -> Filter {
    let mut filter = Filter::default();
    if rng.chance(30) {
        for rule in [&b"7"[..], b"5/", b"dee?"] {
            if rng.chance(60) {
                filter.push_exclude(rule).unwrap();
            }
        }
    }
    filter
}

/// Whether the path, or a directory above it, is excluded.
pub fn is_excluded(filter: &Filter, path: &[u8], is_dir: bool) -> bool {
    let above = path.iter().enumerate().filter(|(_, b)| **b == b'/').map(|(at, _)| (&path[..at], true));
    !path.is_empty() && above.chain([(path, is_dir)]).any(|(path, is_dir)| filter.decide(path, is_dir) == Decision::Excluded)
}

/// What the mirror has to hold of the source: hard links are counted where they are not excluded, and nowhere without `links`.
pub fn expected(source: Snapshot, filter: &Filter, links: bool) -> Snapshot {
    let mut kept: Snapshot = source.into_iter().filter(|(path, (meta, ..))| !is_excluded(filter, path, meta.kind == Kind::Dir)).collect();
    let mut names: HashMap<u64, u32> = HashMap::new();
    for (_, _, group) in kept.values() {
        *names.entry(*group).or_default() += 1;
    }
    for (_, _, group) in kept.values_mut() {
        *group = if links && names[group] > 1 { *group } else { 0 };
    }
    kept
}

/// Puts something into the mirror that the source does not have, at names that it may have or get; returns what is excluded of it, which has to stay.
pub fn prefill(rng: &mut Rng, target: &mut MemTarget, filter: &Filter) -> HashSet<Vec<u8>> {
    let mut dirs = vec![RelPath::root()];
    let mut stays = HashSet::new();
    for made in 0..rng.below(25) {
        let dir = dirs[rng.below(dirs.len())].clone();
        let name = rng.below(9).to_string().into_bytes();
        let spot = Spot { dir, name: Name::new(&name).unwrap().to_owned() };
        let path = spot.dir.join(spot.name.as_name()).unwrap();
        let kind = rng.pick(&[Kind::Dir, Kind::Dir, Kind::File, Kind::File, Kind::Symlink, Kind::Fifo]);
        // What is excluded holds its place for ever: below the root it could be in the way of what is to go, and a directory in the way of a file.
        let excluded = is_excluded(filter, path.as_bytes(), kind == Kind::Dir);
        if excluded && (!spot.dir.is_root() || filter.decide(path.as_bytes(), false) != Decision::Excluded) {
            continue;
        }
        let meta = Meta {
            kind,
            mode: 0o640,
            uid: 9,
            gid: 0,
            mtime: Time { sec: 5_000 + made as i64, nsec: 1 },
            size: 7,
            rdev: 0,
            attrs: rng.pick(&[0, 0, 1]),
        };
        let done = match kind {
            Kind::Dir => target.op(&Op::Mkdir { at: spot, meta }),
            Kind::File => target.put(&spot, &meta, b"prefill"),
            Kind::Symlink => target.op(&Op::Symlink { at: spot, target: (*b"elsewhere").into(), meta }),
            _ => target.op(&Op::Special { at: spot, meta }),
        };
        // A name that is taken stays as it is.
        if done.is_ok() && kind == Kind::Dir && !excluded {
            dirs.push(path.clone());
        }
        if done.is_ok() && excluded {
            stays.insert(path.as_bytes().to_vec());
        }
    }
    stays
}
