// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Numbered objects: QPs by QPN, regions by key. `roce::slots` keeps the books.
//!
//! A number is a slot in its low bits and random bits above. The slot is random too, so a number says nothing about
//! the others, and one just given back does not return soon: a late packet for a dead QP finds nobody. It does return,
//! however: what must not open for whoever has the number next is not decided by the number.

use crate::kapi::sync::{bh_lock, BhLock, LockClass};
use kernel::{prelude::*, sync::Arc};
use roce::slots::{Reserved, Slot, CHUNK};

type Chunk<T> = KVec<Slot<Arc<T>>>;
type Slots<T, const SLOT_BITS: u32> = roce::slots::Slots<KVVec<Chunk<T>>, SLOT_BITS>;

/// A table whose numbers have `SLOT_BITS` bits of slot.
#[pin_data]
pub(crate) struct Table<T: 'static, const SLOT_BITS: u32> {
    #[pin]
    slots: BhLock<Slots<T, SLOT_BITS>>,
}

impl<T: 'static, const SLOT_BITS: u32> Table<T, SLOT_BITS> {
    /// Most objects in a table.
    pub(crate) const CAPACITY: usize = Slots::<T, SLOT_BITS>::CAPACITY;

    /// An empty table; its lock is of `class`.
    pub(crate) fn new(class: &'static LockClass) -> impl PinInit<Self> {
        pin_init!(Self {
            slots <- bh_lock(Slots::new(KVVec::new()), class),
        })
    }

    /// Takes a free slot. `random` supplies the choice; the result belongs to the caller until [`Self::fill`] or
    /// [`Self::release`]. Sleeps.
    pub(crate) fn reserve(&self, random: u32) -> Result<u32> {
        loop {
            let chunks = {
                let mut slots = self.slots.lock();
                match slots.reserve(random) {
                    Reserved::At(slot) => return Ok(slot),
                    Reserved::Full => return Err(ENOMEM),
                    Reserved::Crowded => slots.chunks().len(),
                }
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
            while chunk.len() < CHUNK && chunk.push_within_capacity(Slot::FREE).is_ok() {}
            let _ = fresh.push_within_capacity(chunk);
        }
        let mut slots = self.slots.lock();
        let held = slots.chunks();
        if held.len() == chunks {
            for chunk in Iterator::chain(held.drain_all(), fresh.drain_all()) {
                let _ = list.push_within_capacity(chunk);
            }
            core::mem::swap(held, &mut list);
        }
        drop(slots);
        // What is left over goes here, without the lock.
        drop((list, fresh));
        Ok(())
    }

    /// The number of a slot, with `random` above it.
    pub(crate) fn number(slot: u32, random: u32) -> u32 {
        Slots::<T, SLOT_BITS>::number(slot, random)
    }

    /// Makes an object findable under `number`, whose slot was reserved or has the one that it takes the place of.
    pub(crate) fn fill(&self, number: u32, object: Arc<T>) {
        let old = self.slots.lock().fill(number, object);
        drop(old);
    }

    /// Gives a slot back, and with it the table's share in its object.
    pub(crate) fn release(&self, number: u32) -> Option<Arc<T>> {
        self.slots.lock().release(number)
    }

    /// Takes the object out of the table, but leaves its slot in use until [`Self::release`].
    pub(crate) fn withdraw(&self, number: u32) -> Option<Arc<T>> {
        self.slots.lock().withdraw(number)
    }

    /// A share in the object with this number.
    pub(crate) fn find(&self, wanted: u32) -> Option<Arc<T>> {
        self.slots.lock().find(wanted).cloned()
    }

    /// The object at or after a slot, with the slot to go on from. The lock is held for a chunk at a time.
    pub(crate) fn next_from(&self, mut slot: usize) -> Option<(usize, Arc<T>)> {
        loop {
            let (next, found) = {
                let slots = self.slots.lock();
                let (next, found) = slots.walk(slot)?;
                (next, found.cloned())
            };
            if let Some(object) = found {
                return Some((next, object));
            }
            slot = next;
        }
    }
}
