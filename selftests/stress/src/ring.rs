// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Keys that are, or were, somebody's, in memory that all processes of a run share: what attackers try.
//!
//! Nobody waits for anybody: an entry that is read while it is written is a key that never was, and must open nothing
//! either. Of a process that is killed the entries stay.

use std::fs::OpenOptions;
use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

const ENTRIES: usize = 512;
/// Windows whose queue pair is gone have a part of their own: they are hunted by number.
const WIDOWS: usize = 64;
const WORDS: usize = 2 * (ENTRIES + WIDOWS) + 2;

/// A key with the number of the queue pair that had to do with it, and where its memory begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Known {
    pub key: u32,
    pub number: u32,
    pub address: u64,
}

pub struct Ring {
    words: *const AtomicU64,
}

// SAFETY: Atomic words only.
unsafe impl Send for Ring {}
// SAFETY: As above.
unsafe impl Sync for Ring {}

impl Ring {
    /// Maps the file, which is made if it is not there.
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)?;
        let len = WORDS * 8;
        file.set_len(len as u64)?;
        let access = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: A new mapping of a file that is as long; it is never unmapped.
        let base = unsafe { libc::mmap(std::ptr::null_mut(), len, access, libc::MAP_SHARED, file.as_raw_fd(), 0) };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(Self { words: base.cast() })
    }

    fn word(&self, index: usize) -> &AtomicU64 {
        assert!(index < WORDS);
        // SAFETY: Inside the mapping, which is there for good.
        unsafe { &*self.words.add(index) }
    }

    fn put(&self, at: usize, known: Known) {
        self.word(2 * at + 1).store(known.address, Relaxed);
        self.word(2 * at)
            .store(u64::from(known.key) | u64::from(known.number) << 32, Relaxed);
    }

    fn get(&self, at: usize) -> Option<Known> {
        let word = self.word(2 * at).load(Relaxed);
        (word != 0).then(|| Known {
            key: word as u32,
            number: (word >> 32) as u32,
            address: self.word(2 * at + 1).load(Relaxed),
        })
    }

    fn next(&self, part: usize, len: usize) -> usize {
        let turn = self.word(2 * (ENTRIES + WIDOWS) + part).fetch_add(1, Relaxed);
        turn as usize % len
    }

    /// A key, alive or dead.
    pub fn tell(&self, known: Known) {
        self.put(self.next(0, ENTRIES), known);
    }

    /// A window of type 2 that lives, bound by a queue pair that does not.
    pub fn tell_widow(&self, known: Known) {
        self.put(ENTRIES + self.next(1, WIDOWS), known);
        self.tell(known);
    }

    /// The window has ended; its key stays among the others.
    pub fn forget_widow(&self, known: Known) {
        for at in ENTRIES..ENTRIES + WIDOWS {
            if self.get(at) == Some(known) {
                self.word(2 * at).store(0, Relaxed);
            }
        }
    }

    pub fn pick(&self, rng: &mut fastrand::Rng) -> Option<Known> {
        self.get(rng.usize(..ENTRIES))
    }

    pub fn widows(&self) -> Vec<Known> {
        (ENTRIES..ENTRIES + WIDOWS).filter_map(|at| self.get(at)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_that_map_it_see_the_same() {
        let path = std::env::temp_dir().join(format!("usb4stress-ring-{}", std::process::id()));
        let (one, two) = (Ring::open(&path).unwrap(), Ring::open(&path).unwrap());
        let known = Known {
            key: 0x1234,
            number: 0x80_0001,
            address: 1 << 40,
        };
        for _ in 0..WIDOWS {
            one.tell_widow(known);
        }
        assert_eq!(two.widows(), vec![known; WIDOWS]);
        one.forget_widow(known);
        assert!(two.widows().is_empty());
        let mut rng = fastrand::Rng::with_seed(1);
        assert!((0..1000).any(|_| two.pick(&mut rng) == Some(known)));
        std::fs::remove_file(path).unwrap();
    }
}
