// SPDX-License-Identifier: GPL-2.0 OR MIT
//! One direction of a cable: a rate, a latency, and seeded faults.

use crate::rng::Rng;

/// Fault rates and timing of a link.
#[derive(Clone, Copy, Debug, Default)]
pub struct LinkSpec {
    /// Nanoseconds per 1000 bytes.
    pub ns_per_kb: u64,
    /// Propagation delay in nanoseconds.
    pub latency: u64,
    /// Probability of losing a packet.
    pub loss: f64,
    /// Probability of flipping a bit in it.
    pub corrupt: f64,
    /// Probability of delivering it twice.
    pub duplicate: f64,
    /// Probability of delaying it past its successors.
    pub reorder: f64,
    /// Longest such delay in nanoseconds.
    pub delay: u64,
    /// Two lanes take packets in turn, each in order, and each delivers what has come every so many nanoseconds: a bond
    /// in balance-rr, or queue pairs' trains, whose cables are polled. 0: one lane.
    pub stripe: u64,
    /// The sender is told what was lost or spoiled ([`roce::lost`]): lanes of cables, on which nothing overtakes.
    pub told: bool,
}

/// A link at work.
#[derive(Clone, Debug)]
pub struct Link {
    /// Its nature.
    pub spec: LinkSpec,
    /// When the transmitter is free again.
    pub busy_until: u64,
    /// A transmit event is already scheduled.
    pub scheduled: bool,
    /// Whose turn it is among the endpoints that share the link.
    pub turn: usize,
    /// Packets lost or spoiled.
    pub lost: u64,
    /// Packets delayed or doubled.
    pub disturbed: u64,
    /// The lane of the next packet.
    lane: u64,
    rng: Rng,
}

impl Link {
    /// An idle link.
    pub fn new(spec: LinkSpec, rng: Rng) -> Self {
        Self {
            spec,
            busy_until: 0,
            scheduled: false,
            turn: 0,
            lost: 0,
            disturbed: 0,
            lane: 0,
            rng,
        }
    }

    /// Put `bytes` on the wire at `now`; what arrives, and when, goes to `deliver`. Returns when they would have
    /// arrived that are lost or spoiled.
    pub fn send(&mut self, now: u64, mut bytes: Vec<u8>, mut deliver: impl FnMut(u64, Vec<u8>)) -> Option<u64> {
        let start = self.busy_until.max(now);
        self.busy_until = start + 1 + bytes.len() as u64 * self.spec.ns_per_kb / 1000;
        let mut at = self.busy_until + self.spec.latency;
        if let Some(turns) = at.checked_div(self.spec.stripe) {
            self.lane ^= 1;
            self.disturbed += 1;
            let half = self.lane * self.spec.stripe / 2;
            let polled = turns * self.spec.stripe + half;
            at = if polled < at { polled + self.spec.stripe } else { polled };
        }
        if self.rng.chance(self.spec.loss) {
            self.lost += 1;
            return Some(at);
        }
        let spoiled = self.rng.chance(self.spec.corrupt).then_some(at);
        if spoiled.is_some() {
            self.lost += 1;
            let at = self.rng.below(bytes.len() as u64) as usize;
            bytes[at] ^= 1 << self.rng.below(8);
        }
        if self.rng.chance(self.spec.duplicate) {
            self.disturbed += 1;
            let again = at + self.rng.below(self.spec.delay + 1);
            deliver(again, bytes.clone());
        }
        if self.rng.chance(self.spec.reorder) {
            self.disturbed += 1;
            at += self.rng.below(self.spec.delay + 1);
        }
        deliver(at, bytes);
        spoiled
    }
}
