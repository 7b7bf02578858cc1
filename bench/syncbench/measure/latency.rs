//! How long one file takes into the mirror. It sleeps in inotify on the mirror's directory, so that waiting costs the mirror nothing, and compares the bytes at each event.

use std::fs;
use std::os::fd::AsFd;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};

use crate::interrupt;
use crate::load::{Load, Rng, Trace};
use crate::problem::{Doing, Problem, Result};

/// Between two files the mirror rests this long, a random time, so that no timer of a peer falls into step with it.
const REST_MS: (u64, u64) = (5, 25);
/// A wish to end is heard so soon, and a change that made no event is seen so late.
const POLL_MS: u16 = 50;

/// Seconds from the return of `close` until the mirror held the same bytes and time, one for each file.
pub struct Latencies {
    /// In the order of the files.
    pub seconds: Vec<f64>,
    /// A file did not arrive in time; the rest was not tried.
    pub lost: bool,
}

/// Writes the files of `load` one at a time, and awaits each. No new file is begun after `budget`; `deadline` is that of one file.
///
/// # Errors
/// A problem of the filesystem, or the wish to end.
pub fn measure(load: &Load, trace: &mut Trace<'_>, src: &Path, dst: &Path, budget: Duration, deadline: Duration) -> Result<Latencies> {
    let events = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC).doing(|| "make an inotify instance".into())?;
    let what = AddWatchFlags::IN_MOVED_TO | AddWatchFlags::IN_CLOSE_WRITE | AddWatchFlags::IN_ATTRIB;
    events.add_watch(&dst.join("in"), what).doing(|| "watch the mirror".into())?;
    let mut rests = Rng::new(load.seed);
    let mut out = Latencies { seconds: Vec::new(), lost: false };
    let begin = Instant::now();
    for n in 0..load.files() {
        if begin.elapsed() > budget {
            break;
        }
        interrupt::pause(Duration::from_millis(REST_MS.0 + rests.next() % (REST_MS.1 - REST_MS.0)))?;
        drain(&events)?;
        let (path, content) = load.latency_file(n, trace)?;
        let written = Instant::now();
        let (ours, theirs) = (src.join(&path), dst.join(&path));
        let wanted = fs::metadata(&ours).and_then(|m| m.modified()).doing(|| "look at the file".into())?;
        let arrived = |theirs: &Path| {
            fs::metadata(theirs).and_then(|m| m.modified()).is_ok_and(|m| m == wanted)
                && fs::read(theirs).is_ok_and(|bytes| bytes == content)
        };
        loop {
            let now = written.elapsed();
            if arrived(&theirs) {
                out.seconds.push(now.as_secs_f64());
                break;
            }
            if now > deadline {
                out.lost = true;
                return Ok(out);
            }
            interrupt::check()?;
            match poll(&mut [PollFd::new(events.as_fd(), PollFlags::POLLIN)], PollTimeout::from(POLL_MS)) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(e) => return Err(Problem::Failed(format!("wait for the mirror: {e}"))),
            }
            drain(&events)?;
        }
    }
    Ok(out)
}

fn drain(events: &Inotify) -> Result<()> {
    loop {
        match events.read_events() {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(Errno::EAGAIN) => return Ok(()),
            Err(e) => return Err(Problem::Failed(format!("read events of the mirror: {e}"))),
        }
    }
}
