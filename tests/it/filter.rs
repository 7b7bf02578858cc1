//! The filter against the real rsync: random rules on random trees, what is sent and what a deletion spares.
//!
//! `RINGSYNC_SEED` takes back the seed that a failure prints; rsync is the oracle and has to be installed.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;
use std::process::Command;

use ringsync::model::filter::{Decision, Filter};
use ringsync::model::path::Shown;

const CASES: u64 = 400;
const THREADS: u64 = 8;

/// A small generator, so that a seed means the same everywhere.
struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % n
    }

    fn pick<'a, T: ?Sized>(&mut self, choices: &[&'a T]) -> &'a T {
        choices[self.below(choices.len() as u64) as usize]
    }
}

fn seed() -> u64 {
    let seed = std::env::var("RINGSYNC_SEED").ok().map(|s| s.parse().expect("RINGSYNC_SEED is a number")).unwrap_or_else(|| {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970");
        now.as_nanos() as u64 % 1_000_000_007
    });
    println!("RINGSYNC_SEED={seed}");
    seed
}

/// Relative paths; true for a directory.
type Tree = BTreeMap<Vec<u8>, bool>;

struct Case {
    tree: Tree,
    /// True for `--include`.
    rules: Vec<(bool, Vec<u8>)>,
    /// The rules are given as one file to `--exclude-from`.
    as_file: bool,
}

fn name(random: &mut Random) -> Vec<u8> {
    const NAMES: [&[u8]; 10] = [b"a", b"b", b"ab", b"a.b", b"foo", b"foo.o", b"bar", b"x", b"B7", b".h"];
    const PARTS: [&[u8]; 18] =
        [b"a", b"b", b"o", b".", b"-", b"*", b"?", b"[", b"]", b"\\", b"!", b"^", b" ", b"7", b"Z", b"#x", b"\xe9", b"\xc3\xa4"];
    if random.below(3) > 0 {
        return random.pick(&NAMES).to_vec();
    }
    let name: Vec<u8> = (0..=random.below(3)).flat_map(|_| random.pick(&PARTS).to_vec()).collect();
    if matches!(&name[..], b"." | b"..") { b"dots".to_vec() } else { name }
}

fn tree(random: &mut Random) -> Tree {
    let mut tree = Tree::new();
    let mut dirs = vec![Vec::new()];
    for _ in 0..4 + random.below(30) {
        let mut path: Vec<u8> = dirs[random.below(dirs.len() as u64) as usize].clone();
        if !path.is_empty() {
            path.push(b'/');
        }
        path.extend(name(random));
        let is_dir = random.below(5) < 2;
        if let Entry::Vacant(free) = tree.entry(path) {
            if is_dir {
                dirs.push(free.key().clone());
            }
            free.insert(is_dir);
        }
    }
    tree
}

fn pattern(random: &mut Random, tree: &Tree) -> Vec<u8> {
    const PIECES: [&[u8]; 36] = [
        b"a",
        b"b",
        b"foo",
        b"bar",
        b".o",
        b".",
        b"o",
        b"x",
        b"/",
        b"/",
        b"/",
        b"*",
        b"*",
        b"*",
        b"**",
        b"**/",
        b"/**",
        b"?",
        b"?",
        b"[ab]",
        b"[!a]",
        b"[^f]",
        b"[a-f]",
        b"[]a]",
        b"[a\\]]",
        b"[[:alpha:]]",
        b"[![:digit:]]",
        b"[b-",
        b"[[:nope:]]",
        b"[a-\\z]",
        b"[[:x]",
        b"\\a",
        b"\\*",
        b"\\\\",
        b"***",
        b"[^]-]",
    ];
    let mut pattern = Vec::new();
    if random.below(4) == 0 {
        pattern.push(b'/');
    }
    if random.below(2) == 0 {
        // Near an entry that exists: its path or a tail of it, with some bytes turned into wildcards.
        let at = random.below(tree.len() as u64) as usize;
        let path = tree.keys().nth(at).expect("below its length");
        let cut = path.iter().enumerate().filter(|(_, b)| **b == b'/').map(|(at, _)| at + 1).collect::<Vec<_>>();
        let start = if cut.is_empty() || random.below(2) == 0 { 0 } else { cut[random.below(cut.len() as u64) as usize] };
        for b in &path[start..] {
            match random.below(12) {
                0 => pattern.extend(b"*"),
                1 => pattern.extend(b"?"),
                2 if *b != b'/' => pattern.extend([b'[', *b, b']']),
                3 => pattern.extend(b"**"),
                4 => pattern.extend([b'\\', *b]),
                _ => pattern.push(*b),
            }
        }
    } else {
        for _ in 0..=random.below(5) {
            pattern.extend(random.pick(&PIECES));
        }
    }
    match random.below(12) {
        0..=2 => pattern.push(b'/'),
        3 => pattern.extend(b"/***"),
        4 => pattern.extend(b"/*"),
        _ => {}
    }
    pattern
}

