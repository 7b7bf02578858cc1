//! Guards the directories that a run depends on: they exist, and source and destination are not one inside the other under any name.
//!
//! Looks at the filesystem, and makes nothing but the last component of a missing destination. Two proofs are tried, since each sees what the other does
//! not: the identity (device, inode) of every directory above, which symbolic links cannot hide; and the place within the filesystem by the table of
//! mounts, which bind mounts cannot hide. Where `/proc` is missing only the first remains.

use std::ffi::OsStr;
use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, Read};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Component, Path, PathBuf};

use crate::error::{Error, Result};
use crate::model::mounts::{self, Mount};
use crate::model::path::{Name, Shown};

fn shown(path: &Path) -> Shown<'_> {
    Shown(path.as_os_str().as_bytes())
}

fn not_a_directory() -> io::Error {
    io::Error::from_raw_os_error(libc::ENOTDIR)
}

/// The source has to be a directory that can be listed.
pub(super) fn check_source(source: &Path) -> Result<()> {
    check_dir(&format!("source {}", shown(source)), source)
}

/// And a destination that is only looked at.
pub(super) fn check_dest(path: &Path) -> Result<()> {
    check_dir(&format!("destination {}", shown(path)), path)
}

/// The root of a module too.
pub(super) fn check_module(name: &str, path: &Path) -> Result<()> {
    check_dir(&format!("module {name}: {}", shown(path)), path)
}

fn check_dir(what: &str, path: &Path) -> Result<()> {
    let meta = fs::metadata(path).map_err(|e| Error::file(what, e))?;
    if !meta.is_dir() {
        return Err(Error::file(what, not_a_directory()));
    }
    fs::read_dir(path).map(drop).map_err(|e| Error::file(what, e))
}

/// Checks a local destination against the source, then makes it if it is missing.
pub(super) fn prepare_local(source: &Path, dest: &Path) -> Result<()> {
    let what = format!("destination {}", shown(dest));
    match fs::metadata(dest) {
        Ok(meta) if meta.is_dir() => refuse_overlap(source, dest, dest),
        Ok(_) => Err(Error::file(what, not_a_directory())),
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            if fs::symlink_metadata(dest).is_ok() {
                return Err(Error::file(format!("{what} is a symbolic link to nothing"), e));
            }
            let (parent, last) = parent_of(dest).ok_or_else(|| Error::file(&what, e))?;
            if Name::new(last.as_bytes()).is_ok_and(Name::is_reserved) {
                return Err(Error::Usage(format!("{what}: ringsync keeps this name for itself")));
            }
            match fs::metadata(&parent) {
                Ok(meta) if meta.is_dir() => {}
                Ok(_) => return Err(Error::file(format!("{what}: {}", shown(&parent)), not_a_directory())),
                Err(e) => return Err(Error::file(format!("{what}: only its last component is made, make {} first", shown(&parent)), e)),
            }
            refuse_overlap(source, dest, &parent)?;
            fs::create_dir(dest).map_err(|e| Error::file(format!("make {what}"), e))
        }
        Err(e) => Err(Error::file(what, e)),
    }
}

/// The directory that holds the last component of `path`, and that component; `None` where the path ends in none.
fn parent_of(path: &Path) -> Option<(PathBuf, &OsStr)> {
    let Some(Component::Normal(last)) = path.components().next_back() else { return None };
    let parent = path.parent()?;
    Some((if parent.as_os_str().is_empty() { PathBuf::from(".") } else { parent.into() }, last))
}

/// Refuses a destination that is the source, lies inside it, or holds it. `existing` is `dest`, or the directory that it will be made in.
fn refuse_overlap(source: &Path, dest: &Path, existing: &Path) -> Result<()> {
    let look = |path: &Path| fs::canonicalize(path).map_err(|e| Error::file(format!("find {}", shown(path)), e));
    let (real_source, mut real_dest) = (look(source)?, look(existing)?);
    let is_new = existing != dest;
    let found = by_identity(&real_source, &real_dest, is_new);
    if is_new && let Some((_, last)) = parent_of(dest) {
        real_dest.push(last);
    }
    let Some(overlap) = found.or_else(|| by_mounts(&real_source, &real_dest, existing)) else { return Ok(()) };
    let (source, dest) = (shown(source), shown(dest));
    Err(Error::Usage(match overlap {
        Overlap::Same => format!("source {source} and destination {dest} are the same directory"),
        Overlap::DestInside => format!("destination {dest} is inside source {source}: the mirror would mirror itself"),
        Overlap::SourceInside => {
            format!("source {source} is inside destination {dest}: it would be deleted as something that the source does not have")
        }
        Overlap::Mounts(ours, theirs) => format!(
            "a mount brings the same directory into source {source} (at {}) and destination {dest} (at {}): writing one would change the other",
            shown(&ours),
            shown(&theirs)
        ),
    }))
}

