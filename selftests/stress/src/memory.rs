// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Memory that a device may read and write at any time, and the patterns in it.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

const WORD: usize = 8;
/// The upper half of a pattern's first word; the lower half is the seed of what follows.
const MAGIC: u64 = 0x5553_4234 << 32;

/// Private pages of ours, read and written word by word.
pub struct Arena {
    base: *mut u8,
    len: usize,
}

// SAFETY: Plain memory of which every access is an atomic word.
unsafe impl Send for Arena {}
// SAFETY: As above.
unsafe impl Sync for Arena {}

impl Arena {
    pub fn new(len: usize) -> io::Result<Self> {
        let (access, flags) = (
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
        );
        // SAFETY: A new mapping at a place that the kernel chooses.
        let base = unsafe { libc::mmap(std::ptr::null_mut(), len, access, flags, -1, 0) };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(Self { base: base.cast(), len })
    }

    pub fn address(&self) -> u64 {
        self.base as u64
    }

    pub fn len(&self) -> usize {
        self.len
    }

    /// Gives the pages back to the kernel: they read as zeroes, and a paged region must bring new ones.
    pub fn forget_pages(&self) {
        // SAFETY: The whole of a private mapping of ours.
        unsafe { libc::madvise(self.base.cast(), self.len, libc::MADV_DONTNEED) };
    }

    fn word(&self, index: usize) -> &AtomicU64 {
        assert!((index + 1) * WORD <= self.len, "outside an arena");
        // SAFETY: Inside the mapping, which is aligned to a page and lives as long as `self`.
        unsafe { &*self.base.cast::<AtomicU64>().add(index) }
    }

    pub fn load(&self, at: usize) -> u64 {
        self.word(at / WORD).load(Relaxed)
    }

    pub fn store(&self, at: usize, value: u64) {
        self.word(at / WORD).store(value, Relaxed);
    }

    /// Fills whole words with the pattern of `seed`, which says itself which one it is.
    pub fn fill(&self, at: usize, len: usize, seed: u32) {
        for index in 0..len / WORD {
            self.store(at + index * WORD, pattern(seed, index));
        }
    }

    /// What is wrong with the pattern of `seed` there, if something is.
    pub fn differs(&self, at: usize, len: usize, seed: u32) -> Option<String> {
        (0..len / WORD).find_map(|index| {
            let (found, wanted) = (self.load(at + index * WORD), pattern(seed, index));
            (found != wanted).then(|| format!("byte {} of {len}: {found:#x}, not {wanted:#x}", index * WORD))
        })
    }

    /// The seed of the pattern that begins there, if one does.
    pub fn seed(&self, at: usize) -> Option<u32> {
        let word = self.load(at);
        (word & !0xffff_ffff == MAGIC).then_some(word as u32)
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        // SAFETY: Mapped by `new`, unmapped once.
        unsafe { libc::munmap(self.base.cast(), self.len) };
    }
}

fn pattern(seed: u32, index: usize) -> u64 {
    if index == 0 {
        return MAGIC | u64::from(seed);
    }
    let mixed = (u64::from(seed) << 32 | index as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed ^ mixed >> 29
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_is_known_again_and_a_changed_word_is_found() {
        let arena = Arena::new(4096).unwrap();
        arena.fill(64, 256, 77);
        assert_eq!(arena.seed(64), Some(77));
        assert_eq!(arena.differs(64, 256, 77), None);
        arena.store(64 + 128, 5);
        assert!(arena.differs(64, 256, 77).unwrap().starts_with("byte 128 of 256"));
        assert_eq!(arena.seed(0), None);
    }
}
