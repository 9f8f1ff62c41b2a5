// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Descriptor rings and their 16-byte descriptors.
//!
//! Descriptor: 64-bit buffer address; a word of length (11:0, 0 is 4096), end and start markers (15:12, 19:16) and
//! flags (31:20); a word of time, unused. `hw` is the next descriptor the device will complete, `sw` the first the
//! driver has not posted: the device owns `[hw, sw)`.

use std::collections::VecDeque;

use crate::memory::{BadAddress, Memory};
use crate::pace::Pace;
use crate::regs::{RingField, RING_E2E, RING_ENABLE, RING_RAW};
use crate::time::Instant;

/// Descriptor flag: damaged frame (Rx completion).
pub const CRC_ERROR: u32 = 1;
/// Descriptor flag: done.
pub const COMPLETED: u32 = 2;
/// Descriptor flag of an Rx completion: the frame was longer than the buffer.
pub const OVERRUN: u32 = 4;
/// Descriptor flag: interrupt on completion.
pub const INTERRUPT: u32 = 8;

const DESCRIPTOR_LEN: u64 = 16;
/// Longest frame.
pub const FRAME_LEN: usize = 4096;

/// What both directions of ring have in common.
#[derive(Clone, Debug, Default)]
pub struct Ring {
    /// The register block as the driver wrote it. Taken over when the ring is enabled.
    base: u64,
    size_word: u32,
    options: u32,
    /// Latched on enable.
    descriptors: u64,
    size: u16,
    pub hw: u16,
    pub sw: u16,
    /// Counts enables: work begun under an older one is void.
    pub generation: u32,
    pub counters: Counters,
}

/// What a ring did since the guest came.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    pub frames: u64,
    pub bytes: u64,
    pub doorbells: u64,
    pub interrupts: u64,
    /// Tx: frames with nowhere to go. Rx: frames refused for their markers, or for want of a descriptor when that is a
    /// drop.
    pub drops: u64,
    /// Times the ring had to wait for the receiver.
    pub stalls: u64,
}

/// A posted descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Descriptor {
    pub address: u64,
    pub word: u32,
}

impl Descriptor {
    /// Length of a Tx frame, 1 to 4096.
    pub fn length(self) -> usize {
        match (self.word & 0xfff) as usize {
            0 => FRAME_LEN,
            length => length,
        }
    }

    pub fn end_marker(self) -> u8 {
        (self.word >> 12 & 0xf) as u8
    }

    pub fn start_marker(self) -> u8 {
        (self.word >> 16 & 0xf) as u8
    }

    pub fn wants_interrupt(self) -> bool {
        self.word >> 20 & INTERRUPT != 0
    }
}

/// The completed third word of an Rx descriptor.
pub fn completed_rx(length: usize, start: u8, end: u8, flags: u32) -> u32 {
    length as u32 & 0xfff | u32::from(end) << 12 | u32::from(start) << 16 | (flags | COMPLETED) << 20
}

impl Ring {
    pub fn is_enabled(&self) -> bool {
        self.options & RING_ENABLE != 0 && self.size > 0
    }

    pub fn is_raw(&self) -> bool {
        self.options & RING_RAW != 0
    }

    pub fn is_e2e(&self) -> bool {
        self.options & RING_E2E != 0
    }

    pub fn options(&self) -> u32 {
        self.options
    }

    pub fn size(&self) -> u16 {
        self.size
    }

    /// Largest frame that fits a buffer of this Rx ring.
    pub fn buffer_len(&self) -> usize {
        match (self.size_word >> 16) as usize {
            0 => FRAME_LEN,
            length => length.min(FRAME_LEN),
        }
    }

    pub fn read(&self, field: RingField, transmit: bool) -> u32 {
        match field {
            RingField::BaseLow => self.base as u32,
            RingField::BaseHigh => (self.base >> 32) as u32,
            RingField::Doorbell if transmit => u32::from(self.sw) << 16 | u32::from(self.hw),
            RingField::Doorbell => u32::from(self.hw) << 16 | u32::from(self.sw),
            RingField::Size => self.size_word,
        }
    }

    pub fn write(&mut self, field: RingField, transmit: bool, value: u32) {
        match field {
            RingField::BaseLow => self.base = self.base & !0xffff_ffff | u64::from(value),
            RingField::BaseHigh => self.base = self.base & 0xffff_ffff | u64::from(value) << 32,
            RingField::Doorbell => {
                self.counters.doorbells += 1;
                self.sw = if transmit { (value >> 16) as u16 } else { value as u16 };
            }
            RingField::Size => self.size_word = value,
        }
    }

    /// Writes the options. True if that started the ring.
    pub fn set_options(&mut self, options: u32) -> bool {
        let was = self.options & RING_ENABLE != 0;
        self.options = options;
        let starts = options & RING_ENABLE != 0 && !was;
        if starts {
            self.descriptors = self.base;
            self.size = self.size_word as u16;
            (self.hw, self.sw) = (0, 0);
            self.generation = self.generation.wrapping_add(1);
        }
        starts
    }

    /// Descriptors from `from` to the last posted one. 0 if the driver's index makes no sense.
    pub fn posted_from(&self, from: u16) -> u16 {
        if !self.is_enabled() || self.sw >= self.size || from >= self.size {
            return 0;
        }
        if self.sw >= from {
            self.sw - from
        } else {
            self.size - from + self.sw
        }
    }

