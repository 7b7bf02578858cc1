//! The rules of a session: which message may stand where, on control and content connections, seen from both ends. Pure state, no I/O, no clock.
//!
//! Each end feeds every message it receives to its checker before it acts on it; a client also says what it sent that calls for an answer.
//! The checkers hold no operations: that a cycle's FILES are complete is counted by the receiver, which sees all connections.

use std::collections::VecDeque;
use std::io;

use crate::error::{Error, Exit, Result};
use crate::limits::{CYCLE_OPS_MAX, CYCLES_IN_FLIGHT_MAX, MODULE_BYTES_MAX, THREADS_MAX};
use crate::model::attrs::Namespaces;
use crate::model::op::{Abilities, Op, OpError};
use crate::model::options::Writing;
use crate::model::path::RelPath;
use crate::wire::message::{Hello, Message, Role};
use crate::wire::{Token, VERSION_MAX, VERSION_MIN, WireError};

pub(super) const OPS_MAX: u32 = CYCLE_OPS_MAX as u32;
const _: () = assert!(CYCLE_OPS_MAX <= u32::MAX as usize && THREADS_MAX <= u16::MAX as usize);

impl Hello {
    /// Opens a session for the directory `path` of `module`, with at most `threads` content connections, that carries no attributes.
    ///
    /// # Errors
    /// `Usage`: a module's name has 1 to 255 bytes and no control characters.
    pub fn control(module: &str, path: RelPath, threads: u16) -> Result<Self> {
        if module.is_empty() || module.len() > MODULE_BYTES_MAX || module.chars().any(char::is_control) {
            return Err(Error::Usage(format!("{module:?} can be no module: 1 to {MODULE_BYTES_MAX} bytes without control characters")));
        }
        Ok(Self::with(Role::Control {
            module: module.into(),
            path,
            threads,
            attrs: Namespaces::NONE,
            read_only: false,
            writing: Writing::default(),
            continues: Token::default(),
        }))
    }

    /// The same, of a session that carries these attributes.
    #[must_use]
    pub fn carrying(mut self, carried: Namespaces) -> Self {
        if let Role::Control { attrs, .. } = &mut self.role {
            *attrs = carried;
        }
        self
    }

    /// The same for a session in which nothing is changed.
    #[must_use]
    pub fn read_only(mut self) -> Self {
        if let Role::Control { read_only, .. } = &mut self.role {
            *read_only = true;
        }
        self
    }

    /// The same, of a session that goes on from the one that had this token, if it can. Nothing for a content connection.
    #[must_use]
    pub fn continuing(mut self, token: Token) -> Self {
        if let Role::Control { continues, .. } = &mut self.role {
            *continues = token;
        }
        self
    }

    /// Joins the session that gave `token`, as its content connection `index`.
    pub fn content(token: Token, index: u16) -> Self {
        Self::with(Role::Content { token, index })
    }

    fn with(role: Role) -> Self {
        Self { version_min: VERSION_MIN, version_max: VERSION_MAX, role }
    }
}

/// Why a server does not serve a client: what goes into its Refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The exit code that it means for the client.
    pub code: Exit,
    /// Why, for a person.
    pub text: String,
}

/// The server's answer to the first message of a connection: the version to speak and what it is for.
///
/// # Errors
/// What to refuse it with.
pub fn greet(first: Message<'_>) -> std::result::Result<(u16, Role), Refusal> {
    let Message::Hello(hello) = first else {
        return Err(Refusal { code: Exit::Protocol, text: "the first message is no Hello".into() });
    };
    let version = hello.version_max.min(VERSION_MAX);
    if version < hello.version_min.max(VERSION_MIN) {
        let (min, max) = (hello.version_min, hello.version_max);
        let text = format!(
            "the client speaks versions {min} to {max} of the protocol, this server {VERSION_MIN} to {VERSION_MAX}: update the older"
        );
        return Err(Refusal { code: Exit::Handshake, text });
    }
    let over = match &hello.role {
        Role::Control { threads, .. } => usize::from(*threads) > THREADS_MAX,
        Role::Content { index, .. } => usize::from(*index) >= THREADS_MAX,
    };
    if over {
        let text = format!("more than {THREADS_MAX} content connections");
        return Err(Refusal { code: Exit::Usage, text });
    }
    Ok((version, hello.role))
}

/// What a server said when it accepted a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Welcomed {
    /// The version both speak.
    pub version: u16,
    /// For content connections.
    pub token: Token,
    /// What the receiver can set.
    pub abilities: Abilities,
    /// The mirror is as the session left it that the Hello named.
    pub continued: bool,
}

