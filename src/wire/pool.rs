//! The one pool of payload buffers: each link has one, the two ends of an in-process link share one.
//!
//! It never holds more than a fixed number of bytes; what it is given beyond is freed.

use crate::limits::POOL_BYTES_MAX;

/// Empty buffers for reuse. Invariant: `bytes` is the sum of their capacities, at most [`POOL_BYTES_MAX`].
#[derive(Default)]
pub(super) struct Pool {
    buffers: Vec<Vec<u8>>,
    bytes: usize,
}

impl Pool {
    /// An empty buffer, with memory from an earlier use if there is one.
    pub(super) fn get(&mut self) -> Vec<u8> {
        let buffer = self.buffers.pop().unwrap_or_default();
        self.bytes -= buffer.capacity();
        buffer
    }

    /// Takes a buffer back.
    pub(super) fn put(&mut self, mut buffer: Vec<u8>) {
        if buffer.capacity() > 0 && self.bytes + buffer.capacity() <= POOL_BYTES_MAX {
            buffer.clear();
            self.bytes += buffer.capacity();
            self.buffers.push(buffer);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holds_a_bounded_number_of_bytes() {
        let mut pool = Pool::default();
        for _ in 0..100 {
            pool.put(vec![1; POOL_BYTES_MAX / 10]);
            assert!(pool.bytes <= POOL_BYTES_MAX);
        }
        assert_eq!(pool.buffers.len(), 10);
        for _ in 0..20 {
            assert!(pool.get().is_empty());
        }
        assert_eq!(pool.bytes, 0);
    }
}
