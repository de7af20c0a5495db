//! Chance for tests, which comes again with its seed.
#![allow(dead_code)] // each test binary uses a part of it

/// A small generator (xorshift64*) from a seed that is not 0: the same seed draws the same on every machine.
pub struct Random(pub u64);

impl Random {
    /// From any seed.
    pub fn new(seed: u64) -> Random {
        Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub fn next(&mut self, below: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % below
    }

    pub fn index(&mut self, length: usize) -> usize {
        usize::try_from(self.next(length as u64)).unwrap()
    }

    pub fn chance(&mut self, percent: u64) -> bool {
        self.next(100) < percent
    }

    pub fn pick<'a, T>(&mut self, from: &'a [T]) -> Option<&'a T> {
        if from.is_empty() { None } else { Some(&from[self.index(from.len())]) }
    }
}