    /// Descriptors the device owns.
    pub fn posted(&self) -> u16 {
        self.posted_from(self.hw)
    }

    /// The index after `index`.
    pub fn next(&self, index: u16) -> u16 {
        if index.saturating_add(1) >= self.size {
            0
        } else {
            index + 1
        }
    }

    fn address(&self, index: u16) -> u64 {
        self.descriptors.wrapping_add(DESCRIPTOR_LEN * u64::from(index))
    }

    /// Fetches descriptor `index`.
    ///
    /// # Errors
    /// [`BadAddress`] if the ring is not in guest memory.
    pub fn fetch<M: Memory>(&self, memory: &M, index: u16) -> Result<Descriptor, BadAddress> {
        let at = self.address(index);
        let low = memory.load_u32(at)?;
        let high = memory.load_u32(at.wrapping_add(4))?;
        let word = memory.load_u32(at.wrapping_add(8))?;
        Ok(Descriptor {
            address: u64::from(high) << 32 | u64::from(low),
            word,
        })
    }

    /// Writes the completion of descriptor `index`, the whole word at once and last.
    ///
    /// # Errors
    /// [`BadAddress`] if the ring is not in guest memory.
    pub fn complete<M: Memory>(&self, memory: &M, index: u16, word: u32) -> Result<(), BadAddress> {
        memory.store_u32(self.address(index).wrapping_add(8), word)
    }
}

/// A transmit ring.
#[derive(Clone, Debug, Default)]
pub struct TxRing {
    pub ring: Ring,
    /// Next descriptor to put on the wire; `[hw, fetch)` are on it. Equal to `hw` on a cable without a rate.
    pub fetch: u16,
    /// Frames on the wire, oldest first, with the time each arrives.
    pub wire: VecDeque<OnWire>,
    /// Waits for the receiver: for descriptors or end-to-end credits.
    pub stalled: bool,
    /// Where the frames go, as found at a route epoch.
    pub route: Option<(u64, Option<Route>)>,
    /// When the ring's DMA is busy, in a fabric whose rings have a rate.
    pub pace: Pace,
}

/// A frame under way. Its bytes stay in the sender's memory until it arrives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OnWire {
    pub arrives: Instant,
    pub fate: crate::fault::Fate,
    /// NHI and Rx ring whose descriptor is promised to it (end-to-end flow control).
    pub promised: Option<(usize, usize)>,
}

/// Where a Tx ring's frames end, and the first cable they cross.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    pub nhi: usize,
    pub ring: usize,
    pub cable: usize,
    /// End of the cable that the frames enter: 0 or 1.
    pub end: usize,
}

impl TxRing {
    /// Word of a completed Tx descriptor: as it was, posted bit away, completed bit set.
    pub fn completed(word: u32) -> u32 {
        (word | COMPLETED << 20) & !(OVERRUN << 20)
    }

    /// Descriptors not yet on the wire.
    pub fn waiting(&self) -> u16 {
        self.ring.posted_from(self.fetch)
    }
}

/// A receive ring.
#[derive(Clone, Debug, Default)]
pub struct RxRing {
    pub ring: Ring,
    /// Accepted start markers 31:16 and end markers 15:0.
    pub markers: u32,
    /// Descriptors promised to frames on the wire (end-to-end flow control).
    pub promised: u16,
}

impl RxRing {
    /// Is a frame with these markers for this ring?
    pub fn accepts(&self, start: u8, end: u8) -> bool {
        self.ring.is_raw() || (self.markers >> 16 >> start & 1 != 0 && self.markers >> end & 1 != 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn enabled(size: u32) -> Ring {
        let mut ring = Ring::default();
        ring.write(RingField::Size, true, size);
        assert!(ring.set_options(RING_ENABLE));
        ring
    }

    #[test]
    fn ring_arithmetic_wraps() {
        let mut ring = enabled(4);
        ring.hw = 3;
        ring.write(RingField::Doorbell, true, 2 << 16);
        assert_eq!(ring.posted(), 3);
        assert_eq!(ring.next(3), 0);
    }

    #[test]
    fn a_senseless_index_posts_nothing() {
        let mut ring = enabled(4);
        ring.write(RingField::Doorbell, false, 4);
        assert_eq!(ring.posted(), 0);
        ring.write(RingField::Doorbell, false, 0xffff);
        assert_eq!(ring.posted(), 0);
    }

    #[test]
    fn registers_take_effect_on_enable_only() {
        let mut ring = enabled(4);
        ring.write(RingField::Size, true, 100);
        assert_eq!(ring.size(), 4);
        assert!(!ring.set_options(RING_ENABLE | RING_E2E));
        assert_eq!(ring.size(), 4);
        ring.set_options(0);
        assert!(ring.set_options(RING_ENABLE));
        assert_eq!(ring.size(), 100);
    }

    #[test]
    fn completion_words_carry_what_the_driver_reads() {
        assert_eq!(completed_rx(4096, 1, 3, 0), 0x0021_3000);
        assert_eq!(TxRing::completed(0x00c1_3010), 0x00a1_3010);
    }

    #[test]
    fn frames_are_taken_by_both_markers() {
        let ring = RxRing {
            markers: 0x0002_0004,
            ..RxRing::default()
        };
        assert!(ring.accepts(1, 2));
        assert!(!ring.accepts(1, 1));
        assert!(!ring.accepts(2, 2));
    }
}
