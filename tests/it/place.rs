//! Where a test lives and what it may be told: temporary trees, environment variables, waiting for a condition, the lock of heavy tests,
//! acting as an ordinary user.
//!
//! Nothing here knows the program or looks into a tree.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::{Duration, Instant};

use nix::fcntl::{Flock, FlockArg};
use nix::unistd::{Gid, Uid, setfsgid, setfsuid};
use tempfile::TempDir;

/// The ordinary user that tests act as: nobody, whose files nobody else uses.
pub const USER: u32 = 65_534;

/// A number from the environment, or `default`.
///
/// # Panics
/// When the variable is set and is no such number.
pub fn number<T: FromStr>(variable: &str, default: T) -> T {
    match std::env::var(variable) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{variable}={text}: not a number")),
        Err(_) => default,
    }
}

/// Longest wait for a mirror to become equal or a program to end. It only ends a hang; no test measures by it.
pub fn deadline() -> Duration {
    Duration::from_secs(number("RINGSYNC_DEADLINE_S", 120))
}

/// Operations of one random test.
pub fn ops_count() -> usize {
    number("RINGSYNC_OPS", 2500)
}

/// The seed of a random test: `RINGSYNC_SEED`, or a new one. Whoever uses it prints it.
pub fn seed() -> u64 {
    number("RINGSYNC_SEED", RandomState::new().build_hasher().finish() >> 16)
}

/// Whether the tests run with root's rights.
pub fn is_root() -> bool {
    Uid::effective().is_root()
}

/// Says on stderr that `test` did not run, and why.
pub fn skipped(test: &str, reason: impl std::fmt::Display) {
    eprintln!("SKIPPED {test}: {reason}");
}

/// Waits until `done` says so; `false` when `deadline` passes first. Between two looks it waits about as long as a look takes, at least 1 ms and at most 200 ms,
/// so that looking does not eat the processor of what is looked at.
pub fn until(deadline: Duration, mut done: impl FnMut() -> bool) -> bool {
    let start = Instant::now();
    loop {
        let look = Instant::now();
        if done() {
            return true;
        }
        if start.elapsed() > deadline {
            return false;
        }
        std::thread::park_timeout(look.elapsed().clamp(Duration::from_millis(1), Duration::from_millis(200)));
    }
}

/// A source and a place for its mirror, both gone when the test ends.
pub struct Place {
    tmp: TempDir,
    /// The source: an empty directory at first.
    pub src: PathBuf,
    /// The mirror: an empty directory at first.
    pub dst: PathBuf,
}

impl Place {
    /// On tmpfs where the machine has it (`RINGSYNC_TMP` names another place).
    pub fn new() -> Self {
        Self::within(&base())
    }

    /// In a directory of `base`.
    pub fn within(base: &Path) -> Self {
        let tmp = tempfile::Builder::new().prefix("ringsync-it-").tempdir_in(base).expect("a temporary directory");
        // Others have to get in: some programs under test run as nobody.
        fs::set_permissions(tmp.path(), Permissions::from_mode(0o755)).expect("chmod");
        let (src, dst) = (tmp.path().join("src"), tmp.path().join("dst"));
        for dir in [&src, &dst] {
            DirBuilder::new().mode(0o755).create(dir).expect("mkdir");
        }
        Self { tmp, src, dst }
    }

    /// Gives source and mirror to [`USER`].
    pub fn for_user(self) -> Self {
        for dir in [self.tmp.path(), &self.src, &self.dst] {
            chown(dir, Some(USER), Some(USER)).expect("chown");
        }
        self
    }

    /// A further name beside source and mirror.
    pub fn beside(&self, name: &str) -> PathBuf {
        self.tmp.path().join(name)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        crate::mounts::detach_below(self.tmp.path());
    }
}

/// Where temporary trees go.
pub fn base() -> PathBuf {
    match std::env::var_os("RINGSYNC_TMP") {
        Some(path) => path.into(),
        None if Path::new("/dev/shm").is_dir() => "/dev/shm".into(),
        None => std::env::temp_dir(),
    }
}

/// Held by a test that would starve others, or be starved: one of them at a time, over all processes.
pub fn heavy() -> Flock<File> {
    let path = std::env::temp_dir().join(format!("ringsync-it-heavy-{}.lock", Uid::effective()));
    let file = OpenOptions::new().create(true).truncate(false).write(true).open(path).expect("the lock of heavy tests");
    Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, e)| e).expect("flock")
}

/// Runs `act` with the file rights of [`USER`], on this thread only; as whoever we are when that is not root.
pub fn as_user<R>(act: impl FnOnce() -> R) -> R {
    struct Back(Uid, Gid);
    impl Drop for Back {
        fn drop(&mut self) {
            setfsuid(self.0);
            setfsgid(self.1);
        }
    }
    if !is_root() {
        return act();
    }
    let gid = setfsgid(Gid::from_raw(USER));
    let _back = Back(setfsuid(Uid::from_raw(USER)), gid);
    act()
}

#[test]
fn a_user_has_no_rights_of_root() {
    if !is_root() {
        return skipped("a_user_has_no_rights_of_root", "needs root");
    }
    let place = Place::new().for_user();
    let file = place.src.join("f");
    as_user(|| fs::write(&file, "x").unwrap());
    fs::set_permissions(&file, Permissions::from_mode(0o0)).unwrap();
    assert!(as_user(|| fs::read(&file)).is_err());
    assert!(fs::read(&file).is_ok(), "root's rights are back");
}
