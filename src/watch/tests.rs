//! The watcher on live filesystems: tmpfs and the one of the temporary directory, and, as root, ones that are mounted for the test.
//!
//! Where fanotify is not to be had (not root), its tests say that they are skipped.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};

use super::*;
use crate::model::event::{Event, Hint};
use crate::sys::wake::Wake;

const DEADLINE: Duration = Duration::from_secs(30);
const BOTH: [WatchChoice; 2] = [WatchChoice::Fanotify, WatchChoice::Inotify];

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Seen {
    key: Vec<u8>,
    name: Vec<u8>,
    hint: u16,
    object: Option<(u64, u64)>,
}

/// A watch and all that it has said.
struct Fixture {
    watch: Watch,
    batches: Batches,
    wake: Wake,
    stats: Arc<Stats>,
    seen: Vec<Seen>,
    overflows: usize,
}

impl Fixture {
    fn new(choice: WatchChoice) -> Self {
        let (wake, stats) = (Wake::new().unwrap(), Arc::new(Stats::default()));
        let (watch, batches) = Watch::start(choice, Path::new("/etc"), Bell::new(wake.clone()), Arc::clone(&stats)).unwrap();
        Self { watch, batches, wake, stats, seen: Vec::new(), overflows: 0 }
    }

    fn cover(&self, path: &Path) -> Key {
        let dir = Dir::open_root(path).unwrap();
        let covered = self.watch.coverer().cover(&dir, &dir.stat().unwrap()).unwrap();
        assert!(!covered.degraded);
        covered.key.unwrap()
    }

    fn take(&mut self) {
        while let Some(batch) = self.batches.next() {
            batch.for_each(|event| match event {
                Event::At { key, name, hint, object, .. } => {
                    self.seen.push(Seen { key: key.into(), name: name.into(), hint: hint.0, object })
                }
                Event::Overflow => self.overflows += 1,
            });
        }
    }

    /// Takes events until `done` says so of all that were seen.
    fn until(&mut self, what: &str, mut done: impl FnMut(&Self) -> bool) {
        let deadline = Instant::now() + DEADLINE;
        loop {
            self.take();
            if done(self) {
                return;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "no {what} among {:?}", &self.seen[self.seen.len().saturating_sub(50)..]);
            self.wake.wait(Some(left));
        }
    }

    /// All hints seen for a name.
    fn hints(&self, key: &Key, name: &[u8]) -> Hint {
        self.seen.iter().filter(|s| *s.key == *key.0 && s.name == name).fold(Hint::default(), |all, s| all | Hint(s.hint))
    }

    /// Takes events until each of `wanted` has been seen for the name.
    fn expect(&mut self, key: &Key, name: &str, wanted: &[Hint]) {
        self.until(&format!("{name:?} {wanted:?}"), |f| wanted.iter().all(|h| f.hints(key, name.as_bytes()).has(*h)));
    }
}

fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// Runs `test` with each backend on each of two filesystems; fanotify for root only.
fn everywhere(test: impl Fn(WatchChoice, &Path)) {
    for choice in BOTH {
        if choice == WatchChoice::Fanotify && !is_root() {
            println!("skipped with fanotify: not root");
            continue;
        }
        for base in [Path::new("/dev/shm"), &std::env::temp_dir()] {
            let tmp = tempfile::tempdir_in(base).unwrap();
            println!("{choice:?} in {}", tmp.path().display());
            test(choice, tmp.path());
        }
    }
}

/// Runs `test` in a mount namespace of its own, in a directory that is a fresh tmpfs: all that it mounts is gone with its thread.
fn with_mounts(test: impl FnOnce(&Path) + Send) {
    if !is_root() {
        println!("skipped: mounting takes root");
        return;
    }
    let tmp = tempfile::tempdir().unwrap();
    std::thread::scope(|scope| {
        let run = scope.spawn(|| {
            if let Err(e) = unshare(CloneFlags::CLONE_NEWNS) {
                println!("skipped: no mount namespace ({e})");
                return;
            }
            mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>).unwrap();
            mount(Some("tmpfs"), tmp.path(), Some("tmpfs"), MsFlags::empty(), None::<&str>).unwrap();
            test(tmp.path());
        });
        if let Err(panic) = run.join() {
            std::panic::resume_unwind(panic);
        }
    });
}

/// Whether the command could be run, and did well.
fn run(program: &str, args: &[&std::ffi::OsStr]) -> bool {
    match Command::new(program).args(args).output() {
        Ok(output) if output.status.success() => true,
        other => {
            println!("{program} {args:?}: {other:?}");
            false
        }
    }
}

