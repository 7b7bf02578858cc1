//! Owner and group as one number: a mirror of millions of files has few different pairs. Only the tree uses it.

use std::collections::HashMap;

use foldhash::fast::FixedState;

/// Pairs of owner and group, by number. A pair keeps its number; (0, 0) has 0.
#[derive(Debug)]
pub(super) struct Owners {
    pairs: Vec<(u32, u32)>,
    numbers: HashMap<(u32, u32), u32, FixedState>,
    /// The one that was asked for last is most likely the next.
    last: u32,
}

impl Owners {
    pub(super) fn new(seed: u64) -> Self {
        let mut numbers = HashMap::with_hasher(FixedState::with_seed(seed));
        numbers.insert((0, 0), 0);
        Self { pairs: vec![(0, 0)], numbers, last: 0 }
    }

    /// The number of a pair.
    pub(super) fn number(&mut self, pair: (u32, u32)) -> u32 {
        if self.get(self.last) != pair {
            let next = self.pairs.len() as u32;
            self.last = *self.numbers.entry(pair).or_insert(next);
            if self.last == next {
                self.pairs.push(pair);
            }
        }
        self.last
    }

    /// The pair with a number that [`Owners::number`] gave.
    pub(super) fn get(&self, number: u32) -> (u32, u32) {
        self.pairs[number as usize]
    }

    /// Memory, in bytes.
    pub(super) fn memory(&self) -> usize {
        self.pairs.capacity() * size_of::<(u32, u32)>() + self.numbers.capacity() * size_of::<((u32, u32), u32)>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_pair_has_one_number() {
        let mut owners = Owners::new(1);
        let pairs: Vec<(u32, u32)> = (0..100).map(|n| (n % 7, u32::MAX - n % 3)).chain([(0, 0)]).collect();
        let numbers: Vec<u32> = pairs.iter().map(|pair| owners.number(*pair)).collect();
        assert!(pairs.iter().zip(&numbers).all(|(pair, number)| owners.get(*number) == *pair));
        assert_eq!((numbers[100], numbers[0] == numbers[21], owners.pairs.len()), (0, true, 22));
    }
}
