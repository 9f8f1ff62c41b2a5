// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Atomic extended transport header, IBTA 9.3.4. The answer's header is one 64-bit number, 9.3.6.

use crate::keys::Key;

/// Operands of an atomic: 28 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AtomicEth {
    /// Virtual address at the responder.
    pub va: u64,
    /// Key of the responder's region.
    pub rkey: Key,
    /// Value to swap in, or to add.
    pub swap_add: u64,
    /// Value to compare with; nothing for fetch and add.
    pub compare: u64,
}

impl AtomicEth {
    /// Length on the wire.
    pub const LEN: usize = 28;

    /// Decode the header; every bit pattern is one.
    #[must_use]
    pub const fn parse(bytes: &[u8; Self::LEN]) -> Self {
        let [a, b, c, d, e, f, g, h, k0, k1, k2, k3, s @ .., x0, x1, x2, x3, x4, x5, x6, x7] = *bytes;
        Self {
            va: u64::from_be_bytes([a, b, c, d, e, f, g, h]),
            rkey: Key(u32::from_be_bytes([k0, k1, k2, k3])),
            swap_add: u64::from_be_bytes(s),
            compare: u64::from_be_bytes([x0, x1, x2, x3, x4, x5, x6, x7]),
        }
    }

    /// Encode the header.
    #[must_use]
    pub const fn bytes(&self) -> [u8; Self::LEN] {
        let [a, b, c, d, e, f, g, h] = self.va.to_be_bytes();
        let [k0, k1, k2, k3] = self.rkey.0.to_be_bytes();
        let [s0, s1, s2, s3, s4, s5, s6, s7] = self.swap_add.to_be_bytes();
        let [x0, x1, x2, x3, x4, x5, x6, x7] = self.compare.to_be_bytes();
        [
            a, b, c, d, e, f, g, h, k0, k1, k2, k3, s0, s1, s2, s3, s4, s5, s6, s7, x0, x1, x2, x3, x4, x5, x6, x7,
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_hand_made_header_decodes() {
        let mut bytes = [0; 28];
        (bytes[7], bytes[11], bytes[19], bytes[27]) = (8, 9, 10, 11);
        let header = AtomicEth {
            va: 8,
            rkey: Key(9),
            swap_add: 10,
            compare: 11,
        };
        assert_eq!(AtomicEth::parse(&bytes), header);
    }

    proptest! {
        #[test]
        fn bytes_round_trip(bytes: [u8; 28]) {
            prop_assert_eq!(AtomicEth::parse(&bytes).bytes(), bytes);
        }
    }
}
