//! One socket on one io_uring: a safe type that owns the ring, the socket, the receive buffers and whatever the kernel is working on.
//!
//! It moves bytes; it knows no frame and no queue. One multishot receive into provided buffers, at most one send of many pieces, and one poll of a
//! wake-up are in flight; all submission and waiting is one `io_uring_enter`. Used by the link of `wire` alone, in the thread that made it.
#![allow(unsafe_code)]

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::collections::VecDeque;
use std::io::{self, ErrorKind, Write};
use std::marker::PhantomData;
use std::mem::ManuallyDrop;
use std::net::{Shutdown, TcpStream};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::ptr::NonNull;
use std::rc::Rc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use io_uring::types::{BufRingEntry, CancelBuilder, Fd, SubmitArgs, Timespec};
use io_uring::{IoUring, Probe, cqueue, opcode, squeue};

use crate::limits::{RING_BUFFER_BYTES, RING_BUFFERS, RING_COMPLETIONS, RING_ENTRIES, SEND_PIECES_MAX};
use crate::sys::append::append_received;
use crate::sys::wake::Wake;

const PAGE_BYTES: usize = 4096;
const GROUP: u16 = 0;
const _: () = assert!(RING_BUFFERS as usize * size_of::<BufRingEntry>() <= PAGE_BYTES);

// What a completion is about.
const RECEIVE: u64 = 1;
const SEND: u64 = 2;
const WAKE: u64 = 3;
const CANCEL: u64 = 4;
const READABLE: u64 = 5;

/// How long a dropped ring waits for the kernel to let go of its memory before it leaks it.
const QUIESCE_MAX: Duration = Duration::from_secs(2);

/// Bytes in two pieces that are sent one after the other: a fixed head and a body.
#[derive(Debug)]
pub struct Packet {
    /// What goes first.
    pub head: [u8; 16],
    /// What follows.
    pub body: Vec<u8>,
}

impl Packet {
    /// Bytes in both.
    pub fn len(&self) -> usize {
        self.head.len() + self.body.len()
    }

    /// Never: there is a head.
    pub fn is_empty(&self) -> bool {
        false
    }
}

/// The receive buffers and the page through which the kernel is told of the free ones.
///
/// Invariant: a buffer is either the kernel's (given and not yet completed) or ours (completed and not given back); only ours are read.
struct Buffers {
    base: NonNull<u8>,
    tail: u16,
}

impl Buffers {
    const LAYOUT: Layout = match Layout::from_size_align(PAGE_BYTES + RING_BUFFERS as usize * RING_BUFFER_BYTES, PAGE_BYTES) {
        Ok(layout) => layout,
        Err(_) => panic!("a constant layout"),
    };

    fn new() -> Self {
        // SAFETY: the layout has a size.
        let base = unsafe { alloc_zeroed(Self::LAYOUT) };
        let Some(base) = NonNull::new(base) else { handle_alloc_error(Self::LAYOUT) };
        Self { base, tail: 0 }
    }

    fn entries(&self) -> *mut BufRingEntry {
        self.base.as_ptr().cast()
    }

    fn buffer(&self, id: u16) -> *mut u8 {
        assert!(id < RING_BUFFERS, "the kernel names a buffer that it was given");
        // SAFETY: with `id` below the number of buffers the offset is inside the allocation.
        unsafe { self.base.as_ptr().add(PAGE_BYTES + usize::from(id) * RING_BUFFER_BYTES) }
    }

    /// Gives buffer `id`, which is ours, to the kernel.
    fn give(&mut self, id: u16) {
        let slot = usize::from(self.tail % RING_BUFFERS);
        // SAFETY: the slot is inside the first page; all-zero is a valid entry.
        let entry = unsafe { self.entries().add(slot) };
        // SAFETY: as above. The kernel reads entries before the tail only, and this one is not: as many slots as buffers, and this buffer is ours.
        let entry = unsafe { &mut *entry };
        entry.set_addr(self.buffer(id) as u64);
        entry.set_len(RING_BUFFER_BYTES as u32);
        entry.set_bid(id);
        self.tail = self.tail.wrapping_add(1);
        // SAFETY: the argument is the address of the first entry.
        let tail = unsafe { BufRingEntry::tail(self.entries()) };
        // SAFETY: the tail lies in the first page, is aligned, and is written here only; the kernel reads it, with acquire, against this release.
        let tail = unsafe { AtomicU16::from_ptr(tail.cast_mut()) };
        tail.store(self.tail, Ordering::Release);
    }

