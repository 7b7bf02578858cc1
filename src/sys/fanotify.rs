//! fanotify: a group with filesystem marks, and the parser of what it reports.
//!
//! The parser takes any bytes: what it does not know it skips, what it cannot make sense of it says, and it never panics. Which
//! events matter is the watcher's business.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use fanotify::low_level;

use super::spare::{self, array};

/// Entry and content events, of directories too; renames come on top, by [`Renames`].
const MASK: u64 = libc::FAN_CREATE | libc::FAN_DELETE | libc::FAN_ATTRIB | libc::FAN_MODIFY | libc::FAN_CLOSE_WRITE | libc::FAN_ONDIR;

const METADATA_BYTES: usize = 24;
const METADATA_VERSION: u8 = 3;
const RECORD_HEADER_BYTES: usize = 4;

/// How a kernel reports a rename.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Renames {
    /// One event with both names (5.17, and later 5.10 and 5.15 kernels).
    Whole,
    /// Two events, one for each name.
    Halves,
}

/// A notification group.
#[derive(Debug)]
pub struct Fanotify(OwnedFd);

impl AsFd for Fanotify {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Fanotify {
    /// Makes a group that reports directory handles and names (5.9), and the handle of the object as well: with all events (5.17), or with those that are not
    /// about a directory's entries. Its queue holds `fs.fanotify.max_queued_events` as they are now.
    ///
    /// # Errors
    /// As `fanotify_init(2)`: `EINVAL` or `ENOSYS` from a kernel that cannot, `EPERM` without the right, `EMFILE` for too many groups.
    pub fn new() -> io::Result<Self> {
        let init = |objects| {
            let flags = libc::FAN_CLASS_NOTIF | libc::FAN_CLOEXEC | libc::FAN_NONBLOCK | libc::FAN_REPORT_DFID_NAME | objects;
            low_level::fanotify_init(flags, (libc::O_RDONLY | libc::O_CLOEXEC | libc::O_LARGEFILE) as u32)
        };
        let unknown = |e: &io::Error| e.raw_os_error() == Some(libc::EINVAL);
        let fd = match init(libc::FAN_REPORT_FID | libc::FAN_REPORT_TARGET_FID) {
            Err(e) if unknown(&e) => init(libc::FAN_REPORT_FID)?,
            result => result?,
        };
        // SAFETY: the kernel has just returned this descriptor to us and nobody else knows it.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// Has the whole filesystem of the directory `dir` reported from now on. Doing it again changes nothing.
    ///
    /// # Errors
    /// As `fanotify_mark(2)`: `EXDEV` for a part of a filesystem with a number of its own (btrfs subvolume), `EOPNOTSUPP` and `ENODEV`
    /// where it has no usable handles or no number, `EPERM` without the right, `EINVAL` where `renames` is not known.
    pub fn mark_filesystem(&self, dir: BorrowedFd<'_>, renames: Renames) -> io::Result<()> {
        let mask = match renames {
            Renames::Whole => MASK | libc::FAN_RENAME,
            Renames::Halves => MASK | libc::FAN_MOVED_FROM | libc::FAN_MOVED_TO,
        };
        low_level::fanotify_mark(self.0.as_raw_fd(), libc::FAN_MARK_ADD | libc::FAN_MARK_FILESYSTEM, mask, dir.as_raw_fd(), ".")
    }

    /// Has what appears in and goes from the one directory `dir` reported, until it is removed.
    ///
    /// # Errors
    /// As [`Fanotify::mark_filesystem`].
    pub fn mark_directory(&self, dir: BorrowedFd<'_>) -> io::Result<()> {
        let mask = libc::FAN_CREATE | libc::FAN_DELETE | libc::FAN_ONDIR;
        low_level::fanotify_mark(self.0.as_raw_fd(), libc::FAN_MARK_ADD, mask, dir.as_raw_fd(), ".")
    }

    /// Appends queued events to `buffer`, as many as fit into its spare capacity (4 KiB at least); returns their bytes.
    ///
    /// # Errors
    /// As `read(2)`; `WouldBlock` when there are none.
    pub fn read(&self, buffer: &mut Vec<u8>) -> io::Result<usize> {
        spare::read(self.as_fd(), buffer)
    }
}

/// The bytes make no sense from here on: what follows is lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Malformed;

/// The events of a buffer that [`Fanotify::read`] filled; ends after a [`Malformed`].
#[derive(Debug, Clone)]
pub struct Events<'a> {
    rest: &'a [u8],
}

impl<'a> Events<'a> {
    /// Over the events in `buffer`.
    pub fn new(buffer: &'a [u8]) -> Self {
        Self { rest: buffer }
    }

