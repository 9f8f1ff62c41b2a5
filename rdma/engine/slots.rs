// SPDX-License-Identifier: GPL-2.0 OR MIT
//! The slots behind numbers: which are free, and what is in the others.
//!
//! ```text
//!             reserve           fill
//!     free ------------> kept --------> used
//!       ^                |  ^            |
//!       +---- release ---+  +- withdraw -+     release: from either
//! ```
//!
//! A number is a slot in its low bits and bits of the caller's choice above. The slots are chunks, of [`CHUNK`] each,
//! in a list that the caller makes longer: growing moves no slot, and finding one is two steps.

use core::ops::DerefMut;

/// Binary logarithm of [`CHUNK`].
const CHUNK_BITS: u32 = 8;
/// Slots of a chunk.
pub const CHUNK: usize = 1 << CHUNK_BITS;
/// Throws for a free slot. At three quarters in use, one in 10^8 searches needs more, and then looks at every slot.
const THROWS: u32 = 64;

/// One slot. Opaque to the caller, who supplies the memory.
#[derive(Debug)]
pub struct Slot<T>(Content<T>);

#[derive(Debug)]
enum Content<T> {
    Free,
    /// In use, and nothing is found in it.
    Kept,
    Used {
        number: u32,
        object: T,
    },
}

impl<T> Slot<T> {
    /// What a new chunk consists of.
    pub const FREE: Self = Self(Content::Free);
}

/// What a search for a free slot came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reserved {
    /// This slot is the caller's now.
    At(u32),
    /// There have to be more chunks first.
    Crowded,
    /// As many are in use as may be.
    Full,
}

/// Slots, of whose numbers the low `BITS` bits are the slot.
#[derive(Debug)]
pub struct Slots<L, const BITS: u32> {
    chunks: L,
    used: usize,
}