/// The client's reading of the first message of a server.
///
/// # Errors
/// `Handshake`, `File` if the server cannot open the directory, or `Socket` if it says that another try may help: refused, with its words. `Protocol`: anything but Welcome or Refused.
pub fn welcomed(first: &Message<'_>) -> Result<Welcomed> {
    match *first {
        Message::Welcome { version, token, abilities, continued } => {
            if (VERSION_MIN..=VERSION_MAX).contains(&version) {
                Ok(Welcomed { version, token, abilities, continued })
            } else {
                Err(WireError::Order("a Welcome to a version that was not offered").into())
            }
        }
        Message::Refused { code, text } if code == Exit::Socket as u8 => Err(Error::socket("refused", io::Error::other(text.to_owned()))),
        Message::Refused { code, text } if code == Exit::File as u8 => Err(Error::file("refused", io::Error::other(text.to_owned()))),
        Message::Refused { text, .. } => Err(Error::Handshake(text.into())),
        Message::Fatal { code, text } => Err(fatal(code, text)),
        _ => Err(WireError::Order("the server's first one is neither Welcome nor Refused").into()),
    }
}

/// The error that a server's Fatal means for the client.
pub fn fatal(code: u8, text: &str) -> Error {
    let source = || io::Error::other(text.to_owned());
    match code {
        1 | 5 => Error::Handshake(text.into()),
        11 => Error::file("the receiver gave up", source()),
        12 => Error::Protocol(format!("says the receiver: {text}")),
        _ => Error::socket("the receiver ended the session", source()),
    }
}

/// Where a control connection stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    Idle,
    Pre,
    Files,
    Post,
    Ended,
}

/// The server's checker of a control connection, from the message after the Hello on.
///
/// Invariant: `ops <= OPS_MAX`, the operations of the present list, or files named in FILES on this connection.
#[derive(Debug)]
pub struct ControlServer {
    at: At,
    cycle: Option<u64>,
    ops: u32,
}

impl Default for ControlServer {
    fn default() -> Self {
        Self { at: At::Idle, cycle: None, ops: 0 }
    }
}

impl ControlServer {
    /// Right after the Welcome.
    pub fn new() -> Self {
        Self::default()
    }

    /// The cycle begun last, if any.
    pub fn cycle(&self) -> Option<u64> {
        self.cycle
    }

    /// Whether the client said Bye: the end of the stream is in good order then.
    pub fn has_ended(&self) -> bool {
        self.at == At::Ended
    }

    /// Takes one message of the client.
    ///
    /// # Errors
    /// It may not stand here: end the session.
    pub fn check(&mut self, message: &Message<'_>) -> std::result::Result<(), WireError> {
        self.at = match (self.at, message) {
            (At::Ended, _) => return Err(WireError::Order("one after Bye")),
            (at, Message::Ping | Message::Stage { .. } | Message::Hole { .. } | Message::StageDrop { .. }) => at,
            (at @ (At::Pre | At::Files | At::Post), Message::Attrs(_)) => at,
            (At::Idle, Message::List { .. }) => At::Idle,
            (At::Idle, Message::Bye) => At::Ended,
            (At::Idle, Message::Begin { cycle }) => {
                if self.cycle.is_some_and(|last| last.checked_add(1) != Some(*cycle)) {
                    return Err(WireError::Order("cycles do not rise by one"));
                }
                self.cycle = Some(*cycle);
                self.ops = 0;
                At::Pre
            }
            (At::Pre, Message::Op(op)) if stands_in_pre(op) => self.count(At::Pre)?,
            (At::Pre, Message::Open) => {
                self.ops = 0;
                At::Files
            }
            (At::Files, Message::File { index, op }) => check_file(*index, op).and_then(|()| self.count(At::Files))?,
            (At::Files, Message::Put { index, .. } | Message::PutSparse { index, .. } | Message::PutPatch { index, .. }) => {
                check_index(*index).and_then(|()| self.count(At::Files))?
            }
            (At::Files, Message::Close { files }) => {
                if *files > OPS_MAX {
                    return Err(WireError::Order("more files than a cycle has"));
                }
                if *files < self.ops {
                    return Err(WireError::Order("a Close with fewer files than were sent"));
                }
                self.ops = 0;
                At::Post
            }
            (At::Post, Message::Op(op)) if stands_in_post(op) => self.count(At::Post)?,
            (At::Post, Message::Skip) => self.count(At::Post)?,
            (At::Post, Message::Commit) => At::Idle,
            (_, Message::Op(_)) => return Err(WireError::Order("an operation outside its list")),
            _ => return Err(WireError::Order("not allowed in this state of a control connection")),
        };
        Ok(())
    }

