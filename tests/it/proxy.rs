//! Stands between a sender and a receiver: counts what content connections carry and what the receiver says, holds them up, cuts all connections and refuses new ones.
//!
//! Knows of the protocol only where a Hello says what a connection is for.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex};

use nix::sys::socket::{setsockopt, sockopt};

/// Where a Hello that is alone in its frame says its role, and the role of content connections.
const ROLE_AT: usize = 16 + 1 + 8 + 2 + 2;
const CONTENT: u8 = 2;

/// What a sender may have said that was not read here, about.
const RECEIVE_BYTES: usize = 1 << 20;

#[derive(Default)]
struct State {
    /// Bytes that content connections may carry to the receiver from now on.
    budget: u64,
    /// Bytes that they carried.
    carried: u64,
    /// Bytes that the receiver said, on all connections.
    told: u64,
    /// New connections are closed, so many so far.
    refuses: bool,
    refused: usize,
    /// Connections that wait for a larger budget.
    held: usize,
    open: Vec<TcpStream>,
}

/// The proxy. Its threads end with their connections, and the process.
pub struct Proxy {
    port: u16,
    shared: Arc<(Mutex<State>, Condvar)>,
}

impl Proxy {
    /// One to a server on loopback; content connections may carry `budget` bytes.
    pub fn start(server: u16, budget: u64) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        // Connections have this from their listener. The kernel makes it larger by itself otherwise, to tens of megabytes, which a sender then is ahead.
        setsockopt(&listener, sockopt::RcvBuf, &RECEIVE_BYTES).expect("a buffer");
        let port = listener.local_addr().expect("its address").port();
        let shared = Arc::new((Mutex::new(State { budget, ..State::default() }), Condvar::new()));
        let ours = Arc::clone(&shared);
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                {
                    let mut state = ours.0.lock().expect("no holder panics");
                    if state.refuses {
                        state.refused += 1;
                        continue;
                    }
                }
                if let Ok(server) = TcpStream::connect((Ipv4Addr::LOCALHOST, server)) {
                    join(client, server, &ours);
                }
            }
        });
        Self { port, shared }
    }

    /// What a sender calls the server behind it.
    pub fn url(&self) -> String {
        format!("ringsync://127.0.0.1:{}/m", self.port)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.shared.0.lock().expect("no holder panics")
    }

    /// Bytes that content connections carried to the receiver.
    pub fn carried(&self) -> u64 {
        self.lock().carried
    }

    /// Bytes that the receiver said, on all connections.
    pub fn told(&self) -> u64 {
        self.lock().told
    }

    /// From now on new connections are closed, or are made.
    pub fn refuse(&self, refuses: bool) {
        self.lock().refuses = refuses;
    }

    /// How many were closed.
    pub fn refused(&self) -> usize {
        self.lock().refused
    }

    /// Whether one of them has used its budget up and wants to carry more.
    pub fn is_held(&self) -> bool {
        let state = self.lock();
        state.held > 0 && state.budget == 0
    }

    /// Lets them carry so much more.
    pub fn allow(&self, more: u64) {
        let mut state = self.lock();
        state.budget = state.budget.saturating_add(more);
        self.shared.1.notify_all();
    }

    /// Cuts all connections; new ones are made as before.
    pub fn cut(&self) {
        for stream in self.lock().open.drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
        self.shared.1.notify_all();
    }
}

fn join(client: TcpStream, server: TcpStream, shared: &Arc<(Mutex<State>, Condvar)>) {
    let both = [&client, &server].map(|stream| stream.try_clone().expect("a descriptor"));
    shared.0.lock().expect("no holder panics").open.extend(both);
    let (mut from, mut to) = (server.try_clone().expect("a descriptor"), client.try_clone().expect("a descriptor"));
    let counted = Arc::clone(shared);
    std::thread::spawn(move || {
        let mut buffer = vec![0; 64 * 1024];
        while let Ok(len @ 1..) = from.read(&mut buffer) {
            counted.0.lock().expect("no holder panics").told += len as u64;
            if to.write_all(&buffer[..len]).is_err() {
                break;
            }
        }
        let _ = to.shutdown(Shutdown::Both);
    });
    let shared = Arc::clone(shared);
    std::thread::spawn(move || carry(client, server, &shared));
}

/// Carries what the client says.
fn carry(mut client: TcpStream, mut server: TcpStream, shared: &(Mutex<State>, Condvar)) {
    let mut buffer = vec![0; 64 * 1024];
    let mut is_content = None;
    while let Ok(len @ 1..) = client.read(&mut buffer) {
        let is_content = *is_content.get_or_insert(buffer[..len].get(ROLE_AT) == Some(&CONTENT));
        let mut rest = &buffer[..len];
        while !rest.is_empty() {
            let mut some = rest.len();
            if is_content {
                let mut state = shared.0.lock().expect("no holder panics");
                while state.budget == 0 {
                    state.held += 1;
                    // A cut wakes it, and what it writes then fails.
                    state = shared.1.wait(state).expect("no holder panics");
                    state.held -= 1;
                    if client.peer_addr().is_err() || server.peer_addr().is_err() {
                        return;
                    }
                }
                some = some.min(usize::try_from(state.budget).unwrap_or(usize::MAX));
                state.budget -= some as u64;
                state.carried += some as u64;
            }
            if server.write_all(&rest[..some]).is_err() {
                let _ = client.shutdown(Shutdown::Both);
                return;
            }
            rest = &rest[some..];
        }
    }
    let _ = server.shutdown(Shutdown::Both);
}