    /// The first `len` bytes of buffer `id`, which is ours.
    fn filled(&self, id: u16, len: usize) -> &[u8] {
        let len = len.min(RING_BUFFER_BYTES);
        // SAFETY: the buffer is inside the allocation, initialised (zeroed at first) and ours, so that the kernel does not write to it.
        unsafe { std::slice::from_raw_parts(self.buffer(id), len) }
    }
}

impl Drop for Buffers {
    fn drop(&mut self) {
        // SAFETY: allocated in `new` with this layout. That the kernel is done with it is seen to by the ring, which leaks it otherwise.
        unsafe { dealloc(self.base.as_ptr(), Self::LAYOUT) }
    }
}

/// What is being sent.
///
/// Invariant: while `in_kernel`, none of the vectors is touched: `header` points to `pieces` from `first` on, and they to `packets`.
struct Sending {
    packets: Vec<Packet>,
    pieces: Vec<libc::iovec>,
    header: Box<libc::msghdr>,
    first: usize,
    left: usize,
    total: usize,
    in_kernel: bool,
    result: Option<io::Result<usize>>,
}

impl Sending {
    fn new() -> Self {
        // SAFETY: all-zero is a valid `msghdr`: no name, no pieces, no control data.
        let header = Box::new(unsafe { std::mem::zeroed() });
        let (packets, pieces) = (Vec::with_capacity(SEND_PIECES_MAX / 2), Vec::with_capacity(SEND_PIECES_MAX));
        Self { packets, pieces, header, first: 0, left: 0, total: 0, in_kernel: false, result: None }
    }

    /// Takes packets over; there are none before.
    fn load(&mut self, packets: &mut impl Iterator<Item = Packet>) {
        debug_assert!(!self.in_kernel && self.packets.is_empty());
        self.packets.extend(packets.take(SEND_PIECES_MAX / 2));
        self.pieces.clear();
        for packet in &mut self.packets {
            self.pieces.push(libc::iovec { iov_base: packet.head.as_mut_ptr().cast(), iov_len: packet.head.len() });
            if !packet.body.is_empty() {
                self.pieces.push(libc::iovec { iov_base: packet.body.as_mut_ptr().cast(), iov_len: packet.body.len() });
            }
        }
        self.first = 0;
        self.total = self.pieces.iter().map(|piece| piece.iov_len).sum();
        self.left = self.total;
    }

    /// Skips what the kernel took.
    fn advance(&mut self, mut n: usize) {
        debug_assert!(!self.in_kernel);
        self.left = self.left.saturating_sub(n);
        while let Some(piece) = self.pieces.get_mut(self.first).filter(|_| n > 0) {
            let step = n.min(piece.iov_len);
            piece.iov_base = piece.iov_base.wrapping_byte_add(step);
            piece.iov_len -= step;
            n -= step;
            if piece.iov_len == 0 {
                self.first += 1;
            }
        }
    }
}

/// All memory that the kernel may be using.
struct Memory {
    buffers: Buffers,
    sending: Sending,
}

/// A socket on its ring. Stays in the thread that made it.
pub struct Ring {
    ring: IoUring,
    socket: TcpStream,
    wake: Wake,
    /// Freed only when the kernel works on nothing any more.
    memory: ManuallyDrop<Memory>,
    /// Filled buffers that are ours: number and length.
    received: VecDeque<(u16, usize)>,
    receive_armed: bool,
    readable_armed: bool,
    wake_armed: bool,
    /// Kernels before 6.0 have no multishot receive.
    multishot: bool,
    /// The kernel works on what is in flight in `io_uring_enter` only (from 6.1 on).
    is_deferred: bool,
    /// The peer closed its side, or receiving failed. Told once; nothing more is received.
    end: Option<io::Result<()>>,
    has_ended: bool,
    /// The ring is set up for one submitting thread.
    stays: PhantomData<Rc<()>>,
}

/// A ring, and whether the kernel works on what is in flight in `io_uring_enter` only.
fn build() -> io::Result<(IoUring, bool)> {
    let ladder: [fn(&mut io_uring::Builder); 3] = [
        |b| {
            b.setup_single_issuer().setup_defer_taskrun().setup_submit_all().setup_taskrun_flag();
        },
        |b| {
            b.setup_coop_taskrun().setup_taskrun_flag();
        },
        |_| {},
    ];
    let mut refused = io::Error::from(ErrorKind::Unsupported);
    for (rung, step) in ladder.into_iter().enumerate() {
        let mut builder = IoUring::builder();
        builder.setup_cqsize(RING_COMPLETIONS);
        step(&mut builder);
        match builder.build(RING_ENTRIES) {
            Err(e) if e.raw_os_error() == Some(libc::EINVAL) => refused = e,
            other => return other.map(|ring| (ring, rung == 0)),
        }
    }
    Err(refused)
}

