// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Numbered objects: QPs by QPN, regions by key.
//!
//! A number is a slot in its low bits and random bits above. The slot is random too, so a number says nothing about
//! the others, and one just given back does not return soon: a late packet for a dead QP finds nobody.

use crate::kapi::sync::{new_bh_lock, BhLock};
use kernel::{prelude::*, sync::Arc};

/// Slots to begin with; doubled when three quarters are in use.
const FIRST_SLOTS: usize = 64;

enum Slot<T> {
    Free,
    Reserved,
    Used { number: u32, object: Arc<T> },
}

struct Slots<T> {
    slots: KVVec<Slot<T>>,
    used: usize,
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

    pub(crate) fn new() -> impl PinInit<Self> {
        pin_init!(Self {
            inner <- new_bh_lock!(Slots { slots: KVVec::new(), used: 0 }, c"usb4_table"),
        })
    }

    /// Takes a free slot. `random` supplies the choice; the result belongs to the caller until [`Self::fill`] or
    /// [`Self::release`]. Sleeps.
    pub(crate) fn reserve(&self, random: u32) -> Result<u32> {
        loop {
            let wanted = {
                let mut guard = self.inner.lock();
                let table = &mut *guard;
                if table.used >= Self::CAPACITY {
                    return Err(ENOMEM);
                }
                let len = table.slots.len();
                if table.used < len / 4 * 3 {
                    let start = random as usize % len;
                    let free = (0..len)
                        .map(|step| (start + step) % len)
                        .find(|at| matches!(table.slots.get(*at), Some(Slot::Free)));
                    if let Some(at) = free {
                        if let Some(slot) = table.slots.get_mut(at) {
                            *slot = Slot::Reserved;
                        }
                        table.used += 1;
                        return Ok(u32::try_from(at)?);
                    }
                }
                (len * 2).max(FIRST_SLOTS)
            };
            self.grow(wanted)?;
        }
    }

    fn grow(&self, wanted: usize) -> Result {
        let mut slots = KVVec::with_capacity(wanted, GFP_KERNEL)?;
        let mut table = self.inner.lock();
        if table.slots.len() < wanted {
            for slot in table.slots.drain_all() {
                let _ = slots.push_within_capacity(slot);
            }
            while slots.len() < wanted && slots.push_within_capacity(Slot::Free).is_ok() {}
            core::mem::swap(&mut table.slots, &mut slots);
        }
        drop(table);
        // The old, empty vector goes here, without the lock.
        drop(slots);
        Ok(())
    }

    /// The number of a slot, with `random` above it.
    pub(crate) fn number(slot: u32, random: u32) -> u32 {
        (random & !Self::SLOT_MASK) | (slot & Self::SLOT_MASK)
    }

    /// Makes an object findable under `number`, whose slot was reserved.
    pub(crate) fn fill(&self, number: u32, object: Arc<T>) {
        let mut table = self.inner.lock();
        if let Some(slot) = table.slots.get_mut((number & Self::SLOT_MASK) as usize) {
            *slot = Slot::Used { number, object };
        }
    }

    /// Gives a slot back, and with it the table's share in its object.
    pub(crate) fn release(&self, number: u32) -> Option<Arc<T>> {
        let mut table = self.inner.lock();
        let slot = table.slots.get_mut((number & Self::SLOT_MASK) as usize)?;
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
        let slot = table.slots.get_mut((number & Self::SLOT_MASK) as usize)?;
        match core::mem::replace(slot, Slot::Reserved) {
            Slot::Used { object, .. } => Some(object),
            Slot::Free | Slot::Reserved => None,
        }
    }

    /// A share in the object with this number.
    pub(crate) fn find(&self, wanted: u32) -> Option<Arc<T>> {
        let table = self.inner.lock();
        match table.slots.get((wanted & Self::SLOT_MASK) as usize)? {
            Slot::Used { number, object } if *number == wanted => Some(object.clone()),
            _ => None,
        }
    }

    /// The object at or after a slot, with the slot to go on from.
    pub(crate) fn next_from(&self, slot: usize) -> Option<(usize, Arc<T>)> {
        let table = self.inner.lock();
        (slot..table.slots.len()).find_map(|at| match table.slots.get(at)? {
            Slot::Used { object, .. } => Some((at + 1, object.clone())),
            _ => None,
        })
    }
}
