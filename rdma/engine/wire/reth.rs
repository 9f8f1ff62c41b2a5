// SPDX-License-Identifier: GPL-2.0 OR MIT
//! RDMA extended transport header, IBTA 9.3.3.

use crate::keys::Key;

/// Remote address, key and length of a READ or WRITE: 16 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reth {
    /// Virtual address at the responder.
    pub va: u64,
    /// Key of the responder's region.
    pub rkey: Key,
    /// Length of the whole operation in bytes.
    pub length: u32,
}

impl Reth {
    /// Length on the wire.
    pub const LEN: usize = 16;

    /// Decode the header; every bit pattern is one.
    #[inline]
    #[must_use]
    pub const fn parse(bytes: &[u8; Self::LEN]) -> Self {
        let [a, b, c, d, e, f, g, h, k0, k1, k2, k3, l0, l1, l2, l3] = *bytes;
        Self {
            va: u64::from_be_bytes([a, b, c, d, e, f, g, h]),
            rkey: Key(u32::from_be_bytes([k0, k1, k2, k3])),
            length: u32::from_be_bytes([l0, l1, l2, l3]),
        }
    }

    /// Encode the header.
    #[inline]
    #[must_use]
    pub const fn bytes(&self) -> [u8; Self::LEN] {
        let [a, b, c, d, e, f, g, h] = self.va.to_be_bytes();
        let [k0, k1, k2, k3] = self.rkey.0.to_be_bytes();
        let [l0, l1, l2, l3] = self.length.to_be_bytes();
        [a, b, c, d, e, f, g, h, k0, k1, k2, k3, l0, l1, l2, l3]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_hand_made_header_decodes() {
        let bytes = [0, 0, 0x7f, 0xff, 0x12, 0x34, 0x56, 0x78, 0, 0, 1, 0xca, 0, 1, 0, 0];
        let reth = Reth::parse(&bytes);
        assert_eq!(
            reth,
            Reth {
                va: 0x7fff_1234_5678,
                rkey: Key(0x1ca),
                length: 65536
            }
        );
    }

    proptest! {
        #[test]
        fn bytes_round_trip(bytes: [u8; 16]) {
            prop_assert_eq!(Reth::parse(&bytes).bytes(), bytes);
        }
    }
}