impl Ring {
    /// Puts `socket`, which is made blocking, on a new ring, and arms the receive. `wake` ends [`Ring::enter`].
    ///
    /// # Errors
    /// `EPERM`, `ENOSYS`, `ENOMEM`, `EMFILE` as `io_uring_setup(2)`; `EINVAL` or `Unsupported` on kernels before 5.19.
    pub fn new(socket: TcpStream, wake: &Wake) -> io::Result<Self> {
        socket.set_nonblocking(false)?;
        let (ring, is_deferred) = build()?;
        if !ring.params().is_feature_ext_arg() || !ring.params().is_feature_nodrop() {
            return Err(ErrorKind::Unsupported.into());
        }
        let mut probe = Probe::new();
        ring.submitter().register_probe(&mut probe)?;
        let needed = [opcode::RecvMulti::CODE, opcode::SendMsg::CODE, opcode::PollAdd::CODE, opcode::AsyncCancel2::CODE];
        if needed.iter().any(|code| !probe.is_supported(*code)) {
            return Err(ErrorKind::Unsupported.into());
        }
        let mut buffers = Buffers::new();
        let entries = buffers.entries() as u64;
        // SAFETY: the page of entries is aligned, lives until the ring is unregistered in `drop` (or for ever), and holds as many entries as said.
        unsafe { ring.submitter().register_buf_ring_with_flags(entries, RING_BUFFERS, GROUP, 0) }?;
        (0..RING_BUFFERS).for_each(|id| buffers.give(id));
        let mut this = Self {
            ring,
            is_deferred,
            socket,
            wake: wake.clone(),
            memory: ManuallyDrop::new(Memory { buffers, sending: Sending::new() }),
            received: VecDeque::with_capacity(RING_BUFFERS.into()),
            receive_armed: false,
            readable_armed: false,
            wake_armed: false,
            multishot: true,
            end: None,
            has_ended: false,
            stays: PhantomData,
        };
        this.enter(Some(Duration::ZERO), false)?;
        Ok(this)
    }

    fn push(&mut self, entry: squeue::Entry, what: u64) -> io::Result<()> {
        let entry = entry.user_data(what);
        // SAFETY: descriptors and memory that entries name are the ring's own: `memory` is freed, and the socket and the wake-up are closed, only after `drop`
        // has seen the last completion.
        let pushed = unsafe { self.ring.submission().push(&entry) };
        pushed.map_err(|_| io::Error::other("submission queue full"))
    }

    /// Puts a receive into the submission queue, or with `past` a look for what may be received.
    fn arm_receive(&mut self, past: bool) -> io::Result<()> {
        let socket = Fd(self.socket.as_raw_fd());
        if past && self.is_deferred {
            if !self.readable_armed {
                self.push(opcode::PollAdd::new(socket, libc::POLLIN as u32).build(), READABLE)?;
                self.readable_armed = true;
            }
            return Ok(());
        }
        let entry = if self.multishot {
            opcode::RecvMulti::new(socket, GROUP).build()
        } else {
            let one = opcode::Recv::new(socket, std::ptr::null_mut(), RING_BUFFER_BYTES as u32).buf_group(GROUP).build();
            one.flags(squeue::Flags::BUFFER_SELECT)
        };
        self.push(entry, RECEIVE)?;
        self.receive_armed = true;
        Ok(())
    }

    /// Puts what should be in flight and is not into the submission queue.
    fn arm(&mut self, past: bool) -> io::Result<()> {
        if !self.receive_armed && !self.has_ended && self.received.len() < RING_BUFFERS.into() {
            self.arm_receive(past)?;
        }
        if !self.wake_armed {
            let entry = opcode::PollAdd::new(Fd(self.wake.as_fd().as_raw_fd()), libc::POLLIN as u32).multi(true).build();
            self.push(entry, WAKE)?;
            self.wake_armed = true;
        }
        Ok(())
    }

