// SPDX-License-Identifier: GPL-2.0 OR MIT
//! An NHI's interrupts: status, enable, vector allocation and throttling.
//!
//! Bits: `[0, H)` Tx rings, `[H, 2H)` Rx rings, `[2H, 3H)` Rx overflow; the first 2H can be enabled.
//!
//! ```text
//!            event                      vector free
//!   idle ------------> status set ------------------> signalled
//!    ^                   |    \ vector throttled        |
//!    |  write-1-to-clear |     `----> pending ----------'  at the end of the interval
//!    `-------------------+  (again? -> status set)
//! ```
//!
//! A driver's clear is a posted write and reaches the device late. An event that completes in between finds its status
//! bit set, and the clear would then erase it for good. So such an event is remembered (`again`) and raised anew after
//! the clear.

use crate::regs::VECTORS;
use crate::time::Instant;

/// Unit of the throttling registers.
const THROTTLE_UNIT_NS: u64 = 256;

/// Interrupt state of one NHI.
#[derive(Clone, Debug)]
pub struct Interrupts {
    hops: usize,
    status: u64,
    again: u64,
    enable: u64,
    /// Vector of each Tx and Rx bit.
    vector_of: [u8; 64],
    vectors: [Vector; VECTORS],
    /// Events that found their bit still set and were raised after the clear.
    pub raised_again: u64,
    /// Interrupts lost on purpose.
    pub lost: u64,
}

#[derive(Clone, Copy, Debug, Default)]
struct Vector {
    /// Throttling interval as the driver wrote it.
    interval: u16,
    /// No signal before this.
    quiet_until: Instant,
    /// A signal waits for `quiet_until`.
    pending: bool,
    signals: u64,
}

/// What an event or register write asks of the caller, per vector: bit v for vector v.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[must_use]
pub struct Signals {
    /// Send these now.
    pub now: u16,
    /// Call [`Interrupts::on_interval_end`] for these at [`Interrupts::quiet_until`].
    pub later: u16,
}

impl Signals {
    pub fn merge(&mut self, other: Signals) {
        self.now |= other.now;
        self.later |= other.later;
    }

    pub fn is_empty(self) -> bool {
        self == Signals::default()
    }
}

impl Interrupts {
    pub fn new(hops: usize) -> Self {
        Interrupts {
            hops,
            status: 0,
            again: 0,
            enable: 0,
            vector_of: [0; 64],
            vectors: [Vector::default(); VECTORS],
            raised_again: 0,
            lost: 0,
        }
    }

    /// Status bit of a ring.
    pub fn ring_bit(&self, transmit: bool, ring: usize) -> usize {
        if transmit {
            ring
        } else {
            self.hops + ring
        }
    }

    /// Status bit of an Rx ring's overflow.
    pub fn overflow_bit(&self, ring: usize) -> usize {
        2 * self.hops + ring
    }

    /// An event: sets the bit and signals its vector if the bit is enabled and was clear.
    pub fn raise(&mut self, now: Instant, bit: usize) -> Signals {
        let mask = 1 << bit;
        if self.status & mask != 0 {
            self.again |= mask;
            return Signals::default();
        }
        self.status |= mask;
        if self.enable & mask != 0 {
            self.signal(now, bit)
        } else {
            Signals::default()
        }
    }

    /// An event whose interrupt is lost on the way (a fault): the bit is set and nobody is told.
    pub fn raise_lost(&mut self, bit: usize) {
        if self.status >> bit & 1 != 0 {
            self.again |= 1 << bit;
        } else {
            self.status |= 1 << bit;
            self.lost += 1;
        }
    }

    fn signal(&mut self, now: Instant, bit: usize) -> Signals {
        let index = usize::from(self.vector_of[bit]);
        let vector = &mut self.vectors[index];
        if vector.pending {
            return Signals::default();
        }
        if now < vector.quiet_until {
            vector.pending = true;
            return Signals {
                now: 0,
                later: 1 << index,
            };
        }
        self.send(now, index)
    }

