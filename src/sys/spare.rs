//! `read(2)` into a vector's spare room, without clearing it first.
//!
//! It never grows the vector. The readers of fanotify and inotify use it.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// Appends what one `read(2)` gives, up to the spare capacity of `buffer`; returns how much that was.
///
/// # Errors
/// As `read(2)`; an interrupted call is made again.
pub(super) fn read(fd: BorrowedFd<'_>, buffer: &mut Vec<u8>) -> io::Result<usize> {
    let spare = buffer.spare_capacity_mut();
    let (at, room) = (spare.as_mut_ptr(), spare.len());
    loop {
        // SAFETY: the kernel writes at most `room` bytes to `at`, which are the vector's own.
        let got = unsafe { libc::read(fd.as_raw_fd(), at.cast(), room) };
        match usize::try_from(got) {
            Ok(got) => {
                let len = buffer.len() + got;
                // SAFETY: the kernel has written the `got` bytes behind the former length, within capacity.
                unsafe { buffer.set_len(len) };
                return Ok(got);
            }
            Err(_) => {
                let error = io::Error::last_os_error();
                if error.kind() != io::ErrorKind::Interrupted {
                    return Err(error);
                }
            }
        }
    }
}

/// A fixed-size piece of `bytes` at `at`; `None` where they end before.
pub(super) fn array<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..)?.first_chunk().copied()
}

#[cfg(test)]
pub(super) mod mutation {
    //! Random damage for parser tests.

    /// Calls `each` with `rounds` damaged copies of `bytes`: flipped, cut, grown and spliced. The seed is printed, and taken from `RINGSYNC_TEST_SEED`.
    pub(in crate::sys) fn mutate(bytes: &[u8], rounds: u64, mut each: impl FnMut(&[u8])) {
        let given = std::env::var("RINGSYNC_TEST_SEED").ok().map(|text| text.parse().expect("RINGSYNC_TEST_SEED is a number"));
        let seed = given.unwrap_or_else(|| std::time::UNIX_EPOCH.elapsed().unwrap_or_default().as_nanos() as u64);
        println!("RINGSYNC_TEST_SEED={seed}");
        let mut state = seed;
        // splitmix64
        let mut random = move |below: usize| {
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut z = state;
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            (z ^ (z >> 31)) as usize % below.max(1)
        };
        for _ in 0..rounds {
            let mut copy = bytes.to_vec();
            for _ in 0..=random(4) {
                let at = random(copy.len());
                match random(5) {
                    0 => copy.truncate(at),
                    1 => copy.insert(at.min(copy.len()), random(256) as u8),
                    2 if !copy.is_empty() => drop(copy.drain(at..(at + 1 + random(8)).min(copy.len()))),
                    3 if !copy.is_empty() => copy[at] = [0, 1, 0x7f, 0x80, 0xff][random(5)],
                    _ if !copy.is_empty() => copy[at] ^= 1 << random(8),
                    _ => {}
                }
            }
            each(&copy);
        }
    }
}
