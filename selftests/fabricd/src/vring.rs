// SPDX-License-Identifier: GPL-2.0 OR MIT
//! The device side of a virtio split ring in guest memory (virtio 1.2, section 2.7), without indirect descriptors.
//!
//! Everything in the ring is the guest's to write, so indices are bounded and chains end after as many descriptors as
//! the queue has.

use std::sync::atomic::{fence, Ordering};

use usb4_model::Memory;

use crate::mapping::GuestMemory;

const NEXT: u16 = 1;
const DEVICE_WRITES: u16 = 2;
/// Flag of the used ring: do not notify the device. Of the available ring: do not interrupt the driver.
const QUIET: u16 = 1;

/// Addresses of a queue's parts, and its length.
#[derive(Clone, Copy, Debug, Default)]
pub struct Layout {
    pub descriptors: u64,
    pub available: u64,
    pub used: u64,
    pub length: u16,
    pub base: u16,
}

/// A queue.
#[derive(Debug)]
pub struct Vring {
    memory: GuestMemory,
    layout: Layout,
    taken: u16,
    given: u16,
}

/// A buffer of a chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Buffer {
    pub address: u64,
    pub length: u32,
    /// For the device to write.
    pub writable: bool,
}

/// The buffers of a chain, in order.
pub struct Chain<'a> {
    ring: &'a Vring,
    index: Option<u16>,
    left: u16,
}

impl Vring {
    /// A queue in guest memory. `None` if it is not there or its length is not a power of two.
    pub fn new(memory: GuestMemory, layout: Layout) -> Option<Self> {
        if !layout.length.is_power_of_two() {
            return None;
        }
        let ring = Vring {
            memory,
            layout,
            taken: layout.base,
            given: layout.base,
        };
        let length = u64::from(layout.length);
        ring.memory
            .load_u32(layout.descriptors.checked_add(16 * length - 4)?)
            .ok()?;
        ring.memory
            .atomic_u16(layout.available.checked_add(4 + 2 * length - 2)?)?;
        ring.memory
            .load_u32(layout.used.checked_add(4 + 8 * length - 4)?)
            .ok()?;
        Some(ring)
    }

    fn load_u16(&self, address: u64, order: Ordering) -> u16 {
        self.memory.atomic_u16(address).map_or(0, |word| word.load(order))
    }

    /// The driver has made a chain available that was not taken yet.
    pub fn has_work(&self) -> bool {
        self.load_u16(self.layout.available + 2, Ordering::Acquire) != self.taken
    }

    /// Takes the next chain: its head.
    pub fn take(&mut self) -> Option<u16> {
        if !self.has_work() {
            return None;
        }
        let slot = u64::from(self.taken % self.layout.length);
        let head = self.load_u16(self.layout.available + 4 + 2 * slot, Ordering::Relaxed);
        self.taken = self.taken.wrapping_add(1);
        Some(head)
    }

    /// The buffers of a chain.
    pub fn chain(&self, head: u16) -> Chain<'_> {
        Chain {
            ring: self,
            index: Some(head),
            left: self.layout.length,
        }
    }

    /// Gives a chain back with `written` bytes in it.
    pub fn give(&mut self, head: u16, written: u32) {
        let slot = self.layout.used + 4 + 8 * u64::from(self.given % self.layout.length);
        // The ring was in memory when it was set up, and memory only goes away with the queue.
        let _ = self.memory.store_u32(slot, u32::from(head));
        let _ = self.memory.store_u32(slot + 4, written);
        self.given = self.given.wrapping_add(1);
        if let Some(index) = self.memory.atomic_u16(self.layout.used + 2) {
            index.store(self.given, Ordering::Release);
        }
    }

    /// Asks the driver to notify, or not to. After asking, [`Vring::has_work`] must be looked at once more.
    pub fn ask_notify(&self, wanted: bool) {
        if let Some(flags) = self.memory.atomic_u16(self.layout.used) {
            flags.store(if wanted { 0 } else { QUIET }, Ordering::Relaxed);
        }
        if wanted {
            fence(Ordering::SeqCst);
        }
    }

    /// The driver wants to be interrupted for used buffers.
    pub fn wants_interrupt(&self) -> bool {
        fence(Ordering::SeqCst);
        self.load_u16(self.layout.available, Ordering::Relaxed) & QUIET == 0
    }

    pub fn memory(&self) -> &GuestMemory {
        &self.memory
    }
}

impl Iterator for Chain<'_> {
    type Item = Buffer;

    fn next(&mut self) -> Option<Buffer> {
        let index = self
            .index
            .take()
            .filter(|&index| index < self.ring.layout.length && self.left > 0)?;
        self.left -= 1;
        let at = self.ring.layout.descriptors + 16 * u64::from(index);
        let word = |offset: u64| self.ring.memory.load_u32(at + offset).ok();
        let address = u64::from(word(0)?) | u64::from(word(4)?) << 32;
        let (length, last) = (word(8)?, word(12)?);
        let (flags, next) = (last as u16, (last >> 16) as u16);
        self.index = (flags & NEXT != 0).then_some(next);
        Some(Buffer {
            address,
            length,
            writable: flags & DEVICE_WRITES != 0,
        })
    }
}