fn case(random: &mut Random) -> Case {
    let tree = tree(random);
    let mut rules = Vec::new();
    for _ in 0..=random.below(5) {
        let mut rule = pattern(random, &tree);
        // Names may have these letters, and nothing but a prefix is refused.
        while matches!(&rule[..], b"" | b"+ " | b"- ") {
            rule = pattern(random, &tree);
        }
        match random.below(30) {
            0 => rule = b"!".to_vec(),
            1 => rule.splice(0..0, *b"+ ").for_each(drop),
            2 => rule.splice(0..0, *b"- ").for_each(drop),
            3 => rule.insert(0, b'!'),
            _ => {}
        }
        rules.push((random.below(5) < 2, rule));
    }
    Case { tree, rules, as_file: random.below(3) == 0 }
}

impl Case {
    /// The rules as a file for `--exclude-from`, with lines that have to be skipped.
    fn file(&self) -> Vec<u8> {
        let mut content = b"# comment\n\n; comment\n".to_vec();
        for (include, rule) in &self.rules {
            if *include && !rule.starts_with(b"+ ") && !rule.starts_with(b"- ") && !rule.starts_with(b"!") {
                content.extend(b"+ ");
            }
            content.extend(rule);
            content.push(b'\n');
        }
        content
    }

    fn filter(&self) -> Filter {
        let mut filter = Filter::default();
        if self.as_file {
            filter.push_lines(&self.file(), Decision::Excluded).expect("made to be right");
            return filter;
        }
        for (include, rule) in &self.rules {
            if *include { filter.push_include(rule) } else { filter.push_exclude(rule) }.expect("made to be right");
        }
        filter
    }

    fn rsync(&self, work: &Path) -> Command {
        let mut command = Command::new("rsync");
        command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default()).env("LC_ALL", "C").arg("-r").arg("--8-bit-output");
        if self.as_file {
            fs::write(work.join("rules"), self.file()).expect("write the rules");
            command.arg(format!("--exclude-from={}", work.join("rules").display()));
        } else {
            for (include, rule) in &self.rules {
                let mut option = if *include { b"--include=".to_vec() } else { b"--exclude=".to_vec() };
                option.extend(rule);
                command.arg(std::ffi::OsString::from_vec(option));
            }
        }
        command
    }

    fn describe(&self) -> String {
        let rules: Vec<String> =
            self.rules.iter().map(|(i, r)| format!("{} {}", if *i { "include" } else { "exclude" }, Shown(r))).collect();
        format!("rules (file: {}):\n  {}", self.as_file, rules.join("\n  "))
    }
}

fn make(tree: &Tree, root: &Path) {
    fs::create_dir(root).expect("mkdir");
    for (path, is_dir) in tree {
        let path = root.join(OsStr::from_bytes(path));
        if *is_dir { fs::create_dir(path) } else { fs::write(path, b"x") }.expect("make the tree");
    }
}