/// A file of so many bytes, formatted by `program`, and mounted. `false`: that is not to be had here.
fn mount_image(program: &str, image: &Path, bytes: u64, at: &Path) -> bool {
    File::create(image).unwrap().set_len(bytes).unwrap();
    fs::create_dir(at).unwrap();
    run(program, &[image.as_ref()]) && run("mount", &["-o".as_ref(), "loop".as_ref(), image.as_ref(), at.as_ref()])
}

#[test]
fn each_change_says_where_to_look() {
    everywhere(|choice, tmp| {
        let mut f = Fixture::new(choice);
        fs::create_dir(tmp.join("d")).unwrap();
        let (root, d) = (f.cover(tmp), f.cover(&tmp.join("d")));
        assert_ne!(root, d);

        fs::write(tmp.join("file"), b"content").unwrap();
        f.expect(&root, "file", &[Hint::APPEARED, Hint::WRITTEN, Hint::CLOSED]);
        f.seen.clear();
        fs::set_permissions(tmp.join("file"), PermissionsExt::from_mode(0o600)).unwrap();
        f.expect(&root, "file", &[Hint::ATTRIB]);
        assert!(!f.hints(&root, b"file").has(Hint::DIR));
        f.seen.clear();
        fs::rename(tmp.join("file"), tmp.join("d/\u{e9}\n")).unwrap();
        f.expect(&root, "file", &[Hint::WENT]);
        f.expect(&d, "\u{e9}\n", &[Hint::APPEARED]);
        f.seen.clear();
        fs::hard_link(tmp.join("d/\u{e9}\n"), tmp.join("link")).unwrap();
        f.expect(&root, "link", &[Hint::APPEARED]);
        f.seen.clear();
        fs::remove_file(tmp.join("d/\u{e9}\n")).unwrap();
        f.expect(&d, "\u{e9}\n", &[Hint::WENT]);
        f.seen.clear();
        let long = "x".repeat(255);
        std::os::unix::fs::symlink("nowhere", tmp.join(&long)).unwrap();
        f.expect(&root, &long, &[Hint::APPEARED]);
        f.seen.clear();
        fs::create_dir(tmp.join("new")).unwrap();
        f.expect(&root, "new", &[Hint::APPEARED, Hint::DIR]);
        f.seen.clear();
        fs::set_permissions(tmp.join("d"), PermissionsExt::from_mode(0o700)).unwrap();
        f.expect(&d, "", &[Hint::ATTRIB, Hint::DIR]);
        f.seen.clear();
        fs::remove_dir(tmp.join("new")).unwrap();
        f.expect(&root, "new", &[Hint::WENT, Hint::DIR]);
        assert_eq!(f.overflows, 0);
        assert!(f.stats.events.get() >= 9);
    });
}

/// Whoever covers first and lists then knows of every file, be it from the list or from an event.
#[test]
fn covering_leaves_no_gap() {
    everywhere(|choice, tmp| {
        let mut f = Fixture::new(choice);
        for round in 0..20 {
            let path = tmp.join(format!("dir-{round}"));
            fs::create_dir(&path).unwrap();
            let listing_done = AtomicBool::new(false);
            let count = std::thread::scope(|scope| {
                let writer = scope.spawn(|| {
                    let mut count = 0;
                    while count < 20 || !listing_done.load(Ordering::Acquire) {
                        File::create(path.join(count.to_string())).unwrap();
                        count += 1;
                    }
                    count
                });
                let key = f.cover(&path);
                let mut known = HashSet::new();
                Dir::open_root(&path).unwrap().list(|n| known.extend([n.as_bytes().to_vec()])).unwrap();
                listing_done.store(true, Ordering::Release);
                let count: i32 = writer.join().unwrap();
                f.until("file that was neither listed nor reported", |f| {
                    known.extend(f.seen.iter().filter(|s| *s.key == *key.0).map(|s| s.name.clone()));
                    (0..count).all(|i| known.contains(i.to_string().as_bytes()))
                });
                count
            });
            f.seen.clear();
            assert!(count >= 20);
        }
    });
}

