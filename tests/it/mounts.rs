//! Other filesystems under a test: mounted where no other process sees them, and gone with the test whatever happens to it.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};

use crate::place::{is_root, skipped};

/// What can be mounted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fs {
    /// In memory.
    Tmpfs,
    /// In memory, without attributes.
    Ramfs,
    /// ext4 in an image.
    Ext4,
    /// ext4 with small inodes in an image: times are whole seconds.
    Ext4Seconds,
    /// XFS in an image.
    Xfs,
    /// btrfs in an image: its top level.
    Btrfs,
    /// btrfs in an image: a subvolume mounted by itself.
    BtrfsSubvolume,
    /// overlay as container engines mount it.
    Overlay,
    /// overlay whose files have handles.
    OverlayIndexed,
}

/// A mounted filesystem; unmounted when dropped.
pub struct Mounted {
    at: PathBuf,
    image: Option<tempfile::TempDir>,
}

impl Mounted {
    /// Mounts a new `fs` at the directory `at`.
    ///
    /// # Errors
    /// Why this machine cannot.
    pub fn new(fs: Fs, at: &Path) -> Result<Self, String> {
        match fs {
            Fs::Tmpfs => Self::in_memory("tmpfs", at),
            Fs::Ramfs => Self::in_memory("ramfs", at),
            _ => Self::in_image(fs, at),
        }
    }

    fn in_memory(kind: &str, at: &Path) -> Result<Self, String> {
        system("mount", &["-t", kind, "-o", "mode=755", "ringsync-it", path(at)])?;
        Ok(Self { at: at.to_owned(), image: None })
    }

    fn in_image(fs: Fs, at: &Path) -> Result<Self, String> {
        let image = tempfile::Builder::new().prefix("ringsync-it-image-").tempdir_in(crate::place::base()).map_err(|e| e.to_string())?;
        match fs {
            Fs::Tmpfs | Fs::Ramfs => unreachable!("in memory"),
            Fs::Ext4 => loop_mount(image.path(), &["mkfs.ext4", "-q", "-F"], at, "ext4", "loop")?,
            Fs::Ext4Seconds => loop_mount(image.path(), &["mkfs.ext4", "-q", "-F", "-I", "128"], at, "ext4", "loop")?,
            Fs::Xfs => loop_mount(image.path(), &["mkfs.xfs", "-q", "-f"], at, "xfs", "loop")?,
            Fs::Btrfs => loop_mount(image.path(), &["mkfs.btrfs", "-q", "-f"], at, "btrfs", "loop")?,
            Fs::BtrfsSubvolume => {
                loop_mount(image.path(), &["mkfs.btrfs", "-q", "-f"], at, "btrfs", "loop")?;
                let top = Self { at: at.to_owned(), image: Some(image) };
                system("btrfs", &["-q", "subvolume", "create", path(&at.join("sub"))])?;
                // A bind of the subvolume hides the top level, and keeps the filesystem.
                system("mount", &["--bind", path(&at.join("sub")), path(at)])?;
                return Ok(top);
            }
            Fs::Overlay | Fs::OverlayIndexed => {
                let dir = |name: &str| {
                    let dir = image.path().join(name);
                    fs::create_dir(&dir).map(|()| dir).map_err(|e| e.to_string())
                };
                let (lower, upper, work) = (dir("lower")?, dir("upper")?, dir("work")?);
                let handles = if fs == Fs::OverlayIndexed { ",index=on,nfs_export=on" } else { "" };
                let options = format!("lowerdir={},upperdir={},workdir={}{handles}", path(&lower), path(&upper), path(&work));
                system("mount", &["-t", "overlay", "-o", &options, "ringsync-it", path(at)])?;
            }
        }
        Ok(Self { at: at.to_owned(), image: Some(image) })
    }
}

impl Mounted {
    /// Shows the directory `from` at `at` as well.
    ///
    /// # Errors
    /// Why this machine cannot.
    pub fn bind(from: &Path, at: &Path) -> Result<Self, String> {
        system("mount", &["--bind", path(from), path(at)])?;
        Ok(Self { at: at.to_owned(), image: None })
    }

    /// Gives a tmpfs another size.
    pub fn resize(&self, size: &str) {
        self.remount(&format!("size={size}")).expect("a remount");
    }

