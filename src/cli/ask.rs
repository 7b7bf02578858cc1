//! `ringsync status`, `flush` and `approve`: whom to ask, what was answered, and the exit code. It never touches a source or a mirror.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::args::{ApproveArgs, FlushArgs, StatusArgs, WhomArgs};
use crate::control::client::ask;
use crate::control::status::Status;
use crate::control::{Flushed, Reply, Request, place};
use crate::error::{Error, Exit, Result};
use crate::limits::{CONTROL_CLIENT_TIME_MAX, CONTROL_PATIENCE};

/// The other side answers within its own patience, but may get hardly any of a busy processor.
const PATIENCE: Duration = CONTROL_PATIENCE.saturating_add(CONTROL_CLIENT_TIME_MAX);

/// `ringsync status`.
pub(super) fn status(args: &StatusArgs) -> Result<Exit> {
    match talk(&args.whom, Request::Status, Some(PATIENCE))? {
        Reply::Status(status) if args.json => print(&serde_json::to_string_pretty(&status).unwrap_or_default()),
        Reply::Status(status) => print(status.to_string().trim_end()),
        other => Err(unexpected(&other)),
    }
}

/// `ringsync flush`.
pub(super) fn flush(args: &FlushArgs) -> Result<Exit> {
    let timeout = args.timeout.filter(|timeout| !timeout.is_zero());
    let patience = timeout.map(|timeout| timeout.saturating_add(PATIENCE));
    match talk(&args.whom, Request::Flush(timeout), patience)? {
        Reply::Flush(flushed) => Ok(flush_exit(&flushed)),
        other => Err(unexpected(&other)),
    }
}

fn flush_exit(flushed: &Flushed) -> Exit {
    let Flushed { done, left, failing, held, by_full_look } = flushed;
    if *by_full_look {
        eprintln!("ringsync: the watcher's queues could not be marked: everything was looked at instead");
    }
    if !done {
        eprintln!("ringsync: the time is over: about {left} entries and cycles are left");
        Exit::Timeout
    } else if *failing > 0 {
        eprintln!("ringsync: done, but for {failing} entries that fail: `ringsync status` names them");
        Exit::Partial
    } else if *held > 0 {
        eprintln!("ringsync: done, but for {held} deletions that are held: `ringsync status` names them");
        Exit::MaxDelete
    } else {
        Exit::Ok
    }
}

/// `ringsync approve`.
pub(super) fn approve(args: &ApproveArgs) -> Result<Exit> {
    match talk(&args.whom, Request::Approve, Some(PATIENCE))? {
        Reply::Approved(0) => print("nothing is held"),
        Reply::ApprovedSource => print("approved: the source is the directory that is there now"),
        Reply::Approved(count) => print(&format!("approved: {count} entries are deleted")),
        other => Err(unexpected(&other)),
    }
}

/// Prints to standard output; a reader that has gone is no error.
fn print(text: &str) -> Result<Exit> {
    match writeln!(io::stdout(), "{text}") {
        Err(e) if e.kind() != io::ErrorKind::BrokenPipe => Err(Error::file("standard output", e)),
        _ => Ok(Exit::Ok),
    }
}

fn unexpected(reply: &Reply) -> Error {
    match reply {
        Reply::Error(why) => Error::socket("it could not be done", io::Error::other(why.clone())),
        _ => Error::Protocol("the answer is to another question".into()),
    }
}

fn talk(whom: &WhomArgs, request: Request, patience: Option<Duration>) -> Result<Reply> {
    let socket = match &whom.control {
        Some(path) => path.clone(),
        None => find(whom.source.as_deref())?,
    };
    ask(&socket, request, patience).map_err(|e| Error::socket(format!("control socket {}", socket.display()), e))
}

/// The socket of the mirror of `source`, or of the only one that runs.
fn find(source: Option<&Path>) -> Result<PathBuf> {
    let dir = place::directory()
        .ok_or_else(|| Error::Usage("XDG_RUNTIME_DIR is not set: give --control PATH, as the mirror was given".into()))?;
    let none = |what: &str| Error::socket(what.to_owned(), io::Error::other(format!("no socket in {} answers", dir.display())));
    let mut all = match place::sockets(&dir) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Vec::new(),
        sockets => sockets.map_err(|e| Error::socket(format!("control sockets in {}", dir.display()), e))?,
    };
    if let Some(source) = source {
        let source = place::source_name(source);
        all.retain(|path| path.file_name().and_then(|name| name.to_str()).is_some_and(|name| place::is_of(name, &source)));
    }
    let mut running: Vec<(PathBuf, String)> = all.into_iter().filter_map(|path| describe(&path).map(|text| (path, text))).collect();
    match (running.len(), source) {
        (0, None) => Err(none("no mirror is running")),
        (0, Some(source)) => Err(none(&format!("no mirror of {} is running", source.display()))),
        (1, _) => Ok(running.remove(0).0),
        _ => {
            let lines: String = running.iter().map(|(path, text)| format!("\n  --control {}  {text}", path.display())).collect();
            Err(Error::Usage(format!("several are running, say which one:{lines}")))
        }
    }
}

/// One line about whoever answers at a socket; `None` if nobody does.
fn describe(path: &Path) -> Option<String> {
    match ask(path, Request::Status, Some(PATIENCE)) {
        Ok(Reply::Status(status)) => Some(match *status {
            Status::Mirror(mirror) => {
                let dests: Vec<&str> = mirror.receivers.iter().map(|receiver| receiver.dest.as_str()).collect();
                format!("mirror of {} to {}", mirror.source, dests.join(", "))
            }
            Status::Serve(serve) => format!("server on {}", serve.listen.join(", ")),
        }),
        Ok(_) => None,
        Err(e) if matches!(e.kind(), io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound) => None,
        Err(e) => Some(format!("does not answer: {e}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_decides_the_exit_code() {
        let exit = |done, failing, held| flush_exit(&Flushed { done, left: 0, failing, held, by_full_look: false });
        assert_eq!(
            [exit(true, 0, 0), exit(true, 2, 2), exit(true, 0, 2), exit(false, 0, 0)],
            [Exit::Ok, Exit::Partial, Exit::MaxDelete, Exit::Timeout]
        );
    }
}