#[test]
fn a_renamed_directory_keeps_its_key() {
    everywhere(|choice, tmp| {
        let mut f = Fixture::new(choice);
        fs::create_dir(tmp.join("a")).unwrap();
        fs::create_dir(tmp.join("other")).unwrap();
        let (root, a, other) = (f.cover(tmp), f.cover(&tmp.join("a")), f.cover(&tmp.join("other")));
        fs::rename(tmp.join("a"), tmp.join("other/b")).unwrap();
        f.expect(&root, "a", &[Hint::WENT, Hint::MOVED]);
        f.expect(&other, "b", &[Hint::APPEARED, Hint::DIR, Hint::MOVED]);
        File::create(tmp.join("other/b/file")).unwrap();
        f.expect(&a, "file", &[Hint::APPEARED]);
        assert_eq!(f.cover(&tmp.join("other/b")), a);

        let parent = Dir::open_root(&tmp.join("other")).unwrap();
        let name = Name::new(b"b").unwrap();
        let key = f.watch.coverer().key_at(&parent, name, &parent.stat_at(name).unwrap());
        assert_eq!(key, (choice == WatchChoice::Fanotify).then_some(a));
        let dir = Dir::open_root(&tmp.join("other/b")).unwrap();
        let name = Name::new(b"file").unwrap();
        assert_eq!(f.watch.coverer().key_at(&dir, name, &dir.stat_at(name).unwrap()), None);
    });
}

/// What was changed through one hard link is told as the object, by the numbers that `stat` gives; for the type of filesystem that is served.
fn tells_objects(tmp: &Path) {
    let mut f = Fixture::new(WatchChoice::Fanotify);
    fs::write(tmp.join("first"), b"content").unwrap();
    let root = f.cover(tmp);
    assert!(f.watch.watching()[0].to_string().contains("inodes"), "{:?}", f.watch.watching());
    println!("{:?}", f.watch.watching());
    let dir = Dir::open_root(tmp).unwrap();
    let ident = dir.stat_at(Name::new(b"first").unwrap()).unwrap().ident;
    fs::hard_link(tmp.join("first"), tmp.join("second")).unwrap();
    fs::write(tmp.join("second"), b"other").unwrap();
    fs::remove_file(tmp.join("second")).unwrap();
    std::os::unix::fs::symlink("to", tmp.join("link")).unwrap();
    let link = dir.stat_at(Name::new(b"link").unwrap()).unwrap().ident;
    std::os::unix::fs::lchown(tmp.join("link"), Some(1), Some(1)).unwrap();
    fs::create_dir(tmp.join("dir")).unwrap();
    fs::set_permissions(tmp.join("dir"), fs::Permissions::from_mode(0o700)).unwrap();
    File::create(tmp.join("last")).unwrap();
    f.expect(&root, "last", &[Hint::APPEARED]);
    let told = |name: &[u8], hint: Hint| {
        f.seen.iter().filter(|s| s.name == name && Hint(s.hint).has(hint)).map(|s| s.object).collect::<HashSet<_>>()
    };
    assert_eq!(told(b"second", Hint::WRITTEN), HashSet::from([Some((ident.dev, ident.ino))]));
    assert_eq!(told(b"link", Hint::ATTRIB), HashSet::from([Some((link.dev, link.ino))]));
    assert_eq!(told(b"dir", Hint::DIR), HashSet::from([None]));
}

#[test]
fn a_changed_object_is_told_whatever_its_name() {
    everywhere(|choice, tmp| {
        if choice == WatchChoice::Fanotify {
            tells_objects(tmp);
        }
    });
    with_mounts(|tmp| {
        for (mkfs, bytes) in [("mkfs.ext4", 20 << 20), ("mkfs.xfs", 400 << 20), ("mkfs.btrfs", 200 << 20)] {
            let at = tmp.join(mkfs);
            if mount_image(mkfs, &tmp.join(format!("{mkfs}-image")), bytes, &at) {
                tells_objects(&at);
            } else {
                println!("skipped: no {mkfs} here");
            }
        }
    });
}

#[test]
fn a_deleted_or_forgotten_inotify_watch_says_that_its_key_is_dead() {
    let tmp = tempfile::tempdir().unwrap();
    let mut f = Fixture::new(WatchChoice::Inotify);
    fs::create_dir(tmp.path().join("a")).unwrap();
    fs::create_dir(tmp.path().join("b")).unwrap();
    let (a, b) = (f.cover(&tmp.path().join("a")), f.cover(&tmp.path().join("b")));
    fs::remove_dir(tmp.path().join("a")).unwrap();
    f.expect(&a, "", &[Hint::KEY_DEAD]);
    assert!(!f.hints(&b, b"").has(Hint::KEY_DEAD));
    let coverer = f.watch.coverer();
    coverer.forget(&b);
    f.expect(&b, "", &[Hint::KEY_DEAD]);
    // What is no watch (any more) is nothing to end.
    coverer.forget(&a);
    coverer.forget(&Key(Box::from(*b"\x02")));
    coverer.forget(&Key(Box::from(*b"\x01anything")));
    assert_ne!(f.cover(&tmp.path().join("b")), b);
}