fn run(command: &mut Command) -> Vec<u8> {
    let output =
        command.output().unwrap_or_else(|e| panic!("rsync is the oracle of this test and cannot be run ({e}): tools/check installs it"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

fn parent(path: &[u8]) -> Option<&[u8]> {
    path.iter().rposition(|b| *b == b'/').map(|at| &path[..at])
}

/// Entries that are transferred: those included under included directories. A map's order has a directory before what it holds.
fn sent(tree: &Tree, decide: &dyn Fn(&[u8], bool) -> Decision) -> BTreeSet<Vec<u8>> {
    let mut sent = BTreeSet::new();
    for (path, is_dir) in tree {
        if parent(path).is_none_or(|dir| sent.contains(dir)) && decide(path, *is_dir) == Decision::Included {
            sent.insert(path.clone());
        }
    }
    sent
}

/// Entries that a deletion of everything spares: what is excluded, all beneath it, and the directories above it.
fn spared(tree: &Tree, decide: &dyn Fn(&[u8], bool) -> Decision) -> BTreeSet<Vec<u8>> {
    let sent = sent(tree, decide);
    let mut spared = BTreeSet::new();
    for path in tree.keys().filter(|path| !sent.contains(*path)) {
        let mut at = Some(&path[..]);
        while let Some(path) = at {
            spared.insert(path.to_vec());
            at = parent(path);
        }
    }
    spared
}

fn walk(root: &Path, prefix: &[u8], found: &mut BTreeSet<Vec<u8>>) {
    for entry in fs::read_dir(root).expect("list") {
        let entry = entry.expect("list");
        let mut path = prefix.to_vec();
        path.extend(entry.file_name().as_bytes());
        if entry.file_type().expect("type").is_dir() {
            walk(&entry.path(), &[&path[..], b"/"].concat(), found);
        }
        found.insert(path);
    }
}

fn differences(what: &str, case: &Case, ours: &BTreeSet<Vec<u8>>, theirs: &BTreeSet<Vec<u8>>) -> Result<(), String> {
    let show = |set: Vec<&Vec<u8>>| set.iter().map(|p| Shown(p).to_string()).collect::<Vec<_>>().join(", ");
    if ours == theirs {
        return Ok(());
    }
    let (only_ours, only_theirs) = (show(ours.difference(theirs).collect()), show(theirs.difference(ours).collect()));
    Err(format!("{what}\n{}\nonly ours: {only_ours}\nonly rsync's: {only_theirs}", case.describe()))
}

/// Asks rsync twice, and compares.
fn compare(case: &Case, decide: &dyn Fn(&[u8], bool) -> Decision) -> Result<(), String> {
    let work = tempfile::tempdir().expect("a temporary directory");
    let (full, empty) = (work.path().join("full"), work.path().join("empty"));
    make(&case.tree, &full);
    fs::create_dir(&empty).expect("mkdir");

    let output = run(case.rsync(work.path()).arg("-n").arg("--out-format=%n").arg(full.join("")).arg(empty.join("")));
    let theirs: BTreeSet<Vec<u8>> = output
        .split(|b| *b == b'\n')
        .map(|line| line.strip_suffix(b"/").unwrap_or(line).to_vec())
        .filter(|path| !path.is_empty() && path != b"." && !path.starts_with(b"cannot delete"))
        .collect();
    differences("sent", case, &sent(&case.tree, decide), &theirs)?;

    run(case.rsync(work.path()).arg("--delete").arg(empty.join("")).arg(full.join("")));
    let mut left = BTreeSet::new();
    walk(&full, b"", &mut left);
    differences("spared by --delete", case, &spared(&case.tree, decide), &left)
}

/// Runs one case; the numbers of its entries that are included and excluded.
fn check(seed: u64, number: u64) -> (usize, usize) {
    let case = case(&mut Random(seed.wrapping_mul(1_000_003).wrapping_add(number)));
    let filter = case.filter();
    if let Err(difference) = compare(&case, &|path, is_dir| filter.decide(path, is_dir)) {
        panic!("RINGSYNC_SEED={seed}, case {number}: {difference}");
    }
    if !filter.needs_path() {
        for (path, is_dir) in &case.tree {
            let name = parent(path).map_or(&path[..], |dir| &path[dir.len() + 1..]);
            assert_eq!(filter.decide(path, *is_dir), filter.decide(name, *is_dir), "RINGSYNC_SEED={seed}, case {number}");
        }
    }
    let sent = sent(&case.tree, &|path, is_dir| filter.decide(path, is_dir)).len();
    (sent, case.tree.len() - sent)
}

#[test]
fn decides_as_rsync_does() {
    let seed = seed();
    // rsync waits more than it computes: several at a time.
    let (included, excluded) = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS)
            .map(|thread| scope.spawn(move || (thread..CASES).step_by(THREADS as usize).map(|n| check(seed, n)).collect::<Vec<_>>()))
            .collect();
        threads.into_iter().flat_map(|t| t.join().expect("a case failed, see above")).fold((0, 0), |a, c| (a.0 + c.0, a.1 + c.1))
    });
    println!("{CASES} cases, {included} entries included, {excluded} excluded");
    assert!(excluded * 20 > included && included * 20 > excluded, "the rules hardly decide: {included} included, {excluded} excluded");
}

/// The canary: a filter that is blind to "directories only" must be found out by the same comparison.
#[test]
fn a_filter_that_is_blind_to_kinds_is_found_out() {
    let found = (0..100).any(|number| {
        let case = case(&mut Random(number));
        let filter = case.filter();
        compare(&case, &|path, _| filter.decide(path, false)).is_err()
    });
    assert!(found, "100 cases did not notice that directories are taken for files");
}
