//! How much of the processor this process leaves to others.

#![allow(unsafe_code)]

use std::io;

/// Sets the niceness of the calling thread, which the threads that it starts from here on inherit (`setpriority(2)`); nothing for 0.
///
/// # Errors
/// Of the system: a lower one than before needs CAP_SYS_NICE.
pub fn set(nice: i32) -> io::Result<()> {
    if nice == 0 {
        return Ok(());
    }
    // SAFETY: takes numbers only.
    match unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, nice) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