#[derive(Debug, PartialEq, Eq)]
enum Overlap {
    Same,
    DestInside,
    SourceInside,
    /// Where the common directory is seen: under the source, and under the destination.
    Mounts(PathBuf, PathBuf),
}

/// Compares identities along both (canonical) paths. A destination that is still to be made lies under `dest`.
fn by_identity(source: &Path, dest: &Path, is_new: bool) -> Option<Overlap> {
    let same = |a: &Metadata, b: &Metadata| (a.dev(), a.ino()) == (b.dev(), b.ino());
    let (source_meta, dest_meta) = (fs::metadata(source).ok()?, fs::metadata(dest).ok()?);
    let inside = |path: &Path, outer: &Metadata| path.ancestors().skip(1).filter_map(|p| fs::metadata(p).ok()).any(|m| same(&m, outer));
    if same(&source_meta, &dest_meta) {
        Some(if is_new { Overlap::DestInside } else { Overlap::Same })
    } else if inside(dest, &source_meta) {
        Some(Overlap::DestInside)
    } else if !is_new && inside(source, &dest_meta) {
        Some(Overlap::SourceInside)
    } else {
        None
    }
}

/// Compares the parts of filesystems that both trees show, by the table of mounts.
fn by_mounts(source: &Path, dest: &Path, existing_dest: &Path) -> Option<Overlap> {
    let mounts = Mounts(mounts::parse(&fs::read("/proc/thread-self/mountinfo").ok()?));
    let ours = mounts.regions(mount_id(source)?, source);
    let theirs = mounts.regions(mount_id(existing_dest)?, dest);
    overlap(&ours, &theirs)
}

/// The mount that `dir` is on, by its number in the table.
fn mount_id(dir: &Path) -> Option<u64> {
    let place = OpenOptions::new().read(true).custom_flags(libc::O_PATH | libc::O_DIRECTORY | libc::O_CLOEXEC).open(dir).ok()?;
    let mut text = String::new();
    File::open(format!("/proc/thread-self/fdinfo/{}", place.as_raw_fd())).ok()?.read_to_string(&mut text).ok()?;
    text.lines().find_map(|line| line.strip_prefix("mnt_id:"))?.trim().parse().ok()
}

/// A part of a filesystem that a tree shows.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Region {
    /// The filesystem, as the table of mounts numbers it.
    device: Vec<u8>,
    /// Where in the filesystem.
    inner: PathBuf,
    /// Where it is seen.
    seen: PathBuf,
}

/// The first two regions of which one is, or lies inside, the other. The first of each list is the tree's own root.
fn overlap(ours: &[Region], theirs: &[Region]) -> Option<Overlap> {
    let pairs = || ours.iter().enumerate().flat_map(|(i, our)| theirs.iter().enumerate().map(move |(j, their)| (i, our, j, their)));
    pairs().filter(|(_, our, _, their)| our.device == their.device).find_map(|(i, our, j, their)| {
        let (inside, outside) = (their.inner.starts_with(&our.inner), our.inner.starts_with(&their.inner));
        match (inside, outside) {
            (false, false) => None,
            (true, true) if i == 0 && j == 0 => Some(Overlap::Same),
            (true, _) if j == 0 => Some(Overlap::DestInside),
            (_, true) if i == 0 => Some(Overlap::SourceInside),
            _ => Some(Overlap::Mounts(our.seen.clone(), their.seen.clone())),
        }
    })
}

/// The table of mounts.
struct Mounts(Vec<Mount>);

