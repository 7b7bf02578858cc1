//! How much memory there is.

/// Memory of the machine in bytes (`sysinfo(2)`); 0 where it is not known.
pub fn memory_bytes() -> u64 {
    nix::sys::sysinfo::sysinfo().map_or(0, |info| info.ram_total())
}