    /// Submits what is to be submitted and takes what has completed. Without a timeout it sleeps until something completes (bytes came, a send is done,
    /// the wake-up rang), with one no longer than that; with zero it does not sleep. May return for nothing. With `past`, what comes is left for
    /// [`Ring::receive_now`], if that is possible.
    ///
    /// # Errors
    /// As `io_uring_enter(2)`.
    pub fn enter(&mut self, timeout: Option<Duration>, past: bool) -> io::Result<()> {
        self.arm(past)?;
        let has_completions = !self.ring.completion().is_empty();
        let (to_submit, to_run) = {
            let queue = self.ring.submission();
            (!queue.is_empty(), queue.taskrun() || queue.cq_overflow())
        };
        let result = match timeout {
            _ if has_completions => {
                if to_submit {
                    self.ring.submit()
                } else {
                    Ok(0)
                }
            }
            Some(Duration::ZERO) => {
                if to_submit || to_run {
                    self.ring.submit()
                } else {
                    Ok(0)
                }
            }
            None => self.ring.submit_and_wait(1),
            Some(time) => self.ring.submitter().submit_with_args(1, &SubmitArgs::new().timespec(&Timespec::from(time))),
        };
        if let Err(e) = result {
            // Out of time, interrupted, or completions have to be taken first: all of them mean "look".
            if !matches!(e.raw_os_error(), Some(libc::ETIME | libc::EINTR | libc::EBUSY | libc::EAGAIN)) {
                return Err(e);
            }
        }
        self.reap()
    }

    fn reap(&mut self) -> io::Result<()> {
        while let Some(done) = { self.ring.completion().next() } {
            match done.user_data() {
                RECEIVE => self.reap_receive(&done),
                SEND => self.reap_send(done.result())?,
                WAKE => self.wake_armed = cqueue::more(done.flags()),
                READABLE => self.readable_armed = false,
                _ => {}
            }
        }
        Ok(())
    }

    fn reap_receive(&mut self, done: &cqueue::Entry) {
        self.receive_armed = cqueue::more(done.flags());
        let result = done.result();
        let buffer = cqueue::buffer_select(done.flags());
        match (result, buffer) {
            (1.., Some(id)) => self.received.push_back((id, result as usize)),
            (_, Some(id)) => self.memory.buffers.give(id),
            _ => {}
        }
        match -result {
            // No buffer was free, or it was interrupted: armed again as soon as there is one.
            libc::ENOBUFS | libc::EINTR | libc::EAGAIN => {}
            libc::EINVAL if self.multishot && !self.has_ended => self.multishot = false,
            0 => self.finish(Ok(())),
            errno @ 1.. => self.finish(Err(io::Error::from_raw_os_error(errno))),
            _ => {}
        }
    }

    fn finish(&mut self, end: io::Result<()>) {
        if !self.has_ended {
            self.has_ended = true;
            self.end = Some(end);
        }
    }

    fn reap_send(&mut self, result: i32) -> io::Result<()> {
        let sending = &mut self.memory.sending;
        sending.in_kernel = false;
        match result {
            1.. => sending.advance(result as usize),
            0 => sending.result = Some(Err(ErrorKind::WriteZero.into())),
            _ if matches!(-result, libc::EINTR | libc::EAGAIN) => {}
            _ => sending.result = Some(Err(io::Error::from_raw_os_error(-result))),
        }
        if sending.result.is_none() && sending.left == 0 {
            sending.result = Some(Ok(sending.total));
        }
        if sending.result.is_none() { self.submit_send() } else { Ok(()) }
    }

    fn submit_send(&mut self) -> io::Result<()> {
        let sending = &mut self.memory.sending;
        let pieces = sending.pieces.get_mut(sending.first..).unwrap_or_default();
        sending.header.msg_iov = pieces.as_mut_ptr();
        sending.header.msg_iovlen = pieces.len();
        sending.in_kernel = true;
        let header: *const libc::msghdr = &raw const *sending.header;
        let flags = (libc::MSG_WAITALL | libc::MSG_NOSIGNAL) as u32;
        let entry = opcode::SendMsg::new(Fd(self.socket.as_raw_fd()), header).flags(flags).build();
        self.push(entry, SEND)?;
        self.ring.submit().map(drop).or_else(|e| match e.raw_os_error() {
            Some(libc::EINTR | libc::EBUSY | libc::EAGAIN) => Ok(()),
            _ => Err(e),
        })
    }

    /// Whether packets are with the ring that [`Ring::take_sent`] has not given back.
    pub fn is_sending(&self) -> bool {
        !self.memory.sending.packets.is_empty()
    }

    /// Bytes of them that the kernel has not taken.
    pub fn sending_bytes(&self) -> usize {
        self.memory.sending.left
    }

