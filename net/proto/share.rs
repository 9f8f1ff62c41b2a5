// SPDX-License-Identifier: GPL-2.0 OR MIT
//! How queue pairs' trains and the stack's packets share a transmit ring.
//!
//! ```text
//!   frames of trains in flight   at most half of the ring, and what one train more has; FEW in place of half where the
//!                                stack has a large packet on its way, or the client has other cables; none more where
//!                                it has one and the cable another ring for trains
//!   left free by a train         a packet of the stack of the largest size, descriptors and credit
//! ```
//!
//! So trains never fill the ring: the stack has room for a packet unless it has filled the rest itself, which its own
//! limit of bytes on their way keeps it from.
//!
//! Half of the ring is more than the stack ever has on its way, and frames go in turn: trains would have most of the
//! line.
//!
//! Who has several cables gives each the next train when one has gone: a slow one has few. Were the ring of a slow one
//! full, all that comes by the others would wait for it. Both rings of a cable move as fast, and may be full: with four
//! trains each, WRITEs of 1 MiB had 0.68 of one ring's rate on guests whose processor is the limit, and 0.9 so.

use crate::limits::MAX_TRAIN;

/// Frames of trains in flight before one more, where there are others that they would hold back. Ours: four trains, 110
/// us at 20 Gb/s, long enough for an interrupt and a doorbell. Measured in virtual time, four cables of 20, 20, 10 and
/// 5 Gb/s: 0.94 of the sum, where half of the ring gives 0.35; four of 20 Gb/s have 0.95 with either. One of 1 Gb/s:
/// TCP beside WRITEs has 11 of 119 MiB/s with half of the ring.
pub const FEW: usize = 4 * MAX_TRAIN;

/// The trains on one ring.
#[derive(Clone, Copy, Debug)]
pub struct Share {
    /// Descriptors.
    size: usize,
    /// Frames of trains that they may have before one more.
    most: usize,
    /// Frames of trains in flight.
    trains: usize,
    /// The cable has another ring, for trains alone.
    yields: bool,
}

impl Share {
    /// No train yet, on a ring of `size` descriptors.
    #[must_use]
    pub const fn new(size: usize) -> Self {
        Self {
            size,
            most: size / 2,
            trains: 0,
            yields: false,
        }
    }

    /// The cable has another ring, for trains alone: rings have the line in turn, so the stack is to have this one.
    pub fn set_yields(&mut self) {
        self.yields = true;
    }

    /// The client has several cables, and its trains go by so many rings of each; or it has this one alone. The rings
    /// of a cable have its line in turn, so together they have as many trains as one would.
    pub fn set_several(&mut self, rings: Option<usize>) {
        let half = self.size / 2;
        self.most = match rings {
            Some(rings) => half.min(FEW.checked_div(rings).unwrap_or(FEW)),
            None => half,
        };
    }

    /// A train of so many frames has been posted.
    pub fn handle_posted(&mut self, frames: usize) {
        self.trains = self.trains.saturating_add(frames);
    }

    /// It has gone.
    pub fn handle_gone(&mut self, frames: usize) {
        self.trains = self.trains.saturating_sub(frames);
    }

    /// Free descriptors, and frames of credit, without which no train is begun.
    pub const NEEDED: usize = 2 * MAX_TRAIN;

    /// Whether any train may be posted, with so many free descriptors and so much credit.
    #[must_use]
    pub const fn admits(&self, free: usize, credit: usize) -> bool {
        let others = self
            .size
            .saturating_sub(free.saturating_add(self.trains).saturating_add(1));
        let beside = others >= MAX_TRAIN;
        if beside && self.yields {
            return false;
        }
        let most = if beside && self.most > FEW { FEW } else { self.most };
        free >= Self::NEEDED && credit >= Self::NEEDED && self.trains <= most
    }