    /// Sends a vector's signal and starts its quiet interval.
    fn send(&mut self, now: Instant, index: usize) -> Signals {
        for bit in 0..2 * self.hops {
            if usize::from(self.vector_of[bit]) == index {
                self.again &= !(1 << bit);
            }
        }
        let vector = &mut self.vectors[index];
        vector.pending = false;
        vector.signals += 1;
        vector.quiet_until = now.after_ns(u64::from(vector.interval) * THROTTLE_UNIT_NS);
        Signals {
            now: 1 << index,
            later: 0,
        }
    }

    /// When a throttled vector may signal.
    pub fn quiet_until(&self, vector: usize) -> Instant {
        self.vectors[vector].quiet_until
    }

    /// The quiet interval of a vector is over: sends what waited, if its cause is still there.
    pub fn on_interval_end(&mut self, now: Instant, vector: usize) -> Signals {
        let state = &mut self.vectors[vector];
        if !state.pending || now < state.quiet_until {
            return Signals::default();
        }
        state.pending = false;
        let active = self.status & self.enable;
        let mine = |&bit: &usize| active >> bit & 1 != 0 && usize::from(self.vector_of[bit]) == vector;
        if (0..2 * self.hops).any(|bit| mine(&bit)) {
            self.send(now, vector)
        } else {
            Signals::default()
        }
    }

    /// Reads a status word; clears it if the driver left auto-clear on.
    pub fn read_status(&mut self, word: usize, auto_clear: bool) -> u32 {
        let value = (self.status >> (32 * word)) as u32;
        if auto_clear {
            self.status &= !(0xffff_ffff << (32 * word));
            self.again &= self.status;
        }
        value
    }

    /// Write-1-to-clear of a status word.
    pub fn clear_status(&mut self, now: Instant, word: usize, value: u32) -> Signals {
        let mask = u64::from(value) << (32 * word);
        let redo = self.again & self.status & mask;
        self.status &= !mask;
        self.again &= !mask;
        let mut signals = Signals::default();
        for bit in bits(redo) {
            self.raised_again += 1;
            signals.merge(self.raise(now, bit));
        }
        signals
    }

    pub fn read_enable(&self, word: usize) -> u32 {
        (self.enable >> (32 * word)) as u32
    }

    /// Sets an enable word; a bit newly enabled whose status is set signals.
    pub fn write_enable(&mut self, now: Instant, word: usize, value: u32) -> Signals {
        let usable = (1 << (2 * self.hops)) - 1;
        let mask = 0xffff_ffff << (32 * word);
        let new = (self.enable & !mask | u64::from(value) << (32 * word)) & usable;
        let woken = new & !self.enable & self.status;
        self.enable = new;
        let mut signals = Signals::default();
        for bit in bits(woken) {
            signals.merge(self.signal(now, bit));
        }
        signals
    }

    pub fn clear_enable(&mut self, word: usize, value: u32) {
        self.enable &= !(u64::from(value) << (32 * word));
    }

    pub fn throttle(&self, vector: usize) -> u32 {
        u32::from(self.vectors[vector].interval)
    }

    /// Sets a vector's interval; it holds from the next signal on, and a shorter one at once.
    pub fn set_throttle(&mut self, now: Instant, vector: usize, value: u32) {
        let state = &mut self.vectors[vector];
        state.interval = value as u16;
        if !state.pending {
            let end = now.after_ns(u64::from(state.interval) * THROTTLE_UNIT_NS);
            state.quiet_until = state.quiet_until.min(end);
        }
    }

    /// Vector numbers of interrupts `8 * word ..`, four bits each.
    pub fn read_vectors(&self, word: usize) -> u32 {
        (0..8).fold(0, |value, index| {
            value | u32::from(self.vector_of[8 * word + index]) << (4 * index)
        })
    }

