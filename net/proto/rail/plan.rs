// SPDX-License-Identifier: GPL-2.0 OR MIT
//! What two sides of a rail have agreed.

use crate::limits::{MAX_LANES, MIN_DEPTH, MIN_HOP};
use crate::native::Features;
use crate::wire::{HopId, Mac, Route, Uuid};

/// What both ends call this cable: its two ends, the lower first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RailId {
    /// Domain of the lower end, and the route on which it sees the other.
    pub low: (Uuid, Route),
    /// Domain of the upper end, and the route on which it sees the other.
    pub high: (Uuid, Route),
}

/// What has been agreed with one pair of epochs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The cable's name on both ends.
    pub rail: RailId,
    /// Our epoch.
    pub local_epoch: u64,
    /// The peer's epoch.
    pub remote_epoch: u64,
    /// Version of the wire.
    pub version: u8,
    /// Features that both have.
    pub features: Features,
    /// Lanes, at least 1. Lane `i` is one transmit and one receive ring.
    pub lanes: u8,
    /// HopIDs that we transmit on.
    pub transmit: [HopId; MAX_LANES],
    /// HopIDs that the peer transmits on, which is where we receive.
    pub receive: [HopId; MAX_LANES],
    /// Receive descriptors that we promise.
    pub local_depth: [u16; MAX_LANES],
    /// Receive descriptors that the peer promises.
    pub remote_depth: [u16; MAX_LANES],
    /// Most page frames of a train, either way.
    pub max_pages: u8,
    /// The peer's Ethernet address.
    pub mac: Mac,
    /// The peer's largest MTU.
    pub mtu: u16,
}

impl Plan {
    /// Whether the peer's HopIDs and depths can be worked with.
    pub(super) fn valid(&self) -> bool {
        let lanes = usize::from(self.lanes);
        let used = self.receive.get(..lanes).unwrap_or(&[]);
        used.iter().enumerate().all(|(i, hop)| {
            let before = used.get(..i).unwrap_or(&[]);
            hop.0 >= MIN_HOP && !before.contains(hop)
        }) && self.remote_depth.iter().take(lanes).all(|depth| *depth >= MIN_DEPTH)
    }
}
