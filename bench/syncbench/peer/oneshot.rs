//! Copies that end by themselves.

use std::ffi::OsString;

use super::Prepared;
use super::rsyncd::Rsyncd;
use crate::lab::{End, Lab};
use crate::problem::Result;

fn with_slash(mut path: OsString) -> OsString {
    path.push("/");
    path
}

pub(super) fn rsync<'a>(lab: &'a Lab, flags: &str) -> Result<Prepared<'a>> {
    let daemon = Rsyncd::start(lab)?;
    let mut command = lab.command(End::Sender, "rsync");
    command.args([flags, "--delete"]).arg(with_slash(lab.src().into())).arg(daemon.url());
    Ok(Prepared { lab, receiver: Some(daemon.process), command: Some(command), name: format!("rsync {flags}") })
}

pub(super) fn tar(lab: &Lab) -> Prepared<'_> {
    let mut command = lab.command(End::Sender, "bash");
    command.args(["-c", r#"set -o pipefail; tar -C "$1" -cf - . | tar -C "$2" -xpf -"#, "tar"]).arg(lab.src()).arg(lab.dst());
    Prepared { lab, receiver: None, command: Some(command), name: "tar | tar".into() }
}

pub(super) fn cp(lab: &Lab) -> Prepared<'_> {
    let mut command = lab.command(End::Sender, "cp");
    command.args(["-a", "-T"]).arg(lab.src()).arg(lab.dst());
    Prepared { lab, receiver: None, command: Some(command), name: "cp -a".into() }
}
