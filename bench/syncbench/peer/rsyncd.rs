//! An rsync daemon with a configuration and a port of its own: the receiver of every peer that sends by rsync.

use std::fs;

use crate::lab::{End, Lab, Process};
use crate::problem::{Doing, Result};

/// A daemon that offers the mirror as module `m`.
pub(super) struct Rsyncd {
    pub(super) process: Process,
    pub(super) ip: &'static str,
    pub(super) port: u16,
}

impl Rsyncd {
    pub(super) fn start(lab: &Lab) -> Result<Self> {
        let (ip, port) = (lab.net.receiver_ip(), lab.net.port()?);
        let who = if nix::unistd::geteuid().is_root() { "uid = root\ngid = root\n" } else { "" };
        let text = format!(
            "use chroot = no\nmunge symlinks = no\nmax connections = 0\n{who}[m]\npath = {}\nread only = no\n",
            lab.dst().display()
        );
        let config = lab.file("rsyncd.conf");
        fs::write(&config, text).doing(|| format!("write {}", config.display()))?;
        let mut command = lab.command(End::Receiver, "rsync");
        command.args(["--daemon", "--no-detach", "--address", ip, "--port", &port.to_string()]);
        command.arg(format!("--config={}", config.display())).arg(format!("--log-file={}", lab.file("rsyncd.log").display()));
        let mut process = Process::start(command, End::Receiver, "rsync --daemon", &lab.file("receiver.log"))?;
        process.await_listener(port)?;
        Ok(Self { process, ip, port })
    }

    pub(super) fn url(&self) -> String {
        format!("rsync://{}:{}/m", self.ip, self.port)
    }
}