    fn take(&mut self) -> Option<RawEvent<'a>> {
        let len = usize::try_from(u32::from_ne_bytes(array(self.rest, 0)?)).ok()?;
        let [version] = array(self.rest, 4)?;
        let metadata_len = usize::from(u16::from_ne_bytes(array(self.rest, 6)?));
        let mask = u64::from_ne_bytes(array(self.rest, 8)?);
        let pid = i32::from_ne_bytes(array(self.rest, 20)?);
        if version != METADATA_VERSION || metadata_len < METADATA_BYTES {
            return None;
        }
        let records = self.rest.get(metadata_len..len)?;
        self.rest = self.rest.get(len..)?;
        Some(RawEvent { mask, pid, records })
    }
}

impl<'a> Iterator for Events<'a> {
    type Item = Result<RawEvent<'a>, Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let event = self.take().ok_or(Malformed);
        if event.is_err() {
            self.rest = &[];
        }
        Some(event)
    }
}

/// One event: what happened, who did it, and the records that say where.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RawEvent<'a> {
    /// `FAN_*` bits; several where the kernel merged events.
    pub mask: u64,
    /// The process that did it; 0 where it is in no process namespace of ours.
    pub pid: i32,
    records: &'a [u8],
}

impl<'a> RawEvent<'a> {
    /// Whether events were lost.
    pub fn is_overflow(&self) -> bool {
        self.mask & libc::FAN_Q_OVERFLOW != 0
    }

    /// The directories and names that the event is about.
    pub fn places(&self) -> Places<'a> {
        Places { rest: self.records }
    }

    /// The object itself, where the event tells it.
    pub fn object(&self) -> Option<Object<'a>> {
        let mut rest = self.records;
        while !rest.is_empty() {
            let ([kind], len) = (array(rest, 0)?, usize::from(u16::from_ne_bytes(array(rest, 2)?)));
            let body = rest.get(RECORD_HEADER_BYTES..len)?;
            if kind == libc::FAN_EVENT_INFO_TYPE_FID {
                let (fsid, handle_kind, handle, _) = file_id(body)?;
                return Some(Object { fsid, handle_kind, handle });
            }
            rest = rest.get(len..)?;
        }
        None
    }
}

/// What happened to whatever name of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Object<'a> {
    /// The filesystem's number.
    pub fsid: [u8; 8],
    /// The type of the handle.
    pub handle_kind: i32,
    /// The handle.
    pub handle: &'a [u8],
}

/// A filesystem's number, the type of a handle, the handle, and what follows it.
type FileId<'a> = ([u8; 8], i32, &'a [u8], &'a [u8]);

/// A record's body: fsid 8, handle_bytes 4, handle_type 4, handle, and whatever follows.
fn file_id(body: &[u8]) -> Option<FileId<'_>> {
    let fsid = array(body, 0)?;
    let handle_len = usize::try_from(u32::from_ne_bytes(array(body, 8)?)).ok()?;
    let handle_kind = i32::from_ne_bytes(array(body, 12)?);
    let (handle, rest) = body.get(16..)?.split_at_checked(handle_len)?;
    Some((fsid, handle_kind, handle, rest))
}

/// What a [`Place`] is to its event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Where it happened.
    Plain,
    /// The former place of what was renamed.
    Old,
    /// The new place of what was renamed.
    New,
}