#[test]
fn a_directory_made_anew_has_another_key() {
    everywhere(|choice, tmp| {
        let f = Fixture::new(choice);
        fs::create_dir(tmp.join("a")).unwrap();
        let first = f.cover(&tmp.join("a"));
        fs::remove_dir(tmp.join("a")).unwrap();
        fs::create_dir(tmp.join("a")).unwrap();
        assert_ne!(f.cover(&tmp.join("a")), first);
    });
}

#[test]
fn what_this_process_does_can_be_left_out() {
    if !is_root() {
        println!("skipped: fanotify takes root");
        return;
    }
    let tmp = tempfile::tempdir().unwrap();
    let mut f = Fixture::new(WatchChoice::Fanotify);
    let root = f.cover(tmp.path());
    File::create(tmp.path().join("before")).unwrap();
    f.expect(&root, "before", &[Hint::APPEARED]);
    f.watch.ignore_own_process();
    File::create(tmp.path().join("own")).unwrap();
    assert!(run("touch", &[tmp.path().join("other").as_ref()]));
    f.expect(&root, "other", &[Hint::APPEARED]);
    assert_eq!(f.hints(&root, b"own"), Hint::default());
}

/// More events than the kernel's queue holds, with nobody reading.
#[test]
fn overflow_is_reported() {
    for choice in BOTH {
        if choice == WatchChoice::Fanotify && !is_root() {
            println!("skipped with fanotify: not root");
            continue;
        }
        let kernel = Kernel::new(choice).unwrap();
        let tmp = tempfile::tempdir_in("/dev/shm").unwrap();
        let dir = Dir::open_root(tmp.path()).unwrap();
        let coverer = Coverer(Arc::new(kernel));
        coverer.cover(&dir, &dir.stat().unwrap()).unwrap();
        let limit = format!("/proc/sys/fs/{}/max_queued_events", if choice == WatchChoice::Fanotify { "fanotify" } else { "inotify" });
        let limit: usize = fs::read_to_string(limit).unwrap().trim().parse().unwrap();
        // One event at least for each: the names differ, so none can be merged.
        for i in 0..=limit {
            let name = i.to_string();
            let name = Name::new(name.as_bytes()).unwrap();
            dir.mknod(name, Kind::Fifo, 0o600, 0).unwrap();
            dir.unlink(name).unwrap();
        }
        let (mut counted, mut said) = (0, 0);
        loop {
            let mut buffer = Vec::with_capacity(65536);
            let mut note = |event: Event<'_>| said += u64::from(event == Event::Overflow);
            if let Some(fan) = &coverer.0.fan {
                if fan.read(&mut buffer).is_err() {
                    break;
                }
                fan.for_each(&buffer, &mut note);
                counted += fan.count(&buffer).1;
            } else if let Some(ino) = &coverer.0.ino {
                if ino.read(&mut buffer).is_err() {
                    break;
                }
                ino::for_each(&buffer, &mut note);
                counted += ino::count(&buffer).1;
            }
        }
        assert!(said >= 1, "{choice:?}");
        assert_eq!(counted, said);
    }
}

/// With all buffers held by the planner the reader waits, and goes on when one comes back.
#[test]
fn the_reader_waits_for_buffers_and_loses_nothing() {
    let tmp = tempfile::tempdir_in("/dev/shm").unwrap();
    let mut f = Fixture::new(WatchChoice::Inotify);
    let root = f.cover(tmp.path());
    let mut held = Vec::new();
    let deadline = Instant::now() + DEADLINE;
    for i in 0..WATCH_BATCHES_MAX {
        fs::create_dir(tmp.path().join(i.to_string())).unwrap();
        loop {
            if let Some(batch) = f.batches.next() {
                held.push(batch);
                break;
            }
            assert!(Instant::now() < deadline);
            f.wake.wait(Some(Duration::from_secs(1)));
        }
    }
    for i in 0..1000 {
        fs::create_dir(tmp.path().join(format!("late-{i}"))).unwrap();
    }
    assert!(f.batches.next().is_none());
    drop(held);
    f.until("late directory", |f| (0..1000).all(|i| f.hints(&root, format!("late-{i}").as_bytes()).has(Hint::APPEARED)));
    assert_eq!(f.overflows, 0);
}

