//! Live mirrors of a filesystem whose times are whole seconds.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::time::{Duration, SystemTime};

use crate::mounts::{Fs, Mounted, privately};
use crate::place::{Place, deadline, skipped, until};
use crate::program::{As, Mirror, Way};

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
