//! A writer that overflows the queue again and again: what others change is mirrored meanwhile, though nobody tells of it.

use std::fs;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::{TinyQueues, overflows};
use crate::place::{Place, deadline, is_root, skipped, until};
use crate::program::{As, Mirror, Way};

#[test]
fn a_writer_that_overflows_the_queue_starves_nobody() {
    const NAME: &str = "a_writer_that_overflows_the_queue_starves_nobody";
    if !is_root() {
        return skipped(NAME, "the queue's length is set by root");
    }
    for watch in ["fanotify", "inotify"] {
        let place = Place::new();
        for dir in 0..100 {
            let dir = place.src.join(format!("d{dir}"));
            fs::create_dir(&dir).unwrap();
            (0..50).for_each(|file| fs::write(dir.join(file.to_string()), "x").unwrap());
        }
        let limits = TinyQueues::set();
        let mirror = Mirror::start(As::Us, Way::Local, &place, &["--watch", watch, "--no-tune"]);
        let watches = until(deadline(), || mirror.stderr().contains("watching by"));
        drop(limits);
        assert!(watches, "{}", mirror.stderr());
        mirror.settle("the first copy");

        let (over, written) = (AtomicBool::new(false), AtomicU64::new(0));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                // Never at rest, but with a pause for others where there is one processor only.
                for turn in 0u64.. {
                    if over.load(Ordering::Relaxed) {
                        return;
                    }
                    let dir = place.src.join(format!("d{}", turn % 3));
                    (0..400).for_each(|file| fs::write(dir.join(format!("busy{file}")), turn.to_le_bytes()).unwrap());
                    written.fetch_add(400, Ordering::Relaxed);
                    std::thread::park_timeout(Duration::from_millis(2));
                }
            });
            let mut slowest = Duration::ZERO;
            let mut missing = None;
            for probe in 0..10 {
                let name = format!("d{}/probe", 99 - probe);
                fs::write(place.src.join(&name), "probe").unwrap();
                let start = Instant::now();
                if !until(deadline(), || place.dst.join(&name).exists()) {
                    missing = Some(name);
                    break;
                }
                slowest = slowest.max(start.elapsed());
            }
            over.store(true, Ordering::Relaxed);
            let (log, written) = (mirror.stderr(), written.load(Ordering::Relaxed));
            let lost = overflows(&log);
            println!("{watch}: {written} files written, at least {lost} overflows, slowest of 10 others {:.2} s", slowest.as_secs_f64());
            assert_eq!(missing, None, "{log}");
            assert!(lost > 0 || log.contains("overflowed"), "{watch}: nothing overflowed");
        });
        mirror.settle("at rest");
        mirror.terminate();
    }
}
