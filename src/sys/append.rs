//! Content of a file, or what came through a socket, behind what a buffer holds, without filling the room with zeros first.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// Reads `len` bytes of `file` from `offset` on to the end of `buffer` (`pread(2)`); false if the file ends before, and then `buffer` has what was there.
///
/// # Errors
/// As `pread(2)`; `buffer` may have got a part.
pub fn append_at(file: &File, offset: u64, len: usize, buffer: &mut Vec<u8>) -> io::Result<bool> {
    buffer.reserve(len);
    let mut done = 0;
    while done < len {
        let room = &mut buffer.spare_capacity_mut()[..len - done];
        let at = (offset + done as u64).cast_signed();
        // SAFETY: the kernel writes at most as many bytes as `room` has, which is borrowed for the time of the call.
        let got = unsafe { libc::pread(file.as_raw_fd(), room.as_mut_ptr().cast(), room.len(), at) };
        match usize::try_from(got) {
            Ok(0) => return Ok(false),
            Ok(got) => {
                // SAFETY: so many bytes behind the old length were just written, within the capacity.
                unsafe { buffer.set_len(buffer.len() + got) };
                done += got;
            }
            Err(_) => {
                let error = io::Error::last_os_error();
                if error.kind() != io::ErrorKind::Interrupted {
                    return Err(error);
                }
            }
        }
    }
    Ok(true)
}

/// Receives what has come through `socket`, at most `most` bytes, to the end of `buffer` (`recv(2)`). `None`: nothing has come; 0: the peer has closed its side.
///
/// # Errors
/// As `recv(2)`.
pub fn append_received(socket: BorrowedFd<'_>, most: usize, buffer: &mut Vec<u8>) -> io::Result<Option<usize>> {
    buffer.reserve(most);
    loop {
        let room = &mut buffer.spare_capacity_mut()[..most];
        // SAFETY: the kernel writes at most as many bytes as `room` has, which is borrowed for the time of the call.
        let got = unsafe { libc::recv(socket.as_raw_fd(), room.as_mut_ptr().cast(), room.len(), libc::MSG_DONTWAIT) };
        if let Ok(got) = usize::try_from(got) {
            // SAFETY: so many bytes behind the old length were just written, within the capacity.
            unsafe { buffer.set_len(buffer.len() + got) };
            return Ok(Some(got));
        }
        match io::Error::last_os_error() {
            e if e.kind() == io::ErrorKind::Interrupted => {}
            e if e.kind() == io::ErrorKind::WouldBlock => return Ok(None),
            e => return Err(e),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::os::fd::AsFd;
    use std::os::unix::fs::FileExt;

    #[test]
    fn what_is_there_comes_behind_what_was_held() {
        let file = tempfile::tempfile().unwrap();
        let bytes: Vec<u8> = (0..200_000u32).map(|i| (i % 251) as u8).collect();
        file.write_all_at(&bytes, 0).unwrap();
        let mut buffer = b"head".to_vec();
        assert!(append_at(&file, 1000, 150_000, &mut buffer).unwrap());
        assert!(append_at(&file, 7, 0, &mut buffer).unwrap());
        assert_eq!((&buffer[..4], &buffer[4..]), (b"head".as_slice(), &bytes[1000..151_000]));
        assert!(!append_at(&file, 199_990, 11, &mut buffer).unwrap());
        assert_eq!(buffer[150_004..], bytes[199_990..]);
    }

    #[test]
    fn what_has_come_is_received_behind_what_was_held() {
        let (mut peer, socket) = std::os::unix::net::UnixStream::pair().unwrap();
        let mut buffer = b"head".to_vec();
        assert_eq!(append_received(socket.as_fd(), 9, &mut buffer).unwrap(), None);
        peer.write_all(b"0123456789").unwrap();
        assert_eq!(append_received(socket.as_fd(), 4, &mut buffer).unwrap(), Some(4));
        assert_eq!(append_received(socket.as_fd(), 100, &mut buffer).unwrap(), Some(6));
        drop(peer);
        assert_eq!(append_received(socket.as_fd(), 100, &mut buffer).unwrap(), Some(0));
        assert_eq!(buffer, b"head0123456789");
    }

    #[test]
    fn an_error_of_the_kernel_is_told() {
        let dir = File::open("/").unwrap();
        assert_eq!(append_at(&dir, 0, 1, &mut Vec::new()).unwrap_err().raw_os_error(), Some(libc::EISDIR));
    }
}