    fn count(&mut self, at: At) -> std::result::Result<At, WireError> {
        if self.ops >= OPS_MAX {
            return Err(WireError::Order("more operations than a cycle has"));
        }
        self.ops += 1;
        Ok(at)
    }
}

/// The server's checker of a content connection, from the message after the Hello on.
#[derive(Debug, Default)]
pub struct ContentServer {
    cycle: Option<u64>,
    ended: bool,
}

impl ContentServer {
    /// Right after the Welcome.
    pub fn new() -> Self {
        Self::default()
    }

    /// The cycle to which File and Put belong.
    pub fn cycle(&self) -> Option<u64> {
        self.cycle
    }

    /// Whether the client said Bye.
    pub fn has_ended(&self) -> bool {
        self.ended
    }

    /// Takes one message of the client.
    ///
    /// # Errors
    /// It may not stand here: end the session.
    pub fn check(&mut self, message: &Message<'_>) -> std::result::Result<(), WireError> {
        if self.ended {
            return Err(WireError::Order("one after Bye"));
        }
        match message {
            Message::Ping | Message::Stage { .. } | Message::Hole { .. } | Message::StageDrop { .. } => Ok(()),
            Message::Patch { .. } | Message::Steps { .. } | Message::Seal { .. } | Message::Attrs(_) | Message::Resume { .. } => Ok(()),
            Message::Sum { .. } | Message::Look { .. } | Message::Sign { .. } => Ok(()),
            Message::Bye => {
                self.ended = true;
                Ok(())
            }
            Message::FilesOf { cycle } => {
                if self.cycle.is_some_and(|last| last > *cycle) {
                    return Err(WireError::Order("cycles do not rise"));
                }
                self.cycle = Some(*cycle);
                Ok(())
            }
            Message::File { .. } | Message::Put { .. } | Message::PutSparse { .. } | Message::PutPatch { .. } if self.cycle.is_none() => {
                Err(WireError::Order("a file before its cycle"))
            }
            Message::File { index, op } => check_file(*index, op),
            Message::Put { index, .. } | Message::PutSparse { index, .. } | Message::PutPatch { index, .. } => check_index(*index),
            _ => Err(WireError::Order("not allowed on a content connection")),
        }
    }
}

fn stands_in_pre(op: &Op) -> bool {
    matches!(
        op,
        Op::Move { .. }
            | Op::Park { .. }
            | Op::Mkdir { .. }
            | Op::Symlink { .. }
            | Op::Special { .. }
            | Op::Link { .. }
            | Op::Unlink { .. }
    )
}

fn stands_in_post(op: &Op) -> bool {
    matches!(op, Op::Link { .. } | Op::Unlink { .. } | Op::Rmdir { .. } | Op::DirMeta { .. })
}

fn check_index(index: u32) -> std::result::Result<(), WireError> {
    if index < OPS_MAX { Ok(()) } else { Err(WireError::Order("more files than a cycle has")) }
}

fn check_file(index: u32, op: &Op) -> std::result::Result<(), WireError> {
    if !matches!(op, Op::SetMeta { .. } | Op::Place { .. }) {
        return Err(WireError::Order("an operation outside its list"));
    }
    check_index(index)
}

/// The client's checker of a control connection, from the message after the Welcome on.
///
/// Invariant: `in_flight` holds the cycles that were begun and not acknowledged, oldest first, at most [`CYCLES_IN_FLIGHT_MAX`].
#[derive(Debug, Default)]
pub struct ControlClient {
    in_flight: VecDeque<u64>,
    failed: u32,
    lists: u32,
    in_listing: bool,
    pings: u32,
}

impl ControlClient {
    /// Right after the Welcome.
    pub fn new() -> Self {
        Self::default()
    }

    /// Cycles begun and not acknowledged.
    pub fn in_flight(&self) -> usize {
        self.in_flight.len()
    }

    /// The oldest of them: the one that a Failed is about.
    pub fn oldest(&self) -> Option<u64> {
        self.in_flight.front().copied()
    }

    /// Says that a Begin was sent. A client has at most [`CYCLES_IN_FLIGHT_MAX`] cycles on their way.
    pub fn sent_begin(&mut self, cycle: u64) {
        debug_assert!(self.in_flight.len() < CYCLES_IN_FLIGHT_MAX && self.in_flight.back().is_none_or(|last| last + 1 == cycle));
        self.in_flight.push_back(cycle);
    }

