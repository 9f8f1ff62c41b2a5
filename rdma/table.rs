// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Numbered objects: QPs by QPN, regions by key.
//!
//! A number is a slot in its low bits and random bits above. The slot is random too, so a number says nothing about
//! the others, and one just given back does not return soon: a late packet for a dead QP finds nobody.
//!
//! Slots are kept in chunks of a page, as many as are needed: growing moves no slot, finding one is two steps, and a
//! free one is found by a few throws, as no more than three quarters are in use.

use crate::kapi::sync::{bh_lock, BhLock, LockClass};
use kernel::{prelude::*, sync::Arc};

/// Binary logarithm of the slots of a chunk.
const CHUNK_BITS: u32 = 8;
const CHUNK: usize = 1 << CHUNK_BITS;
/// Throws for a free slot. At three quarters in use, one in 10^8 searches needs more, and then looks at every slot.
const THROWS: u32 = 64;

enum Slot<T> {
    Free,
    Reserved,
    Used { number: u32, object: Arc<T> },
}

type Chunk<T> = KVec<Slot<T>>;

struct Slots<T> {
    /// Each with [`CHUNK`] slots.
    chunks: KVVec<Chunk<T>>,
    used: usize,
}

impl<T> Slots<T> {
    fn len(&self) -> usize {
        self.chunks.len() << CHUNK_BITS
    }

    fn get(&self, at: usize) -> Option<&Slot<T>> {
        self.chunks.get(at >> CHUNK_BITS)?.get(at & (CHUNK - 1))
    }

    fn get_mut(&mut self, at: usize) -> Option<&mut Slot<T>> {
        self.chunks.get_mut(at >> CHUNK_BITS)?.get_mut(at & (CHUNK - 1))
    }

    fn is_free(&self, at: usize) -> bool {
        matches!(self.get(at), Some(Slot::Free))
    }

    /// A free slot, chosen by `random`. There is one.
    fn find_free(&self, random: u32) -> Option<usize> {
        let len = self.len();
        let mut throw = random;
        for _ in 0..THROWS {
            // A full period over all words (Knuth, TAOCP 3.2.1), whose upper bits are the better ones.
            throw = throw.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let at = ((u64::from(throw) * len as u64) >> 32) as usize;
            if self.is_free(at) {
                return Some(at);
            }
        }
        (0..len).find(|at| self.is_free(*at))
    }
}

/// A table whose numbers have `SLOT_BITS` bits of slot.
#[pin_data]
pub(crate) struct Table<T, const SLOT_BITS: u32> {
    #[pin]
    inner: BhLock<Slots<T>>,
}

impl<T, const SLOT_BITS: u32> Table<T, SLOT_BITS> {
    const SLOT_MASK: u32 = (1 << SLOT_BITS) - 1;

    /// Most objects in a table: half of the slots, so that a free one is found soon.
    pub(crate) const CAPACITY: usize = 1 << (SLOT_BITS - 1);

    /// An empty table; its lock is of `class`.
    pub(crate) fn new(class: &'static LockClass) -> impl PinInit<Self> {
        pin_init!(Self {
            inner <- bh_lock(Slots { chunks: KVVec::new(), used: 0 }, class),
        })
    }

    /// Takes a free slot. `random` supplies the choice; the result belongs to the caller until [`Self::fill`] or
    /// [`Self::release`]. Sleeps.
    pub(crate) fn reserve(&self, random: u32) -> Result<u32> {
        loop {
            let chunks = {
                let mut table = self.inner.lock();
                if table.used >= Self::CAPACITY {
                    return Err(ENOMEM);
                }
                if table.used < table.len() / 4 * 3 {
                    let at = table.find_free(random).ok_or(ENOMEM)?;
                    if let Some(slot) = table.get_mut(at) {
                        *slot = Slot::Reserved;
                    }
                    table.used += 1;
                    return Ok(u32::try_from(at)?);
                }
                table.chunks.len()
            };
            self.grow(chunks)?;
        }
    }

    /// Doubles a table of `chunks` chunks, unless somebody else has.
    fn grow(&self, chunks: usize) -> Result {
        let more = chunks.max(1);
        let mut list: KVVec<Chunk<T>> = KVVec::with_capacity(chunks + more, GFP_KERNEL)?;
        let mut fresh: KVVec<Chunk<T>> = KVVec::with_capacity(more, GFP_KERNEL)?;
        for _ in 0..more {
            let mut chunk = KVec::with_capacity(CHUNK, GFP_KERNEL)?;
            while chunk.len() < CHUNK && chunk.push_within_capacity(Slot::Free).is_ok() {}
            let _ = fresh.push_within_capacity(chunk);
        }
        let mut table = self.inner.lock();
        if table.chunks.len() == chunks {
            for chunk in Iterator::chain(table.chunks.drain_all(), fresh.drain_all()) {
                let _ = list.push_within_capacity(chunk);
            }
            core::mem::swap(&mut table.chunks, &mut list);
        }
        drop(table);
        // What is left over goes here, without the lock.
        drop((list, fresh));
        Ok(())
    }

    /// The number of a slot, with `random` above it.
    pub(crate) fn number(slot: u32, random: u32) -> u32 {
        (random & !Self::SLOT_MASK) | (slot & Self::SLOT_MASK)
    }

    /// Makes an object findable under `number`, whose slot was reserved.
    pub(crate) fn fill(&self, number: u32, object: Arc<T>) {
        let mut table = self.inner.lock();
        if let Some(slot) = table.get_mut((number & Self::SLOT_MASK) as usize) {
            *slot = Slot::Used { number, object };
        }
    }

    /// Gives a slot back, and with it the table's share in its object.
    pub(crate) fn release(&self, number: u32) -> Option<Arc<T>> {
        let mut table = self.inner.lock();
        let slot = table.get_mut((number & Self::SLOT_MASK) as usize)?;
        let old = core::mem::replace(slot, Slot::Free);
        table.used -= 1;
        match old {
            Slot::Used { object, .. } => Some(object),
            Slot::Free | Slot::Reserved => None,
        }
    }

    /// Takes the object out of the table, but leaves its slot in use until [`Self::release`].
    pub(crate) fn withdraw(&self, number: u32) -> Option<Arc<T>> {
        let mut table = self.inner.lock();
        let slot = table.get_mut((number & Self::SLOT_MASK) as usize)?;
        match core::mem::replace(slot, Slot::Reserved) {
            Slot::Used { object, .. } => Some(object),
            Slot::Free | Slot::Reserved => None,
        }
    }

    /// A share in the object with this number.
    pub(crate) fn find(&self, wanted: u32) -> Option<Arc<T>> {
        let table = self.inner.lock();
        match table.get((wanted & Self::SLOT_MASK) as usize)? {
            Slot::Used { number, object } if *number == wanted => Some(object.clone()),
            _ => None,
        }
    }

    /// The object at or after a slot, with the slot to go on from.
    pub(crate) fn next_from(&self, slot: usize) -> Option<(usize, Arc<T>)> {
        let table = self.inner.lock();
        (slot..table.len()).find_map(|at| match table.get(at)? {
            Slot::Used { object, .. } => Some((at + 1, object.clone())),
            _ => None,
        })
    }
}