    pub fn write_vectors(&mut self, word: usize, value: u32) {
        for index in 0..8 {
            self.vector_of[8 * word + index] = (value >> (4 * index) & 0xf) as u8;
        }
    }

    /// Signals sent on each vector.
    pub fn signals(&self) -> [u64; VECTORS] {
        core::array::from_fn(|index| self.vectors[index].signals)
    }
}

fn bits(mask: u64) -> impl Iterator<Item = usize> {
    (0..64).filter(move |bit| mask >> bit & 1 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const RX1: usize = 4;

    fn ready(interval: u32) -> Interrupts {
        let mut irq = Interrupts::new(3);
        irq.write_vectors(0, 5 << (4 * RX1));
        irq.set_throttle(Instant(0), 5, interval);
        assert!(irq.write_enable(Instant(0), 0, 1 << RX1).is_empty());
        irq
    }

    #[test]
    fn an_event_signals_its_vector_once_until_cleared() {
        let mut irq = ready(0);
        assert_eq!(irq.raise(Instant(1), RX1).now, 1 << 5);
        assert!(irq.raise(Instant(2), RX1).is_empty());
    }

    #[test]
    fn an_event_before_a_late_clear_is_raised_again() {
        let mut irq = ready(0);
        assert_eq!(irq.raise(Instant(1), RX1).now, 1 << 5);
        assert!(irq.raise(Instant(2), RX1).is_empty());
        assert_eq!(irq.clear_status(Instant(3), 0, 1 << RX1).now, 1 << 5);
        assert!(irq.clear_status(Instant(4), 0, 1 << RX1).is_empty());
    }

    #[test]
    fn enabling_with_status_set_signals() {
        let mut irq = ready(0);
        irq.clear_enable(0, 1 << RX1);
        assert!(irq.raise(Instant(1), RX1).is_empty());
        assert_eq!(irq.write_enable(Instant(2), 0, 1 << RX1).now, 1 << 5);
    }

    #[test]
    fn throttling_spaces_signals_and_loses_none() {
        let mut irq = ready(500); // 128 us
        assert_eq!(irq.raise(Instant(1_000), RX1).now, 1 << 5);
        assert!(irq.clear_status(Instant(2_000), 0, !0).is_empty());
        assert_eq!(irq.raise(Instant(3_000), RX1), Signals { now: 0, later: 1 << 5 });
        assert_eq!(irq.quiet_until(5), Instant(129_000));
        assert!(irq.on_interval_end(Instant(128_999), 5).is_empty());
        assert_eq!(irq.on_interval_end(Instant(129_000), 5).now, 1 << 5);
        assert!(irq.on_interval_end(Instant(300_000), 5).is_empty());
    }

    #[test]
    fn a_throttled_signal_whose_cause_was_cleared_is_not_sent() {
        let mut irq = ready(500);
        assert_eq!(irq.raise(Instant(0), RX1).now, 1 << 5);
        assert!(irq.clear_status(Instant(1), 0, !0).is_empty());
        assert_eq!(irq.raise(Instant(2), RX1).later, 1 << 5);
        assert!(irq.clear_status(Instant(3), 0, !0).is_empty());
        assert!(irq.on_interval_end(Instant(128_000), 5).is_empty());
    }

    #[test]
    fn bits_beyond_32_have_their_own_words() {
        let mut irq = Interrupts::new(21);
        let bit = irq.ring_bit(false, 20);
        irq.write_vectors(bit / 8, 7 << (4 * (bit % 8)));
        assert!(irq.write_enable(Instant(0), 1, 1 << (bit - 32)).is_empty());
        assert_eq!(irq.raise(Instant(0), bit).now, 1 << 7);
        assert_eq!(irq.read_status(1, false), 1 << (bit - 32));
        assert!(irq.raise(Instant(0), irq.overflow_bit(20)).is_empty());
    }
}
