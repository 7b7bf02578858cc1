//! What a server tells through its control socket: what it listens on, what it offers, who mirrors into it. There is nothing to flush or approve here.

use std::collections::HashMap;
use std::os::unix::ffi::OsStrExt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use crate::config::{self, ControlPlace};
use crate::control::server::{self, Office, Server};
use crate::control::status::{ModuleStatus, STATUS_VERSION, ServeStatus, Status};
use crate::control::{Reply, Request, place};
use crate::error::{Error, Result};
use crate::model::path::Shown;
use crate::receiver::Receiver;
use crate::sys::wake::Wake;

/// See the module's comment.
struct Reception {
    receiver: Receiver,
    began: Instant,
    listen: Vec<String>,
    modules: Vec<ModuleStatus>,
    answers: Mutex<HashMap<u64, Reply>>,
}

/// Opens the control socket of a server that listens on `listen`, unless it has none.
///
/// # Errors
/// `Socket`: another process answers at its path, or it was asked for by name and cannot be made.
pub(super) fn open(config: &config::Serve, listen: Vec<String>, receiver: &Receiver) -> Result<Option<Server>> {
    let modules = config.modules.iter().map(|m| ModuleStatus {
        name: m.name.clone(),
        path: Shown(m.path.as_os_str().as_bytes()).to_string(),
        read_only: m.read_only,
    });
    let modules: Vec<ModuleStatus> = modules.collect();
    let offers = format!("{listen:?} {modules:?}");
    let office = Arc::new(Reception { receiver: receiver.clone(), began: Instant::now(), listen, modules, answers: Mutex::default() });
    let path = match &config.control {
        ControlPlace::None => return Ok(None),
        ControlPlace::At(path) => return Server::start(path, office).map(Some),
        ControlPlace::Derived => place::directory()
            .ok_or_else(|| std::io::Error::other("XDG_RUNTIME_DIR is not set"))
            .and_then(|dir| place::prepare(&dir).map(|()| dir))
            .map(|dir| {
                server::sweep(&dir);
                dir.join(place::of_server(offers.as_bytes()))
            })
            .map_err(|e| Error::socket("control socket", e)),
    };
    match path.and_then(|path| Server::start(&path, office)) {
        Ok(server) => Ok(Some(server)),
        Err(e) => {
            tracing::warn!("{e}: `ringsync status` will not find this server; --control PATH puts its socket elsewhere");
            Ok(None)
        }
    }
}

impl Reception {
    fn answers(&self) -> std::sync::MutexGuard<'_, HashMap<u64, Reply>> {
        self.answers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn status(&self) -> ServeStatus {
        ServeStatus {
            version: STATUS_VERSION,
            program: env!("CARGO_PKG_VERSION").into(),
            pid: std::process::id(),
            uptime_seconds: self.began.elapsed().as_secs_f64(),
            listen: self.listen.clone(),
            modules: self.modules.clone(),
            sessions: self.receiver.describe(),
        }
    }
}

impl Office for Reception {
    fn ask(&self, ticket: u64, request: Request, _bell: &Wake) {
        let reply = match request {
            Request::Status => Reply::Status(Box::new(Status::Serve(self.status()))),
            Request::Flush(_) | Request::Approve => Reply::Error("this is a server: ask the mirror that sends to it".into()),
        };
        self.answers().insert(ticket, reply);
    }

    fn answer(&self, ticket: u64) -> Option<Reply> {
        self.answers().remove(&ticket)
    }

    fn late(&self, ticket: u64, _request: Request) -> Reply {
        self.gone(ticket);
        Reply::Error("no answer".into())
    }

    fn gone(&self, ticket: u64) {
        self.answers().remove(&ticket);
    }
}
