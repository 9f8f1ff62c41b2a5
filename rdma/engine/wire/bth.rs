// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Base transport header, IBTA 9.2.

use super::WireError;
use crate::psn::{Psn, Qpn};

/// Transport header version, IBTA 9.2.5.
const TVER: u8 = 0;

/// The base transport header: 12 bytes, first of every packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bth {
    /// Class and operation, see [`crate::opcode`].
    pub opcode: u8,
    /// The receiver should raise a solicited event.
    pub solicited: bool,
    /// Migration state bit; carried, not used.
    pub migrated: bool,
    /// Bytes of padding after the payload, 0 to 3.
    pub pad: u8,
    /// Partition key.
    pub pkey: u16,
    /// Destination queue pair.
    pub dest: Qpn,
    /// The sender asks for an acknowledgement.
    pub ack_request: bool,
    /// Packet sequence number.
    pub psn: Psn,
    /// Ours, between two hosts whose cable covers all frames with a CRC: no ICRC follows, and the payload may be that
    /// of a run. A bit that IBTA reserves, so foreign senders leave it 0.
    pub run: bool,
}

impl Bth {
    /// Length on the wire.
    pub const LEN: usize = 12;

    /// See [`Bth::run`].
    const RUN: u8 = 1;

    /// Make the headers of a packet those of a run, which has no ICRC and no padding.
    pub const fn mark_run(headers: &mut [u8]) {
        if let Some([_, flags, _, _, _, _, _, _, ack, ..]) = headers.first_chunk_mut::<{ Self::LEN }>() {
            *flags &= !0x30;
            *ack |= Self::RUN;
        }
    }

    /// Decode the header.
    ///
    /// # Errors
    ///
    /// [`WireError::Version`] for any transport version but 0.
    #[inline]
    pub fn parse(bytes: &[u8; Self::LEN]) -> Result<Self, WireError> {
        let [opcode, flags, pkey0, pkey1, _reserved, q0, q1, q2, ack, p0, p1, p2] = *bytes;
        if flags & 0x0f != TVER {
            return Err(WireError::Version);
        }
        Ok(Self {
            opcode,
            solicited: flags & 0x80 != 0,
            migrated: flags & 0x40 != 0,
            pad: (flags >> 4) & 3,
            pkey: u16::from_be_bytes([pkey0, pkey1]),
            dest: Qpn::new(u32::from_be_bytes([0, q0, q1, q2])),
            ack_request: ack & 0x80 != 0,
            psn: Psn::new(u32::from_be_bytes([0, p0, p1, p2])),
            run: ack & Self::RUN != 0,
        })
    }

    /// Encode the header; reserved fields are zero.
    #[inline]
    #[must_use]
    pub const fn bytes(&self) -> [u8; Self::LEN] {
        let flags = ((self.solicited as u8) << 7) | ((self.migrated as u8) << 6) | ((self.pad & 3) << 4) | TVER;
        let [k0, k1] = self.pkey.to_be_bytes();
        let [_, q0, q1, q2] = self.dest.value().to_be_bytes();
        let [_, p0, p1, p2] = self.psn.value().to_be_bytes();
        let ack = ((self.ack_request as u8) << 7) | if self.run { Self::RUN } else { 0 };
        [self.opcode, flags, k0, k1, 0, q0, q1, q2, ack, p0, p1, p2]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_hand_made_header_decodes_and_encodes() {
        // SEND only with immediate, SE, pad 3, pkey ffff, QPN 0x000011, A, PSN 0x123456.
        let bytes = [0x05, 0xb0, 0xff, 0xff, 0, 0, 0, 0x11, 0x80, 0x12, 0x34, 0x56];
        let bth = Bth::parse(&bytes).unwrap();
        assert_eq!(
            bth,
            Bth {
                opcode: 5,
                solicited: true,
                migrated: false,
                run: false,
                pad: 3,
                pkey: 0xffff,
                dest: Qpn::new(0x11),
                ack_request: true,
                psn: Psn::new(0x12_3456),
            }
        );
        assert_eq!(bth.bytes(), bytes);
    }

    #[test]
    fn another_transport_version_is_refused() {
        let mut bytes = [0; 12];
        bytes[1] = 1;
        assert_eq!(Bth::parse(&bytes), Err(WireError::Version));
    }

    proptest! {
        #[test]
        fn what_parses_encodes_to_the_same_but_for_reserved_bits(mut bytes: [u8; 12]) {
            bytes[1] &= 0xf0;
            let again = Bth::parse(&bytes).unwrap().bytes();
            bytes[4] = 0;
            bytes[8] &= 0x81;
            prop_assert_eq!(again, bytes);
        }
    }
}
