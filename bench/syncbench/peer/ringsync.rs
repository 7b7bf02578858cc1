//! ringsync as a peer: `serve` and `mirror` over TCP, or `mirror` alone.

use std::path::Path;

use super::{Peer, Prepared};
use crate::lab::{End, Lab, Process};
use crate::problem::Result;

pub(super) fn prepare<'a>(peer: Peer, lab: &'a Lab, program: &Path, with: &[String]) -> Result<Prepared<'a>> {
    let (watch, io) = match peer {
        Peer::RingsyncInotify => ("inotify", "auto"),
        Peer::RingsyncEpoll => ("fanotify", "epoll"),
        Peer::RingsyncInotifyEpoll => ("inotify", "epoll"),
        Peer::Ringsync => ("fanotify", "auto"),
        _ => ("auto", "auto"),
    };
    let mut sender = lab.command(End::Sender, program);
    sender.args(["mirror", "--watch", watch, "--io", io]);
    sender.args(with);
    if peer == Peer::RingsyncOnce {
        sender.arg("--once");
    }
    sender.arg(lab.src());
    if peer == Peer::RingsyncLocal {
        sender.arg(lab.dst());
        return Ok(Prepared { lab, receiver: None, command: Some(sender), name: "ringsync mirror".into() });
    }
    let (ip, port) = (lab.net.receiver_ip(), lab.net.port()?);
    let mut receiver = lab.command(End::Receiver, program);
    receiver.args(["serve", "--io", io, "--listen", &format!("{ip}:{port}"), "--module"]);
    let mut module = std::ffi::OsString::from("m=");
    module.push(lab.dst());
    receiver.arg(module);
    let mut receiver = Process::start(receiver, End::Receiver, "ringsync serve", &lab.file("receiver.log"))?;
    receiver.await_listener(port)?;
    sender.arg(format!("ringsync://{ip}:{port}/m"));
    Ok(Prepared { lab, receiver: Some(receiver), command: Some(sender), name: "ringsync mirror".into() })
}
