//! Real input under a live mirror: what is installed on this machine, a cargo registry, a repository of source; then the tools that change such trees.
//!
//! `RINGSYNC_REAL_MB` bounds what is taken of each.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::place::{Place, heavy, number, skipped};
use crate::program::{As, Mirror, Way, once};
use crate::tools::{has, tool};

const WAYS: [Way; 2] = [Way::Local, Way::Tcp];

fn text(path: &Path) -> &str {
    path.to_str().expect("a path without surprises")
}

/// Bytes on disk beneath `path`, in kibibytes.
fn kib(path: &Path) -> u64 {
    let output = Command::new("du").arg("-sk").arg(path).output().expect("du");
    String::from_utf8_lossy(&output.stdout).split_whitespace().next().and_then(|n| n.parse().ok()).unwrap_or(u64::MAX)
}

/// The entries of `dir`, by name, as many as the bound allows.
fn bounded(dir: &Path) -> Vec<PathBuf> {
    let mut room = number("RINGSYNC_REAL_MB", 60u64) * 1024;
    let mut entries: Vec<PathBuf> = fs::read_dir(dir).into_iter().flatten().filter_map(|e| Some(e.ok()?.path())).collect();
    entries.sort();
    entries.retain(|entry| {
        let size = kib(entry);
        let fits = size <= room;
        room -= if fits { size } else { 0 };
        fits
    });
    entries
}

/// The directory of the unpacked sources of the registry that this machine's cargo has.
fn registry() -> Option<PathBuf> {
    let home =
        std::env::var_os("CARGO_HOME").map(PathBuf::from).or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cargo")))?;
    fs::read_dir(home.join("registry/src"))
        .ok()?
        .filter_map(|e| Some(e.ok()?.path()))
        .max_by_key(|path| fs::read_dir(path).map_or(0, Iterator::count))
}

/// `cp -a` of each, into `dir`.
fn copy(entries: &[PathBuf], dir: &Path) {
    fs::create_dir_all(dir).expect("mkdir");
    for entry in entries {
        tool(dir, "cp", &["-a", text(entry), "."]);
    }
}

/// A tree is mirrored; then its large directories are moved, packed, removed and unpacked again.
fn large_tree(way: Way, name: &str, entries: &[PathBuf]) {
    let place = Place::new();
    let all = place.src.join("all");
    copy(entries, &all);
    let mirror = Mirror::start(As::Us, way, &place, &["--allow-empty"]);
    let settle = |what: &str| mirror.settle(&format!("{name}, {way:?}: {what}"));
    settle("first sync");
    let archive = place.beside("archive.tar");
    tool(&place.src, "tar", &["cf", text(&archive), "all"]);
    tool(&place.src, "mv", &["all", "moved"]);
    settle("mv");
    tool(&place.src, "tar", &["xf", text(&archive)]);
    settle("tar x");
    tool(&place.src, "rm", &["-rf", "moved"]);
    settle("rm -rf");
    // Everything at once: the new tree is renamed while it comes, the old one goes.
    tool(&place.src, "sh", &["-c", "mkdir in && tar xf \"$0\" -C in & rm -rf all & wait && mv in/all again && rmdir in", text(&archive)]);
    settle("rm -rf beside tar x, then mv");
    tool(&place.src, "cp", &["-al", "again", "linked"]);
    settle("cp -al: each file gets a second name");
    tool(&place.src, "rm", &["-rf", "again"]);
    settle("the first names go");
    tool(&place.src, "chmod", &["-R", "go-rwx", "linked"]);
    settle("chmod -R");
    tool(&place.src, "rm", &["-rf", "linked"]);
    settle("nothing left");
    mirror.terminate();
}

#[test]
fn usr_share() {
    let _one = heavy();
    let entries = bounded(Path::new("/usr/share"));
    WAYS.iter().for_each(|way| large_tree(*way, "/usr/share", &entries));
}

#[test]
fn usr_share_where_it_lies() {
    let _one = heavy();
    // The largest directory within the bound, mirrored from its own filesystem.
    let Some(src) =
        bounded(Path::new("/usr/share")).into_iter().filter(|path| path.is_dir() && !path.is_symlink()).max_by_key(|path| kib(path))
    else {
        return skipped("usr_share_where_it_lies", "/usr/share is empty");
    };
    for way in WAYS {
        let mut place = Place::new();
        place.src.clone_from(&src);
        once(As::Us, way, &place, &[], 0);
        let differences = crate::compare::compare(&place.src, &place.dst, &crate::compare::Rules::full());
        assert!(differences.is_empty(), "{}, {way:?}:\n{differences}", src.display());
        let before = crate::compare::untouched(&place.dst);
        once(As::Us, way, &place, &[], 0);
        assert!(before == crate::compare::untouched(&place.dst), "{}, {way:?}: a second run wrote", src.display());
    }
}

#[test]
fn cargo_registry() {
    let _one = heavy();
    let Some(registry) = registry() else { return skipped("cargo_registry", "no unpacked registry") };
    let entries = bounded(&registry);
    WAYS.iter().for_each(|way| large_tree(*way, "registry", &entries));
}

