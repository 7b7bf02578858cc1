//! Memory that the host of a virtual machine has provided, kept from going back to it.
//!
//! A guest may report blocks of free pages (2 MiB with 4 KiB pages) to its host, which takes their memory and provides it again when they are touched. That makes a page several times as
//! dear, by chance, and of peers that are measured in turn it is chance which one pays. Here memory is touched and freed again but for one page in each MiB: what is free then
//! comes in blocks that are too small to be reported, and the kernel hands out small blocks first.

use std::fs::File;
use std::os::unix::fs::FileExt;

use nix::fcntl::{FallocateFlags, fallocate};
use nix::sys::memfd::{MFdFlags, memfd_create};

use crate::interrupt;
use crate::problem::{Doing, Result};

const MIB: usize = 1 << 20;
const PAGE_BYTES: usize = 4096;

/// Keeps it for as long as it lives, at the cost of one page in 256.
pub struct Warm(#[expect(dead_code, reason = "it holds pages")] File);

impl Warm {
    /// Touches so many MiB; more than are free would have the kernel end programs.
    ///
    /// # Errors
    /// As `memfd_create(2)`, `pwrite(2)`, `fallocate(2)`.
    pub fn up(mib: u32) -> Result<Self> {
        let doing = || format!("touch {mib} MiB of memory");
        let file = File::from(memfd_create("syncbench-warm", MFdFlags::MFD_CLOEXEC).doing(doing)?);
        let ones = vec![1; MIB];
        for at in 0..u64::from(mib) {
            interrupt::check()?;
            file.write_all_at(&ones, at * MIB as u64).doing(doing)?;
        }
        let free = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
        for at in 0..i64::from(mib) {
            fallocate(&file, free, at * MIB as i64 + PAGE_BYTES as i64, (MIB - PAGE_BYTES) as i64).doing(doing)?;
        }
        Ok(Self(file))
    }
}