/// A name in a directory that is known by its handle.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place<'a> {
    /// What it is to the event.
    pub role: Role,
    /// The filesystem's number.
    pub fsid: [u8; 8],
    /// The type of the directory's handle.
    pub handle_kind: i32,
    /// The directory's handle.
    pub handle: &'a [u8],
    /// The entry; empty for the directory itself.
    pub name: &'a [u8],
}

/// The places of an event; records of other kinds are skipped; ends after a [`Malformed`].
#[derive(Debug, Clone)]
pub struct Places<'a> {
    rest: &'a [u8],
}

impl<'a> Places<'a> {
    /// The next record: `Ok(None)` for one that names no directory.
    fn take(&mut self) -> Result<Option<Place<'a>>, Malformed> {
        let [kind] = array(self.rest, 0).ok_or(Malformed)?;
        let len = usize::from(u16::from_ne_bytes(array(self.rest, 2).ok_or(Malformed)?));
        let body = self.rest.get(RECORD_HEADER_BYTES..len).ok_or(Malformed)?;
        self.rest = self.rest.get(len..).ok_or(Malformed)?;
        let role = match kind {
            libc::FAN_EVENT_INFO_TYPE_DFID_NAME | libc::FAN_EVENT_INFO_TYPE_DFID => Role::Plain,
            libc::FAN_EVENT_INFO_TYPE_OLD_DFID_NAME => Role::Old,
            libc::FAN_EVENT_INFO_TYPE_NEW_DFID_NAME => Role::New,
            _ => return Ok(None),
        };
        Self::place(role, body).map(Some).ok_or(Malformed)
    }

    /// Behind the handle: the name with a NUL at its end.
    fn place(role: Role, body: &'a [u8]) -> Option<Place<'a>> {
        let (fsid, handle_kind, handle, name) = file_id(body)?;
        let name = name.split(|b| *b == 0).next().unwrap_or_default();
        Some(Place { role, fsid, handle_kind, handle, name: if name == b"." { b"" } else { name } })
    }
}

