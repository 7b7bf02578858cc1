//! The ring: a bounded queue from one thread to one other, without a lock.
//!
//! It never blocks, never allocates after it was made and makes no system call: who has to sleep pairs it with a
//! [`Wake`](crate::sys::wake::Wake). The watcher feeds the planner through it, and the planner its workers.
//!
//! Invariant: `head <= tail <= head + capacity` (both count upwards, wrapping); the slots `head..tail` hold values, all others
//! hold none. Only the producer moves `tail`, only the consumer moves `head`.
#![allow(unsafe_code)]

use std::cell::UnsafeCell;
use std::mem::MaybeUninit;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// A value on cache lines of its own (two: the prefetcher fetches pairs), so that the ends do not slow each other down.
#[repr(align(128))]
struct Padded<T>(T);

struct Shared<T> {
    slots: Box<[UnsafeCell<MaybeUninit<T>>]>,
    /// The number of slots less one; that number is a power of two, so that indexes may wrap around.
    mask: usize,
    capacity: usize,
    /// The next slot to read. Stored by the consumer (release), loaded by the producer (acquire).
    head: Padded<AtomicUsize>,
    /// The next slot to write. Stored by the producer (release), loaded by the consumer (acquire).
    tail: Padded<AtomicUsize>,
    producer_gone: AtomicBool,
    consumer_gone: AtomicBool,
}

// SAFETY: the ends hand values of `T` from one thread to another, which `T: Send` allows. A slot is touched by one end at a time: by the
// producer before it publishes it through `tail`, by the consumer before it gives it back through `head`.
unsafe impl<T: Send> Sync for Shared<T> {}

// SAFETY: as above; a `Shared` that moves takes its values along.
unsafe impl<T: Send> Send for Shared<T> {}

impl<T> Shared<T> {
    fn slot(&self, index: usize) -> *mut MaybeUninit<T> {
        self.slots[index & self.mask].get()
    }
}

impl<T> Drop for Shared<T> {
    fn drop(&mut self) {
        let (head, tail) = (*self.head.0.get_mut(), *self.tail.0.get_mut());
        let mut at = head;
        while at != tail {
            let slot = self.slots[at & self.mask].get_mut();
            // SAFETY: slots of `head..tail` hold values, and with both ends gone nobody else reads this one.
            unsafe { slot.assume_init_drop() };
            at = at.wrapping_add(1);
        }
    }
}

/// The end that pushes.
pub struct Producer<T> {
    shared: Arc<Shared<T>>,
    tail: usize,
    /// `head` when last looked at: never ahead of the true one.
    head_seen: usize,
}

/// The end that pops.
pub struct Consumer<T> {
    shared: Arc<Shared<T>>,
    head: usize,
    /// `tail` when last looked at: never ahead of the true one.
    tail_seen: usize,
}

/// Makes a ring for `capacity` values, at least one.
pub fn ring<T>(capacity: usize) -> (Producer<T>, Consumer<T>) {
    let capacity = capacity.max(1);
    let count = capacity.next_power_of_two();
    let shared = Arc::new(Shared {
        slots: (0..count).map(|_| UnsafeCell::new(MaybeUninit::uninit())).collect(),
        mask: count - 1,
        capacity,
        head: Padded(AtomicUsize::new(0)),
        tail: Padded(AtomicUsize::new(0)),
        producer_gone: AtomicBool::new(false),
        consumer_gone: AtomicBool::new(false),
    });
    (Producer { shared: Arc::clone(&shared), tail: 0, head_seen: 0 }, Consumer { shared, head: 0, tail_seen: 0 })
}

impl<T> Producer<T> {
    /// Appends `value`.
    ///
    /// # Errors
    /// The value itself when the ring is full. A ring whose consumer is gone still takes values until it is full; they are dropped with it.
    pub fn push(&mut self, value: T) -> Result<(), T> {
        if self.is_full() {
            return Err(value);
        }
        // SAFETY: the ring is not full, so slot `tail` holds no value and the consumer does not touch it before `tail` is published below.
        unsafe { self.shared.slot(self.tail).write(MaybeUninit::new(value)) };
        self.tail = self.tail.wrapping_add(1);
        self.shared.tail.0.store(self.tail, Ordering::Release);
        Ok(())
    }

    /// Whether the next push will fail, as far as is known now: a `true` may be outdated at once, a `false` holds until the next push.
    pub fn is_full(&mut self) -> bool {
        if self.tail.wrapping_sub(self.head_seen) < self.shared.capacity {
            return false;
        }
        self.head_seen = self.shared.head.0.load(Ordering::Acquire);
        self.tail.wrapping_sub(self.head_seen) >= self.shared.capacity
    }

    /// Whether the consumer is gone: nothing pushed from now on is read.
    pub fn is_closed(&self) -> bool {
        self.shared.consumer_gone.load(Ordering::Acquire)
    }
}

