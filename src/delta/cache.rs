//! Remembers the signatures of what the mirror holds, the least recently used one forgotten first.
//!
//! Judges nothing: that a signature is the mirror's is for the caller to know, and to prove by its digest. Used by `work`.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Arc;

use crate::delta::Signature;

/// No entry.
const NONE: usize = usize::MAX;

/// Signatures by a key, bounded by the memory they take.
///
/// Invariant: `bytes` is the sum of what all entries take and at most `bytes_max`; the entries from `newest` along `older` are those of `places`, each once, and end at
/// `oldest`.
pub struct SignatureCache<K> {
    bytes_max: usize,
    bytes: usize,
    places: HashMap<K, usize>,
    entries: Vec<Entry<K>>,
    newest: usize,
    oldest: usize,
}

struct Entry<K> {
    key: K,
    signature: Arc<Signature>,
    newer: usize,
    older: usize,
}

impl<K: Hash + Eq + Clone> SignatureCache<K> {
    /// Room for signatures of this many bytes together; usually [`SIGNATURE_CACHE_BYTES_MAX`](crate::limits::SIGNATURE_CACHE_BYTES_MAX).
    pub fn new(bytes_max: usize) -> Self {
        Self { bytes_max, bytes: 0, places: HashMap::new(), entries: Vec::new(), newest: NONE, oldest: NONE }
    }

    /// The signature under `key`, which is the most recently used one then.
    pub fn get(&mut self, key: &K) -> Option<Arc<Signature>> {
        let at = *self.places.get(key)?;
        self.unlink(at);
        self.link(at);
        Some(Arc::clone(&self.entries[at].signature))
    }

    /// Remembers a signature in place of what was under `key`. One that is larger than all the room is not kept.
    pub fn insert(&mut self, key: K, signature: Arc<Signature>) {
        self.remove(&key);
        let bytes = Self::takes(&signature);
        if bytes > self.bytes_max {
            return;
        }
        while self.bytes + bytes > self.bytes_max {
            let oldest = self.entries[self.oldest].key.clone();
            self.remove(&oldest);
        }
        let at = self.entries.len();
        self.bytes += bytes;
        self.places.insert(key.clone(), at);
        self.entries.push(Entry { key, signature, newer: NONE, older: NONE });
        self.link(at);
    }

    /// Forgets what is under `key`, and returns it.
    pub fn remove(&mut self, key: &K) -> Option<Arc<Signature>> {
        let at = self.places.remove(key)?;
        self.unlink(at);
        let gone = self.entries.swap_remove(at);
        self.bytes -= Self::takes(&gone.signature);
        // What was the last entry stands here now.
        if let Some(moved) = self.entries.get(at) {
            self.places.insert(moved.key.clone(), at);
            let (newer, older) = (moved.newer, moved.older);
            *self.after(newer) = at;
            *self.before(older) = at;
        }
        Some(gone.signature)
    }

    /// Forgets everything: the mirror may hold anything.
    pub fn clear(&mut self) {
        *self = Self::new(self.bytes_max);
    }

    /// What all signatures take together.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// What one takes: the key is held twice, and the table has up to half its places free.
    fn takes(signature: &Signature) -> usize {
        signature.memory() + size_of::<Entry<K>>() + 2 * size_of::<(K, usize)>()
    }

    /// The link that leads from `newer`, or from the newest end, to older entries.
    fn after(&mut self, newer: usize) -> &mut usize {
        if newer == NONE { &mut self.newest } else { &mut self.entries[newer].older }
    }

    /// The link that leads from `older`, or from the oldest end, to newer entries.
    fn before(&mut self, older: usize) -> &mut usize {
        if older == NONE { &mut self.oldest } else { &mut self.entries[older].newer }
    }

    fn unlink(&mut self, at: usize) {
        let Entry { newer, older, .. } = self.entries[at];
        *self.after(newer) = older;
        *self.before(older) = newer;
    }

    fn link(&mut self, at: usize) {
        let older = self.newest;
        (self.entries[at].newer, self.entries[at].older) = (NONE, older);
        *self.before(older) = at;
        self.newest = at;
    }

    /// Asserts the invariant.
    #[cfg(test)]
    fn check(&self) {
        let mut newer = NONE;
        let mut at = self.newest;
        let mut seen = 0;
        let mut bytes = 0;
        while at != NONE {
            let entry = &self.entries[at];
            assert_eq!(entry.newer, newer);
            assert_eq!(self.places.get(&entry.key), Some(&at));
            bytes += Self::takes(&entry.signature);
            seen += 1;
            (newer, at) = (at, entry.older);
        }
        assert_eq!((self.oldest, self.bytes), (newer, bytes));
        assert_eq!((self.entries.len(), self.places.len()), (seen, seen));
        assert!(self.bytes <= self.bytes_max);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::delta::{Shape, Signer};

    fn signature(blocks: u64) -> Arc<Signature> {
        let shape = Shape::new(blocks * 4096, 4096).expect("small");
        let mut signer = Signer::new(shape);
        signer.update(&vec![blocks as u8; blocks as usize * 4096]).expect("as long as it is");
        Arc::new(signer.finish().expect("complete"))
    }

    #[test]
    fn the_least_recently_used_one_goes_first() {
        let one = SignatureCache::<u32>::takes(&signature(4));
        let mut cache = SignatureCache::new(3 * one);
        for key in 0..3 {
            cache.insert(key, signature(4));
        }
        assert!(cache.get(&0).is_some());
        cache.insert(3, signature(4));
        assert_eq!([0, 1, 2, 3].map(|key| cache.get(&key).is_some()), [true, false, true, true]);
        cache.insert(4, signature(1000));
        assert_eq!((cache.len(), cache.bytes()), (3, 3 * one), "too large to be kept, and nothing goes for it");
        cache.check();
        cache.clear();
        assert!(cache.is_empty());
    }

    #[test]
    fn it_does_what_a_list_does() {
        let signatures: Vec<_> = (0..20).map(signature).collect();
        let takes = SignatureCache::<usize>::takes;
        let room = 10 * takes(&signatures[10]);
        let mut cache = SignatureCache::new(room);
        // The model: newest first.
        let mut model: Vec<(usize, Arc<Signature>)> = Vec::new();
        let mut random = 1u64;
        for _ in 0..20_000 {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let (key, what) = ((random >> 33) as usize % 30, (random >> 50) % 8);
            let held = model.iter().position(|(held, _)| *held == key).map(|at| model.remove(at));
            match what {
                0 => assert_eq!(cache.remove(&key), held.map(|(_, signature)| signature)),
                1..4 => {
                    assert_eq!(cache.get(&key), held.as_ref().map(|(_, signature)| Arc::clone(signature)));
                    model.splice(0..0, held);
                }
                _ => {
                    let signature = &signatures[(random >> 40) as usize % signatures.len()];
                    cache.insert(key, Arc::clone(signature));
                    model.insert(0, (key, Arc::clone(signature)));
                    while model.iter().map(|(_, signature)| takes(signature)).sum::<usize>() > room {
                        model.pop();
                    }
                }
            }
            assert_eq!(cache.len(), model.len());
        }
        cache.check();
        assert!(cache.len() > 5, "it was never full");
    }
}