impl<'a> Iterator for Places<'a> {
    type Item = Result<Place<'a>, Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        while !self.rest.is_empty() {
            match self.take() {
                Ok(None) => {}
                Ok(Some(place)) => return Some(Ok(place)),
                Err(Malformed) => {
                    self.rest = &[];
                    return Some(Err(Malformed));
                }
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::super::spare::mutation::mutate;
    use super::*;

    const FSID: [u8; 8] = *b"fsidfsid";

    /// A record as the kernel lays it out, padded to 4 bytes.
    fn record(kind: u8, handle: &[u8], name: &[u8]) -> Vec<u8> {
        let mut body = FSID.to_vec();
        body.extend((handle.len() as u32).to_ne_bytes());
        body.extend(0x81_i32.to_ne_bytes());
        body.extend(handle);
        if kind != libc::FAN_EVENT_INFO_TYPE_FID && kind != libc::FAN_EVENT_INFO_TYPE_DFID {
            body.extend(name);
            body.push(0);
        }
        body.resize(body.len().next_multiple_of(4), 0);
        let mut record = vec![kind, 0];
        record.extend((RECORD_HEADER_BYTES as u16 + body.len() as u16).to_ne_bytes());
        record.extend(body);
        record
    }

    fn event(mask: u64, pid: i32, records: &[Vec<u8>]) -> Vec<u8> {
        let records = records.concat();
        let mut event = ((METADATA_BYTES + records.len()) as u32).to_ne_bytes().to_vec();
        event.extend([METADATA_VERSION, 0]);
        event.extend((METADATA_BYTES as u16).to_ne_bytes());
        event.extend(mask.to_ne_bytes());
        event.extend((-1_i32).to_ne_bytes());
        event.extend(pid.to_ne_bytes());
        event.extend(records);
        event
    }

    fn place<'a>(role: Role, handle: &'a [u8], name: &'a [u8]) -> Result<Place<'a>, Malformed> {
        Ok(Place { role, fsid: FSID, handle_kind: 0x81, handle, name })
    }

    #[test]
    fn reads_every_kind_of_record() {
        let bytes = [
            event(libc::FAN_CREATE, 7, &[record(2, b"handle-a", b"file")]),
            event(libc::FAN_RENAME, 8, &[record(1, b"child", b""), record(12, b"new", b"n\xff\n"), record(10, b"old", b"o")]),
            event(libc::FAN_ATTRIB | libc::FAN_ONDIR, 9, &[record(200, b"later", b"kernel"), record(2, b"handle-b", b".")]),
            event(libc::FAN_MODIFY, 9, &[record(3, b"handle-c", b""), record(1, b"child", b"")]),
            event(libc::FAN_Q_OVERFLOW, 0, &[]),
        ]
        .concat();
        let events: Vec<_> = Events::new(&bytes).map(Result::unwrap).collect();
        let places: Vec<Vec<_>> = events.iter().map(|e| e.places().collect()).collect();
        assert_eq!(
            places,
            [
                vec![place(Role::Plain, b"handle-a", b"file")],
                vec![place(Role::New, b"new", b"n\xff\n"), place(Role::Old, b"old", b"o")],
                vec![place(Role::Plain, b"handle-b", b"")],
                vec![place(Role::Plain, b"handle-c", b"")],
                vec![],
            ]
        );
        let child = Some(Object { fsid: FSID, handle_kind: 0x81, handle: b"child" });
        assert_eq!(events.iter().map(RawEvent::object).collect::<Vec<_>>(), [None, child, None, child, None]);
        assert_eq!(events.iter().map(|e| e.pid).collect::<Vec<_>>(), [7, 8, 9, 9, 0]);
        assert_eq!(events.iter().map(RawEvent::is_overflow).collect::<Vec<_>>(), [false, false, false, false, true]);
    }

    #[test]
    fn a_cut_or_foreign_event_ends_the_buffer() {
        let whole = event(libc::FAN_CREATE, 7, &[record(2, b"handle", b"file")]);
        assert_eq!(Events::new(&[]).count(), 0);
        for len in 1..whole.len() {
            assert_eq!(Events::new(&whole[..len]).collect::<Vec<_>>(), [Err(Malformed)], "{len}");
        }
        let mut other_version = whole.clone();
        other_version[4] = METADATA_VERSION + 1;
        assert_eq!(Events::new(&[other_version, whole.clone()].concat()).collect::<Vec<_>>(), [Err(Malformed)]);
        for len in [0_u32, 23] {
            let mut short = whole.clone();
            short[..4].copy_from_slice(&len.to_ne_bytes());
            assert_eq!(Events::new(&short).collect::<Vec<_>>(), [Err(Malformed)]);
        }
    }

    #[test]
    fn a_record_that_lies_about_its_length_is_said_to() {
        let good = record(2, b"handle", b"file");
        for (at, value) in [(2, 0_u8), (2, 3), (2, 8), (3, 200), (12, 255), (15, 255)] {
            let mut bad = good.clone();
            bad[at] = value;
            let bytes = event(libc::FAN_CREATE, 1, &[bad, good.clone()]);
            let event = Events::new(&bytes).next().unwrap().unwrap();
            assert_eq!(event.places().next(), Some(Err(Malformed)), "{at} {value}");
            assert_eq!(event.places().count(), 1);
        }
    }

    #[test]
    fn no_damage_makes_it_panic() {
        let bytes = [
            event(libc::FAN_CREATE, 7, &[record(2, b"handle-a", b"file")]),
            event(libc::FAN_RENAME, 8, &[record(12, b"new", b"n"), record(10, b"old", b"o"), record(1, b"child", b"")]),
            event(libc::FAN_Q_OVERFLOW, 0, &[]),
        ]
        .concat();
        mutate(&bytes, 50_000, |damaged| {
            let mut left = damaged.len();
            for event in Events::new(damaged).flatten() {
                left = left.checked_sub(METADATA_BYTES).expect("more events than bytes");
                assert!(event.object().is_none_or(|object| object.handle.len() < damaged.len()));
                for place in event.places().flatten() {
                    assert!(place.handle.len() + place.name.len() < damaged.len());
                }
            }
        });
    }
}
