// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Datagram extended transport header, IBTA 9.3.2.

use crate::psn::Qpn;

/// Key and source of a datagram: 8 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deth {
    /// Key the destination must have.
    pub qkey: u32,
    /// The sender's queue pair.
    pub src: Qpn,
}

impl Deth {
    /// Length on the wire.
    pub const LEN: usize = 8;

    /// Decode the header; every bit pattern is one.
    #[must_use]
    pub const fn parse(bytes: &[u8; Self::LEN]) -> Self {
        let [k0, k1, k2, k3, _reserved, a, b, c] = *bytes;
        Self {
            qkey: u32::from_be_bytes([k0, k1, k2, k3]),
            src: Qpn::new(u32::from_be_bytes([0, a, b, c])),
        }
    }

    /// Encode the header; the reserved byte is zero.
    #[must_use]
    pub const fn bytes(&self) -> [u8; Self::LEN] {
        let [k0, k1, k2, k3] = self.qkey.to_be_bytes();
        let [_, a, b, c] = self.src.value().to_be_bytes();
        [k0, k1, k2, k3, 0, a, b, c]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hand_made_header_decodes_and_encodes() {
        let bytes = [0x80, 1, 0, 0, 0, 0, 0, 1];
        let deth = Deth {
            qkey: 0x8001_0000,
            src: Qpn::new(1),
        };
        assert_eq!(Deth::parse(&bytes), deth);
        assert_eq!(deth.bytes(), bytes);
    }
}