impl Mounts {
    /// What the tree at `dir`, a canonical path on the mount `id`, shows: its own place first, then every mount beneath it.
    fn regions(&self, id: u64, dir: &Path) -> Vec<Region> {
        let own = self.0.iter().find(|mount| mount.id == id).and_then(|mount| {
            let rest = dir.strip_prefix(&mount.point).ok()?;
            let inner = if rest.as_os_str().is_empty() { mount.root.clone() } else { mount.root.join(rest) };
            Some(Region { device: mount.device.clone(), inner, seen: dir.into() })
        });
        let Some(own) = own else { return Vec::new() };
        let beneath = self.0.iter().filter(|mount| mount.point != dir && mount.point.starts_with(dir)).map(|mount| Region {
            device: mount.device.clone(),
            inner: mount.root.clone(),
            seen: mount.point.clone(),
        });
        std::iter::once(own).chain(beneath).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    const TABLE: &[u8] = b"21 1 8:1 / / rw - ext4 /dev/a rw
22 21 8:2 / /src/disk rw shared:1 - xfs /dev/b rw
23 21 8:1 /src/deep /bind\\040it rw - ext4 /dev/a rw
24 21 8:2 /backup /other rw - xfs /dev/b rw
25 21 8:1 /data /dst/data rw - ext4 /dev/a rw
26 21 8:1 /data/x /src/x rw - ext4 /dev/a rw
nonsense
";

    fn both(source: (u64, &str), dest: (u64, &str)) -> Option<Overlap> {
        let mounts = Mounts(mounts::parse(TABLE));
        overlap(&mounts.regions(source.0, Path::new(source.1)), &mounts.regions(dest.0, Path::new(dest.1)))
    }

    #[test]
    fn bind_mounts_hide_nothing() {
        assert_eq!(both((21, "/a"), (21, "/b")), None);
        assert_eq!(both((21, "/a"), (21, "/ab")), None);
        assert_eq!(both((21, "/src/deep"), (23, "/bind it")), Some(Overlap::Same));
        assert_eq!(both((21, "/src/deep"), (23, "/bind it/new")), Some(Overlap::DestInside));
        assert_eq!(both((23, "/bind it/x"), (21, "/src")), Some(Overlap::SourceInside));
        // The destination's disk is mounted inside the source.
        assert_eq!(both((21, "/src"), (24, "/other/x")), Some(Overlap::DestInside));
        let (ours, theirs) = ("/src/x".into(), "/dst/data".into());
        assert_eq!(both((21, "/src"), (21, "/dst")), Some(Overlap::Mounts(ours, theirs)));
    }

    #[test]
    fn what_is_missing_or_no_directory_is_refused() {
        let tmp = tempfile::tempdir().unwrap();
        let at = |name: &str| tmp.path().join(name);
        fs::create_dir(at("src")).unwrap();
        fs::write(at("file"), b"").unwrap();
        symlink("nowhere", at("dangling")).unwrap();
        assert!(check_source(&at("src")).is_ok());
        assert!(check_source(&at("none")).unwrap_err().to_string().contains("source"));
        assert!(matches!(check_source(&at("file")), Err(Error::File { .. })));
        for (dest, part) in
            [("file", "Not a directory"), ("dangling", "symbolic link to nothing"), ("a/b", "make "), ("file/x", "destination")]
        {
            let error = prepare_local(&at("src"), &at(dest)).unwrap_err();
            assert!(matches!(error, Error::File { .. }) && error.to_string().contains(part), "{error}");
        }
        assert!(prepare_local(&at("src"), &at(".ringsync-staging")).is_err());
        prepare_local(&at("src"), &at("dst")).unwrap();
        prepare_local(&at("src"), &at("dst")).unwrap();
        assert!(at("dst").is_dir());
    }

    #[test]
    fn one_inside_the_other_is_refused_under_any_name() {
        let tmp = tempfile::tempdir().unwrap();
        let at = |name: &str| tmp.path().join(name);
        fs::create_dir_all(at("src/sub/deep")).unwrap();
        symlink("src/sub", at("link")).unwrap();
        for (source, dest, part) in [
            ("src", "src", "same directory"),
            ("src", "src/sub/..", "same directory"),
            ("link", "src/sub", "same directory"),
            ("src", "src/sub", "inside source"),
            ("src", "src/new", "inside source"),
            ("src", "link/deep", "inside source"),
            ("src", "link/new", "inside source"),
            ("src/sub", "src", "inside destination"),
            ("link/deep", "src", "inside destination"),
        ] {
            let error = prepare_local(&at(source), &at(dest)).unwrap_err();
            assert!(matches!(error, Error::Usage(_)) && error.to_string().contains(part), "{source} {dest}: {error}");
        }
        assert!(!at("src/new").exists() && !at("src/sub/new").exists());
        assert!(prepare_local(&at("src/sub"), &at("src/other")).is_ok());
    }
}
