//! How much memory there is, and giving back what is not used.

#![allow(unsafe_code)]

/// Memory of the machine in bytes (`sysinfo(2)`); 0 where it is not known.
pub fn memory_bytes() -> u64 {
    nix::sys::sysinfo::sysinfo().map_or(0, |info| info.ram_total())
}

/// Gives pages back to the system in which nothing is allocated (`malloc_trim(3)`): by itself the allocator keeps what lies between blocks that are in use, and
/// buffers that one thread fills and another one frees leave more and more of it. Under a millisecond for some tens of megabytes.
pub fn give_back() {
    // SAFETY: takes a number only, and moves nothing.
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::malloc_trim(0);
    }
}
