//! The real program as a child: started, watched, ended; never left behind.
//!
//! `RINGSYNC_BIN` names another build of it (a release, an older revision) to be tested instead.

use std::fs;
use std::io::Read;
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::compare::{Rules, wait_equal};
use crate::place::{Place, USER, deadline, is_root, until};

/// As whom the program runs.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum As {
    /// As whoever runs the tests.
    Us,
    /// As [`USER`].
    User,
}

/// A running program. Killed when dropped; then, in a failing test, what it wrote is shown.
pub struct Program {
    child: Child,
    name: String,
    stdout: Arc<Mutex<Vec<u8>>>,
    stderr: Arc<Mutex<Vec<u8>>>,
    readers: Vec<JoinHandle<()>>,
    /// Holds the copy that [`USER`] can run.
    _copy: Option<tempfile::TempDir>,
}

impl Program {
    /// Starts `ringsync ARGS`.
    pub fn start(who: As, args: &[&str]) -> Self {
        Self::start_in(who, &[], args)
    }

    /// The same with variables of the environment.
    pub fn start_in(who: As, variables: &[(&str, &str)], args: &[&str]) -> Self {
        let binary = std::env::var_os("RINGSYNC_BIN").map_or_else(|| PathBuf::from(env!("CARGO_BIN_EXE_ringsync")), PathBuf::from);
        let mut copy = None;
        let mut command = if who == As::User && is_root() {
            // The build may lie in a directory that others cannot enter.
            let dir = tempfile::Builder::new().prefix("ringsync-it-bin-").tempdir().expect("a temporary directory");
            fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("chmod");
            let path = dir.path().join("ringsync");
            fs::copy(&binary, &path).expect("a copy of the program");
            copy = Some(dir);
            let mut command = Command::new(path);
            command.uid(USER).gid(USER);
            command
        } else {
            Command::new(&binary)
        };
        command.args(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.envs(variables.iter().copied());
        command.env_remove("RUST_LOG").env_remove("RINGSYNC_LOG").current_dir("/");
        let mut spawned = command.spawn();
        // Another test that starts a program just now may hold the new copy open for writing, until its exec.
        until(deadline(), || {
            let busy = spawned.as_ref().is_err_and(|e| e.raw_os_error() == Some(libc::ETXTBSY));
            if busy {
                spawned = command.spawn();
            }
            !busy
        });
        let mut child = spawned.unwrap_or_else(|e| panic!("{}: {e}", binary.display()));
        let stderr = Arc::new(Mutex::new(Vec::new()));
        let stdout = Arc::new(Mutex::new(Vec::new()));
        let out = child.stdout.take().map(|out| drain(out, stdout.clone()));
        let err = child.stderr.take().map(|err| drain(err, stderr.clone()));
        Self { child, name: args.join(" "), stdout, stderr, readers: out.into_iter().chain(err).collect(), _copy: copy }
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it has written to stdout so far.
    pub fn stdout(&self) -> String {
        String::from_utf8_lossy(&self.stdout.lock().expect("no reader panics")).into_owned()
    }

    /// What it has written to stderr so far.
    pub fn stderr(&self) -> String {
        String::from_utf8_lossy(&self.stderr.lock().expect("no reader panics")).into_owned()
    }

    /// Whether it still runs.
    pub fn runs(&mut self) -> bool {
        self.child.try_wait().expect("wait").is_none()
    }

    /// Whether all its threads sleep: none works, or would if it had a processor.
    pub fn sleeps(&self) -> bool {
        self.states().iter().all(|state| *state == 'S')
    }

    /// Sends `signal`; one that stops is waited for: the kernel stops the other threads when the first one runs.
    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.pid().cast_signed()), signal).expect("kill");
        if signal == Signal::SIGSTOP {
            let stopped = until(deadline(), || self.states().iter().all(|state| "TtZX".contains(*state)));
            assert!(stopped, "`ringsync {}` does not stop", self.name);
        }
    }

    /// Of its threads, as `ps` has them.
    fn states(&self) -> Vec<char> {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.pid())).into_iter().flatten().flatten();
        let stats = tasks.filter_map(|task| std::fs::read_to_string(task.path().join("stat")).ok());
        // After the name, which may hold anything.
        stats.filter_map(|stat| stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next())).collect()
    }

    /// Waits until it ends by itself, and for the rest of its output.
    pub fn end(&mut self) -> ExitStatus {
        let ended = until(deadline(), || !self.runs());
        assert!(ended, "`ringsync {}` does not end", self.name);
        self.finish_reading();
        let stderr = self.stderr();
        assert!(!stderr.contains("panicked at"), "`ringsync {}` panicked:\n{stderr}", self.name);
        self.child.wait().expect("wait")
    }

    /// Waits for the rest of the output of the ended program; not for good, since a process that it left behind would hold the pipe.
    fn finish_reading(&self) {
        until(Duration::from_secs(5), || self.readers.iter().all(JoinHandle::is_finished));
    }

    /// Waits for its end and demands this exit code.
    pub fn ends_with(&mut self, code: i32) {
        let status = self.end();
        assert_eq!(status.code(), Some(code), "`ringsync {}` ended with {status}:\n{}", self.name, self.stderr());
    }

    /// SIGTERM, and the exit code that says so.
    pub fn terminate(&mut self) {
        self.signal(Signal::SIGTERM);
        self.ends_with(20);
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let status = self.child.wait();
        self.finish_reading();
        if std::thread::panicking() {
            let stderr = self.stderr();
            let from = stderr.char_indices().rev().nth(8000).map_or(0, |(at, _)| at);
            eprintln!("--- `ringsync {}` ({status:?}), end of its stderr:\n{}---", self.name, &stderr[from..]);
        }
    }
}

