//! The answering end: one thread over a Unix socket of mode 0600.
//!
//! It waits for nobody: sockets are non-blocking, a request has one short line and one reply, each client has its time, and there are few of them. What has to
//! be asked of the mirror's own thread is left with the [`Office`], which rings when the answer is there; a mirror that is busy or hung delays nobody but
//! who asked, until that one's time is over. Started by the sender and the receiver.

use std::fs;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, connect, listen, socket};
use nix::sys::stat::{Mode, fchmod};

use crate::control::{Reply, Request, client, place};
use crate::error::{Error, Result};
use crate::limits::{ACCEPT_PAUSE, CONTROL_CLIENT_TIME_MAX, CONTROL_CLIENTS_MAX, CONTROL_PATIENCE, CONTROL_REQUEST_BYTES_MAX};
use crate::model::path::Shown;
use crate::sys::wake::Wake;

/// Between two looks whether a process that is dying still listens, or another still holds the directory.
const SILENCE_PAUSE: Duration = Duration::from_millis(10);

/// Who is asked. Called by the server's thread; must not block.
pub trait Office: Send + Sync {
    /// A request comes; `bell` is to be rung when [`Office::answer`] will have something. A ticket is used once.
    fn ask(&self, ticket: u64, request: Request, bell: &Wake);
    /// The answer to a ticket, once.
    fn answer(&self, ticket: u64) -> Option<Reply>;
    /// The client's time is over: what it is told instead.
    fn late(&self, ticket: u64, request: Request) -> Reply;
    /// The client has gone: nothing has to be answered any more.
    fn gone(&self, ticket: u64);
}

enum Stage {
    /// Its line is not complete.
    Reading(Vec<u8>),
    /// It waits for an answer.
    Waiting(u64, Request),
    /// It is being answered: bytes, and how many of them are sent.
    Writing(Vec<u8>, usize),
}

struct Client {
    stream: UnixStream,
    stage: Stage,
    /// When it has to be done with the stage.
    until: Option<Instant>,
}

/// The running server. Dropping it ends the thread and removes the socket.
pub struct Server {
    wake: Wake,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
    path: PathBuf,
    /// Device and inode of the socket: another one at its path is not ours.
    ident: (u64, u64),
}

impl Server {
    /// Listens at `path`; a socket there that nobody answers at is replaced.
    ///
    /// # Errors
    /// `Socket`: somebody answers at the path, something else is there, or it cannot be made.
    pub fn start(path: &Path, office: Arc<dyn Office>) -> Result<Self> {
        let failed = |e| Error::socket(format!("control socket {}", Shown(path.as_os_str().as_bytes())), e);
        let (listener, ident) = open(path).map_err(failed)?;
        let wake = Wake::new().map_err(failed)?;
        let stop = Arc::new(AtomicBool::new(false));
        let desk =
            Desk { listener, office, wake: wake.clone(), stop: Arc::clone(&stop), clients: Vec::new(), tickets: 0, accepts_at: None };
        let thread = std::thread::Builder::new().name("control".into()).spawn(move || desk.run()).map_err(failed)?;
        tracing::debug!("control socket {}", path.display());
        Ok(Self { wake, stop, thread: Some(thread), path: path.to_owned(), ident })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        self.wake.wake();
        if let Some(thread) = self.thread.take() {
            // A panic of the thread has been printed where it happened.
            let _ = thread.join();
        }
        if fs::symlink_metadata(&self.path).is_ok_and(|meta| (meta.dev(), meta.ino()) == self.ident) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Makes the listening socket, alone in its directory while it looks for another that listens.
fn open(path: &Path) -> io::Result<(UnixListener, (u64, u64))> {
    let address = UnixAddr::new(path)
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "its path is longer than the 107 bytes that a socket may have"))?;
    let parent = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    // Where the directory cannot be locked, two that start at the same moment may both think that they are the first.
    let _alone = lock(parent);
    match fs::symlink_metadata(path) {
        Ok(meta) if !meta.file_type().is_socket() => {
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, "something else is at its path"));
        }
        Ok(_) => {
            wait_for_silence(path, &address)?;
            tracing::debug!("{}: the socket of a process that has ended", path.display());
            fs::remove_file(path)?;
        }
        Err(_) => {}
    }
    let fd = socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK, None)?;
    // The inode that `bind` makes has the mode of the socket, less the process's mask: it is never open to others.
    fchmod(&fd, Mode::S_IRUSR | Mode::S_IWUSR)?;
    bind(fd.as_raw_fd(), &address)?;
    listen(&fd, Backlog::new(CONTROL_CLIENTS_MAX as i32)?)?;
    let meta = fs::symlink_metadata(path)?;
    Ok((UnixListener::from(fd), (meta.dev(), meta.ino())))
}

