//! Two network namespaces with a link between them that can be cut, so that a host seems to vanish: what is sent is lost, and nobody says so.
//!
//! They belong to the thread that made them and to what it starts, and are gone with these, whatever happens.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::process::Command;

use nix::sched::{CloneFlags, setns, unshare};

/// The receiver's address.
pub const RECEIVER: &str = "10.213.77.2";

/// See the module's comment.
pub struct Net {
    near: File,
    far: File,
}

fn here() -> Result<File, String> {
    File::open("/proc/thread-self/ns/net").map_err(|e| e.to_string())
}

fn ip(args: &str) -> Result<(), String> {
    let out = Command::new("ip").args(args.split(' ')).output().map_err(|e| format!("ip: {e}"))?;
    if out.status.success() { Ok(()) } else { Err(format!("ip {args}: {}", String::from_utf8_lossy(&out.stderr).trim())) }
}

impl Net {
    /// Puts the calling thread into the near one of two new namespaces.
    ///
    /// # Errors
    /// Why this machine cannot.
    pub fn enter() -> Result<Self, String> {
        let mut namespaces = Vec::new();
        for _ in 0..2 {
            unshare(CloneFlags::CLONE_NEWNET).map_err(|e| format!("no network namespace: {e}"))?;
            namespaces.push(here()?);
            ip("link set lo up")?;
        }
        let (near, far) = (namespaces.pop().expect("two"), namespaces.pop().expect("two"));
        let net = Self { near, far };
        let place = format!("/proc/{}/fd/{}", std::process::id(), net.far.as_raw_fd());
        ip(&format!("link add link0 type veth peer name link0 netns {place}"))?;
        ip("addr add 10.213.77.1/30 dev link0")?;
        ip("link set link0 up")?;
        net.far(|| ip(&format!("addr add {RECEIVER}/30 dev link0")).and_then(|()| ip("link set link0 up")))?;
        Ok(net)
    }

    /// Does something in the far one: what is started there stays there.
    pub fn far<R>(&self, act: impl FnOnce() -> R) -> R {
        setns(&self.far, CloneFlags::CLONE_NEWNET).expect("the far namespace");
        let result = act();
        setns(&self.near, CloneFlags::CLONE_NEWNET).expect("the near namespace");
        result
    }

    /// From now on what is sent is lost.
    pub fn cut(&self) {
        // With the far end down, and no answer on the near one, neither end's programs are told.
        self.far(|| ip("link set link0 down")).expect("a link that goes down");
    }

    /// It is carried again.
    pub fn mend(&self) {
        self.far(|| ip("link set link0 up")).expect("a link that comes up");
    }
}
