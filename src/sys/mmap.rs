//! Content of a file by mapping it, safe from the file being cut meanwhile.
//!
//! Reading a mapped page that the file no longer has raises SIGBUS. Inside [`Guarded::read`] that puts pages of zeros in the place
//! of the rest and makes the read fail with [`Truncated`]; anywhere else SIGBUS does what it did before. Workers hash and send from here.
//! It never tells whether the content changed in another way: the reader compares `fstat` before and after.
#![allow(unsafe_code)]

use std::cell::Cell;
use std::fs::File;
use std::io;
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use memmap2::{Mmap, MmapOptions};

/// The file ended, or could not be read, where it was mapped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("file was cut while it was read")]
pub struct Truncated;

/// A range of a file, mapped for reading.
#[derive(Debug)]
pub struct Guarded {
    map: Mmap,
    /// Set by the signal handler before it puts zeros into the mapping; never taken back.
    cut: AtomicBool,
}

/// A read that is going on in this thread; the innermost first.
struct Reading {
    start: usize,
    end: usize,
    cut: *const AtomicBool,
    outer: *const Reading,
}

thread_local! {
    /// Plain memory without a destructor or lazy start: a signal handler may read it.
    static INNERMOST: Cell<*const Reading> = const { Cell::new(ptr::null()) };
}

/// The handler is in place.
static INSTALLED: AtomicBool = AtomicBool::new(false);
/// What SIGBUS did before; set before the handler is installed, never changed after.
static PREVIOUS: AtomicPtr<libc::sigaction> = AtomicPtr::new(ptr::null_mut());
static PAGE_BYTES: AtomicUsize = AtomicUsize::new(4096);

impl Guarded {
    /// Maps `len` bytes of `file` from `offset` on, which need not be the start of a page. `len` is not 0.
    ///
    /// # Errors
    /// As `mmap(2)`; `EINVAL` for no bytes, or beyond the address space.
    pub fn map(file: &File, offset: u64, len: usize) -> io::Result<Self> {
        if len == 0 {
            return Err(io::Error::from_raw_os_error(libc::EINVAL));
        }
        install()?;
        // SAFETY: the bytes may change under the reader, who gets them by `read` only and is told so there; that they may vanish is what
        // the handler is for.
        let map = unsafe { MmapOptions::new().offset(offset).len(len).map(file)? };
        Ok(Self { map, cut: AtomicBool::new(false) })
    }

    /// Has `f` read the bytes. They can change while it does, as bytes of a file do: it must take each value as it comes and rely on nothing
    /// it saw before. (Hashing and copying do.)
    ///
    /// # Errors
    /// [`Truncated`], with what `f` made of it thrown away, if the file lacked some of the bytes that `f` read, in this call or an earlier one.
    pub fn read<R>(&self, f: impl FnOnce(&[u8]) -> R) -> Result<R, Truncated> {
        let page = PAGE_BYTES.load(Ordering::Relaxed);
        let start = self.map.as_ptr() as usize;
        let reading = Reading {
            start: start & !(page - 1),
            end: (start + self.map.len()).next_multiple_of(page),
            cut: &raw const self.cut,
            outer: INNERMOST.get(),
        };
        let result = {
            let _entered = Entered::new(&reading);
            f(&self.map)
        };
        // Another thread's fault may have put zeros under this read: its store comes before its change of the mapping.
        if self.cut.load(Ordering::SeqCst) { Err(Truncated) } else { Ok(result) }
    }
}

/// Keeps a [`Reading`] the innermost; takes it out again even when the reader panics.
struct Entered<'a>(&'a Reading);

impl<'a> Entered<'a> {
    fn new(reading: &'a Reading) -> Self {
        INNERMOST.set(ptr::from_ref(reading));
        // The handler runs in this thread: no reading may be moved before the store.
        std::sync::atomic::compiler_fence(Ordering::SeqCst);
        Self(reading)
    }
}

impl Drop for Entered<'_> {
    fn drop(&mut self) {
        std::sync::atomic::compiler_fence(Ordering::SeqCst);
        INNERMOST.set(self.0.outer);
    }
}