/// Locks a directory, within the time that one who holds it needs at most: it may be one that others lock for reasons of their own.
fn lock(dir: &Path) -> Option<Flock<fs::File>> {
    let deadline = Instant::now() + 3 * CONTROL_PATIENCE;
    let mut dir = fs::File::open(dir).ok()?;
    loop {
        dir = match Flock::lock(dir, FlockArg::LockExclusiveNonblock) {
            Ok(locked) => return Some(locked),
            Err((dir, Errno::EWOULDBLOCK | Errno::EINTR)) if Instant::now() < deadline => dir,
            Err(_) => return None,
        };
        std::thread::sleep(SILENCE_PAUSE);
    }
}

/// Waits until nobody listens at the address any more: a process that was killed just now does for a moment, but answers nobody.
fn wait_for_silence(path: &Path, address: &UnixAddr) -> io::Result<()> {
    let taken = |why: &str| Err(io::Error::new(io::ErrorKind::AddrInUse, why));
    // One that is there has something to say when its own patience ends.
    let deadline = Instant::now() + 2 * CONTROL_PATIENCE;
    loop {
        match is_answered(address) {
            Ok(()) => {}
            Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => return Ok(()),
            // Its queue is full.
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => return taken("another ringsync is there, and busy"),
            Err(e) => return Err(e),
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return taken("another process is there, and does not answer");
        }
        match client::ask(path, Request::Status, Some(left)) {
            Ok(_) => return taken("another ringsync answers there"),
            Err(e) if e.kind() == io::ErrorKind::InvalidData => return taken("something else answers there"),
            Err(_) => std::thread::sleep(SILENCE_PAUSE),
        }
    }
}

/// Removes the sockets in the user's own directory that nobody listens at: processes that were killed leave them.
pub fn sweep(dir: &Path) {
    // Without the lock one that is just being made could be taken for dead.
    let Some(_alone) = lock(dir) else { return };
    for path in place::sockets(dir).unwrap_or_default() {
        let answered = UnixAddr::new(&path).map_err(io::Error::from).and_then(|address| is_answered(&address));
        if answered.is_err_and(|e| e.kind() == io::ErrorKind::ConnectionRefused) {
            // It is nobody's harm if it stays.
            let _ = fs::remove_file(&path);
        }
    }
}

/// Whether somebody listens at the address; without waiting for one that is stopped.
fn is_answered(address: &UnixAddr) -> io::Result<()> {
    let fd = socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK, None)?;
    Ok(connect(fd.as_raw_fd(), address)?)
}

/// The thread's own.
struct Desk {
    listener: UnixListener,
    office: Arc<dyn Office>,
    wake: Wake,
    stop: Arc<AtomicBool>,
    clients: Vec<Client>,
    tickets: u64,
    /// Nobody could be let in, for lack of descriptors: when that is tried again.
    accepts_at: Option<Instant>,
}

impl Desk {
    fn run(mut self) {
        while !self.stop.load(Ordering::Acquire) {
            if let Err(e) = self.wait() {
                tracing::warn!("control socket: {e}");
                self.wake.wait(Some(CONTROL_PATIENCE));
            }
            self.wake.clear();
            self.accept();
            let now = Instant::now();
            let mut clients = std::mem::take(&mut self.clients);
            clients.retain_mut(|client| self.serve(client, now));
            self.clients = clients;
        }
    }

    fn wait(&self) -> io::Result<()> {
        let now = Instant::now();
        let mut fds = vec![PollFd::new(self.wake.as_fd(), PollFlags::POLLIN)];
        if self.clients.len() < CONTROL_CLIENTS_MAX && self.accepts_at.is_none_or(|at| at <= now) {
            fds.push(PollFd::new(self.listener.as_fd(), PollFlags::POLLIN));
        }
        fds.extend(self.clients.iter().map(|client| {
            let fd: BorrowedFd<'_> = client.stream.as_fd();
            match client.stage {
                Stage::Reading(_) => PollFd::new(fd, PollFlags::POLLIN),
                // A client that has gone is told in any case.
                Stage::Waiting(..) => PollFd::new(fd, PollFlags::empty()),
                Stage::Writing(..) => PollFd::new(fd, PollFlags::POLLOUT),
            }
        }));
        let times = self.clients.iter().filter_map(|client| client.until).chain(self.accepts_at);
        let left = times.min().map(|until| until.saturating_duration_since(now));
        let timeout = left.map_or(PollTimeout::NONE, |left| {
            let millis = left.as_millis().saturating_add(1).min(1_000_000);
            PollTimeout::try_from(millis as i32).unwrap_or(PollTimeout::ZERO)
        });
        match poll(&mut fds, timeout) {
            Ok(_) | Err(Errno::EINTR) => Ok(()),
            Err(e) => Err(e.into()),
        }
    }

