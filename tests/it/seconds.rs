//! Filesystems whose times are whole seconds, or end too early: live mirrors of one, and mirrors on one.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt, symlink};
use std::path::Path;
use std::time::{Duration, SystemTime};

use nix::fcntl::AT_FDCWD;
use nix::sys::stat::{UtimensatFlags, utimensat};
use nix::sys::time::TimeSpec;

use crate::compare::untouched;
use crate::mounts::{Fs, Mounted, privately};
use crate::place::{Place, deadline, skipped, until};
use crate::program::{As, Mirror, Program, Way, once};

fn now() -> Duration {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970")
}

/// A file is written twice within a second, once before and once after it was read, and stays open: neither its times nor a close tell of the second.
#[test]
fn a_second_write_within_a_second_is_mirrored_while_the_file_is_open() {
    privately("a_second_write_within_a_second_is_mirrored_while_the_file_is_open", || {
        for watch in ["fanotify", "inotify"] {
            let place = Place::new();
            let _mounted = match Mounted::new(Fs::Ext4Seconds, &place.src) {
                Ok(mounted) => mounted,
                Err(e) => return skipped("a_second_write_within_a_second_is_mirrored_while_the_file_is_open", e),
            };
            let mirror = Mirror::start(As::Us, Way::Local, &place, &["--watch", watch]);
            let (mut open, mut same) = (Vec::new(), 0);
            for number in 0..20 {
                let name = format!("file{number}");
                let file = File::create(place.src.join(&name)).unwrap();
                assert!(until(deadline(), || now().subsec_millis() < 200));
                let second = now().as_secs();
                file.write_all_at(b"AAAA", 0).unwrap();
                let came = until(deadline(), || fs::read(place.dst.join(&name)).is_ok_and(|there| there == b"AAAA"));
                assert!(came, "{watch}: {name} does not come: {}", mirror.stderr());
                file.write_all_at(b"BBBB", 0).unwrap();
                same += usize::from(now().as_secs() == second);
                open.push((name, file));
                if same == 3 {
                    break;
                }
            }
            assert!(same > 0, "{watch}: never within a second");
            for (name, _) in &open {
                let came = until(deadline(), || fs::read(place.dst.join(name)).is_ok_and(|there| there == b"BBBB"));
                assert!(came, "{watch}: {name} stays as it was: {}", mirror.stderr());
            }
        }
    });
}

fn set_time(path: &Path, sec: i64) {
    let time = TimeSpec::new(sec, 123_456_789);
    utimensat(AT_FDCWD, path, &time, &time, UtimensatFlags::NoFollowSymlink).unwrap();
}

/// What a mirror's filesystem cannot hold of a time is no difference, and said once: nothing is sent again or repaired. What differs beyond that is found.
#[test]
fn times_are_compared_at_what_the_mirror_can_hold() {
    const NAME: &str = "times_are_compared_at_what_the_mirror_can_hold";
    privately(NAME, || {
        for (kind, says) in [(Fs::Ext4Seconds, "more coarsely"), (Fs::Ext4, "earlier or later")] {
            let place = Place::new();
            let mounted = Mounted::new(Fs::Tmpfs, &place.src).and_then(|src| Ok((src, Mounted::new(kind, &place.dst)?)));
            let _mounted = match mounted {
                Ok(mounted) => mounted,
                Err(e) => return skipped(NAME, e),
            };
            let (src, dst) = (|name: &str| place.src.join(name), |name: &str| place.dst.join(name));
            fs::create_dir(src("d")).unwrap();
            symlink("d", src("link")).unwrap();
            let names = ["in 1890", "now", "d/in 2500", "link", "d"];
            names[..3].iter().for_each(|name| fs::write(src(name), "content").unwrap());
            names
                .iter()
                .zip([-2_524_608_000, 1_700_000_001, 16_725_225_600, 1_700_000_003, 1_700_000_005])
                .for_each(|(name, sec)| set_time(&src(name), sec));
            let said = once(As::Us, Way::Local, &place, &[], 0);
            assert_eq!(said.matches(says).count(), 1, "{said}");
            let before = untouched(&place.dst);
            let said = once(As::Us, Way::Tcp, &place, &[], 0);
            assert!(before == untouched(&place.dst), "{kind:?}: a second run wrote:\n{said}");
            let verify = |args: &[&str], code: i32| {
                let mut verify =
                    Program::start(As::Us, &[&["verify"], args, &[place.src.to_str().unwrap(), place.dst.to_str().unwrap()]].concat());
                verify.ends_with(code);
                verify.stdout()
            };
            assert_eq!(verify(&[], 0), "", "{kind:?}");
            let mirror = Mirror::start(As::Us, Way::Local, &place, &["--scrub-interval", "1s"]);
            let scrubs = || mirror.stderr().matches("files=3 bytes=21 drift=0 repaired=0 unsure=0").count();
            assert!(until(deadline(), || scrubs() >= 2), "{kind:?}: {}", mirror.stderr());
            assert!(before == untouched(&place.dst), "{kind:?}: a scrub wrote");
            drop(mirror);
            // Another time and another content are found as ever.
            set_time(&src("now"), 1_700_000_002);
            fs::write(dst("d/in 2500"), "CONTENT").unwrap();
            set_time(&dst("d/in 2500"), 16_725_225_600);
            let mut found: Vec<String> = verify(&["--repair"], 0).lines().map(str::to_owned).collect();
            found.sort();
            assert_eq!(found, [">f..t...... now", ">fc........ d/in 2500"], "{kind:?}");
            assert_eq!(fs::metadata(dst("now")).unwrap().mtime(), 1_700_000_002);
            assert_eq!(verify(&[], 0), "", "{kind:?}");
        }
    });
}