    /// Of which part of a second TCP may have its bytes on their way: so many times is it to be halved. TCP keeps what
    /// a socket sends in 1 ms in the host, at the rate that the socket has had. Behind trains a packet waits for longer
    /// than that on a slow cable (half of a ring of 256 frames is 4 ms at 1 Gb/s, and 8 with another ring beside it),
    /// so a slow socket would stay slow: beside WRITEs one had 2 to 44 of 119 MiB/s, by chance, and has 35 to 48 so
    /// (`trains_share`).
    #[must_use]
    pub const fn pacing(&self) -> u8 {
        match self.trains {
            0 => 10,
            _ => 7,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::VecDeque;

    #[test]
    fn an_empty_ring_of_any_size_takes_a_train() {
        for size in 64..=4096 {
            assert!(Share::new(size).admits(size - 1, Share::NEEDED));
        }
    }

    #[test]
    fn one_lane_of_several_has_four_trains() {
        let mut share = Share::new(512);
        share.set_several(Some(1));
        let mut posted = 0;
        while share.admits(511 - posted, 511) {
            share.handle_posted(MAX_TRAIN);
            posted += MAX_TRAIN;
        }
        assert_eq!(posted, FEW + MAX_TRAIN);
        share.set_several(None);
        assert!(share.admits(511 - posted, 511));
    }

    #[test]
    fn both_rings_of_a_cable_of_several_have_as_many_trains_as_one() {
        let mut share = Share::new(512);
        share.set_several(Some(2));
        let mut posted = 0;
        while share.admits(511 - posted, 511) {
            share.handle_posted(MAX_TRAIN);
            posted += MAX_TRAIN;
        }
        assert_eq!(posted, FEW / 2 + MAX_TRAIN);
    }

    #[test]
    fn beside_a_large_packet_there_are_few_trains() {
        let mut share = Share::new(512);
        share.handle_posted(2 * FEW);
        let free = 511 - 2 * FEW;
        assert!(share.admits(free, 511));
        assert!(share.admits(free - MAX_TRAIN + 1, 511), "small packets are no reason");
        assert!(!share.admits(free - MAX_TRAIN, 511));
        share.handle_gone(FEW);
        assert!(share.admits(free + FEW - MAX_TRAIN, 511));
    }

    #[test]
    fn trains_leave_a_ring_to_the_stack_where_they_have_another() {
        let mut share = Share::new(512);
        share.set_yields();
        assert!(share.admits(511, 511));
        assert!(share.admits(511 - MAX_TRAIN + 1, 511), "small packets are no reason");
        assert!(!share.admits(511 - MAX_TRAIN, 511));
    }

    /// Trains of all sizes as fast as they are admitted, frames that go at random: a packet always has room, and once
    /// everything has gone, so has a train.
    #[test]
    fn trains_leave_room_for_a_packet_whatever_goes_when() {
        for seed in 0..1000u64 {
            let mut random = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
            let mut next = |below: u64| {
                random ^= random << 13;
                random ^= random >> 7;
                random ^= random << 17;
                (random % below) as usize
            };
            let size = 64 + next(1000);
            let mut share = Share::new(size);
            share.set_several((seed % 2 == 1).then_some(1));
            let mut flight = VecDeque::new();
            let free = |flight: &VecDeque<usize>| size - 1 - flight.iter().sum::<usize>();
            for _ in 0..500 {
                while share.admits(free(&flight), free(&flight)) {
                    let frames = 1 + next(MAX_TRAIN as u64);
                    share.handle_posted(frames);
                    flight.push_back(frames);
                    assert!(free(&flight) >= MAX_TRAIN, "seed {seed}: no room for a packet");
                }
                for _ in 0..next(4) {
                    share.handle_gone(flight.pop_front().unwrap_or(0));
                }
            }
            flight.drain(..).for_each(|frames| share.handle_gone(frames));
            assert!(share.admits(size - 1, size - 1), "seed {seed}: nothing is on its way");
        }
    }
}