#[test]
fn git_checkout() {
    let _one = heavy();
    let Some(registry) = registry() else { return skipped("git_checkout", "no unpacked registry to make a repository of") };
    if !has("git_checkout", "git") {
        return;
    }
    let crates = bounded(&registry);
    for way in WAYS {
        let place = Place::new();
        let git = |args: &[&str]| drop(tool(&place.src, "git", args));
        git(&["init", "-q", "-b", "main"]);
        // Revisions far apart: other crates, the same crates elsewhere, other contents of the same files.
        let third = crates.len() / 3;
        for (revision, part) in [&crates[..third * 2], &crates[third..], &crates[..third]].into_iter().enumerate() {
            if revision > 0 {
                git(&["rm", "-rq", "vendor"]);
            }
            copy(part, &place.src.join("vendor"));
            if revision == 1 {
                tool(&place.src, "mv", &["vendor", "moved"]);
                tool(&place.src, "mkdir", &["vendor"]);
                tool(&place.src, "mv", &["moved", "vendor/deeper"]);
            }
            if revision == 2 {
                tool(
                    &place.src,
                    "sh",
                    &["-c", "find vendor -name '*.rs' -exec sh -c 'for f; do echo \"// revised\" >>\"$f\"; done' sh {} +"],
                );
            }
            git(&["add", "-Af"]);
            git(&["commit", "-q", "-m", "revision"]);
            git(&["tag", &format!("r{revision}")]);
        }
        let mirror = Mirror::start(As::Us, way, &place, &["--allow-empty"]);
        let settle = |what: &str| mirror.settle(&format!("git, {way:?}: {what}"));
        settle("first sync");
        for tag in ["r0", "r1", "r2", "r0", "r2", "r1"] {
            git(&["checkout", "-q", tag]);
            settle(&format!("checkout of {tag}"));
        }
        // Back and forth without a rest in between.
        for tag in ["r0", "r1", "r2", "r1", "r0"] {
            git(&["checkout", "-q", tag]);
        }
        settle("checkouts in a row");
        git(&["gc", "-q"]);
        settle("gc");
        git(&["clean", "-qfdx"]);
        git(&["worktree", "add", "-q", "worktree", "r2"]);
        settle("a worktree");
        tool(&place.src, "rm", &["-rf", "worktree", "vendor"]);
        git(&["checkout", "-q", "-f", "r1"]);
        settle("removed and checked out again");
        mirror.terminate();
    }
}

/// A program of a few modules, and the sources of what it needs from the registry, so that no network is asked.
fn program_source(root: &Path, registry: Option<PathBuf>) {
    let mut dependencies = String::new();
    // Crates without dependencies of their own.
    for name in ["memchr", "itoa", "cfg-if"] {
        let found = registry.iter().flat_map(bounded_by_name(name)).next();
        if let Some(path) = found {
            copy(std::slice::from_ref(&path), &root.join("vendor"));
            let dir = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
            dependencies += &format!("{name} = {{ path = \"vendor/{dir}\" }}\n");
        }
    }
    let manifest = format!(
        "[package]\nname = \"sample\"\nversion = \"0.1.0\"\nedition = \"2021\"\n[dependencies]\n{dependencies}[workspace]\nexclude = [\"vendor\"]\n"
    );
    fs::create_dir_all(root.join("src")).expect("mkdir");
    fs::write(root.join("Cargo.toml"), manifest).expect("write");
    let mut main = String::new();
    for n in 0..20 {
        fs::write(root.join(format!("src/m{n}.rs")), format!("pub fn value() -> usize {{ {n} }}\n")).expect("write");
        main += &format!("mod m{n};\n");
    }
    main += "fn main() { println!(\"{}\", m0::value() + m19::value()); }\n";
    fs::write(root.join("src/main.rs"), main).expect("write");
}

fn bounded_by_name(name: &'static str) -> impl Fn(&PathBuf) -> Vec<PathBuf> {
    move |registry| {
        let versions = fs::read_dir(registry).into_iter().flatten().filter_map(|e| Some(e.ok()?.path()));
        let is = |path: &PathBuf| {
            let file = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
            file.strip_prefix(name)
                .and_then(|rest| rest.strip_prefix('-'))
                .is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
        };
        versions.filter(is).collect()
    }
}

#[test]
fn cargo_build() {
    let _one = heavy();
    if !has("cargo_build", "cargo") {
        return;
    }
    for way in WAYS {
        let place = Place::new();
        program_source(&place.src, registry());
        let mirror = Mirror::start(As::Us, way, &place, &["--allow-empty"]);
        let settle = |what: &str| mirror.settle(&format!("cargo, {way:?}: {what}"));
        settle("source");
        tool(&place.src, "cargo", &["build", "--offline", "-q"]);
        settle("build");
        fs::write(place.src.join("src/m0.rs"), "pub fn value() -> usize { 100 }\n").expect("write");
        tool(&place.src, "cargo", &["build", "--offline", "-q"]);
        settle("build of a change");
        tool(&place.src, "mv", &["target", "old-target"]);
        tool(&place.src, "cargo", &["build", "--offline", "-q", "--release"]);
        settle("mv of the target directory and a release build");
        tool(&place.src, "cargo", &["clean", "-q"]);
        tool(&place.src, "rm", &["-rf", "old-target"]);
        settle("clean");
        mirror.terminate();
    }
}