/// Installs the handler, once.
fn install() -> io::Result<()> {
    static INSTALLING: Mutex<()> = Mutex::new(());
    if INSTALLED.load(Ordering::Acquire) {
        return Ok(());
    }
    let _one_at_a_time = INSTALLING.lock().unwrap_or_else(PoisonError::into_inner);
    if INSTALLED.load(Ordering::Acquire) {
        return Ok(());
    }
    // SAFETY: the call takes no pointer.
    let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    PAGE_BYTES.store(usize::try_from(page).unwrap_or(4096), Ordering::Relaxed);
    // SAFETY: all-zero is a valid `sigaction`.
    let previous: libc::sigaction = unsafe { std::mem::zeroed() };
    // Kept for the life of the process: the handler may need it at any time.
    let previous = Box::into_raw(Box::new(previous));
    // SAFETY: `previous` is writable and ours.
    if unsafe { libc::sigaction(libc::SIGBUS, ptr::null(), previous) } < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: all-zero is a valid `sigaction`, with an empty mask.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = on_sigbus as extern "C" fn(i32, *mut libc::siginfo_t, *mut libc::c_void) as usize;
    action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
    // Before the handler can run, so that it always finds it.
    PREVIOUS.store(previous, Ordering::Release);
    // SAFETY: the handler has the signature that SA_SIGINFO asks for, and does only what a signal handler may.
    if unsafe { libc::sigaction(libc::SIGBUS, &raw const action, ptr::null_mut()) } < 0 {
        return Err(io::Error::last_os_error());
    }
    INSTALLED.store(true, Ordering::Release);
    Ok(())
}

extern "C" fn on_sigbus(signal: i32, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: the kernel hands a valid `siginfo_t` to a handler that was installed with SA_SIGINFO.
    let info_ref = unsafe { &*info };
    // SAFETY: a SIGBUS from the kernel carries an address; one that was sent carries something else there, which `si_code` tells.
    let address = unsafe { info_ref.si_addr() } as usize;
    if info_ref.si_code <= 0 || !replace(address) {
        chain(signal, info, context);
    }
}

/// Puts zeros in the place of the faulting page and those behind it, if `address` lies in a range that this thread reads.
fn replace(address: usize) -> bool {
    let page = PAGE_BYTES.load(Ordering::Relaxed);
    let mut next = INNERMOST.get();
    while !next.is_null() {
        // SAFETY: the list holds readings of callers of this thread that have not returned: they are interrupted right now.
        let reading = unsafe { &*next };
        if (reading.start..reading.end).contains(&address) {
            // SAFETY: the `Guarded` is borrowed for as long as its reading is on the list.
            let cut = unsafe { &*reading.cut };
            cut.store(true, Ordering::SeqCst);
            let at = address & !(page - 1);
            let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED;
            // SAFETY: errno is this thread's own.
            let errno = unsafe { libc::__errno_location() };
            // SAFETY: the location is valid for this thread's life.
            let saved = unsafe { *errno };
            // SAFETY: `at..end` is a part of a mapping that the borrowed `Guarded` owns, and stays as readable as it was; its owner unmaps it.
            let mapped = unsafe { libc::mmap(at as *mut libc::c_void, reading.end - at, libc::PROT_READ, flags, -1, 0) };
            // SAFETY: as above.
            unsafe { *errno = saved };
            return mapped != libc::MAP_FAILED;
        }
        next = reading.outer;
    }
    false
}