    /// Starts to send the first of `packets`, as many as go in one; the rest stays in the iterator. Does nothing while it [is sending](Ring::is_sending).
    ///
    /// # Errors
    /// As `io_uring_enter(2)`. What becomes of the packets is said by [`Ring::take_sent`].
    pub fn send(&mut self, packets: &mut impl Iterator<Item = Packet>) -> io::Result<()> {
        if self.is_sending() {
            return Ok(());
        }
        self.memory.sending.load(packets);
        if !self.is_sending() {
            return Ok(());
        }
        self.submit_send()?;
        self.reap()
    }

    /// The outcome of a send once it is complete: all its bytes were taken by the kernel, or why not. The bodies go to `each`.
    pub fn take_sent(&mut self, mut each: impl FnMut(Vec<u8>)) -> Option<io::Result<usize>> {
        let sending = &mut self.memory.sending;
        let result = sending.result.take()?;
        debug_assert!(!sending.in_kernel);
        sending.left = 0;
        sending.packets.drain(..).for_each(|packet| each(packet.body));
        Some(result)
    }

    /// Hands the bytes of the oldest filled buffer to `take` and gives the buffer back to the kernel. `None`: there is none.
    pub fn take_received<R>(&mut self, take: impl FnOnce(&[u8]) -> R) -> Option<R> {
        let (id, len) = self.received.pop_front()?;
        let result = take(self.memory.buffers.filled(id, len));
        self.memory.buffers.give(id);
        Some(result)
    }

    /// Receives past the ring, which saves a copy: what has come, at most `most` bytes of it, to the end of `buffer`. False: that is nothing, or the ring has what comes first.
    ///
    /// # Errors
    /// As `io_uring_enter(2)`. How receiving ended is said by [`Ring::take_end`].
    pub fn receive_now(&mut self, buffer: &mut Vec<u8>, most: usize) -> io::Result<bool> {
        if !self.is_deferred {
            return Ok(false);
        }
        // The armed receive takes bytes in `io_uring_enter` only, so what it took is in the completion queue: with that empty, the socket has what comes next.
        self.reap()?;
        if !self.received.is_empty() || self.has_ended {
            return Ok(false);
        }
        match append_received(self.socket.as_fd(), most, buffer) {
            Ok(Some(0)) => self.finish(Ok(())),
            Ok(got) => return Ok(got.is_some()),
            Err(e) => self.finish(Err(e)),
        }
        Ok(false)
    }

    /// How receiving ended, told once: the peer closed its side, or an error. Bytes received before come first.
    pub fn take_end(&mut self) -> Option<io::Result<()>> {
        if self.received.is_empty() { self.end.take() } else { None }
    }

    /// Writes bytes past the ring, as far as that goes at once. For a peer that does not speak the protocol.
    pub fn say(&mut self, bytes: &[u8]) {
        let _ = (&self.socket).write(bytes);
    }

    /// Closes this side's direction of the connection.
    ///
    /// # Errors
    /// As `shutdown(2)`.
    pub fn end_writing(&self) -> io::Result<()> {
        self.socket.shutdown(Shutdown::Write)
    }

    /// The socket.
    pub fn socket(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Cancels what is in flight and waits for the last completion. `false`: the kernel still has something.
    fn quiesce(&mut self) -> bool {
        self.has_ended = true;
        // A connection that is gone cannot be shut down any more.
        let _ = self.socket.shutdown(Shutdown::Both);
        if self.push(opcode::AsyncCancel2::new(CancelBuilder::any()).build(), CANCEL).is_err() {
            return false;
        }
        let deadline = std::time::Instant::now() + QUIESCE_MAX;
        loop {
            // A send that was cut short must not be started again.
            self.memory.sending.result.get_or_insert_with(|| Err(ErrorKind::Interrupted.into()));
            let left = deadline.saturating_duration_since(std::time::Instant::now());
            let args_time = Timespec::from(left);
            let result = self.ring.submitter().submit_with_args(1, &SubmitArgs::new().timespec(&args_time));
            let looked = result.is_ok() || result.is_err_and(|e| matches!(e.raw_os_error(), Some(libc::ETIME | libc::EINTR | libc::EBUSY)));
            if !looked || self.reap().is_err() {
                return false;
            }
            if !self.receive_armed && !self.readable_armed && !self.wake_armed && !self.memory.sending.in_kernel {
                return true;
            }
            if left.is_zero() {
                return false;
            }
        }
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        if self.quiesce() && self.ring.submitter().unregister_buf_ring(GROUP).is_ok() {
            // SAFETY: dropped here only, and not used after. Nothing is in flight and the buffers are no longer registered: the kernel has no pointer into it.
            unsafe { ManuallyDrop::drop(&mut self.memory) }
        } else {
            tracing::warn!("the kernel does not let go of a socket's buffers: they are leaked");
        }
    }
}