    /// Says that a List was sent.
    pub fn sent_list(&mut self) {
        self.lists += 1;
    }

    /// Whether a Ping has no answer yet.
    pub fn awaits_pong(&self) -> bool {
        self.pings > 0
    }

    /// Says that a Ping was sent.
    pub fn sent_ping(&mut self) {
        self.pings += 1;
    }

    /// Takes one message of the server. A Fatal passes: see [`fatal`].
    ///
    /// # Errors
    /// It may not stand here: end the session.
    pub fn check(&mut self, message: &Message<'_>) -> std::result::Result<(), WireError> {
        match message {
            Message::Listing { .. } | Message::ListError { .. } | Message::ListEnd | Message::Entry(_) if self.lists == 0 => {
                return Err(WireError::Order("a manifest that was not asked for"));
            }
            Message::Listing { .. } => self.in_listing = true,
            Message::Entry(_) if !self.in_listing => return Err(WireError::Order("an entry outside a directory")),
            Message::ListEnd => {
                self.lists -= 1;
                self.in_listing = false;
            }
            Message::Entry(_) | Message::ListError { .. } | Message::Fatal { .. } => {}
            Message::Failed(OpError { index, .. }) => {
                if self.in_flight.is_empty() {
                    return Err(WireError::Order("a failure without a cycle"));
                }
                check_index(*index)?;
                // Three lists, each of at most so many.
                if self.failed >= 3 * OPS_MAX {
                    return Err(WireError::Order("more failures than operations"));
                }
                self.failed += 1;
            }
            Message::Ack { cycle } => {
                if self.in_flight.front() != Some(cycle) {
                    return Err(WireError::Order("an Ack of another cycle than the oldest"));
                }
                self.in_flight.pop_front();
                self.failed = 0;
            }
            // Asked for or not, the server lives.
            Message::Pong => self.pings = self.pings.saturating_sub(1),
            _ => return Err(WireError::Order("not allowed from a server")),
        }
        Ok(())
    }
}

/// The client's checker of a content connection, from the message after the Welcome on.
#[derive(Debug, Default)]
pub struct ContentClient {
    pings: u32,
    resumes: u32,
    seals: u32,
    sums: u32,
    looks: u32,
    signs: u32,
}

impl ContentClient {
    /// Right after the Welcome.
    pub fn new() -> Self {
        Self::default()
    }

    /// Says that a Ping was sent.
    pub fn sent_ping(&mut self) {
        self.pings += 1;
    }

    /// Says that a Resume was sent.
    pub fn sent_resume(&mut self) {
        self.resumes += 1;
    }

    /// Says that a Seal was sent.
    pub fn sent_seal(&mut self) {
        self.seals += 1;
    }

    /// Says that a Sum was sent.
    pub fn sent_sum(&mut self) {
        self.sums += 1;
    }

    /// Says that a Sign was sent.
    pub fn sent_sign(&mut self) {
        self.signs += 1;
    }

    /// Says that a Look was sent.
    pub fn sent_look(&mut self) {
        self.looks += 1;
    }

    /// Takes one message of the server. A Fatal passes: see [`fatal`].
    ///
    /// # Errors
    /// It may not stand here: end the session.
    pub fn check(&mut self, message: &Message<'_>) -> std::result::Result<(), WireError> {
        match message {
            Message::Fatal { .. } => Ok(()),
            Message::Summed { .. } => {
                self.sums = self.sums.checked_sub(1).ok_or(WireError::Order("a Summed without a Sum"))?;
                Ok(())
            }
            Message::Looked(part) => {
                let left = self.looks.checked_sub(part.last.into()).filter(|_| self.looks > 0);
                self.looks = left.ok_or(WireError::Order("a Looked without a Look"))?;
                Ok(())
            }
            Message::Signed { last, .. } => {
                let left = self.signs.checked_sub((*last).into()).filter(|_| self.signs > 0);
                self.signs = left.ok_or(WireError::Order("a Signed without a Sign"))?;
                Ok(())
            }
            Message::Pong => {
                self.pings = self.pings.checked_sub(1).ok_or(WireError::Order("a Pong without a Ping"))?;
                Ok(())
            }
            Message::Resumed { .. } => {
                self.resumes = self.resumes.checked_sub(1).ok_or(WireError::Order("a Resumed without a Resume"))?;
                Ok(())
            }
            Message::Sealed { .. } => {
                self.seals = self.seals.checked_sub(1).ok_or(WireError::Order("a Sealed without a Seal"))?;
                Ok(())
            }
            _ => Err(WireError::Order("not allowed from a server on a content connection")),
        }
    }
}
