//! `ringsync verify` and scrubs of a live mirror: what happened to a mirror is found and named, and repaired where it is to be; nothing else is touched, and
//! nothing is found where nothing is wrong.

use std::fs::{self, File, OpenOptions, Permissions};
use std::os::unix::fs::{FileExt, PermissionsExt, chown, symlink};
use std::path::Path;

use nix::fcntl::AT_FDCWD;
use nix::sys::stat::{UtimensatFlags, utimensat};
use nix::sys::time::TimeSpec;

use crate::compare::{Rules, compare, untouched};
use crate::content::whole;
use crate::ops::{Choice, Ops};
use crate::place::{Place, USER, as_user, deadline, heavy, is_root, seed, skipped, until};
use crate::program::{As, Mirror, Program, Server, Way, once};

const WAYS: [Way; 2] = [Way::Local, Way::Tcp];

/// Changes one byte so that neither length nor time tells.
fn flip(path: &Path, at: u64) {
    use std::os::unix::fs::MetadataExt;
    let file = OpenOptions::new().read(true).write(true).open(path).unwrap();
    let before = file.metadata().unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 0x40], at).unwrap();
    drop(file);
    let times = [(before.atime(), before.atime_nsec()), (before.mtime(), before.mtime_nsec())].map(|(sec, nsec)| TimeSpec::new(sec, nsec));
    utimensat(AT_FDCWD, path, &times[0], &times[1], UtimensatFlags::NoFollowSymlink).unwrap();
}

fn fill(root: &Path) {
    fs::create_dir_all(root.join("a/b")).unwrap();
    fs::create_dir(root.join("empty")).unwrap();
    for n in 0..300 {
        fs::write(root.join(format!("a/{n}")), format!("number {n}")).unwrap();
    }
    fs::write(root.join("a/b/c"), "content").unwrap();
    fs::write(root.join("none"), "").unwrap();
    fs::hard_link(root.join("a/b/c"), root.join("other name")).unwrap();
    symlink("a/b", root.join("link")).unwrap();
    // More than one part, and not a whole number of them.
    fs::write(root.join("large"), whole(1, 1, 70_000_001)).unwrap();
    fs::write(root.join("staged"), whole(1, 2, 600_000)).unwrap();
}

/// A place whose mirror is equal.
fn mirrored() -> Place {
    let place = Place::new();
    fill(&place.src);
    once(As::Us, Way::Local, &place, &[], 0);
    place
}

/// `verify`, to its end, which has to be this exit code. Returns its lines, sorted.
fn verify(who: As, dest: &str, place: &Place, args: &[&str], code: i32) -> Vec<String> {
    let mut program = Program::start(who, &[&["verify"], args, &[place.src.to_str().unwrap(), dest]].concat());
    program.ends_with(code);
    let mut lines: Vec<String> = program.stdout().lines().map(str::to_owned).collect();
    lines.sort();
    lines
}

/// The same by either way, to a writable mirror or one that must not be written to.
fn verify_by(way: Way, options: &str, place: &Place, args: &[&str], code: i32) -> Vec<String> {
    let server = (way == Way::Tcp).then(|| Server::start_with(As::Us, &place.dst, options));
    let url = server.as_ref().map(Server::url);
    verify(As::Us, url.as_deref().unwrap_or(place.dst.to_str().unwrap()), place, args, code)
}