impl<T> Consumer<T> {
    /// Takes the oldest value; `None` when there is none now.
    pub fn pop(&mut self) -> Option<T> {
        if self.is_empty() {
            return None;
        }
        // SAFETY: `head` is before `tail`, so the producer has published a value here and will not touch the slot before `head` moves below.
        let slot = unsafe { self.shared.slot(self.head).read() };
        // SAFETY: slots of `head..tail` hold values; moving `head` on makes this copy the only one.
        let value = unsafe { slot.assume_init() };
        self.head = self.head.wrapping_add(1);
        self.shared.head.0.store(self.head, Ordering::Release);
        Some(value)
    }

    /// Whether the next pop will give nothing, as far as is known now: a `true` may be outdated at once.
    pub fn is_empty(&mut self) -> bool {
        if self.head != self.tail_seen {
            return false;
        }
        self.tail_seen = self.shared.tail.0.load(Ordering::Acquire);
        self.head == self.tail_seen
    }

    /// How many values it can hold.
    pub fn capacity(&self) -> usize {
        self.shared.capacity
    }

    /// Whether the producer is gone. Values that it pushed before may still be there: ask first, pop until nothing is left, then believe it.
    pub fn is_closed(&self) -> bool {
        self.shared.producer_gone.load(Ordering::Acquire)
    }
}

impl<T> Drop for Producer<T> {
    fn drop(&mut self) {
        self.shared.producer_gone.store(true, Ordering::Release);
    }
}

impl<T> Drop for Consumer<T> {
    fn drop(&mut self) {
        self.shared.consumer_gone.store(true, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread;

    #[test]
    fn a_full_ring_hands_the_value_back() {
        for capacity in [1, 2, 3, 5, 8] {
            let (mut tx, mut rx) = ring(capacity);
            for round in 0..5 {
                for i in 0..capacity {
                    assert!(!tx.is_full());
                    tx.push(round * 100 + i).unwrap();
                }
                assert!(tx.is_full());
                assert_eq!(tx.push(7777), Err(7777));
                for i in 0..capacity {
                    assert_eq!(rx.pop(), Some(round * 100 + i));
                }
                assert_eq!(rx.pop(), None);
            }
        }
        assert_eq!(ring::<u8>(0).0.push(1), Ok(()));
    }

    #[test]
    fn indexes_wrap_around() {
        let (mut tx, mut rx) = ring(3);
        let near_end = usize::MAX - 1;
        tx.tail = near_end;
        tx.head_seen = near_end;
        rx.head = near_end;
        rx.tail_seen = near_end;
        tx.shared.head.0.store(near_end, Ordering::Relaxed);
        tx.shared.tail.0.store(near_end, Ordering::Relaxed);
        for i in 0..20 {
            tx.push(Box::new(i)).unwrap();
            tx.push(Box::new(i + 100)).unwrap();
            assert_eq!((rx.pop(), rx.pop(), rx.pop()), (Some(Box::new(i)), Some(Box::new(i + 100)), None));
        }
    }

    #[test]
    fn unread_values_are_dropped_once() {
        let token = Arc::new(());
        let (mut tx, mut rx) = ring(4);
        for _ in 0..4 {
            tx.push(Arc::clone(&token)).unwrap();
        }
        assert!(tx.push(Arc::clone(&token)).is_err());
        drop(rx.pop());
        tx.push(Arc::clone(&token)).unwrap();
        assert_eq!(Arc::strong_count(&token), 5);
        assert!(!rx.is_closed());
        drop(tx);
        assert!(rx.is_closed());
        drop(rx.pop());
        assert_eq!(Arc::strong_count(&token), 4);
        drop(rx);
        assert_eq!(Arc::strong_count(&token), 1);
    }

    #[test]
    fn the_producer_sees_the_consumer_go() {
        let token = Arc::new(());
        let (mut tx, rx) = ring(2);
        assert!(!tx.is_closed());
        drop(rx);
        assert!(tx.is_closed());
        tx.push(Arc::clone(&token)).unwrap();
        drop(tx);
        assert_eq!(Arc::strong_count(&token), 1);
    }

    #[test]
    fn two_threads_pass_every_value_in_order() {
        let count: u64 = if cfg!(miri) { 200 } else { 400_000 };
        for capacity in [1, 7, 64] {
            let (mut tx, mut rx) = ring(capacity);
            let sender = thread::spawn(move || {
                for i in 0..count {
                    let mut value = Box::new(i);
                    while let Err(back) = tx.push(value) {
                        value = back;
                        thread::yield_now();
                    }
                }
            });
            let mut expected = 0;
            loop {
                let closed = rx.is_closed();
                match rx.pop() {
                    Some(value) => {
                        assert_eq!(*value, expected);
                        expected += 1;
                    }
                    None if closed => break,
                    None => thread::yield_now(),
                }
            }
            assert_eq!(expected, count);
            sender.join().unwrap();
        }
    }
}