    /// Changes how it is mounted.
    ///
    /// # Errors
    /// Of `mount(8)`.
    pub fn remount(&self, options: &str) -> Result<(), String> {
        system("mount", &["-o", &format!("remount,{options}"), path(&self.at)])
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        while umount2(&self.at, MntFlags::MNT_DETACH).is_ok() {}
        if let Some(image) = &self.image {
            detach_below(image.path());
        }
    }
}

/// Unmounts everything at `at` and below it, the last one first, whoever uses it: a mount point cannot be removed.
pub fn detach_below(at: &Path) {
    let mounts = fs::read_to_string("/proc/thread-self/mounts").unwrap_or_default();
    for point in mounts.lines().rev().filter_map(|line| line.split(' ').nth(1)).filter(|point| Path::new(point).starts_with(at)) {
        let _ = umount2(point, MntFlags::MNT_DETACH);
    }
}

/// Runs `test` on a thread with a mount namespace of its own; programs that it starts see its mounts, others do not, and the kernel unmounts all when the last
/// of them ends. Where that is not allowed, says by name that the test did not run.
pub fn privately(name: &str, test: impl FnOnce() + Send) {
    if !is_root() {
        return skipped(name, "mounting needs root");
    }
    let thread = || {
        if let Err(e) = unshare(CloneFlags::CLONE_NEWNS) {
            return skipped(name, format_args!("no mount namespace: {e}"));
        }
        if let Err(e) = mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>) {
            return skipped(name, format_args!("no private mounts: {e}"));
        }
        test();
    };
    std::thread::scope(|scope| {
        if let Err(panic) = scope.spawn(thread).join() {
            std::panic::resume_unwind(panic);
        }
    });
}

fn loop_mount(dir: &Path, mkfs: &[&str], at: &Path, kind: &str, options: &str) -> Result<(), String> {
    let image = dir.join("image");
    make_image(mkfs, &image)?;
    mount_image(kind, options, &image, at)
}

fn make_image(mkfs: &[&str], image: &Path) -> Result<(), String> {
    File::create(image).and_then(|file| file.set_len(512 << 20)).map_err(|e| e.to_string())?;
    let (program, arguments) = mkfs.split_first().expect("a program");
    system(program, &[arguments, &[path(image)]].concat())
}

/// Makes an image of ext4 or XFS.
///
/// # Errors
/// Why this machine cannot.
pub fn image_at(fs: Fs, image: &Path) -> Result<(), String> {
    make_image(if fs == Fs::Xfs { &["mkfs.xfs", "-q", "-f"] } else { &["mkfs.ext4", "-q", "-F"] }, image)
}

/// Mounts an image.
///
/// # Errors
/// Why this machine cannot.
pub fn mount_image(kind: &str, options: &str, image: &Path, at: &Path) -> Result<(), String> {
    system("mount", &["-t", kind, "-o", options, path(image), path(at)])
}

/// Mounts an image whose device writes past the cache: a write that the image's filesystem cannot take fails itself, and not the next flush only.
///
/// # Errors
/// Why this machine cannot.
pub fn mount_direct(kind: &str, image: &Path, at: &Path) -> Result<(), String> {
    let output =
        Command::new("losetup").args(["--direct-io=on", "--show", "-f", path(image)]).output().map_err(|e| format!("losetup: {e}"))?;
    if !output.status.success() {
        return Err(format!("losetup: {}", String::from_utf8_lossy(&output.stderr).trim()));
    }
    let device = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    let mounted = system("mount", &["-t", kind, &device, path(at)]);
    // While it is mounted this only says that it goes with the mount.
    system("losetup", &["-d", &device]).and(mounted)
}

/// Unmounts what is mounted at `at`, as far as it is not in use.
pub fn unmount(at: &Path) {
    if umount2(at, MntFlags::empty()).is_err() {
        let _ = umount2(at, MntFlags::MNT_DETACH);
    }
}

fn path(path: &Path) -> &str {
    path.to_str().expect("a path of ours")
}

fn system(program: &str, arguments: &[&str]) -> Result<(), String> {
    let output = Command::new(program).args(arguments).output().map_err(|e| format!("{program}: {e}"))?;
    if output.status.success() { Ok(()) } else { Err(format!("{program}: {}", String::from_utf8_lossy(&output.stderr).trim())) }
}
