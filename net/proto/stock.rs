// SPDX-License-Identifier: GPL-2.0 OR MIT
//! ThunderboltIP, the wire of a stock peer, as `thunderbolt_net` speaks it.
//!
//! Source of layouts and behaviour: `drivers/net/thunderbolt/main.c` of Linux 7.3. The service is
//! found by the property directory `network`; [`Settings`] is its `prtcstns` value.

pub mod control;
pub mod frame;
pub mod reassembly;

use crate::wire::Uuid;

/// Key of the property directory, also the service name.
pub const KEY: &str = "network";

/// UUID of the property directory.
pub const DIRECTORY: Uuid = Uuid::from_u128(0xc661_89ca_1cce_4195_bdb8_4959_2e5f_5a4f);

/// UUID of the control protocol.
pub const PROTOCOL: Uuid = Uuid::from_u128(0x798f_589e_3616_8a47_97c6_5664_a920_c8dd);

/// Property `prtcid`.
pub const PROTOCOL_ID: u32 = 1;

/// Property `prtcvers`.
pub const PROTOCOL_VERSION: u32 = 1;

/// Property `prtcrevs`.
pub const PROTOCOL_REVISION: u32 = 1;

/// SOF marker of every frame.
pub const SOF: u8 = 1;

/// EOF marker of every frame.
pub const EOF: u8 = 2;

/// Property `prtcstns`: what one side offers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Settings(pub u32);

impl Settings {
    /// End-to-end flow control of the receive ring.
    pub const E2E: Self = Self(1 << 0);
    /// The frame id is set and counts packets.
    pub const MATCH_FRAGS_ID: Self = Self(1 << 1);
    /// Packets up to 64 KiB.
    pub const FRAMES_64K: Self = Self(1 << 2);

    /// What we offer: all but E2E, and E2E as the user says.
    #[must_use]
    pub const fn ours(e2e: bool) -> Self {
        let base = Self::MATCH_FRAGS_ID.0 | Self::FRAMES_64K.0;
        Self(if e2e { base | Self::E2E.0 } else { base })
    }

    /// Whether `flag` is set.
    #[must_use]
    pub const fn has(self, flag: Self) -> bool {
        self.0 & flag.0 == flag.0
    }

    /// Whether the receive ring is to use E2E: only if both sides offer it.
    #[must_use]
    pub const fn e2e_with(self, remote: Self) -> bool {
        self.has(Self::E2E) && remote.has(Self::E2E)
    }

    /// The id of the packet after the one with id `id`, sent to a peer that offers `self`.
    #[must_use]
    pub const fn next_id(self, id: u16) -> u16 {
        if self.has(Self::MATCH_FRAGS_ID) {
            id.wrapping_add(1)
        } else {
            0
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn e2e_is_used_only_if_both_sides_offer_it() {
        let (with, without) = (Settings::ours(true), Settings::ours(false));
        assert_eq!((with.0, without.0), (7, 6));
        assert!(with.e2e_with(with));
        assert!(!with.e2e_with(without));
        assert!(!without.e2e_with(with));
    }

    #[test]
    fn packets_are_numbered_only_for_a_peer_that_looks() {
        assert_eq!(Settings::ours(false).next_id(0xffff), 0);
        assert_eq!(Settings::ours(false).next_id(7), 8);
        assert_eq!(Settings(0).next_id(7), 0);
    }
}