/// Does what SIGBUS did before this handler was there.
fn chain(signal: i32, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    let previous = PREVIOUS.load(Ordering::Acquire);
    // SAFETY: stored before the handler was installed, never freed, never written again.
    let previous = unsafe { &*previous };
    match previous.sa_sigaction {
        libc::SIG_DFL | libc::SIG_IGN => {
            // SAFETY: `previous` is a valid action. On return the fault comes again and ends the process, as it would have.
            unsafe { libc::sigaction(signal, previous, ptr::null_mut()) };
            // SAFETY: the call takes no pointer. For a signal that was sent and not caused: it is due again once this handler returns.
            unsafe { libc::raise(signal) };
        }
        handler if previous.sa_flags & libc::SA_SIGINFO != 0 => {
            // SAFETY: an action with SA_SIGINFO holds a handler of this signature.
            let handler: extern "C" fn(i32, *mut libc::siginfo_t, *mut libc::c_void) = unsafe { std::mem::transmute(handler) };
            handler(signal, info, context);
        }
        handler => {
            // SAFETY: an action without SA_SIGINFO that is not one of the two constants holds a handler of this signature.
            let handler: extern "C" fn(i32) = unsafe { std::mem::transmute(handler) };
            handler(signal);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::FileExt;
    use std::sync::Arc;
    use std::time::{Duration, Instant};

    fn file_of(len: usize) -> File {
        let file = tempfile::tempfile().unwrap();
        let bytes: Vec<u8> = (0..len).map(|i| (i % 251) as u8).collect();
        file.write_all_at(&bytes, 0).unwrap();
        file
    }

    #[test]
    fn maps_any_range() {
        let file = file_of(300_000);
        for (offset, len) in [(0, 300_000), (1, 10), (4096, 4096), (70_001, 100_000), (299_999, 1)] {
            let map = Guarded::map(&file, offset, len).unwrap();
            map.read(|bytes| {
                assert_eq!(bytes.len(), len);
                assert!(bytes.iter().enumerate().all(|(i, b)| *b == ((offset as usize + i) % 251) as u8));
            })
            .unwrap();
        }
        assert_eq!(Guarded::map(&file, 0, 0).unwrap_err().raw_os_error(), Some(libc::EINVAL));
    }

    #[test]
    fn a_cut_is_an_error_and_stays_one() {
        let file = file_of(300_000);
        let map = Guarded::map(&file, 5000, 295_000).unwrap();
        file.set_len(100_000).unwrap();
        assert_eq!(map.read(|bytes| bytes[94_999]), Ok((99_999 % 251) as u8));
        assert_eq!(map.read(|bytes| bytes.iter().map(|b| u64::from(*b)).sum::<u64>()), Err(Truncated));
        assert_eq!(map.read(|bytes| bytes[0]), Err(Truncated));
    }

    #[test]
    fn readings_may_be_nested() {
        let (long, short) = (file_of(100_000), file_of(100_000));
        let (outer, inner) = (Guarded::map(&long, 0, 100_000).unwrap(), Guarded::map(&short, 0, 100_000).unwrap());
        long.set_len(0).unwrap();
        let seen_inside = outer.read(|a| inner.read(|b| (a[50_000], b[50_000])));
        assert_eq!(seen_inside, Err(Truncated));
        assert_eq!(inner.read(|b| b[50_000]), Ok((50_000 % 251) as u8));
    }

    #[test]
    fn a_panic_inside_leaves_no_reading_behind() {
        let file = file_of(10_000);
        let map = Guarded::map(&file, 0, 10_000).unwrap();
        let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| map.read(|_| panic!("on purpose"))));
        assert!(caught.is_err());
        assert!(INNERMOST.get().is_null());
    }

    /// Cut and grown again all the time by another thread, while two read one mapping: never a crash, and a read that is not refused saw
    /// no zeros of the handler's.
    #[test]
    fn survives_a_file_that_is_cut_in_a_loop() {
        let len = 1 << 20;
        let file = Arc::new(file_of(len));
        let over = Arc::new(AtomicBool::new(false));
        let cutter = std::thread::spawn({
            let (file, over) = (Arc::clone(&file), Arc::clone(&over));
            move || {
                while !over.load(Ordering::Relaxed) {
                    file.set_len(10_000).unwrap();
                    file.set_len(len as u64).unwrap();
                }
            }
        });
        let deadline = Instant::now() + Duration::from_secs(20);
        let (mut cut, mut whole) = (0, 0);
        while cut < 40 && Instant::now() < deadline {
            let map = Guarded::map(&file, 0, len).unwrap();
            std::thread::scope(|scope| {
                let sum = || map.read(|bytes| bytes.chunks(512).map(|c| u64::from(c[0])).sum::<u64>());
                let other = scope.spawn(sum);
                for result in [sum(), other.join().unwrap()] {
                    if result.is_err() { cut += 1 } else { whole += 1 }
                }
            });
        }
        over.store(true, Ordering::Relaxed);
        cutter.join().unwrap();
        assert!(cut >= 40, "cut {cut}, whole {whole}");
    }
}
