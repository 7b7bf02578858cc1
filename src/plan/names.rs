//! The bytes of all names and link targets of a tree, one after another. Only the tree uses it.

/// Below this much garbage compaction is not worth its walk.
const GARBAGE_BYTES_MIN: usize = 1 << 20;

/// An arena of byte strings that are never freed one by one: the owner counts what it drops and copies the rest when half is garbage.
#[derive(Debug, Default)]
pub struct Names {
    bytes: Vec<u8>,
    garbage: usize,
}

impl Names {
    /// Adds a string and returns where it is.
    ///
    /// # Panics
    /// Beyond 4 GiB of names: some 100 million entries, by far more than fit the rest of the tree.
    pub fn add(&mut self, bytes: &[u8]) -> u32 {
        let at = u32::try_from(self.bytes.len()).expect("less than 4 GiB of names");
        self.bytes.extend_from_slice(bytes);
        at
    }

    /// The string at `at`.
    pub fn get(&self, at: u32, len: u32) -> &[u8] {
        self.bytes.get(at as usize..(at as usize + len as usize)).unwrap_or_default()
    }

    /// Counts a string as dropped.
    pub fn release(&mut self, len: u32) {
        self.garbage += len as usize;
    }

    /// Whether the owner should copy what it still uses into a new arena.
    pub fn wants_compaction(&self) -> bool {
        self.garbage > GARBAGE_BYTES_MIN && self.garbage * 2 > self.bytes.len()
    }

    /// Bytes held, garbage included.
    pub fn held(&self) -> usize {
        self.bytes.len()
    }
}