/// Reads all of `from`, so that the program never blocks on a full pipe.
fn drain(mut from: impl Read + Send + 'static, into: Arc<Mutex<Vec<u8>>>) -> JoinHandle<()> {
    std::thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok(len @ 1..) = from.read(&mut buffer) {
            into.lock().expect("no holder panics").extend_from_slice(&buffer[..len]);
        }
    })
}

/// A receiver on a port of loopback that serves one directory as the module `m`.
pub struct Server {
    program: Program,
    port: u16,
    who: As,
    module: String,
}

impl Server {
    /// Starts it and waits until it listens.
    pub fn start(who: As, root: &Path) -> Self {
        Self::start_with(who, root, "")
    }

    /// The same, with `options` behind the module's path.
    pub fn start_with(who: As, root: &Path, options: &str) -> Self {
        let module = format!("m={}{options}", root.to_str().expect("a path of ours"));
        // Between our look for a free port and its bind another test may take the port: then once more.
        for _ in 0..20 {
            let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|l| l.local_addr()).expect("a free port").port();
            if let Some(program) = listening(who, &module, port) {
                return Self { program, port, who, module };
            }
        }
        panic!("`ringsync serve` never listens");
    }

    /// What a sender calls it.
    pub fn url(&self) -> String {
        format!("ringsync://127.0.0.1:{}/m", self.port)
    }

    /// The port that it listens on.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The program.
    pub fn program(&mut self) -> &mut Program {
        &mut self.program
    }

    /// Kills it without a warning and starts it again, on the same port.
    pub fn kill_and_restart(&mut self) {
        self.program.signal(Signal::SIGKILL);
        self.program.end();
        let mut again = None;
        until(deadline(), || {
            again = listening(self.who, &self.module, self.port);
            again.is_some()
        });
        self.program = again.expect("the port is free again");
    }
}

/// Starts a server on `port`; `None` when it ends instead of listening.
fn listening(who: As, module: &str, port: u16) -> Option<Program> {
    let listen = format!("127.0.0.1:{port}");
    let mut program = Program::start(who, &["serve", "--listen", &listen, "--module", module]);
    let mut runs = true;
    let waited = until(deadline(), || {
        runs = program.runs();
        !runs || listens(program.pid(), port)
    });
    assert!(waited, "`ringsync serve` does not listen:\n{}", program.stderr());
    runs.then_some(program)
}