type Spoil = (&'static str, fn(&Path), &'static [&'static str]);

/// What may happen to a mirror, and the lines that tell it. The time of a directory tells as well where it changes.
const SPOILS: &[Spoil] = &[
    ("a bit of a small file", |r| flip(&r.join("a/7"), 3), &[">fc........ a/7"]),
    ("a bit of a staged file", |r| flip(&r.join("staged"), 599_999), &[">fc........ staged"]),
    ("a bit in the last part of a large file", |r| flip(&r.join("large"), 70_000_000), &[">fc........ large"]),
    ("a file that was written", |r| fs::write(r.join("a/7"), "longer than before").unwrap(), &[">fcst...... a/7"]),
    (
        "a mode",
        |r| {
            fs::set_permissions(r.join("a/7"), Permissions::from_mode(0o600)).unwrap();
            fs::set_permissions(r.join("a/b"), Permissions::from_mode(0o700)).unwrap();
        },
        &[".d...p..... a/b", ".f...p..... a/7"],
    ),
    (
        "a mode, and a bit that it hides",
        |r| {
            flip(&r.join("a/7"), 3);
            fs::set_permissions(r.join("a/7"), Permissions::from_mode(0o600)).unwrap();
        },
        &[">fc..p..... a/7"],
    ),
    ("an extra file", |r| fs::write(r.join("empty/extra"), "x").unwrap(), &["*deleting   empty/extra", ".d..t...... empty"]),
    (
        "an extra tree",
        |r| {
            fs::create_dir_all(r.join("empty/x/y")).unwrap();
            fs::write(r.join("empty/x/y/z"), "x").unwrap();
        },
        &["*deleting   empty/x", "*deleting   empty/x/y", "*deleting   empty/x/y/z", ".d..t...... empty"],
    ),
    ("a missing file", |r| fs::remove_file(r.join("a/7")).unwrap(), &[".d..t...... a", ">f+++++++++ a/7"]),
    ("a missing tree", |r| fs::remove_dir_all(r.join("a/b")).unwrap(), &[".d..t...... a", "cd+++++++++ a/b", "hf+++++++++ a/b/c"]),
    (
        "another target",
        |r| {
            fs::remove_file(r.join("link")).unwrap();
            symlink("elsewhere", r.join("link")).unwrap();
        },
        &[".d..t...... .", "cLc.t...... link"],
    ),
    (
        "another kind",
        |r| {
            fs::remove_file(r.join("a/7")).unwrap();
            fs::create_dir(r.join("a/7")).unwrap();
            fs::write(r.join("a/7/inner"), "x").unwrap();
        },
        &[".d..t...... a", ">f+++++++++ a/7"],
    ),
];

#[test]
fn what_happened_to_a_mirror_is_named_and_not_touched() {
    let place = mirrored();
    for way in WAYS {
        assert_eq!(verify_by(way, "", &place, &[], 0), [""; 0], "{way:?}, an equal mirror");
        assert_eq!(verify_by(way, ",ro", &place, &[], 0), [""; 0], "{way:?}, an equal mirror");
    }
    for (n, (what, spoil, lines)) in SPOILS.iter().enumerate() {
        let way = WAYS[n % 2];
        spoil(&place.dst);
        let before = untouched(&place.dst);
        let found = verify_by(way, if n % 4 == 1 { ",ro" } else { "" }, &place, &[], 23);
        let found: Vec<&String> = found.iter().filter(|line| !line.contains("a/7/inner")).collect();
        assert_eq!(found, *lines, "{way:?}, {what}");
        assert!(before == untouched(&place.dst), "{way:?}, {what}: it wrote");
        verify_by(way, "", &place, &["--repair"], 0);
        let differences = compare(&place.src, &place.dst, &Rules::full());
        assert!(differences.is_empty(), "{way:?}, {what}: repaired, but {differences}");
    }
}

/// All of it at once, by a live mirror that nobody tells anything.
#[test]
fn a_scrub_of_a_live_mirror_mends_what_happened_to_it() {
    for way in WAYS {
        let place = mirrored();
        let mirror = Mirror::start(As::Us, way, &place, &["--scrub-interval", "1s"]);
        until(deadline(), || mirror.stderr().contains("the mirror is equal"));
        for (what, spoil, _) in SPOILS {
            spoil(&place.dst);
            mirror.settle(what);
        }
        assert!(until(deadline(), || mirror.stderr().contains("the mirror was scrubbed")), "{}", mirror.stderr());
        assert!(mirror.stderr().contains(">fc........ large: the mirror differs"), "{}", mirror.stderr());
        mirror.terminate();
    }
}

#[test]
fn a_scrub_that_is_to_report_changes_nothing() {
    let place = mirrored();
    let mirror = Mirror::start(As::Us, Way::Local, &place, &["--scrub-interval", "1s", "--on-drift", "report"]);
    until(deadline(), || mirror.stderr().contains("the mirror is equal"));
    flip(&place.dst.join("a/7"), 0);
    fs::write(place.dst.join("empty/extra"), "x").unwrap();
    let before = untouched(&place.dst);
    let told = || {
        let said = mirror.stderr();
        [">fc........ a/7: the mirror differs; not", "*deleting   empty/extra: the mirror differs; not", "drift=3 repaired=0"]
            .iter()
            .all(|part| said.contains(part))
    };
    assert!(until(deadline(), told), "{}", mirror.stderr());
    assert!(before == untouched(&place.dst));
}

/// A store through a mapping changes no time on tmpfs, and no event tells before the mapping goes.
#[test]
fn content_that_changed_through_a_mapping_is_found() {
    let place = mirrored();
    let mirror = Mirror::start(As::Us, Way::Local, &place, &["--scrub-interval", "1s"]);
    until(deadline(), || mirror.stderr().contains("the mirror is equal"));
    let file = OpenOptions::new().read(true).write(true).open(place.src.join("a/9")).unwrap();
    let mut map = crate::verify::map(&file);
    map[2] = b'#';
    assert_eq!(fs::read(place.src.join("a/9")).unwrap()[2], b'#');
    mirror.settle("a store through a mapping that is still there");
    drop(map);
    mirror.terminate();
}

/// A file mapped to be written.
#[allow(unsafe_code)]
fn map(file: &File) -> memmap2::MmapMut {
    // SAFETY: the file is the test's own, and nobody cuts it.
    unsafe { memmap2::MmapMut::map_mut(file).unwrap() }
}

/// No false alarm, however busy the source is.
#[test]
fn a_scrub_during_churn_accuses_nobody() {
    let _heavy = heavy();
    for way in WAYS {
        let place = Place::new();
        let seed = seed();
        println!("RINGSYNC_SEED={seed}");
        let mirror = Mirror::start(As::Us, way, &place, &["--scrub-interval", "1s", "--nice", "0"]);
        let mut ops = Ops::new(&place.src, seed, Choice::usual());
        ops.run(1500);
        let scrubs = || mirror.stderr().matches("the mirror was scrubbed").count();
        let mut rounds = 0;
        until(deadline(), || {
            ops.run(100);
            rounds += 1;
            scrubs() >= 2
        });
        mirror.settle("after the churn");
        let said = mirror.stderr();
        assert!(scrubs() >= 2, "{said}");
        assert!(!said.contains("the mirror differs"), "RINGSYNC_SEED={seed} {way:?}, {rounds} rounds:\n{said}");
        mirror.terminate();
    }
}

/// Whatever two trees hold: verify finds them equal exactly if they are, and makes them so.
#[test]
fn verify_agrees_with_the_oracle_on_random_trees() {
    for way in WAYS {
        let place = Place::new();
        let seed = seed();
        println!("RINGSYNC_SEED={seed}");
        Ops::new(&place.src, seed, Choice::usual()).run(1500);
        Ops::new(&place.dst, seed + 1, Choice::usual()).run(1500);
        let before = untouched(&place.dst);
        assert!(!verify_by(way, "", &place, &[], 23).is_empty());
        assert!(before == untouched(&place.dst), "{way:?}: it wrote");
        verify_by(way, "", &place, &["--repair"], 0);
        let differences = compare(&place.src, &place.dst, &Rules::full());
        assert!(differences.is_empty(), "{way:?}: {differences}");
        assert_eq!(verify_by(way, "", &place, &[], 0), [""; 0], "{way:?}");
    }
}

#[test]
fn verify_says_the_same_as_rsync() {
    if std::process::Command::new("rsync").arg("--version").output().is_err() {
        return skipped("verify_says_the_same_as_rsync", "no rsync");
    }
    let place = mirrored();
    // Where rsync has a line of its own for the same: the other name of a file, and what is in the way.
    for (what, spoil, _) in SPOILS.iter().filter(|(what, ..)| !["a missing tree", "another kind", "another target"].contains(what)) {
        spoil(&place.dst);
        let (src, dst) = (format!("{}/", place.src.display()), format!("{}/", place.dst.display()));
        let said = std::process::Command::new("rsync").args(["-aHcni", "--delete", &src, &dst]).output().unwrap();
        let mut theirs: Vec<String> = String::from_utf8(said.stdout)
            .unwrap()
            .lines()
            .map(|line| line.trim_end_matches('/').replace(" ./", " .").replace("*deleting    ", "*deleting   "))
            .collect();
        theirs.sort();
        assert_eq!(verify_by(Way::Local, "", &place, &[], 23), theirs, "{what}");
        verify_by(Way::Local, "", &place, &["--repair"], 0);
    }
}

/// Another mode alone, or one that hides another content: each is told once, of an object with several names too, and all is repaired in the one run or pass.
#[test]
fn another_mode_hides_no_content() {
    let lines = [".f...p..... a/7", ">fc..p..... a/8", ">fc..p..... other name"];
    let spoil = |names: &[&str]| {
        for name in names {
            fs::set_permissions(name, Permissions::from_mode(0o600)).unwrap();
        }
        names[1..].iter().for_each(|name| flip(Path::new(name), 1));
    };
    let place = mirrored();
    let names = ["a/7", "a/8", "other name"].map(|name| place.dst.join(name).to_str().unwrap().to_owned());
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    spoil(&names);
    assert_eq!(verify_by(Way::Local, "", &place, &[], 23), lines);
    assert_eq!(verify_by(Way::Tcp, "", &place, &["--repair"], 0), lines);
    assert_eq!(verify_by(Way::Local, "", &place, &[], 0), [""; 0]);
    let mirror = Mirror::start(As::Us, Way::Local, &place, &["--scrub-interval", "1s"]);
    until(deadline(), || mirror.stderr().contains("the mirror is equal"));
    spoil(&names[..2]);
    // The pass that finds them is the one that mends them, and finds them once.
    assert!(until(deadline(), || mirror.stderr().contains("drift=2 repaired=2 unsure=0")), "{}", mirror.stderr());
    let said = mirror.stderr();
    assert!(lines[..2].iter().all(|line| said.matches(&format!("{line}: the mirror differs")).count() == 1), "{said}");
    let differences = compare(&place.src, &place.dst, &Rules::full());
    assert!(differences.is_empty(), "{differences}");
    mirror.terminate();
}

/// Another time alone: the content decides what is said.
#[test]
fn another_time_is_told_from_another_content() {
    let place = mirrored();
    File::options().write(true).open(place.dst.join("a/7")).unwrap().set_modified(std::time::UNIX_EPOCH).unwrap();
    flip(&place.dst.join("a/8"), 1);
    File::options().write(true).open(place.dst.join("a/8")).unwrap().set_modified(std::time::UNIX_EPOCH).unwrap();
    assert_eq!(verify_by(Way::Local, "", &place, &[], 23), [".f..t...... a/7", ">fc.t...... a/8"]);
}

#[test]
fn rules_and_options_hold_for_verify_too() {
    let place = mirrored();
    fs::write(place.dst.join("a/extra.o"), "x").unwrap();
    flip(&place.dst.join("a/8"), 1);
    let line = |line: &str| vec![".d..t...... a".to_owned(), line.to_owned()];
    assert_eq!(verify_by(Way::Local, "", &place, &["--exclude", "*.o"], 23), line(">fc........ a/8"));
    assert_eq!(verify_by(Way::Local, "", &place, &["--exclude", "8", "--no-delete"], 23), [".d..t...... a"]);
    let all = verify_by(Way::Local, "", &place, &["--exclude", "8"], 23);
    assert_eq!(all, ["*deleting   a/extra.o", ".d..t...... a"]);
    let json = verify_by(Way::Local, "", &place, &["--json", "--exclude", "*.o"], 23);
    assert!(json.iter().any(|line| line == "{\"change\":\">fc........\",\"path\":\"a/8\"}"), "{json:?}");
    assert!(json.iter().any(|line| line.contains("\"differences\":2,") && line.contains("\"equal\":false")), "{json:?}");
}

#[test]
fn a_destination_that_is_missing_is_not_made() {
    let place = mirrored();
    let missing = place.beside("missing");
    verify(As::Us, missing.to_str().unwrap(), &place, &[], 11);
    assert!(!missing.exists());
    let server = Server::start(As::Us, &place.dst);
    verify(As::Us, &format!("{}/missing", server.url()), &place, &[], 5);
    assert!(!place.dst.join("missing").exists());
}

/// Who only looks is in nobody's way, neither a mirror's that goes on nor that of what it has in staging.
#[test]
fn verify_goes_on_beside_a_live_mirror() {
    let place = mirrored();
    let mirror = Mirror::start(As::Us, Way::Tcp, &place, &[]);
    mirror.settle("at the start");
    let url = mirror.server.as_ref().unwrap().url();
    assert_eq!(verify(As::Us, &url, &place, &[], 0), [""; 0]);
    fs::write(place.src.join("a/new"), "new").unwrap();
    fs::write(place.src.join("large2"), whole(3, 3, 3_000_000)).unwrap();
    mirror.settle("beside a verification");
    assert!(!mirror.stderr().contains("connecting again"), "{}", mirror.stderr());
    mirror.terminate();
}

#[test]
fn an_ordinary_user_verifies_and_repairs() {
    if !is_root() {
        return skipped("an_ordinary_user_verifies_and_repairs", "needs root");
    }
    let place = Place::new().for_user();
    as_user(|| fill(&place.src));
    for path in ["a", "a/b", "empty"] {
        chown(place.src.join(path), Some(USER), Some(USER)).unwrap();
    }
    once(As::User, Way::Tcp, &place, &[], 0);
    let dst = place.dst.to_str().unwrap();
    assert_eq!(verify(As::User, dst, &place, &[], 0), [""; 0]);
    flip(&place.dst.join("a/7"), 1);
    // What cannot be read is said, and is no difference.
    fs::set_permissions(place.src.join("a/8"), Permissions::from_mode(0o0)).unwrap();
    fs::set_permissions(place.dst.join("a/8"), Permissions::from_mode(0o0)).unwrap();
    assert_eq!(verify(As::User, dst, &place, &[], 23), [">fc........ a/7"]);
    fs::set_permissions(place.src.join("a/8"), Permissions::from_mode(0o644)).unwrap();
    verify(As::User, dst, &place, &["--repair"], 0);
    assert_eq!(verify(As::User, dst, &place, &[], 0), [""; 0]);
}

/// What a large file was made from in the mirror is not what it was: a change of the source goes whole, and so does what a scrub mends.
#[test]
fn no_delta_builds_on_what_is_not_there_any_more() {
    let place = Place::new();
    let mirror = Mirror::start(As::Us, Way::Tcp, &place, &["--scrub-interval", "1s"]);
    let (src, dst) = (place.src.join("large"), place.dst.join("large"));
    fs::write(&src, whole(1, 1, 3_000_000)).unwrap();
    mirror.settle("a large file");
    for n in 0..4 {
        flip(&dst, 500_000 * n + 7);
        if n % 2 == 0 {
            use std::io::Write;
            File::options().append(true).open(&src).unwrap().write_all(b"more").unwrap();
        }
        mirror.settle("a large file whose mirror was spoilt");
    }
    mirror.terminate();
}

/// The rate holds for what is read: 4.5 MiB at 2 MiB a second take two seconds at least, whatever the machine.
#[test]
fn the_rate_is_kept() {
    let place = Place::new();
    for n in 0..9 {
        fs::write(place.src.join(n.to_string()), whole(1, n, 512 * 1024)).unwrap();
    }
    once(As::Us, Way::Local, &place, &[], 0);
    let began = std::time::Instant::now();
    assert_eq!(verify_by(Way::Tcp, "", &place, &["--bwlimit", "2M"], 0), [""; 0]);
    let took = began.elapsed().as_secs_f64();
    assert!(took > 1.9, "{took} s");
}

/// A stopped verification says so, and does not hang on its rate.
#[test]
fn a_signal_ends_it() {
    let place = mirrored();
    let mut program = Program::start(As::Us, &["verify", "--bwlimit", "100", place.src.to_str().unwrap(), place.dst.to_str().unwrap()]);
    // Once it compares: it sleeps for its rate then.
    until(deadline(), || fs::read_dir(format!("/proc/{}/task", program.pid())).map_or(0, Iterator::count) > 4);
    program.terminate();
    assert_eq!(program.stdout(), "");
}
