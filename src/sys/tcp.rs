//! What the kernel tells of a TCP connection.

#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// What a connection has carried since it was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Carried {
    /// Bytes that the peer's kernel has acknowledged.
    pub bytes: u64,
    /// Nanoseconds in which something was on its way, without those in which the peer took nothing.
    pub busy_ns: u64,
}

// Offsets in the kernel's `struct tcp_info`, whose end libc's does not know (Linux 4.10).
const STATE_AT: usize = 0;
const BYTES_ACKED_AT: usize = 120;
const BUSY_US_AT: usize = 168;
const RWND_LIMITED_US_AT: usize = 176;
const LENGTH: usize = 184;

/// `TCP_ESTABLISHED`, tcp(7).
const ESTABLISHED: u8 = 1;

/// Asks for it (`TCP_INFO`, tcp(7)); microseconds are its grain.
///
/// # Errors
/// Not a TCP socket, or a kernel that does not tell (`ENODATA`).
pub fn carried(fd: BorrowedFd<'_>) -> io::Result<Carried> {
    let info = info(fd)?;
    let at = |offset: usize| info[offset..].first_chunk().map_or(0, |bytes| u64::from_ne_bytes(*bytes));
    let busy_us = at(BUSY_US_AT).saturating_sub(at(RWND_LIMITED_US_AT));
    Ok(Carried { bytes: at(BYTES_ACKED_AT), busy_ns: busy_us.saturating_mul(1000) })
}

/// Whether neither end has closed the connection, and it is not lost.
///
/// # Errors
/// As [`carried`].
pub fn is_open(fd: BorrowedFd<'_>) -> io::Result<bool> {
    info(fd).map(|info| info[STATE_AT] == ESTABLISHED)
}

fn info(fd: BorrowedFd<'_>) -> io::Result<[u8; LENGTH]> {
    let mut info = [0u8; LENGTH];
    let mut len = LENGTH as libc::socklen_t;
    // SAFETY: the descriptor is borrowed, so open; the kernel writes at most `len` bytes to `info`, which has as many.
    let result = unsafe { libc::getsockopt(fd.as_raw_fd(), libc::IPPROTO_TCP, libc::TCP_INFO, info.as_mut_ptr().cast(), &raw mut len) };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    if (len as usize) < LENGTH {
        return Err(io::Error::from_raw_os_error(libc::ENODATA));
    }
    Ok(info)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::{Ipv4Addr, TcpListener, TcpStream};
    use std::os::fd::AsFd;

    /// Sends so many bytes over a connection of its own; what is told before and after.
    fn send(bytes: usize) -> (Carried, Carried) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let mut ours = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut theirs, _) = listener.accept().unwrap();
        let before = carried(ours.as_fd()).unwrap();
        let reader = std::thread::spawn(move || {
            let mut sum = 0;
            let mut buffer = vec![0; 65_536];
            while let Ok(n @ 1..) = theirs.read(&mut buffer) {
                sum += n;
            }
            sum
        });
        ours.write_all(&vec![1; bytes]).unwrap();
        ours.shutdown(std::net::Shutdown::Write).unwrap();
        assert_eq!(reader.join().unwrap(), bytes);
        (before, carried(ours.as_fd()).unwrap())
    }

    #[test]
    fn a_peer_that_closes_is_seen_to_whatever_it_sent_before() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let mut theirs = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (ours, _) = listener.accept().unwrap();
        theirs.write_all(b"hello").unwrap();
        assert!(is_open(ours.as_fd()).unwrap());
        drop(theirs);
        assert!((0..1000).any(|_| {
            std::thread::sleep(std::time::Duration::from_millis(1));
            !is_open(ours.as_fd()).unwrap()
        }));
        assert!(is_open(std::fs::File::open("/dev/null").unwrap().as_fd()).is_err());
    }

    #[test]
    fn what_was_sent_is_counted() {
        // A reader that gets no time keeps the window shut all the while, which does not count as busy: then once more.
        let was_busy = (0..20).any(|_| {
            let (before, after) = send(20_000_000);
            assert!(after.bytes - before.bytes >= 20_000_000, "{before:?} {after:?}");
            after.busy_ns > before.busy_ns
        });
        assert!(was_busy);
        assert!(carried(std::fs::File::open("/dev/null").unwrap().as_fd()).is_err());
    }
}