#[test]
fn it_stops_whatever_it_waits_for() {
    // Asleep.
    drop(Fixture::new(WatchChoice::Inotify));
    // With the planner's end dropped first: the thread ends by itself.
    let Fixture { watch, batches, .. } = Fixture::new(WatchChoice::Inotify);
    drop(batches);
    drop(watch);
    // With the watch dropped first.
    let Fixture { watch, mut batches, .. } = Fixture::new(WatchChoice::Inotify);
    assert!(!batches.is_closed());
    drop(watch);
    assert!(batches.is_closed() && batches.next().is_none());
}

#[test]
fn a_vanished_directory_is_an_error_or_covered_in_vain() {
    everywhere(|choice, tmp| {
        let f = Fixture::new(choice);
        fs::create_dir(tmp.join("a")).unwrap();
        f.cover(tmp);
        let dir = Dir::open_root(&tmp.join("a")).unwrap();
        let stat = dir.stat().unwrap();
        fs::remove_dir(tmp.join("a")).unwrap();
        if let Err(e) = f.watch.coverer().cover(&dir, &stat) {
            assert!(matches!(e.raw_os_error(), Some(libc::ENOENT | libc::ESTALE)), "{e}");
        }
        f.cover(tmp);
    });
}

/// Under inotify for want of anything better, with everything reported as it should be.
fn falls_back(path: &Path) {
    let error = Watch::start(WatchChoice::Fanotify, Path::new("/etc"), Bell::new(Wake::new().unwrap()), Arc::default()).unwrap().0;
    let dir = Dir::open_root(path).unwrap();
    let error = error.coverer().cover(&dir, &dir.stat().unwrap()).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::Unsupported, "{error}");

    let mut f = Fixture::new(WatchChoice::Auto);
    let key = f.cover(path);
    assert!(f.watch.watching()[0].to_string().starts_with("inotify ("), "{:?}", f.watch.watching());
    println!("{:?}", f.watch.watching());
    fs::write(path.join("file"), b"content").unwrap();
    f.expect(&key, "file", &[Hint::APPEARED, Hint::CLOSED]);
    fs::OpenOptions::new().append(true).open(path.join("there")).unwrap().write_all(b"more").unwrap();
    f.expect(&key, "there", &[Hint::WRITTEN]);
}

#[test]
fn a_btrfs_subvolume_falls_back_to_inotify() {
    with_mounts(|tmp| {
        let top = tmp.join("btrfs");
        if !mount_image("mkfs.btrfs", &tmp.join("image"), 200 << 20, &top) {
            println!("skipped: no btrfs here");
            return;
        }
        let subvolume = top.join("sub");
        assert!(run("btrfs", &["subvolume".as_ref(), "create".as_ref(), subvolume.as_ref()]));
        File::create(subvolume.join("there")).unwrap();
        falls_back(&subvolume);

        // Both at once: the mark of the top level sees the subvolume's events too, under keys of nobody.
        let mut f = Fixture::new(WatchChoice::Auto);
        let (top_key, sub_key) = (f.cover(&top), f.cover(&subvolume));
        println!("{:?}", f.watch.watching());
        assert!(f.watch.watching()[0].to_string().starts_with("fanotify"));
        File::create(subvolume.join("in-sub")).unwrap();
        File::create(top.join("in-top")).unwrap();
        f.expect(&sub_key, "in-sub", &[Hint::APPEARED]);
        f.expect(&top_key, "in-top", &[Hint::APPEARED]);
        assert_eq!(f.hints(&top_key, b"in-sub"), Hint::default());
    });
}

#[test]
fn an_overlay_falls_back_to_inotify() {
    with_mounts(|tmp| {
        for (number, more) in ["", ",index=on,nfs_export=on"].into_iter().enumerate() {
            let base = tmp.join(number.to_string());
            for name in ["lower", "upper", "work", "merged"] {
                fs::create_dir_all(base.join(name)).unwrap();
            }
            File::create(base.join("lower/there")).unwrap();
            let at = |name: &str| base.join(name).display().to_string();
            let options = format!("lowerdir={},upperdir={},workdir={}{more}", at("lower"), at("upper"), at("work"));
            let merged = base.join("merged");
            if let Err(e) = mount(Some("overlay"), &merged, Some("overlay"), MsFlags::empty(), Some(options.as_str())) {
                println!("skipped: no overlay here with {options} ({e})");
                continue;
            }
            falls_back(&merged);
        }
    });
}

