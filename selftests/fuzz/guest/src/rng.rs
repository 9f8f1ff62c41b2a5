// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Chance with a seed: xorshift64*.

/// A source of numbers.
#[derive(Clone)]
pub struct Rng(u64);

impl Rng {
    /// The same seed gives the same numbers.
    pub fn new(seed: u64) -> Self {
        let mut this = Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x5851_f42d_4c95_7f2d | 1);
        this.next();
        this.next();
        this
    }

    /// Any number.
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// A number below `limit`, which is not 0.
    pub fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    /// True in `percent` of the cases.
    pub fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    /// One of `list`.
    pub fn pick<T: Copy>(&mut self, list: &[T]) -> T {
        list[self.below(list.len() as u64) as usize]
    }

    /// A number near a border, or any. Not the border at which User-mode Linux puts a program's libraries: an answer
    /// of the kernel there breaks the program, which says nothing.
    pub fn border(&mut self) -> u64 {
        let shift = match self.below(64) {
            30 | 46 | 47 => 12,
            shift => shift,
        };
        let near = (1u64 << shift).wrapping_add(self.below(3)).wrapping_sub(1);
        match self.below(4) {
            0 => self.below(8),
            1 => near,
            2 => near.wrapping_neg(),
            _ => self.next(),
        }
    }
}
