//! The table of mounts of a process's namespace (proc_pid_mountinfo(5)).

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

/// One line of the table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// Its number: another mount at the same place has another one.
    pub id: u64,
    /// The filesystem, as the table numbers it.
    pub device: Vec<u8>,
    /// What of the filesystem is mounted.
    pub root: PathBuf,
    /// Where.
    pub point: PathBuf,
}

/// Reads a table; lines that are none are skipped.
pub fn parse(content: &[u8]) -> Vec<Mount> {
    let line = |line: &[u8]| {
        // id, parent, device, root, mount point; what follows is of no use here.
        let mut fields = line.split(|b| *b == b' ');
        let id = std::str::from_utf8(fields.next()?).ok()?.parse().ok()?;
        let device = fields.nth(1)?.to_vec();
        Some(Mount { id, device, root: unescape(fields.next()?), point: unescape(fields.next()?) })
    };
    content.split(|b| *b == b'\n').filter_map(line).collect()
}

/// Undoes the `\ooo` of the table.
fn unescape(field: &[u8]) -> PathBuf {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let [first, after @ ..] = rest {
        rest = after;
        bytes.push(match after {
            [a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', after @ ..] if *first == b'\\' => {
                rest = after;
                (a - b'0') << 6 | (b - b'0') << 3 | (c - b'0')
            }
            _ => *first,
        });
    }
    OsString::from_vec(bytes).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_taken_apart() {
        let mounts = parse(b"nonsense\n23 21 8:1 /src/deep /bind\\040it rw - ext4 /dev/a rw\n");
        let mount = Mount { id: 23, device: b"8:1".to_vec(), root: "/src/deep".into(), point: "/bind it".into() };
        assert_eq!(mounts, [mount]);
    }
}