    fn accept(&mut self) {
        let now = Instant::now();
        if self.accepts_at.is_some_and(|at| at > now) {
            return;
        }
        self.accepts_at = None;
        while self.clients.len() < CONTROL_CLIENTS_MAX {
            let stream = match self.listener.accept() {
                Ok((stream, _)) => stream,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return,
                Err(e) if matches!(e.kind(), io::ErrorKind::Interrupted | io::ErrorKind::ConnectionAborted) => continue,
                Err(_) => {
                    self.accepts_at = Some(now + ACCEPT_PAUSE);
                    return;
                }
            };
            if stream.set_nonblocking(true).is_ok() {
                self.clients.push(Client {
                    stream,
                    stage: Stage::Reading(Vec::new()),
                    until: Some(Instant::now() + CONTROL_CLIENT_TIME_MAX),
                });
            }
        }
    }

    /// Does what can be done for a client now; false if that was all.
    fn serve(&mut self, client: &mut Client, now: Instant) -> bool {
        loop {
            let is_late = client.until.is_some_and(|until| until <= now);
            let next = match &mut client.stage {
                Stage::Reading(line) => match read_line(&client.stream, line) {
                    Got::Line => match Request::parse(line) {
                        Some(request) => self.ask(request),
                        None => answered(&Reply::Error("not a request: status, flush [SECONDS] or approve".into())),
                    },
                    Got::Part if !is_late => return true,
                    Got::Part | Got::End => return false,
                },
                Stage::Waiting(ticket, request) => {
                    if is_hung_up(&client.stream) {
                        self.office.gone(*ticket);
                        return false;
                    }
                    match self.office.answer(*ticket) {
                        Some(reply) => answered(&reply),
                        None if is_late => answered(&self.office.late(*ticket, *request)),
                        None => return true,
                    }
                }
                Stage::Writing(bytes, sent) => match (&client.stream).write(&bytes[*sent..]) {
                    Ok(0) => return false,
                    Ok(n) => {
                        *sent += n;
                        if *sent == bytes.len() {
                            return false;
                        }
                        // What takes its bytes gets its time anew.
                        client.until = Some(now + CONTROL_CLIENT_TIME_MAX);
                        continue;
                    }
                    Err(e) if e.kind() == io::ErrorKind::WouldBlock && !is_late => return true,
                    Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                    Err(_) => return false,
                },
            };
            (client.stage, client.until) = next;
        }
    }

    fn ask(&mut self, request: Request) -> (Stage, Option<Instant>) {
        self.tickets += 1;
        let patience = match request {
            Request::Status | Request::Approve => Some(CONTROL_PATIENCE),
            Request::Flush(timeout) => timeout,
        };
        self.office.ask(self.tickets, request, &self.wake);
        (Stage::Waiting(self.tickets, request), patience.and_then(|patience| Instant::now().checked_add(patience)))
    }
}

fn answered(reply: &Reply) -> (Stage, Option<Instant>) {
    // Plain values and strings: nothing in them that JSON cannot have.
    let mut bytes = serde_json::to_vec(reply).unwrap_or_default();
    bytes.push(b'\n');
    (Stage::Writing(bytes, 0), Some(Instant::now() + CONTROL_CLIENT_TIME_MAX))
}

enum Got {
    /// It is complete, without its end.
    Line,
    Part,
    End,
}

fn read_line(mut stream: &UnixStream, line: &mut Vec<u8>) -> Got {
    let mut buffer = [0; CONTROL_REQUEST_BYTES_MAX];
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return Got::End,
            Ok(n) => {
                line.extend_from_slice(&buffer[..n]);
                if let Some(end) = line.iter().position(|b| *b == b'\n') {
                    line.truncate(end);
                    return Got::Line;
                }
                if line.len() > CONTROL_REQUEST_BYTES_MAX {
                    return Got::End;
                }
            }
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Got::Part,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return Got::End,
        }
    }
}

