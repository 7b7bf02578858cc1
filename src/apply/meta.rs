//! Owner, attributes, mode and modification time: what this process may set, and setting it with no call that changes nothing.
//!
//! Never follows a symbolic link. Every other file of the room sets metadata through it.

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::unistd::{getegid, geteuid, getgroups};

use crate::apply::attrs::Wanted;
use crate::model::meta::{Kind, Meta};
use crate::model::op::Abilities;
use crate::model::path::{Name, Shown};
use crate::sys::dir::{self, Dir};
use crate::sys::privilege::Privilege;
use crate::sys::xattr::At;

const CAP_CHOWN: u32 = 0;
const CAP_DAC_OVERRIDE: u32 = 1;
const CAP_MKNOD: u32 = 27;
const SETUID: u32 = 0o4000;
const SETGID: u32 = 0o2000;
const OWNER_WRITES: u32 = 0o200;

/// How far owners can be set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Chown {
    /// Any owner and group.
    Any,
    /// Those that the user namespace knows: the others are refused by the kernel, which is no error.
    Mapped,
    /// No owner; our own groups only.
    Own,
}

/// Who this process is to the filesystem, found once.
#[derive(Debug)]
pub(super) struct Identity {
    uid: u32,
    gid: u32,
    groups: Vec<u32>,
    chown: Chown,
    mknod: bool,
    /// Permission bits do not bind us.
    any_access: bool,
    /// New files get exactly the permission bits asked for, unless their directory says otherwise.
    umask_is_zero: bool,
    reported: AtomicBool,
}

impl Identity {
    pub(super) fn of_process() -> Self {
        let Privilege { capabilities, whole_system, umask } = Privilege::of_process();
        let can = |bit: u32| capabilities & (1 << bit) != 0;
        Self {
            uid: geteuid().as_raw(),
            gid: getegid().as_raw(),
            groups: getgroups().unwrap_or_default().iter().map(|g| g.as_raw()).collect(),
            chown: match (can(CAP_CHOWN), whole_system) {
                (true, true) => Chown::Any,
                (true, false) => Chown::Mapped,
                (false, _) => Chown::Own,
            },
            mknod: can(CAP_MKNOD) && whole_system,
            any_access: can(CAP_DAC_OVERRIDE),
            umask_is_zero: umask == Some(0),
            reported: AtomicBool::new(false),
        }
    }

    pub(super) fn abilities(&self) -> Abilities {
        Abilities { chown: self.chown != Chown::Own, mknod: self.mknod, ..Abilities::default() }
    }

    pub(super) fn uid(&self) -> u32 {
        self.uid
    }

    pub(super) fn gid(&self) -> u32 {
        self.gid
    }

    pub(super) fn any_access(&self) -> bool {
        self.any_access
    }

    pub(super) fn umask_is_zero(&self) -> bool {
        self.umask_is_zero
    }

    /// The owner and group to ask the kernel for; `None` stays as it is.
    fn owner_change(&self, have: &Meta, want: &Meta) -> (Option<u32>, Option<u32>) {
        let uid = (have.uid != want.uid).then_some(want.uid);
        let gid = (have.gid != want.gid).then_some(want.gid);
        if self.chown != Chown::Own {
            return (uid, gid);
        }
        let allowed = gid.filter(|gid| *gid == self.gid || self.groups.contains(gid));
        if uid.is_some() || gid != allowed {
            self.report();
        }
        (None, allowed)
    }

    fn report(&self) {
        if !self.reported.swap(true, Ordering::Relaxed) {
            tracing::warn!("not all owners and groups can be set by this process: such entries keep the ones they have here");
        }
    }

    /// Sets what differs between `have` and `want`: owner first, since that clears setuid, setgid and capabilities; the mode after an access control list,
    /// whose mask is the group's bits, so that these never let the group in by themselves.
    fn settle(
        &self,
        have: &Meta,
        want: &Meta,
        set_owner: impl Fn(Option<u32>, Option<u32>) -> io::Result<()>,
        set_attrs: impl Fn() -> io::Result<bool>,
        set_mode: impl Fn(u32) -> io::Result<()>,
    ) -> io::Result<()> {
        let (uid, gid) = self.owner_change(have, want);
        let mut owner = (have.uid, have.gid);
        if uid.is_some() || gid.is_some() {
            match set_owner(uid, gid) {
                Ok(()) => owner = (uid.unwrap_or(have.uid), gid.unwrap_or(have.gid)),
                Err(e) if self.chown != Chown::Any && is_refusal(&e) => {
                    self.report();
                    if uid.is_some() && gid.is_some() && set_owner(None, gid).is_ok() {
                        owner.1 = want.gid;
                    }
                }
                Err(e) => return Err(e),
            }
        }
        let disturbed = match set_attrs() {
            // Our own permission bits keep us from it.
            Err(e) if e.raw_os_error() == Some(libc::EACCES) && want.kind != Kind::Symlink && have.mode & OWNER_WRITES == 0 => {
                set_mode(have.mode | OWNER_WRITES)?;
                set_attrs()?;
                true
            }
            done => done?,
        };
        if want.kind == Kind::Symlink {
            return Ok(());
        }
        let mode = safe_mode(want, owner);
        let cleared = owner != (have.uid, have.gid) && mode & (SETUID | SETGID) != 0;
        if have.mode != mode || cleared || disturbed { set_mode(mode) } else { Ok(()) }
    }

    /// Gives what `fd` holds the metadata `want` and the attributes; it has `have` now.
    pub(super) fn settle_fd(&self, fd: BorrowedFd<'_>, have: &Meta, want: &Meta, attrs: &Wanted<'_>) -> io::Result<()> {
        let set_attrs = || attrs.set(At::Fd(fd), want.kind);
        self.settle(have, want, |uid, gid| dir::set_owner(fd, uid, gid), set_attrs, |mode| dir::set_mode(fd, mode))?;
        if have.mtime == want.mtime { Ok(()) } else { dir::set_mtime(fd, want.mtime) }
    }

    /// Gives the entry `name` the metadata `want` and the attributes; it has `have` now. A symbolic link's own is set.
    pub(super) fn settle_at(&self, dir: &Dir, name: Name<'_>, have: &Meta, want: &Meta, attrs: &Wanted<'_>) -> io::Result<()> {
        let set_attrs = || attrs.set(At::Name(dir, name), want.kind);
        self.settle(have, want, |uid, gid| dir.set_owner_at(name, uid, gid), set_attrs, |mode| dir.set_mode_at(name, mode))?;
        if have.mtime == want.mtime { Ok(()) } else { dir.set_mtime_at(name, want.mtime) }
    }
}

/// Setuid and setgid mean "run as the owner": on a file that could not be given to its owner they would lend somebody else's rights.
fn safe_mode(want: &Meta, owner: (u32, u32)) -> u32 {
    let mut mode = want.mode;
    if want.kind != Kind::Dir {
        if owner.0 != want.uid {
            mode &= !SETUID;
        }
        if owner.1 != want.gid {
            mode &= !SETGID;
        }
    }
    mode
}

fn is_refusal(e: &io::Error) -> bool {
    matches!(e.raw_os_error(), Some(libc::EPERM | libc::EINVAL | libc::EOVERFLOW))
}

/// Says in the debug log that something of ours could not be cleaned up: the next first listing will try again.
pub(super) fn left_behind(name: Name<'_>, e: &io::Error) {
    tracing::debug!(name = %Shown(name.as_bytes()), error = %e, "could not be removed");
}
