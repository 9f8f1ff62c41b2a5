// SPDX-License-Identifier: GPL-2.0 OR MIT
//! A configuration space: words, and for each of them which bits a guest may change.

/// Words with write masks. A word that nobody defined reads as 0 and ignores writes.
#[derive(Clone, Debug, Default)]
pub struct Space {
    words: Vec<u32>,
    writable: Vec<u32>,
    /// Bits that a 1 clears.
    write_clears: Vec<u32>,
}

impl Space {
    /// A space of `length` words, all of them 0 and read-only.
    pub fn new(length: usize) -> Self {
        Space {
            words: vec![0; length],
            writable: vec![0; length],
            write_clears: vec![0; length],
        }
    }

    /// Defines a word: its value at reset and the bits a guest may set and clear.
    pub fn define(&mut self, offset: usize, value: u32, writable: u32) {
        self.words[offset] = value;
        self.writable[offset] = writable;
    }

    /// Makes the bits of `mask` in a word clear when they are written as 1.
    pub fn clears_on_write(&mut self, offset: usize, mask: u32) {
        self.write_clears[offset] = mask;
    }

    /// Makes a range of words plain storage.
    pub fn storage(&mut self, range: core::ops::Range<usize>) {
        for offset in range {
            self.define(offset, 0, !0);
        }
    }

    /// The word, or `None` beyond the end.
    pub fn read(&self, offset: usize) -> Option<u32> {
        self.words.get(offset).copied()
    }

    /// A guest's write, by the masks. False beyond the end.
    pub fn write(&mut self, offset: usize, value: u32) -> bool {
        let Some(word) = self.words.get_mut(offset) else {
            return false;
        };
        let mask = self.writable[offset];
        *word = (*word & !mask | value & mask) & !(value & self.write_clears[offset]);
        true
    }

    /// The device's own view of a word; 0 beyond the end.
    pub fn word(&self, offset: usize) -> u32 {
        self.words.get(offset).copied().unwrap_or(0)
    }

    /// The device changes bits of a word: those of `mask` become those of `value`.
    pub fn set(&mut self, offset: usize, mask: u32, value: u32) {
        if let Some(word) = self.words.get_mut(offset) {
            *word = *word & !mask | value & mask;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masks_decide_what_a_write_changes() {
        let mut space = Space::new(3);
        space.define(0, 0xff00_00ff, 0x0000_ffff);
        space.define(1, 0xf, 0);
        space.clears_on_write(1, 0x3);
        assert!(space.write(0, 0x1234_5678));
        assert_eq!(space.read(0), Some(0xff00_5678));
        assert!(space.write(1, 0x5));
        assert_eq!(space.read(1), Some(0xe));
        assert!(space.write(2, 7));
        assert_eq!(space.read(2), Some(0));
        assert!(!space.write(3, 7));
        assert_eq!(space.read(3), None);
    }
}