fn is_hung_up(stream: &UnixStream) -> bool {
    let mut fds = [PollFd::new(stream.as_fd(), PollFlags::empty())];
    let hung = PollFlags::POLLHUP | PollFlags::POLLERR;
    poll(&mut fds, PollTimeout::ZERO).is_ok_and(|n| n > 0) && fds[0].revents().is_some_and(|events| events.intersects(hung))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::Flushed;
    use crate::control::client::ask;
    use std::os::unix::fs::PermissionsExt;
    use std::sync::Mutex;

    /// Answers approvals at once, and nothing else ever.
    #[derive(Default)]
    struct Lazy(Mutex<Vec<(u64, Request)>>, AtomicBool);

    impl Office for Lazy {
        fn ask(&self, ticket: u64, request: Request, _: &Wake) {
            self.0.lock().unwrap().push((ticket, request));
        }
        fn answer(&self, ticket: u64) -> Option<Reply> {
            let asked = self.0.lock().unwrap();
            asked.iter().any(|(t, r)| *t == ticket && *r == Request::Approve).then_some(Reply::Approved(ticket))
        }
        fn late(&self, _: u64, request: Request) -> Reply {
            match request {
                Request::Flush(_) => Reply::Flush(Flushed { done: false, left: 3, failing: 0, held: 0, by_full_look: false }),
                _ => Reply::Error("late".into()),
            }
        }
        fn gone(&self, _: u64) {
            self.1.store(true, Ordering::SeqCst);
        }
    }

    fn approved(path: &Path) -> bool {
        matches!(ask(path, Request::Approve, Some(Duration::from_secs(20))), Ok(Reply::Approved(_)))
    }

    #[test]
    fn only_its_user_may_ask_and_a_dead_socket_is_replaced() {
        let tmp = tempfile::tempdir().unwrap();
        let path = tmp.path().join("c.sock");
        // A socket that nobody listens at.
        drop(UnixListener::bind(&path).unwrap());
        let server = Server::start(&path, Arc::new(Lazy::default())).unwrap();
        assert_eq!(fs::symlink_metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(approved(&path));
        let second = Server::start(&path, Arc::new(Lazy::default())).err().expect("one is there").to_string();
        assert!(second.contains("another ringsync answers there"), "{second}");
        assert!(approved(&path));
        drop(UnixListener::bind(tmp.path().join("dead.sock")).unwrap());
        sweep(tmp.path());
        assert!(approved(&path) && !tmp.path().join("dead.sock").exists());
        drop(server);
        assert!(!path.exists());
        fs::write(&path, b"x").unwrap();
        assert!(Server::start(&path, Arc::new(Lazy::default())).is_err());
        assert!(path.exists());
        let long = tmp.path().join("x".repeat(120));
        assert!(Server::start(&long, Arc::new(Lazy::default())).err().unwrap().to_string().contains("107"));
    }

    #[test]
    fn no_client_blocks_another() {
        let tmp = tempfile::tempdir().unwrap();
        let path = tmp.path().join("c.sock");
        let office = Arc::new(Lazy::default());
        let _server = Server::start(&path, office.clone()).unwrap();
        // Some say nothing, some wait for ever, some talk too much or nonsense.
        let silent: Vec<UnixStream> = (0..4).map(|_| UnixStream::connect(&path).unwrap()).collect();
        let mut waiting = UnixStream::connect(&path).unwrap();
        waiting.write_all(b"flush\n").unwrap();
        let mut noisy = UnixStream::connect(&path).unwrap();
        let _ = noisy.write_all(&[b'x'; 100_000]);
        let mut wrong = UnixStream::connect(&path).unwrap();
        wrong.write_all(b"make coffee\n").unwrap();
        let mut said = String::new();
        wrong.read_to_string(&mut said).unwrap();
        assert!(said.contains("not a request"), "{said}");
        assert!(approved(&path));
        let flush = ask(&path, Request::Flush(Some(Duration::from_millis(10))), Some(Duration::from_secs(20)));
        assert!(matches!(flush, Ok(Reply::Flush(Flushed { done: false, left: 3, .. }))), "{flush:?}");
        drop(waiting);
        let deadline = Instant::now() + Duration::from_secs(20);
        while !office.1.load(Ordering::SeqCst) {
            assert!(Instant::now() < deadline && approved(&path), "who hung up is not noticed");
        }
        // More than there is room for: who says nothing is sent away after its time.
        let more: Vec<UnixStream> =
            (0..2 * CONTROL_CLIENTS_MAX).map_while(|_| UnixStream::connect(&path).ok()).take(CONTROL_CLIENTS_MAX).collect();
        assert!(approved(&path));
        drop((silent, more));
    }
}
