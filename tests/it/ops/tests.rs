//! The generator by itself: it knows its tree, keeps it bounded, repeats itself.

use super::*;
use crate::place::{Place, as_user, is_root, seed};

/// What lies beneath `root`, itself left out.
fn walk(root: &Path) -> Vec<(PathBuf, fs::Metadata)> {
    let (mut all, mut todo) = (Vec::new(), vec![root.to_owned()]);
    while let Some(dir) = todo.pop() {
        for entry in fs::read_dir(dir).unwrap() {
            let entry = entry.unwrap();
            let metadata = entry.metadata().unwrap();
            if metadata.is_dir() {
                todo.push(entry.path());
            }
            all.push((entry.path(), metadata));
        }
    }
    all
}

fn knows_its_tree(ops: &Ops, root: &Path) {
    let mut found: Vec<_> = walk(root).into_iter().map(|(path, _)| path).collect();
    let mut known: Vec<_> = ops.live.iter().map(|node| ops.path(*node)).collect();
    found.sort();
    known.sort();
    assert_eq!(found, known, "seed {}", ops.seed);
}

#[test]
fn knows_its_tree_and_keeps_it_bounded() {
    let (place, seed) = (Place::new(), seed());
    println!("RINGSYNC_SEED={seed}");
    let choice = Choice { entries_max: 300, bytes_max: 8 << 20, ..Choice::usual() };
    let mut ops = Ops::new(&place.src, seed, choice);
    for _ in 0..20 {
        ops.run(400);
        knows_its_tree(&ops, &place.src);
        assert!(ops.live.len() < 320, "{}", ops.live.len());
        assert!(ops.depth(*ops.live.iter().max_by_key(|node| ops.depth(**node)).unwrap()) <= DEPTH_MAX);
    }
}

#[test]
fn is_the_same_again_from_the_same_seed() {
    let tree = |seed| {
        let place = Place::new();
        Ops::new(&place.src, seed, Choice::usual()).run(3000);
        let mut all: Vec<_> = walk(&place.src)
            .into_iter()
            .map(|(path, m)| (path.strip_prefix(&place.src).unwrap().to_owned(), m.mode(), m.is_dir() || m.len() > 0, m.nlink()))
            .collect();
        all.sort();
        all
    };
    let seed = seed();
    assert_eq!(tree(seed), tree(seed), "RINGSYNC_SEED={seed}");
    assert_ne!(tree(seed), tree(seed + 1), "RINGSYNC_SEED={seed}");
}

/// No name of a changed object with several names goes before the mirror is said to be equal.
#[test]
fn hides_no_change_when_told_not_to() {
    let (place, seed) = (Place::new(), seed());
    println!("RINGSYNC_SEED={seed}");
    let mut ops = Ops::new(&place.src, seed, Choice { hidden_links: false, entries_max: 300, ..Choice::usual() });
    let mut kept = 0;
    for _ in 0..20 {
        for _ in 0..200 {
            let names = |root: &Path| -> Vec<_> {
                walk(root).into_iter().filter(|(_, m)| !m.is_dir() && m.nlink() > 1).map(|(_, m)| (m.ino(), m.nlink())).collect()
            };
            let before: Vec<_> =
                names(&place.src).into_iter().filter(|(ino, _)| ops.touched.iter().any(|(_, changed)| changed == ino)).collect();
            ops.step();
            let after = walk(&place.src);
            for (ino, names) in before {
                kept += 1;
                assert!(after.iter().any(|(_, m)| m.ino() == ino && m.nlink() >= names), "seed {seed}, operation {}", ops.count);
            }
        }
        knows_its_tree(&ops, &place.src);
        ops.equal();
    }
    assert!(kept > 0);
}

#[test]
fn works_as_an_ordinary_user() {
    let place = if is_root() { Place::new().for_user() } else { Place::new() };
    let seed = seed();
    println!("RINGSYNC_SEED={seed}");
    let mut ops = Ops::new(&place.src, seed, Choice { root: false, ..Choice::usual() });
    as_user(|| ops.run(5000));
    knows_its_tree(&ops, &place.src);
    assert!(!is_root() || walk(&place.src).iter().all(|(_, m)| m.uid() == crate::place::USER));
}