/// Whether a socket of this process listens on `port`: asked of the kernel, so that no stray connection meets the server.
fn listens(pid: u32, port: u16) -> bool {
    let table = fs::read_to_string("/proc/net/tcp").unwrap_or_default();
    let local = format!("0100007F:{port:04X}");
    let sockets: Vec<String> = table
        .lines()
        .filter_map(|line| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            (fields.get(1) == Some(&local.as_str()) && fields.get(3) == Some(&"0A"))
                .then(|| fields.get(9).map(|i| format!("socket:[{i}]")))?
        })
        .collect();
    let Ok(open) = fs::read_dir(format!("/proc/{pid}/fd")) else { return false };
    open.filter_map(|fd| fs::read_link(fd.ok()?.path()).ok()).any(|target| sockets.iter().any(|s| target == Path::new(s)))
}

/// Where the receiver is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Way {
    /// In the mirror's own process.
    Local,
    /// In a server on loopback.
    Tcp,
}

/// A live mirror of a [`Place`].
pub struct Mirror {
    /// The sender.
    pub program: Mutex<Program>,
    /// The receiver, where it is another process.
    pub server: Option<Server>,
    src: PathBuf,
    dst: PathBuf,
    rules: Rules,
}

impl Mirror {
    /// Starts it; `args` are further options.
    pub fn start(who: As, way: Way, place: &Place, args: &[&str]) -> Self {
        Self::between(who, way, &place.src, &place.dst, args)
    }

    /// The same between any two directories.
    pub fn between(who: As, way: Way, src: &Path, dst: &Path, args: &[&str]) -> Self {
        let server = (way == Way::Tcp).then(|| Server::start(who, dst));
        let program = Mutex::new(sender(who, server.as_ref(), src, dst, args));
        let rules = if who == As::User { Rules::without_owners() } else { Rules::full() };
        Self { program, server, src: src.to_owned(), dst: dst.to_owned(), rules }
    }

    /// Entries that are not compared, from now on.
    pub fn skipping<'a>(mut self, paths: impl IntoIterator<Item = &'a [u8]>) -> Self {
        self.rules = self.rules.skipping(paths);
        self
    }

    /// Waits until the mirror is equal, and returns how long that took. The source rests meanwhile.
    ///
    /// # Errors
    /// The differences, when it does not become equal, or the program ends.
    pub fn try_settle(&self) -> Result<Duration, crate::compare::Differences> {
        wait_equal(&self.src, &self.dst, &self.rules, deadline(), || self.program.lock().expect("no holder panics").runs())
    }

    /// The same, as a demand.
    pub fn settle(&self, when: &str) {
        if let Err(differences) = self.try_settle() {
            panic!("{when}: the mirror{} is not equal:\n{differences}", self.gone());
        }
    }

    /// Says it when the sender has ended, though nobody told it to.
    pub fn gone(&self) -> &'static str {
        if self.program.lock().expect("no holder panics").runs() { "" } else { ", whose sender has ended by itself," }
    }

    /// What the sender wrote to stderr so far.
    pub fn stderr(&self) -> String {
        self.program.lock().expect("no holder panics").stderr()
    }

    /// Ends the sender by SIGTERM and demands exit code 20 and, once the receiver has seen the end, an equal mirror with nothing of ours in it.
    pub fn terminate(self) {
        let Self { program, server, src, dst, rules } = self;
        program.into_inner().expect("no holder panics").terminate();
        let after = wait_equal(&src, &dst, &rules, deadline(), || true);
        after.unwrap_or_else(|differences| panic!("after the end of the mirror:\n{differences}"));
        drop(server);
    }
}

/// Starts a sender without waiting for anything.
pub fn sender(who: As, server: Option<&Server>, src: &Path, dst: &Path, args: &[&str]) -> Program {
    let url = server.map(Server::url);
    let dest = url.as_deref().unwrap_or_else(|| dst.to_str().expect("a path of ours"));
    let all = [&["mirror"], args, &[src.to_str().expect("a path of ours"), dest]].concat();
    Program::start(who, &all)
}

/// `mirror --once`, to its end, which has to be this exit code. Returns its stderr.
pub fn once(who: As, way: Way, place: &Place, args: &[&str], code: i32) -> String {
    let server = (way == Way::Tcp).then(|| Server::start(who, &place.dst));
    let mut program = sender(who, server.as_ref(), &place.src, &place.dst, &[&["--once"], args].concat());
    program.ends_with(code);
    program.stderr()
}
