//! Where control sockets are: a directory that only their user can enter, and names that say what is mirrored where.
//!
//! As root `/run/ringsync`, else `$XDG_RUNTIME_DIR/ringsync`. A name has a few letters of the source for people, then a digest of source and destination, so
//! that whoever knows both, or the source alone, finds the socket.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use nix::unistd::geteuid;

/// As root.
const RUN: &str = "/run/ringsync";
/// Of the source's own name.
const LETTERS_MAX: usize = 32;
const SUFFIX: &str = ".sock";

/// The directory of the user's sockets; `None` where the system offers no place.
pub fn directory() -> Option<PathBuf> {
    if geteuid().is_root() {
        return Some(RUN.into());
    }
    let run = PathBuf::from(std::env::var_os("XDG_RUNTIME_DIR")?);
    run.is_absolute().then(|| run.join("ringsync"))
}

/// Makes the directory where it is missing, and checks that nobody else can enter it.
///
/// # Errors
/// It cannot be made, or is somebody else's.
pub fn prepare(dir: &Path) -> io::Result<()> {
    match DirBuilder::new().mode(0o700).create(dir) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(e),
        _ => {}
    }
    let meta = fs::symlink_metadata(dir)?;
    if !meta.is_dir() || meta.uid() != geteuid().as_raw() || meta.mode() & 0o077 != 0 {
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, "it is not a directory of mode 0700 that belongs to the user"));
    }
    Ok(())
}

/// A source as it is told apart: absolute, without symbolic links where it is there.
pub fn source_name(source: &Path) -> PathBuf {
    fs::canonicalize(source).or_else(|_| std::path::absolute(source)).unwrap_or_else(|_| source.to_owned())
}

/// The socket's name for a mirror. `source` is of [`source_name`].
pub fn of_mirror(source: &Path, dest: &[u8]) -> String {
    let last = source.file_name().map(OsStrExt::as_bytes).unwrap_or(b"root");
    format!("{}-{}-{}{SUFFIX}", letters(last), digest(source.as_os_str().as_bytes()), digest(dest))
}

/// The socket's name for a server, by all that it listens on and offers.
pub fn of_server(offers: &[u8]) -> String {
    format!("serve-{}{SUFFIX}", digest(offers))
}

/// Whether a socket's name is that of a mirror of `source`, of [`source_name`].
pub fn is_of(name: &str, source: &Path) -> bool {
    let mut parts = name.strip_suffix(SUFFIX).unwrap_or_default().rsplit('-');
    parts.next().is_some() && parts.next() == Some(&digest(source.as_os_str().as_bytes()))
}

/// All sockets in the directory, in order of their names.
///
/// # Errors
/// The directory cannot be listed.
pub fn sockets(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let mut all = Vec::new();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.extension().is_some_and(|e| e == "sock") {
            all.push(path);
        }
    }
    all.sort();
    Ok(all)
}

fn letters(name: &[u8]) -> String {
    let plain = |b: &u8| if b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_') { char::from(*b) } else { '_' };
    name.iter().take(LETTERS_MAX).map(plain).collect()
}

fn digest(bytes: &[u8]) -> String {
    blake3::hash(bytes).to_hex()[..12].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_found_by_its_source() {
        let name = of_mirror(Path::new("/srv/w-w w"), b"/backup");
        assert!(name.starts_with("w_w_w-") && is_of(&name, Path::new("/srv/w-w w")) && !is_of(&name, Path::new("/srv/www")), "{name}");
        assert_ne!(name, of_mirror(Path::new("/srv/w-w w"), b"/backup2"));
        assert!(of_mirror(Path::new("/"), b"x").starts_with("root-"));
        assert!(!is_of("serve-0123.sock", Path::new("/")) && !is_of("", Path::new("/")));
    }

    #[test]
    fn a_directory_that_others_can_enter_is_refused() {
        let tmp = tempfile::tempdir().unwrap();
        let dir = tmp.path().join("run");
        prepare(&dir).unwrap();
        prepare(&dir).unwrap();
        fs::set_permissions(&dir, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        assert!(prepare(&dir).is_err());
        std::os::unix::fs::symlink(tmp.path(), tmp.path().join("link")).unwrap();
        assert!(prepare(&tmp.path().join("link")).is_err());
    }
}