/// A copy of a filesystem has the same number and handles: its directories must not be taken for those of the first.
#[test]
fn two_filesystems_with_one_number_are_told_apart() {
    with_mounts(|tmp| {
        let (first, second) = (tmp.join("first"), tmp.join("second"));
        if !mount_image("mkfs.ext4", &tmp.join("image"), 20 << 20, &first) {
            println!("skipped: no ext4 here");
            return;
        }
        fs::create_dir(first.join("d")).unwrap();
        umount2(&first, MntFlags::empty()).unwrap();
        fs::copy(tmp.join("image"), tmp.join("copy")).unwrap();
        fs::create_dir(&second).unwrap();
        for (image, at) in [("image", &first), ("copy", &second)] {
            assert!(run("mount", &["-o".as_ref(), "loop".as_ref(), tmp.join(image).as_ref(), at.as_ref()]));
        }
        let mut f = Fixture::new(WatchChoice::Auto);
        let (one, two) = (f.cover(&first.join("d")), f.cover(&second.join("d")));
        assert_ne!(one, two);
        println!("{:?}", f.watch.watching());
        File::create(second.join("d/two")).unwrap();
        File::create(first.join("d/one")).unwrap();
        f.expect(&one, "one", &[Hint::APPEARED]);
        f.expect(&two, "two", &[Hint::APPEARED]);
        assert_eq!(f.hints(&one, b"two"), Hint::default());
    });
}

/// The mark goes with the filesystem, and the next one may get the same device number: covering its directory must set a mark again.
#[test]
fn a_filesystem_mounted_in_the_place_of_another_is_watched() {
    with_mounts(|tmp| {
        let at = tmp.join("at");
        fs::create_dir(&at).unwrap();
        let mut f = Fixture::new(WatchChoice::Fanotify);
        let mut keys = HashSet::new();
        for round in 0..3 {
            mount(Some("tmpfs"), &at, Some("tmpfs"), MsFlags::empty(), None::<&str>).unwrap();
            let key = f.cover(&at);
            let name = format!("file-{round}");
            File::create(at.join(&name)).unwrap();
            f.expect(&key, &name, &[Hint::APPEARED]);
            keys.insert(key);
            umount2(&at, MntFlags::empty()).unwrap();
        }
        println!("{} keys, {:?}", keys.len(), f.watch.watching());
    });
}

const INSIDE: &str = "RINGSYNC_TEST_INSIDE_USER_NAMESPACE";

/// Runs itself once more as root of a user namespace with three inotify watches: no right to mark filesystems, and soon no watch left.
#[test]
fn without_rights_and_watches_directories_are_polled() {
    if std::env::var_os(INSIDE).is_none() {
        let script = "echo 3 > /proc/sys/user/max_inotify_watches && exec \"$0\" --exact --nocapture watch::tests::without_rights_and_watches_directories_are_polled";
        let output =
            Command::new("unshare").args(["-Ur", "sh", "-c", script]).arg(std::env::current_exe().unwrap()).env(INSIDE, "1").output();
        match output {
            Ok(output) if !String::from_utf8_lossy(&output.stdout).contains("running 1 test") => {
                println!("skipped: no user namespace ({output:?})");
            }
            Ok(output) => assert!(output.status.success(), "{output:?}"),
            Err(e) => println!("skipped: no unshare ({e})"),
        }
        return;
    }
    let tmp = tempfile::tempdir().unwrap();
    let mut f = Fixture::new(WatchChoice::Auto);
    let coverer = f.watch.coverer();
    let cover = |name: &str| {
        fs::create_dir(tmp.path().join(name)).unwrap();
        let dir = Dir::open_root(&tmp.path().join(name)).unwrap();
        coverer.cover(&dir, &dir.stat().unwrap()).unwrap()
    };
    let first = cover("0");
    assert!(!cover("1").degraded && !cover("2").degraded);
    assert_eq!(cover("3"), Covered { key: None, degraded: true });
    File::create(tmp.path().join("0/file")).unwrap();
    f.expect(first.key.as_ref().unwrap(), "file", &[Hint::APPEARED]);
    coverer.forget(first.key.as_ref().unwrap());
    assert!(!cover("4").degraded);
    assert!(f.watch.watching()[0].to_string().starts_with("inotify"), "{:?}", f.watch.watching());
}