impl<T: 'static, C, L, const BITS: u32> Slots<L, BITS>
where
    C: DerefMut<Target = [Slot<T>]> + 'static,
    L: DerefMut<Target = [C]>,
{
    const MASK: u32 = (1_u32 << BITS).wrapping_sub(1);

    /// Most slots in use: half of all there can be, so that a free one is found soon.
    pub const CAPACITY: usize = 1 << BITS.saturating_sub(1);

    /// Chunks of free slots.
    pub const fn new(chunks: L) -> Self {
        Self { chunks, used: 0 }
    }

    /// Slots that are there.
    pub fn len(&self) -> usize {
        self.chunks.len().saturating_mul(CHUNK)
    }

    /// Whether there is no slot at all.
    pub fn is_empty(&self) -> bool {
        self.chunks.is_empty()
    }

    /// Slots that are not free.
    pub const fn used(&self) -> usize {
        self.used
    }

    /// The chunks, to which the caller adds. None may go, and none may move.
    pub fn chunks(&mut self) -> &mut L {
        &mut self.chunks
    }

    /// The number of a slot, with the upper bits of `above`.
    pub const fn number(slot: u32, above: u32) -> u32 {
        (above & !Self::MASK) | (slot & Self::MASK)
    }

    fn get(&self, at: usize) -> Option<&Slot<T>> {
        self.chunks.get(at >> CHUNK_BITS)?.get(at & CHUNK.wrapping_sub(1))
    }

    fn slot_of(&mut self, number: u32) -> Option<&mut Slot<T>> {
        let at = (number & Self::MASK) as usize;
        self.chunks
            .get_mut(at >> CHUNK_BITS)?
            .get_mut(at & CHUNK.wrapping_sub(1))
    }

    fn is_free(&self, at: usize) -> bool {
        matches!(self.get(at), Some(Slot(Content::Free)))
    }

    /// A free slot, chosen by `random`.
    fn find_free(&self, random: u32) -> Option<usize> {
        let len = self.len();
        let mut throw = random;
        for _ in 0..THROWS {
            // A full period over all words (Knuth, TAOCP 3.2.1), whose upper bits are the better ones.
            throw = throw.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let at = (u64::from(throw).wrapping_mul(len as u64) >> 32) as usize;
            if self.is_free(at) {
                return Some(at);
            }
        }
        (0..len).find(|at| self.is_free(*at))
    }

    /// Takes a free slot, chosen by `random`. It is the caller's until [`Self::release`].
    pub fn reserve(&mut self, random: u32) -> Reserved {
        if self.used >= Self::CAPACITY {
            return Reserved::Full;
        }
        if self.used >= (self.len() / 4).saturating_mul(3) {
            return Reserved::Crowded;
        }
        let Some(at) = self.find_free(random).and_then(|at| u32::try_from(at).ok()) else {
            return Reserved::Crowded;
        };
        let Some(slot) = self.slot_of(at) else {
            return Reserved::Crowded;
        };
        slot.0 = Content::Kept;
        self.used = self.used.saturating_add(1);
        Reserved::At(at)
    }

    /// Puts `object` under `number`, whose slot is the caller's. What was there comes back, or `object` itself if there
    /// is no such slot in use.
    pub fn fill(&mut self, number: u32, object: T) -> Option<T> {
        let slot = match self.slot_of(number) {
            Some(slot) if !matches!(slot.0, Content::Free) => slot,
            _ => return Some(object),
        };
        match core::mem::replace(&mut slot.0, Content::Used { number, object }) {
            Content::Used { object, .. } => Some(object),
            Content::Free | Content::Kept => None,
        }
    }

    /// Gives a slot back, and what is in it. A free slot, and one in which another number is, stay as they are.
    pub fn release(&mut self, number: u32) -> Option<T> {
        let (was_free, object) = self.empty(number, Content::Free)?;
        if !was_free {
            self.used = self.used.saturating_sub(1);
        }
        object
    }

    /// Takes the object out, and leaves its slot in use until [`Self::release`].
    pub fn withdraw(&mut self, number: u32) -> Option<T> {
        if self.is_free((number & Self::MASK) as usize) {
            return None;
        }
        self.empty(number, Content::Kept)?.1
    }

    /// Whether the slot had been free, and what was in it. `None` if it is another number's.
    fn empty(&mut self, number: u32, to: Content<T>) -> Option<(bool, Option<T>)> {
        let slot = self.slot_of(number)?;
        if matches!(slot.0, Content::Used { number: other, .. } if other != number) {
            return None;
        }
        Some(match core::mem::replace(&mut slot.0, to) {
            Content::Used { object, .. } => (false, Some(object)),
            Content::Kept => (false, None),
            Content::Free => (true, None),
        })
    }

    /// What is under a number.
    pub fn find(&self, wanted: u32) -> Option<&T> {
        match &self.get((wanted & Self::MASK) as usize)?.0 {
            Content::Used { number, object } if *number == wanted => Some(object),
            _ => None,
        }
    }

    /// Looks at the slots from `from` to the end of their chunk: where to go on, and the first object of them. `None`
    /// at the end of all slots.
    pub fn walk(&self, from: usize) -> Option<(usize, Option<&T>)> {
        let chunk = self.chunks.get(from >> CHUNK_BITS)?;
        let at = from & CHUNK.wrapping_sub(1);
        let rest = chunk.get(at..).unwrap_or(&[]);
        let found = rest.iter().zip(from..).find_map(|(slot, at)| match &slot.0 {
            Content::Used { object, .. } => Some((at.saturating_add(1), Some(object))),
            _ => None,
        });
        let end = (from | CHUNK.wrapping_sub(1)).saturating_add(1);
        Some(found.unwrap_or((end, None)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;

    type Tested = Slots<Vec<Vec<Slot<u32>>>, 10>;

    fn chunk() -> Vec<Slot<u32>> {
        (0..CHUNK).map(|_| Slot::FREE).collect()
    }

    fn slots(chunks: usize) -> Tested {
        Slots::new((0..chunks).map(|_| chunk()).collect())
    }

    fn reserve(slots: &mut Tested, random: u32) -> u32 {
        loop {
            match slots.reserve(random) {
                Reserved::At(at) => return at,
                Reserved::Crowded => slots.chunks().push(chunk()),
                Reserved::Full => panic!("full"),
            }
        }
    }

    fn count(slots: &Tested) -> usize {
        slots
            .chunks
            .iter()
            .flatten()
            .filter(|slot| !matches!(slot.0, Content::Free))
            .count()
    }

    #[test]
    fn what_is_given_back_twice_is_given_back_once() {
        let mut slots = slots(1);
        let number = Tested::number(reserve(&mut slots, 1), 0xabcd_0000);
        assert_eq!(slots.fill(number, 7), None);
        assert_eq!(slots.release(number), Some(7));
        assert_eq!(slots.release(number), None);
        assert_eq!(slots.withdraw(number), None, "a free slot stays free");
        assert_eq!((slots.used(), count(&slots)), (0, 0));
        assert_eq!(slots.release(12_345), None, "nor is there one beyond the end");
    }

    #[test]
    fn a_number_that_is_gone_does_not_end_the_next_one_in_its_slot() {
        let mut slots = slots(1);
        let slot = reserve(&mut slots, 1);
        let (old, new) = (Tested::number(slot, 0x1000_0000), Tested::number(slot, 0x2000_0000));
        assert_eq!(slots.fill(old, 1), None);
        assert_eq!(slots.release(old), Some(1));
        while reserve(&mut slots, 1) != slot {}
        assert_eq!(slots.fill(new, 2), None);
        assert_eq!(slots.find(old), None);
        assert_eq!((slots.release(old), slots.withdraw(old)), (None, None));
        assert_eq!(slots.find(new), Some(&2));
    }

    #[test]
    fn a_withdrawn_number_is_not_found_and_not_given_away() {
        let mut slots = slots(1);
        let number = Tested::number(reserve(&mut slots, 1), 0);
        assert_eq!(slots.fill(number, 7), None);
        assert_eq!(slots.withdraw(number), Some(7));
        assert_eq!(slots.find(number), None);
        for random in 0..150 {
            assert_ne!(reserve(&mut slots, random), number);
        }
        assert_eq!(slots.release(number), None);
        assert_eq!(slots.used(), 150);
    }

    #[test]
    fn filling_again_gives_back_what_was_there() {
        let mut slots = slots(1);
        let number = Tested::number(reserve(&mut slots, 1), 0);
        assert_eq!(slots.fill(number, 7), None);
        assert_eq!(slots.fill(number, 8), Some(7));
        assert_eq!(slots.release(number), Some(8));
        assert_eq!(slots.fill(number, 9), Some(9), "not into a free slot");
        assert_eq!(count(&slots), 0);
    }

    #[test]
    fn half_of_all_there_can_be() {
        let mut slots = slots(0);
        for random in 0..512 {
            reserve(&mut slots, random);
        }
        assert_eq!(slots.reserve(0), Reserved::Full);
        assert_eq!((slots.used(), count(&slots)), (512, 512));
    }

    proptest! {
        /// Reserving, filling, withdrawing and releasing of any numbers, right or wrong, against a map.
        #[test]
        fn as_a_map_of_numbers(steps in prop::collection::vec((0..5u8, 0..8usize, any::<u32>()), 1..200)) {
            let mut slots = slots(1);
            let mut held: Vec<(u32, bool)> = Vec::new();
            let mut map: HashMap<u32, u32> = HashMap::new();
            for (what, which, random) in steps {
                let picked = held.get(which).copied();
                match (what, picked) {
                    (0, _) => {
                        if let Reserved::At(slot) = slots.reserve(random) {
                            held.push((Tested::number(slot, random), false));
                        }
                    }
                    (1, Some((number, _))) => {
                        prop_assert_eq!(slots.fill(number, random), map.insert(number, random));
                        held[which].1 = true;
                    }
                    (2, Some((number, _))) => prop_assert_eq!(slots.withdraw(number), map.remove(&number)),
                    (3, Some((number, _))) => {
                        prop_assert_eq!(slots.release(number), map.remove(&number));
                        held.remove(which);
                    }
                    _ => {
                        // A number that nobody holds: nothing is found, nothing ends.
                        if !held.iter().any(|(number, _)| number & 0x3ff == random & 0x3ff) {
                            prop_assert_eq!(slots.release(random), None);
                        }
                    }
                }
                prop_assert_eq!(slots.used(), held.len());
                prop_assert_eq!(count(&slots), held.len());
                for (number, _) in &held {
                    prop_assert_eq!(slots.find(*number), map.get(number));
                }
                let (mut at, mut walked) = (0, 0);
                while let Some((next, object)) = slots.walk(at) {
                    prop_assert!(next > at && next <= slots.len());
                    walked += usize::from(object.is_some());
                    at = next;
                }
                prop_assert_eq!(walked, map.len());
            }
        }
    }
}
