//! A repository at work: commits, branches, merges, and all that git does to tidy up. Its mirror is one that git finds nothing wrong with.

use std::fs;
use std::path::Path;

use super::{numbers, rounds};
use crate::place::Place;
use crate::program::{As, Mirror, Way};
use crate::rng::Rng;
use crate::tools::{has, tool};

/// The commit graph may name what was pruned since it was written, in the source too.
const FSCK: &[&str] = &["-c", "core.commitGraph=false", "fsck", "--full", "--strict", "--no-dangling"];

struct Repository<'a> {
    dir: &'a Path,
    rng: Rng,
    branches: Vec<String>,
    steps: usize,
}

impl<'a> Repository<'a> {
    fn new(dir: &'a Path, rng: Rng) -> Self {
        let mut new = Self { dir, rng, branches: vec!["main".to_owned()], steps: 0 };
        new.git(&["init", "-q", "-b", "main"]);
        // What works on in the background would disturb a rest.
        for setting in [["gc.auto", "0"], ["maintenance.auto", "false"], ["gc.autoDetach", "false"]] {
            new.git(&[&["config"][..], &setting].concat());
        }
        new.commit();
        new
    }

    fn git(&self, args: &[&str]) {
        tool(self.dir, "git", args);
    }

    fn edit(&mut self) {
        for _ in 0..1 + self.rng.below(8) {
            let path = self.dir.join(format!("d{}/f{}", self.rng.below(5), self.rng.below(12)));
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            if self.rng.chance(15) {
                let _ = fs::remove_file(path);
            } else {
                let text: String = (0..self.rng.below(400)).map(|_| format!("{:x}\n", self.rng.next())).collect();
                fs::write(path, text).unwrap();
            }
        }
    }

    fn commit(&mut self) {
        self.edit();
        self.git(&["add", "-A"]);
        self.git(&["commit", "-q", "--allow-empty", "-m", "change"]);
    }

    fn step(&mut self) {
        self.steps += 1;
        let branch = self.rng.below(self.branches.len());
        match self.rng.below(30) {
            0 => {
                let name = format!("b{}/topic", self.steps);
                self.git(&["switch", "-q", "-c", &name]);
                self.branches.push(name);
            }
            1..4 => self.git(&["switch", "-q", &self.branches[branch]]),
            4 | 5 => self.git(&["merge", "-q", "-s", "ours", "-m", "merge", &self.branches[branch]]),
            6 if self.branches.len() > 2 => {
                self.git(&["switch", "-q", "main"]);
                let gone = self.branches.remove(branch.max(1));
                self.git(&["branch", "-q", "-D", &gone]);
            }
            7 => self.git(&["commit", "-q", "--amend", "--allow-empty", "-m", "amended"]),
            8 => self.git(&["tag", "-a", "-m", "tagged", &format!("v{}", self.steps)]),
            9 => {
                self.edit();
                self.git(&["stash", "-q", "-u"]);
                self.git(&["stash", "clear"]);
            }
            10 => {
                self.git(&["reflog", "expire", "--expire=now", "--all"]);
                self.git(&["gc", "-q", "--prune=now"]);
            }
            11 => self.git(&["repack", "-q", "-a", "-d", "-f"]),
            12 => self.git(&["repack", "-q", "-d"]),
            13 => self.git(&["pack-refs", "--all"]),
            14 => self.git(&["commit-graph", "write", "--reachable"]),
            15 => {
                self.edit();
                self.git(&["reset", "-q", "--hard"]);
                self.git(&["clean", "-qfd"]);
            }
            _ => self.commit(),
        }
    }
}

fn a_repository(way: Way) {
    if !has("a_repository", "git") {
        return;
    }
    let (seed, rng) = numbers();
    let place = Place::new();
    let mut repository = Repository::new(&place.src, rng);
    let mirror = Mirror::start(As::Us, way, &place, &[]);
    rounds(
        || repository.step(),
        |round| {
            mirror.settle(&format!("RINGSYNC_SEED={seed}, {way:?}: {round}"));
            tool(&place.dst, "git", FSCK);
            let status = tool(&place.dst, "git", &["status", "--porcelain"]);
            assert_eq!(String::from_utf8_lossy(&status), "", "RINGSYNC_SEED={seed}, {way:?}: {round}");
        },
    );
    // All of it at once, without a rest.
    repository.git(&["gc", "-q", "--aggressive", "--prune=now"]);
    mirror.settle(&format!("RINGSYNC_SEED={seed}, {way:?}: the end"));
    tool(&place.dst, "git", FSCK);
    println!("{way:?}: {} steps, {} branches", repository.steps, repository.branches.len());
    mirror.terminate();
}

#[test]
fn a_repository_at_work_local() {
    a_repository(Way::Local);
}

#[test]
fn a_repository_at_work_tcp() {
    a_repository(Way::Tcp);
}
