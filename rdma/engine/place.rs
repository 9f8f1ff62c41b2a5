// SPDX-License-Identifier: GPL-2.0 OR MIT
//! In what order bytes are written to memory that a program looks at meanwhile: the aligned word that they end in is
//! last, by as few stores as its alignment allows. Programs poll the last bytes of a message in place of a completion
//! queue.

/// Bytes of a word that one store writes.
const WORD: usize = 8;

/// Bytes before the aligned word in which `len` bytes at an address end. They may be written in any order.
#[must_use]
pub const fn front(address: usize, len: usize) -> usize {
    let last_word = address.wrapping_add(len).saturating_sub(1) & !(WORD - 1);
    last_word.saturating_sub(address)
}

/// Bytes that the next store writes, aligned, of `left` at an address; 0 of none.
#[must_use]
pub const fn step(address: usize, left: usize) -> usize {
    match left {
        8.. if address % 8 == 0 => 8,
        4.. if address % 4 == 0 => 4,
        2.. if address % 2 == 0 => 2,
        1.. => 1,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_is_written_once_and_those_of_the_last_word_last() {
        for address in 4096..4096 + 2 * WORD {
            for len in 0..5 * WORD {
                let mut at = front(address, len);
                assert!(at <= len && len - at <= WORD, "{address} {len}");
                assert!(len == 0 || (address + at) / WORD == (address + len - 1) / WORD);
                let mut stores = vec![];
                while step(address + at, len - at) != 0 {
                    stores.push(step(address + at, len - at));
                    assert_eq!((address + at) % stores.last().unwrap(), 0);
                    at += stores.last().unwrap();
                }
                assert_eq!(at, len, "{address} {len}");
                // A whole word goes at once, and so does an aligned half of one.
                if (address + len) % WORD == 0 && len >= WORD {
                    assert_eq!(stores, [WORD]);
                }
                if (address + len) % WORD == 4 && len >= 4 {
                    assert_eq!(stores, [4]);
                }
            }
        }
    }
}
